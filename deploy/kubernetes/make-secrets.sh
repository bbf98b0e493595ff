#!/usr/bin/env bash
# Makes the keys that the manifests hand out, once: deploy/kubernetes/make-secrets.sh. What is there stays as it is.
# kustomize makes Secrets of the files; git ignores them. The database's key counts when its volume is new only.
set -euo pipefail
cd "$(dirname "$0")/base"
umask 077
mkdir -p secrets
make() { # file, what stands before the random part
  [ -s "secrets/$1" ] || printf '%s%s' "$2" "$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')" >"secrets/$1"
}
make admin.key sk-
make webui.key sk-
make webui.secret ""
make engine.key ""
make database.key ""
make metrics.token ""
echo "$PWD/secrets"

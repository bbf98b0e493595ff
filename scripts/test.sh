#!/usr/bin/env bash
# Runs every test that this machine can run. As root it installs Debian's packages that are missing: Chromium for the
# browser tests, nginx, PostgreSQL, Redis, Node.js and git-lfs; otherwise their tests are skipped, and pytest's summary says so.
# The tests of containers run where a Docker engine answers, those of the Kubernetes manifests where there is a kubectl of
# 1.27 or newer, which Debian 12 does not have.
set -euo pipefail
cd "$(dirname "$0")/.."

provide() { # what it is for, then Debian's packages
  local purpose=$1 log=/tmp/internlm-stack-apt.log
  shift
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "test: installing $1 for $purpose"
    { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"; } >>"$log" 2>&1 ||
      echo "test: $1 could not be installed, so $purpose are skipped; see $log"
  else
    echo "test: no $1 here, so $purpose are skipped. Install it: sudo apt-get install $1"
  fi
}

if ! command -v chromium >/dev/null && ! command -v chromium-browser >/dev/null; then
  provide "the browser tests" chromium fonts-wqy-zenhei
fi
if ! command -v nginx >/dev/null && [ ! -x /usr/sbin/nginx ]; then
  provide "the tests of the web UI behind a proxy" nginx-light
fi
if ! compgen -G "/usr/lib/postgresql/*/bin/postgres" >/dev/null; then
  provide "the tests of the history on PostgreSQL" postgresql
fi
if ! command -v redis-server >/dev/null; then
  provide "the tests of limits in Redis" redis-server
fi
if ! command -v node >/dev/null || ! command -v npm >/dev/null; then
  provide "the tests of JavaScript clients" nodejs npm
fi
if ! command -v git-lfs >/dev/null; then
  provide "the tests of fetching and publishing models by git" git-lfs git
fi
if [ "$#" -gt 0 ]; then
  exec .venv/bin/python -m pytest "$@"
fi
# Unit and contract tests mostly wait, so several run at once. The others have the machine to themselves, and the browser
# tests come last: Chromium drops its requests (ERR_NETWORK_CHANGED) when a container's network comes up or goes.
failed=""
part() { # its name, then what pytest is told
  local name=$1
  shift
  .venv/bin/python -m pytest --durations=15 "$@" || failed+=" $name"
}

part "unit and contract" -n 4 --dist loadfile -m "unit or contract" tests/unit tests/contract
part "containers" -m containers
part "real, chaos, database and clients" -m "not unit and not contract and not containers and not browser"
part "browser" -m browser
if [ -n "$failed" ]; then
  echo "test: failed:$failed" >&2
  exit 1
fi

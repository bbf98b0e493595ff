#!/usr/bin/env bash
# Writes requirements.lock, requirements-dev.lock, requirements-clients.lock (with hashes) and requirements.txt (what a platform installs) anew.
# usage: scripts/lock.sh [--upgrade]
set -euo pipefail
cd "$(dirname "$0")/.."
uv=.venv/bin/uv
compile() { "$uv" pip compile --quiet --universal --python-version 3.11 --no-header "$@"; }
compile --group app --generate-hashes -o requirements.lock "$@"
compile --group dev --generate-hashes -c requirements.lock -o requirements-dev.lock "$@"
compile --group clients --generate-hashes -o requirements-clients.lock "$@"
.venv/bin/python scripts/space_requirements.py >requirements.txt.new
mv requirements.txt.new requirements.txt

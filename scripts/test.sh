#!/usr/bin/env bash
# Runs every test that this machine can run. As root it installs Debian's Chromium for the browser tests when that is
# missing; otherwise those are skipped, and pytest's summary says so.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! command -v chromium >/dev/null && ! command -v chromium-browser >/dev/null; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "test: installing chromium for the browser tests"
    { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends chromium fonts-wqy-zenhei; } \
      >/tmp/internlm-stack-apt.log 2>&1 || echo "test: chromium could not be installed; see /tmp/internlm-stack-apt.log"
  else
    echo "test: no Chromium here, so the browser tests are skipped. Install it: sudo apt-get install chromium"
  fi
fi
if ! compgen -G "/usr/lib/postgresql/*/bin/postgres" >/dev/null; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "test: installing postgresql for the tests of the history on it"
    { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends postgresql; } \
      >>/tmp/internlm-stack-apt.log 2>&1 || echo "test: postgresql could not be installed; see /tmp/internlm-stack-apt.log"
  else
    echo "test: no PostgreSQL here, so the tests on it are skipped. Install it: sudo apt-get install postgresql"
  fi
fi
exec .venv/bin/python -m pytest "$@"

#!/usr/bin/env bash
# Makes .venv and installs one lock file into it with hashes. Does nothing when that is already done.
# usage: scripts/setup.sh requirements.lock|requirements-dev.lock
set -euo pipefail
cd "$(dirname "$0")/.."
lock=$1
venv=.venv
python=${PYTHON:-python3}

fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }
trap 'fail "stopped; the next run goes on"' INT TERM

# The dev lock holds all of the other one, pin by pin, so a venv made from it serves both.
stamp_of() { sha256sum "$1" | cut -d' ' -f1; }
if [ -x "$venv/bin/python" ] && "$venv/bin/python" -c '' 2>/dev/null; then
  have=$(cat "$venv/installed" 2>/dev/null || true)
  [ "$have" = "$(stamp_of requirements-dev.lock)" ] && exit 0
  [ "$have" = "$(stamp_of "$lock")" ] && exit 0
fi

command -v "$python" >/dev/null || fail "$python is not here. Install Python: apt-get install python3 python3-venv"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  fail "$("$python" --version) is too old: Python 3.11 or newer is needed. Name another one: make run PYTHON=python3.12; or start app.py with it, which gets one: $python app.py"
"$python" -c 'import ensurepip, venv' 2>/dev/null ||
  fail "Python's venv module is missing. Install it: apt-get install python3-venv"
free_mb=$(df -Pm . | awk 'NR==2 {print $4}')
[ "$free_mb" -ge 1500 ] || [ -n "${SETUP_SKIP_DISK_CHECK:-}" ] ||
  fail "1500 MB of free disk are needed here for the packages, $free_mb MB are left. Free some, or clone to another disk."

# One whose making was stopped has an interpreter, but not always pip.
if ! { [ -x "$venv/bin/python" ] && "$venv/bin/python" -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }; then
  echo "setup: making $venv with $("$python" --version)"
  rm -rf "$venv"
  "$python" -m venv "$venv"
fi
rm -f "$venv/installed"
total=$(grep -c '==' "$lock")
echo "setup: installing $total packages from $lock (about 250 MB to download the first time)"
# pip's own lines become one counter, so that a slow network is seen to move; its errors pass as they are.
"$venv/bin/python" -m pip install --disable-pip-version-check --progress-bar off --require-hashes -r "$lock" |
  awk -v total="$total" -v tty="$([ -t 1 ] && echo 1 || echo 0)" '
    /^Collecting / { n++; if (tty) printf "\r\033[K  %d of %d  %s", n, total, $2; else if (n % 20 == 0) printf "  %d of %d\n", n, total; fflush() }
    /^Installing collected/ { printf "%s  unpacking them\n", tty ? "\r\033[K" : ""; fflush() }' ||
  fail "pip could not install the packages (its message is above). Without internet access, point pip at a mirror, for example
  PIP_INDEX_URL=https://pypi.tuna.tsinghua.edu.cn/simple make run"
stamp_of "$lock" >"$venv/installed"

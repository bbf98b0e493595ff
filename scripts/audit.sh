#!/usr/bin/env bash
# Asks PyPI's database of advisories about every package of the lock files, those for other systems included. It fails when
# one is known to be vulnerable (1), and when one was skipped or nobody could be asked (2): it never passes without looking.
# usage: scripts/audit.sh LOCK…
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# Every pin once, with its hashes. A second version of a package goes into a second file: pip-audit takes one at a time.
awk -v folder="$folder" '
  /^[A-Za-z0-9]/ {
    pin = $1; name = pin; sub(/==.*/, "", name); sub(/ ;[^\\]*/, " ")
    file = (pin in seen) ? "" : folder "/" (++versions[name]) ".txt"
    seen[pin]
  }
  /^[A-Za-z0-9]|^ +--hash/ { if (file) print > file }' "$@"
wanted=$(cat "$folder"/*.txt | grep -c '==' || true)
[ "$wanted" -gt 0 ] || { echo "audit: $* hold no pinned packages. Run make lock." >&2; exit 2; }

looked=0 vulnerable=0
for part in "$folder"/*.txt; do
  code=0
  .venv/bin/python -m pip_audit --strict --disable-pip --require-hashes --progress-spinner off --timeout 30 --desc off \
    --format json --output "$part.json" -r "$part" 2>"$part.err" || code=$?
  counted=$(.venv/bin/python - "$part.json" <<'PY' 2>/dev/null || echo "0 0"
import json, sys
found = [one for one in json.load(open(sys.argv[1]))["dependencies"] if "vulns" in one]
for one in found:
    for vuln in one["vulns"]:
        fixed = ", ".join(vuln["fix_versions"]) or "no version"
        print(f"audit: {one['name']} {one['version']}: {vuln['id']}, mended in {fixed}")
print(len(found), sum(bool(one["vulns"]) for one in found))
PY
  )
  grep '^audit: ' <<<"$counted" >&2 || true
  read -r good bad < <(tail -n 1 <<<"$counted")
  if [ "$good" = 0 ]; then
    cause=$(grep -v '^ *$' "$part.err" | tail -n 1 | cut -c1-300)
    case $cause in
      *"not found on PyPI"*)
        echo "audit: nothing is known about one package, so nothing was looked at (${cause##*audited: } is not on https://pypi.org)." \
          "Take a version that is there, then run make lock." >&2
        exit 2 ;;
    esac
    echo "audit: nothing was looked at (${cause:-exit code $code}). Run it where https://pypi.org can be reached." >&2
    exit 2
  fi
  looked=$((looked + good)) vulnerable=$((vulnerable + bad))
done
[ "$looked" = "$wanted" ] || { echo "audit: only $looked of $wanted packages were looked at." >&2; exit 2; }
[ "$vulnerable" = 0 ] || { echo "audit: $vulnerable of $wanted packages are known to be vulnerable." >&2; exit 1; }
echo "audit: $wanted packages looked at, none is known to be vulnerable"

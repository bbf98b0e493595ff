#!/usr/bin/env bash
# usage: backup.sh backup|restore FILE WHERE COMPOSE…    (make backup, make restore)
# Saves history and keys, or puts them back: of the containers that COMPOSE names, or of the folder that `make run` uses.
set -euo pipefail
cd "$(dirname "$0")/.."
verb=$1 file=$2 where=$3
shift 3
compose=("$@")
umask 077

fail() {
  echo "$verb: $*" >&2
  exit 1
}

# Its words are shown: an engine that does not answer must not look like one without containers.
ps_of() {
  "${compose[@]}" ps "$@" || fail "${compose[0]} does not say which containers there are. Start Docker, or say WHERE=folder."
}
has_docker() { command -v "${compose[0]}" >/dev/null; }
has_folder() { [ -x .venv/bin/python ] && [ -e "${DATA_DIR:-data}/gateway.sqlite3" ]; }

if [ -z "$where" ]; then
  found=
  if has_docker; then found=$(ps_of -aq gateway) || exit 1; fi
  if [ -n "$found" ]; then
    has_folder && fail "there are containers and a folder ${DATA_DIR:-data}. Say which: WHERE=containers or WHERE=folder."
    where=containers
  elif has_folder; then
    where=folder
  else
    fail "there are neither containers nor a folder ${DATA_DIR:-data} with a history. Say which: WHERE=containers or WHERE=folder."
  fi
fi

backup_of_containers() {
  found=$(ps_of -q --status running gateway) || exit 1
  [ -n "$found" ] || fail "the gateway has to run for it: make up"
  trap 'rm -f "$file.partial"' EXIT
  "${compose[@]}" exec -T gateway python -m gateway backup - >"$file.partial" || fail "nothing was saved."
  mv "$file.partial" "$file"
}

# The gateway must not run meanwhile, and the web UI reads its secret only when it starts. Both start again, also after Ctrl-C.
restore_to_containers() {
  local status=0
  found=$(ps_of --services --status running) || exit 1
  mapfile -t running < <(grep -xE 'gateway|webui' <<<"$found" || true)
  if [ "${#running[@]}" != 0 ]; then
    trap '"${compose[@]}" start "${running[@]}"' EXIT
    "${compose[@]}" stop "${running[@]}"
  fi
  "${compose[@]}" run --rm -T --no-deps gateway python -m gateway restore - ${FORCE:+--force} <"$file" || status=$?
  exit "$status"
}

case $verb in
  backup)
    file=${file:-backup-$(date +%Y%m%d-%H%M%S).tar.gz}
    [ ! -e "$file" ] || fail "$file exists already. Name a new file: TO=…"
    if [ "$where" = containers ]; then backup_of_containers; else .venv/bin/python -m gateway backup "$file"; fi
    echo "$file: of the $where"
    ;;
  restore)
    [ -n "$file" ] || fail "name the backup: FROM=…"
    [ -f "$file" ] || fail "there is no file $file."
    if [ "$where" = containers ]; then restore_to_containers; fi
    .venv/bin/python -m gateway restore "$file" ${FORCE:+--force}
    ;;
esac

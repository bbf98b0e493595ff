#!/usr/bin/env bash
# usage: up.sh SCALE COMPOSE…    (make up; SCALE may be empty)
# Starts the containers and waits for them. A stack that runs with other compose files is left alone: with fewer files its
# gateways would go, and whatever is of no file any more would keep the port.
set -euo pipefail
cd "$(dirname "$0")/.."
scale=$1
shift
compose=("$@")

# One file a line, in their order: those given with -f, else those of COMPOSE_FILE, which .env may hold.
files_of_now() {
  local -a named=()
  local word before="" text
  for word in "${compose[@]}"; do
    [ "$before" != -f ] || named+=("$word")
    before=$word
  done
  if [ "${#named[@]}" = 0 ]; then
    text=${COMPOSE_FILE:-$(sed -nE "s/^COMPOSE_FILE=['\"]?([^'\"]*).*/\1/p" .env 2>/dev/null | tail -n 1)}
    IFS=: read -ra named <<<"$text"
  fi
  printf '%s\n' "${named[@]}"
}

# Compose writes them on each container; gateway and nginx differ in every overlay of ours.
files_of_running() {
  local containers
  containers=$("${compose[@]}" ps --format '{{.Service}} {{.ID}}' 2>/dev/null | sed -nE 's/^(gateway|nginx) //p')
  [ -n "$containers" ] || return 0
  xargs docker inspect -f '{{index .Config.Labels "com.docker.compose.project.config_files"}}' <<<"$containers" |
    sort | uniq -c | sort -rn | sed -nE '1s/^ *[0-9]+ //p' | tr ',' '\n' | sed "s|^$PWD/||"
}

names() { sed 's|.*/||' <<<"$1" | sort; }
in_line() { tr '\n' ' ' <<<"$1" | sed 's/ *$//'; }

now=$(files_of_now)
running=$(files_of_running || true)
if [ -n "$running" ] && [ "$(names "$running")" != "$(names "$now")" ]; then
  again="make up COMPOSE_FILES=\"-f $(in_line "$running" | sed 's/ / -f /g')\""
  if grep -q 'docker-compose\.scale\.yml$' <<<"$running"; then again="make up SCALE=3"; fi
  if [ "$running" = "$(grep -v 'docker-compose\.scale\.yml$' <<<"$now")" ]; then again="make up"; fi
  printf 'up: the containers that run were started with %s, not with %s. Go on with `%s`, or take them down first: `make down` %s\n' \
    "$(in_line "$running")" "$(in_line "$now")" "$again" "(models, history and keys stay)." >&2
  exit 1
fi

status=0
"${compose[@]}" up -d --build --wait ${scale:+--scale gateway="$scale"} || status=$?
if [ "$status" != 0 ]; then
  echo "up: not everything started. The last words of plan, prepare and gateway:" >&2
  "${compose[@]}" logs --tail 5 plan prepare gateway >&2 || true
  echo "up: docs/troubleshooting.md says what such lines mean." >&2
  exit "$status"
fi
"${compose[@]}" ps

address() { "${compose[@]}" port "$@" 2>/dev/null | sed -n 's|^0\.0\.0\.0:|127.0.0.1:|; s|^|http://|p' | head -n 1; }
api=$(address nginx 8000 || true)
[ -n "$api" ] || api=$(address gateway 8000 || true)
echo
echo "web UI: $(address webui 7860 || true)"
echo "API:    $api, its key: docker compose exec gateway cat /data/admin.key"

#!/usr/bin/env bash
# Writes the digest of each image that others publish into .env, where docker compose and `make images` read them:
#   TGI_IMAGE=ghcr.io/huggingface/text-generation-inference:3.3.5@sha256:…
# Which image: the one that the environment or .env names, else the default in the compose files. Run it again for a newer
# digest of the same tag; take the line out of .env to be unpinned. Either all of them are written or none.
# usage: scripts/pin_images.sh [NAME_IMAGE …]    (default: all)
set -euo pipefail
cd "$(dirname "$0")/.."
settings=.env

fail() { printf 'pin-images: %s\n' "$*" >&2; exit 1; }
trap 'fail "stopped; nothing was written"' INT TERM

docker buildx version >/dev/null 2>&1 ||
  fail "docker buildx is not here, which asks the registries. Install Docker's buildx plugin (docker-buildx-plugin)."

declare -A default
while IFS='=' read -r name image; do default[$name]=$image; done < <(
  sed -nE 's/.*\$\{([A-Z_]+_IMAGE):-([^}]+)\}.*/\1=\2/p' docker-compose*.yml | sort -u)
[ "${#default[@]}" -gt 0 ] || fail "no image has a name in docker-compose*.yml."
names=("$@")
[ $# -gt 0 ] || mapfile -t names < <(printf '%s\n' "${!default[@]}" | sort)

written=$(sed -nE 's/^([A-Z_]+_IMAGE=)/\1/p' "$settings" 2>/dev/null || true)
lines=()
for name in "${names[@]}"; do
  [ -n "${default[$name]:-}" ] || fail "$name is no image of the compose files. They have: ${!default[*]}."
  image=${!name:-$(sed -nE "s/^$name=['\"]?([^'\"]+).*/\1/p" <<<"$written" | tail -n 1)}
  image=${image:-${default[$name]}}
  image=${image%%@*}
  error=$(mktemp)
  told=$(timeout 60 docker buildx imagetools inspect "$image" 2>"$error") || {
    cause=$(tail -n 1 "$error"); rm -f "$error"
    fail "the registry of $image gave no digest (${cause:-no answer within 60 s}). Nothing was written; try again where it can be reached."
  }
  rm -f "$error"
  digest=$(sed -nE 's/^Digest: *(sha256:[0-9a-f]{64})$/\1/p' <<<"$told" | head -n 1)
  [ -n "$digest" ] || fail "the registry of $image gave no digest that docker buildx could show. Nothing was written."
  lines+=("$name=$image@$digest")
  printf '%s@%s\n' "$image" "$digest"
done

beside=$(mktemp "$settings.XXXXXX")
trap 'rm -f "$beside"' EXIT
[ ! -e "$settings" ] || { cat "$settings"; [ -z "$(tail -c 1 "$settings")" ] || echo; } |
  grep -vE "^($(IFS='|'; echo "${names[*]}"))=" >"$beside" || true
printf '%s\n' "${lines[@]}" >>"$beside"
[ -e "$settings" ] && chmod --reference="$settings" "$beside" || chmod 600 "$beside"
mv "$beside" "$settings"
echo "pin-images: ${#lines[@]} digests are in $settings; docker compose and make images take them from there."

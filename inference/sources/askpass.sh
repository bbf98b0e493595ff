#!/bin/sh
# What git and git-lfs ask for a name and a password (GIT_ASKPASS): answers from the environment of this one child, and
# only for the host that is meant; an address that a server sends us to gets nothing. $1 is "Username for 'https://…': ".
origin=${1#*[\'\"]}
scheme=${origin%%://*}
place=${origin#*://}
place=${place%%[\'\"/]*}
[ "$scheme://${place##*@}" = "$INTERNLM_GIT_ORIGIN" ] || exit 1
[ -n "$INTERNLM_GIT_TOKEN" ] || exit 1
echo >>"$INTERNLM_GIT_ASKED"
[ "$(wc -l <"$INTERNLM_GIT_ASKED")" -le 64 ] || exit 1
case $1 in
  Username*) printf '%s\n' "$INTERNLM_GIT_USERNAME" ;;
  Password*) printf '%s\n' "$INTERNLM_GIT_TOKEN" ;;
  *) exit 1 ;;
esac

"""`python -m webui users add | list | remove`: the list of people who may log in."""

from __future__ import annotations

import argparse
import getpass
import sys
from collections.abc import Sequence
from pathlib import Path

from webui.errors import UsersError
from webui.users import Users

EXAMPLE = """examples:
  python -m webui users add ann                 asks for the password twice; for somebody in the list it is the new one
  echo "$PASSWORD" | python -m webui users add ann
  python -m webui users list"""


def parser() -> argparse.ArgumentParser:
    """The words behind `users`."""
    parsed = argparse.ArgumentParser(
        prog="python -m webui users",
        description="Who may log in. A running web UI sees changes at once; only for the first user start it anew.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parsed.add_subparsers(dest="command", required=True, metavar="add|list|remove")
    commands.add_parser("add", help="add somebody, or give them another password").add_argument("name")
    commands.add_parser("list", help="show the names")
    commands.add_parser("remove", help="take somebody out; they are logged out at once").add_argument("name")
    return parsed


def run(argv: Sequence[str], file: Path) -> tuple[int, str]:
    """Exit code, and what to say."""
    options = parser().parse_args(argv)
    users = Users(file)
    try:
        if options.command == "add":
            is_new = users.put(options.name, _password_for(options.name))
            return 0, f"{options.name} {'may log in now' if is_new else 'has another password now'} ({file})"
        if options.command == "remove":
            users.remove(options.name)
            return 0, f"{options.name} may not log in any more; the conversations stay"
        return 0, "\n".join(users.names())
    except UsersError as error:
        return 2, str(error)


def _password_for(name: str) -> str:
    """Asked for twice; from a pipe the first line. Raises UsersError when the two differ."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    password = getpass.getpass(f"Password for {name}: ")
    if getpass.getpass("Once more: ") != password:
        raise UsersError("The two passwords differ; nothing was changed.")
    return password

"""`python -m gateway serve | keys | migrate | backup | restore`."""

from __future__ import annotations

import argparse
import datetime
import logging
import os
import re
import sys
import time
from pathlib import Path

from gateway import VERSION, telemetry
from gateway.auth import LIMITS, SCOPES, ApiKey, Keys
from gateway.backup import BackupError, back_up, restore
from gateway.database import Database, DatabaseError
from gateway.databases.copies import Contents
from gateway.errors import GatewayError
from gateway.settings import Places, Settings, SettingsError
from known_settings import unknown_settings

log = logging.getLogger("gateway")
_CODE = Path(__file__).resolve().parent.parent
# A wheel has no checkout around it, and what lies in site-packages goes with the next venv.
ROOT = Path.cwd() if _CODE.name in ("site-packages", "dist-packages") else _CODE
_EXAMPLES = """\
examples:
  GATEWAY_UPSTREAMS=llamacpp=http://127.0.0.1:8080 python -m gateway serve
  python -m gateway keys create --name laptop --rpm 60 --tpd 1000000 --expires 30d
  python -m gateway keys rotate key_0123456789abcdef0123456789abcdef --grace 24h
  python -m gateway keys revoke key_0123456789abcdef0123456789abcdef
  python -m gateway backup history.tar.gz
  python -m gateway restore history.tar.gz
"""


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns its exit code: 0 done, 1 failed, 2 wrong usage or settings."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except SettingsError as error:
        return _fail(str(error), 2)
    except (BackupError, DatabaseError, GatewayError) as error:
        return _fail(str(error), 1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m gateway",
        description="The gateway: OpenAI's API with keys, limits and stored conversations.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=VERSION)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    serve = commands.add_parser("serve", help="run the gateway (settings come from the environment)")
    serve.add_argument("--log-level", default="info", choices=("debug", "info", "warning", "error"))
    serve.set_defaults(run=_serve)
    migrate = commands.add_parser("migrate", help="bring the database to this version's form, then end")
    migrate.set_defaults(run=_migrate)
    backup = commands.add_parser("backup", help="save history and keys into a file, also while a gateway runs")
    backup.add_argument("file", metavar="FILE", help="a new file (a compressed tar), or - for standard output")
    backup.add_argument("--without-history", action="store_true", help="keys and secrets only")
    backup.set_defaults(run=_backup)
    put_back = commands.add_parser("restore", help="put a backup in place; the gateway must not run")
    put_back.add_argument("file", metavar="FILE", help="what `backup` wrote, or - for standard input")
    put_back.add_argument("--force", action="store_true", help="replace what is there")
    put_back.set_defaults(run=_restore)
    _add_key_commands(commands.add_parser("keys", help="make, list, rotate and revoke API keys"))
    return parser


def _add_key_commands(parser: argparse.ArgumentParser) -> None:
    keys = parser.add_subparsers(required=True, metavar="COMMAND")
    create = keys.add_parser("create", help="make a key; it is printed as the last line, this once")
    create.add_argument("--name", required=True)
    create.add_argument(
        "--scopes", type=_scopes_of, action="extend", help=f"one or more of {','.join(SCOPES)} (default: chat)"
    )
    for name, what in LIMITS.items():
        create.add_argument(f"--{name}", type=int, help=f"{what} (default: GATEWAY_KEY_{name.upper()})")
    create.add_argument("--expires", type=_moment, help="30d, 12h, or a date such as 2030-12-31, its last day (UTC)")
    create.set_defaults(run=_create_key)
    listing = keys.add_parser("list", help="show all keys; never their secrets")
    listing.set_defaults(run=_list_keys)
    rotate = keys.add_parser("rotate", help="give a key a new secret, printed as the last line; id and limits stay")
    rotate.add_argument("id", help="the id that `keys list` shows, key_…")
    rotate.add_argument(
        "--grace", type=_seconds, default=0, help="how long the old one works on: 24h, 30m (default: 0)"
    )
    rotate.set_defaults(run=_rotate_key)
    revoke = keys.add_parser("revoke", help="end a key for good")
    revoke.add_argument("id", help="the id that `keys list` shows, key_…")
    revoke.set_defaults(run=_revoke_key)


def _scopes_of(text: str) -> list[str]:
    scopes = text.split(",")
    if unknown := [scope for scope in scopes if scope not in SCOPES]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is no scope; there are {', '.join(SCOPES)}")
    return scopes


def _seconds(text: str) -> int:
    found = re.fullmatch(r"(\d{1,6})([smhdw])", text)
    if not found and text != "0":
        raise argparse.ArgumentTypeError(f"{text!r} is no time such as 30d, 24h, 15m or 0")
    return int(found[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}[found[2]] if found else 0


def _moment(text: str) -> int:
    try:
        day = datetime.date.fromisoformat(text)
    except ValueError:
        return int(time.time()) + _seconds(text)
    midnight = datetime.datetime.combine(day, datetime.time(), datetime.UTC)
    return int(midnight.timestamp()) + 86400


def _serve(options: argparse.Namespace) -> int:
    from gateway.main import create_app  # the other commands do not wait for the web framework
    from gateway.server import Server, calm_collector

    telemetry.configure(options.log_level)
    for warning in unknown_settings(os.environ):
        log.warning(warning)
    settings = Settings.from_env(os.environ, ROOT)
    app = create_app(settings)
    server = Server(app, host=settings.host, port=settings.port, drain_s=settings.timeouts.drain_s)
    calm_collector()
    try:
        server.run()
    except SystemExit:  # uvicorn's way to say that it cannot listen
        return _fail(
            f"{settings.host}:{settings.port} cannot be listened on; the log above says why. Another program may have "
            "the port (choose one with PORT), or HOST is no address of this machine.",
            1,
        )
    return 0 if server.started else 1


def _migrate(_: argparse.Namespace) -> int:
    database = _database()
    database.close()
    print("The database has this version's form.")
    return 0


def _backup(options: argparse.Namespace) -> int:
    places = Places.from_env(os.environ, ROOT)
    with_history = not options.without_history
    try:
        if options.file == "-":
            saved = back_up(places, sys.stdout.buffer, with_history=with_history)
            sys.stdout.buffer.flush()
        else:
            saved = _backup_to(Path(options.file), places, with_history=with_history)
    except OSError as error:
        return _fail(f"The backup cannot be written: {error.filename or options.file}: {error.strerror}.", 1)
    print(f"saved: {saved or 'no history'}; keep it secret, the keys are in it", file=sys.stderr)
    return 0


def _backup_to(path: Path, places: Places, *, with_history: bool) -> Contents | None:
    """Under its name once it is whole and on the disk, and readable by nobody else."""
    if path.exists():
        raise BackupError(f"{path} exists already. Name a new file.")
    partial = path.with_name(f"{path.name}.partial")
    try:
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            saved = back_up(places, file, with_history=with_history)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return saved


def _restore(options: argparse.Namespace) -> int:
    places = Places.from_env(os.environ, ROOT)
    try:
        with sys.stdin.buffer if options.file == "-" else open(options.file, "rb") as file:
            restored, made_at = restore(places, file, force=options.force)
    except OSError as error:
        return _fail(f"The backup cannot be restored: {error.filename or options.file}: {error.strerror}.", 1)
    print(f"restored, as it was at {_date(made_at)} UTC: {restored or 'keys only, no history'}. Start the gateway now.")
    return 0


def _create_key(options: argparse.Namespace) -> int:
    database = _database()
    limits = {name: getattr(options, name) for name in LIMITS}
    key, secret = Keys(database).create(
        options.name, scopes=frozenset(options.scopes or ["chat"]), expires_at=options.expires, **limits
    )
    database.close()
    print(f"{key.id} ({key.name}); keep the key, it is shown only now:")
    print(secret)
    return 0


def _list_keys(_: argparse.Namespace) -> int:
    database = _database()
    for key in Keys(database).list():
        print(
            f"{key.id}  {key.prefix}…  {_state(key):19}  {_limits(key):24}  {','.join(sorted(key.scopes))}  {key.name}"
        )
    database.close()
    return 0


def _rotate_key(options: argparse.Namespace) -> int:
    database = _database()
    key, secret = Keys(database).rotate(options.id, grace_s=options.grace)
    database.close()
    until = f"works until {_date(int(time.time()) + options.grace)}" if options.grace else "has ended"
    print(f"{key.id} ({key.name}) has a new key, shown only now; the old one {until}:")
    print(secret)
    return 0


def _revoke_key(options: argparse.Namespace) -> int:
    database = _database()
    was_working = Keys(database).revoke(options.id)
    database.close()
    if not was_working:
        return _fail(f"There is no working key {options.id}; `python -m gateway keys list` shows all.", 1)
    print(f"{options.id} is revoked; a running gateway refuses it from now on.")
    return 0


def _database() -> Database:
    return Database(Places.from_env(os.environ, ROOT).database)


def _state(key: ApiKey) -> str:
    if key.revoked_at is not None:
        return "revoked"
    if key.expires_at is None:
        return "works"
    return "expired" if key.has_expired else f"to {_date(key.expires_at)}"


def _limits(key: ApiKey) -> str:
    own = [f"{name} {value}" for name in LIMITS if (value := getattr(key, name)) is not None]
    return " ".join(own) or "default limits"


def _date(at: int) -> str:
    return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%d %H:%M")


def _fail(message: str, code: int) -> int:
    print(f"gateway: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())

"""`python -m gateway serve | keys | migrate`."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from gateway import telemetry
from gateway.auth import SCOPES, ApiKey, Keys
from gateway.database import Database, DatabaseError
from gateway.errors import GatewayError
from gateway.main import create_app
from gateway.server import Server, calm_collector
from gateway.settings import Settings, SettingsError

ROOT = Path(__file__).resolve().parent.parent
_EXAMPLES = """\
examples:
  GATEWAY_UPSTREAMS=llamacpp=http://127.0.0.1:8080 python -m gateway serve
  python -m gateway keys create --name laptop --rpm 60
  python -m gateway keys revoke key_0123456789abcdef0123456789abcdef
"""


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns its exit code: 0 done, 1 failed, 2 wrong usage or settings."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except SettingsError as error:
        return _fail(str(error), 2)
    except (DatabaseError, GatewayError) as error:
        return _fail(str(error), 1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m gateway",
        description="The gateway: OpenAI's API with keys, limits and stored conversations.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    serve = commands.add_parser("serve", help="run the gateway (settings come from the environment)")
    serve.add_argument("--log-level", default="info", choices=("debug", "info", "warning", "error"))
    serve.set_defaults(run=_serve)
    migrate = commands.add_parser("migrate", help="bring the database to this version's form, then end")
    migrate.set_defaults(run=_migrate)
    keys = commands.add_parser("keys", help="make, list and revoke API keys").add_subparsers(required=True)
    create = keys.add_parser("create", help="make a key; it is printed as the last line, this once")
    create.add_argument("--name", required=True)
    create.add_argument("--rpm", type=int, help="requests a minute (default: GATEWAY_KEY_RPM)")
    create.add_argument("--scope", action="append", choices=SCOPES, help="may be given more than once (default: chat)")
    create.set_defaults(run=_create_key)
    listing = keys.add_parser("list", help="show all keys; never their secrets")
    listing.set_defaults(run=_list_keys)
    revoke = keys.add_parser("revoke", help="end a key for good")
    revoke.add_argument("id", help="the id that `keys list` shows, key_…")
    revoke.set_defaults(run=_revoke_key)
    return parser


def _serve(options: argparse.Namespace) -> int:
    settings = Settings.from_env(os.environ, ROOT)
    telemetry.configure(options.log_level)
    app = create_app(settings)
    server = Server(app, host=settings.host, port=settings.port, drain_s=settings.timeouts.drain_s)
    calm_collector()
    try:
        server.run()
    except SystemExit:  # uvicorn's way to say that it cannot listen
        return _fail(
            f"{settings.host}:{settings.port} cannot be listened on; the log above says why. Another program may have "
            "the port: choose one with PORT.",
            1,
        )
    return 0 if server.started else 1


def _migrate(_: argparse.Namespace) -> int:
    database = _database()
    database.close()
    print("The database has this version's form.")
    return 0


def _create_key(options: argparse.Namespace) -> int:
    database = _database()
    key, secret = Keys(database).create(options.name, scopes=frozenset(options.scope or ["chat"]), rpm=options.rpm)
    database.close()
    print(f"{key.id} ({key.name}); keep the key, it is shown only now:")
    print(secret)
    return 0


def _list_keys(_: argparse.Namespace) -> int:
    database = _database()
    for key in Keys(database).list():
        print(f"{key.id}  {key.prefix}…  {_state(key):8}  rpm {key.rpm or 'default':>7}  {_scopes(key)}  {key.name}")
    database.close()
    return 0


def _revoke_key(options: argparse.Namespace) -> int:
    database = _database()
    was_working = Keys(database).revoke(options.id)
    database.close()
    if not was_working:
        return _fail(f"There is no working key {options.id}; `python -m gateway keys list` shows all.", 1)
    print(f"{options.id} is revoked; a running gateway refuses it within a second.")
    return 0


def _database() -> Database:
    data_dir = ROOT / (os.environ.get("DATA_DIR") or "data")
    return Database(data_dir / Settings.DATABASE_NAME)


def _state(key: ApiKey) -> str:
    if key.revoked_at is not None:
        return "revoked"
    return "expired" if key.expires_at is not None and key.expires_at <= time.time() else "works"


def _scopes(key: ApiKey) -> str:
    return ",".join(sorted(key.scopes))


def _fail(message: str, code: int) -> int:
    print(f"gateway: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())

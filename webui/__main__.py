"""`python -m webui`: the web UI alone, for a gateway somewhere else; `python -m webui users`: who may log in."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import uvicorn

from known_settings import unknown_settings
from webui import call_log, users_command
from webui.errors import SettingsError
from webui.main import create_app
from webui.settings import Settings

log = logging.getLogger("webui")
_CODE = Path(__file__).resolve().parent.parent
# A wheel has no checkout around it, and what lies in site-packages goes with the next venv.
ROOT = Path.cwd() if _CODE.name in ("site-packages", "dist-packages") else _CODE
EXAMPLE = """examples:
  python -m webui users --help
  WEBUI_GATEWAY_URL=http://127.0.0.1:8000 WEBUI_API_KEY_FILE=data/webui.key python -m webui --port 7860"""


def parser(environ: Mapping[str, str]) -> argparse.ArgumentParser:
    """Flags; each default comes from the environment."""
    port = environ.get("PORT") or environ.get("GRADIO_SERVER_PORT") or "7860"
    parsed = argparse.ArgumentParser(
        prog="python -m webui",
        description="The web UI of internlm-stack. It talks to the gateway at WEBUI_GATEWAY_URL.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parsed.add_argument("--host", default=environ.get("HOST") or "127.0.0.1", help="HOST; default %(default)s")
    parsed.add_argument("--port", type=int, default=port, help="PORT or GRADIO_SERVER_PORT; default %(default)s")
    return parsed


def main(argv: Sequence[str] | None = None) -> int:
    """Serves until it is told to stop."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["users"]:
        return _users(words[1:])
    options = parser(os.environ).parse_args(words)
    try:
        call_log.configure()
        for warning in unknown_settings(os.environ):
            log.warning(warning)
        app = create_app(Settings.from_env(os.environ, ROOT))
    except SettingsError as error:
        print(f"webui: {error}", file=sys.stderr)
        return 2
    log.info("Web UI on http://%s:%d", options.host, options.port)
    uvicorn.run(
        app,
        host=options.host,
        port=options.port,
        log_config=None,
        log_level="warning",
        timeout_graceful_shutdown=5,
        proxy_headers=False,  # webui/address.py reads them, as WEBUI_TRUSTED_PROXY_HOPS says
    )
    return 0


def _users(words: Sequence[str]) -> int:
    try:
        code, told = users_command.run(words, Settings.from_env(os.environ, ROOT).users_file)
    except SettingsError as error:
        code, told = 2, str(error)
    except KeyboardInterrupt:
        code, told = 130, "nothing was changed"
    if told:
        print(f"webui: {told}" if code else told, file=sys.stderr if code else sys.stdout)
    return code


if __name__ == "__main__":
    sys.exit(main())

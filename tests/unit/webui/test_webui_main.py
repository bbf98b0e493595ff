"""The command line's address, and a page that calls nobody while it is built."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from webui.__main__ import parser

pytestmark = pytest.mark.unit
ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("environ", "argv", "address"),
    [
        ({}, [], ("127.0.0.1", 7860)),
        ({"PORT": "80", "GRADIO_SERVER_PORT": "81", "HOST": "0.0.0.0"}, [], ("0.0.0.0", 80)),
        ({"GRADIO_SERVER_PORT": "81"}, [], ("127.0.0.1", 81)),
        ({"PORT": "80"}, ["--port", "82", "--host", "::1"], ("::1", 82)),
    ],
)
def test_the_address_comes_from_flags_then_the_environment(
    environ: dict[str, str], argv: list[str], address: tuple[str, int]
) -> None:
    options = parser(environ).parse_args(argv)
    assert (options.host, options.port) == address


def test_numbers_that_gradio_would_read_cannot_stop_the_start(tmp_path: Path) -> None:
    names = ("GRADIO_SERVER_PORT", "GRADIO_NUM_PORTS", "GRADIO_NODE_NUM_PORTS", "GRADIO_DEFAULT_CONCURRENCY_LIMIT")
    code = (
        "from webui.main import create_app; from webui.settings import Settings; create_app(Settings(secret=b'x'*32))"
    )
    environ = {**os.environ, **dict.fromkeys(names, "zz")} | {"PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_wrong_setting_stops_the_start_with_one_sentence(tmp_path: Path) -> None:
    environ = {"WEBUI_GATEWAY_URL": "nonsense", "PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, "-m", "webui"]
    ended = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert ended.stderr.startswith("webui: WEBUI_GATEWAY_URL must be")
    assert ended.stderr.count("\n") == 1


def test_a_misspelt_name_is_one_line_of_the_log_whether_the_start_goes_on_or_not() -> None:
    environ = {**os.environ, "WEBUI_TITEL": "canary", "WEBUI_LOGIN_DAYS": "0"}
    command = [sys.executable, "-m", "webui"]
    ended = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60, check=False)
    warning, error = ended.stderr.splitlines()
    told = json.loads(warning)
    assert (ended.returncode, told["level"], told["logger"]) == (2, "warning", "webui")
    assert told["message"].startswith("WEBUI_TITEL is set")
    assert "Is WEBUI_TITLE meant?" in told["message"]
    assert "canary" not in warning
    assert error.startswith("webui: WEBUI_LOGIN_DAYS")

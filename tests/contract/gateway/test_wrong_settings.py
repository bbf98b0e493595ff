"""Each setting with a value that cannot be: the start ends with one sentence that names the variable."""

from __future__ import annotations

import ast
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.__main__ import main
from tests.running_gateway import ROOT

pytestmark = pytest.mark.contract
GOOD = {"GATEWAY_UPSTREAMS": "llamacpp=http://127.0.0.1:9"}
# The secret is backed up from where it is said to be; `serve` never looks.
ANY_VALUE_IS_RIGHT = {"MODEL", "GATEWAY_MODEL_TITLE", "OTEL_SERVICE_NAME", "WEBUI_SECRET_FILE"}
# What only the system can tell; exit code 1.
WRONG_WHEN_USED = {
    "DATA_DIR": "/dev/null/folder",
    "HOST": "no address",
    "WEBUI_API_KEY_FILE": "/dev/null/folder/key",
    "GATEWAY_METRICS_TOKEN_FILE": "/dev/null/folder/token",
}
ONLY_WITH = {"DATABASE_PASSWORD_FILE": {"DATABASE_URL": "postgresql://u@127.0.0.1:9/x"}}
WRONG = {
    "PORT": ("eighty", "65536", "-1"),
    "GATEWAY_UPSTREAMS": ("", "http://127.0.0.1:9", "vllm=http://x", "llamacpp=ftp://x", "llamacpp=http://x:0"),
    "GATEWAY_UPSTREAM_KEYS": ("secret-value", "nope=secret-value", "llamacpp=secret value", "llamacpp=sécret-value"),
    "GATEWAY_CONTEXT_TOKENS": ("63", "4k"),
    "GATEWAY_SLOTS": ("0", "1.5"),
    "GATEWAY_MAX_WAITING": ("-1",),
    "GATEWAY_MAX_WAIT_S": ("-1", "nan", "soon"),
    "GATEWAY_MAX_BODY_BYTES": ("1",),
    "GATEWAY_TOOL_FORMAT": ("openai",),
    "GATEWAY_DATABASE_WAIT_S": ("-1", "inf"),
    "DATABASE_URL": ("mysql://u:secret-value@x/y", "postgresql://u:secret-value@x:0/y", "postgresql://x", "file"),
    "DATABASE_PASSWORD_FILE": ("/dev/null/file", "/dev/null", "/"),
    "REDIS_URL": ("http://:secret-value@x", "redis://:secret-value@x:0", "redis://"),
    "GATEWAY_LIMITS_WITHOUT_REDIS": ("ajar",),
    "GATEWAY_METRICS_TOKEN": ("secret-value with spaces", "secret-väluë"),
    "GATEWAY_ADMIN_KEY": ("secret-value", "secret-value with spaces and more than 32 characters"),
    "OTEL_EXPORTER_OTLP_ENDPOINT": ("127.0.0.1:4318", "grpc://u:secret-value@x"),
    "OTEL_EXPORTER_OTLP_HEADERS": ("secret-value", "a b=secret-value"),
    "OTEL_EXPORTER_OTLP_TIMEOUT": ("0", "10s"),
    "OTEL_TRACES_SAMPLER_ARG": ("2", "all"),
    "OTEL_SDK_DISABLED": ("yes",),
    **dict.fromkeys(("GATEWAY_RETENTION_DAYS", "GATEWAY_RESPONSE_RETENTION_DAYS"), ("-1", "for ever")),
    **dict.fromkeys(
        (
            *(f"GATEWAY_KEY_{name}" for name in ("RPM", "TPM", "TPD", "STREAMS")),
            *(f"GATEWAY_USER_{name}" for name in ("RPM", "TPM", "TPD", "STREAMS")),
            "GATEWAY_ALL_USERS_RPM",
            "GATEWAY_ADDRESS_RPM",
        ),
        ("0", "-5", "1e3", "many", "99999999999"),
    ),
    **dict.fromkeys(
        (f"GATEWAY_{phase}_TIMEOUT_S" for phase in ("CONNECT", "FIRST_TOKEN", "BETWEEN_TOKENS", "TURN", "DRAIN")),
        ("-1", "nan", "5 s", "1e9"),
    ),
}


@pytest.fixture(autouse=True)
def logs() -> Iterator[None]:
    """`serve` takes over all logs of its process, which here is the tests'."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def names_in_settings() -> set[str]:
    """Whatever looks like a variable in the functions of gateway/settings.py that get the environment."""
    tree = ast.parse((ROOT / "gateway" / "settings.py").read_text())
    return {
        argument.value
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and any("environ" in ast.unparse(part) for part in (call.func, *call.args))
        for argument in call.args
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str) and argument.value.isupper()
    }


def test_every_setting_is_tried_here() -> None:
    assert names_in_settings() == set(WRONG) | set(WRONG_WHEN_USED) | ANY_VALUE_IS_RIGHT


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_wrong_value(
    name: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for variable, right in (GOOD | ONLY_WITH.get(name, {}) | {"DATA_DIR": str(tmp_path / "data"), name: value}).items():
        monkeypatch.setenv(variable, right)
    code = main(["serve"])
    output, error = capsys.readouterr()
    assert (code, output) == (2, "")
    assert error.startswith("gateway: ")
    assert error.count("\n") == 1, "one line"
    assert name in error
    assert "secret-value" not in error
    assert not (tmp_path / "data").exists(), "nothing was begun"


def test_a_misspelt_name_is_one_line_of_the_log_before_the_start_ends_or_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("GATEWAY_UPSTREAMS", raising=False)
    monkeypatch.setenv("GATEWAY_UPSTREAM", "llamacpp=http://secret-value@127.0.0.1:9")
    assert main(["serve"]) == 2
    warning, error = capsys.readouterr().err.splitlines()
    told = json.loads(warning)
    assert (told["level"], told["logger"]) == ("warning", "gateway")
    assert "GATEWAY_UPSTREAM is set" in told["message"]
    assert "GATEWAY_UPSTREAMS meant?" in told["message"]
    assert "secret-value" not in warning
    assert error.startswith("gateway: GATEWAY_UPSTREAMS is not set")


@pytest.mark.parametrize(
    ("environ", "code"),
    [
        ({"GATEWAY_SLOTS": "none"}, 2),
        *(({name: value}, 1) for name, value in WRONG_WHEN_USED.items()),
    ],
    ids=str,
)
def test_the_same_as_a_process_of_its_own(environ: dict[str, str], code: int, tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "gateway", "serve"],
        cwd=ROOT,
        env=os.environ | GOOD | {"DATA_DIR": str(tmp_path), "PORT": "0"} | environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    (name,) = environ
    assert ended.returncode == code
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("gateway: ")
    assert name in last
    assert "Traceback" not in ended.stderr

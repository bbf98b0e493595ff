"""`python -m gateway`: keys, migration, wrong settings; each with an exit code and a sentence."""

from __future__ import annotations

import os
import re
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.__main__ import main
from tests.fakes.inference import FakeInference
from tests.running_gateway import ROOT, client_of, run_gateway

pytestmark = pytest.mark.contract


class Command:
    """`python -m gateway` in this process, with a DATA_DIR of its own."""

    def __init__(self, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.data, self._patch, self._output = data, monkeypatch, capsys
        monkeypatch.setenv("DATA_DIR", str(data))

    def __call__(self, *arguments: str, **environ: str) -> tuple[int, str, str]:
        """Exit code, standard output, standard error."""
        for name, value in environ.items():
            self._patch.setenv(name, value)
        try:
            code = main(list(arguments))
        except SystemExit as ended:
            code = int(str(ended.code))
        return code, *self._output.readouterr()


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(tmp_path / "data", monkeypatch, capsys)


def test_a_key_is_made_beside_a_running_gateway_and_ends_with_revoke(fake: FakeInference, command: Command) -> None:
    with run_gateway(command.data, fake) as gateway:
        code, output, _ = command("keys", "create", "--name", "laptop", "--rpm", "2")
        assert code == 0
        secret = output.splitlines()[-1]
        with client_of(gateway.url, secret) as client:
            answer = client.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "hi"}]})
            assert answer.headers["x-ratelimit-limit-requests"] == "2"
            listed = command("keys", "list")[1]
            key_id = re.search(r"(key_\w+) .*laptop", listed)
            assert key_id is not None
            assert secret not in listed
            assert command("keys", "revoke", key_id[1])[0] == 0
            assert client.get("/v1/models").status_code == 401
        assert "revoked" in command("keys", "list")[1]
        code, _, error = command("keys", "revoke", key_id[1])
        assert code == 1
        assert "keys list" in error


@pytest.mark.parametrize(
    ("arguments", "environ", "code", "said"),
    [
        (["keys", "create", "--name", " "], {}, 1, "name"),
        (["keys", "create", "--name", "x", "--rpm", "0"], {}, 1, "at least one"),
        (["keys", "create", "--name", "x", "--scopes", "chat,root"], {}, 2, "'root' is no scope"),
        (["keys", "create", "--name", "x", "--tpd", "0"], {}, 1, "tokens a day is at least one"),
        (["keys", "create", "--name", "x", "--expires", "soon"], {}, 2, "'soon' is no time"),
        (["keys", "create", "--name", "x", "--expires", "2001-01-01"], {}, 1, "expires in the future"),
        (["keys", "create", "--name", "x", "--expires", "2099-01-01"], {}, 1, "before 2038"),
        (["keys", "rotate", "key_0"], {}, 1, "key_0"),
        (["keys", "rotate", "key_0", "--grace", "1y"], {}, 2, "'1y' is no time"),
        (["keys", "revoke", "key_0"], {}, 1, "key_0"),
        (["serve"], {"GATEWAY_UPSTREAMS": ""}, 2, "GATEWAY_UPSTREAMS is not set"),
        (["serve"], {"GATEWAY_UPSTREAMS": "llamacpp=http://x", "PORT": "x"}, 2, "PORT"),
        ([], {}, 2, "required"),
    ],
)
def test_what_cannot_be(command: Command, arguments: list[str], environ: dict[str, str], code: int, said: str) -> None:
    ended, _, error = command(*arguments, **environ)
    assert ended == code
    assert said in error


def test_migrate_can_be_repeated_and_what_people_wrote_is_nobody_elses(command: Command) -> None:
    for _ in range(2):
        assert command("migrate")[0] == 0
    assert stat.S_IMODE((command.data / "gateway.sqlite3").stat().st_mode) == 0o600


def test_help_has_an_example(command: Command) -> None:
    for arguments in (["--help"], ["serve", "--help"], ["keys", "create", "--help"]):
        code, output, _ = command(*arguments)
        assert code == 0
        assert "usage: python -m gateway" in output
    assert "keys create --name" in command("--help")[1]


def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        environ = {"DATA_DIR": str(tmp_path), "PORT": port, "GATEWAY_UPSTREAMS": "llamacpp=http://127.0.0.1:9"}
        ended = subprocess.run(
            [sys.executable, "-m", "gateway", "serve"],
            cwd=ROOT,
            env={**os.environ, **environ},
            capture_output=True,
            text=True,
            timeout=30,
        )
    assert ended.returncode == 1
    assert f"127.0.0.1:{port} cannot be listened on" in ended.stderr.splitlines()[-1]
    assert "in use" in ended.stderr
    assert "Traceback" not in ended.stderr

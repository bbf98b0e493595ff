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

from tests.fakes.inference import FakeInference
from tests.running_gateway import ROOT, client_of, eventually, run_gateway

pytestmark = pytest.mark.contract


def command(data: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gateway", *arguments],
        cwd=ROOT,
        env={**os.environ, "DATA_DIR": str(data), **environ},
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_a_key_is_made_beside_a_running_gateway_and_ends_with_revoke(fake: FakeInference, tmp_path: Path) -> None:
    with run_gateway(tmp_path, fake) as gateway:
        made = command(tmp_path, "keys", "create", "--name", "laptop", "--rpm", "2")
        assert made.returncode == 0, made.stderr
        secret = made.stdout.splitlines()[-1]
        with client_of(gateway.url, secret) as client:
            answer = client.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "hi"}]})
            assert answer.headers["x-ratelimit-limit-requests"] == "2"
            listed = command(tmp_path, "keys", "list").stdout
            key_id = re.search(r"(key_\w+) .*laptop", listed)
            assert key_id is not None
            assert secret not in listed
            assert command(tmp_path, "keys", "revoke", key_id[1]).returncode == 0
            eventually(lambda: client.get("/v1/models").status_code == 401, within_s=2)
        assert "revoked" in command(tmp_path, "keys", "list").stdout
        again = command(tmp_path, "keys", "revoke", key_id[1])
        assert again.returncode == 1
        assert "keys list" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "environ", "code", "said"),
    [
        (["keys", "create", "--name", " "], {}, 1, "name"),
        (["keys", "create", "--name", "x", "--rpm", "0"], {}, 1, "at least one"),
        (["keys", "create", "--name", "x", "--scope", "root"], {}, 2, "invalid choice"),
        (["keys", "revoke", "key_0"], {}, 1, "key_0"),
        (["serve"], {"GATEWAY_UPSTREAMS": ""}, 2, "GATEWAY_UPSTREAMS is not set"),
        (["serve"], {"GATEWAY_UPSTREAMS": "llamacpp=http://x", "PORT": "x"}, 2, "PORT"),
        ([], {}, 2, "required"),
    ],
)
def test_what_cannot_be(tmp_path: Path, arguments: list[str], environ: dict[str, str], code: int, said: str) -> None:
    ended = command(tmp_path, *arguments, **environ)
    assert ended.returncode == code
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr


def test_migrate_can_be_repeated(tmp_path: Path) -> None:
    for _ in range(2):
        assert command(tmp_path / "new", "migrate").returncode == 0
    assert (tmp_path / "new" / "gateway.sqlite3").exists()


def test_what_people_wrote_is_nobody_elses(tmp_path: Path) -> None:
    command(tmp_path / "new", "migrate")
    assert stat.S_IMODE((tmp_path / "new" / "gateway.sqlite3").stat().st_mode) == 0o600


def test_help_has_an_example(tmp_path: Path) -> None:
    for arguments in (["--help"], ["serve", "--help"], ["keys", "create", "--help"]):
        shown = command(tmp_path, *arguments)
        assert shown.returncode == 0
        assert "usage: python -m gateway" in shown.stdout
    assert "keys create --name" in command(tmp_path, "--help").stdout


def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = command(tmp_path, "serve", PORT=port, GATEWAY_UPSTREAMS="llamacpp=http://127.0.0.1:9")
    assert ended.returncode == 1
    assert f"127.0.0.1:{port} cannot be listened on" in ended.stderr.splitlines()[-1]
    assert "in use" in ended.stderr
    assert "Traceback" not in ended.stderr

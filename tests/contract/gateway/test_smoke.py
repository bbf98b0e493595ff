"""`python -m inference smoke`: what passes, and the sentence and exit code for each way of failing."""

from __future__ import annotations

import json
import os
import shutil
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from inference.accounts import Secret
from inference.errors import NotReadyInTime, SettingsError, SmokeFailed
from inference.smoke import smoke
from inference.web_json import Deployment, NotReady, parse_address
from tests.fakes.inference import FakeInference, Scenario
from tests.fakes.scripted import Answer, Asked, scripted_server
from tests.fakes.tgi import KEY, Tgi
from tests.running_gateway import RunningGateway

pytestmark = pytest.mark.contract
ROOT = Path(__file__).resolve().parents[3]
HTML = Answer(headers={"content-type": "text/html"}, body=b"<!doctype html><html>a page</html>")
Say = Callable[[str], None]


def tried(at: Deployment, **options: object) -> list[str]:
    lines: list[str] = []
    smoke(at, lines.append, **options)  # type: ignore[arg-type]
    return lines


def failed(at: Deployment, kind: type[Exception] = SmokeFailed, **options: object) -> str:
    lines: list[str] = []
    with pytest.raises(kind) as error:
        smoke(at, lines.append, **options)  # type: ignore[arg-type]
    assert lines[-1].startswith("FAIL"), lines
    assert str(error.value) in lines[-1] or "ready" in lines[-1]
    return lines[-1]


def as_json(body: object, status: int = 200, **headers: str) -> Answer:
    return Answer(status, {"content-type": "application/json", **headers}, json.dumps(body).encode())


def with_key(gateway: RunningGateway) -> Deployment:
    return Deployment(gateway.url, Secret(gateway.new_key()))


def test_our_gateway_passes_with_history_and_leaves_nothing_behind(gateway: RunningGateway) -> None:
    at = with_key(gateway)
    lines = tried(at)
    assert [line.split()[1] for line in lines[:-1]] == ["ready", "models", "chat", "history"]
    assert all(line.startswith("pass") for line in lines[:-1])
    assert lines[-1] == "passed"
    assert at.ask("/v1/conversations")["data"] == []


def test_a_gateway_before_tgi_is_asked_for_text_too(behind_tgi: RunningGateway, tgi: Tgi) -> None:
    lines: list[str] = []
    with pytest.raises(SmokeFailed, match="second turn did not see"):  # a recorded TGI counts the same each time
        smoke(with_key(behind_tgi), lines.append)
    assert [line.split()[1] for line in lines] == ["ready", "models", "chat", "history"]


def test_a_plain_tgi_passes_with_its_own_text_generation(tgi: Tgi) -> None:
    lines = tried(Deployment(tgi.server.url, Secret(KEY)))
    assert [line.split()[1] for line in lines[:-1]] == ["ready", "models", "chat", "generate"]
    assert lines[-1] == "passed"


def test_an_address_with_v1_as_sdks_want_it_is_the_same(gateway: RunningGateway) -> None:
    assert parse_address(gateway.url + "/v1/") == gateway.url


@pytest.mark.parametrize("text", ["", "host:7860", "ftp://host", "http://", "http://me:secret@host"])
def test_an_address_that_is_none_is_told(text: str) -> None:
    with pytest.raises(SettingsError) as refused:
        parse_address(text)
    assert "secret" not in str(refused.value)


def test_a_wrong_key_and_none_are_told_apart(gateway: RunningGateway) -> None:
    assert "refused the key (401)" in failed(Deployment(gateway.url, Secret("sk-wrong")))
    assert "--key-file" in failed(Deployment(gateway.url, None))
    assert "sk-wrong" not in failed(Deployment(gateway.url, Secret("sk-wrong")))


def test_a_wrong_path_is_told(gateway: RunningGateway) -> None:
    assert "(404)" in failed(Deployment(gateway.url + "/elsewhere", Secret(gateway.new_key())))


def test_a_model_that_is_not_there_is_told_with_those_that_are(gateway: RunningGateway) -> None:
    assert "there are: " in failed(with_key(gateway), model="gpt-4")


def test_a_web_page_instead_of_json_is_told() -> None:
    with scripted_server(lambda asked: HTML) as server:
        assert "is a web page, not an API" in failed(Deployment(server.url, None))


def test_a_spaces_page_gets_the_spaces_own_address_named() -> None:
    at = Deployment("https://huggingface.co/spaces/Me/my_chat", None)
    with pytest.raises(SmokeFailed, match=r"https://me-my-chat\.hf\.space"):
        at._parsed("/v1/models", b"<html>")


def test_a_redirect_is_not_followed_with_the_key(gateway: RunningGateway) -> None:
    elsewhere: list[Asked] = []

    def other(asked: Asked) -> Answer:
        elsewhere.append(asked)
        return as_json({})

    with scripted_server(other) as target, scripted_server(lambda asked: moved) as server:
        moved = Answer(302, {"location": target.url + "/v1/status"})
        assert f"leads to {target.url}" in failed(Deployment(server.url, Secret("sk-own")))
    assert elsewhere == []


@pytest.mark.parametrize("name", ["dies_midway", "error_midway", "no_finish_reason", "failing"])
def test_an_answer_that_breaks_off_fails(name: str, gateway: RunningGateway, fake: FakeInference) -> None:
    fake.scenario = Scenario(name)
    assert "chat" in failed(with_key(gateway))


def test_what_is_not_ready_is_told_with_its_stage_and_waited_for() -> None:
    states: Iterator[dict[str, object]] = iter(
        [
            {
                "stage": "download",
                "done": 5_000_000,
                "total": 10_000_000,
                "unit": "bytes",
                "message": "from modelscope",
            },
            {"stage": "load", "message": "loading"},
        ]
    )

    def answer(asked: Asked) -> Answer:
        if asked.path == "/v1/status":
            news = next(states, None)
            return as_json({"object": "status", "ready": news is None, "upstreams": [], **(news or {})})
        return as_json({"data": []})

    with scripted_server(answer) as server:
        told = failed(Deployment(server.url, None), NotReadyInTime)
        assert "download: from modelscope, 5.0 MB of 10.0 MB. Add --wait 600" in told
        lines: list[str] = []
        with pytest.raises(SmokeFailed, match="names no model"):
            smoke(Deployment(server.url, None), lines.append, wait_s=30)
    assert lines[0] == "wait  load: loading"
    assert lines[1].startswith("pass  ready")


def test_an_engine_that_is_loading_is_waited_for_until_the_time_is_up() -> None:
    loading = as_json({"error": {"message": "Loading model"}}, 503)
    with scripted_server(lambda asked: loading) as server:
        assert "Loading model. Wait longer" in failed(Deployment(server.url, None), NotReadyInTime, wait_s=0.1)


def test_nobody_there_and_an_unknown_name_are_told_apart() -> None:
    assert "nothing listens at 127.0.0.1:9" in failed(Deployment("http://127.0.0.1:9", None), NotReadyInTime)
    assert "is not known" in failed(Deployment("http://no.such.host.invalid", None))


def test_a_server_that_hangs_up_or_talks_nonsense_is_told() -> None:
    with (
        scripted_server(lambda asked: Answer(pieces=[], end="broken")) as server,
        pytest.raises((NotReady, SmokeFailed)),
    ):
        Deployment(server.url, None).ask("/v1/status")
    with scripted_server(lambda asked: Answer(body=b"\x00\xff")) as server:
        assert "did not answer with JSON" in failed(Deployment(server.url, None))
    with scripted_server(lambda asked: Answer(body=b"[1]")) as server:
        assert "another form" in failed(Deployment(server.url, None))


@contextmanager
def tls_server(folder: Path) -> Iterator[str]:
    """With a certificate that nobody knows."""
    names = {"cert": folder / "cert.pem", "key": folder / "key.pem"}
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "1"]
    subprocess.run([*command, "-keyout", names["key"], "-out", names["cert"]], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(names["cert"], names["key"])
    server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl, which makes a certificate, is not installed")
def test_tls_that_fails_is_told_with_its_cure(tmp_path: Path) -> None:
    with tls_server(tmp_path) as url:
        assert "is not trusted" in failed(Deployment(url, None))
        assert "SSL_CERT_FILE" in failed(Deployment(url, None))
    with scripted_server(lambda asked: HTML) as server:
        told = failed(Deployment(server.url.replace("http", "https"), None))
    assert "Is it http:// there?" in told


def command(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "inference", "smoke", *arguments],
        cwd=ROOT,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


def test_the_command_takes_the_key_from_a_file_or_a_variable(gateway: RunningGateway, tmp_path: Path) -> None:
    key = gateway.new_key()
    (tmp_path / "key").write_text(key + "\n")
    done = command(gateway.url, "--key-file", str(tmp_path / "key"))
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "passed")
    done = command(gateway.url, "--key-env", "MY_KEY", MY_KEY=key)
    assert done.returncode == 0
    assert key not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("nonsense",), 2, "is no address"),
        (("http://127.0.0.1:9", "--key-file", "/nonexistent"), 2, "--key-file"),
        (("http://127.0.0.1:9", "--wait", "-1"), 2, "--wait"),
        (("http://127.0.0.1:9",), 9, "nothing listens"),
        (("http://no.such.host.invalid",), 13, "is not known"),
    ],
)
def test_the_commands_exit_codes_mean_something(arguments: tuple[str, ...], code: int, words: str) -> None:
    done = command(*arguments)
    assert done.returncode == code
    assert words in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_key_no_token_of_hugging_faces_is_sent() -> None:
    def answer(asked: Asked) -> Answer:
        if asked.path == "/v1/models":
            return as_json({"data": [{"id": "m"}]})
        return as_json({"error": "none"}, 404)

    with scripted_server(answer) as server:
        done = command(server.url, HF_TOKEN="hf_" + "x" * 34, API_KEY="")
        assert done.returncode == 13
        assert not any("hf_x" in str(asked.headers) for asked in server.asked)
        assert len(server.of("/v1/chat/completions")) == 1


def test_a_stop_is_quiet() -> None:
    loading = as_json({"error": {"message": "Loading model"}}, 503)
    with (
        scripted_server(lambda asked: loading) as server,
        subprocess.Popen(
            [sys.executable, "-m", "inference", "smoke", server.url, "--wait", "600"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        deadline = time.monotonic() + 60
        while not server.asked:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(2)
        _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in stderr

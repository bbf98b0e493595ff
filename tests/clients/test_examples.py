"""The programs of examples/, run as a person runs them, against a gateway with a scripted engine."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import yaml

from tests.fakes.inference import WORDS, FakeInference, Scenario
from tests.running_gateway import RunningGateway, eventually

pytestmark = [pytest.mark.clients, pytest.mark.timeout(600)]
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
ANSWER = "".join(WORDS)


@pytest.fixture(params=["chat.py", "chat.mjs"])
def chat(request: pytest.FixtureRequest) -> list[str]:
    if request.param == "chat.py":
        return [sys.executable, str(EXAMPLES / "chat.py")]
    packages: Path = request.getfixturevalue("javascript")
    return ["node", shutil.copy(EXAMPLES / "chat.mjs", packages)]


def say(command: list[str], environ: dict[str, str], *lines: str) -> str:
    typed = "".join(f"{line}\n" for line in lines)
    done = subprocess.run(command, input=typed, env=environ, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


def test_a_chat_streams_and_goes_on_later(fake: FakeInference, chat: list[str], environ: dict[str, str]) -> None:
    fake.reset()
    told = say(chat, environ, "First.", "Second.")
    assert told.count(ANSWER) == 2
    conversation = re.search(r"conv_\w+", told)
    assert conversation
    assert [message["content"] for message in fake.chat.body["messages"]] == ["First.", ANSWER, "Second."]
    again = say([*chat, conversation[0]], environ, "Third.")
    assert again.count(ANSWER) == 3
    assert "> First." in again
    assert len(fake.chat.body["messages"]) == 5


class Cable:
    """Stands between a client and the gateway, and can be pulled out."""

    def __init__(self, to: str) -> None:
        self._to = (to.split("//")[1].split(":")[0], int(to.rsplit(":", 1)[1]))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._ends: list[socket.socket] = []
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def run(self) -> None:
        with suppress(OSError):
            while True:
                ends = self._listener.accept()[0], socket.create_connection(self._to)
                self._ends += ends
                for one, other in (ends, ends[::-1]):
                    threading.Thread(target=self._pass_on, args=(one, other), daemon=True).start()

    def _pass_on(self, one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while data := one.recv(65536):
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)

    def pull(self) -> None:
        for end in self._ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for end in self._ends:
            end.close()


@contextmanager
def cable(to: str) -> Iterator[Cable]:
    one = Cable(to)
    thread = threading.Thread(target=one.run, daemon=True)
    thread.start()
    try:
        yield one
    finally:
        one.pull()
        one.close()
        thread.join(10)


def test_an_answer_is_taken_up_again_after_a_lost_connection(
    fake: FakeInference, chat: list[str], environ: dict[str, str]
) -> None:
    fake.reset()
    fake.scenario = Scenario("slow", delay_s=0.2)
    with cable(environ["BASE_URL"]) as between:
        own = {**environ, "BASE_URL": between.url}
        with subprocess.Popen(chat, env=own, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
            assert running.stdin is not None
            running.stdin.write("Hello.\n")
            running.stdin.flush()
            eventually(lambda: fake.chats and fake.chat.words_sent > 2, within_s=30)
            between.pull()
            told, _ = running.communicate(timeout=60)
        assert running.returncode == 0
    assert told.splitlines()[1:] == ANSWER.splitlines()


def test_ctrl_c_stops_the_answer_and_not_the_chat(fake: FakeInference, environ: dict[str, str]) -> None:
    fake.reset()
    fake.scenario = Scenario("stalls")
    command = [sys.executable, str(EXAMPLES / "chat.py")]
    running = subprocess.Popen(command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert running.stdin is not None
    assert running.stdout is not None
    running.stdin.write("Hello.\n")
    running.stdin.flush()
    running.stdout.readline()
    assert running.stdout.read(len(ANSWER) // 4)  # it has begun
    running.send_signal(signal.SIGINT)
    eventually(lambda: fake.chat.left_at)  # the engine is freed
    fake.reset()
    told, _ = running.communicate("Again.\n", timeout=60)
    assert "[stopped]" in told
    assert told.endswith(f"{ANSWER}\n")


def test_what_is_wrong_is_one_sentence(chat: list[str], environ: dict[str, str]) -> None:
    done = subprocess.run(chat, env={**environ, "API_KEY": "sk-wrong"}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "key" in done.stderr
    assert "\n" not in done.stderr.strip()


def test_an_address_that_is_not_set_is_one_sentence(chat: list[str], environ: dict[str, str], tmp_path: Path) -> None:
    del environ["BASE_URL"]
    told = subprocess.run(chat, env=environ, capture_output=True, text=True, timeout=60, check=False)
    for done in (told, batch(environ, tmp_path / "q", tmp_path / "a")):
        assert done.returncode == 2
        assert done.stderr.startswith("Not set: BASE_URL. ")
        assert done.stderr.count("\n") == 1


def batch(environ: dict[str, str], questions: Path, answers: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLES / "batch.py"), str(questions), str(answers), *more]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=300, check=False)


def answered(answers: Path) -> dict[str, dict[str, object]]:
    lines = [json.loads(line) for line in answers.read_text().splitlines()]
    assert len({line["id"] for line in lines}) == len(lines)
    return {line["id"]: line for line in lines}


def test_a_batch_keeps_to_the_limits_and_goes_on_where_it_was(
    gateway: RunningGateway, fake: FakeInference, environ: dict[str, str], tmp_path: Path
) -> None:
    fake.reset()
    key = gateway.new_key(rpm=60)  # sixty at once, then one a second
    questions, answers = tmp_path / "questions.jsonl", tmp_path / "answers.jsonl"
    questions.write_text("".join(json.dumps({"id": f"q{n}", "prompt": f"Question {n}"}) + "\n" for n in range(64)))
    answers.write_text(json.dumps({"id": "q0", "answer": "known"}) + "\n")
    begun = time.monotonic()
    done = batch({**environ, "API_KEY": key}, questions, answers, "--at-once", "8")
    assert done.returncode == 0, done.stderr
    told = answered(answers)
    assert set(told) == {f"q{n}" for n in range(64)}
    assert told["q0"]["answer"] == "known"
    assert {one["answer"] for name, one in told.items() if name != "q0"} == {ANSWER}
    assert time.monotonic() - begun > 2  # three of them had to wait
    fake.reset()
    assert batch({**environ, "API_KEY": key}, questions, answers).returncode == 0
    assert len(answered(answers)) == 64


def test_a_batch_says_what_is_wrong_with_its_questions(environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "q").write_text('{"id": "a", "prompt": "Hi"}\n{"id": "b"}\n')
    done = batch(environ, tmp_path / "q", tmp_path / "a")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "line 2" in done.stderr
    assert done.stderr.endswith("it lacks 'prompt'\n")


def test_open_webui_asks_our_gateway_and_nobody_else() -> None:
    """Its image is not at hand: the file is only read here."""
    service = yaml.safe_load((EXAMPLES / "open-webui" / "docker-compose.yml").read_text())["services"]["open-webui"]
    assert service["environment"]["OPENAI_API_BASE_URL"].endswith("gateway:8000}/v1")
    assert service["environment"]["OFFLINE_MODE"] == "true"
    assert service["ports"][0].startswith("${BIND:-127.0.0.1}:")

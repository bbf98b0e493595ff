"""The command that runs before anything else: its exit code, its log, and its end with ours."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from inference.errors import StartFailed
from inference.prestart import run_prestart
from inference.settings import Settings

pytestmark = pytest.mark.chaos
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def settings(tmp_path):
    return Settings(root=tmp_path, models_dir=tmp_path / "models", data_dir=tmp_path / "data")


def test_it_runs_in_the_checkout_and_its_words_are_kept(settings):
    reports = []
    asyncio.run(run_prestart(replace(settings, prestart="echo one; pwd; echo two >&2"), reports.append))
    log = (settings.data_dir / "logs" / "prestart.log").read_text()
    for part in ("one", "two", str(settings.root)):
        assert f"{part}\n" in log
    assert reports[0].message == "running INFERENCE_PRESTART: echo one; pwd; echo two >&2"


def test_a_failure_is_told_with_its_code_and_its_last_line(settings):
    failing = replace(settings, prestart="echo almost; echo no such package; exit 3")
    with pytest.raises(StartFailed, match=r"ended with code 3; it said last: no such package\. .*prestart\.log"):
        asyncio.run(run_prestart(failing, lambda news: None))


def test_without_a_command_nothing_is_done(settings):
    asyncio.run(run_prestart(settings, pytest.fail))
    assert not settings.data_dir.exists()


@pytest.mark.parametrize("command", ["echo $$ > {0}/pid; exec sleep 600", "sleep 600 & echo $! > {0}/pid; wait; true"])
def test_a_stop_ends_it_and_what_it_started(settings, tmp_path, command):
    async def work():
        command_here = command.format(tmp_path)
        task = asyncio.create_task(run_prestart(replace(settings, prestart=command_here), lambda news: None))
        async with asyncio.timeout(20):
            while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().strip():
                await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(work())
    pid = (tmp_path / "pid").read_text().strip()
    deadline = time.monotonic() + 10
    while is_running(pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_stop_while_it_is_being_started_ends_what_it_started(settings, tmp_path, monkeypatch):
    """As on a busy machine: the command runs before asyncio has told us of it."""
    start = asyncio.create_subprocess_exec

    async def start_late(*words, **options):
        process = await start(*words, **options)
        await asyncio.sleep(1)
        return process

    monkeypatch.setattr(asyncio, "create_subprocess_exec", start_late)
    test_a_stop_ends_it_and_what_it_started(settings, tmp_path, "sleep 600 & echo $! > {0}/pid; wait; true")


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_serve_stops_in_order_when_its_terminal_goes_too(tmp_path, number):
    folders = {"DATA_DIR": str(tmp_path / "data"), "MODELS_DIR": str(tmp_path / "models")}
    environ = {**os.environ, **folders, "INFERENCE_PRESTART": "echo begun; sleep 600; true"}
    log = tmp_path / "data" / "logs" / "prestart.log"
    argv = [sys.executable, "-m", "inference", "serve", "--engine", "llamacpp"]
    heard = partial(signal.signal, signal.SIGHUP, signal.SIG_DFL)  # also where the tests run under nohup
    with subprocess.Popen(argv, cwd=ROOT, env=environ, stderr=subprocess.PIPE, text=True, preexec_fn=heard) as process:
        try:
            deadline = time.monotonic() + 30
            while not log.exists() or "begun\n" not in log.read_text().splitlines(keepends=True)[-1:]:
                assert time.monotonic() < deadline
                assert process.poll() is None
                time.sleep(0.02)
            process.send_signal(number)
            assert process.communicate(timeout=20)[1].endswith("stopped\n")
        finally:
            process.kill()
    assert process.returncode == 0
    assert not (tmp_path / "data" / "status.json").exists()

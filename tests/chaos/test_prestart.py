"""The command that runs before anything else: its exit code, its log, and its end with ours."""

import asyncio
import os
from dataclasses import replace

import pytest

from inference.errors import StartFailed
from inference.prestart import run_prestart
from inference.settings import Settings

pytestmark = pytest.mark.chaos


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


def test_a_stop_ends_it(settings, tmp_path):
    async def work():
        command = f"echo $$ > {tmp_path}/pid; exec sleep 600"
        task = asyncio.create_task(run_prestart(replace(settings, prestart=command), lambda news: None))
        async with asyncio.timeout(20):
            while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().strip():
                await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(work())
    pid = (tmp_path / "pid").read_text().strip()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)

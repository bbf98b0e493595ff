"""Text Generation Inference as a process (a stand-in for its launcher) with the faults that were seen in the real one.

Its launcher has children of its own; a launcher that is killed leaves them behind, with the memory of the card.
"""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from inference.childlog import ChildLog
from inference.engines.tgi import Tgi
from inference.errors import ChildExited, StartFailed
from inference.launch import make_supervisor
from inference.leftovers import OWNER_VARIABLE, claimed, end_strays, owner_mark
from inference.processes import ProcessRunner
from inference.settings import Settings
from inference.supervisor import Supervisor
from tests.tgi_plan import QUICK, launcher, model_folder, tgi_plan

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.skipif(sys.platform != "linux", reason="leftovers are found by /proc, which only Linux has"),
]
ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 30.0


class World:
    """One supervisor with a launcher that is a stand-in, and all that it reported."""

    def __init__(self, folder, behaviour="", timing=QUICK):
        self.folder = folder
        self.reports = []
        self.mark = owner_mark(folder)
        plan = tgi_plan(folder, "tgi")
        self.engine = Tgi(plan, folder, str(launcher(folder))).serving(model_folder(folder, behaviour))
        self.log = ChildLog(folder / "inference.log")
        runner = ProcessRunner(self.engine, self.mark)
        self.supervisor = Supervisor(self.engine, runner, self.reports.append, self.log, timing=timing)

    @property
    def stages(self):
        return [news.stage for news in self.reports]

    @property
    def children(self):
        return [int(pid) for pid in (self.folder / "children").read_text().split()]

    @asynccontextmanager
    async def running(self):
        task = asyncio.create_task(self.supervisor.run())
        try:
            yield task
        finally:
            await self.supervisor.stop()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def world(tmp_path):
    yield lambda *arguments, **options: World(tmp_path, *arguments, **options)
    end_strays(owner_mark(tmp_path))


def run(work):
    async def within_the_deadline():
        async with asyncio.timeout(DEADLINE_S):
            await work

    asyncio.run(within_the_deadline())


async def until(is_so):
    while not is_so():
        await asyncio.sleep(0.01)


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def launcher_pid(world):
    """The process that listens; the guard has turned into it."""
    wanted = f"{OWNER_VARIABLE}={world.mark}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment, words = (folder / "environ").read_bytes(), (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if wanted in environment.split(b"\0") and b"--model-id" in words:
            return int(folder.name)
    raise AssertionError("no launcher is running")


def test_it_goes_through_its_stages_and_answers_with_its_key(world):
    one = world()

    async def work():
        async with one.running():
            await one.supervisor.wait_ready()

    run(work())
    assert one.stages == ["start", "load", "load", "warmup", "warmup", "ready"]
    assert one.supervisor.state == "stopped"


@pytest.mark.parametrize("behaviour", ["has_children", "daemonizes"])
def test_a_launcher_that_is_killed_leaves_no_children(world, behaviour):
    one = world(behaviour)

    async def work():
        async with one.running():
            await one.supervisor.wait_ready()
            first = one.children
            os.kill(launcher_pid(one), signal.SIGKILL)
            await until(lambda: "restarting" in one.stages)
            assert not any(map(is_running, first))
            await one.supervisor.wait_ready()
            assert all(map(is_running, one.children))

    run(work())
    assert not any(map(is_running, one.children))
    (message,) = [news.message for news in one.reports if news.stage == "restarting"]
    assert "was killed from outside" in message


def test_a_shard_that_hangs_while_the_router_answers_is_found_out(world):
    one = world("stalls", replace(QUICK, most_restarts=0))
    begun = time.monotonic()
    with pytest.raises(ChildExited, match=r"The engine hangs.*the router answers, but the shard does not"):
        run(one.supervisor.run())
    assert time.monotonic() - begun < 10


def test_an_engine_that_answers_is_left_alone_for_longer_than_a_hang_would_last(world):
    one = world()

    async def work():
        async with one.running():
            await one.supervisor.wait_ready()
            await asyncio.sleep(4 * QUICK.hang_timeout_s)
            assert one.supervisor.state == "ready"

    run(work())
    assert one.stages.count("start") == 1


def test_a_process_that_is_stopped_by_the_kernel_counts_as_hanging(world):
    one = world(timing=replace(QUICK, most_restarts=0))

    async def work():
        async with one.running() as task:
            await one.supervisor.wait_ready()
            os.kill(launcher_pid(one), signal.SIGSTOP)
            with pytest.raises(ChildExited, match="The engine hangs"):
                await task

    run(work())


def test_a_crash_while_serving_is_explained(world):
    one = world(timing=replace(QUICK, most_restarts=0))

    async def work():
        async with one.running() as task:
            await one.supervisor.wait_ready()
            reader, writer = await asyncio.open_connection("127.0.0.1", one.engine.ports[0])
            writer.write(b"POST /die HTTP/1.1\r\nHost: x\r\n\r\n")
            await reader.read()
            writer.close()
            with pytest.raises(ChildExited, match="A shard crashed while serving"):
                await task

    run(work())


def test_a_start_that_fails_says_why(world):
    with pytest.raises(StartFailed, match=r"The weight lm_head\.weight is missing"):
        run(world("fails").supervisor.run())


def test_a_flood_in_the_log_and_a_deaf_launcher_are_survived_together(world):
    one = world("floods ignores_sigterm has_children")

    async def work():
        async with one.running():
            await one.supervisor.wait_ready()

    run(work())
    assert not any(map(is_running, one.children))
    assert one.log.path.stat().st_size < 5 << 20


def test_a_taken_port_is_told_before_anything_is_started(world):
    one = world()
    with socket.socket() as other:
        other.bind(("127.0.0.1", one.engine.ports[2]))
        other.listen()
        with pytest.raises(StartFailed, match=f"Port {one.engine.ports[2]} on 127.0.0.1"):
            run(one.supervisor.run())
    assert not one.log.path.read_text().count("text_generation_launcher")


OWNER = """
import asyncio, sys
from pathlib import Path
from tests.chaos.test_engine_faults import supervising

async def work():
    supervisor = supervising(Path(sys.argv[1]))
    task = asyncio.create_task(supervisor.run())
    await supervisor.wait_ready()
    print("READY", flush=True)
    await task

asyncio.run(work())
"""


def supervising(folder, data_dir=None):
    """As the product makes it, with the lock and the clearing of leftovers."""
    data_dir = data_dir or folder / "data"
    settings = Settings(root=folder, models_dir=folder / "models", data_dir=data_dir, stop_timeout_s=1)
    work = folder / "run"
    work.mkdir(exist_ok=True)
    engine = Tgi(tgi_plan(folder, "tgi"), work, str(folder / "text-generation-launcher")).serving(folder / "model")
    return make_supervisor(engine, settings, lambda news: None)


@pytest.fixture
def owner(tmp_path):
    """A process that runs an engine and is ready; `children` are those of its launcher."""
    model_folder(tmp_path, "daemonizes ignores_sigterm")
    launcher(tmp_path)
    argv = [sys.executable, "-c", OWNER, str(tmp_path)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            assert process.stdout.readline() == "READY\n"
            yield process
        finally:
            process.kill()
            end_strays(owner_mark(tmp_path / "data"))


def test_what_a_killed_owner_left_is_ended_by_the_next_start(owner, tmp_path):
    """Owner and launcher are both killed, so nobody tells router and shard to end."""
    left = [int(pid) for pid in (tmp_path / "run" / "children").read_text().split()]
    owner.kill()
    owner.wait()
    assert all(map(is_running, left))

    async def work():
        supervisor = supervising(tmp_path)
        task = asyncio.create_task(supervisor.run())
        await supervisor.wait_ready()
        assert not any(map(is_running, left))
        await supervisor.stop()
        await task

    run(work())


def test_a_second_owner_of_the_same_data_folder_is_refused_and_ends_nothing(owner, tmp_path):
    with pytest.raises(StartFailed, match="Another process runs an engine for"):
        run(supervising(tmp_path).run())
    assert all(is_running(int(pid)) for pid in (tmp_path / "run" / "children").read_text().split())


def test_a_data_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "data").write_text("a file where a folder should be")
    with (
        pytest.raises(StartFailed, match=r"cannot be written: .*Set DATA_DIR"),
        claimed(tmp_path / "data"),
    ):
        pass


def test_the_lock_ends_with_its_holder(tmp_path):
    for _ in range(2):
        with claimed(tmp_path), pytest.raises(StartFailed, match="Another process"), claimed(tmp_path):
            pass


@pytest.fixture
def full_disk(tmp_path):
    """A file system of its own without a free byte."""
    path = tmp_path / "full"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(path)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("only root may mount a small file system")
    try:
        with suppress(OSError), (path / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(4096))
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def test_a_full_disk_under_the_data_folder_does_not_keep_the_engine_from_running(tmp_path, full_disk):
    model_folder(tmp_path, "floods")
    launcher(tmp_path)

    async def work():
        supervisor = supervising(tmp_path, full_disk)
        task = asyncio.create_task(supervisor.run())
        await supervisor.wait_ready()
        await supervisor.stop()
        await task

    run(work())

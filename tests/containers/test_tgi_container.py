"""An engine in a container of a real Docker engine: it starts, answers, crashes, comes back, and leaves nothing.

The image is a stand-in of ours (tests/fakes/tgi_server.py): no card is needed but where one is asked for.
"""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from inference.childlog import ChildLog
from inference.containers import LABEL, ContainerRunner, remove_left_containers
from inference.docker_engine import connected
from inference.engines.tgi_container import TgiContainer
from inference.errors import Cancelled, ChildExited, StartFailed
from inference.launch import make_supervisor
from inference.leftovers import owner_mark
from inference.machine import DockerState, this_machine
from inference.settings import Settings
from inference.supervisor import Supervisor
from tests.tgi_plan import QUICK, model_folder, tgi_plan

pytestmark = pytest.mark.containers
ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 60.0


@dataclass(frozen=True)
class WithoutGpu(TgiContainer):
    """The product's engine, but it asks for no card."""

    def container(self):
        return replace(super().container(), gpus=0)


class World:
    """One supervisor with a container engine and all that it reported."""

    def __init__(self, folder, image, behaviour="", kind=WithoutGpu, timing=QUICK):
        self.folder = folder
        self.model = model_folder(folder, behaviour)
        self.engine = kind(tgi_plan(folder, "tgi-container"), image).serving(self.model)
        self.mark = owner_mark(folder)
        self.reports = []
        self.log = ChildLog(folder / "inference.log")
        runner = ContainerRunner(self.engine, self.mark, self.reports.append)
        self.supervisor = Supervisor(self.engine, runner, self.reports.append, self.log, timing=timing)

    @property
    def stages(self):
        return [news.stage for news in self.reports]

    @asynccontextmanager
    async def running(self):
        task = asyncio.create_task(self.supervisor.run())
        try:
            yield task
        finally:
            await self.supervisor.stop()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def world(tmp_path, tgi_image):
    yield lambda *arguments, **options: World(tmp_path, tgi_image, *arguments, **options)
    remove_left_containers(owner_mark(tmp_path))


def containers_of(mark):
    with connected() as client:
        found = client.containers.list(all=True, filters={"label": f"{LABEL}={mark}"})
        return [json.loads(json.dumps(one.attrs)) for one in found]


def run(work):
    async def within_the_deadline():
        async with asyncio.timeout(DEADLINE_S):
            await work

    asyncio.run(within_the_deadline())


async def until(is_so):
    while not await asyncio.to_thread(is_so):
        await asyncio.sleep(0.05)


async def post(engine, path):
    reader, writer = await asyncio.open_connection("127.0.0.1", engine.port)
    writer.write(f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    await reader.read()
    writer.close()


def test_it_starts_answers_and_leaves_nothing_after_the_stop(world):
    one = world()

    async def work():
        async with one.running():
            await one.supervisor.wait_ready()
            (container,) = containers_of(one.mark)
            ports = container["HostConfig"]["PortBindings"]
            assert ports == {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(one.engine.port)}]}
            assert container["HostConfig"]["ShmSize"] == 1 << 30
            assert container["HostConfig"]["LogConfig"]["Config"]["max-size"] == "10m"

    run(work())
    assert one.stages == ["start", "load", "load", "warmup", "warmup", "ready"]
    assert containers_of(one.mark) == []
    assert "Starting check and download process for /models/internlm2-chat-7b" in one.log.path.read_text()


def test_the_model_is_there_for_reading_only(world):
    one = world("writes")

    async def work():
        async with one.running():
            await one.supervisor.wait_ready()

    run(work())
    assert "cannot be written: Read-only file system" in one.log.path.read_text()
    assert not (one.model / "written").exists()


def test_a_crash_is_explained_and_it_is_started_again(world):
    one = world()

    async def work():
        async with one.running():
            await one.supervisor.wait_ready()
            (first,) = containers_of(one.mark)
            await post(one.engine, "/die")
            await until(lambda: one.supervisor.state == "restarting" or "restarting" in one.stages)
            await one.supervisor.wait_ready()
            (second,) = containers_of(one.mark)
            assert second["Id"] != first["Id"]

    run(work())
    (message,) = [news.message for news in one.reports if news.stage == "restarting"]
    assert message.startswith("A shard crashed while serving")


def test_a_start_that_fails_says_why_and_is_not_tried_again(world):
    one = world("fails")
    with pytest.raises(StartFailed, match=r"The weight lm_head\.weight is missing"):
        run(one.supervisor.run())
    assert one.stages.count("start") == 1
    assert containers_of(one.mark) == []


def test_an_engine_that_hangs_is_started_again(world):
    one = world("stalls", timing=replace(QUICK, most_restarts=0))
    with pytest.raises(ChildExited, match=r"The engine hangs.*the router answers, but the shard does not"):
        run(one.supervisor.run())
    assert containers_of(one.mark) == []


def test_one_that_ignores_sigterm_is_killed(world):
    one = world("ignores_sigterm")

    async def work():
        async with one.running():
            await one.supervisor.wait_ready()
            begun = time.monotonic()
            await one.supervisor.stop()
            assert time.monotonic() - begun < 10

    run(work())
    assert containers_of(one.mark) == []


def test_one_that_floods_its_log_is_read_to_the_end(world):
    one = world("floods")

    async def work():
        async with one.running():
            await one.supervisor.wait_ready()

    run(work())
    assert "Connected" in one.log.path.read_text()


def test_a_gpu_where_there_is_none_is_refused_and_explained(world):
    one = world(kind=TgiContainer)
    with pytest.raises(StartFailed, match=r"Docker cannot give the container a GPU.*INFERENCE_ENGINE=llamacpp"):
        run(one.supervisor.run())
    assert containers_of(one.mark) == []


def test_an_image_that_cannot_be_fetched_is_named(world, tmp_path, tgi_image):
    one = World(tmp_path, "localhost:9/nothing:1")
    with pytest.raises(StartFailed, match="The image localhost:9/nothing:1 cannot be fetched"):
        run(one.supervisor.run())
    assert "download" in one.stages


def test_a_port_that_is_taken_is_told_before_anything_is_started(world):
    one = world()
    with socket.socket() as other:
        other.bind(("127.0.0.1", one.engine.port))
        other.listen()
        with pytest.raises(StartFailed, match=f"Port {one.engine.port} on 127.0.0.1"):
            run(one.supervisor.run())
    assert containers_of(one.mark) == []


def test_a_stop_while_it_starts_leaves_nothing(world):
    one = world("never_ready")

    async def work():
        async with one.running():
            await until(lambda: "start" in one.stages)
            await one.supervisor.stop()
            with pytest.raises(Cancelled):
                await one.supervisor.wait_ready()

    run(work())
    assert containers_of(one.mark) == []


def test_the_machine_tells_that_docker_answers_and_has_no_card(tgi_image):
    assert this_machine().docker == DockerState(answers=True, has_nvidia=False)


KILLED_OWNER = """
import asyncio, sys
from pathlib import Path
from tests.containers.test_tgi_container import WithoutGpu, supervising

async def work():
    supervisor = supervising(Path(sys.argv[1]), sys.argv[2])
    task = asyncio.create_task(supervisor.run())
    await supervisor.wait_ready()
    print("READY", flush=True)
    await task

asyncio.run(work())
"""


def supervising(folder, image):
    """As the product makes it, with the lock and the clearing of leftovers."""
    settings = Settings(root=folder, models_dir=folder / "models", data_dir=folder / "data", stop_timeout_s=1)
    engine = WithoutGpu(tgi_plan(folder, "tgi-container"), image).serving(folder / "model")
    return make_supervisor(engine, settings, lambda news: None)


def test_what_a_killed_owner_left_is_removed_by_the_next_start(tmp_path, tgi_image):
    model_folder(tmp_path, "")
    mark = owner_mark(tmp_path / "data")
    argv = [sys.executable, "-c", KILLED_OWNER, str(tmp_path), tgi_image]
    try:
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=ROOT) as owner:
            assert owner.stdout.readline() == "READY\n"
            os.kill(owner.pid, signal.SIGKILL)
        (left,) = containers_of(mark)
        assert left["State"]["Running"]

        async def work():
            supervisor = supervising(tmp_path, tgi_image)
            task = asyncio.create_task(supervisor.run())
            await supervisor.wait_ready()
            (only,) = containers_of(mark)
            assert only["Id"] != left["Id"]
            await supervisor.stop()
            await task

        run(work())
        assert containers_of(mark) == []
    finally:
        remove_left_containers(mark)

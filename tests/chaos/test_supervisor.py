"""The supervisor with real child processes that fail in every way that we know: it restarts, gives up, stops, reaps.

The child is a small script of ours that serves one path over a Unix socket; what it does is the text of its argument.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from inference.childlog import ChildLog
from inference.errors import Cancelled, ChildExited, NotReadyInTime, StartFailed
from inference.leftovers import owner_mark
from inference.probe import ProbeFailed, generate_one_token, get
from inference.processes import ProcessRunner
from inference.status import Progress
from inference.supervisor import Supervisor, Timing

pytestmark = pytest.mark.chaos
ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 20.0

CHILD = """
import os, signal, socket, subprocess, sys, time
folder, doing = sys.argv[1], sys.argv[2].split()
lives = os.path.join(folder, "lives")
with open(lives, "a") as file:
    file.write(str(os.getpid()) + "\\n")
life = len(open(lives).readlines())
print("the child speaks", flush=True)
if "fails_at_once" in doing or ("fails_later" in doing and life > 1):
    print("no such luck", file=sys.stderr)
    sys.exit(7)
if "ignores_sigterm" in doing:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if "wants_two_interrupts" in doing:
    interrupts = []
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, lambda *_: interrupts.append(1) or (len(interrupts) > 1 and os._exit(0)))
if "has_a_child" in doing:
    other = subprocess.Popen([sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)"])
    open(os.path.join(folder, "grandchild"), "w").write(str(other.pid))
if "talks_a_lot" in doing:
    for _ in range(200):
        print("x" * 10_000)
    print("y" * 3_000_000, flush=True)
server = socket.socket(socket.AF_UNIX)
server.bind(os.path.join(folder, "s"))
server.listen()
print("model loaded", flush=True)
status = "503 X" if "never_ready" in doing else "400 X" if "refuses" in doing else "200 OK"
served = 0
while True:
    connection, _ = server.accept()
    connection.recv(65536)
    if "hangs" in doing:
        time.sleep(600)
    body = '{"choices": [{}]}' if status == "200 OK" else '{"error": {"message": "no template"}}'
    try:
        connection.sendall(f"HTTP/1.1 {status}\\r\\nContent-Length: {len(body)}\\r\\n\\r\\n{body}".encode())
    except OSError:
        pass  # who asked has not waited for so long
    connection.close()
    served += 1
    if "dies" in doing:
        time.sleep(0.05)
        sys.exit(9)
"""


@dataclass(frozen=True)
class FakeEngine:
    folder: Path
    doing: str = ""
    dialect: str = "fake"
    api_key: str = "k"
    parent_death_signal: int = signal.SIGKILL
    stop_signals: tuple[int, ...] = (signal.SIGTERM,)
    ports: tuple[int, ...] = ()
    description: str = "a fake"

    @property
    def endpoint(self):
        return f"unix:{self.folder}/s"

    def argv(self):
        return [sys.executable, "-I", "-S", "-c", CHILD, str(self.folder), self.doing]

    def environment(self):
        return dict(os.environ)

    def clear_the_way(self):
        (self.folder / "s").unlink(missing_ok=True)

    def news_of(self, line):
        return Progress("warmup") if line == "model loaded" else None

    def redacted(self, line):
        return line

    def explain(self, tail, returncode):
        return f"code {returncode}: {tail[-1]}."

    async def generate_one_token(self, timeout_s):
        await generate_one_token(self.endpoint, self.api_key, "m", timeout_s=timeout_s)

    async def check_alive(self, timeout_s):
        status, _ = await get(self.endpoint, "/health", timeout_s=timeout_s)
        if status != 200:
            raise ProbeFailed(f"answered {status}")

    @property
    def pids(self):
        return [int(line) for line in (self.folder / "lives").read_text().split()]


QUICK = Timing(
    start_timeout_s=10,
    stop_timeout_s=0.5,
    probe_timeout_s=5,
    probe_pause_s=0.02,
    steady_s=60,
    restart_pauses_s=(0.05, 0.1),
    most_restarts=3,
)


class World:
    """One supervisor with its fake engine and all that it reported."""

    def __init__(self, folder, doing="", timing=QUICK, **changes):
        self.engine = FakeEngine(folder, doing, **changes)
        self.reports = []
        self.mark = owner_mark(folder)
        self.log = ChildLog(folder / "logs" / "inference.log")
        self.supervisor = self.supervising(self.engine, timing)

    def supervising(self, engine, timing=QUICK):
        runner = ProcessRunner(engine, self.mark)
        return Supervisor(engine, runner, self.reports.append, self.log, timing=timing)

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
def world(tmp_path):
    return lambda *arguments, **options: World(tmp_path, *arguments, **options)


def run(work: Awaitable[None]) -> None:
    async def within_the_deadline() -> None:
        async with asyncio.timeout(DEADLINE_S):
            await work

    asyncio.run(within_the_deadline())


async def until(is_so: Callable[[], bool]) -> None:
    while not is_so():
        await asyncio.sleep(0.01)


def is_alive(pid: int) -> bool:
    """A child of ours counts as gone only when it was reaped."""
    return Path(f"/proc/{pid}").exists()


def test_ready_means_that_a_token_was_generated(world):
    one = world()

    async def work():
        async with one.running():
            await one.supervisor.wait_ready()
            assert one.supervisor.state == "ready"
            assert one.stages == ["start", "warmup", "ready"]
        assert one.supervisor.state == "stopped"

    run(work())
    assert not any(map(is_alive, one.engine.pids))
    assert not (one.engine.folder / "s").exists()
    assert "the child speaks" in one.log.path.read_text()


def test_a_child_that_fails_at_once_is_not_started_again(world):
    one = world("fails_at_once")

    async def work():
        with pytest.raises(StartFailed, match="code 7: no such luck"):
            await one.supervisor.run()
        with pytest.raises(StartFailed):
            await one.supervisor.wait_ready()

    run(work())
    assert len(one.engine.pids) == 1
    assert one.supervisor.state == "failed"
    assert (one.reports[-1].stage, one.reports[-1].message) == ("failed", "code 7: no such luck.")


def test_a_program_that_cannot_be_started_is_named(world, tmp_path):
    class Missing(FakeEngine):
        def argv(self):
            return ["/no/such/program"]

    one = world()
    supervisor = one.supervising(Missing(tmp_path))
    with pytest.raises(StartFailed, match="cannot start /no/such/program: No such file"):
        run(supervisor.run())


def test_a_child_that_refuses_to_chat_fails_with_its_reason(world):
    one = world("refuses")
    with pytest.raises(StartFailed, match="answered 400: no template"):
        run(one.supervisor.run())
    assert not any(map(is_alive, one.engine.pids))


@pytest.mark.parametrize("doing", ["never_ready", "hangs"])
def test_a_child_that_is_not_ready_in_time_is_ended(world, doing):
    one = world(doing, replace(QUICK, start_timeout_s=0.4, probe_timeout_s=0.3))
    with pytest.raises(NotReadyInTime, match="INFERENCE_START_TIMEOUT_S"):
        run(one.supervisor.run())
    assert not any(map(is_alive, one.engine.pids))


def test_a_child_that_dies_later_is_started_again(world):
    one = world()

    async def work():
        async with one.running():
            await one.supervisor.wait_ready()
            os.kill(one.engine.pids[0], signal.SIGKILL)
            await until(lambda: one.supervisor.state == "restarting")
            await one.supervisor.wait_ready()
            assert len(one.engine.pids) == 2
            assert one.stages == ["start", "warmup", "ready", "restarting", "start", "warmup", "ready"]
            assert "code -9: model loaded. It starts again in 0.05 s (restart 1 of 3)." in one.reports[3].message

    run(work())


def test_restarts_are_bounded_and_their_pauses_grow(world):
    one = world("dies")
    with pytest.raises(ChildExited, match="4 times in a row"):
        run(one.supervisor.run())
    assert len(one.engine.pids) == 4
    messages = [news.message for news in one.reports if news.stage == "restarting"]
    assert [message.split(" again in ")[1].split()[0] for message in messages] == ["0.05", "0.1", "0.1"]


def test_failed_starts_count_once_it_was_ready(world):
    one = world("dies fails_later")
    with pytest.raises(ChildExited, match=r"code 7: no such luck\. It ended 4 times in a row"):
        run(one.supervisor.run())
    assert len(one.engine.pids) == 4


def test_a_child_that_was_ready_for_long_has_all_its_restarts_again(world):
    one = world("dies", replace(QUICK, steady_s=0.01))

    async def work():
        async with one.running():
            await until(lambda: one.stages.count("ready") > QUICK.most_restarts + 2)
            assert not one.supervisor.state == "failed"

    run(work())
    assert all("restart 1 of 3" in news.message for news in one.reports if news.stage == "restarting")


def test_a_child_that_ignores_sigterm_is_killed_with_its_children(world):
    one = world("ignores_sigterm has_a_child")

    async def work():
        async with one.running():
            await one.supervisor.wait_ready()
            begun = time.monotonic()
            await one.supervisor.stop()
            assert 0.4 < time.monotonic() - begun < 3
            grandchild = int((one.engine.folder / "grandchild").read_text())
            await until(lambda: not is_running(grandchild))

    run(work())
    assert not any(map(is_alive, one.engine.pids))


def test_each_stop_signal_of_the_engine_has_its_share_of_the_time(world):
    """As LMDeploy wants it: a request that it may ignore, then two interrupts."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGINT)
    one = world("wants_two_interrupts", replace(QUICK, stop_timeout_s=6), stop_signals=numbers)

    async def work():
        async with one.running():
            await one.supervisor.wait_ready()
            begun = time.monotonic()
            await one.supervisor.stop()
            assert 3.5 < time.monotonic() - begun < 5.9  # ended by the third signal, not by SIGKILL after 6 s

    run(work())
    assert not any(map(is_alive, one.engine.pids))


def test_a_crash_takes_the_childs_own_children_along(world):
    one = world("dies has_a_child", replace(QUICK, most_restarts=0))

    async def work():
        begun = time.monotonic()
        with pytest.raises(ChildExited):
            await one.supervisor.run()
        assert time.monotonic() - begun < 1.9  # not held up by who has the pipe open
        grandchild = int((one.engine.folder / "grandchild").read_text())
        await until(lambda: not is_running(grandchild))

    run(work())


@pytest.mark.parametrize("when", ["start", "probe", "pause"])
def test_stop_works_at_any_moment(world, when):
    doing = {"start": "", "probe": "hangs", "pause": "dies"}[when]
    one = world(doing, replace(QUICK, restart_pauses_s=(60,)))

    async def work():
        async with one.running() as task:
            await until(
                {"start": lambda: "start" in one.stages, "probe": lambda: "warmup" in one.stages}.get(
                    when, lambda: "restarting" in one.stages
                )
            )
            begun = time.monotonic()
            await one.supervisor.stop()
            assert time.monotonic() - begun < 3
            await task
            if when != "pause":
                with pytest.raises(Cancelled):
                    await one.supervisor.wait_ready()

    run(work())
    assert one.supervisor.state == "stopped"
    if (one.engine.folder / "lives").exists():
        assert not any(map(is_alive, one.engine.pids))


def test_to_stop_what_never_ran_lets_those_go_who_wait(world):
    one = world()

    async def work():
        waiting = asyncio.create_task(one.supervisor.wait_ready())
        await one.supervisor.stop()
        await one.supervisor.run()
        with pytest.raises(Cancelled):
            await waiting

    run(work())
    assert not (one.engine.folder / "lives").exists()


def test_to_cancel_run_stops_in_order(world):
    one = world()

    async def work():
        task = asyncio.create_task(one.supervisor.run())
        await one.supervisor.wait_ready()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(work())
    assert not any(map(is_alive, one.engine.pids))


def test_much_output_never_blocks_the_child(world):
    one = world("talks_a_lot")

    async def work():
        async with one.running():
            await one.supervisor.wait_ready()

    run(work())


def test_a_full_log_disk_does_not_stop_the_engine(world, tmp_path):
    (tmp_path / "logs").write_text("a file where a folder should be")
    one = world()

    async def work():
        async with one.running():
            await one.supervisor.wait_ready()

    run(work())


KILLED_PARENT = """
import asyncio, os, sys
sys.path[:0] = [{root!r}, {tests!r}]
from pathlib import Path
from test_supervisor import World, QUICK

async def work():
    one = World(Path({folder!r}), {doing!r}, QUICK, parent_death_signal={signal})
    task = asyncio.create_task(one.supervisor.run())
    await one.supervisor.wait_ready()
    print("READY", flush=True)
    await task

asyncio.run(work())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent is gone")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_child_goes_when_we_are_killed(tmp_path, number):
    script = KILLED_PARENT.format(
        root=str(ROOT), tests=str(Path(__file__).parent), folder=str(tmp_path), doing="", signal=int(number)
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        try:
            assert parent.stdout is not None
            assert parent.stdout.readline() == "READY\n"
            (child,) = FakeEngine(tmp_path).pids
            assert is_alive(child)
        finally:
            parent.kill()
    deadline = time.monotonic() + DEADLINE_S
    while is_running(child):
        assert time.monotonic() < deadline, f"the child {child} outlived its parent"
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    """For what is not our child: whoever has to reap it may take its time, so a zombie counts as gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_guard_whose_parent_is_gone_already_starts_nothing(tmp_path):
    marker = tmp_path / "started"
    argv = [sys.executable, "-I", "-S", str(ROOT / "inference" / "guard.py"), "9", "999999999", "--"]
    done = subprocess.run([*argv, sys.executable, "-c", f"open({json.dumps(str(marker))}, 'w')"], timeout=DEADLINE_S)
    assert done.returncode == 0
    assert not marker.exists()

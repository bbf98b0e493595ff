"""Where the gateway's CPU goes while it relays: py-spy's samples of its main thread, not part of the table."""

from __future__ import annotations

import asyncio
import dataclasses
import signal
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

from bench.install import installed
from bench.load import Target
from bench.relay import BURST, PACED, Load, one_pass
from bench.table import Options, Row
from bench.targets import targets

_RATE_HZ = 400
_LINES = 45
_MAIN_THREAD = "_serve ("


async def measure(options: Options) -> list[Row]:
    """Prints, for chat and stored, paced and in a burst, the lines where the main thread was (self) and the calls that
    it was in (with what they called), in percent of its busy samples. The waiting for I/O is in none."""
    programs = installed("py-spy", "py-spy")
    if programs is None:
        return []
    with targets() as found:
        for load, answers in ((PACED, 2), (BURST, 20)):
            for name in ("chat", "stored"):
                longer = dataclasses.replace(load, answers=answers)
                samples = await _samples(programs / "py-spy", found[name], longer)
                print(f"\n{name}, {load.name}:\n{rendered(samples)}")
    return []


async def _samples(program: Path, target: Target, load: Load) -> list[str]:
    with tempfile.NamedTemporaryFile() as raw:
        command = [str(program), "record", "--pid", str(target.pid), "--rate", str(_RATE_HZ), "--format", "raw"]
        quiet = subprocess.DEVNULL
        sampler = subprocess.Popen([*command, "--output", raw.name, "--duration", "600"], stdout=quiet, stderr=quiet)
        await asyncio.sleep(1)
        await one_pass(target, load)
        sampler.send_signal(signal.SIGINT)
        sampler.wait()
        return Path(raw.name).read_text().splitlines()


def rendered(samples: list[str]) -> str:
    """py-spy's raw samples (`frame;frame;… count`) as two lists: lines by themselves, and with what they call."""
    alone: Counter[str] = Counter()
    within: Counter[str] = Counter()
    for line in samples:
        stack, _, count = line.rpartition(" ")
        frames = stack.split(";")
        if any(frame.startswith(_MAIN_THREAD) for frame in frames):
            alone[frames[-1]] += int(count)
            within.update({frame: int(count) for frame in frames})
    total = max(1, alone.total())
    lines = [f"{total} samples"]
    for title, counter in (("by itself", alone), ("with what it calls", within)):
        lines.append(f"  {title}:")
        lines += [f"  {100 * count / total:5.1f} %  {frame}" for frame, count in counter.most_common(_LINES)]
    return "\n".join(lines)

"""`python -m bench [PART …]`: measures, and prints the table."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Awaitable, Callable

import uvloop

from bench import (
    convert,
    departures,
    fairness,
    faults,
    history,
    latency,
    limits,
    memory,
    model,
    outage,
    plain,
    profile,
    relay,
    scaling,
    webui,
)
from bench.processes import allow_many_files
from bench.table import Options, Row, render

PARTS: dict[str, Callable[[Options], Awaitable[list[Row]]]] = {
    "relay": relay.measure,
    "plain": plain.measure,
    "latency": latency.measure,
    "departures": departures.measure,
    "limits": limits.measure,
    "fairness": fairness.measure,
    "history": history.measure,
    "faults": faults.measure,
    "outage": outage.measure,
    "memory": memory.measure,
    "model": model.measure,
    "convert": convert.measure,
    "scaling": scaling.measure,
    "webui": webui.measure,
}
ON_DEMAND: dict[str, Callable[[Options], Awaitable[list[Row]]]] = {"profile": profile.measure}


def main() -> None:
    """Runs the parts that were chosen, or all of them."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("part", nargs="*", help=f"{', '.join(PARTS)} (default: all of these); {', '.join(ON_DEMAND)}")
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds; medians are printed (default: 5)")
    parser.add_argument("--quick", action="store_true", help="less of everything, for a look while working")
    chosen = parser.parse_args()
    if unknown := set(chosen.part) - set(PARTS | ON_DEMAND):
        parser.error(f"there is no {', '.join(sorted(unknown))}; there is: {', '.join(PARTS | ON_DEMAND)}")
    options = Options(rounds=min(chosen.rounds, 2) if chosen.quick else chosen.rounds, is_quick=chosen.quick)
    allow_many_files()
    load_before = os.getloadavg()[0]
    rows = uvloop.run(_measure(chosen.part or list(PARTS), options))
    print(f"{_machine()}, {options.rounds} rounds; load average {load_before:.1f} at the start\n")
    print(render(rows))


def _machine() -> str:
    """What the figures depend on, in one line."""
    now = time.strftime("%Y-%m-%d %H:%M")
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    return f"{now}, {os.cpu_count()} cores, {system}, Python {platform.python_version()}"


async def _measure(parts: list[str], options: Options) -> list[Row]:
    rows = []
    for part in parts:
        begun = time.monotonic()
        rows += await (PARTS | ON_DEMAND)[part](options)
        print(f"bench: {part} took {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
    return rows


if __name__ == "__main__":
    main()

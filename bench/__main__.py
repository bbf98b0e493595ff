"""`python -m bench [model|relay]`."""

from __future__ import annotations

import argparse
import asyncio

from bench import model, relay


def main() -> None:
    """Runs the chosen comparison, or both."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("which", nargs="?", choices=("all", "model", "relay"), default="all")
    parser.add_argument("--rounds", type=int, default=9, help="measured pairs; medians are printed")
    parser.add_argument("--streams", type=int, default=64, help="concurrent streams of the relay comparison")
    options = parser.parse_args()
    if options.which in ("all", "model"):
        asyncio.run(model.compare(options.rounds))
    if options.which in ("all", "relay"):
        asyncio.run(relay.compare(options.rounds, options.streams))


main()

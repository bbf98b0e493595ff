"""A plan for TGI as on a machine with an A10, for the tests that run its stand-in (tests/fakes/tgi_server.py)."""

import sys
from pathlib import Path

from inference.cards import wanted_card
from inference.catalogue import load_catalogue
from inference.machine import DockerState, Machine
from inference.plan import make_plan
from inference.settings import Settings
from inference.supervisor import Timing

SERVER = Path(__file__).parent / "fakes" / "tgi_server.py"
QUICK = Timing(
    start_timeout_s=20,
    stop_timeout_s=1,
    probe_timeout_s=5,
    probe_pause_s=0.05,
    restart_pauses_s=(0.05,),
    most_restarts=3,
    watch_pause_s=0.1,
    alive_timeout_s=0.3,
    hang_timeout_s=0.5,
)


def tgi_plan(folder: Path, engine: str):
    settings = Settings(root=folder, models_dir=folder / "models", data_dir=folder / "data", engine=engine)
    machine = Machine(8, 32 << 30, (wanted_card("A10"),), DockerState(True, True), launcher=str(SERVER))
    return make_plan(load_catalogue()["internlm2-chat-7b"], settings, machine)


def launcher(folder: Path) -> Path:
    """A program that is text-generation-launcher as far as its caller can tell."""
    path = folder / "text-generation-launcher"
    path.write_text(f'#!/bin/sh\nexec {sys.executable} -I {SERVER} "$@"\n')
    path.chmod(0o755)
    return path


def model_folder(folder: Path, behaviour: str) -> Path:
    model = folder / "model"
    model.mkdir()
    (model / "behaviour").write_text(behaviour)
    return model

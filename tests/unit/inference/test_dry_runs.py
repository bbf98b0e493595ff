"""How each engine would be started, compared with files: a changed command line is seen as a change of a file.

To write them anew: GOLDEN=write python -m pytest tests/unit/inference/test_dry_runs.py
"""

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from inference.cards import wanted_card
from inference.catalogue import load_catalogue
from inference.dry_run import dry_run_text, expected_path
from inference.engines.llamacpp import SERVER
from inference.launch import make_engine
from inference.machine import DockerState, Machine
from inference.plan import make_plan

pytestmark = pytest.mark.unit
GOLDEN = Path(__file__).resolve().parents[2] / "golden"
MAY_WRITE = os.environ.get("GOLDEN") == "write"
LAUNCHER, LMDEPLOY = "/usr/local/bin/text-generation-launcher", "/opt/lmdeploy/bin/lmdeploy"
CASES = [
    ("internlm2-chat-7b", "tgi", "A10", {}),
    ("internlm2-chat-7b", "tgi-container", "A10", {}),
    ("internlm2-chat-7b", "lmdeploy", "A10", {}),
    ("internlm2-chat-20b", "tgi", "A100-40", {}),
    ("internlm2-chat-20b", "tgi-container", "A100-80", {}),
    ("internlm2-chat-20b", "tgi-container", "A100-40", {"quantize": "none", "gpus": 2}),
    ("internlm2-chat-20b", "lmdeploy", "A100-40", {}),
    ("internlm2_5-1_8b-chat", "llamacpp", "", {}),
]


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch):
    for name in set(os.environ) - {"PATH", "HOME"}:
        monkeypatch.delenv(name)


@pytest.mark.parametrize(("name", "engine", "card", "changes"), CASES)
def test_an_engine_is_started_as_written_down(settings, tmp_path, name, engine, card, changes):
    text = _dry_run(replace(settings, engine=engine, **changes), tmp_path, name, card)
    cards = f"-{changes.get('gpus', 1)}x{card}" if card else ""
    file = GOLDEN / f"{name}-{engine}{cards}.txt"
    if MAY_WRITE:
        file.write_text(text)
    assert text == file.read_text()


def _dry_run(settings, folder, name, card):
    cards = (wanted_card(card),) * settings.gpus if card else ()
    machine = Machine(8, 32 << 30, cards, DockerState(True, True), LAUNCHER, LMDEPLOY)
    plan = make_plan(load_catalogue()[name], settings, machine)
    engine = make_engine(plan, settings, machine, folder).serving(expected_path(plan, Path("/data/models")))
    if plan.engine == "tgi":
        engine = replace(engine, ports=(3001, 3002, 3003))
    elif plan.engine != "llamacpp":
        engine = replace(engine, port=3001)
    text = dry_run_text(engine, os.environ).replace(str(folder), "/run/inference")
    text = text.replace(sys.executable, "/usr/bin/python3").replace(str(SERVER), "/src/llamacpp_server.py")
    return "".join(f"{line}\n" for line in text.splitlines() if not line.startswith("LD_LIBRARY_PATH"))


@pytest.mark.parametrize(("name", "engine", "card", "changes"), CASES)
def test_secrets_are_never_shown(settings, tmp_path, name, engine, card, changes):
    """The key of an engine is made anew each time, so what is equal twice cannot hold it."""
    wish = replace(settings, engine=engine, **changes)
    assert _dry_run(wish, tmp_path, name, card) == _dry_run(wish, tmp_path, name, card)

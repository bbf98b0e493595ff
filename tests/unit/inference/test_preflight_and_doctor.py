"""Preflight and doctor: every finding with its cure, on machines that lack something; secrets only as set or unset."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from inference.accounts import Account, Hubs, Secret
from inference.cards import wanted_card
from inference.catalogue import load_catalogue
from inference.choose import find_model
from inference.doctor import diagnose
from inference.errors import DiskFull
from inference.machine import Machine
from inference.manifest import MANIFEST_NAME
from inference.plan import make_plan
from inference.preflight import Check, check_data, check_python, preflight
from inference.settings import Settings
from inference.sizes import megabytes
from tests.internlm2_models import Form, write_model

pytestmark = pytest.mark.unit
ROOT = Path(__file__).resolve().parents[3]
GIB = 1 << 30
CPU = Machine(4, 16 * GIB)
A10 = Machine(8, 32 * GIB, (wanted_card("A10"),), lmdeploy="/opt/lmdeploy/bin/lmdeploy")
WEIGHTY = "internlm2_5-1_8b-chat"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(root=tmp_path, models_dir=tmp_path / "models", data_dir=tmp_path / "data", model=WEIGHTY)


def found(settings: Settings, machine: Machine, **options: Path) -> dict[str, Check]:
    plan = make_plan(load_catalogue()[settings.model], settings, machine)
    return {check.name: check for check in preflight(plan, settings, machine, **options)}


def test_a_machine_with_everything_is_well(settings: Settings) -> None:
    checks = found(settings, CPU)
    assert {check.state for check in checks.values()} == {"ok"}
    assert set(checks) == {"Python", "DATA_DIR", "memory", "card", "model", "disk", "tokens"}
    assert "come from" in checks["model"].text


def test_each_failed_check_says_how_to_mend_it(settings: Settings) -> None:
    crowded = settings.root / "meminfo"
    crowded.write_text("MemTotal: 16000000 kB\nMemAvailable:  500000 kB\n")
    check = found(settings, CPU, meminfo=crowded)["memory"]
    assert check.state == "warning"
    assert "0.5 GiB are free. Stop other programs" in str(check)


@pytest.mark.parametrize(
    ("version", "bits", "state"), [((3, 11), 64, "ok"), ((3, 15), 64, "warning"), ((3, 12), 32, "fatal")]
)
def test_python(version: tuple[int, int], bits: int, state: str) -> None:
    check = check_python(version, bits)
    assert check.state == state
    assert bool(check.fix) == (state != "ok")


def test_a_token_without_the_name_that_git_wants_is_told_and_never_shown(settings: Settings) -> None:
    nameless = Hubs(openxlab=Account("", Secret("canary-token")))
    check = found(replace(settings, hubs=nameless), CPU)["tokens"]
    assert check.state == "warning"
    assert "Set OPENXLAB_USERNAME" in check.fix
    whole = found(replace(settings, hubs=Hubs(huggingface=Account("", Secret("canary-token")))), CPU)["tokens"]
    assert (whole.state, whole.text) == ("ok", "for huggingface")
    assert "canary" not in f"{check}{whole}"


def test_a_data_folder_that_cannot_be_made_is_fatal(settings: Settings) -> None:
    settings.data_dir.write_text("")
    check = check_data(settings)
    assert check.state == "fatal"
    assert "Set DATA_DIR" in check.fix
    assert check.exit_code == 2


def test_a_full_disk_under_the_data_is_told_in_sentences(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 0))  # type: ignore[attr-defined]
    check = check_data(settings)
    assert check.state == "warning"
    assert "0.0 MB free. Free some, or set DATA_DIR to another disk" in str(check)


def test_too_little_disk_is_fatal_with_the_numbers(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 9 * 10**8, 10**8))  # type: ignore[attr-defined]
    check = found(settings, CPU)["disk"]
    assert (check.state, check.exit_code) == ("fatal", DiskFull.exit_code)
    assert "are still needed" in check.text
    assert "100.0 MB are free" in check.text
    assert "MODELS_DIR" in check.fix


def test_what_an_earlier_start_has_fetched_needs_no_room_any_more(settings: Settings) -> None:
    before = found(settings, CPU)["disk"].text
    partial = settings.models_dir / f"{WEIGHTY}.partial"
    partial.mkdir(parents=True)
    with (partial / "model.gguf").open("wb") as file:
        file.truncate(10**9)
    assert found(settings, CPU)["disk"].text != before


def test_an_original_in_models_dir_needs_room_for_its_copy_only(settings: Settings) -> None:
    name = "internlm2-chat-7b"
    write_model(settings.models_dir / name, Form())
    size = sum(path.stat().st_size for path in (settings.models_dir / name).iterdir())
    settings = replace(settings, model=name)
    assert found(settings, A10)["disk"].text.startswith(f"{megabytes(size)} are still needed")
    begun = settings.models_dir / f"{name}-llama"
    begun.mkdir()
    (begun / "model-00001-of-00002.safetensors").write_bytes(bytes(10**5))
    assert found(settings, A10)["disk"].text.startswith(f"{megabytes(size - 10**5)} are still needed")


def test_a_folder_of_ones_own_needs_room_for_its_copy_only(settings: Settings, tmp_path: Path) -> None:
    write_model(tmp_path / "tuned", Form())
    model = find_model(str(tmp_path / "tuned"), {}, tmp_path)
    checks = preflight(make_plan(model, settings, A10), settings, A10)
    text = next(check.text for check in checks if check.name == "disk")
    assert text.startswith(f"{megabytes(model.size_bytes)} are still needed")


def test_a_model_that_is_ready_needs_neither_room_nor_a_source(settings: Settings) -> None:
    ready = settings.models_dir / f"{WEIGHTY}-gguf"
    ready.mkdir(parents=True)
    (ready / MANIFEST_NAME).write_text("{}")
    checks = found(replace(settings, sources=("openxlab",)), CPU)
    assert "is ready in" in checks["model"].text
    assert "disk" not in checks


def test_a_source_without_its_programs_is_told_before_the_download(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    told = replace(settings, model="internlm2-chat-7b", sources=("openxlab",))
    check = found(told, replace(CPU, memory_bytes=64 * GIB))["download"]
    assert check.state == "fatal"
    assert "apt-get install git git-lfs" in check.text


def test_no_source_at_all_is_told(settings: Settings) -> None:
    check = found(replace(settings, sources=("local",)), CPU)["model"]
    assert check.state == "fatal"
    assert "INFERENCE_SOURCES" in check.fix


def test_a_card_that_is_not_used_is_told_with_the_reason(settings: Settings) -> None:
    check = found(replace(settings, model="internlm2-chat-7b"), replace(A10, lmdeploy=None))["card"]
    assert check.state == "warning"
    assert "lmdeploy is not installed (pip install" in check.fix
    gguf = found(replace(settings, model="smollm2-135m-instruct"), A10)["card"]
    assert "MODEL=internlm2-chat-7b" in gguf.fix


@pytest.mark.parametrize(
    ("has", "engine"), [({"lmdeploy": "/x/lmdeploy"}, "lmdeploy"), ({"launcher": "/x/tgi"}, "tgi")]
)
def test_a_space_with_a_card_takes_the_engine_that_is_there(
    has: dict[str, str], engine: str, settings: Settings
) -> None:
    machine = replace(A10, **{"lmdeploy": None, **has})  # type: ignore[arg-type]
    check = found(replace(settings, model="internlm2-chat-7b"), machine)["card"]
    assert check.state == "ok"
    assert f"; {engine} takes about" in check.text


def test_doctor_tells_secrets_as_set_or_unset_only(settings: Settings, tmp_path: Path) -> None:
    canary = "hf_canary" + "x" * 30
    (tmp_path / "token").write_text(canary)
    environ = {
        "HF_TOKEN": canary,
        "OPENXLAB_TOKEN_FILE": str(tmp_path / "token"),
        "DATABASE_URL": "postgresql://u:pw@h/d",
    }
    diagnosis = diagnose(settings, CPU, environ)
    text = json.dumps(diagnosis.as_json()) + "\n".join(diagnosis.lines())
    assert canary not in text
    assert "pw@" not in text
    assert diagnosis.as_json()["secrets"]["HF_TOKEN"] == "set"
    assert diagnosis.as_json()["secrets"]["OPENXLAB_TOKEN"] == "set"
    assert diagnosis.as_json()["secrets"]["REDIS_URL"] == "unset"


def test_doctor_says_of_every_model_what_it_takes_or_why_not(settings: Settings) -> None:
    fits = {fit.model: fit for fit in diagnose(settings, replace(CPU, memory_bytes=8 * GIB), {}).fits}
    assert set(fits) == set(load_catalogue())
    assert fits["smollm2-135m-instruct"].engine == "llamacpp"
    assert fits["internlm2-chat-20b"].engine == ""
    assert "plan --model internlm2-chat-20b" in fits["internlm2-chat-20b"].why


def test_doctor_is_not_well_where_the_model_cannot_run(settings: Settings) -> None:
    diagnosis = diagnose(replace(settings, model="internlm2-chat-20b"), replace(CPU, memory_bytes=2 * GIB), {})
    assert not diagnosis.is_well
    assert diagnosis.as_json()["ok"] is False
    assert any(check.state == "fatal" and check.name == "model" for check in diagnosis.checks)


@pytest.mark.parametrize("name", ["PORT", "GRADIO_SERVER_PORT"])
def test_doctor_sees_a_port_that_is_taken(settings: Settings, name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        checks = diagnose(settings, CPU, {name: str(taken.getsockname()[1])}).checks
    port = next(check for check in checks if check.name == "port")
    assert port.state == "warning"
    assert "PORT=" in port.fix


def test_doctor_asks_nobody_outside_unless_it_is_told_to(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def connect(address: tuple[str, int], *_: object, **__: object) -> socket.socket:
        asked.append(address)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket, "create_connection", connect)
    names = {check.name for check in diagnose(settings, CPU, {}).checks}
    assert asked == []
    assert not {"pypi", "huggingface"} & names
    told = [check for check in diagnose(settings, CPU, {}, with_network=True).checks if check.name == "huggingface"]
    assert asked
    assert "HF_ENDPOINT" in told[0].fix


def command(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "inference", "doctor", *arguments],
        cwd=ROOT,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_command_ends_with_0_or_1_and_speaks_json(tmp_path: Path) -> None:
    folders = {"DATA_DIR": str(tmp_path / "data"), "MODELS_DIR": str(tmp_path / "models"), "PORT": "0"}
    done = command("--json", **folders)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["ok"] is True
    done = command(**folders, MODEL="no-such-model")
    assert done.returncode == 1
    assert "no-such-model" in done.stdout
    assert "Traceback" not in done.stderr

"""The command line: exit codes and messages, and that importing does nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from inference import errors
from inference.__main__ import ROOT, main
from inference.catalogue import load_catalogue
from tests.internlm2_models import Form, write_model

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def _own_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))


def test_list_marks_the_chosen_model(capsys, monkeypatch):
    monkeypatch.setenv("MODEL", "internlm2-chat-7b")
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("*")] == ["internlm2-chat-7b"]
    assert all(any(f" {name} " in line for line in lines) for name in load_catalogue())


def test_a_catalogue_of_ones_own_is_listed_and_planned(capsys, monkeypatch, write, catalogue_text):
    own = write("own.toml", catalogue_text.replace("context_tokens = 10", "context_tokens = 4096"))
    monkeypatch.setenv("INFERENCE_MODELS_FILE", str(own))
    assert main(["list"]) == 0
    assert " m " in capsys.readouterr().out
    assert main(["plan", "--model", "m", "--gpu", "A10"]) == 0
    said = capsys.readouterr().out
    assert "Plan: tgi" in said
    assert "free on the disk" in said


def test_a_catalogue_that_is_not_there_is_named_with_its_variable(capsys, monkeypatch):
    monkeypatch.setenv("INFERENCE_MODELS_FILE", "/no/such.toml")
    assert main(["list"]) == 2
    assert "INFERENCE_MODELS_FILE is /no/such.toml, but there is no such file" in capsys.readouterr().err


def test_a_dry_run_prints_how_the_engine_would_be_started(capsys):
    argv = ["serve", "--dry-run", "--model", "internlm2-chat-7b", "--engine", "tgi-container", "--gpu", "A10"]
    assert main(argv) == 0
    said = capsys.readouterr().out
    assert "docker run" in said
    assert "--env API_KEY=***" in said
    assert "--max-total-tokens 8192" in said


def test_a_plan_that_does_not_fit_ends_with_7_and_names_the_nearest(capsys, monkeypatch):
    monkeypatch.setenv("INFERENCE_QUANTIZE", "none")
    assert main(["plan", "--model", "internlm2-chat-20b", "--engine", "tgi", "--gpu", "A100-40"]) == 7
    said = capsys.readouterr()
    assert "no, 3.4 GiB short" in said.out
    assert "The nearest that fits: tgi with INFERENCE_QUANTIZE=eetq" in said.err


def test_what_cannot_be_served_is_told_to_who_waits_for_it(tmp_path):
    status = tmp_path / "data" / "status.json"
    assert main(["serve", "--engine", "lmdeploy", "--dry-run"]) == 7
    assert not status.exists()
    assert main(["serve", "--engine", "lmdeploy"]) == 7
    told = json.loads(status.read_text())
    assert told["stage"] == "failed"
    assert "is a GGUF file, which only llamacpp reads" in told["message"]


@pytest.mark.parametrize(
    ("argv", "code", "part"),
    [
        (["prepare", "--model", "nothing"], 3, "There is no model named 'nothing'"),
        (["prepare", "--model", "/nothing.gguf"], 3, "There is no model file /nothing.gguf"),
        (["serve", "--engine", "vllm"], 2, "engine 'vllm' is not there"),
        (["serve", "--engine", "lmdeploy"], 7, "is a GGUF file, which only llamacpp reads"),
        (["serve", "--gpu", "A10"], 2, "Add --dry-run"),
        (["plan", "--gpu", "A11"], 2, "--gpu 'A11' is not known. It can be A10, A100-40, A100-80"),
        (["convert", "/nothing", "/elsewhere"], 11, "/nothing is no folder"),
        (["convert", "/nothing", "/elsewhere", "--gguf", "F16"], 5, "/nothing/config.json is missing"),
    ],
)
def test_errors_are_one_line_with_their_code(capsys, argv, code, part):
    assert main(argv) == code
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert part in said
    assert said.count("\n") == 1


def test_a_wrong_variable_ends_with_2(capsys, monkeypatch):
    monkeypatch.setenv("INFERENCE_SLOTS", "none")
    assert main(["list"]) == 2
    assert "INFERENCE_SLOTS" in capsys.readouterr().err


def test_every_error_has_its_own_exit_code_and_is_in_the_table():
    kinds = errors.InferenceError.__subclasses__()
    assert len({kind.exit_code for kind in kinds}) == len(kinds)
    for kind in kinds:
        assert any(kind.__name__ in line and f" {kind.exit_code} " in line for line in errors.__doc__.splitlines()), (
            kind.__name__
        )


def test_convert_and_verify_take_folders_and_say_what_is_wrong(tmp_path, capsys):
    source, target = tmp_path / "source", tmp_path / "target"
    write_model(source, Form())
    assert main(["convert", str(source), str(target)]) == 0
    assert capsys.readouterr().out == f"{target}\n"
    assert main(["verify", str(target)]) == 0
    assert capsys.readouterr().out == f"{target}: nothing is wrong\n"
    assert main(["verify", str(source)]) == 0
    assert "nothing is wrong but what is noted above" in capsys.readouterr().out
    assert main(["convert", str(source), str(tmp_path), "--gguf", "Q8_0"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'source-Q8_0.gguf'}\n"
    (target / "generation_config.json").write_text('{"eos_token_id": 2}')
    (target / "model.safetensors").write_bytes(b"")
    assert main(["verify", str(target)]) == 5
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith(f"error: {target}/") for line in lines)
    assert (
        lines[0] == f"error: {target}/model.safetensors: It is empty. Fetch or copy it again. [tgi, lmdeploy, llamacpp]"
    )


def test_help_has_examples_and_exit_codes():
    done = subprocess.run(
        [sys.executable, "-m", "inference", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "python -m inference serve --model" in done.stdout
    assert "exit codes:" in done.stdout


def test_a_name_that_is_no_text_is_shown_and_not_a_traceback(tmp_path):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff model"))
    folder.mkdir()
    argv = [sys.executable, "-m", "inference", "verify", folder]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 5
    assert "\\udcff model" in done.stdout
    assert done.stderr == ""

"""INFERENCE_LOG=json: everything that a command prints is one JSON object a line."""

import json
import sys

import pytest

from inference.__main__ import main
from inference.logs import printed_as
from inference.progress import ProgressLine
from inference.status import Progress

pytestmark = pytest.mark.unit
JSON = {"INFERENCE_LOG": "json"}


def entries(text):
    return [json.loads(line) for line in text.splitlines()]


def test_a_plan_is_written_as_objects_and_an_error_is_one(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MODELS_DIR", str(tmp_path))
    monkeypatch.setenv("INFERENCE_LOG", "json")
    command = ["plan", "--model", "internlm2-chat-7b", "--engine", "tgi-container", "--gpu", "A10"]
    assert main([*command, "--write", str(tmp_path / "launch")]) == 0
    told = entries(capsys.readouterr().out)
    assert str(tmp_path / "launch" / "tgi.args") in [one["message"] for one in told]
    assert {(one["level"], one["logger"]) for one in told} == {("info", "inference")}
    assert main(["plan", "--model", "no-such-model"]) == 3
    (error,) = entries(capsys.readouterr().err)
    assert error["level"] == "error"
    assert "no-such-model" in error["message"]


def test_progress_lines_are_objects(capsys):
    with printed_as(JSON):
        line = ProgressLine()
        line(Progress("download", done=0, total=10, message="fetching"))
        line(Progress("download", done=5, total=10, message="fetching"))
        line.close()
    first, second = entries(capsys.readouterr().err)
    assert first["message"] == "fetching"
    assert "50 %" in second["message"]


def test_a_bug_is_one_object_with_its_traceback(capsys):
    with pytest.raises(SystemExit) as end, printed_as(JSON):
        raise ValueError("two\nlines")
    (entry,) = entries(capsys.readouterr().err)
    assert end.value.code == 1
    assert entry["message"] == "ValueError: two\nlines"
    assert entry["exception"].startswith("Traceback")


def test_a_line_without_an_end_is_told_and_then_text_is_text_again(capsys):
    with printed_as(JSON):
        sys.stdout.write("half")
    sys.stdout.write("plain\n")
    told = capsys.readouterr().out.splitlines()
    assert json.loads(told[0])["message"] == "half"
    assert told[1] == "plain"


def test_what_people_ask_in_a_container_is_answered_as_text(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("INFERENCE_LOG", "json")
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    monkeypatch.setenv("MODELS_DIR", str(tmp_path))
    main(["doctor"])
    assert not capsys.readouterr().out.startswith("{")
    assert main(["smoke", "http://127.0.0.1:9"]) != 0
    assert not capsys.readouterr().out.startswith("{")
    main(["doctor", "--json"])
    assert json.loads(capsys.readouterr().out)


def test_a_misspelt_setting_is_a_warning_with_the_nearest_name_and_never_its_value(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("MODELS_DIR", str(tmp_path))
    monkeypatch.setenv("INFERENCE_SLOT", "canary")
    assert main(["list"]) == 0
    assert capsys.readouterr().err.startswith("warning: INFERENCE_SLOT is set, but there is no such setting")
    monkeypatch.setenv("INFERENCE_LOG", "json")
    assert main(["list"]) == 0
    (entry,) = entries(capsys.readouterr().err)
    assert entry["level"] == "warning"
    assert "INFERENCE_SLOTS" in entry["message"]
    assert "canary" not in entry["message"]


def test_a_form_that_there_is_not_is_named(capsys, monkeypatch):
    monkeypatch.setenv("INFERENCE_LOG", "xml")
    assert main(["list"]) == 2
    assert "INFERENCE_LOG" in capsys.readouterr().err

"""What `plan --write` leaves for containers: defaults that an environment overrides, TGI's arguments, one kept key."""

import subprocess

import pytest

from inference.__main__ import main
from inference.engines.llamacpp import LlamaCpp
from inference.errors import SettingsError
from inference.key_file import kept_key
from inference.launch import make_engine
from inference.launch_files import gateway_env, write_launch_files
from inference.machine import Machine
from inference.settings import Settings
from tests.tgi_plan import tgi_plan

pytestmark = pytest.mark.unit
SHOW = '. "$0"; printf "%s|%s|%s" "$MODEL" "$GATEWAY_SLOTS" "$GATEWAY_MODEL_TITLE"'


def test_files_for_tgi_hold_the_plan_and_one_key(tmp_path, settings):
    plan = tgi_plan(tmp_path, "tgi-container")
    paths = write_launch_files(tmp_path / "launch", plan, settings)
    assert [path.name for path in paths] == ["engine.key", "gateway.env", "tgi.args"]
    assert {path.stat().st_mode & 0o777 for path in paths} == {0o600}
    words = paths[2].read_text().split()
    assert words[words.index("--model-id") + 1] == str(settings.models_dir / "internlm2-chat-7b-llama")
    assert words[words.index("--max-total-tokens") + 1] == str(plan.context_tokens)
    assert words[-5:] == ["--hostname", "0.0.0.0", "--port", "80", "--json-output"]
    assert f"tgi={paths[0].read_text().strip()}" in paths[1].read_text()


def test_the_key_outlives_a_second_plan(tmp_path, settings):
    plan = tgi_plan(tmp_path, "tgi-container")
    first = write_launch_files(tmp_path / "launch", plan, settings)[0].read_text()
    assert write_launch_files(tmp_path / "launch", plan, settings)[0].read_text() == first


def test_a_shell_takes_the_defaults_but_keeps_what_is_set(tmp_path):
    plan = tgi_plan(tmp_path, "tgi-container")
    file = tmp_path / "gateway.env"
    file.write_text(gateway_env(plan, "k" * 43))
    shown = subprocess.run(["sh", "-euc", SHOW, file], env={"GATEWAY_SLOTS": "3"}, capture_output=True, text=True)
    assert (shown.stdout, shown.stderr) == ("internlm2-chat-7b|3|InternLM2 Chat 7B", "")


@pytest.mark.parametrize("content", ["", "short"])
def test_a_file_without_a_key_is_named(tmp_path, content):
    (tmp_path / "key").write_text(content)
    with pytest.raises(SettingsError, match="holds no key"):
        kept_key(tmp_path / "key")


def test_a_folder_that_cannot_be_written_is_named(tmp_path, settings):
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="cannot be"):
        write_launch_files(tmp_path / "file" / "launch", tgi_plan(tmp_path, "tgi-container"), settings)


def test_the_command_writes_for_a_card_that_it_is_told(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MODELS_DIR", str(tmp_path))
    command = ["plan", "--model", "internlm2-chat-7b", "--engine", "tgi-container", "--gpu", "A10"]
    assert main([*command, "--write", str(tmp_path / "launch")]) == 0
    assert str(tmp_path / "launch" / "tgi.args") in capsys.readouterr().out


def test_llamacpp_listens_where_it_is_told_with_the_kept_key(tmp_path, settings):
    environ = {"INFERENCE_LISTEN": "0.0.0.0:8080", "INFERENCE_KEY_FILE": "engine.key"}
    told = Settings.from_env(environ, tmp_path)
    from inference import find_model, load_catalogue, make_plan

    plan = make_plan(find_model(told.model, load_catalogue(), tmp_path), told, Machine(4, 8 << 30))
    engine = make_engine(plan, told, Machine(4, 8 << 30), tmp_path)
    assert isinstance(engine, LlamaCpp)
    assert (engine.endpoint, engine.ports) == ("http://127.0.0.1:8080", (8080,))
    assert engine.api_key == (tmp_path / "engine.key").read_text().strip()
    assert '"host": "0.0.0.0", "port": 8080' in engine.serving(tmp_path / "m.gguf").argv()[-1]
    with pytest.raises(SettingsError, match="INFERENCE_LISTEN is for llamacpp"):
        make_engine(tgi_plan(tmp_path, "tgi-container"), told, Machine(4, 8 << 30), tmp_path)


@pytest.mark.parametrize("value", ["8080", ":8080", "host:", "host:0", "host:99999", "host:x"])
def test_an_address_that_is_none_is_named(tmp_path, value):
    with pytest.raises(SettingsError, match="INFERENCE_LISTEN must be an address and a port"):
        Settings.from_env({"INFERENCE_LISTEN": value}, tmp_path)

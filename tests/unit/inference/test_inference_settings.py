"""The environment becomes settings once; wrong values are named."""

from pathlib import Path

import pytest

from inference.errors import SettingsError
from inference.settings import DEFAULT_MODEL, Settings, child_environment

pytestmark = pytest.mark.unit
ROOT = Path("/checkout")


def test_defaults_lie_in_the_checkout():
    settings = Settings.from_env({}, ROOT)
    assert (settings.models_dir, settings.data_dir) == (ROOT / "models", ROOT / "data")
    assert (settings.model, settings.engine) == (DEFAULT_MODEL, "auto")
    assert (settings.context_tokens, settings.slots, settings.threads) == (None, None, None)


def test_relative_folders_are_taken_from_the_root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = Settings.from_env({"MODELS_DIR": "m", "DATA_DIR": "/elsewhere"}, ROOT)
    assert (settings.models_dir, settings.data_dir) == (ROOT / "m", Path("/elsewhere"))


def test_an_empty_variable_counts_as_unset():
    assert Settings.from_env({"MODEL": " ", "INFERENCE_SLOTS": ""}, ROOT) == Settings.from_env({}, ROOT)


def test_numbers_are_read():
    names = {"INFERENCE_CONTEXT": "2048", "INFERENCE_SLOTS": "2", "INFERENCE_THREADS": "3"}
    settings = Settings.from_env({**names, "INFERENCE_START_TIMEOUT_S": "1.5"}, ROOT)
    assert (settings.context_tokens, settings.slots, settings.threads) == (2048, 2, 3)
    assert settings.start_timeout_s == 1.5


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("INFERENCE_CONTEXT", "12"),
        ("INFERENCE_CONTEXT", "many"),
        ("INFERENCE_CONTEXT", "99999999"),
        ("INFERENCE_SLOTS", "0"),
        ("INFERENCE_SLOTS", "1.5"),
        ("INFERENCE_THREADS", "-1"),
        ("INFERENCE_START_TIMEOUT_S", "0"),
        ("INFERENCE_START_TIMEOUT_S", "nan"),
        ("INFERENCE_STOP_TIMEOUT_S", "inf"),
        ("MODEL", "a\nb"),
    ],
)
def test_a_wrong_value_names_its_variable(name, value):
    with pytest.raises(SettingsError, match=name):
        Settings.from_env({name: value}, ROOT)


def test_the_short_runtime_folder_comes_first():
    settings = Settings.from_env({"XDG_RUNTIME_DIR": "/run/user/7", "TMPDIR": "relative"}, ROOT)
    assert settings.runtime_dirs == (Path("/run/user/7"), Path("/tmp"))


def test_a_child_does_not_inherit_the_other_packages_secrets(monkeypatch):
    for name in ("GATEWAY_UPSTREAM_KEYS", "WEBUI_API_KEY_FILE", "DATABASE_URL", "DATABASE_PASSWORD_FILE", "REDIS_URL"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("PIP_INDEX_URL", "https://mirror")
    environment = child_environment(EXTRA="x")
    assert "secret" not in environment.values()
    assert (environment["PIP_INDEX_URL"], environment["EXTRA"]) == ("https://mirror", "x")

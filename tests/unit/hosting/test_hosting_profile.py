"""Platforms told by a faked environment and disk, and what each of them gets set."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hosting.errors import CannotStart
from hosting.places import can_hold, can_hold_database, home_of, is_private, temporary
from hosting.platforms import NAMES, find_platform
from hosting.profile import Profile, make_profile

pytestmark = pytest.mark.unit
SPACE = {"SPACE_ID": "me/chat", "SYSTEM": "spaces"}


@pytest.fixture
def system(tmp_path: Path) -> Path:
    """The root of a file system without any marks."""
    (tmp_path / "system").mkdir()
    return tmp_path / "system"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "checkout").mkdir()
    return tmp_path / "checkout"


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "home").mkdir()
    return {"HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "tmp"), "PATH": os.environ["PATH"]}


def block(folder: Path) -> None:
    """A folder that nobody can make, root neither: a file stands in its place."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.write_text("")


def profile_of(environ: dict[str, str], root: Path, system: Path, *, is_mounted: bool = False) -> Profile:
    return make_profile(environ, root, system, lambda path: is_mounted and path == system / "data")


def test_each_platform_is_told_by_its_marks(system: Path) -> None:
    assert find_platform({}, system).name == "host"
    assert find_platform({"SPACE_ID": ""}, system).name == "host"
    (system / ".dockerenv").touch()
    assert find_platform({}, system).name == "container"
    (system / "home/xlab-app-center").mkdir(parents=True)
    assert find_platform({}, system).name == "openxlab"
    assert find_platform(SPACE, system).name == "huggingface-gradio"
    assert find_platform({"SPACE_ID": "me/chat"}, system).name == "huggingface-docker"


def test_the_platform_can_be_named_where_its_marks_do_not_tell(system: Path) -> None:
    for name in NAMES:
        assert find_platform({**SPACE, "APP_PLATFORM": name}, system).name == name
    assert find_platform({"APP_PLATFORM": "openxlab"}, system).keeps is None
    with pytest.raises(CannotStart, match="APP_PLATFORM='cloud' is not known"):
        find_platform({"APP_PLATFORM": "cloud"}, system)


def test_a_plain_host_gets_nothing_set(environ: dict[str, str], root: Path, system: Path) -> None:
    profile = profile_of(environ, root, system)
    assert (profile.settings, profile.process, profile.notes, profile.refusal) == ({}, {}, (), "")


def test_a_container_listens_on_all_addresses_and_trusts_no_proxy(
    environ: dict[str, str], root: Path, system: Path
) -> None:
    (system / ".dockerenv").touch()
    assert profile_of(environ, root, system).settings == {"HOST": "0.0.0.0"}


def test_a_space_is_shown_in_hugging_faces_frame_behind_one_proxy(
    environ: dict[str, str], root: Path, system: Path
) -> None:
    settings = profile_of({**environ, **SPACE}, root, system).settings
    assert settings["HOST"] == "0.0.0.0"
    assert settings["WEBUI_FRAME_ANCESTORS"] == "https://huggingface.co"
    assert settings["WEBUI_TRUSTED_PROXY_HOPS"] == "1"
    assert "INFERENCE_ENGINE" not in settings


def test_a_space_without_a_volume_says_what_is_lost(environ: dict[str, str], root: Path, system: Path) -> None:
    notes = " ".join(profile_of({**environ, **SPACE}, root, system).notes)
    assert "will be gone after a restart or a sleep" in notes
    assert "conversations and keys" in notes
    assert "DATABASE_URL" in notes
    with_database = {**environ, **SPACE, "DATABASE_URL": "postgresql://h/d"}
    assert "conversations" not in " ".join(profile_of(with_database, root, system).notes)


def test_a_duplicated_space_is_told_which_secrets_it_lacks(environ: dict[str, str], root: Path, system: Path) -> None:
    def told(**secrets: str) -> tuple[str, str | None]:
        profile = profile_of({**environ, **SPACE, **secrets}, root, system)
        notes = [note for note in profile.notes if "Secrets of this Space" in note]
        return " ".join(notes), profile.settings.get("WEBUI_KEEPS_CHATS")

    everything = {
        "DATABASE_URL": "postgresql://u:hidden@h/d", "WEBUI_SECRET": "hidden" * 6, "GATEWAY_ADMIN_KEY": "hidden" * 6
    }  # fmt: skip
    note, keeps = told()
    assert all(name in note for name in everything)
    assert keeps == "no"
    note, keeps = told(DATABASE_URL=everything["DATABASE_URL"])
    assert ("DATABASE_URL" in note, "WEBUI_SECRET" in note, keeps) == (False, True, "no"), "nobody finds their chats"
    note, keeps = told(DATABASE_URL=everything["DATABASE_URL"], WEBUI_SECRET=everything["WEBUI_SECRET"])
    assert ("GATEWAY_ADMIN_KEY" in note, "hidden" in note, keeps) == (True, False, None)
    assert told(**everything) == ("", None)


def test_only_a_space_is_told_of_secrets_and_any_place_that_forgets_says_so_on_the_page(
    environ: dict[str, str], root: Path, system: Path
) -> None:
    (system / "home/xlab-app-center").mkdir(parents=True)
    profile = profile_of(environ, root, system)
    assert profile.settings["WEBUI_KEEPS_CHATS"] == "no"
    assert not any("Secrets" in note for note in profile.notes)


def test_a_space_with_a_volume_keeps_everything_there(environ: dict[str, str], root: Path, system: Path) -> None:
    (system / "data").mkdir()
    profile = profile_of({**environ, **SPACE}, root, system, is_mounted=True)
    assert profile.settings["DATA_DIR"] == str(system / "data/internlm-stack/data")
    assert profile.settings["MODELS_DIR"] == str(system / "data/internlm-stack/models")
    assert profile.notes == ()


def test_a_volume_that_cannot_be_written_is_passed_over_and_named(
    environ: dict[str, str], root: Path, system: Path
) -> None:
    block(system / "data/internlm-stack")
    profile = profile_of({**environ, **SPACE}, root, system, is_mounted=True)
    assert "DATA_DIR" not in profile.settings  # the checkout's own
    assert any(str(system / "data/internlm-stack/data") in note for note in profile.notes)


def test_openxlab_keeps_what_it_can_in_the_folder_that_may_last(
    environ: dict[str, str], root: Path, system: Path
) -> None:
    (system / "home/xlab-app-center").mkdir(parents=True)
    profile = profile_of(environ, root, system)
    assert profile.settings["MODELS_DIR"] == str(system / "home/xlab-app-center/.cache/internlm-stack/models")
    assert "openxlab.org.cn" in profile.settings["WEBUI_FRAME_ANCESTORS"]
    assert any("may be gone" in note for note in profile.notes)


def test_caches_go_to_the_data_folder_that_a_tilde_names(environ: dict[str, str], root: Path, system: Path) -> None:
    block(Path(environ["HOME"]) / ".cache")
    found = make_profile({**environ, "DATA_DIR": "~/data"}, root, system).process["XDG_CACHE_HOME"]
    assert found == os.path.expanduser("~/data/cache")


def test_a_read_only_checkout_takes_the_home(environ: dict[str, str], root: Path, system: Path) -> None:
    block(root / "data")
    block(root / "models")
    profile = profile_of(environ, root, system)
    share = Path(environ["HOME"]) / ".local/share/internlm-stack"
    assert profile.settings == {"DATA_DIR": str(share / "data"), "MODELS_DIR": str(share / "models")}
    assert any(str(root / "data") in note for note in profile.notes)


def test_with_nothing_but_tmp_it_runs_there_and_says_so(environ: dict[str, str], root: Path, system: Path) -> None:
    for path in (root / "data", root / "models", Path(environ["HOME"]) / ".local", Path(environ["HOME"]) / ".cache"):
        block(path)
    profile = profile_of(environ, root, system)
    assert profile.settings["DATA_DIR"].startswith(environ["TMPDIR"])
    assert any("will be gone" in note for note in profile.notes)
    assert profile.process["XDG_CACHE_HOME"].startswith(profile.settings["DATA_DIR"])


def test_a_user_without_a_home_gets_one(environ: dict[str, str], root: Path, system: Path) -> None:
    profile = profile_of({**environ, "HOME": "/nonexistent"}, root, system)
    assert profile.process["HOME"] == str(root / "data")
    assert Path(profile.process["HOME"]).is_dir()
    assert any("no home" in note for note in profile.notes)


def test_what_is_set_stays_as_it_is(environ: dict[str, str], root: Path, system: Path, tmp_path: Path) -> None:
    own = {"DATA_DIR": str(tmp_path / "d"), "MODELS_DIR": str(tmp_path / "m")}
    profile = profile_of({**environ, **SPACE, **own}, root, system)
    assert not {"DATA_DIR", "MODELS_DIR"} & set(profile.settings)


@pytest.mark.parametrize("value", ["1", "t", "true", "True"])
@pytest.mark.parametrize("engine", [{}, {"INFERENCE_ENGINE": "auto"}, {"INFERENCE_ENGINE": "llamacpp"}])
def test_zero_gpu_is_served_by_the_cpu_with_the_reason(
    value: str, engine: dict[str, str], environ: dict[str, str], root: Path, system: Path
) -> None:
    profile = profile_of({**environ, **SPACE, **engine, "SPACES_ZERO_GPU": value}, root, system)
    assert profile.process["INFERENCE_ENGINE"] == "llamacpp"
    assert not profile.refusal
    assert any("ZeroGPU" in note and "on the CPU" in note for note in profile.notes)


@pytest.mark.parametrize("engine", ["tgi", "lmdeploy"])
def test_an_engine_for_a_card_is_refused_on_zero_gpu(
    engine: str, environ: dict[str, str], root: Path, system: Path
) -> None:
    zero = {**environ, **SPACE, "SPACES_ZERO_GPU": "true", "INFERENCE_ENGINE": engine}
    refusal = profile_of(zero, root, system).refusal
    assert engine in refusal
    assert "Leave it out" in refusal


def test_a_folder_is_tried_and_nothing_is_left_where_it_fails(tmp_path: Path) -> None:
    assert can_hold(tmp_path / "a" / "b")
    assert can_hold_database(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []
    block(tmp_path / "c" / "file")
    assert not can_hold(tmp_path / "c" / "file" / "d")
    assert not can_hold_database(tmp_path / "c" / "file" / "d")


def test_a_folder_that_others_may_change_is_not_private(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir(mode=0o700)
    assert is_private(tmp_path / "own")
    (tmp_path / "own").chmod(0o777)
    assert not is_private(tmp_path / "own")
    (tmp_path / "link").symlink_to(tmp_path)
    assert not is_private(tmp_path / "link")
    assert not is_private(tmp_path / "absent")
    (tmp_path / "open" / "own").mkdir(parents=True)
    (tmp_path / "open").chmod(0o777)
    assert not is_private(tmp_path / "open" / "own")
    (tmp_path / "open").chmod(0o1777)
    assert is_private(tmp_path / "open" / "own")


def test_keys_are_not_put_into_a_folder_that_somebody_else_has_made_in_tmp(
    environ: dict[str, str], root: Path, system: Path
) -> None:
    for path in (root / "data", root / "models", Path(environ["HOME"]) / ".local"):
        block(path)
    laid = temporary(environ)
    laid.mkdir(parents=True)
    laid.chmod(0o777)
    profile = profile_of(environ, root, system)
    assert "DATA_DIR" not in profile.settings
    assert any("No place for DATA_DIR works here" in note for note in profile.notes)


def test_the_home_is_nothing_where_it_is_no_folder(tmp_path: Path) -> None:
    assert home_of({"HOME": str(tmp_path)}) == tmp_path
    assert home_of({"HOME": str(tmp_path / "absent")}) is None

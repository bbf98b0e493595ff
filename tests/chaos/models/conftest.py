"""A git host, model folders and reports for the tests of fetching and publishing."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from inference.accounts import Account, Secret
from inference.settings import Settings
from inference.status import Progress
from tests.fakes.git_host import GitHost, git_host
from tests.internlm2_models import Form, write_model


class Reports(list[Progress]):
    """A `Report` that remembers."""

    def __call__(self, news: Progress) -> None:
        self.append(news)

    @property
    def text(self) -> str:
        return "\n".join(news.message for news in self)

    @property
    def stages(self) -> list[str]:
        return list(dict.fromkeys(news.stage for news in self))


@pytest.fixture
def reports() -> Reports:
    return Reports()


@pytest.fixture
def stop() -> threading.Event:
    return threading.Event()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own with a git configuration that must stay as it is; no token of the person's own."""
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / ".gitconfig").write_text("[user]\n\tname = Somebody\n")
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    for name in ("HF_TOKEN", "OPENXLAB_TOKEN", "MODELSCOPE_API_TOKEN", "INFERENCE_GIT_TOKEN", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture
def host(tmp_path: Path, home: Path) -> Iterator[GitHost]:
    if not shutil.which("git-lfs"):
        pytest.skip("no git-lfs here: sudo apt-get install git-lfs")
    with git_host(tmp_path / "host") as running:
        yield running


@pytest.fixture
def account(host: GitHost) -> Account:
    return Account(host.username, Secret(host.token))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(root=tmp_path, models_dir=tmp_path / "models", data_dir=tmp_path / "data")


@pytest.fixture
def weights() -> bytes:
    return os.urandom(3_000_000)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A small whole model in InternLM2's layout: three shards with an index, as fine-tuners save them."""
    folder = tmp_path / "my-finetune"
    write_model(folder, Form(shards=3, heads=16, kv_heads=4))
    return folder

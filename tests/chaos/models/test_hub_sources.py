"""Hugging Face and ModelScope, each through its own package in a child process, against a hub on loopback."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from inference.accounts import Account, Hubs, Secret
from inference.errors import Cancelled, SourceError, VerifyError
from inference.sources.huggingface import huggingface_repository
from inference.sources.modelscope import modelscope_repository
from inference.sources.remote import Attempts, fetch_files, list_files
from inference.sources.selection import choose_files
from tests.fakes.model_hub import COMMIT, model_hub

pytestmark = pytest.mark.chaos
ROOT = Path(__file__).resolve().parents[3]
NAME = "camper/internlm2-tiny"
MAKE = {"huggingface": huggingface_repository, "modelscope": modelscope_repository}
REVISIONS = {"huggingface": "main", "modelscope": "master"}


@pytest.fixture
def hub(home, weights):
    with model_hub() as running:
        running.repositories[NAME] = {
            "config.json": b'{"model_type": "internlm2"}',
            "modeling_internlm2.py": b"raise SystemExit('this is not run')",
            "model-00001-of-00002.safetensors": weights,
            "model-00002-of-00002.safetensors": weights[:500_000],
            "pytorch_model.bin": weights[:400_000],
            "optimizer.pt": weights[:300_000],
        }
        yield running


@pytest.fixture(params=["huggingface", "modelscope"])
def which(request):
    if request.param == "modelscope" and not importlib.util.find_spec("modelscope_hub"):
        pytest.skip("no modelscope-hub here: .venv/bin/python -m pip install modelscope-hub")
    return request.param


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "partial"
    path.mkdir()
    return path


def repository(which, hub, *, token="", name=NAME, revision=""):
    account = Account("", Secret(token) if token else None)
    hubs = Hubs(huggingface_url=hub.url, modelscope_url=hub.url, huggingface=account, modelscope=account)
    return MAKE[which](name, revision or REVISIONS[which], hubs)


def fetch(remote, folder, reports, stop, *, attempts=5):
    tries = Attempts(attempts, reports, stop, first_pause_s=0.01)
    listed = list_files(remote, folder, tries, stop)
    files = choose_files(listed, (), "internlm2", remote.title)
    return fetch_files(remote, files, folder, tries, reports, stop)


def test_a_model_comes_whole_and_checked(which, hub, folder, reports, stop, weights):
    records = fetch(repository(which, hub), folder, reports, stop)
    assert {record.name: record.sha256 for record in records} == {
        name: hashlib.sha256(hub.repositories[NAME][name]).hexdigest()
        for name in ("config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    }
    assert (folder / "model-00001-of-00002.safetensors").read_bytes() == weights
    last = [news for news in reports if news.stage == "download"][-1]
    assert last.done == last.total == 3_500_027


def test_code_and_doubled_weights_and_training_states_are_not_asked_for(which, hub, folder, reports, stop):
    fetch(repository(which, hub), folder, reports, stop)
    fetched = " ".join(asked.path for asked in hub.asked)
    for name in ("modeling_internlm2.py", "pytorch_model.bin", "optimizer.pt"):
        assert name not in fetched
        assert not (folder / name).exists()


def test_huggingface_is_pinned_to_the_commit_that_was_listed(hub, folder, reports, stop):
    fetch(repository("huggingface", hub), folder, reports, stop)
    assert all(f"/resolve/{COMMIT}/" in asked.path for asked in hub.asked if "/resolve/" in asked.path)


def test_cut_connections_are_taken_up_inside_the_file(which, hub, folder, reports, stop, weights):
    hub.faults.cut_after = [1_000_000, 300_000, 300_000]
    fetch(repository(which, hub), folder, reports, stop)
    assert (folder / "model-00001-of-00002.safetensors").read_bytes() == weights
    assert any(asked.range and not asked.range.startswith("bytes=0-") for asked in hub.asked)
    assert hub.downloaded_bytes() < 1.3 * 3_500_000


def test_a_spoilt_file_is_never_taken(which, hub, folder, reports, stop):
    hub.spoilt = {"model-00002-of-00002.safetensors"}
    with pytest.raises((VerifyError, SourceError), match=r"model-00002-of-00002.safetensors"):
        fetch(repository(which, hub), folder, reports, stop, attempts=1)
    assert not (folder / "model-00002-of-00002.safetensors").exists()


@pytest.mark.parametrize("token", ["", "wrong-token"])
def test_a_wrong_token_names_the_variable(which, hub, folder, reports, stop, token):
    hub.token = "right-token"
    expected = {"huggingface": "HF_TOKEN|no such repository", "modelscope": "MODELSCOPE_API_TOKEN"}
    with pytest.raises(SourceError, match=expected[which]) as caught:
        fetch(repository(which, hub, token=token), folder, reports, stop)
    assert "wrong-token" not in caught.value.message


def test_the_right_token_opens(which, hub, folder, reports, stop):
    hub.token = "right-token"
    fetch(repository(which, hub, token="right-token"), folder, reports, stop)
    assert (folder / "config.json").exists()


def test_a_missing_repository_and_revision_are_named(which, hub, folder, stop):
    with pytest.raises(SourceError, match="no such repository"):
        repository(which, hub, name="camper/none").list_files(folder, stop)
    with pytest.raises(SourceError, match="v9"):
        repository(which, hub, revision="v9").list_files(folder, stop)


def test_the_token_stays_at_the_hub_when_a_file_lies_elsewhere(hub, folder, reports, stop):
    hub.token = "right-token"
    with model_hub() as storage:
        storage.repositories = hub.repositories
        hub.files_at = storage.url
        fetch(repository("huggingface", hub, token="right-token"), folder, reports, stop)
        assert {asked.token for asked in storage.asked} == {""}
        assert storage.downloaded_bytes() == 3_500_027


def test_a_hub_that_is_away_is_given_up_after_the_attempts(which, hub, folder, reports, stop):
    remote = repository(which, hub)
    hub.fail_next = 10_000
    with pytest.raises(SourceError, match="Given up after 2 attempts"):
        fetch(remote, folder, reports, stop, attempts=2)


def test_a_stop_ends_it_at_once(which, hub, folder, reports, stop):
    hub.faults.bytes_per_s = 500_000
    threading.Timer(1.5, stop.set).start()
    begun = time.monotonic()
    with pytest.raises(Cancelled):
        fetch(repository(which, hub), folder, reports, stop)
    assert time.monotonic() - begun < 4


def test_offline_is_respected(hub):
    with pytest.raises(SourceError, match="HF_HUB_OFFLINE"):
        huggingface_repository(NAME, "main", Hubs(huggingface_url=hub.url, is_offline=True))


def test_a_missing_package_is_named_with_the_command(hub, folder, stop, monkeypatch):
    if importlib.util.find_spec("modelscope_hub"):
        blocked = folder / "modelscope_hub"
        blocked.mkdir()
        (blocked / "__init__.py").write_text("raise ImportError('No module named modelscope_hub')")
        monkeypatch.setenv("PYTHONPATH", str(folder))
    with pytest.raises(SourceError, match="pip install modelscope-hub"):
        repository("modelscope", hub).list_files(folder, stop)


KILLED = """
import sys, threading
from pathlib import Path
sys.path.insert(0, sys.argv[4])
from tests.chaos.models import test_hub_sources as here
from types import SimpleNamespace
hub = SimpleNamespace(url=sys.argv[2])
report = lambda news: print(news.stage, news.done, flush=True)
here.fetch(here.repository(sys.argv[1], hub), Path(sys.argv[3]), report, threading.Event())
"""


def test_a_killed_fetch_goes_on_inside_the_file(which, hub, folder, reports, stop, weights):
    hub.faults.bytes_per_s = 1_000_000
    command = [sys.executable, "-c", KILLED, which, hub.url, str(folder), str(ROOT)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        deadline = time.monotonic() + 60
        for line in process.stdout:
            if line.startswith("download") and int(line.split()[1]) > 1_500_000:
                break
            assert time.monotonic() < deadline
        process.kill()
    _wait_for_no_child_of(folder)
    hub.faults.bytes_per_s = 0
    hub.asked.clear()
    fetch(repository(which, hub), folder, reports, stop)
    assert (folder / "model-00001-of-00002.safetensors").read_bytes() == weights
    assert hub.downloaded_bytes() < 2_600_000


def _wait_for_no_child_of(folder):
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        running = []
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if str(folder).encode() in entry.read_bytes() and str(os.getpid()) not in str(entry):
                    running.append(entry)
            except OSError:
                continue
        if not running:
            return
        time.sleep(0.05)
    pytest.fail("the child of a killed fetch is still running")

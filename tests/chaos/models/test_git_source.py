"""Models from a git host: real git and git-lfs against a server on loopback, cut, refused and resumed."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from inference.accounts import Account, Secret
from inference.errors import Cancelled, SourceError, VerifyError
from inference.sources.git_repository import GitRepository
from inference.sources.git_url import git_remote
from inference.sources.reasons import ConnectionLost
from inference.sources.remote import Attempts, fetch_files, list_files

pytestmark = pytest.mark.chaos
NAME = "camper/internlm2-tiny"


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "partial"
    path.mkdir()
    return path


@pytest.fixture
def commit(host, weights):
    files = {
        "config.json": b'{"model_type": "internlm2"}',
        "README.md": b"a card",
        "model-00001-of-00002.safetensors": weights,
        "model-00002-of-00002.safetensors": weights[:500_000],
    }
    host.is_private = True
    return host.fill(NAME, files, lfs=tuple(name for name in files if name.startswith("model-")))


def repository(host, account, revision="main"):
    return GitRepository(git_remote(f"{host.url}//{NAME}.git", account), revision, token_name="OPENXLAB_TOKEN")


def fetch(host, account, folder, reports, stop, *, attempts=5):
    remote = repository(host, account)
    tries = Attempts(attempts, reports, stop, first_pause_s=0.01)
    files = list_files(remote, folder, tries, stop)
    return fetch_files(remote, files, folder, tries, reports, stop)


def test_a_repository_comes_whole_and_checked(host, account, commit, folder, reports, stop, weights):
    records = fetch(host, account, folder, reports, stop)
    assert {record.name for record in records} == {
        "config.json",
        "README.md",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    }
    assert (folder / "model-00001-of-00002.safetensors").read_bytes() == weights
    assert records[[r.name for r in records].index("model-00001-of-00002.safetensors")].sha256 == (
        hashlib.sha256(weights).hexdigest()
    )
    assert reports.stages == ["download", "verify"]
    last = [news for news in reports if news.stage == "download"][-1]
    assert last.done == last.total == 3_500_000 + 33


def test_the_weights_are_on_the_disk_once(host, account, commit, folder, reports, stop):
    fetch(host, account, folder, reports, stop)
    stored = [path for path in (folder / ".git" / "lfs").rglob("*") if path.is_file() and path.stat().st_size > 1000]
    assert stored == []


def test_a_double_slash_in_the_address_is_mended(host, account, commit, folder, reports, stop):
    fetch(host, account, folder, reports, stop)
    assert f"{host.url}/{NAME}.git" in (folder / ".git" / "config").read_text()


def test_a_cut_connection_is_taken_up_inside_the_file(host, account, commit, folder, reports, stop, weights):
    host.faults.cut_after = [1_000_000, 200_000]
    fetch(host, account, folder, reports, stop)
    assert (folder / "model-00001-of-00002.safetensors").read_bytes() == weights
    assert any(asked.range for asked in host.of("GET", "/lfs/objects/"))
    assert host.downloaded_bytes() < 1.2 * 3_500_000


def test_a_busy_server_is_asked_again(host, account, commit, folder, reports, stop):
    host.fail_next = 2
    fetch(host, account, folder, reports, stop)
    assert "Trying again" in reports.text


def test_a_server_that_stays_busy_is_given_up_with_what_it_said(host, account, commit, folder, reports, stop):
    host.fail_next = 1000
    with pytest.raises(SourceError, match=r"503.*Given up after 3 attempts"):
        fetch(host, account, folder, reports, stop, attempts=3)


def test_a_wrong_token_ends_at_once_with_the_variable_to_look_at(host, commit, folder, reports, stop):
    begun = time.monotonic()
    with pytest.raises(SourceError, match="OPENXLAB_TOKEN") as caught:
        fetch(host, Account("camper", Secret("wrong-token")), folder, reports, stop)
    assert not isinstance(caught.value, ConnectionLost)
    assert "wrong-token" not in caught.value.message
    assert time.monotonic() - begun < 5


def test_no_token_ends_without_a_prompt(host, commit, folder, reports, stop):
    with pytest.raises(SourceError, match="OPENXLAB_TOKEN"):
        fetch(host, Account(), folder, reports, stop)


def test_a_token_that_only_the_weights_refuse_ends_too(host, account, commit, folder, reports, stop):
    remote = repository(host, account)
    files = remote.list_files(folder, stop)
    host.token = "renewed"
    begun = time.monotonic()
    with pytest.raises(SourceError, match="OPENXLAB_TOKEN"):
        remote.fetch(files, folder, lambda _: None, stop)
    assert time.monotonic() - begun < 20


def test_another_host_does_not_get_the_token(host, account, commit, folder, reports, stop):
    host.redirect_lfs_to = host.url.replace("127.0.0.1", "localhost")
    remote = repository(host, account)
    files = remote.list_files(folder, stop)
    with pytest.raises(SourceError):
        remote.fetch(files, folder, lambda _: None, stop)
    assert not any(asked.signed_in for asked in host.of("GET", "/lfs/objects/"))


def test_a_missing_repository_and_an_unknown_revision_are_named(host, account, commit, folder, stop):
    missing = GitRepository(git_remote(f"{host.url}/camper/none.git", account), "main", token_name="T")
    with pytest.raises(SourceError, match="no such repository"):
        missing.list_files(folder, stop)
    with pytest.raises(SourceError, match="revision 'v9'"):
        repository(host, account, "v9").list_files(folder, stop)


def test_an_empty_repository_is_named(host, account, folder, stop):
    host.create(NAME)
    with pytest.raises(SourceError, match="no such repository or revision"):
        repository(host, account).list_files(folder, stop)


def test_a_commit_can_be_pinned(host, account, commit, folder, stop):
    host.fill(NAME, {"config.json": b"{}"})
    names = [file.name for file in repository(host, account, commit).list_files(folder, stop)]
    assert "model-00001-of-00002.safetensors" in names


def test_a_spoilt_object_is_never_taken(host, account, commit, folder, reports, stop, weights):
    host.spoilt = {hashlib.sha256(weights).hexdigest()}
    with pytest.raises(SourceError, match="expected OID"):
        fetch(host, account, folder, reports, stop, attempts=2)
    assert not (folder / "model-00001-of-00002.safetensors").exists()


def test_a_file_that_was_changed_on_the_way_is_removed_and_named(host, account, commit, folder, reports, stop):
    remote = repository(host, account)
    files = remote.list_files(folder, stop)
    remote.fetch(files, folder, lambda _: None, stop)
    path = folder / "model-00002-of-00002.safetensors"
    path.write_bytes(b"x" * path.stat().st_size)
    with pytest.raises(VerifyError, match=r"model-00002-of-00002.safetensors has the SHA-256"):
        fetch(host, account, folder, reports, stop)
    assert not path.exists()


def test_a_stop_ends_it_at_once_and_the_next_run_goes_on(host, account, commit, folder, reports, stop, weights):
    host.faults.bytes_per_s = 1_000_000
    threading.Timer(1.0, stop.set).start()
    begun = time.monotonic()
    with pytest.raises(Cancelled):
        fetch(host, account, folder, reports, stop)
    assert time.monotonic() - begun < 3
    host.faults.bytes_per_s = 0
    host.asked.clear()
    fetch(host, account, folder, reports, threading.Event())
    assert (folder / "model-00001-of-00002.safetensors").read_bytes() == weights
    assert host.downloaded_bytes() < 3_300_000


def test_locks_of_a_killed_git_do_not_matter(host, account, commit, folder, reports, stop):
    fetch(host, account, folder, reports, stop)
    for name in ("shallow.lock", "config.lock", "HEAD.lock", "index.lock"):
        (folder / ".git" / name).write_bytes(b"")
    fetch(host, account, folder, reports, stop)
    assert not list((folder / ".git").glob("*.lock"))


def test_a_repository_that_git_cannot_read_is_made_anew(host, account, commit, folder, reports, stop):
    fetch(host, account, folder, reports, stop)
    for pack in (folder / ".git" / "objects" / "pack").iterdir():
        pack.chmod(0o600)
        pack.write_bytes(b"cut")
    host.asked.clear()
    fetch(host, account, folder, reports, stop)
    assert host.downloaded_bytes() == 0


def test_the_token_is_in_no_command_line_and_no_file(host, commit, folder, home, reports, stop):
    canary = host.token = "canary-5f1e9a77c0de"
    host.faults.bytes_per_s = 2_000_000
    seen: list[str] = []
    done = threading.Event()

    def watch():
        while not done.is_set():
            for entry in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    seen.append(entry.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace"))
                except OSError:
                    continue
            time.sleep(0.02)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        fetch(host, Account("camper", Secret(canary)), folder, reports, stop)
    finally:
        done.set()
        watcher.join()
    assert any("lfs fetch" in line for line in seen)
    assert not [line for line in seen if canary in line]
    files = [path for root in (folder, home) for path in root.rglob("*") if path.is_file()]
    assert not [path for path in files if canary.encode() in path.read_bytes()]
    assert canary not in reports.text


def test_the_persons_own_configuration_stays_as_it_is(host, account, commit, folder, home, reports, stop):
    helper = home / "helper.log"
    config = home / ".gitconfig"
    config.write_text(f'[user]\n\tname = Somebody\n[credential]\n\thelper = "!cat >>{helper}; echo"\n')
    before = config.read_bytes()
    fetch(host, account, folder, reports, stop)
    assert config.read_bytes() == before
    assert not helper.exists()
    assert sorted(path.name for path in home.iterdir()) == [".gitconfig"]


def test_tools_that_lack_are_named_with_the_command_that_brings_them(
    host, account, folder, stop, monkeypatch, tmp_path
):
    tools = tmp_path / "tools"
    tools.mkdir()
    monkeypatch.setenv("PATH", str(tools))
    with pytest.raises(SourceError, match="apt-get install git git-lfs"):
        repository(host, account).list_files(folder, stop)
    (tools / "git").symlink_to("/usr/bin/git")
    with pytest.raises(SourceError, match=r"git-lfs is missing.*apt-get install git-lfs"):
        repository(host, account).list_files(folder, stop)


def test_the_seeds_own_command_does_not_exist():
    """`git instll lfs`, as the tutorial has it: git says so with code 1, and nothing is installed."""
    done = subprocess.run(["git", "instll", "lfs"], capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"})
    assert done.returncode == 1
    assert "is not a git command" in done.stderr


KILLED = """
import os, sys, threading
from pathlib import Path
from inference.accounts import Account, Secret
from inference.sources.git_repository import GitRepository
from inference.sources.git_url import git_remote
from inference.sources.remote import Attempts, fetch_files, list_files
url, folder = sys.argv[1], Path(sys.argv[2])
remote = GitRepository(git_remote(url, Account("camper", Secret(os.environ["OPENXLAB_TOKEN"]))), "main", token_name="T")
stop = threading.Event()
report = lambda news: print(news.stage, news.done, news.total, flush=True)
attempts = Attempts(3, report, stop)
files = list_files(remote, folder, attempts, stop)
fetch_files(remote, files, folder, attempts, report, stop)
"""


def test_a_killed_fetch_leaves_no_process_and_goes_on_inside_the_file(
    host, account, commit, folder, reports, stop, weights
):
    host.faults.bytes_per_s = 1_500_000
    root = Path(__file__).resolve().parents[3]
    environ = {**os.environ, "OPENXLAB_TOKEN": host.token, "PYTHONPATH": str(root)}
    command = [sys.executable, "-c", KILLED, f"{host.url}/{NAME}.git", str(folder)]
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        for line in process.stdout:
            if line.startswith("download") and int(line.split()[1]) > 1_000_000:
                break
            assert time.monotonic() < deadline
        process.kill()
    _wait_until_nothing_runs_in(folder)
    host.faults.bytes_per_s = 0
    host.asked.clear()
    fetch(host, account, folder, reports, stop)
    assert (folder / "model-00001-of-00002.safetensors").read_bytes() == weights
    assert host.downloaded_bytes() < 3_000_000


def _wait_until_nothing_runs_in(folder):
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        running = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if os.readlink(entry / "cwd") == str(folder):
                    running.append((entry / "cmdline").read_bytes())
            except OSError:
                continue
        if not running:
            return
        time.sleep(0.05)
    pytest.fail(f"still running: {running}")

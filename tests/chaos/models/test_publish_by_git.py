"""A model's folder becomes a repository on a git host: real git and git-lfs against a server on loopback."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from inference.__main__ import main
from inference.accounts import Account, Hubs, Secret
from inference.errors import Cancelled, DiskFull, UploadError, VerifyError
from inference.publish import publish, told
from inference.publishing.target import parse_target
from inference.sources.lfs import parse_pointer
from tests.fakes.git_host import run_git
from tests.internlm2_models import Form, write_model

pytestmark = pytest.mark.chaos
ROOT = Path(__file__).resolve().parents[3]
NAME = "camper/my-finetune"


@pytest.fixture
def settings(settings, host, account):
    host.create(NAME)
    return replace(settings, hubs=Hubs(openxlab_url=host.url, openxlab=account), download_attempts=2)


@pytest.fixture
def send(settings, reports):
    def run(folder, to=f"openxlab:{NAME}", *, hubs=None, **options):
        known = replace(settings, hubs=hubs) if hubs else settings
        return publish(folder, parse_target(to, known.hubs), known, reports, **options)

    return run


def files_of(host):
    """What the repository has: names and blobs, pointers resolved."""
    bare = host.folder / f"{NAME}.git"
    names = run_git(bare, "ls-tree", "-r", "--name-only", "main").split()
    found = {}
    for name in names:
        content = subprocess.run(
            ["git", "-c", "safe.directory=*", "cat-file", "blob", f"main:{name}"],
            cwd=bare,
            capture_output=True,
            check=True,
        ).stdout
        pointer = parse_pointer(content)
        found[name] = host.object(pointer.oid).read_bytes() if pointer else content
    return found


def uploads(host):
    return [asked for asked in host.of("PUT", "/lfs/objects/") if asked.signed_in]


def test_a_folder_is_published_whole_and_read_back(host, model, send):
    done = send(model)
    there = files_of(host)
    for path in model.iterdir():
        assert there[path.name] == path.read_bytes(), path.name
    assert done.sent
    assert {"README.md", ".gitattributes"} <= set(done.added)
    assert "filter=lfs" in there[".gitattributes"].decode()
    assert len(uploads(host)) == 4  # three shards and tokenizer.model


def test_the_card_is_in_chinese_and_english_and_the_folder_stays_as_it_is(host, model, send):
    before = sorted(path.name for path in model.iterdir())
    send(model)
    card = files_of(host)["README.md"].decode()
    assert "对话模型" in card
    assert "A chat model in the layout `internlm2`" in card
    assert sorted(path.name for path in model.iterdir()) == before


def test_a_card_that_is_there_stays(host, model, send):
    (model / "README.md").write_text("# mine\n")
    send(model)
    assert files_of(host)["README.md"] == b"# mine\n"


def test_a_second_run_sends_nothing(host, model, send):
    first = send(model)
    host.asked.clear()
    second = send(model)
    assert not second.sent
    assert second.commit == first.commit
    assert not host.of("PUT", "/")
    assert not host.of("POST", "git-receive-pack")
    assert "has it all already" in told(second, is_dry_run=False)
    bare = host.folder / f"{NAME}.git"
    assert run_git(bare, "rev-list", "--count", "main").strip() == "1"


def test_a_model_that_somebody_else_has_published_is_not_sent_again(host, model, send, settings, tmp_path):
    """What the seed does by hand: look whether the model centre has it already."""
    send(model)
    shutil.rmtree(settings.data_dir)
    host.asked.clear()
    assert not send(model).sent
    assert not host.of("PUT", "/")


def test_a_dry_run_sends_nothing_and_says_what_it_would(host, model, send):
    done = send(model, is_dry_run=True)
    assert not done.sent
    assert "would add: config.json" in told(done, is_dry_run=True)
    assert not host.of("PUT", "/")
    assert run_git(host.folder / f"{NAME}.git", "for-each-ref") == ""


def test_changed_weights_replace_the_old_ones(host, model, send):
    send(model)
    for path in model.glob("model*"):
        path.unlink()
    write_model(model, Form(shards=1, heads=16, kv_heads=4), seed=1)
    done = send(model)
    assert "model-00001-of-00003.safetensors" in done.removed
    assert "model.safetensors.index.json" in done.removed
    names = set(files_of(host))
    assert "model.safetensors" in names
    assert not [name for name in names if "-of-" in name]
    assert "README.md" in names


def test_an_interrupted_publication_goes_on_with_the_next_file(host, model, send):
    host.cut_uploads = 100
    with pytest.raises(UploadError, match="Given up after 2 attempts"):
        send(model)
    assert run_git(host.folder / f"{NAME}.git", "for-each-ref") == ""
    host.cut_uploads = 0
    send(model)
    assert files_of(host)["config.json"] == (model / "config.json").read_bytes()


def test_a_broken_connection_is_tried_again(host, model, send, reports):
    host.fail_next = 1
    assert send(model).sent
    assert "Trying again" in reports.text


def test_a_wrong_token_ends_with_the_variable_and_its_own_exit_code(host, model, send):
    begun = time.monotonic()
    wrong = Hubs(openxlab_url=host.url, openxlab=Account("camper", Secret("wrong-token")))
    with pytest.raises(UploadError, match="OPENXLAB_TOKEN") as caught:
        send(model, hubs=wrong)
    assert caught.value.exit_code == 12
    assert "wrong-token" not in caught.value.message
    assert time.monotonic() - begun < 15


def test_no_token_ends_without_a_prompt(host, model, send):
    with pytest.raises(UploadError, match="OPENXLAB_TOKEN"):
        send(model, hubs=Hubs(openxlab_url=host.url))


def test_a_repository_that_is_not_there_is_named(host, model, send):
    with pytest.raises(UploadError, match="Create it on the platform's web page"):
        send(model, to="openxlab:camper/none")


def test_a_pasted_address_with_a_token_works_and_is_not_kept(host, model, send, settings):
    address = host.url.replace("://", f"://{host.username}:{host.token}@") + f"//{NAME}.git"
    done = send(model, to=address, hubs=Hubs())
    assert done.sent
    assert host.token not in done.where
    kept = [path for path in settings.data_dir.rglob("*") if path.is_file() and not path.is_symlink()]
    assert not [path for path in kept if host.token.encode() in path.read_bytes()]


def test_a_repository_in_a_folder_works_too(model, send, tmp_path, home):
    bare = tmp_path / "bare.git"
    bare.mkdir()
    run_git(bare, "init", "--quiet", "--bare", "--initial-branch=main", ".")
    assert send(model, to=f"file://{bare}").sent
    assert not send(model, to=f"file://{bare}").sent
    stored = bare / "lfs" / "objects"
    oid = hashlib.sha256((model / "model-00001-of-00003.safetensors").read_bytes()).hexdigest()
    assert (stored / oid[:2] / oid[2:4] / oid).exists()


def test_weights_are_not_copied(host, model, send, settings):
    weights = sum(path.stat().st_size for path in model.glob("*.safetensors"))
    send(model)
    work = settings.data_dir / "publish"
    used = sum(path.lstat().st_size for path in work.rglob("*") if not path.is_dir())
    assert used < 200_000 < weights


@pytest.mark.parametrize("name", [".env", "id_rsa", "server.key", "token.txt", ".git-credentials", "credentials.json"])
def test_files_with_a_secrets_name_are_left_out(host, model, send, name):
    (model / name).write_text("secret=1")
    done = send(model)
    assert name in done.left_out
    assert name not in files_of(host)


@pytest.mark.parametrize(
    "content",
    [
        "token: hf_" + "a1B2c3D4e5" * 4,
        "-----BEGIN OPENSSH PRIVATE KEY-----\nabc",
        "pushed with right-token",
    ],
)
def test_a_file_with_a_secret_in_it_stops_it_all(host, model, send, content):
    (model / "notes.md").write_text(content)
    with pytest.raises(UploadError, match=r"notes.md holds") as caught:
        send(model)
    assert content.split()[-1] not in caught.value.message
    assert not host.asked


def test_caches_and_states_of_a_training_are_left_out(host, model, send):
    for name in ("__pycache__/a.pyc", ".cache/x", ".git/config", "optimizer.pt", "model.safetensors.partial"):
        path = model / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    send(model)
    names = set(files_of(host))
    assert not [name for name in names if "pyc" in name or ".cache" in name or name.startswith(".git/")]
    assert not names & {"optimizer.pt", "model.safetensors.partial"}


def test_a_large_file_that_lfs_does_not_track_is_refused(host, model, send):
    (model / ".gitattributes").write_text("*.safetensors filter=lfs diff=lfs merge=lfs -text\n")
    (model / "extra.dat").write_bytes(os.urandom(1000) * 11_000)
    with pytest.raises(UploadError, match=r"extra.dat has 11.0 MB.*extra.dat filter=lfs"):
        send(model)
    assert not host.of("PUT", "/")


def test_a_folder_that_cannot_be_used_is_not_published(host, model, send):
    (model / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(VerifyError, match=r"model-00002-of-00003.safetensors"):
        send(model)
    assert not host.asked


def test_pointers_are_not_published_as_weights(host, model, send):
    (model / "model-00002-of-00003.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 9\n"
    )
    with pytest.raises(VerifyError, match=r"model-00002-of-00003.safetensors"):
        send(model)


def test_a_full_disk_is_found_first(host, model, send, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))
    with pytest.raises(DiskFull, match=r"needs 167.1 MB of free disk.* has 0.0 MB"):
        send(model)


def test_a_stop_ends_it(host, model, send):
    stop = threading.Event()
    stop.set()
    with pytest.raises(Cancelled):
        send(model, cancelled=stop)


def test_the_persons_own_configuration_stays_as_it_is(host, model, send, home):
    before = (home / ".gitconfig").read_bytes()
    send(model)
    assert (home / ".gitconfig").read_bytes() == before
    assert [path.name for path in home.iterdir()] == [".gitconfig"]
    author = run_git(host.folder / f"{NAME}.git", "log", "-1", "--format=%an", "main").strip()
    assert author == "internlm-stack"


def test_the_command_publishes_and_ends_with_12_on_a_wrong_token(host, model, settings, monkeypatch, capsys):
    monkeypatch.setenv("DATA_DIR", str(settings.data_dir))
    monkeypatch.setenv("OPENXLAB_GIT_URL", host.url)
    monkeypatch.setenv("OPENXLAB_USERNAME", host.username)
    monkeypatch.setenv("OPENXLAB_TOKEN", "wrong-token")
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert main(["publish", str(model), "--to", f"openxlab:{NAME}"]) == 12
    said = capsys.readouterr().err
    assert "OPENXLAB_TOKEN" in said
    assert "wrong-token" not in said
    monkeypatch.setenv("OPENXLAB_TOKEN", host.token)
    assert main(["publish", str(model), "--to", f"openxlab:{NAME}"]) == 0
    assert "Published at" in capsys.readouterr().out
    assert main(["publish", str(model), "--to", "somewhere"]) == 2
    assert "openxlab:USER/REPO" in capsys.readouterr().err


ON_A_TERMINAL = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"


def test_on_a_terminal_a_token_is_asked_for_hidden_and_not_kept(host, model, settings, home):
    environ = {**os.environ, "DATA_DIR": str(settings.data_dir), "OPENXLAB_GIT_URL": host.url}
    environ["OPENXLAB_USERNAME"] = host.username
    publication = [sys.executable, "-m", "inference", "publish", str(model), "--to", f"openxlab:{NAME}"]
    command = [sys.executable, "-c", ON_A_TERMINAL, *publication]
    with subprocess.Popen(command, cwd=ROOT, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        said = b""
        while b"OPENXLAB_USERNAME) sets it): " not in said:
            said += process.stdout.read1()
            assert process.poll() is None, said
        time.sleep(0.2)  # getpass has turned the echo off before it has printed all of its prompt
        process.stdin.write(host.token.encode() + b"\n")
        process.stdin.flush()
        said += process.stdout.read()
    assert process.returncode == 0, said
    assert b"Published at" in said
    assert host.token.encode() not in said
    kept = [path for path in settings.data_dir.rglob("*") if path.is_file() and not path.is_symlink()]
    assert not [path for path in kept if host.token.encode() in path.read_bytes()]


def test_a_killed_publication_leaves_no_process_and_the_canary_is_nowhere(host, model, settings, home, tmp_path):
    host.token = canary = "canary-90b1d1f2a7"
    host.pause_uploads_s = 0.8
    log = tmp_path / "log"
    environ = {
        **os.environ,
        "DATA_DIR": str(settings.data_dir),
        "OPENXLAB_GIT_URL": host.url,
        "OPENXLAB_USERNAME": host.username,
        "OPENXLAB_TOKEN": canary,
    }
    command = [sys.executable, "-m", "inference", "publish", str(model), "--to", f"openxlab:{NAME}"]
    seen: set[str] = set()
    with log.open("wb") as out, subprocess.Popen(command, cwd=ROOT, env=environ, stdout=out, stderr=out) as process:
        deadline = time.monotonic() + 60
        while not host.of("PUT", "/lfs/objects/"):
            assert time.monotonic() < deadline, log.read_text()
            assert process.poll() is None, log.read_text()
            seen |= _command_lines()
            time.sleep(0.02)
        process.kill()
    deadline = time.monotonic() + 10
    work = str(settings.data_dir / "publish")
    while left := _command_lines(cwd=work):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)
    host.pause_uploads_s = 0
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    assert any("lfs push" in line for line in seen)
    assert not [line for line in seen if canary in line]
    files = [path for root in (settings.data_dir, home) for path in root.rglob("*") if path.is_file()]
    assert not [path for path in files if canary.encode() in path.read_bytes()]
    assert canary not in log.read_text() + done.stdout + done.stderr
    assert files_of(host)["config.json"] == (model / "config.json").read_bytes()


def _command_lines(cwd=""):
    """Of all processes, or of those whose current folder lies in `cwd`."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.readlink(entry / "cwd").startswith(cwd):
                found.add((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace"))
    return found

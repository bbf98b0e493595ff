"""The parts of fetching that touch no network: which files, pointers, git's words, attempts, askpass."""

import errno
import os
import subprocess
import threading
from types import SimpleNamespace

import pytest
from huggingface_hub.errors import HfHubHTTPError

from inference.catalogue import RemoteFile
from inference.errors import Cancelled, SourceError, VerifyError
from inference.sources import hub_child
from inference.sources.git import ASKPASS, failure
from inference.sources.lfs import Pointer, TransferLog, parse_pointer, rescue_incomplete
from inference.sources.reasons import REASONS, ConnectionLost
from inference.sources.remote import Attempts, agreed
from inference.sources.selection import choose_files

pytestmark = pytest.mark.unit
OID = "ab" * 32


def names(*listed, layout="internlm2", promised=()):
    files = [RemoteFile(name, 1, None) for name in listed]
    return {file.name for file in choose_files(files, promised, layout, "the hub")}


def test_safetensors_are_preferred_and_never_both():
    both = ("config.json", "model-00001-of-00001.safetensors", "pytorch_model.bin", "pytorch_model.bin.index.json")
    assert names(*both) == {"config.json", "model-00001-of-00001.safetensors"}


def test_the_tutorials_folder_gives_its_eight_shards_and_no_code():
    shards = [f"pytorch_model-{number:05d}-of-00008.bin" for number in range(1, 9)]
    small = ["config.json", "generation_config.json", "tokenizer.model", "tokenizer_config.json", "README.md"]
    small += ["special_tokens_map.json", "pytorch_model.bin.index.json"]
    code = ["configuration_internlm2.py", "modeling_internlm2.py", "tokenization_internlm2.py", ".gitattributes"]
    assert names(*shards, *small, *code) == {*shards, *small}


@pytest.mark.parametrize("name", ["optimizer.bin", "training_args.bin", "scheduler.pt", "rng_state_0.pth", "a.py"])
def test_states_of_a_training_and_code_are_left(name):
    assert name not in names("config.json", "model.safetensors", "pytorch_model.bin", name)


@pytest.mark.parametrize("name", ["../config.json", "/etc/config.json", "a/config.json", ".config.json", "a\\b.model"])
def test_names_that_lead_elsewhere_are_not_taken(name):
    assert names("model.safetensors", name) == {"model.safetensors"}


def test_what_lacks_is_named():
    with pytest.raises(SourceError, match=r"has no weights .* it has README.md"):
        names("README.md")
    with pytest.raises(SourceError, match=r"does not have b.gguf"):
        names("a.gguf", layout="gguf", promised=(RemoteFile("b.gguf", None, None),))
    with pytest.raises(SourceError, match="has 2 GGUF files"):
        names("a.gguf", "b.gguf", layout="gguf")
    assert names("a.gguf", "README.md", layout="gguf") == {"a.gguf"}


def test_the_catalogues_promise_is_compared_with_the_listing():
    listed = (RemoteFile("a.gguf", 5, None), RemoteFile("b", 1, None))
    assert agreed(listed, (RemoteFile("a.gguf", None, OID),), "the hub")[0] == RemoteFile("a.gguf", 5, OID)
    with pytest.raises(VerifyError, match=r"another a.gguf than the catalogue names \(5 instead of 6\)"):
        agreed(listed, (RemoteFile("a.gguf", 6, None),), "the hub")


def test_pointers_are_read_and_written():
    pointer = Pointer(OID, 12)
    assert parse_pointer(pointer.encode()) == pointer
    extended = pointer.encode().replace(b"\noid", b"\next-0-x sha256:" + b"0" * 64 + b"\noid")
    assert parse_pointer(extended) == pointer
    for wrong in (b"", b"{}", pointer.encode() + b"x" * 2000, pointer.encode().replace(b"sha256", b"md5")):
        assert parse_pointer(wrong) is None


def test_progress_is_summed_over_files_while_it_is_written(tmp_path):
    log = TransferLog(tmp_path / "log")
    assert log.read() == 0
    log.path.write_text("download 1/2 10/100 a b.bin\ndownload 2/2 5/50 c.bin\ncheckout 1/2 9/9 c.bin\ndownl")
    assert log.read() == 15
    with log.path.open("a") as file:
        file.write("oad 1/2 30/100 a b.bin\n")
    assert log.read() == 35


def test_what_a_killed_git_lfs_left_is_gone_on_with(tmp_path):
    folder = tmp_path / "lfs" / "incomplete"
    folder.mkdir(parents=True)
    (folder / f"{OID}123").write_bytes(b"12345")
    (folder / f"{OID}456").write_bytes(b"12")
    (folder / "other").write_bytes(b"")
    rescue_incomplete(tmp_path, [OID])
    assert {path.name for path in folder.iterdir()} == {f"{OID}.part", "other"}
    assert (folder / f"{OID}.part").read_bytes() == b"12345"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("fatal: Authentication failed for 'https://h/'", "auth"),
        ("fatal: could not read Username for 'https://h': terminal prompts disabled", "auth"),
        ("error: RPC failed; HTTP 403 curl 22 The requested URL returned error: 403", "auth"),
        ("git@h: Permission denied (publickey).", "auth"),
        ("fatal: repository 'https://h/x.git/' not found", "missing"),
        ("fatal: couldn't find remote ref v9", "missing"),
        ("fatal: unable to access 'https://h/': Could not resolve host: h", "network"),
        ("fatal: unable to access 'https://h/': The requested URL returned error: 503", "network"),
        ("fetch-pack: unexpected disconnect while reading sideband packet", "network"),
        ("error: file write error: No space left on device", "disk"),
        ("fatal: something new", "other"),
    ],
)
def test_gits_words_become_a_reason(line, reason):
    found = failure(["remote: Counting objects", line], 128)
    assert (found.reason, found.said) == (reason, line)


@pytest.mark.parametrize(
    ("hub", "module"), [("huggingface", "huggingface_hub.errors"), ("modelscope", "modelscope_hub.errors")]
)
def test_every_error_of_a_hubs_package_becomes_a_reason(hub, module):
    errors = pytest.importorskip(module)
    _, reason_of = hub_child._HUBS[hub]()
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert len(kinds) > 15
    for kind in kinds:
        error = kind.__new__(kind)
        for status in (400, 401, 404, 429, 503):
            error.response = SimpleNamespace(status_code=status)
            assert hub_child._reason(error, reason_of) in REASONS, kind


@pytest.mark.parametrize(
    ("status", "reason"),
    [(400, "other"), (401, "auth"), (403, "auth"), (404, "missing"), (429, "network"), (503, "network")],
)
def test_answers_of_hugging_face_become_reasons(status, reason):
    _, reason_of = hub_child._HUBS["huggingface"]()
    error = HfHubHTTPError.__new__(HfHubHTTPError)
    error.response = SimpleNamespace(status_code=status)
    assert hub_child._reason(error, reason_of) == reason


def test_a_full_disk_is_told_from_whatever_wraps_it():
    wrapped = RuntimeError("page")
    wrapped.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    assert hub_child._reason(wrapped, lambda _: "other") == "disk"
    assert hub_child._said(wrapped) == "No space left on device"


def test_attempts_in_a_row_without_progress_end_it():
    told = []
    attempts = Attempts(3, told.append, threading.Event(), first_pause_s=0.001)
    lost = ConnectionLost("gone.")
    attempts.failed(lost, 0)
    attempts.failed(lost, 0)
    attempts.failed(lost, 10)  # something came: the count begins again
    attempts.failed(lost, 10)
    with pytest.raises(SourceError, match="Given up after 3 attempts"):
        attempts.failed(lost, 10)
    assert len(told) == 4


def test_a_stop_ends_the_pause_between_attempts():
    stop = threading.Event()
    stop.set()
    with pytest.raises(Cancelled):
        Attempts(3, lambda _: None, stop, first_pause_s=60).failed(ConnectionLost("gone."))


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("Username for 'https://host:8443': ", "me\n"),
        ("Password for 'https://me@host:8443': ", "t0ken\n"),
        ('Password for "https://host:8443/a/b.git": ', "t0ken\n"),
        ("Password for 'https://me@other': ", ""),
        ("Password for 'http://host:8443': ", ""),
        ("Password for 'https://other/@host:8443': ", ""),
        ("Password for 'https://host:8443.evil.org': ", ""),
        ("Enter passphrase for key '/root/.ssh/id': ", ""),
    ],
)
def test_only_the_host_that_is_meant_gets_the_token(prompt, answer, tmp_path):
    assert os.access(ASKPASS, os.X_OK)
    environ = {
        "PATH": os.environ["PATH"],
        "INTERNLM_GIT_ORIGIN": "https://host:8443",
        "INTERNLM_GIT_USERNAME": "me",
        "INTERNLM_GIT_TOKEN": "t0ken",
        "INTERNLM_GIT_ASKED": str(tmp_path / "asked"),
    }
    done = subprocess.run([str(ASKPASS), prompt], env=environ, capture_output=True, text=True)
    assert done.stdout == answer
    assert (done.returncode == 0) == bool(answer)


def test_a_server_that_refuses_for_ever_is_not_answered_for_ever(tmp_path):
    """git-lfs asks again each time; this is where that ends."""
    (tmp_path / "asked").write_text("\n" * 64)
    environ = {
        "PATH": os.environ["PATH"],
        "INTERNLM_GIT_ORIGIN": "https://host",
        "INTERNLM_GIT_TOKEN": "t0ken",
        "INTERNLM_GIT_ASKED": str(tmp_path / "asked"),
    }
    done = subprocess.run([str(ASKPASS), "Password for 'https://host': "], env=environ, capture_output=True)
    assert (done.returncode, done.stdout) == (1, b"")

"""From a name to what an engine takes: fetched, converted, verified; interrupted, resumed, done once."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from inference.accounts import Hubs
from inference.catalogue import FolderSource, HubSource, Model, RemoteFile
from inference.errors import Cancelled, DiskFull, SettingsError, SourceError, VerifyError
from inference.prepare import prepare
from inference.verify import check_model
from tests.fakes.git_host import run_git
from tests.fakes.model_hub import model_hub
from tests.internlm2_models import Form, tokenizer_pieces, write_model, write_safetensors

pytestmark = pytest.mark.chaos
ROOT = Path(__file__).resolve().parents[3]
NAME = "OpenLMLab/internlm2-tiny"
LFS = ("model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors", "model-00003-of-00003.safetensors")


def catalogue_model(*hubs, layout="internlm2"):
    return Model(
        name="internlm2-tiny",
        title="Tiny",
        languages=("zh", "en"),
        licence="MIT",
        note_en="",
        note_zh="",
        layout=layout,
        prompt="internlm2",
        context_tokens=64,
        size_bytes=1_000_000,
        kv_bytes_per_token=128,
        sources=tuple(
            HubSource(hub, NAME, "master" if hub == "modelscope" else "main", layout=layout)
            for hub in hubs or ("modelscope", "huggingface", "openxlab")
        ),
    )


@pytest.fixture
def originals(model):
    return {path.name: path.read_bytes() for path in model.iterdir()}


@pytest.fixture
def openxlab(host, originals):
    host.fill(NAME, {**originals, "modeling_internlm2.py": b"raise SystemExit"}, lfs=(*LFS, "tokenizer.model"))
    return host


@pytest.fixture
def settings(settings, host):
    """Only OpenXLab answers; the other hubs are away."""
    away = "http://127.0.0.1:9"
    hubs = Hubs(openxlab_url=host.url, huggingface_url=away, modelscope_url=away)
    return replace(settings, hubs=hubs, download_attempts=1)


@pytest.fixture
def run(settings, reports):
    def prepare_tiny(model=None, *, form="llama", **changes):
        return prepare(model or catalogue_model("openxlab"), replace(settings, **changes), reports, form=form)

    return prepare_tiny


def test_a_model_is_fetched_converted_and_verified(openxlab, run, settings, reports):
    path = run()
    assert path == settings.models_dir / "internlm2-tiny-llama"
    assert json.loads((path / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]
    assert not [problem for problem in check_model(path) if problem.is_fatal]
    assert reports.stages == ["download", "verify", "convert"]
    assert (path / "manifest.json").exists()


def test_only_the_result_is_left_unless_the_original_is_to_be_kept(openxlab, run, settings):
    run()
    names = {entry.name for entry in settings.models_dir.iterdir()}
    assert names == {"internlm2-tiny-llama", "internlm2-tiny.lock"}
    shutil.rmtree(settings.models_dir)
    run(keep_original=True)
    assert (settings.models_dir / "internlm2-tiny-original" / "config.json").exists()
    assert not list(settings.models_dir.rglob("modeling_internlm2.py"))


def test_a_prepared_model_is_there_in_a_second_without_the_network(openxlab, run, reports):
    path = run()
    openxlab.asked.clear()
    reports.clear()
    begun = time.monotonic()
    assert run() == path
    assert time.monotonic() - begun < 1
    assert openxlab.asked == []
    assert reports == []


def test_sources_are_tried_in_order_and_each_failure_says_why(openxlab, run, reports):
    run(catalogue_model())
    assert [part for part in ("modelscope:", "huggingface:") if part in reports.text] == ["modelscope:", "huggingface:"]
    assert reports.text.index("modelscope:") < reports.text.index("huggingface:")


def test_when_no_source_serves_all_reasons_are_told(host, run):
    with pytest.raises(SourceError) as caught:
        run(catalogue_model())
    for part in ("any of 3 sources", "(1) ", "ModelScope", "(2) ", "Hugging Face", "(3) ", "no such repository"):
        assert part in caught.value.message


def test_the_order_of_the_sources_is_a_setting(openxlab, run, reports):
    run(catalogue_model(), sources=("openxlab", "modelscope"))
    assert "ModelScope" not in reports.text


def test_a_model_that_is_at_none_of_the_sources_asked_for_says_where_it_is(host, run):
    with pytest.raises(SourceError, match="it is at openxlab"):
        run(sources=("huggingface",))


def test_any_git_repository_can_be_the_source(openxlab, run):
    address = f"{openxlab.url}//{NAME}.git"
    assert run(catalogue_model("modelscope"), sources=(address,)).is_dir()


def test_huggingface_serves_the_same_model(home, originals, run, settings, tmp_path):
    with model_hub() as hub:
        hub.repositories[NAME] = originals
        hubs = replace(settings.hubs, huggingface_url=hub.url)
        path = run(catalogue_model("huggingface"), hubs=hubs)
    assert not [problem for problem in check_model(path) if problem.is_fatal]


@pytest.mark.parametrize("is_right", [True, False])
def test_a_ready_made_gguf_is_fetched_alone_and_compared_with_the_catalogue(home, run, settings, is_right):
    content = b"GGUF" + os.urandom(50_000)
    sha256 = hashlib.sha256(content if is_right else b"").hexdigest()
    source = HubSource("huggingface", NAME, "main", (RemoteFile("tiny-q8_0.gguf", None, sha256),), layout="gguf")
    with model_hub() as hub:
        hub.repositories[NAME] = {"tiny-q8_0.gguf": content, "tiny-f16.gguf": content * 2, "README.md": b"x"}
        known = {"hubs": replace(settings.hubs, huggingface_url=hub.url)}
        model = replace(catalogue_model(layout="gguf"), sources=(source,))
        if not is_right:
            with pytest.raises(VerifyError, match=r"another tiny-q8_0.gguf than the catalogue names"):
                run(model, form="gguf", **known)
            return
        path = run(model, form="gguf", **known)
        assert path == settings.models_dir / "internlm2-tiny-gguf" / "tiny-q8_0.gguf"
        assert path.read_bytes() == content
        assert hub.downloaded_bytes() == len(content)
        hub.asked.clear()
        assert run(model, form="gguf", **known) == path
        assert hub.asked == []


def test_llamacpp_gets_a_file(openxlab, run):
    path = run(form="gguf")
    assert path.name == "internlm2-tiny-Q8_0.gguf"
    assert path.read_bytes()[:4] == b"GGUF"
    openxlab.asked.clear()
    assert run(form="gguf") == path
    assert openxlab.asked == []


def test_a_folder_that_a_person_has_put_there_is_used_and_stays(host, model, run, settings):
    settings.models_dir.mkdir()
    shutil.copytree(model, settings.models_dir / "internlm2-tiny")
    assert run() == settings.models_dir / "internlm2-tiny-llama"
    assert host.asked == []
    assert (settings.models_dir / "internlm2-tiny" / LFS[0]).exists()


def test_a_half_clone_is_recognised_and_completed(openxlab, run, settings, originals, reports):
    """The seed's second start: the folder is there, git refuses to clone, and half a model would be loaded."""
    settings.models_dir.mkdir()
    clone = settings.models_dir / "internlm2-tiny"
    environ = {**os.environ, "GIT_LFS_SKIP_SMUDGE": "1"}
    subprocess.run(["git", "clone", "-q", f"{openxlab.url}/{NAME}.git", str(clone)], env=environ, check=True)
    assert (clone / LFS[0]).stat().st_size < 200
    run()
    assert (clone / LFS[0]).read_bytes() == originals[LFS[0]]
    assert f"going on with the clone {clone}" in reports.text


def test_pointers_in_a_folder_that_is_no_clone_are_named(host, model, run, settings):
    settings.models_dir.mkdir()
    folder = settings.models_dir / "internlm2-tiny"
    shutil.copytree(model, folder)
    (folder / LFS[1]).write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 9\n")
    with pytest.raises(VerifyError, match=LFS[1]):
        run()


@pytest.mark.parametrize("spoil", ["pointer", "missing", "cut"])
def test_a_broken_folder_of_the_persons_own_names_the_file(host, model, run, spoil):
    path = model / LFS[1]
    match spoil:
        case "pointer":
            path.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 9\n")
        case "missing":
            path.unlink()
        case "cut":
            path.write_bytes(path.read_bytes()[:-100])
    own = replace(catalogue_model(), sources=(FolderSource(model),))
    with pytest.raises(VerifyError, match=LFS[1]):
        run(own)


def test_a_changed_folder_is_converted_anew(host, model, run, reports):
    own = replace(catalogue_model(), sources=(FolderSource(model),))
    path = run(own)
    before = (path / "model-00001-of-00003.safetensors").read_bytes()
    reports.clear()
    assert run(own) == path
    assert reports.stages == []
    write_model(model, Form(shards=3, heads=16, kv_heads=4), seed=9)
    run(own)
    assert (path / "model-00001-of-00003.safetensors").read_bytes() != before


def test_another_file_beside_the_weights_does_not_have_them_hashed_again(host, model, run, reports):
    own = replace(catalogue_model(), sources=(FolderSource(model),))
    run(own)
    (model / "notes.txt").write_text("mine")
    reports.clear()
    run(own)
    assert not [news for news in reports if news.message.startswith("recording")]


def test_a_lora_adapter_of_the_persons_own_is_converted(host, run, tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["wo"]})
    )
    start = "base_model.model.model.layers.0.attention.wo"
    shapes = {f"{start}.lora_A.weight": (4, 128), f"{start}.lora_B.weight": (128, 4)}
    tensors = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    write_safetensors(adapter / "adapter_model.safetensors", tensors, "F32")
    path = run(replace(catalogue_model(), sources=(FolderSource(adapter),)))
    assert json.loads((path / "adapter_config.json").read_text())["target_modules"] == ["o_proj"]


def test_a_disk_that_is_too_small_is_found_before_the_weights_are_fetched(openxlab, run, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 5_000_000))
    with pytest.raises(DiskFull, match=r"internlm2-tiny \(.* MB\) while it is fetched and converted needs .* 5.0 MB"):
        run()
    assert not openxlab.of("GET", "/lfs/objects/")


def test_a_disk_that_becomes_full_is_named_and_nothing_counts_as_done(openxlab, run, settings, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(small)], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root can mount a small disk")
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 10**12))
            with pytest.raises(DiskFull):
                run(models_dir=small)
        assert not (small / "internlm2-tiny-llama" / "manifest.json").exists()
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_gguf_for_a_gpu_engine_is_refused(host, run, model):
    with pytest.raises(SettingsError, match=r"only llama.cpp runs"):
        run(replace(catalogue_model(layout="gguf")))


def test_a_model_in_llamas_layout_is_taken_as_it_is(openxlab, run, settings, host, tmp_path):
    converted = run()
    files = {p.name: p.read_bytes() for p in converted.iterdir() if p.name[0] != "." and p.name != "manifest.json"}
    host.fill(NAME, files, lfs=tuple(name for name in files if name.endswith(".safetensors")))
    shutil.rmtree(settings.models_dir)
    path = run(catalogue_model("openxlab", layout="llama"))
    assert path == settings.models_dir / "internlm2-tiny-llama"
    assert {entry.name for entry in settings.models_dir.iterdir()} == {"internlm2-tiny-llama", "internlm2-tiny.lock"}


def test_a_stop_ends_it_and_nothing_counts_as_done(openxlab, settings, reports):
    stop = threading.Event()
    openxlab.faults.bytes_per_s = 100_000
    threading.Timer(1.5, stop.set).start()
    with pytest.raises(Cancelled):
        prepare(catalogue_model("openxlab"), settings, reports, form="llama", cancelled=stop)
    assert not (settings.models_dir / "internlm2-tiny-llama").exists()


CATALOGUE = """
[[model]]
name = "internlm2-tiny"
title = "Tiny"
languages = ["zh", "en"]
licence = "MIT"
note_en = "t"
note_zh = "t"
layout = "internlm2"
prompt = "internlm2"
context_tokens = 64

[model.shape]
hidden = 256
layers = 2
heads = 16
kv_heads = 4
head_dim = 16
intermediate = 96
vocabulary = {vocabulary}

[[model.source]]
kind = "openxlab"
id = "OpenLMLab/internlm2-tiny"
"""


@pytest.fixture
def own_catalogue(tmp_path):
    path = tmp_path / "own.toml"
    path.write_text(CATALOGUE.format(vocabulary=tokenizer_pieces()))
    return path


@pytest.fixture
def command(openxlab, settings, own_catalogue):
    """`python -m inference …` in a process of its own, with a catalogue of the person's own."""
    openxlab.is_private = True
    environ = {
        **os.environ,
        "MODELS_DIR": str(settings.models_dir),
        "DATA_DIR": str(settings.data_dir),
        "INFERENCE_MODELS_FILE": str(own_catalogue),
        "OPENXLAB_GIT_URL": openxlab.url,
        "OPENXLAB_USERNAME": openxlab.username,
        "OPENXLAB_TOKEN": openxlab.token,
    }
    return [sys.executable, "-m", "inference"], environ


def test_a_killed_preparation_goes_on_inside_the_file(openxlab, command, settings):
    program, environ = command
    openxlab.faults.bytes_per_s = 400_000
    argv = [*program, "prepare", "--model", "internlm2-tiny", "--form", "llama"]
    status = settings.data_dir / "status.json"
    with subprocess.Popen(argv, cwd=ROOT, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 60
        while not (status.exists() and json.loads(status.read_text())["done"] > 250_000):
            assert time.monotonic() < deadline
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        process.kill()
    time.sleep(0.5)
    first = openxlab.downloaded_bytes()
    total = sum(path.stat().st_size for path in (openxlab.folder / "lfs").iterdir())
    openxlab.faults.bytes_per_s = 0
    done = subprocess.run(argv, cwd=ROOT, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert openxlab.downloaded_bytes() < total + 0.6 * first
    assert any(asked.range for asked in openxlab.of("GET", "/lfs/objects/"))
    assert not status.exists()


def test_download_convert_verify_publish_in_four_commands(openxlab, command, settings, tmp_path):
    """The way of the tutorial in our commands. With TRANSCRIPT_FILE set, what they print is kept there."""
    program, environ = command
    openxlab.create("camper/my-internlm2")
    llama = settings.models_dir / "internlm2-tiny-llama"
    commands = (
        ["prepare", "--model", "internlm2-tiny", "--form", "llama"],
        ["verify", str(llama)],
        ["publish", str(llama), "--to", "openxlab:camper/my-internlm2", "--dry-run"],
        ["publish", str(llama), "--to", "openxlab:camper/my-internlm2"],
        ["publish", str(llama), "--to", "openxlab:camper/my-internlm2"],
        ["prepare", "--model", "internlm2-tiny", "--form", "llama"],
    )
    transcript = ""
    for arguments in commands:
        done = subprocess.run(
            [*program, *arguments], cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        transcript += f"$ python -m inference {' '.join(arguments)}\n{done.stdout}\n"
        assert done.returncode == 0, transcript
    transcript = transcript.replace(str(tmp_path), "/srv").replace(openxlab.url, "https://code.openxlab.org.cn")
    if kept := os.environ.get("TRANSCRIPT_FILE"):
        Path(kept).write_text(transcript)
    assert "Published at" in transcript
    assert "has it all already" in transcript
    bare = openxlab.folder / "camper" / "my-internlm2.git"
    assert "config.json" in run_git(bare, "ls-tree", "--name-only", "main")

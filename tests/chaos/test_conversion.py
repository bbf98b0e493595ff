"""A conversion that is killed at any moment, and how much memory one takes."""

from __future__ import annotations

import json
import random
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from inference.llama_layout import internlm2_tensors
from inference.model_config import parse_config
from inference.verify import check_model
from tests.internlm2_models import Form, config_of, random_weights, write_model, write_safetensors, write_shards

pytestmark = pytest.mark.chaos

ROOT = Path(__file__).resolve().parents[2]
TOKENIZER = ROOT / "tests" / "recorded" / "internlm2" / "tokenizer.model"
MOST_ANONYMOUS_KB = 64 * 1024


def started(source: Path, target: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "inference", "convert", str(source), str(target)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Twelve files and InternLM2's own tokenizer, so that there is something to be killed in."""
    folder = tmp_path_factory.mktemp("source")
    form = Form(heads=8, kv_heads=4, head_dim=16, layers=12, intermediate=256, shards=12)
    write_shards(folder, random_weights(form, 92544), form)
    shutil.copy(TOKENIZER, folder)
    (folder / "config.json").write_text(json.dumps(config_of(form, 92544)))
    return folder


@pytest.mark.timeout(170)
def test_killed_at_any_moment_nothing_looks_finished_and_a_second_run_ends_it(source, tmp_path):
    whole = started(source, tmp_path / "whole")
    begun = time.monotonic()
    _, said = whole.communicate(timeout=60)
    assert whole.returncode == 0, said
    took = time.monotonic() - begun
    expected = contents(tmp_path / "whole")
    chance = random.Random(4)
    unfinished = 0
    for number in range(5):
        target = tmp_path / f"target{number}"
        for _ in range(3):
            process = started(source, target)
            time.sleep(chance.uniform(0.1, took))
            process.send_signal(signal.SIGKILL)
            process.communicate()
            if not (target / "config.json").exists():
                unfinished += 1
                assert not target.exists() or any(problem.is_fatal for problem in check_model(target))
                for path in target.glob("*.safetensors"):
                    assert path.read_bytes() == expected[path.name]
            else:
                assert [problem for problem in check_model(target) if problem.is_fatal] == []
        last = started(source, target)
        _, said = last.communicate(timeout=60)
        assert last.returncode == 0, said
        assert contents(target) == expected
        shutil.rmtree(target)
    assert unfinished >= 6


def test_an_interrupt_ends_with_its_code_and_leaves_no_file_under_way(source, tmp_path):
    process = started(source, tmp_path / "target")
    deadline = time.monotonic() + 30
    while not list(tmp_path.glob("target/*.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode in (0, 130), said
    assert b"Traceback" not in said
    assert not list(tmp_path.glob("target/.*.partial"))


def test_memory_stays_below_64_mib_whatever_the_size(tmp_path):
    """Anonymous memory, as the kernel tells it, watched closely: 2 GB of weights (sparse) and the real tokenizer."""
    source = tmp_path / "source"
    form = Form(heads=16, kv_heads=8, head_dim=128, layers=8, intermediate=8192)
    write_model(source, Form())
    sparse_model(source, form)
    process = started(source, tmp_path / "target")
    most = 0
    while process.poll() is None:
        most = max(most, anonymous_kb(process.pid))
        time.sleep(0.002)
    _, said = process.communicate()
    assert process.returncode == 0, said
    assert (tmp_path / "target" / "model.safetensors").stat().st_size > 1_700_000_000
    assert 5_000 < most < MOST_ANONYMOUS_KB


def test_memory_for_gguf_does_not_grow_with_the_tensors(tmp_path):
    """The embedding and the head have 379 MB each; their numbers pass as 32-bit ones, some rows at a time."""
    source = tmp_path / "source"
    write_model(source, Form())
    sparse_model(source, Form(heads=16, kv_heads=8, head_dim=128, layers=1, intermediate=1024))
    command = [sys.executable, "-m", "inference", "convert", str(source), str(tmp_path / "m.gguf"), "--gguf", "Q8_0"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    most = 0
    while process.poll() is None:
        most = max(most, anonymous_kb(process.pid))
        time.sleep(0.005)
    _, said = process.communicate()
    assert process.returncode == 0, said
    assert (tmp_path / "m.gguf").stat().st_size > 400_000_000
    assert 10_000 < most < 300_000, most


def sparse_model(folder: Path, form: Form) -> None:
    """Weights of zeros that take no room on the disk."""
    config = config_of(form, 92544)
    shutil.copy(TOKENIZER, folder)
    (folder / "tokenizer_config.json").unlink()
    (folder / "config.json").write_text(json.dumps(config))
    head, offset = {}, 0
    for name, shape in internlm2_tensors(parse_config(config, folder)).items():
        if not name.endswith(".bias"):
            size = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
            head[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, offset + size]}
            offset += size
    text = json.dumps(head).encode()
    with (folder / "model.safetensors").open("wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        out.truncate(8 + len(text) + offset)


def anonymous_kb(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("RssAnon")), 0)


def test_a_model_without_tensors_ends_with_its_code_and_one_sentence(tmp_path):
    source = tmp_path / "source"
    write_model(source, Form())
    write_safetensors(source / "model.safetensors", {}, "BF16")
    process = started(source, tmp_path / "target")
    _, said = process.communicate()
    assert process.returncode == 11
    assert b"'model.tok_embeddings.weight' and 16 more is missing" in said

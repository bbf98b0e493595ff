"""LMDeploy's command line, the stages in its log and its failures; the texts are those of version 0.18."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from inference.cards import wanted_card
from inference.catalogue import load_catalogue
from inference.engines.lmdeploy import KEY_VARIABLE, LmDeploy
from inference.machine import Machine
from inference.plan import make_plan

pytestmark = pytest.mark.unit


@pytest.fixture
def engine(settings, tmp_path):
    machine = Machine(8, 32 << 30, (wanted_card("A10"),), lmdeploy="/opt/lmdeploy/bin/lmdeploy")
    plan = make_plan(load_catalogue()["internlm2-chat-7b"], settings, machine)
    return LmDeploy(plan, tmp_path, machine.lmdeploy, port=23333).serving(Path("/models/ilm2"))


def test_the_command_line_is_as_planned(engine):
    python, dash_c, program, *rest = engine.argv()
    assert (python, dash_c) == ("/opt/lmdeploy/bin/python", "-c")
    assert rest == [
        *"serve api_server /models/ilm2 --model-name internlm2-chat-7b --server-name 127.0.0.1".split(),
        *"--server-port 23333 --chat-template hf --backend turbomind --tp 1 --session-len 8192".split(),
        *"--max-batch-size 32 --max-prefill-token-num 4096 --cache-max-entry-count 0.8 --quant-policy 0".split(),
        *"--log-level INFO --enable-prefix-caching --disable-fastapi-docs".split(),
    ]
    assert "--max-concurrent-requests" not in rest
    assert engine.api_key not in program + " ".join(rest) + repr(engine)


def test_the_key_reaches_lmdeploy_but_neither_the_process_list_nor_its_environment(engine, tmp_path):
    """With a stand-in package that tells what its entry point was given."""
    package = tmp_path / "lmdeploy"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "cli.py").write_text(
        "import json, os, sys\n"
        "def run():\n"
        "    listed = open('/proc/self/cmdline').read() if os.path.exists('/proc/self/cmdline') else ''\n"
        f"    print(json.dumps([sys.argv, listed, '{KEY_VARIABLE}' in os.environ]))\n"
    )
    environment = engine.environment() | {"PYTHONPATH": str(tmp_path)}
    command = [sys.executable, *engine.argv()[1:]]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    argv, listed, is_in_environment = json.loads(done.stdout)
    assert (argv[0], argv[1:3]) == ("lmdeploy", ["serve", "api_server"])
    assert argv[-2:] == ["--api-keys", engine.api_key]
    assert engine.api_key not in listed
    assert not is_in_environment


def test_its_environment_is_offline_and_without_traps(engine, monkeypatch):
    monkeypatch.setenv("LMDEPLOY_USE_MODELSCOPE", "True")
    monkeypatch.setenv("HF_TOKEN", "secret")
    environment = engine.environment()
    assert not {"LMDEPLOY_USE_MODELSCOPE", "HF_TOKEN"} & set(environment)
    assert (environment["HF_HUB_OFFLINE"], environment["PYTHONUNBUFFERED"]) == ("1", "1")
    assert float(environment["UVICORN_TIMEOUT_KEEP_ALIVE"]) > 5
    assert environment["PATH"] == os.environ["PATH"]


def test_stages_are_read_from_its_log(engine):
    news = engine.news_of("Loading:  44%|████▍     | 14/32 [00:03<00:04,  4.21it/s]")
    assert (news.stage, news.message) == ("load", "loading the model: 14 of 32 parts (44 %)")
    assert (
        engine.news_of("[TM][INFO][…] Object cache budget: 5775 MB from free 7219 MB and ratio 0.800").stage == "warmup"
    )
    assert engine.news_of("INFO:     Uvicorn running on http://127.0.0.1:23333").stage == "warmup"
    assert engine.news_of("HINT:    Please open http://127.0.0.1:23333") is None


@pytest.mark.parametrize(
    ("line", "code", "part"),
    [
        ("RuntimeError: Found no NVIDIA driver on your system. Please check", 1, "no NVIDIA card or driver"),
        ("AssertionError: Torch not compiled with CUDA enabled", 1, "no NVIDIA card or driver"),
        ("Fallback to pytorch engine because turbomind is not built.", 1, "libraries are missing or mixed"),
        ("[Errno 98] error while attempting to bind on address ('127.0.0.1', 23333)", 3, "port is taken"),
        ("[TM][FATAL][x] CUDA error: out of memory", -6, "The card's memory ran out. Set INFERENCE_CONTEXT"),
        ("torch.OutOfMemoryError: CUDA out of memory.", 1, "The card's memory ran out"),
        ("RuntimeError: No enough gpu memory for kv cache.", 1, "The card's memory ran out"),
        ("huggingface_hub.errors.LocalEntryNotFoundError: Cannot find", 1, "folder is not there"),
        ("KeyError: 'model.layers.1.attention.wqkv.weight'", 1, "The weight model.layers.1.attention.wqkv.weight"),
        ("SafetensorError: Error while deserializing header: HeaderTooLarge", 1, "damaged (HeaderTooLarge)"),
        ("lmdeploy: error: unrecognized arguments: --quant-policy 8", 2, "(unrecognized arguments: --quant-policy 8)"),
        ("[TM][FATAL] CUDA error: an illegal memory access was encountered", -6, "The card failed: an illegal memory"),
        ("PyTorch ZMQ engine process is not alive.", 1, "engine process died"),
        ("ModuleNotFoundError: No module named 'lmdeploy'", 1, "pip install lmdeploy"),
        ("", -9, "killed from outside"),
        ("", -6, "gave up (SIGABRT)"),
        ("something new", 1, "ended with code 1. Its last lines: something new"),
    ],
)
def test_the_cause_is_plain(engine, line, code, part):
    text = engine.explain([line], code)
    assert part in text
    assert "{" not in text


def test_it_is_interrupted_twice_after_the_polite_request(engine):
    assert engine.stop_signals == (signal.SIGTERM, signal.SIGINT, signal.SIGINT)

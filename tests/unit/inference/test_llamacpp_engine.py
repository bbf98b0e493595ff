"""llama.cpp's command line, and its reasons in plain words: the logs are as recorded from the real server."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from inference.catalogue import load_catalogue
from inference.engines.llamacpp import LlamaCpp
from inference.machine import Machine
from inference.plan import make_plan
from inference.settings import DEFAULT_MODEL

pytestmark = pytest.mark.unit

CANNOT = "EXC Failed to init server, please check the input params."


@pytest.fixture
def engine(settings):
    plan = make_plan(load_catalogue()[DEFAULT_MODEL], settings, Machine(4, 8 << 30))
    return LlamaCpp(plan, Path("/run/x"))


def test_endpoint_and_key_are_known_before_the_model_and_stay(engine):
    assert engine.endpoint == "unix:/run/x/llama.sock"
    ready = engine.serving(Path("/models/m.gguf"))
    assert (ready.endpoint, ready.api_key) == (engine.endpoint, engine.api_key)
    assert len(engine.api_key) > 40


def test_each_engine_has_its_own_key(engine):
    assert LlamaCpp(engine.plan, engine.folder).api_key != engine.api_key


def test_the_key_is_in_the_environment_only(engine, tmp_path):
    ready = replace(engine, folder=tmp_path).serving(Path("/models/m.gguf"))
    assert engine.api_key not in " ".join(ready.argv()) + repr(ready)
    assert engine.api_key in ready.environment().values()


def test_the_context_is_that_of_all_slots(engine):
    config = json.loads(engine.serving(Path("/models/m.gguf")).argv()[-1])
    assert (config["context_tokens"], config["slots"], config["threads"]) == (4 * 4096, 4, 3)
    assert config["alias"] == DEFAULT_MODEL
    assert config["prompt_cache_mib"] == 512


@pytest.mark.parametrize(
    ("line", "code", "part"),
    [
        ("0.0 E gguf_init_from_reader: failed to read key-value pairs", 4, "cut short or damaged"),
        ("0.0 E read: string length 20 exceeds remaining file size 18 bytes", 4, "cut short or damaged"),
        ("error loading model: tensor 'output_norm.weight' data is not within the file bounds", 4, "cut short"),
        ("0.0 E gguf_init_from_reader: failed to read magic", 4, "cut short or damaged"),
        ("0.0 E gguf_init_from_reader: invalid magic characters: '[F??', expected 'GGUF'", 4, "not a GGUF file"),
        ("this GGUF file is version 99 but this software only supports up to version 3", 4, "GGUF version 99"),
        ("error loading model: unknown model architecture: 'lhama'", 4, "the architecture 'lhama'"),
        ("failed to open GGUF file 'm.gguf' (No such file or directory)", 4, "cannot be opened: No such file"),
        ("0.1 E ggml_aligned_malloc: insufficient memory (attempted to allocate 360.00 MB)", 4, "INFERENCE_SLOTS"),
        ("couldn't bind HTTP server socket, hostname: /run/x/a.sock, port: 0", 4, "/run/x/a.sock"),
        ("cannot import xllamacpp: No module named 'xllamacpp'", 3, "make setup"),
        ("cannot import xllamacpp: libgomp.so.1: cannot open shared object file", 3, "libgomp.so.1"),
        ("", -9, "the memory ran out"),
        ("", -4, "too old"),
        ("", -7, "changed or cut while it was in use"),
        ("", -11, "crashed (SIGSEGV)"),
        ("", -64, "crashed"),
        ("something new", 1, "ended with code 1. Its last lines: something new"),
    ],
)
def test_the_cause_is_plain(engine, line, code, part):
    text = engine.serving(Path("/models/m.gguf")).explain([line, CANNOT] if line and code == 4 else [line], code)
    assert part in text
    assert "{" not in text


def test_stages_are_read_from_the_log(engine):
    assert engine.news_of("0.00.003.475 I srv          init: loading model").stage == "load"
    assert engine.news_of("0.01.271.970 I srv          init: model loaded").stage == "warmup"
    assert engine.news_of("0.01.271.986 I srv          init: initializing ...") is None


def test_text_that_people_typed_is_left_out_of_the_log(engine):
    line = """W srv operator(): got exception: {"error":{"message":"parse error; last read: 'my secret'"}}"""
    assert engine.redacted(line) == "W srv operator(): got exception: [left out]"
    assert engine.redacted("I srv init: model loaded") == "I srv init: model loaded"

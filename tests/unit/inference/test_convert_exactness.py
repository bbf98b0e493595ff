"""Converted models compute what their sources compute: bytes by name, and logits in 64-bit floats."""

from __future__ import annotations

import json

import numpy as np
import pytest

from inference.convert import convert
from tests.internlm2_models import (
    Form,
    internlm2_logits,
    llama_logits,
    numbers,
    read_safetensors,
    write_model,
)

pytestmark = pytest.mark.unit

DYNAMIC = {"type": "dynamic", "factor": 2.0}
LINEAR = {"type": "linear", "factor": 4.0}
FORMS = {
    "one file, as the 1.8B model's heads": Form(heads=16, kv_heads=8, head_dim=8),
    "two files": Form(shards=2),
    "three files of float16": Form(shards=3, dtype="F16"),
    "float32": Form(dtype="F32"),
    "a key-value head": Form(heads=4, kv_heads=1),
    "as many key-value heads as heads": Form(heads=4, kv_heads=4),
    "six query heads a group": Form(heads=12, kv_heads=2, head_dim=8),
    "biases": Form(has_bias=True, shards=2),
    "torch's files": Form(kind="bin"),
    "three of torch's files with biases": Form(kind="bin", shards=3, has_bias=True, dtype="F16"),
    "torch's file of float32": Form(kind="bin", dtype="F32", kv_heads=8),
    "dynamic scaling": Form(rope_scaling=DYNAMIC),
    "dynamic scaling in torch's files": Form(rope_scaling={"type": "dynamic", "factor": 6.0}, kind="bin", shards=2),
    "linear scaling": Form(rope_scaling=LINEAR, theta=1000000.0),
    "linear scaling of one key-value head": Form(rope_scaling=LINEAR, heads=4, kv_heads=1, has_bias=True),
}


@pytest.mark.parametrize("mistake", ["queries of other groups", "keys for values", "rotary halves", "no scaling"])
def test_the_comparison_would_show_a_mistake(mistake, tmp_path, reports):
    """The first position hides most of them."""
    form = Form(rope_scaling=LINEAR)
    before = write_model(tmp_path / "source", form)
    convert(tmp_path / "source", tmp_path / "target", reports)
    source_config, config = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("source", "target"))
    target = {key: numbers(values, dtype) for key, (dtype, values) in read_safetensors(tmp_path / "target").items()}
    start = "model.layers.0.self_attn."
    match mistake:
        case "queries of other groups":
            heads = target[f"{start}q_proj.weight"].reshape(form.heads, form.head_dim, -1)
            order = heads.reshape(form.kv_heads, -1, *heads.shape[1:]).swapaxes(0, 1)
            target[f"{start}q_proj.weight"] = order.reshape(-1, form.hidden)
        case "keys for values":
            names = [f"{start}{part}_proj.weight" for part in "kv"]
            target[names[0]], target[names[1]] = target[names[1]], target[names[0]]
        case "rotary halves":
            for part in "qk":
                heads = target[f"{start}{part}_proj.weight"].reshape(-1, form.head_dim // 2, 2, form.hidden)
                target[f"{start}{part}_proj.weight"] = heads.swapaxes(1, 2).reshape(-1, form.hidden)
        case "no scaling":
            config["rope_scaling"] = None
    source = {key: numbers(values, form.dtype) for key, values in before.items()}
    ids = np.random.default_rng(1).integers(0, config["vocab_size"], 50)
    off = np.abs(llama_logits(target, config, ids) - internlm2_logits(source, source_config, ids))
    assert off.max() > 0.3


@pytest.mark.parametrize("name", FORMS)
def test_logits_are_those_of_the_source(name, tmp_path, reports):
    form = FORMS[name]
    before = write_model(tmp_path / "source", form)
    assert convert(tmp_path / "source", tmp_path / "target", reports) == tmp_path / "target"
    after = read_safetensors(tmp_path / "target")
    assert {dtype for dtype, _ in after.values()} == {form.dtype}
    assert sum(values.nbytes for _, values in after.values()) == sum(values.nbytes for values in before.values())
    source_config = json.loads((tmp_path / "source" / "config.json").read_text())
    target_config = json.loads((tmp_path / "target" / "config.json").read_text())
    source = {key: numbers(values, form.dtype) for key, values in before.items()}
    target = {key: numbers(values, dtype) for key, (dtype, values) in after.items()}
    for length in (50, 150):  # the limit is 64
        ids = np.random.default_rng(length).integers(0, source_config["vocab_size"], length)
        wanted, found = internlm2_logits(source, source_config, ids), llama_logits(target, target_config, ids)
        assert np.abs(wanted).max() > 1
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)
        assert (found.argmax(-1) == wanted.argmax(-1)).all()

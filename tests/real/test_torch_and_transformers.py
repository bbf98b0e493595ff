"""Files that torch itself writes, and what transformers makes of a converted folder. Skipped without torch.

`make setup-torch` brings both.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference.convert import convert
from inference.errors import VerifyError
from inference.vocabulary import NAMES
from inference.weights.checkpoint import read_weights
from tests.internlm2_models import (
    NUMPY,
    Form,
    config_of,
    internlm2_logits,
    numbers,
    random_weights,
    read_safetensors,
    write_model,
    write_shards,
)

pytestmark = [pytest.mark.real, pytest.mark.filterwarnings("ignore")]
if "torch" in os.environ.get("TESTS_MAY_NOT_SKIP", ""):
    import torch
    import transformers
else:
    torch = pytest.importorskip("torch", reason="torch is not installed: make setup-torch")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed: make setup-torch")
ROOT = Path(__file__).resolve().parents[2]
SILENT: Any = lambda news: None  # noqa: E731
TOKENIZER = ROOT / "tests" / "recorded" / "internlm2" / "tokenizer.model"


def tensor_of(values, dtype):
    if dtype == "BF16":
        return torch.from_numpy(values.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(values.copy())


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("has_parameters", [False, True])
def test_shards_saved_by_torch_are_converted_byte_for_byte(tmp_path, dtype, has_parameters):
    form = Form(dtype=dtype, kind="bin", shards=2, has_bias=True)
    weights = write_model(tmp_path / "source", form)
    names = list(weights)
    for number, part in enumerate((names[: len(names) // 2 + 1], names[len(names) // 2 + 1 :]), start=1):
        state = {name: tensor_of(weights[name], dtype) for name in part}
        if has_parameters:
            state = {name: torch.nn.Parameter(values) for name, values in state.items()}
        torch.save(state, tmp_path / "source" / f"pytorch_model-{number:05d}-of-00002.bin")
    convert(tmp_path / "source", tmp_path / "target", SILENT)
    write_model(tmp_path / "other", Form(dtype=dtype, has_bias=True))
    convert(tmp_path / "other", tmp_path / "expected", SILENT)
    found, wanted = read_safetensors(tmp_path / "target"), read_safetensors(tmp_path / "expected")
    assert found.keys() == wanted.keys()
    for name, (kind, values) in wanted.items():
        assert found[name][0] == kind
        assert found[name][1].tobytes() == values.tobytes()


def test_a_modules_state_with_tied_and_sliced_tensors_is_read(tmp_path):
    module = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Linear(6, 4)).to(torch.bfloat16)
    state = module.state_dict()  # an OrderedDict with `_metadata`
    state["tied"] = state["0.weight"]
    state["rows"] = state["0.weight"][2:4]
    path = tmp_path / "pytorch_model.bin"
    torch.save(state, path)
    content = path.read_bytes()
    for tensor in read_weights(path):
        values = np.frombuffer(content[tensor.offset : tensor.offset + tensor.size_bytes], NUMPY[tensor.dtype])
        assert (values.reshape(tensor.shape).view(np.int16) == state[tensor.name].view(torch.int16).numpy()).all()


def test_what_torch_saves_otherwise_is_refused(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    torch.save({"a": torch.zeros(4, 6).t()}, path)
    with pytest.raises(VerifyError, match="not stored row after row"):
        read_weights(path)
    torch.save({"a": torch.zeros(4)}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(VerifyError, match="older than"):
        read_weights(path)
    torch.save({"a": torch.zeros(4, dtype=torch.int64)}, path)
    with pytest.raises(VerifyError, match="LongStorage"):
        read_weights(path)
    torch.save({"model": {"a": torch.zeros(4)}}, path)
    with pytest.raises(VerifyError, match="'model', which is no tensor"):
        read_weights(path)
    torch.save(torch.nn.Linear(2, 2), path)
    with pytest.raises(VerifyError, match=r"it names torch\.nn\.modules\.linear\.Linear"):
        read_weights(path)


@pytest.mark.parametrize(
    "form",
    [
        Form(has_bias=True),
        Form(rope_scaling={"type": "dynamic", "factor": 2.0}),
        Form(heads=4, kv_heads=1, rope_scaling={"type": "linear", "factor": 4.0}),
    ],
    ids=["biases", "dynamic", "linear"],
)
def test_transformers_llama_computes_what_the_source_does(tmp_path, form):
    weights = write_model(tmp_path / "source", form)
    convert(tmp_path / "source", tmp_path / "target", SILENT)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "target").to(torch.float64)
    config = json.loads((tmp_path / "source" / "config.json").read_text())
    exact = {name: numbers(values, form.dtype) for name, values in weights.items()}
    for length in (50, 150):
        ids = np.random.default_rng(length).integers(0, config["vocab_size"], length)
        with torch.no_grad():
            found = model(torch.from_numpy(ids)[None]).logits[0].numpy()
        np.testing.assert_allclose(
            found, internlm2_logits(exact, config, ids), rtol=0, atol=1e-3
        )  # its rotary table has 32 bits


def test_transformers_tokenizer_is_ours(tmp_path):
    source, target, saved = tmp_path / "source", tmp_path / "target", tmp_path / "saved"
    source.mkdir()
    form = Form(heads=2, kv_heads=1, head_dim=16, layers=1, intermediate=32)
    write_shards(source, random_weights(form, 92544), form)
    shutil.copy(TOKENIZER, source)
    (source / "config.json").write_text(json.dumps(config_of(form, 92544)))
    convert(source, target, SILENT)
    first = transformers.AutoTokenizer.from_pretrained(target)
    first.save_pretrained(saved)  # as TGI's router does
    chat = [1, 92543, 1008, 364, 6176, 92542, 364, 92543, 525, 11353, 364]
    for tokenizer in (first, transformers.AutoTokenizer.from_pretrained(saved)):
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
        )
        assert tokenizer(text, add_special_tokens=False).input_ids == chat
        assert tokenizer("hi").input_ids == [1, 6176]
        assert tokenizer.convert_tokens_to_ids(list(NAMES)) == list(range(92538, 92544))
        shown = tokenizer.decode([1, 264, 92541, 92538, 364, 92540, 92542], skip_special_tokens=True)
        assert shown == "a<|action_start|><|plugin|>\n<|action_end|>"
        assert len(tokenizer) == 92544
        assert tokenizer.eos_token_id == 2

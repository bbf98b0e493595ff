"""GGUF files of small random models in llama.cpp: probabilities against NumPy, tokens against sentencepiece."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import sentencepiece

from inference.to_gguf import write_gguf
from tests.internlm2_models import Form, config_of, internlm2_logits, numbers, random_weights, write_model, write_shards
from tests.llamacpp_child import llamacpp
from tests.real.test_internlm2_tokenizer import MODEL, ROWS, sentencepiece_form, varied_texts

pytestmark = pytest.mark.real

SILENT: Any = lambda news: None  # noqa: E731
FORMS = {
    "grouped queries": Form(heads=8, kv_heads=2, head_dim=32),
    "biases": Form(heads=4, kv_heads=1, head_dim=32, has_bias=True),
    "linear scaling": Form(heads=4, kv_heads=2, head_dim=32, rope_scaling={"type": "linear", "factor": 4.0}),
    "dynamic scaling below its limit": Form(head_dim=32, rope_scaling={"type": "dynamic", "factor": 2.0}),
    "torch's files": Form(heads=4, kv_heads=4, head_dim=32, kind="bin", shards=2),
}


@pytest.mark.parametrize("name", FORMS)
def test_probabilities_are_those_of_the_source(name, tmp_path):
    form = replace(FORMS[name], dtype="F16")
    weights = write_model(tmp_path / "source", form)
    config = json.loads((tmp_path / "source" / "config.json").read_text())
    ids = np.random.default_rng(3).integers(3, config["vocab_size"], 50)
    logits = internlm2_logits({key: numbers(values, form.dtype) for key, values in weights.items()}, config, ids)[-1]
    wanted = logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())
    file = write_gguf(tmp_path / "source", tmp_path / "model.gguf", "F16", SILENT)
    body = {"prompt": ids.tolist(), "n_predict": 1, "temperature": 0, "n_probs": 8, "cache_prompt": False}
    with llamacpp(file, tmp_path / "run", context=64) as ask:
        found = ask("/completion", body)["completion_probabilities"][0]["top_logprobs"]
    assert [entry["id"] for entry in found[:1]] == [int(wanted.argmax())]
    for entry in found:
        assert entry["logprob"] == pytest.approx(wanted[entry["id"]], abs=0.03)


@pytest.fixture(scope="module")
def internlm2_file(tmp_path_factory):
    """A tiny model with InternLM2's own tokenizer."""
    folder = tmp_path_factory.mktemp("internlm2")
    form = Form(heads=2, kv_heads=1, head_dim=32, layers=1, intermediate=64)
    shutil.copy(MODEL, folder)
    write_shards(folder, random_weights(form, ROWS), form)
    (folder / "config.json").write_text(json.dumps(config_of(form, ROWS)))
    return write_gguf(folder, folder / "made", "Q8_0", SILENT)


def test_texts_have_sentencepieces_tokens_in_llamacpp(internlm2_file, tmp_path):
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(MODEL))
    texts = [text for text in varied_texts(random.Random(9), 3000) if "\0" not in text and len(text) < 2000]
    different = []
    with llamacpp(internlm2_file, tmp_path) as ask:
        for text in texts:
            body = {"content": text, "add_special": False, "parse_special": True}
            found = ask("/tokenize", body)["tokens"]
            if found != theirs.encode(sentencepiece_form(text)):
                different.append((text, found, theirs.encode(sentencepiece_form(text))))
    assert not different, (len(different), different[:5])


def test_nul_is_a_byte_and_the_chat_has_its_ids(internlm2_file, tmp_path):
    with llamacpp(internlm2_file, tmp_path) as ask:
        assert ask("/tokenize", {"content": "a\0b", "add_special": False})["tokens"] == [264, 3, 260]
        template = ask("/apply-template", {"messages": [{"role": "user", "content": "hi"}]})["prompt"]
        tokens = ask("/tokenize", {"content": template, "add_special": False, "parse_special": True})["tokens"]
        shown = ask("/detokenize", {"tokens": [92541, 92538, 92540]})["content"]
    chat = [92543, 1008, 364, 6176, 92542, 364, 92543, 525, 11353, 364]
    assert tokens in (chat, [1, *chat])
    assert shown == "<|action_start|><|plugin|><|action_end|>"

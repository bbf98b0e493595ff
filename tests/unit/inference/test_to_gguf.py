"""GGUF files read back by the package: entries, types, rows; and what is refused."""

from __future__ import annotations

import json
import shutil
import threading

import gguf
import numpy as np
import pytest

from inference import to_gguf
from inference.convert import convert
from inference.errors import Cancelled, ConvertError, DiskFull, VerifyError
from inference.to_gguf import write_gguf
from inference.verify import check_model
from tests.internlm2_models import (
    Form,
    llama_frequencies,
    numbers,
    read_safetensors,
    write_model,
    write_safetensors,
)

pytestmark = pytest.mark.unit


def read(path):
    reader = gguf.GGUFReader(path)
    return {key: field.contents() for key, field in reader.fields.items()}, {one.name: one for one in reader.tensors}


def values(tensor):
    return gguf.quants.dequantize(tensor.data, tensor.tensor_type)


def change(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0"])
def test_both_layouts_give_the_same_weights_in_llamacpps_order(tmp_path, reports, kind):
    form = Form(heads=8, kv_heads=2, head_dim=16, has_bias=True, shards=2)
    write_model(tmp_path / "source", form)
    convert(tmp_path / "source", tmp_path / "llama", reports)
    direct = write_gguf(tmp_path / "source", tmp_path / "direct.gguf", kind, reports)
    entries, found = read(direct)
    _, other = read(write_gguf(tmp_path / "llama", tmp_path, kind, reports))
    assert (tmp_path / f"llama-{kind}.gguf").exists()
    assert {name: one.data.tobytes() for name, one in found.items()} == {
        name: one.data.tobytes() for name, one in other.items()
    }
    weights = {name: numbers(each, dtype) for name, (dtype, each) in read_safetensors(tmp_path / "llama").items()}
    exact = 0.02 if kind == "Q8_0" else 1e-3
    for part, heads in (("q", 8), ("k", 2)):
        for ending in ("weight", "bias"):
            rows = weights[f"model.layers.1.self_attn.{part}_proj.{ending}"].reshape(heads, 2, 8, -1)
            wanted = rows.swapaxes(1, 2).reshape(heads * 16, -1).squeeze()
            np.testing.assert_allclose(values(found[f"blk.1.attn_{part}.{ending}"]), wanted, atol=exact)
    head = values(found["output.weight"])
    np.testing.assert_allclose(head, weights["lm_head.weight"], atol=exact)
    assert entries["general.architecture"] == "llama"
    assert entries["llama.attention.head_count_kv"] == 2
    assert entries["llama.context_length"] == 64
    assert entries["tokenizer.ggml.add_space_prefix"] is False
    ids = entries["llama.vocab_size"] - 2
    assert (entries["tokenizer.ggml.eos_token_id"], entries["tokenizer.ggml.eot_token_id"]) == (2, ids)
    assert "<|im_start|>" in entries["tokenizer.chat_template"]
    assert check_model(direct) == []


def test_rows_that_cannot_be_cut_in_blocks_stay_in_16_bits(tmp_path, reports):
    write_model(tmp_path / "source", Form(heads=2, kv_heads=1, head_dim=12, intermediate=64))
    _, found = read(write_gguf(tmp_path / "source", tmp_path / "m.gguf", "Q8_0", reports))
    assert found["blk.0.attn_q.weight"].tensor_type == gguf.GGMLQuantizationType.F16
    assert found["blk.0.ffn_down.weight"].tensor_type == gguf.GGMLQuantizationType.Q8_0
    assert found["blk.0.attn_norm.weight"].tensor_type == gguf.GGMLQuantizationType.F32


def test_numbers_beyond_float16_are_refused_by_name(tmp_path, reports):
    weights = write_model(tmp_path / "source", Form())
    weights["model.layers.1.feed_forward.w2.weight"][3, 4] = 0x7F00  # 1.7e38
    write_safetensors(tmp_path / "source" / "model.safetensors", weights, "BF16")
    with pytest.raises(ConvertError, match=r"'model\.layers\.1\.mlp\.down_proj\.weight' holds numbers"):
        write_gguf(tmp_path / "source", tmp_path / "m.gguf", "F16", reports)
    assert not list(tmp_path.glob("*.gguf")) + list(tmp_path.glob(".*.partial"))
    assert check_model(write_gguf(tmp_path / "source", tmp_path / "m.gguf", "BF16", reports)) == []


def test_linear_scaling_is_a_setting_from_both_layouts(tmp_path, reports):
    write_model(tmp_path / "source", Form(rope_scaling={"type": "linear", "factor": 4.0}))
    convert(tmp_path / "source", tmp_path / "llama", reports)
    for name in ("source", "llama"):
        entries, found = read(write_gguf(tmp_path / name, tmp_path / f"{name}.gguf", "F16", reports))
        assert (entries["llama.rope.scaling.type"], entries["llama.rope.scaling.factor"]) == ("linear", 4.0)
        assert "rope_freqs.weight" not in found


def test_llama3_scaling_becomes_factors_of_frequencies(tmp_path, reports):
    write_model(tmp_path / "source", Form(head_dim=64))
    convert(tmp_path / "source", tmp_path / "llama", reports)
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    path = tmp_path / "llama" / "config.json"
    change(path, rope_scaling=scaling | {"original_max_position_embeddings": 8192})
    _, found = read(write_gguf(tmp_path / "llama", tmp_path / "m.gguf", "F16", reports))
    config = json.loads(path.read_text())
    ratio = llama_frequencies(config | {"rope_scaling": None}, 10) / llama_frequencies(config, 10)
    assert len(set(ratio.round(3))) > 3
    np.testing.assert_allclose(found["rope_freqs.weight"].data, ratio, rtol=1e-5)
    change(path, rope_scaling={"rope_type": "yarn", "factor": 2.0})
    with pytest.raises(ConvertError, match="type 'yarn'"):
        write_gguf(tmp_path / "llama", tmp_path / "m.gguf", "F16", reports)


def test_dynamic_scaling_is_left_out(tmp_path, reports):
    write_model(tmp_path / "source", Form(rope_scaling={"type": "dynamic", "factor": 2.0}))
    entries, _ = read(write_gguf(tmp_path / "source", tmp_path / "m.gguf", "F16", reports))
    assert not [key for key in entries if "rope.scaling" in key]


def test_a_stopped_file_leaves_nothing(tmp_path, reports):
    write_model(tmp_path / "source", Form())
    stop = threading.Event()

    def report(news):
        if news.done > 100_000:
            stop.set()

    with pytest.raises(Cancelled):
        write_gguf(tmp_path / "source", tmp_path / "m.gguf", "F16", report, cancelled=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_what_cannot_become_a_file_is_refused(tmp_path, reports, monkeypatch):
    write_model(tmp_path / "source", Form())
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(to_gguf.shutil, "disk_usage", lambda path: usage._replace(free=1000))
        with pytest.raises(DiskFull, match="The file needs"):
            write_gguf(tmp_path / "source", tmp_path / "m.gguf", "F16", reports)
    (tmp_path / "source" / "tokenizer.model").unlink()
    with pytest.raises(VerifyError, match=r"tokenizer\.model cannot be read"):
        write_gguf(tmp_path / "source", tmp_path / "m.gguf", "F16", reports)
    (tmp_path / "source" / "config.json").rename(tmp_path / "source" / "adapter_config.json")
    with pytest.raises(ConvertError, match="is a LoRA adapter"):
        write_gguf(tmp_path / "source", tmp_path / "m.gguf", "F16", reports)

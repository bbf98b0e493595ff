"""LoRA adapters: the sum of base and adapter is the same in both layouts, and what has no counterpart is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from inference.convert import convert
from inference.errors import ConvertError, VerifyError
from inference.verify import check_model
from tests.internlm2_models import Form, numbers, read_safetensors, stored, write_bin, write_model, write_safetensors

pytestmark = pytest.mark.unit

FORM = Form(heads=4, kv_heads=2, head_dim=128, layers=2, intermediate=96, dtype="F32")
RANK, ALPHA = 8, 16
START = "base_model.model."
MODULES = {"attention.wqkv": (1024, 512), "attention.wo": (512, 512), "feed_forward.w1": (96, 512)} | {
    "feed_forward.w3": (96, 512),
    "feed_forward.w2": (512, 96),
}
NEW = {
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w3": "mlp.up_proj",
    "feed_forward.w2": "mlp.down_proj",
}


def adapter_weights(extra=()):
    rng = np.random.default_rng(1)
    found = {}
    for layer in range(FORM.layers):
        for module, (rows, columns) in MODULES.items():
            name = f"{START}model.layers.{layer}.{module}"
            found[f"{name}.lora_A.weight"] = stored(rng.standard_normal((RANK, columns)), "F32")
            found[f"{name}.lora_B.weight"] = stored(rng.standard_normal((rows, RANK)), "F32")
    return found | dict(extra)


def write_adapter(folder, weights, *, kind="safetensors", **changes):
    folder.mkdir()
    write = write_safetensors if kind == "safetensors" else write_bin
    write(folder / f"adapter_model.{kind}", weights, "F32")
    modules = [name.rpartition(".")[2] for name in MODULES]
    settings = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "target_modules": modules, "auto_mapping": None}
    settings |= {"base_model_name_or_path": "internlm/internlm2-chat-7b", "modules_to_save": None}
    (folder / "adapter_config.json").write_text(json.dumps(settings | changes))


@pytest.fixture
def adapter(tmp_path):
    write_adapter(tmp_path / "adapter", adapter_weights())
    return tmp_path / "adapter"


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_base_and_adapter_add_up_to_the_same(tmp_path, reports, kind):
    base = write_model(tmp_path / "base", FORM)
    before = adapter_weights()
    write_adapter(tmp_path / "adapter", before, kind=kind)
    convert(tmp_path / "base", tmp_path / "llama", reports)
    convert(tmp_path / "adapter", tmp_path / "new", reports)
    new_base = {name: numbers(values, dtype) for name, (dtype, values) in read_safetensors(tmp_path / "llama").items()}
    after = {name: numbers(values, dtype) for name, (dtype, values) in read_safetensors(tmp_path / "new").items()}
    assert len(after) == 2 * FORM.layers * (len(NEW) + 3)
    for layer in range(FORM.layers):
        old, new = f"model.layers.{layer}.", f"{START}model.layers.{layer}."
        merged = base[f"{old}attention.wqkv.weight"].astype(np.float64) + delta(before, f"{START}{old}attention.wqkv")
        groups = merged.reshape(FORM.kv_heads, -1, FORM.head_dim, FORM.hidden)
        for part, rows in (("q", groups[:, :-2]), ("k", groups[:, -2]), ("v", groups[:, -1])):
            name = f"{old}self_attn.{part}_proj"
            found = new_base[f"{name}.weight"] + delta(after, f"{START}{name}")
            np.testing.assert_allclose(found, rows.reshape(-1, FORM.hidden), rtol=0, atol=1e-9)
        for module, renamed in NEW.items():
            for letter in "AB":
                wanted = before[f"{new}{module}.lora_{letter}.weight"]
                assert (after[f"{new}{renamed}.lora_{letter}.weight"] == wanted).all()


def delta(weights, name):
    up, down = (weights[f"{name}.lora_{letter}.weight"].astype(np.float64) for letter in "BA")
    return up @ down * ALPHA / RANK


def test_settings_name_llamas_modules(adapter, tmp_path, reports):
    convert(adapter, tmp_path / "new", reports)
    settings = json.loads((tmp_path / "new" / "adapter_config.json").read_text())
    assert set(settings["target_modules"]) == {
        *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    }
    assert (settings["r"], settings["lora_alpha"], settings["modules_to_save"]) == (RANK, ALPHA, None)
    assert check_model(tmp_path / "new") == []
    assert [problem.is_fatal for problem in check_model(adapter)] == [False]


def test_ranks_by_module_get_llamas_names(tmp_path, reports):
    patterns = {"rank_pattern": {"layers.0.attention.wqkv": 4, "w2": 2}, "alpha_pattern": {"feed_forward.w1": 3}}
    write_adapter(tmp_path / "adapter", adapter_weights(), **patterns)
    convert(tmp_path / "adapter", tmp_path / "new", reports)
    settings = json.loads((tmp_path / "new" / "adapter_config.json").read_text())
    start = "layers.0.self_attn."
    wanted = {f"{start}q_proj": 4, f"{start}k_proj": 4, f"{start}v_proj": 4, "down_proj": 2}
    assert settings["rank_pattern"] == wanted
    assert settings["alpha_pattern"] == {"mlp.gate_proj": 3}


def test_whole_modules_magnitudes_and_embeddings_come_along(tmp_path, reports):
    ones = np.arange(1024, dtype=np.float32)
    extra = {
        f"{START}model.layers.0.attention.wqkv.lora_magnitude_vector": ones,
        f"{START}output.weight": np.zeros((7, 512), np.float32),
        f"{START}model.tok_embeddings.lora_embedding_A": np.zeros((8, 7), np.float32),
    }
    write_adapter(tmp_path / "adapter", adapter_weights(extra.items()))
    convert(tmp_path / "adapter", tmp_path / "new", reports)
    found = {name: values for name, (_, values) in read_safetensors(tmp_path / "new").items()}
    groups = ones.reshape(FORM.kv_heads, -1, FORM.head_dim)
    key = found[f"{START}model.layers.0.self_attn.k_proj.lora_magnitude_vector"]
    assert (key == groups[:, -2].reshape(-1)).all()
    assert f"{START}lm_head.weight" in found
    assert f"{START}model.embed_tokens.lora_embedding_A" in found
    settings = json.loads((tmp_path / "new" / "adapter_config.json").read_text())
    assert settings["modules_to_save"] == ["lm_head"]
    assert "embed_tokens" in settings["target_modules"]


def test_a_base_with_other_heads_is_taken_from_its_config(tmp_path, reports):
    form = Form(heads=8, kv_heads=2, head_dim=16)
    write_model(tmp_path / "base", form)
    weights = {
        f"{START}model.layers.0.attention.wqkv.lora_A.weight": np.zeros((4, 128), np.float32),
        f"{START}model.layers.0.attention.wqkv.lora_B.weight": np.zeros((192, 4), np.float32),
    }
    write_adapter(tmp_path / "adapter", weights)
    with pytest.raises(ConvertError, match="not heads of 128"):
        convert(tmp_path / "adapter", tmp_path / "new", reports)
    write_adapter(tmp_path / "other", weights, base_model_name_or_path=str(tmp_path / "base"))
    convert(tmp_path / "other", tmp_path / "new", reports)
    found = read_safetensors(tmp_path / "new")
    assert found[f"{START}model.layers.0.self_attn.q_proj.lora_B.weight"][1].shape == (128, 4)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        (f"{START}model.layers.0.attention.wx.lora_A.weight", "no place in this kind of model"),
        ("model.layers.0.attention.wo.lora_A.weight", "no tensor of a LoRA adapter"),
        (f"{START}v_head.lora_A.weight", "reward model"),
    ],
)
def test_a_tensor_without_a_counterpart_is_refused_by_name(tmp_path, reports, name, part):
    write_adapter(tmp_path / "adapter", adapter_weights([(name, np.zeros((8, 512), np.float32))]))
    with pytest.raises(ConvertError) as caught:
        convert(tmp_path / "adapter", tmp_path / "new", reports)
    assert repr(name) in caught.value.message
    assert part in caught.value.message


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"rank_pattern": {"wq": 3}}, "rank_pattern names 'wq'"),
        ({"rank_pattern": {".*[0-9].wo": 3}}, "rank_pattern names"),
        ({"alpha_pattern": ["wo"]}, "alpha_pattern must be an object"),
    ],
)
def test_settings_without_a_counterpart_are_refused_by_name(tmp_path, reports, changes, part):
    write_adapter(tmp_path / "adapter", adapter_weights(), **changes)
    with pytest.raises((ConvertError, VerifyError)) as caught:
        convert(tmp_path / "adapter", tmp_path / "new", reports)
    assert part in caught.value.message


def test_an_adapter_without_weights_is_named(adapter, tmp_path, reports):
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(ConvertError, match="has no adapter_model"):
        convert(adapter, tmp_path / "new", reports)
    assert "adapter_model" in check_model(adapter)[0].message

"""A real trained model through everything: its weights in InternLM2's layout, converted, as GGUF, in llama.cpp.

SmolLM2 is a Llama. Its weights are taken out of its own GGUF file and rounded to 16 bits; from these one GGUF is made
straight (by the package alone, rows and tokens untouched) and one through InternLM2's layout, Llama's layout and our
writer. Prompts go in and answers come out as tokens, for the second file has a stand-in for a tokenizer.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from inference.convert import convert
from inference.to_gguf import write_gguf
from inference.verify import check_model
from tests.internlm2_models import write_safetensors
from tests.llamacpp_child import llamacpp

pytestmark = pytest.mark.real

QUESTIONS = (
    "What is the capital of France?",
    "Write one sentence about the sea.",
    "Name three colours.",
    "How many days has a week, and which is the first?",
)
TOKENS = 48
SILENT: Any = lambda news: None  # noqa: E731


class Trained:
    """SmolLM2 as its GGUF file has it. `matrices` are 16-bit floats; rows of Q and K in llama.cpp's order."""

    def __init__(self, path: Path) -> None:
        self.reader = gguf.GGUFReader(path)
        self.tensors = {
            tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type) for tensor in self.reader.tensors
        }
        self.heads = self._number("attention.head_count")
        self.kv_heads = self._number("attention.head_count_kv")
        self.layers = self._number("block_count")
        self.hidden = self._number("embedding_length")
        self.dim = self.hidden // self.heads

    def _number(self, key: str) -> Any:
        return self.reader.fields[f"llama.{key}"].contents()

    def matrix(self, name: str) -> np.ndarray:
        return self.tensors[name].astype(np.float16)

    def halves(self, name: str) -> np.ndarray:
        """Q or K in the order of Hugging Face's layout: (head, half, place) from (head, place, half)."""
        rows = self.matrix(name)
        return rows.reshape(-1, self.dim // 2, 2, self.hidden).swapaxes(1, 2).reshape(-1, self.dim, self.hidden)


@pytest.fixture(scope="module")
def trained(models_dir) -> Trained:
    return Trained(next(models_dir.glob("smollm2-135m-instruct/*.gguf")))


@pytest.fixture(scope="module")
def straight(trained, tmp_path_factory) -> Path:
    """The same weights in a file of the package's own making, with the real tokenizer."""
    path = tmp_path_factory.mktemp("straight") / "straight.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for key, field in trained.reader.fields.items():
        if not key.startswith(("GGUF.", "general.architecture", "general.file_type")):
            kind = field.types[0]
            writer.add_key_value(key, field.contents(), kind, field.types[-1] if kind == 9 else None)
    for name, values in trained.tensors.items():
        writer.add_tensor(name, values.astype(np.float32 if values.ndim == 1 else np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def internlm2(trained, tmp_path_factory) -> Path:
    """The same weights in InternLM2's layout, in two files."""
    folder = tmp_path_factory.mktemp("source") / "smollm2-as-internlm2"
    folder.mkdir()
    tensors: dict[str, np.ndarray] = {"model.tok_embeddings.weight": trained.matrix("token_embd.weight")}
    groups = trained.kv_heads
    for layer in range(trained.layers):
        block, start = f"blk.{layer}.", f"model.layers.{layer}."
        queries = trained.halves(f"{block}attn_q.weight").reshape(groups, -1, trained.hidden)
        keys = trained.halves(f"{block}attn_k.weight").reshape(groups, -1, trained.hidden)
        values = trained.matrix(f"{block}attn_v.weight").reshape(groups, -1, trained.hidden)
        wqkv = np.concatenate([queries, keys, values], axis=1)
        tensors |= {
            f"{start}attention.wqkv.weight": wqkv.reshape(-1, trained.hidden),
            f"{start}attention.wo.weight": trained.matrix(f"{block}attn_output.weight"),
            f"{start}feed_forward.w1.weight": trained.matrix(f"{block}ffn_gate.weight"),
            f"{start}feed_forward.w3.weight": trained.matrix(f"{block}ffn_up.weight"),
            f"{start}feed_forward.w2.weight": trained.matrix(f"{block}ffn_down.weight"),
            f"{start}attention_norm.weight": trained.matrix(f"{block}attn_norm.weight"),
            f"{start}ffn_norm.weight": trained.matrix(f"{block}ffn_norm.weight"),
        }
    tensors["model.norm.weight"] = trained.matrix("output_norm.weight")
    names = list(tensors)
    for number, part in enumerate((names[:100], names[100:]), start=1):
        path = folder / f"model-{number:05d}-of-00002.safetensors"
        write_safetensors(path, {name: tensors[name] for name in part}, "F16")
    (folder / "config.json").write_text(json.dumps(_config(trained)))
    (folder / "tokenizer.model").write_bytes(_stand_in(len(tensors["model.tok_embeddings.weight"])))
    return folder


def _config(trained: Trained) -> dict[str, Any]:
    return {
        "architectures": ["InternLM2ForCausalLM"],
        "model_type": "internlm2",
        "bias": False,
        "hidden_size": trained.hidden,
        "intermediate_size": trained._number("feed_forward_length"),
        "max_position_embeddings": trained._number("context_length"),
        "num_attention_heads": trained.heads,
        "num_hidden_layers": trained.layers,
        "num_key_value_heads": trained.kv_heads,
        "rms_norm_eps": trained._number("attention.layer_norm_rms_epsilon"),
        "rope_theta": trained._number("rope.freq_base"),
        "vocab_size": trained.tensors["token_embd.weight"].shape[0],
        "tie_word_embeddings": True,
        "torch_dtype": "float16",
    }


def _stand_in(count: int) -> bytes:
    """A sentencepiece model of as many pieces, none of which means anything but the first three."""

    def field(number: int, content: bytes) -> bytes:
        return bytes([number << 3 | 2, len(content)]) + content

    pieces = [("<unk>", 2), ("<s>", 3), ("</s>", 3), *((f"<0x{byte:02X}>", 6) for byte in range(256))]
    pieces += [(f"w{number}", 1) for number in range(count - len(pieces))]
    listed = (
        field(1, field(1, text.encode()) + b"\x15" + struct.pack("<f", -float(rank)) + bytes([0x18, kind]))
        for rank, (text, kind) in enumerate(pieces)
    )
    settings = field(2, bytes([3 << 3, 2, 0x98, 0x02, 1])) + field(3, bytes([3 << 3, 0, 4 << 3, 0, 5 << 3, 1]))
    return b"".join(listed) + settings


@pytest.fixture(scope="module")
def ours(internlm2, tmp_path_factory) -> Path:
    """InternLM2's layout, converted to Llama's, and that to GGUF."""
    folder = tmp_path_factory.mktemp("ours")
    converted = convert(internlm2, folder / "llama", SILENT)
    fatal = [str(problem) for problem in check_model(converted) if problem.is_fatal and "template" not in str(problem)]
    assert not fatal
    return write_gguf(converted, folder / "ours.gguf", "F16", SILENT)


def test_the_model_has_grouped_queries(trained):
    assert (trained.heads, trained.kv_heads, trained.dim) == (9, 3, 64)


def test_weights_are_those_of_the_file_made_straight(straight, ours):
    wanted, found = ({tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors} for path in (straight, ours))
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].tensor_type == tensor.tensor_type, name
        if tensor.data.ndim == 1:  # vectors went through 16 bits on the way
            np.testing.assert_array_equal(found[name].data, tensor.data.astype(np.float16).astype(np.float32))
        else:
            assert found[name].data.tobytes() == tensor.data.tobytes(), name


def test_greedy_answers_are_those_of_the_file_made_straight(straight, ours, internlm2, tmp_path):
    with llamacpp(straight, tmp_path / "straight") as ask:
        prompts = [_prompt(ask, question) for question in QUESTIONS]
        wanted = [_answer(ask, prompt) for prompt in prompts]
        texts = [ask("/detokenize", {"tokens": tokens})["content"] for tokens in wanted]
    assert "Paris" in texts[0]
    with llamacpp(ours, tmp_path / "ours") as ask:
        assert [_answer(ask, prompt) for prompt in prompts] == wanted
    assert min(map(len, wanted)) > 5
    direct = write_gguf(internlm2, tmp_path / "direct.gguf", "F16", SILENT)
    with llamacpp(direct, tmp_path / "direct") as ask:
        assert [_answer(ask, prompt) for prompt in prompts] == wanted


def test_eight_bits_are_those_that_the_package_makes_of_the_same_numbers(trained, ours, internlm2, tmp_path):
    small = write_gguf(internlm2, tmp_path / "small.gguf", "Q8_0", SILENT)
    assert small.stat().st_size < 0.56 * ours.stat().st_size
    for tensor in gguf.GGUFReader(small).tensors:
        if tensor.data.ndim > 1:
            values = trained.matrix(tensor.name).astype(np.float32)
            wanted = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)
            assert tensor.data.tobytes() == wanted.tobytes(), tensor.name
    with llamacpp(small, tmp_path / "small") as ask:
        assert len(_answer(ask, [1, 504, 3575, 282])) > 5


def _prompt(ask: Any, question: str) -> list[int]:
    text = ask("/apply-template", {"messages": [{"role": "user", "content": question}]})["prompt"]
    tokens = ask("/tokenize", {"content": text, "add_special": False, "parse_special": True})["tokens"]
    return [int(token) for token in tokens]


def _answer(ask: Any, prompt: list[int]) -> list[int]:
    body = {"prompt": prompt, "n_predict": TOKENS, "temperature": 0, "return_tokens": True, "cache_prompt": False}
    return [int(token) for token in ask("/completion", body)["tokens"]]

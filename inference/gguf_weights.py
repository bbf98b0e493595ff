"""Weights for a GGUF file: llama.cpp's names, its order of rows in Q and K, its types; a few rows at a time.

Source: `convert_hf_to_gguf.py` (LlamaModel) and `constants.py` of llama.cpp. It turns neighbouring numbers of a head,
where Hugging Face's layout turns the first half with the second: so in every head of Q and K the rows of the halves are
interleaved. Vectors stay in 32 bits.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType
from gguf.quants import quantize

from inference.errors import ConvertError
from inference.model_config import ModelConfig
from inference.weights.tensors import DTYPE_BYTES, Piece

Array = npt.NDArray[Any]
CHUNK_BYTES = 4 << 20
_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_LAYER = re.compile(r"^model\.layers\.(\d+)\.(.+)$")
_Q8_BLOCK = 32


def gguf_name(name: str) -> str:
    """llama.cpp's name for one of Llama's."""
    part, _, ending = name.rpartition(".")
    if match := _LAYER.match(part):
        return f"blk.{match[1]}.{_NAMES[match[2]]}.{ending}"
    return f"{_NAMES[part]}.{ending}"


@dataclass(frozen=True)
class Weights:
    """One tensor of the new file. It has what `GGUFWriter.write_tensor_data` asks of an array, but is never in memory.

    Attributes:
        interleaved: how many rows a head has whose halves are interleaved; 0: the rows stay as they are.
        count: is told the source's bytes as they are read; may raise.
    """

    piece: Piece
    kind: GGMLQuantizationType
    interleaved: int
    count: Callable[[int], None]

    @property
    def name(self) -> str:
        return gguf_name(self.piece.name)

    @property
    def nbytes(self) -> int:
        rows, columns = self._rows, self._columns
        if self.kind == GGMLQuantizationType.Q8_0:
            return rows * columns // _Q8_BLOCK * (_Q8_BLOCK + 2)
        return rows * columns * (4 if self.kind == GGMLQuantizationType.F32 else 2)

    @property
    def _columns(self) -> int:
        return self.piece.shape[-1] if len(self.piece.shape) > 1 else 1

    @property
    def _rows(self) -> int:
        return self.piece.shape[0]

    def tofile(self, out: BinaryIO) -> None:
        for content in self._chunks():
            out.write(self._encoded(self._in_order(content)).tobytes())

    def _chunks(self) -> Iterator[Array]:
        """Stored numbers, some rows at a time; whole heads where rows change their places."""
        item = DTYPE_BYTES[self.piece.dtype]
        row_bytes = self._columns * item
        step = (self.interleaved or 1) * row_bytes
        chunk = max(1, CHUNK_BYTES // step) * step
        source = os.open(self.piece.file, os.O_RDONLY | os.O_CLOEXEC)
        try:
            for offset, length in self.piece.ranges:
                for start in range(0, length, chunk):
                    content = os.pread(source, min(chunk, length - start), offset + start)
                    if len(content) != min(chunk, length - start):
                        raise ConvertError(f"{self.piece.file} became shorter while it was read. Begin again.")
                    self.count(len(content))
                    yield np.frombuffer(content, f"<u{item}").reshape(-1, self._columns)
        finally:
            os.close(source)

    def _in_order(self, rows: Array) -> Array:
        if not self.interleaved:
            return rows
        heads = rows.reshape(-1, 2, self.interleaved // 2, self._columns)
        return heads.swapaxes(1, 2).reshape(rows.shape)

    def _encoded(self, rows: Array) -> Array:
        if self.piece.dtype == self.kind.name:
            return rows
        values = _floats(rows, self.piece.dtype)
        if self.kind == GGMLQuantizationType.F16:
            self._check_range(values)
            return values.astype(np.float16)
        return values if self.kind == GGMLQuantizationType.F32 else quantize(values, self.kind)

    def _check_range(self, values: Array) -> None:
        if np.abs(values).max(initial=0) > np.finfo(np.float16).max:
            raise ConvertError(f"{self.piece.name!r} holds numbers that float16 cannot. Take BF16 or Q8_0 instead.")


def weights_of(
    piece: Piece, wanted: GGMLQuantizationType, config: ModelConfig, count: Callable[[int], None]
) -> Weights:
    """`wanted` is for matrices; those whose rows cannot be cut in blocks are kept in 16 bits."""
    kind = wanted
    if len(piece.shape) == 1:
        kind = GGMLQuantizationType.F32
    elif wanted == GGMLQuantizationType.Q8_0 and piece.shape[-1] % _Q8_BLOCK:
        kind = GGMLQuantizationType.F16
    is_turned = re.search(r"\.self_attn\.[qk]_proj\.", piece.name) is not None
    return Weights(piece, kind, config.head_dim if is_turned else 0, count)


def _floats(rows: Array, dtype: str) -> Array:
    if dtype == "BF16":
        return (rows.astype(np.uint32) << 16).view(np.float32)
    return rows.view(np.float16 if dtype == "F16" else np.float32).astype(np.float32)

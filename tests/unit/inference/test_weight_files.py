"""Heads of safetensors files and torch's pickles: what is read, what is refused, and that garbage is only refused."""

from __future__ import annotations

import json
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inference.errors import VerifyError
from inference.sentencepiece_model import read_sentencepiece
from inference.weights.checkpoint import read_index, read_weights
from inference.weights.pickled import PickleError, read_pickle
from tests.internlm2_models import (
    WORDS,
    pickled_tensor,
    tokenizer_model,
    write_bin,
    write_safetensors,
    write_torch_file,
)

pytestmark = pytest.mark.unit
MANY = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
VALUES = np.arange(24, dtype=np.uint16).reshape(4, 6)


@pytest.fixture
def head_file(tmp_path):
    """A function: a safetensors file with this head and so many bytes after it."""

    def write(head, data=48):
        text = head if isinstance(head, bytes) else json.dumps(head).encode()
        path = tmp_path / "model.safetensors"
        path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(data))
        return path

    return write


def entry(begin=0, end=48, shape=(4, 6), dtype="BF16"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def test_a_safetensors_file_tells_where_its_tensors_are(tmp_path):
    path = tmp_path / "model.safetensors"
    write_safetensors(path, {"a": VALUES, "b": VALUES[0]}, "BF16")
    a, b = read_weights(path)
    assert (a.name, a.shape, a.size_bytes, b.shape) == ("a", (4, 6), 48, (6,))
    assert path.read_bytes()[a.offset : a.offset + 48] == VALUES.tobytes()
    assert path.read_bytes()[b.offset :] == VALUES[0].tobytes()


@pytest.mark.parametrize(
    ("head", "data", "part"),
    [
        ({"a": entry()}, 47, "cut short: "),
        ({"a": entry()}, 50, "2 bytes too many"),
        ({"a": entry(end=46)}, 46, "has 46 bytes, but its shape [4, 6] takes 48"),
        ({"a": entry(2, 50)}, 50, "does not begin where its neighbour ends"),
        ({"a": entry(), "b": entry(24, 72)}, 72, "does not begin where"),
        ({"a": entry(dtype="Q4")}, 48, "has the type 'Q4'"),
        ({"a": entry(shape=(-4, -6))}, 48, "damaged head at 'a'"),
        ({"a": entry(shape=(True, 24))}, 48, "damaged head at 'a'"),
        ({"a": entry(shape=(1 << 62,) * 2000)}, 48, "damaged head at 'a'"),
        ({"a": {"dtype": "BF16"}}, 48, "damaged head at 'a'"),
        ({"a": 3}, 48, "damaged head at 'a'"),
        (b'{"a": 1, "a": 2}', 0, "holds 'a' twice"),
        (b"{nothing", 0, "no JSON"),
        (b"[1]     ", 0, "no safetensors file"),
        (b"{" + b"[" * 5000, 0, "no JSON"),
    ],
)
def test_a_damaged_head_is_named(head_file, head, data, part):
    with pytest.raises(VerifyError) as caught:
        read_weights(head_file(head, data))
    assert part in caught.value.message


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "is empty"),
        (b"abc", "is cut short (3 bytes)"),
        (struct.pack("<Q", 1 << 60) + b"{}", "is no safetensors file"),
        (struct.pack("<Q", 100) + b"{}", "cut short within its head"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 5\n", "only a Git LFS pointer"),
    ],
)
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_what_is_no_file_of_weights_is_named(tmp_path, name, content, part):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(VerifyError) as caught:
        read_weights(path)
    if name.endswith("bin") and content and not content.startswith(b"version"):
        part = "is no zip"
    assert part in caught.value.message
    assert str(path) in caught.value.message


def test_a_torch_file_tells_where_its_tensors_are(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    write_bin(path, {"a": VALUES, "b": VALUES[1:], "c": VALUES[0]}, "BF16")
    found = {tensor.name: tensor for tensor in read_weights(path)}
    content = path.read_bytes()
    for name, values in (("a", VALUES), ("b", VALUES[1:]), ("c", VALUES[0])):
        tensor = found[name]
        assert content[tensor.offset : tensor.offset + tensor.size_bytes] == values.tobytes()
        assert tensor.shape == values.shape
    assert found["b"].offset == found["a"].offset + 48  # one storage
    assert found["a"].offset % 64 == 0


def torch_file(tmp_path, steps, storage=bytes(48), **others):
    path = tmp_path / "pytorch_model.bin"
    write_torch_file(path, {"a": steps}, {"0": storage}, **others)
    return path


@pytest.mark.parametrize(
    ("steps", "part"),
    [
        (pickled_tensor("0", "BF16", (6, 4), stride=(1, 6)), "'a' is not stored row after row"),
        (pickled_tensor("0", "BF16", (4, 6), stride=(0, 1)), "'a' is not stored row after row"),
        (pickled_tensor("0", "BF16", (4, 6), first=1), "reaches beyond its bytes"),
        (pickled_tensor("0", "F32", (4, 6)), "reaches beyond its bytes"),
        (pickled_tensor("7", "BF16", (4, 6)), "bytes of 'a' are missing"),
        (pickled_tensor("../x", "BF16", (4, 6)), "bytes of 'a' are missing"),
        (b"cos\nsystem\nX\x02\x00\x00\x00ls\x85R", "it names os.system"),
        (b"cbuiltins\neval\n)R", "it names builtins.eval"),
        (b"ctorch\nLongStorage\n", "it names torch.LongStorage"),
        (b"cnumpy.core.multiarray\n_reconstruct\n", "it names numpy.core.multiarray._reconstruct"),
        (b"K\x05", "holds 'a', which is no tensor"),
        (b"}", "holds 'a', which is no tensor"),
        (b"(ios\nsystem\n", "takes the step INST"),
        (b"\x82\x01", "takes the step EXT1"),
        (b"ccollections\nOrderedDict\nK\x01\x85R", "list of tensors is damaged"),
        (b")" + b"\x85" * 100_000 + b"X\x01\x00\x00\x00a\x93", "a name that is no text"),
        (b"X\x04\x00\x00\x00\x1b[1mX\x03\x00\x00\x00\xed\xa0\x80\x93", r"it names \x1b[1m.\ud800, and only"),
    ],
)
def test_a_pickle_that_is_more_than_tensors_is_refused_by_name(tmp_path, steps, part):
    with pytest.raises(VerifyError) as caught:
        read_weights(torch_file(tmp_path, steps))
    assert part in caught.value.message


def test_a_tensor_of_one_row_has_no_stride_to_speak_of(tmp_path):
    path = torch_file(tmp_path, pickled_tensor("0", "BF16", (1, 24), stride=(1, 1)))
    assert read_weights(path)[0].shape == (1, 24)


def test_a_big_endian_file_is_refused(tmp_path):
    with pytest.raises(VerifyError, match="big-endian"):
        read_weights(torch_file(tmp_path, pickled_tensor("0", "BF16", (4, 6)), byteorder=b"big"))


def test_a_torch_file_of_the_old_kind_is_refused(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.")
    with pytest.raises(VerifyError, match=r"older than 1\.6"):
        read_weights(path)


def test_a_compressed_torch_file_is_refused(tmp_path):
    path = torch_file(tmp_path, pickled_tensor("0", "BF16", (4, 6)))
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(VerifyError, match="is compressed"):
        read_weights(path)


@pytest.mark.parametrize("is_compressed", [True, False])
def test_a_word_on_the_byte_order_that_is_compressed_or_encrypted_is_not_read(tmp_path, is_compressed):
    """Compressed it could become any number of bytes in memory."""
    path = torch_file(tmp_path, pickled_tensor("0", "BF16", (4, 6)))
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist() if "byteorder" not in name}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        kind = zipfile.ZIP_DEFLATED if is_compressed else zipfile.ZIP_STORED
        archive.writestr(f"{name.split('/')[0]}/byteorder", b"little" + bytes(1 << 20), kind)
    content = bytearray(path.read_bytes())
    content[content.rfind(b"PK\x01\x02") + 8] |= not is_compressed  # the flag "encrypted" in the central directory
    path.write_bytes(content)
    with pytest.raises(VerifyError, match="byteorder is compressed"):
        read_weights(path)


def test_a_zip_of_something_else_is_refused(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hi")
    with pytest.raises(VerifyError, match=r"none that torch\.save writes"):
        read_weights(path)


def test_every_cut_of_a_torch_file_is_noticed(tmp_path):
    whole = torch_file(tmp_path, pickled_tensor("0", "BF16", (4, 6))).read_bytes()
    path = tmp_path / "cut.bin"
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(VerifyError):
            read_weights(path)


@MANY
@given(st.binary(max_size=400))
def test_garbage_as_pickle_is_only_refused(content):
    import io

    try:
        found = read_pickle(io.BytesIO(content))
    except PickleError:
        return
    assert isinstance(found, dict)


@MANY
@given(st.data())
def test_a_changed_byte_in_a_pickle_is_read_or_refused(data):
    import io

    whole = bytearray(b"\x80\x02}(X\x01\x00\x00\x00a" + pickled_tensor("0", "BF16", (4, 6)) + b"u.")
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        read_pickle(io.BytesIO(bytes(whole)))
    except PickleError:
        pass


@MANY
@given(st.binary(max_size=200), st.booleans())
def test_garbage_as_files_is_only_refused(tmp_path, content, is_framed):
    for name in ("model.safetensors", "pytorch_model.bin"):
        path = tmp_path / name
        start = struct.pack("<Q", len(content)) if is_framed and name == "model.safetensors" else b""
        start = b"PK\x03\x04" if is_framed and name != "model.safetensors" else start
        path.write_bytes(start + content)
        with pytest.raises(VerifyError):
            read_weights(path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
fields = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["BF16", "F32", "?"]) | json_values,
        "shape": st.lists(st.integers(-1, 5), max_size=3) | json_values,
        "data_offsets": st.lists(st.integers(-1, 60), max_size=3) | json_values,
    },
)


@MANY
@given(st.dictionaries(st.text(max_size=5), fields | json_values, max_size=3), st.integers(0, 64))
def test_a_head_of_any_json_is_read_or_refused(tmp_path, head, data):
    path = tmp_path / "model.safetensors"
    text = json.dumps(head).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(data))
    try:
        found = read_weights(path)
    except VerifyError:
        return
    assert sum(tensor.size_bytes for tensor in found) == data


@MANY
@given(st.data())
def test_a_changed_tokenizer_model_is_read_or_refused(tmp_path, data):
    whole = bytearray(tokenizer_model(WORDS))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "tokenizer.model"
    path.write_bytes(bytes(whole[: data.draw(st.integers(0, len(whole)))]))
    try:
        read_sentencepiece(path)
    except VerifyError:
        pass


@pytest.mark.parametrize(
    "content", ["[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": "../b"}}', '{"weight_map": {"a": ""}}', "\ud800"]
)
def test_an_index_that_makes_no_sense_is_named(tmp_path, content):
    path = tmp_path / "model.safetensors.index.json"
    path.write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(VerifyError, match=r"index\.json"):
        read_index(path)

"""Torch's `.bin` files, read by byte ranges, without torch: where each tensor's bytes are.

Format (torch.save since 1.6): a zip of stored members `ROOT/data.pkl`, `ROOT/data/KEY` and others. The pickle maps
names to tensors, each (storage type, KEY, first element, size, stride). A pickle is a program; `inference/weights/
pickled.py` runs the few steps that torch writes, and nothing else. The bytes of a tensor without gaps are one range of
its member, and so of the file.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from inference.errors import VerifyError
from inference.weights.pickled import PickleError, Stored, read_pickle
from inference.weights.tensors import DTYPE_BYTES, Tensor, refuse_pointer

MOST_PICKLE_BYTES = 64 << 20
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # PKWARE's APPNOTE 4.3.7: signature, …, lengths of name and extra field
_BROKEN_ZIP = (zipfile.BadZipFile, struct.error, ValueError, NotImplementedError, EOFError, OverflowError, KeyError)


def read_torch_file(path: Path) -> tuple[Tensor, ...]:
    """All tensors in the order of their bytes. Raises VerifyError naming what is wrong with the file."""
    try:
        with path.open("rb") as file:
            start = file.read(64)
            refuse_pointer(path, start)
            if not start.startswith(b"PK\x03\x04"):
                raise VerifyError(
                    f"{path} is no zip: either damaged, or saved by a torch older than 1.6. Fetch it again, or save it "
                    "anew with torch, better as safetensors."
                )
            tensors = _tensors(path, file)
    except OSError as error:
        raise VerifyError(f"{path} cannot be read ({error.strerror or error}).") from None
    except _BROKEN_ZIP as error:
        raise VerifyError(f"{path} is cut short or damaged ({error}). Fetch or copy it again.") from None
    return tuple(sorted(tensors, key=lambda tensor: (tensor.offset, tensor.name)))


def _tensors(path: Path, file: BinaryIO) -> list[Tensor]:
    with zipfile.ZipFile(file) as archive:
        members = {member.filename: member for member in archive.infolist()}
        root = _root(path, members)
        if (order := members.get(f"{root}/byteorder")) and _read(path, archive, order).strip() != b"little":
            raise VerifyError(f"{path} was saved on a big-endian machine; only little-endian files are read.")
        pickled = _read(path, archive, members[f"{root}/data.pkl"])
        try:
            found = read_pickle(io.BytesIO(pickled))
        except PickleError as error:
            raise VerifyError(f"{path} cannot be used: {error}.") from None
        return [_tensor(path, file, members, root, name, stored) for name, stored in found.items()]


def _read(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """A small member; what is compressed could become any number of bytes."""
    _check_stored(path, member)
    if member.file_size > MOST_PICKLE_BYTES:
        raise VerifyError(f"{path}: {member.filename} is implausibly long ({member.file_size} bytes).")
    return archive.read(member)


def _root(path: Path, members: Mapping[str, zipfile.ZipInfo]) -> str:
    roots = [name.removesuffix("/data.pkl") for name in members if name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise VerifyError(f"{path} is a zip, but none that torch.save writes.")
    return roots[0]


def _tensor(
    path: Path, file: BinaryIO, members: Mapping[str, zipfile.ZipInfo], root: str, name: str, stored: Stored
) -> Tensor:
    member = members.get(f"{root}/data/{stored.key}")
    if member is None:
        raise VerifyError(f"{path}: the bytes of {name!r} are missing. Fetch or copy it again.")
    _check_stored(path, member)
    if not _has_no_gaps(stored):
        raise VerifyError(
            f"{path}: {name!r} is not stored row after row (stride {stored.stride}). Save the model anew with "
            "tensors made contiguous, better as safetensors."
        )
    item = DTYPE_BYTES[stored.dtype]
    begin, size = stored.first_element * item, math.prod(stored.shape) * item
    if begin + size > member.file_size:
        raise VerifyError(f"{path}: {name!r} reaches beyond its bytes. Fetch or copy it again.")
    return Tensor(name, stored.dtype, stored.shape, path, _data_offset(path, file, member) + begin)


def _check_stored(path: Path, member: zipfile.ZipInfo) -> None:
    if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size or member.flag_bits & 1:
        raise VerifyError(f"{path}: {member.filename} is compressed; torch.save does not do that. Fetch it again.")


def _has_no_gaps(stored: Stored) -> bool:
    """Whether the strides are those of rows one after another. What has one element only has no stride to speak of."""
    step = 1
    for length, stride in zip(reversed(stored.shape), reversed(stored.stride), strict=True):
        if length != 1 and stride != step and math.prod(stored.shape) > 0:
            return False
        step *= length
    return True


def _data_offset(path: Path, file: BinaryIO, member: zipfile.ZipInfo) -> int:
    """Torch pads the extra field of the local header only, so the central directory does not tell it."""
    file.seek(member.header_offset)
    signature, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    if signature != b"PK\x03\x04":
        raise VerifyError(f"{path} is damaged at {member.filename}. Fetch or copy it again.")
    offset = member.header_offset + _LOCAL_HEADER.size + int(name_bytes) + int(extra_bytes)
    if offset + member.file_size > file.seek(0, 2):
        raise VerifyError(f"{path} is cut short within {member.filename}. Fetch or copy it again.")
    return offset

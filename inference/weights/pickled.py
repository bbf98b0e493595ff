"""The list of tensors in torch's pickles, read by a machine of our own that knows only what torch.save writes.

Python's `pickle` does what a file says: it imports, calls, and allocates as much as it is told to. Here the steps come
from `pickletools.genops`, which only parses them; a name outside of `_GLOBALS`, or a step that is not in `_step`, ends
the reading with its name.
"""

from __future__ import annotations

import pickletools
import struct
import warnings
from dataclasses import dataclass
from typing import Any, BinaryIO

from inference.weights.tensors import DTYPE_BYTES

_STORAGES = {"torch BFloat16Storage": "BF16", "torch HalfStorage": "F16", "torch FloatStorage": "F32"}
_TENSOR, _PARAMETER, _DICT = (
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    "collections OrderedDict",
)
_GLOBALS = {*_STORAGES, _TENSOR, _PARAMETER, _DICT}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_VALUES = {"BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"}
_LAST_OF = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_MARK = object()


class PickleError(Exception):
    """What in the pickle is not allowed or not plausible, as the end of a sentence."""


@dataclass(frozen=True)
class Stored:
    """A tensor as the pickle tells it: `first_element` and `stride` count elements of the storage named `key`."""

    dtype: str
    key: str
    first_element: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True)
class _Global:
    name: str


@dataclass(frozen=True)
class _Storage:
    dtype: str
    key: str


def read_pickle(file: BinaryIO) -> dict[str, Stored]:
    """Tensors by name. Raises PickleError for anything else than a dictionary of tensors."""
    machine = _Machine()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of an escape that a damaged file may hold
            for opcode, argument, _ in pickletools.genops(file):
                machine.step(opcode.name, argument)
        found = machine.stack.pop()
    except (ValueError, TypeError, IndexError, KeyError, OverflowError, struct.error, MemoryError) as error:
        raise PickleError(f"its list of tensors is damaged ({error})") from None
    if not isinstance(found, dict):
        raise PickleError("it holds no dictionary of tensors")
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, Stored):
            raise PickleError(f"it holds {str(name)[:100]!r}, which is no tensor")
    return found


class _Machine:
    def __init__(self) -> None:
        self.stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _VALUES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _LAST_OF:
            self._pack(_LAST_OF[name])
        elif name in ("BINPUT", "LONG_BINPUT"):
            self._memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif name not in ("PROTO", "FRAME", "STOP"):
            self._rarer_step(name, argument)

    def _rarer_step(self, name: str, argument: Any) -> None:
        stack = self.stack
        match name:
            case "MARK":
                stack.append(_MARK)
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE":
                stack.append(tuple(self._to_mark()))
            case "MEMOIZE":
                self._memo[len(self._memo)] = stack[-1]
            case "GLOBAL":
                stack.append(_allowed(argument))
            case "STACK_GLOBAL":
                self._pack(2)
                stack.append(_allowed(_joined(*stack.pop())))
            case "BINPERSID":
                stack.append(_storage(stack.pop()))
            case "REDUCE":
                arguments = stack.pop()
                stack.append(_called(stack.pop(), arguments))
            case "SETITEM":
                self._pack(2)
                self._set_items(stack.pop())
            case "SETITEMS":
                self._set_items(self._to_mark())
            case "BUILD":  # attributes of an OrderedDict, where torch notes versions of modules
                stack.pop()
            case _:
                raise PickleError(f"its list of tensors takes the step {name}, which torch.save does not write")

    def _pack(self, count: int) -> None:
        if len(self.stack) < count:
            raise IndexError("too few values")
        values = tuple(self.stack[-count:])
        del self.stack[-count:]
        self.stack.append(values)

    def _to_mark(self) -> list[Any]:
        values: list[Any] = []
        while (value := self.stack.pop()) is not _MARK:
            values.append(value)
        return values[::-1]

    def _set_items(self, values: Any) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict):
            raise TypeError("no dictionary to set items of")
        for key, value in zip(values[::2], values[1::2], strict=True):
            if not isinstance(key, str):
                raise TypeError("a name that is no text")
            if key in target:
                raise PickleError(f"it holds {key[:100]!r} twice")
            target[key] = value


def _joined(module: Any, what: Any) -> str:
    """Other values than texts are not even shown: tuples in tuples may be endless as a text."""
    if not isinstance(module, str) or not isinstance(what, str):
        raise TypeError("a name that is no text")
    return f"{module} {what}"


def _allowed(name: str) -> _Global:
    if name not in _GLOBALS:
        shown = ascii(name.replace(" ", ".")[:200])[1:-1]
        raise PickleError(
            f"it names {shown}, and only plain tensors of type bfloat16, float16 or float32 are read (a pickle is a "
            "program)"
        )
    return _Global(name)


def _storage(told: Any) -> _Storage:
    """Torch's persistent id: ("storage", type, key, device, number of elements)."""
    kind, storage, key, _device, _elements = told
    if kind != "storage" or not isinstance(storage, _Global) or not isinstance(key, str):
        raise TypeError("no storage")
    return _Storage(_STORAGES[storage.name], key)


def _called(function: Any, arguments: Any) -> Any:
    if not isinstance(function, _Global) or not isinstance(arguments, tuple):
        raise TypeError("no function to call")
    if function.name == _DICT and arguments == ():
        return {}
    if function.name == _PARAMETER and isinstance(arguments[0], Stored):
        return arguments[0]
    if function.name == _TENSOR and isinstance(arguments[0], _Storage):
        return _stored(*arguments[:4])
    raise TypeError(f"{function.name} with other arguments than torch.save gives it")


def _stored(storage: _Storage, first: Any, shape: Any, stride: Any) -> Stored:
    for numbers in ((first,), shape, stride):
        if not isinstance(numbers, tuple) or not all(type(one) is int and 0 <= one < 1 << 48 for one in numbers):
            raise TypeError("sizes that are none")
    if len(shape) != len(stride) or len(shape) > 8 or storage.dtype not in DTYPE_BYTES:
        raise TypeError("sizes that are none")
    return Stored(storage.dtype, storage.key, first, shape, stride)

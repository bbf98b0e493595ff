"""One table of a TOML file, read key by key; every complaint names the file, the entry and the key."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar, overload

from inference.errors import SettingsError

T = TypeVar("T")


class Table:
    """`finish` complains about keys that nobody asked for, so that a slip of the pen is seen."""

    def __init__(self, content: Mapping[str, Any], where: str) -> None:
        self._left = dict(content)
        self.where = where

    def text(self, key: str, default: str | None = None) -> str:
        if default is not None and key not in self._left:
            return default
        value = self._take(key, str, "a text")
        if not value.strip():
            raise SettingsError(f"{self.where}: {key!r} is empty.")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        value = self._take(key, list, "a list of texts")
        if not all(isinstance(one, str) for one in value):
            raise SettingsError(f"{self.where}: {key!r} must be a list of texts.")
        return tuple(value)

    def choice(self, key: str, known: Sequence[T], default: T | None = None) -> T:
        """One of the values `known`."""
        if default is not None and key not in self._left:
            return default
        value = self._take(key, object, "a value")
        for one in known:
            if type(value) is type(one) and value == one:
                return one
        choices = ", ".join(str(one) for one in known)
        raise SettingsError(f"{self.where}: {key} {value!r} is not known; it can be {choices}.")

    def flag(self, key: str) -> bool:
        return self._take(key, bool, "true or false") if key in self._left else False

    def ratio(self, key: str, default: float) -> float:
        value = self._take(key, float, "a number") if key in self._left else default
        if not 0.0 < value < 1.0:
            raise SettingsError(f"{self.where}: {key!r} must be between 0 and 1, but is {value!r}.")
        return value

    @overload
    def positive(self, key: str, *, optional: Literal[False] = False) -> int: ...
    @overload
    def positive(self, key: str, *, optional: bool) -> int | None: ...
    def positive(self, key: str, *, optional: bool = False) -> int | None:
        if optional and key not in self._left:
            return None
        value = self._take(key, int, "a whole number")
        if isinstance(value, bool) or value < 1:
            raise SettingsError(f"{self.where}: {key!r} must be a whole number above 0, but is {value!r}.")
        return value

    @overload
    def sha256(self, key: str, *, optional: Literal[False] = False) -> str: ...
    @overload
    def sha256(self, key: str, *, optional: bool) -> str | None: ...
    def sha256(self, key: str, *, optional: bool = False) -> str | None:
        if optional and key not in self._left:
            return None
        value = self.text(key)
        if not re.fullmatch(r"[0-9a-f]{64}", value):
            raise SettingsError(f"{self.where}: {key!r} must be a SHA-256 of 64 lower-case hex digits.")
        return value

    def tables(self, key: str) -> list[dict[str, Any]]:
        value = self._take(key, list, "one or more tables")
        if not value or not all(isinstance(one, dict) for one in value):
            raise SettingsError(f"{self.where}: {key!r} must be one or more tables.")
        return value

    def subtables(self, key: str, *, optional: bool = False) -> Iterator[Table]:
        """The tables of an array, each named by this one's place, its key and its number."""
        if optional and key not in self._left:
            return
        for index, entry in enumerate(self.tables(key), start=1):
            yield Table(entry, f"{self.where}, {key} {index}")

    def subtable(self, key: str) -> Table:
        return Table(self._take(key, dict, "a table"), f"{self.where}, {key}")

    def has(self, key: str) -> bool:
        return key in self._left

    def finish(self) -> None:
        if self._left:
            raise SettingsError(f"{self.where}: unknown key {', '.join(map(repr, self._left))}.")

    def _take(self, key: str, kind: type[T], what: str) -> T:
        if key not in self._left:
            raise SettingsError(f"{self.where}: {key!r} is missing.")
        value = self._left.pop(key)
        if not isinstance(value, kind):
            raise SettingsError(f"{self.where}: {key!r} must be {what}, but is {value!r}.")
        return value

"""JSON schemas without references, for engines that lose the definitions on the way.

TGI copies `properties` and `required` of a tool's schema into one of its own, and a schema that we put into another
one moves too: `#/$defs/City` then leads nowhere. Every reference is replaced by what it stands for.
Keywords: JSON Schema 2020-12, https://json-schema.org/draft/2020-12/json-schema-core (8.2.3).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.errors import InvalidRequest

_DEFINITIONS = ("$defs", "definitions")
_LARGEST = 20_000
"""Parts of a schema without references, at most: those of references among themselves double with each step."""


def inlined(schema: Mapping[str, Any], param: str) -> dict[str, Any]:
    """`schema` with each local reference replaced by its definition.

    Args:
        param: the request's parameter that holds it, for the error.

    Raises:
        InvalidRequest: a reference leads nowhere or into itself, or the schema grows too large.
    """
    return _Inlining(schema, param).whole()


class _Inlining:
    def __init__(self, root: Mapping[str, Any], param: str) -> None:
        self._root = root
        self._param = param
        self._parts = 0

    def whole(self) -> dict[str, Any]:
        if "$ref" not in str(self._root):
            return dict(self._root)
        written: dict[str, Any] = self._written(self._root, ())
        return {key: value for key, value in written.items() if key not in _DEFINITIONS}

    def _written(self, part: Any, inside: tuple[str, ...]) -> Any:
        self._parts += 1
        if self._parts > _LARGEST:
            raise self._error("grows too large when its references are written out")
        if isinstance(part, list):
            return [self._written(entry, inside) for entry in part]
        if not isinstance(part, Mapping):
            return part
        reference = part.get("$ref")
        if isinstance(reference, str):
            if reference in inside:
                raise self._error(f"contains itself ({reference}), which the engine of this model cannot follow")
            found = self._written(self._found(reference), (*inside, reference))
            beside = {key: self._written(value, inside) for key, value in part.items() if key != "$ref"}
            return {**found, **beside} if isinstance(found, dict) else found
        return {
            key: value if key in _DEFINITIONS and not inside and part is self._root else self._written(value, inside)
            for key, value in part.items()
        }

    def _found(self, reference: str) -> Any:
        part: Any = self._root
        if reference == "#" or not reference.startswith("#/"):
            raise self._error(f"has the reference {reference!r}, which the engine of this model cannot follow")
        for step in reference[2:].split("/"):
            key = step.replace("~1", "/").replace("~0", "~")
            if not isinstance(part, Mapping) or key not in part:
                raise self._error(f"has the reference {reference!r}, which leads nowhere")
            part = part[key]
        return part

    def _error(self, what: str) -> InvalidRequest:
        return InvalidRequest(f"The schema in '{self._param}' {what}.", param=self._param)

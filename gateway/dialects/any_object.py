"""A regular expression for "some JSON object", for engines whose grammar needs every property named.

Made like those that TGI makes from a schema: at most one space between tokens, and nesting to a fixed depth, since a
regular expression cannot count brackets.
"""

from __future__ import annotations

_DEPTH = 2
"""Objects and lists inside the object, at most so deep. Each level makes the expression four times as long."""
_SPACE = "[ ]?"
_STRING = r'"([^"\\\x00-\x1F\x7F-\x9F]|\\["\\/bfnrt])*"'
_NUMBER = r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?"


def _value(depth: int) -> str:
    kinds = [_STRING, _NUMBER, "true", "false", "null"]
    if depth:
        kinds += [_object(depth - 1), _list(depth - 1)]
    return "(" + "|".join(kinds) + ")"


def _object(depth: int) -> str:
    member = f"{_STRING}{_SPACE}:{_SPACE}{_value(depth)}{_SPACE}"
    return rf"\{{{_SPACE}({member}(,{_SPACE}{member})*)?\}}"


def _list(depth: int) -> str:
    entry = f"{_value(depth)}{_SPACE}"
    return rf"\[{_SPACE}({entry}(,{_SPACE}{entry})*)?\]"


ANY_OBJECT = _object(_DEPTH)

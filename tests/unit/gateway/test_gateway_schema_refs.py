"""Schemas without references, and the regular expression for any JSON object."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from pydantic import BaseModel

from gateway.dialects.any_object import ANY_OBJECT
from gateway.dialects.schema_refs import inlined
from gateway.errors import InvalidRequest

pytestmark = pytest.mark.unit


class Place(BaseModel):
    city: str


class Trip(BaseModel):
    start: Place
    stops: list[Place]


def test_pydantics_references_are_written_out() -> None:
    schema = inlined(Trip.model_json_schema(), "tools")
    assert "$" not in json.dumps(schema)
    assert schema["properties"]["start"]["properties"]["city"]["type"] == "string"
    assert schema["properties"]["stops"]["items"]["required"] == ["city"]


def test_a_schema_without_references_stays_as_it_is() -> None:
    schema = {"$schema": "x", "type": "object", "properties": {"$defs": {"type": "string"}}}
    assert inlined(schema, "tools") == schema


def test_what_stands_beside_a_reference_wins_and_pointers_are_unescaped() -> None:
    schema = {
        "definitions": {"a/b~c": {"type": "string", "title": "x"}},
        "items": {"$ref": "#/definitions/a~1b~0c", "title": "y"},
    }
    assert inlined(schema, "tools") == {"items": {"type": "string", "title": "y"}}


def test_a_property_called_ref_is_no_reference() -> None:
    schema = {"properties": {"$ref": {"type": "string"}, "a": {"$ref": "#/$defs/x"}}, "$defs": {"x": {"type": "null"}}}
    assert inlined(schema, "tools")["properties"] == {"$ref": {"type": "string"}, "a": {"type": "null"}}


def _doubling(steps: int) -> dict[str, Any]:
    defs: dict[str, Any] = {"d0": {"type": "string"}}
    for n in range(steps):
        defs[f"d{n + 1}"] = {"anyOf": [{"$ref": f"#/$defs/d{n}"}] * 2}
    return {"$ref": f"#/$defs/d{steps}", "$defs": defs}


@pytest.mark.parametrize(
    ("schema", "word"),
    [
        ({"$ref": "#/$defs/a", "$defs": {"a": {"items": {"$ref": "#/$defs/a"}}}}, "itself"),
        ({"items": {"$ref": "#/$defs/b"}}, "nowhere"),
        ({"items": {"$ref": "https://example.org/x"}}, "cannot follow"),
        ({"items": {"$ref": "#"}}, "cannot follow"),
        (_doubling(40), "too large"),
    ],
)
def test_references_that_cannot_be_written_out_are_refused(schema: dict[str, Any], word: str) -> None:
    with pytest.raises(InvalidRequest, match=word) as refused:
        inlined(schema, "response_format")
    assert refused.value.param == "response_format"


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        '{"a": 1}',
        '{"a": -1.5e3, "b": null, "c": [true, false, "x"], "d": {"e": {"f": "g"}}, "h": [[1], {"i": 2}]}',
        '{"quote \\" and \\\\ and \\n": "你好"}',
    ],
)
def test_json_objects_match(text: str) -> None:
    json.loads(text)
    assert re.fullmatch(ANY_OBJECT, text)


@pytest.mark.parametrize("text", ["", "[]", '"a"', "{a: 1}", '{"a": 1,}', '{"a": 01}', '{"a": "b', '{"a" 1}', "{}{}"])
def test_other_texts_do_not(text: str) -> None:
    assert not re.fullmatch(ANY_OBJECT, text)


def test_the_expression_stays_small() -> None:
    """Each level makes it four times as long, and the engine compiles it."""
    assert len(ANY_OBJECT) < 10_000

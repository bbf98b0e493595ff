"""Whether a value fits a schema of an OpenAPI document: the part of JSON Schema that TGI's document uses."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]
_KINDS = {"string": str, "number": (int, float), "boolean": bool, "array": list, "object": dict, "integer": int}


def complaints(document: Json, schema: Json | str, value: Any, at: str = "$") -> list[str]:
    """What does not fit, each with its place; nothing when all does. `schema` may be a component's name."""
    if isinstance(schema, str):
        schema = document["components"]["schemas"][schema]
    if "$ref" in schema:
        return complaints(document, schema["$ref"].rpartition("/")[2], value, at)
    if value is None and schema.get("nullable"):
        return []
    found: list[str] = []
    for part in schema.get("allOf", ()):
        found += complaints(document, part, value, at)
    if (options := schema.get("oneOf")) and all(complaints(document, option, value, at) for option in options):
        found.append(f"{at}: none of {len(options)} shapes")
    if kind := schema.get("type"):
        if not isinstance(value, _KINDS[kind]) or (isinstance(value, bool) and kind != "boolean"):
            return [*found, f"{at}: {value!r} is no {kind}"]
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{at}: {value!r} is not one of {schema['enum']}")
    if "minimum" in schema and value < schema["minimum"]:
        found.append(f"{at}: {value} is below {schema['minimum']}")
    if isinstance(value, dict):
        found += [f"{at}: no {name}" for name in schema.get("required", ()) if name not in value]
        for name, inner in schema.get("properties", {}).items():
            if name in value:
                found += complaints(document, inner, value[name], f"{at}.{name}")
    if isinstance(value, list) and "items" in schema:
        for n, item in enumerate(value):
            found += complaints(document, schema["items"], item, f"{at}[{n}]")
    return found

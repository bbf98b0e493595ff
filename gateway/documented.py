"""What the OpenAPI document says of answers: errors have one form, and some answers are no JSON object."""

from __future__ import annotations

from typing import Any

Responses = dict[int | str, dict[str, Any]]

_TEXT = {"type": "string"}
_TEXT_OR_NULL = {"anyOf": [{"type": "string"}, {"type": "null"}]}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "additionalProperties": False,
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code", "request_id"],
            "additionalProperties": False,
            "properties": {
                "message": _TEXT | {"description": "What happened and what to do."},
                "type": {"type": "string", "enum": ["invalid_request_error", "rate_limit_error", "server_error"]},
                "param": _TEXT_OR_NULL | {"description": "The request's field at fault."},
                "code": _TEXT,
                "request_id": _TEXT | {"description": "The id under which the gateway's logs know the request."},
            },
        }
    },
}


def _error(description: str) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": _ERROR}}}


ERRORS: Responses = {
    "4XX": _error("The request is refused; docs/api.md lists the codes."),
    "5XX": _error("The gateway, its database or the inference server failed."),
}
EVENTS: Responses = {200: {"content": {"text/event-stream": {"schema": _TEXT}}}}
MARKDOWN: Responses = {200: {"content": {"text/markdown": {"schema": _TEXT}}}}
LINES: Responses = {200: {"content": {"application/jsonl": {"schema": _TEXT}}}}

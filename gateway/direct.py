"""The routes that live from their speed, without FastAPI's way to them.

Resolving dependencies, entering exit stacks and matching routes costs a third of what a short answer costs. FastAPI has
the same routes, for its documentation and for whatever does not come this way; both call the same functions.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.auth import Caller, Keys
from gateway.deps import caller_of, secret_in
from gateway.error_answers import error_answer, validation_in_words
from gateway.errors import GatewayError, InvalidRequest
from gateway.telemetry import note_key, note_route
from gateway.turn import Parts


@dataclass(frozen=True)
class DirectRoute:
    """What a POST to a path takes, and what makes the answer of it."""

    model: type[BaseModel]
    endpoint: Callable[[Any, Caller, Parts], Awaitable[Response]]


class Direct:
    """Middleware: answers POSTs to `routes` itself, and passes everything else on."""

    def __init__(self, app: ASGIApp, *, parts: Parts, keys: Keys, routes: Mapping[str, DirectRoute]) -> None:
        self._app = app
        self._parts = parts
        self._keys = keys
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._routes.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if route is None:
            await self._app(scope, receive, send)
            return
        note_route(scope["path"])
        try:
            headers = dict(scope["headers"])
            key = await self._keys.find(secret_in(_text(headers, b"authorization")))
            note_key(key.id)
            caller = caller_of(key, _text(headers, b"x-end-user"), _text(headers, b"x-end-user-address"))
            content = await _read(receive)
            if content is None:
                return
            body = _validated(route.model, content)
            answer = await route.endpoint(body, caller, self._parts)
            await answer(scope, receive, send)
        except GatewayError as error:
            await error_answer(Request(scope), error)(scope, receive, send)
        except RequestValidationError as error:
            await error_answer(Request(scope), validation_in_words(error))(scope, receive, send)


def _text(headers: Mapping[bytes, bytes], name: bytes) -> str | None:
    value = headers.get(name)
    return None if value is None else value.decode("latin-1")


async def _read(receive: Receive) -> bytes | None:
    """The whole body; None when its caller left before it was."""
    body: bytes = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if not message.get("more_body"):
            return body


def _validated(model: type[BaseModel], body: bytes) -> BaseModel:
    """The body as its model; the errors are in FastAPI's form."""
    if not body:
        raise RequestValidationError([{"type": "missing", "loc": ("body",), "msg": "Field required", "input": None}])
    try:
        value = json.loads(body)
    except json.JSONDecodeError as error:
        said = {"error": error.msg}
        entry = {"type": "json_invalid", "loc": ("body", error.pos), "msg": "JSON decode error", "ctx": said}
        raise RequestValidationError([entry]) from None
    except (ValueError, RecursionError):
        raise InvalidRequest("The body is not valid JSON: it is no UTF-8, or too deep.") from None
    if not isinstance(value, dict):
        raise RequestValidationError([{"type": "object", "loc": ("body",), "msg": "The body must be a JSON object."}])
    try:
        return model.model_validate(value)
    except ValidationError as error:
        entries = error.errors(include_url=False)
        raise RequestValidationError([entry | {"loc": ("body", *entry["loc"])} for entry in entries]) from None

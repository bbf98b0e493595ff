"""Errors as answers: the one place where they are put into OpenAI's form, whoever raised them."""

from __future__ import annotations

import logging
import re

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from gateway.errors import GatewayError, InvalidRequest, MethodNotAllowed, NotFound

log = logging.getLogger("gateway")
_VALIDATORS_OWN = re.compile(r"function-|list\[|constrained-|[A-Z]\w*$")


def nothing_there(request: Request) -> NotFound:
    """For a path that no route has."""
    return NotFound(f"There is nothing at {request.method} {request.url.path[:200]}. The API is described at /docs.")


def not_allowed(request: Request, allow: str) -> MethodNotAllowed:
    """For a path that other methods have."""
    message = f"{request.method} is not possible at {request.url.path[:200]}; {allow} is."
    return MethodNotAllowed(message, headers={"allow": allow})


def error_answer(request: Request, error: GatewayError) -> JSONResponse:
    """The answer that says `error`."""
    request_id = request.scope.get("state", {}).get("request_id")
    return JSONResponse(error.body(request_id), status_code=error.status, headers=error.headers())


async def render_ours(request: Request, error: Exception) -> JSONResponse:
    """A GatewayError."""
    assert isinstance(error, GatewayError)
    return error_answer(request, error)


async def render_validation(request: Request, error: Exception) -> JSONResponse:
    """A body, path or query that is not what its model says."""
    assert isinstance(error, RequestValidationError)
    return error_answer(request, validation_in_words(error))


def validation_in_words(error: RequestValidationError) -> InvalidRequest:
    """The first thing that is wrong, in a sentence, with the parameter's name."""
    # Of a field that may be a text or a list, the error for the kind that was sent is the deepest, or none of kinds.
    first = max(error.errors(), key=lambda entry: (len(entry["loc"]), not entry["type"].endswith("_type")))
    # The first part says body, query or path; parts such as "function-before[…]" or a class are the validator's own.
    place = [str(part) for part in first["loc"][1:] if not _VALIDATORS_OWN.match(str(part))]
    if first["type"] == "json_invalid":
        return InvalidRequest(f"The body is not valid JSON: {first['ctx']['error']} at byte {first['loc'][-1]}.")
    context = first.get("ctx", {})
    param = ".".join(place) or context.get("name")
    message = str(first["msg"])
    if first["type"] == "extra_forbidden":
        param = ".".join([*place[:-1], str(first["loc"][-1])])
        message = "This parameter is not known."
    where = f"'{param}': " if place or first["type"] == "extra_forbidden" else ""
    return InvalidRequest(f"{where}{message}", param=param)


async def render_framework(request: Request, error: Exception) -> JSONResponse:
    """What Starlette and FastAPI raise."""
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, GatewayError):  # FastAPI makes a 400 of what reading the body raised
        return error_answer(request, error.__cause__)
    if error.status_code == 404:
        return error_answer(request, nothing_there(request))
    if error.status_code == 405:
        return error_answer(request, not_allowed(request, (error.headers or {}).get("Allow", "")))
    kind = InvalidRequest if error.status_code < 500 else GatewayError
    return error_answer(request, kind(f"{error.detail}."))


async def render_last_resort(request: Request, error: Exception) -> JSONResponse:
    """A bug."""
    request_id = request.scope.get("state", {}).get("request_id", "")
    log.error("a request failed", exc_info=error, extra={"fields": {"request_id": request_id}})
    answer = error_answer(request, GatewayError("The gateway failed. The request id helps to find out why."))
    answer.headers["x-request-id"] = request_id  # this answer is made outside of Front, which gives all others theirs
    return answer

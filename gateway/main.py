"""create_app: the only place where the parts of the gateway are put together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncIterator

import fastapi_offline
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.routing import Match, Route

from gateway.admission import Admission
from gateway.auth import Keys
from gateway.background import BackgroundAnswers
from gateway.database import Database
from gateway.errors import GatewayError, InvalidRequest, MethodNotAllowed, NotFound
from gateway.front import Front
from gateway.heartbeat import Heartbeat
from gateway.limits import Limits, MemoryLimits
from gateway.open_turns import OpenTurns
from gateway.redis_limits import RedisLimits
from gateway.retention import Retention
from gateway.routes import completions, conversations, history, native, ops, responses
from gateway.routes import keys as key_routes
from gateway.settings import Settings
from gateway.store import Store
from gateway.turn import Parts
from gateway.upstream import Upstream
from gateway.upstreams import Upstreams

log = logging.getLogger("gateway")
_ROUTES = (completions, responses, conversations, history, native, key_routes, ops)
_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
_VALIDATORS_OWN = re.compile(r"function-|list\[|constrained-|[A-Z]\w*$")
_DESCRIPTION = "OpenAI's API in front of an InternLM2 chat model, with keys, limits and stored conversations."


def create_app(settings: Settings) -> FastAPI:
    """The gateway as an ASGI application. Opens (and migrates) the store; makes the first keys when missing.

    Serve it with gateway.server.Server, which ends the open turns in order when it stops.

    Raises:
        DatabaseError: the store cannot be opened, or another gateway has it.
    """
    database = Database(settings.database, hold=True, wait_s=settings.database_wait_s)
    keys = Keys(database)
    with database.alone("first keys"):  # gateways that share a database may share the folder too
        _make_first_keys(keys, settings)
    store = Store(database)
    open_turns = OpenTurns(store)
    heartbeat = Heartbeat(database, store)
    limits = _limits(settings)
    admission = Admission(slots=0, max_waiting=settings.max_waiting, max_wait_s=settings.max_wait_s)
    upstreams = Upstreams(
        [
            Upstream(address, model=settings.model, timeouts=settings.timeouts, tool_format=settings.tool_format)
            for address in settings.upstreams
        ],
        on_change=lambda taking: admission.resize(settings.slots * max(1, taking)),
    )
    admission.resize(settings.slots * len(settings.upstreams))
    retention = Retention(
        database, conversation_days=settings.retention_days, response_days=settings.response_retention_days
    )

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await heartbeat.begin()
        running = {
            asyncio.create_task(work) for work in (open_turns.run_checkpoints(), heartbeat.run(), retention.run())
        }
        try:
            async with limits.running(), upstreams.watched():
                yield
        finally:
            for task in running:
                task.cancel()
            await asyncio.wait(running)
            with contextlib.suppress(GatewayError):
                await open_turns.checkpoint()
                await heartbeat.leave()
            database.close()

    app = fastapi_offline.FastAPIOffline(
        title="internlm-stack gateway", description=_DESCRIPTION, lifespan=lifespan, redoc_url=None
    )
    app.state.keys = keys
    app.state.background = BackgroundAnswers()
    app.state.parts = Parts(
        settings=settings,
        upstreams=upstreams,
        store=store,
        limits=limits,
        admission=admission,
        open_turns=open_turns,
    )
    for part in _ROUTES:
        app.include_router(part.router)
    app.add_route("/v1", _unknown_path, methods=_METHODS, include_in_schema=False)
    app.add_route("/v1/{path:path}", _unknown_path, methods=_METHODS, include_in_schema=False)
    app.add_exception_handler(GatewayError, _render_ours)
    app.add_exception_handler(RequestValidationError, _render_validation)
    app.add_exception_handler(HTTPException, _render_framework)
    app.add_exception_handler(Exception, _render_last_resort)
    app.add_middleware(Front, max_body_bytes=settings.max_body_bytes)
    return app


def _limits(settings: Settings) -> Limits:
    if settings.redis_url is None:
        return MemoryLimits()
    return RedisLimits(settings.redis_url, is_open=settings.limits_without_redis == "open")


def _make_first_keys(keys: Keys, settings: Settings) -> None:
    folder = settings.data_dir
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if keys.ensure_file(folder / "admin.key", "admin", frozenset({"chat", "admin"})):
        log.warning("the first start made an admin key: %s", folder / "admin.key")
    keys.ensure_file(folder / "webui.key", "web UI", frozenset({"chat", "on_behalf_of"}))


async def _unknown_path(request: Request) -> JSONResponse:
    """Whatever is mounted at `/`, every path under /v1 answers in OpenAI's error bodies."""
    allowed = {
        method
        for part in _ROUTES
        for route in part.router.routes
        if isinstance(route, Route) and route.matches(dict(request.scope))[0] is Match.PARTIAL
        for method in (route.methods or ())
    }
    if allowed:
        raise _not_allowed(request, ", ".join(sorted(allowed)))
    raise _nothing_there(request)


def _nothing_there(request: Request) -> NotFound:
    return NotFound(f"There is nothing at {request.method} {request.url.path[:200]}. The API is described at /docs.")


def _not_allowed(request: Request, allow: str) -> MethodNotAllowed:
    message = f"{request.method} is not possible at {request.url.path[:200]}; {allow} is."
    return MethodNotAllowed(message, headers={"allow": allow})


def _response(request: Request, error: GatewayError) -> JSONResponse:
    request_id = request.scope.get("state", {}).get("request_id")
    return JSONResponse(error.body(request_id), status_code=error.status, headers=error.headers())


async def _render_ours(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, GatewayError)
    return _response(request, error)


async def _render_validation(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return _response(request, _validation_in_words(error))


def _validation_in_words(error: RequestValidationError) -> InvalidRequest:
    # Of a field that may be a text or a list, the deepest error is the one of the kind that was sent.
    first = max(error.errors(), key=lambda entry: len(entry["loc"]))
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


async def _render_framework(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, GatewayError):  # FastAPI makes a 400 of what reading the body raised
        return _response(request, error.__cause__)
    if error.status_code == 404:
        return _response(request, _nothing_there(request))
    if error.status_code == 405:
        return _response(request, _not_allowed(request, (error.headers or {}).get("Allow", "")))
    kind = InvalidRequest if error.status_code < 500 else GatewayError
    return _response(request, kind(f"{error.detail}."))


async def _render_last_resort(request: Request, error: Exception) -> JSONResponse:
    request_id = request.scope.get("state", {}).get("request_id", "")
    log.error("a request failed", exc_info=error, extra={"fields": {"request_id": request_id}})
    answer = _response(request, GatewayError("The gateway failed. The request id helps to find out why."))
    answer.headers["x-request-id"] = request_id  # this answer is made outside of Front, which gives all others theirs
    return answer

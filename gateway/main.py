"""create_app: the only place where the parts of the gateway are put together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import fastapi_offline
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import Match, Route

from gateway import VERSION
from gateway.admission import Admission
from gateway.auth import Caller, Keys
from gateway.background import BackgroundAnswers
from gateway.database import Database, DatabaseError
from gateway.databases.copies import conversations_in
from gateway.direct import Direct, DirectRoute
from gateway.documented import ERRORS
from gateway.error_answers import (
    not_allowed,
    nothing_there,
    render_framework,
    render_last_resort,
    render_ours,
    render_validation,
)
from gateway.errors import GatewayError
from gateway.front import Front
from gateway.heartbeat import Heartbeat
from gateway.limits import Limits, MemoryLimits
from gateway.metrics import Metrics
from gateway.metrics_token import kept_token
from gateway.model_state import start_failure
from gateway.open_turns import OpenTurns
from gateway.response_schemas import ResponseRequest
from gateway.retention import Retention
from gateway.routes import completions, conversations, history, native, ops, responses
from gateway.routes import keys as key_routes
from gateway.schemas import ChatRequest, CompletionRequest
from gateway.scrape import look_at
from gateway.settings import Places, Settings
from gateway.shared_answers import SharedAnswers
from gateway.store import Store
from gateway.turn import Parts
from gateway.upstream import Upstream
from gateway.upstreams import Upstreams

if TYPE_CHECKING:
    from gateway.shared_in_redis import SharedInRedis
    from gateway.tracing import Tracing

log = logging.getLogger("gateway")
_ROUTES = (completions, responses, conversations, history, native, key_routes, ops)
_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
_DESCRIPTION = "OpenAI's API in front of an InternLM2 chat model, with keys, limits and stored conversations."


def create_app(settings: Settings) -> FastAPI:
    """The gateway as an ASGI application. Opens (and migrates) the store; makes the first keys when missing.

    Serve it with gateway.server.Server, which ends the open turns in order when it stops.

    Raises:
        DatabaseError: the store cannot be opened, or another gateway has it, or the files with the web UI's key and the
            token for /metrics cannot be used.
    """
    warn_of_unused_history(settings)
    database = Database(settings.database, hold=True, wait_s=settings.database_wait_s)
    keys = Keys(database)
    with database.alone("first keys"):  # gateways that share a database may share the folder too
        _make_first_keys(keys, settings)
    store = Store(database)
    open_turns = OpenTurns(store)
    heartbeat = Heartbeat(database, store)
    metrics = Metrics(settings.model)
    tracing = _tracing(settings)
    redis = _redis(settings, store.holder)
    limits: Limits = MemoryLimits() if redis is None else redis.limits(settings)
    upstreams = Upstreams(
        [
            Upstream(address, model=settings.model, timeouts=settings.timeouts, tool_format=settings.tool_format)
            for address in settings.upstreams
        ],
        on_change=lambda taking: admission.resize(settings.slots * max(1, taking)),
        on_failure=metrics.upstream_failed,
        why_not_ready=lambda: start_failure(settings.data_dir),
    )
    admission = _admission(settings, upstreams) if redis is None else redis.admission(settings, upstreams)
    background = BackgroundAnswers()
    inbox = redis.inbox if redis is not None else None
    shared_answers = SharedAnswers(background, database, store, open_turns, inbox)
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
            async with contextlib.AsyncExitStack() as stack:
                if redis is not None:
                    await stack.enter_async_context(redis.running())
                await stack.enter_async_context(limits.running())
                await stack.enter_async_context(shared_answers.running())
                await stack.enter_async_context(upstreams.watched())
                yield
        finally:
            for task in running:
                task.cancel()
            await asyncio.wait(running)
            with contextlib.suppress(GatewayError):
                await open_turns.checkpoint()
                await heartbeat.leave()
            database.close()
            if tracing is not None:
                await asyncio.to_thread(tracing.close)

    app = fastapi_offline.FastAPIOffline(
        title="internlm-stack gateway",
        version=VERSION,
        description=_DESCRIPTION,
        lifespan=lifespan,
        redoc_url=None,
        responses=ERRORS,
    )
    app.state.keys = keys
    app.state.metrics_tokens = _metrics_tokens(settings)
    app.state.background = background
    app.state.shared_answers = shared_answers
    app.state.parts = Parts(
        settings=settings,
        upstreams=upstreams,
        store=store,
        limits=limits,
        admission=admission,
        open_turns=open_turns,
        metrics=metrics,
    )
    metrics.observe(lambda: look_at(app.state.parts, app.state.background, database))
    for part in _ROUTES:
        app.include_router(part.router)
    app.add_route("/v1", _unknown_path, methods=_METHODS, include_in_schema=False)
    app.add_route("/v1/{path:path}", _unknown_path, methods=_METHODS, include_in_schema=False)
    app.add_exception_handler(GatewayError, render_ours)
    app.add_exception_handler(RequestValidationError, render_validation)
    app.add_exception_handler(HTTPException, render_framework)
    app.add_exception_handler(Exception, render_last_resort)
    app.add_middleware(Direct, parts=app.state.parts, keys=keys, routes=_direct_routes(app.state.background))
    app.add_middleware(Front, metrics=metrics, tracing=tracing, max_body_bytes=settings.max_body_bytes)
    return app


def _direct_routes(background: BackgroundAnswers) -> dict[str, DirectRoute]:
    async def respond(body: ResponseRequest, caller: Caller, parts: Parts) -> Response:
        return await responses.create_response(body, caller, parts, background)

    return {
        "/v1/chat/completions": DirectRoute(ChatRequest, completions.create_chat_completion),
        "/v1/completions": DirectRoute(CompletionRequest, completions.create_completion),
        "/v1/responses": DirectRoute(ResponseRequest, respond),
    }


def _redis(settings: Settings, gateway: str) -> SharedInRedis | None:
    if settings.redis_url is None:
        return None
    from gateway.shared_in_redis import (
        SharedInRedis,
    )  # its client loads OpenTelemetry's SDK and takes a third of a second

    return SharedInRedis(settings, gateway)


def _admission(settings: Settings, upstreams: Upstreams) -> Admission:
    slots = settings.slots * len(upstreams.members)
    return Admission(slots=slots, max_waiting=settings.max_waiting, max_wait_s=settings.max_wait_s)


def _tracing(settings: Settings) -> Tracing | None:
    if settings.traces is None:
        return None
    from gateway.tracing import Tracing

    return Tracing(settings.traces, settings.model)


def _metrics_tokens(settings: Settings) -> frozenset[str]:
    kept = None if settings.metrics_token_file is None else kept_token(settings.metrics_token_file)
    return frozenset(token for token in (settings.metrics_token, kept) if token is not None)


def warn_of_unused_history(settings: Settings) -> None:
    """Who goes from one gateway to several would else see an empty history, and know of no reason."""
    left = settings.data_dir / Places.DATABASE_NAME
    if settings.database != f"sqlite:///{left}" and (count := conversations_in(left)):
        log.warning(
            "the history in %s (conversations: %d, and its API keys) is not used while DATABASE_URL is set; it stays "
            "as it is, and is used again by a gateway without DATABASE_URL",
            left,
            count,
        )


def _make_first_keys(keys: Keys, settings: Settings) -> None:
    folder = settings.data_dir
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if keys.ensure_file(folder / "admin.key", "admin", frozenset({"chat", "admin"})):
        log.warning("the first start made an admin key: %s", folder / "admin.key")
    if settings.admin_key:
        keys.ensure_secret(settings.admin_key, "GATEWAY_ADMIN_KEY", frozenset({"chat", "admin"}))
    webui_key = settings.webui_key_file or folder / "webui.key"
    try:
        webui_key.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        keys.ensure_file(webui_key, "web UI", frozenset({"chat", "on_behalf_of"}))
    except OSError as error:
        raise DatabaseError(
            f"WEBUI_API_KEY_FILE: {webui_key} cannot be used ({error.strerror}). Name a file that can be written."
        ) from None


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
        raise not_allowed(request, ", ".join(sorted(allowed)))
    raise nothing_there(request)

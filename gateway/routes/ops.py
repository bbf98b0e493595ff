"""Health, readiness, metrics and the state of the model."""

from __future__ import annotations

import hmac
from typing import Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from gateway.deps import CallerDep, KeysDep, PartsDep, get_admin, secret_in
from gateway.errors import NotFound, UpstreamNotReady
from gateway.metrics import CONTENT_TYPE
from gateway.model_state import start_failure, written_status
from gateway.schemas import UpstreamUpdate
from gateway.turn import Parts
from gateway.upstreams import Member

router = APIRouter(tags=["operations"])


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """Live: the gateway answers."""
    return {"status": "ok"}


@router.get("/readyz", response_model=None)
async def readyz(parts: PartsDep) -> JSONResponse:
    """Ready: a completion can be served now; 503 otherwise, with the stage that the model is in, and during a stop."""
    parts.open_turns.require_ready()
    status = await _status(parts)
    if not status["ready"]:
        if (failure := start_failure(parts.settings.data_dir)) is not None:
            raise failure
        raise UpstreamNotReady(f"The model is not ready yet (stage: {status['stage']}).", retry_after_s=2)
    return JSONResponse({"status": "ready"})


@router.get("/metrics", response_class=PlainTextResponse)
async def get_metrics(request: Request, parts: PartsDep, keys: KeysDep) -> Response:
    """What Prometheus asks for. On a loopback address open, else for admin keys and GATEWAY_METRICS_TOKEN[_FILE]."""
    tokens: frozenset[str] = request.app.state.metrics_tokens
    if tokens or not parts.settings.is_loopback:
        secret = secret_in(request.headers.get("authorization"))
        if not any(hmac.compare_digest(secret.encode(), token.encode()) for token in tokens):
            await get_admin(await keys.find(secret))
    parts.metrics.is_ready.set(await parts.upstreams.is_ready())
    return Response(parts.metrics.text(), media_type=CONTENT_TYPE)


@router.get("/v1/upstreams", dependencies=[Depends(get_admin)])
async def list_upstreams(parts: PartsDep) -> dict[str, Any]:
    """The inference servers and what is known of them (ours; needs the scope `admin`)."""
    is_up = await parts.upstreams.is_ready()
    return {"object": "list", "data": [_upstream(member, is_up) for member in parts.upstreams.members]}


@router.post("/v1/upstreams/{upstream_id}", dependencies=[Depends(get_admin)])
async def update_upstream(upstream_id: str, body: UpstreamUpdate, parts: PartsDep) -> dict[str, Any]:
    """Takes a server out of the choice (`draining`: it finishes what it has), or back in (ours)."""
    member = parts.upstreams.set_draining(upstream_id, body.draining)
    if member is None:
        raise NotFound(f"There is no inference server '{upstream_id[:100]}'; GET /v1/upstreams lists them.")
    return _upstream(member, await parts.upstreams.is_ready())


@router.get("/v1/status")
async def get_status(caller: CallerDep, parts: PartsDep) -> dict[str, Any]:
    """What the server is doing, for people who wait (ours)."""
    return await _status(parts)


async def _status(parts: Parts) -> dict[str, Any]:
    settings = parts.settings
    written = written_status(settings.data_dir)
    is_up = await parts.upstreams.is_ready()
    # An engine that nobody of ours watches leaves the file at `load`, where its preparation ended.
    is_ready = is_up and written["stage"] in ("ready", "unknown", "load")
    if is_ready and written["stage"] == "load":
        written["message"] = ""
    stage = "ready" if is_ready else written["stage"]
    was_up_at = parts.upstreams.was_ready_at
    if stage == "ready" and not is_up:  # its supervisor has not noticed yet
        stage = "restarting"
    if stage == "load" and was_up_at is not None and was_up_at > (written["since"] or 0):
        stage, written["since"] = "restarting", was_up_at
    return {
        "object": "status",
        **written,
        "stage": stage,
        "ready": is_ready,
        "model": settings.model,
        "title": settings.model_title,
        "note": dict(settings.model_note) if settings.model_note else None,
        "context_tokens": settings.context_tokens,
        "upstreams": [
            {"engine": member.upstream.engine, "ready": is_up and not member.is_ejected}
            for member in parts.upstreams.members
        ],
        "running": parts.admission.running,
        "waiting": parts.admission.waiting,
        "max_waiting": settings.max_waiting,
    }


def _upstream(member: Member, is_up: bool) -> dict[str, Any]:
    return {
        "id": member.name,
        "engine": member.upstream.engine,
        "ready": is_up and not member.is_ejected,
        "draining": member.is_draining,
        "running": member.open,
    }

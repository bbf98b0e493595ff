"""Health, readiness and the state of the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from starlette.responses import JSONResponse

from gateway.deps import CallerDep, PartsDep
from gateway.errors import UpstreamNotReady
from gateway.turn import Parts

router = APIRouter(tags=["operations"])
_UNKNOWN: dict[str, Any] = {"stage": "unknown", "done": 0, "total": 0, "unit": "", "message": "", "since": None}


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """Live: the gateway answers."""
    return {"status": "ok"}


@router.get("/readyz", response_model=None)
async def readyz(parts: PartsDep) -> JSONResponse:
    """Ready: a completion can be served now; 503 otherwise, with the stage that the model is in."""
    status = await _status(parts)
    if not status["ready"]:
        raise UpstreamNotReady(f"The model is not ready yet (stage: {status['stage']}).", retry_after_s=2)
    return JSONResponse({"status": "ready"})


@router.get("/v1/status")
async def get_status(caller: CallerDep, parts: PartsDep) -> dict[str, Any]:
    """What the server is doing, for people who wait (ours)."""
    return await _status(parts)


async def _status(parts: Parts) -> dict[str, Any]:
    settings = parts.settings
    written = _written_status(settings.data_dir / "status.json")
    is_up = await parts.upstream.is_ready()
    is_ready = is_up and written["stage"] in ("ready", "unknown")
    stage = "ready" if is_ready else written["stage"]
    if stage == "ready" and not is_up:  # its supervisor has not noticed yet
        stage = "restarting"
    return {
        "object": "status",
        **written,
        "stage": stage,
        "ready": is_ready,
        "model": settings.model,
        "title": settings.model_title,
        "note": dict(settings.model_note) if settings.model_note else None,
        "context_tokens": settings.context_tokens,
        "upstreams": [{"engine": parts.upstream.engine, "ready": is_up}],
        "running": settings.slots - parts.admission.free,
        "waiting": parts.admission.waiting,
    }


def _written_status(path: Path) -> dict[str, Any]:
    """What the model's side wrote to status.json; a small file, replaced in one step."""
    try:
        written = json.loads(path.read_bytes())
        return {name: written.get(name, default) for name, default in _UNKNOWN.items()}
    except (OSError, ValueError, AttributeError):
        return dict(_UNKNOWN)

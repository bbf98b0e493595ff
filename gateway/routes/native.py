"""TGI's own routes, when the inference server is TGI: behind the same keys, limits and slots as OpenAI's."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import APIRouter
from starlette.responses import Response

from gateway.auth import Caller
from gateway.deps import CallerDep, PartsDep
from gateway.documented import EVENTS
from gateway.errors import NotFound, UpstreamFailed
from gateway.native_object import CollectedGeneration, native_prompt
from gateway.native_schemas import CompatGenerateRequest, GenerateRequest, TokenizeRequest
from gateway.relay import ChatCompletion, NativeStream
from gateway.turn import ChatTurn, Parts

router = APIRouter(tags=["tgi"])


@router.post("/generate", response_model=None)
async def generate(body: GenerateRequest, caller: CallerDep, parts: PartsDep) -> Response:
    """TGI's own form of a completion."""
    return _generation(body, caller, parts, CollectedGeneration(body))


@router.post("/generate_stream", response_model=None, responses=EVENTS)
async def generate_stream(body: GenerateRequest, caller: CallerDep, parts: PartsDep) -> Response:
    """The same as server-sent events, token by token."""
    return _generation(body, caller, parts, None)


@router.post("/", response_model=None, responses=EVENTS)
async def compat_generate(body: CompatGenerateRequest, caller: CallerDep, parts: PartsDep) -> Response:
    """The form of it that `InferenceClient.text_generation` calls."""
    return _generation(body, caller, parts, None if body.stream else CollectedGeneration(body, is_compat=True))


@router.post("/v1", response_model=None, responses=EVENTS)
async def compat_generate_v1(body: CompatGenerateRequest, caller: CallerDep, parts: PartsDep) -> Response:
    """The same for clients whose base URL ends in `/v1`."""
    return await compat_generate(body, caller, parts)


@router.post("/tokenize", response_model=None)
async def tokenize(body: TokenizeRequest, caller: CallerDep, parts: PartsDep) -> Response:
    """The tokens of a text, with their places in its UTF-8."""
    _require_tgi(parts)
    reservation = await parts.charge(caller)
    try:
        asked = body.model_dump(exclude_none=True)
        tokens = await parts.upstreams.fetch("POST", "/tokenize", msgspec.json.encode(asked))
    finally:
        await reservation.settle(None)
    return Response(tokens, media_type="application/json", headers=reservation.headers())


@router.get("/info", response_model=None)
async def info(caller: CallerDep, parts: PartsDep) -> dict[str, Any]:
    """What TGI says of itself, with the public model id."""
    _require_tgi(parts)
    try:
        told: dict[str, Any] = msgspec.json.decode(await parts.upstreams.fetch("GET", "/info", b""), type=dict)
    except msgspec.DecodeError:
        raise UpstreamFailed("The inference server did not say what it is. Try again.") from None
    return told | {"model_id": parts.settings.model}


def _generation(body: GenerateRequest, caller: Caller, parts: Parts, collected: CollectedGeneration | None) -> Response:
    _require_tgi(parts)
    turn = ChatTurn(parts, caller, native_prompt(body, parts.settings.context_tokens))
    return NativeStream(turn) if collected is None else ChatCompletion(turn, collected)


def _require_tgi(parts: Parts) -> None:
    if parts.upstreams.engine != "tgi":
        raise NotFound("TGI's own routes are there when the inference server is TGI; use /v1/completions instead.")

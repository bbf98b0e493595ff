"""`/v1/chat/completions`, `/v1/completions` and `/v1/models`: stateless."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from gateway.chat_object import CollectedCompletion, CollectedText, chat_prompt, text_prompt
from gateway.deps import CallerDep, PartsDep
from gateway.documented import EVENTS
from gateway.relay import ChatCompletion, ChatStream
from gateway.schemas import ChatRequest, CompletionRequest
from gateway.turn import ChatTurn, Parts

router = APIRouter(prefix="/v1", tags=["chat"])


@router.post("/chat/completions", response_model=None, responses=EVENTS)
async def create_chat_completion(body: ChatRequest, caller: CallerDep, parts: PartsDep) -> Response:
    """An answer to a list of messages; with `stream` as server-sent events."""
    parts.require_model(body.model)
    prompt = chat_prompt(body, parts.settings.context_tokens)
    turn = ChatTurn(parts, caller, prompt, wants_usage=body.wants_usage)
    return ChatStream(turn) if body.stream else ChatCompletion(turn, CollectedCompletion())


@router.post("/completions", response_model=None, responses=EVENTS)
async def create_completion(body: CompletionRequest, caller: CallerDep, parts: PartsDep) -> Response:
    """OpenAI's older API: goes on from a text, without a chat template."""
    parts.require_model(body.model)
    prompt = text_prompt(body, parts.settings.context_tokens)
    turn = ChatTurn(parts, caller, prompt, wants_usage=body.wants_usage)
    return ChatStream(turn) if body.stream else ChatCompletion(turn, CollectedText())


@router.get("/models")
async def list_models(caller: CallerDep, parts: PartsDep) -> dict[str, Any]:
    """The models served here."""
    return {"object": "list", "data": [_model(parts)]}


@router.get("/models/{model:path}")
async def get_model(model: str, caller: CallerDep, parts: PartsDep) -> dict[str, Any]:
    """One model."""
    parts.require_model(model)
    return _model(parts)


def _model(parts: Parts) -> dict[str, Any]:
    return {
        "id": parts.settings.model,
        "object": "model",
        "created": 0,
        "owned_by": "internlm-stack",
        "context_length": parts.settings.context_tokens,
    }

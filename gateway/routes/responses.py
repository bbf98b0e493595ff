"""`/v1/responses`: turns that are stored."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.responses import Response

from gateway.deps import CallerDep, PartsDep, Settling
from gateway.errors import InvalidRequest
from gateway.relay import ResponseObject, ResponseStream
from gateway.response_object import response_object
from gateway.schemas import ResponseRequest
from gateway.turn import ResponseTurn

router = APIRouter(prefix="/v1/responses", tags=["responses"])


@router.post("", response_model=None)
async def create_response(body: ResponseRequest, caller: CallerDep, parts: PartsDep) -> Response:
    """One turn: a message and its answer, stored in a conversation or a chain of responses."""
    parts.require_model(body.model)
    turn = ResponseTurn(parts, caller, body)
    reservation = await parts.charge(caller)
    headers = reservation.headers()
    return Settling(ResponseStream(turn, headers) if body.stream else ResponseObject(turn, headers), reservation)


@router.get("/{response_id}")
async def get_response(
    response_id: str, caller: CallerDep, parts: PartsDep, stream: Annotated[bool, Query()] = False
) -> dict[str, Any]:
    """A stored response."""
    if stream:
        raise InvalidRequest("Streaming a stored response is not supported yet.", param="stream")
    return response_object(await parts.store.response(caller.owner, response_id))


@router.delete("/{response_id}")
async def delete_response(response_id: str, caller: CallerDep, parts: PartsDep) -> dict[str, Any]:
    """Forgets a response; its messages stay in their conversation."""
    await parts.store.delete_response(caller.owner, response_id)
    return {"id": response_id, "object": "response", "deleted": True}

"""`/v1/responses`: turns that are stored."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.responses import Response

from gateway.answer_log import events_again
from gateway.background import BackgroundAnswers
from gateway.continued_turn import ContinuedTurn
from gateway.deps import BackgroundDep, CallerDep, PartsDep, SharedDep
from gateway.documented import EVENTS
from gateway.errors import ConversationBusy, InvalidRequest
from gateway.relay import BackgroundObject, BackgroundStream, ResponseObject, ResponseStream, ToldAgain
from gateway.response_object import response_object
from gateway.response_schemas import ContinueRequest, ResponseRequest
from gateway.response_turn import ResponseTurn

router = APIRouter(prefix="/v1/responses", tags=["responses"])


@router.post("", response_model=None, responses=EVENTS)
async def create_response(
    body: ResponseRequest, caller: CallerDep, parts: PartsDep, background: BackgroundDep
) -> Response:
    """One turn: a message and its answer, stored in a conversation or a chain of responses."""
    parts.require_model(body.model)
    return _answer(ResponseTurn(parts, caller, body), background, is_streamed=bool(body.stream))


@router.get("/{response_id}", response_model=None, responses=EVENTS)
async def get_response(
    response_id: str,
    caller: CallerDep,
    parts: PartsDep,
    background: BackgroundDep,
    shared: SharedDep,
    stream: Annotated[bool, Query()] = False,
    starting_after: Annotated[int | None, Query(ge=0)] = None,
) -> Response | dict[str, Any]:
    """A stored response; with `stream` its events, those after the number `starting_after`, as they come."""
    running = background.find(caller.owner, response_id)
    if stream and running is not None:
        return BackgroundStream(background, running=running, starting_after=_from(starting_after))
    stored = await parts.store.response(caller.owner, response_id)
    if not stream:
        if starting_after is not None:
            raise InvalidRequest("'starting_after' needs 'stream=true'.", param="starting_after")
        place = {"queue_position": running.place} if running is not None and running.place else {}
        return response_object(stored) | place
    if stored.is_open:
        if stored.body.get("background"):
            answer = shared.watch(caller.owner, stored)
            return BackgroundStream(background, running=answer, starting_after=_from(starting_after))
        raise InvalidRequest(
            "Only a response that was created with 'background': true can be streamed again while it runs.",
            param="stream",
        )
    if starting_after is not None and not stored.body.get("background"):  # nobody kept how its text was parted
        raise InvalidRequest(
            "'starting_after' needs a response that was created with 'background': true; without it all events come.",
            param="starting_after",
        )
    return ToldAgain(events_again(stored, _from(starting_after)))


@router.post("/{response_id}/cancel")
async def cancel_response(
    response_id: str, caller: CallerDep, parts: PartsDep, background: BackgroundDep, shared: SharedDep
) -> dict[str, Any]:
    """Ends a background response; what there is of its answer stays. One that has ended is returned as it is."""
    stored = await parts.store.response(caller.owner, response_id)
    await background.cancel(caller.owner, stored)
    if stored.is_open:
        stored = await parts.store.response(caller.owner, response_id)
    return response_object(await shared.cancel(caller.owner, stored))


@router.post("/{response_id}/continue", response_model=None)
async def continue_response(
    response_id: str,
    caller: CallerDep,
    parts: PartsDep,
    background: BackgroundDep,
    body: ContinueRequest | None = None,
) -> Response:
    """An answer that was cut goes on (ours): the same response, with its text so far first."""
    request = body or ContinueRequest()
    stored = await parts.store.response(caller.owner, response_id)
    if stored.is_open:
        raise ConversationBusy("This response is still being written. Wait for it, or stop it.", retry_after_s=1)
    turn = ContinuedTurn(parts, caller, stored, request)
    return _answer(turn, background, is_streamed=bool(request.stream))


@router.delete("/{response_id}")
async def delete_response(response_id: str, caller: CallerDep, parts: PartsDep) -> dict[str, Any]:
    """Forgets a response; its messages stay in their conversation."""
    await parts.store.delete_response(caller.owner, response_id)
    return {"id": response_id, "object": "response", "deleted": True}


def _from(starting_after: int | None) -> int:
    return -1 if starting_after is None else starting_after


def _answer(turn: ResponseTurn, background: BackgroundAnswers, *, is_streamed: bool) -> Response:
    if turn.is_background:
        return BackgroundStream(background, turn) if is_streamed else BackgroundObject(turn, background)
    return ResponseStream(turn) if is_streamed else ResponseObject(turn)

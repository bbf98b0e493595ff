"""A scripted stand-in for the gateway, on a real socket: conversations in memory, answers by scenario.

It keeps the contract that `webui` relies on and records what it was asked and when a caller left, so tests can script
what a real model would not do at the right moment. `gateway.state` is shared with the test: set `scenario`, read
`requests` and `stopped_at`. How answers run is in answers.py.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.fakes.answers import Answer, Scenario

__all__ = ["KEY", "READY", "FakeGateway", "GatewayState", "Scenario", "create_app", "error", "fake_gateway", "serve"]

Json = dict[str, Any]
KEY = "sk-test"
READY: Json = {
    "object": "status",
    "ready": True,
    "stage": "ready",
    "model": "smollm2-135m-instruct",
    "title": "SmolLM2 135M Instruct",
    "done": 0,
    "total": 0,
    "unit": "",
    "message": "",
    "since": 0,
    "context_tokens": 4096,
    "note": {
        "en": "A tiny English-only demo model. For InternLM2: make run MODEL=internlm2-chat-7b",
        "zh": "这是一个只会英文的小型演示模型。使用 InternLM2：make run MODEL=internlm2-chat-7b",
    },
}


@dataclass
class GatewayState:
    """What a test sets and reads."""

    scenario: Scenario = field(default_factory=Scenario)
    status: Json = field(default_factory=lambda: dict(READY))
    conversations: dict[str, Json] = field(default_factory=dict)
    requests: list[Json] = field(default_factory=list)
    models: list[str] = field(default_factory=lambda: ["smollm2-135m-instruct"])
    answers: dict[str, Answer] = field(default_factory=dict)
    feedback: dict[str, str | None] = field(default_factory=dict)
    broken: bool = False  # every call gets 503 history_unavailable
    counter: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def stopped_at(self) -> list[float]:
        """When answers were cancelled."""
        return [answer.stopped_at for answer in self.answers.values() if answer.stopped_at is not None]

    def new_id(self, prefix: str) -> str:
        """The next id."""
        return f"{prefix}_{next(self.counter):04d}"


def error(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> Response:
    """An error body as the gateway writes it."""
    body = {"error": {"message": message, "type": "error", "param": None, "code": code, "request_id": "req_1"}}
    return JSONResponse(body, status, headers=headers)


def create_app(state: GatewayState) -> Starlette:
    """The stand-in as an ASGI app."""

    def guard(request: Request) -> Response | None:
        address = request.headers.get("x-end-user-address")
        asked = {"method": request.method, "path": request.url.path, "user": _user(request), "address": address}
        state.requests.append(asked)
        if request.headers.get("authorization") != f"Bearer {KEY}":
            return error(401, "invalid_api_key", "wrong key")
        if state.broken:
            return error(503, "history_unavailable", "the database is away", {"retry-after": "5"})
        return None

    def own(request: Request) -> Json | None:
        conversation = state.conversations.get(request.path_params.get("id", ""))
        return conversation if conversation and conversation["user"] == _user(request) else None

    async def status(request: Request) -> Response:
        return guard(request) or JSONResponse(state.status)

    async def conversations(request: Request) -> Response:
        if (refused := guard(request)) is not None:
            return refused
        if request.method == "POST":
            body = await request.json()
            return JSONResponse(_public(_create(state, _user(request), body.get("metadata") or {}, [])))
        query = request.query_params
        state.requests[-1]["query"] = dict(query)
        mine = [c for c in state.conversations.values() if c["user"] == _user(request)]
        if (pinned := query.get("pinned")) is not None:
            mine = [c for c in mine if (c["metadata"].get("pinned") == "true") is (pinned == "true")]
        if q := query.get("q", "").lower():
            mine = [{**c, "match": _texts(c)} for c in mine if q in _texts(c).lower()]
        mine.sort(key=lambda c: c["touched"], reverse=True)
        return JSONResponse(_page([_public(c) for c in mine], request))

    async def conversation(request: Request) -> Response:
        if (refused := guard(request)) is not None:
            return refused
        if (found := own(request)) is None:
            return error(404, "not_found", "no such conversation")
        if request.method == "POST":
            found["metadata"] = (await request.json())["metadata"]
        if request.method == "DELETE":
            if found["busy"]:
                return error(409, "conversation_busy", "an answer is still being written")
            del state.conversations[found["id"]]
            return JSONResponse({"id": found["id"], "object": "conversation.deleted", "deleted": True})
        if request.method == "POST":
            found["metadata"] = (await request.json())["metadata"]
        return JSONResponse(_public(found))

    async def export(request: Request) -> Response:
        if (refused := guard(request)) is not None:
            return refused
        if (found := own(request)) is None:
            return error(404, "not_found", "no such conversation")
        if request.query_params.get("format") == "md":
            return Response(f"# {found['metadata'].get('title')}\n\n{_texts(found)}\n", media_type="text/markdown")
        whole = {"object": "conversation.export", "conversation": _public(found), "items": found["items"]}
        return JSONResponse(whole)

    async def models(request: Request) -> Response:
        listed = [{"id": name, "object": "model"} for name in state.models]
        return guard(request) or JSONResponse({"object": "list", "data": listed})

    async def items(request: Request) -> Response:
        if (refused := guard(request)) is not None:
            return refused
        if (found := own(request)) is None:
            return error(404, "not_found", "no such conversation")
        if request.method == "POST":
            added = [_added(state, item) for item in (await request.json())["items"]]
            found["items"] += added
            return JSONResponse({"object": "list", "data": added, "has_more": False})
        listed = found["items"][::-1] if request.query_params.get("order") == "desc" else found["items"]
        if request.query_params.get("include[]") == "response":
            listed = [_answered(state, item) for item in listed]
        return JSONResponse(_page(listed, request))

    async def fork(request: Request) -> Response:
        if (refused := guard(request)) is not None:
            return refused
        if (found := own(request)) is None:
            return error(404, "not_found", "no such conversation")
        after = (await request.json())["after"]
        ids = [item["id"] for item in found["items"]]
        kept = found["items"][: ids.index(after) + 1] if after else []
        return JSONResponse(_public(_create(state, _user(request), dict(found["metadata"]), _copies(state, kept))))

    async def responses(request: Request) -> Response:
        if (refused := guard(request)) is not None:
            return refused
        body = await request.json()
        state.requests[-1]["body"] = body
        if state.scenario.error is not None:
            return error(*state.scenario.error)
        found = state.conversations.get(body["conversation"])
        if found is None or found["user"] != _user(request):
            return error(404, "not_found", "no such conversation")
        if found["busy"]:
            return error(409, "conversation_busy", "an answer is still being written")
        return _streamed(_begin(state, found, body["input"]))

    def own_answer(request: Request) -> Answer | None:
        answer = state.answers.get(request.path_params["id"])
        return answer if answer and answer.response["user"] == _user(request) else None

    async def response(request: Request) -> Response:
        if (refused := guard(request)) is not None:
            return refused
        if (answer := own_answer(request)) is None:
            return error(404, "not_found", "no such response")
        return _streamed(answer, int(request.query_params.get("starting_after", "-1")))

    async def cancel(request: Request) -> Response:
        if (refused := guard(request)) is not None:
            return refused
        if (answer := own_answer(request)) is None:
            return error(404, "not_found", "no such response")
        await answer.stop()
        return JSONResponse(answer.response)

    async def go_on(request: Request) -> Response:
        if (refused := guard(request)) is not None:
            return refused
        if (answer := own_answer(request)) is None:
            return error(404, "not_found", "no such response")
        if state.scenario.error is not None:
            return error(*state.scenario.error)
        if answer.response["status"] not in ("incomplete", "cancelled"):
            return error(400, "invalid_request", "Only an answer that was cut can go on.")
        return _streamed(_again(state, answer))

    async def feedback(request: Request) -> Response:
        if (refused := guard(request)) is not None:
            return refused
        if own_answer(request) is None:
            return error(404, "not_found", "no such response")
        state.feedback[request.path_params["id"]] = (await request.json())["rating"]
        return JSONResponse({"object": "response.feedback"})

    return Starlette(
        routes=[
            Route("/v1/status", status),
            Route("/v1/conversations", conversations, methods=["GET", "POST"]),
            Route("/v1/models", models),
            Route("/v1/conversations/{id}", conversation, methods=["GET", "POST", "DELETE"]),
            Route("/v1/conversations/{id}/items", items, methods=["GET", "POST"]),
            Route("/v1/conversations/{id}/export", export),
            Route("/v1/conversations/{id}/fork", fork, methods=["POST"]),
            Route("/v1/responses", responses, methods=["POST"]),
            Route("/v1/responses/{id}", response),
            Route("/v1/responses/{id}/cancel", cancel, methods=["POST"]),
            Route("/v1/responses/{id}/continue", go_on, methods=["POST"]),
            Route("/v1/responses/{id}/feedback", feedback, methods=["POST"]),
        ]
    )


def _begin(state: GatewayState, conversation: Json, text: str) -> Answer:
    response_id = state.new_id("resp")
    conversation["touched"] = time.monotonic()
    conversation["updated_at"] = time.time()
    conversation["items"].append(_item(state, "user", text, "completed", response_id))
    item = _item(state, "assistant", "", "in_progress", response_id)
    conversation["items"].append(item)
    response = {"id": response_id, "status": "in_progress", "user": conversation["user"], "output": []}
    return _run(state, conversation, response, item)


def _again(state: GatewayState, answer: Answer) -> Answer:
    held = next(c for c in state.conversations.values() if answer.item in c["items"])
    answer.item["status"] = answer.response["status"] = "in_progress"
    return _run(state, held, answer.response, answer.item)


def _run(state: GatewayState, conversation: Json, response: Json, item: Json) -> Answer:
    conversation["busy"] = True
    answer = Answer(state.scenario, response, item, lambda: conversation.update(busy=False))
    state.answers[response["id"]] = answer
    answer.start()
    return answer


def _copies(state: GatewayState, items: list[Json]) -> list[Json]:
    """Copies of items; of answers that have ended with a response of their own, as the gateway makes them."""
    copies = [{**item, "id": state.new_id("msg"), "response_id": None} for item in items]
    for old, copy in zip(items, copies, strict=True):
        answer = state.answers.get(old["response_id"] or "")
        if answer is None or old["role"] != "assistant" or answer.response["status"] == "in_progress":
            continue
        own = state.new_id("resp")
        state.answers[own] = Answer(state.scenario, {**answer.response, "id": own}, copy, lambda: None)
        if old["response_id"] in state.feedback:
            state.feedback[own] = state.feedback[old["response_id"]]
        for item, its_copy in zip(items, copies, strict=True):
            if item["response_id"] == old["response_id"]:
                its_copy["response_id"] = own
    return copies


def _streamed(answer: Answer, after: int = -1) -> Response:
    return StreamingResponse(answer.watch(after), media_type="text/event-stream")


def _answered(state: GatewayState, item: Json) -> Json:
    answer = state.answers.get(item["response_id"] or "")
    if answer is None or item["role"] != "assistant":
        return item
    rating = state.feedback.get(answer.response["id"])
    return item | {"response": {**answer.response, "output": [], "feedback": {"rating": rating} if rating else None}}


def _create(state: GatewayState, user: str, metadata: Json, items: list[Json]) -> Json:
    conversation = {
        "id": state.new_id("conv"),
        "object": "conversation",
        "created_at": int(time.time()),
        "updated_at": time.time(),
        "metadata": metadata,
        "user": user,
        "items": items,
        "busy": False,
        "touched": time.monotonic(),
    }
    state.conversations[conversation["id"]] = conversation
    return conversation


def _item(state: GatewayState, role: str, text: str, status: str, response_id: str | None = None) -> Json:
    kind = "input_text" if role == "user" else "output_text"
    return {
        "id": state.new_id("msg"),
        "type": "message",
        "role": role,
        "status": status,
        "content": [{"type": kind, "text": text}],
        "response_id": response_id,
    }


def _added(state: GatewayState, item: Json) -> Json:
    if item.get("type", "message") != "message":
        return {**item, "id": state.new_id("item")}
    return _item(state, item["role"], item["content"], item.get("status", "completed"))


def _texts(conversation: Json) -> str:
    """Its title and everything said in it."""
    said = (part["text"] for item in conversation["items"] for part in item.get("content", ()))
    return " ".join([conversation["metadata"].get("title", ""), *said])


def _user(request: Request) -> str:
    return request.headers.get("x-end-user", "")


def _public(conversation: Json) -> Json:
    shown = ("id", "object", "created_at", "updated_at", "metadata", "match")
    return {name: conversation[name] for name in shown if name in conversation}


def _page(entries: list[Json], request: Request) -> Json:
    after, limit = request.query_params.get("after"), int(request.query_params.get("limit", "20"))
    start = [entry["id"] for entry in entries].index(after) + 1 if after else 0
    data = entries[start : start + limit]
    return {"object": "list", "data": data, "has_more": len(entries) > start + limit}


@dataclass(frozen=True)
class FakeGateway:
    """A running stand-in."""

    url: str
    state: GatewayState


@contextmanager
def serve(app: Any, *, lifespan: str = "off") -> Iterator[str]:
    """Runs an ASGI app on a free loopback port, in a thread, for as long as the context is open."""
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=0,
        log_level="warning",
        lifespan=lifespan,
        timeout_graceful_shutdown=0,
        proxy_headers=False,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started:
        if not thread.is_alive() or time.monotonic() > deadline:
            raise RuntimeError("the test server did not start")
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(10)


@contextmanager
def fake_gateway() -> Iterator[FakeGateway]:
    """A stand-in with nothing in it."""
    state = GatewayState()
    with serve(create_app(state)) as url:
        yield FakeGateway(url, state)

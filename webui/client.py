"""The gateway's client: the only module that speaks HTTP.

Calls return the typed values of `wire.py` and raise the errors of `errors.py`; no exception of the HTTP library
leaves this module. Proxies of the environment are never followed: the gateway is a neighbour.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import quote

import httpx2

from webui import call_log, wire
from webui.errors import ConnectionLost, GatewayError, GatewayUnreachable
from webui.identity import Person
from webui.settings import Settings
from webui.sse import COMMENT, SseDecoder

# Every exception class of the library; tests/unit/webui/test_client.py walks its tree to prove it.
_LIBRARY_ERRORS = (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError, httpx2.CookieConflict)
_NOT_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.InvalidURL)
_WRONG_SHAPE = (ValueError, KeyError, TypeError, AttributeError)

Stream = AbstractAsyncContextManager[AsyncIterator[wire.Told]]
"""A context in which the events of one answer come. Leaving it closes the connection."""


@dataclass(frozen=True)
class Options:
    """How an answer is sampled; the defaults are those of InternLM2's demo."""

    temperature: float = 1.0
    top_p: float = 0.7
    max_total_tokens: int = 2048
    instructions: str = ""
    max_output_tokens: int | None = None
    seed: int | None = None
    model: str = ""  # the server's default

    def as_body(self) -> dict[str, Any]:
        """The fields of a request; what says nothing is left out."""
        optional = ("instructions", "max_output_tokens", "seed", "model")
        return {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_total_tokens": self.max_total_tokens,
        } | {name: value for name in optional if (value := getattr(self, name)) not in (None, "")}


class GatewayClient:
    """One person's calls each name that person; connections are shared and kept. Use it as a context manager."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._timeout = httpx2.Timeout(settings.request_timeout_s, connect=settings.connect_timeout_s)
        self._stream_timeout = httpx2.Timeout(
            settings.request_timeout_s,
            connect=settings.connect_timeout_s,
            read=settings.stream_idle_timeout_s,
        )
        self._http = httpx2.AsyncClient(
            base_url=settings.gateway_url,
            headers={"Accept-Encoding": "identity", "User-Agent": "internlm-stack-webui"},
            timeout=self._timeout,
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=32),
            trust_env=False,
            event_hooks={"request": [_name], "response": [_note_answer]},
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def status(self, person: Person) -> wire.Status:
        """State of the model."""
        return wire.parse_status(await self._call(person, "GET", "/v1/status"))

    async def models(self, person: Person) -> tuple[str, ...]:
        """The ids of the models that are served."""
        with _understood():
            return wire.parse_models(await self._call(person, "GET", "/v1/models"))

    async def conversations(
        self, person: Person, *, limit: int = 50, after: str = "", q: str = "", pinned: bool | None = None
    ) -> wire.ConversationPage:
        """A person's conversations, newest activity first; with `q` those that have it in them; only (not) pinned."""
        query = {"limit": str(limit)} | {name: value for name, value in (("after", after), ("q", q)) if value}
        if pinned is not None:
            query["pinned"] = str(pinned).lower()
        with _understood():
            return wire.parse_conversations(await self._call(person, "GET", "/v1/conversations", query=query))

    async def create_conversation(self, person: Person, title: str) -> wire.Conversation:
        """A new, empty conversation."""
        body = {"metadata": {"title": title}}
        with _understood():
            return wire.parse_conversation(await self._call(person, "POST", "/v1/conversations", body=body))

    async def conversation(self, person: Person, conversation_id: str) -> wire.Conversation:
        """One conversation of a person's."""
        with _understood():
            return wire.parse_conversation(await self._call(person, "GET", _conversation(conversation_id)))

    async def set_metadata(self, person: Person, conversation_id: str, metadata: Mapping[str, str]) -> None:
        """Replaces a conversation's metadata."""
        await self._call(person, "POST", _conversation(conversation_id), body={"metadata": dict(metadata)})

    async def add_items(self, person: Person, conversation_id: str, items: Sequence[Mapping[str, Any]]) -> None:
        """Adds messages (20 at most) to a conversation."""
        await self._call(person, "POST", _conversation(conversation_id) + "/items", body={"items": list(items)})

    async def export(self, person: Person, conversation_id: str, form: str) -> bytes:
        """A conversation as a document: `md` to read, `json` to import again."""
        path = _conversation(conversation_id) + "/export"
        return (await self._answer(person, "GET", path, query={"format": form})).content

    async def delete_conversation(self, person: Person, conversation_id: str) -> None:
        """Deletes a conversation with all its messages."""
        await self._call(person, "DELETE", _conversation(conversation_id))

    async def fork_conversation(self, person: Person, conversation_id: str, after: str | None) -> wire.Conversation:
        """A new conversation with copies of the messages up to and with `after` (None: of no message)."""
        path = _conversation(conversation_id) + "/fork"
        with _understood():
            return wire.parse_conversation(await self._call(person, "POST", path, body={"after": after}))

    async def items(self, person: Person, conversation_id: str, *, limit: int = 100, after: str = "") -> wire.ItemPage:
        """The newest messages of a conversation before `after`, in reading order, with what is known of answers."""
        query = {"limit": str(limit), "order": "desc", "include[]": "response"} | ({"after": after} if after else {})
        with _understood():
            body = await self._call(person, "GET", _conversation(conversation_id) + "/items", query=query)
            return wire.parse_items_newest_first(body)

    def respond(self, person: Person, conversation_id: str, text: str, options: Options) -> Stream:
        """Sends one message; inside the context the events of its answer come, which runs on when it is left."""
        body = {
            "input": text,
            "conversation": conversation_id,
            "background": True,
            "stream": True,
            "truncation": "auto",
        } | options.as_body()
        return self._stream(person, "POST", "/v1/responses", body=body)

    def go_on(self, person: Person, response_id: str, max_total_tokens: int) -> Stream:
        """Lets a cut answer go on; its events begin with the text that there was."""
        body = {"background": True, "stream": True, "max_total_tokens": max_total_tokens}
        return self._stream(person, "POST", _response(response_id) + "/continue", body=body)

    def watch(self, person: Person, response_id: str, after: int | None) -> Stream:
        """The events of an answer, running or ended; those after the number `after` when one is given."""
        query = {"stream": "true"} | ({} if after is None else {"starting_after": str(after)})
        return self._stream(person, "GET", _response(response_id), query=query)

    async def cancel(self, person: Person, response_id: str) -> None:
        """Ends an answer; what there is of it stays."""
        await self._call(person, "POST", _response(response_id) + "/cancel")

    async def rate(self, person: Person, response_id: str, rating: str | None) -> None:
        """Keeps what a person thinks of an answer: up, down, or None, which takes it back."""
        await self._call(person, "POST", _response(response_id) + "/feedback", body={"rating": rating})

    @asynccontextmanager
    async def _stream(
        self,
        person: Person,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> AsyncIterator[AsyncIterator[wire.Told]]:
        headers = self._headers(person) | {"Accept": "text/event-stream"}
        with _translated():
            request = self._http.stream(
                method, path, params=query, json=body, headers=headers, timeout=self._stream_timeout
            )
            async with request as response:
                if response.status_code != 200:
                    await response.aread()
                    raise _error_of(response, person)
                yield _events(response)

    async def _call(
        self,
        person: Person,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> Mapping[str, Any]:
        response = await self._answer(person, method, path, query=query, body=body)
        with _understood():
            return dict(response.json())

    async def _answer(
        self,
        person: Person,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> httpx2.Response:
        with _translated():
            response = await self._http.request(method, path, params=query, json=body, headers=self._headers(person))
        if not response.is_success:
            raise _error_of(response, person)
        return response

    def _headers(self, person: Person) -> dict[str, str]:
        if person.key:  # then history and limits are the key's
            return {"Authorization": f"Bearer {person.key}"}
        address = {"X-End-User-Address": person.address} if person.address else {}
        return {"Authorization": f"Bearer {self._settings.read_api_key()}", "X-End-User": person.id} | address


async def _name(request: httpx2.Request) -> None:
    request.headers[call_log.HEADER] = call_log.new_id()


async def _note_answer(response: httpx2.Response) -> None:
    if response.is_error:
        request = response.request
        call_log.failed(request.headers[call_log.HEADER], request.method, request.url.path, status=response.status_code)


def _note_failure(request: httpx2.Request | None, error: Exception | str) -> None:
    """`request` is None when its address could not even be written down."""
    what = error if isinstance(error, str) else type(error).__name__
    if request is None:
        call_log.failed(None, "", "", error=what)
    else:
        call_log.failed(request.headers.get(call_log.HEADER), request.method, request.url.path, error=what)


def _response(response_id: str) -> str:
    return "/v1/responses/" + quote(response_id, safe="")


def _conversation(conversation_id: str) -> str:
    return "/v1/conversations/" + quote(conversation_id, safe="")


async def _events(response: httpx2.Response) -> AsyncIterator[wire.Told]:
    decoder = SseDecoder()
    try:
        async for portion in response.aiter_raw():
            for sse in decoder.feed(portion):
                told = _parse(sse.name, sse.data)
                yield told
                if isinstance(told.event, wire.Finished | wire.Failed):
                    return
    except _LIBRARY_ERRORS as error:
        _note_failure(response.request, error)
        raise ConnectionLost(f"the answer's stream broke: {error!r}") from error
    _note_failure(response.request, "no closing event")
    raise ConnectionLost("the answer's stream ended without its closing event")


def _parse(name: str, data: str) -> wire.Told:
    if name == COMMENT:
        return wire.Told(None, wire.parse_comment(data))
    try:
        body = json.loads(data)
        return wire.Told(body.get("sequence_number"), wire.parse_event(name, body))
    except _WRONG_SHAPE as error:
        raise ConnectionLost(f"the event {name!r} was not understood: {error!r}") from error


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except _NOT_SENT as error:
        _note_failure(getattr(error, "_request", None), error)
        raise GatewayUnreachable(f"no connection to the gateway: {error!r}", was_sent=False) from error
    except _LIBRARY_ERRORS as error:
        _note_failure(getattr(error, "_request", None), error)
        raise GatewayUnreachable(f"no answer from the gateway: {error!r}") from error


@contextmanager
def _understood() -> Iterator[None]:
    try:
        yield
    except _WRONG_SHAPE as error:
        raise GatewayError("bad_answer", f"the gateway's answer was not understood: {error!r}") from error


def _error_of(response: httpx2.Response, person: Person) -> GatewayError:
    try:
        error = response.json()["error"]
        code, message = str(error["code"]), str(error["message"])
    except _WRONG_SHAPE:
        code, message = f"http_{response.status_code}", response.reason_phrase
    if code == "invalid_api_key" and person.key:
        code = "own_key_refused"
    return GatewayError(code, message, retry_after_s=_seconds(response.headers.get("retry-after")))


def _seconds(value: str | None) -> float | None:
    try:
        return max(0.0, float(value)) if value else None
    except ValueError:
        return None  # an HTTP date: our gateway does not send one

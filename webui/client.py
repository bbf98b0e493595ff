"""The gateway's client: the only module that speaks HTTP.

Calls return the typed values of `wire.py` and raise the errors of `errors.py`; no exception of the HTTP library
leaves this module. Proxies of the environment are never followed: the gateway is a neighbour.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import quote

import httpx2

from webui import wire
from webui.errors import ConnectionLost, GatewayError, GatewayUnreachable
from webui.identity import Person
from webui.settings import Settings
from webui.sse import SseDecoder

# Every exception class of the library; tests/unit/webui/test_client.py walks its tree to prove it.
_LIBRARY_ERRORS = (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError, httpx2.CookieConflict)
_WRONG_SHAPE = (ValueError, KeyError, TypeError, AttributeError)


@dataclass(frozen=True)
class Options:
    """How an answer is sampled; the defaults are those of InternLM2's demo."""

    temperature: float = 1.0
    top_p: float = 0.7
    max_total_tokens: int = 2048
    instructions: str = ""


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
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def status(self, person: Person) -> wire.Status:
        """State of the model."""
        return wire.parse_status(await self._call(person, "GET", "/v1/status"))

    async def conversations(self, person: Person, *, limit: int = 50, after: str = "") -> wire.ConversationPage:
        """A person's conversations, newest activity first."""
        query = {"limit": str(limit)} | ({"after": after} if after else {})
        with _understood():
            return wire.parse_conversations(await self._call(person, "GET", "/v1/conversations", query=query))

    async def create_conversation(self, person: Person, title: str) -> wire.Conversation:
        """A new, empty conversation."""
        body = {"metadata": {"title": title}}
        with _understood():
            return wire.parse_conversation(await self._call(person, "POST", "/v1/conversations", body=body))

    async def delete_conversation(self, person: Person, conversation_id: str) -> None:
        """Deletes a conversation with all its messages."""
        await self._call(person, "DELETE", _conversation(conversation_id))

    async def fork_conversation(self, person: Person, conversation_id: str, after: str | None) -> wire.Conversation:
        """A new conversation with copies of the messages up to and with `after` (None: of no message)."""
        path = _conversation(conversation_id) + "/fork"
        with _understood():
            return wire.parse_conversation(await self._call(person, "POST", path, body={"after": after}))

    async def items(self, person: Person, conversation_id: str, *, limit: int = 100) -> wire.ItemPage:
        """The newest messages of a conversation, in reading order."""
        query = {"limit": str(limit), "order": "desc"}
        with _understood():
            body = await self._call(person, "GET", _conversation(conversation_id) + "/items", query=query)
            return wire.parse_items_newest_first(body)

    @asynccontextmanager
    async def respond(
        self, person: Person, conversation_id: str, text: str, options: Options
    ) -> AsyncIterator[AsyncIterator[wire.ResponseEvent]]:
        """Sends one message; inside the context the answer's events come. Leaving it closes the connection: stop."""
        body = {
            "input": text,
            "conversation": conversation_id,
            "stream": True,
            "temperature": options.temperature,
            "top_p": options.top_p,
            "max_total_tokens": options.max_total_tokens,
            "truncation": "auto",
        } | ({"instructions": options.instructions} if options.instructions else {})
        headers = self._headers(person) | {"Accept": "text/event-stream"}
        with _translated():
            request = self._http.stream(
                "POST", "/v1/responses", json=body, headers=headers, timeout=self._stream_timeout
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
        with _translated():
            response = await self._http.request(method, path, params=query, json=body, headers=self._headers(person))
        if not response.is_success:
            raise _error_of(response, person)
        with _understood():
            return dict(response.json())

    def _headers(self, person: Person) -> dict[str, str]:
        if person.key:  # then history and limits are the key's
            return {"Authorization": f"Bearer {person.key}"}
        address = {"X-End-User-Address": person.address} if person.address else {}
        return {"Authorization": f"Bearer {self._settings.read_api_key()}", "X-End-User": person.id} | address


def _conversation(conversation_id: str) -> str:
    return "/v1/conversations/" + quote(conversation_id, safe="")


async def _events(response: httpx2.Response) -> AsyncIterator[wire.ResponseEvent]:
    decoder = SseDecoder()
    try:
        async for portion in response.aiter_raw():
            for sse in decoder.feed(portion):
                event = _parse(sse.name, sse.data)
                if event is not None:
                    yield event
                if isinstance(event, wire.Finished | wire.Failed):
                    return
    except _LIBRARY_ERRORS as error:
        raise ConnectionLost(f"the answer's stream broke: {error!r}") from error
    raise ConnectionLost("the answer's stream ended without its closing event")


def _parse(name: str, data: str) -> wire.ResponseEvent | None:
    try:
        return wire.parse_event(name, json.loads(data))
    except _WRONG_SHAPE as error:
        raise ConnectionLost(f"the event {name!r} was not understood: {error!r}") from error


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except _LIBRARY_ERRORS as error:
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

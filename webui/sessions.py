"""What a page asks of Gradio, looked at before Gradio sees it: whose session it names, and whether its text is text.

A page makes up the `session_hash` under which its answers are streamed, and Gradio gives the stream to whoever names
it. Here a hash belongs to the person who used it first, and is nobody else's for as long as a request of theirs is open
and until 10,000 others were used since.

Half an emoji (a lone surrogate) is allowed in JSON but not in UTF-8: Gradio could not send it back, nor the client send
it on. Each becomes U+FFFD. A body is always written anew from what was read, so that what was checked is what is used.
"""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from webui.door import refusal
from webui.identity import PERSON_HEADER

MOST_KEPT = 10_000
_HEARTBEAT = "/gradio_api/heartbeat/"
_STREAM_PATHS = {"/gradio_api/queue/join", "/gradio_api/queue/data"}
_SESSION = re.compile(r"[A-Za-z0-9]{1,64}")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass
class _Use:
    """A session with open requests."""

    person: str
    count: int = 0


class Sessions:
    """Whose each session is. Those in use are never forgotten, of the others the last used are remembered."""

    def __init__(self, most_kept: int = MOST_KEPT) -> None:
        self._most_kept = most_kept
        self._used: dict[str, _Use] = {}
        self._idle: OrderedDict[str, str] = OrderedDict()

    def __len__(self) -> int:
        return len(self._used) + len(self._idle)

    def owner(self, session: str) -> str | None:
        """The person whose session it is, if it is anybody's."""
        use = self._used.get(session)
        return use.person if use else self._idle.get(session)

    @contextmanager
    def use(self, session: str, person: str) -> Iterator[None]:
        """Makes the session this person's, who must be its owner if it has one, and keeps it so inside the context."""
        use = self._used.setdefault(session, _Use(person))
        self._idle.pop(session, None)
        use.count += 1
        try:
            yield
        finally:
            use.count -= 1
            if not use.count:
                del self._used[session]
                self._idle[session] = person
                if len(self._idle) > self._most_kept:
                    self._idle.popitem(last=False)


class SessionMiddleware:
    """404 for another person's session, 400 for a body that is no JSON object; stands behind the identity."""

    def __init__(self, app: ASGIApp, most_kept: int = MOST_KEPT) -> None:
        self._app = app
        self._sessions = Sessions(most_kept)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/gradio_api/"):
            await self._app(scope, receive, send)
            return
        body: dict[str, Any] = {}
        if scope["method"] == "POST":
            try:
                body, clean = _read(await _whole_body(receive))
            except (ValueError, RecursionError):
                await refusal(400, "invalid_request", "The body must be a JSON object.")(scope, receive, send)
                return
            scope, receive = _with_body(scope, receive, clean)
        await self._pass_on(_sessions_named(scope, body), scope, receive, send)

    async def _pass_on(self, named: set[Any], scope: Scope, receive: Receive, send: Send) -> None:
        if not named:
            await self._app(scope, receive, send)
            return
        person, session = _person_of(scope), named.pop()
        owner = self._sessions.owner(session) if _is_session(session) and not named else ""
        if owner is not None and owner != person:
            await refusal(404, "not_found", "There is no such session.")(scope, receive, send)
        elif owner is None and scope["path"] not in _STREAM_PATHS:
            await self._app(scope, receive, send)
        else:
            with self._sessions.use(session, person):
                await self._app(scope, receive, send)


def _sessions_named(scope: Scope, body: dict[str, Any]) -> set[Any]:
    """Every session that a request names, wherever it does."""
    named = set(parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True).get("session_hash", []))
    if scope["path"].startswith(_HEARTBEAT):
        named.add(scope["path"].removeprefix(_HEARTBEAT))
    if body.get("session_hash") is not None:
        named.add(str(body["session_hash"]))
    return named


def _is_session(session: str) -> bool:
    return _SESSION.fullmatch(session) is not None


def _person_of(scope: Scope) -> str:
    headers: dict[bytes, bytes] = dict(scope["headers"])
    return headers[PERSON_HEADER.encode()].decode()


async def _whole_body(receive: Receive) -> bytes:
    """What the door has let in, in one piece; nothing when the caller left."""
    portions = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return b""
        portions.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(portions)


def _read(body: bytes) -> tuple[dict[str, Any], bytes]:
    """A JSON object, and how Gradio is to get it."""
    parsed = json.loads(body)
    if not isinstance(parsed, dict):
        raise ValueError("not an object")
    return parsed, _LONE_SURROGATE.sub("\ufffd", json.dumps(parsed, ensure_ascii=False)).encode()


def _with_body(scope: Scope, receive: Receive, body: bytes) -> tuple[Scope, Receive]:
    """The request with another body; after it, what the caller does next is heard as before."""
    headers = [(name, value) for name, value in scope["headers"] if name.lower() != b"content-length"]
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_anew() -> Message:
        return waiting.pop() if waiting else await receive()

    return {**scope, "headers": [*headers, (b"content-length", str(len(body)).encode())]}, receive_anew

"""Sessions belong to who used them first, and bodies are text when Gradio gets them."""

from __future__ import annotations

import json

import anyio
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

from webui.identity import PERSON_HEADER
from webui.sessions import SessionMiddleware, Sessions

pytestmark = pytest.mark.unit
ANN, BOB = "a" * 32, "b" * 32
JOIN, DATA = "/gradio_api/queue/join", "/gradio_api/queue/data"


class Door:
    """The middleware with an app behind it that answers with the body it got."""

    def __init__(self, most_kept: int = 10) -> None:
        self.seen: list[bytes] = []
        self.app = SessionMiddleware(self._echo, most_kept)

    async def _echo(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        self.seen.append(await request.body())
        assert request.headers.get("content-length", str(len(self.seen[-1]))) == str(len(self.seen[-1]))
        await PlainTextResponse("in")(scope, receive, send)

    def ask(self, person: str, path: str, query: str = "", body: bytes | None = None) -> int:
        """The status that a request gets; its body comes in two portions."""
        scope: Scope = {
            "type": "http", "method": "GET" if body is None else "POST", "path": path, "query_string": query.encode(),
            "headers": [(PERSON_HEADER.encode(), person.encode()), (b"content-length", str(len(body or b"")).encode())],
        }  # fmt: skip
        portions: list[Message] = [
            {"type": "http.request", "body": (body or b"")[:5], "more_body": True},
            {"type": "http.request", "body": (body or b"")[5:], "more_body": False},
        ]
        sent: list[Message] = []

        async def receive() -> Message:
            return portions.pop(0)

        async def send(message: Message) -> None:
            sent.append(message)

        anyio.run(self.app, scope, receive, send)
        return int(sent[0]["status"])

    def join(self, person: str, session: object) -> int:
        return self.ask(person, JOIN, body=json.dumps({"data": [], "session_hash": session}).encode())

    def data(self, person: str, session: str) -> int:
        return self.ask(person, DATA, f"session_hash={session}")


@pytest.mark.parametrize("first", [Door.join, Door.data])
def test_a_session_is_its_first_users_alone(first: object) -> None:
    door = Door()
    assert callable(first)
    assert first(door, ANN, "s1") == 200
    for person, status in ((BOB, 404), (ANN, 200)):
        assert door.data(person, "s1") == status
        assert door.join(person, "s1") == status
        assert door.ask(person, "/gradio_api/heartbeat/s1") == status
        for path in ("/gradio_api/cancel", "/gradio_api/reset", "/gradio_api/run/predict"):
            assert door.ask(person, path, body=b'{"session_hash": "s1"}') == status
    assert door.data(BOB, "s2") == 200


@pytest.mark.parametrize(
    "query",
    [
        "session_hash=mine&session_hash=s1",
        "session_hash=s1&session_hash=mine",
        "session_hash=%731",
        "session%5Fhash=s1",
    ],
)
def test_no_spelling_gets_around(query: str) -> None:
    door = Door()
    door.join(ANN, "s1")
    door.join(BOB, "mine")
    assert door.ask(BOB, DATA, query) == 404


def test_of_two_equal_names_gradio_sees_the_one_that_was_checked() -> None:
    door = Door()
    door.join(ANN, "s1")
    assert door.ask(BOB, JOIN, body=b'{"session_hash": "mine", "session_hash": "s1"}') == 404
    assert door.ask(BOB, JOIN, body=b'{"session_hash": "s1", "session_hash": "mine"}') == 200
    assert b"s1" not in door.seen[-1]


@pytest.mark.parametrize("session", ["", "../s1", "s" * 65, "s\ud800", ["s1"], 1.5])
def test_what_no_page_makes_up_is_no_session(session: object) -> None:
    assert Door().join(ANN, session) == 404


def test_what_names_no_session_passes() -> None:
    door = Door()
    assert door.join(ANN, None) == 200
    assert door.ask(ANN, "/gradio_api/startup-events") == 200
    assert door.ask(ANN, "/") == 200


def test_sessions_in_use_are_kept_and_of_the_others_the_last() -> None:
    sessions = Sessions(most_kept=3)
    with sessions.use("live", ANN):
        with sessions.use("live", ANN):
            pass
        for n in range(100):
            with sessions.use(f"s{n}", BOB):
                pass
        assert sessions.owner("live") == ANN
        assert len(sessions) == 4
    assert len(sessions) == 3
    assert [sessions.owner(s) for s in ("live", "s99", "s98", "s97")] == [ANN, BOB, BOB, None]


@pytest.mark.parametrize(
    ("body", "got"),
    [
        (rb'{"data": ["a\ud83d b"]}', "a\ufffd b"),
        (rb'{"data": ["\ude00\ud83d"]}', "\ufffd\ufffd"),
        (rb'{"data": ["\ud83d\ude00"]}', "😀"),
        ('{"data": ["😀 你好"]}'.encode(), "😀 你好"),
        (b'{"data": ["\xed\xa0\xbd"]}', "\ufffd"),
        (rb'{"data": ["\\ud83d"]}', "\\ud83d"),
    ],
)
def test_half_an_emoji_is_replaced_and_a_whole_one_stays(body: bytes, got: str) -> None:
    door = Door()
    assert door.ask(ANN, JOIN, body=body) == 200
    assert json.loads(door.seen[0].decode("utf-8"))["data"] == [got]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"1" * 5000, b"[" * 100_000, b'{"a":' * 100_000, b"\xff\xfe\x00"])
def test_a_body_that_is_no_object_is_refused(body: bytes) -> None:
    door = Door()
    assert door.ask(ANN, JOIN, body=body) == 400
    assert door.seen == []

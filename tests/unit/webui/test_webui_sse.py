"""The SSE reader on vectors of its own: line ends, cuts at any byte, comments, names."""

from __future__ import annotations

import pytest

from webui.sse import SseDecoder, SseEvent

pytestmark = pytest.mark.unit

VECTORS: list[tuple[str, bytes, list[SseEvent]]] = [
    ("plain", b"data: a\n\n", [SseEvent("message", "a")]),
    ("named", b"event: x\ndata: a\n\n", [SseEvent("x", "a")]),
    ("no space", b"data:a\n\n", [SseEvent("message", "a")]),
    ("only one space goes", b"data:  a\n\n", [SseEvent("message", " a")]),
    ("several data lines", b"data: a\ndata: b\n\n", [SseEvent("message", "a\nb")]),
    ("CRLF", b"event: x\r\ndata: a\r\n\r\ndata: b\r\n\r\n", [SseEvent("x", "a"), SseEvent("message", "b")]),
    ("CR", b"data: a\r\rdata: b\r\r", [SseEvent("message", "a"), SseEvent("message", "b")]),
    (
        "comments",
        b": keep-alive\n\ndata: a\n: in between\n\n",
        [SseEvent(":", "keep-alive"), SseEvent(":", "in between"), SseEvent("message", "a")],
    ),
    ("a name without data is nothing", b"event: x\n\ndata: a\n\n", [SseEvent("message", "a")]),
    ("BOM", b"\xef\xbb\xbfdata: a\n\n", [SseEvent("message", "a")]),
    ("unknown fields", b"id: 1\nretry: 5\nfoo: bar\ndata: a\n\n", [SseEvent("message", "a")]),
    ("Chinese", "data: 你好，世界\n\n".encode(), [SseEvent("message", "你好，世界")]),
    ("emoji", "data: 🙂\n\n".encode(), [SseEvent("message", "🙂")]),
    ("empty data", b"data\n\n", [SseEvent("message", "")]),
    ("not closed", b"data: a\n", []),
]


@pytest.mark.parametrize(("_name", "wire", "expected"), VECTORS, ids=[v[0] for v in VECTORS])
def test_every_cut_gives_the_same_events(_name: str, wire: bytes, expected: list[SseEvent]) -> None:
    assert SseDecoder().feed(wire) == expected
    for cut in range(len(wire) + 1):
        decoder = SseDecoder()
        assert [*decoder.feed(wire[:cut]), *decoder.feed(b""), *decoder.feed(wire[cut:])] == expected, cut
    decoder = SseDecoder()
    assert [event for byte in wire for event in decoder.feed(bytes([byte]))] == expected


def test_broken_utf8_is_replaced_and_does_not_stop_the_stream() -> None:
    assert SseDecoder().feed(b"data: a\xffb\n\ndata: c\n\n") == [
        SseEvent("message", "a\ufffdb"),
        SseEvent("message", "c"),
    ]

"""The splitter of the upstream's stream on vectors of its own: line ends, cuts at any byte, comments, errors."""

from __future__ import annotations

import pytest

from gateway.sse import DONE, EventSplitter, render

pytestmark = pytest.mark.unit
VECTORS: dict[str, tuple[bytes, list[bytes]]] = {
    "plain": (b"data: a\n\ndata: b\n\n", [b"a", b"b"]),
    "no space": (b"data:a\n\n", [b"a"]),
    "only one space goes": (b"data:  a\n\n", [b" a"]),
    "CRLF": (b"data: a\r\n\r\ndata: b\r\n\r\n", [b"a", b"b"]),
    "several data lines": (b"data: a\ndata: b\n\n", [b"a\nb"]),
    "several data lines, CRLF": (b"data: a\r\ndata: b\r\n\r\n", [b"a\nb"]),
    "named": (b"event: x\nid: 5\nretry: 1\ndata: a\n\n", [b"a"]),
    "comments": (b": keep-alive\n\n:\n\ndata: a\n: in between\n\n", [b"a"]),
    "no data": (b"event: x\n\n\n\ndata: a\n\n", [b"a"]),
    "empty data": (b"data:\n\ndata: \n\n", [b"", b""]),
    "Chinese": ("data: 你好，世界 🙂\u2028\n\n".encode(), ["你好，世界 🙂\u2028".encode()]),
    "done": (b"data: {}\n\ndata: [DONE]\n\n", [b"{}", DONE]),
    "llama.cpp's error": (b'data: {}\n\nerror: {"code":500}\n\n', [b"{}", b'{"error":{"code":500}}']),
    "not closed": (b"data: a\n\ndata: b\n", [b"a"]),
    "LF inside CRLF": (b"data: a\n\ndata: b\r\n\r\ndata: c\n\n", [b"a", b"b", b"c"]),
}


@pytest.mark.parametrize(("wire", "expected"), VECTORS.values(), ids=VECTORS)
def test_every_cut_gives_the_same_payloads(wire: bytes, expected: list[bytes]) -> None:
    assert EventSplitter().feed(wire) == expected
    for cut in range(len(wire) + 1):
        splitter = EventSplitter()
        assert splitter.feed(wire[:cut]) + splitter.feed(b"") + splitter.feed(wire[cut:]) == expected, cut
    splitter = EventSplitter()
    assert [payload for n in range(len(wire)) for payload in splitter.feed(wire[n : n + 1])] == expected


def test_a_lone_cr_ends_lines_too() -> None:
    splitter = EventSplitter()
    assert splitter.feed(b"data: a\rdata: b\r\rdata: c\r\rdata") == [b"a\nb", b"c"]


def test_what_has_not_ended_is_the_rest() -> None:
    splitter = EventSplitter()
    splitter.feed(b"data: a\n\ndata: half")
    assert splitter.rest == b"data: half"


def test_render_and_split_are_a_pair() -> None:
    wire = render(b'{"a":1}') + render(b"{}", event="response.created") + render(DONE)
    assert wire == b'data: {"a":1}\n\nevent: response.created\ndata: {}\n\ndata: [DONE]\n\n'
    assert EventSplitter().feed(wire) == [b'{"a":1}', b"{}", DONE]

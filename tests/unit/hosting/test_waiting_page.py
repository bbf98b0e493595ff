"""The page on the public port while a Python is being made, over real sockets."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from hosting.errors import CannotStart
from hosting.listening import HANDED_OVER, hand_over, open_port, url_of
from hosting.waiting_page import WaitingPage

pytestmark = pytest.mark.unit


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with open_port({"PORT": "0"}) as opened:
        yield opened


def get(url: str, data: bytes | None = None) -> tuple[int, dict[str, str], str]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data=data), timeout=10) as answer:
            return answer.status, dict(answer.headers), answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), error.read().decode()


def test_it_shows_stage_and_count_in_both_languages_and_reloads_itself(listener: socket.socket) -> None:
    with WaitingPage(listener) as page:
        page.tell("packages", 37, 86)
        status, headers, text = get(url_of(listener) + "/?__theme=dark")
    assert status == 200
    assert "installing packages 37 / 86" in text
    assert "正在安装依赖包 37 / 86" in text
    assert 'http-equiv="refresh"' in text
    assert headers["Cache-Control"] == "no-store"
    assert "default-src 'none'" in headers["Content-Security-Policy"]


def test_the_platforms_page_may_show_it_in_a_frame(listener: socket.socket) -> None:
    with WaitingPage(listener, "https://huggingface.co"):
        _, headers, _ = get(url_of(listener) + "/")
    assert headers["Content-Security-Policy"].endswith("frame-ancestors https://huggingface.co")
    assert "X-Frame-Options" not in headers


def test_it_lives_but_is_not_ready_and_programs_get_an_error_of_openais_form(listener: socket.socket) -> None:
    with WaitingPage(listener) as page:
        page.tell("make-python", 0, 0)
        assert get(url_of(listener) + "/healthz")[0] == 200
        assert get(url_of(listener) + "/readyz")[0] == 503
        status, headers, body = get(url_of(listener) + "/v1/chat/completions", b"{}")
    error = json.loads(body)["error"]
    assert (status, error["code"], headers["Retry-After"]) == (503, "upstream_not_ready", "30")
    assert "getting a newer Python" in error["message"]


def test_who_says_nothing_or_nonsense_does_not_disturb_it(listener: socket.socket) -> None:
    with WaitingPage(listener), socket.create_connection(listener.getsockname()) as silent:
        with socket.create_connection(listener.getsockname()) as odd:
            odd.sendall(b"\x16\x03\x01\x00\xa5nonsense\r\n\r\n")
        assert get(url_of(listener) + "/")[0] == 200
        silent.sendall(b"GET")


def test_the_port_stays_open_afterwards_and_another_program_finds_it(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    with WaitingPage(listener):
        pass
    handed = hand_over(listener)
    monkeypatch.setenv(HANDED_OVER, handed[HANDED_OVER])
    with open_port({**handed, "PORT": "1"}) as taken:
        assert taken.getsockname() == listener.getsockname()
        assert not taken.get_inheritable()
        with socket.create_connection(listener.getsockname()) as waiting:
            connection, _ = taken.accept()
            with connection:
                connection.sendall(b"here")
                assert waiting.recv(4) == b"here"
        taken.detach()


@pytest.mark.parametrize("number", ["9999", "x", "-1"])
def test_a_handed_over_port_that_is_none_is_told(number: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HANDED_OVER, number)
    with pytest.raises(CannotStart, match=f"{HANDED_OVER} is for app.py's own use"):
        open_port({HANDED_OVER: number})

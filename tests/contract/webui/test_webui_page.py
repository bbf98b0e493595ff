"""The web UI over HTTP, without a browser: what its page is configured to do, and what one asks past the page."""

from __future__ import annotations

import asyncio
import json
import re
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette

from tests.fakes.gateway import KEY, FakeGateway, Scenario, fake_gateway, serve
from tests.fakes.inference import fake_inference
from tests.running_gateway import run_gateway
from webui.main import create_app
from webui.settings import Settings

pytestmark = pytest.mark.contract
Json = dict[str, Any]


@pytest.fixture(scope="module")
def _running() -> Iterator[tuple[str, FakeGateway]]:
    with fake_gateway() as gateway:
        with serve(asyncio.run(_app_for(gateway.url)), lifespan="on") as url:
            yield url, gateway


async def _app_for(gateway_url: str, **settings: Any) -> Starlette:
    """In a loop, because without one Gradio makes one that nobody closes."""
    return create_app(Settings(gateway_url=gateway_url, secret=b"s" * 32, **({"api_key": KEY} | settings)))


@pytest.fixture
def gateway(_running: tuple[str, FakeGateway]) -> FakeGateway:
    _running[1].state.scenario = Scenario()
    return _running[1]


@pytest.fixture
def url(_running: tuple[str, FakeGateway]) -> str:
    return _running[0]


class Visitor:
    """A person with a cookie of their own."""

    def __init__(self, url: str) -> None:
        self.http = httpx2.Client(base_url=url, timeout=30, trust_env=False)
        page = self.http.get("/").text
        config = re.search(r"window\.gradio_config = (\{.*?\});</script>", page, re.DOTALL)
        assert config is not None
        self.config: Json = json.loads(config[1])

    def action(self, name: str) -> Json:
        """What the page knows of one of its actions."""
        return next(d for d in self.config["dependencies"] if d["api_name"] == name)

    def body(self, name: str, session: str, *values: object) -> Json:
        """A call of an action; inputs that are not given are as the page has them at first."""
        first = {c["id"]: c["props"].get("value") for c in self.config["components"]}
        inputs = [first[i] for i in self.action(name)["inputs"]]
        data = [*values, *inputs[len(values) :]]
        return {"data": data, "fn_index": self.action(name)["id"], "session_hash": session}

    def predict(self, name: str, session: str, *values: object) -> httpx2.Response:
        return self.http.post("/gradio_api/run/predict", json=self.body(name, session, *values))

    def send(self, session: str, text: str) -> str:
        """Sends a message; returns what makes the page watch its answer, "" when there is none."""
        body = self.body("send", session, "", text)
        answer = self.http.post("/gradio_api/run/predict", json=body)
        assert answer.status_code == 200, answer.text
        return self.watched(answer)

    def watched(self, answer: httpx2.Response) -> str:
        """The token among the updates that `send` gave."""
        place = self.action("send")["outputs"].index(
            next(c["id"] for c in self.config["components"] if c["props"].get("elem_id") == "watched")
        )
        update = answer.json()["data"][place]
        return str(update.get("value", "")) if isinstance(update, dict) else str(update)

    def join(self, session: str, text: str) -> httpx2.Response:
        """Sends a message and begins to watch its answer."""
        token = self.send(session, text)
        return self.http.post("/gradio_api/queue/join", json=self.body("watch", session, token))

    def stream(self, session: str) -> httpx2.Response:
        return self.http.get("/gradio_api/queue/data", params={"session_hash": session})


@pytest.fixture
def ann(url: str) -> Iterator[Visitor]:
    visitor = Visitor(url)
    with closing(visitor.http):
        yield visitor


@pytest.fixture
def bob(url: str) -> Iterator[Visitor]:
    visitor = Visitor(url)
    with closing(visitor.http):
        yield visitor


def test_nothing_is_recorded_or_sent_home(ann: Visitor) -> None:
    assert ann.config["run_history"] is False
    assert ann.config["analytics_enabled"] is False
    assert ann.config["footer_links"] == []


def test_what_waits_in_the_queue_cannot_be_called_past_it(gateway: FakeGateway, ann: Visitor) -> None:
    assert ann.action("watch")["queue"] is not False
    token = ann.send("past", "Hello")
    assert token
    assert ann.predict("watch", "past", token).status_code == 404
    assert all(action["api_visibility"] == "private" for action in ann.config["dependencies"])


def test_a_stream_is_read_by_nobody_else(gateway: FakeGateway, ann: Visitor, bob: Visitor) -> None:
    gateway.state.scenario = Scenario(words=["secret "] * 20, delay_s=0.05)
    assert ann.join("annspage", "Hello").status_code == 200
    with ThreadPoolExecutor() as threads:
        reading = threads.submit(ann.stream, "annspage")
        time.sleep(0.3)
        stolen = bob.stream("annspage")
        assert (stolen.status_code, stolen.json()["error"]["code"]) == (404, "not_found")
        for name in ("watch", "send"):
            assert bob.http.post("/gradio_api/queue/join", json=bob.body(name, "annspage", "")).status_code == 404
        assert bob.http.get("/gradio_api/heartbeat/annspage").status_code == 404
        cancel = {"session_hash": "annspage", "fn_index": ann.action("watch")["id"], "event_id": "x"}
        assert bob.http.post("/gradio_api/cancel", json=cancel).status_code == 404
        assert reading.result().text.count("secret") >= 3


def test_what_a_browser_forwards_says_nothing_without_proxies(gateway: FakeGateway, ann: Visitor) -> None:
    ann.http.headers |= {"x-forwarded-for": "6.6.6.6", "x-webui-address": "6.6.6.6", "x-end-user-address": "6.6.6.6"}
    gateway.state.requests.clear()
    assert ann.predict("poll", "forged", "").status_code == 200
    assert ann.join("forged", "Hello").status_code == 200
    assert "Hello, this is an answer." in ann.stream("forged").text
    assert {asked["address"] for asked in gateway.state.requests} == {"127.0.0.1"}


def test_new_people_share_the_limit_of_the_address_that_the_proxy_saw(tmp_path: Path) -> None:
    def speak(url: str, forwarded: str) -> None:
        visitor, session = Visitor(url), uuid.uuid4().hex  # without a cookie: somebody new each time
        with closing(visitor.http):
            visitor.http.headers["x-forwarded-for"] = forwarded
            assert visitor.join(session, "Hello").status_code == 200
            visitor.stream(session)

    with fake_inference() as fake, run_gateway(tmp_path, fake, address_rpm=4) as gateway:
        app = asyncio.run(_app_for(gateway.url, api_key=gateway.webui_key, trusted_proxy_hops=1))
        with serve(app, lifespan="on") as url:
            speak(url, "203.0.113.9")  # two requests: a conversation, and a message in it
            speak(url, "6.6.6.6, 203.0.113.9")
            assert len(fake.chats) == 2
            for forged in ("203.0.113.9", "7.7.7.7, 203.0.113.9", "8.8.8.8, 9.9.9.9, 203.0.113.9"):
                speak(url, forged)
            assert len(fake.chats) == 2
            speak(url, "203.0.113.9, 198.51.100.1")
            assert len(fake.chats) == 3


def test_half_an_emoji_is_no_error(gateway: FakeGateway, ann: Visitor) -> None:
    def post(path: str, body: Json) -> httpx2.Response:
        broken = json.dumps(body).encode()  # json writes a lone surrogate as its escape, as browsers do
        assert rb"\ud83d" in broken
        return ann.http.post(path, content=broken, headers={"content-type": "application/json"})

    assert post("/gradio_api/run/predict", ann.body("poll", "half", "\ud83d")).status_code == 200
    assert post("/gradio_api/run/predict", ann.body("open", "half", "conv_\ud83d")).status_code == 200
    body = ann.body("send", "half", "", "a \ud83d b")
    body["data"][-1] = "be \ud83d brief"
    sent = post("/gradio_api/run/predict", body)
    assert sent.status_code == 200
    watch = ann.body("watch", "half", ann.watched(sent))
    assert ann.http.post("/gradio_api/queue/join", json=watch).status_code == 200
    assert "Hello, this is an answer." in ann.stream("half").text
    asked = [r["body"] for r in gateway.state.requests if r["path"] == "/v1/responses"][-1]
    assert (asked["input"], asked["instructions"]) == ("a \ufffd b", "be \ufffd brief")

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
from starlette.routing import Mount, Route

from tests.contract.webui.visitor import Json, Visitor
from tests.fakes.gateway import KEY, FakeGateway, Scenario, fake_gateway, serve
from tests.fakes.inference import fake_inference
from tests.running_gateway import run_gateway
from webui.door import DoorMiddleware
from webui.main import create_app
from webui.settings import Settings

pytestmark = pytest.mark.contract


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


# What the page of the installed Gradio needs. Everything else that it opens has to be closed, whatever its version.
NEEDED = {
    "/", "/assets/{path:path}", "/static/{path:path}", "/favicon.ico", "/robots.txt", "/manifest.json", "/theme.css",
    "/gradio_api/app_id", "/gradio_api/cancel", "/gradio_api/heartbeat/{session_hash}", "/gradio_api/queue/data",
    "/gradio_api/queue/join", "/gradio_api/reset", "/gradio_api/run/{api_name}", "/gradio_api/startup-events",
}  # fmt: skip


def test_a_route_of_gradio_is_closed_unless_the_page_needs_it() -> None:
    app = asyncio.run(_app_for("http://127.0.0.1:9"))
    gradio = _gradio_in(app)
    routers = [gradio, *(r.original_router for r in gradio.routes if hasattr(r, "original_router"))]
    paths = {route.path for router in routers for route in router.routes if hasattr(route, "path")}
    assert len(paths) > 60
    assert paths >= NEEDED

    async def is_open(path: str) -> bool:
        """Whether the door lets a path through; it is asked with what stands in the way of nothing else."""
        passed = []

        async def inside(scope: Any, receive: Any, send: Any) -> None:
            passed.append(scope["path"])

        async def send(message: Any) -> None:
            pass

        door = DoorMiddleware(inside)
        for method in ("GET", "POST", "HEAD", "PUT", "DELETE"):
            await door({"type": "http", "method": method, "path": path, "headers": []}, None, send)  # type: ignore[arg-type]
        return bool(passed)

    def asked(path: str) -> list[str]:
        return [re.sub(r"\{[^}]*\}", word, path) for word in ("predict", "x", "a/b", "1")]

    opened = {path for path in paths if any(asyncio.run(is_open(one)) for one in asked(path))}
    ours = {"/login", "/logout"}  # names that Gradio has, too: our own routes stand in front of them
    assert opened - ours == NEEDED
    first = [route.path for route in app.routes if isinstance(route, Route)]
    assert ours <= set(first)


def _gradio_in(app: Any) -> Any:
    """Gradio's own app, inside whatever is wrapped around it."""
    if type(app).__module__ == "gradio.routes":
        return app
    inner = getattr(app, "_app", None) or next((r.app for r in app.routes if isinstance(r, Mount)), None)
    assert inner is not None
    return _gradio_in(inner)


def test_uploads_and_files_answer_as_if_they_were_not_there(ann: Visitor) -> None:
    upload = ann.http.post("/gradio_api/upload", files={"files": ("a.txt", b"x")})
    assert (upload.status_code, upload.json()["error"]["code"]) == (404, "not_found")
    for path in (
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file/etc/passwd",
        "/login",
        "/config",
        "/gradio_api/info",
    ):
        assert ann.http.get(path).status_code == 404, path


def test_the_page_runs_no_script_but_its_own(ann: Visitor) -> None:
    page = ann.http.get("/")
    policy = dict(part.split(" ", 1) for part in page.headers["content-security-policy"].split("; "))
    nonce = policy["script-src"].split("'nonce-")[1].rstrip("'")
    assert "unsafe" not in policy["script-src"]
    assert page.text.count("<script") == page.text.count(f'<script nonce="{nonce}"') > 5
    assert nonce not in ann.http.get("/").text
    assert "githubusercontent" not in page.text
    assert KEY not in page.text


def test_the_page_speaks_the_language_that_was_chosen(ann: Visitor) -> None:
    assert '<html\n\tlang="en"' in ann.http.get("/").text
    assert 'lang="zh-CN"' in ann.http.get("/?lang=zh").text
    assert 'lang="zh-CN"' in ann.http.get("/", headers={"accept-language": "zh-TW,en;q=0.5"}).text
    assert 'lang="en"' in ann.http.get("/", headers={"accept-language": "zh", "cookie": "webui_language=en"}).text
    chinese = ann.http.post(
        "/gradio_api/run/predict", json=ann.body("load", "zh", ""), headers={"x-webui-language": "zh"}
    )
    assert "新对话" in json.loads(chinese.text)["data"].__repr__()


def test_whoever_says_where_the_page_is_gets_only_their_own_answer(ann: Visitor) -> None:
    page = ann.http.get("/", headers={"x-forwarded-prefix": '/"><script>alert(1)</script>'})
    assert "alert(1)" not in page.text
    page = ann.http.get("/", headers={"x-forwarded-prefix": "/chat", "x-forwarded-proto": "https"})
    assert "Path=/chat;" in page.headers["set-cookie"]
    assert page.headers["cache-control"] == "private, no-cache"


def test_what_kubernetes_asks_for_is_answered_to_who_has_no_cookie(url: str) -> None:
    manifest = Path(__file__).resolve().parents[3] / "deploy" / "kubernetes" / "base" / "webui.yaml"
    (path,) = set(re.findall(r"httpGet: \{path: (\S+),", manifest.read_text()))
    assert httpx2.get(url + path, trust_env=False).status_code == 200

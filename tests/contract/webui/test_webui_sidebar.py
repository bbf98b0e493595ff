"""The sidebar's routes over HTTP, with the real gateway behind them: one's own conversations, and nobody else's."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.fakes.gateway import serve
from tests.fakes.inference import FakeInference, Scenario, fake_inference
from tests.running_gateway import RunningGateway, eventually, run_gateway
from webui.client import GatewayClient, Options
from webui.conversations import Conversations
from webui.deletions import Deletions
from webui.errors import GatewayError
from webui.identity import Person
from webui.importing import Imported
from webui.main import create_app
from webui.settings import Settings

pytestmark = pytest.mark.contract
ANN, BOB = Person("a" * 32), Person("b" * 32)
UNDO_S = 0.6
Json = dict[str, Any]


@pytest.fixture
def fake() -> Iterator[FakeInference]:
    with fake_inference() as running:
        yield running


@pytest.fixture
def gateway(tmp_path: Path, fake: FakeInference) -> Iterator[RunningGateway]:
    with run_gateway(tmp_path, fake, address_rpm=100_000) as running:
        yield running


@pytest.fixture
def url(gateway: RunningGateway) -> Iterator[str]:
    async def made() -> Any:  # in a loop, because without one Gradio makes one that nobody closes
        return create_app(Settings(gateway_url=gateway.url, api_key=gateway.webui_key, secret=b"s" * 32))

    with serve(asyncio.run(made()), lifespan="on") as running:
        yield running


@contextmanager
def visitor(url: str) -> Iterator[httpx2.Client]:
    """A person with a cookie of their own."""
    with closing(httpx2.Client(base_url=url, timeout=30, trust_env=False)) as http:
        http.get("/")
        yield http


@pytest.fixture
def ann(url: str) -> Iterator[httpx2.Client]:
    with visitor(url) as http:
        yield http


@pytest.fixture
def bob(url: str) -> Iterator[httpx2.Client]:
    with visitor(url) as http:
        yield http


def imported(http: httpx2.Client, *texts: str) -> str:
    """A new conversation with these questions."""
    said = [{"role": "user", "content": text} for text in texts]
    return str(http.post("/webui/conversations", json=said).raise_for_status().json()["id"])


def listed(http: httpx2.Client, **query: Any) -> Json:
    found: Json = http.get("/webui/conversations", params=query).raise_for_status().json()
    return found


def titles(http: httpx2.Client, **query: Any) -> list[str]:
    return [entry["title"] for entry in listed(http, **query)["entries"]]


def with_client(gateway: RunningGateway, use: Callable[[GatewayClient], Awaitable[None]]) -> None:
    async def run() -> None:
        async with GatewayClient(Settings(gateway_url=gateway.url, api_key=gateway.webui_key)) as client:
            await use(client)

    asyncio.run(run())


def test_conversations_are_listed_in_pages_and_renamed(ann: httpx2.Client) -> None:
    ids = [imported(ann, f"number {n}") for n in range(5)]
    assert titles(ann) == [f"number {n}" for n in (4, 3, 2, 1, 0)]
    first = listed(ann, limit=2)
    assert first["has_more"]
    rest = listed(ann, after=first["entries"][-1]["id"])
    assert [entry["title"] for entry in rest["entries"]] == ["number 2", "number 1", "number 0"]
    assert not rest["has_more"]
    renamed = ann.post(f"/webui/conversations/{ids[0]}", json={"title": "  other \u202e name\nsecond line"})
    assert renamed.json() == {"title": "other name"}
    assert ann.post(f"/webui/conversations/{ids[0]}", json={"title": " "}).json() == {"title": "other name"}
    assert titles(ann)[-1] == "other name"
    for limit in ("0", "x", "-1", "99999999", "²"):
        assert ann.get("/webui/conversations", params={"limit": limit}).status_code == 200


def test_pinned_ones_are_apart_and_keep_their_title(ann: httpx2.Client) -> None:
    old = imported(ann, "old")
    for n in range(3):
        imported(ann, f"new {n}")
    ann.post(f"/webui/conversations/{old}", json={"pinned": True}).raise_for_status()
    page = listed(ann, limit=2)
    assert [(entry["title"], entry["pinned"]) for entry in page["pinned"]] == [("old", True)]
    assert [entry["title"] for entry in page["entries"]] == ["new 2", "new 1"]
    assert listed(ann, after=page["entries"][-1]["id"])["pinned"] == []
    ann.post(f"/webui/conversations/{old}", json={"pinned": False}).raise_for_status()
    assert titles(ann)[-1] == "old"
    assert listed(ann)["pinned"] == []


def test_titles_and_texts_are_searched(ann: httpx2.Client, bob: httpx2.Client) -> None:
    imported(ann, "first\nwith a Lighthouse in it")
    imported(ann, "灯塔")
    imported(bob, "a lighthouse of Bob's")
    assert titles(ann, q="lightHOUSE") == ["first"]
    assert "Lighthouse" in listed(ann, q="lighthouse")["entries"][0]["match"]
    assert titles(ann, q="灯") == ["灯塔"]
    assert titles(ann, q="nothing of that") == []
    assert titles(ann, q=" ") == ["灯塔", "first"]
    assert ann.get("/webui/conversations", params={"q": "x" * 5000}).status_code == 200


def test_what_was_exported_can_be_imported(ann: httpx2.Client) -> None:
    texts = [f"question {n}" for n in range(45)]  # more than the gateway takes at once
    one = imported(ann, *texts)
    ann.post(f"/webui/conversations/{one}", json={"title": "纸鸢 / kite"})
    exported = ann.get(f"/webui/conversations/{one}/export", params={"format": "json"})
    assert exported.headers["content-disposition"].endswith("''%E7%BA%B8%E9%B8%A2%20%20kite.json")
    markdown = ann.get(f"/webui/conversations/{one}/export", params={"format": "md"})
    assert "question 44" in markdown.text
    assert markdown.headers["content-type"].startswith("text/markdown")
    assert ann.get(f"/webui/conversations/{one}/export", params={"format": "exe"}).status_code == 400
    copy = ann.post("/webui/conversations", content=exported.content, headers={"content-type": "application/json"})
    assert copy.json()["title"] == "纸鸢 / kite"
    again = ann.get(f"/webui/conversations/{copy.json()['id']}/export", params={"format": "json"}).json()
    assert [item["content"][0]["text"] for item in again["items"]] == texts


def test_a_bad_file_gets_its_sentence_in_the_pages_language(ann: httpx2.Client) -> None:
    def refused(content: bytes, lang: str) -> str:
        headers = {"content-type": "application/json"}
        answer = ann.post("/webui/conversations", params={"lang": lang}, content=content, headers=headers)
        assert answer.status_code == 400
        return str(answer.json()["error"]["message"])

    assert refused(b"# no", "en").startswith("This file is not JSON.")
    assert refused(b"# no", "zh").startswith("此文件不是 JSON")
    assert refused(b"# no", "xx").startswith("This file is not JSON.")
    assert "4 MB" in refused(b" " * (4 * 1024 * 1024 + 1), "en")
    assert titles(ann) == []


def test_an_import_that_is_refused_in_the_middle_leaves_nothing(gateway: RunningGateway) -> None:
    text = {"type": "message", "role": "user", "content": "x"}

    async def use(client: GatewayClient) -> None:
        with pytest.raises(GatewayError):
            await Conversations(client).add(ANN, Imported("title", (*[text] * 20, {**text, "role": "nobody"})))
        assert (await client.conversations(ANN)).conversations == ()

    with_client(gateway, use)


def test_what_is_anothers_does_not_exist(ann: httpx2.Client, bob: httpx2.Client) -> None:
    one = imported(ann, "Ann's secret")
    before = ann.get(f"/webui/conversations/{one}/export", params={"format": "json"}).json()
    for method, path, body in (
        ("POST", "", {"title": "mine"}),
        ("POST", "", {"pinned": True}),
        ("POST", "/delete", {}),
        ("POST", "/undelete", {}),
        ("GET", "/export?format=json", None),
        ("GET", "/export?format=md", None),
    ):
        answer = bob.request(method, f"/webui/conversations/{one}{path}", json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found"), path
        assert "secret" not in answer.text
    assert "secret" not in bob.get("/webui/conversations").text
    assert bob.get("/webui/conversations", params={"after": one}).status_code == 404
    assert ann.get(f"/webui/conversations/{one}/export", params={"format": "json"}).json() == before


def test_only_json_changes_anything_and_answers_are_kept_nowhere(ann: httpx2.Client) -> None:
    one = imported(ann, "keep me")
    for path in ("", f"/{one}", f"/{one}/delete"):
        forged = ann.post(f"/webui/conversations{path}", data={"title": "x"})  # as a form of another site could
        assert forged.status_code == 415
    for body in (b"{", b"7", b"{}", b'{"title": 3}', b'{"pinned": "yes"}'):
        answer = ann.post(f"/webui/conversations/{one}", content=body, headers={"content-type": "application/json"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")
    assert titles(ann) == ["keep me"]
    assert ann.get("/webui/conversations").headers["cache-control"] == "private, no-store"
    assert ann.get("/webui/conversations/a/b/c").status_code == 404
    script = ann.get("/webui/sidebar.js")
    assert script.headers["content-type"].startswith("text/javascript")
    assert "webui/sidebar.js?" in ann.get("/").text


def test_what_is_deleted_is_hidden_at_once_and_can_be_had_back(ann: httpx2.Client) -> None:
    one = imported(ann, "delete me")
    assert ann.post(f"/webui/conversations/{one}/delete", json={}).json() == {"deleted": True}
    assert titles(ann) == titles(ann, q="delete") == []
    assert ann.post(f"/webui/conversations/{one}/undelete", json={}).json() == {"deleted": False}
    assert titles(ann) == ["delete me"]
    assert "deleted" not in ann.get(f"/webui/conversations/{one}/export", params={"format": "md"}).text


def test_a_ui_that_is_stopped_deletes_what_waits(gateway: RunningGateway) -> None:
    async def use(client: GatewayClient) -> None:
        deletions = Deletions(client, undo_s=600)
        one = await client.create_conversation(ANN, "delete me")
        await deletions.mark(ANN, one.id)
        await deletions.close()
        assert (await client.conversations(ANN)).conversations == ()

    with_client(gateway, use)


def test_a_deletion_happens_when_its_time_has_come_and_is_then_too_late_to_undo(gateway: RunningGateway) -> None:
    async def use(client: GatewayClient) -> None:
        deletions = Deletions(client, undo_s=UNDO_S)
        one = await client.create_conversation(ANN, "delete me")
        begun = time.monotonic()
        await deletions.mark(ANN, one.id)
        assert (await client.conversations(ANN)).conversations
        await _until(client, lambda left: not left)
        assert time.monotonic() - begun >= UNDO_S
        with pytest.raises(GatewayError, match="not_found"):
            await deletions.undo(ANN, one.id)

    with_client(gateway, use)


def test_an_undo_is_for_good(gateway: RunningGateway) -> None:
    async def use(client: GatewayClient) -> None:
        deletions = Deletions(client, undo_s=UNDO_S)
        one = await client.create_conversation(ANN, "keep me")
        await deletions.mark(ANN, one.id)
        await deletions.undo(ANN, one.id)
        await asyncio.sleep(UNDO_S * 2)
        assert [c.metadata for c in (await client.conversations(ANN)).conversations] == [{"title": "keep me"}]

    with_client(gateway, use)


def test_what_a_killed_ui_left_is_deleted_by_whoever_lists_it_next(gateway: RunningGateway) -> None:
    async def use(client: GatewayClient) -> None:
        one, two = [await client.create_conversation(ANN, title) for title in ("delete me", "keep me")]
        await client.set_metadata(ANN, one.id, {"title": "delete me", "deleted": "1700000000:"})
        conversations = Conversations(client)
        assert [c.id for c in (await conversations.page(ANN)).entries] == [two.id]
        await _until(client, lambda left: left == [two.id])

    with_client(gateway, use)


def test_an_undo_at_another_ui_holds(gateway: RunningGateway) -> None:
    async def use(client: GatewayClient) -> None:
        here, there = Deletions(client, undo_s=UNDO_S), Deletions(client, undo_s=UNDO_S)
        one = await client.create_conversation(ANN, "keep me")
        await here.mark(ANN, one.id)
        await there.undo(ANN, one.id)
        await asyncio.sleep(UNDO_S * 2)
        assert [c.title for c in (await client.conversations(ANN)).conversations] == ["keep me"]

    with_client(gateway, use)


def test_a_message_that_came_from_another_tab_keeps_its_conversation(gateway: RunningGateway) -> None:
    """Who wrote it has seen it kept."""

    async def use(client: GatewayClient) -> None:
        conversations = Conversations(client)
        conversations.deletions = Deletions(client, undo_s=UNDO_S)
        one = await client.create_conversation(ANN, "two tabs")
        await _ask(client, one.id, "first")
        await conversations.deletions.mark(ANN, one.id)
        await _ask(client, one.id, "second, in another tab")
        await asyncio.sleep(UNDO_S * 2)
        assert [c.title for c in (await conversations.page(ANN)).entries] == ["two tabs"]
        assert len((await client.items(ANN, one.id)).items) == 4

    with_client(gateway, use)


def test_an_answer_that_still_runs_is_waited_for_and_does_not_keep_its_conversation(
    gateway: RunningGateway, fake: FakeInference
) -> None:
    async def use(client: GatewayClient) -> None:
        deletions = Deletions(client, undo_s=0.1)
        one = await client.create_conversation(ANN, "delete me")
        fake.scenario = Scenario("silent_first_token")
        answering = asyncio.create_task(_ask(client, one.id, "first"))
        await asyncio.to_thread(eventually, lambda: fake.chats)
        await deletions.mark(ANN, one.id)
        await asyncio.sleep(0.5)
        assert (await client.conversations(ANN)).conversations, "deleted under an answer"
        fake.release()
        await answering
        await _until(client, lambda left: not left)

    with_client(gateway, use)


async def _ask(client: GatewayClient, conversation_id: str, text: str) -> None:
    async with client.respond(ANN, conversation_id, text, Options(max_total_tokens=512)) as events:
        async for _ in events:
            pass


async def _until(client: GatewayClient, holds: Callable[[list[str]], bool]) -> None:
    """Waits until Ann's conversations, by id, are as they should be."""
    deadline = time.monotonic() + 20
    while not holds([c.id for c in (await client.conversations(ANN)).conversations]):
        assert time.monotonic() < deadline, "did not happen in time"
        await asyncio.sleep(0.05)


def test_a_gateway_that_is_away_is_told_in_a_sentence() -> None:
    async def made() -> Any:
        return create_app(Settings(gateway_url="http://127.0.0.1:9", api_key="sk-x", secret=b"s" * 32))

    with serve(asyncio.run(made()), lifespan="on") as url, visitor(url) as http:
        answer = http.get("/webui/conversations", params={"lang": "zh"})
        assert answer.status_code == 503
        assert json.loads(answer.text)["error"]["message"].startswith("无法连接服务器")

"""GatewayClient over a real socket against the scripted gateway: what the web UI relies on, and every way it fails."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.fakes.gateway import KEY, FakeGateway, Scenario, fake_gateway
from webui import wire
from webui.client import GatewayClient, Options
from webui.errors import ConnectionLost, GatewayError, GatewayUnreachable, KeyMissing
from webui.identity import Person
from webui.settings import Settings

pytestmark = pytest.mark.contract
ANN, BOB = Person("a" * 32), Person("b" * 32)


@pytest.fixture
def gateway() -> Iterator[FakeGateway]:
    with fake_gateway() as running:
        yield running


def talk(url: str, use: Callable[[GatewayClient], Awaitable[None]], **settings: object) -> None:
    """Runs `use` with a client of the gateway at `url`."""

    async def run() -> None:
        async with GatewayClient(Settings(gateway_url=url, **({"api_key": KEY} | settings))) as client:  # type: ignore[arg-type]
            await use(client)

    asyncio.run(run())


async def ask(client: GatewayClient, conversation_id: str, text: str = "Hi") -> list[wire.ResponseEvent]:
    """All events of one answer."""
    async with client.respond(ANN, conversation_id, text, Options()) as events:
        return [told.event async for told in events if told.event is not None]


def test_the_gateway_is_told_where_people_are_when_that_is_known(gateway: FakeGateway) -> None:
    async def use(client: GatewayClient) -> None:
        await client.status(ANN)
        await client.status(Person(ANN.id, "2001:db8::1"))

    talk(gateway.url, use)
    assert [asked["address"] for asked in gateway.state.requests] == [None, "2001:db8::1"]


def test_an_answer_comes_event_by_event_and_is_in_the_history(gateway: FakeGateway) -> None:
    gateway.state.scenario = Scenario(words=["你", "好", "🙂"], truncated_items=2)

    async def use(client: GatewayClient) -> None:
        conversation = await client.create_conversation(ANN, "Title")
        events = await ask(client, conversation.id)
        kinds = [type(event) for event in events]
        assert kinds == [wire.Started, wire.Running, *[wire.Delta] * 3, wire.Finished]
        assert "".join(event.text for event in events if isinstance(event, wire.Delta)) == "你好🙂"
        closing = events[-1]
        assert isinstance(closing, wire.Finished)
        assert (closing.text, closing.answered.status, closing.truncated_items) == ("你好🙂", "completed", 2)
        assert closing.answered.counts is not None
        assert closing.answered.counts.prompt_tokens == 41
        page = await client.items(ANN, conversation.id)
        assert [(item.role, item.text, item.status) for item in page.items] == [
            ("user", "Hi", "completed"),
            ("assistant", "你好🙂", "completed"),
        ]

    talk(gateway.url, use)
    asked = next(r for r in gateway.state.requests if r["path"] == "/v1/responses")
    assert asked["user"] == ANN.id
    assert asked["body"] == {
        "input": "Hi",
        "conversation": "conv_0001",
        "background": True,
        "stream": True,
        "temperature": 1.0,
        "top_p": 0.7,
        "max_total_tokens": 2048,
        "truncation": "auto",
    }


def test_an_answer_runs_on_without_its_caller_and_is_watched_from_any_event_on(gateway: FakeGateway) -> None:
    gateway.state.scenario = Scenario(words=[f"w{n} " for n in range(40)], delay_s=0.01)

    async def use(client: GatewayClient) -> None:
        conversation = await client.create_conversation(ANN, "Title")
        seen: list[wire.Told] = []
        response_id = ""
        async with client.respond(ANN, conversation.id, "Hi", Options()) as events:
            while len(seen) < 10:
                seen.append(await anext(events))
                if isinstance(seen[-1].event, wire.Started):
                    response_id = seen[-1].event.response_id
        last = max(told.number for told in seen if told.number is not None)
        async with client.watch(ANN, response_id, last) as events:
            seen += [told async for told in events]
        numbers = [told.number for told in seen if told.number is not None]
        assert numbers == list(range(len(numbers)))
        words = [told.event.text for told in seen if isinstance(told.event, wire.Delta)]
        assert words == gateway.state.scenario.words

    talk(gateway.url, use)


def test_a_place_in_the_line_is_told(gateway: FakeGateway) -> None:
    gateway.state.scenario = Scenario(places=[2, 1])

    async def use(client: GatewayClient) -> None:
        conversation = await client.create_conversation(ANN, "Title")
        events = await ask(client, conversation.id)
        assert [event.place for event in events if isinstance(event, wire.Queued)] == [2, 1]

    talk(gateway.url, use)


def test_a_stopped_answer_goes_on_and_is_rated(gateway: FakeGateway) -> None:
    gateway.state.scenario = Scenario(words=["word "] * 1000, delay_s=0.01)

    async def use(client: GatewayClient) -> None:
        conversation = await client.create_conversation(ANN, "Title")
        async with client.respond(ANN, conversation.id, "Hi", Options()) as events:
            async for told in events:
                if isinstance(told.event, wire.Started):
                    response_id = told.event.response_id
                if isinstance(told.event, wire.Delta):
                    break
        await client.cancel(ANN, response_id)
        stopped = (await client.items(ANN, conversation.id)).items[-1]
        assert stopped.answered is not None
        assert (stopped.answered.status, stopped.response_id) == ("cancelled", response_id)
        gateway.state.scenario = Scenario(words=["and ", "more"])
        async with client.go_on(ANN, response_id, 2048) as events:
            heard = [told.event async for told in events]
        assert isinstance(heard[-1], wire.Finished)
        assert heard[-1].text == stopped.text + "and more"
        await client.rate(ANN, response_id, "up")
        rated = (await client.items(ANN, conversation.id)).items[-1]
        assert rated.answered is not None
        assert rated.answered.rating == "up"

    talk(gateway.url, use)


def test_a_stream_without_its_closing_event_is_a_lost_connection(gateway: FakeGateway) -> None:
    gateway.state.scenario = Scenario(cut_after=3, delay_s=0.02)

    async def use(client: GatewayClient) -> None:
        conversation = await client.create_conversation(ANN, "Title")
        with pytest.raises(ConnectionLost):
            await ask(client, conversation.id)

    talk(gateway.url, use)


@pytest.mark.parametrize(
    ("status", "code", "retry_after"),
    [
        (429, "rate_limit_exceeded", "7"),
        (503, "overloaded", "2"),
        (503, "upstream_not_ready", "1.5"),
        (503, "history_unavailable", "5"),
        (400, "context_length_exceeded", None),
        (502, "upstream_failed", None),
        (504, "upstream_timeout", None),
        (401, "invalid_api_key", None),
    ],
)
def test_refusals_keep_their_code_and_their_wait(
    gateway: FakeGateway, status: int, code: str, retry_after: str | None
) -> None:
    headers = {"retry-after": retry_after} if retry_after else {}
    gateway.state.scenario = Scenario(error=(status, code, "why", headers))

    async def use(client: GatewayClient) -> None:
        conversation = await client.create_conversation(ANN, "Title")
        with pytest.raises(GatewayError) as caught:
            await ask(client, conversation.id)
        assert caught.value.code == code
        assert caught.value.message == "why"
        assert caught.value.retry_after_s == (float(retry_after) if retry_after else None)

    talk(gateway.url, use)


def test_a_failure_in_mid_answer_is_an_event(gateway: FakeGateway) -> None:
    gateway.state.scenario = Scenario(fails_after=2)

    async def use(client: GatewayClient) -> None:
        conversation = await client.create_conversation(ANN, "Title")
        assert (await ask(client, conversation.id))[-1] == wire.Failed("upstream_failed", "boom")

    talk(gateway.url, use)


def test_people_are_told_apart(gateway: FakeGateway) -> None:
    async def use(client: GatewayClient) -> None:
        mine = await client.create_conversation(ANN, "Ann's")
        assert (await client.conversations(BOB)).conversations == ()
        assert (await client.conversations(ANN)).conversations == (wire.Conversation(mine.id, "Ann's"),)
        for steal in (client.items(BOB, mine.id), client.delete_conversation(BOB, mine.id)):
            with pytest.raises(GatewayError) as caught:
                await steal
            assert caught.value.code == "not_found"

    talk(gateway.url, use)


def test_a_fork_has_the_messages_up_to_a_point(gateway: FakeGateway) -> None:
    async def use(client: GatewayClient) -> None:
        conversation = await client.create_conversation(ANN, "Title")
        await ask(client, conversation.id, "one")
        await ask(client, conversation.id, "two")
        items = (await client.items(ANN, conversation.id)).items
        fork = await client.fork_conversation(ANN, conversation.id, items[1].id)
        assert fork.title == "Title"
        assert [item.text for item in (await client.items(ANN, fork.id)).items] == [items[0].text, items[1].text]
        empty = await client.fork_conversation(ANN, conversation.id, None)
        assert (await client.items(ANN, empty.id)).items == ()
        assert len((await client.conversations(ANN, limit=2)).conversations) == 2
        assert (await client.conversations(ANN, limit=2)).has_more

    talk(gateway.url, use)


def test_nobody_listening_is_unreachable_also_through_a_proxy_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, gateway: FakeGateway
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"

        async def unreachable(client: GatewayClient) -> None:
            with pytest.raises(GatewayUnreachable) as caught:
                await client.status(ANN)
            assert not caught.value.was_sent

        talk(url, unreachable)
        monkeypatch.setenv("HTTP_PROXY", url)
        monkeypatch.setenv("ALL_PROXY", url)

    async def reachable(client: GatewayClient) -> None:
        assert (await client.status(ANN)).ready

    talk(gateway.url, reachable)


def test_a_gateway_that_says_nothing_is_unreachable_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:

        async def use(client: GatewayClient) -> None:
            with pytest.raises(GatewayUnreachable) as caught:
                await client.status(ANN)
            assert caught.value.was_sent

        talk(f"http://127.0.0.1:{silent.getsockname()[1]}", use, request_timeout_s=0.2)


@pytest.mark.parametrize("answer", [b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]", b"not http at all\r\n\r\n"])
def test_nonsense_is_an_error_of_ours(answer: bytes) -> None:
    async def use(client: GatewayClient) -> None:
        with pytest.raises(GatewayError):
            await client.conversations(ANN)

    async def run() -> None:
        async with _answering(answer) as url, GatewayClient(Settings(gateway_url=url, api_key=KEY)) as client:
            await use(client)

    asyncio.run(run())


def test_the_key_file_may_come_later(gateway: FakeGateway, tmp_path: Path) -> None:
    file = tmp_path / "webui.key"

    async def use(client: GatewayClient) -> None:
        with pytest.raises(KeyMissing):
            await client.status(ANN)
        file.write_text("sk-wrong")
        with pytest.raises(GatewayError, match="invalid_api_key"):
            await client.status(ANN)
        file.write_text(KEY)
        assert (await client.status(ANN)).title == "SmolLM2 135M Instruct"

    talk(gateway.url, use, api_key="", api_key_file=file)


@asynccontextmanager
async def _answering(answer: bytes) -> AsyncGenerator[str, None]:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

"""Two and three gateway processes on one real PostgreSQL and one real Redis: for their callers they are one."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.fakes.inference import FakeInference, Scenario
from tests.redis_server import RedisServer, needs_redis, redis_server
from tests.running_gateway import GatewayProcess, client_of, events_of, eventually, run_gateway_process

pytestmark = [pytest.mark.database, needs_redis]
Json = dict[str, Any]
WORDS = [f" w{n}" for n in range(40)]
ASK = {"input": "go", "background": True}
HALF = len(WORDS) // 2


class Several:
    """Gateways on one database; clients of each with one key."""

    def __init__(self, gateways: list[GatewayProcess]) -> None:
        self.gateways = gateways
        self.clients = [client_of(gateway.url, gateways[0].key, timeout=60) for gateway in gateways]


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as server:
        yield server


def started(
    stack: ExitStack, folder: Path, fake: FakeInference, database_url: str, count: int, **environ: str
) -> Several:
    """That many gateway processes."""
    common = {"DATABASE_URL": database_url, "GATEWAY_SLOTS": "8", "GATEWAY_DRAIN_TIMEOUT_S": "1", **environ}
    gateways = [stack.enter_context(run_gateway_process(folder / f"{n}", fake.url, common)) for n in range(count)]
    several = Several(gateways)
    for client in several.clients:
        stack.enter_context(client)
    return several


@pytest.fixture
def several(tmp_path: Path, fake: FakeInference, database_url: str, redis: RedisServer) -> Iterator[Several]:
    with ExitStack() as stack:
        yield started(stack, tmp_path, fake, database_url, 3, REDIS_URL=redis.url)
        fake.release()


def watched(client: httpx2.Client, response_id: str, after: int | None = None) -> list[Json]:
    """The events from the server, until they end."""
    query = "stream=true" if after is None else f"stream=true&starting_after={after}"
    answer = client.get(f"/v1/responses/{response_id}?{query}")
    assert answer.status_code == 200, answer.text
    return events_of(answer.text)


def text_of(events: list[Json]) -> str:
    return "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")


def numbers(events: list[Json]) -> list[int]:
    return [event["sequence_number"] for event in events]


def has_ended(client: httpx2.Client, response_id: str) -> Json | None:
    found: Json = client.get(f"/v1/responses/{response_id}").json()
    return found if found["status"] not in ("queued", "in_progress") else None


def read_until(stream: httpx2.Response, text: str, events: list[Json]) -> None:
    """Reads events from a stream into `events` until one of them has `text`."""
    for line in stream.iter_lines():
        events += events_of(line)
        if text in text_of(events):
            return


def test_an_answer_is_watched_elsewhere_from_its_start_and_from_its_middle(
    several: Several, fake: FakeInference
) -> None:
    fake.scenario = Scenario("slow", words=WORDS, delay_s=0.05)
    a, *others = several.clients
    response_id = a.post("/v1/responses", json=ASK).json()["id"]
    with ThreadPoolExecutor(8) as pool:
        here = pool.submit(watched, a, response_id)
        there = [pool.submit(watched, client, response_id) for client in (*others, *others)]
        time.sleep(1.0)
        late = pool.submit(watched, others[0], response_id)
        from_the_middle = pool.submit(watched, others[1], response_id, 10)
        whole = here.result()
    assert numbers(whole) == list(range(len(whole)))
    assert (text_of(whole), whole[-1]["type"]) == ("".join(WORDS), "response.completed")
    assert [each.result() for each in there] == [whole] * 4
    assert late.result() == whole
    assert from_the_middle.result() == whole[11:]
    for client in several.clients:  # and when it has ended
        assert watched(client, response_id) == whole


def test_an_answer_elsewhere_is_seen_as_it_comes(several: Several, fake: FakeInference) -> None:
    """Live, not every two seconds from the database."""
    fake.scenario = Scenario("slow", words=WORDS, delay_s=0.05)
    a, b, _ = several.clients
    response_id = a.post("/v1/responses", json=ASK).json()["id"]
    seen_at: list[float] = []
    with b.stream("GET", f"/v1/responses/{response_id}?stream=true") as stream:
        for line in stream.iter_lines():
            if '"response.output_text.delta"' in line and line.startswith("data"):
                seen_at.append(time.monotonic())
    assert len(seen_at) == len(WORDS)
    gaps = [later - earlier for earlier, later in itertools.pairwise(seen_at)]
    assert max(gaps) < 0.5, gaps


def test_a_queued_answer_elsewhere_tells_its_place(several: Several, fake: FakeInference) -> None:
    fake.scenario = Scenario("stalls", words=WORDS)
    a, b, _ = several.clients
    with ThreadPoolExecutor(10) as pool:
        ids = [answer.json()["id"] for answer in pool.map(lambda _: a.post("/v1/responses", json=ASK), range(8))]
        eventually(lambda: len(fake.chats) == 8)
        waiting = a.post("/v1/responses", json=ASK).json()["id"]
        lines: list[str] = []
        with b.stream("GET", f"/v1/responses/{waiting}?stream=true") as stream:
            for line in stream.iter_lines():
                lines.append(line)
                if line == ": queued, place 1":
                    fake.release()
    assert ": queued, place 1" in lines
    assert text_of(events_of("\n\n".join(lines))) == "".join(WORDS)
    for response_id in ids:
        eventually(lambda response_id=response_id: has_ended(a, response_id))


def test_an_answer_is_cancelled_elsewhere(several: Several, fake: FakeInference) -> None:
    fake.scenario = Scenario("stalls", words=WORDS)
    a, b, c = several.clients
    response_id = a.post("/v1/responses", json=ASK).json()["id"]
    eventually(lambda: fake.chats and fake.chat.words_sent == HALF)
    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(watched, c, response_id)
        time.sleep(0.3)
        begun = time.monotonic()
        cancelled = b.post(f"/v1/responses/{response_id}/cancel").json()
        assert time.monotonic() - begun < 2
        assert cancelled["status"] == "cancelled"
        assert cancelled["output"][0]["content"][0]["text"] == "".join(WORDS[:HALF])
        eventually(lambda: fake.chat.left_at)
        events = watching.result()
    assert (events[-1]["type"], events[-1]["response"]["status"]) == ("response.incomplete", "cancelled")
    assert text_of(events) == "".join(WORDS[:HALF])
    assert watched(a, response_id) == events
    assert b.post(f"/v1/responses/{response_id}/cancel").json() == cancelled  # again: no harm


def test_nobody_elsewhere_watches_what_is_not_theirs(several: Several, fake: FakeInference) -> None:
    fake.scenario = Scenario("stalls", words=WORDS)
    a = several.clients[0]
    response_id = a.post("/v1/responses", json=ASK).json()["id"]
    with client_of(several.gateways[1].url, several.gateways[1].key) as stranger:
        for method, path in (("GET", "?stream=true"), ("POST", "/cancel"), ("POST", "/continue")):
            assert stranger.request(method, f"/v1/responses/{response_id}{path}").status_code == 404
    assert a.post(f"/v1/responses/{response_id}/cancel").json()["status"] == "cancelled"


def test_watchers_elsewhere_of_a_killed_gateway_get_the_end(several: Several, fake: FakeInference) -> None:
    fake.scenario = Scenario("stalls", words=WORDS)
    a, b, c = several.clients
    response_id = a.post("/v1/responses", json=ASK).json()["id"]
    eventually(lambda: fake.chats and fake.chat.words_sent == HALF)
    events: list[Json] = []
    with b.stream("GET", f"/v1/responses/{response_id}?stream=true") as stream:
        lines = stream.iter_lines()
        while text_of(events) != "".join(WORDS[:HALF]):
            events += events_of(next(lines))
        time.sleep(2.5)  # the last checkpoint has them all
        several.gateways[0].process.kill()
        killed_at = time.monotonic()
        refused = c.post(f"/v1/responses/{response_id}/continue")
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "conversation_busy")
        for line in lines:
            events += events_of(line)
    assert time.monotonic() - killed_at < 30
    assert events[-1]["type"] == "response.incomplete"
    assert numbers(events) == list(range(len(events)))
    seen = numbers(events)[-1] + 10
    rest = watched(c, response_id, seen)  # who saw more than the database has gets an end, too
    assert (numbers(rest)[0], rest[-1]["type"], text_of(rest)) == (seen + 1, "response.incomplete", "")
    fake.reset()
    gone_on = c.post(f"/v1/responses/{response_id}/continue", json={"stream": True, "background": True})
    assert gone_on.status_code == 200, gone_on.text
    assert events_of(gone_on.text)[-1]["type"] == "response.completed"


def test_an_answer_that_goes_on_elsewhere_is_watched_at_the_first_gateway(
    several: Several, fake: FakeInference
) -> None:
    fake.scenario = Scenario("slow", words=WORDS[:10], delay_s=0.02)
    a, b, _ = several.clients
    first = a.post("/v1/responses", json=ASK | {"max_output_tokens": 5, "stream": True})
    response_id = events_of(first.text)[0]["response"]["id"]
    assert watched(b, response_id)[-1]["type"] == "response.incomplete"
    fake.scenario = Scenario("slow", words=WORDS, delay_s=0.03)
    begun = b.post(f"/v1/responses/{response_id}/continue", json={"background": True, "max_output_tokens": 100})
    assert begun.status_code == 200, begun.text
    with ThreadPoolExecutor(2) as pool:
        here, there = pool.submit(watched, b, response_id), pool.submit(watched, a, response_id)
        assert a.post(f"/v1/responses/{response_id}/continue").status_code == 409  # it goes on already
        assert here.result() == there.result()
    assert text_of(here.result()) == "".join(WORDS[:5]) + "".join(WORDS)
    assert numbers(here.result()) == list(range(len(here.result())))


def test_redis_away_the_answer_goes_on_and_is_watched_all_the_same(
    several: Several, fake: FakeInference, redis: RedisServer
) -> None:
    """From the database then, two seconds late; live again when Redis is back."""
    fake.scenario = Scenario("slow", words=WORDS, delay_s=0.25)
    a, b, c = several.clients
    response_id = a.post("/v1/responses", json=ASK).json()["id"]
    with ThreadPoolExecutor(4) as pool:
        here, there = pool.submit(watched, a, response_id), pool.submit(watched, b, response_id)
        time.sleep(1.5)
        redis.kill()
        later = pool.submit(watched, c, response_id)
        time.sleep(3.0)
        redis.start()
        after = pool.submit(watched, c, response_id, 6)
        whole = here.result()
    assert text_of(whole) == "".join(WORDS)
    assert there.result() == whole
    assert later.result() == whole
    assert after.result() == whole[7:]


def test_without_redis_answers_elsewhere_are_watched_and_cancelled_too(
    tmp_path: Path, fake: FakeInference, database_url: str
) -> None:
    with ExitStack() as stack:
        several = started(stack, tmp_path, fake, database_url, 2)
        a, b = several.clients
        fake.scenario = Scenario("slow", words=WORDS, delay_s=0.1)
        response_id = a.post("/v1/responses", json=ASK).json()["id"]
        with ThreadPoolExecutor(2) as pool:
            here, there = pool.submit(watched, a, response_id), pool.submit(watched, b, response_id)
            assert there.result() == here.result()
        assert text_of(here.result()) == "".join(WORDS)
        fake.scenario = Scenario("stalls", words=WORDS)
        response_id = a.post("/v1/responses", json=ASK).json()["id"]
        assert b.post(f"/v1/responses/{response_id}/cancel").json()["status"] == "cancelled"


def test_who_leaves_a_watch_is_not_told_any_more(several: Several, fake: FakeInference, redis: RedisServer) -> None:
    fake.scenario = Scenario("slow", words=WORDS * 10, delay_s=0.03)
    a, b, _ = several.clients
    response_id = a.post("/v1/responses", json=ASK).json()["id"]
    assert not list(redis.client.scan_iter("gateway:inbox:*"))  # nobody watches: nothing is told
    with b.stream("GET", f"/v1/responses/{response_id}?stream=true") as stream:
        read_until(stream, "w5", [])
        eventually(lambda: list(redis.client.scan_iter("gateway:inbox:*")))

    def told() -> int:
        return sum(redis.client.xinfo_stream(key)["entries-added"] for key in redis.client.scan_iter("gateway:inbox:*"))

    def is_quiet() -> bool:
        before = told()
        time.sleep(0.3)
        return told() == before

    eventually(is_quiet, within_s=3)
    assert has_ended(a, response_id) is None
    assert a.post(f"/v1/responses/{response_id}/cancel").json()["status"] == "cancelled"


def test_a_stopped_gateway_tells_its_watchers_elsewhere_the_end(several: Several, fake: FakeInference) -> None:
    fake.scenario = Scenario("stalls", words=WORDS)
    a, b, _ = several.clients
    response_id = a.post("/v1/responses", json=ASK).json()["id"]
    eventually(lambda: fake.chats and fake.chat.words_sent == HALF)
    events: list[Json] = []
    watching = threading.Thread(target=lambda: events.extend(watched(b, response_id)))
    watching.start()
    time.sleep(0.5)
    several.gateways[0].stop(within_s=30)
    watching.join(5)
    assert not watching.is_alive()
    assert (events[-1]["type"], text_of(events)) == ("response.incomplete", "".join(WORDS[:HALF]))


def test_who_watches_at_a_gateway_that_stops_is_told_to_come_back(several: Several, fake: FakeInference) -> None:
    fake.scenario = Scenario("stalls", words=WORDS)
    a, b, c = several.clients
    response_id = a.post("/v1/responses", json=ASK).json()["id"]
    eventually(lambda: fake.chats and fake.chat.words_sent == HALF)
    told: list[str] = []
    watching = threading.Thread(
        target=lambda: told.append(b.get(f"/v1/responses/{response_id}?stream=true").text), daemon=True
    )
    watching.start()
    time.sleep(0.5)
    several.gateways[1].stop(within_s=30)
    watching.join(5)
    *_, last = told[0].strip().split("\n\n")
    assert last.startswith("event: error\n")
    assert '"code":"shutting_down"' in last
    seen = [event for event in events_of(told[0]) if "sequence_number" in event]
    assert text_of(seen) == "".join(WORDS[:HALF])
    fake.release()
    rest = watched(c, response_id, numbers(seen)[-1])
    assert text_of(seen + rest) == "".join(WORDS)
    assert numbers(seen + rest) == list(range(len(seen + rest)))

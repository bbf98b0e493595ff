"""A cut answer goes on: the same response, with the text that there was first; when that fails nothing is lost."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from tests.fakes.inference import FakeInference, Scenario
from tests.running_gateway import RunningGateway, events_of, eventually

pytestmark = pytest.mark.contract
Json = dict[str, Any]


@pytest.fixture
def cut(client: httpx2.Client, fake: FakeInference) -> Json:
    """A response that ended for want of tokens, in a conversation."""
    conversation = client.post("/v1/conversations").json()["id"]
    fake.scenario = Scenario(words=["One", " two", " three"])
    asked = {"input": "Count", "conversation": conversation, "max_output_tokens": 2, "instructions": "Be brief"}
    done: Json = client.post("/v1/responses", json=asked).json()
    assert (done["status"], text_of(done)) == ("incomplete", "One two")
    fake.scenario = Scenario(words=[" three", " four"])
    return done


def text_of(response: Json) -> str:
    text: str = response["output"][0]["content"][0]["text"]
    return text


def test_the_same_response_goes_on(client: httpx2.Client, fake: FakeInference, cut: Json) -> None:
    done = client.post(f"/v1/responses/{cut['id']}/continue").json()
    assert (done["id"], done["status"], text_of(done)) == (cut["id"], "completed", "One two three four")
    assert done["output"][0]["id"] == cut["output"][0]["id"]
    assert done["usage"]["output_tokens"] == 4
    messages = fake.chat.body["messages"]
    assert [(message["role"], message["content"]) for message in messages] == [
        ("system", "Be brief"),
        ("user", "Count"),
        ("assistant", "One two"),
    ]
    assert client.get(f"/v1/responses/{cut['id']}").json() == done
    items = client.get(f"/v1/conversations/{cut['conversation']['id']}/items?order=asc").json()["data"]
    assert [item["status"] for item in items] == ["completed", "completed"]


def test_its_events_begin_with_what_there_was(client: httpx2.Client, cut: Json) -> None:
    events = events_of(client.post(f"/v1/responses/{cut['id']}/continue", json={"stream": True}).text)
    deltas = [event["delta"] for event in events if event["type"] == "response.output_text.delta"]
    assert deltas == ["One two", " three", " four"]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert text_of(events[-1]["response"]) == "One two three four"


def test_in_the_background_too(client: httpx2.Client, cut: Json) -> None:
    asked = {"stream": True, "background": True}
    events = events_of(client.post(f"/v1/responses/{cut['id']}/continue", json=asked).text)
    assert text_of(events[-1]["response"]) == "One two three four"
    assert events_of(client.get(f"/v1/responses/{cut['id']}?stream=true").text) == events


@pytest.mark.parametrize("scenario", ["failing", "dies_midway", "loading"])
def test_one_that_fails_can_go_on_another_time(
    client: httpx2.Client, fake: FakeInference, cut: Json, scenario: str
) -> None:
    fake.scenario = Scenario(scenario, words=[" three", " four"])
    failed = client.post(f"/v1/responses/{cut['id']}/continue")
    assert failed.status_code in (502, 503)
    kept = client.get(f"/v1/responses/{cut['id']}").json()
    assert kept["status"] == "incomplete"
    assert text_of(kept).startswith("One two")
    fake.scenario = Scenario(words=[" end"])
    assert text_of(client.post(f"/v1/responses/{cut['id']}/continue").json()) == text_of(kept) + " end"


def test_what_cannot_go_on(gateway: RunningGateway, client: httpx2.Client, fake: FakeInference, cut: Json) -> None:
    path = f"/v1/responses/{cut['id']}/continue"
    with gateway.client() as other:
        assert other.post(path).status_code == 404
    later = client.post("/v1/responses", json={"input": "More", "conversation": cut["conversation"]["id"]}).json()
    assert client.post(path).status_code == 409  # something came after it
    refused = client.post(f"/v1/responses/{later['id']}/continue")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "response_id")


def test_one_that_goes_on_is_busy(client: httpx2.Client, fake: FakeInference, cut: Json) -> None:
    fake.scenario = Scenario("stalls", words=[" three", " four"])
    path = f"/v1/responses/{cut['id']}/continue"
    before = len(fake.chats)
    client.post(path, json={"background": True})
    assert client.post(path).status_code == 409
    eventually(lambda: len(fake.chats) > before)
    assert client.post(f"/v1/responses/{cut['id']}/cancel").json()["status"] == "cancelled"
    eventually(lambda: fake.chat.left_at)


def test_a_second_wish_to_go_on_does_not_take_the_first_from_its_watchers(
    client: httpx2.Client, fake: FakeInference, cut: Json
) -> None:
    fake.scenario = Scenario("stalls", words=[" three", " four"])
    path = f"/v1/responses/{cut['id']}"
    before = len(fake.chats)
    assert client.post(f"{path}/continue", json={"background": True}).is_success
    eventually(lambda: len(fake.chats) > before)
    for stream in (False, True):
        assert client.post(f"{path}/continue", json={"background": True, "stream": stream}).status_code == 409
    assert client.post(f"{path}/cancel").json()["status"] == "cancelled"
    eventually(lambda: fake.chat.left_at)


def test_an_answer_that_was_stopped_by_leaving_goes_on(client: httpx2.Client, fake: FakeInference) -> None:
    fake.scenario = Scenario("stalls", words=["a", " b", " c", " d"])
    with client.stream("POST", "/v1/responses", json={"input": "go", "stream": True}) as stream:
        seen: list[Json] = []
        for line in stream.iter_lines():
            seen += events_of(line)
            if seen and seen[-1].get("delta") == " b":
                break
    response_id = seen[0]["response"]["id"]
    eventually(lambda: client.get(f"/v1/responses/{response_id}").json()["status"] == "incomplete")
    fake.scenario = Scenario(words=[" c", " d"])
    assert text_of(client.post(f"/v1/responses/{response_id}/continue").json()) == "a b c d"

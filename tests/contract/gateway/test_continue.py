"""A cut answer goes on: the same response, with the text that there was first; when that fails nothing is lost."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2
import pytest
import sqlalchemy as sa

from gateway.settings import Places
from gateway.tables import responses
from tests.fakes.inference import FakeInference, Scenario
from tests.running_gateway import RunningGateway, events_of, eventually, run_gateway

pytestmark = pytest.mark.contract
Json = dict[str, Any]
RELEASED = sorted((Path(__file__).resolve().parents[2] / "released").glob("*.sql"))


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


def cut_after_two(client: httpx2.Client, fake: FakeInference, **asked: Any) -> Json:
    """A response that ended after two words; the engine has two more for it."""
    fake.scenario = Scenario(words=["One", " two", " three"])
    done: Json = client.post("/v1/responses", json={"input": "Count", "max_output_tokens": 2} | asked).json()
    assert done["status"] == "incomplete", done
    fake.scenario = Scenario(words=[" three", " four"])
    return done


TOOL = {"type": "function", "name": "now", "parameters": {"type": "object", "properties": {}}}


@pytest.mark.parametrize("choice", [None, "auto", "none"])
def test_what_it_was_asked_for_with_holds_for_the_rest(
    client: httpx2.Client, fake: FakeInference, choice: str | None
) -> None:
    asked = {"temperature": 0.5, "top_p": 0.9, "top_k": 7, "min_p": 0.1, "repetition_penalty": 1.2, "seed": 5}
    tools = {"tools": [TOOL], "tool_choice": choice, "parallel_tool_calls": False}
    cut = cut_after_two(client, fake, **asked, **tools)
    first = fake.chat.body
    assert client.post(f"/v1/responses/{cut['id']}/continue").json()["status"] == "completed"
    second = fake.chat.body
    assert ("tools" in second) == (choice != "none")
    assert second | {"messages": first["messages"]} == first


def test_its_limits_hold_for_each_piece_unless_the_caller_sets_others(
    client: httpx2.Client, fake: FakeInference
) -> None:
    cut = cut_after_two(client, fake, max_total_tokens=4000)
    fake.scenario = Scenario(words=["x"] * 9)
    path = f"/v1/responses/{cut['id']}/continue"
    for asked, given in (({}, 2), ({"max_output_tokens": 5}, 5), ({}, 2)):
        assert client.post(path, json=asked).json()["status"] == "incomplete"
        assert fake.chat.body["max_tokens"] == given
    assert client.post(path, json={"max_output_tokens": 3000}).json()["status"] == "completed"


def test_all_that_it_may_have_together_is_said_when_it_is_spent(client: httpx2.Client, fake: FakeInference) -> None:
    fake.scenario = Scenario(words=["x"] * 90)
    cut = client.post("/v1/responses", json={"input": "Count", "max_total_tokens": 70}).json()
    assert cut["incomplete_details"] == {"reason": "max_output_tokens"}
    path = f"/v1/responses/{cut['id']}/continue"
    refused = client.post(path)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "max_total_tokens")
    assert refused.json()["error"]["code"] == "context_length_exceeded"
    assert "70 tokens of 'max_total_tokens'" in refused.json()["error"]["message"]
    assert client.get(f"/v1/responses/{cut['id']}").json() == cut
    assert client.post(path, json={"max_total_tokens": 4000}).json()["status"] == "completed"


def test_log_probabilities_are_those_of_the_whole_answer(client: httpx2.Client, fake: FakeInference) -> None:
    wanted = {"include": ["message.output_text.logprobs"], "top_logprobs": 1}
    cut = cut_after_two(client, fake, **wanted)
    path = f"/v1/responses/{cut['id']}/continue"
    events = events_of(client.post(path, json={"stream": True}).text)
    assert (fake.chat.body["logprobs"], fake.chat.body["top_logprobs"]) == (True, 1)
    deltas = [event for event in events if event["type"] == "response.output_text.delta"]
    told = [[token["token"] for token in event["logprobs"]] for event in deltas]
    assert told == [["One", " two"], [" three"], [" four"]]
    kept = client.get(f"/v1/responses/{cut['id']}").json()
    assert kept == events[-1]["response"]
    tokens = [token["token"] for token in kept["output"][0]["content"][0]["logprobs"]]
    assert tokens == ["One", " two", " three", " four"]


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"text": {"format": {"type": "json_object"}}}, "text.format"),
        ({"text": {"format": {"type": "json_schema", "name": "a", "schema": {"type": "object"}}}}, "text.format"),
        ({"tools": [TOOL], "tool_choice": "required"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "now"}}, "tool_choice"),
    ],
)
def test_what_no_engine_keeps_to_in_the_middle_of_an_answer_is_refused(
    client: httpx2.Client, fake: FakeInference, asked: Json, param: str
) -> None:
    cut = cut_after_two(client, fake, **asked)
    before = len(fake.chats)
    refused = client.post(f"/v1/responses/{cut['id']}/continue")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)
    assert f"'{param}'" in refused.json()["error"]["message"]
    assert len(fake.chats) == before


def test_all_of_its_question_stays_when_older_messages_are_left_out(client: httpx2.Client, fake: FakeInference) -> None:
    conversation = client.post("/v1/conversations").json()["id"]
    for n in range(3):
        old = {"input": f"old{n} " + "a " * 900, "conversation": conversation}
        assert client.post("/v1/responses", json=old).is_success
    question = [{"role": "user", "content": "first " + "b " * 400}, {"role": "user", "content": "second"}]
    cut = cut_after_two(client, fake, input=question, conversation=conversation, truncation="auto")
    asked = {"max_output_tokens": 2000}
    assert client.post(f"/v1/responses/{cut['id']}/continue", json=asked).json()["status"] == "completed"
    sent = [message["content"].split()[0] for message in fake.chat.body["messages"]]
    assert sent[-3:] == ["first", "second", "One"]
    assert "old0" not in sent


def test_another_model_does_not_go_on_with_it(
    gateway: RunningGateway, client: httpx2.Client, fake: FakeInference, tmp_path: Path
) -> None:
    cut = cut_after_two(client, fake)
    body = {name: value for name, value in cut.items() if name != "output"} | {"output": [], "model": "another"}

    def rename(db: sa.Connection) -> None:
        db.execute(sa.update(responses).where(responses.c.id == cut["id"]).values(body=body))

    gateway.parts.store._database.write_now(rename)
    refused = client.post(f"/v1/responses/{cut['id']}/continue")
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize("release", RELEASED, ids=lambda path: path.stem)
def test_an_answer_of_every_release_goes_on(release: Path, fake: FakeInference, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / Places.DATABASE_NAME)) as database:
        database.executescript(release.read_text())
        (response_id,) = database.execute("SELECT id FROM responses WHERE status = 'in_progress'").fetchone()
    fake.scenario = Scenario(words=["ur", "!"])
    with run_gateway(tmp_path, fake) as gateway, gateway.client("sk-released-0001-" + "x" * 30) as client:
        done = client.post(f"/v1/responses/{response_id}/continue").json()
        assert (done["status"], text_of(done)) == ("completed", "Four!")
    assert [message["content"] for message in fake.chat.body["messages"]][-2:] == ["And 2+2?", "Fo"]


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


def test_an_answer_that_was_cancelled_goes_on(client: httpx2.Client, fake: FakeInference) -> None:
    fake.scenario = Scenario("stalls", words=["a", " b", " c", " d"])
    asked = client.post("/v1/responses", json={"input": "go", "background": True}).json()
    eventually(lambda: fake.chats and fake.chat.words_sent)
    eventually(lambda: client.get(f"/v1/responses/{asked['id']}").json()["output"][0]["content"][0]["text"])
    path = f"/v1/responses/{asked['id']}"
    stopped = client.post(f"{path}/cancel").json()
    assert stopped["status"] == "cancelled"
    fake.scenario = Scenario(words=[" and", " more"])
    done = client.post(f"{path}/continue").json()
    assert (done["status"], text_of(done)) == ("completed", text_of(stopped) + " and more")
    assert done["timing"]["answer_s"] >= stopped["timing"]["answer_s"]

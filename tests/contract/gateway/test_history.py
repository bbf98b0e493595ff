"""Search, export, feedback, input items, and forgetting everything."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import openai
import pytest

from tests.fakes.inference import WORDS, FakeInference, Scenario
from tests.running_gateway import RunningGateway, eventually

pytestmark = pytest.mark.contract
ANSWER = "".join(WORDS)
Json = dict[str, Any]


def created(client: httpx2.Client, *texts: str, **fields: Any) -> str:
    items = [{"role": "user", "content": text} for text in texts]
    return str(client.post("/v1/conversations", json={"items": items} | fields).raise_for_status().json()["id"])


def asked(client: httpx2.Client, text: str | list[Json] = "hi", **fields: Any) -> Json:
    body: Json = client.post("/v1/responses", json={"input": text} | fields).raise_for_status().json()
    return body


def items_of(client: httpx2.Client, conversation: str) -> list[Json]:
    data: list[Json] = client.get(f"/v1/conversations/{conversation}/items?order=asc&limit=100").json()["data"]
    return data


def text(item: Json) -> str:
    return "".join(part["text"] for part in item["content"])


def lines(answer: httpx2.Response) -> list[Json]:
    assert answer.is_success, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


# --- search


def search(client: httpx2.Client, q: str, **params: Any) -> list[tuple[str, str]]:
    page = client.get("/v1/conversations", params={"q": q} | params)
    assert page.is_success, page.text
    return [(entry["id"], entry["match"]) for entry in page.json()["data"]]


def test_search_in_titles_and_messages(client: httpx2.Client) -> None:
    titled = created(client, metadata={"title": "Recipes for Bread"})
    said = created(client, "How do I bake BREAD in a pan?", "and cake?", metadata={"title": "Kitchen"})
    created(client, "nothing of it")
    answered = created(client)
    asked(client, "what?", conversation=answered)
    assert search(client, "bread") == [(said, "How do I bake BREAD in a pan?"), (titled, "Recipes for Bread")]
    assert search(client, ANSWER[2:12]) == [(answered, ANSWER)]
    assert search(client, "no such words") == []
    assert search(client, "kitchen recipes") == []
    listed = client.get("/v1/conversations", params={"q": "  "}).json()["data"]
    assert len(listed) == 4
    assert "match" not in listed[0]


def test_search_in_chinese(client: httpx2.Client) -> None:
    one = created(client, "请问上海明天的天气怎么样?")
    two = created(client, metadata={"title": "上海旅行"})
    assert [found for found, _ in search(client, "上海")] == [two, one]
    assert search(client, "天气怎么样") == [(one, "请问上海明天的天气怎么样?")]
    assert search(client, "北京") == []


@pytest.mark.parametrize("text", ["100%", "snake_case", "a/b", "back\\slash", 'say "x"', "it's", "😀"])
def test_search_takes_every_character_as_itself(client: httpx2.Client, text: str) -> None:
    found = created(client, f"before {text} after")
    created(client, "before 100 snakexcase a-b back-slash say x its after")
    assert search(client, text) == [(found, f"before {text} after")]
    assert search(client, "%") == ([(found, f"before {text} after")] if "%" in text else [])


def test_a_match_is_the_newest_and_cut_around_what_was_looked_for(client: httpx2.Client) -> None:
    created(client, "needle first", "x " * 100 + "Needle\nin a haystack " + "y " * 100, "last")
    ((_, match),) = search(client, "needle")
    assert "Needle in a haystack" in match
    assert (match[0], match[-1]) == ("…", "…")
    assert 70 <= len(match) <= 82


def test_search_goes_in_pages_by_activity(client: httpx2.Client) -> None:
    ids = [created(client, f"page {n}") for n in range(5)]
    created(client, "other")
    first = client.get("/v1/conversations", params={"q": "page", "limit": 3}).json()
    assert [entry["id"] for entry in first["data"]] == ids[:1:-1]
    assert first["has_more"] is True
    rest = client.get("/v1/conversations", params={"q": "page", "limit": 3, "after": first["last_id"]}).json()
    assert ([entry["id"] for entry in rest["data"]], rest["has_more"]) == (ids[1::-1], False)


def test_search_finds_nothing_of_others(gateway: RunningGateway, client: httpx2.Client) -> None:
    created(client, "mine alone")
    with gateway.client() as stranger:
        assert search(stranger, "mine") == []


@pytest.mark.parametrize("q", ["a\0b", "x" * 201])
def test_a_search_that_cannot_be(client: httpx2.Client, q: str) -> None:
    answer = client.get("/v1/conversations", params={"q": q})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "q")


@pytest.mark.parametrize(
    "path",
    [
        "/v1/conversations/%00",
        "/v1/conversations?after=%00",
        "/v1/responses/%00",
        "/v1/responses/resp_x%00/input_items",
        "/v1/conversations/conv_%00/items/%00",
    ],
)
def test_ids_that_no_database_takes_are_not_found(client: httpx2.Client, path: str) -> None:
    assert client.get(path).status_code == 404


# --- input items, feedback


def test_input_items(gateway: RunningGateway, client: httpx2.Client) -> None:
    question = [{"role": "system", "content": "Be short."}, *({"role": "user", "content": f"{n}"} for n in range(4))]
    first = asked(client, "before", conversation=created(client, "earlier"))
    response = asked(client, question, previous_response_id=first["id"])
    path = f"/v1/responses/{response['id']}/input_items"
    page = client.get(path).json()
    assert [text(item) for item in page["data"]] == ["3", "2", "1", "0", "Be short."]
    assert (page["object"], page["has_more"]) == ("list", False)
    assert page["data"][0] == {
        "id": page["first_id"],
        "type": "message",
        "role": "user",
        "status": "completed",
        "content": [{"type": "input_text", "text": "3"}],
    }
    page = client.get(path, params={"order": "asc", "limit": 2}).json()
    assert ([text(item) for item in page["data"]], page["has_more"]) == (["Be short.", "0"], True)
    page = client.get(path, params={"order": "asc", "after": page["last_id"]}).json()
    assert ([text(item) for item in page["data"]], page["has_more"]) == (["1", "2", "3"], False)
    assert [text(item) for item in client.get(f"/v1/responses/{first['id']}/input_items").json()["data"]] == ["before"]
    assert client.get(path, params={"after": "msg_x"}).status_code == 404
    assert client.get(path, params={"after": response["output"][0]["id"]}).status_code == 404
    assert client.get("/v1/responses/resp_x/input_items").status_code == 404
    with gateway.client() as stranger:
        assert stranger.get(path).status_code == 404


def test_input_items_with_openais_sdk(gateway: RunningGateway) -> None:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.new_key(), max_retries=0) as sdk:
        response = sdk.responses.create(input=[{"role": "user", "content": f"{n}"} for n in range(5)])
        listed = sdk.responses.input_items.list(response.id, order="asc", limit=2)
        seen = [item.content[0].text for item in listed]  # it asks for the pages by itself
        assert seen == ["0", "1", "2", "3", "4"]


def test_feedback(gateway: RunningGateway, client: httpx2.Client) -> None:
    response = asked(client)
    at = f"/v1/responses/{response['id']}"
    assert "feedback" not in client.get(at).json()
    given = client.post(f"{at}/feedback", json={"rating": "down", "comment": "太长了"}).json()
    assert given | {"created_at": 0} == {
        "id": response["id"],
        "object": "response.feedback",
        "rating": "down",
        "comment": "太长了",
        "created_at": 0,
    }
    feedback = client.get(at).json()["feedback"]
    assert (feedback["rating"], feedback["comment"]) == ("down", "太长了")
    assert client.post(f"{at}/feedback", json={"rating": "up"}).json()["comment"] is None
    assert client.get(at).json()["feedback"]["rating"] == "up"
    assert client.post(f"{at}/feedback", json={"rating": None}).json()["rating"] is None
    assert client.get(at).json() == response
    for wrong in ({}, {"rating": "good"}, {"rating": "up", "comment": "x" * 2001}, {"rating": "up", "more": 1}):
        assert client.post(f"{at}/feedback", json=wrong).status_code == 400
    with gateway.client() as stranger:
        assert stranger.post(f"{at}/feedback", json={"rating": "up"}).status_code == 404


def test_feedback_on_an_answer_that_is_still_being_written_stays(client: httpx2.Client, fake: FakeInference) -> None:
    fake.scenario = Scenario("stalls")
    conversation = created(client)
    with ThreadPoolExecutor() as pool:
        turn = pool.submit(asked, client, "hi", conversation=conversation)
        response = eventually(lambda: items_of(client, conversation))[-1]["response_id"]
        assert client.post(f"/v1/responses/{response}/feedback", json={"rating": "up"}).is_success
        fake.release()
        turn.result()
    assert client.get(f"/v1/responses/{response}").json()["feedback"]["rating"] == "up"


# --- export


def test_a_conversation_as_markdown(client: httpx2.Client) -> None:
    hostile = "```\n# not a heading\n<script>alert(1)</script>\n````"
    conversation = created(client, hostile, metadata={"title": "A *title*\n# <b>", "pinned": "true"})
    asked(client, "hi", conversation=conversation)
    answer = client.get(f"/v1/conversations/{conversation}/export", params={"format": "md"})
    assert answer.headers["content-type"] == "text/markdown; charset=utf-8"
    assert answer.headers["content-disposition"] == f'attachment; filename="{conversation}.md"'
    page = answer.text.split("\n")
    assert page[0] == r"# A \*title\* \# \<b\>"
    assert "- pinned: true" in page
    assert f"- Id: `{conversation}`" in page
    assert [line.split(" (")[0] for line in page if line.startswith("## ")] == ["## User", "## User", "## Assistant"]
    assert f"`````text\n{hostile}\n`````\n" in answer.text
    assert f"```text\n{ANSWER}\n```\n" in answer.text


def test_a_conversation_as_json_can_be_posted_again(client: httpx2.Client, fake: FakeInference) -> None:
    conversation = created(client, *(f"{n} 你好" for n in range(20)), metadata={"title": "t"})
    client.post(f"/v1/conversations/{conversation}/items", json={"items": [{"role": "user", "content": "more"}] * 20})
    for n in range(31):
        asked(client, f"turn {n}", conversation=conversation, truncation="auto")
    answer = client.get(f"/v1/conversations/{conversation}/export")
    assert answer.headers["content-type"] == "application/json"
    exported = answer.json()
    assert exported["conversation"] == client.get(f"/v1/conversations/{conversation}").json()
    items = exported["items"]
    assert len(items) == 102
    copy = client.post(
        "/v1/conversations", json={"metadata": exported["conversation"]["metadata"], "items": items[:20]}
    )
    copy_id = copy.raise_for_status().json()["id"]
    for n in range(20, len(items), 20):
        client.post(f"/v1/conversations/{copy_id}/items", json={"items": items[n : n + 20]}).raise_for_status()
    again = client.get(f"/v1/conversations/{copy_id}/export").json()
    assert [item | {"id": ""} for item in again["items"]] == [item | {"id": ""} for item in items]
    assert again["conversation"]["metadata"] == {"title": "t"}


def test_calls_and_cut_messages_come_back_as_they_were(client: httpx2.Client) -> None:
    call = {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": '{"city": "上海"}'}
    given = [
        {"role": "user", "content": "How is the weather?"},
        call,
        {"type": "function_call_output", "call_id": "call_1", "output": "sunny ``` 25 °C"},
        {"type": "message", "role": "assistant", "content": "It is su", "status": "incomplete"},
    ]
    conversation = str(client.post("/v1/conversations", json={"items": given}).raise_for_status().json()["id"])
    items = client.get(f"/v1/conversations/{conversation}/export").json()["items"]
    assert [item["type"] for item in items] == ["message", "function_call", "function_call_output", "message"]
    assert (items[1]["name"], items[2]["output"]) == ("weather", "sunny ``` 25 °C")
    assert [item["status"] for item in items] == ["completed"] * 3 + ["incomplete"]
    copy = client.post("/v1/conversations", json={"items": items}).raise_for_status().json()["id"]
    again = client.get(f"/v1/conversations/{copy}/export").json()["items"]
    assert [item | {"id": ""} for item in again] == [item | {"id": ""} for item in items]
    page = client.get(f"/v1/conversations/{conversation}/export?format=md").text
    assert "## Call of weather (" in page
    assert '```text\n{"city": "上海"}\n```' in page
    assert "````text\nsunny ``` 25 °C\n````" in page
    assert ", cut)\n" in page


def test_an_export_that_cannot_be(gateway: RunningGateway, client: httpx2.Client) -> None:
    conversation = created(client, "x")
    assert client.get(f"/v1/conversations/{conversation}/export?format=pdf").status_code == 400
    assert client.get("/v1/conversations/conv_x/export").status_code == 404
    with gateway.client() as stranger:
        assert stranger.get(f"/v1/conversations/{conversation}/export?format=md").status_code == 404


def test_everything_of_a_caller(gateway: RunningGateway, client: httpx2.Client) -> None:
    threads = [created(client, f"thread {n}", metadata={"title": f"{n}"}) for n in range(3)]
    turn = asked(client, "in a thread", conversation=threads[0])
    alone = asked(client, "alone")
    client.post(f"/v1/responses/{alone['id']}/feedback", json={"rating": "up"})
    with gateway.client() as stranger:
        created(stranger, "secret of another")
        others = stranger.get("/v1/export").text
    answer = client.get("/v1/export")
    assert answer.headers["content-type"] == "application/jsonl"
    head, *records, end = lines(answer)
    assert head["object"] == "export"
    assert head["key"]["name"] == "test"
    assert "sk-" not in answer.text
    assert end == {"object": "export.end", "conversations": 3, "responses": 2}
    exported = {record["conversation"]["id"]: record for record in records if record["object"] == "conversation.export"}
    assert set(exported) == set(threads)
    assert [text(item) for item in exported[threads[0]]["items"]] == ["thread 0", "in a thread", ANSWER]
    answers = {record["id"]: record for record in records if record["object"] == "response"}
    assert set(answers) == {turn["id"], alone["id"]}
    assert [text(item) for item in answers[alone["id"]]["input"]] == ["alone"]
    assert answers[alone["id"]]["feedback"]["rating"] == "up"
    assert answers[turn["id"]] == turn | {"input": []}
    assert "secret of another" not in answer.text
    assert "thread 0" not in others


def test_an_export_of_much_goes_through_all_pages(client: httpx2.Client) -> None:
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda n: created(client, f"{n}"), range(230)))
    records = lines(client.get("/v1/export"))
    assert sorted(record["conversation"]["id"] for record in records[1:-1]) == sorted(ids)


# --- forgetting


def test_forgetting_everything(gateway: RunningGateway, client: httpx2.Client) -> None:
    threads = [created(client, "x") for _ in range(120)]
    responses = [asked(client, conversation=threads[0])["id"], asked(client)["id"]]
    with gateway.client() as other:
        kept = created(other, "kept")
        assert client.delete("/v1/data").json() == {
            "object": "data.deleted",
            "deleted": True,
            "conversations": 120,
            "responses": 2,
        }
        assert other.get(f"/v1/conversations/{kept}").is_success
    assert client.get("/v1/conversations").json()["data"] == []
    assert [client.get(f"/v1/responses/{response}").status_code for response in responses] == [404, 404]
    assert lines(client.get("/v1/export"))[1:] == [{"object": "export.end", "conversations": 0, "responses": 0}]
    assert client.get("/v1/models").is_success  # the key stays


def test_nothing_is_forgotten_under_an_answer_that_is_being_written(client: httpx2.Client, fake: FakeInference) -> None:
    fake.scenario = Scenario("stalls")
    conversation = created(client, "x")
    with ThreadPoolExecutor() as pool:
        turn = pool.submit(asked, client, "hi", conversation=conversation)
        eventually(lambda: len(items_of(client, conversation)) == 3)
        refused = client.delete("/v1/data")
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "conversation_busy")
        fake.release()
        turn.result()
    assert client.delete("/v1/data").json()["conversations"] == 1


# --- for an admin


@pytest.fixture
def ann(gateway: RunningGateway) -> Iterator[httpx2.Client]:
    """An end user of the web UI."""
    with gateway.client(gateway.webui_key) as client:
        client.headers["x-end-user"] = "ann"
        yield client


def test_an_admin_exports_and_forgets_for_an_end_user(gateway: RunningGateway, ann: httpx2.Client) -> None:
    conversation = created(ann, "of ann")
    keys = gateway.app.state.keys
    key = next(key for key in keys.list() if key.name == "web UI")
    owner = {"owner": f"{key.id}/ann"}
    with gateway.client(gateway.new_key(scopes=frozenset({"admin"}))) as admin, gateway.client() as nobody:
        head, record, _ = lines(admin.get("/v1/export", params=owner))
        assert (head["key"]["name"], head["end_user"]) == ("web UI", "ann")
        assert record["conversation"]["id"] == conversation
        for method in ("GET", "DELETE"):
            refused = nobody.request(method, "/v1/export" if method == "GET" else "/v1/data", params=owner)
            assert (refused.status_code, refused.json()["error"]["code"]) == (403, "insufficient_scope")
        assert admin.get("/v1/export", params={"owner": "key_x/ann"}).status_code == 404
        assert admin.delete("/v1/data", params=owner).json()["conversations"] == 1
    assert ann.get(f"/v1/conversations/{conversation}").status_code == 404

"""`/v1/conversations`: life cycle, items, pages, forks; and that what belongs to one caller is nobody else's."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from tests.fakes.inference import WORDS, FakeInference, Scenario
from tests.running_gateway import RunningGateway, eventually

pytestmark = pytest.mark.contract
ANSWER = "".join(WORDS)
Json = dict[str, Any]


def created(client: httpx2.Client, **fields: Any) -> Json:
    answer = client.post("/v1/conversations", json=fields)
    assert answer.status_code == 200, answer.text
    body: Json = answer.json()
    return body


def items_of(client: httpx2.Client, conversation: str, **params: Any) -> list[Json]:
    answer = client.get(f"/v1/conversations/{conversation}/items", params={"order": "asc", "limit": 100} | params)
    assert answer.status_code == 200, answer.text
    data: list[Json] = answer.json()["data"]
    return data


def text(item: Json) -> str:
    return "".join(part["text"] for part in item["content"])


def user(*texts: str) -> list[Json]:
    return [{"role": "user", "content": t} for t in texts]


def test_life_of_a_conversation(client: httpx2.Client) -> None:
    conversation = created(client, metadata={"title": "One"}, items=user("hello"))
    path = f"/v1/conversations/{conversation['id']}"
    assert conversation["object"] == "conversation"
    assert client.get(path).json() == conversation
    assert client.post(path, json={"metadata": {"title": "Two"}}).json()["metadata"] == {"title": "Two"}
    assert client.get(path).json()["metadata"] == {"title": "Two"}
    assert [text(item) for item in items_of(client, conversation["id"])] == ["hello"]
    deleted = client.delete(path).json()
    assert deleted == {"id": conversation["id"], "object": "conversation.deleted", "deleted": True}
    for answer in (client.get(path), client.delete(path), client.get(path + "/items")):
        assert answer.status_code == 404


def test_a_conversation_without_a_body(client: httpx2.Client) -> None:
    assert client.post("/v1/conversations").json()["metadata"] == {}


def test_deleting_a_conversation_takes_its_responses_along(client: httpx2.Client) -> None:
    conversation = created(client)["id"]
    response = client.post("/v1/responses", json={"input": "hi", "conversation": conversation}).json()["id"]
    assert client.delete(f"/v1/conversations/{conversation}").is_success
    assert client.get(f"/v1/responses/{response}").status_code == 404


def test_items_in_pages_both_ways(client: httpx2.Client) -> None:
    conversation = created(client, items=user("0", "1", "2"))["id"]
    added = client.post(f"/v1/conversations/{conversation}/items", json={"items": user("3", "4")}).json()
    assert [text(item) for item in added["data"]] == ["3", "4"]
    for order, expected in (("asc", ["0", "1", "2", "3", "4"]), ("desc", ["4", "3", "2", "1", "0"])):
        seen: list[str] = []
        params: Json = {"order": order, "limit": 2}
        while True:
            page = client.get(f"/v1/conversations/{conversation}/items", params=params).json()
            seen += [text(item) for item in page["data"]]
            assert page["first_id"] == page["data"][0]["id"]
            if not page["has_more"]:
                break
            params["after"] = page["last_id"]
        assert seen == expected


def test_one_item(client: httpx2.Client) -> None:
    conversation = created(client, items=[*user("a"), {"role": "assistant", "content": "b"}])["id"]
    first, second = items_of(client, conversation)
    assert (first["content"][0]["type"], second["content"][0]["type"]) == ("input_text", "output_text")
    path = f"/v1/conversations/{conversation}/items/{first['id']}"
    assert client.get(path).json() == first
    assert client.delete(path).json()["id"] == conversation
    assert client.get(path).status_code == 404
    assert [text(item) for item in items_of(client, conversation)] == ["b"]


def test_too_many_items(client: httpx2.Client) -> None:
    assert client.post("/v1/conversations", json={"items": user(*"x" * 21)}).status_code == 400
    conversation = created(client)["id"]
    assert client.post(f"/v1/conversations/{conversation}/items", json={"items": []}).status_code == 400


def test_the_newest_activity_comes_first(client: httpx2.Client) -> None:
    one, two, three = (created(client)["id"] for _ in range(3))
    client.post("/v1/responses", json={"input": "hi", "conversation": one})
    listed = client.get("/v1/conversations", params={"limit": 2}).json()
    assert [entry["id"] for entry in listed["data"]] == [one, three]
    assert listed["has_more"] is True
    rest = client.get("/v1/conversations", params={"after": listed["last_id"]}).json()
    assert [entry["id"] for entry in rest["data"]] == [two]
    assert rest["has_more"] is False


def test_what_is_pinned_is_listed_alone_and_left_out(client: httpx2.Client) -> None:
    ids = {name: created(client, metadata=meta)["id"] for name, meta in _PINS.items()}

    def listed(**params: Any) -> list[str]:
        data = client.get("/v1/conversations", params=params).json()["data"]
        return [name for entry in data for name, known in ids.items() if known == entry["id"]]

    assert listed(pinned="true") == ["pinned"]
    assert listed(pinned="false") == ["other", "unpinned", "plain"]
    assert listed(pinned="false", limit=1, after=ids["other"]) == ["unpinned"]
    assert listed() == ["other", "unpinned", "pinned", "plain"]
    assert client.get("/v1/conversations", params={"pinned": "perhaps"}).json()["error"]["param"] == "pinned"


_PINS = {"plain": {}, "pinned": {"pinned": "true"}, "unpinned": {"pinned": "false"}, "other": {"title": "pinned"}}


def test_a_fork_has_its_own_copies(client: httpx2.Client, fake: FakeInference) -> None:
    conversation = created(client, metadata={"title": "t"})["id"]
    client.post("/v1/responses", json={"input": "one", "conversation": conversation})
    client.post("/v1/responses", json={"input": "two", "conversation": conversation})
    items = items_of(client, conversation)
    fork = client.post(f"/v1/conversations/{conversation}/fork", json={"after": items[1]["id"]}).json()
    assert fork["metadata"] == {"title": "t"}
    copies = items_of(client, fork["id"])
    assert [text(item) for item in copies] == ["one", ANSWER]
    assert not {item["id"] for item in copies} & {item["id"] for item in items}
    client.post("/v1/responses", json={"input": "other", "conversation": fork["id"]})
    assert [message["content"] for message in fake.chat.body["messages"]] == ["one", ANSWER, "other"]
    assert [text(item) for item in items_of(client, conversation)] == ["one", ANSWER, "two", ANSWER]
    empty = client.post(f"/v1/conversations/{conversation}/fork", json={"after": None}).json()
    assert items_of(client, empty["id"]) == []
    assert client.post(f"/v1/conversations/{conversation}/fork", json={"after": "msg_x"}).status_code == 404


def test_in_a_fork_what_is_known_of_its_answers_is_its_own(client: httpx2.Client) -> None:
    conversation = created(client)["id"]
    for asked in ("one", "two"):
        client.post("/v1/responses", json={"input": asked, "conversation": conversation})
    known = {"include[]": "response"}
    items = items_of(client, conversation, **known)
    client.post(f"/v1/responses/{items[1]['response_id']}/feedback", json={"rating": "up"})
    fork = client.post(f"/v1/conversations/{conversation}/fork", json={"after": items[2]["id"]}).json()["id"]
    question, answer, lone = items_of(client, fork, **known)
    assert lone["response_id"] is None, "its answer was not copied"
    assert question["response_id"] == answer["response_id"] not in (None, items[1]["response_id"])
    copied, original = answer["response"], items[1]["response"]
    assert [copied[name] for name in ("status", "usage", "timing")] == [
        original[name] for name in ("status", "usage", "timing")
    ]
    assert copied["feedback"]["rating"] == "up"
    assert client.post(f"/v1/responses/{copied['id']}/feedback", json={"rating": "down"}).is_success
    assert items_of(client, conversation, **known)[1]["response"]["feedback"]["rating"] == "up"
    assert client.delete(f"/v1/conversations/{conversation}").is_success
    stored = client.get(f"/v1/responses/{copied['id']}").json()
    assert (stored["conversation"], stored["feedback"]["rating"]) == ({"id": fork}, "down")
    assert [text(item) for item in stored["output"]] == [ANSWER]
    assert client.delete(f"/v1/conversations/{fork}").is_success
    assert client.get(f"/v1/responses/{copied['id']}").status_code == 404


def test_a_cut_answer_goes_on_in_a_fork_too(client: httpx2.Client, fake: FakeInference) -> None:
    conversation = created(client)["id"]
    fake.scenario = Scenario(words=["One", " two", " three"])
    client.post("/v1/responses", json={"input": "Count", "conversation": conversation, "max_output_tokens": 2})
    last = items_of(client, conversation)[-1]
    fork = client.post(f"/v1/conversations/{conversation}/fork", json={"after": last["id"]}).json()["id"]
    copy = items_of(client, fork)[-1]
    fake.scenario = Scenario(words=[" three"])
    assert client.post(f"/v1/responses/{copy['response_id']}/continue", json={}).is_success
    assert text(items_of(client, fork)[-1]) == "One two three"
    assert text(items_of(client, conversation)[-1]) == "One two"


def test_a_fork_of_an_open_answer_is_not_open(client: httpx2.Client, fake: FakeInference) -> None:
    conversation = created(client)["id"]
    fake.scenario = Scenario("stalls")
    with ThreadPoolExecutor() as pool:
        turn = pool.submit(client.post, "/v1/responses", json={"input": "one", "conversation": conversation})
        answer = eventually(lambda: items_of(client, conversation))[-1]
        fork = client.post(f"/v1/conversations/{conversation}/fork", json={"after": answer["id"]}).json()["id"]
        assert [item["status"] for item in items_of(client, fork)] == ["completed", "incomplete"]
        fake.release()
        assert turn.result().is_success
    assert client.post("/v1/responses", json={"input": "x", "conversation": fork}).is_success


@pytest.fixture(params=["another key", "another end user", "the key itself"])
def stranger(gateway: RunningGateway, request: pytest.FixtureRequest) -> Iterator[tuple[httpx2.Client, httpx2.Client]]:
    """Two callers who must not see each other."""
    if request.param == "another key":
        with gateway.client() as one, gateway.client() as other:
            yield one, other
        return
    key = gateway.new_key(scopes=frozenset({"chat", "on_behalf_of"}))
    with gateway.client(key) as one, gateway.client(key) as other:
        one.headers["x-end-user"] = "ann"
        if request.param == "another end user":
            other.headers["x-end-user"] = "bob"
        yield one, other


def test_what_is_anothers_does_not_exist(stranger: tuple[httpx2.Client, httpx2.Client]) -> None:
    ann, bob = stranger
    conversation, own = created(ann)["id"], created(bob, items=user("own"))["id"]
    response = ann.post("/v1/responses", json={"input": "secret", "conversation": conversation}).json()["id"]
    chained = ann.post("/v1/responses", json={"input": "secret"}).json()["id"]
    item = items_of(ann, conversation)[0]["id"]
    at = f"/v1/conversations/{conversation}"
    tries: list[tuple[str, str, Json | None]] = [
        ("GET", at, None),
        ("POST", at, {"metadata": {"title": "mine"}}),
        ("DELETE", at, None),
        ("POST", f"{at}/fork", {"after": item}),
        ("GET", f"{at}/items", None),
        ("POST", f"{at}/items", {"items": user("x")}),
        ("GET", f"{at}/items/{item}", None),
        ("DELETE", f"{at}/items/{item}", None),
        ("GET", f"/v1/conversations/{own}/items/{item}", None),
        ("DELETE", f"/v1/conversations/{own}/items/{item}", None),
        ("GET", f"/v1/conversations/{own}/items?after={item}", None),
        ("POST", f"/v1/conversations/{own}/fork", {"after": item}),
        ("GET", f"/v1/conversations?after={conversation}", None),
        ("GET", f"/v1/responses/{response}", None),
        ("DELETE", f"/v1/responses/{response}", None),
        ("POST", "/v1/responses", {"input": "x", "conversation": conversation}),
        ("POST", "/v1/responses", {"input": "x", "previous_response_id": response}),
        ("POST", "/v1/responses", {"input": "x", "previous_response_id": chained}),
        ("POST", "/v1/responses", {"input": "x", "previous_response_id": chained, "store": False, "stream": True}),
    ]
    unknown = {conversation: "conv_0", response: "resp_0", chained: "resp_0", item: "msg_0"}
    for method, path, body in tries:
        answer = bob.request(method, path, json=body)
        assert answer.status_code == 404, (method, path, answer.text)
        assert "secret" not in answer.text
        made_up, made_up_body = path, body
        for known, never in unknown.items():
            made_up = made_up.replace(known, never)
            made_up_body = {k: v if v != known else never for k, v in made_up_body.items()} if made_up_body else None
        alike = bob.request(method, made_up, json=made_up_body).json()["error"]["code"]
        assert answer.json()["error"]["code"] == alike  # not to be told from what never was
    assert conversation not in bob.get("/v1/conversations").text
    assert [text(entry) for entry in items_of(ann, conversation)] == ["secret", ANSWER]
    assert ann.get(f"/v1/responses/{response}").is_success


def test_what_is_known_of_an_answer_comes_with_its_item(client: httpx2.Client) -> None:
    conversation = client.post("/v1/conversations").json()["id"]
    done = client.post("/v1/responses", json={"input": "Hi", "conversation": conversation}).json()
    client.post(f"/v1/responses/{done['id']}/feedback", json={"rating": "up"})
    path = f"/v1/conversations/{conversation}/items"
    question, answer = client.get(path, params={"order": "asc", "include[]": "response"}).json()["data"]
    assert "response" not in question
    known = answer["response"]
    assert (known["id"], known["status"], known["usage"]) == (done["id"], "completed", done["usage"])
    assert known["timing"] == done["timing"]
    assert known["timing"]["queued_s"] >= 0
    assert known["timing"]["answer_s"] >= 0
    assert known["feedback"]["rating"] == "up"
    assert all("response" not in item for item in client.get(path).json()["data"])
    refused = client.get(path, params={"include[]": "nothing"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "include")

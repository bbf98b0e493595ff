"""Keys, limits, request ids, health and the docs."""

from __future__ import annotations

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import httpx2
import pytest
import sqlalchemy as sa

from gateway.auth import api_keys
from gateway.errors import HistoryUnavailable
from tests.fakes.inference import FakeInference, Scenario
from tests.running_gateway import MODEL, RunningGateway, client_of, events_of, eventually, run_gateway

pytestmark = pytest.mark.contract
HI = {"messages": [{"role": "user", "content": "hi"}]}


def error_of(answer: httpx2.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"authorization": "Basic c2stOng="},
        {"authorization": "Bearer sk-wrong"},
        {"authorization": "Bearer sk-" + "x" * 4000},
        {"authorization": b"Bearer sk-\xff\xfe"},
    ],
)
def test_without_a_working_key(gateway: RunningGateway, headers: dict[str, Any]) -> None:
    with httpx2.Client(base_url=gateway.url, headers=headers) as client:
        for method, path in (
            ("GET", "/v1/models"),
            ("GET", "/v1/status"),
            ("GET", "/v1/conversations"),
            ("GET", "/v1/responses/resp_1"),
            ("POST", "/v1/chat/completions"),
            ("POST", "/v1/responses"),
        ):
            answer = client.request(method, path, json=HI if method == "POST" else None)
            assert error_of(answer) == (401, "invalid_api_key"), (method, path)
            assert "sk-wrong" not in answer.text


def test_scopes(gateway: RunningGateway) -> None:
    with gateway.client(gateway.new_key(scopes=frozenset({"admin"}))) as client:
        assert error_of(client.get("/v1/models")) == (403, "insufficient_scope")
    with gateway.client() as client:
        assert error_of(client.get("/v1/models", headers={"x-end-user": "ann"})) == (403, "insufficient_scope")
    with gateway.client(gateway.webui_key) as client:
        assert client.get("/v1/models", headers={"x-end-user": "ann"}).is_success
        for name in ("", "a b", "a/b", "x" * 129, "ä"):
            answer = client.get("/v1/models", headers={"x-end-user": name.encode()})
            assert error_of(answer) == (400, "invalid_request"), name


def test_a_revoked_key_ends_at_once(gateway: RunningGateway) -> None:
    keys = gateway.app.state.keys
    key, secret = keys.create("to be revoked")
    with gateway.client(secret) as client:
        assert client.get("/v1/models").is_success
        assert keys.revoke(key.id) is True
        assert keys.revoke(key.id) is False
        answer = client.get("/v1/models")
        assert error_of(answer) == (401, "invalid_api_key")
        assert "revoked" in answer.json()["error"]["message"]


def test_an_expired_key(gateway: RunningGateway) -> None:
    keys = gateway.app.state.keys
    key, secret = keys.create("short-lived")
    expire = sa.update(api_keys).where(api_keys.c.id == key.id).values(expires_at=int(time.time()) - 1)
    keys._database.write_now(lambda db: db.execute(expire))
    with gateway.client(secret) as client:
        assert error_of(client.get("/v1/models")) == (401, "invalid_api_key")
        assert "expired" in client.get("/v1/models").json()["error"]["message"]


def test_secrets_are_kept_as_hashes_in_files_of_ones_own(gateway: RunningGateway) -> None:
    secret = gateway.new_key()
    stored = b"".join(path.read_bytes() for path in gateway.data_dir.glob("gateway.sqlite3*"))
    assert secret.encode() not in stored
    assert gateway.admin_key.encode() not in stored
    for name in ("admin.key", "webui.key"):
        assert (gateway.data_dir / name).stat().st_mode & 0o777 == 0o600


def test_limits_per_key_and_per_end_user(fake: FakeInference, tmp_path: Path) -> None:
    with run_gateway(tmp_path, fake, key_rpm=3, user_rpm=2) as gateway:
        with gateway.client(gateway.webui_key) as client:
            for user in ("ann", "bob"):  # each has a budget of their own
                for path, body in (("/v1/chat/completions", HI), ("/v1/responses", {"input": "x", "stream": True})):
                    assert client.post(path, json=body, headers={"x-end-user": user}).is_success
                over = client.post("/v1/responses", json={"input": "x"}, headers={"x-end-user": user})
                assert error_of(over) == (429, "rate_limit_exceeded")
        with gateway.client(gateway.new_key(rpm=1)) as client:
            answer = client.post("/v1/chat/completions", json=HI)
            assert answer.headers["x-ratelimit-limit-requests"] == "1"
            assert answer.headers["x-ratelimit-remaining-requests"] == "0"
            over = client.post("/v1/chat/completions", json=HI)
            assert 59_000 < int(over.headers["retry-after-ms"]) <= 60_000
            assert over.headers["retry-after"] == "60"
            assert over.headers["x-ratelimit-remaining-requests"] == "0"
            assert over.json()["error"]["type"] == "rate_limit_error"
            assert client.get("/v1/models").is_success  # only generations are counted
            assert client.post("/v1/chat/completions", json={}).status_code == 400  # what is invalid costs nothing
        with gateway.client() as client:
            remaining = [client.post("/v1/chat/completions", json=HI).headers for _ in range(3)]
            assert [headers["x-ratelimit-remaining-requests"] for headers in remaining] == ["2", "1", "0"]
            assert all(re.fullmatch(r"\d+ms", headers["x-ratelimit-reset-requests"]) for headers in remaining)


def test_request_ids_are_unique_and_in_errors(client: httpx2.Client) -> None:
    unfit = ("", "with space", "x" * 65, "{}", '"')
    answers = [client.get("/v1/models", headers={"x-request-id": one}) for one in unfit]
    answers += [client.get("/v1/nope"), client.get("/healthz"), client.post("/v1/chat/completions", json=HI)]
    ids = [answer.headers["x-request-id"] for answer in answers]
    assert len(set(ids)) == len(ids)
    assert all(request_id.startswith("req_") for request_id in ids)
    assert answers[5].json()["error"]["request_id"] == ids[5]


def test_a_callers_own_request_id_is_kept_and_handed_on(client: httpx2.Client, fake: FakeInference) -> None:
    named = [client.post("/v1/chat/completions", json=HI, headers={"x-request-id": "page-17.a_b"}) for _ in range(2)]
    assert [answer.headers["x-request-id"] for answer in named] == ["page-17.a_b"] * 2
    assert fake.chat.headers["x-request-id"] == "page-17.a_b"
    assert len({answer.json()["id"] for answer in named}) == 2
    refused = client.post("/v1/chat/completions", json={}, headers={"x-request-id": "page-18"})
    assert refused.json()["error"]["request_id"] == "page-18"


def test_health_and_readiness(gateway: RunningGateway, fake: FakeInference) -> None:
    with httpx2.Client(base_url=gateway.url) as client:  # no key
        assert client.get("/healthz").json() == {"status": "ok"}
        eventually(lambda: client.get("/readyz").is_success)
        fake.scenario = Scenario("loading")
        answer = eventually(lambda: (a := client.get("/readyz")).status_code == 503 and a)
        assert answer.headers["retry-after"]
        assert client.get("/healthz").is_success
        fake.scenario = Scenario()
        eventually(lambda: client.get("/readyz").is_success)


def test_status_joins_what_the_models_side_wrote(gateway: RunningGateway, client: httpx2.Client) -> None:
    file = gateway.data_dir / "status.json"
    written = {"stage": "convert", "done": 3, "total": 10, "unit": "s", "message": "loading", "since": 5, "model": "x"}
    try:
        eventually(lambda: client.get("/v1/status").json()["ready"])
        file.write_text(json.dumps(written))
        status = client.get("/v1/status").json()
        assert {name: status[name] for name in ("stage", "done", "total", "unit", "message", "since")} == {
            name: value for name, value in written.items() if name != "model"
        }
        assert (status["ready"], status["model"], status["object"]) == (False, MODEL, "status")
        for broken in ("", "[]", "{", "null", '{"stage": 5}'):
            file.write_text(broken)
            assert client.get("/v1/status").is_success, broken
    finally:
        file.unlink()
    assert client.get("/v1/status").json()["upstreams"] == [{"engine": "llamacpp", "ready": True}]


def test_an_engine_that_nobody_watches_is_ready_when_it_answers_and_restarting_when_it_is_gone(
    gateway: RunningGateway, client: httpx2.Client, fake: FakeInference
) -> None:
    """As docker-compose.yml runs it: the preparation leaves `load` behind, and nobody writes what comes after."""
    file = gateway.data_dir / "status.json"
    written = {"stage": "load", "done": 0, "total": 0, "unit": "", "message": "loading", "since": time.time() + 0.5}

    def status_when(is_ready: bool) -> Any:
        return eventually(lambda: (found := client.get("/v1/status").json())["ready"] is is_ready and found)

    try:
        fake.scenario = Scenario("loading")
        status_when(is_ready=False)
        file.write_text(json.dumps(written))
        assert client.get("/v1/status").json()["stage"] == "load"
        time.sleep(0.6)
        fake.scenario = Scenario()
        assert status_when(is_ready=True)["stage"] == "ready"
        fake.scenario = Scenario("loading")
        status = status_when(is_ready=False)
        assert status["stage"] == "restarting"
        assert status["since"] > written["since"]
    finally:
        fake.scenario = Scenario()
        file.unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]}),
        ("/v1/responses", {"input": "Hi"}),
        ("/v1/responses", {"input": "Hi", "stream": True}),
    ],
)
def test_a_model_that_could_not_be_started_is_said_so_and_nobody_tries_in_vain(
    gateway: RunningGateway, client: httpx2.Client, fake: FakeInference, path: str, body: dict[str, Any]
) -> None:
    file = gateway.data_dir / "status.json"
    reason = "There is not enough memory for the model."
    file.write_text(json.dumps({"stage": "failed", "message": reason, "since": time.time()}))
    try:
        fake.scenario = Scenario("loading")
        answer = client.post(path, json=body)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (503, "upstream_start_failed")
        assert "could not be started" in error["message"]
        assert reason not in answer.text, "what is inside stays in the log and in /v1/status"
        assert int(answer.headers["retry-after"]) >= 30
        assert answer.headers["x-should-retry"] == "false"
        assert client.get("/v1/status").json()["message"] == reason
        eventually(lambda: client.get("/readyz").json().get("error", {}).get("code") == "upstream_start_failed")
        fake.scenario = Scenario()
        assert client.post(path, json=body).is_success, "one that answers is believed"
    finally:
        fake.scenario = Scenario()
        file.unlink()


def test_the_docs_load_nothing_from_other_hosts(gateway: RunningGateway) -> None:
    with httpx2.Client(base_url=gateway.url) as client:
        page = client.get("/docs")
        assert page.is_success
        sources = re.findall(r"""(?:src|href)=["']([^"']+)""", page.text)
        assert sources
        for source in sources:
            assert source.startswith("/"), source
            assert not source.startswith("//"), source
            assert client.get(source).is_success, source
        assert not re.findall(r"https?://(?!www\.w3\.org)", page.text)


def test_the_description_of_the_api(gateway: RunningGateway) -> None:
    with httpx2.Client(base_url=gateway.url) as client:
        described = client.get("/openapi.json").json()
    assert "/v1/chat/completions" in described["paths"]
    assert "/v1/{path}" not in described["paths"]
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            assert operation.get("description"), (method, path)


def test_keys_of_a_new_database_and_old_files(fake: FakeInference, tmp_path: Path) -> None:
    """The files survive a lost database: what people have configured goes on working."""
    with run_gateway(tmp_path, fake) as gateway:
        admin = gateway.admin_key
    for file in tmp_path.glob("gateway.sqlite3*"):
        file.unlink()
    with run_gateway(tmp_path, fake) as gateway:
        assert gateway.admin_key == admin
        with client_of(gateway.url, admin) as client:
            assert client.get("/v1/models").is_success


def test_limits_are_exact_under_concurrency(fake: FakeInference, tmp_path: Path) -> None:
    with run_gateway(tmp_path, fake) as gateway, gateway.client(gateway.new_key(rpm=10)) as client:
        with ThreadPoolExecutor(20) as pool:
            answers = list(pool.map(lambda _: client.post("/v1/chat/completions", json=HI).status_code, range(40)))
    assert sorted(set(answers)) == [200, 429]
    assert answers.count(200) == 10


def test_a_bug_says_nothing_of_itself_but_its_request_id(fake: FakeInference, tmp_path: Path) -> None:
    def broken(*_: object, **__: object) -> NoReturn:
        raise ZeroDivisionError("secret detail")

    with run_gateway(tmp_path, fake, has_bugs=True) as gateway, gateway.client() as client:
        conversation = client.post("/v1/conversations").json()["id"]
        gateway.parts.store.list_items = broken  # type: ignore[method-assign]
        answer = client.get(f"/v1/conversations/{conversation}/items")
        assert error_of(answer) == (500, "internal_error")
        assert answer.json()["error"]["request_id"] == answer.headers["x-request-id"]
        assert "secret" not in answer.text
        del gateway.parts.store.list_items


def test_a_bug_in_mid_stream_is_an_event_and_closes_the_turn(fake: FakeInference, tmp_path: Path) -> None:
    with run_gateway(tmp_path, fake, has_bugs=True) as gateway, gateway.client() as client:
        fake.scenario = Scenario(words=["a"] * 50)
        conversation = client.post("/v1/conversations").json()["id"]
        ask = {"input": "x", "conversation": conversation, "stream": True}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("gateway.relay.ResponseEvents.deltas", lambda *_: 1 / 0)
            patch.setattr("gateway.relay.ChatStream.take", lambda *_: 1 / 0)
            events = events_of(client.post("/v1/responses", json=ask).text)
            assert events[-1]["type"] == "response.failed"
            assert events[-1]["response"]["error"]["code"] == "internal_error"
            events = events_of(client.post("/v1/chat/completions", json=HI | {"stream": True}).text)
            assert events[-1]["error"]["code"] == "internal_error"
        items = client.get(f"/v1/conversations/{conversation}/items?order=asc").json()["data"]
        assert [item["status"] for item in items] == ["completed", "incomplete"]
        eventually(gateway.is_idle)
        assert client.post("/v1/responses", json=ask | {"stream": False}).json()["status"] == "completed"


def test_all_users_of_a_key_together_and_addresses(fake: FakeInference, tmp_path: Path) -> None:
    with run_gateway(tmp_path, fake, all_users_rpm=5, address_rpm=2) as gateway:
        with gateway.client(gateway.webui_key) as client:

            def ask(user: str, address: str) -> httpx2.Response:
                headers = {"x-end-user": user, "x-end-user-address": address}
                return client.post("/v1/chat/completions", json=HI, headers=headers)

            assert ask("ann", "2001:db8:1:2::1").headers["x-ratelimit-limit-requests"] == "2"
            assert ask("bob", "2001:db8:1:2:ffff::1").is_success
            over = ask("eve", "2001:db8:1:2::2")
            assert error_of(over) == (429, "rate_limit_exceeded")
            assert "one address" in over.json()["error"]["message"]
            assert ask("eve", "2001:db8:1:3::2").is_success
            assert ask("eve", "203.0.113.7").is_success
            assert ask("eve", "::ffff:203.0.113.7").is_success
            assert "all users of this key together" in ask("dan", "203.0.113.8").json()["error"]["message"]
            for address in ("", "localhost", "203.0.113.7:80", "1.2.3", "1.2.3.4, 5.6.7.8"):
                assert error_of(ask("dan", address)) == (400, "invalid_request"), address
        with gateway.client() as client:
            answer = client.get("/v1/models", headers={"x-end-user-address": "203.0.113.7"})
            assert error_of(answer) == (403, "insufficient_scope")


def test_answers_at_once(fake: FakeInference, tmp_path: Path) -> None:
    with run_gateway(tmp_path, fake, user_streams=2) as gateway, gateway.client(gateway.webui_key) as client:
        fake.scenario = Scenario("silent_first_token")
        ann = {"x-end-user": "ann"}
        with ThreadPoolExecutor(2) as pool:
            running = [pool.submit(client.post, "/v1/chat/completions", json=HI, headers=ann) for _ in range(2)]
            eventually(lambda: gateway.parts.admission.free == gateway.parts.settings.slots - 2)
            over = client.post("/v1/responses", json={"input": "x"}, headers=ann)
            assert error_of(over) == (429, "rate_limit_exceeded")
            assert "2 answers at once of one person" in over.json()["error"]["message"]
            fake.scenario = Scenario()
            fake.release()
            assert all(answer.result().is_success for answer in running)
        assert client.post("/v1/responses", json={"input": "x"}, headers=ann).is_success


def test_what_is_stored_counts_as_a_request(fake: FakeInference, tmp_path: Path) -> None:
    with run_gateway(tmp_path, fake) as gateway:
        with gateway.client(gateway.new_key(rpm=3, streams=1)) as client:
            fake.scenario = Scenario("silent_first_token")
            with ThreadPoolExecutor(1) as pool:
                asking = pool.submit(client.post, "/v1/chat/completions", json=HI)
                eventually(lambda: gateway.parts.admission.free < gateway.parts.settings.slots)
                made = client.post("/v1/conversations")  # no answer: it does not wait for the one that runs
                assert made.is_success
                assert made.headers["x-ratelimit-remaining-requests"] == "1"
                path = f"/v1/conversations/{made.json()['id']}"
                items = {"items": [{"role": "user", "content": "x"}]}
                assert client.post(f"{path}/items", json={}).status_code == 400  # what is invalid costs nothing
                assert client.post(f"{path}/items", json=items).headers["x-ratelimit-remaining-requests"] == "0"
                for answer in (
                    client.post("/v1/conversations"),
                    client.post(f"{path}/items", json=items),
                    client.post(f"{path}/fork", json={"after": None}),
                ):
                    assert error_of(answer) == (429, "rate_limit_exceeded")
                assert client.get(path).is_success
                fake.release()
                assert asking.result().is_success


def test_what_fails_by_our_fault_is_given_back(fake: FakeInference, tmp_path: Path) -> None:
    async def away(*_: object) -> NoReturn:
        raise HistoryUnavailable("The disk is full.", retry_after_s=5)

    with run_gateway(tmp_path, fake) as gateway, gateway.client(gateway.new_key(rpm=1)) as client:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(gateway.parts.store, "create_conversation", away)
            for _ in range(3):
                assert error_of(client.post("/v1/conversations")) == (503, "history_unavailable")
        assert client.post("/v1/conversations").is_success
        assert error_of(client.post("/v1/conversations")) == (429, "rate_limit_exceeded")

"""What Prometheus is told of requests, answers, limits, the queue and inference servers; and who may ask."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.database import DatabaseError
from gateway.errors import HistoryUnavailable
from gateway.settings import Settings, UpstreamAddress
from tests.fakes.inference import FakeInference, Scenario, fake_inference
from tests.monitoring import alert_queries, dashboard_queries, metrics_in
from tests.running_gateway import MODEL, RunningGateway, client_of, events_of, eventually, run_gateway

pytestmark = pytest.mark.contract
HI: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
CHAT = "/v1/chat/completions"


class Scrape:
    """The samples of one scrape."""

    def __init__(self, gateway: RunningGateway) -> None:
        answer = httpx2.get(f"{gateway.url}/metrics")
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        families = text_string_to_metric_families(answer.text)
        self.samples = [sample for family in families for sample in family.samples]

    def __call__(self, name: str, **labels: str) -> float:
        """The sum of all samples of that name with these labels among theirs."""
        found = [
            sample.value
            for sample in self.samples
            if sample.name == f"gateway_{name}" and labels.items() <= sample.labels.items()
        ]
        return sum(found)


def requests_of(gateway: RunningGateway, **labels: str) -> float:
    return Scrape(gateway)("requests_total", **labels)


def test_requests_by_route_method_and_status(fake: FakeInference, tmp_path: Path) -> None:
    with run_gateway(tmp_path, fake) as gateway, gateway.client() as client:
        client.post(CHAT, json=HI)
        client.post(CHAT, json={})
        client.get("/v1/conversations/conv_secret")
        client.get("/v1/nothing/secret")
        client.get("/v1/models", headers={"authorization": "Bearer sk-wrong"})
        client.get("/healthz")
        client.put("/v1/keys")
        eventually(lambda: requests_of(gateway) >= 7)
        scrape = Scrape(gateway)
    seen = {
        (sample.labels["method"], sample.labels["route"], sample.labels["status"])
        for sample in scrape.samples
        if sample.name == "gateway_requests_total"
    }
    assert seen >= {
        ("POST", CHAT, "200"),
        ("POST", CHAT, "400"),
        ("GET", "/v1/conversations/{conversation_id}", "404"),
        ("GET", "unknown", "404"),
        ("PUT", "unknown", "405"),
        ("GET", "/v1/models", "401"),
        ("GET", "/healthz", "200"),
    }
    assert all("secret" not in str(sample.labels) for sample in scrape.samples)
    assert scrape("requests_total", route=CHAT, status="200") == 1


@pytest.mark.parametrize("path", [CHAT, "/v1/responses"])
@pytest.mark.parametrize("stream", [False, True])
def test_tokens_and_times_of_an_answer(fake: FakeInference, tmp_path: Path, path: str, stream: bool) -> None:
    body = (HI if path == CHAT else {"input": "hi"}) | {"stream": stream}
    with run_gateway(tmp_path, fake) as gateway, gateway.client() as client:
        fake.scenario = Scenario("slow", words=["a"] * 11, delay_s=0.03)
        begun = time.monotonic()
        assert client.post(path, json=body).is_success
        took_s = time.monotonic() - begun
        scrape = eventually(lambda: (s := Scrape(gateway))("answer_seconds_count", outcome="finished") == 1 and s)
        assert scrape("tokens_total", direction="output", model=MODEL) == 11
        assert scrape("tokens_total", direction="input", model=MODEL) > 1
        first_s, each_s = scrape("time_to_first_token_seconds_sum"), scrape("time_per_output_token_seconds_sum")
        assert first_s > 0.02
        assert each_s > 0.02
        assert first_s + 10 * each_s <= took_s, "all that the caller waited, and no more"
        assert scrape("time_per_output_token_seconds_count") == 1
        assert scrape("queue_wait_seconds_count") == 1
        assert scrape("stored_turns_total", status="completed") == (path == "/v1/responses")
        assert scrape("build_info") == 1


def test_slots_queue_and_those_that_found_no_place(fake: FakeInference, tmp_path: Path) -> None:
    with run_gateway(tmp_path, fake, slots=1, max_waiting=1, max_wait_s=2) as gateway, gateway.client() as client:
        fake.scenario = Scenario("silent_first_token")
        with ThreadPoolExecutor(2) as pool:
            running = pool.submit(client.post, CHAT, json=HI)
            eventually(lambda: gateway.parts.admission.running)
            waiting = pool.submit(client.post, CHAT, json=HI)
            eventually(lambda: gateway.parts.admission.waiting)
            scrape = Scrape(gateway)
            assert (scrape("slots"), scrape("slots_in_use"), scrape("queue_depth")) == (1, 1, 1)
            assert client.post(CHAT, json=HI).status_code == 503
            assert waiting.result().status_code == 503
            fake.release()
            assert running.result().status_code == 200
        scrape = Scrape(gateway)
        assert scrape("admission_refusals_total", reason="full") == 1
        assert scrape("admission_refusals_total", reason="deadline") == 1
        assert (scrape("slots_in_use"), scrape("queue_depth")) == (0, 0)


@pytest.mark.parametrize(
    ("limits", "kind"),
    [({"rpm": 1}, "requests"), ({"tpm": 8}, "tokens_minute"), ({"tpd": 8}, "tokens_day")],
)
def test_refusals_by_the_kind_of_limit(fake: FakeInference, tmp_path: Path, limits: dict[str, int], kind: str) -> None:
    with run_gateway(tmp_path, fake) as gateway, gateway.client(gateway.new_key(**limits)) as client:
        answers = [client.post(CHAT, json=HI | {"max_tokens": 9}).status_code for _ in range(2)]
        assert answers[-1] == 429
        assert Scrape(gateway)("limit_refusals_total", limit=kind) == answers.count(429)
        assert Scrape(gateway)("limit_refusals_total") == answers.count(429)


def test_too_many_answers_at_once_and_departures(fake: FakeInference, tmp_path: Path) -> None:
    with run_gateway(tmp_path, fake) as gateway, gateway.client(gateway.new_key(streams=1)) as client:
        fake.scenario = Scenario("stalls")
        with client.stream("POST", CHAT, json=HI | {"stream": True}) as answer:
            lines = answer.iter_lines()
            next(lines)
            assert client.post(CHAT, json=HI).status_code == 429
            assert Scrape(gateway)("limit_refusals_total", limit="streams") == 1
            lines.close()
        scrape = eventually(lambda: (s := Scrape(gateway))("departures_total", phase="in_answer") and s)
        assert scrape("answer_seconds_count", outcome="left") == 1
        fake.scenario = Scenario("silent_first_token")
        with pytest.raises(httpx2.ReadTimeout):
            client.post(CHAT, json=HI, timeout=0.3)
        scrape = eventually(lambda: (s := Scrape(gateway))("departures_total", phase="before_first_token") and s)
        assert scrape("requests_total", route=CHAT, status="499") == 1
        fake.release()


def test_inference_servers_their_failures_and_retries(fake: FakeInference, tmp_path: Path) -> None:
    with fake_inference() as second, run_gateway(tmp_path, f"{fake.url},{second.url}") as gateway:
        with gateway.client() as client, gateway.client(gateway.admin_key) as admin:
            fake.scenario = Scenario("loading")
            second.scenario = Scenario("dies_midway")
            events = events_of(client.post(CHAT, json=HI | {"stream": True}).text)
            assert events[-1]["error"]["code"] == "upstream_failed"
            scrape = Scrape(gateway)
            first, other = "llamacpp-1", "llamacpp-2"
            assert scrape("upstream_failures_total", upstream=first, code="upstream_not_ready") == 1
            assert scrape("upstream_failures_total", upstream=other, code="upstream_failed") == 1
            assert scrape("upstream_retries_total") == 1
            assert scrape("upstream_state", upstream=first, state="ejected") == 1
            assert scrape("upstream_state", upstream=first, state="ready") == 0
            assert scrape("upstream_state", upstream=other, state="ready") == 1
            assert admin.post(f"/v1/upstreams/{other}", json={"draining": True}).is_success
            assert Scrape(gateway)("upstream_state", upstream=other, state="draining") == 1
            second.reset()


def test_background_answers_and_the_ends_of_stored_turns(fake: FakeInference, tmp_path: Path) -> None:
    with run_gateway(tmp_path, fake) as gateway, gateway.client() as client:
        fake.scenario = Scenario("stalls")
        started = client.post("/v1/responses", json={"input": "x", "background": True}).json()
        eventually(lambda: gateway.parts.upstreams.members[0].open)
        scrape = Scrape(gateway)
        assert scrape("background_answers") == 1
        assert scrape("upstream_open_answers", upstream="llamacpp-1") == 1
        assert client.post(f"/v1/responses/{started['id']}/cancel").json()["status"] == "cancelled"
        scrape = Scrape(gateway)
        assert (scrape("background_answers"), scrape("stored_turns_total", status="cancelled")) == (0, 1)
        assert scrape("departures_total") == 0


def test_failures_of_the_database(fake: FakeInference, tmp_path: Path) -> None:
    with run_gateway(tmp_path, fake, has_bugs=False) as gateway, gateway.client() as client:
        assert client.get("/v1/conversations").is_success
        database = gateway.parts.store._database
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(database, "_timeout_s", lambda: 0.0)
            answer = client.get("/v1/conversations")
            assert answer.json()["error"]["code"] == HistoryUnavailable.default_code
        assert Scrape(gateway)("database_failures_total") >= 1


def test_who_may_ask(fake: FakeInference, tmp_path: Path) -> None:
    """Nothing listens on the address: it is what the settings say that counts."""
    with run_gateway(tmp_path, fake, metrics_token="scrape-me") as gateway:
        with httpx2.Client(base_url=gateway.url) as client:
            assert client.get("/metrics").status_code == 401
        for secret, status in (("scrape-me", 200), (gateway.admin_key, 200), (gateway.new_key(), 403), ("sk-x", 401)):
            with client_of(gateway.url, secret) as client:
                assert client.get("/metrics").status_code == status
        with client_of(gateway.url, "scrape-me") as client:
            assert client.get("/v1/models").status_code == 401


def test_the_documented_metrics_are_those_that_are_told(gateway: RunningGateway, client: httpx2.Client) -> None:
    assert client.post(CHAT, json=HI).is_success
    text = (Path(__file__).resolve().parents[3] / "docs" / "api.md").read_text()
    documented = {line.split("`")[1] for line in text.splitlines() if line.startswith("| `gateway_")}
    documented |= {"gateway_slots_in_use"}
    answer = httpx2.get(f"{gateway.url}/metrics").text
    told = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in text_string_to_metric_families(answer)
        if family.name.startswith("gateway_") and not family.name.endswith("_created")
    }
    assert told == documented


def test_the_dashboard_and_the_alerts_ask_for_what_is_told(gateway: RunningGateway) -> None:
    told = {
        family.name + suffix
        for family in text_string_to_metric_families(httpx2.get(f"{gateway.url}/metrics").text)
        for suffix in ("", "_total")
    }
    queries = [*dashboard_queries().values(), *alert_queries().values()]
    asked = {name for query in queries for name in metrics_in(query)}
    assert {name for name in asked if not name.startswith("tgi_")} <= told
    assert len(asked) > 20


def test_a_token_that_is_kept_in_a_file_opens_the_metrics_only(fake: FakeInference, tmp_path: Path) -> None:
    kept = tmp_path / "metrics" / "token"
    for token in (None, "scrape-me"):
        with run_gateway(tmp_path / "data", fake, metrics_token=token, metrics_token_file=kept) as gateway:
            assert kept.stat().st_mode & 0o777 == 0o640
            with client_of(gateway.url, kept.read_text().strip()) as client:
                assert client.get("/metrics").is_success
                assert client.get("/v1/models").status_code == 401
            assert httpx2.get(f"{gateway.url}/metrics").status_code == 401
            with client_of(gateway.url, "scrape-me") as client:
                assert client.get("/metrics").is_success == (token is not None)


@pytest.mark.parametrize("content", [b"", b"\xff"])
def test_a_token_file_that_holds_no_token_is_named(content: bytes, fake: FakeInference, tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes(content)
    with (
        pytest.raises(DatabaseError, match="GATEWAY_METRICS_TOKEN_FILE"),
        run_gateway(tmp_path / "data", fake, metrics_token_file=tmp_path / "token"),
    ):
        pass


def test_on_an_address_that_others_reach_nobody_asks_without_a_key(fake: FakeInference, tmp_path: Path) -> None:
    with run_gateway(tmp_path, fake, host="0.0.0.0") as gateway, httpx2.Client(base_url=gateway.url) as client:
        assert client.get("/metrics").status_code == 401
        for secret, status in ((gateway.admin_key, 200), (gateway.new_key(), 403)):
            assert client.get("/metrics", headers={"authorization": f"Bearer {secret}"}).status_code == status


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [
        *((host, True) for host in ("127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost")),
        *((host, False) for host in ("0.0.0.0", "::", "10.0.0.1", "example.org", "localhost.example.org", "")),
    ],
)
def test_which_addresses_only_this_machine_reaches(host: str, is_loopback: bool) -> None:
    upstreams = (UpstreamAddress("llamacpp", "http://127.0.0.1:9"),)
    assert Settings(Path("x"), MODEL, upstreams, host=host).is_loopback == is_loopback

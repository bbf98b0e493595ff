"""Traces, sent by the real exporter to a collector that decodes OTLP; and what holds while there is none."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from gateway.settings import TraceSettings
from tests.fakes.inference import FakeInference, Scenario
from tests.running_gateway import MODEL, ROOT, eventually, run_gateway

pytestmark = pytest.mark.contract
CHAT = "/v1/chat/completions"
HI: dict[str, Any] = {"messages": [{"role": "user", "content": "prompt-marker"}]}
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@dataclass
class Collector:
    """What came: the spans, the headers, and the resources that the spans are of."""

    url: str = ""
    spans: list[Span] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    resources: list[dict[str, str]] = field(default_factory=list)

    def of(self, name: str) -> Span:
        """The one span of that name."""
        (found,) = [span for span in self.spans if span.name == name]
        return found


@contextmanager
def running_collector() -> Iterator[Collector]:
    collected = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            assert (self.path, self.headers["content-type"]) == ("/v1/traces", "application/x-protobuf")
            collected.headers.append({name.lower(): value for name, value in self.headers.items()})
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                collected.resources.append({a.key: a.value.string_value for a in resource.resource.attributes})
                collected.spans += [span for scope in resource.scope_spans for span in scope.spans]
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    collected.url = f"http://127.0.0.1:{server.server_address[1]}/v1/traces"
    try:
        yield collected
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def attributes(span: Span) -> dict[str, Any]:
    return {entry.key: getattr(entry.value, str(entry.value.WhichOneof("value"))) for entry in span.attributes}


@pytest.mark.parametrize("path", [CHAT, "/v1/responses"])
def test_an_answer_in_the_trace_of_its_caller(fake: FakeInference, tmp_path: Path, path: str) -> None:
    body = HI if path == CHAT else {"input": "prompt-marker"}
    with running_collector() as collector:
        traces = TraceSettings(collector.url, headers={"x-key": "collector-key"}, service_name="my-gateway")
        with run_gateway(tmp_path, fake, traces=traces) as gateway, gateway.client() as client:
            fake.scenario = Scenario("slow", words=["answer-marker"] * 5, delay_s=0.02)
            caller = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
            answer = client.post(path, json=body | {"stream": True}, headers=caller)
            assert answer.is_success
            passed_on = fake.chat.headers["traceparent"]
        request, chat = collector.of(f"POST {path}"), collector.of(f"chat {MODEL}")
        queue, opening, stream = (collector.of(name) for name in ("queue", "open", "stream"))
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE}
    assert request.parent_span_id.hex() == PARENT
    assert request.kind == Span.SPAN_KIND_SERVER
    assert {queue.parent_span_id, chat.parent_span_id} == {request.span_id}
    assert {opening.parent_span_id, stream.parent_span_id} == {chat.span_id}
    assert passed_on == f"00-{TRACE}-{chat.span_id.hex()}-01"
    assert (
        attributes(request).items()
        >= {
            "http.request.method": "POST",
            "http.route": path,
            "http.response.status_code": 200,
            "gateway.request_id": answer.headers["x-request-id"],
        }.items()
    )
    told = attributes(chat)
    assert (told["gen_ai.operation.name"], told["gen_ai.request.model"]) == ("chat", MODEL)
    assert told["gen_ai.usage.output_tokens"] == 5
    assert told["gen_ai.usage.input_tokens"] > 1
    assert told["gateway.upstream"] == "llamacpp-1"
    assert queue.start_time_unix_nano <= queue.end_time_unix_nano <= opening.start_time_unix_nano + 1_000_000
    assert 0.05e9 < stream.end_time_unix_nano - opening.start_time_unix_nano
    assert request.start_time_unix_nano <= stream.start_time_unix_nano <= stream.end_time_unix_nano
    assert stream.end_time_unix_nano <= request.end_time_unix_nano + 1_000_000
    assert abs(request.end_time_unix_nano - time.time_ns()) < 60e9
    assert "marker" not in str(collector.spans)
    assert collector.resources[0].items() >= {"service.name": "my-gateway"}.items()
    assert collector.headers[0]["x-key"] == "collector-key"


def test_failures_and_requests_without_an_answer(fake: FakeInference, tmp_path: Path) -> None:
    with running_collector() as collector:
        with (
            run_gateway(tmp_path, fake, traces=TraceSettings(collector.url)) as gateway,
            gateway.client() as client,
        ):
            fake.scenario = Scenario("failing")
            assert client.post(CHAT, json=HI).status_code == 502
            assert client.get("/v1/conversations/conv_x").status_code == 404
            fake.scenario = Scenario("stalls")
            with client.stream("POST", CHAT, json=HI | {"stream": True}) as answer:
                next(answer.iter_bytes())
            eventually(gateway.is_idle)
        chats = {attributes(span)["error.type"]: span for span in collector.spans if span.name.startswith("chat ")}
    assert set(chats) == {"upstream_failed", "left"}
    assert all(span.status.code == 2 for span in chats.values())
    missing = collector.of("GET /v1/conversations/{conversation_id}")
    assert (missing.parent_span_id, missing.status.code) == (b"", 0)


def test_a_caller_decides_what_is_kept_of_its_own_trace_and_a_share_of_the_rest_is(
    fake: FakeInference, tmp_path: Path
) -> None:
    with running_collector() as collector:
        traces = TraceSettings(collector.url, sampled=0.0)
        with run_gateway(tmp_path, fake, traces=traces) as gateway, gateway.client() as client:
            for headers in ({}, {"traceparent": f"00-{TRACE}-{PARENT}-00"}, {"traceparent": "nonsense"}):
                assert client.post(CHAT, json=HI, headers=headers).is_success
            assert client.post(CHAT, json=HI, headers={"traceparent": f"00-{TRACE}-{PARENT}-01"}).is_success
        assert [span.trace_id.hex() for span in collector.spans if span.kind == Span.SPAN_KIND_SERVER] == [TRACE]


def test_a_collector_that_is_away_costs_nobody_anything(fake: FakeInference, tmp_path: Path) -> None:
    traces = TraceSettings("http://127.0.0.1:9/v1/traces")
    with run_gateway(tmp_path, fake, traces=traces) as gateway, gateway.client() as client:
        begun = time.monotonic()
        for _ in range(20):
            assert client.post(CHAT, json=HI).is_success
        assert time.monotonic() - begun < 5
        begun = time.monotonic()
    assert time.monotonic() - begun < 8  # the stop waits for it no longer than seconds


def test_neither_sdk_nor_exporter_is_loaded_unless_it_is_asked_for(tmp_path: Path) -> None:
    """OpenTelemetry's API is: FastAPI loads it."""
    heavy = ("opentelemetry.sdk", "opentelemetry.exporter", "opentelemetry.proto", "requests", "google")
    program = (
        "import sys; from pathlib import Path; from gateway.main import create_app; from gateway.settings import *;"
        f"create_app(Settings(Path({str(tmp_path)!r}), 'm', (UpstreamAddress('llamacpp', 'http://127.0.0.1:9'),)));"
        f"print([name for name in sys.modules if name.startswith({heavy})])"
    )
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"

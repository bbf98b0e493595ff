"""TGI's own routes through the gateway, and the clients that call them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from huggingface_hub import AsyncInferenceClient, InferenceClient
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from tests.fakes.inference import FakeInference
from tests.fakes.tgi import DOCUMENT, Tgi, exchange, recorded
from tests.openapi import complaints
from tests.running_gateway import MODEL, RunningGateway, events_of, eventually, run_gateway

pytestmark = pytest.mark.contract
Json = dict[str, Any]
PROMPT = "The capital of France is"
ASK: Json = {"inputs": PROMPT, "parameters": {"max_new_tokens": 4}}
TEXT = " Paris.\n\n"
ROUTES = ["/generate", "/generate_stream", "/", "/v1"]


def token_event(n: int, *, is_last: bool = False) -> bytes:
    token = {"id": 5, "text": "x", "logprob": -0.5, "special": False}
    details = {"finish_reason": "length", "generated_tokens": n, "seed": None, "input_length": 6} if is_last else None
    fields = {"index": n, "token": token, "generated_text": "x" * n if is_last else None, "details": details}
    return b"data: " + json.dumps(fields, separators=(",", ":")).encode() + b"\n\n"


# --- what TGI is asked, and what comes back


def test_generate(asking: httpx2.Client, tgi: Tgi) -> None:
    answer = asking.post("/generate", json=ASK)
    assert answer.json() == {"generated_text": TEXT}
    assert complaints(DOCUMENT, "GenerateResponse", answer.json()) == []
    (asked,) = tgi.server.of("/generate_stream")  # streamed always: departures are noticed, and the usage is known
    assert asked.body == {"inputs": PROMPT, "parameters": {"max_new_tokens": 4, "details": True}}
    assert complaints(DOCUMENT, "GenerateRequest", asked.body) == []


def test_details_are_as_tgis_own(asking: httpx2.Client) -> None:
    """But for `top_tokens`, which nobody asked for in the recorded stream."""
    body = asking.post(
        "/generate", json={"inputs": PROMPT, "parameters": {"max_new_tokens": 4, "details": True}}
    ).json()
    own = json.loads(recorded("generate/details").body)
    del own["details"]["top_tokens"]
    assert body == own
    assert complaints(DOCUMENT, "GenerateResponse", body) == []


def test_parameters_reach_tgi_as_they_are(asking: httpx2.Client, tgi: Tgi) -> None:
    parameters = {"do_sample": True, "temperature": 0.5, "top_p": 0.9, "top_k": 5, "typical_p": 0.9, "seed": 3}
    parameters |= {"stop": ["x"], "truncate": 9, "watermark": True, "repetition_penalty": 1.1, "top_n_tokens": 2}
    parameters |= {"grammar": {"type": "regex", "value": "a+"}}
    assert asking.post("/generate", json={"inputs": "a <|im_end|>", "parameters": parameters}).is_success
    (asked,) = tgi.server.of("/generate_stream")
    assert asked.body["parameters"] == parameters | {"details": True}
    assert asked.body["inputs"] == "a <|im_end|>"  # its caller's own template


def test_without_parameters_tgis_own_defaults_hold(asking: httpx2.Client, tgi: Tgi) -> None:
    assert asking.post("/generate", json={"inputs": "x"}).is_success
    assert tgi.server.of("/generate_stream")[0].body["parameters"] == {"details": True}


def test_generate_stream_passes_byte_for_byte(asking: httpx2.Client) -> None:
    answer = asking.post("/generate_stream", json=ASK)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.content == b"".join(recorded("generate/stream").pieces or ())


@pytest.mark.parametrize("path", ["/", "/v1"])
def test_the_compatible_route_gives_a_list_and_the_prompt(asking: httpx2.Client, path: str) -> None:
    own = json.loads(recorded("generate/root").body)
    assert asking.post(path, json=ASK).json() == own == [{"generated_text": PROMPT + TEXT}]
    without = {"inputs": PROMPT, "parameters": {"return_full_text": False}}
    assert asking.post(path, json=without).json() == [{"generated_text": TEXT}]
    assert events_of(asking.post(path, json=ASK | {"stream": True}).text)[-1]["generated_text"] == TEXT


def test_tokenize_and_info(asking: httpx2.Client, tgi: Tgi) -> None:
    tokens = asking.post("/tokenize", json={"inputs": "a b"}).json()
    assert complaints(DOCUMENT, "TokenizeResponse", tokens) == []
    assert len(tokens) == 3
    told = asking.get("/info").json()
    assert told == json.loads(recorded("http/info").body) | {"model_id": MODEL}
    assert complaints(DOCUMENT, "Info", told) == []


# --- limits, departures, errors


@pytest.mark.parametrize("is_streamed", [True, False])
def test_no_more_tokens_come_than_were_asked_for(asking: httpx2.Client, tgi: Tgi, is_streamed: bool) -> None:
    """TGI would go on to 2048."""
    pieces = [token_event(n + 1) for n in range(1100)]
    tgi.next_native = recorded("generate/stream", pieces=pieces, end="held")
    body = {"inputs": "x", "parameters": {"max_new_tokens": 1025, "details": True}}
    if is_streamed:
        events = events_of(asking.post("/generate_stream", json=body).text)
        assert len(events) == 1025
        assert events[-1]["generated_text"] == "x" * 1025
        assert events[-1]["details"]["finish_reason"] == "length"
    else:
        whole = asking.post("/generate", json=body).json()
        assert whole["generated_text"] == "x" * 1025
        assert whole["details"]["generated_tokens"] == 1025
    assert eventually(lambda: tgi.server.of("/generate_stream")[-1].was_left)


@pytest.mark.parametrize("path", ["/generate_stream", "/generate"])
def test_a_caller_who_leaves_frees_tgi(asking: httpx2.Client, tgi: Tgi, path: str) -> None:
    tgi.next_native = recorded("generate/stream", pieces=[token_event(1)], end="held")
    if path == "/generate_stream":
        with asking.stream("POST", path, json=ASK) as answer:
            next(answer.iter_lines())
    else:
        with pytest.raises(httpx2.ReadTimeout):
            asking.post(path, json=ASK, timeout=0.3)
    assert eventually(lambda: tgi.server.of("/generate_stream")[-1].was_left)


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize(
    ("name", "status", "code"),
    [
        ("generate/stream-error", 400, "context_length_exceeded"),  # HTTP 200 and one event
        ("http/overloaded-generate-stream", 503, "overloaded"),
        ("http/overloaded-generate", 503, "overloaded"),
        ("generate/empty", 400, "invalid_request"),
        ("internlm2-random/api-key-wrong-stream", 502, "upstream_failed"),
    ],
)
def test_errors_before_the_first_token_have_honest_codes(
    asking: httpx2.Client, tgi: Tgi, path: str, name: str, status: int, code: str
) -> None:
    tgi.next_native = recorded(name)
    answer = asking.post(path, json=ASK)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


def test_a_stream_that_breaks_off_ends_in_tgis_form_of_an_error(asking: httpx2.Client, tgi: Tgi) -> None:
    """A body that ends before the last token looks whole to nobody."""
    for end in ("clean", "broken"):
        tgi.next_native = recorded("generate/stream", pieces=[token_event(1), token_event(2)], end=end)
        *_, last = events_of(asking.post("/generate_stream", json=ASK).text)
        assert last["error_type"] == "upstream_failed"
        assert isinstance(last["error"], str)
        assert asking.post("/generate", json=ASK).status_code == 502


@pytest.mark.parametrize("path", ["/generate", "/generate_stream", "/", "/v1"])
@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"inputs": ""}, "inputs"),
        ({"inputs": None}, "inputs"),
        ({"inputs": "x", "parameters": {"best_of": 2}}, "parameters.best_of"),
        ({"inputs": "x", "parameters": {"decoder_input_details": True}}, "parameters.decoder_input_details"),
        ({"inputs": "x", "parameters": {"max_new_tokens": 0}}, "parameters.max_new_tokens"),
        ({"inputs": "x", "parameters": {"temprature": 1}}, "parameters.temprature"),
        ({"inputs": "x", "model": "y"}, "model"),
    ],
)
def test_what_is_refused_by_name(asking: httpx2.Client, tgi: Tgi, path: str, fields: Json, param: str) -> None:
    answer = asking.post(path, json=fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert tgi.server.asked == []


@pytest.mark.parametrize(("method", "path"), [("POST", path) for path in [*ROUTES, "/tokenize"]] + [("GET", "/info")])
def test_a_key_is_needed_and_tgi_behind(
    behind_tgi: RunningGateway, client: httpx2.Client, fake: FakeInference, method: str, path: str
) -> None:
    body = ASK if method == "POST" else None
    with httpx2.Client(base_url=behind_tgi.url) as nobody:
        assert nobody.request(method, path, json=body).status_code == 401
    answer = client.request(method, path, json={"inputs": "x"} if body else None)  # llama.cpp
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    assert fake.asked == []


def test_the_limits_of_a_key_count_here_too(behind_tgi: RunningGateway, tgi: Tgi) -> None:
    with behind_tgi.client(behind_tgi.new_key(rpm=1)) as limited:
        assert limited.post("/generate", json=ASK).is_success
        for path in ("/generate", "/generate_stream", "/", "/tokenize"):
            answer = limited.post(path, json={"inputs": "x"})
            assert (answer.status_code, answer.json()["error"]["code"]) == (429, "rate_limit_exceeded")


@pytest.fixture
def with_page(tmp_path: Path, tgi: Tgi) -> Iterator[RunningGateway]:
    """The gateway with a page mounted at `/`, as app.py does it."""

    async def page(_: Request) -> PlainTextResponse:
        return PlainTextResponse("the page")

    with run_gateway(tmp_path, tgi.server.url, engine="tgi") as running:
        running.app.mount("/", Starlette(routes=[Route("/", page), Route("/generate", page)]))
        yield running


def test_a_page_at_the_root_stays_visible(with_page: RunningGateway) -> None:
    with with_page.client() as client:
        assert client.get("/").text == "the page"
        assert client.post("/", json=ASK).json()[0]["generated_text"] == PROMPT + TEXT
        assert client.get("/generate").text == "the page"
        assert client.get("/v1").json()["error"]["code"] in ("not_found", "method_not_allowed")


# --- clients


@pytest.mark.parametrize("base", ["", "/v1"])
def test_huggingface_hub_generates_text(behind_tgi: RunningGateway, tgi: Tgi, base: str) -> None:
    client = InferenceClient(base_url=behind_tgi.url + base, api_key=behind_tgi.new_key())
    assert client.text_generation(PROMPT, max_new_tokens=4) == PROMPT + TEXT
    told = client.text_generation(PROMPT, max_new_tokens=4, details=True, return_full_text=False)
    assert (told.generated_text, told.details.generated_tokens, told.details.finish_reason) == (TEXT, 4, "length")
    assert "".join(client.text_generation(PROMPT, max_new_tokens=4, stream=True)) == TEXT
    *_, last = client.text_generation(PROMPT, max_new_tokens=4, stream=True, details=True)
    assert last.generated_text == TEXT


async def _generated(url: str, key: str) -> tuple[str, str]:
    client = AsyncInferenceClient(base_url=url, api_key=key)
    whole = await client.text_generation(PROMPT, max_new_tokens=4)
    pieces = [piece async for piece in await client.text_generation(PROMPT, max_new_tokens=4, stream=True)]
    await client.close()
    return whole, "".join(pieces)


def test_huggingface_hub_generates_text_asynchronously(behind_tgi: RunningGateway, tgi: Tgi) -> None:
    assert asyncio.run(_generated(behind_tgi.url, behind_tgi.new_key())) == (PROMPT + TEXT, TEXT)


def test_the_recorded_native_requests_are_taken(asking: httpx2.Client, tgi: Tgi) -> None:
    for name in ("generate/minimal", "generate/root", "generate/stream", "generate/details"):
        request = exchange(name)["request"]
        assert asking.request(request["method"], request["path"], json=request["body"]).is_success

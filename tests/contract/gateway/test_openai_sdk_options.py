"""OpenAI's Python client beyond plain calls: asynchronous everywhere, raw headers, typed answers, retries, timeouts."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from gateway.settings import Timeouts
from tests.fakes.inference import WORDS, FakeInference, Scenario
from tests.running_gateway import MODEL, RunningGateway, eventually, run_gateway

pytestmark = pytest.mark.contract
ANSWER = "".join(WORDS)
HI: Any = [{"role": "user", "content": "hi"}]


class City(BaseModel):
    city: str


def sdk_of(gateway: RunningGateway, **options: Any) -> openai.OpenAI:
    defaults: dict[str, Any] = {"base_url": f"{gateway.url}/v1", "api_key": gateway.new_key(), "max_retries": 0}
    return openai.OpenAI(**defaults | options)


def test_every_endpoint_asynchronously(gateway: RunningGateway) -> None:
    async def run() -> None:
        options: Any = {"base_url": f"{gateway.url}/v1", "api_key": gateway.new_key(), "max_retries": 0}
        async with openai.AsyncOpenAI(**options) as sdk:
            assert [model.id async for model in sdk.models.list()] == [MODEL]
            text = await sdk.completions.create(model=MODEL, prompt="Once upon", max_tokens=20)
            assert text.choices[0].text == ANSWER
            async with sdk.chat.completions.stream(model=MODEL, messages=HI) as chat:
                assert (await chat.get_final_completion()).choices[0].message.content == ANSWER
            async with sdk.responses.stream(model=MODEL, input="hi") as events:
                first = await events.get_final_response()
            assert (await sdk.responses.retrieve(first.id)).output_text == ANSWER
            asked = [item async for item in await sdk.responses.input_items.list(first.id)]
            assert len(asked) == 1
            conversation = await sdk.conversations.create(items=[{"role": "user", "content": "zero"}])
            await sdk.responses.create(model=MODEL, input="one", conversation=conversation.id)
            items = [item async for item in sdk.conversations.items.list(conversation.id, order="asc", limit=2)]
            assert [item.content[0].text for item in items] == ["zero", "one", ANSWER]  # type: ignore[union-attr]
            await sdk.conversations.items.delete(items[0].id, conversation_id=conversation.id)
            await sdk.conversations.delete(conversation.id)
            await sdk.responses.delete(first.id)
            with pytest.raises(openai.NotFoundError):
                await sdk.responses.retrieve(first.id)

    asyncio.run(run())


def test_a_background_answer_is_watched_again_and_cancelled(gateway: RunningGateway, fake: FakeInference) -> None:
    fake.scenario = Scenario("slow", delay_s=0.03)
    with sdk_of(gateway) as sdk:
        seen = []
        with sdk.responses.create(model=MODEL, input="go", background=True, stream=True) as stream:
            for event in stream:
                seen.append(event)
                if event.type == "response.output_text.delta":
                    break
        response_id = seen[0].response.id  # type: ignore[union-attr]
        seen += sdk.responses.retrieve(response_id, stream=True, starting_after=seen[-1].sequence_number)
        assert [event.sequence_number for event in seen] == list(range(len(seen)))
        assert "".join(event.delta for event in seen if event.type == "response.output_text.delta") == ANSWER
        fake.scenario = Scenario("stalls")
        other = sdk.responses.create(model=MODEL, input="go", background=True)
        assert sdk.responses.cancel(other.id).status == "cancelled"
        assert sdk.responses.retrieve(other.id).status == "cancelled"


def test_raw_answers_have_their_headers(gateway: RunningGateway) -> None:
    with sdk_of(gateway, api_key=gateway.new_key(rpm=30)) as sdk:
        raw = sdk.chat.completions.with_raw_response.create(model=MODEL, messages=HI)
        assert raw.parse().choices[0].message.content == ANSWER
        assert raw.headers["x-request-id"] == raw.parse()._request_id
        told = [raw.headers[f"x-ratelimit-{name}-requests"] for name in ("limit", "remaining")]
        assert told == ["30", "29"]
        with sdk.chat.completions.with_streaming_response.create(model=MODEL, messages=HI, stream=True) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            assert "[DONE]" in "".join(answer.iter_text())


def test_typed_answers(gateway: RunningGateway, fake: FakeInference) -> None:
    fake.scenario = Scenario(words=('{"city":', ' "Paris"}'))
    with sdk_of(gateway) as sdk:
        chat = sdk.chat.completions.parse(model=MODEL, messages=HI, response_format=City)
        assert chat.choices[0].message.parsed == City(city="Paris")
        with sdk.chat.completions.stream(model=MODEL, messages=HI, response_format=City) as events:
            assert events.get_final_completion().choices[0].message.parsed == City(city="Paris")
        response = sdk.responses.parse(model=MODEL, input="Where?", text_format=City)
        assert response.output_parsed == City(city="Paris")


def test_log_probabilities(gateway: RunningGateway) -> None:
    with sdk_of(gateway) as sdk:
        answer = sdk.chat.completions.create(model=MODEL, messages=HI, logprobs=True, top_logprobs=1)
        told = answer.choices[0].logprobs
        assert told is not None
        assert "".join(token.token for token in told.content or ()) == ANSWER


class Attempts:
    """When the client sent its requests, and what came back."""

    def __init__(self) -> None:
        self.sent: list[float] = []
        self.answers: list[Any] = []
        hooks: Any = {
            "request": [lambda _: self.sent.append(time.monotonic())],
            "response": [lambda answer: self.answers.append(answer)],
        }
        self.http = openai.DefaultHttpxClient(event_hooks=hooks)


def test_a_limit_is_waited_out_as_long_as_told(fake: FakeInference, tmp_path: Path) -> None:
    attempts = Attempts()
    with run_gateway(tmp_path, fake) as gateway:
        options: Any = {"base_url": f"{gateway.url}/v1", "api_key": gateway.new_key(rpm=60)}
        with openai.OpenAI(max_retries=2, http_client=attempts.http, **options) as sdk:
            while 429 not in [answer.status_code for answer in attempts.answers]:
                sdk.chat.completions.create(model=MODEL, messages=HI)
    refused = [answer.status_code for answer in attempts.answers].index(429)
    told_s = int(attempts.answers[refused].headers["retry-after-ms"]) / 1000
    assert attempts.sent[refused + 1] - attempts.sent[refused] >= told_s
    assert [answer.status_code for answer in attempts.answers[refused:]] == [429, 200]  # the wait was long enough


def test_a_model_that_is_loading_is_asked_again_and_then_given_up(gateway: RunningGateway, fake: FakeInference) -> None:
    fake.scenario = Scenario("loading")
    attempts = Attempts()
    with sdk_of(gateway, max_retries=1, http_client=attempts.http) as sdk:
        with pytest.raises(openai.InternalServerError) as gone:
            sdk.chat.completions.create(model=MODEL, messages=HI)
    assert gone.value.code == "upstream_not_ready"
    assert [answer.status_code for answer in attempts.answers] == [503, 503]
    told_s = int(attempts.answers[0].headers["retry-after-ms"]) / 1000
    assert attempts.sent[1] - attempts.sent[0] >= told_s


def test_what_can_never_pass_is_not_tried_again(gateway: RunningGateway) -> None:
    attempts = Attempts()
    options: Any = {"base_url": f"{gateway.url}/v1", "api_key": gateway.new_key(tpd=10), "max_retries": 3}
    with openai.OpenAI(http_client=attempts.http, **options) as sdk, pytest.raises(openai.RateLimitError):
        sdk.chat.completions.create(model=MODEL, messages=HI, max_tokens=1000)
    assert len(attempts.sent) == 1


def test_the_clients_own_timeout_frees_the_engine(gateway: RunningGateway, fake: FakeInference) -> None:
    fake.scenario = Scenario("silent_first_token")
    with sdk_of(gateway, timeout=0.3) as sdk, pytest.raises(openai.APITimeoutError):
        sdk.chat.completions.create(model=MODEL, messages=HI)
    eventually(lambda: fake.chat.left_at, within_s=1)


def test_the_gateways_timeout_is_an_error_that_can_be_tried_again(fake: FakeInference, tmp_path: Path) -> None:
    fake.scenario = Scenario("silent_first_token")
    attempts = Attempts()
    with run_gateway(tmp_path, fake, timeouts=Timeouts(first_token_s=0.2, drain_s=0.5)) as gateway:
        with sdk_of(gateway, max_retries=1, http_client=attempts.http) as sdk:
            with pytest.raises(openai.InternalServerError) as slow:
                sdk.chat.completions.create(model=MODEL, messages=HI)
    assert (slow.value.status_code, slow.value.code, len(attempts.sent)) == (504, "upstream_timeout", 2)
    assert len(fake.chats) == 2

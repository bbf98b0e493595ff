"""OpenAI's official Python client, as anybody would use it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from tests.fakes.inference import WORDS, FakeInference, Scenario
from tests.running_gateway import MODEL, RunningGateway, eventually, run_gateway

pytestmark = pytest.mark.contract
ANSWER = "".join(WORDS)
HI = [{"role": "user", "content": "hi"}]


@pytest.fixture
def sdk(gateway: RunningGateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.new_key(), max_retries=0) as client:
        yield client


def test_chat(sdk: openai.OpenAI) -> None:
    completion = sdk.chat.completions.create(model=MODEL, messages=HI)
    assert completion.choices[0].message.content == ANSWER
    assert completion.choices[0].finish_reason == "stop"
    assert completion.usage is not None
    assert completion.usage.completion_tokens == len(WORDS)
    assert completion._request_id is not None


def test_chat_streamed(sdk: openai.OpenAI) -> None:
    chunks = list(sdk.chat.completions.create(model=MODEL, messages=HI, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == ANSWER
    assert chunks[-1].choices[0].finish_reason == "stop"
    options = {"include_usage": True}
    chunks = list(sdk.chat.completions.create(model=MODEL, messages=HI, stream=True, stream_options=options))
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == len(WORDS)


def test_chat_with_the_stream_helper(sdk: openai.OpenAI) -> None:
    with sdk.chat.completions.stream(model=MODEL, messages=HI) as stream:
        assert stream.get_final_completion().choices[0].message.content == ANSWER


def test_async_chats_side_by_side(gateway: RunningGateway) -> None:
    async def run() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.new_key()) as sdk:

            async def one() -> str:
                stream = await sdk.chat.completions.create(model=MODEL, messages=HI, stream=True)
                return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

            plain = await sdk.chat.completions.create(model=MODEL, messages=HI)
            response = await sdk.responses.create(model=MODEL, input="hi")
            streamed = await asyncio.gather(*(one() for _ in range(12)))
            return [*streamed, str(plain.choices[0].message.content), response.output_text]

    assert asyncio.run(run()) == [ANSWER] * 14


def test_closing_a_stream_frees_the_engine(gateway: RunningGateway, sdk: openai.OpenAI, fake: FakeInference) -> None:
    fake.scenario = Scenario("stalls")
    with sdk.chat.completions.create(model=MODEL, messages=HI, stream=True) as stream:
        next(iter(stream))
    eventually(lambda: fake.chat.left_at, within_s=1)
    eventually(gateway.is_idle, within_s=1)


def test_responses(sdk: openai.OpenAI) -> None:
    response = sdk.responses.create(model=MODEL, input="hi", instructions="Be brief.", metadata={"a": "b"})
    assert response.output_text == ANSWER
    assert response.status == "completed"
    assert response.usage is not None
    assert response.usage.output_tokens == len(WORDS)
    assert sdk.responses.retrieve(response.id).output_text == ANSWER
    following = sdk.responses.create(model=MODEL, input="more", previous_response_id=response.id)
    assert following.previous_response_id == response.id
    sdk.responses.delete(response.id)
    with pytest.raises(openai.NotFoundError):
        sdk.responses.retrieve(response.id)


def test_responses_streamed_as_typed_events(sdk: openai.OpenAI) -> None:
    events = list(sdk.responses.create(model=MODEL, input="hi", stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert not [event.type for event in events if type(event).__module__.endswith("_models")]  # each has a class
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == ANSWER
    assert events[-1].type == "response.completed"
    assert events[-1].response.output_text == ANSWER
    with sdk.responses.stream(model=MODEL, input="hi") as stream:
        assert stream.get_final_response().output_text == ANSWER


def test_conversations(sdk: openai.OpenAI) -> None:
    conversation = sdk.conversations.create(metadata={"title": "t"}, items=[{"role": "user", "content": "zero"}])
    assert sdk.conversations.retrieve(conversation.id).metadata == {"title": "t"}
    assert sdk.conversations.update(conversation.id, metadata={"title": "u"}).metadata == {"title": "u"}
    sdk.responses.create(model=MODEL, input="one", conversation=conversation.id)
    sdk.conversations.items.create(conversation.id, items=[{"type": "message", "role": "user", "content": "two"}])
    listed = list(sdk.conversations.items.list(conversation.id, order="asc", limit=1))  # it pages by itself
    assert [item.content[0].text for item in listed] == ["zero", "one", ANSWER, "two"]
    item = sdk.conversations.items.retrieve(listed[0].id, conversation_id=conversation.id)
    assert item.content[0].text == "zero"
    sdk.conversations.items.delete(item.id, conversation_id=conversation.id)
    assert len(list(sdk.conversations.items.list(conversation.id))) == 3
    assert sdk.conversations.delete(conversation.id).deleted
    with pytest.raises(openai.NotFoundError):
        sdk.conversations.retrieve(conversation.id)


def test_models(sdk: openai.OpenAI) -> None:
    assert [model.id for model in sdk.models.list()] == [MODEL]
    assert sdk.models.retrieve(MODEL).id == MODEL


def test_errors_are_the_sdks_own(gateway: RunningGateway, sdk: openai.OpenAI, fake: FakeInference) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        sdk.chat.completions.create(model=MODEL, messages=HI, temperature=-1)
    assert bad.value.param == "temperature"
    assert bad.value.code == "invalid_request"
    assert bad.value.request_id is not None
    with pytest.raises(openai.BadRequestError) as long:
        sdk.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "word " * 5000}])
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.NotFoundError) as missing:
        sdk.chat.completions.create(model="gpt-4", messages=HI)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.AuthenticationError) as unknown:
        sdk.with_options(api_key="sk-wrong").models.list()
    assert unknown.value.code == "invalid_api_key"
    with pytest.raises(openai.PermissionDeniedError):
        sdk.with_options(default_headers={"x-end-user": "ann"}).models.list()
    fake.scenario = Scenario("loading")
    with pytest.raises(openai.InternalServerError) as loading:
        sdk.chat.completions.create(model=MODEL, messages=HI)
    assert loading.value.code == "upstream_not_ready"
    fake.scenario = Scenario("error_midway")
    with pytest.raises(openai.APIError, match="inference server failed"):
        list(sdk.chat.completions.create(model=MODEL, messages=HI, stream=True))


def test_a_busy_conversation_is_a_conflict(gateway: RunningGateway, sdk: openai.OpenAI, fake: FakeInference) -> None:
    conversation = sdk.conversations.create().id
    fake.scenario = Scenario("stalls")
    stream = sdk.responses.create(model=MODEL, input="one", conversation=conversation, stream=True)
    next(iter(stream))
    with pytest.raises(openai.ConflictError) as busy:
        sdk.responses.create(model=MODEL, input="two", conversation=conversation)
    assert busy.value.code == "conversation_busy"
    stream.close()


def test_the_sdk_waits_as_long_as_it_is_told(fake: FakeInference, tmp_path: Path) -> None:
    """Its one retry comes after `retry-after-ms`, when there is a place again, and passes."""
    with run_gateway(tmp_path, fake) as gateway:
        key = gateway.new_key(rpm=40)
        with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=key, max_retries=1) as sdk:
            answers = (sdk.chat.completions.with_raw_response.create(model=MODEL, messages=HI) for _ in range(1000))
            assert any(answer.retries_taken for answer in answers)

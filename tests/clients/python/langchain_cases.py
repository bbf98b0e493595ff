"""LangChain's client for OpenAI, pointed at the gateway."""

import asyncio
from typing import Any

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel


class Place(BaseModel):
    """A place."""

    city: str


@tool
def get_weather(city: str) -> str:
    """The weather of a city."""
    return f"18 C in {city}"


def model(to: Any, **fields: Any) -> ChatOpenAI:
    return ChatOpenAI(base_url=f"{to.url}/v1", api_key=to.key, model=to.model, max_retries=0, **fields)


def invoke(to: Any) -> None:
    answer = model(to, max_tokens=50).invoke("hi")
    assert answer.text == to.answer, answer
    assert answer.usage_metadata["output_tokens"] == 9
    assert answer.response_metadata["finish_reason"] == "stop"
    assert model(to, use_responses_api=True).invoke("hi").text == to.answer


def stream(to: Any) -> None:
    chunks = list(model(to, stream_usage=True).stream("hi"))
    assert "".join(chunk.text for chunk in chunks) == to.answer
    assert sum(chunk.usage_metadata["output_tokens"] for chunk in chunks if chunk.usage_metadata) == 9
    chunks = list(model(to, use_responses_api=True).stream("hi"))
    assert "".join(chunk.text for chunk in chunks) == to.answer


def stream_asynchronously(to: Any) -> None:
    async def run() -> str:
        return "".join([chunk.text async for chunk in model(to).astream("hi")])

    assert asyncio.run(run()) == to.answer


def tools(to: Any) -> None:
    bound = model(to).bind_tools([get_weather])
    question = HumanMessage("Weather in Paris?")
    answer = bound.invoke([question])
    (call,) = answer.tool_calls
    assert (call["name"], call["args"]) == ("get_weather", {"city": "Paris"})
    result = get_weather.invoke(call)
    assert isinstance(result, ToolMessage)
    assert bound.invoke([question, answer, result]).tool_calls  # the result is taken


def tools_streamed(to: Any) -> None:
    whole = None
    for chunk in model(to).bind_tools([get_weather]).stream("Weather in Paris?"):
        whole = chunk if whole is None else whole + chunk
    (call,) = whole.tool_calls
    assert (call["name"], call["args"]) == ("get_weather", {"city": "Paris"})


def structured_output(to: Any) -> None:
    for method in ("json_schema", "json_mode"):
        asking = model(to).with_structured_output(Place, method=method)
        assert asking.invoke("Where? In JSON.") == Place(city="Paris"), method


CASES = (invoke, stream, stream_asynchronously, tools, tools_streamed, structured_output)

"""LlamaIndex's client for servers that are like OpenAI's, pointed at the gateway."""

import asyncio
from typing import Any

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike


def model(to: Any, **fields: Any) -> OpenAILike:
    common = {"api_base": f"{to.url}/v1", "api_key": to.key, "model": to.model, "max_retries": 0, "max_tokens": 50}
    return OpenAILike(**common | {"is_chat_model": True, "context_window": 4096} | fields)


def get_weather(city: str) -> str:
    """The weather of a city."""
    return f"18 C in {city}"


HI = [ChatMessage(role="user", content="Weather in Paris?")]


def complete(to: Any) -> None:
    asking = model(to, is_chat_model=False)  # the older completions
    assert asking.complete("Once upon a time").text == to.answer
    assert list(asking.stream_complete("Once upon a time"))[-1].text == to.answer


def chat(to: Any) -> None:
    assert model(to).chat(HI).message.content == to.answer


def stream(to: Any) -> None:
    pieces = list(model(to).stream_chat(HI))
    assert "".join(piece.delta or "" for piece in pieces) == to.answer
    assert pieces[-1].message.content == to.answer


def stream_asynchronously(to: Any) -> None:
    async def run() -> str:
        return "".join([piece.delta or "" async for piece in await model(to).astream_chat(HI)])

    assert asyncio.run(run()) == to.answer


def tools(to: Any) -> None:
    asking = model(to, is_function_calling_model=True)
    offered = [FunctionTool.from_defaults(get_weather)]
    (call,) = asking.get_tool_calls_from_response(asking.chat_with_tools(offered, user_msg="Weather in Paris?"))
    assert (call.tool_name, call.tool_kwargs) == ("get_weather", {"city": "Paris"})


def tools_streamed(to: Any) -> None:
    asking = model(to, is_function_calling_model=True)
    offered = [FunctionTool.from_defaults(get_weather)]
    *_, last = asking.stream_chat_with_tools(offered, user_msg="Weather in Paris?")
    (call,) = asking.get_tool_calls_from_response(last)
    assert (call.tool_name, call.tool_kwargs) == ("get_weather", {"city": "Paris"})


CASES = (complete, chat, stream, stream_asynchronously, tools, tools_streamed)

"""Every parameter of OpenAI's API is honoured, taken without effect, or refused by name; nothing goes in silence."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types.chat.completion_create_params import CompletionCreateParamsBase
from openai.types.responses.response_create_params import ResponseCreateParamsBase
from pydantic import ValidationError

from gateway.response_schemas import ResponseRequest
from gateway.schemas import ACCEPTED, PARAMETERS, ChatRequest

pytestmark = pytest.mark.unit
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
ASK: dict[str, Any] = {"input": "hi"}
REQUESTS = [(ChatRequest, CHAT), (ResponseRequest, ASK)]
OURS = {"top_k", "min_p", "repetition_penalty", "max_total_tokens"}


def refused(model: type[Any], body: dict[str, Any]) -> list[Any]:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(body)
    return caught.value.errors()


@pytest.mark.parametrize(
    ("model", "theirs"),
    [(ChatRequest, CompletionCreateParamsBase), (ResponseRequest, ResponseCreateParamsBase)],
    ids=["chat", "responses"],
)
def test_no_parameter_of_openais_client_is_unknown(model: type[Any], theirs: type[Any]) -> None:
    names = set(theirs.__annotations__) | {"stream"}
    assert names - set(model.model_fields) - set(PARAMETERS) == set()


def test_no_parameter_is_named_that_openai_does_not_have() -> None:
    theirs = set(CompletionCreateParamsBase.__annotations__) | set(ResponseCreateParamsBase.__annotations__)
    assert set(PARAMETERS) - theirs == set()
    assert (set(ChatRequest.model_fields) | set(ResponseRequest.model_fields)) - theirs - {"stream"} == OURS


@pytest.mark.parametrize(("model", "body"), REQUESTS, ids=["chat", "responses"])
@pytest.mark.parametrize("name", PARAMETERS)
def test_each_parameter_of_the_table(model: type[Any], body: dict[str, Any], name: str) -> None:
    model.model_validate(body | {name: None})
    neutral = PARAMETERS[name]
    for value in ("odd", 1) if neutral is ACCEPTED else neutral:
        model.model_validate(body | {name: value})
    if neutral is not ACCEPTED:
        for value in ("odd", 7, True, ["x"], {"x": 1}, float("nan")):
            (error,) = refused(model, body | {name: value})
            assert f"'{name}'" in error["msg"]
            assert error["ctx"]["name"] == name


@pytest.mark.parametrize(("model", "body"), REQUESTS, ids=["chat", "responses"])
def test_neutral_values_are_compared_with_their_type(model: type[Any], body: dict[str, Any]) -> None:
    for name, value in (("n", True), ("n", 1.0), ("logprobs", 0), ("background", 0)):
        assert refused(model, body | {name: value})


@pytest.mark.parametrize(("model", "body"), REQUESTS, ids=["chat", "responses"])
@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("temperature", [0, 0.0, 1, 2, None], [-0.1, 2.1, "1", True, float("nan"), float("inf"), [], 10**400]),
        ("top_p", [0.01, 1, None], [0, -1, 1.01, "1", float("nan")]),
        ("top_k", [0, 40, None], [-1, 1.5, "40", True, 10**7]),
        ("min_p", [0, 1, None], [-0.1, 1.1, "0"]),
        ("repetition_penalty", [0.5, 1.2, None], [0, -1, 11, "1"]),
        ("seed", [0, -5, 2**63 - 1, None], [2**63, -(2**63) - 1, 1.5, "1", True]),
        ("stream", [True, False, None], ["true", 1, 0]),
        ("model", ["x", "", None], [5, ["x"], "a\x00", "\ud800"]),
        ("store", [True, False, None], ["yes", 1]),
        ("metadata", [{}, {"a": "b"}, None], [{"a": 1}, {"": "x"}, {"k" * 65: "x"}, {"a": "v" * 513}, [], "x"]),
    ],
)
def test_shared_parameters(model: type[Any], body: dict[str, Any], name: str, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        assert getattr(model.model_validate(body | {name: value}), name) == value
    for value in bad:
        assert refused(model, body | {name: value}), value


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("max_tokens", [1, 10**9, None], [0, -1, 1.0, "5", True]),
        ("max_completion_tokens", [1, None], [0, "5"]),
        ("stop", ["x", ["x", "y"], [], None, ["s"] * 4], ["", ["s"] * 5, [""], 5, "s" * 257, ["\x00"]]),
        ("presence_penalty", [-2, 0, 2, None], [-2.1, 2.1, "0"]),
        ("frequency_penalty", [-2, 0, 2, None], [-2.1, 2.1, "0"]),
    ],
)
def test_parameters_of_chat_completions(name: str, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        assert getattr(ChatRequest.model_validate(CHAT | {name: value}), name) == value
    for value in bad:
        assert refused(ChatRequest, CHAT | {name: value}), value


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("max_output_tokens", [1, None], [0, 1.5, "5"]),
        ("max_total_tokens", [16, 2048, None], [15, 0, "64"]),
        ("truncation", ["auto", "disabled", None], ["always", True]),
        ("instructions", ["Be kind.", "", None], [5, ["x"], "\x01"]),
        ("previous_response_id", ["resp_1", None], ["", 5, "x" * 129]),
        ("conversation", ["conv_1", None], ["", 5, {}, {"id": ""}, {"id": "x", "y": 1}]),
    ],
)
def test_parameters_of_responses(name: str, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        assert getattr(ResponseRequest.model_validate(ASK | {name: value}), name) == value
    for value in bad:
        assert refused(ResponseRequest, ASK | {name: value}), value


def test_what_contradicts_itself() -> None:
    for fields in (
        {"conversation": "conv_1", "previous_response_id": "resp_1"},
        {"conversation": "conv_1", "store": False},
    ):
        assert refused(ResponseRequest, ASK | fields)
    assert refused(ChatRequest, CHAT | {"stream_options": {"include_usage": True}})
    assert refused(ChatRequest, CHAT | {"stream": False, "stream_options": {}})


def test_texts_and_parts() -> None:
    def content_of(content: Any) -> str:
        return ChatRequest.model_validate({"messages": [{"role": "user", "content": content}]}).messages[0].text

    assert content_of("  a\tb\r\nc 你好🙂 ") == "  a\tb\r\nc 你好🙂 "
    assert content_of([{"type": "text", "text": "a"}, {"type": "input_text", "text": "b"}]) == "ab"
    sent_back = {"type": "output_text", "text": "a", "annotations": [], "logprobs": []}
    assert content_of([sent_back]) == "a"
    code_points = [*range(9), 11, 12, *range(14, 32), 127]
    for code in code_points:
        (error, *_) = refused(ChatRequest, {"messages": [{"role": "user", "content": f"ab{chr(code)}"}]})
        assert f"U+{code:04X}" in error["msg"]
        assert "position 2" in error["msg"]


def test_an_empty_answer_in_the_history_is_no_reason_to_refuse() -> None:
    messages = [*CHAT["messages"], {"role": "assistant", "content": ""}, *CHAT["messages"]]
    assert len(ChatRequest.model_validate({"messages": messages}).messages) == 3


def test_how_many_messages() -> None:
    assert refused(ChatRequest, {"messages": []})
    assert refused(ChatRequest, {"messages": CHAT["messages"] * 2049})
    ChatRequest.model_validate({"messages": CHAT["messages"] * 2048})

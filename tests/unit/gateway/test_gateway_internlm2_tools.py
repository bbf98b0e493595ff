"""InternLM2's tool markers: written into prompts, and read out of answers however they are cut."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects import Prompt, PromptMessage, Tool, ToolCall
from gateway.internlm2_tools import END, PLUGIN, START, CallReader, plugin_messages

pytestmark = pytest.mark.unit
CALL = '{"name": "get_weather", "parameters": {"city": "上海 <|x|> }"}}'
WEATHER = ("get_weather", {"city": "上海 <|x|> }"})
OPEN = START + PLUGIN
# what the model writes, what stays text, how many calls there are
ANSWERS: list[tuple[str, str, int]] = [
    (f"{OPEN}\n{CALL}{END}", "", 1),
    (f"Sure, I will look.{OPEN}\n{CALL}{END}\n", "Sure, I will look.", 1),
    (f"Sure.\n{START} \n{PLUGIN}{CALL}{END}", "Sure.\n", 1),
    (f"{OPEN}{CALL}{END}\n{OPEN}{CALL}{END}", "", 2),
    (f"{OPEN}{CALL}{END} and more", "and more", 1),
    (f"{OPEN}\n{CALL}", "", 1),  # it ended its turn without the last marker
    (f"{OPEN}\n{CALL[:-4]}", f"{OPEN}\n{CALL[:-4]}", 0),  # cut by max_tokens
    (f"a{OPEN}not JSON{END}b", f"a{OPEN}not JSON{END}b", 0),
    (f"a{OPEN}[1]{END}b", f"a{OPEN}[1]{END}b", 0),
    (f'a{OPEN}{{"parameters": {{}}}}{END}b', f'a{OPEN}{{"parameters": {{}}}}{END}b', 0),
    (f'a{OPEN}{{"name": "f", "parameters": 5}}{END}b', f'a{OPEN}{{"name": "f", "parameters": 5}}{END}b', 0),
    (f"a{START}<|interpreter|>print(1){END}b", f"a{START}<|interpreter|>print(1){END}b", 0),
    (f"a {START} b {PLUGIN} c {END}", f"a {START} b {PLUGIN} c {END}", 0),
    (f"{START}{START}{PLUGIN}{CALL}{END}", START, 1),
    ("1 < 2 <| <|act", "1 < 2 <| <|act", 0),
    ("no call at all 你好", "no call at all 你好", 0),
    ("", "", 0),
]


def read(pieces: list[str]) -> tuple[str, list[tuple[str, object]]]:
    reader = CallReader()
    text = "".join([reader.feed(piece) for piece in pieces]) + reader.flush()
    return text, [(name, json.loads(arguments)) for name, arguments in reader.calls]


@pytest.mark.parametrize(("answer", "text", "calls"), ANSWERS)
def test_answers_cut_at_every_place(answer: str, text: str, calls: int) -> None:
    wanted = (text, [WEATHER] * calls)
    assert read([answer]) == wanted
    assert read([*answer]) == wanted
    for place in range(len(answer)):
        assert read([answer[:place], answer[place:]]) == wanted
        for second in range(place, min(len(answer), place + 40)):
            assert read([answer[:place], answer[place:second], answer[second:]]) == wanted


@given(st.lists(st.sampled_from([START, PLUGIN, END, CALL, "<", "|", "x", "\n", " ", "{", START[:7]]), max_size=12))
def test_no_text_is_ever_lost(parts: list[str]) -> None:
    """Whatever the model writes, and however it is cut: the same calls, and the rest is shown."""
    answer = "".join(parts)
    text, calls = read(parts)
    assert (text, calls) == read([*answer]) == read([answer])
    if not calls:
        assert text == answer


def test_words_are_shown_as_soon_as_they_cannot_be_a_marker() -> None:
    reader = CallReader()
    assert reader.feed("Hello <|act") == "Hello "
    assert reader.feed("ive|>") == "<|active|>"
    assert reader.feed(f" x{START}") == " x"
    assert reader.feed("y") == f"{START}y"


@pytest.mark.parametrize(
    ("written", "arguments"),
    [
        ('{"name": "f", "parameters": {"a": 1}}', '{"a":1}'),
        ('{"name": "f", "arguments": {"a": 1}}', '{"a":1}'),
        ('{"name": "f", "arguments": "{\\"a\\": 1}"}', '{"a":1}'),
        ('{"name": "f"}', "{}"),
    ],
)
def test_ways_to_write_a_call(written: str, arguments: str) -> None:
    reader = CallReader()
    reader.feed(f"{OPEN}{written}{END}")
    assert reader.calls == [("f", arguments)]


def test_a_call_without_a_bottom_is_text() -> None:
    deep = '{"name": "f", "parameters": ' + '{"a":' * 20_000 + "1" + "}" * 20_001
    assert read([f"{OPEN}{deep}{END}"]) == (f"{OPEN}{deep}{END}", [])


def test_the_prompt_as_the_model_learned_it() -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    prompt = Prompt(
        [
            PromptMessage("system", "You are InternLM."),
            PromptMessage("user", "The weather in Shanghai?"),
            PromptMessage("assistant", "I look.", [ToolCall("c1", "get_weather", '{"city": "Shanghai"}')]),
            PromptMessage("tool", '{"temperature": 22}', tool_call_id="c1"),
        ],
        100,
        tools=[Tool("get_weather", "Current weather", schema), Tool("now")],
    )
    system, plugin, question, call, result = plugin_messages(prompt)
    assert (system, question) == (prompt.messages[0], prompt.messages[1])
    assert plugin.role == "system name=<|plugin|>"
    assert json.loads(plugin.text) == [
        {"name": "get_weather", "description": "Current weather", "parameters": schema},
        {"name": "now", "description": "", "parameters": {"type": "object", "properties": {}}},
    ]
    assert (call.role, call.tool_calls) == ("assistant", ())
    assert call.text == (
        'I look.<|action_start|><|plugin|>\n{"name":"get_weather","parameters":{"city": "Shanghai"}}<|action_end|>'
    )
    assert (result.role, result.text, result.tool_call_id) == (
        "environment name=<|plugin|>",
        '{"temperature": 22}',
        None,
    )


def test_without_tools_the_messages_stay_as_they_are() -> None:
    messages = [PromptMessage("user", "hi")]
    assert plugin_messages(Prompt(messages, 5)) == messages

"""What goes to the model: whole messages, the newest ones, within one budget."""

from __future__ import annotations

import random

import pytest

from gateway.errors import ContextTooLong
from gateway.markers import ZERO_WIDTH_SPACE, defuse
from gateway.prompt import MESSAGE_TOKENS, TEMPLATE_TOKENS, Fitted, Message, fit, require_plausible

pytestmark = pytest.mark.unit


def message(role: str, tokens: int, text: str = "x") -> Message:
    return Message(role, text, tokens)


def pairs(count: int, tokens: int = 100) -> list[Message]:
    return [message(role, tokens, f"{role[0]}{n}") for n in range(count) for role in ("user", "assistant")]


def fitted(
    history: list[Message], question: list[Message], budget: int, *, output: int | None = None, may: bool = True
) -> Fitted:
    return fit(history, question, budget=budget, max_output_tokens=output, may_truncate=may)


def cost(messages: list[Message]) -> int:
    return TEMPLATE_TOKENS + sum(m.tokens + MESSAGE_TOKENS for m in messages)


ASK = [message("user", 50, "ask")]


def test_what_fits_stays_whole_and_the_rest_is_the_answers() -> None:
    got = fitted(pairs(2), ASK, 2048)
    assert [m.text for m in got.messages] == ["u0", "a0", "u1", "a1", "ask"]
    assert (got.dropped, got.max_tokens) == (0, 2048 - cost([*pairs(2), *ASK]))


def test_max_output_tokens_bounds_the_answer() -> None:
    assert fitted([], ASK, 2048, output=10).max_tokens == 10
    assert fitted([], ASK, 200, output=1000).max_tokens == 200 - cost(ASK)


def test_the_oldest_go_first_in_pairs() -> None:
    got = fitted(pairs(10), ASK, 1000)
    assert got.dropped
    assert got.dropped % 2 == 0
    assert got.messages[0].role == "user"
    assert got.messages[-1] == ASK[0]
    assert got.max_tokens >= 250  # a quarter is the answer's
    assert got.messages == [*pairs(10)[got.dropped :], *ASK]


def test_system_messages_stay() -> None:
    system = message("system", 30, "s")
    got = fitted([system, *pairs(10)], ASK, 600)
    assert got.messages[0] == system
    assert got.messages[1].role == "user"
    got = fitted([*pairs(5), system, *pairs(5)], ASK, 600)
    assert system in got.messages


def test_an_answer_asked_for_as_small_leaves_room_for_more_history() -> None:
    assert fitted(pairs(10), ASK, 1000, output=20).dropped < fitted(pairs(10), ASK, 1000).dropped


def test_without_permission_nothing_is_left_out() -> None:
    with pytest.raises(ContextTooLong, match="truncation"):
        fitted(pairs(10), ASK, 1000, may=False)
    with pytest.raises(ContextTooLong, match="Shorten it") as refused:
        fitted([], [message("user", 2000)], 1000, may=False)
    assert "truncation" not in refused.value.message
    assert refused.value.param == "input"


def test_a_question_that_alone_is_too_long() -> None:
    for may in (True, False):
        with pytest.raises(ContextTooLong):
            fitted(pairs(3), [message("user", 990)], 1000, may=may)


def test_the_last_place_that_still_fits() -> None:
    room = 1000 - TEMPLATE_TOKENS - MESSAGE_TOKENS
    assert fitted([], [message("user", room - 16)], 1000).max_tokens == 16
    with pytest.raises(ContextTooLong):
        fitted([], [message("user", room - 15)], 1000)
    assert fitted([], [message("user", room - 3)], 1000, output=3).max_tokens == 3
    with pytest.raises(ContextTooLong):
        fitted([], [message("user", room - 2)], 1000, output=3)


@pytest.mark.parametrize("seed", range(200))
def test_whatever_comes_the_budget_holds(seed: int) -> None:
    chance = random.Random(seed)
    roles = ["system", "user", "assistant", "user", "assistant"]
    history = [message(chance.choice(roles), chance.randint(0, 400), str(n)) for n in range(chance.randint(0, 30))]
    question = [message("user", chance.randint(1, 500), "ask")]
    budget, output = chance.randint(64, 4096), chance.choice([None, 1, 50, 5000])
    may = chance.random() < 0.7
    try:
        got = fitted(history, question, budget, output=output, may=may)
    except ContextTooLong:
        system = [m for m in history if m.role == "system"]
        assert cost([*(system if may else history), *question]) + min(output or 16, 16) > budget
        return
    assert cost(got.messages) + got.max_tokens <= budget
    assert got.max_tokens >= 1
    assert got.messages[-1] == question[0]
    assert got.dropped == len(history) + 1 - len(got.messages)
    assert may or not got.dropped
    kept = iter(got.messages[:-1])
    assert all(any(m is old for old in history) for m in kept)
    assert [m for m in history if m.role == "system"] == [m for m in got.messages[:-1] if m.role == "system"]


def test_what_cannot_fit_is_refused_before_it_is_counted() -> None:
    require_plausible(64 * 100, 100, "input")
    with pytest.raises(ContextTooLong) as refused:
        require_plausible(64 * 100 + 1, 100, "input")
    assert refused.value.param == "input"


MARKERS = [
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|plugin|>", "<|action_start|>", "<|中文|>", "<s>", "</s>",
    "<unk>", "<pad>", "[UNUSED_TOKEN_145]", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "<repo_name>", "<file_sep>",
    "<filename>", "<start_of_turn>", "<end_of_turn>", "<jupyter_code>", "<issue_start>", "<|reserved_special_token_0|>",
]  # fmt: skip


@pytest.mark.parametrize("marker", MARKERS)
def test_a_typed_marker_is_broken_up_and_looks_the_same(marker: str) -> None:
    for text in (marker, f"a{marker}b", marker * 3, f"<{marker}>", f"{marker}\n{marker}"):
        safe = defuse(text)
        assert marker not in safe
        assert safe.replace(ZERO_WIDTH_SPACE, "") == text
        assert defuse(safe) == safe


@pytest.mark.parametrize(
    "text", ["", "plain", "a < b > c", "<div>", "if (a<b || c>d) [0]", "x[1] <- y", "<|", "|>", "< s >", "List<String>"]
)
def test_other_text_stays_as_it_is(text: str) -> None:
    assert defuse(text) == text


def test_a_long_text_of_almost_markers_is_quick() -> None:
    text = "<|" * 500_000 + "[UNUSED_TOKEN_" * 10_000
    assert defuse(text) == text

"""What of a conversation goes to the model, and how long the answer may be.

Prompt and answer share one budget of tokens. When a conversation has outgrown it, the oldest messages stay behind,
never a part of one and never in silence: the response says how many.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.dialects import ToolCall
from gateway.errors import ContextTooLong

MESSAGE_TOKENS = 8
"""What a chat template adds around one message, at most (InternLM2 and ChatML: 5)."""
TEMPLATE_TOKENS = 32
"""What a template adds once: the opening of the answer, or a system message of its own (SmolLM2: 20)."""
MAX_BYTES_PER_TOKEN = 64
"""No text has more bytes than this for each of its tokens, but for long runs of white space."""
_MIN_ANSWER = 16


@dataclass(frozen=True)
class Message:
    """One message with its number of tokens, the template's share not counted.

    Attributes:
        call: a call of a function, in place of a text.
        answers: the id of the call whose result the text is.
    """

    role: str
    text: str
    tokens: int
    call: ToolCall | None = None
    answers: str | None = None


@dataclass(frozen=True)
class Fitted:
    """Attributes:
    messages: what goes to the model, oldest first.
    max_tokens: room for the answer.
    dropped: how many older messages stay behind.
    """

    messages: list[Message]
    max_tokens: int
    dropped: int


def require_plausible(text_bytes: int, context_tokens: int, param: str) -> None:
    """Refuses a text that cannot fit, before anybody spends time on counting it.

    Raises:
        ContextTooLong
    """
    if text_bytes > context_tokens * MAX_BYTES_PER_TOKEN:
        raise ContextTooLong(
            f"The text has {text_bytes:,} bytes, far more than the {context_tokens:,} tokens of context that question "
            "and answer share. Shorten it.",
            param=param,
        )


def fit(
    history: Sequence[Message],
    question: Sequence[Message],
    *,
    budget: int,
    max_output_tokens: int | None,
    may_truncate: bool,
) -> Fitted:
    """Chooses what fits into `budget` tokens for prompt and answer together.

    System messages and the question always stay. With `may_truncate` the oldest messages go until at least a quarter of
    the budget (or `max_output_tokens`, when that is less) is left for the answer.

    Raises:
        ContextTooLong: the question alone does not fit, or nothing may be left out and it does not all fit.
    """
    kept = [*history]
    wanted = min(max_output_tokens or budget, budget // 4)
    if may_truncate:
        while _cost([*kept, *question]) + wanted > budget:
            oldest = next((n for n, message in enumerate(kept) if message.role != "system"), None)
            if oldest is None:
                break
            del kept[oldest]
        while (
            len(kept) < len(history)
            and (n := _first_spoken(kept)) is not None
            and kept[n].role in ("assistant", "tool")
        ):
            del kept[n]  # an answer whose question is gone, a result whose call is
    cost = _cost([*kept, *question])
    left = budget - cost
    if left < min(max_output_tokens or _MIN_ANSWER, _MIN_ANSWER):
        what = "The message has" if may_truncate or not history else "The conversation has"
        raise ContextTooLong(
            f"{what} about {cost:,} tokens, and messages and answer together may have {budget:,}. "
            + ("Shorten it." if may_truncate or not history else 'Shorten it, or send "truncation": "auto".'),
            param="input",
        )
    return Fitted([*kept, *question], min(left, max_output_tokens or left), len(history) - len(kept))


def _cost(messages: Sequence[Message]) -> int:
    return TEMPLATE_TOKENS + sum(message.tokens + MESSAGE_TOKENS for message in messages)


def _first_spoken(messages: Sequence[Message]) -> int | None:
    return next((n for n, message in enumerate(messages) if message.role != "system"), None)

"""Answers many questions as fast as the limits of a key allow, and goes on where it was when it is started again.

    pip install openai
    export BASE_URL=http://127.0.0.1:7860 API_KEY=sk-…
    python examples/batch.py questions.jsonl answers.jsonl [--at-once 4] [--max-tokens 256]

A line of the first file is `{"id": "a name of yours", "prompt": "…"}`, a line of the second
`{"id": …, "answer": …, "finish_reason": …, "total_tokens": …}` or `{"id": …, "error": …}`. Questions whose id has an
answer there are left out. Where the gateway says "not now" (429, 503) all workers wait for as long as it says, so a
limit costs no more than the one request that met it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from openai import APIConnectionError, APIStatusError, OpenAI

LATER = (429, 503)
CONNECTION_PAUSE_S, CONNECTION_ATTEMPTS = 2.0, 5


class Gate:
    """Closed for all workers while the gateway says "not now"."""

    def __init__(self) -> None:
        self._opens_at = 0.0
        self._lock = threading.Lock()

    def close_for(self, seconds: float) -> None:
        with self._lock:
            self._opens_at = max(self._opens_at, time.monotonic() + seconds)

    def wait(self) -> None:
        while (left := self._opens_at - time.monotonic()) > 0:
            time.sleep(left)


def main() -> int:
    given = arguments()
    if missing := [name for name in ("BASE_URL", "API_KEY") if not os.environ.get(name)]:
        print(f"Not set: {', '.join(missing)}. export BASE_URL=http://127.0.0.1:7860 API_KEY=sk-…", file=sys.stderr)
        return 2
    client = OpenAI(base_url=os.environ["BASE_URL"].rstrip("/") + "/v1", api_key=os.environ["API_KEY"], max_retries=0)
    try:
        questions = list(unanswered(given.questions, given.answers))
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    gate, failed, begun = Gate(), 0, time.monotonic()
    with ThreadPoolExecutor(given.at_once) as pool, given.answers.open("a", encoding="utf-8") as out:
        asked = [pool.submit(ask, client, gate, question, given.max_tokens) for question in questions]
        for done, one in enumerate(as_completed(asked), 1):
            told = one.result()
            failed += "error" in told
            out.write(json.dumps(told, ensure_ascii=False) + "\n")
            out.flush()
            print(f"{done} of {len(questions)} in {time.monotonic() - begun:.0f} s, {failed} failed", file=sys.stderr)
    return 1 if failed else 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Answers many questions within the limits of a key.")
    parser.add_argument("questions", type=Path)
    parser.add_argument("answers", type=Path)
    parser.add_argument("--at-once", type=int, default=4, help="requests at once (4)")
    parser.add_argument("--max-tokens", type=int, default=256, help="the longest answer, in tokens (256)")
    return parser.parse_args()


def unanswered(questions: Path, answers: Path) -> Iterator[dict[str, str]]:
    """The questions without an answer. Raises OSError, ValueError for a line that is no question."""
    told = [json.loads(line) for line in answers.read_text(encoding="utf-8").splitlines()] if answers.exists() else []
    known = {one["id"] for one in told if "answer" in one}
    for number, line in enumerate(questions.read_text(encoding="utf-8").splitlines(), 1):
        try:
            question = json.loads(line)
            if question["id"] not in known:
                yield {"id": question["id"], "prompt": question["prompt"]}
        except (ValueError, KeyError, TypeError) as error:
            why = f"it lacks {error}" if isinstance(error, KeyError) else error
            raise ValueError(f'{questions}, line {number} is not {{"id": "…", "prompt": "…"}}: {why}') from None


def ask(client: OpenAI, gate: Gate, question: dict[str, str], max_tokens: int) -> dict[str, Any]:
    """One question and what came of it."""
    messages: Any = [{"role": "user", "content": question["prompt"]}]
    broken = 0
    while True:
        gate.wait()
        try:
            answer = client.chat.completions.create(model="", messages=messages, max_tokens=max_tokens)
        except APIStatusError as error:
            if error.status_code not in LATER or error.response.headers.get("x-should-retry") == "false":
                return {"id": question["id"], "error": error.message}
            gate.close_for(wait_of(error))
        except APIConnectionError as error:
            broken += 1
            if broken == CONNECTION_ATTEMPTS:
                return {"id": question["id"], "error": error.message}
            gate.close_for(CONNECTION_PAUSE_S)
        else:
            return {
                "id": question["id"],
                "answer": answer.choices[0].message.content,
                "finish_reason": answer.choices[0].finish_reason,
                "total_tokens": answer.usage.total_tokens if answer.usage else None,
            }


def wait_of(error: APIStatusError) -> float:
    """For how long the gateway asks to wait, in seconds."""
    headers = error.response.headers
    return float(headers.get("retry-after-ms", 1000 * float(headers.get("retry-after", 2)))) / 1000


if __name__ == "__main__":
    sys.exit(main())

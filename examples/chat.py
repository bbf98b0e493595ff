"""A chat in the terminal: answers come as they are written, the conversation is kept at the gateway.

    pip install openai
    export BASE_URL=http://127.0.0.1:7860 API_KEY=sk-…
    python examples/chat.py                 # a new conversation
    python examples/chat.py conv_…          # one that was begun earlier

Ctrl-C stops the answer that is coming; on an empty line it leaves. An answer survives a lost connection: it is asked
for with `background`, so it runs on at the gateway, and is watched again from the first event that did not arrive.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator

from openai import APIConnectionError, APIError, OpenAI
from openai.types.responses import ResponseStreamEvent

ATTEMPTS, PAUSE_S = 8, 1.0


def main() -> int:
    if missing := [name for name in ("BASE_URL", "API_KEY") if not os.environ.get(name)]:
        print(f"Not set: {', '.join(missing)}. export BASE_URL=http://127.0.0.1:7860 API_KEY=sk-…", file=sys.stderr)
        return 2
    client = OpenAI(base_url=os.environ["BASE_URL"].rstrip("/") + "/v1", api_key=os.environ["API_KEY"])
    try:
        model = client.models.list().data[0].id
        conversation = sys.argv[1] if len(sys.argv) > 1 else client.conversations.create().id
        show(client, conversation)
    except APIError as error:
        print(error.message, file=sys.stderr)
        return 1
    print(f"[{model}; to go on later: python examples/chat.py {conversation}]")
    while (text := asked()) is not None:
        if text.strip():
            answer(client, model, conversation, text)
    return 0


def asked() -> str | None:
    """What is typed next; None at the end of the input or after Ctrl-C."""
    try:
        return input("> " if sys.stdin.isatty() else "")
    except (EOFError, KeyboardInterrupt):
        return None


def show(client: OpenAI, conversation: str) -> None:
    """What was said before."""
    for item in client.conversations.items.list(conversation, order="asc", limit=100):
        if item.type == "message":
            text = "".join(part.text for part in item.content if part.type in ("input_text", "output_text"))
            print(f"> {text}" if item.role == "user" else text)


def answer(client: OpenAI, model: str, conversation: str, text: str) -> None:
    """Sends one message and prints its answer."""
    response_id = ""
    try:
        for event in events(client, model, conversation, text):
            if event.type == "response.created":
                response_id = event.response.id
            elif event.type == "response.output_text.delta":
                print(event.delta, end="", flush=True)
            elif event.type == "response.incomplete":
                print(" …", end="")
            elif event.type == "response.failed" and event.response.error:
                print(f"\n[{event.response.error.message}]", end="")
    except KeyboardInterrupt:
        if response_id:
            client.responses.cancel(response_id)
        print(" [stopped]", end="")
    except APIError as error:
        print(f"[{error.message}]", end="", file=sys.stderr)
    print()


def events(client: OpenAI, model: str, conversation: str, text: str) -> Iterator[ResponseStreamEvent]:
    """The answer's events, each once, over as many connections as it takes."""
    response_id, seen = "", -1
    for attempt in range(ATTEMPTS):
        try:
            if response_id:
                stream = client.responses.retrieve(response_id, stream=True, starting_after=seen)
            else:
                stream = client.responses.create(
                    model=model, conversation=conversation, input=text, stream=True, background=True
                )
            with stream:
                for event in stream:
                    if event.type == "response.created":
                        response_id = event.response.id
                    seen = getattr(event, "sequence_number", seen)
                    yield event
                    if event.type in ("response.completed", "response.incomplete", "response.failed"):
                        return
        except APIConnectionError:
            if not response_id or attempt == ATTEMPTS - 1:
                raise
        time.sleep(PAUSE_S)  # the connection ended before the answer did


if __name__ == "__main__":
    sys.exit(main())

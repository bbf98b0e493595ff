"""A question through Hugging Face's own client, as other people's programs ask it: chat, and TGI's text generation."""

from __future__ import annotations

import time
from dataclasses import dataclass

from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError, TextGenerationError
from huggingface_hub.errors import HTTPError as TransportError  # type: ignore[attr-defined]  # of its HTTP client

from inference.accounts import redact
from inference.errors import SmokeFailed
from inference.web_json import Deployment, message_of

NO_KEY = "-"  # without any the client would send the token of Hugging Face that it finds on this machine


@dataclass(frozen=True)
class Answer:
    """`pieces` of text came; the first after `first_s` seconds, all after `whole_s`."""

    text: str
    pieces: int
    first_s: float
    whole_s: float


def chat(at: Deployment, model: str, question: str, most_tokens: int) -> Answer:
    """Streamed. Raises SmokeFailed when it breaks off, is empty, or does not say why it ended."""
    began_at = time.monotonic()
    texts: list[str] = []
    first_s, finish = 0.0, None
    try:
        with _client(at, f"{at.url}/v1") as client:
            messages = [{"role": "user", "content": question}]
            stream = client.chat_completion(messages, model=model, max_tokens=most_tokens, stream=True)
            for choice in (choice for chunk in stream for choice in chunk.choices):
                finish = choice.finish_reason or finish
                if choice.delta.content:
                    first_s = first_s or time.monotonic() - began_at
                    texts.append(choice.delta.content)
    except _FAILURES as error:
        raise SmokeFailed(_told(error, at)) from None
    if not texts:
        raise SmokeFailed("The answer is empty.")
    if finish not in ("stop", "length", "eos_token", "stop_sequence"):
        raise SmokeFailed(f"The answer broke off after {len(texts)} pieces.")
    return Answer("".join(texts), len(texts), first_s, time.monotonic() - began_at)


def generate(at: Deployment, prompt: str, most_tokens: int) -> str:
    """TGI's own way, `POST /`. Raises SmokeFailed."""
    try:
        with _client(at, at.url) as client:
            text = client.text_generation(prompt, max_new_tokens=most_tokens)
    except _FAILURES as error:
        raise SmokeFailed(_told(error, at)) from None
    if not text:
        raise SmokeFailed("The generated text is empty.")
    return str(text)


_FAILURES = (TransportError, TextGenerationError, OSError, ValueError, KeyError)  # the last two: a body of another form


def _client(at: Deployment, url: str) -> InferenceClient:
    return InferenceClient(base_url=url, api_key=at.key.value if at.key else NO_KEY, timeout=at.timeout_s)


def _told(error: Exception, at: Deployment) -> str:
    if isinstance(error, HfHubHTTPError) and error.response is not None:
        try:
            said = message_of(error.response.content)
        except (RuntimeError, TransportError):  # the body of a stream that nobody has read
            said = ""
        return redact(f"HTTP {error.response.status_code}: {said or 'without a reason'}", [at.key])
    if isinstance(error, TextGenerationError):
        return redact(f"The server gave up: {str(error)[:300]}", [at.key])
    return redact(f"The connection failed: {str(error)[:300] or type(error).__name__}", [at.key])

"""Ask an inference server for one token: the only proof that it can serve. HTTP/1.1 over a Unix socket or TCP.

The server answers `POST /v1/chat/completions` in OpenAI's form; `Connection: close` lets the answer end with the
connection, so nothing of HTTP's framing is needed here.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import urlsplit

MOST_ANSWER_BYTES = 1 << 20


class ProbeFailed(Exception):
    """No token came. `is_final`: the server refused for good, asking again will not help."""

    def __init__(self, reason: str, *, is_final: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.is_final = is_final


async def generate_one_token(endpoint: str, api_key: str, model: str, *, timeout_s: float) -> None:
    """Have `endpoint` (`unix:/path` or `http://host:port`) generate one token of a chat. Raises ProbeFailed."""
    body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
    content = json.dumps(body).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        f"Authorization: Bearer {api_key}\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    status, answer = await _ask(endpoint, head.encode() + content, timeout_s)
    if status != 200:
        is_final = status not in (408, 425, 429, 503)
        raise ProbeFailed(f"answered {status}: {_error_text(answer)}", is_final=is_final)
    if not (isinstance(answer, dict) and answer.get("choices")):
        raise ProbeFailed("answered without a choice", is_final=True)


async def get(endpoint: str, path: str, *, timeout_s: float) -> tuple[int, Any]:
    """Status and JSON body (None when it is not JSON) of a path that wants no key. Raises ProbeFailed."""
    head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    return await _ask(endpoint, head.encode(), timeout_s)


async def _ask(endpoint: str, request: bytes, timeout_s: float) -> tuple[int, Any]:
    try:
        async with asyncio.timeout(timeout_s):
            return _parse(await _exchange(endpoint, request))
    except TimeoutError:
        raise ProbeFailed(f"no answer within {timeout_s:g} s") from None
    except (OSError, ValueError, asyncio.IncompleteReadError) as error:
        raise ProbeFailed(f"cannot be reached ({error})") from None


async def _exchange(endpoint: str, request: bytes) -> bytes:
    reader, writer = await _open(endpoint)
    try:
        writer.write(request)
        await writer.drain()
        answer = bytearray()
        while len(answer) < MOST_ANSWER_BYTES and (block := await reader.read(65536)):
            answer += block
    finally:
        writer.transport.abort()
    return bytes(answer)


async def _open(endpoint: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if endpoint.startswith("unix:"):
        return await asyncio.open_unix_connection(endpoint.removeprefix("unix:"))
    url = urlsplit(endpoint)
    return await asyncio.open_connection(url.hostname, url.port or 80)


def _parse(answer: bytes) -> tuple[int, Any]:
    """Status and JSON body (None when it is not JSON). Raises ValueError when it is not HTTP."""
    head, _, content = answer.partition(b"\r\n\r\n")
    words = head.split(b" ", 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/"):
        raise ValueError("the connection ended without an answer")
    try:
        return int(words[1]), json.loads(content)
    except json.JSONDecodeError:
        return int(words[1]), None


def _error_text(answer: Any) -> str:
    match answer:
        case {"error": {"message": str(message)}} | {"error": str(message)}:
            return message[:300]
    return "no reason given"

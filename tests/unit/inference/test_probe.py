"""The probe: only a generated token counts as an answer."""

import asyncio
import json
from contextlib import asynccontextmanager

import pytest

from inference.probe import ProbeFailed, generate_one_token

pytestmark = pytest.mark.unit
CHOICE = {"choices": [{"message": {"content": "a"}}]}


@asynccontextmanager
async def _server(path, status, body, asked, delay_s=0.0):
    handlers = set()

    async def answer(reader, writer):
        handlers.add(asyncio.current_task())
        head = await reader.readuntil(b"\r\n\r\n")
        size = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        asked.append((head.decode(), json.loads(await reader.readexactly(size))))
        await asyncio.sleep(delay_s)
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        if status:
            writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (status, len(content)) + content)
        writer.close()
        await writer.wait_closed()

    if path is None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    else:
        server = await asyncio.start_unix_server(answer, path)
        endpoint = f"unix:{path}"
    async with server:
        try:
            yield endpoint
        finally:
            await asyncio.wait(handlers, timeout=5)


def _probe(path, status, body, *, delay_s=0.0, timeout_s=5.0):
    asked = []

    async def run():
        async with _server(path, status, body, asked, delay_s) as endpoint:
            await generate_one_token(endpoint, "the-key", "m", timeout_s=timeout_s)

    asyncio.run(run())
    return asked


@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_one_token_is_asked_for_with_the_key(tmp_path, kind):
    ((head, body),) = _probe(tmp_path / "s" if kind == "unix" else None, 200, CHOICE)
    assert head.startswith("POST /v1/chat/completions HTTP/1.1\r\n")
    assert "Authorization: Bearer the-key\r\n" in head
    assert body == {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}


@pytest.mark.parametrize(
    ("status", "body", "is_final", "part"),
    [
        (503, {"error": {"message": "Loading model"}}, False, "Loading model"),
        (500, {"error": {"message": "bad template"}}, True, "bad template"),
        (401, {"error": "Invalid API Key"}, True, "Invalid API Key"),
        (200, {}, True, "without a choice"),
        (200, b"<html>", True, "without a choice"),
        (404, b"", True, "404"),
        (0, b"", False, "without an answer"),
    ],
)
def test_anything_else_is_no_answer(tmp_path, status, body, is_final, part):
    with pytest.raises(ProbeFailed) as caught:
        _probe(tmp_path / "s", status, body)
    assert caught.value.is_final is is_final
    assert part in caught.value.reason


def test_silence_is_no_answer(tmp_path):
    with pytest.raises(ProbeFailed, match=r"no answer within 0.1 s"):
        _probe(tmp_path / "s", 200, CHOICE, delay_s=0.3, timeout_s=0.1)


def test_nobody_listening_is_no_answer(tmp_path):
    with pytest.raises(ProbeFailed, match="cannot be reached"):
        asyncio.run(generate_one_token(f"unix:{tmp_path}/none", "k", "m", timeout_s=1))

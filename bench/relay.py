"""CPU of the relay per streamed chunk: the gateway beside nginx, both in front of the same paced stand-in."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import shutil
import statistics
import subprocess
import tempfile
from pathlib import Path

from bench.processes import cpu_s, free_port, gateway
from gateway.sse import DONE
from gateway.wire import Address, open_exchange

PACE_S = 0.02
CHUNKS = 200
_EVENT = (
    b'data: {"choices":[{"finish_reason":null,"index":0,"delta":{"content":" word"}}],"created":1795374291,"id":'
    b'"chatcmpl-rdAGzhCiMooIJBUOQPtPhNK7EDfyZZPt","model":"bench","system_fingerprint":"b0","object":'
    b'"chat.completion.chunk"}\n\n'
)
_CLOSING = (
    b'data: {"choices":[{"finish_reason":"stop","index":0,"delta":{}}],"created":1,"id":"c","model":"bench","object":'
    b'"chat.completion.chunk"}\n\ndata: [DONE]\n\n'
)


async def compare(rounds: int, streams: int) -> None:
    """Prints the CPU per chunk of each and the ratio; needs nginx on the PATH."""
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if nginx is None:
        print("relay: nginx is not installed, so there is nothing to compare with (apt-get install nginx-light)")
        return
    port = free_port()
    upstream = multiprocessing.Process(target=_serve_stand_in, args=(port,), daemon=True)
    upstream.start()
    await asyncio.sleep(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            with gateway(Path(folder), f"http://127.0.0.1:{port}", GATEWAY_SLOTS=str(streams)) as (pid, at, key):
                proxy, proxy_pid, proxy_port = _start_nginx(nginx, Path(folder), port)
                try:
                    await _measure(rounds, streams, (pid, at, key), (proxy_pid, proxy_port, "none"))
                finally:
                    proxy.terminate()
                    proxy.wait()
    finally:
        upstream.terminate()


async def _measure(rounds: int, streams: int, ours: tuple[int, int, str], nginx: tuple[int, int, str]) -> None:
    costs: list[tuple[float, float]] = []
    for number in range(rounds + 1):
        pair = [await _cost(*one, streams) for one in (ours, nginx)]
        if number:  # the first pair warms up
            costs.append((pair[0], pair[1]))
    mine, theirs = (statistics.median(cost[n] for cost in costs) for n in (0, 1))
    ratio = statistics.median(cost[0] / cost[1] for cost in costs)
    print(f"CPU per streamed chunk, {streams} streams, one token each {1000 * PACE_S:.0f} ms:")
    print(f"gateway {1e6 * mine:.1f} µs   nginx {1e6 * theirs:.1f} µs   ratio {ratio:.2f} (median of {rounds} pairs)")


async def _cost(pid: int, port: int, key: str, streams: int) -> float:
    """CPU seconds of the process per chunk that it relayed."""
    before = cpu_s(pid)
    received = await asyncio.gather(*(_read_one(port, key) for _ in range(streams)))
    return (cpu_s(pid) - before) / sum(received)


async def _read_one(port: int, key: str) -> int:
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    body = json.dumps({"messages": [{"role": "user", "content": "go"}], "stream": True}).encode()
    chunks = 0
    with await open_exchange(
        Address("127.0.0.1", port), "POST", "/v1/chat/completions", headers=headers, body=body, connect_timeout_s=5
    ) as exchange:
        if await exchange.read_head(30) != 200:
            raise SystemExit(f"bench: {await exchange.read_all(5)!r}")
        while data := await exchange.read(30):
            chunks += data.count(b'"content":"')
            if DONE in data:
                break
    return chunks


def _serve_stand_in(port: int) -> None:
    asyncio.run(_stand_in(port))


async def _stand_in(port: int) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            (int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0
        )
        await reader.readexactly(length)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        loop = asyncio.get_running_loop()
        due = loop.time()
        for _ in range(CHUNKS):
            due += PACE_S
            await asyncio.sleep(max(0.0, due - loop.time()))
            writer.write(b"%x\r\n%b\r\n" % (len(_EVENT), _EVENT))
        writer.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(_CLOSING), _CLOSING))
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", port, backlog=2048) as server:
        await server.serve_forever()


def _start_nginx(nginx: str, folder: Path, upstream_port: int) -> tuple[subprocess.Popen[bytes], int, int]:
    """One worker without a log, unbuffered; gives the process, the worker's pid and the port."""
    port = free_port()
    config = folder / "nginx.conf"
    config.write_text(
        f"""daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 4096; }}
http {{ access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://127.0.0.1:{upstream_port};
    proxy_http_version 1.1; proxy_buffering off; }} }} }}"""
    )
    process = subprocess.Popen([nginx, "-c", str(config), "-e", str(folder / "error.log")])
    return process, process.pid, port

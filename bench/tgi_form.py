"""The bytes of Text Generation Inference, as recorded from a real one (tests/recorded/tgi; tests/unit compares)."""

from __future__ import annotations

import json

DONE = b"data: [DONE]\n\n"
ENGINE_DIED = (
    b'data: {"error":{"message":"Request failed during generation: Server error: transport error",'
    b'"http_status_code":422}}\n\n'
)
OVERLOADED_EVENT = b'data: {"error":{"message":"Model is overloaded","http_status_code":422}}\n\n'
OVERLOADED = b'{"error":"Model is overloaded","error_type":"overloaded"}'
MODEL = "/models/bench"
_COMMON = f'"model":"{MODEL}","system_fingerprint":"3.3.6-dev0-native"'
_CORS = (
    b"vary: origin, access-control-request-method, access-control-request-headers\r\naccess-control-allow-origin: *\r\n"
)
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\n"
    b"x-compute-type: gpu+optimized\r\nx-compute-characters: 178\r\nx-accel-buffering: no\r\n"
    + _CORS
    + b"transfer-encoding: chunked\r\n\r\n"
)
_REASONS = {200: "OK", 404: "Not Found", 429: "Too Many Requests"}
LAST_FRAME = b"0\r\n\r\n"


def event_around_text(created: int) -> tuple[bytes, bytes]:
    """What stands before and after the text of a token that is not the last."""
    return (
        b'data: {"object":"chat.completion.chunk","id":"","created":%d,%b,"choices":[{"index":0,"delta":'
        b'{"role":"assistant","content":"' % (created, _COMMON.encode()),
        b'"},"logprobs":null,"finish_reason":null}],"usage":null}\n\n',
    )


def last_event(text: bytes, finish: bytes, created: int) -> bytes:
    """The token that carries the reason to finish."""
    before, after = event_around_text(created)
    return before + text + after.replace(b'"finish_reason":null', b'"finish_reason":"%b"' % finish)


def usage_event(prompt: int, completion: int, created: int) -> bytes:
    """What `stream_options.include_usage` adds."""
    return (
        b'data: {"object":"chat.completion.chunk","id":"","created":%d,%b,"choices":[],"usage":{"prompt_tokens":%d,'
        b'"completion_tokens":%d,"total_tokens":%d}}\n\n'
        % (created, _COMMON.encode(), prompt, completion, prompt + completion)
    )


def framed(event: bytes) -> bytes:
    """As an HTTP chunk: TGI sends each event in one of its own."""
    return b"%x\r\n%b\r\n" % (len(event), event)


def completion(text: str, finish: str, prompt: int, tokens: int, created: int) -> bytes:
    """The body of an answer that is not streamed."""
    return (
        f'{{"object":"chat.completion","id":"","created":{created},{_COMMON},"choices":[{{"index":0,"message":'
        f'{{"role":"assistant","content":{json.dumps(text)}}},"logprobs":null,"finish_reason":"{finish}"}}],"usage":'
        f'{{"prompt_tokens":{prompt},"completion_tokens":{tokens},"total_tokens":{prompt + tokens}}}}}'
    ).encode()


def plain(body: bytes, status: int = 200, *, is_chat: bool = False) -> bytes:
    """A whole answer that is JSON, or empty."""
    head = f"HTTP/1.1 {status} {_REASONS[status]}\r\n".encode()
    if body:
        head += b"content-type: application/json\r\n"
    if is_chat:
        head += b"x-compute-type: gpu+optimized\r\nx-compute-characters: 178\r\n"
    return head + _CORS + b"content-length: %d\r\n\r\n" % len(body) + body


def tokens_of(text: bytes) -> int:
    """The mock's tokenizer: a token for each word."""
    return text.count(b" ") + 1


def tokenized(text: str) -> bytes:
    """The answer of /tokenize: TGI puts a bos in front that has no place in the text."""
    tokens = [{"id": 1, "text": "", "start": 0, "stop": 0}]
    at = 0
    for word in text.split(" "):
        tokens.append({"id": 2, "text": word, "start": at, "stop": at + len(word) + 1})
        at += len(word) + 1
    return json.dumps(tokens, separators=(",", ":")).encode()


def chat_tokenized(texts: list[str]) -> bytes:
    """The answer of /chat_tokenize."""
    joined = " ".join(texts)
    return b'{"tokenize_response":%b,"templated_text":%b}' % (tokenized(joined), json.dumps(joined).encode())


def info() -> bytes:
    """The answer of /info."""
    return json.dumps(
        {
            "model_id": MODEL,
            "model_sha": None,
            "model_pipeline_tag": None,
            "max_concurrent_requests": 100000,
            "max_best_of": 2,
            "max_stop_sequences": 4,
            "max_input_tokens": 1_000_000,
            "max_total_tokens": 2_000_000,
            "validation_workers": 2,
            "max_client_batch_size": 4,
            "router": "text-generation-router",
            "version": "3.3.6-dev0",
            "sha": "db931fcf42da018a3657580c64bf2720f167f9ab",
            "docker_label": None,
        },
        separators=(",", ":"),
    ).encode()

"""A stand-in for text-generation-launcher: a program of its own that takes its flags, speaks its log and answers.

It runs as a process (tests/chaos) and in a container (tests/containers). What it does wrong is written in the file
`behaviour` of its model folder, as words: fails, ignores_sigterm, floods, never_ready, writes, has_children,
daemonizes, stalls (its /health stops answering after the first token, /info goes on). POST /die ends it with 1 as a
crashed shard does.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FLAGS = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=False))
MODEL = Path(FLAGS["--model-id"])
DOING = (MODEL / "behaviour").read_text().split() if (MODEL / "behaviour").exists() else []
SLEEPER = [sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)"]
answered = threading.Event()


def say(text):
    print(f"2026-11-22T16:46:08.641668Z  {text}", flush=True)


class Answers(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/health" and "stalls" in DOING and answered.is_set():
            time.sleep(600)
        self.answer(200, {"model_id": str(MODEL)} if self.path == "/info" else {})

    def do_POST(self):
        asked = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/die":
            say("ERROR text_generation_launcher: Shard 0 crashed")
            print("Error: ShardFailed", flush=True)
            os._exit(1)
        if "never_ready" in DOING:
            self.answer(503, {"error": "unhealthy", "error_type": "healthcheck"})
        elif self.headers.get("Authorization") != f"Bearer {os.environ['API_KEY']}":
            self.answer(401, {})
        elif self.path == "/chat_tokenize":
            self.answer(
                200, {"tokenize_response": [{"id": 1, "text": "Hi", "start": 0, "stop": 2}], "templated_text": "Hi"}
            )
        elif b'"stream":true' in asked.replace(b" ", b""):
            self.stream()
        else:
            self.answer(200, {"choices": [{"message": {"role": "assistant", "content": "Hi"}}]})
            answered.set()

    def answer(self, status, body):
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def stream(self):
        """Two tokens, in the form of a real one."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for text, reason in (("Hi", None), (" there", "stop")):
            choice = {"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": reason}
            event = {
                "object": "chat.completion.chunk",
                "id": "",
                "created": 1,
                "model": str(MODEL),
                "choices": [choice],
            }
            self.wfile.write(b"data:" + json.dumps(event).encode() + b"\n\n")
        self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, *_):
        pass


def main():
    say(f"INFO download: text_generation_launcher: Starting check and download process for {MODEL}")
    if "fails" in DOING:
        say("ERROR text_generation_launcher: Error when initializing model")
        print("RuntimeError: weight lm_head.weight does not exist rank=0\nError: ShardCannotStart", flush=True)
        sys.exit(1)
    if "ignores_sigterm" in DOING:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    if "writes" in DOING:
        try:
            (MODEL / "written").touch()
        except OSError as error:
            say(f"WARN the model's folder cannot be written: {error.strerror}")
    say("INFO shard-manager: text_generation_launcher: Starting shard rank=0")
    if "has_children" in DOING or "daemonizes" in DOING:
        children = [subprocess.Popen(SLEEPER, start_new_session="daemonizes" in DOING) for _ in range(2)]
        Path(FLAGS["--shard-uds-path"]).with_name("children").write_text(" ".join(str(one.pid) for one in children))
    if "floods" in DOING:
        for _ in range(2000):
            print("x" * 10_000)
        print("y" * 3_000_000, flush=True)
    say("INFO text_generation_router_v3: backends/v3/src/lib.rs:125: Warming up model")
    server = ThreadingHTTPServer((FLAGS["--hostname"], int(FLAGS["--port"])), Answers)
    say("INFO text_generation_router::server: router/src/server.rs:2302: Connected")
    server.serve_forever()


main()

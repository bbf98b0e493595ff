"""A container registry on 127.0.0.1, as far as asking it for the digest of a tag: manifests of the distribution API
(`GET|HEAD /v2/NAME/manifests/TAG`), whose digest is the SHA-256 of their bytes."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


def manifest(name: str, tag: str) -> bytes:
    """Some image's: its configuration and layers are never asked for."""
    config = {"mediaType": "application/vnd.docker.container.image.v1+json", "size": 2, "digest": _digest(b"{}")}
    told = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [], "annotations": {name: tag}}
    return json.dumps(told).encode()


def _digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


class Registry:
    """The running one. `manifests` is what it has; `status` other than 200 is its answer to every question."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.manifests: dict[tuple[str, str], bytes] = {}
        self.status = 200

    def add(self, name: str, tag: str, version: str = "") -> str:
        """Returns the digest."""
        self.manifests[name, tag] = manifest(name, tag + version)
        return _digest(self.manifests[name, tag])


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        registry: Registry = self.server.registry  # type: ignore[attr-defined]
        asked = re.fullmatch(r"/v2/(.+)/manifests/(.+)", self.path)
        if registry.status != 200:
            self._send(registry.status, b'{"errors": [{"code": "DENIED", "message": "no"}]}')
        elif self.path == "/v2/":
            self._send(200, b"{}")
        elif asked is None:
            self._send(200, b"{}", "application/octet-stream")
        else:
            found = [
                content
                for (name, tag), content in registry.manifests.items()
                if name == asked[1] and asked[2] in (tag, _digest(content))
            ]
            self._send(200 if found else 404, found[0] if found else b'{"errors": []}', MANIFEST)

    do_HEAD = do_GET

    def _send(self, status: int, content: bytes, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Docker-Content-Digest", _digest(content))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *_: object) -> None:
        pass


@contextmanager
def registry() -> Iterator[Registry]:
    """Runs it on a free port."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Answers) as server:
        server.daemon_threads = True
        found = Registry(f"127.0.0.1:{server.server_address[1]}")
        server.registry = found  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield found
        finally:
            server.shutdown()
            thread.join(10)

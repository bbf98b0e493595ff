"""A git host on loopback: real git over smart HTTP (`git http-backend`), Git LFS's batch API, and basic authentication.

It is what OpenXLab, ModelScope and other hosts are to `git` and `git lfs`. Faults are attributes that a test sets:
connections that are cut, slow answers, spoilt objects, a server that says 500. Everything asked is kept in `asked`.
LFS API: https://github.com/git-lfs/git-lfs/tree/main/docs/api
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.fakes.ranged import Faults, send_content

LFS_JSON = "application/vnd.git-lfs+json"


@dataclass
class Asked:
    """One request: `signed_in` when it carried the right name and token; `sent` bytes of body went back."""

    method: str
    path: str
    range: str
    signed_in: bool
    sent: int = 0

    def count(self, size: int) -> None:
        self.sent += size


class GitHost:
    """The running host; made by `git_host`. Repositories are bare ones in `folder/USER/REPO.git`."""

    def __init__(self, folder: Path, url: str, username: str, token: str) -> None:
        self.folder = folder
        self.url = url
        self.username = username
        self.token = token
        self.is_private = False
        self.asked: list[Asked] = []
        self.faults = Faults()
        self.cut_uploads = 0  # that many uploads are cut
        self.pause_uploads_s = 0.0  # before each upload is taken
        self.fail_next = 0  # that many answers are 503
        self.spoilt: set[str] = set()  # objects whose first byte comes wrong
        self.redirect_lfs_to = ""  # another host for the objects, which wants to be signed in too

    def create(self, name: str) -> Path:
        """An empty bare repository; returns its folder."""
        path = self.folder / f"{name}.git"
        path.mkdir(parents=True)
        run_git(path, "init", "--quiet", "--bare", "--initial-branch=main", ".")
        run_git(path, "config", "http.receivepack", "true")
        return path

    def fill(self, name: str, files: dict[str, bytes], lfs: tuple[str, ...] = (), branch: str = "main") -> str:
        """One commit with these files, those of `lfs` as pointers with their objects here; returns the commit."""
        path = self.folder / f"{name}.git"
        if not path.exists():
            self.create(name)
        lines = []
        for file, content in files.items():
            if file in lfs:
                oid = self.store(content)
                content = (
                    f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {len(content)}\n".encode()
                )
            blob = run_git(path, "hash-object", "-w", "--stdin", given=content).strip()
            lines.append(f"100644 {blob}\t{file}")
        environ = {"GIT_INDEX_FILE": str(path / "fill.index")}
        run_git(path, "update-index", "--add", "--index-info", given="\n".join(lines).encode(), environ=environ)
        tree = run_git(path, "write-tree", environ=environ).strip()
        (path / "fill.index").unlink()
        who = ("-c", "user.name=host", "-c", "user.email=host@example.org")
        commit = run_git(path, *who, "commit-tree", "-m", "files", tree).strip()
        run_git(path, "update-ref", f"refs/heads/{branch}", commit)
        return commit

    def store(self, content: bytes) -> str:
        """Put an LFS object here; returns its oid."""
        oid = hashlib.sha256(content).hexdigest()
        self.object(oid).parent.mkdir(parents=True, exist_ok=True)
        self.object(oid).write_bytes(content)
        return oid

    def object(self, oid: str) -> Path:
        return self.folder / "lfs" / oid

    def of(self, method: str, part: str) -> list[Asked]:
        """The requests with that method whose path has `part` in it."""
        return [asked for asked in self.asked if asked.method == method and part in asked.path]

    def downloaded_bytes(self) -> int:
        return sum(asked.sent for asked in self.of("GET", "/lfs/objects/"))


def run_git(folder: Path, *arguments: str, given: bytes = b"", environ: dict[str, str] | None = None) -> str:
    """git's own answer, without anybody's configuration."""
    clean = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", **(environ or {})}
    command = ["git", *arguments]
    done = subprocess.run(command, cwd=folder, input=given, capture_output=True, env=clean, check=False)
    assert done.returncode == 0, (command, done.stderr.decode())
    return done.stdout.decode()


@contextmanager
def git_host(folder: Path, *, username: str = "camper", token: str = "right-token") -> Iterator[GitHost]:
    """Runs it on a free port of 127.0.0.1, in threads of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        server.daemon_threads = True
        host = GitHost(folder, f"http://127.0.0.1:{server.server_address[1]}", username, token)
        server.git_host = host  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="git host", daemon=True)
        thread.start()
        try:
            yield host
        finally:
            server.shutdown()
            thread.join(10)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def _serve(self) -> None:
        host: GitHost = self.server.git_host  # type: ignore[attr-defined]
        path, _, query = self.path.partition("?")
        path = re.sub("/+", "/", path)
        expected = "Basic " + base64.b64encode(f"{host.username}:{host.token}".encode()).decode()
        asked = Asked(
            self.command, path, self.headers.get("Range", ""), self.headers.get("Authorization", "") == expected
        )
        host.asked.append(asked)
        self.close_connection = True
        with suppress(ConnectionError):
            if self.command == "PUT" and host.cut_uploads:
                host.cut_uploads -= 1
                self.rfile.read(min(1000, int(self.headers["Content-Length"])))
                return
            body = self._body()
            if host.fail_next:
                host.fail_next -= 1
                self._answer(503, b"busy")
            elif not asked.signed_in and (host.is_private or self._writes(path, query, body)):
                self._answer(401, b"sign in", {"WWW-Authenticate": 'Basic realm="git"'})
            else:
                self._route(host, asked, query, body)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", "0")))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _writes(self, path: str, query: str, body: bytes) -> bool:
        is_upload = path.endswith("/objects/batch") and json.loads(body)["operation"] == "upload"
        is_push = "git-receive-pack" in path or "git-receive-pack" in query
        return self.command == "PUT" or is_push or is_upload or path.endswith("/verify")

    def _route(self, host: GitHost, asked: Asked, query: str, body: bytes) -> None:
        path = asked.path
        if path.endswith("/info/lfs/objects/batch"):
            self._batch(host, path.partition("/info/")[0], json.loads(body))
        elif "/lfs/objects/" in path:
            self._object(host, asked, path.rsplit("/", 1)[-1], body)
        elif path.endswith("/lfs/verify"):
            wanted = json.loads(body)
            found = host.object(wanted["oid"])
            is_there = found.exists() and found.stat().st_size == wanted["size"]
            self._answer(200 if is_there else 404, b"{}", {"Content-Type": LFS_JSON})
        elif "/info/lfs/" in path:
            self._answer(404, b'{"message": "no locks here"}', {"Content-Type": LFS_JSON})
        elif not (host.folder / path.partition(".git/")[0][1:]).with_suffix(".git").exists():
            self._answer(404, b"no such repository")
        else:
            self._backend(host, path, query, body, host.username if asked.signed_in else "")

    def _batch(self, host: GitHost, repository: str, wanted: dict[str, object]) -> None:
        objects = wanted["objects"]
        assert isinstance(objects, list)
        base = (host.redirect_lfs_to or host.url) + repository
        answered = [_actions(host, base, str(wanted["operation"]), one["oid"], one["size"]) for one in objects]
        body = json.dumps({"transfer": "basic", "objects": answered}).encode()
        self._answer(200, body, {"Content-Type": LFS_JSON})

    def _object(self, host: GitHost, asked: Asked, oid: str, body: bytes) -> None:
        if self.command == "PUT":
            time.sleep(host.pause_uploads_s)
            if hashlib.sha256(body).hexdigest() != oid:
                self._answer(422, b'{"message": "another object"}')
                return
            host.store(body)
            self._answer(200, b"")
            return
        if not host.object(oid).exists():
            self._answer(404, b"no such object")
            return
        content = host.object(oid).read_bytes()
        if oid in host.spoilt:
            content = bytes([content[0] ^ 1]) + content[1:]
        send_content(self, content, host.faults, asked.count)

    def _backend(self, host: GitHost, path: str, query: str, body: bytes, user: str) -> None:
        environ = {
            **os.environ,
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_PROJECT_ROOT": str(host.folder),
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            "REQUEST_METHOD": self.command,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "REMOTE_USER": user,
            "REMOTE_ADDR": "127.0.0.1",
        }
        command = ["git", "-c", "safe.directory=*", "http-backend"]
        done = subprocess.run(command, input=body, capture_output=True, env=environ, check=False)
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n") if ": " in line)
        status = int(headers.pop("Status", "200 OK").split()[0])
        self._answer(status, content, headers)

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def _actions(host: GitHost, base: str, operation: str, oid: str, size: int) -> dict[str, object]:
    there = host.object(oid).exists()
    if operation == "download" and not there:
        return {"oid": oid, "size": size, "error": {"code": 404, "message": "Object does not exist"}}
    if operation == "download":
        return {"oid": oid, "size": size, "actions": {"download": {"href": f"{base}/lfs/objects/{oid}"}}}
    if there:
        return {"oid": oid, "size": size}
    actions = {"upload": {"href": f"{base}/lfs/objects/{oid}"}, "verify": {"href": f"{base}/lfs/verify"}}
    return {"oid": oid, "size": size, "actions": actions}

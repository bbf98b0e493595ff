"""Hugging Face's hub and ModelScope's on one loopback port, as far as their own packages ask when they fetch a model.

Hugging Face: `/api/models/ID[/revision/REV|/tree/REV]`, `/ID/resolve/REV/FILE` with the LFS headers `X-Linked-Etag` and
`X-Linked-Size` (https://huggingface.co/docs/hub/api). ModelScope: `/api/v1/models/ID/repo/files` and
`/api/v1/models/ID/repo?FilePath=`, as `modelscope_hub` 0.5 asks them. Publishing to Hugging Face: `preupload`, LFS's
batch API with `PUT`, and `commit` in lines of JSON, as `huggingface_hub` 2.4 asks them.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.fakes.ranged import Faults, send_content

COMMIT = "c0ffee" + "0" * 34
LFS_FROM_BYTES = 10_000


@dataclass
class Asked:
    method: str
    path: str
    token: str
    range: str
    sent: int = 0

    def count(self, size: int) -> None:
        self.sent += size


class ModelHub:
    """The running hub; made by `model_hub`. `token` None lets everybody in."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.token: str | None = None
        self.faults = Faults()
        self.fail_next = 0
        self.spoilt: set[str] = set()  # files whose first byte comes wrong, with the right promises
        self.files_at = ""  # another address, to which requests for large files of Hugging Face are sent
        self.asked: list[Asked] = []
        self.lock = threading.Lock()
        self.objects: dict[str, bytes] = {}  # of LFS, by their SHA-256
        self.commits: list[str] = []
        self.made: list[dict[str, Any]] = []  # what was asked for new repositories
        self.put_limit: int | None = None  # uploads after that many are refused

    def downloaded_bytes(self) -> int:
        return sum(asked.sent for asked in self.asked)


@contextmanager
def model_hub() -> Iterator[ModelHub]:
    """Runs it on a free port of 127.0.0.1, in threads of its own."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        server.daemon_threads = True
        hub = ModelHub(f"http://127.0.0.1:{server.server_address[1]}")
        server.hub = hub  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="model hub", daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join(10)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        hub: ModelHub = self.server.hub  # type: ignore[attr-defined]
        self.close_connection = True
        parts = urlsplit(self.path)
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        asked = Asked(self.command, unquote(self.path), token, self.headers.get("Range", ""))
        hub.asked.append(asked)
        with suppress(ConnectionError):
            self.body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            if hub.fail_next:
                hub.fail_next -= 1
                self._json(503, {"error": "busy"})
            elif self.command == "PUT":
                self._put(hub, parts.path.rpartition("/")[2])
            elif hub.token is not None and hub.token not in (token, self._cookie()):
                self._json(401, {"error": "Invalid credentials", "Code": 401, "Message": "not signed in"})
            elif self.command == "POST" and parts.path.rstrip("/") == "/api/v1/models":
                wanted = json.loads(self.body)
                hub.repositories[f"{wanted['Path']}/{wanted['Name']}"] = {}
                hub.made.append(wanted)
                self._json(200, {"Code": 200, "Success": True, "Data": wanted})
            elif parts.path.startswith("/api/v1/models/"):
                query = {name: values[0] for name, values in parse_qs(parts.query).items()}
                self._modelscope(hub, asked, unquote(parts.path).removeprefix("/api/v1/models/"), query)
            elif self.command == "POST" and parts.path == "/api/repos/create":
                self._create(hub, json.loads(self.body))
            elif self.command == "POST" and parts.path.endswith("/objects/batch"):
                self._batch(hub)
            elif self.command == "POST" and parts.path == "/api/validate-yaml":
                self._json(200, {"errors": [], "warnings": []})
            elif self.command == "POST" and "/preupload/" in parts.path:
                files = json.loads(self.body)["files"]
                self._json(200, {"files": [_upload_mode(one) for one in files]})
            elif self.command == "POST" and "/commit/" in parts.path:
                self._commit(hub, unquote(parts.path).removeprefix("/api/models/").partition("/commit/")[0])
            elif parts.path.startswith("/api/models/"):
                self._huggingface_api(hub, unquote(parts.path).removeprefix("/api/models/").split("/"))
            elif "/resolve/" in parts.path:
                self._resolve(hub, asked, unquote(parts.path)[1:])
            else:
                self._json(404, {"error": "no such page"})

    do_HEAD = do_GET
    do_POST = do_GET
    do_PUT = do_GET

    def _cookie(self) -> str:
        for part in self.headers.get("Cookie", "").split(";"):
            name, _, value = part.strip().partition("=")
            if name == "m_session_id":
                return value
        return ""

    def _huggingface_api(self, hub: ModelHub, parts: list[str]) -> None:
        name, rest = "/".join(parts[:2]), parts[2:]
        if name not in hub.repositories:
            self._json(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        elif rest and rest[1] not in ("main", COMMIT):
            self._json(404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})
        elif rest and rest[0] == "tree":
            self._json(200, [_tree_entry(file, content) for file, content in hub.repositories[name].items()])
        else:
            siblings = [_sibling(file, content) for file, content in hub.repositories[name].items()]
            self._json(200, {"id": name, "modelId": name, "sha": COMMIT, "private": False, "siblings": siblings})

    def _resolve(self, hub: ModelHub, asked: Asked, path: str) -> None:
        name, _, rest = path.partition("/resolve/")
        file = rest.partition("/")[2]
        content = hub.repositories.get(name, {}).get(file)
        if content is None:
            self._json(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
            return
        sha256 = hashlib.sha256(content).hexdigest()
        etag = sha256 if len(content) >= LFS_FROM_BYTES else hashlib.sha1(content).hexdigest()
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
        if len(content) >= LFS_FROM_BYTES:
            headers |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(content))}
        if hub.files_at:
            self._json(302, {}, {**headers, "Location": hub.files_at + self.path})
        else:
            send_content(self, self._spoilt(hub, file, content), hub.faults, asked.count, headers)

    def _create(self, hub: ModelHub, wanted: dict[str, Any]) -> None:
        name = f"{wanted['organization']}/{wanted['name']}"
        url = {"url": f"{hub.url}/{name}"}
        if name in hub.repositories:
            self._json(409, {"error": "You already created this model repo", **url})
            return
        hub.repositories[name] = {}
        hub.made.append(wanted)
        self._json(200, url)

    def _put(self, hub: ModelHub, oid: str) -> None:
        with hub.lock:
            is_full = hub.put_limit is not None and len(hub.objects) >= hub.put_limit
            is_right = hashlib.sha256(self.body).hexdigest() == oid
            if is_right and not is_full:
                hub.objects[oid] = self.body
        if is_full:
            self._json(400, {"error": "the storage is being restarted"})
        elif not is_right:
            self._json(400, {"error": "another object"})
        else:
            self._json(200, {}, {"ETag": '"1"'})

    def _batch(self, hub: ModelHub) -> None:
        answered = []
        for one in json.loads(self.body)["objects"]:
            href = f"{hub.url}/lfs/{one['oid']}"
            actions = {} if one["oid"] in hub.objects else {"actions": {"upload": {"href": href, "header": {}}}}
            answered.append({"oid": one["oid"], "size": one["size"], **actions})
        self._json(200, {"transfer": "basic", "objects": answered})

    def _commit(self, hub: ModelHub, name: str) -> None:
        files = hub.repositories[name]
        for line in self.body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            match entry["key"]:
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    files[value["path"]] = hub.objects[value["oid"]]
                case "deletedFile":
                    del files[value["path"]]
                case "header":
                    hub.commits.append(value["summary"])
        self._json(200, {"commitUrl": f"{hub.url}/{name}/commit/{COMMIT}", "commitOid": COMMIT, "hookOutput": ""})

    def _modelscope(self, hub: ModelHub, asked: Asked, path: str, query: dict[str, str]) -> None:
        name, _, what = path.partition("/repo")
        files = hub.repositories.get(name)
        if files is None or query.get("Revision") not in ("master", None):
            self._json(404, {"Code": 10010205001, "Message": "record not found", "Success": False})
        elif what == "" and "FilePath" not in query:
            owner, _, base = name.partition("/")
            self._json(200, {"Code": 200, "Success": True, "Data": {"Path": owner, "Name": base}})
        elif what == "/files":
            entries = [_modelscope_entry(file, content) for file, content in files.items()]
            self._json(200, {"Code": 200, "Success": True, "Data": {"Files": entries}})
        elif query.get("FilePath") in files:
            file = query["FilePath"]
            send_content(self, self._spoilt(hub, file, files[file]), hub.faults, asked.count)
        else:
            self._json(404, {"Code": 404, "Message": "file not found", "Success": False})

    def _spoilt(self, hub: ModelHub, file: str, content: bytes) -> bytes:
        return bytes([content[0] ^ 1]) + content[1:] if file in hub.spoilt else content

    def _json(self, status: int, answer: Any, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        standard = {"Content-Type": "application/json", "Content-Length": str(len(body)), "Connection": "close"}
        for name, value in {**standard, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def _upload_mode(file: dict[str, Any]) -> dict[str, Any]:
    mode = "lfs" if file["size"] >= LFS_FROM_BYTES else "regular"
    return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}


def _blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _lfs(content: bytes) -> dict[str, Any]:
    sha256 = hashlib.sha256(content).hexdigest()
    return {"oid": sha256, "sha256": sha256, "size": len(content), "pointerSize": 134}


def _tree_entry(file: str, content: bytes) -> dict[str, Any]:
    lfs = {"lfs": _lfs(content)} if len(content) >= LFS_FROM_BYTES else {}
    return {"type": "file", "path": file, "size": len(content), "oid": _blob(content), **lfs}


def _sibling(file: str, content: bytes) -> dict[str, Any]:
    lfs = {"lfs": _lfs(content)} if len(content) >= LFS_FROM_BYTES else {}
    return {"rfilename": file, "size": len(content), "blobId": _blob(content), **lfs}


def _modelscope_entry(file: str, content: bytes) -> dict[str, Any]:
    sha256 = hashlib.sha256(content).hexdigest()
    return {"Name": file, "Path": file, "Type": "blob", "Size": len(content), "Sha256": sha256, "IsLFS": False}

"""A program of its own that asks a hub through the hub's own package: `hub_child.py JOB`, JOB being a
file of JSON.

It runs as a child so that it can be killed at any moment, so that its environment is its own, and so that nothing that
these packages print, keep or start stays in ours. It imports nothing of ours.

JOB has `hub` (huggingface or modelscope), `command`, `endpoint`, `id`, and what the command wants: list and fetch
`revision`, fetch also `folder` and `names`, compare and push `rows` (name, path and SHA-256 of each file), push also
`removed` and `message`. The token is in INTERNLM_HUB_TOKEN. The last line of the output that begins with MARK holds the
answer as JSON, or `{"reason": …, "said": …}` with exit code 1; lines that begin with SENT hold the bytes sent so far.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import io
import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

MARK = "@internlm "
SENT = "@sent "

Command = Callable[[dict[str, Any], str | None], dict[str, Any]]
Hub = tuple[dict[str, Command], Callable[[BaseException], str]]


def main(job: dict[str, Any]) -> int:
    answer: dict[str, Any]
    code = 0
    try:
        commands, reason_of = _HUBS[job["hub"]]()
        token = os.environ.get("INTERNLM_HUB_TOKEN") or None
        answer = commands[job["command"]](job, token)
        absent = [name for name in job.get("names", ()) if not (Path(job["folder"]) / name).exists()]
        if absent:
            answer, code = {"reason": "network", "said": f"{', '.join(absent)} did not come"}, 1
    except ImportError as error:
        answer, code = {"reason": "package", "said": str(error)}, 1
    except Exception as error:  # the last resort of this program: its parent gets the reason in any case
        answer, code = {"reason": _reason(error, reason_of), "said": _said(error)}, 1
    print(f"\n{MARK}{json.dumps(answer)}", flush=True)  # noqa: T201
    return code


def _huggingface() -> Hub:
    from huggingface_hub import (
        CommitOperationAdd,
        CommitOperationDelete,
        HfApi,
        constants,
        get_hf_file_metadata,
        get_token,
        hf_hub_url,
    )
    from huggingface_hub import errors as hf
    from huggingface_hub.file_download import http_get

    def list_files(job: dict[str, Any], token: str | None) -> dict[str, Any]:
        api = HfApi(endpoint=job["endpoint"], token=token)
        info = api.model_info(job["id"], revision=job["revision"], files_metadata=True, timeout=30)
        files = [(one.rfilename, one.size, one.lfs.sha256 if one.lfs else None) for one in info.siblings or ()]
        return {"files": files, "commit": info.sha}

    def fetch(job: dict[str, Any], token: str | None) -> dict[str, Any]:
        constants.DOWNLOAD_CHUNK_SIZE = 1 << 18  # what is lost of a file when this is killed; 10 MB by default
        with ThreadPoolExecutor(4) as pool:
            running = [pool.submit(fetch_one, job, name, token) for name in job["names"]]
            for one in running:
                one.result()
        return {}

    def fetch_one(job: dict[str, Any], name: str, token: str | None) -> None:
        """As `snapshot_download` does, which since 2.x throws half files away; here they are gone on with."""
        url = hf_hub_url(job["id"], name, revision=job["revision"], endpoint=job["endpoint"])
        found = get_hf_file_metadata(url, token=token, endpoint=job["endpoint"])
        is_same_host = urlsplit(found.location).netloc == urlsplit(url).netloc
        known = (token or get_token()) if is_same_host else None
        headers = {"authorization": f"Bearer {known}"} if known else {}
        partial = Path(job["folder"]) / f"{name}.{(found.etag or '')[:16]}.incomplete"
        with partial.open("ab") as file:
            there = partial.stat().st_size
            if found.size is not None and there > found.size:
                file.truncate(there := 0)
            http_get(found.location, file, resume_size=there, headers=headers, expected_size=found.size)
        partial.replace(Path(job["folder"]) / name)

    def compare(job: dict[str, Any], token: str | None) -> dict[str, Any]:
        info = HfApi(endpoint=job["endpoint"], token=token).model_info(job["id"], files_metadata=True, timeout=30)
        there = {one.rfilename: one.lfs.sha256 if one.lfs else one.blob_id for one in info.siblings or ()}
        changed = [name for name, path, sha256 in job["rows"] if there.get(name) not in (sha256, _blob_id(path))]
        return {"commit": info.sha or "", "files": list(there), "changed": changed}

    def create(job: dict[str, Any], token: str | None) -> dict[str, Any]:
        HfApi(endpoint=job["endpoint"], token=token).create_repo(job["id"], private=True, exist_ok=True)
        return {}

    def push(job: dict[str, Any], token: str | None) -> dict[str, Any]:
        api = HfApi(endpoint=job["endpoint"], token=token)
        added = [CommitOperationAdd(name, _Counted(path)) for name, path, _ in job["rows"]]
        removed = [CommitOperationDelete(name) for name in job["removed"]]
        _Counted.is_sending = True  # until here the files were read for their hashes
        done = api.create_commit(job["id"], [*added, *removed], commit_message=job["message"], num_threads=2)
        return {"commit": done.oid}

    def reason_of(error: BaseException) -> str:
        status = error.response.status_code if isinstance(error, hf.HfHubHTTPError) else 0
        if isinstance(error, hf.GatedRepoError) or (
            status in (401, 403) and not isinstance(error, hf.RepositoryNotFoundError)
        ):
            return "auth"
        if isinstance(error, hf.RepositoryNotFoundError | hf.RevisionNotFoundError) or status == 404:
            return "missing"
        is_network = _is_transport(error) or isinstance(error, hf.LocalEntryNotFoundError)
        if (status == 429 or status >= 500) or (is_network and not status) or "Consistency check" in str(error):
            return "network"
        return "other"

    commands: dict[str, Command] = {
        "list": list_files,
        "fetch": fetch,
        "compare": compare,
        "create": create,
        "push": push,
    }
    return commands, reason_of


def _modelscope() -> Hub:
    from modelscope_hub import HubApi
    from modelscope_hub import errors as ms

    def list_files(job: dict[str, Any], token: str | None) -> dict[str, Any]:
        found = HubApi(endpoint=job["endpoint"], token=token).list_repo_files(
            job["id"], "model", revision=job["revision"]
        )
        files = [(one.path, one.size, one.sha256 or None) for one in found if not one.is_dir]
        return {"files": files, "commit": job["revision"]}

    def fetch(job: dict[str, Any], token: str | None) -> dict[str, Any]:
        HubApi(endpoint=job["endpoint"], token=token).download_repo(
            job["id"],
            "model",
            revision=job["revision"],
            local_dir=job["folder"],
            allow_patterns=[glob.escape(name) for name in job["names"]],
        )
        return {}

    def create(job: dict[str, Any], token: str | None) -> dict[str, Any]:
        api = HubApi(endpoint=job["endpoint"], token=token)
        if not api.repo_exists(job["id"], "model"):
            api.create_repo(job["id"], "model", visibility="private")
        return {}

    def reason_of(error: BaseException) -> str:
        if isinstance(error, ms.AuthenticationError | ms.PermissionDeniedError):
            return "auth"
        if isinstance(error, ms.NotExistError | ms.NotFoundError):
            return "missing"
        passing = (ms.NetworkError, ms.ServerError, ms.RequestTimeoutError, ms.RateLimitError, ms.FileDownloadError)
        return "network" if isinstance(error, passing) or _is_transport(error) else "other"

    return {"list": list_files, "fetch": fetch, "create": create}, reason_of


_HUBS: dict[str, Callable[[], Hub]] = {"huggingface": _huggingface, "modelscope": _modelscope}


class _Counted(io.BufferedReader):
    """A file to send, which tells how much has been read of it and its like."""

    is_sending = False
    sent = 0
    told_at = 0.0

    def __init__(self, path: str) -> None:
        super().__init__(io.FileIO(path))

    def read(self, size: int | None = -1, /) -> bytes:
        block = super().read(-1 if size is None else size)
        if _Counted.is_sending:
            _Counted.sent += len(block)
            if (now := time.monotonic()) - _Counted.told_at > 0.2:
                _Counted.told_at = now
                print(f"{SENT}{_Counted.sent}", flush=True)  # noqa: T201
        return block


def _blob_id(path: str) -> str:
    """git's own hash of a small file; large ones are compared by SHA-256."""
    size = os.path.getsize(path)
    if size > 20_000_000:
        return ""
    return hashlib.sha1(b"blob %d\0" % size + Path(path).read_bytes()).hexdigest()


def _chain(error: BaseException) -> list[BaseException]:
    """The error and all that caused it, the first cause last."""
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current and current not in chain:
        chain += [current, *getattr(current, "failed_files", {}).values()]
        current = current.__cause__ or current.__context__
    return chain


def _reason(error: Exception, reason_of: Callable[[BaseException], str]) -> str:
    """The first reason that says something, from the error itself to what caused it."""
    chain = _chain(error)
    if any(getattr(one, "errno", None) in (errno.ENOSPC, errno.EDQUOT) for one in chain):
        return "disk"
    return next((reason for one in chain if (reason := reason_of(one)) != "other"), "other")


def _is_transport(error: BaseException) -> bool:
    """An error of the network, or of the HTTP client that the package happens to use; an answer is none."""
    client, name = type(error).__module__.partition(".")[0], type(error).__name__
    is_client = client in ("httpx", "httpx2", "requests", "urllib3") and name not in ("HTTPStatusError", "HTTPError")
    return is_client or isinstance(error, ConnectionError | TimeoutError)


def _said(error: Exception) -> str:
    """The system's own words for what went wrong on the network where there are some: packages wrap them in pages."""
    causes = [one.strerror for one in _chain(error) if isinstance(one, OSError) and one.errno and one.strerror]
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (causes[-1] if causes else " ".join(lines[:2]) or type(error).__name__)[:300]


if __name__ == "__main__":
    sys.exit(main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))

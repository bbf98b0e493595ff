"""An engine in a container of Docker's. It is no child of ours, so it carries the owner's mark as a label.

Docker's client blocks, so all of it runs in threads; what the container says comes back line by line, and a container
that floods its log waits for us.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from contextlib import suppress
from typing import Any

import docker.types

from inference.child import Hear, LineSplitter
from inference.docker_engine import FAILURES, connected, first_line
from inference.engines import ContainerEngine, ContainerSpec
from inference.errors import Cancelled, DiskFull, InferenceError, StartFailed
from inference.sockets import check_port
from inference.status import Progress, Report

LABEL = "internlm-stack.owner"
REQUEST_TIMEOUT_S = 600  # an image's layers take long to unpack, and nothing is said meanwhile
REMOVAL_TIMEOUT_S = 60
MOST_PENDING_LINES = 200
LAST_WORDS_S = 2.0
_LOG_LIMITS = {"max-size": "10m", "max-file": "2"}  # Docker keeps a copy of the log, unbounded unless told so

log = logging.getLogger(__name__)


class ContainerRunner:
    """`mark` is the owner's mark, see `leftovers.py`; `report` hears of the image being fetched."""

    def __init__(self, engine: ContainerEngine, mark: str, report: Report) -> None:
        self._engine = engine
        self._mark = mark
        self._report = report

    async def start(self, hear: Hear) -> ContainerChild:
        """When this is cancelled nothing stays: the thread is told, waited for, and what it has started is ended."""
        stop = threading.Event()
        work = asyncio.create_task(asyncio.to_thread(self._start, stop))
        try:
            container_id = await asyncio.shield(work)
        except asyncio.CancelledError:
            stop.set()
            with suppress(InferenceError):
                await asyncio.to_thread(_remove, await work, 0)
            raise
        return ContainerChild(container_id, hear)

    def _start(self, stop: threading.Event) -> str:
        remove_left_containers(self._mark)
        for port in self._engine.ports:
            check_port(port)
        spec = self._engine.container()
        check_links(spec)
        with connected(REQUEST_TIMEOUT_S) as client:
            try:
                _fetch_image(client, spec.image, self._report, stop)
                container = client.containers.create(**container_options(spec, self._mark))
            except FAILURES as error:
                raise explain_docker(error, spec) from None
            try:
                container.start()
            except FAILURES as error:
                container.remove(force=True, v=True)
                raise explain_docker(error, spec) from None
            container_id: str = container.id
            return container_id


def check_links(spec: ContainerSpec) -> None:
    """Raises StartFailed for a file that is a link to outside of its folder: in a container it leads nowhere."""
    for folder in spec.volumes:
        for path in folder.iterdir():
            if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
                raise StartFailed(
                    f"{path} is a link to a place that the container does not see. Copy the folder with its files "
                    f"(cp -rL {folder} NEW), and set MODEL to the copy."
                )


def container_options(spec: ContainerSpec, mark: str) -> dict[str, Any]:
    """The spec in the words of Docker's client."""
    options: dict[str, Any] = {
        "image": spec.image,
        "command": list(spec.command),
        "environment": dict(spec.environment),
        "labels": {LABEL: mark},
        "volumes": {str(here): {"bind": there, "mode": "ro"} for here, there in spec.volumes.items()},
        "ports": {f"{there}/tcp": ("127.0.0.1", here) for there, here in spec.ports.items()},
        "shm_size": spec.shm_bytes,
        "security_opt": ["no-new-privileges"],
        "log_config": docker.types.LogConfig(type="json-file", config=_LOG_LIMITS),
    }
    if spec.gpus:
        options["device_requests"] = [docker.types.DeviceRequest(count=spec.gpus, capabilities=[["gpu"]])]
    return options


class ContainerChild:
    """The running container, with a thread that waits for its end and one that reads what it says."""

    def __init__(self, container_id: str, hear: Hear) -> None:
        self._id = container_id
        self._hear = hear
        self._loop = asyncio.get_running_loop()
        self._code: asyncio.Future[int] = self._loop.create_future()
        self._heard = asyncio.Event()
        self._room = threading.Semaphore(MOST_PENDING_LINES)
        for work in (self._wait, self._read):
            threading.Thread(target=work, daemon=True, name=f"container-{work.__name__}").start()

    async def has_ended_within(self, seconds: float) -> bool:
        await asyncio.wait([self._code], timeout=seconds)
        return self._code.done()

    async def ending(self) -> int:
        code = await self._code
        await self._last_words()
        return code

    async def end(self, grace_s: float) -> None:
        """`docker stop`, then `docker rm -f`; done to the end even when this wait is cancelled."""
        removal = asyncio.create_task(asyncio.to_thread(_remove, self._id, grace_s))
        try:
            await asyncio.shield(removal)
        except asyncio.CancelledError:
            await removal
            raise
        await self._last_words()

    async def _last_words(self) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._heard.wait(), LAST_WORDS_S)

    def _wait(self) -> None:
        """In a thread. A Docker engine that goes away meanwhile ends the container as far as we can tell."""
        code = 1
        try:
            with connected(REQUEST_TIMEOUT_S) as client:
                code = int(client.api.wait(self._id, timeout=None).get("StatusCode", 1))
        except (StartFailed, *FAILURES) as error:
            log.warning("cannot wait for the container: %s", first_line(error))
        self._call(self._settle, code)

    def _settle(self, code: int) -> None:
        if not self._code.done():
            self._code.set_result(code)

    def _read(self) -> None:
        """In a thread: at most so many lines wait for the event loop."""
        lines = LineSplitter()
        try:
            with connected(REQUEST_TIMEOUT_S) as client:
                client.api.timeout = None  # an engine that is idle says nothing for hours
                for block in client.api.logs(self._id, stream=True, follow=True):
                    for line in lines.feed(block):
                        self._say(line)
        except (StartFailed, *FAILURES) as error:
            log.warning("cannot read what the container says: %s", first_line(error))
        for line in lines.flush():
            self._say(line)
        self._call(self._heard.set)

    def _say(self, line: bytes) -> None:
        self._room.acquire()
        self._call(self._take, line)

    def _take(self, line: bytes) -> None:
        self._room.release()
        self._hear(line)

    def _call(self, function: Any, *arguments: Any) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(function, *arguments)


def remove_left_containers(mark: str, timeout_s: float = REMOVAL_TIMEOUT_S) -> int:
    """Remove every container with this mark; returns how many. Raises StartFailed when Docker does not do it."""
    with connected(timeout_s) as client:
        try:
            left = client.containers.list(all=True, filters={"label": f"{LABEL}={mark}"})
            for container in left:
                with suppress(docker.errors.NotFound):
                    container.remove(force=True, v=True)
            return len(left)
        except FAILURES as error:
            raise StartFailed(f"A container that an earlier run left cannot be removed: {first_line(error)}.") from None


def _remove(container_id: str, grace_s: float) -> None:
    with suppress(StartFailed), connected(grace_s + REMOVAL_TIMEOUT_S) as client:
        try:
            container = client.containers.get(container_id)
            container.stop(timeout=max(0, round(grace_s)))
            container.remove(force=True, v=True)
        except docker.errors.NotFound:
            return
        except FAILURES as error:
            log.warning("the engine's container may still be there: %s", first_line(error))


def _fetch_image(client: docker.DockerClient, image: str, report: Report, stop: threading.Event) -> None:
    """Nothing when it is there. `docker pull`'s news is bytes of each layer; a pull that breaks goes on next time."""
    with suppress(docker.errors.ImageNotFound):
        client.images.get(image)
        return
    name, _, tag = image.rpartition(":")
    message = f"fetching the image {image}"
    report(Progress("download", message=message))
    layers: dict[str, tuple[int, int]] = {}
    for news in client.api.pull(name or image, tag=tag if name else "latest", stream=True, decode=True):
        if stop.is_set():
            raise Cancelled("Stopped while the image was being fetched.")
        if "error" in news:
            raise docker.errors.APIError(str(news["error"]))
        detail = news.get("progressDetail") or {}
        if news.get("status") == "Downloading" and detail.get("total"):
            layers[str(news.get("id"))] = (int(detail.get("current", 0)), int(detail["total"]))
            done, total = (sum(column) for column in zip(*layers.values(), strict=True))
            report(Progress("download", done, total, message))


def explain_docker(error: Exception, spec: ContainerSpec) -> InferenceError:
    """Docker's refusal in plain words, and what to do."""
    text = first_line(error)
    if "could not select device driver" in text or "nvidia-container" in text:
        return StartFailed(
            "Docker cannot give the container a GPU: there is no NVIDIA card, or no NVIDIA container toolkit. Install "
            "nvidia-container-toolkit and restart Docker, or take an engine without a GPU: INFERENCE_ENGINE=llamacpp."
        )
    if "no space left on device" in text:
        return DiskFull(f"The disk became full while Docker worked on {spec.image}. Free some space and start again.")
    if "port is already allocated" in text or "address already in use" in text:
        return StartFailed("The engine's port is taken by another program. Start again: another port is chosen then.")
    if isinstance(error, docker.errors.NotFound) or "pull access denied" in text or "manifest unknown" in text:
        return StartFailed(f"There is no image {spec.image}, here or at its registry. Check INFERENCE_TGI_IMAGE.")
    if any(word in text for word in ("dial tcp", "lookup", "Client.Timeout", "TLS handshake", "connection refused")):
        return StartFailed(
            f"The image {spec.image} cannot be fetched ({text}). Check the network, or load it by hand: docker pull "
            f"{spec.image}"
        )
    return StartFailed(f"Docker refuses to run {spec.image}: {text}")

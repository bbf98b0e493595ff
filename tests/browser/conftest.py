"""A real Chromium, and the web UI as its own process in front of the scripted gateway.

One web UI and one gateway serve all tests of the session; each test is a new person, and the gateway's state is fresh.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Playwright, ViewportSize, expect, sync_playwright

from tests.browser.chat_page import ChatPage
from tests.fakes.gateway import KEY, FakeGateway, GatewayState, create_app, serve

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or "/usr/bin/chromium"
CHROMIUM_ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
DESKTOP, PHONE = (1280, 800), (390, 844)

OpenPage = Callable[..., ChatPage]


@dataclass
class WebUI:
    """A web UI process."""

    url: str
    process: subprocess.Popen[bytes]
    audit_log: Path


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    """For one module at a time: while it is open its event loop runs here, and others could not start theirs.

    Chromium is looked for first: Playwright's driver needs a system library that comes with it.
    """
    if not Path(CHROMIUM).exists():
        say = pytest.fail if "browser" in os.environ.get("TESTS_MAY_NOT_SKIP", "") else pytest.skip
        say("no Chromium: install the package `chromium` of Debian or Ubuntu")
    expect.set_options(timeout=45_000)  # a busy machine of two cores is slow, not wrong
    with sync_playwright() as running:
        yield running


@pytest.fixture(scope="module")
def browser(playwright: Playwright) -> Iterator[Browser]:
    running = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGS)
    yield running
    running.close()


@pytest.fixture(scope="session")
def _gateway_server() -> Iterator[tuple[str, GatewayState]]:
    state = GatewayState()
    with serve(create_app(state)) as url:
        yield url, state


@pytest.fixture
def gateway(_gateway_server: tuple[str, GatewayState]) -> FakeGateway:
    url, state = _gateway_server
    state.__dict__.update(GatewayState().__dict__)
    return FakeGateway(url, state)


@pytest.fixture(scope="session")
def webui(_gateway_server: tuple[str, GatewayState], tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebUI]:
    with start_webui(_gateway_server[0], tmp_path_factory.mktemp("webui")) as running:
        yield running


@pytest.fixture
def open_page(browser: Browser, gateway: FakeGateway, webui: WebUI) -> Iterator[OpenPage]:
    with pages_of(browser, webui.url) as open_page:
        yield open_page


@contextmanager
def pages_of(browser: Browser, url: str) -> Iterator[OpenPage]:
    """Opens pages, each of a new person, and closes them all in the end."""
    contexts = []

    def open_page(
        size: tuple[int, int] = DESKTOP, locale: str = "en-US", *, bypass_csp: bool = False, zone: str = "UTC"
    ) -> ChatPage:
        viewport: ViewportSize = {"width": size[0], "height": size[1]}
        context = browser.new_context(viewport=viewport, locale=locale, bypass_csp=bypass_csp, timezone_id=zone)
        contexts.append(context)
        return ChatPage(context.new_page(), url).open()

    yield open_page
    for context in contexts:
        context.close()


@contextmanager
def start_webui(gateway_url: str, data_dir: Path, port: int = 0, **settings: str) -> Iterator[WebUI]:
    """`python -m webui` on a free port, with every host it asks for written down."""
    port = port or free_port()
    audit_log = data_dir / "hosts.log"
    environ = {
        **os.environ,
        "WEBUI_GATEWAY_URL": gateway_url,
        "WEBUI_API_KEY": KEY,
        "DATA_DIR": str(data_dir),
        "WEBUI_GONE_TIMEOUT_S": "3",
        **settings,
        "AUDIT_LOG": str(audit_log),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "browser" / "audit")]),
    }
    command = [sys.executable, "-m", "webui", "--port", str(port)]
    with open(data_dir / "webui.log", "ab") as log:
        process = subprocess.Popen(command, cwd=data_dir, env=environ, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(url, process, data_dir / "webui.log")
        yield WebUI(url, process, audit_log)
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Waits until a server answers; fails early, with its log, when it has died."""
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except urllib.error.HTTPError:
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"no answer at {url}:\n{log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.1)


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def within(seconds: float, condition: Callable[[], bool]) -> bool:
    """Whether a condition comes true in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return condition()

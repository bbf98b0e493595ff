"""What the web UI costs: bytes and CPU for a token, the weight of a page, a hundred chats, a list of a thousand."""

from __future__ import annotations

import asyncio
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from bench.load import Target
from bench.processes import cpu_s, gateway, mock, peak_mb, webui
from bench.script import Script
from bench.table import Options, Row, not_measured
from bench.webui_page import PageClient, Turn, open_page

_PACE_MS = 20.0
_CHATS, _STOP_S = 100, 0.25
_LISTED, _SETTLE_MS = 1000, 2000
_PAGE = "page: requests and bytes of a first visit in Chromium"
_LONG_MESSAGES, _LONG_CHARS = 200, 2000
_LONG = (
    f"an answer at 50 tokens/s below {_LONG_MESSAGES} messages ({_LONG_MESSAGES * _LONG_CHARS // 1000} kB), in Chromium"
)
_LIST = f"the sidebar with {_LISTED:,} conversations, in Chromium"
_WIDE = ("GATEWAY_USER_RPM", "GATEWAY_ALL_USERS_RPM", "GATEWAY_ADDRESS_RPM", "GATEWAY_USER_STREAMS")
_ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]


async def measure(options: Options) -> list[Row]:
    """`python -m webui` in front of a gateway of its own and the mock; pages are clients that speak Gradio's protocol
    (bench/webui_page.py), each a person of its own, and for the weight of the page and the list Debian's Chromium."""
    wide = dict.fromkeys(_WIDE, "1000000")
    with mock() as upstream, tempfile.TemporaryDirectory() as folder:
        with gateway(Path(folder) / "gateway", f"http://127.0.0.1:{upstream.port}", **wide) as api:
            with webui(Path(folder) / "webui", api, Path(folder) / "gateway" / "webui.key") as ui:
                rows = await _bytes(ui, options.pick(2000, 800))
                rows += [await _cpu(ui, options.pick(20, 8))]
                rows += await _many(ui, options.pick(_CHATS, 20))
                rows += await _in_chromium(ui)
    return rows


async def _bytes(ui: Target, tokens: int) -> list[Row]:
    """Two answers at the same time at 50 tokens a second, one four times as long as the other: what went over the wire
    for the message and its stream, both ways, with HTTP's heads."""
    few = tokens // 4
    pages = [await open_page(ui.port) for _ in range(2)]
    short, long = await asyncio.gather(*(_ask(page, n) for page, n in zip(pages, (few, tokens), strict=True)))
    a, b = (turn.bytes_up + turn.bytes_down for turn in (short, long))
    per_token = (b - a) / (tokens - few)
    return [
        Row("web UI: bytes on the wire per streamed token, 50 tokens/s", f"{per_token:.0f}"),
        Row(
            f"web UI: bytes of an answer of {tokens:,} tokens, against {few:,}",
            f"{b / a:.2f} × ({b / 1000:.0f} kB, {a / 1000:.0f} kB; {len(long.updates)} reads)",
            "≤ 4.4 × (proportion, not square)",
            b <= 4.4 * a,
        ),
    ]


async def _cpu(ui: Target, chats: int) -> Row:
    """Chats of 400 tokens each at 50 tokens a second: CPU of the web UI's process from before the first message to
    after the last answer, divided by the tokens."""
    pages = [await open_page(ui.port) for _ in range(chats)]
    before = cpu_s(ui.pid)
    await asyncio.gather(*(_ask(page, 400) for page in pages))
    used_s = cpu_s(ui.pid) - before
    return Row(f"web UI: CPU per streamed token, {chats} chats at 50 tokens/s", f"{used_s / chats / 400 * 1e6:.0f} µs")


async def _many(ui: Target, chats: int) -> list[Row]:
    """Chats at 20 tokens a second each, begun within 5 s; after 10 s of all of them together each page presses stop, at
    moments spread over 10 s. `answered` is the button's own request, `ended` until its stream says that it is over."""
    pages = [await open_page(ui.port) for _ in range(chats)]
    script = Script(tokens=100_000, first_ms=50, pace_ms=50)
    before, begun = cpu_s(ui.pid), time.monotonic()
    turns = [asyncio.create_task(_begin_later(page, str(script))) for page in pages]
    await asyncio.sleep(15)
    used = (cpu_s(ui.pid) - before) / (time.monotonic() - begun)
    stops = await asyncio.gather(*(_stop_later(page, turn) for page, turn in zip(pages, turns, strict=True)))
    answered, ended = (sorted(times) for times in zip(*stops, strict=True))
    gaps = sorted(gap for turn in turns for gap in _gaps(turn.result()))
    what = f"web UI: {chats} chats at once in one process, 20 tokens/s each"
    told = "; ".join(
        f"{name} p50 {statistics.median(times) * 1000:.0f} ms, p95 {_p95(times) * 1000:.0f} ms"
        for name, times in (("answered", answered), ("ended", ended))
    )
    return [
        Row(f"{what}: stop", told, f"p95 ≤ {_STOP_S * 1000:.0f} ms", _p95(ended) <= _STOP_S),
        Row(
            f"{what}: time between updates",
            f"p50 {statistics.median(gaps) * 1000:.0f} ms, p95 {_p95(gaps) * 1000:.0f} ms",
        ),
        Row(f"{what}: load", f"{used * 100:.0f} % of a core, peak resident {peak_mb(ui.pid):.0f} MB"),
    ]


async def _ask(page: PageClient, tokens: int) -> Turn:
    turn = await page.ask(str(Script(tokens=tokens, first_ms=50, pace_ms=_PACE_MS)))
    if not turn.is_complete:
        raise SystemExit(f"bench: the web UI's turn did not complete: {turn.text[-500:]!r}")
    return turn


async def _begin_later(page: PageClient, text: str) -> Turn:
    await asyncio.sleep(random.random() * 5)
    return await page.ask(text)


async def _stop_later(page: PageClient, running: asyncio.Task[Turn]) -> tuple[float, float]:
    await asyncio.sleep(random.random() * 10)
    pressed = time.monotonic()
    answered_s = await page.stop()
    turn = await asyncio.wait_for(running, 60)
    return answered_s, turn.ended_at - pressed


def _gaps(turn: Turn) -> list[float]:
    return [later - earlier for earlier, later in zip(turn.updates, turn.updates[1:], strict=False)]


def _p95(ordered: list[float]) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))]


async def _in_chromium(ui: Target) -> list[Row]:
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    try:
        from playwright.async_api import async_playwright
    except ImportError:
        program = None
    if program is None:
        return [not_measured(what, "no Chromium, or no Playwright", "") for what in (_PAGE, _LIST, _LONG)]
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=_ARGUMENTS)
        rows = [await _tried(browser, _PAGE, lambda context: _page_weight(context, ui))]
        rows.append(await _tried(browser, _LIST, lambda context: _list(context, ui)))
        rows.append(await _tried(browser, _LONG, lambda context: _long(context, ui)))
        await browser.close()
    return rows


async def _tried(browser: Any, what: str, look: Callable[[Any], Awaitable[Row]]) -> Row:
    """Up to three times, each with an empty browser: Chromium drops what it loads when a network of the machine comes
    or goes (ERR_NETWORK_CHANGED), as with other people's containers."""
    from playwright.async_api import Error

    for _ in range(3):
        context = await browser.new_context()
        try:
            return await look(context)
        except Error as error:
            why = str(error).splitlines()[0]
        finally:
            await context.close()
    return not_measured(what, why, "")


async def _page_weight(context: Any, ui: Target) -> Row:
    """A first visit with an empty cache, until the status line is there, and what is asked for in two seconds more."""
    async with _counted(context) as (page, seen):
        begun = time.monotonic()
        await page.goto(f"http://127.0.0.1:{ui.port}/")
        await page.locator("#status [data-stage]").wait_for(timeout=30_000)
        shown_s = time.monotonic() - begun
        await page.wait_for_timeout(_SETTLE_MS)
    told = f"{seen['requests']} requests, {seen['bytes'] / 1000:.0f} kB; usable after {shown_s:.1f} s"
    return Row(_PAGE, told)


async def _list(context: Any, ui: Target) -> Row:
    """The page imports them. Then, from the start of a navigation, until 100 of them are shown; "show more" until all
    are, of which the last step is told; and an entry's menu, from its click until it was painted."""
    async with _counted(context) as (page, _):
        await page.goto(f"http://127.0.0.1:{ui.port}/")
        await page.evaluate(_FILL, _LISTED)
        begun = time.monotonic()
        await page.goto(f"http://127.0.0.1:{ui.port}/")
        await page.locator("#list .open").nth(99).wait_for(state="attached", timeout=30_000)
        first_s = time.monotonic() - begun
        step_s = 0.0
        for shown in range(200, _LISTED + 1, 100):
            begun = time.monotonic()
            await page.locator("#list .show-more").click()
            await page.locator("#list .open").nth(shown - 1).wait_for(state="attached", timeout=30_000)
            step_s = time.monotonic() - begun
        drawn_ms = await page.evaluate(_DRAW)
    told = f"first 100 after {first_s:.1f} s of loading; the last 100 of all in {step_s * 1000:.0f} ms"
    return Row(_LIST, f"{told}; a menu opens in {drawn_ms:.0f} ms")


async def _long(context: Any, ui: Target) -> Row:
    """A conversation is imported and all of it is loaded, then an answer of 500 tokens comes: how often its text
    changes, and how long the browser goes without painting, while it does."""
    async with _counted(context) as (page, _):
        await page.goto(f"http://127.0.0.1:{ui.port}/")
        await page.evaluate(_IMPORT, [_LONG_MESSAGES, _LONG_CHARS])
        await page.goto(f"http://127.0.0.1:{ui.port}/")
        await page.locator("#list .open").first.click()
        questions = page.locator("#chat [data-testid=user]")
        for shown in range(20, _LONG_MESSAGES // 2, 20):
            await questions.nth(shown - 1).wait_for(state="attached", timeout=30_000)
            await page.locator("#older").click()
        await questions.nth(_LONG_MESSAGES // 2 - 1).wait_for(state="attached", timeout=30_000)
        await page.locator("#message textarea").fill(str(Script(tokens=500, first_ms=50, pace_ms=_PACE_MS)))
        await page.locator("#message textarea").press("Enter")
        await page.locator("#stop").wait_for(timeout=30_000)
        updates, gaps = await page.evaluate(_WATCH, 8000)
        gaps.sort()
    told = f"{updates / 8:.1f} updates a second; between frames p50 {statistics.median(gaps):.0f} ms"
    return Row(
        _LONG, f"{told}, p95 {_p95(gaps):.0f} ms, at most {gaps[-1]:.0f} ms", "about 10 updates a second", updates >= 64
    )


_IMPORT = """async ([messages, chars]) => {
  const words = "Some words with **bold** and `code` in them. ".repeat(chars).slice(0, chars - 14);
  const text = (n) => `Message ${n}. ${words}`;
  const body = JSON.stringify([...Array(messages).keys()].map(
    (n) => ({role: n % 2 ? "assistant" : "user", content: text(n)})));
  const headers = {"content-type": "application/json"};
  const answer = await fetch("webui/conversations", {method: "POST", headers, body});
  if (!answer.ok) throw new Error(await answer.text());
}"""
_WATCH = """async (ms) => {
  let updates = 0, last = performance.now();
  const gaps = [], ends = last + ms;
  const text = () => [...document.querySelectorAll("#chat [data-testid=bot]")].at(-1)?.textContent.length;
  let before = text();
  while (last < ends) {
    await new Promise(requestAnimationFrame);
    const now = performance.now(), length = text();
    gaps.push(now - last);
    if (length !== before) updates++;
    [last, before] = [now, length];
  }
  return [updates, gaps];
}"""
_FILL = """async (count) => {
  const headers = {"content-type": "application/json"};
  for (let n = 0; n < count; n += 10) await Promise.all([...Array(10).keys()].map(async (one) => {
    const body = JSON.stringify([{role: "user", content: `Question ${n + one} about one thing or another`}]);
    for (let tries = 0; tries < 10; tries++) {
      try {
        const answer = await fetch("webui/conversations", {method: "POST", headers, body});
        if (answer.ok) return;
      } catch { /* ERR_NETWORK_CHANGED */ }
      await new Promise(later => setTimeout(later, 500));
    }
    throw new Error("the import fails");
  }));
}"""
_DRAW = """async () => {
  const begun = performance.now();
  document.querySelector('#list .more').click();
  document.querySelector('#list').getBoundingClientRect();
  await new Promise(painted => requestAnimationFrame(() => setTimeout(painted)));
  return performance.now() - begun;
}"""


@asynccontextmanager
async def _counted(context: Any) -> AsyncIterator[tuple[Any, dict[str, float]]]:
    """A page whose requests and received bytes (with heads, compressed) are counted."""
    page = await context.new_page()
    seen: dict[str, float] = {"requests": 0, "bytes": 0}
    session = await context.new_cdp_session(page)

    def count(name: str, by: float) -> None:
        seen[name] += by

    session.on("Network.requestWillBeSent", lambda event: count("requests", 1))
    session.on("Network.loadingFinished", lambda event: count("bytes", event["encodedDataLength"]))
    await session.send("Network.enable")
    yield page, seen
    await page.close()

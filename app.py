"""The whole stack on one host: `python app.py`.

The port opens first; the page shows what the model's side is doing. Behind it, in this order: the gateway with the web
UI mounted at `/`, the model (fetched and checked in a thread), and the inference server as a supervised child process.
The web UI calls the gateway over HTTP here too, so one host and many behave the same.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))  # it runs from any folder, and through a symbolic link

import hosting  # all above this line, and this package, run on Python 3.9 with nothing installed

EXAMPLES = """examples:
  python app.py
  python app.py --model /models/internlm2-chat-1_8b.Q4_K_M.gguf --port 8080

Every option is also an environment variable (MODEL, INFERENCE_ENGINE, HOST, PORT or GRADIO_SERVER_PORT); .env.example
names them all. Exit codes: 0 stopped, 1 failed, 2 wrong options or settings; others as `python -m inference --help`."""


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python app.py",
        description="The whole stack on one host: model, gateway, web UI.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", help="a name of `python -m inference list`, or the path of a .gguf file or a folder")
    parser.add_argument("--engine", help="auto, tgi, tgi-container, lmdeploy or llamacpp")
    parser.add_argument("--host", help="address to listen on (127.0.0.1; all addresses in a container or Space)")
    parser.add_argument("--port", help=f"port to listen on ({hosting.listening.DEFAULT_PORT}; 0 takes a free one)")
    return parser.parse_args()


def _environment(options: argparse.Namespace) -> dict[str, str]:
    """The environment with the options written over it."""
    environ = dict(os.environ)
    named = {"MODEL": options.model, "INFERENCE_ENGINE": options.engine, "HOST": options.host, "PORT": options.port}
    environ.update({name: value for name, value in named.items() if value is not None})
    return environ


if __name__ == "__main__":
    hosting.outlast_readers()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # while the imports run a Ctrl-C just ends it; main() takes over
    hosting.enter(_environment(_options()), ROOT)  # on an old Python, or without packages, another one goes on instead

import asyncio
import contextlib
import dataclasses
import logging
import logging.handlers
import socket
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.server import Server

import inference
from inference import AnyEngine, InferenceError, LaunchPlan, Progress, Report, StatusFile
from known_settings import unknown_settings

_DRAIN_S = "3"  # one person at one machine waits for Ctrl-C


class Stopped(Exception):
    """Asked to stop before the server was there."""


def main() -> int:
    """Runs until it is stopped; returns the exit code."""
    environ = _environment(_options())
    os.umask(0o077)  # conversations, keys and logs are this user's alone
    for warning in unknown_settings(environ):
        print(f"app.py: warning: {warning}", file=sys.stderr, flush=True)
    try:
        for number in inference.stop_signals():
            signal.signal(number, signal.default_int_handler)  # until the loop runs, both stop alike
        environ, listener = _settle(environ)
        settings = inference.Settings.from_env(environ, ROOT)
        catalogue = inference.load_catalogue(own=settings.models_file)
        model = inference.find_model(settings.model, catalogue, settings.root)
        machine = inference.this_machine()
        plan = inference.make_plan(model, settings, machine, catalogue.values())
        if code := _look_ahead(plan, settings, machine):
            return code
        _configure_logs(settings.data_dir / "logs")
        with inference.socket_folder(settings.runtime_dirs) as folder:
            engine = inference.make_engine(plan, settings, machine, folder)
            with asyncio.Runner(loop_factory=_new_loop) as runner:
                runner.run(_serve(plan, engine, settings, environ, listener))
    except InferenceError as error:
        return _fail(error.message, error.exit_code)
    except hosting.CannotStart as error:
        return _fail(str(error), 2)
    except (KeyboardInterrupt, Stopped):
        print("stopped", flush=True)
    except ModuleNotFoundError as missing:
        return _fail(f"the package {missing.name!r} is not installed. `make run` installs everything and starts it.", 1)
    return 0


def _settle(environ: dict[str, str]) -> tuple[dict[str, str], socket.socket]:
    """The environment with what this platform wants, where nothing else was set; and the open port.

    Raises CannotStart.
    """
    profile = hosting.make_profile(environ, ROOT)
    os.environ.update(profile.process)
    whole = {**environ, **profile.process}
    whole.update({name: value for name, value in profile.settings.items() if not environ.get(name)})
    listener = hosting.open_port(whole)
    if profile.platform.is_hosted:
        print(f"this is {profile.platform.title}", flush=True)
    for note in profile.notes:
        print(f"note: {note}", flush=True)
    if profile.refusal:
        raise hosting.CannotStart(profile.refusal)
    return whole, listener


def _look_ahead(plan: LaunchPlan, settings: inference.Settings, machine: inference.Machine) -> int:
    """Prints what would go wrong, each with its cure; returns the exit code when it is no use to go on, else 0."""
    checks = inference.preflight(plan, settings, machine)
    for check in checks:
        if check.state != "ok":
            print(check, file=sys.stderr, flush=True)
    return next((check.exit_code for check in checks if check.state == "fatal"), 0)


def _new_loop() -> asyncio.AbstractEventLoop:
    """uvloop where it is installed: a third less CPU for each streamed chunk."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def _configure_logs(folder: Path) -> None:
    """Everything to DATA_DIR/logs/app.log as JSON, bounded; warnings to the terminal too."""
    from gateway.telemetry import JsonFormatter

    logging.raiseExceptions = False  # a full disk stops the log, and is told where it matters, not by tracebacks
    terminal = logging.StreamHandler()
    terminal.setLevel(logging.WARNING)
    terminal.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    handlers: list[logging.Handler] = [terminal]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = logging.handlers.RotatingFileHandler(folder / "app.log", maxBytes=5_000_000, backupCount=2)
    except OSError as error:
        raise hosting.CannotStart(
            f"{folder} cannot be written: {error.strerror}. Set DATA_DIR to a folder that can."
        ) from None
    file.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[*handlers, file], force=True)
    for quiet in ("alembic", "httpx", "httpx2", "uvicorn"):
        logging.getLogger(quiet).setLevel(logging.WARNING)


async def _serve(
    plan: LaunchPlan,
    engine: AnyEngine,
    settings: inference.Settings,
    environ: Mapping[str, str],
    listener: socket.socket,
) -> None:
    """Everything, until SIGINT or SIGTERM: first the open answers end, then the connections, last the child."""
    status, line = StatusFile(settings.data_dir / "status.json", plan.model.name), inference.ProgressLine()

    def report(news: Progress) -> None:
        status(news)
        line(news)

    where = ", and on every other address of this machine" if hosting.is_on_all_addresses(listener) else ""
    print(f"listening on port {listener.getsockname()[1]} ({hosting.url_of(listener)}{where})", flush=True)
    print(f"the model comes next: {plan.model.title}, on {plan.reason}", flush=True)
    print("starting the gateway and the web UI", flush=True)
    cancelled = threading.Event()
    early_stop = _EarlyStop()
    server, web_lifespan = _build(plan, engine, environ, listener)
    await early_stop.hand_over(server)
    report(Progress("start"))
    async with web_lifespan:
        model = asyncio.create_task(_run_model(engine, settings, report, cancelled, hosting.url_of(listener)))
        try:
            await server.serve(sockets=[listener])
        finally:
            cancelled.set()
            print("stopping …", flush=True)
            model.cancel()
            await asyncio.wait({model})
            line.close()
            status.clear()


class _EarlyStop:
    """A signal to stop between the loop's start and the server's makes the server end as soon as it is there.

    The server itself takes SIGINT and SIGTERM over; SIGHUP stays here.
    """

    def __init__(self) -> None:
        self._was_asked = False
        self._server: Server | None = None
        loop = asyncio.get_running_loop()
        for number in inference.stop_signals():
            loop.add_signal_handler(number, self._ask)

    async def hand_over(self, server: Server) -> None:
        """From now on a stop goes to `server`; raises Stopped when one came while it was being built."""
        self._server = server
        await asyncio.sleep(0)  # the loop hears of signals only between its steps
        await asyncio.sleep(0)
        if self._was_asked:
            raise Stopped

    def _ask(self) -> None:
        self._was_asked = True
        if self._server is not None:
            self._server.should_exit = True


def _build(
    plan: LaunchPlan, engine: AnyEngine, environ: Mapping[str, str], listener: socket.socket
) -> tuple[Server, contextlib.AbstractAsyncContextManager[object]]:
    """The gateway with the web UI mounted on it, and the web UI's lifespan. Imports late: the port is open by now.

    Raises:
        hosting.CannotStart: their settings or the store cannot be used.
    """
    import gateway.database
    import gateway.main
    import gateway.server
    import gateway.settings
    import webui.errors
    import webui.main
    import webui.settings

    host, port = listener.getsockname()[:2]
    ours = {
        "MODEL": plan.model.name,
        "GATEWAY_UPSTREAMS": f"{engine.dialect}={engine.endpoint}",
        "GATEWAY_UPSTREAM_KEYS": f"{engine.dialect}={engine.api_key}",
        "GATEWAY_CONTEXT_TOKENS": str(plan.context_tokens),
        "GATEWAY_SLOTS": str(plan.slots),
        "WEBUI_GATEWAY_URL": hosting.url_of(listener),
    }
    text = inference.model_text(plan.model)
    defaults = {"GATEWAY_DRAIN_TIMEOUT_S": _DRAIN_S, "GATEWAY_MODEL_TITLE": text.title}
    if plan.model.prompt == "internlm2":
        defaults["GATEWAY_TOOL_FORMAT"] = "internlm2"
    filled_in = {name: value for name, value in defaults.items() if not environ.get(name)}
    whole = {**environ, **filled_in, **ours, "PORT": str(port), "HOST": host}
    try:
        gateway_settings = dataclasses.replace(
            gateway.settings.Settings.from_env(whole, ROOT),
            model_note={"en": text.note_en, "zh": text.note_zh},
        )
        app = gateway.main.create_app(gateway_settings)
        web = webui.main.create_app(webui.settings.Settings.from_env(whole, ROOT))
    except (gateway.settings.SettingsError, gateway.database.DatabaseError, webui.errors.SettingsError) as error:
        raise hosting.CannotStart(str(error)) from None
    app.mount("/", gateway.server.secondary(web))
    server = gateway.server.Server(app, host=host, port=port, drain_s=gateway_settings.timeouts.drain_s)
    gateway.server.calm_collector()
    return server, web.router.lifespan_context(web)


async def _run_model(
    engine: AnyEngine, settings: inference.Settings, report: Report, cancelled: threading.Event, url: str
) -> None:
    """Prepares the model and keeps its engine running. When that fails the page stays, and says why."""
    model, form = engine.plan.model, engine.plan.form
    try:
        await inference.run_prestart(settings, report)
        path = await asyncio.to_thread(inference.prepare, model, settings, report, form=form, cancelled=cancelled)
        supervisor = inference.make_supervisor(engine.serving(path), settings, report)
        announcing = asyncio.create_task(_announce(supervisor, url, settings.data_dir))
        try:
            await supervisor.run()
        finally:
            announcing.cancel()
    except InferenceError as error:
        if not cancelled.is_set():
            print(f"\nThe model cannot be served: {error.message}\n{url} says so too. Ctrl-C stops.", file=sys.stderr)


async def _announce(supervisor: inference.Supervisor, url: str, data_dir: Path) -> None:
    await supervisor.wait_ready()
    print(f"\n  Chat:  {url}\n  API:   {url}/v1   (key in {data_dir / 'admin.key'}; described at {url}/docs)\n")
    print("  Ctrl-C stops everything.", flush=True)


def _fail(message: str, code: int) -> int:
    print(f"app.py: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())

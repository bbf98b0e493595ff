"""Into a Python that can serve: this one, one whose environment is complete, or one that is made now.

The program replaces itself (execve) and keeps its process id, its options and the open port. It does so once: a Python
that was made and cannot serve is named, never made again.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType

from hosting.errors import CannotStart
from hosting.interpreters import OLDEST
from hosting.listening import hand_over, is_on_all_addresses, open_port, url_of
from hosting.making import make_environment, ready_environment
from hosting.places import NAME, cache_of, temporary
from hosting.profile import Profile, make_profile
from hosting.waiting_page import STAGES, WaitingPage

MADE = "APP_PYTHON_WAS_CHOSEN"
_PACKAGES = ("fastapi", "uvicorn", "gradio", "huggingface_hub")


def enter(environ: Mapping[str, str], root: Path) -> None:
    """Returns where this Python can serve, else never. Ends the program with one sentence when none can be had."""
    is_new = sys.version_info[:2] >= OLDEST
    if is_new and all(importlib.util.find_spec(name) for name in _PACKAGES):
        os.environ.pop(MADE, None)
        return
    try:
        _refuse_loop(environ)
        profile = make_profile(environ, root)
        python = ready_environment(root, places(environ, root, profile), environ)
        if python:
            _go_on_in(python, environ, root)
        if is_new and not profile.platform.is_hosted:
            return  # what is missing is named by the import that fails
        _make_and_go_on(environ, root, profile)
    except CannotStart as error:
        print(f"app.py: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("stopped", flush=True)
        sys.exit(0)


def places(environ: Mapping[str, str], root: Path, profile: Profile) -> Iterator[Path]:
    """Where an environment of ours may be; first what outlives a restart of the platform."""
    if profile.platform.keeps:
        yield profile.platform.keeps / NAME / "runtime"
    yield root / ".runtime"
    data_dir = environ.get("DATA_DIR") or profile.settings.get("DATA_DIR")
    if data_dir:
        yield root / os.path.expanduser(data_dir) / "runtime"
    cache = cache_of(environ)
    if cache:
        yield cache / NAME / "runtime"
    yield temporary(environ) / "runtime"


def _refuse_loop(environ: Mapping[str, str]) -> None:
    if environ.get(MADE):
        raise CannotStart(
            "%s was to run app.py, but it cannot (Python %d.%d, packages missing). Remove its folder and start again."
            % (environ[MADE], *sys.version_info[:2])
        )


def _make_and_go_on(environ: Mapping[str, str], root: Path, profile: Profile) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _stop)
    listener = open_port(environ, profile.settings.get("HOST", "127.0.0.1"))
    where = " and on all other addresses" if is_on_all_addresses(listener) else ""
    print(f"listening on port {listener.getsockname()[1]} ({url_of(listener)}{where})", flush=True)
    with WaitingPage(listener, profile.platform.frame_ancestors) as page:
        said = [""]

        def tell(stage: str, done: int, total: int) -> None:
            page.tell(stage, done, total)
            line = f"{STAGES[stage][0]} {done} of {total}" if total else STAGES[stage][0]
            if stage != said[0] or done % 10 == 0:
                print(line, flush=True)
            said[0] = stage

        made = make_environment(root, places(environ, root, profile), {**environ, **profile.process}, tell)
    _go_on_in(made, {**environ, **hand_over(listener)}, root)


def _go_on_in(python: str, environ: Mapping[str, str], root: Path) -> None:
    """Replaces this program; what was set for the old Python alone is left out."""
    print(f"going on with {python}", flush=True)
    old = ("PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV", "PYTHONUSERBASE")
    kept = {name: value for name, value in environ.items() if name not in old}
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        os.execve(python, [python, os.path.abspath(sys.argv[0]), *sys.argv[1:]], {**kept, MADE: python})
    except OSError as error:
        raise CannotStart(f"{python} cannot be started: {error.strerror}. Remove its folder and start again.") from None


def _stop(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt

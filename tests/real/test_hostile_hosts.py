"""app.py on unkind hosts: a Python 3.9 with nothing installed, a Space's environment, no home, nothing writable."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from hosting.making import stamp_of
from tests.conftest import ROOT, START_S, Stack, run_app

pytestmark = pytest.mark.real
PACKAGES = ("hosting", "gateway", "inference", "webui")
NEEDED = ("app.py", "known_settings.py", *PACKAGES, "requirements.txt", "requirements.lock")
INSTALL_S = 900


def old_python() -> str:
    """A Python 3.9 or 3.10 of this machine; skips where there is none."""
    named = [shutil.which(name) or "" for name in ("python3.9", "python3.10")]
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    for path in (*named, *map(str, sorted(pyenv.glob("versions/3.9.*/bin/python3.9")))):
        if path and subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode == 0:
            return path
    pytest.skip("no Python 3.9 or 3.10 is here")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return clone(tmp_path / "checkout")


def clone(folder: Path) -> Path:
    """The files that a start needs, without a .venv."""
    folder.mkdir()
    for name in NEEDED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder)
    return folder


def outside_of_a_venv() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("VIRTUAL_ENV", "PYTHON"))}
    return {**kept, "PATH": os.environ["PATH"].replace(f"{Path(sys.executable).parent}:", "")}


@contextmanager
def started(python: str, checkout: Path, environ: Mapping[str, str]) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    log = checkout.parent / "terminal.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [python, str(checkout / "app.py"), "--port", "0"],
            env={**outside_of_a_venv(), "HOST": "127.0.0.1", **environ},
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd="/",
            start_new_session=True,
        )
    try:
        yield process, log
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def address_in(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if found := re.search(r"listening on port \d+ \((http://[^\s,)]+)", log.read_text()):
            return found[1]
        time.sleep(0.05)
    pytest.fail(f"no port was opened (exit code {process.poll()}):\n{log.read_text()[-3000:]}")


def status_of(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except OSError:
        return 0


def wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path, seconds: float) -> set[int]:
    """Returns every status that the page answered with on the way."""
    deadline, seen = time.monotonic() + seconds, set()
    while status_of(url + "/readyz") != 200:
        seen.add(status_of(url + "/"))
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        assert process.poll() is None, log.read_text()[-3000:]
        time.sleep(0.2)
    return seen


@pytest.mark.timeout(INSTALL_S + 2 * START_S)
def test_python_3_9_makes_a_newer_one_shows_its_progress_and_serves_on_the_same_port(
    checkout: Path, models_dir: Path
) -> None:
    """Also: the second start installs nothing, and its model answers `smoke`."""
    python = old_python()
    environ = {"MODELS_DIR": str(models_dir), "SETUP_SKIP_DISK_CHECK": "1"}
    with started(python, checkout, environ) as (process, log):
        url = address_in(process, log)
        assert status_of(url + "/healthz") == 200
        assert status_of(url + "/readyz") == 503
        assert status_of(url + "/v1/models") == 503
        seen = wait_until_ready(url, process, log, INSTALL_S)
        assert seen <= {200, 0}  # 0: the moment between the two programs
    told = log.read_text()
    assert "installing packages" in told
    assert "going on with" in told
    assert "Traceback" not in told
    with started(python, checkout, environ) as (process, log):
        url = address_in(process, log)
        wait_until_ready(url, process, log, START_S)
        assert "installing packages" not in log.read_text()
        key = checkout / "data" / "admin.key"
        command = [sys.executable, "-m", "inference", "smoke", url, "--key-file", str(key)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=180, check=False)
        assert done.stdout.splitlines()[-1] == "passed", done.stdout


def test_python_3_9_goes_on_in_what_make_has_installed(checkout: Path) -> None:
    python = old_python()
    (checkout / ".venv" / "bin").mkdir(parents=True)
    (checkout / ".venv" / "bin" / "python").symlink_to(sys.executable)
    (checkout / ".venv" / "installed").write_text(stamp_of(checkout / "requirements.lock"))
    done = subprocess.run(
        [python, str(checkout / "app.py"), "--port", "seven"],
        env=outside_of_a_venv(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    # The link leads out of the venv that has the packages, so what it became cannot serve: it says so, once.
    assert "going on with" in done.stdout
    assert done.stdout.count("going on with") == 1
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr


def test_python_3_9_shows_the_options_without_making_anything(checkout: Path) -> None:
    done = subprocess.run(
        [old_python(), str(checkout / "app.py"), "--help"], capture_output=True, text=True, timeout=60, check=True
    )
    assert "examples:" in done.stdout
    assert not (checkout / ".runtime").exists()


def test_a_failed_installation_ends_with_what_pip_said(checkout: Path) -> None:
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0", "PIP_CONFIG_FILE": os.devnull}
    environ = {**nowhere, "PIP_FIND_LINKS": "", "PIP_EXTRA_INDEX_URL": "", "SETUP_SKIP_DISK_CHECK": "1"}
    with started(old_python(), checkout, environ) as (process, log):
        assert process.wait(180) == 1
    assert "could not be installed" in log.read_text()
    assert "PIP_INDEX_URL=" in log.read_text()
    assert "Traceback" not in log.read_text()


def test_a_stop_while_installing_is_quiet_and_leaves_no_process(checkout: Path) -> None:
    with started(old_python(), checkout, {"SETUP_SKIP_DISK_CHECK": "1"}) as (process, log):
        address_in(process, log)
        deadline = time.monotonic() + 120
        while "installing packages 0" not in log.read_text():
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert "stopped" in log.read_text()
        assert "Traceback" not in log.read_text()
        left = [
            path.parent.name for path in Path("/proc").glob("[0-9]*/cmdline") if str(checkout).encode() in _read(path)
        ]
        assert left == []


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_a_zero_gpu_space_is_served_by_the_cpu_and_says_why(tmp_path: Path, models_dir: Path) -> None:
    space = {"SPACE_ID": "me/chat", "SYSTEM": "spaces", "SPACES_ZERO_GPU": "true"}
    with run_app(tmp_path / "data", models_dir, space) as running:
        running.wait_until_ready()
        log = running.log.read_text()
        with urllib.request.urlopen(running.url + "/", timeout=20) as page:
            assert "frame-ancestors" in page.headers["Content-Security-Policy"]
            assert "https://huggingface.co" in page.headers["Content-Security-Policy"]
    assert "this is a Hugging Face Space (Gradio)" in log
    assert "ZeroGPU" in log


def test_an_engine_for_a_card_is_refused_on_zero_gpu(tmp_path: Path) -> None:
    space = {"SPACE_ID": "me/chat", "SPACES_ZERO_GPU": "true", "INFERENCE_ENGINE": "lmdeploy"}
    done = subprocess.run(
        [sys.executable, str(ROOT / "app.py")],
        env={**os.environ, **space, "PORT": "0", "HOST": "127.0.0.1", "DATA_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 2
    assert "ZeroGPU lends its card" in done.stderr


def test_a_long_start_of_a_space_answers_at_once_and_tells_its_stage_until_it_ends(
    tmp_path: Path, models_dir: Path
) -> None:
    """Half an hour is as long as the file is not there."""
    end = tmp_path / "end"
    work = f"until [ -e {end} ]; do sleep 0.1; done"
    with run_app(tmp_path / "data", models_dir, {"SPACE_ID": "me/chat", "INFERENCE_PRESTART": work}) as running:
        _wait_for(lambda: work in _asked(running, "/v1/status")[1])
        assert _asked(running, "/")[0] == 200  # by which the platform counts it as started
        assert _asked(running, "/healthz")[0] == 200
        code, told = _asked(running, "/readyz")
        assert code == 503
        assert "(stage: start)" in json.loads(told)["error"]["message"]
        code, told = _asked(running, "/v1/chat/completions", b'{"messages": [{"role": "user", "content": "Hi"}]}')
        assert (code, json.loads(told)["error"]["code"]) == (503, "upstream_not_ready")
        end.touch()
        running.wait_until_ready()


def _asked(stack: Stack, path: str, body: bytes | None = None) -> tuple[int, str]:
    """Status and text, whether it is an error or not."""
    try:
        headers = {"Authorization": f"Bearer {stack.key}", "Content-Type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(stack.url + path, body, headers), timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:  # the port opens before its server and its key are there
        return 0, str(error)


def _wait_for(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_S
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.1)


STRIPPED = """
mount -t tmpfs -o ro,size=4k none /dev/shm || exit 99
mount --bind "$CHECKOUT" "$CHECKOUT" && mount -o remount,bind,ro "$CHECKOUT" || exit 99
exec setpriv --reuid 54321 --regid 54321 --clear-groups --inh-caps=-all --bounding-set=-all \
  env -u HOME -u XDG_CACHE_HOME "$PYTHON" "$CHECKOUT/app.py" --port 0
"""


@pytest.fixture
def common() -> Iterator[Path]:
    """A folder that other users may enter; every pytest that starts shuts its own to them."""
    with tempfile.TemporaryDirectory(prefix="hostile-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_uid_without_a_name_or_home_read_only_checkout_and_no_shared_memory(models_dir: Path, common: Path) -> None:
    """All at once, in a mount namespace of its own; the model is copied, since models_dir is another user's."""
    unshare = ["unshare", "--mount", "--propagation", "private"]
    if os.getuid() or subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs root and the right to make a mount namespace")
    checkout = clone(common / "checkout")
    (common / "tmp").mkdir()
    (common / "tmp").chmod(0o1777)  # as /tmp is
    shutil.copytree(models_dir / "smollm2-135m-instruct", common / "models" / "smollm2-135m-instruct")
    python, packages = python_for_others()
    environ = {
        **os.environ,
        "CHECKOUT": str(checkout),
        "PYTHON": python,
        "PYTHONPATH": packages,
        "HOST": "127.0.0.1",
        "MODELS_DIR": str(common / "models"),
        "TMPDIR": str(common / "tmp"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    log = common / "terminal.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*unshare, "sh", "-c", STRIPPED], env=environ, stdout=output, stderr=subprocess.STDOUT, cwd="/"
        )
    try:
        url = address_in(process, log)
        wait_until_ready(url, process, log, START_S)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, log.read_text()
    told = log.read_text()
    assert "has no home folder" in told
    assert "cannot be used here" in told  # the checkout's data
    assert "will be gone" in told
    assert "Traceback" not in told


def python_for_others() -> tuple[str, str]:
    """A Python of this version that another user may start, and where our packages are; skips where there is none."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    packages = sysconfig.get_path("purelib")
    for path in (Path(sys.executable), Path(f"/usr/bin/python{version}"), Path(f"/usr/local/bin/python{version}")):
        if path.exists() and _is_reachable_by_others(path) and _is_reachable_by_others(Path(packages)):
            return str(path), packages
    pytest.skip(f"no Python {version} with our packages may be started by another user")


def _is_reachable_by_others(path: Path) -> bool:
    return all(folder.stat().st_mode & 0o001 for link in (path, path.resolve()) for folder in link.parents)


def test_state_survives_a_sleep_where_a_folder_does(tmp_path: Path, models_dir: Path) -> None:
    """A Space that sleeps is stopped, and started again by its first visitor; with a volume keys are the same."""
    keys = []
    for _ in range(2):
        with run_app(tmp_path / "data", models_dir, {"SPACE_ID": "me/chat"}) as running:
            running.wait_until_ready()
            keys.append(running.key)
            request = urllib.request.Request(
                running.url + "/v1/conversations", headers={"Authorization": f"Bearer {running.key}"}
            )
            with urllib.request.urlopen(request, timeout=20) as answer:
                stored = json.load(answer)["data"]
            if not stored:
                request.data = b"{}"
                request.add_header("Content-Type", "application/json")
                urllib.request.urlopen(request, timeout=20).close()
    assert keys[0] == keys[1]
    assert len(stored) == 1

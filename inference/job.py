"""One preparation of a model: what is wanted, and where its parts lie.

MODELS_DIR/NAME/                the file of a wheel, or the model's own files, put there by a person
MODELS_DIR/NAME-original/       the repository as it came; removed after the conversion by default
MODELS_DIR/NAME-llama/          converted, for TGI and LMDeploy
MODELS_DIR/NAME-gguf/           for llama.cpp: fetched as it is, or converted
MODELS_DIR/….partial/           a fetch under way; the next start goes on in it
MODELS_DIR/NAME.lock            held by the process that prepares, so that two do not disturb each other

Each folder of ours has a `manifest.json`, which is written last; without it nothing there counts as done.
"""

from __future__ import annotations

import threading
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from inference.catalogue import Model
from inference.errors import Cancelled, VerifyError
from inference.manifest import (
    MANIFEST_NAME,
    FileRecord,
    Manifest,
    read_manifest,
    record_file,
    sha256_of,
    verify_folder,
    write_manifest,
)
from inference.settings import Settings
from inference.sources.child import stop_if
from inference.sources.pypi import PIP
from inference.sources.remote import Attempts
from inference.status import Progress, Report


@dataclass(frozen=True)
class Job:
    """`stop` ends the work early; `pip` is the command of pip."""

    model: Model
    settings: Settings
    report: Report
    stop: threading.Event
    pip: tuple[str, ...] = PIP

    @property
    def folder(self) -> Path:
        return self.settings.models_dir / self.model.name

    def beside(self, suffix: str) -> Path:
        return self.settings.models_dir / f"{self.model.name}{suffix}"

    def attempts(self) -> Attempts:
        return Attempts(self.settings.download_attempts, self.report, self.stop)

    def intact(self, folder: Path, wanted: Collection[str] = ()) -> Manifest | None:
        """The manifest of a folder that can be used as it is; where `wanted` names SHA-256, a file has one of them.

        A folder without a manifest is not done yet, or not ours; a damaged one is reported. Raises Cancelled.
        """
        if not (folder / MANIFEST_NAME).exists():
            return None
        name = self.model.name

        def count(done: int) -> None:
            if self.stop.is_set():
                raise Cancelled("Stopped while the model was being checked.")
            total = max(self.model.size_bytes, done)
            self.report(Progress("verify", done, total, f"checking {name}: it has another date than before"))

        try:
            manifest = verify_folder(folder, count)
            if wanted and not {file.sha256 for file in manifest.files} & set(wanted):
                raise VerifyError(f"{folder} holds another version of {name} ({manifest.source}).")
        except VerifyError as error:
            self.report(Progress("verify", message=f"{error.message} It is not used; {name} is fetched anew."))
            return None
        _remember(folder, manifest)
        return manifest

    def record(self, folder: Path, origin: str, known: tuple[FileRecord, ...] = ()) -> None:
        """Write the manifest of a folder that is done. Files that are not as they are `known` are hashed now.

        Raises Cancelled.
        """
        hashed = {(record.name, record.size_bytes, record.mtime_ns): record for record in known}
        paths = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
        total = sum(path.stat().st_size for path in paths)
        before = 0
        records = []
        for path in paths:

            def count(done: int, before: int = before) -> None:
                stop_if(self.stop)
                self.report(Progress("verify", before + done, total, f"recording {self.model.name}"))

            found = path.stat()
            record = hashed.get((path.name, found.st_size, found.st_mtime_ns))
            records.append(record or record_file(path, sha256_of(path, count)))
            before += found.st_size
        write_manifest(folder, Manifest(origin, tuple(records)))


def _remember(folder: Path, manifest: Manifest) -> None:
    """Keep the modification times found now; a read-only folder is hashed at each start instead."""
    try:
        if manifest != read_manifest(folder):
            write_manifest(folder, manifest)
    except OSError:
        return

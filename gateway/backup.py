"""Backup and restore: one file with the history and the secrets that belong to it.

The file is a compressed tar: `manifest.json` first (form, version, what is in it, sizes and SHA-256), then a copy of
the SQLite database, the admin's and the web UI's keys, and the secret that signs people's cookies: without it nobody
would find their conversations again. Whoever has the file can do what the admin can.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
import tempfile
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from gateway import VERSION
from gateway.databases import DatabaseError
from gateway.databases.copies import Contents, contents, copy, fold_log, require_known
from gateway.databases.sqlite import hold_folder
from gateway.settings import Places

_FORM = 1
_MANIFEST = "manifest.json"
_SECRETS = ("admin.key", "webui.key", "webui.secret")
_LARGEST_MANIFEST_BYTES = 64 << 10
_BLOCK_BYTES = 1 << 20
_LEFT_S = 3600.0


class BackupError(Exception):
    """Nothing was written or changed; the message says why and what to do."""


def back_up(places: Places, out: IO[bytes], *, with_history: bool = True) -> Contents | None:
    """Writes a backup to `out` while the gateway runs; returns what is in it (None without a history).

    Raises:
        BackupError, DatabaseError: it cannot be made. OSError: `out` cannot be written.
    """
    files = {name: path for name, path in _secrets(places).items() if path.exists()}
    counted = None
    with _private_folder(places.data_dir) as folder:
        if with_history:
            counted = copy(_history(places), folder / places.DATABASE_NAME)
            files = {places.DATABASE_NAME: folder / places.DATABASE_NAME, **files}
        if not files:
            raise BackupError(f"There is nothing to back up in {places.data_dir}. Is DATA_DIR the gateway's?")
        manifest = {
            "form": _FORM,
            "gateway": VERSION,
            "revision": counted.revision if counted else None,
            "made_at": int(time.time()),
            "files": {name: {"bytes": path.stat().st_size, "sha256": _sha256(path)} for name, path in files.items()},
        }
        with tarfile.open(fileobj=out, mode="w|gz") as archive:
            _add(archive, _MANIFEST, io.BytesIO(json.dumps(manifest, indent=1).encode()))
            for name, path in files.items():
                with path.open("rb") as file:
                    _add(archive, name, file)
    return counted


def restore(places: Places, source: IO[bytes], *, force: bool = False) -> tuple[Contents | None, int]:
    """Puts a backup in place of what is there, after all of it has been read and checked.

    Args:
        force: also where there is a history or a secret already.

    Returns:
        What the history holds (None when the backup has none), and when the backup was made, in Unix seconds.

    Raises:
        BackupError, DatabaseError: it is no backup, damaged, of a newer version, or would overwrite something; a
            gateway that runs. Nothing was changed then.
    """
    history = None if places.is_elsewhere else _history(places)
    held = hold_folder(history.parent if history else places.data_dir)
    try:
        with _private_folder(places.data_dir) as folder:
            manifest = _unpack(source, folder)
            counted = None
            if places.DATABASE_NAME in manifest["files"]:
                if history is None:
                    raise _elsewhere("restored with pg_restore")
                counted = contents(folder / places.DATABASE_NAME)
                require_known(counted.revision)
            targets = {places.DATABASE_NAME: history, **_secrets(places)}
            wanted = {name: target for name in manifest["files"] if (target := targets[name]) is not None}
            if not force:
                _require_free({wanted[name]: told["sha256"] for name, told in manifest["files"].items()}, history)
            if (there := wanted.get(places.DATABASE_NAME)) and there.exists():
                fold_log(there)
            _put(folder, wanted)
    finally:
        os.close(held)
    return counted, int(manifest["made_at"])


def _secrets(places: Places) -> dict[str, Path]:
    paths = (places.data_dir / "admin.key", places.webui_key_file, places.webui_secret_file)
    return dict(zip(_SECRETS, paths, strict=True))


def _history(places: Places) -> Path:
    if places.is_elsewhere:
        raise _elsewhere("backed up with pg_dump")
    return Path(places.database.removeprefix("sqlite:///"))


def _elsewhere(how: str) -> BackupError:
    return BackupError(
        f"The history is in PostgreSQL (DATABASE_URL) and is {how}, see docs/operations.md; `backup --without-history` "
        "saves the keys beside it."
    )


def _require_free(wanted: Mapping[Path, str], history: Path | None) -> None:
    """Nothing may be there but what has the SHA-256 that is wanted."""
    taken = [str(target) for target, sha256 in wanted.items() if target.exists() and not _is(target, sha256)]
    if not taken:
        return
    what = ""
    if history is not None and history.exists():
        try:
            what = f" (a history of {contents(history, check='quick_check')})"
        except DatabaseError:
            what = " (a history that cannot be read)"
    raise BackupError(
        f"There is something already: {', '.join(taken)}{what}. Nothing was changed. To replace it, add --force "
        "(make restore: FORCE=1)."
    )


def _put(folder: Path, wanted: Mapping[str, Path]) -> None:
    """Puts each file in its place, the database last: what is there then is whole.

    A database's log is removed before it is replaced: it must never be taken for the new one's. When this is killed in
    between, the same command goes on from there: what is as saved hinders nobody (`_require_free`).
    """
    names = sorted(wanted, key=lambda name: name == Places.DATABASE_NAME)
    near = {name: wanted[name].with_name(f".{wanted[name].name}.restored") for name in names}
    try:
        _bring_near(folder, near)
        _replace({wanted[name]: new for name, new in near.items()})
    finally:
        _remove(near.values())


def _bring_near(folder: Path, near: Mapping[str, Path]) -> None:
    """All of it beside its place, on the disk, so that a disk that becomes full changes nothing."""
    for name, new in near.items():
        try:
            new.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            shutil.move(folder / name, new)
            new.chmod(0o600)
            _sync(new)
        except OSError as error:
            raise BackupError(f"{new.parent} cannot be written: {error.strerror}. Nothing was changed.") from None


def _replace(near: Mapping[Path, Path]) -> None:
    replaced: list[str] = []
    for target, new in near.items():
        try:
            for beside in ("-wal", "-shm"):
                target.with_name(target.name + beside).unlink(missing_ok=True)
            new.replace(target)
            replaced.append(str(target))
            _sync(target.parent)
        except OSError as error:
            done = f"Only {', '.join(replaced)} came back" if replaced else "Nothing was changed"
            raise BackupError(
                f"{target} cannot be replaced: {error.strerror}. {done}; mend that, then repeat the command, before "
                "the gateway starts."
            ) from None


def _remove(files: Iterable[Path]) -> None:
    for file in files:
        with suppress(OSError):  # the disk may be read-only by now
            file.unlink(missing_ok=True)


def _unpack(source: IO[bytes], folder: Path) -> dict[str, Any]:
    """All files of a backup into `folder`, compared with the manifest, which is returned."""
    try:
        with tarfile.open(fileobj=source, mode="r|gz") as archive:
            members = iter(archive)
            manifest = _read_manifest(archive, next(members, None))
            for member in members:
                if member.name not in manifest["files"] or not member.isfile():
                    raise BackupError(f"The backup holds '{member.name[:100]}', which is not in its manifest.")
                file = archive.extractfile(member)
                assert file is not None
                with (folder / member.name).open("xb") as target:
                    shutil.copyfileobj(file, target, _BLOCK_BYTES)
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise BackupError(f"The backup cannot be unpacked in {folder.parent}: {error.strerror}.") from None
        raise BackupError("This file is no backup, or it is cut short or damaged. Nothing was changed.") from None
    for name, told in manifest["files"].items():
        if not (folder / name).exists() or _sha256(folder / name) != told["sha256"]:
            raise BackupError(f"The backup is damaged: its {name} is not what was saved. Nothing was changed.")
    return manifest


def _read_manifest(archive: tarfile.TarFile, member: tarfile.TarInfo | None) -> dict[str, Any]:
    file = archive.extractfile(member) if member is not None and member.name == _MANIFEST else None
    try:
        manifest = json.loads(file.read(_LARGEST_MANIFEST_BYTES)) if file is not None else {}
        form, _ = int(manifest["form"]), int(manifest["made_at"])
        names = {name for name, told in manifest["files"].items() if told["sha256"]}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BackupError("This file is no backup of a gateway. Nothing was changed.") from None
    if form > _FORM or not names <= {Places.DATABASE_NAME, *_SECRETS}:
        raise BackupError(
            f"The backup was made by a newer version ({manifest.get('gateway')}). Update this checkout or image first."
        )
    return dict(manifest)


@contextmanager
def _private_folder(beside: Path) -> Iterator[Path]:
    """On the disk of the history, which has more room than a container's /tmp."""
    try:
        beside.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in beside.glob(".backup-*"):  # of one that was killed: a copy must not outlive what is deleted here
            if time.time() - left.stat().st_mtime > _LEFT_S:
                shutil.rmtree(left, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix=".backup-", dir=beside))
    except OSError as error:
        raise BackupError(f"{beside} cannot be written: {error.strerror}. A copy is made there first.") from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _add(archive: tarfile.TarFile, name: str, file: IO[bytes]) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = file.seek(0, io.SEEK_END)
    entry.mode, entry.mtime = 0o600, int(time.time())
    file.seek(0)
    archive.addfile(entry, file)


def _is(path: Path, sha256: str) -> bool:
    """Whether a file is the one of the backup; a database is not while a log with more lies beside it."""
    log = path.with_name(f"{path.name}-wal")
    return path.is_file() and _sha256(path) == sha256 and not (log.exists() and log.stat().st_size)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

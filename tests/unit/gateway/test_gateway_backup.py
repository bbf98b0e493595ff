"""Backup and restore: consistent while somebody writes, whole or not at all, and never over something by accident."""

from __future__ import annotations

import asyncio
import errno
import io
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from gateway import backup
from gateway.__main__ import main
from gateway.backup import BackupError, back_up, restore
from gateway.database import Database, DatabaseError
from gateway.databases import copies
from gateway.databases.sqlite import hold_folder
from gateway.settings import Places
from gateway.store import Store

pytestmark = pytest.mark.unit
ROOT = Path(__file__).resolve().parents[3]
SECRETS = {"admin.key": "sk-admin", "webui.key": "sk-webui", "webui.secret": "cookie"}


def places(folder: Path, **environ: str) -> Places:
    return Places.from_env({"DATA_DIR": str(folder), **environ}, ROOT)


@pytest.fixture
def old(tmp_path: Path) -> Places:
    """A data folder with one conversation and all secrets."""
    folder = tmp_path / "old"
    folder.mkdir()
    database = Database(folder / "gateway.sqlite3")
    asyncio.run(Store(database).create_conversation("me", {"title": "kept"}, []))
    database.close()
    for name, secret in SECRETS.items():
        (folder / name).write_text(secret)
    return places(folder)


@pytest.fixture
def saved(old: Places) -> bytes:
    out = io.BytesIO()
    back_up(old, out)
    return out.getvalue()


def titles_in(folder: Path) -> list[str]:
    with closing(sqlite3.connect(folder / "gateway.sqlite3")) as database:
        found = database.execute("SELECT json_extract(metadata, '$.title') FROM conversations ORDER BY created_at, id")
        return [row[0] for row in found]


def test_everything_comes_back_with_its_mode(saved: bytes, tmp_path: Path) -> None:
    counted, made_at = restore(places(tmp_path / "new"), io.BytesIO(saved))
    assert str(counted) == "1 conversations, 0 responses, 0 API keys"
    assert made_at > 1_700_000_000
    assert titles_in(tmp_path / "new") == ["kept"]
    for name, secret in SECRETS.items():
        assert (tmp_path / "new" / name).read_text() == secret
        assert (tmp_path / "new" / name).stat().st_mode & 0o777 == 0o600
    assert not list((tmp_path / "new").glob(".*")), "nothing is left beside it"


def test_a_web_ui_with_a_folder_of_its_own_is_saved_and_put_back_there(old: Places, tmp_path: Path) -> None:
    own = tmp_path / "webui"
    own.mkdir()
    (own / "webui.key").write_text("sk-own")
    (own / "webui.secret").write_text("own cookie")
    out = io.BytesIO()
    back_up(places(old.data_dir, WEBUI_API_KEY_FILE=str(own / "webui.key")), out)
    restore(places(tmp_path / "a", WEBUI_API_KEY_FILE=str(tmp_path / "b" / "webui.key")), io.BytesIO(out.getvalue()))
    assert (tmp_path / "b" / "webui.key").read_text() == "sk-own"
    assert (tmp_path / "b" / "webui.secret").read_text() == "own cookie"


def test_a_backup_under_load_is_one_moment_and_holds_what_was_written_before(tmp_path: Path) -> None:
    database = Database(tmp_path / "gateway.sqlite3", hold=True)
    store, is_over, written = Store(database), threading.Event(), []

    async def write_on() -> None:
        while not is_over.is_set():
            written.append((await store.create_conversation("me", {"title": str(len(written))}, [])).id)

    writer = threading.Thread(target=lambda: asyncio.run(write_on()))
    writer.start()
    try:
        deadline = time.monotonic() + 60
        while len(written) < 50:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        before = set(written)
        out = io.BytesIO()
        back_up(places(tmp_path), out)
        assert len(written) > len(before), "nobody was held up"
    finally:
        is_over.set()
        writer.join()
        database.close()
    restore(places(tmp_path / "new"), io.BytesIO(out.getvalue()))
    with closing(sqlite3.connect(tmp_path / "new" / "gateway.sqlite3")) as found:
        kept = {row[0] for row in found.execute("SELECT id FROM conversations")}
    assert before <= kept <= set(written)


def test_nothing_is_overwritten_unless_it_is_said(old: Places, saved: bytes) -> None:
    (old.data_dir / "admin.key").write_text("sk-newer")
    with pytest.raises(BackupError, match=r"There is something already: .*a history of 1 conversations.*--force"):
        restore(old, io.BytesIO(saved))
    assert (old.data_dir / "admin.key").read_text() == "sk-newer"
    restore(old, io.BytesIO(saved), force=True)
    assert (old.data_dir / "admin.key").read_text() == "sk-admin"


def test_the_old_databases_log_is_not_taken_for_the_new_ones(old: Places, saved: bytes) -> None:
    with closing(sqlite3.connect(old.data_dir / "gateway.sqlite3", isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("""UPDATE conversations SET metadata = '{"title": "later"}'""")
        assert (old.data_dir / "gateway.sqlite3-wal").stat().st_size > 0
        restore(old, io.BytesIO(saved), force=True)
        assert not (old.data_dir / "gateway.sqlite3-wal").exists()
    assert titles_in(old.data_dir) == ["kept"]


class Disk:
    """What is synced and replaced, in turn; a file that is `bad` cannot be replaced."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bad = ""
        self.seen: list[tuple[str, str]] = []
        sync, replace = os.fsync, Path.replace

        def seen_sync(descriptor: int) -> None:
            self.seen.append(("sync", Path(f"/proc/self/fd/{descriptor}").readlink().name))
            sync(descriptor)

        def seen_replace(path: Path, target: Path) -> Path:
            if target.name == self.bad:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            self.seen.append(("replace", target.name))
            return replace(path, target)

        monkeypatch.setattr(os, "fsync", seen_sync)
        monkeypatch.setattr(Path, "replace", seen_replace)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def test_all_is_on_the_disk_before_anything_is_replaced_and_the_database_comes_last(
    saved: bytes, tmp_path: Path, disk: Disk
) -> None:
    restore(places(tmp_path / "new"), io.BytesIO(saved))
    order = [*SECRETS, "gateway.sqlite3"]
    near = [("sync", f".{name}.restored") for name in order]
    assert disk.seen == near + [step for name in order for step in (("replace", name), ("sync", "new"))]


def test_a_backup_is_on_the_disk_before_it_has_its_name(
    old: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: Disk
) -> None:
    monkeypatch.setenv("DATA_DIR", str(old.data_dir))
    assert main(["backup", str(tmp_path / "b.tar.gz")]) == 0
    assert disk.seen[-2:] == [("sync", "b.tar.gz.partial"), ("replace", "b.tar.gz")]


@pytest.mark.parametrize(
    ("bad", "said"),
    [("admin.key", "Nothing was changed"), ("gateway.sqlite3", r"Only .*admin\.key, .*webui\.secret came back")],
)
@pytest.mark.parametrize("force", [True, False])
def test_a_disk_that_fails_half_way_is_told_and_the_command_may_be_repeated(
    old: Places, saved: bytes, tmp_path: Path, disk: Disk, bad: str, said: str, *, force: bool
) -> None:
    there = old if force else places(tmp_path / "new")
    with closing(sqlite3.connect(old.data_dir / "gateway.sqlite3")) as database:
        database.execute("""UPDATE conversations SET metadata = '{"title": "later"}'""")
        database.commit()
    disk.bad = bad
    with pytest.raises(BackupError, match=rf"{bad} cannot be replaced: Input/output error\. {said}; .* repeat"):
        restore(there, io.BytesIO(saved), force=force)
    assert not list(there.data_dir.glob(".*")), "nothing is left beside it"
    assert not force or titles_in(there.data_dir) == ["later"]
    disk.bad = ""
    restore(there, io.BytesIO(saved), force=force)
    assert titles_in(there.data_dir) == ["kept"]


def test_a_restore_that_is_killed_half_way_is_mended_by_repeating_it(
    saved: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = places(tmp_path / "new")
    with monkeypatch.context() as killing:
        replaced = Path.replace

        def killed(path: Path, target: Path) -> Path:
            if target.name == "webui.key":
                raise KeyboardInterrupt
            return replaced(path, target)

        killing.setattr(Path, "replace", killed)
        killing.setattr(backup, "_remove", lambda _: None)  # who is killed tidies nothing
        with pytest.raises(KeyboardInterrupt):
            restore(there, io.BytesIO(saved))
    left = {path.name for path in there.data_dir.iterdir()}
    assert left >= {"admin.key", ".webui.key.restored", ".gateway.sqlite3.restored"}
    restore(there, io.BytesIO(saved))
    assert titles_in(there.data_dir) == ["kept"]
    assert not list(there.data_dir.glob(".*"))


def test_the_old_database_is_whole_without_its_log_until_it_is_replaced(
    old: Places, saved: bytes, tmp_path: Path, disk: Disk
) -> None:
    """A gateway that was killed leaves turns in the log alone, and the log is removed first."""
    file, killed = old.data_dir / "gateway.sqlite3", tmp_path / "killed"
    with closing(sqlite3.connect(file, isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("""UPDATE conversations SET metadata = '{"title": "later"}'""")
        shutil.copytree(old.data_dir, killed)
    assert (killed / "gateway.sqlite3-wal").stat().st_size > 0
    disk.bad = "gateway.sqlite3"
    with pytest.raises(BackupError, match="cannot be replaced"):
        restore(places(killed), io.BytesIO(saved), force=True)
    assert not (killed / "gateway.sqlite3-wal").exists()
    assert titles_in(killed) == ["later"]


def test_a_log_with_more_in_it_is_no_history_as_it_was_saved(old: Places, saved: bytes) -> None:
    restore(old, io.BytesIO(saved), force=True)
    restore(old, io.BytesIO(saved))  # all of it is there as saved
    with closing(sqlite3.connect(old.data_dir / "gateway.sqlite3", isolation_level=None)) as database:
        database.execute("PRAGMA wal_autocheckpoint=0")
        database.execute("""UPDATE conversations SET metadata = '{"title": "later"}'""")
        with pytest.raises(BackupError, match="something already"):
            restore(old, io.BytesIO(saved))
    assert titles_in(old.data_dir) == ["later"]


def test_a_history_that_somebody_reads_is_not_replaced(
    old: Places, saved: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies, "_WAIT_S", 0.1)
    file = old.data_dir / "gateway.sqlite3"
    with (
        closing(sqlite3.connect(file, isolation_level=None)) as reader,
        closing(sqlite3.connect(file, isolation_level=None)) as writer,
    ):
        writer.execute("PRAGMA journal_mode=WAL")
        writer.execute("""UPDATE conversations SET metadata = '{"title": "first"}'""")
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM conversations").fetchone()
        writer.execute("""UPDATE conversations SET metadata = '{"title": "later"}'""")
        with pytest.raises(DatabaseError, match=r"cannot be replaced now: .*Nothing was changed"):
            restore(old, io.BytesIO(saved), force=True)
        reader.execute("COMMIT")
        restore(old, io.BytesIO(saved), force=True)
    assert titles_in(old.data_dir) == ["kept"]


def test_a_damaged_history_can_be_replaced(old: Places, saved: bytes) -> None:
    (old.data_dir / "gateway.sqlite3").write_bytes(b"no database at all " * 1000)
    restore(old, io.BytesIO(saved), force=True)
    assert titles_in(old.data_dir) == ["kept"]


def test_copies_of_a_killed_backup_are_removed_after_an_hour(old: Places) -> None:
    ages = {".backup-young": 3500, ".backup-old": 3700}
    for name, age_s in ages.items():
        (old.data_dir / name).mkdir()
        os.utime(old.data_dir / name, (0, time.time() - age_s))
    back_up(old, io.BytesIO())
    assert [path.name for path in old.data_dir.glob(".backup-*")] == [".backup-young"]


def test_a_place_that_cannot_be_written_changes_nothing(old: Places, saved: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(BackupError, match=r"file cannot be written: .* Nothing was changed"):
        restore(places(tmp_path / "new", WEBUI_API_KEY_FILE=str(tmp_path / "file" / "webui.key")), io.BytesIO(saved))
    assert [entry.name for entry in (tmp_path / "new").iterdir()] == ["gateway.lock"]


def test_a_gateway_that_runs_keeps_its_folder(old: Places, saved: bytes) -> None:
    held = hold_folder(old.data_dir)
    try:
        with pytest.raises(DatabaseError, match="Another gateway is running"):
            restore(old, io.BytesIO(saved), force=True)
    finally:
        os.close(held)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_backup_that_is_cut_short_changes_nothing(old: Places, saved: bytes, share: float) -> None:
    (old.data_dir / "admin.key").write_text("sk-newer")
    with pytest.raises(BackupError, match="no backup, or it is cut short or damaged"):
        restore(old, io.BytesIO(saved[: int(share * len(saved))]), force=True)
    assert (old.data_dir / "admin.key").read_text() == "sk-newer"
    assert not list(old.data_dir.glob(".backup-*"))


def rewritten(saved: bytes, change: str, manifest: dict[str, object] | None = None) -> bytes:
    """The same archive with another file `change`, or another manifest."""
    out = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(saved)) as before, tarfile.open(fileobj=out, mode="w:gz") as after:
        for member in before:
            content = before.extractfile(member).read()  # type: ignore[union-attr]
            if member.name == "manifest.json" and manifest:
                content = json.dumps(json.loads(content) | manifest).encode()
            if member.name == change:
                content = b"other " + content
            member.size = len(content)
            after.addfile(member, io.BytesIO(content))
    return out.getvalue()


def test_a_file_that_was_changed_is_noticed(saved: bytes, tmp_path: Path) -> None:
    with pytest.raises(BackupError, match=r"its admin\.key is not what was saved"):
        restore(places(tmp_path / "new"), io.BytesIO(rewritten(saved, "admin.key")))


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        ({"form": 2}, "made by a newer version"),
        ({"files": {"../x": {"sha256": "0"}}}, "made by a newer version"),
        ({"files": {}}, "holds 'gateway.sqlite3', which is not in its manifest"),
        ({"files": 3}, "no backup of a gateway"),
        ({"made_at": None}, "no backup of a gateway"),
    ],
)
def test_a_manifest_that_cannot_be_is_refused(
    saved: bytes, tmp_path: Path, manifest: dict[str, object], words: str
) -> None:
    with pytest.raises(BackupError, match=words):
        restore(places(tmp_path / "new"), io.BytesIO(rewritten(saved, "", manifest)))
    assert not (tmp_path / "new" / "gateway.sqlite3").exists()


@pytest.mark.parametrize("kind", [tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_a_member_that_is_no_file_is_refused(saved: bytes, tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(fileobj=io.BytesIO(saved)) as before:
        manifest = before.extractfile("manifest.json").read()  # type: ignore[union-attr]
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        told, odd = tarfile.TarInfo("manifest.json"), tarfile.TarInfo("admin.key")
        told.size, odd.type, odd.linkname = len(manifest), kind, "/etc/passwd"
        archive.addfile(told, io.BytesIO(manifest))
        archive.addfile(odd)
    with pytest.raises(BackupError, match=r"holds 'admin\.key', which is not in its manifest"):
        restore(places(tmp_path / "new"), io.BytesIO(out.getvalue()))
    assert not (tmp_path / "new" / "admin.key").exists()


def test_a_history_of_a_newer_version_is_refused(old: Places, tmp_path: Path) -> None:
    with closing(sqlite3.connect(old.data_dir / "gateway.sqlite3")) as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
        database.commit()
    out = io.BytesIO()
    back_up(old, out)
    with pytest.raises(DatabaseError, match=r"written by a newer version of the gateway \(its form is 9999"):
        restore(places(tmp_path / "new"), io.BytesIO(out.getvalue()))


def test_a_damaged_history_is_not_saved_as_if_it_were_whole(old: Places) -> None:
    file = old.data_dir / "gateway.sqlite3"
    content = bytearray(file.read_bytes())
    content[4096 * 2 : 4096 * 4] = b"\xff" * 8192
    file.write_bytes(content)
    with pytest.raises(DatabaseError, match=r"damaged|malformed"):
        back_up(old, io.BytesIO())


def test_a_history_in_postgresql_is_named_and_its_keys_can_be_saved(old: Places, tmp_path: Path) -> None:
    elsewhere = places(old.data_dir, DATABASE_URL="postgresql://me:secret@db/name")
    with pytest.raises(BackupError, match="pg_dump") as refused:
        back_up(elsewhere, io.BytesIO())
    assert "secret" not in str(refused.value)
    out = io.BytesIO()
    assert back_up(elsewhere, out, with_history=False) is None
    there = places(tmp_path / "new", DATABASE_URL="postgresql://me:secret@db/name")
    assert restore(there, io.BytesIO(out.getvalue()))[0] is None
    assert (tmp_path / "new" / "webui.secret").read_text() == "cookie"


def test_the_commands_say_what_they_did(
    old: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "backup.tar.gz"
    monkeypatch.setenv("DATA_DIR", str(old.data_dir))
    assert main(["backup", str(file)]) == 0
    assert "saved: 1 conversations" in capsys.readouterr().err
    assert file.stat().st_mode & 0o777 == 0o600
    assert main(["backup", str(file)]) == 1
    assert "exists already. Name a new file." in capsys.readouterr().err
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "new"))
    assert main(["restore", str(file)]) == 0
    assert "restored, as it was at 20" in capsys.readouterr().out
    assert main(["restore", str(tmp_path / "nothing")]) == 1
    assert "nothing: No such file or directory." in capsys.readouterr().err
    assert main(["backup", str(tmp_path / "nowhere" / "b")]) == 1
    assert "cannot be written" in capsys.readouterr().err


def test_make_saves_and_puts_back_a_folder(old: Places, tmp_path: Path) -> None:
    """As `make backup` and `make restore` call it, where there are no containers."""

    def run(verb: str, file: str, **environ: str) -> subprocess.CompletedProcess[str]:
        command = ["bash", str(ROOT / "scripts" / "backup.sh"), verb, file, environ.pop("WHERE", ""), "no-such-docker"]
        return subprocess.run(
            command, env={**os.environ, **environ}, capture_output=True, text=True, check=False, timeout=60
        )

    if Path(sys.prefix).resolve() != (ROOT / ".venv").resolve():
        pytest.skip("the script uses the checkout's .venv")
    file = str(tmp_path / "b.tar.gz")
    assert "of the folder" in run("backup", file, DATA_DIR=str(old.data_dir)).stdout
    new = str(tmp_path / "new")
    refused = run("restore", file, DATA_DIR=new)
    assert (refused.returncode, "Say which: WHERE=containers or WHERE=folder" in refused.stderr) == (1, True)
    assert run("restore", file, DATA_DIR=new, WHERE="folder").returncode == 0
    assert titles_in(Path(new)) == ["kept"]
    (tmp_path / "new" / "admin.key").write_text("sk-newer")
    assert "something already" in run("restore", file, DATA_DIR=new).stderr
    assert run("restore", file, DATA_DIR=new, FORCE="1").returncode == 0
    assert "name the backup" in run("restore", "", DATA_DIR=new).stderr


FAKE_COMPOSE = """#!/usr/bin/env bash
echo "$*" >>"$CALLS"
case $1 in
  ps) [ -z "${DEAD:-}" ] || { echo "Cannot connect to the Docker daemon" >&2; exit 1; }
      printf '%s\\n' webui inference gateway ;;
  run) sleep 60 ;;
esac
"""


@pytest.fixture
def fake_compose(tmp_path: Path) -> dict[str, str]:
    """For scripts/backup.sh: `$FAKE` stands for `docker compose`, whose calls are in the file `$CALLS`."""
    fake = tmp_path / "fake-compose"
    fake.write_text(FAKE_COMPOSE)
    fake.chmod(0o755)
    return {**os.environ, "FAKE": str(fake), "CALLS": str(tmp_path / "calls"), "DATA_DIR": str(tmp_path / "old")}


def test_what_was_stopped_for_a_restore_starts_again_after_ctrl_c(
    old: Places, saved: bytes, tmp_path: Path, fake_compose: dict[str, str]
) -> None:
    (tmp_path / "b.tar.gz").write_bytes(saved)
    calls = tmp_path / "calls"
    words = [str(ROOT / "scripts" / "backup.sh"), "restore", str(tmp_path / "b.tar.gz"), "containers"]
    with subprocess.Popen(["bash", *words, fake_compose["FAKE"]], env=fake_compose, start_new_session=True) as script:
        deadline = time.monotonic() + 60
        while not calls.exists() or "run --rm" not in calls.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.killpg(script.pid, signal.SIGINT)
        assert script.wait(timeout=60) != 0
    assert [line.partition(" -")[0] for line in calls.read_text().splitlines()] == [
        *("ps", "stop webui gateway", "run", "start webui gateway")
    ]


@pytest.mark.parametrize("verb", ["backup", "restore"])
@pytest.mark.parametrize("where", ["", "containers"])
def test_an_engine_that_does_not_answer_is_not_one_without_containers(
    old: Places, tmp_path: Path, fake_compose: dict[str, str], verb: str, where: str
) -> None:
    file = tmp_path / "b.tar.gz"
    if verb == "restore":
        file.touch()
    words = [str(ROOT / "scripts" / "backup.sh"), verb, str(file), where, fake_compose["FAKE"]]
    done = subprocess.run(
        ["bash", *words], env={**fake_compose, "DEAD": "yes"}, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "does not say which containers there are. Start Docker, or say WHERE=folder." in done.stderr
    assert file.exists() == (verb == "restore")

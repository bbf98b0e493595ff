"""The list of users: the file's form, its command, and what a wrong file is told."""

from __future__ import annotations

import hashlib
import os
import pty
import stat
import subprocess
import sys
from base64 import b64decode
from pathlib import Path

import pytest

from webui.errors import UsersError
from webui.users import Users, hash_password, matches

pytestmark = pytest.mark.unit
ROOT = Path(__file__).resolve().parents[3]
PASSWORD = "correct horse 马"


def test_a_user_is_known_by_name_and_password_only(tmp_path: Path) -> None:
    users = Users(tmp_path / "new" / "users")
    assert users.put("ann", PASSWORD)
    assert users.knows("ann", PASSWORD)
    assert not users.knows("ann", PASSWORD + "x")
    assert not users.knows("ann", "")
    assert not users.knows("Ann", PASSWORD)
    assert not users.knows("bob", PASSWORD)
    assert not users.knows("", "")
    assert stat.S_IMODE(users.path.stat().st_mode) == 0o600
    assert PASSWORD not in users.path.read_text()


def test_the_hash_is_plain_scrypt() -> None:
    _, n, r, p, salt, hashed = hash_password(PASSWORD).split("$")
    again = hashlib.scrypt(
        PASSWORD.encode(), salt=b64decode(salt), n=int(n), r=int(r), p=int(p), maxmem=2**26, dklen=32
    )
    assert b64decode(hashed) == again
    assert int(n) * int(p) >= 2**15 * 3
    assert hash_password(PASSWORD) != hash_password(PASSWORD)
    assert matches(PASSWORD, hash_password(PASSWORD))


def test_another_password_and_a_removal_are_seen_at_once_and_change_the_proof(tmp_path: Path) -> None:
    writing, reading = Users(tmp_path / "users"), Users(tmp_path / "users")
    writing.put("ann", PASSWORD)
    first = reading.proof("ann")
    assert first
    assert not writing.put("ann", "another one")
    assert reading.proof("ann") not in {"", first}
    assert reading.knows("ann", "another one")
    writing.remove("ann")
    assert reading.proof("ann") == ""
    assert not reading.knows("ann", "another one")
    with pytest.raises(UsersError, match="no user 'ann'"):
        writing.remove("ann")


@pytest.mark.parametrize("name", ["", "a:b", "-x", "a b", "马", "a" * 65, "x\n"])
def test_names_that_could_mean_something_else_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsersError, match="A name has"):
        Users(tmp_path / "users").put(name, PASSWORD)


@pytest.mark.parametrize("password", ["", "seven77", "x" * 1025])
def test_passwords_too_short_or_long_are_refused(tmp_path: Path, password: str) -> None:
    with pytest.raises(UsersError, match="A password has"):
        Users(tmp_path / "users").put("ann", password)


@pytest.mark.parametrize(
    "line",
    [
        "ann",
        "ann:secret",
        "ann:scrypt$3$8$1$AAAA$AAAA",
        "ann:scrypt$999999$8$3$AAAA$AAAA",
        "ann:scrypt$32768$8$3$?$?",
        ":" + hash_password("x" * 8),
        "a b:" + hash_password("x" * 8),
    ],
    ids=["no hash", "a plain password", "N is no power of two", "too much memory", "no base64", "no name", "a space"],
)
def test_a_line_that_is_no_user_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "users").write_text(f"# people\n\n{line}\n")
    with pytest.raises(UsersError, match=r"line 3 of .*users is not name:hash"):
        Users(tmp_path / "users").names()


def test_a_file_that_is_gone_logs_everybody_out(tmp_path: Path) -> None:
    users = Users(tmp_path / "users")
    users.put("ann", PASSWORD)
    assert users.proof("ann")
    users.path.unlink()
    assert users.proof("ann") == ""
    with pytest.raises(UsersError, match="WEBUI_USERS_FILE"):
        users.knows("ann", PASSWORD)


def command(tmp_path: Path, *words: str, typed: str = "") -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "WEBUI_USERS_FILE": str(tmp_path / "users"), "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "webui", "users", *words],
        input=typed, env=environ, cwd=tmp_path, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_the_command_adds_lists_and_removes(tmp_path: Path) -> None:
    assert command(tmp_path, "add", "ann", typed="from a pipe\n").stdout.startswith("ann may log in now")
    assert command(tmp_path, "add", "ann", typed="another one\n").stdout.startswith("ann has another password now")
    assert Users(tmp_path / "users").knows("ann", "another one")
    assert command(tmp_path, "list").stdout == "ann\n"
    assert command(tmp_path, "remove", "ann").returncode == 0
    assert command(tmp_path, "list").stdout == ""
    gone = command(tmp_path, "remove", "ann")
    assert (gone.returncode, gone.stderr.count("\n")) == (2, 1)
    assert gone.stderr.startswith("webui: There is no user 'ann'")
    short = command(tmp_path, "add", "bob", typed="short\n")
    assert (short.returncode, short.stderr) == (2, "webui: A password has 8 to 1024 characters.\n")


def test_on_a_terminal_the_password_is_asked_for_twice_and_not_shown(tmp_path: Path) -> None:
    def type_on_a_terminal(*passwords: str) -> tuple[int, str]:
        ours, theirs = pty.openpty()
        environ = {**os.environ, "WEBUI_USERS_FILE": str(tmp_path / "users"), "PYTHONPATH": str(ROOT)}
        words = [sys.executable, "-m", "webui", "users", "add", "ann"]
        with subprocess.Popen(
            words, stdin=theirs, stdout=theirs, stderr=theirs, env=environ, cwd=tmp_path, start_new_session=True,
            preexec_fn=lambda: __import__("fcntl").ioctl(0, __import__("termios").TIOCSCTTY, 0),
        ) as process:  # fmt: skip
            os.close(theirs)
            shown = ""
            for password, asked in zip(passwords, ("Password for ann: ", "Once more: "), strict=True):
                while asked not in shown:
                    shown += os.read(ours, 1000).decode()
                os.write(ours, password.encode() + b"\n")
            try:
                while portion := os.read(ours, 1000):
                    shown += portion.decode()
            except OSError:
                pass  # the other side has closed
            code = process.wait(30)
        os.close(ours)
        return code, shown

    code, shown = type_on_a_terminal(PASSWORD, "something else")
    assert (code, "differ" in shown) == (2, True)
    code, shown = type_on_a_terminal(PASSWORD, PASSWORD)
    assert code == 0
    assert PASSWORD not in shown
    assert Users(tmp_path / "users").knows("ann", PASSWORD)

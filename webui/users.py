"""The list of people who may log in: a file with one `name:hash` a line, read again whenever it has changed.

The hash is scrypt (RFC 7914) of the password, `scrypt$N$r$p$salt$hash` with salt and hash in base64; N, r and p are
OWASP's (32 MiB and about a fifth of a second of a CPU for each try). Whoever is removed or gets another password is
logged out at once: a ticket carries a fingerprint of the line that it came from.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path

from webui.errors import UsersError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")
SHORTEST_PASSWORD, LONGEST_PASSWORD = 8, 1024
_N, _R, _P = 2**15, 8, 3
_SALT_BYTES, _HASH_BYTES = 16, 32
_MEMORY_BYTES = 64 * 1024 * 1024
_LINE = re.compile(
    r"(?P<name>[^:]+):scrypt\$(?P<n>[0-9]{1,7})\$(?P<r>[0-9]{1,2})\$(?P<p>[0-9]{1,2})\$(?P<salt>[^$]+)\$(?P<hash>[^$]+)"
)


class Users:
    """The file's content as it is now."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[int, int, int] | None = None
        self._hashes: dict[str, str] = {}
        self._nobody = hash_password(secrets.token_hex(16))

    def names(self) -> list[str]:
        """Everybody in the file. Raises UsersError when it cannot be read."""
        return sorted(self._read())

    def knows(self, name: str, password: str) -> bool:
        """Whether the password is this user's; takes as long for names that nobody has. Raises UsersError."""
        known = self._read().get(name)
        is_right = matches(password[:LONGEST_PASSWORD], known or self._nobody)
        return is_right and known is not None

    def proof(self, name: str) -> str:
        """A fingerprint of the user's line; "" when there is none (or no file, which is told at the next login)."""
        try:
            known = self._read().get(name)
        except UsersError:
            known = None
        return hashlib.sha256(f"{name}:{known}".encode()).hexdigest()[:16] if known else ""

    def put(self, name: str, password: str) -> bool:
        """Adds a user or gives one another password; True when the user is new. Raises UsersError."""
        if not NAME.fullmatch(name):
            raise UsersError("A name has 1 to 64 letters, digits and . _ @ + -, and begins with a letter or digit.")
        if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
            raise UsersError(f"A password has {SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters.")
        hashes = dict(self._read()) if self.path.exists() else {}
        is_new = name not in hashes
        self._write({**hashes, name: hash_password(password)})
        return is_new

    def remove(self, name: str) -> None:
        """Takes a user out of the file. Raises UsersError when there is none of that name."""
        hashes = dict(self._read())
        if hashes.pop(name, None) is None:
            raise UsersError(f"There is no user {name!r} in {self.path}.")
        self._write(hashes)

    def _read(self) -> Mapping[str, str]:
        try:
            stat = self.path.stat()
            seen = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if seen != self._seen:
                self._hashes = _parse(self.path.read_text(encoding="utf-8"), self.path)
                self._seen = seen
        except (OSError, UnicodeDecodeError) as error:
            self._seen = None
            raise UsersError(f"WEBUI_USERS_FILE: cannot read {self.path}: {error}") from error
        return self._hashes

    def _write(self, hashes: Mapping[str, str]) -> None:
        text = "".join(f"{name}:{hashed}\n" for name, hashed in sorted(hashes.items()))
        new = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            new.replace(self.path)
        except OSError as error:
            raise UsersError(f"WEBUI_USERS_FILE: cannot write {self.path}: {error.strerror}") from error


def hash_password(password: str) -> str:
    """The part of a line behind the name."""
    salt = secrets.token_bytes(_SALT_BYTES)
    hashed = _scrypt(password, salt, _N, _R, _P)
    return f"scrypt${_N}${_R}${_P}${base64.b64encode(salt).decode()}${base64.b64encode(hashed).decode()}"


def matches(password: str, hashed: str) -> bool:
    """Whether a password has this hash."""
    _, n, r, p, salt, expected = hashed.split("$")
    found = _scrypt(password, base64.b64decode(salt), int(n), int(r), int(p))
    return hmac.compare_digest(found, base64.b64decode(expected))


def _scrypt(password: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    raw = password.encode("utf-8", "surrogatepass")
    return hashlib.scrypt(raw, salt=salt, n=n, r=r, p=p, maxmem=_MEMORY_BYTES, dklen=_HASH_BYTES)


def _parse(text: str, path: Path) -> dict[str, str]:
    hashes = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        found = _LINE.fullmatch(line.strip())
        if found is None or not NAME.fullmatch(found["name"]) or not _is_usable(found):
            raise UsersError(
                f"WEBUI_USERS_FILE: line {number} of {path} is not name:hash. Make it with `python -m webui users add`."
            )
        hashes[found["name"]] = line.strip().partition(":")[2]
    return hashes


def _is_usable(line: re.Match[str]) -> bool:
    """Whether scrypt takes the numbers, and the rest is base64."""
    n, r, p = int(line["n"]), int(line["r"]), int(line["p"])
    try:
        lengths = [len(base64.b64decode(line[part], validate=True)) for part in ("salt", "hash")]
    except ValueError:
        return False
    is_power = n > 1 and n & (n - 1) == 0
    return (
        is_power
        and r > 0
        and p > 0
        and 128 * r * (n + p + 2) <= _MEMORY_BYTES
        and lengths == [_SALT_BYTES, _HASH_BYTES]
    )

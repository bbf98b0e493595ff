"""Tickets: what a browser keeps so that we know who asks. Encrypted and signed by us; nobody else can read or make one.

A ticket is a Fernet token (AES-128-CBC and HMAC-SHA256, https://github.com/fernet/spec) with JSON inside. Several
secrets may count: the first one seals, each of them opens, so a new one goes in front of the old one until the tickets
of the old one have run out.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

_ANONYMOUS = re.compile(r"[0-9a-f]{32}")
# Before tickets had times the cookie was `<id>.<HMAC-SHA256 of the id>`. Browsers were told to keep it for a year.
_OLD_FORM_ENDS_AT = 1_827_619_200  # 2027-12-01, a year after the last of them
_CLOCKS_DIFFER_BY_S = 300


@dataclass(frozen=True)
class Ticket:
    """Who a browser belongs to.

    Attributes:
        person: the id that the gateway knows.
        name: what people who have logged in are called; "" means anonymous.
        proof: what the login was good for; when it is no longer, the ticket is not either (see `users.py`).
        key: the person's own API key for the gateway; "" means the web UI's.
        issued_at: seconds since 1970.
    """

    person: str
    name: str = ""
    proof: str = ""
    key: str = field(default="", repr=False)
    issued_at: int = 0


def new_person() -> str:
    """The id of somebody who has not been here before."""
    return uuid.uuid4().hex


class Tickets:
    """Seals and opens tickets; what is forged, garbled or too old opens as None."""

    def __init__(
        self, secrets: Sequence[bytes], *, person_s: int, login_s: int, clock: Callable[[], float] = time.time
    ) -> None:
        self._secrets = tuple(secrets)
        self._fernet = MultiFernet([Fernet(_fernet_key(secret)) for secret in secrets])
        self.person_s = person_s
        self.login_s = login_s
        self._clock = clock

    def now(self) -> int:
        """Seconds since 1970."""
        return int(self._clock())

    def seal(self, ticket: Ticket) -> str:
        """A ticket in the form that browsers keep."""
        fields = {"p": ticket.person, "n": ticket.name, "f": ticket.proof, "k": ticket.key, "t": ticket.issued_at}
        return self.seal_bytes(json.dumps({name: value for name, value in fields.items() if value}).encode())

    def open(self, sealed: str) -> Ticket | None:
        """The ticket that we sealed, unless it is too old."""
        if not sealed.isascii():
            return None
        content = self.open_bytes(sealed)
        if content is None:
            return self._open_old_form(sealed)
        fields = json.loads(content)
        if "p" not in fields:
            return None  # sealed for something else
        ticket = Ticket(fields["p"], fields.get("n", ""), fields.get("f", ""), fields.get("k", ""), fields["t"])
        age_s = self.now() - ticket.issued_at
        return ticket if -_CLOCKS_DIFFER_BY_S <= age_s < self.lasts_s(ticket) else None

    def lasts_s(self, ticket: Ticket) -> int:
        """How long a ticket is good from its issue. A login's is never renewed, so a login ends after that time."""
        return self.login_s if ticket.name else self.person_s

    def seal_bytes(self, content: bytes) -> str:
        """Anything else that has to come back unread and unchanged."""
        return self._fernet.encrypt_at_time(content, self.now()).decode()

    def open_bytes(self, sealed: str, *, lasts_s: int | None = None) -> bytes | None:
        """What was sealed, unless it is older than `lasts_s` seconds."""
        try:
            if lasts_s is None:
                return self._fernet.decrypt(sealed)
            return self._fernet.decrypt_at_time(sealed, lasts_s, self.now())
        except (InvalidToken, ValueError):
            return None

    def _open_old_form(self, sealed: str) -> Ticket | None:
        person, _, signature = sealed.partition(".")
        if self.now() >= _OLD_FORM_ENDS_AT or not _ANONYMOUS.fullmatch(person):
            return None
        expected = [hmac.new(s, b"webui-person:" + person.encode(), hashlib.sha256).hexdigest() for s in self._secrets]
        matches = [hmac.compare_digest(signature, one) for one in expected]
        return Ticket(person, issued_at=self.now()) if any(matches) else None


def _fernet_key(secret: bytes) -> bytes:
    return base64.urlsafe_b64encode(hmac.new(secret, b"webui-tickets", hashlib.sha256).digest())

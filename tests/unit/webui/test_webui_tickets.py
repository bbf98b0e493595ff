"""Tickets: only ours are believed, not for ever, and nothing in them can be read."""

from __future__ import annotations

import base64
import hashlib
import hmac

import pytest

from webui.tickets import Ticket, Tickets, new_person

pytestmark = pytest.mark.unit
SECRET, OTHER = b"s" * 32, b"t" * 32
YEAR_S, MONTH_S = 365 * 86_400, 30 * 86_400
NOW = 1_800_000_000


def tickets(*secrets: bytes, at: float = NOW) -> Tickets:
    return Tickets(secrets or (SECRET,), person_s=YEAR_S, login_s=MONTH_S, clock=lambda: at)


def old_form(person: str, secret: bytes = SECRET) -> str:
    """The cookie before tickets had times."""
    return f"{person}.{hmac.new(secret, b'webui-person:' + person.encode(), hashlib.sha256).hexdigest()}"


def test_a_sealed_ticket_opens_again() -> None:
    ticket = Ticket("user:ann", "Ann 安", "proof", "sk-secret", NOW)
    assert tickets().open(tickets().seal(ticket)) == ticket


@pytest.mark.parametrize(
    "forge",
    [
        lambda sealed: "",
        lambda sealed: sealed[:-4],
        lambda sealed: sealed[:-1] + ("A" if sealed[-1] != "A" else "B"),
        lambda sealed: "A" + sealed[1:],
        lambda sealed: sealed.swapcase(),
        lambda sealed: sealed[:60] + ("A" if sealed[60] != "A" else "B") + sealed[61:],
        lambda sealed: "é" + sealed,
        lambda sealed: "\ud800",
        lambda sealed: "../../etc/passwd." + "0" * 64,
        lambda sealed: "0" * 32 + "." + "0" * 64,
        lambda sealed: base64.urlsafe_b64encode(b'{"p": "' + b"0" * 32 + b'", "t": 1800000000}').decode(),
        lambda sealed: old_form("a" * 32, OTHER),
        lambda sealed: old_form("a" * 32).replace("a" * 32, "b" * 32),
        lambda sealed: old_form("user:ann"),
    ],
)
def test_what_is_forged_or_garbled_is_nobody(forge: object) -> None:
    assert callable(forge)
    assert tickets().open(forge(tickets().seal(Ticket(new_person(), issued_at=NOW)))) is None


@pytest.mark.parametrize(
    ("name", "age_s", "is_good"),
    [
        ("", YEAR_S - 1, True),
        ("", YEAR_S, False),
        ("ann", MONTH_S - 1, True),
        ("ann", MONTH_S, False),
        ("", -301, False),
    ],
)
def test_a_ticket_is_good_for_its_time(name: str, age_s: int, is_good: bool) -> None:
    sealed = tickets().seal(Ticket("p", name, issued_at=NOW))
    assert (tickets(at=NOW + age_s).open(sealed) is not None) == is_good


def test_a_new_secret_goes_in_front_of_the_old_one() -> None:
    sealed = tickets(SECRET).seal(Ticket("p", issued_at=NOW))
    assert tickets(OTHER, SECRET).open(sealed) is not None
    assert tickets(OTHER).open(sealed) is None
    assert tickets(SECRET).open(tickets(OTHER, SECRET).seal(Ticket("p", issued_at=NOW))) is None


def test_nothing_in_a_ticket_can_be_read() -> None:
    sealed = tickets().seal(Ticket("user:ann", "Ann", "", "sk-secret", NOW))
    raw = base64.urlsafe_b64decode(sealed)
    assert not [part for part in (b"sk-secret", b"ann", b"Ann") if part in raw or part in sealed.encode()]
    assert "sk-secret" not in repr(Ticket("p", key="sk-secret"))


def test_what_was_sealed_for_something_else_is_no_ticket() -> None:
    assert tickets().open(tickets().seal_bytes(b'{"state": 1}')) is None
    assert tickets().open_bytes(tickets().seal_bytes(b"form:p"), lasts_s=60) == b"form:p"
    assert tickets(at=NOW + 61).open_bytes(tickets().seal_bytes(b"form:p"), lasts_s=60) is None


def test_people_of_before_are_known_for_a_year() -> None:
    person = new_person()
    assert tickets().open(old_form(person)) == Ticket(person, issued_at=NOW)
    assert tickets(OTHER, SECRET).open(old_form(person)) is not None
    assert tickets(at=1_827_619_200).open(old_form(person)) is None

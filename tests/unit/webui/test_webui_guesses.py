"""Guessing a password is slow, for one stranger and for many."""

from __future__ import annotations

import pytest

from webui.guesses import FOR_ONE_NAME, FROM_ONE_ADDRESS, WINDOW_S, Guesses

pytestmark = pytest.mark.unit


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_one_address_has_so_many_tries_in_a_while() -> None:
    clock = Clock()
    guesses = Guesses(clock=clock)
    assert [guesses.begin("192.0.2.1", f"name{n}") for n in range(FROM_ONE_ADDRESS)] == [0] * FROM_ONE_ADDRESS
    clock.now += 100
    assert guesses.begin("192.0.2.1", "ann") == WINDOW_S - 100
    assert guesses.begin("192.0.2.2", "ann") == 0
    clock.now += WINDOW_S - 100
    assert guesses.begin("192.0.2.1", "ann") == 0


def test_one_name_is_not_guessed_from_many_addresses() -> None:
    guesses = Guesses(clock=Clock())
    assert not any(guesses.begin(f"192.0.2.{n}", "ann") for n in range(FOR_ONE_NAME))
    assert guesses.begin("203.0.113.1", "ann") == WINDOW_S
    assert guesses.begin("203.0.113.1", "bob") == 0


def test_the_addresses_of_one_ipv6_customer_count_as_one() -> None:
    guesses = Guesses(clock=Clock())
    assert not any(guesses.begin(f"2001:db8::{n:x}") for n in range(FROM_ONE_ADDRESS))
    assert guesses.begin("2001:db8::ffff") > 0
    assert guesses.begin("2001:db8:0:1::1") == 0


def test_right_ones_do_not_count() -> None:
    guesses = Guesses(clock=Clock())
    for _ in range(FROM_ONE_ADDRESS * 3):
        assert guesses.begin("192.0.2.1", "ann") == 0
        guesses.was_right("192.0.2.1", "ann")


def test_what_is_kept_is_bounded() -> None:
    guesses = Guesses(clock=Clock())
    for number in range(12_000):
        guesses.begin(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert len(guesses._tries) == 10_000

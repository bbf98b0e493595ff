"""Reads of many events that only add text, whose form changes in the middle."""

from __future__ import annotations

import pytest

from gateway.plain import PlainForm

pytestmark = pytest.mark.unit


def event(created: int, text: str = "x") -> bytes:
    return b'{"created":%d,"choices":[{"delta":{"content":"%b"},"finish_reason":null}]}' % (created, text.encode())


def form_of(payload: bytes) -> PlainForm:
    form = PlainForm.learn(payload, payload)
    assert form is not None
    return form


def stream(*payloads: bytes) -> bytes:
    return b"".join(b"data: %b\n\n" % payload for payload in payloads)


def test_all_events_of_a_form_are_counted_and_half_of_one_is_left() -> None:
    form = form_of(event(1))
    for count in (0, 1, 30, 2000):
        whole = stream(*[event(1)] * count)
        assert form.count(whole) == (count, len(whole))
        assert form.count(whole + stream(event(1))[:-3]) == (count, len(whole))


def test_a_text_longer_than_a_stretch() -> None:
    whole = stream(event(1), event(1, "y" * 30_000), event(1))
    assert form_of(event(1)).count(whole) == (3, len(whole))


def test_others_are_never_counted() -> None:
    form = form_of(event(1))
    for place in (0, 1, 40, 99):
        payloads = [event(1)] * place + [event(2)] + [event(1)] * (100 - place)
        events, end = form.count(stream(*payloads))
        assert events <= place
        assert end == len(stream(*payloads[:events]))


@pytest.mark.parametrize("place", [1, 700, 1500, 1999])
def test_a_clock_that_moves_on_in_a_large_read_costs_a_few_looks_only(place: int) -> None:
    """It took a look at all of the rest for each event, which kept a gateway busy for minutes."""
    data, looks, looked_at = stream(*[event(1)] * place, *[event(2)] * (2000 - place)), 0, 0
    whole, form = len(data), form_of(event(1))
    while data:
        _, end = form.count(data)
        looks, looked_at = looks + 1, looked_at + end
        data = data[end:]
        if data:  # what the relay does with the next one
            payload, _, data = data.partition(b"\n\n")
            form = form_of(payload.removeprefix(b"data: "))
    assert looks < 100
    assert looked_at <= whole

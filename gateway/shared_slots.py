"""Slots that several gateways share: at most so many generations run at each inference server, whoever asks for them.

Who waits here waits in the lines of gateway/admission.py, fair between callers; whose turn it is among the gateways is
decided in Redis (gateway/slots.lua), where each slot that is held is a lease. Asking costs one round trip, and nobody
waits for what is given back. While Redis is away each gateway goes on with its share of the slots.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gateway.admission import Admission, Slot, Tell, Turn
from gateway.redis_inbox import Inbox
from gateway.redis_line import ANSWER_S, Line, scripts_of

LUA = Path(__file__).with_name("slots.lua")
LEASE_S = 10.0
_BEAT_S = 1.0
_TOGETHER = 200
_PREFIX = "gateway:slots:"


def scripts() -> dict[str, str]:
    """What the line to Redis has to know."""
    names = ("slot_ask", "slot_release", "slot_renew", "slot_move", "slot_return", "slot_leave")
    return scripts_of(LUA.read_text(), *names)


class SharedAdmission(Admission):
    """The waiting room of one gateway of several.

    Args:
        line: to Redis, with `scripts`.
        inbox: where slots come in that were waited for.
        servers: the inference servers' names here, with the addresses by which all gateways know them.
        server_slots: generations that may run at once at each of them.
        takes: the servers' names that take answers now.
        max_waiting: requests that may wait in this gateway; one more is refused.
        max_wait_s: how long a request waits at most.
        lease_s: for so long a slot is held after its gateway was last heard of.
    """

    def __init__(
        self,
        line: Line,
        inbox: Inbox,
        servers: Mapping[str, str],
        *,
        server_slots: int,
        takes: Callable[[], Sequence[str]],
        max_waiting: int,
        max_wait_s: float,
        lease_s: float = LEASE_S,
    ) -> None:
        slots = server_slots * len(servers)
        super().__init__(slots=slots, max_waiting=max_waiting, max_wait_s=max(max_wait_s, 2 * ANSWER_S))
        self._line, self._inbox, self._takes = line, inbox, takes
        self._names = list(servers)
        keys = [f"{_PREFIX}at:{_known_as(url)}" for url in servers.values()]
        self._name_of = dict(zip(keys, self._names, strict=True))
        pool = hashlib.sha256("\n".join(sorted(keys)).encode()).hexdigest()[:16]
        self._keys = [f"{_PREFIX}{pool}:{part}" for part in ("waiting", "tickets", "seen", "grace")] + keys
        self._common = (inbox.gateway, lease_s, server_slots)
        self._numbers = itertools.count(1)
        self._held: dict[str, Slot] = {}
        self._asked = 0
        self._ticket: str | None = None
        self._ticket_is_first = False
        self._overtaken: set[str] = set()
        """Leases that came while an answer was on its way: if that calls one of them a ticket, it is old."""
        self._rank = self._tickets = 1
        self._gateways = 1
        inbox.on("slot", self._came_free)
        line.when_up(self._redis_is_there)

    @asynccontextmanager
    async def lease(self, caller: str, tell: Tell | None = None) -> AsyncIterator[Slot | None]:
        if self._line.is_up or self._running >= self._share:
            slot = await self._wait(caller, tell)
            assert slot is not None
        else:
            slot = self._taken(self._new_slot())
            self._begin(caller)
        begun = time.monotonic()
        try:
            yield slot
        finally:
            self._note(time.monotonic() - begun)
            self._release(caller, slot)

    def resize(self, slots: int) -> None:
        """Another number of servers takes answers."""
        self._slots = slots
        if self._line.is_up and self._waiting_count:
            self._ask()
        self._go_on_alone()

    def place(self, caller: str, turn: Turn) -> int:
        """As if the gateways that wait took turns, as they do."""
        own = super().place(caller, turn)
        return own if self._ticket is None else self._rank + (own - 1) * self._tickets

    @asynccontextmanager
    async def renewed(self) -> AsyncIterator[None]:
        """Renews the leases while the context is open."""
        task = asyncio.create_task(self._beat())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})
            if self._line.is_up:
                self._post("slot_leave")

    # --- what the waiting room asks for

    @property
    def _share(self) -> int:
        return max(1, self._slots // max(1, self._gateways))

    def _has_room(self) -> bool:
        return self._waiting_count - self._asked < self._max_waiting  # who has just asked may get one at once

    def _joined(self, caller: str, turn: Turn) -> None:
        comes_first = caller not in self._running_of and not self._ticket_is_first
        if self._line.is_up and (self._ticket is None or comes_first):
            self._ask(turn)

    def _release(self, caller: str, slot: Slot | None) -> None:
        assert slot is not None
        self._end(caller)
        self._running -= 1
        del self._held[slot.id]
        self._post("slot_release", slot.id)
        self._go_on_alone()

    # --- slots that come

    def _ask(self, turn: Turn | None = None) -> None:
        """For one slot; `turn` is refused when there is none and too many wait already."""
        lease, is_first = self._new_id(), bool(self._first)
        self._asked += 1
        asking = self._line.ask("slot_ask", self._keys, [*self._said(), lease, int(is_first)])
        asking.add_done_callback(lambda answer: self._answered(answer, lease, is_first, turn))

    def _answered(self, asking: asyncio.Future[Any], lease: str, is_first: bool, turn: Turn | None) -> None:
        self._asked -= 1
        if asking.cancelled() or asking.exception() is not None:  # it may have been granted all the same
            self._ticket = None
            self._post("slot_release", lease)
            self._go_on_alone()
            return
        is_granted, what, *places = asking.result()
        if is_granted:
            self._hand(self._slot(lease, what))
        elif what not in self._overtaken:
            self._ticket, self._ticket_is_first = what, is_first
            self._rank, self._tickets = places
            self._refuse_if_too_many(turn)
        if not self._asked:
            self._overtaken.clear()
        self._ask_for_the_next()

    def _came_free(self, fields: Mapping[str, str]) -> None:
        lease = fields["id"]
        if lease == self._ticket:
            self._ticket = None
        if self._asked:
            self._overtaken.add(lease)
        self._hand(self._slot(lease, fields["server"]))
        self._ask_for_the_next()

    def _hand(self, slot: Slot) -> None:
        self._taken(slot)
        if not self._call_next(slot):  # whoever wanted it has left
            self._running -= 1
            del self._held[slot.id]
            self._post("slot_release", slot.id)

    def _ask_for_the_next(self) -> None:
        if self._waiting_count and not self._asked and self._ticket is None and self._line.is_up:
            self._ask()

    def _refuse_if_too_many(self, turn: Turn | None) -> None:
        if turn is not None and not turn.done() and self._waiting_count - self._asked > self._max_waiting:
            turn.set_exception(self._full())

    def _go_on_alone(self) -> None:
        """While Redis is away: who waits here gets what this gateway's share has free."""
        while not self._line.is_up and self._running < self._share and self._waiting_count:
            self._hand(self._new_slot())

    # --- leases

    async def _beat(self) -> None:
        """Every second: says that this gateway lives and what it holds, and asks again for those who wait."""
        while True:
            await asyncio.sleep(_BEAT_S)
            if self._line.is_up:
                self._renew()
                if self._waiting_count:
                    self._ask()
            else:
                self._ticket = None
                self._go_on_alone()

    def _renew(self) -> None:
        held = [part for slot in self._held.values() if slot.server for part in (slot.id, self._number(slot.server))]
        for start in range(0, len(held) or 1, 2 * _TOGETHER):
            renewing = self._line.ask("slot_renew", self._keys, [*self._said(), *held[start : start + 2 * _TOGETHER]])
            renewing.add_done_callback(self._renewed)

    def _renewed(self, renewing: asyncio.Future[Any]) -> None:
        if not renewing.cancelled() and renewing.exception() is None:
            self._gateways = int(renewing.result())

    def _redis_is_there(self, was_away: bool) -> None:
        if was_away:
            self._ticket = None
            self._post("slot_return")
        self._renew()
        self._ask_for_the_next()

    def _new_id(self) -> str:
        return f"{self._inbox.gateway}:{next(self._numbers)}"

    def _new_slot(self) -> Slot:
        return Slot(self._new_id(), None, self._moved)

    def _slot(self, lease: str, key: str) -> Slot:
        return Slot(lease, self._name_of[key], self._moved)

    def _taken(self, slot: Slot) -> Slot:
        self._running += 1
        self._held[slot.id] = slot
        return slot

    def _moved(self, slot: Slot) -> None:
        if slot.server is not None and slot.id in self._held:
            self._post("slot_move", slot.id, self._number(slot.server))

    def _number(self, server: str) -> int:
        return self._names.index(server) + 1

    def _said(self) -> list[str | float]:
        taking = self._takes()
        digits = "".join("1" if not taking or name in taking else "0" for name in self._names)
        return [*self._common, digits]

    def _post(self, script: str, *arguments: str | float) -> None:
        self._line.post(script, self._keys, [*self._said(), *arguments])


def _known_as(url: str) -> str:
    """What a server is called by all gateways: an address of this machine alone says nothing elsewhere."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    name = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()  # a password is nobody's business there
    is_of_this_machine = parts.scheme == "unix" or host in ("localhost", "::1") or host.startswith("127.")
    return f"{socket.gethostname()} {name}" if is_of_this_machine else name

"""How often a secret may be guessed: so many wrong tries in a while, for one address and for one name.

A try counts before its answer is known, and is taken back when it was right: many at once are no way around. Names
have more tries than addresses, so that one stranger does not lock a user out.
"""

from __future__ import annotations

import ipaddress
import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable

WINDOW_S = 900
FROM_ONE_ADDRESS = 10
FOR_ONE_NAME = 50
_MOST_KEPT = 10_000


class Guesses:
    """Wrong tries of the last quarter of an hour; of 10,000 addresses and names, the last used."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._tries: OrderedDict[str, deque[float]] = OrderedDict()

    def begin(self, address: str, name: str = "") -> int:
        """Counts a try; 0, or the seconds to wait when it may not be made (and then it does not count)."""
        now = self._clock()
        places = self._places(address, name)
        wait_s = max(self._wait_s(place, most, now) for place, most in places)
        if wait_s > 0:
            return math.ceil(wait_s)
        for place, _ in places:
            self._tries.setdefault(place, deque()).append(now)
            self._tries.move_to_end(place)
        while len(self._tries) > _MOST_KEPT:
            self._tries.popitem(last=False)
        return 0

    def was_right(self, address: str, name: str = "") -> None:
        """Takes the last try back."""
        for place, _ in self._places(address, name):
            tries = self._tries.get(place)
            if tries:
                tries.pop()

    def _wait_s(self, place: str, most: int, now: float) -> float:
        tries = self._tries.get(place)
        if not tries:
            return 0.0
        while tries and tries[0] <= now - WINDOW_S:
            tries.popleft()
        return tries[0] + WINDOW_S - now if len(tries) >= most else 0.0

    def _places(self, address: str, name: str) -> list[tuple[str, int]]:
        own = [(f"address {_network(address)}", FROM_ONE_ADDRESS)]
        return [*own, (f"name {name}", FOR_ONE_NAME)] if name else own


def _network(address: str) -> str:
    """An IPv4 address, or the 64 bits of IPv6 that one customer gets."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    return address if parsed.version == 4 else str(ipaddress.ip_network(f"{address}/64", strict=False))

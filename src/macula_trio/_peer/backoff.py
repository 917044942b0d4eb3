"""Who is known to be down, and until when: exponential backoff with full jitter (DESIGN section 7).

Sans-IO: time and chance are handed in.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final, Generic, TypeVar

import attrs

K = TypeVar("K", bound=Hashable)
R = TypeVar("R")

BASE_S: Final = 1.0  # the first pause is shorter than this, and its bound doubles with every failure
CEILING_S: Final = 60.0
FORGOTTEN_S: Final = 10 * CEILING_S  # behind the last failure: what was so long ago says nothing
REMEMBERED_MAX: Final = 4096  # who failed first is forgotten first


@attrs.define
class _Failures(Generic[R]):
    count: int
    at: float
    until: float
    reason: R


@attrs.define(eq=False)
class Backoff(Generic[K, R]):
    """Failures in a row, by whatever it is that fails.

    With full jitter a pause is anything from nothing to the bound: those who lost one peer at the same moment do not
    come back at the same moment (Brooker, "Exponential Backoff and Jitter", 2015).
    """

    _failures: dict[K, _Failures[R]] = attrs.field(factory=dict, init=False)

    def failed(self, key: K, now: float, fraction: float, reason: R) -> float:
        """Note a failure; returns the seconds until the next attempt is due.

        Args:
          key: what failed.
          now: seconds on one clock.
          fraction: chance, in [0, 1).
          reason: of the failure, for those who are told meanwhile.
        """
        earlier = self._failures.pop(key, None)
        count = 1 if earlier is None or now - earlier.at > FORGOTTEN_S else earlier.count + 1
        bound_s = min(CEILING_S, BASE_S * 2.0 ** min(count - 1, 32))
        while len(self._failures) >= REMEMBERED_MAX:
            del self._failures[next(iter(self._failures))]
        pause_s = fraction * bound_s
        self._failures[key] = _Failures(count, now, now + pause_s, reason)
        return pause_s

    def succeeded(self, key: K) -> None:
        """Forget the failures of one that is up."""
        self._failures.pop(key, None)

    def left_s(self, key: K, now: float) -> float:
        """For how long it is taken to be down yet; 0 when it may be tried."""
        failures = self._failures.get(key)
        return 0.0 if failures is None else max(0.0, failures.until - now)

    def reason(self, key: K) -> R | None:
        """Of its last failure; None when it has not failed."""
        failures = self._failures.get(key)
        return None if failures is None else failures.reason

    def attempts(self, key: K) -> int:
        """How often it has failed in a row."""
        failures = self._failures.get(key)
        return 0 if failures is None else failures.count

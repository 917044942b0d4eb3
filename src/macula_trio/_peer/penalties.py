"""Who is refused for a while because it broke the rules of the wire, and went on when it was sent away.

Sans-IO.  A node is known by its proven id, and by the host that it came from: keys cost nothing.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final, TypeVar

T = TypeVar("T")

OFFENCES_OF_NODE_MAX: Final = 4  # within a minute; one may be a bug, and the fifth is a habit
OFFENCES_OF_HOST_MAX: Final = 32  # the same; many nodes may share a host, and each may have its bug
OFFENCE_PERIOD_S: Final = 60.0
REFUSED_S: Final = 60.0  # long enough to make an attack cheap to bear, short enough for a node that was mended
OFFENDERS_MAX: Final = 4096  # remembered; who offended longest ago is forgotten first


class Penalties:
    """Offences of the last minute, by offender."""

    def __init__(self) -> None:
        self._offences: dict[Hashable, list[float]] = {}
        self._until: dict[Hashable, float] = {}

    def offend(self, who: Hashable, now: float, *, offences_max: int) -> bool:
        """Note an offence; True when ``who`` is refused from now on.

        Args:
          who: a node id or a host.
          now: seconds on one clock.
          offences_max: within `OFFENCE_PERIOD_S`, that are still borne.
        """
        recent = [at for at in self._offences.pop(who, ()) if at > now - OFFENCE_PERIOD_S]
        if len(recent) < offences_max:
            _remember(self._offences, who, [*recent, now])
            return False
        _remember(self._until, who, now + REFUSED_S)
        return True

    def refused_for_s(self, who: Hashable, now: float) -> float:
        """How much longer ``who`` is refused; 0 when it is welcome."""
        until = self._until.get(who)
        if until is None:
            return 0.0
        if until <= now:
            del self._until[who]
            return 0.0
        return until - now


def _remember(table: dict[Hashable, T], who: Hashable, value: T) -> None:
    table.pop(who, None)
    if len(table) >= OFFENDERS_MAX:
        del table[next(iter(table))]
    table[who] = value

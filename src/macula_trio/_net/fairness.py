"""Whose datagrams are dropped unread when there is more to do than we can: nobody takes the time of all.

Pure.  Only when what comes takes longer than a turn of the pump, or our own timers run late, and several peers are
talking, is anybody held to its share; what is dropped is a loss to QUIC, so an honest sender slows down, and one that
is not pays for what it sends in vain.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final, Generic, TypeVar

import attrs

T = TypeVar("T", bound=Hashable)

# Pieces of work: a datagram is one, and each frame in it another.  At 40 us for one this is less than half of a core,
# so that others find the rest.
WORK_PER_S: Final = 10_000.0
WORK_BURST: Final = 1_000.0
LATE_S: Final = 0.004  # of a timer: two turns of the pump; loops of an honest load mostly stay below
PRESSURE_S: Final = 1.0  # for which one late timer counts: a flood makes many
CONTENTION_S: Final = 1.0  # within which two peers have talked


@attrs.define(eq=False)
class Fairness(Generic[T]):
    """Tells whether shares have to be kept just now."""

    _pressed_until: float = attrs.field(default=0.0, init=False)
    _contended_until: float = attrs.field(default=0.0, init=False)
    _talker: T | None = attrs.field(default=None, init=False)

    def timer_fired(self, late_s: float, now: float) -> None:
        """Note how late a timer of ours was."""
        if late_s > LATE_S:
            self._pressed_until = now + PRESSURE_S

    def turn_ended(self, now: float) -> None:
        """Note that what was received took longer than a turn of the pump: the rest of it has to wait."""
        self._pressed_until = now + PRESSURE_S

    def heard(self, peer: T, now: float) -> bool:
        """Note a datagram of ``peer``; True when it has to keep to its share."""
        if peer is not self._talker:
            if self._talker is not None:
                self._contended_until = now + CONTENTION_S
            self._talker = peer
        return now < self._pressed_until and now < self._contended_until

    def forget(self, peer: T) -> None:
        """A connection has ended."""
        if peer is self._talker:
            self._talker = None

"""Timers of many things and the one task that waits for them.

A timer that becomes the next one moves the deadline of that task, which costs a tenth of waking it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

import trio

from macula_trio._net.timers import Timers

T = TypeVar("T", bound=Hashable)


class Alarm(Generic[T]):
    """At most one timer for each item; one task may `wait`, anybody may set timers and take what is due."""

    def __init__(self) -> None:
        self._timers = Timers[T]()
        self._wait = trio.CancelScope()

    @property
    def next_due(self) -> float:
        """When the next timer fires; sometimes earlier than needed."""
        return self._timers.next_due

    @property
    def count(self) -> int:
        """How many items have a timer."""
        return self._timers.count

    def arm(self, item: T, due: float) -> None:
        """Set or move the timer of ``item``; ``inf`` for none."""
        if self._timers.arm(item, due):
            self._wait.deadline = max(self._timers.next_due, trio.current_time())  # what is set late is not late yet

    def disarm(self, item: T) -> None:
        """Forget an item."""
        self._timers.disarm(item)

    def due(self, now: float) -> Iterator[T]:
        """The items whose time has come, in its order; each fires once until it is armed again."""
        return self._timers.due(now)

    async def wait(self) -> tuple[float, float]:
        """Sleep until a timer is due; returns the time, and by how much we have missed that of the timer."""
        with trio.CancelScope(deadline=max(self._timers.settle(), trio.current_time())) as self._wait:
            await trio.sleep_forever()
        now = trio.current_time()
        return now, now - self._wait.deadline

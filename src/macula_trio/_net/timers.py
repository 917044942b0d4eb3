"""Timers of many things in one heap: cheap to move, because most of them move before they fire.

Pure.  A timer that moves later leaves its old entry in the heap, and is put back when that one comes up.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Iterator
from math import inf
from typing import Final, Generic, TypeVar

import attrs

T = TypeVar("T", bound=Hashable)

WASTE_MAX: Final = 64  # entries that count no more, beyond one per timer, before the heap is swept


@attrs.define(eq=False)
class _Timer:
    due: float  # when it is meant to fire; inf: not at all
    queued: float = inf  # its entry in the heap that counts; inf: none


@attrs.define(eq=False)
class Timers(Generic[T]):
    """At most one timer for each item."""

    _timers: dict[T, _Timer] = attrs.field(factory=dict, init=False)
    _heap: list[tuple[float, int, T]] = attrs.field(factory=list, init=False)
    _sequence: int = attrs.field(default=0, init=False)  # breaks ties: first queued, first fired

    @property
    def next_due(self) -> float:
        """When `due` should be called next; sometimes earlier than needed, never later."""
        return self._heap[0][0] if self._heap else inf

    @property
    def count(self) -> int:
        """How many items are remembered."""
        return len(self._timers)

    def arm(self, item: T, due: float) -> bool:
        """Set or move the timer of ``item`` (``inf``: none); True when `next_due` has become earlier."""
        timer = self._timers.setdefault(item, _Timer(due))
        timer.due = due
        if due >= timer.queued:
            return False
        before = self.next_due
        self._queue(item, timer)
        return due < before

    def settle(self) -> float:
        """`next_due`, exactly: entries of what was moved away from the front are put where they belong."""
        while self._heap:
            queued, _, item = self._heap[0]
            timer = self._timers.get(item)
            if timer is not None and timer.queued == timer.due == queued:
                break
            heapq.heappop(self._heap)
            if timer is not None and timer.queued == queued:
                self._postpone(item, timer)
        return self.next_due

    def disarm(self, item: T) -> None:
        """Forget an item."""
        self._timers.pop(item, None)

    def due(self, now: float) -> Iterator[T]:
        """The items whose time has come, in its order; each fires once until it is armed again."""
        while self._heap and self._heap[0][0] <= now:
            queued, _, item = heapq.heappop(self._heap)
            timer = self._timers.get(item)
            if timer is None or timer.queued != queued:
                continue  # forgotten, or superseded by an earlier entry
            if timer.due > queued:  # moved: even when it is late already, earlier ones come first
                self._postpone(item, timer)
                continue
            timer.due = timer.queued = inf
            yield item

    def _postpone(self, item: T, timer: _Timer) -> None:
        """Queue one that was moved to a later time anew; its entry has left the heap."""
        timer.queued = inf
        if timer.due < inf:
            self._queue(item, timer)

    def _queue(self, item: T, timer: _Timer) -> None:
        timer.queued = timer.due
        self._sequence += 1
        heapq.heappush(self._heap, (timer.due, self._sequence, item))
        if len(self._heap) > 2 * len(self._timers) + WASTE_MAX:
            self._sweep()

    def _sweep(self) -> None:
        """Drop what counts no more: a peer can make us move a timer often, and what was forgotten must be free."""
        kept = [entry for entry in self._heap if self._is_counted(entry[2], entry[0])]
        heapq.heapify(kept)
        self._heap = kept

    def _is_counted(self, item: T, queued: float) -> bool:
        timer = self._timers.get(item)
        return timer is not None and timer.queued == queued

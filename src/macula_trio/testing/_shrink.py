"""Makes a failing run smaller: fewer nodes, shorter, fewer faults.

Pure: it proposes what to try, and is told what came of it.  Numbers are searched by halving; faults by delta debugging
(Zeller and Hildebrandt 2002, "Simplifying and isolating failure-inducing input", algorithm ddmin).  Where failing is
monotone, so that whatever fails does so with more nodes, more time or more faults as well, it finds the smallest run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from itertools import pairwise
from typing import Final, TypeAlias

import attrs

from macula_trio.testing._world import Scale

ATTEMPTS_MAX: Final = 100  # runs; at some seconds each a few minutes, and enough for 16 nodes, an hour and 20 faults


@attrs.frozen(kw_only=True)
class Size:
    """What a run took of what can be turned down; 0 where its scenario has no such knob.

    Attributes:
      nodes: at most.
      seconds: meant to go on so long.
      faults: how many were numbered, those that were skipped included.
    """

    nodes: int
    seconds: float
    faults: int


_Search: TypeAlias = Generator[Scale, bool, None]


class Shrink:
    """A search for the smallest run that still fails in the same way.

    Contract: try `candidate`, `judge` it, until `candidate` is None.  No scale is proposed twice: a run follows from
    its seed and its scale alone.

    Args:
      scale: of the run that failed.
      size: what that run took.
      attempts_max: the search ends after so many.

    Attributes:
      best: the smallest scale so far that fails.
      size: what its run took.
      attempts: how many were judged.
      candidate: what to try next, or None at the end.
    """

    def __init__(self, scale: Scale, size: Size, *, attempts_max: int = ATTEMPTS_MAX) -> None:
        self.best = scale
        self.size = size
        self.attempts = 0
        self.candidate: Scale | None = None
        self._attempts_max = attempts_max
        self._taken: Size | None = None  # by the candidate that was judged last
        self._judged: dict[Scale, None] = {scale: None}
        self._search = self._rounds()
        self._propose(None)

    def judge(self, *, fails: bool, size: Size | None) -> None:
        """Say what came of the candidate.

        Args:
          fails: whether it failed in the same way; another way does not count.
          size: what its run took; None when it told nothing of itself.
        """
        assert self.candidate is not None
        self.attempts += 1
        self._judged[self.candidate] = None
        self._taken = size
        if fails and size == self.size and self.candidate.skip_faults == self.best.skip_faults:
            fails = False  # the same run with another limit: the scenario takes no less
        if fails:
            self.best, self.size = self.candidate, size or self.size
        self._propose(fails)

    def _propose(self, fails: bool | None) -> None:
        """Go on to the next candidate that was not tried yet."""
        self.candidate = None
        try:
            proposed = next(self._search) if fails is None else self._search.send(fails)
            while proposed in self._judged:
                self._taken = None
                proposed = self._search.send(False)  # it passed, or it is where we stand: no step forward
        except StopIteration:
            return
        if self.attempts < self._attempts_max:
            self.candidate = proposed

    def _rounds(self) -> _Search:
        """Turn every knob down, again and again until none gives way: one may have freed another."""
        before = None
        while before != self.best:
            before = self.best
            if self.best.nodes is None or self.best.nodes >= self.size.nodes:
                yield from self._halve(lambda limit: attrs.evolve(self.best, nodes=limit), _nodes)
            if self.best.seconds is None or self.best.seconds >= self.size.seconds:
                yield from self._halve(lambda limit: attrs.evolve(self.best, seconds=float(limit)), _seconds)
            yield from self._remove_faults()

    def _halve(self, scale: Callable[[int], Scale], taken: Callable[[Size], int]) -> _Search:
        """Find the smallest limit that fails, from 1 to what the run takes now.

        Args:
          scale: that of a limit.
          taken: what a run took in the end; 0 when it has no such knob.  A scenario has a least number of its own: a
            run that takes more than its limit is the smallest.
        """
        passes_at, fails_at = 0, taken(self.size)
        while fails_at - passes_at > 1:
            limit = (passes_at + fails_at) // 2
            fails = yield scale(limit)
            took = limit if self._taken is None else max(limit, taken(self._taken))
            if fails:
                fails_at = limit
            else:
                passes_at = took
            if fails and took > limit:
                return  # the scenario takes no less, whatever the limit

    def _remove_faults(self) -> _Search:
        """Leave out as many faults as possible: all, halves, quarters, and at last each for itself."""
        parts = 1
        while kept := self._kept():
            parts = min(parts, len(kept))
            for part in _split(kept, parts):
                skipped = tuple(sorted({*self.best.skip_faults, *part}))
                fails = yield attrs.evolve(self.best, skip_faults=skipped)
                if fails:
                    parts = max(parts - 1, 1)
                    break
            else:
                if parts == len(kept):
                    return
                parts = 2 * parts

    def _kept(self) -> list[int]:
        """Numbers of the faults that the best run has."""
        return [number for number in range(self.size.faults) if number not in self.best.skip_faults]


def _nodes(size: Size) -> int:
    return size.nodes


def _seconds(size: Size) -> int:
    return math.ceil(size.seconds)


def _split(numbers: list[int], parts: int) -> list[list[int]]:
    """Cut a list into so many parts, none of them empty."""
    bounds = [len(numbers) * part // parts for part in range(parts + 1)]
    return [numbers[start:end] for start, end in pairwise(bounds)]

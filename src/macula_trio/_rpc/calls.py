"""Which calls may run here, which have run, and how much time they get.

Sans-IO (DESIGN section 9).  A call is known by its caller and its id.  It runs at most once: a repeat while it runs
is ignored, and a repeat afterwards is answered from memory.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from math import inf
from typing import Final, Literal, TypeAlias

import attrs

from macula_trio.abc import Message

CALL_ID_BYTES: Final = 16  # DESIGN section 4
REPLY_MEMORY_S: Final = 60.0  # beyond a call's deadline; a repeat that is later still comes from a dead caller
REPLIES_MAX: Final = 4096  # remembered replies in all
REPLY_BYTES_MAX: Final = 16 * 1024 * 1024  # and their size; the oldest are forgotten first

CallKey: TypeAlias = tuple[object, bytes | tuple[bytes, bytes]]
"""On whose account it runs (a node id, or an unverified link) and its id; with a claimed source when forwarded."""


def wire_budget_ms(remaining_s: float, *, ceiling_s: float) -> int:
    """Milliseconds that the peer may spend on a call, 1 to the ceiling: durations travel, never instants.

    Args:
      remaining_s: until the caller's deadline; ``inf`` without one, ``-inf`` when it is cancelled already.
      ceiling_s: the most that anybody gets.
    """
    return max(1, int(max(0.0, min(remaining_s, ceiling_s)) * 1000))


def granted_s(timeout_ms: int | None, *, default_s: float, ceiling_s: float) -> float:
    """Seconds that a handler gets for a call that arrived with this ``timeout``."""
    asked = default_s if timeout_ms is None else max(timeout_ms, 0) / 1000
    return min(asked, ceiling_s)


@attrs.frozen
class _Remembered:
    reply: Message
    size: int
    until: float


@attrs.define(eq=False, kw_only=True)
class CallLedger:
    """Admission and memory of the calls of one node.

    Args:
      running_max: calls at once, in all.
      running_per_caller_max: calls at once of one caller.
    """

    running_max: int
    running_per_caller_max: int
    _running: dict[CallKey, None] = attrs.field(factory=dict, init=False)
    _per_caller: Counter[object] = attrs.field(factory=Counter, init=False)
    _replies: OrderedDict[CallKey, _Remembered] = attrs.field(factory=OrderedDict, init=False)
    _reply_bytes: int = attrs.field(default=0, init=False)

    @property
    def running(self) -> int:
        """Calls that run now."""
        return len(self._running)

    def admit(
        self, key: CallKey, now: float, *, takes_new: bool = True
    ) -> Literal["run", "busy", "draining", "running"] | Message:
        """Decide about a call that arrived: run it, refuse it, ignore the repeat, or send this reply again.

        Args:
          key: what it is known by.
          now: on the clock of `finish`'s deadlines.
          takes_new: whether calls may begin; those that have run, or do, are repeated in any case.
        """
        self._forget_old(now)
        remembered = self._replies.get(key)
        if remembered is not None:
            return remembered.reply
        if key in self._running:
            return "running"
        if not takes_new:
            return "draining"
        if len(self._running) >= self.running_max or self._per_caller[key[0]] >= self.running_per_caller_max:
            return "busy"
        self._running[key] = None
        self._per_caller[key[0]] += 1
        return "run"

    def finish(self, key: CallKey, reply: Message | None = None, *, size: int = 0, deadline: float = inf) -> None:
        """Note the end of a call that was admitted.

        Args:
          key: the one it was admitted by.
          reply: what to answer to repeats; None when there is nothing to remember.
          size: bytes of the reply's payload.
          deadline: of the call, on the clock of `admit`.
        """
        del self._running[key]
        self._per_caller[key[0]] -= 1
        if not self._per_caller[key[0]]:
            del self._per_caller[key[0]]
        if reply is not None:
            self._replies[key] = _Remembered(reply, size, deadline + REPLY_MEMORY_S)
            self._reply_bytes += size
            while len(self._replies) > REPLIES_MAX or self._reply_bytes > REPLY_BYTES_MAX:
                self._forget_oldest()

    def _forget_old(self, now: float) -> None:
        # In the order of their ends, not of their deadlines: one with a far deadline keeps those behind it a
        # little longer, which costs memory that is bounded anyway.
        while self._replies and next(iter(self._replies.values())).until <= now:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        _, remembered = self._replies.popitem(last=False)
        self._reply_bytes -= remembered.size

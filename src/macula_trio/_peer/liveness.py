"""Whether a peer is alive: keepalive PINGs, and the oldest one without an answer decides (DESIGN section 7).

Sans-IO.  After ``keepalive_s`` of silence a PING is due, and another one with every probe interval behind it.  A peer
is gone when the oldest PING that it has not answered is three probes old, and nothing else has come for one probe: the
answer of a peer that talks may lie behind much that it has yet to say, and if it does not hear us, it is the one to
notice.  A PING that was lost with its connection's retransmissions does not count, one that was answered late does.
An interval follows the round trip as a QUIC probe time-out does (RFC 9002, section 6.2.1), and grows by how late our
own timers run, so that an overloaded node does not declare the world dead.
"""

from __future__ import annotations

import enum
from collections import OrderedDict
from typing import Final

PROBES: Final = 3
PROBE_MIN_S: Final = 1.0  # less tells a pause of the machine from a death no more
PROBE_MAX_S: Final = 5.0  # a round trip behind much else that was written says little of the way
PINGS_REMEMBERED: Final = 8
LATENESS_HALF_LIFE_S: Final = 5.0


class Verdict(enum.Enum):
    """What is to be done about one peer now."""

    FINE = enum.auto()
    PING = enum.auto()
    GONE = enum.auto()


class Lateness:
    """How late our own timers run: the worst of late, fading."""

    __slots__ = ("_at", "_late_s")

    def __init__(self) -> None:
        self._late_s = 0.0
        self._at = 0.0

    def note(self, late_s: float, now: float) -> None:
        """Take in how late one timer fired."""
        self._late_s, self._at = max(late_s, self.at(now)), now

    def at(self, now: float) -> float:
        """In seconds."""
        return float(self._late_s * 0.5 ** (max(0.0, now - self._at) / LATENESS_HALF_LIFE_S))


class Liveness:
    """Silence, PINGs and round trips of one link.

    Args:
      keepalive_s: how long silence is nothing to worry about.
      now: when the link became live; seconds on one clock, as everywhere here.
    """

    __slots__ = ("_heard_at", "_keepalive_s", "_number", "_pings", "_rtt_s", "_rtt_var_s")

    def __init__(self, keepalive_s: float, now: float) -> None:
        self._keepalive_s = keepalive_s
        self._heard_at = now
        self._pings: OrderedDict[int, float] | None = None  # unanswered, by number; none for most of a link's life
        self._number = 0
        self._rtt_s: float | None = None
        self._rtt_var_s = 0.0

    @property
    def heard_at(self) -> float:
        """When the peer said something last."""
        return self._heard_at

    @property
    def is_waiting(self) -> bool:
        """Whether a PING has yet to be answered."""
        return self._pings is not None

    @property
    def round_trip_s(self) -> float | None:
        """Smoothed; None before the first answer."""
        return self._rtt_s

    def heard(self, now: float) -> None:
        """The peer said something."""
        self._heard_at = now

    def measured(self, seconds: float) -> None:
        """Take in one round trip (RFC 9002, section 5.3, without the peer's delay)."""
        if self._rtt_s is None:
            self._rtt_s, self._rtt_var_s = seconds, seconds / 2
        else:
            self._rtt_var_s += (abs(self._rtt_s - seconds) - self._rtt_var_s) / 4
            self._rtt_s += (seconds - self._rtt_s) / 8

    def pinged(self, now: float) -> int:
        """Note a PING that leaves now; returns what tells it from all others of this link, from 1 up."""
        if self._pings is None:
            self._pings = OrderedDict()
        self._number += 1
        self._pings[self._number] = now
        if len(self._pings) > PINGS_REMEMBERED:
            # Of those behind the oldest, which alone decides: the answer to any of them counts for all before it.
            del self._pings[next(number for place, number in enumerate(self._pings) if place == 1)]
        return self._number

    def answered(self, number: int, now: float) -> bool:
        """Take in the answer to a PING, and with it to all before; whether it was to one of ours."""
        if self._pings is None or number not in self._pings:
            return False
        self.measured(now - self._pings[number])
        self._pings = OrderedDict((n, at) for n, at in self._pings.items() if n > number) or None
        return True

    def stalled(self, now: float) -> None:
        """What we wrote has yet to leave, and some of it has: the PINGs behind it begin anew to be waited for."""
        if self._pings is not None:
            self._pings = OrderedDict.fromkeys(self._pings, now)

    def probe_s(self, late_s: float) -> float:
        """How long one PING may go unanswered before the next."""
        from_rtt_s = 0.0 if self._rtt_s is None else self._rtt_s + 4 * self._rtt_var_s
        return max(min(PROBE_MIN_S, self._keepalive_s), min(from_rtt_s, PROBE_MAX_S)) + late_s

    def judge(self, now: float, late_s: float, slack_s: float = 0.0) -> Verdict:
        """What is due.

        Args:
          now: as everywhere.
          late_s: by which our own timers run late.
          slack_s: by which the first PING may leave earlier.
        """
        if self._pings is None:
            return Verdict.PING if now + slack_s >= self._heard_at + self._keepalive_s else Verdict.FINE
        newest, probe_s = next(reversed(self._pings.values())), self.probe_s(late_s)
        if now >= self._gone_at(probe_s):
            return Verdict.GONE
        return Verdict.PING if now >= newest + probe_s else Verdict.FINE

    def _gone_at(self, probe_s: float) -> float:
        """Of a peer that still talks an answer may lie behind much else that it has yet to say."""
        assert self._pings is not None
        return max(next(iter(self._pings.values())) + PROBES * probe_s, self._heard_at + probe_s)

    def due_at(self, late_s: float) -> float:
        """When `judge` may say something else than now, if nothing happens before."""
        if self._pings is None:
            return self._heard_at + self._keepalive_s
        newest, probe_s = next(reversed(self._pings.values())), self.probe_s(late_s)
        return min(self._gone_at(probe_s), newest + probe_s)

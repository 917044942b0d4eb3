"""What time demands of links: signs of life, ends of those that nobody uses, replacements of those that are worn."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Final

import trio

from macula_trio._net.alarm import Alarm
from macula_trio._peer.link import QuicLink
from macula_trio._peer.liveness import Lateness

TURN_S: Final = 0.002  # of work on many links, before others have their turn
LOOK_AGAIN_S: Final = 0.001  # at the earliest: two clocks that differ by a rounding must not make us spin


class Upkeep:
    """One timer for each link, one task for all of them.

    Args:
      look: does what is due for a link, given how late our timers run; returns when to look again, `inf` for never.
    """

    def __init__(self, look: Callable[[QuicLink, float], float]) -> None:
        self._look = look
        self._alarm = Alarm[QuicLink]()
        self._lateness = Lateness()
        self._looked_at: QuicLink | None = None  # now
        self._sooner = inf  # than it says itself, it is to be looked at again

    def begin(self, link: QuicLink) -> None:
        """Look after a link from now on."""
        self.look_at(link, trio.current_time())

    def look_at(self, link: QuicLink, when: float) -> None:
        """Look at a link at a time of Trio's clock, or earlier."""
        if link is self._looked_at:
            self._sooner = min(self._sooner, when)
        else:
            self._alarm.arm(link, when)

    def end(self, link: QuicLink) -> None:
        """Look after a link no more."""
        self._alarm.disarm(link)

    async def run(self) -> None:
        """Look after all of them until cancelled."""
        while True:
            now, late_s = await self._alarm.wait()
            self._lateness.note(late_s, now)
            begun = now
            for link in self._alarm.due(now):
                if link.is_ended:
                    continue  # by what was done for another one
                if trio.current_time() - begun > TURN_S:
                    # What was asked leaves, and what was answered is read, before QUIC takes an answer for lost.
                    await trio.lowlevel.checkpoint()
                    begun = trio.current_time()
                self._looked_at, self._sooner = link, inf
                again = self._look(link, self._lateness.at(now))
                self._looked_at = None
                if not link.is_ended:
                    self._alarm.arm(link, max(min(again, self._sooner), now + LOOK_AGAIN_S))

"""How a link between two of our nodes ends without loss: what to do next, and when it is over (DESIGN section 7).

Sans-IO.  One side leads: it ends its control stream when it has nothing new to say on it, and nothing that it asked
there is open.  The other side answers by ending its own, on the same terms.  The leader, which hears that, closes
the connection when its own last word was acknowledged; both may lead, and then an end is no answer to the other.

Of a link that another one replaces, its dialer leads, and both know of the replacement by themselves.  Whoever just
wants to end an idle link leads, too.
"""

from __future__ import annotations

import enum


class Step(enum.Enum):
    """What is to be done now."""

    FINISH = enum.auto()  # end our control stream
    CLOSE = enum.auto()  # close the connection


class Ending:
    """Where one link is on its way to its end."""

    __slots__ = ("_leads", "has_begun", "has_finished", "peer_has_finished")

    def __init__(self) -> None:
        self.has_begun = False  # we say nothing new
        self.has_finished = False  # we have said the last, save answers on streams of their own
        self.peer_has_finished = False
        self._leads = False

    @property
    def is_under_way(self) -> bool:
        """Whether one of the two says nothing new any more."""
        return self.has_begun or self.peer_has_finished

    def begin(self, *, is_replaced: bool, is_dialed: bool) -> None:
        """Say nothing new from now on."""
        self.has_begun = True
        self._leads = is_dialed if is_replaced else not self.peer_has_finished

    def retract(self) -> bool:
        """Say new things after all; False when it is too late."""
        if self.has_finished:
            return False
        self.has_begun = self._leads = False
        return True

    @property
    def is_said(self) -> bool:
        """Whether both have said the last."""
        return self.has_finished and self.peer_has_finished

    def next_step(self, *, asks: int, works: bool, has_queued: bool) -> Step | None:
        """What is to be done, if anything.

        Args:
          asks: questions of ours on this link without an answer.
          works: whether something runs here for the peer of this link.
          has_queued: whether something of what came has yet to wait for the end of an earlier link.
        """
        if not self.has_begun:
            return None
        if not self.has_finished:
            is_heard = self.peer_has_finished and not has_queued
            return Step.FINISH if (self._leads or is_heard) and not asks else None
        is_over = self._leads and self.peer_has_finished and not asks and not works and not has_queued
        return Step.CLOSE if is_over else None

"""Whom a publisher wants to reach again when the link to it is lost: those that it has lately sent something to.

A lost link is dialed again while somebody wants its peer (DESIGN section 7), so that the next message need not wait for
that.  One task of the node holds all wishes, and lets go of those that nothing was sent to for a while.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Final

import attrs
import trio

from macula_trio._background import Background
from macula_trio._ids import Contact, NodeId
from macula_trio.abc import Redialer

WANTED_S: Final = 60.0  # after the last message; a subscriber that is gone by then will hardly be missed
WANTED_MAX: Final = 256  # more than a node keeps links; the one not sent to for longest goes first


@attrs.define(eq=False)
class _Wish:
    """One node that is wanted.

    Attributes:
      contact: as it was asked for.
      until: when it is not wanted any more, in seconds on Trio's clock.
      held: what ends it.
    """

    contact: Contact
    until: float
    held: ExitStack


class Wanted:
    """The nodes that are wanted now.

    Args:
      redialer: told of them.
      background: takes the task that holds them.
    """

    def __init__(self, redialer: Redialer, *, background: Background) -> None:
        self._redialer = redialer
        self._background = background
        self._wishes: dict[NodeId, _Wish] = {}  # the one that was sent to last is the last
        self._is_held = False

    def keep(self, contact: Contact) -> None:
        """Something was sent to a node: want it for a while from now on.  Nothing happens when the node is closing."""
        if not self._is_held:
            self._is_held = self._background.start_soon(self._hold, name="want subscribers")
            if not self._is_held:
                return
        wish = self._wishes.pop(contact.node_id, None)
        if wish is not None and wish.contact != contact:
            wish.held.close()  # it has moved
            wish = None
        if wish is None:
            wish = _Wish(contact, 0.0, ExitStack())
            wish.held.enter_context(self._redialer.want(contact))
        wish.until = trio.current_time() + WANTED_S
        self._wishes[contact.node_id] = wish
        if len(self._wishes) > WANTED_MAX:
            self._let_go_of_oldest()

    async def _hold(self) -> None:
        try:
            while self._wishes:
                oldest = next(iter(self._wishes.values()))
                await trio.sleep_until(oldest.until)
                while self._wishes and next(iter(self._wishes.values())).until <= trio.current_time():
                    self._let_go_of_oldest()
        finally:
            self._is_held = False
            while self._wishes:
                self._let_go_of_oldest()

    def _let_go_of_oldest(self) -> None:
        self._wishes.pop(next(iter(self._wishes))).held.close()

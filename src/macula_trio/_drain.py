"""The end of a node's work, in peace: by `Node.drain`, or when the block of `open_node` is left (DESIGN section 7).

Withdraw what we advertise, refuse new calls so that their callers go elsewhere, hand over the values that we hold, let
the handlers that run finish, and say goodbye.  There is no way back.
"""

from __future__ import annotations

import enum
import math
from contextlib import suppress
from typing import Final

import trio

from macula_trio._background import includes_this_task
from macula_trio._composition import Services
from macula_trio._dht.client import QUERY_ERRORS
from macula_trio._wire import messages as wire
from macula_trio.abc import Link

# For handlers that were cancelled at the deadline to end, so that their callers are told before the goodbye.
FAREWELL_S: Final = 0.25
SEEN_DEADLINE_S: Final = 2.0  # for a peer to say that it has read its answer; it may be gone itself
LINGER_S: Final = 0.1  # for an answer to who proves nothing, and so is not asked whether it has come; as in v0.8


class Stage(enum.Enum):
    """How far a node has come."""

    OPEN = enum.auto()
    DRAINING = enum.auto()
    LEFT = enum.auto()


class Drain:
    """Ends the work of one node, once.

    Attributes:
      stage: how far it has come.

    Args:
      services: whose work it is.
      nursery: has all its tasks.
      ended: set when they have ended.
      close_deadline_s: for withdrawals and goodbyes when there is no patience for more.
    """

    def __init__(
        self, services: Services, *, nursery: trio.Nursery, ended: trio.Event, close_deadline_s: float
    ) -> None:
        self.stage: Stage = Stage.OPEN
        self._events = services.events
        self._callee = services.rpc.callee
        self._dht = services.dht
        self._pubsub = services.pubsub
        self._registry = services.registry
        self._close_deadline_s = close_deadline_s
        self._nursery = nursery
        self._ended = ended
        self._patience = trio.CancelScope()
        self._in_peace = True
        self._done = trio.Event()

    async def run(self, patience_s: float) -> None:
        """Drain, or wait for the drain that is under way.

        Cancelled, the one that drains has no more patience: what runs is cancelled, and withdrawals and goodbyes
        leave within ``close_deadline_s``.

        Args:
          patience_s: for withdrawals, values to be handed over, and handlers to finish.

        Raises:
          RuntimeError: a task of the node asks, whose end is waited for.
        """
        if includes_this_task(self._nursery):
            raise RuntimeError("a handler cannot wait for the end of its own node; let a task of yours drain it")
        if self.stage is not Stage.OPEN:
            await self._done.wait()
            return
        self.stage = Stage.DRAINING
        self._patience.deadline = deadline = trio.current_time() + patience_s
        self._events.emit(
            "node.draining",
            calls=len(self._callee.handlers),
            deadline_s=patience_s if patience_s < math.inf else None,
        )
        self._callee.drain()
        try:
            with self._patience:
                await self._finish()
        finally:
            is_late = self._patience.cancelled_caught and trio.current_time() >= deadline
            await self._leave(FAREWELL_S if is_late else self._close_deadline_s)  # noqa: ASYNC102  # shields itself

    async def leave(self, *, patiently: bool) -> None:
        """Be gone when the block ends, within ``close_deadline_s``.

        Args:
          patiently: whether handlers may use that time to finish.
        """
        if patiently and self.stage is Stage.OPEN:
            await self.run(self._close_deadline_s)
            return
        try:
            if patiently:  # another task drains, which may have more patience
                with trio.move_on_after(self._close_deadline_s):
                    await self._done.wait()
        finally:
            self._in_peace = self._in_peace and (patiently or self.stage is not Stage.OPEN)
            self._patience.cancel()
            with trio.CancelScope(shield=True):
                await self.run(self._close_deadline_s)  # noqa: ASYNC102  # bounds itself

    async def _finish(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._dht.wait_withdrawn, name="withdraw")
            nursery.start_soon(self._dht.hand_over_all, name="hand over")
            await self._callee.handlers.wait_ended()
            for link in self._callee.last_answered:
                nursery.start_soon(self._see_through, link, name="see an answer through")

    async def _see_through(self, link: Link) -> None:
        """Wait until the peer has read what it was answered: a connection that closes sends nothing again."""
        if not link.verified:
            await trio.sleep(LINGER_S)
        elif not link.is_closed:
            with trio.move_on_after(SEEN_DEADLINE_S), suppress(*QUERY_ERRORS):  # it is gone
                await link.ask(self._dht.client.new_ping(), wire.Pong)

    async def _leave(self, farewell_s: float) -> None:
        cancelled = len(self._callee.handlers)
        self._callee.handlers.stop()
        with trio.move_on_after(farewell_s, shield=True):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._callee.handlers.wait_ended, name="wait for handlers")
                nursery.start_soon(self._dht.wait_withdrawn, name="withdraw")
        self._events.emit("node.drained", calls_cancelled=cancelled, calls_turned_away=self._callee.turned_away)
        self.stage = Stage.LEFT
        self._registry.leave()
        if self._in_peace:  # else whoever receives is cancelled, or learns by an error why the node has ended
            self._pubsub.end()
        try:
            with trio.CancelScope(shield=True):
                self._nursery.cancel_scope.cancel()
                await self._ended.wait()
        finally:
            self._done.set()

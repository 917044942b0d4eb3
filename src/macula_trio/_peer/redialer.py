"""Links that were lost while somebody wants them are dialed again: with growing pauses, and no longer than wanted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeAlias

import attrs
import trio

from macula_trio._background import Background
from macula_trio._events import EventBus
from macula_trio._ids import Contact, NodeId
from macula_trio.errors import MeshError, NotSent, TrustError

WANTED_MAX: Final = 4096  # peers; those beyond are dialed by whoever needs them

# Gives the numeric endpoint of a peer that is known by a name, which is resolved anew; None when it has none just now.
Locate: TypeAlias = Callable[[], Awaitable[str | None]]


@attrs.define(eq=False)
class _Want:
    """One peer that somebody wants."""

    contact: Contact
    locate: Locate | None = None
    count: int = 0
    scope: trio.CancelScope | None = None  # of the task that dials it again


class Redialer:
    """Who is wanted, and the tasks that dial them again.

    Args:
      background: owns the tasks.
      events: where attempts are told.
      dial: makes a link; raises `MeshError`.
      pause_s: seconds until the next attempt, by contact: the pause behind the last failure.
    """

    def __init__(
        self,
        *,
        background: Background,
        events: EventBus,
        dial: Callable[[Contact], Awaitable[object]],
        pause_s: Callable[[Contact], float],
    ) -> None:
        self._background = background
        self._events = events
        self._dial = dial
        self._pause_s = pause_s
        self._wants: dict[NodeId, _Want] = {}
        self.redials = 0

    @contextmanager
    def want(self, contact: Contact, locate: Locate | None = None) -> Iterator[None]:
        """Want a peer for the length of the block.

        Args:
          contact: whom.
          locate: asked where it is before it is dialed again; without, it is dialed where it was.
        """
        want = self._wants.get(contact.node_id)
        if want is None:
            if len(self._wants) >= WANTED_MAX:
                yield
                return
            want = self._wants[contact.node_id] = _Want(contact)
        want.contact = contact
        want.locate = locate or want.locate
        want.count += 1
        try:
            yield
        finally:
            want.count -= 1
            if not want.count:
                del self._wants[contact.node_id]
                self.found(contact.node_id, want)

    def lost(self, node_id: NodeId) -> None:
        """The last link to a peer has ended, and nobody ended it."""
        want = self._wants.get(node_id)
        if want is not None and want.scope is None:
            want.scope = trio.CancelScope()
            if not self._background.start_soon(self._redial, want, want.scope, name=f"redial {want.contact.endpoint}"):
                want.scope = None

    def found(self, node_id: NodeId, want: _Want | None = None) -> None:
        """There is a link again, or nobody wants it any more."""
        want = want or self._wants.get(node_id)
        if want is not None and want.scope is not None:
            want.scope.cancel()
            want.scope = None

    async def _redial(self, want: _Want, scope: trio.CancelScope) -> None:
        attempt = 0
        with scope:
            while True:
                await trio.sleep(self._pause_s(want.contact))
                if want.locate is not None:
                    endpoint = await want.locate() or want.contact.endpoint
                    want.contact = Contact(node_id=want.contact.node_id, endpoint=endpoint)
                attempt += 1
                self.redials += 1
                contact = want.contact
                self._events.emit("link.redial", peer=contact.node_id.hex(), endpoint=contact.endpoint, attempt=attempt)
                try:
                    await self._dial(contact)
                except (TrustError, NotSent):
                    pass  # no pause would help: one of the two refuses the other, or our socket does not reach it
                except MeshError:
                    continue  # counted by whoever dials; the pause grows
                want.scope = None
                return

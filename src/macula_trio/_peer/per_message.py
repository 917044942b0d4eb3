"""A connection for every message, as v0.8 does it: ``connections="per-message"`` (DESIGN section 7).

Each connection is dialed, carries one message or one question with its answer, and is closed by the task that owns it.
What others dial is theirs to close, and never used for something of ours.
"""

from __future__ import annotations

from typing import Final

import attrs
import trio

from macula_trio._background import Background
from macula_trio._ids import Contact, NodeId
from macula_trio._peer.linger import Confirmations
from macula_trio._peer.link import QuicLink
from macula_trio._peer.registry import PASSING_LINKS_PER_PEER_MAX, LinkRegistry
from macula_trio._peer.views import OneMessage
from macula_trio.abc import Link, LinkTransport, MessageHandler, MessageT
from macula_trio.errors import NotSent

PER_PEER_MAX: Final = PASSING_LINKS_PER_PEER_MAX // 2 - 2  # at once; the peer may have as many to us
TURN_DEADLINE_S: Final = 5.0  # for a turn: those who have theirs may be waiting for us
UNUSED_S: Final = 1.0  # after which a connection is closed that was dialed and not used


@attrs.define(eq=False)
class _Turns:
    """Who may dial one peer now."""

    limiter: trio.CapacityLimiter = attrs.field(factory=lambda: trio.CapacityLimiter(PER_PEER_MAX))
    wanted: int = 0


class PerMessageTransport:
    """The `macula_trio.abc.LinkTransport` of a node that keeps no connections.

    Args:
      registry: dials, and knows what others have dialed.
      confirmations: find out whether messages have arrived.
      background: owns the connections.
    """

    def __init__(self, registry: LinkRegistry, *, confirmations: Confirmations, background: Background) -> None:
        self._registry = registry
        self._confirmations = confirmations
        self._background = background
        self._turns: dict[NodeId | str, _Turns] = {}

    def handle(self, message_type: type[MessageT], handler: MessageHandler[MessageT]) -> None:
        """Hand messages of this type to ``handler``."""
        self._registry.handle(message_type, handler)

    def live_link(self, node_id: NodeId) -> Link | None:
        """None: there is no link that could be used again."""

    async def link_to(self, contact: Contact) -> OneMessage:
        """A new connection to a node, for one message."""
        self._registry.require_welcome(contact)
        return await self._dial(contact.endpoint, contact.node_id, trusted=False)

    async def dial_endpoint(
        self, endpoint: str, *, expected: NodeId | None = None, trusted: bool = False
    ) -> OneMessage:
        """A new connection to whoever answers at a numeric endpoint, for one message."""
        return await self._dial(endpoint, expected, trusted=trusted)

    async def _dial(self, endpoint: str, expected: NodeId | None, *, trusted: bool) -> OneMessage:
        peer = expected or endpoint
        turns = self._turns.setdefault(peer, _Turns())
        turns.wanted += 1
        owned = False
        try:
            owner = object()  # the place is given back by another task
            with trio.move_on_after(TURN_DEADLINE_S) as patience:
                await turns.limiter.acquire_on_behalf_of(owner)
            if patience.cancelled_caught:
                raise NotSent(f"{endpoint}: {PER_PEER_MAX} messages and questions are under way there already")
            try:
                link = await self._registry.dial_anew(endpoint, expected=expected, trusted=trusted)
                one = OneMessage(link)
                owned = self._background.start_soon(
                    self._own, one, link, peer, owner, name=f"one message to {endpoint}"
                )
                if not owned:
                    one.close()
                    raise NotSent("the node is closing")
            finally:
                if not owned:
                    turns.limiter.release_on_behalf_of(owner)
        finally:
            if not owned:
                self._leave(peer)
        return one

    def _leave(self, peer: NodeId | str) -> None:
        turns = self._turns[peer]
        turns.wanted -= 1
        if not turns.wanted:
            del self._turns[peer]

    async def _own(self, one: OneMessage, link: QuicLink, peer: NodeId | str, owner: object) -> None:
        """Close a connection when its message has gone, or its question was answered."""
        try:
            with trio.move_on_after(UNUSED_S):
                await one.begun.wait()
            if one.was_asked:
                await one.over.wait()
            elif one.begun.is_set():
                await self._confirmations.wait(link)
        finally:
            one.close()
            self._turns[peer].limiter.release_on_behalf_of(owner)
            self._leave(peer)


def _conforms(transport: PerMessageTransport) -> LinkTransport:
    return transport  # mypy proves it

"""What becomes of links, as it is counted and as `node.events` tells it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from macula_trio._ids import hex_or_none
from macula_trio._peer.handshake import RemoteParty
from macula_trio._util import Address, clip, format_endpoint
from macula_trio.errors import ErrorCode, RemoteProtocolError, TrustError

if TYPE_CHECKING:
    from macula_trio._peer.context import LinkContext
    from macula_trio._peer.link import QuicLink


def tell_opened(context: LinkContext, link: QuicLink, peer: RemoteParty) -> None:
    """Both sides have accepted each other."""
    node = hex_or_none(link.node_id)
    if not link.is_probe:
        context.events.emit(
            "link.opened", peer=node, endpoint=link.endpoint, dialed=link.is_dialed, verified=link.verified
        )
    if peer.clock_differs and peer.clock_ahead_ms is not None:
        address, ahead_s = format_endpoint(link.peer_address), round(peer.clock_ahead_ms / 1000)
        context.events.emit("clock.differs", peer=node, address=address, ahead_s=ahead_s)


def tell_closed(context: LinkContext, link: QuicLink, reason: str) -> None:
    """A link that was live has ended, for a reason by which ends are counted."""
    context.counters.closed[reason] += 1
    if not link.is_probe:
        context.events.emit("link.closed", peer=hex_or_none(link.node_id), reason=link.end)


def tell_moved(context: LinkContext, link: QuicLink, old: Address, new: Address) -> None:
    """The peer is somewhere else, and the link goes on."""
    context.counters.migrated += 1
    before, endpoint = format_endpoint(old), format_endpoint(new)
    context.events.emit("link.migrated", peer=hex_or_none(link.node_id), before=before, endpoint=endpoint)


def tell_refused(context: LinkContext, link: QuicLink, error: TrustError | RemoteProtocolError) -> None:
    """One of the two sides wants nothing of the other, or the peer breaks the rules."""
    context.counters.refused[error.code.value] += 1
    tell_conflict(context, link, error.code)
    address, peer = format_endpoint(link.peer_address), hex_or_none(link.node_id)
    context.events.emit("link.refused", address=address, peer=peer, reason=clip(str(error)))


def tell_conflict(context: LinkContext, link: QuicLink, code: ErrorCode | None) -> None:
    """One key is used by two nodes at once: an event for those who run them, and no fight."""
    if code is ErrorCode.IDENTITY_CONFLICT:
        context.events.emit("identity_conflict", address=format_endpoint(link.peer_address))

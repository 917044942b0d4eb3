"""Which way an envelope goes: RPC_ROUTE and PUBSUB_ROUTE on their way through the mesh.

Sans-IO (DESIGN sections 4, 9 and 10).  An envelope gets nearer to its destination with every node that forwards it, so
that none travels in circles; what it says of its hops bounds it besides.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final, Protocol, TypeVar

import attrs

from macula_trio._ids import Advert, Contact, NodeId
from macula_trio._wire.messages import Call, PubsubRoute, Reply, RpcRoute

ROUTED: Final = "allow_routed"
"""Key of an advert's metadata, True there: its node also takes what comes through other nodes."""

RouteT = TypeVar("RouteT", bound=RpcRoute | PubsubRoute)


@attrs.frozen(kw_only=True)
class Carried:
    """The answer to a call that travelled over other nodes.

    Attributes:
      reply: the provider's, or that of a node on the way that could not forward the call.
      hops: links between us and who answered, on the way back.
    """

    reply: Reply
    hops: int


class Carrier(Protocol):
    """Takes to a node what cannot go there directly."""

    async def carry_call(self, destination: NodeId, call: Call) -> Carried:
        """Send a call through other nodes and wait for its answer; the caller's cancel scope bounds the wait.

        Raises:
          PeerUnavailable: the answer can no longer come; the handler may have run.
          TrustError: our own policy refuses the destination.
        """
        ...

    async def carry_message(self, route: PubsubRoute) -> bool:
        """Hand a message to a node that may reach its destination; False when there is none.

        Raises:
          TrustError: our own policy refuses the destination.
        """
        ...


def takes_routed(advert: Advert) -> bool:
    """Whether a node says that it also takes what comes through other nodes."""
    return advert.metadata.get(ROUTED) is True


def payload_size(route: RpcRoute | PubsubRoute) -> int:
    """Bytes of what an application put into an envelope, which is nearly all of it."""
    payload = route.payload
    if isinstance(payload, Call):
        return len(payload.args)
    if isinstance(payload, Reply):
        return len(payload.result or b"")
    return len(payload.payload)


def onward(route: RouteT) -> RouteT:
    """The envelope as the next node gets it."""
    return attrs.evolve(route, hop_count=route.hop_count + 1)


def first_hops(destination: NodeId, closest: Iterable[Contact]) -> list[Contact]:
    """Whom a node may hand its own envelope to: everybody but the destination, which it could not reach.

    Args:
      destination: for whom it is.
      closest: the nodes that we know, those closest to it first.
    """
    return [contact for contact in closest if contact.node_id != destination]


def next_hops(
    destination: NodeId, closest: Iterable[Contact], *, own: NodeId, without: Collection[bytes | None]
) -> list[Contact]:
    """Whom a node may hand the envelope of another to: the destination, or who is closer to it than itself.

    Args:
      destination: for whom it is.
      closest: the nodes that we know, those closest to it first.
      own: our id.
      without: where it comes from, which is no way onwards.
    """
    distance = own.distance(destination)
    return [
        contact
        for contact in closest
        if contact.node_id not in without and contact.node_id.distance(destination) < distance
    ]

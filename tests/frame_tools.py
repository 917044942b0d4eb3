"""Peers on a network of frames, for tests of the layers under a node; `quic_tools` has those over QUIC."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio
from quic_tools import REALM, credentials

from macula_trio._events import Event, EventBus
from macula_trio._ids import Contact, NodeId
from macula_trio._peer.handshake import LocalParty
from macula_trio._trust import Trust
from macula_trio.testing.frames import FrameNetwork, FrameTransport


@attrs.define(eq=False)
class FramePeer:
    """What a node is below its services."""

    transport: FrameTransport
    node_id: NodeId
    events: list[Event]

    @property
    def contact(self) -> Contact:
        return Contact(node_id=self.node_id, endpoint=self.transport.address)


def frame_peer(
    network: FrameNetwork, number: int, *, identity: int | None = None, instance: bytes | None = None, **changes: Any
) -> FramePeer:
    """Links without services, on the host ``h<number>``."""
    name = f"h{number}"
    limits = {key: changes.pop(key) for key in ("dial_deadline_s", "keepalive_s") if key in changes}
    fields: dict[str, Any] = {
        "credentials": credentials(number if identity is None else identity),
        "instance": instance or bytes([number & 255]) * 16,
        "realm": REALM,
        "trust": Trust.open(),
        "endpoint": network.endpoint_of(name),
    }
    party = LocalParty(**(fields | changes))
    bus, events = EventBus(trio.current_time), list[Event]()
    bus.listen(events.append)
    return FramePeer(
        FrameTransport(network, name, party=party, events=bus, **limits), party.credentials.node_id, events
    )


@asynccontextmanager
async def served(network: FrameNetwork) -> AsyncGenerator[FrameNetwork, None]:
    """A network that runs for the length of the block."""
    async with trio.open_nursery() as nursery:
        await nursery.start(network.serve)
        yield network
        nursery.cancel_scope.cancel()

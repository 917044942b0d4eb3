"""One who sends, and those who note what they get: for tests of fire and forget."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

import attrs
import trio
from quic_tools import Peer, leftovers, open_peer

from macula_trio._events import EventBus
from macula_trio._ids import Contact
from macula_trio._peer.linger import Confirmations
from macula_trio._peer.sender import Sender
from macula_trio._wire import messages as wire
from macula_trio._wire.codec import encode_message
from macula_trio.abc import Link
from macula_trio.errors import PeerUnavailable, TrustError
from macula_trio.testing import SimNetwork


def cast(number: int, padding: int = 0) -> bytes:
    return encode_message(wire.Cast(procedure="a.b", args=b"%d" % number + bytes(padding)))


@attrs.define(eq=False)
class Scene:
    """One who sends, on a peer of its own."""

    peer: Peer
    sender: Sender
    confirmations: Confirmations
    asked: int = 0

    async def send(self, contact: Contact, number: int = 0, padding: int = 0) -> None:
        self.asked += 1
        await self.sender.send(contact, cast(number, padding))

    async def attempt(self, contact: Contact, number: int = 0, padding: int = 0) -> None:
        with suppress(PeerUnavailable, TrustError):  # counted, which is what the tests look at
            await self.send(contact, number, padding)

    def balance(self) -> tuple[int, dict[str, int], dict[str, int]]:
        """What became of everything: it must add up, and every loss must have been told."""
        sender, told = self.sender, self.peer.named
        assert sender.sent + sender.failed.total() + sender.dropped.total() == self.asked
        assert len(told("message.failed")) == sender.failed.total()
        assert len(told("message.dropped")) == sender.dropped.total()
        assert len(told("message.unconfirmed")) == self.confirmations.missing
        return sender.sent, dict(sender.failed), dict(sender.dropped)

    async def ended(self) -> None:
        """All connections that sending has opened are gone, and so are its books."""
        await trio.sleep(6)  # by then QUIC has forgotten what was closed, a handshake that was given up included
        assert self.sender._passing == {}
        assert self.sender._limiter.borrowed_tokens == 0
        assert leftovers(self.peer.endpoint) == {}


@asynccontextmanager
async def open_scene(
    network: SimNetwork, number: int = 1, *, uses_links: bool = True, **changes: object
) -> AsyncGenerator[Scene, None]:
    async with open_peer(network, number, **changes) as peer:  # type: ignore[arg-type]
        bus = EventBus(trio.current_time)
        bus.listen(peer.events.append)
        confirmations = Confirmations(bus)
        sender = Sender(peer.registry, events=bus, confirmations=confirmations, uses_links=uses_links)
        yield Scene(peer, sender, confirmations)


def noting(peer: Peer) -> list[int]:
    """The numbers of the casts that a peer gets."""
    got: list[int] = []

    def note(_link: Link, message: wire.Cast) -> None:
        assert message.args is not None
        got.append(int(message.args.rstrip(b"\0")))

    peer.registry.handle(wire.Cast, note)
    return got

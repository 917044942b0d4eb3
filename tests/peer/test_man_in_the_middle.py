"""A man in the middle who splices two real connections is refused by both ends."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

import macula_trio as macula
from macula_trio._net.quic import CONTROL_STREAM, CloseReason, Connection, QuicEndpoint
from macula_trio._peer.handshake import LocalParty, make_connect
from macula_trio._trust import Trust
from macula_trio._util import Address
from macula_trio._wire.codec import FrameDecoder, encode_message
from macula_trio._wire.frame import MessageType
from macula_trio.testing import SimNetwork, open_mesh

Clock = trio.testing.MockClock
MALLORY = ("10.6.6.6", 666)
REALM = "org.example.test"


class Splice:
    """One side of a spliced pair: whatever comes in goes out on the other side; everything is noted."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.other: Splice | None = None
        self.ready = trio.Event()
        self.early: list[tuple[int, bytes]] = []
        self.heard = bytearray()

    def handshake_completed(self) -> None:
        self.ready.set()
        for stream_id, data in self.early:
            self.connection.write(stream_id, data)

    def stream_data_received(self, stream_id: int, data: bytes, end_stream: bool) -> None:
        self.heard += data
        if self.other is not None:
            self.other.say(stream_id, data)

    def stream_reset(self, stream_id: int) -> None:
        """Nothing to relay."""

    def moved(self, old: Address, new: Address) -> None:
        """Nor here."""

    def connection_lost(self, reason: CloseReason, detail: str) -> None:
        self.ready.set()

    def say(self, stream_id: int, data: bytes) -> None:
        if self.ready.is_set():
            self.connection.write(stream_id, data)
        else:
            self.early.append((stream_id, data))

    def frames(self) -> list[MessageType]:
        decoder = FrameDecoder()
        decoder.receive_data(bytes(self.heard))
        found = []
        while (frame := decoder.next_frame()) is not None:
            found.append(MessageType(frame.type))
        return found


class Mallory:
    """Sits at an address of her own; whoever dials it is spliced to the victim."""

    def __init__(self, victim: tuple[str, int], *, relay: bool) -> None:
        self.victim, self.relay = victim, relay
        self.identity = macula.Identity.generate()
        self.endpoint: QuicEndpoint | None = None
        self.dialed_in: list[Splice] = []
        self.dialed_out: list[Splice] = []

    def accept(self, connection: Connection) -> Splice:
        inward = Splice(connection)
        self.dialed_in.append(inward)
        if self.relay:
            outward = self.dial()
            inward.other, outward.other = outward, inward
        return inward

    def dial(self) -> Splice:
        assert self.endpoint is not None
        made: list[Splice] = []

        def make(connection: Connection) -> Splice:
            made.append(Splice(connection))
            return made[0]

        self.endpoint.dial(self.victim, make)
        self.dialed_out += made
        return made[0]


@asynccontextmanager
async def open_mallory(
    network: SimNetwork, victim: tuple[str, int], *, relay: bool = True
) -> AsyncGenerator[Mallory, None]:
    socket = await network.bind(MALLORY)
    mallory = Mallory(victim, relay=relay)
    mallory.endpoint = QuicEndpoint(
        socket, mallory.identity, accept=mallory.accept, idle_timeout_s=30, random_bytes=os.urandom
    )
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(mallory.endpoint.serve)
            yield mallory
            nursery.cancel_scope.cancel()
    finally:
        socket.close()


def alices_config(expected: macula.NodeId | None) -> macula.NodeConfig:
    prefix = "" if expected is None else f"{expected}@"
    return macula.NodeConfig(
        realm=REALM, listen="10.5.5.5:5", bootstrap=[f"{prefix}10.6.6.6:666"], require_bootstrap=True
    )


@pytest.mark.parametrize("knows_bob", [False, True])
async def test_a_spliced_connection_is_refused_by_the_one_who_was_dialed(
    knows_bob: bool, autojump_clock: Clock
) -> None:
    network = SimNetwork()
    async with open_mesh(1, network=network) as (bob,), open_mallory(network, ("10.0.0.1", 9443)) as mallory:
        with pytest.raises(macula.TrustError):
            async with macula.open_node(alices_config(bob.node_id if knows_bob else None), network=network):
                raise AssertionError("entered")
        inward, outward = mallory.dialed_in[0], mallory.dialed_out[0]
        assert inward.frames()[0] is MessageType.CONNECT, "Alice's proof was relayed whole"
        assert outward.frames() == [MessageType.DISCONNECT], "and Bob answered no PONG to it"
        assert bob.statistics().refused == {"bad_proof": 1}
        assert bob.known_nodes() == bob.peers() == []


@pytest.mark.parametrize("knows_bob", [False, True])
async def test_a_real_pong_that_is_relayed_is_refused_by_the_one_who_dialed(
    knows_bob: bool, autojump_clock: Clock
) -> None:
    """Mallory, a proven node herself, gets a real PONG of Bob's on her own connection, and gives it to Alice."""
    network = SimNetwork()
    async with (
        open_mesh(1, network=network) as (bob,),
        open_mallory(network, ("10.0.0.1", 9443), relay=False) as mallory,
    ):
        outward = mallory.dial()
        await outward.ready.wait()
        party = LocalParty(credentials=mallory.identity, instance=bytes(16), realm=REALM, trust=Trust.open())
        connect = make_connect(party, binding=outward.connection.binding, peer=bob.node_id)
        outward.connection.write(CONTROL_STREAM, encode_message(connect))
        await trio.sleep(0.1)
        assert outward.frames()[0] is MessageType.PONG
        pong = bytes(outward.heard)

        accept = mallory.accept

        def answer_with_bobs_pong(connection: Connection) -> Splice:
            inward = accept(connection)
            inward.stream_data_received = partial(relay_pong, inward)  # type: ignore[method-assign]
            return inward

        def relay_pong(inward: Splice, stream_id: int, data: bytes, end_stream: bool) -> None:
            inward.heard += data
            inward.connection.write(stream_id, pong)

        assert mallory.endpoint is not None
        mallory.endpoint._accept = answer_with_bobs_pong
        with pytest.raises(macula.TrustError):
            async with macula.open_node(alices_config(bob.node_id if knows_bob else None), network=network):
                raise AssertionError("entered")
        await trio.sleep(0.1)  # virtual: what Alice said last has arrived
        assert mallory.dialed_in[0].frames() == [MessageType.CONNECT, MessageType.DISCONNECT], "Alice refused it"


async def test_a_connect_of_an_earlier_connection_is_refused(autojump_clock: Clock) -> None:
    """Even Mallory's own good CONNECT is worth nothing on her next connection."""
    network = SimNetwork()
    async with (
        open_mesh(1, network=network) as (bob,),
        open_mallory(network, ("10.0.0.1", 9443), relay=False) as mallory,
    ):
        party = LocalParty(credentials=mallory.identity, instance=bytes(16), realm=REALM, trust=Trust.open())
        first, second = mallory.dial(), mallory.dial()
        await first.ready.wait()
        await second.ready.wait()
        connect = encode_message(make_connect(party, binding=first.connection.binding, peer=bob.node_id))
        first.connection.write(CONTROL_STREAM, connect)
        second.connection.write(CONTROL_STREAM, connect)
        await trio.sleep(0.1)
        assert first.frames()[0] is MessageType.PONG
        assert second.frames() == [MessageType.DISCONNECT]
        assert bob.statistics().refused == {"bad_proof": 1}

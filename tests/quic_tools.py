"""Endpoints, bare connections and peers on a simulated network, for tests of the layers under a node."""

from __future__ import annotations

import hashlib
import random
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from types import MappingProxyType
from typing import Any, Final

import attrs
import trio
from aioquic.quic.rangeset import RangeSet
from aioquic.tls import Epoch

from macula_trio._events import Event, EventBus
from macula_trio._identity.keys import Credentials
from macula_trio._ids import Contact, NodeId
from macula_trio._net.quic import CONTROL_STREAM, CloseReason, Connection, ConnectionHandler, QuicEndpoint
from macula_trio._net.wear import WearLimits
from macula_trio._peer.handshake import LocalParty
from macula_trio._peer.link import QuicLink
from macula_trio._peer.registry import LinkPolicy, LinkRegistry
from macula_trio._trust import Trust
from macula_trio._util import Address, format_endpoint
from macula_trio._wire.codec import FrameDecoder, decode_message, encode_message
from macula_trio.abc import Message
from macula_trio.testing import SimNetwork

REALM: Final = "org.example.test"
PATIENCE_S: Final = 20  # virtual


def host(number: int) -> Address:
    return f"10.7.{number >> 8}.{number & 255}", 9443


def credentials(number: int) -> Credentials:
    return Credentials.from_seed(hashlib.sha256(b"party %d" % number).digest())


def seeded_bytes(count: int) -> bytes:
    """Deterministic, which a simulated network does not mind."""
    seeded_bytes.calls += 1  # type: ignore[attr-defined]
    return hashlib.shake_128(b"%d" % seeded_bytes.calls).digest(count)  # type: ignore[attr-defined]


seeded_bytes.calls = 0  # type: ignore[attr-defined]


class Recorder:
    """A connection that says only what a test makes it say, and remembers everything that it hears."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.completed = trio.Event()
        self.closed = trio.Event()
        self.said = trio.Event()
        self.data: dict[int, bytearray] = {}
        self.resets: list[int] = []
        self.reason: CloseReason | None = None
        self.detail = ""
        self.losses = 0
        self.moves: list[tuple[Address, Address]] = []

    def handshake_completed(self) -> None:
        self.completed.set()

    def stream_data_received(self, stream_id: int, data: bytes, end_stream: bool) -> None:
        self.data.setdefault(stream_id, bytearray()).extend(data)
        self.said.set()
        self.said = trio.Event()

    def stream_reset(self, stream_id: int) -> None:
        self.resets.append(stream_id)

    def moved(self, old: Address, new: Address) -> None:
        self.moves.append((old, new))

    def connection_lost(self, reason: CloseReason, detail: str) -> None:
        self.losses += 1
        self.reason, self.detail = reason, detail
        self.closed.set()

    def write(self, data: bytes, stream_id: int = CONTROL_STREAM, *, end_stream: bool = False) -> None:
        self.connection.write(stream_id, data, end_stream=end_stream)

    def say(self, message: Message, stream_id: int = CONTROL_STREAM) -> None:
        self.write(encode_message(message), stream_id)

    def heard(self, stream_id: int = CONTROL_STREAM) -> list[Message | None]:
        """The messages that have arrived on a stream."""
        decoder = FrameDecoder()
        decoder.receive_data(bytes(self.data.get(stream_id, b"")))
        messages = []
        while (frame := decoder.next_frame()) is not None:
            messages.append(decode_message(frame))
        return messages


class Proving(Recorder):
    """A listener that takes everybody for proven."""

    def handshake_completed(self) -> None:
        super().handshake_completed()
        self.connection.proven()


@asynccontextmanager
async def open_endpoint(
    network: SimNetwork,
    number: int,
    *,
    accept: Callable[[Connection], ConnectionHandler] = Recorder,
    idle_timeout_s: float = 30.0,
    wear: WearLimits | None = None,
) -> AsyncGenerator[QuicEndpoint, None]:
    """An endpoint with its pump, without any link."""
    socket = await network.bind(host(number))
    endpoint = QuicEndpoint(
        socket, credentials(number), accept=accept, idle_timeout_s=idle_timeout_s, random_bytes=seeded_bytes, wear=wear
    )
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(endpoint.serve)
            yield endpoint
            nursery.cancel_scope.cancel()
    finally:
        socket.close()


def dial_bare(endpoint: QuicEndpoint, target: Address) -> Recorder:
    recorders: list[Recorder] = []

    def make(connection: Connection) -> Recorder:
        recorders.append(Recorder(connection))
        return recorders[0]

    endpoint.dial(target, make)
    return recorders[0]


async def connect_bare(endpoint: QuicEndpoint, target: Address) -> Recorder:
    """Dial and wait for TLS."""
    recorder = dial_bare(endpoint, target)
    with trio.fail_after(PATIENCE_S):
        await recorder.completed.wait()
    return recorder


async def scatter_handshake(recorder: Recorder, epoch: Epoch, pieces: int, first: int = 4096) -> None:
    """Send single bytes of the handshake with holes between them, behind all that an honest client says."""
    sender = recorder.connection._quic._crypto_streams[epoch].sender
    sender._buffer_start, sender._buffer_stop = first, first + 2 * pieces
    sender._buffer = bytearray(2 * pieces)
    sender._pending = RangeSet([range(place, place + 1) for place in range(first, first + 2 * pieces, 2)])
    sender.buffer_is_empty = False
    for _ in range(pieces):  # one travels at a time
        recorder.connection._endpoint.mark_written(recorder.connection)
        await trio.sleep(0.001)


def leftovers(endpoint: QuicEndpoint) -> dict[str, int]:
    """How much an endpoint still remembers of its connections, by place; nothing where nothing is."""
    sizes = {
        "connections": endpoint.connections,
        "ids": len(endpoint._by_cid),
        "half open": endpoint._admission.half_open,
        "of hosts": len(endpoint._admission._of_host),
        **endpoint._pump.remembered,
    }
    return {place: size for place, size in sizes.items() if size}


@attrs.define(eq=False)
class Peer:
    """What a node is below its services."""

    party: LocalParty
    endpoint: QuicEndpoint
    registry: LinkRegistry
    events: list[Event]
    nursery: trio.Nursery

    @property
    def node_id(self) -> NodeId:
        return self.party.credentials.node_id

    @property
    def address(self) -> Address:
        return self.endpoint.address

    @property
    def contact(self) -> Contact:
        return Contact(node_id=self.node_id, endpoint=format_endpoint(self.address))

    def named(self, name: str) -> list[Event]:
        return [event for event in self.events if event.name == name]

    @property
    def refused(self) -> dict[str, int]:
        return dict(self.registry.counters.refused)


@asynccontextmanager
async def open_peer(
    network: SimNetwork,
    number: int,
    *,
    identity: int | None = None,
    address: Address | None = None,
    instance: bytes | None = None,
    dial_deadline_s: float = 5.0,
    policy: Mapping[str, Any] = MappingProxyType({}),
    wrap: Callable[[Connection, QuicLink], ConnectionHandler] = lambda _connection, link: link,
    **changes: Any,
) -> AsyncGenerator[Peer, None]:
    """Links without services: what comes in reaches only the handlers that a test registers.

    ``wrap`` stands between a connection that is accepted and its link.
    """
    at = address or host(number)
    fields: dict[str, Any] = {
        "credentials": credentials(number if identity is None else identity),
        "instance": instance or bytes([number & 255]) * 16,
        "realm": REALM,
        "trust": Trust.open(),
        "endpoint": format_endpoint(at),
    }
    party = LocalParty(**(fields | changes))
    bus, events = EventBus(trio.current_time), list[Event]()
    bus.listen(events.append)
    registry = LinkRegistry(
        party,
        events=bus,
        wall_clock_ms=network.wall_clock_ms,
        random_fraction=random.Random(number).random,
        policy=LinkPolicy(dial_deadline_s=dial_deadline_s, **policy),
    )
    socket = await network.bind(at)
    endpoint = QuicEndpoint(
        socket,
        party.credentials,
        accept=lambda connection: wrap(connection, registry.accept(connection)),
        idle_timeout_s=30.0,
        random_bytes=seeded_bytes,
    )
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(endpoint.serve)
            await nursery.start(partial(registry.serve, endpoint))
            yield Peer(party, endpoint, registry, events, nursery)
            nursery.cancel_scope.cancel()
    finally:
        socket.close()

"""What the attackers of attacks.py are made of: clients that say what no client says.

They are aioquic's own, under our pump; private parts of both are touched for that.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import attrs
import trio
from attack_nodes import REALM

import macula_trio as macula
from macula_trio._config import Trust
from macula_trio._net.quic import CONTROL_STREAM, CloseReason, Connection, QuicEndpoint
from macula_trio._net.udp import UdpNetwork, UdpSocket
from macula_trio._peer.handshake import LEAF, LocalParty, make_connect
from macula_trio._util import Address
from macula_trio._wire import messages as wire
from macula_trio._wire.codec import FrameDecoder, decode_message, encode_message
from macula_trio._wire.frame import MessageType
from macula_trio.abc import Message
from macula_trio.errors import ErrorCode

HOSTS: Final = tuple(f"127.0.0.{number}" for number in range(2, 10))  # none that an honest node uses
PATIENCE_S: Final = 5.0  # with a connection that neither proves itself nor ends
TICK_S: Final = 0.002  # between two looks at what aioquic tells nobody
UNSENT_BYTES_MAX: Final = 256 * 1024  # that an attacker keeps in its own buffer: it is to be fast, not to be large
LINKS: Final = 4  # at once, of one proven peer: a node keeps no more
LINKS_UNPROVEN: Final = 16  # the same, of one host that proves nothing


@attrs.define(eq=False)
class Field:
    """Whom an attack is aimed at, how long it has for what it sends evenly, and what it has sent so far."""

    target: Address
    seconds: float
    counts: Counter[str] = attrs.field(factory=Counter)


async def wait_until(is_so: Callable[[], bool]) -> None:
    """Look again and again: what happens inside of aioquic is no event of ours."""
    while True:
        if is_so():
            return
        await trio.sleep(TICK_S)


class DeafSocket:
    """A socket on which only Retry packets arrive: its clients show their address, and then never answer again."""

    large_datagrams = False  # each Initial would have 16,000 bytes

    def __init__(self, socket: UdpSocket) -> None:
        self._socket = socket

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)

    def recv_batch(self) -> list[tuple[bytes, Address]]:
        return [(data, source) for data, source in self._socket.recv_batch() if data and data[0] & 0xF0 == 0xF0]


class Attacker:
    """One connection to the attacked node: proves itself if it is to, and remembers only that it did.

    Answers the node's own PINGs when ``reads``, so that the node takes it for somebody who reads.
    """

    def __init__(self, connection: Connection, party: LocalParty | None, *, reads: bool) -> None:
        self.connection = connection
        self._party = party
        self._decoder = FrameDecoder() if reads else None
        self.completed, self.proven, self.closed = trio.Event(), trio.Event(), trio.Event()

    @property
    def ended(self) -> bool:
        """Whether the node has closed it; a client that keeps to the rules would still wait for stragglers."""
        return self.closed.is_set() or self.connection._quic._close_event is not None

    @property
    def streams(self) -> dict[int, Any]:
        found: dict[int, Any] = self.connection._quic._streams
        return found

    def handshake_completed(self) -> None:
        self.completed.set()
        if self._party is not None:
            self.say(make_connect(self._party, binding=self.connection.binding, peer=None))

    def stream_data_received(self, stream_id: int, data: bytes, end_stream: bool) -> None:
        self.proven.set()
        if self._decoder is None or stream_id != CONTROL_STREAM:
            return
        self._decoder.receive_data(data)
        while (frame := self._decoder.next_frame()) is not None:
            if frame.type == MessageType.PING:
                ping = decode_message(frame)
                assert isinstance(ping, wire.Ping)
                self.say(wire.Pong(timestamp=ping.timestamp, server_time=0))

    def stream_reset(self, stream_id: int) -> None:
        pass

    def moved(self, old: Address, new: Address) -> None:
        pass

    def connection_lost(self, reason: CloseReason, detail: str) -> None:
        self.closed.set()

    def say(self, message: Message) -> None:
        self.connection.write(CONTROL_STREAM, encode_message(message))

    async def write_slowly(self, data: bytes) -> None:
        """Write, and wait until most of it is on its way."""
        self.connection.write(CONTROL_STREAM, data)
        await trio.lowlevel.checkpoint()
        await wait_until(lambda: self.ended or len(self.streams[CONTROL_STREAM].sender._buffer) <= UNSENT_BYTES_MAX)

    def withhold(self, stream_id: int, count: int) -> None:
        """Send bytes of a stream, but never the first one."""
        self.connection.write(stream_id, bytes(count))
        if stream_id in self.streams:
            self.streams[stream_id].sender._pending.subtract(0, 1)

    def skip_to(self, stream_id: int, offset: int) -> None:
        """Send one byte of a stream, as if all those before it were on their way."""
        if stream_id not in self.streams:
            self.withhold(stream_id, 1)
        sender = self.streams[stream_id].sender
        sender._buffer_start = sender._buffer_stop = offset - 1
        sender._buffer.clear()
        self.connection.write(stream_id, b"x")


def new_party() -> LocalParty:
    return LocalParty(
        credentials=macula.Identity.generate(),
        instance=os.urandom(16),
        realm=REALM,
        trust=Trust.open(),
        capabilities=(LEAF,),
    )


@asynccontextmanager
async def open_endpoint(host: str, *, deaf: bool = False) -> AsyncGenerator[QuicEndpoint, None]:
    socket = await UdpNetwork().bind((host, 0))
    try:
        endpoint = QuicEndpoint(
            DeafSocket(socket) if deaf else socket,
            macula.Identity.generate(),
            accept=lambda connection: Attacker(connection, None, reads=False),
            idle_timeout_s=30.0,
            random_bytes=os.urandom,
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(endpoint.serve)
            yield endpoint
            nursery.cancel_scope.cancel()
    finally:
        socket.close()


@asynccontextmanager
async def open_attacker(
    field: Field, endpoint: QuicEndpoint, party: LocalParty | None, *, reads: bool = True
) -> AsyncGenerator[Attacker | None, None]:
    """A connection for the length of the block: proven with a ``party``, else only through TLS; None: not let in."""
    made: list[Attacker] = []

    def make(connection: Connection) -> Attacker:
        made.append(Attacker(connection, party, reads=reads))
        return made[0]

    endpoint.dial(field.target, make)
    field.counts["connections"] += 1
    attacker = made[0]
    ready = attacker.completed if party is None else attacker.proven
    try:
        with trio.move_on_after(PATIENCE_S):
            await wait_until(lambda: ready.is_set() or attacker.ended)
        yield attacker if ready.is_set() and not attacker.ended else None
    finally:
        attacker.connection.close(ErrorCode.NORMAL)


Session = Callable[[Field, Attacker], Awaitable[None]]


async def again_and_again(field: Field, session: Session, *, proven: bool, reads: bool = True) -> None:
    """One peer whose every link does ``session``, and that dials anew as soon as one has ended."""
    party, links = (new_party(), LINKS) if proven else (None, LINKS_UNPROVEN)

    async def one_link(endpoint: QuicEndpoint) -> None:
        while True:
            async with open_attacker(field, endpoint, party, reads=reads) as attacker:
                if attacker is not None:
                    await session(field, attacker)
            await trio.lowlevel.checkpoint()

    async with open_endpoint(HOSTS[0]) as endpoint, trio.open_nursery() as nursery:
        for _ in range(links):
            nursery.start_soon(one_link, endpoint)


async def wait_ended(attacker: Attacker) -> None:
    with trio.move_on_after(PATIENCE_S):
        await wait_until(lambda: attacker.ended)

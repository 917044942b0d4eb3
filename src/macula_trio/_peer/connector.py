"""Connections for one thing, owned by whoever awaits it (DESIGN section 7): a frame, or a question and its answer.

`send_once` is the peer connector of v0.8.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final

import attrs
import trio

from macula_trio._addresses import with_route
from macula_trio._background import hidden_nursery
from macula_trio._events import EventBus
from macula_trio._ids import NodeId
from macula_trio._net.quic import CONTROL_STREAM, CloseReason, Connection, ConnectionHandler, QuicEndpoint
from macula_trio._peer.context import LinkContext
from macula_trio._peer.handshake import LocalParty
from macula_trio._peer.linger import linger
from macula_trio._peer.link import QuicLink
from macula_trio._util import Address, format_endpoint, path_address
from macula_trio.abc import DatagramNetwork, Message, ReplyT
from macula_trio.errors import ErrorCode, MeshError, NotSent, PeerUnavailable, no_answer

IDLE_TIMEOUT_S: Final = 10.0  # of a connection that lives for one frame


class _Bare:
    """A connection on which nobody proves anything: what v0.8 speaks."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.settled = trio.Event()
        self._lost: str | None = None

    def require_live(self) -> None:
        if self._lost is not None:
            raise PeerUnavailable(f"peer at {format_endpoint(path_address(self.connection.path))}: {self._lost}")

    def handshake_completed(self) -> None:
        self.settled.set()

    def stream_data_received(self, stream_id: int, data: bytes, end_stream: bool) -> None:
        """Whatever a v0.8 peer answers to a fire-and-forget frame is not for us."""

    def stream_reset(self, stream_id: int) -> None:
        """As above."""

    def moved(self, old: Address, new: Address) -> None:
        """What is written next goes there."""

    def connection_lost(self, reason: CloseReason, detail: str) -> None:
        self._lost = f"{reason.value} ({detail})" if detail else reason.value
        self.settled.set()


def _refuse_everybody(connection: Connection) -> ConnectionHandler:
    return _Bare(connection)  # nobody knows this socket; a connection to it is never answered and ends by its deadline


async def send_once(
    network: DatagramNetwork,
    party: LocalParty,
    addresses: Sequence[Address],
    frame: bytes,
    *,
    linger_s: float,
    dial_deadline_s: float,
    random_bytes: Callable[[int], bytes],
) -> None:
    """Connect, write one frame, linger, close.

    Under `Trust.unverified` exactly that; else CONNECT and a verified PONG come first, and the linger is cut short
    when a PING behind the frame is answered.

    Args:
      network: where a socket comes from.
      party: what we say of ourselves.
      addresses: of the peer: those without a route are left out, and each of the others is tried in turn until one
        answers; the frame is written once.
      frame: encoded.
      linger_s: in seconds.
      dial_deadline_s: for each address.
      random_bytes: for connection ids.

    Raises:
      PeerUnavailable: nobody answered, or the connection ended before the end of the linger.
      TrustError: one of the two sides refused the other.
      OSError: no socket is to be had.
    """
    failure: MeshError | None = None
    for address in with_route(network, addresses):
        attempt = _Attempt(party, address, frame, linger_s=linger_s, dial_deadline_s=dial_deadline_s)
        failure = await attempt.run(network, random_bytes)
        if attempt.has_connected or not isinstance(failure, PeerUnavailable):
            break
    if failure is not None:
        raise failure


async def ask_once(
    network: DatagramNetwork,
    party: LocalParty,
    address: Address,
    *,
    expected: NodeId,
    request: Message,
    reply_type: type[ReplyT],
    random_bytes: Callable[[int], bytes],
) -> ReplyT:
    """Ask one question on a connection of its own, from a socket of its own on the very address that is asked.

    Args:
      network: where the socket comes from.
      party: what we say of ourselves.
      address: one of this machine.
      expected: who must answer.
      request: the question.
      reply_type: of its answer.
      random_bytes: for connection ids.

    Raises:
      PeerUnavailable: nobody is there, or the connection ended too early.
      TrustError: somebody else is there, or one of the two sides refused the other.
      RemoteProtocolError: the peer broke the rules.
      OSError: no socket is to be had.
    """
    async with _open_endpoint(network, party, address[0], random_bytes) as endpoint:
        link = await _connect(endpoint, party, address, network, expected=expected)
        try:
            return await link.ask(request, reply_type)
        finally:
            link.close(ErrorCode.NORMAL, "done")


@asynccontextmanager
async def _open_endpoint(
    network: DatagramNetwork, party: LocalParty, host: str, random_bytes: Callable[[int], bytes]
) -> AsyncGenerator[QuicEndpoint, None]:
    """A socket that only dials, on any port of a host, for the length of the block."""
    socket = await network.bind((host, 0))
    try:
        endpoint = QuicEndpoint(
            socket,
            party.credentials,
            accept=_refuse_everybody,
            idle_timeout_s=IDLE_TIMEOUT_S,
            random_bytes=random_bytes,
        )
        with hidden_nursery() as hidden:
            async with trio.open_nursery() as nursery:
                await nursery.start(endpoint.serve)
                with hidden.body():
                    yield endpoint
                nursery.cancel_scope.cancel()
    finally:
        socket.close()


@attrs.define(eq=False)
class _Attempt:
    """One address of the peer.

    Attributes:
      has_connected: whether the frame may have been written.
    """

    party: LocalParty
    address: Address
    frame: bytes
    linger_s: float = attrs.field(kw_only=True)
    dial_deadline_s: float = attrs.field(kw_only=True)
    has_connected: bool = attrs.field(default=False, init=False)

    async def run(self, network: DatagramNetwork, random_bytes: Callable[[int], bytes]) -> MeshError | None:
        """Give the failure; the next address may do better."""
        host = "::" if ":" in self.address[0] else "0.0.0.0"
        async with _open_endpoint(network, self.party, host, random_bytes) as endpoint:
            try:
                with trio.fail_after(self.dial_deadline_s):
                    connected = await self._connect(endpoint, network)
                self.has_connected = True
                await _deliver(connected, self.frame, self.linger_s)
            except trio.TooSlowError:
                return no_answer(format_endpoint(self.address), self.dial_deadline_s)
            except MeshError as exc:
                return exc
        return None

    async def _connect(self, endpoint: QuicEndpoint, network: DatagramNetwork) -> QuicLink | _Bare:
        if self.party.trust.kind == "unverified":
            return await _connect_bare(endpoint, self.address)
        return await _connect(endpoint, self.party, self.address, network)


async def _connect_bare(endpoint: QuicEndpoint, address: Address) -> _Bare:
    _require_reachable(endpoint, address)
    bares: list[_Bare] = []

    def make_bare(connection: Connection) -> _Bare:
        bares.append(_Bare(connection))
        return bares[0]

    endpoint.dial(address, make_bare)
    await bares[0].settled.wait()
    bares[0].require_live()
    return bares[0]


async def _connect(
    endpoint: QuicEndpoint,
    party: LocalParty,
    address: Address,
    network: DatagramNetwork,
    *,
    expected: NodeId | None = None,
) -> QuicLink:
    _require_reachable(endpoint, address)
    context = LinkContext(
        party=party,
        handlers={},
        wall_clock_ms=network.wall_clock_ms,
        events=EventBus(trio.current_time),
    )
    links: list[QuicLink] = []

    def make_link(connection: Connection) -> QuicLink:
        links.append(QuicLink(context, connection, expected=expected))
        return links[0]

    endpoint.dial(address, make_link, check=party.judge.server_check(format_endpoint(address)))
    connected = False
    try:
        await links[0].wait_live()
        connected = True
    finally:
        if not connected:  # the peer may have taken us already, and would keep the connection until it is idle
            links[0].close(ErrorCode.HANDSHAKE_TIMEOUT, "gave up waiting")
    return links[0]


def _require_reachable(endpoint: QuicEndpoint, address: Address) -> None:
    obstacle = endpoint.obstacle(address[0])
    if obstacle is not None:
        raise NotSent(f"{format_endpoint(address)} cannot be reached: {obstacle}")


async def _deliver(connected: QuicLink | _Bare, frame: bytes, linger_s: float) -> None:
    if isinstance(connected, _Bare):
        connected.connection.write(CONTROL_STREAM, frame)
        await trio.sleep(linger_s)
        connected.require_live()
        connected.connection.close(ErrorCode.NORMAL)
        return
    connected.send_frame_nowait(frame)
    with suppress(trio.TooSlowError):  # whether the frame was read is not known then, as in v0.8
        await linger(connected, linger_s=linger_s)
    connected.close(ErrorCode.NORMAL, "done")

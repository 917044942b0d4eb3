"""The peer connector of v0.8: one connection for one frame, owned by whoever awaits it (DESIGN section 7)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import attrs
import trio

from macula_trio._addresses import with_route
from macula_trio._events import EventBus
from macula_trio._net.quic import CONTROL_STREAM, CloseReason, Connection, ConnectionHandler, QuicEndpoint
from macula_trio._peer.handshake import LocalParty
from macula_trio._peer.link import LinkContext, QuicLink
from macula_trio._util import Address, format_endpoint, path_address
from macula_trio._wire.messages import Ping, Pong
from macula_trio.abc import DatagramNetwork
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
        """Give the failure; it is not raised, because a nursery would wrap it into a group."""
        socket = await network.bind(("::" if ":" in self.address[0] else "0.0.0.0", 0))
        endpoint = QuicEndpoint(
            socket,
            self.party.credentials,
            accept=_refuse_everybody,
            idle_timeout_s=IDLE_TIMEOUT_S,
            random_bytes=random_bytes,
        )
        failure: MeshError | None = None
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(endpoint.serve)
                try:
                    with trio.fail_after(self.dial_deadline_s):
                        connected = await _connect(endpoint, self.party, self.address, network)
                    self.has_connected = True
                    await _deliver(connected, self.frame, self.linger_s)
                except trio.TooSlowError:
                    failure = no_answer(format_endpoint(self.address), self.dial_deadline_s)
                except MeshError as exc:
                    failure = exc
                nursery.cancel_scope.cancel()
        finally:
            socket.close()
        return failure


async def _connect(
    endpoint: QuicEndpoint, party: LocalParty, address: Address, network: DatagramNetwork
) -> QuicLink | _Bare:
    obstacle = endpoint.obstacle(address[0])
    if obstacle is not None:
        raise NotSent(f"{format_endpoint(address)} cannot be reached: {obstacle}")
    if party.trust.kind == "unverified":
        bares: list[_Bare] = []

        def make_bare(connection: Connection) -> _Bare:
            bares.append(_Bare(connection))
            return bares[0]

        endpoint.dial(address, make_bare)
        await bares[0].settled.wait()
        bares[0].require_live()
        return bares[0]
    context = LinkContext(
        party=party,
        handlers={},
        wall_clock_ms=network.wall_clock_ms,
        events=EventBus(trio.current_time),
        admit=lambda _remote: None,
        offended=lambda _link: None,
        opened=lambda _link: None,
        closed=lambda _link: None,
    )
    links: list[QuicLink] = []

    def make_link(connection: Connection) -> QuicLink:
        links.append(QuicLink(context, connection))
        return links[0]

    endpoint.dial(address, make_link, check=party.judge.server_check(format_endpoint(address)))
    await links[0].wait_live()
    return links[0]


async def _deliver(connected: QuicLink | _Bare, frame: bytes, linger_s: float) -> None:
    if isinstance(connected, _Bare):
        connected.connection.write(CONTROL_STREAM, frame)
        await trio.sleep(linger_s)
        connected.require_live()
        connected.connection.close(ErrorCode.NORMAL)
        return
    connected.send_frame_nowait(frame)
    with trio.move_on_after(linger_s):
        await connected.ask(Ping(timestamp=0), Pong)
    connected.close(ErrorCode.NORMAL, "done")

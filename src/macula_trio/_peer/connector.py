"""The peer connector of v0.8: one connection for one frame, owned by whoever awaits it (DESIGN section 7)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from macula_trio._events import EventBus
from macula_trio._net.quic import CONTROL_STREAM, CloseReason, Connection, ConnectionHandler, QuicEndpoint
from macula_trio._peer.handshake import LocalParty
from macula_trio._peer.link import LinkContext, QuicLink
from macula_trio._util import Address, format_endpoint
from macula_trio._wire.messages import Ping, Pong
from macula_trio.abc import DatagramNetwork
from macula_trio.errors import ErrorCode, MeshError, PeerUnavailable, no_answer

IDLE_TIMEOUT_S: Final = 10.0  # of a connection that lives for one frame


class _Bare:
    """A connection on which nobody proves anything: what v0.8 speaks."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.settled = trio.Event()
        self._lost: str | None = None

    def require_live(self) -> None:
        if self._lost is not None:
            raise PeerUnavailable(f"peer at {format_endpoint(self.connection.path)}: {self._lost}")

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
    address: Address,
    frame: bytes,
    *,
    linger_s: float,
    dial_deadline_s: float,
    random_bytes: Callable[[int], bytes],
) -> None:
    """Connect, write one frame, linger, close.

    Under `Trust.unverified` exactly that; else CONNECT and a verified PONG come first, and the linger is cut short
    when a PING behind the frame is answered.

    Raises:
      PeerUnavailable: nobody answered, or the connection ended before the end of the linger.
      TrustError: one of the two sides refused the other.
      OSError: no socket is to be had.
    """
    socket = await network.bind(("::" if ":" in address[0] else "0.0.0.0", 0))
    endpoint = QuicEndpoint(
        socket,
        party.credentials,
        accept=_refuse_everybody,
        idle_timeout_s=IDLE_TIMEOUT_S,
        random_bytes=random_bytes,
    )
    failure: MeshError | None = None
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(endpoint.serve)
            try:
                with trio.fail_after(dial_deadline_s):
                    connected = await _connect(endpoint, party, address, network)
                await _deliver(connected, frame, linger_s)
            except trio.TooSlowError:
                failure = no_answer(format_endpoint(address), dial_deadline_s)
            except MeshError as exc:
                failure = exc
            nursery.cancel_scope.cancel()
    finally:
        socket.close()
    if failure is not None:
        raise failure  # outside of the nursery, which would wrap it into a group


async def _connect(
    endpoint: QuicEndpoint, party: LocalParty, address: Address, network: DatagramNetwork
) -> QuicLink | _Bare:
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

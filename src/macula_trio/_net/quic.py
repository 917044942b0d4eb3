"""QUIC over one datagram socket: one pump for all connections of a node, listened and dialed alike.

With ``credit.py`` the only file that imports aioquic, and only its public names.  **Hostile bytes never reach the
pump**: every call into aioquic is made inside `QuicEndpoint._contained`; whatever comes out of it closes that one
connection, is counted and logged, and goes no further.  DESIGN section 6; the measurements behind the shape of the
pump are that datagrams and flushes cost, so writes of many tasks share a flush.
"""

from __future__ import annotations

import enum
import io
import logging
import ssl
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf
from typing import Final, Protocol

import attrs
import trio
from aioquic.buffer import Buffer  # type: ignore[attr-defined]  # public, but re-exported without saying so
from aioquic.quic import events
from aioquic.quic.configuration import SMALLEST_MAX_DATAGRAM_SIZE, QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.packet import (
    QuicErrorCode,
    QuicHeader,
    QuicPacketType,
    encode_quic_retry,
    encode_quic_version_negotiation,
    pull_quic_header,
)
from aioquic.quic.retry import QuicRetryTokenHandler
from aioquic.tls import AlertDescription

from macula_trio._identity.keys import Credentials
from macula_trio._identity.proof import channel_binding
from macula_trio._identity.trust import ServerCheck
from macula_trio._net.admission import Admission, Verdict
from macula_trio._net.credit import WINDOW_UNPROVEN_BYTES, InboundCredit
from macula_trio._net.datagram_sizes import DATAGRAM_BYTES_SMALL, DatagramSizes
from macula_trio._net.fairness import WORK_BURST, WORK_PER_S, Fairness
from macula_trio._net.timers import Timers
from macula_trio._peer.budget import TokenBucket
from macula_trio._util import Address, Path, format_endpoint, path_address
from macula_trio.abc import DatagramSocket
from macula_trio.errors import ErrorCode

logger = logging.getLogger("macula_trio.quic")

ALPN: Final = "macula"
CONTROL_STREAM: Final = 0  # the dialer's first bidirectional stream (RFC 9000, section 2.1)
HANDSHAKE_DEADLINE_S: Final = 5.0  # for TLS and proof together, of a peer that dialed us
TIMER_SLACK_S: Final = 1e-6  # waking exactly at get_timer() can livelock aioquic's loss detection
SUPPORTED_VERSIONS: Final = tuple(QuicConfiguration().supported_versions)
INITIAL_RTT_S: Final = QuicConfiguration().initial_rtt  # from which aioquic's first time-outs follow
TURN_S: Final = 0.002  # of work on what was received, before others have their turn
CONNECTION_ID_BYTES: Final = 8
FIRST_CONNECTION_ID_BYTES_MIN: Final = 8  # of what a client invents for us (RFC 9000, section 7.2)
RETRY_CONNECTION_ID_BYTES: Final = 8

_LONG_HEADER: Final = 0x80  # RFC 9000, section 17.2: form bit; then a version of 4 bytes, then the id's length
_LONG_HEADER_BYTES_MIN: Final = 5

# Bytes of a peer that reached us and no reader: withheld at the front of a stream they are memory (DESIGN section 6).
WITHHELD_UNPROVEN_MAX: Final = 64 * 1024
WITHHELD_MAX: Final = 4 * 1024 * 1024
_WITHHELD_FREE: Final = 100  # of each datagram: acknowledgements and headers are no data
_WITHHELD_CREDIT: Final = 1.2  # per byte delivered: some is sent twice

# TLS alerts about a certificate (RFC 8446, section 6), as error codes of QUIC (RFC 9001, section 4.8).
_CERTIFICATE_ALERTS: Final = frozenset(
    QuicErrorCode.CRYPTO_ERROR + alert
    for alert in (
        AlertDescription.bad_certificate,
        AlertDescription.unsupported_certificate,
        AlertDescription.certificate_expired,
        AlertDescription.certificate_unknown,
        AlertDescription.unknown_ca,
    )
)

# What aioquic takes for the address of a peer that we dialed: constant, so that a path can change under it.
_DIALED_PEER: Final = ("dialed", 0)


class CloseReason(enum.Enum):
    """How a connection ended."""

    CLOSED_BY_US = "closed"
    CLOSED_BY_PEER = "closed by the peer"
    IDLE = "silent for too long"
    HANDSHAKE_TIMEOUT = "no handshake in time"
    UNTRUSTED = "its TLS certificate is refused; it needs one of our realm that is valid now"
    FAILED = "broken by what the peer sent"


class ConnectionHandler(Protocol):
    """What a connection tells the layer above; called from the pump, must neither block nor raise."""

    def handshake_completed(self) -> None:
        """TLS is through and `Connection.binding` is set; nobody has proven anything yet."""
        ...

    def stream_data_received(self, stream_id: int, data: bytes, end_stream: bool) -> None:
        """Bytes of a stream, in order."""
        ...

    def stream_reset(self, stream_id: int) -> None:
        """The peer gave a stream up."""
        ...

    def connection_lost(self, reason: CloseReason, detail: str) -> None:
        """The end; called exactly once."""
        ...


class _Unheard:
    """The handler of a connection that was given up, or has yet to win its race."""

    def handshake_completed(self) -> None:
        """Never comes: what is answered first gets another handler."""

    def stream_data_received(self, stream_id: int, data: bytes, end_stream: bool) -> None:
        """Neither does this."""

    def stream_reset(self, stream_id: int) -> None:
        """Nor this."""

    def connection_lost(self, reason: CloseReason, detail: str) -> None:
        """Nobody waits for it."""


class _Secrets(io.StringIO):
    """Collects the two application traffic secrets of one connection, in memory, for the channel binding.

    This is the file behind aioquic's public ``secrets_log_file``: lines of a label, TLS's client random, a secret.
    """

    def __init__(self, tee: Callable[[str], None] | None) -> None:
        super().__init__()
        self._tee = tee
        self._found: dict[str, bytes] = {}
        self.client_random = b""

    def write(self, line: str) -> int:
        label, _, rest = line.partition(" ")
        if label in ("CLIENT_TRAFFIC_SECRET_0", "SERVER_TRAFFIC_SECRET_0"):
            client_random, secret = rest.split()
            self._found[label] = bytes.fromhex(secret)
            self.client_random = bytes.fromhex(client_random)
        if self._tee is not None:
            self._tee(line)
        return len(line)

    def take_binding(self) -> bytes:
        """Derive the binding and forget the secrets."""
        client, server = self._found.pop("CLIENT_TRAFFIC_SECRET_0"), self._found.pop("SERVER_TRAFFIC_SECRET_0")
        return channel_binding(client, server)


@attrs.define(eq=False)
class EndpointCounters:
    """What happened on one socket.  Only ever grows."""

    datagrams_received: int = 0
    datagrams_sent: int = 0
    datagrams_unroutable: int = 0
    datagrams_policed: int = 0
    connections_accepted: int = 0
    connections_dialed: int = 0
    connections_raced: int = 0  # of those dialed: got a second, smaller one
    connections_refused: int = 0
    connections_broken: int = 0
    retries_demanded: int = 0


class Connection:
    """One QUIC connection.  Made by `QuicEndpoint` only; everything here is without waiting."""

    def __init__(
        self,
        endpoint: QuicEndpoint,
        quic: QuicConnection,
        secrets: _Secrets,
        *,
        path: Path,
        is_dialed: bool,
        deadline: float,
        check: ServerCheck | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._quic = quic
        self._secrets = secrets
        self._check = check
        self._deadline = deadline  # on Trio's clock; inf once the peer has proven itself
        self._cids: dict[bytes, None] = {}
        self._binding = b""
        self._handler: ConnectionHandler | None = None
        self._lost = False
        self._withheld = 0.0
        self._withheld_max = WITHHELD_UNPROVEN_MAX
        self._credit = InboundCredit(quic)
        self._share = TokenBucket(WORK_PER_S, WORK_BURST)
        # Written, and not in a datagram yet: about, since datagrams carry other things, and some data twice.
        self.unsent_bytes = 0
        self.path = path
        self.seen_at: Address = path[:2]  # of one that was accepted: where the peer is now, wherever it dialed from
        self.is_dialed = is_dialed

    @property
    def binding(self) -> bytes:
        """32 bytes that only the two ends know; empty before the handshake is completed."""
        return self._binding

    @property
    def client_random(self) -> bytes:
        """32 bytes that the dialer drew, which both ends, and everybody on the way, know (RFC 8446, section 4.1.2)."""
        return self._secrets.client_random

    @property
    def is_lost(self) -> bool:
        """Whether it has ended."""
        return self._lost

    @property
    def is_worn(self) -> bool:
        """Stub until merged."""
        return False

    def open_stream(self) -> int:
        """The id of the next bidirectional stream of ours; it opens with the first `write`."""
        return self._quic.get_next_available_stream_id()

    def write(self, stream_id: int, data: bytes, *, end_stream: bool = False) -> None:
        """Put bytes into a stream; they leave with the next flush, together with those of other tasks."""
        if self._lost:
            return
        with self._endpoint._contained(self):
            self._quic.send_stream_data(stream_id, data, end_stream)
        self.unsent_bytes += len(data)
        self._endpoint._mark_written(self)

    def worked(self, amount: int) -> None:
        """Charge to the peer's share what its bytes have made us do, in frames."""
        self._share.spend(amount)

    def random_bytes(self, count: int) -> bytes:
        """Bytes that the peer cannot guess."""
        return self._endpoint._random_bytes(count)

    def proven(self) -> None:
        """Lift the deadline of the handshake, and the bounds for strangers."""
        self._deadline = inf
        self._withheld_max = WITHHELD_MAX
        self._credit.widen()
        self._endpoint._admission.proven(self)

    def close(self, code: ErrorCode, *, error_code: int = 0) -> None:
        """Send what was written, then QUIC's close with ``code`` as its phrase, now."""
        self._endpoint._close(self, CloseReason.CLOSED_BY_US, code, error_code=error_code)


class QuicEndpoint:
    """All connections of one datagram socket.

    Args:
      socket: bound; the caller closes it after `serve` has ended.
      credentials: their chain and key are what TLS shows.
      accept: called for each new inbound connection, gives its handler.
      idle_timeout_s: a connection silent for so long is gone.
      random_bytes: for connection ids of Retry packets.
      admission: who may dial us; the usual bounds by default.
      sizes: how large datagrams are; by default what this system and its socket allow.
      keylog: receives lines in the NSS key log format, for Wireshark; None keeps the secrets secret.
    """

    def __init__(
        self,
        socket: DatagramSocket,
        credentials: Credentials,
        *,
        accept: Callable[[Connection], ConnectionHandler],
        idle_timeout_s: float,
        random_bytes: Callable[[int], bytes],
        keylog: Callable[[str], None] | None = None,
        admission: Admission[Connection] | None = None,
        sizes: DatagramSizes[Connection] | None = None,
    ) -> None:
        self._socket = socket
        self._credentials = credentials
        self._accept = accept
        self._idle_timeout_s = idle_timeout_s
        self._random_bytes = random_bytes
        self._keylog = keylog
        self._retry = QuicRetryTokenHandler()
        self._by_cid: dict[bytes, Connection] = {}
        self._connections: dict[Connection, None] = {}
        self._admission = admission or Admission()
        self._sizes = sizes or DatagramSizes(
            platform=sys.platform, large_buffers=socket.large_datagrams, initial_rtt_s=INITIAL_RTT_S
        )
        self._written: dict[Connection, None] = {}
        self._read: dict[Connection, None] = {}
        self._work = trio.Event()
        self._timers = Timers[Connection]()
        self._timer_kick = trio.Event()
        self._fairness = Fairness[Connection]()
        self.counters = EndpointCounters()

    @property
    def address(self) -> Address:
        """Where the socket is bound."""
        return self._socket.address

    def present(self, credentials: Credentials) -> None:
        """Show another certificate chain from the next connection on."""
        self._credentials = credentials

    @property
    def datagrams_lost(self) -> int:
        """Datagrams that the system did not take."""
        return self._socket.datagrams_lost

    def obstacle(self, host: str) -> str | None:
        """Why dialing a numeric host from here is of no use; None when it may be."""
        return self._socket.obstacle(host)

    @property
    def connections(self) -> int:
        """Connections that have not ended, those that are closing included."""
        return len(self._connections)

    # -- the pump ---------------------------------------------------------------------------------------------

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Move datagrams until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._receive)
            nursery.start_soon(self._flush_writes)
            nursery.start_soon(self._fire_timers)
            task_status.started()

    async def _receive(self) -> None:
        while True:
            await self._socket.wait_readable()
            begun = now = trio.current_time()
            for data, source in self._socket.recv_batch():
                if now - begun > TURN_S:
                    # A datagram may hold hundreds of frames: whoever waits for this loop has its turn in between.
                    self._flush(self._written)
                    await trio.lowlevel.checkpoint()
                    begun = trio.current_time()
                    self._fairness.turn_ended(begun)
                self.counters.datagrams_received += 1
                self._route(data, source, now)
                now = trio.current_time()
            self._fire_due(now)
            self._flush(self._written)

    async def _flush_writes(self) -> None:
        while True:
            await self._work.wait()
            self._work = trio.Event()
            self._flush(self._written)
            if self._read:
                # The tasks that were woken by what was read run in this tick; their answers carry the
                # acknowledgements, which saves a datagram each.
                await trio.lowlevel.checkpoint()
                self._flush(self._written)
                self._flush(self._read)

    async def _fire_timers(self) -> None:
        while True:
            self._timer_kick = trio.Event()
            due = self._timers.next_due
            with trio.move_on_at(due) as scope:
                await self._timer_kick.wait()
            now = trio.current_time()
            if scope.cancelled_caught:
                self._fairness.timer_fired(now - due, now)
            self._fire_due(now)
            self._flush(self._written)

    def _mark_written(self, connection: Connection) -> None:
        self._written[connection] = None
        self._work.set()

    def _flush(self, dirty: dict[Connection, None]) -> None:
        while dirty:
            connection = next(iter(dirty))
            self._written.pop(connection, None)
            self._read.pop(connection, None)
            self._flush_one(connection)

    def _flush_one(self, connection: Connection) -> None:
        with self._contained(connection):
            pending = connection._quic.datagrams_to_send(now=trio.current_time())
            self.counters.datagrams_sent += len(pending)
            connection.unsent_bytes = max(0, connection.unsent_bytes - sum(len(data) for data, _ in pending))
            if connection.is_dialed:
                self._socket.send_batch([(data, connection.path) for data, _ in pending])
            else:
                self._socket.send_batch(pending)
                if pending:
                    connection.seen_at = pending[-1][1][:2]
        self._arm(connection)

    # -- timers ---------------------------------------------------------------------------------------------------

    def _arm(self, connection: Connection) -> None:
        if connection not in self._connections:
            return
        timer: float | None = None
        with self._contained(connection):
            timer = connection._quic.get_timer()
        if connection not in self._connections:
            return  # broken by that
        due = min(
            inf if timer is None else timer + TIMER_SLACK_S, connection._deadline, self._sizes.race_at(connection)
        )
        if self._timers.arm(connection, due):
            self._timer_kick.set()

    def _fire_due(self, now: float) -> None:
        for connection in self._timers.due(now):
            if connection not in self._connections:
                continue  # ended by what another one's timer did
            if connection._deadline <= now:
                self._close(connection, CloseReason.HANDSHAKE_TIMEOUT, ErrorCode.HANDSHAKE_TIMEOUT, error_code=1)
                continue
            if self._sizes.race_at(connection) <= now:
                self._race(connection, now)
            with self._contained(connection):
                connection._quic.handle_timer(now=now)
            self._drain_events(connection)
            if connection in self._connections:
                self._mark_written(connection)

    # -- datagrams in ---------------------------------------------------------------------------------------------

    def _route(self, data: bytes, source: Path, now: float) -> None:
        connection = self._by_cid.get(_destination_cid(data))
        if connection is None:
            try:
                connection = self._greet(data, source, now)
            except Exception as exc:  # aioquic again, on the rawest bytes of all
                self.counters.datagrams_unroutable += 1
                whence = format_endpoint(path_address(source))
                logger.warning("a datagram from %s led to %s: %s", whence, type(exc).__name__, exc)
            if connection is None:
                return
        if not connection.is_dialed and not connection._binding and source != connection.path:
            # Nobody moves before the handshake is completed (RFC 9000, section 9), and aioquic would follow: then
            # a first datagram with a forged source would make that source the peer's proven address.
            self.counters.datagrams_unroutable += 1
            return
        if self._fairness.heard(connection, now) and not connection._share.take(1, now):
            self.counters.datagrams_policed += 1
            return
        if connection._binding:
            connection._withheld += max(0, len(data) - _WITHHELD_FREE)
        with self._contained(connection):
            connection._quic.receive_datagram(data, _DIALED_PEER if connection.is_dialed else source, now=now)
        connection = self._drain_events(connection)
        within_bounds = True
        with self._contained(connection):
            within_bounds = connection._credit.update()
        if not within_bounds or connection._withheld > connection._withheld_max:
            if connection._binding:
                self._close(connection, CloseReason.FAILED, ErrorCode.LIMIT_EXCEEDED, error_code=1)
            else:  # a close takes a second, and whoever forges addresses would begin very many of them meanwhile
                self._abandon(connection, ErrorCode.LIMIT_EXCEEDED)
        if connection in self._connections:
            self._read[connection] = None
            self._work.set()

    def _greet(self, data: bytes, source: Path, now: float) -> Connection | None:
        """Decide about a datagram that belongs to no connection: only a full-size Initial may make one."""
        header = _initial_header(data)
        if header is None or header.version is None:
            self.counters.datagrams_unroutable += 1
            return None
        if header.version not in SUPPORTED_VERSIONS:
            answer = encode_quic_version_negotiation(
                source_cid=header.destination_cid,
                destination_cid=header.source_cid,
                supported_versions=list(SUPPORTED_VERSIONS),
            )
            self._socket.send_batch([(answer, source)])
            return None
        verdict = self._admission.judge(path_address(source), has_token=bool(header.token))
        if verdict is Verdict.ACCEPT:
            return self._accept_connection(header, (header.destination_cid, None), source, len(data), now)
        original_cid = self._validate_address(header, source, now) if verdict is Verdict.VALIDATE else None
        if verdict is Verdict.REFUSE:
            self.counters.connections_refused += 1
        if original_cid is None:
            return None
        may_come, must_go = self._admission.make_room(path_address(source))
        if not may_come:
            self.counters.connections_refused += 1
            return None
        if must_go is not None:
            self._close(must_go, CloseReason.CLOSED_BY_US, ErrorCode.LIMIT_EXCEEDED, error_code=1)
        return self._accept_connection(header, (original_cid, header.destination_cid), source, len(data), now)

    def _validate_address(self, header: QuicHeader, source: Path, now: float) -> bytes | None:
        """Demand a Retry, or check the token of one (RFC 9000, section 8.1.2)."""
        assert header.version is not None
        if header.token:
            try:
                return self._retry.validate_token(
                    address=source, destination_cid=header.destination_cid, token=header.token, now=now
                )
            except ValueError:
                self.counters.connections_refused += 1
                return None
        cid = self._random_bytes(RETRY_CONNECTION_ID_BYTES)
        token = self._retry.create_token(
            address=source,
            original_destination_connection_id=header.destination_cid,
            retry_source_connection_id=cid,
            now=now,
        )
        answer = encode_quic_retry(
            version=header.version,
            source_cid=cid,
            destination_cid=header.source_cid,
            original_destination_cid=header.destination_cid,
            retry_token=token,
        )
        self.counters.retries_demanded += 1
        self._socket.send_batch([(answer, source)])
        return None

    def _accept_connection(
        self, header: QuicHeader, cids: tuple[bytes, bytes | None], source: Path, first_bytes: int, now: float
    ) -> Connection:
        size = min(self._sizes.largest(path_address(source)), first_bytes)
        configuration, secrets = self._configure(is_client=False, size=size)
        quic = QuicConnection(
            configuration=configuration,
            original_destination_connection_id=cids[0],
            retry_source_connection_id=cids[1],
        )
        connection = Connection(self, quic, secrets, path=source, is_dialed=False, deadline=now + HANDSHAKE_DEADLINE_S)
        self._adopt(connection, header.destination_cid, quic.host_cid)
        self._admission.opened(connection, path_address(source))
        self.counters.connections_accepted += 1
        connection._handler = self._accept(connection)
        return connection

    # -- connections: birth and end -----------------------------------------------------------------------------

    def dial(
        self,
        path: Address,
        make_handler: Callable[[Connection], ConnectionHandler],
        *,
        check: ServerCheck | None = None,
    ) -> Connection:
        """Begin a connection; its handler hears of the rest.

        Args:
          path: numeric address of the peer.
          make_handler: gives the handler of the new connection.
          check: what its TLS certificate must be; None when the proof alone decides.
        """
        now = trio.current_time()
        size = self._sizes.to_dial(path, now)
        connection = self._make_dialed(path, size, check)
        self.counters.connections_dialed += 1
        connection._handler = make_handler(connection)
        self._sizes.dialed(connection, path, size, now)
        self._connect(connection, now)
        return connection

    def _make_dialed(self, path: Address, size: int, check: ServerCheck | None) -> Connection:
        configuration, secrets = self._configure(is_client=True, size=size)
        if check is not None:
            configuration.verify_mode = ssl.CERT_REQUIRED
            configuration.cadata = check.ca_pem
            configuration.server_name = check.name
        quic = QuicConnection(configuration=configuration)
        connection = Connection(self, quic, secrets, path=path, is_dialed=True, deadline=inf, check=check)
        self._adopt(connection, quic.host_cid)
        return connection

    def _connect(self, connection: Connection, now: float) -> None:
        with self._contained(connection):
            connection._quic.connect(_DIALED_PEER, now=now)
        self._mark_written(connection)

    def _race(self, connection: Connection, now: float) -> None:
        """Dial once more with the smallest datagrams: nothing has come back, maybe because the path carries no more."""
        rival = self._make_dialed(path_address(connection.path), DATAGRAM_BYTES_SMALL, connection._check)
        rival._handler = _Unheard()
        self.counters.connections_raced += 1
        self._sizes.raced(connection, rival)
        self._connect(rival, now)

    def _answered(self, connection: Connection) -> Connection:
        """End the race, if there is one, for what was answered first; returns the connection that goes on.

        Only now, before either side has said who it is: the loser never was a link to anybody.  Whoever dialed holds
        the first connection of the two, and keeps it: if the rival has won, they exchange what is beneath.
        """
        race = self._sizes.answered(connection)
        if race is None:
            return connection
        dialed, rival = race
        if connection is rival:
            dialed._quic, rival._quic = rival._quic, dialed._quic
            dialed._secrets, rival._secrets = rival._secrets, dialed._secrets
            dialed._credit, rival._credit = rival._credit, dialed._credit
            dialed._cids, rival._cids = rival._cids, dialed._cids
            self._by_cid.update(dict.fromkeys(dialed._cids, dialed) | dict.fromkeys(rival._cids, rival))
        self._close(rival, CloseReason.CLOSED_BY_US, ErrorCode.NORMAL, error_code=0)
        return dialed

    def _configure(self, *, is_client: bool, size: int) -> tuple[QuicConfiguration, _Secrets]:
        secrets = _Secrets(self._keylog)
        configuration = QuicConfiguration(
            alpn_protocols=[ALPN],
            connection_id_length=CONNECTION_ID_BYTES,
            idle_timeout=self._idle_timeout_s,
            is_client=is_client,
            max_data=WINDOW_UNPROVEN_BYTES,
            max_datagram_size=size,
            secrets_log_file=secrets,
            # Who the peer is, the proof in CONNECT and PONG decides (DESIGN section 5), bound to this channel.
            verify_mode=ssl.CERT_NONE,
        )
        if not is_client:
            configuration.certificate = self._credentials.chain[0]
            configuration.certificate_chain = list(self._credentials.chain[1:])
            configuration.private_key = self._credentials.private_key
        return configuration, secrets

    def _adopt(self, connection: Connection, *cids: bytes) -> None:
        self._connections[connection] = None
        for cid in cids:
            self._by_cid[cid] = connection
            connection._cids[cid] = None

    def _drain_events(self, connection: Connection) -> Connection:
        """Act on what aioquic tells; returns the connection that goes on, another one after a race (`_answered`)."""
        while connection in self._connections:
            event: events.QuicEvent | None = None
            with self._contained(connection):
                event = connection._quic.next_event()
            if event is None:
                break
            if isinstance(event, events.ProtocolNegotiated):
                connection = self._answered(connection)
            else:
                self._handle_event(connection, event)
        return connection

    def _handle_event(self, connection: Connection, event: events.QuicEvent) -> None:
        handler = connection._handler
        assert handler is not None
        if isinstance(event, events.StreamDataReceived):
            connection._withheld = max(0.0, connection._withheld - _WITHHELD_CREDIT * len(event.data))
            if not connection._lost:
                handler.stream_data_received(event.stream_id, event.data, event.end_stream)
        elif isinstance(event, events.StreamReset):
            if not connection._lost:
                handler.stream_reset(event.stream_id)
        elif isinstance(event, events.HandshakeCompleted):
            connection._binding = connection._secrets.take_binding()
            self._sizes.completed(connection, trio.current_time())
            if not connection._lost:
                handler.handshake_completed()
        elif isinstance(event, events.ConnectionIdIssued):
            self._by_cid[event.connection_id] = connection
            connection._cids[event.connection_id] = None
        elif isinstance(event, events.ConnectionIdRetired):
            self._by_cid.pop(event.connection_id, None)
            connection._cids.pop(event.connection_id, None)
        elif isinstance(event, events.ConnectionTerminated):
            self._forget(connection)
            self._tell_lost(connection, _close_reason(connection, event), event.reason_phrase)

    def _close(self, connection: Connection, reason: CloseReason, code: ErrorCode, *, error_code: int) -> None:
        if connection not in self._connections or connection._lost:
            return
        self._flush_one(connection)  # what was written before a close in the same tick is never sent otherwise
        with self._contained(connection):
            connection._quic.close(error_code=error_code, reason_phrase=code.value)
        self._tell_lost(connection, reason, code.value)
        connection._deadline = inf
        self._flush_one(connection)

    def _abandon(self, connection: Connection, detail: str) -> None:
        """End a connection without another word to the peer."""
        self._forget(connection)
        self._tell_lost(connection, CloseReason.FAILED, detail)

    def _forget(self, connection: Connection) -> None:
        self._connections.pop(connection, None)
        self._timers.disarm(connection)
        self._fairness.forget(connection)
        self._admission.closed(connection)
        self._written.pop(connection, None)
        self._read.pop(connection, None)
        for cid in connection._cids:
            self._by_cid.pop(cid, None)

    def _tell_lost(self, connection: Connection, reason: CloseReason, detail: str) -> None:
        self._admission.closed(connection)
        rival = self._sizes.ended(connection)
        if rival is not None:
            self._close(rival, CloseReason.CLOSED_BY_US, ErrorCode.NORMAL, error_code=0)
        if not connection._lost and connection._handler is not None:
            connection._lost = True
            connection._handler.connection_lost(reason, detail)

    @contextmanager
    def _contained(self, connection: Connection) -> Iterator[None]:
        """The boundary around aioquic: what it raises on hostile input ends one connection and nothing else."""
        try:
            yield
        except Exception as exc:  # a malformed handshake raises almost anything; see MEASURED's traps
            if connection not in self._connections:
                return  # broken before, counted then
            self.counters.connections_broken += 1
            peer = format_endpoint(path_address(connection.path))
            logger.warning("connection with %s broken by %s: %s", peer, type(exc).__name__, exc)
            logger.debug("traceback of the broken connection", exc_info=True)
            self._abandon(connection, f"{type(exc).__name__}: {exc}")


def _initial_header(data: bytes) -> QuicHeader | None:
    """The header of a datagram that may begin a connection, or that of one in a version that we do not speak."""
    # Before anything is parsed: whoever floods us with garbage must not find that dear.
    if len(data) < SMALLEST_MAX_DATAGRAM_SIZE or not data[0] & _LONG_HEADER:
        return None
    try:
        header = pull_quic_header(Buffer(data=data), host_cid_length=CONNECTION_ID_BYTES)
    except ValueError:
        return None
    if len(header.destination_cid) < FIRST_CONNECTION_ID_BYTES_MIN:
        return None
    if header.packet_type == QuicPacketType.VERSION_NEGOTIATION:
        return None
    if header.version in SUPPORTED_VERSIONS and header.packet_type != QuicPacketType.INITIAL:
        return None
    return header


def _close_reason(connection: Connection, event: events.ConnectionTerminated) -> CloseReason:
    if event.reason_phrase == "Idle timeout":
        return CloseReason.IDLE
    if connection.is_dialed and not connection._binding and event.error_code in _CERTIFICATE_ALERTS:
        return CloseReason.UNTRUSTED
    return CloseReason.CLOSED_BY_PEER


def _destination_cid(data: bytes) -> bytes:
    """The destination connection id of a datagram's first packet (RFC 9000, section 17); b"" when cut off."""
    if not data:
        return b""
    if data[0] & _LONG_HEADER:
        return data[6 : 6 + data[5]] if len(data) > _LONG_HEADER_BYTES_MIN else b""
    return data[1 : 1 + CONNECTION_ID_BYTES]

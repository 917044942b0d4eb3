"""QUIC over one datagram socket, for all connections of a node, listened and dialed alike.

**Hostile bytes never reach the pump**: every call into aioquic is made inside a connection's ``_contained``; whatever
comes out of it closes that one connection, is counted and logged, and goes no further.  Only this file and those beside
it that make, greet and hold connections import aioquic, and only its public names (``credit.py`` and ``inner.py``
excepted).  DESIGN section 6.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from math import inf
from typing import Final

import trio
from aioquic.quic import events

from macula_trio._identity.keys import Credentials
from macula_trio._identity.trust import ServerCheck
from macula_trio._net.admission import Admission
from macula_trio._net.connection import CONTROL_STREAM, CloseReason, Connection, ConnectionHandler, Unheard
from macula_trio._net.counters import EndpointCounters
from macula_trio._net.datagram_sizes import DATAGRAM_BYTES_SMALL, DatagramSizes
from macula_trio._net.fairness import Fairness
from macula_trio._net.greeting import Greeter, Newcomer, destination_cid
from macula_trio._net.pump import Pump
from macula_trio._net.tls import CERTIFICATE_ALERTS, INITIAL_RTT_S, ConnectionMaker
from macula_trio._net.wear import WearLimits
from macula_trio._util import Address, Path, format_endpoint, path_address
from macula_trio.abc import DatagramSocket
from macula_trio.errors import ErrorCode

__all__ = ["CONTROL_STREAM", "CloseReason", "Connection", "ConnectionHandler", "QuicEndpoint"]

logger = logging.getLogger("macula_trio.quic")

HANDSHAKE_DEADLINE_S: Final = 5.0  # for TLS and proof together, of a peer that dialed us
TIMER_SLACK_S: Final = 1e-6  # waking exactly at get_timer() can livelock aioquic's loss detection

# What aioquic takes for the address of a peer that we dialed: constant, so that a path can change under it.
_DIALED_PEER: Final = ("dialed", 0)


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
      wear: how much one connection may carry before it is worn; see there for the usual.
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
        wear: WearLimits | None = None,
    ) -> None:
        self.counters: EndpointCounters = EndpointCounters()
        self._socket = socket
        self._accept = accept
        self.random_bytes = random_bytes
        self._maker = ConnectionMaker(credentials=credentials, idle_timeout_s=idle_timeout_s, keylog=keylog)
        self._by_cid: dict[bytes, Connection] = {}
        self._connections: dict[Connection, None] = {}
        self._admission = admission or Admission()
        self._greeter = Greeter(self._admission, self.counters, random_bytes)
        self._sizes = sizes or DatagramSizes(
            platform=sys.platform, large_buffers=socket.large_datagrams, initial_rtt_s=INITIAL_RTT_S
        )
        self._wear = wear or WearLimits()
        self._fairness = Fairness[Connection]()
        self._pump = Pump[Connection](socket, self._fairness, self)

    @property
    def address(self) -> Address:
        """Where the socket is bound."""
        return self._socket.address

    def present(self, credentials: Credentials) -> None:
        """Show another certificate chain from the next connection on."""
        self._maker.credentials = credentials

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

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Move datagrams until cancelled."""
        await self._pump.serve(task_status=task_status)

    # -- for the pump -------------------------------------------------------------------------------------------------

    def transmit(self, connection: Connection) -> None:
        """Send what aioquic has to say on a connection, and set its timer."""
        seen_at = before = connection.seen_at
        with connection._contained:
            pending = connection._quic.datagrams_to_send(now=trio.current_time())
            self.counters.datagrams_sent += len(pending)
            connection._wear.datagrams_sent += len(pending)
            connection.unsent_bytes = max(0, connection.unsent_bytes - sum(len(data) for data, _ in pending))
            if connection._peer_path is not None:
                target = connection._peer_path.target
                self._socket.send_batch([(data, target(len(data))) for data, _ in pending])
            elif pending:
                self._socket.send_batch(pending)
                peer = connection._quic.get_peer_address()
                assert peer is not None, "there is something to send to it"
                seen_at = connection.seen_at = peer[:2]
        self._tell_moved(connection, before, seen_at)
        self._arm(connection)

    def _arm(self, connection: Connection) -> None:
        if connection not in self._connections:
            return
        timer: float | None = None
        with connection._contained:
            timer = connection._quic.get_timer()
        if connection not in self._connections:
            return  # broken by that
        at = inf if timer is None else timer + TIMER_SLACK_S
        self._pump.arm(connection, min(at, connection._deadline, self._sizes.race_at(connection)))

    def timer_fired(self, connection: Connection, now: float) -> None:
        """Do what is due on a connection."""
        if connection not in self._connections:
            return  # ended by what another one's timer did
        if connection._deadline <= now:
            self.close(connection, CloseReason.HANDSHAKE_TIMEOUT, ErrorCode.HANDSHAKE_TIMEOUT, error_code=1)
            return
        if self._sizes.race_at(connection) <= now:
            self._race(connection, now)
        with connection._contained:
            connection._quic.handle_timer(now=now)
        self._drain_events(connection)
        if connection in self._connections:
            self._pump.mark_written(connection)

    def received(self, data: bytes, source: Path, now: float) -> None:
        """Take a datagram to its connection, or greet who sent it."""
        self.counters.datagrams_received += 1
        connection = self._by_cid.get(destination_cid(data))
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
        connection._note_datagram(len(data))
        with connection._contained:
            connection._quic.receive_datagram(data, _DIALED_PEER if connection.is_dialed else source, now=now)
        connection._has_news, connection._acknowledged = False, []
        connection = self._drain_events(connection)
        self._follow(connection, path_address(source), len(data), now)
        within_bounds = True
        with connection._contained:
            within_bounds = connection._credit.update()
        if not within_bounds or connection._withholds:
            if connection._binding:
                self.close(connection, CloseReason.FAILED, ErrorCode.LIMIT_EXCEEDED, error_code=1)
            else:  # a close takes a second, and whoever forges addresses would begin very many of them meanwhile
                self._abandon(connection, ErrorCode.LIMIT_EXCEEDED)
        if connection in self._connections:
            self._pump.mark_read(connection)

    def _follow(self, connection: Connection, source: Address, size: int, now: float) -> None:
        """Look where a datagram of a peer that we dialed came from: it may have moved."""
        path = connection._peer_path
        if path is None or not connection._binding or connection._lost or connection not in self._connections:
            return
        before = path.address
        if path.answered(connection._acknowledged, source):
            self._pump.mark_written(connection)
            self._tell_moved(connection, before, source)
        elif path.heard(source, size, now, is_news=connection._has_news):
            self.transmit(connection)  # what has nothing to do with it keeps to the path
            with connection._contained:
                connection._quic.send_ping(path.challenge())
            self.transmit(connection)  # now, before anything else may travel with it
            if path.wants_challenge:
                path.wait()

    def _greet(self, data: bytes, source: Path, now: float) -> Connection | None:
        outcome = self._greeter.greet(data, source, now)
        if isinstance(outcome, Newcomer):
            if outcome.must_go is not None:
                self.close(outcome.must_go, CloseReason.CLOSED_BY_US, ErrorCode.LIMIT_EXCEEDED, error_code=1)
            return self._accept_connection(outcome, source, len(data), now)
        if outcome is not None:
            self._socket.send_batch([(outcome, source)])
        return None

    def _accept_connection(self, newcomer: Newcomer, source: Path, first_bytes: int, now: float) -> Connection:
        size = min(self._sizes.largest(path_address(source)), first_bytes)
        quic, secrets = self._maker.accepted(size, newcomer.original_cid, newcomer.retry_cid)
        deadline = now + HANDSHAKE_DEADLINE_S
        connection = Connection(self, quic, secrets, path=source, is_dialed=False, deadline=deadline, wear=self._wear)
        self._adopt(connection, newcomer.cid, quic.host_cid)
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
        quic, secrets = self._maker.dialed(size, check)
        connection = Connection(
            self, quic, secrets, path=path, is_dialed=True, deadline=inf, wear=self._wear, check=check
        )
        self._adopt(connection, quic.host_cid)
        return connection

    def _connect(self, connection: Connection, now: float) -> None:
        with connection._contained:
            connection._quic.connect(_DIALED_PEER, now=now)
        self._pump.mark_written(connection)

    def _race(self, connection: Connection, now: float) -> None:
        """Dial once more with the smallest datagrams: nothing has come back, maybe because the path carries no more."""
        rival = self._make_dialed(path_address(connection.path), DATAGRAM_BYTES_SMALL, connection._check)
        rival._handler = Unheard()
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
            dialed._exchange(rival)
            self._by_cid.update(dict.fromkeys(dialed._cids, dialed) | dict.fromkeys(rival._cids, rival))
        self.close(rival, CloseReason.CLOSED_BY_US, ErrorCode.NORMAL, error_code=0)
        return dialed

    def _adopt(self, connection: Connection, *cids: bytes) -> None:
        self._connections[connection] = None
        for cid in cids:
            self._by_cid[cid] = connection
            connection._cids[cid] = None

    def _drain_events(self, connection: Connection) -> Connection:
        """Act on what aioquic tells; returns the connection that goes on, another one after a race (`_answered`)."""
        while connection in self._connections:
            event: events.QuicEvent | None = None
            with connection._contained:
                event = connection._quic.next_event()
            if event is None:
                break
            connection._note_event(event)
            if isinstance(event, events.ProtocolNegotiated):
                connection = self._answered(connection)
            else:
                self._handle_event(connection, event)
        return connection

    def _handle_event(self, connection: Connection, event: events.QuicEvent) -> None:
        handler = connection._handler
        assert handler is not None
        if isinstance(event, events.StreamDataReceived):
            connection._note_delivered(len(event.data))
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

    # -- for connections ----------------------------------------------------------------------------------------------

    def mark_written(self, connection: Connection) -> None:
        """Flush a connection with the next tick."""
        self._pump.mark_written(connection)

    def proven(self, connection: Connection) -> None:
        """Count it no more as one of a stranger."""
        self._admission.proven(connection)

    def close(self, connection: Connection, reason: CloseReason, code: ErrorCode, *, error_code: int) -> None:
        """Send what was written and QUIC's close, and tell the handler; nothing happens when it has ended."""
        if connection not in self._connections or connection._lost:
            return
        self.transmit(connection)  # what was written before a close in the same tick is never sent otherwise
        with connection._contained:
            connection._quic.close(error_code=error_code, reason_phrase=code.value)
        self._tell_lost(connection, reason, code.value)
        connection._deadline = inf
        self.transmit(connection)

    def _abandon(self, connection: Connection, detail: str) -> None:
        """End a connection without another word to the peer."""
        self._forget(connection)
        self._tell_lost(connection, CloseReason.FAILED, detail)

    def _forget(self, connection: Connection) -> None:
        self._connections.pop(connection, None)
        self._fairness.forget(connection)
        self._admission.closed(connection)
        self._pump.forget(connection)
        for cid in connection._cids:
            self._by_cid.pop(cid, None)

    def _tell_lost(self, connection: Connection, reason: CloseReason, detail: str) -> None:
        self._admission.closed(connection)
        rival = self._sizes.ended(connection)
        if rival is not None:
            self.close(rival, CloseReason.CLOSED_BY_US, ErrorCode.NORMAL, error_code=0)
        if not connection._lost and connection._handler is not None:
            connection._lost = True
            connection._handler.connection_lost(reason, detail)

    def _tell_moved(self, connection: Connection, old: Address, new: Address) -> None:
        if old != new and connection._binding and not connection._lost and connection._handler is not None:
            connection._handler.moved(old, new)

    def broken(self, connection: Connection, error: Exception) -> None:
        """End one connection and nothing else: a malformed handshake makes aioquic raise almost anything."""
        if connection not in self._connections:
            return  # broken before, counted then
        self.counters.connections_broken += 1
        peer = format_endpoint(path_address(connection.path))
        logger.warning("connection with %s broken by %s: %s", peer, type(error).__name__, error)
        logger.debug("traceback of the broken connection", exc_info=error)
        self._abandon(connection, f"{type(error).__name__}: {error}")


def _close_reason(connection: Connection, event: events.ConnectionTerminated) -> CloseReason:
    if event.reason_phrase == "Idle timeout":
        return CloseReason.IDLE
    if connection.is_dialed and not connection._binding and event.error_code in CERTIFICATE_ALERTS:
        return CloseReason.UNTRUSTED
    return CloseReason.CLOSED_BY_PEER

"""One QUIC connection, as the layer above sees it, and what it is told of it.

What begins with an underscore is between a connection and the endpoint that made it, ``quic.py``: that one moves its
datagrams, acts on its events and contains what aioquic raises.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from math import inf
from types import TracebackType
from typing import Final, Protocol

from aioquic.quic import events
from aioquic.quic.connection import QuicConnection

from macula_trio._identity.trust import ServerCheck
from macula_trio._net.credit import InboundCredit
from macula_trio._net.fairness import WORK_BURST, WORK_PER_S
from macula_trio._net.inner import acknowledge_with_answers, forget_handshake, is_heard
from macula_trio._net.migration import PeerPath
from macula_trio._net.tls import Secrets
from macula_trio._net.wear import Wear, WearLimits
from macula_trio._peer.budget import TokenBucket
from macula_trio._util import Address, Path, path_address
from macula_trio.errors import ErrorCode

CONTROL_STREAM: Final = 0  # the dialer's first bidirectional stream (RFC 9000, section 2.1)

# Bytes of a peer that reached us and no reader: withheld at the front of a stream they are memory (DESIGN section 6).
WITHHELD_UNPROVEN_MAX: Final = 64 * 1024
WITHHELD_MAX: Final = 4 * 1024 * 1024
_WITHHELD_FREE: Final = 100  # of each datagram: acknowledgements and headers are no data
_WITHHELD_CREDIT: Final = 1.2  # per byte delivered: some is sent twice


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

    def moved(self, old: Address, new: Address) -> None:
        """The peer is somewhere else, and the connection goes on; not called before the handshake is completed."""
        ...

    def connection_lost(self, reason: CloseReason, detail: str) -> None:
        """The end; called exactly once."""
        ...


class Unheard:
    """The handler of a connection that was given up, or has yet to win its race."""

    def handshake_completed(self) -> None:
        """Never comes: what is answered first gets another handler."""

    def stream_data_received(self, stream_id: int, data: bytes, end_stream: bool) -> None:
        """Neither does this."""

    def stream_reset(self, stream_id: int) -> None:
        """Nor this."""

    def moved(self, old: Address, new: Address) -> None:
        """Nor does this."""

    def connection_lost(self, reason: CloseReason, detail: str) -> None:
        """Nobody waits for it."""


class Owner(Protocol):
    """What a connection needs of the endpoint that made it."""

    @property
    def random_bytes(self) -> Callable[[int], bytes]:
        """Bytes that no peer can guess."""
        ...

    def broken(self, connection: Connection, error: Exception) -> None:
        """Something was raised by aioquic on what a peer sent: end its connection and nothing else."""
        ...

    def mark_written(self, connection: Connection) -> None:
        """It has something to send."""
        ...

    def proven(self, connection: Connection) -> None:
        """Its peer has shown who it is."""
        ...

    def close(self, connection: Connection, reason: CloseReason, code: ErrorCode, *, error_code: int) -> None:
        """End it."""
        ...


class _Containment:
    """The boundary around aioquic: what it raises on hostile input is told to the connection's owner.

    Entered several times for each datagram, which is why it is no generator.
    """

    __slots__ = ("_connection", "_owner")

    def __init__(self, owner: Owner, connection: Connection) -> None:
        self._owner = owner
        self._connection = connection

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        self._owner.broken(self._connection, error)
        return True


class Connection:
    """One QUIC connection.  Made by `macula_trio._net.quic.QuicEndpoint` only; everything here is without waiting."""

    def __init__(
        self,
        endpoint: Owner,
        quic: QuicConnection,
        secrets: Secrets,
        *,
        path: Path,
        is_dialed: bool,
        deadline: float,
        wear: WearLimits,
        check: ServerCheck | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._contained = _Containment(endpoint, self)
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
        acknowledge_with_answers(quic)
        self._wear = Wear(wear)
        self._share = TokenBucket(WORK_PER_S, WORK_BURST)
        # Written, and not in a datagram yet: about, since datagrams carry other things, and some data twice.
        self.unsent_bytes: int = 0
        self._dialed_from: Path = path
        self.seen_at: Address = path[:2]  # of one that was accepted: where the peer is now, wherever it dialed from
        self._peer_path = PeerPath(path_address(path)) if is_dialed else None
        self._has_news = False  # the datagram at hand brought something that only the peer can have sent
        self._acknowledged: list[int] = []  # the PINGs that it has answered

    @property
    def is_dialed(self) -> bool:
        """Whether we dialed it."""
        return self._peer_path is not None

    @property
    def path(self) -> Path:
        """Where the peer that we dialed is now, or where that one was which dialed us."""
        return self._dialed_from if self._peer_path is None else self._peer_path.address

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
        """Whether it has carried so much that another one should take its place; it goes on all the same."""
        return self._wear.is_worn

    def is_heard(self, stream_id: int) -> bool:
        """Whether all that was written on a stream that we have ended has arrived."""
        return is_heard(self._quic, stream_id)

    def open_stream(self) -> int:
        """The id of the next bidirectional stream of ours; it opens with the first `write`."""
        return self._quic.get_next_available_stream_id()

    def write(self, stream_id: int, data: bytes, *, end_stream: bool = False) -> None:
        """Put bytes into a stream; they leave with the next flush, together with those of other tasks."""
        if self._lost:
            return
        with self._contained:
            self._quic.send_stream_data(stream_id, data, end_stream)
        self._wear.used(stream_id)
        self.unsent_bytes += len(data)
        self._endpoint.mark_written(self)

    def worked(self, amount: int) -> None:
        """Charge to the peer's share what its bytes have made us do, in frames."""
        self._share.spend(amount)

    def random_bytes(self, count: int) -> bytes:
        """Bytes that the peer cannot guess."""
        return self._endpoint.random_bytes(count)

    def proven(self) -> None:
        """Lift the deadline of the handshake, and the bounds for strangers."""
        self._deadline = inf
        self._withheld_max = WITHHELD_MAX
        self._credit.widen()
        forget_handshake(self._quic)
        self._endpoint.proven(self)

    def close(self, code: ErrorCode, *, error_code: int = 0) -> None:
        """Send what was written, then QUIC's close with ``code`` as its phrase, now."""
        self._endpoint.close(self, CloseReason.CLOSED_BY_US, code, error_code=error_code)

    # -- for the endpoint -------------------------------------------------------------------------------------------

    def _note_datagram(self, size: int) -> None:
        if self._binding:
            self._withheld += max(0, size - _WITHHELD_FREE)

    def _note_delivered(self, size: int) -> None:
        self._withheld = max(0.0, self._withheld - _WITHHELD_CREDIT * size)

    def _note_event(self, event: events.QuicEvent) -> None:
        if isinstance(event, (events.StreamDataReceived, events.StreamReset)):
            self._wear.used(event.stream_id)
        if isinstance(event, (events.StreamDataReceived, events.StreamReset, events.PingAcknowledged)):
            self._has_news = True
        if isinstance(event, events.PingAcknowledged):
            self._acknowledged.append(event.uid)

    @property
    def _withholds(self) -> bool:
        return self._withheld > self._withheld_max

    def _exchange(self, rival: Connection) -> None:
        """Exchange what is beneath with another one: who holds either of the two notices nothing."""
        self._quic, rival._quic = rival._quic, self._quic
        self._secrets, rival._secrets = rival._secrets, self._secrets
        self._credit, rival._credit = rival._credit, self._credit
        self._wear, rival._wear = rival._wear, self._wear
        self._cids, rival._cids = rival._cids, self._cids

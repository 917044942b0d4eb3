"""A link: one live relationship with one peer over one connection (DESIGN sections 5 to 7).

Frames travel on one long-lived control stream.  Nothing that a peer says is looked at before it has proven who
it is, save under `Trust.unverified`.  Everything runs in the pump's callbacks or in the caller's task: a link has
no task of its own.
"""

from __future__ import annotations

import enum
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from math import inf
from typing import Any, Final, Self

import attrs
import trio

from macula_trio._events import EventBus
from macula_trio._ids import NodeId
from macula_trio._net.quic import CONTROL_STREAM, CloseReason, Connection
from macula_trio._peer.backlog import WINDOW_BYTES, Backlog
from macula_trio._peer.budget import LinkBudget
from macula_trio._peer.handshake import (
    ANONYMOUS,
    HANDSHAKE_PAYLOAD_BYTES_MAX,
    LocalParty,
    RemoteParty,
    accept_connect,
    accept_pong,
    judge_again,
    make_connect,
    make_pong,
)
from macula_trio._peer.observed import read_observed
from macula_trio._peer.views import LinkView, OneStream
from macula_trio._util import Address, clip, format_endpoint, path_address, told_address
from macula_trio._wire import messages as wire
from macula_trio._wire.codec import FrameDecoder, decode_message, encode_message
from macula_trio._wire.correlation import correlation_of, is_reply, may_be_reply
from macula_trio._wire.frame import MAX_PAYLOAD, Frame, MessageType
from macula_trio.abc import Link, Message, MessageHandler, ReplyT
from macula_trio.errors import (
    ErrorCode,
    LocalProtocolError,
    MeshError,
    NotSent,
    OwnIdentity,
    PeerUnavailable,
    RealmMismatch,
    RemoteProtocolError,
    TrustError,
)

logger = logging.getLogger("macula_trio.link")

BUFFERED_BYTES_MAX: Final = 4 * 1024 * 1024  # of unfinished frames on all streams of one link
ASKS_MAX: Final = 4096  # unanswered requests of ours on one link; each is remembered until its end
STREAMS_MAX: Final = 128  # on which a peer may begin a frame at once: v0.8 uses up to 100, each may hold a frame
V08_STREAMS_MAX: Final = 100  # of one connection, which a v0.8 peer then ends
UNVERIFIED_STREAMS_MAX: Final = 45  # messages on a connection that we dialed to such a peer: a CALL may need a CANCEL
UNASKED: Final = -1  # timestamp of what needs no answer, or is none; questions of callers count from 0 up
SELVES_MAX: Final = 64  # connections with ourselves that are remembered until our other end has heard of it

_PROBES: Final = (wire.Ping, wire.SwimPing, wire.SwimPingReq, wire.SwimAck)  # signs of life share one allowance
_FAREWELLS: Final = (ErrorCode.NORMAL, ErrorCode.CLOSING)
_QUIC_REFUSED: Final = 1  # QUIC application error code of every close that is not a farewell
_TRUST_REFUSALS: Final[Mapping[ErrorCode | None, type[TrustError]]] = {
    ErrorCode.BAD_PROOF: TrustError,
    ErrorCode.PROOF_REQUIRED: TrustError,
    ErrorCode.WRONG_PEER: TrustError,
    ErrorCode.UNTRUSTED: TrustError,
    ErrorCode.OWN_IDENTITY: TrustError,
    ErrorCode.IDENTITY_CONFLICT: TrustError,
    ErrorCode.REALM_MISMATCH: RealmMismatch,
}


class LinkState(enum.Enum):
    """Where a link is in its life; only ever moves down this list."""

    CONNECTING = "connecting"  # TLS, or waiting for the peer's CONNECT or PONG
    LIVE = "live"
    CLOSED = "closed"


@attrs.define(eq=False)
class LinkCounters:
    """Frames of all links of a node.  Only ever grows."""

    sent: Counter[str] = attrs.field(factory=Counter)
    received: Counter[str] = attrs.field(factory=Counter)
    unknown_type: int = 0
    unexpected: int = 0
    unhandled: int = 0
    excess: int = 0
    migrated: int = 0
    refused: Counter[str] = attrs.field(factory=Counter)


@attrs.define(eq=False, kw_only=True)
class LinkContext:
    """What all links of a node share.

    Attributes:
      party: what we say of ourselves.
      handlers: who takes the messages that peers send on their own.
      wall_clock_ms: Unix time, for PONG's ``server_time`` and the dates of certificates.
      admit: asked about a peer whose proof is good, before it is answered; raises `TrustError` to refuse it.
      offended: called when a peer broke the rules of the wire, or brought a false proof.
      opened: called when a link becomes live.
      closed: called when a link that was live has ended.
      observed: told where a proven peer that we dialed says that it sees us.
    """

    party: LocalParty
    handlers: Mapping[type[Message], MessageHandler[Any]]
    wall_clock_ms: Callable[[], int]
    events: EventBus
    admit: Callable[[RemoteParty], None]
    offended: Callable[[QuicLink], None]
    opened: Callable[[QuicLink], None]
    closed: Callable[[QuicLink], None]
    observed: Callable[[QuicLink, Address], None] = lambda _link, _address: None
    counters: LinkCounters = attrs.field(factory=LinkCounters)
    _selves: dict[bytes, None] = attrs.field(factory=dict, init=False)

    def note_self(self, binding: bytes) -> None:
        """Note a connection on whose other end we are ourselves."""
        self._selves[binding] = None
        if len(self._selves) > SELVES_MAX:
            del self._selves[next(iter(self._selves))]

    def is_self(self, binding: bytes) -> bool:
        """Whether we are on both ends of a connection; what its other end says is a claim."""
        return binding in self._selves


@attrs.define(eq=False)
class _Pending:
    """One request of ours that waits for its reply."""

    reply_type: type[Message]
    stream_id: int
    done: trio.Event = attrs.field(factory=trio.Event)
    outcome: Message | MeshError | None = None

    def resolve(self, outcome: Message | MeshError) -> None:
        if self.outcome is None:  # the reply that came counts, even when the link ended behind it
            self.outcome = outcome
            self.done.set()


class QuicLink:
    """`macula_trio.abc.Link` over one QUIC connection; also that connection's handler.

    Args:
      context: shared by the links of a node.
      connection: just dialed or accepted.
      expected: whom we dial for; None when only the address is known, or when the peer dialed us.
    """

    def __init__(self, context: LinkContext, connection: Connection, *, expected: NodeId | None = None) -> None:
        self._context = context
        self._connection = connection
        self._expected = expected
        self._state = LinkState.CONNECTING
        self._settled = trio.Event()  # live or closed
        self._error: MeshError | None = None
        self._peer: RemoteParty | None = None
        self._decoders: dict[int, FrameDecoder] = {}
        self._has_control = connection.is_dialed  # the stream is the dialer's to open; before that nobody can write
        self._pending: dict[tuple[str, object], _Pending] = {}
        self._close_callbacks: dict[Callable[[], None], None] = {}
        self._peer_is_leaving = False
        self._backlog = Backlog(connection.random_bytes)
        self._room = trio.Event()  # some of it was taken
        self._heard_at = trio.current_time()
        self._budget = LinkBudget()
        self._probed_at: float | None = None
        self._reserved = 0
        self._told_address: Address | None = None  # where we told a peer that dialed us that we see it

    # -- what others see ----------------------------------------------------------------------------------------

    @property
    def node_id(self) -> NodeId | None:
        """The peer's id: proven if `verified`, else claimed or None."""
        return None if self._peer is None else self._peer.node_id

    @property
    def verified(self) -> bool:
        """Whether the peer proved its id."""
        return self._peer is not None and self._peer.verified

    @property
    def is_probe(self) -> bool:
        """Whether we are the peer ourselves, asking how we are: nothing that concerns the mesh."""
        return self.verified and self.node_id == self._context.party.judge.probe

    @property
    def instance(self) -> bytes | None:
        """Which run of the peer this is."""
        return None if self._peer is None else self._peer.instance

    @property
    def trusted_until_ms(self) -> float:
        """Until when the policy lets the peer in, Unix time; that is when its certificate expires."""
        return inf if self._peer is None else self._peer.trusted_until_ms

    @property
    def capabilities(self) -> frozenset[str]:
        """What the peer announced."""
        return frozenset() if self._peer is None else self._peer.capabilities

    @property
    def endpoint(self) -> str | None:
        """Where the peer says that it can be dialed."""
        return None if self._peer is None else self._peer.endpoint

    @property
    def proven_endpoint(self) -> str | None:
        """The announced endpoint when this link shows that it reaches the peer.

        A node listens and dials on one socket, so an announced endpoint that is where the peer's datagrams come
        from has been shown by QUIC's own address validation to reach it (docs/design/routing-table.md).
        """
        if self.endpoint is None:
            return None
        try:
            announced = told_address(self.endpoint, self.peer_host)
        except ValueError:
            return None
        return format_endpoint(announced) if announced == self.peer_address else None

    @property
    def dialed_endpoint(self) -> str | None:
        """Where we dialed it; None when the peer dialed us."""
        return format_endpoint(self.peer_address) if self.is_dialed else None

    @property
    def whole(self) -> Self:
        """Itself; see `OneStream`."""
        return self

    @property
    def is_dialed(self) -> bool:
        """Whether we dialed it."""
        return self._connection.is_dialed

    @property
    def peer_address(self) -> Address:
        """Where its datagrams come from."""
        return path_address(self._connection.path)

    @property
    def peer_host(self) -> str:
        """The same without the port."""
        return self.peer_address[0]

    @property
    def is_closed(self) -> bool:
        """Whether it has ended."""
        return self._state is LinkState.CLOSED

    @property
    def is_congested(self) -> bool:
        """Whether more than 1 MiB is on its way.

        Who proves nothing may be v0.8, which does not survive our PINGs; of such a peer we know only what has left.
        """
        return self._backlog.is_congested if self.verified else self._connection.unsent_bytes > WINDOW_BYTES

    @property
    def peer_is_leaving(self) -> bool:
        """Whether the peer said goodbye to the mesh."""
        return self._peer_is_leaving

    async def wait_live(self) -> None:
        """Wait until both sides have accepted each other.

        Raises:
          PeerUnavailable: the connection ended before.
          TrustError: one of the two refused the other.
          RemoteProtocolError: the peer broke the rules.
        """
        await self._settled.wait()
        if self._error is not None and self._peer is None:
            raise self._error

    def reserve(self) -> bool:
        """Take the place of one more message on a link to a v0.8 peer that we dialed; False when it is worn out."""
        if self._reserved >= UNVERIFIED_STREAMS_MAX:
            return False
        self._reserved += 1
        return True

    @property
    def takes_more(self) -> bool:
        """Whether we dialed it, and `reserve` has places left."""
        return self.is_dialed and self._reserved < UNVERIFIED_STREAMS_MAX

    @property
    def _stream(self) -> int:
        """For what we say on our own: the control stream; to a v0.8 peer, which reads a stream whole, a new one."""
        if not (self._state is LinkState.LIVE and self.is_dialed and not self.verified):
            return CONTROL_STREAM
        stream_id = self._connection.open_stream()
        if stream_id >= 4 * V08_STREAMS_MAX:
            raise NotSent(f"{self._label()} reads no more than {V08_STREAMS_MAX} streams of one connection")
        return stream_id

    def send_nowait(self, message: Message) -> None:
        """Put one message on the way."""
        self.send_on(self._stream, message)

    def send_frame_nowait(self, frame: bytes) -> None:
        """Put one encoded frame on the way.

        Raises:
          PeerUnavailable: the link is not live.
        """
        self._require_live()
        self._write_frame(self._stream, frame)

    async def ask(self, request: Message, reply_type: type[ReplyT]) -> ReplyT:
        """Send a request and wait for its reply."""
        key = correlation_of(request)
        assert key is not None, "not a request"
        assert key[1] is not None, "a request needs something to tell its reply by"
        assert key not in self._pending, "correlation used twice"
        if len(self._pending) >= ASKS_MAX:
            raise NotSent(f"{self._label()}: {ASKS_MAX} requests are waiting for their answers already")
        await self.wait_writable()
        stream_id = self._stream
        pending = self._pending[key] = _Pending(reply_type, stream_id)
        try:
            self.send_on(stream_id, request)
            await pending.done.wait()
        finally:
            del self._pending[key]
        if isinstance(pending.outcome, reply_type):
            return pending.outcome
        if isinstance(pending.outcome, MeshError):
            raise pending.outcome
        raise RemoteProtocolError(
            f"{self._label()} answered by {type(pending.outcome).__name__}", code=ErrorCode.UNEXPECTED_MESSAGE
        )

    async def wait_writable(self) -> None:
        """Wait until less than 1 MiB is on its way."""
        await trio.lowlevel.checkpoint()
        while self.is_congested and not self.is_closed:
            await self._room.wait()

    def check_alive(self, now: float, patience_s: float) -> None:
        """Ask a silent peer that something depends on for a sign of life; end the link when none comes.

        Args:
          now: on Trio's clock.
          patience_s: how long silence is nothing to worry about.
        """
        if self._state is not LinkState.LIVE or now - self._heard_at < patience_s:
            return
        if self._probed_at is not None and now - self._probed_at >= patience_s:
            self.close(ErrorCode.SILENT, f"silent for {now - self._heard_at:.1f} s")
        elif self._probed_at is None and (self._pending or self._close_callbacks):
            self._probed_at = now
            self._write(self._stream, wire.Ping(timestamp=UNASKED))

    def tell_observed(self) -> None:
        """Tell a proven peer that dialed us where we see it, if that has changed under the link."""
        seen_at = self._connection.seen_at
        if self._state is LinkState.LIVE and self.verified and self._told_address not in (None, seen_at):
            self._told_address = seen_at
            now_ms = self._context.wall_clock_ms()
            told = wire.Pong(timestamp=UNASKED, server_time=now_ms, observed=format_endpoint(seen_at))
            self._write(CONTROL_STREAM, told)

    def _hear_observed(self, pong: wire.Pong) -> None:
        """Whoever we dialed saw us as others do; who dialed us himself knows only what he dialed."""
        address = read_observed(pong.observed)
        if address is not None and self.is_dialed and self.verified and self._state is LinkState.LIVE:
            self._context.observed(self, address)

    def judge_again(self, now_ms: int) -> None:
        """Close a live link whose peer would not be let in today."""
        if self._state is not LinkState.LIVE or self._peer is None:
            return
        try:
            self._peer = judge_again(self._context.party, self._peer, is_dialed=self.is_dialed, now_ms=now_ms)
        except TrustError as exc:
            self._refuse(exc)

    def add_close_callback(self, callback: Callable[[], None]) -> None:
        """Call back once at the end."""
        if self.is_closed:
            callback()
        else:
            self._close_callbacks[callback] = None

    def remove_close_callback(self, callback: Callable[[], None]) -> None:
        """Forget a callback."""
        self._close_callbacks.pop(callback, None)

    def close(self, code: ErrorCode = ErrorCode.NORMAL, message: str = "") -> None:
        """Say DISCONNECT, flush and close, now."""
        if self.is_closed:
            return
        has_something_to_say = self._peer is not None or code is not ErrorCode.NORMAL
        if self._connection.binding and self._has_control and has_something_to_say:
            self._write(CONTROL_STREAM, wire.Disconnect(reason=code.value, message=clip(message)))
        self._error = self._error or PeerUnavailable(f"{self._label()}: link was closed: {message or code.value}")
        self._connection.close(code, error_code=0 if code in _FAREWELLS else _QUIC_REFUSED)

    # -- the connection's handler --------------------------------------------------------------------------------

    def handshake_completed(self) -> None:
        """TLS is through: the dialer introduces itself."""
        if self.is_dialed:
            binding = self._connection.binding
            self._write(CONTROL_STREAM, make_connect(self._context.party, binding=binding, peer=self._expected))

    def stream_data_received(self, stream_id: int, data: bytes, end_stream: bool) -> None:
        """Cut frames and act on each."""
        self._has_control |= stream_id == CONTROL_STREAM
        self._heard_at, self._probed_at = trio.current_time(), None
        if not self.verified:  # nothing else tells that it has taken something
            self._tell_room()
        try:
            self._cut_frames(stream_id, data, end_stream=end_stream)
        except RemoteProtocolError as exc:
            self._refuse(exc)
        except LocalProtocolError as exc:
            # An answer of ours that cannot be encoded: a bug, and yet no peer may end the node by finding it.
            logger.exception("no answer to %s", self._label())
            self.close(ErrorCode.INTERNAL_ERROR, type(exc).__name__)

    def _cut_frames(self, stream_id: int, data: bytes, *, end_stream: bool) -> None:
        decoder = self._decoders.get(stream_id)
        if decoder is None:
            if len(self._decoders) >= STREAMS_MAX:
                raise RemoteProtocolError(f"more than {STREAMS_MAX} streams", code=ErrorCode.LIMIT_EXCEEDED)
            decoder = self._decoders[stream_id] = FrameDecoder(payload_max=self._payload_max(stream_id))
        decoder.receive_data(data)
        frames = 0
        while (frame := decoder.next_frame()) is not None:
            frames += 1
            self._frame_received(stream_id, frame)
            if self.is_closed:
                return
            decoder.payload_max = self._payload_max(stream_id)
        self._endure(frames, len(data))
        if end_stream:
            decoder.end()
            del self._decoders[stream_id]
            if stream_id == CONTROL_STREAM and self.verified:
                self._peer_left(ErrorCode.NORMAL, "")

    def _endure(self, frames: int, size: int) -> None:
        """Bound what one peer brings in a while, and what it leaves unfinished."""
        self._connection.worked(frames)
        budget, now = self._budget, self._heard_at
        if not (budget.frames.take(frames, now) and budget.bytes.take(size, now)):
            raise RemoteProtocolError("more in a second than anybody may send", code=ErrorCode.LIMIT_EXCEEDED)
        if sum(decoder.buffered for decoder in self._decoders.values()) > BUFFERED_BYTES_MAX:
            raise RemoteProtocolError("too many unfinished frames", code=ErrorCode.LIMIT_EXCEEDED)

    def stream_reset(self, stream_id: int) -> None:
        """Without its control stream a link is nothing."""
        self._decoders.pop(stream_id, None)
        if stream_id == CONTROL_STREAM:
            self.close(ErrorCode.UNEXPECTED_MESSAGE, "the control stream was reset")

    def moved(self, old: Address, new: Address) -> None:
        """The peer has another address, or is seen at another one; the link goes on."""
        if self._state is LinkState.LIVE and not self.is_probe:
            self._context.counters.migrated += 1
            before, endpoint = format_endpoint(old), format_endpoint(new)
            self._context.events.emit("link.migrated", peer=_hex(self.node_id), before=before, endpoint=endpoint)

    def connection_lost(self, reason: CloseReason, detail: str) -> None:
        """Tell everybody who waits."""
        was_live = self._peer is not None
        self._state = LinkState.CLOSED
        if self._error is None:
            text = f"{self._label()}: {reason.value}" + (f" ({detail})" if detail else "")
            code = ErrorCode.UNTRUSTED if reason is CloseReason.UNTRUSTED else _code(detail)
            self._error = self._farewell(code, text)
        for pending in self._pending.values():
            pending.resolve(PeerUnavailable(str(self._error)))
        self._decoders.clear()
        self._settled.set()
        self._room.set()
        callbacks, self._close_callbacks = self._close_callbacks, {}
        for callback in callbacks:
            callback()
        if reason is CloseReason.FAILED and self._connection.binding:  # before, the address may be forged
            self._context.offended(self)
        if was_live:
            if not self.is_probe:
                self._context.events.emit("link.closed", peer=_hex(self.node_id), reason=str(self._error))
            self._context.closed(self)

    # -- inside --------------------------------------------------------------------------------------------------

    def _label(self) -> str:
        at = format_endpoint(self.peer_address)
        return f"node {self.node_id.short} at {at}" if self.node_id else f"peer at {at}"

    def _payload_max(self, stream_id: int) -> int:
        """Before the proof one small frame on the control stream is all that a peer may send."""
        if self._state is LinkState.LIVE or self._context.party.trust.kind == "unverified":
            return MAX_PAYLOAD
        if stream_id != CONTROL_STREAM:
            raise RemoteProtocolError("a second stream before the proof", code=ErrorCode.PROOF_REQUIRED)
        return HANDSHAKE_PAYLOAD_BYTES_MAX

    def _frame_received(self, stream_id: int, frame: Frame) -> None:
        message = None if frame.body is None else decode_message(frame)
        if message is None:
            self._context.counters.unknown_type += 1
            self._endure_noise()
            if self._state is not LinkState.LIVE:
                raise RemoteProtocolError("an unknown message before the proof", code=ErrorCode.PROOF_REQUIRED)
            return
        self._context.counters.received[MessageType(frame.type).name] += 1
        if isinstance(message, wire.Disconnect):
            self._peer_left(_code(message.reason), message.message)
        elif self._state is LinkState.CONNECTING:
            self._first_message(stream_id, message)
        else:
            self._dispatch(stream_id, message)

    def _first_message(self, stream_id: int, message: Message) -> None:
        party, binding = self._context.party, self._connection.binding
        unverified = party.trust.kind == "unverified"
        try:
            if self.is_dialed:
                if not isinstance(message, wire.Pong):
                    raise RemoteProtocolError("expected PONG first", code=ErrorCode.UNEXPECTED_MESSAGE)
                now_ms = self._context.wall_clock_ms()
                remote = accept_pong(party, message, binding=binding, peer=self._expected, now_ms=now_ms)
                self._context.admit(remote)
                self._become_live(remote)
                self._hear_observed(message)
            elif isinstance(message, wire.Connect):
                self._become_live(self._accept(stream_id, message))
            elif unverified:
                self._become_live(ANONYMOUS)
                self._dispatch(stream_id, message)
            else:
                raise RemoteProtocolError("expected CONNECT first", code=ErrorCode.PROOF_REQUIRED)
        except (TrustError, RemoteProtocolError) as exc:
            self._refuse(exc)

    def _accept(self, stream_id: int, connect: wire.Connect) -> RemoteParty:
        party, binding = self._context.party, self._connection.binding
        now = self._context.wall_clock_ms()
        remote = accept_connect(party, connect, binding=binding, now_ms=now)
        self._context.admit(remote)
        self._told_address = seen_at = self._connection.seen_at
        pong = make_pong(party, binding=binding, peer=remote, timestamp=now, server_time=now, observed=seen_at)
        self._write(stream_id, pong)
        return remote

    def _late_connect(self, stream_id: int, connect: wire.Connect) -> None:
        """A v0.8 peer may say other things first, and still wants its PONG; it stays the stranger that it was."""
        if self.verified or self.is_dialed:
            raise RemoteProtocolError("a second CONNECT", code=ErrorCode.UNEXPECTED_MESSAGE)
        try:
            self._accept(stream_id, connect)
        except TrustError as exc:
            self._refuse(exc)

    def _become_live(self, peer: RemoteParty) -> None:
        if self.is_closed:
            return  # by our PONG, if the peer has refused the stream: nobody would tell us of the end once more
        self._peer = peer
        self._state = LinkState.LIVE
        self._connection.proven()
        self._settled.set()
        if not self.is_probe:
            self._context.events.emit(
                "link.opened",
                peer=_hex(self.node_id),
                endpoint=self.endpoint,
                dialed=self.is_dialed,
                verified=self.verified,
            )
        if peer.clock_differs and peer.clock_ahead_ms is not None:
            address, seconds = format_endpoint(self.peer_address), round(peer.clock_ahead_ms / 1000)
            self._context.events.emit("clock.differs", peer=_hex(self.node_id), address=address, ahead_s=seconds)
        self._context.opened(self)

    def _dispatch(self, stream_id: int, message: Message) -> None:
        if isinstance(message, _PROBES) and not self._budget.pings.take(1, self._heard_at):
            self._context.counters.excess += 1
            return
        if isinstance(message, wire.Pong) and message.timestamp < 0:
            self._probe_answered(message.timestamp)
            self._hear_observed(message)
            return
        if is_reply(message) or may_be_reply(message):
            pending = self._pending_for(stream_id, message)
            if pending is not None and pending.outcome is None:
                pending.resolve(message)
                return
            if is_reply(message):
                self._context.counters.unexpected += 1  # late, or nobody asked
                return
        if isinstance(message, wire.Ping):
            pong = wire.Pong(timestamp=message.timestamp, server_time=self._context.wall_clock_ms())
            self._write(self._reply_stream(stream_id), pong)
            return
        if isinstance(message, wire.Connect):
            self._late_connect(stream_id, message)
            return
        handler = self._context.handlers.get(type(message))
        if handler is None:
            self._context.counters.unhandled += 1
            self._endure_noise()
            return
        reply_stream = self._reply_stream(stream_id)
        handler(self if reply_stream == CONTROL_STREAM else OneStream(self, reply_stream), message)

    def _pending_for(self, stream_id: int, reply: Message) -> _Pending | None:
        """Who waits for a reply: by what question and answer share, or by their stream, as v0.8 sends nothing back."""
        key = correlation_of(reply)
        if key is not None and key[1] is None and not self.verified:
            waiting = (p for p in self._pending.values() if p.stream_id == stream_id and p.reply_type is type(reply))
            return next(waiting, None)
        return None if key is None else self._pending.get(key)

    def _endure_noise(self) -> None:
        if not self._budget.noise.take(1, self._heard_at):
            raise RemoteProtocolError("too many frames that are not for us", code=ErrorCode.LIMIT_EXCEEDED)

    def _reply_stream(self, stream_id: int) -> int:
        """Proven peers listen on the control stream; a v0.8 peer on the stream that it asked on."""
        return CONTROL_STREAM if self.verified else stream_id

    def _peer_left(self, code: ErrorCode | None, message: str) -> None:
        text = f"{self._label()} said goodbye: {clip(message) or (code.value if code else 'no reason')}"
        self._error = self._farewell(code, text)
        self._note_conflict(code)
        self._peer_is_leaving = code is ErrorCode.CLOSING
        self._connection.close(ErrorCode.NORMAL)

    def _farewell(self, code: ErrorCode | None, text: str) -> MeshError:
        """What the peer's reason for ending a link is to us."""
        # Anybody could say so who sits at the address of our bootstrap node for a moment, and we would never ask again.
        if code is ErrorCode.OWN_IDENTITY and self._context.is_self(self._connection.binding):
            return OwnIdentity(text)
        kind = _TRUST_REFUSALS.get(code)
        return PeerUnavailable(text) if kind is None else kind(text, code=code)

    def _refuse(self, error: TrustError | RemoteProtocolError) -> None:
        code = error.code
        if code is ErrorCode.OWN_IDENTITY:
            self._context.note_self(self._connection.binding)
        self._context.counters.refused[code.value] += 1
        self._note_conflict(code)
        self._context.events.emit(
            "link.refused", address=format_endpoint(self.peer_address), peer=_hex(self.node_id), reason=clip(str(error))
        )
        self._error = type(error)(f"{self._label()}: {error}", code=code) if isinstance(error, TrustError) else error
        self.close(code, str(error))
        if isinstance(error, RemoteProtocolError) or code is ErrorCode.BAD_PROOF:
            self._context.offended(self)

    def _note_conflict(self, code: ErrorCode | None) -> None:
        """One key is used by two nodes at once: an event for those who run them, and no fight."""
        if code is ErrorCode.IDENTITY_CONFLICT:
            self._context.events.emit("identity_conflict", address=format_endpoint(self.peer_address))

    def _require_live(self) -> None:
        if self._state is not LinkState.LIVE:
            raise NotSent(str(self._error or f"{self._label()}: not connected yet"))

    def send_on(self, stream_id: int, message: Message) -> None:
        """Put one message on a stream.

        Raises:
          NotSent: the link is not live.
        """
        self._require_live()
        self._write(stream_id, message)

    def _write(self, stream_id: int, message: Message) -> None:
        self._write_frame(stream_id, encode_message(message))

    def _write_frame(self, stream_id: int, frame: bytes) -> None:
        self._context.counters.sent[MessageType(frame[1]).name] += 1  # the second byte of a frame is its type
        self._connection.write(stream_id, frame)
        self._backlog.wrote(len(frame))
        if self._state is LinkState.LIVE and self.verified:
            self._watch_backlog()

    def _watch_backlog(self) -> None:
        """Learn by a PING behind what was written how much the peer has taken; give up on one that takes nothing."""
        if self._backlog.is_hopeless:
            self._state = LinkState.CLOSED  # no DISCONNECT: it would only lie behind the rest
            self._error = PeerUnavailable(f"{self._label()} has not taken {self._backlog.size} bytes")
            self._connection.close(ErrorCode.LIMIT_EXCEEDED, error_code=_QUIC_REFUSED)
        elif (probe := self._backlog.next_probe()) is not None:
            self._write(CONTROL_STREAM, wire.Ping(timestamp=probe))

    def _probe_answered(self, timestamp: int) -> None:
        if self._backlog.answered(timestamp):
            self._tell_room()
            self._watch_backlog()

    def _tell_room(self) -> None:
        self._room.set()
        self._room = trio.Event()


def _code(text: str) -> ErrorCode | None:
    try:
        return ErrorCode(text)
    except ValueError:
        return None


def _hex(node_id: NodeId | None) -> str | None:
    return None if node_id is None else node_id.hex()


def _conforms(link: QuicLink, view: LinkView) -> tuple[Link, Link]:
    return link, view  # mypy proves that both are `macula_trio.abc.Link`

"""A link that carries frames without QUIC or TLS below; what it keeps of the real one is told in ``frames.py``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from math import inf
from typing import Any, Final, Self

import attrs
import trio

from macula_trio._events import EventBus
from macula_trio._ids import NodeId
from macula_trio._peer.asks import ASKS_MAX
from macula_trio._peer.handshake import LocalParty
from macula_trio._peer.link import LinkState
from macula_trio._peer.window import BACKLOG_BYTES_MAX
from macula_trio._util import clip, numeric_endpoint
from macula_trio._wire import messages as wire
from macula_trio._wire.codec import decode_frame, encode_message
from macula_trio._wire.correlation import REPLIES, correlation_of, may_be_reply
from macula_trio.abc import Link, Message, MessageHandler, ReplyT
from macula_trio.errors import (
    ErrorCode,
    LocalProtocolError,
    MeshError,
    NotSent,
    PeerUnavailable,
    RemoteProtocolError,
    TrustError,
)
from macula_trio.testing._frame_handshake import (
    CONNECT_BYTES,
    FLIGHT_BYTES,
    HELLO_BYTES,
    PONG_BYTES,
    Introduction,
    Step,
    judge,
    judge_policy,
)
from macula_trio.testing._frame_pending import Pending
from macula_trio.testing._frame_streams import WINDOW_BYTES, Paths, Stream, StreamEnd

logger = logging.getLogger("macula_trio.testing.frames")

_PROBE: Final = -1  # timestamp of the PING that asks a silent peer for a sign of life; callers count from 0 up
_REPLY_TYPES: Final = frozenset(REPLIES)


@attrs.define(eq=False, kw_only=True)
class FrameContext:
    """What all links of a node share.

    Attributes:
      party: what we say of ourselves.
      host: name of the machine.
      address: where it can be dialed, whatever ``party`` says.
      idle_timeout_s: of silence, after which a link ends without a word.
      keepalive_s: of silence, after which a peer that something depends on is asked for a sign of life.
      opened: called when a link becomes live.
      closed: called when a link has ended; told whether it was live.
      unexpected: replies that came late, or that nobody asked for.
      unhandled: messages that are not for us.
    """

    party: LocalParty
    host: str
    address: str
    paths: Paths
    events: EventBus
    handlers: Mapping[type[Message], MessageHandler[Any]]
    wall_clock_ms: Callable[[], int]
    dial_deadline_s: float
    idle_timeout_s: float
    keepalive_s: float
    opened: Callable[[FrameLink], None]
    closed: Callable[[FrameLink, bool], None]
    unexpected: int = 0
    unhandled: int = 0


class FrameLink:
    """`macula_trio.abc.Link` over two `Stream`s; made by `macula_trio.testing.frames.FrameTransport`.

    Args:
      context: shared by the links of a node.
      peer_host: name of the peer's machine.
      peer_address: where it can be dialed.
      find_peer: finds the other half, given this one.
      is_dialed: whether we dial.
      expected: whom we dial for; None when only the address is known.

    Attributes:
      heard_at: when the peer last gave a sign of life.
      settled: set when it is live or has ended.
      was_live: whether it ever was.
      error: why it has ended.
    """

    def __init__(
        self,
        context: FrameContext,
        *,
        peer_host: str,
        peer_address: str,
        find_peer: Callable[[FrameLink], StreamEnd | None],
        is_dialed: bool,
        expected: NodeId | None = None,
    ) -> None:
        now = trio.current_time()
        self._context = context
        self._out = Stream(context.paths, context.host, peer_host, sender=self, find_receiver=lambda: find_peer(self))
        self.peer_address = peer_address
        self.is_dialed = is_dialed
        self.expected = expected
        self._state = LinkState.CONNECTING
        self.is_gone: bool = False  # closed, or its machine is dead
        self.settled: trio.Event = trio.Event()  # live or closed
        self.error: MeshError | None = None
        self.was_live: bool = False
        # What the peer says of itself; all of it proven, since nobody can lie here.
        self.node_id: NodeId | None = None
        self.instance: bytes | None = None
        self.endpoint: str | None = None
        self.capabilities: frozenset[str] = frozenset()
        self.peer_is_leaving: bool = False
        self._pending: dict[tuple[str, object], Pending] = {}
        self._close_callbacks: dict[Callable[[], None], None] = {}
        self.heard_at = now
        self._sent_at = -inf  # the first packet since then
        self._probed_at = -inf
        self._watch(now)

    # -- what others see ----------------------------------------------------------------------------------------

    @property
    def verified(self) -> bool:
        """True once the peer has said who it is."""
        return self.node_id is not None

    @property
    def dialed_endpoint(self) -> str | None:
        """Where we dialed it; None when the peer dialed us."""
        return self.endpoint if self.is_dialed else None

    @property
    def whole(self) -> Self:
        """Itself: nothing here has streams."""
        return self

    @property
    def proven_endpoint(self) -> str | None:
        """The announced endpoint when it is where the peer really is."""
        return self.endpoint if self.endpoint == self.peer_address else None

    @property
    def peer_host(self) -> str:
        """Where the peer really is, without a port."""
        return numeric_endpoint(self.peer_address)[0]

    @property
    def is_closed(self) -> bool:
        """Whether it has ended."""
        return self._state is LinkState.CLOSED

    def send_nowait(self, message: Message) -> None:
        """Put one message on the way."""
        if self._state is not LinkState.LIVE:
            raise NotSent(str(self.error or f"{self._label()}: not connected yet"))
        self._write(message)

    @property
    def is_congested(self) -> bool:
        """Whether more than 1 MiB is on its way."""
        return self._out.is_full

    async def wait_writable(self) -> None:
        """Wait until less than 1 MiB is on its way."""
        await trio.lowlevel.checkpoint()
        await self._out.wait_room()

    async def ask(self, request: Message, reply_type: type[ReplyT]) -> ReplyT:
        """Send a request and wait for its reply."""
        key = correlation_of(request)
        assert key is not None, "not a request"
        assert key[1] is not None, "a request needs something to tell its reply by"
        assert key not in self._pending, "correlation used twice"
        if len(self._pending) >= ASKS_MAX:
            raise NotSent(f"{self._label()}: {ASKS_MAX} requests are waiting for their answers already")
        await trio.lowlevel.checkpoint_if_cancelled()  # it yields below in any case
        if self._out.bytes_under_way > WINDOW_BYTES:
            await self._out.wait_room()
        pending = self._pending[key] = Pending()
        try:
            self.send_nowait(request)
            await pending.wait()
        finally:
            del self._pending[key]
        if isinstance(pending.outcome, reply_type):
            return pending.outcome
        if isinstance(pending.outcome, MeshError):
            raise pending.outcome
        raise RemoteProtocolError(
            f"{self._label()} answered by {type(pending.outcome).__name__}", code=ErrorCode.UNEXPECTED_MESSAGE
        )

    def add_close_callback(self, callback: Callable[[], None]) -> None:
        """Call back once at the end."""
        if self.is_closed:
            callback()
        else:
            self._close_callbacks[callback] = None

    def remove_close_callback(self, callback: Callable[[], None]) -> None:
        """Forget a callback."""
        self._close_callbacks.pop(callback, None)

    # -- what its node does ---------------------------------------------------------------------------------------

    def dial(self) -> None:
        """Begin the handshake."""
        self._put(Step.HELLO, HELLO_BYTES)
        deadline = trio.current_time() + self._context.dial_deadline_s
        self._context.paths.at(deadline, FrameLink._dial_expired, self)

    def close(self, code: ErrorCode = ErrorCode.NORMAL, message: str = "") -> None:
        """Say DISCONNECT and end."""
        if self.is_gone:
            return
        if self._out.is_answered:
            farewell = encode_message(wire.Disconnect(reason=code.value, message=clip(message)))
            self._put(farewell, len(farewell))
        self.end(self.error or PeerUnavailable(f"{self._label()}: link was closed: {message or code.value}"))

    def end(self, error: MeshError) -> None:
        """End without a word, and tell everybody who waits."""
        if self.is_gone:
            return
        self.error = error
        self._state = LinkState.CLOSED
        self.is_gone = True
        self._out.stop()
        for pending in self._pending.values():
            pending.resolve(PeerUnavailable(str(error)))
        self.settled.set()
        callbacks, self._close_callbacks = self._close_callbacks, {}
        for callback in callbacks:
            callback()
        if self.was_live:
            self._context.events.emit("link.closed", peer=_hex(self.node_id), reason=str(error))
        self._context.closed(self, self.was_live)

    def crash(self) -> None:
        """Our machine is dead: nothing goes out or comes in any more, and whoever waits simply waits on."""
        self.is_gone = True

    # -- the end of two streams -------------------------------------------------------------------------------------

    def given_up(self) -> None:
        """A packet was lost again and again."""
        self.end(PeerUnavailable(f"{self._label()}: a packet was lost too often"))

    def take(self, content: Any) -> None:
        """Act on a frame or a part of the handshake."""
        if type(content) is not bytes:
            self._shake_hands(content)
            return
        try:
            self._dispatch(wire.from_body(*decode_frame(content)))
        except RemoteProtocolError as exc:  # it can be encoded, and yet no peer may send it
            self.error = exc
            self.close(exc.code, str(exc))
        except LocalProtocolError as exc:  # an answer of ours that cannot be encoded
            logger.exception("no answer to %s", self._label())
            self.close(ErrorCode.INTERNAL_ERROR, type(exc).__name__)

    # -- inside --------------------------------------------------------------------------------------------------

    def _label(self) -> str:
        return f"node {self.node_id.short} at {self.peer_address}" if self.node_id else f"peer at {self.peer_address}"

    def _write(self, message: Message) -> None:
        frame = encode_message(message)
        self._put(frame, len(frame))
        if self._out.bytes_under_way > BACKLOG_BYTES_MAX:
            self.end(PeerUnavailable(f"{self._label()} has not taken {self._out.bytes_under_way} bytes"))

    def _put(self, content: Any, size: int) -> None:
        if self.is_gone:
            return  # of a dead machine, whose tasks do not know it yet
        if self._sent_at < self.heard_at:
            self._sent_at = self._context.paths.now()
        self._out.put(content, size)

    def _dispatch(self, message: Message) -> None:
        kind = type(message)
        if kind in _REPLY_TYPES:
            if isinstance(message, wire.Pong) and message.timestamp == _PROBE:
                return
            if not self._resolve(message):
                self._context.unexpected += 1
        elif may_be_reply(message) and self._resolve(message):
            pass
        elif isinstance(message, wire.Ping):
            self._write(wire.Pong(timestamp=message.timestamp, server_time=self._context.wall_clock_ms()))
        elif isinstance(message, wire.Disconnect):
            self._peer_left(message)
        else:
            handler = self._context.handlers.get(kind)
            if handler is None:
                self._context.unhandled += 1
            else:
                handler(self, message)

    def _resolve(self, reply: Message) -> bool:
        key = correlation_of(reply)
        pending = None if key is None else self._pending.get(key)
        if pending is None or pending.outcome is not None:
            return False
        pending.resolve(reply)
        return True

    def _peer_left(self, farewell: wire.Disconnect) -> None:
        self.peer_is_leaving = farewell.reason == ErrorCode.CLOSING.value
        self.end(PeerUnavailable(f"{self._label()} said goodbye: {farewell.message or farewell.reason}"))

    # -- the handshake -----------------------------------------------------------------------------------------------

    def _shake_hands(self, content: Any) -> None:
        """TLS, then CONNECT and PONG: two round trips, in order, of which the second decides."""
        party = self._context.party
        match content:
            case Step.HELLO:
                self._put(Step.FLIGHT, FLIGHT_BYTES)
            case Step.FLIGHT:
                self._put(Introduction(party, self.expected), CONNECT_BYTES)
            case Introduction(dialer, expected):
                refusal = judge(party, dialer, expected, self._context.wall_clock_ms())
                if refusal is None:
                    self._put(party, PONG_BYTES)
                    self._become_live(dialer)
                else:
                    self._refuse(refusal)
            case LocalParty():
                refusal = judge_policy(party, content, "listener", self._context.wall_clock_ms())
                if refusal is None:
                    self._become_live(content)
                else:
                    self._refuse(refusal)
            case TrustError():
                self.end(type(content)(f"{self._label()} said goodbye: {content}"))

    def _refuse(self, refusal: TrustError) -> None:
        reason = clip(str(refusal))
        self._context.events.emit("link.refused", address=self.peer_address, peer=None, reason=reason)
        farewell = wire.Disconnect(reason=refusal.code.value, message=reason)
        self._put(refusal, len(encode_message(farewell)))
        self.end(refusal)

    def _become_live(self, peer: LocalParty) -> None:
        self.node_id = peer.credentials.node_id
        self.instance = peer.instance
        self.capabilities = frozenset(peer.capabilities)
        self.endpoint = peer.endpoint
        self._state = LinkState.LIVE
        self.was_live = True
        self.settled.set()
        self._context.events.emit(
            "link.opened", peer=_hex(self.node_id), endpoint=self.endpoint, dialed=self.is_dialed, verified=True
        )
        self._context.opened(self)

    def _dial_expired(self) -> None:
        if not self.settled.is_set():
            seconds = self._context.dial_deadline_s
            self.error = PeerUnavailable(f"nobody answered at {self.peer_address} within {seconds:g} s")
            self.close(ErrorCode.HANDSHAKE_TIMEOUT, "gave up waiting")

    # -- silence -----------------------------------------------------------------------------------------------------

    def _watch(self, now: float) -> None:
        context = self._context
        doubtful_at = max(self.heard_at + context.keepalive_s, now + context.keepalive_s / 2)
        context.paths.at(min(self._idle_at, doubtful_at), FrameLink._look, self)

    @property
    def _idle_at(self) -> float:
        """RFC 9000, section 10.1: what was heard counts, and the first packet that was sent since then."""
        return max(self.heard_at, self._sent_at) + self._context.idle_timeout_s

    def _look(self) -> None:
        """End a link that is silent for too long; before, if something depends on it, ask for a sign of life."""
        if self.is_gone:
            return
        now, keepalive_s = trio.current_time(), self._context.keepalive_s
        if now >= self._idle_at:
            self.end(PeerUnavailable(f"{self._label()}: silent for {now - self.heard_at:.1f} s"))
        elif self._state is LinkState.LIVE and now - self.heard_at >= keepalive_s:
            if self._probed_at < self.heard_at:
                if self._pending or self._close_callbacks:
                    self._probed_at = now
                    self._write(wire.Ping(timestamp=_PROBE))
            elif now - self._probed_at >= keepalive_s:
                self.close(ErrorCode.SILENT, f"silent for {now - self.heard_at:.1f} s")
        if not self.is_gone:
            self._watch(now)


def _hex(node_id: NodeId | None) -> str | None:
    return None if node_id is None else node_id.hex()


def _conforms(link: FrameLink) -> Link:
    return link  # mypy proves it

"""A link: one live relationship with one peer over one connection (DESIGN sections 5 to 7).

Frames travel on one long-lived control stream.  Nothing that a peer says is looked at before it has proven who
it is, save under `Trust.unverified`.  Everything runs in the pump's callbacks or in the caller's task: a link has
no task of its own.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable, Iterable
from math import inf
from typing import Final, Self

import trio

from macula_trio._ids import NodeId
from macula_trio._net.quic import CONTROL_STREAM, CloseReason, Connection
from macula_trio._peer import told
from macula_trio._peer.asks import Asks, Pending
from macula_trio._peer.budget import LinkBudget
from macula_trio._peer.context import LinkContext
from macula_trio._peer.ending import Ending, Step
from macula_trio._peer.facts import PeerFacts
from macula_trio._peer.farewell import code_of, error_of
from macula_trio._peer.handshake import ANONYMOUS, HANDSHAKE_PAYLOAD_BYTES_MAX, RemoteParty, judge_again
from macula_trio._peer.inbox import BUFFERED_BYTES_MAX, Inbox
from macula_trio._peer.introduction import UNASKED, Introduction
from macula_trio._peer.liveness import Liveness, Verdict
from macula_trio._peer.observed import read_observed
from macula_trio._peer.succession import Succession
from macula_trio._peer.views import LinkView, OneStream
from macula_trio._peer.window import BACKLOG_BYTES_MAX, WINDOW_BYTES, ReceiveWindow, SendWindow
from macula_trio._util import Address, clip
from macula_trio._wire import messages as wire
from macula_trio._wire.codec import decode_message, encode_message
from macula_trio._wire.correlation import correlation_of, is_reply, may_be_reply
from macula_trio._wire.frame import MAX_PAYLOAD, Frame, MessageType
from macula_trio.abc import Link, Message, ReplyT
from macula_trio.errors import (
    ErrorCode,
    LocalProtocolError,
    MeshError,
    NotSent,
    OwnIdentity,
    PeerUnavailable,
    RemoteProtocolError,
    TrustError,
)

logger = logging.getLogger("macula_trio.link")

V08_STREAMS_MAX: Final = 100  # of one connection, which a v0.8 peer then ends
UNVERIFIED_STREAMS_MAX: Final = 45  # messages on a connection that we dialed to such a peer: a CALL may need a CANCEL
LINK_CREDIT: Final = "link"  # scope of a CREDIT that is about all of a link
ENDING_GRACE_S: Final = 0.1  # before a link says its last: who was given it a moment ago may still ask on it
ENDING_MAX_S: Final = 60.0  # for a backlog to be read; a peer that lives and never ends its side must not hold us up
DIALER_KEEPALIVE_SHARE: Final = 0.95  # who dialed asks first, and the other one, who hears it, need not

_PROBES: Final = (wire.Ping, wire.SwimPing, wire.SwimPingReq, wire.SwimAck)  # signs of life share one allowance
_FAREWELLS: Final = (ErrorCode.NORMAL, ErrorCode.CLOSING)
_QUIC_REFUSED: Final = 1  # QUIC application error code of every close that is not a farewell
_SIGNS_OF_LIFE: Final = frozenset((MessageType.PING, MessageType.PONG, MessageType.CREDIT))  # keep no link in use
_EXEMPT: Final = _SIGNS_OF_LIFE | {MessageType.CANCEL, MessageType.DISCONNECT}  # from credit (DESIGN section 6)
# In the count of ends, where nothing else is known of it; ``idle`` is what nobody has used for long.
_END_REASONS: Final = {CloseReason.IDLE: "silent", CloseReason.CLOSED_BY_PEER: "closed_by_peer"}


class LinkState(enum.Enum):
    """Where a link is in its life; only ever moves down this list."""

    CONNECTING = "connecting"  # TLS, or waiting for the peer's CONNECT or PONG
    LIVE = "live"
    CLOSED = "closed"


class QuicLink(PeerFacts):
    """`macula_trio.abc.Link` over one QUIC connection; also that connection's handler.

    Args:
      context: shared by the links of a node.
      connection: just dialed or accepted.
      expected: whom we dial for; None when only the address is known, or when the peer dialed us.
      replaces: `link_id` of the link in whose place we dial this one.
      is_passing: we dial it for one thing, and close it then; the peer is told.
      is_afresh: the link in whose place we dial this one has ended here; the peer, who may not know, is told.

    Attributes:
      is_passing: as above.
      succession: its place among the links to its peer.
    """

    def __init__(
        self,
        context: LinkContext,
        connection: Connection,
        *,
        expected: NodeId | None = None,
        replaces: bytes | None = None,
        is_passing: bool = False,
        is_afresh: bool = False,
    ) -> None:
        now = trio.current_time()
        self._context = context
        self._connection = connection
        self._replaces = replaces
        self._is_afresh = is_afresh
        self._introduction = Introduction(
            context, connection, expected=expected, replaces=replaces, is_passing=is_passing, is_afresh=is_afresh
        )
        self._state = LinkState.CONNECTING
        self._settled = trio.Event()  # live or closed
        self._error: MeshError | None = None
        self._end_reason: str | None = None  # for the count of ends, when QUIC's reason does not say it
        self._peer: RemoteParty | None = None
        self._inbox = Inbox(self._payload_max)
        self._has_control = connection.is_dialed  # the stream is the dialer's to open; before that nobody can write
        self._asks = Asks()
        self._close_callbacks: dict[Callable[[], None], None] = {}
        self._peer_is_leaving = self._was_lost = False
        self._sent = SendWindow()
        self._taken = ReceiveWindow()
        self._room = trio.Event()  # some of it was taken
        self._budget = LinkBudget()
        self._liveness = Liveness(context.keepalive_s * (DIALER_KEEPALIVE_SHARE if self.is_dialed else 1.0), now)
        self._unsent_then = 0  # when it was looked at last
        self._used_at = now
        self._reserved = 0
        self._ending = Ending()
        self._ending_since = inf
        self.succession: Succession = Succession()
        self.is_passing: bool = is_passing

    # -- what others see ----------------------------------------------------------------------------------------

    @property
    def is_probe(self) -> bool:
        """Whether we are the peer ourselves, asking how we are: nothing that concerns the mesh."""
        return self.verified and self.node_id == self._context.party.judge.probe

    @property
    def is_introduced(self) -> bool:
        """Whether our CONNECT has left, so that the peer may take the link at any moment."""
        return self._introduction.made_at is not None

    @property
    def whole(self) -> Self:
        """Itself; see `OneStream`."""
        return self

    @property
    def heir(self) -> QuicLink:
        """The link on which what is new goes: itself, or the one that has come into its place."""
        link: QuicLink = self
        while link.succession.successor is not None:
            link = link.succession.successor
        return link

    @property
    def is_closed(self) -> bool:
        """Whether it has ended, and no other one is in its place."""
        return self.heir._state is LinkState.CLOSED

    @property
    def is_ending(self) -> bool:
        """Whether one of the two sides says nothing new on it any more."""
        return self._ending.is_under_way

    @property
    def ending_since(self) -> float:
        """When we began to end it, on Trio's clock; `inf` before."""
        return self._ending_since

    @property
    def peer_has_finished(self) -> bool:
        """Whether the peer says nothing new on it any more."""
        return self._ending.peer_has_finished

    @property
    def may_bring_more(self) -> bool:
        """Whether something may come yet, or has come and waits, that the peer has sent on it."""
        if self._state is LinkState.CONNECTING:
            return self.is_introduced  # the peer may have taken it already, and its PONG be on the way
        return self._state is LinkState.LIVE and (not self._ending.peer_has_finished or self.succession.has_queued)

    @property
    def is_congested(self) -> bool:
        """Whether more than 1 MiB is on its way.

        Who proves nothing may be v0.8, which knows no CREDIT; of such a peer we know only what has left.
        """
        link = self.heir
        return link._connection.unsent_bytes > WINDOW_BYTES or link._sent.is_congested

    @property
    def is_busy(self) -> bool:
        """Whether something is under way that would be lost with it."""
        return bool(self._asks or self._close_callbacks or self._connection.unsent_bytes)

    @property
    def works_for_peer(self) -> bool:
        """Whether something runs here that the peer waits for, or that ends with the link."""
        return bool(self._close_callbacks)

    @property
    def is_worn(self) -> bool:
        """Whether its connection has done so much that another one should take over."""
        return self._connection.is_worn

    @property
    def peer_is_leaving(self) -> bool:
        """Whether the peer said goodbye to the mesh."""
        return self._peer_is_leaving

    @property
    def is_ended(self) -> bool:
        """Whether this very connection has ended."""
        return self._state is LinkState.CLOSED

    @property
    def was_lost(self) -> bool:
        """Whether it has ended without either side wanting it to."""
        return self._was_lost

    @property
    def end(self) -> str:
        """Why it has ended; empty while it has not."""
        return str(self._error or "")

    @property
    def round_trip_s(self) -> float | None:
        """Smoothed round trip to the peer; None before it was measured."""
        return self._liveness.round_trip_s

    @property
    def used_at(self) -> float:
        """When something else than signs of life went either way last; on Trio's clock."""
        return self._used_at

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

    def note_use(self) -> None:
        """Somebody is about to use it, so it is not idle."""
        self._used_at = trio.current_time()

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

    def add_close_callback(self, callback: Callable[[], None]) -> None:
        """Call back once at the end, which is that of the last link in its place."""
        link = self.heir
        if link._state is LinkState.CLOSED:
            callback()
        else:
            link._close_callbacks[callback] = None

    def remove_close_callback(self, callback: Callable[[], None]) -> None:
        """Forget a callback."""
        link = self.heir
        link._close_callbacks.pop(callback, None)
        link._go_on_ending()

    # -- what goes out ------------------------------------------------------------------------------------------

    @property
    def _stream(self) -> int:
        """For what we say on our own: the control stream; where that will not do, a new one for every frame.

        A v0.8 peer reads a stream whole; and of a link whose control stream has ended, answers still go out.
        """
        if self._state is not LinkState.LIVE:
            return CONTROL_STREAM
        if not (self._ending.has_finished if self.verified else self.is_dialed):
            return CONTROL_STREAM
        stream_id = self._connection.open_stream()
        if not self.verified and stream_id >= 4 * V08_STREAMS_MAX:
            raise NotSent(f"{self._label()} reads no more than {V08_STREAMS_MAX} streams of one connection")
        return stream_id

    def send_nowait(self, message: Message) -> None:
        """Put one message on the way."""
        link = self.heir
        link._require_speech(is_answer=is_reply(message) or may_be_reply(message))
        link.send_on(link._stream, message)

    def send_frame_nowait(self, frame: bytes) -> None:
        """Put one encoded frame on the way.

        Raises:
          PeerUnavailable: the link is not live.
        """
        link = self.heir
        link._require_live()
        link._require_speech(is_answer=False)
        link._write_frame(link._stream, frame)

    def send_on(self, stream_id: int, message: Message) -> None:
        """Put one message on a stream.

        Raises:
          NotSent: the link is not live.
        """
        self._require_live()
        self._write(stream_id, message)

    async def ask(self, request: Message, reply_type: type[ReplyT]) -> ReplyT:
        """Send a request and wait for its reply."""
        key = correlation_of(request)
        assert key is not None, "not a request"
        assert key[1] is not None, "a request needs something to tell its reply by"
        self.heir._asks.require_room(self._label())
        await self.wait_writable()
        link = self.heir
        if link._ending.has_finished:
            raise NotSent(f"{self._label()}: this link is ending")
        stream_id = link._stream
        pending = link._asks.begin(key, reply_type, stream_id)
        try:
            link.send_on(stream_id, request)
            await pending.done.wait()
        finally:
            pending.home.end(key, pending)
            link.heir._go_on_ending()
        if isinstance(pending.outcome, reply_type):
            return pending.outcome
        if isinstance(pending.outcome, MeshError):
            raise pending.outcome
        raise RemoteProtocolError(
            f"{self._label()} answered by {type(pending.outcome).__name__}", code=ErrorCode.UNEXPECTED_MESSAGE
        )

    async def wait_ended(self) -> None:
        """Wait until this very connection has ended, or another link has come into its place."""
        await trio.lowlevel.checkpoint()
        while not self.is_ended and self.heir is self:
            await self._room.wait()

    async def wait_writable(self) -> None:
        """Wait until less than 1 MiB is on its way."""
        await trio.lowlevel.checkpoint()
        while self.is_congested and not self.is_closed:
            await self.heir._room.wait()

    def _require_speech(self, *, is_answer: bool) -> None:
        """Refuse something new behind our last word: nobody would wait for it."""
        if self.verified and self._ending.has_finished and not is_answer:
            raise NotSent(f"{self._label()}: this link is ending")

    def _require_live(self) -> None:
        if self._state is not LinkState.LIVE:
            raise NotSent(str(self._error or f"{self._label()}: not connected yet"))

    def _write(self, stream_id: int, message: Message) -> None:
        self._write_frame(stream_id, encode_message(message))

    def _write_frame(self, stream_id: int, frame: bytes) -> None:
        kind = frame[1]  # the second byte of a frame is its type
        self._context.counters.sent[MessageType(kind).name] += 1
        is_alone = self._ending.has_finished and stream_id != CONTROL_STREAM
        self._connection.write(stream_id, frame, end_stream=is_alone)
        if self._state is not LinkState.LIVE:
            return
        if kind not in _SIGNS_OF_LIFE:
            self._used_at = trio.current_time()
        if kind not in _EXEMPT and self.verified:
            self._sent.wrote(len(frame))
        if self._sent.is_hopeless or self._connection.unsent_bytes > BACKLOG_BYTES_MAX:
            self._give_up_on_reader(max(self._sent.size, self._connection.unsent_bytes))

    def _give_up_on_reader(self, backlog: int) -> None:
        """No DISCONNECT: it would only lie behind the rest."""
        self._state = LinkState.CLOSED
        self._error = PeerUnavailable(f"{self._label()} has not taken {backlog} bytes")
        self._connection.close(ErrorCode.LIMIT_EXCEEDED, error_code=_QUIC_REFUSED)

    def _tell_room(self) -> None:
        self._room.set()
        self._room = trio.Event()

    # -- life ---------------------------------------------------------------------------------------------------

    def look(self, late_s: float, slack_s: float = 0.0) -> float:
        """Do what time demands: signs of life, new judgements, an end to what does not end; returns when to look again.

        Args:
          late_s: by which our timers run late.
          slack_s: by so much earlier than needed a sign of life may be asked for; 0 for no such thing.
        """
        now, now_ms = trio.current_time(), self._context.wall_clock_ms()
        if self.trusted_until_ms <= now_ms:
            self.judge_again(now_ms)
        if self._state is not LinkState.LIVE:
            return inf
        unsent = self._connection.unsent_bytes
        if unsent < self._unsent_then:
            self._liveness.stalled(now)  # our PINGs lie behind what has yet to leave; it moves, so the peer is there
        self._unsent_then = unsent
        self.tell_observed()
        self._go_on_ending()
        if self.is_ended:
            return inf
        if self._ending.has_finished:
            return self._watch_ending(now, late_s)
        depends = self.verified or bool(self._asks or self._close_callbacks)
        verdict = self._liveness.judge(now, late_s, slack_s) if depends else Verdict.FINE
        if verdict is Verdict.PING:
            self.ask_for_life()
        elif verdict is Verdict.GONE:
            self._was_lost = True
            self.close(ErrorCode.SILENT, f"silent for {now - self._liveness.heard_at:.1f} s")
        due = min(now + self._context.keepalive_s, self._liveness.due_at(late_s) if depends else inf)
        if slack_s and not self._liveness.is_waiting:
            due = max(now, due // slack_s * slack_s)  # to wake up once for many costs less than for each
        return min(due, max(now, self._ending_since) + ENDING_GRACE_S) if self._ending.has_begun else due

    def ask_for_life(self) -> None:
        """Send a PING; its answer is told to `LinkContext.alive`, and the lack of it ends the link (`look`)."""
        if self._state is LinkState.LIVE:
            number = self._liveness.pinged(trio.current_time())
            self._write(self._stream, wire.Ping(timestamp=UNASKED - number))

    def _hear_pong(self, pong: wire.Pong) -> None:
        """One that no caller waits for."""
        self._hear_observed(pong)
        if self._liveness.answered(UNASKED - pong.timestamp, trio.current_time()):
            self._context.alive(self)

    def tell_observed(self) -> None:
        """Tell a proven peer that dialed us where we see it, if that has changed under the link."""
        if self._state is LinkState.LIVE and self.verified:
            sighting = self._introduction.sighting()
            if sighting is not None:
                self._write(self._stream, sighting)

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

    # -- an end in order ------------------------------------------------------------------------------------------

    def retreat(self, successor: QuicLink | None, *, reason: str) -> None:
        """Say nothing new here, hear what is under way, then close (`Ending`).

        Args:
          successor: speaks in its place; what waits here for an answer, or for the end, goes over to it.
          reason: for the count of ends.
        """
        if self._state is not LinkState.LIVE or not self.verified or self._ending.has_begun:
            return
        self._end_reason = reason
        self._ending_since = trio.current_time()
        self._ending.begin(is_replaced=successor is not None, is_dialed=self.is_dialed)
        if successor is not None:
            self.succession.successor = successor
            self._asks.move_to(successor._asks)
            successor._close_callbacks |= self._close_callbacks
            self._close_callbacks.clear()
            self._tell_room()
        self._go_on_ending()

    def resume(self) -> bool:
        """Go on as before, if the last was not said yet: the successor has died, or somebody needs this one."""
        if not self._ending.retract():
            return False
        self._end_reason = None
        self._ending_since = inf
        self.succession.successor = None
        return True

    def wait_only_for(self, predecessors: Iterable[QuicLink]) -> None:
        """Act on nothing new that comes here before all that was sent on these has come."""
        self.succession.follow_only(self, [link for link in predecessors if link.may_bring_more])

    def _go_on_ending(self) -> None:
        is_replaced = self.succession.successor is not None
        if not is_replaced and trio.current_time() < self._ending_since + ENDING_GRACE_S:
            return
        while self._state is LinkState.LIVE:
            works, has_queued = bool(self._close_callbacks), self.succession.has_queued
            step = self._ending.next_step(asks=len(self._asks), works=works, has_queued=has_queued)
            if step is Step.FINISH:
                self._connection.write(CONTROL_STREAM, b"", end_stream=True)
                self._ending.has_finished = True
            elif step is Step.CLOSE and self._connection.is_heard(CONTROL_STREAM):
                self._error = PeerUnavailable(f"{self._label()}: link was closed: {self._end_reason}")
                self._connection.close(ErrorCode.NORMAL)
            else:
                break

    def _peer_finished(self) -> None:
        """The peer's control stream has ended: it says nothing new here."""
        self._ending.peer_has_finished = True
        if not self.may_bring_more:
            self._let_followers_go_on()
        if self._state is LinkState.LIVE:
            self._context.ending(self)
        self._go_on_ending()

    def _watch_ending(self, now: float, late_s: float) -> float:
        """The peer may have died meanwhile, or its last word may be lost: it is asked soon, and goes on if it lives."""
        probe_s = self._liveness.probe_s(late_s)
        quiet_until = max(self._ending_since, self._liveness.heard_at) + probe_s
        verdict = self._liveness.judge(now, late_s)
        is_overdue = now >= self._ending_since + ENDING_MAX_S and not self._asks and not self._close_callbacks
        if verdict is Verdict.GONE or is_overdue:
            self.close(ErrorCode.NORMAL, f"no end came for {now - self._ending_since:.1f} s")
            return inf
        if verdict is Verdict.PING or (now >= quiet_until and not self._liveness.is_waiting):
            self.ask_for_life()
        due = self._liveness.due_at(late_s) if self._liveness.is_waiting else quiet_until
        # What both have said may have to be acknowledged yet, which nobody tells us.
        return min(due, now + ENDING_GRACE_S) if self._ending.is_said else due

    def _let_followers_go_on(self) -> None:
        for follower in self.succession.ended(self):
            follower.take_queued()

    def take_queued(self, *, now_or_never: bool = False) -> None:
        """Act on what has come too early and whose turn it is by now."""
        if not self.succession.has_queued:
            return
        try:
            while self._state is LinkState.LIVE and (entry := self.succession.take(now_or_never=now_or_never)):
                self._take(*entry)
        except (RemoteProtocolError, LocalProtocolError) as exc:
            self._broken(exc)
        if self._state is LinkState.LIVE and not self.may_bring_more:
            self._let_followers_go_on()
            self._go_on_ending()

    # -- the end ------------------------------------------------------------------------------------------------

    def close(self, code: ErrorCode = ErrorCode.NORMAL, message: str = "", *, reason: str | None = None) -> None:
        """Say DISCONNECT, flush and close, now.

        Args:
          code: for the peer.
          message: for the peer, and for those who wait here.
          reason: for the count of ends; the code by default.
        """
        if self._state is LinkState.CLOSED:
            return
        self._end_reason = reason or self._end_reason or code.value
        has_something_to_say = self._peer is not None or code is not ErrorCode.NORMAL
        can_say_it = self._connection.binding and self._has_control and not self._ending.has_finished
        if has_something_to_say and can_say_it:
            self._write(CONTROL_STREAM, wire.Disconnect(reason=code.value, message=clip(message)))
        self._error = self._error or PeerUnavailable(f"{self._label()}: link was closed: {message or code.value}")
        self._connection.close(code, error_code=0 if code in _FAREWELLS else _QUIC_REFUSED)

    def end_with_peer(self) -> None:
        """The peer has ended it, and says so on another link: what came before is taken, and nothing more comes."""
        self.take_queued(now_or_never=True)
        self._error = self._error or PeerUnavailable(f"{self._label()}: the peer has ended this link")
        self.close(ErrorCode.NORMAL, reason="closed_by_peer")

    def connection_lost(self, reason: CloseReason, detail: str) -> None:
        """Tell everybody who waits."""
        was_live = self._peer is not None
        self._was_lost |= reason is CloseReason.IDLE
        if reason is CloseReason.CLOSED_BY_PEER:
            self.take_queued(now_or_never=True)  # it was sent before the end
        self._state = LinkState.CLOSED
        if self._error is None:
            text = f"{self._label()}: {reason.value}" + (f" ({detail})" if detail else "")
            code = ErrorCode.UNTRUSTED if reason is CloseReason.UNTRUSTED else code_of(detail)
            self._error = self._farewell(code, text)
        self._asks.fail(str(self._error))
        self._inbox.clear()
        self.succession.clear()
        self._settled.set()
        self._room.set()
        callbacks, self._close_callbacks = self._close_callbacks, {}
        for callback in callbacks:
            callback()
        if reason is CloseReason.FAILED and self._connection.binding:  # before, the address may be forged
            self._context.offended(self)
        if was_live:
            told.tell_closed(self._context, self, self._end_reason or _END_REASONS.get(reason, reason.name.lower()))
            self._context.closed(self)
        self.succession.follow_only(self, ())
        self._let_followers_go_on()

    # -- the connection's handler --------------------------------------------------------------------------------

    def handshake_completed(self) -> None:
        """TLS is through: the dialer introduces itself."""
        if self.is_dialed:
            self._write(CONTROL_STREAM, self._introduction.connect())

    def stream_data_received(self, stream_id: int, data: bytes, end_stream: bool) -> None:
        """Cut frames and act on each."""
        self._has_control |= stream_id == CONTROL_STREAM
        self._liveness.heard(trio.current_time())
        if not self.verified:  # nothing else tells that it has taken something
            self._tell_room()
        try:
            self._cut_frames(stream_id, data, end_stream=end_stream)
        except (RemoteProtocolError, LocalProtocolError) as exc:
            self._broken(exc)

    def stream_reset(self, stream_id: int) -> None:
        """Without its control stream a link is nothing."""
        self._inbox.forget(stream_id)
        if stream_id == CONTROL_STREAM:
            self.close(ErrorCode.UNEXPECTED_MESSAGE, "the control stream was reset")

    def moved(self, old: Address, new: Address) -> None:
        """The peer has another address, or is seen at another one; the link goes on."""
        if self._state is LinkState.LIVE and not self.is_probe:
            told.tell_moved(self._context, self, old, new)
            self.tell_observed()

    # -- what comes in --------------------------------------------------------------------------------------------

    def _broken(self, error: RemoteProtocolError | LocalProtocolError) -> None:
        if isinstance(error, RemoteProtocolError):
            self._refuse(error)
        else:  # an answer of ours that cannot be encoded: a bug, and yet no peer may end the node by finding it
            logger.error("no answer to %s", self._label(), exc_info=error)
            self.close(ErrorCode.INTERNAL_ERROR, type(error).__name__)

    def _cut_frames(self, stream_id: int, data: bytes, *, end_stream: bool) -> None:
        frames = 0
        for frame, size in self._inbox.receive(stream_id, data, end_stream=end_stream):
            frames += 1
            self._frame_received(stream_id, frame, size)
            if self._state is LinkState.CLOSED:
                return
        self._endure(frames, len(data))
        if end_stream and stream_id == CONTROL_STREAM and self.verified:
            self._peer_finished()

    def _endure(self, frames: int, size: int) -> None:
        """Bound what one peer brings in a while, and what waits of it."""
        self._connection.worked(frames)
        self._budget.endure(frames, size, self._liveness.heard_at)
        if self.succession.queued_bytes > BUFFERED_BYTES_MAX:
            raise RemoteProtocolError("too much before an earlier link has ended", code=ErrorCode.LIMIT_EXCEEDED)

    def _payload_max(self, stream_id: int) -> int:
        """Before the proof one small frame on the control stream is all that a peer may send."""
        if self._state is LinkState.LIVE or self._context.party.trust.kind == "unverified":
            return MAX_PAYLOAD
        if stream_id != CONTROL_STREAM:
            raise RemoteProtocolError("a second stream before the proof", code=ErrorCode.PROOF_REQUIRED)
        return HANDSHAKE_PAYLOAD_BYTES_MAX

    def _frame_received(self, stream_id: int, frame: Frame, size: int) -> None:
        message = None if frame.body is None else decode_message(frame)
        if message is None:
            self._context.counters.unknown_type += 1
            self._budget.endure_noise(self._liveness.heard_at)
            if self._state is not LinkState.LIVE:
                raise RemoteProtocolError("an unknown message before the proof", code=ErrorCode.PROOF_REQUIRED)
            self._credit(frame.type, size)
            return
        self._context.counters.received[MessageType(frame.type).name] += 1
        if self._state is LinkState.CONNECTING:
            if isinstance(message, wire.Disconnect):
                self._peer_left(message)
            else:
                self._first_message(stream_id, message)
        elif self.succession.must_wait(message):
            self.succession.put((stream_id, message, frame.type, size))
        else:
            self._take(stream_id, message, frame.type, size)

    def _take(self, stream_id: int, message: Message, kind: int, size: int) -> None:
        if kind not in _SIGNS_OF_LIFE:
            self._used_at = trio.current_time()
        self._dispatch(stream_id, message)
        self._credit(kind, size)

    def _credit(self, kind: int, size: int) -> None:
        """Tell a proven peer now and then how much was taken of what it sent."""
        if self.verified and kind not in _EXEMPT:
            total = self._taken.took(size)
            if total is not None and self._state is LinkState.LIVE and not self._ending.has_finished:
                self._write(CONTROL_STREAM, wire.Credit(scope=LINK_CREDIT, id=b"", credit=total))

    def _first_message(self, stream_id: int, message: Message) -> None:
        try:
            if self.is_dialed:
                self._become_live(self._introduction.hear_answer(message))
                assert isinstance(message, wire.Pong), "nothing else is an answer"
                self._hear_observed(message)
            elif isinstance(message, wire.Connect):
                self._become_live(self._accept(stream_id, message))
            elif self._context.party.trust.kind == "unverified":
                self._become_live(ANONYMOUS)
                self._dispatch(stream_id, message)
            else:
                raise RemoteProtocolError("expected CONNECT first", code=ErrorCode.PROOF_REQUIRED)
        except (TrustError, RemoteProtocolError) as exc:
            self._refuse(exc)

    def _accept(self, stream_id: int, connect: wire.Connect) -> RemoteParty:
        remote, pong = self._introduction.hear_connect(connect)
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
        if self._state is LinkState.CLOSED:
            return  # by our PONG, if the peer has refused the stream: nobody would tell us of the end once more
        self._peer = peer
        self._state = LinkState.LIVE
        if self._introduction.made_at is not None:
            self._liveness.measured(trio.current_time() - self._introduction.made_at)
        self._connection.proven()
        self._settled.set()
        told.tell_opened(self._context, self, peer)
        self._context.opened(self)

    def _dispatch(self, stream_id: int, message: Message) -> None:
        if isinstance(message, _PROBES) and not self._budget.pings.take(1, self._liveness.heard_at):
            self._context.counters.excess += 1
            return
        if isinstance(message, wire.Pong) and message.timestamp < 0:
            self._hear_pong(message)
        elif self._resolve(stream_id, message):
            pass
        elif is_reply(message):
            self._context.counters.unexpected += 1  # late, or nobody asked
        elif isinstance(message, wire.Ping):
            pong = wire.Pong(timestamp=message.timestamp, server_time=self._context.wall_clock_ms())
            self._write(self._reply_stream(stream_id), pong)
        elif isinstance(message, wire.Disconnect):
            self._peer_left(message)
        elif isinstance(message, wire.Connect):
            self._late_connect(stream_id, message)
        elif isinstance(message, wire.Credit) and message.scope == LINK_CREDIT:
            if self.verified and self._sent.credited(message.credit):
                self._tell_room()
        else:
            self._hand_over(stream_id, message)

    def _resolve(self, stream_id: int, message: Message) -> bool:
        """Give a reply to whoever waits for it."""
        if not (is_reply(message) or may_be_reply(message)):
            return False
        pending = self._find_asker(message, stream_id)
        if pending is None or pending.outcome is not None:
            return False
        pending.resolve(message)
        return True

    def _find_asker(self, reply: Message, stream_id: int) -> Pending | None:
        pending = self.heir._asks.find(reply, stream_id, verified=self.verified)
        if pending is None and self.verified and not isinstance(reply, wire.Pong):
            # Of three links the two sides may go over to different ones, each of which looks best from there.
            found = (link._asks.find(reply, stream_id, verified=True) for link in self._context.siblings(self))
            return next(filter(None, found), None)
        return pending

    def _hand_over(self, stream_id: int, message: Message) -> None:
        """Give a message to the service that takes its kind."""
        handler = self._context.handlers.get(type(message))
        if handler is None:
            self._context.counters.unhandled += 1
            self._budget.endure_noise(self._liveness.heard_at)
        elif self.verified or stream_id == CONTROL_STREAM:
            handler(self, message)
        else:
            handler(OneStream(self, stream_id), message)

    def _reply_stream(self, stream_id: int) -> int:
        """Proven peers listen on the control stream; a v0.8 peer on the stream that it asked on."""
        return self._stream if self.verified else stream_id

    def _peer_left(self, farewell: wire.Disconnect) -> None:
        code = code_of(farewell.reason)
        text = f"{self._label()} said goodbye: {clip(farewell.message) or (code.value if code else 'no reason')}"
        self._error = self._farewell(code, text)
        told.tell_conflict(self._context, self, code)
        self._peer_is_leaving = code is ErrorCode.CLOSING
        self._end_reason = self._end_reason or "goodbye"
        self._connection.close(ErrorCode.NORMAL)

    def _farewell(self, code: ErrorCode | None, text: str) -> MeshError:
        """What the peer's reason for ending a link is to us."""
        # Anybody could say so who sits at the address of our bootstrap node for a moment, and we would never ask again.
        if code is ErrorCode.OWN_IDENTITY and self._context.is_self(self._connection.binding):
            return OwnIdentity(text)
        return error_of(code, text)

    def _refuse(self, error: TrustError | RemoteProtocolError) -> None:
        code = error.code
        if code is ErrorCode.OWN_IDENTITY:
            self._context.note_self(self._connection.binding)
        told.tell_refused(self._context, self, error)
        self._error = type(error)(f"{self._label()}: {error}", code=code) if isinstance(error, TrustError) else error
        self.close(code, str(error))
        if isinstance(error, RemoteProtocolError) or code is ErrorCode.BAD_PROOF:
            self._context.offended(self)


def _conforms(link: QuicLink, view: LinkView) -> tuple[Link, Link]:
    return link, view  # mypy proves that both are `macula_trio.abc.Link`

"""Any sequence of bytes on any streams against one link: nothing is heard before the proof, nothing after the end."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import attrs
import trio
import trio.testing
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from quic_tools import REALM, credentials

from macula_trio._events import Event, EventBus
from macula_trio._net.quic import CONTROL_STREAM, CloseReason
from macula_trio._peer.context import LinkContext
from macula_trio._peer.handshake import LocalParty, RemoteParty, make_connect, make_pong
from macula_trio._peer.inbox import STREAMS_MAX
from macula_trio._peer.link import LinkState, QuicLink
from macula_trio._trust import Trust
from macula_trio._util import Address
from macula_trio._wire import messages as wire
from macula_trio._wire.codec import FrameDecoder, encode_frame, encode_message
from macula_trio._wire.frame import HEADER, MAX_PAYLOAD, VERSION, MessageType
from macula_trio.abc import Link, Message
from macula_trio.errors import ErrorCode, NotSent

BINDING, OTHER_BINDING = bytes(32), bytes(31) + b"\1"
ID, KEY = bytes(16), bytes(range(32))
PATIENCE_S: Final = 10.0


def party(number: int, **changes: Any) -> LocalParty:
    fields: dict[str, Any] = {
        "credentials": credentials(number),
        "instance": bytes([number]) * 16,
        "realm": REALM,
        "trust": Trust.open(),
        "endpoint": f"192.0.2.{number}:1",
    }
    return LocalParty(**(fields | changes))


OWN, PEER = party(1), party(2)
US: Final = RemoteParty(node_id=OWN.credentials.node_id, verified=True)


def hello(is_dialed: bool, binding: bytes = BINDING, **changes: Any) -> wire.Connect | wire.Pong:
    """What the other side introduces itself by: PONG when we dialed it, else CONNECT."""
    who = party(2, **changes)
    if is_dialed:
        return make_pong(who, binding=binding, peer=US, timestamp=1, server_time=2)
    return make_connect(who, binding=binding, peer=None)


GOOD: Final = {is_dialed: encode_message(hello(is_dialed)) for is_dialed in (True, False)}
# Each of them is the end of a link that has not heard a good one.
BAD: Final = [
    *(encode_message(hello(is_dialed, OTHER_BINDING)) for is_dialed in (True, False)),
    *(encode_message(attrs.evolve(hello(is_dialed), proof=b"forged")) for is_dialed in (True, False)),
    encode_message(hello(False, realm="org.other")),
    encode_frame(MessageType.CONNECT, {}),
]
HANDLED: Final[tuple[Message, ...]] = (
    wire.Call(call_id=ID, procedure="a.b", args=b"[]"),
    wire.Cancel(call_id=ID),
    wire.FindNode(target=KEY, correlation_id=ID),
    wire.Store(key=KEY, value={}, correlation_id=ID),
)
OTHERS: Final[tuple[Message, ...]] = (
    wire.Ping(timestamp=5),
    wire.Pong(timestamp=5, server_time=6),
    wire.Pong(timestamp=-1, server_time=6, observed="192.0.2.9:1"),  # nobody asked for it
    wire.Reply(call_id=ID, result=b"1"),
    wire.FindNodeReply(nodes=(), correlation_id=ID),
    wire.Subscribe(topics=("a",)),  # nobody takes it
)
UNKNOWN: Final = HEADER.pack(VERSION, 0x7E, 2) + b"??"
BROKEN: Final = [
    encode_frame(MessageType.CALL, {}),
    HEADER.pack(VERSION, MessageType.PING, 1) + b"\xc1",
    HEADER.pack(VERSION, MessageType.CALL, MAX_PAYLOAD + 1),
    b"\0" * 8,
]

STREAMS: Final = st.sampled_from([0, 0, 0, 4, 8, 3])
WHOLE: Final = st.lists(st.sampled_from(HANDLED + OTHERS), min_size=1, max_size=4)


class FakeConnection:
    """Writes into a list; ends when it is told, and then says so, as `macula_trio._net.quic.Connection` does."""

    path = ("192.0.2.2", 1)

    def __init__(self, *, is_dialed: bool) -> None:
        self.is_dialed = is_dialed
        self.binding = BINDING
        self.link: QuicLink | None = None
        self.written: list[tuple[int, MessageType]] = []
        self.proofs = 0
        self.is_lost = False
        self.reason: CloseReason | None = None
        self.seen_at = self.path
        self.unsent_bytes = 0

    def open_stream(self) -> int:
        return 4 + max((stream_id for stream_id, _ in self.written), default=-4)

    def write(self, stream_id: int, data: bytes, *, end_stream: bool = False) -> None:
        assert not self.is_lost, "written after the end"
        decoder = FrameDecoder()
        decoder.receive_data(data)
        while (frame := decoder.next_frame()) is not None:
            self.written.append((stream_id, MessageType(frame.type)))
        decoder.end()

    def is_heard(self, stream_id: int) -> bool:
        return True

    def random_bytes(self, count: int) -> bytes:
        return bytes(count)

    def proven(self) -> None:
        self.proofs += 1

    def worked(self, amount: int) -> None:
        """Shares are not kept here."""

    def close(self, code: ErrorCode, *, error_code: int = 0) -> None:
        self.lose(CloseReason.CLOSED_BY_US, code.value)

    def lose(self, reason: CloseReason, detail: str) -> None:
        if not self.is_lost:
            self.is_lost, self.reason = True, reason
            assert self.link is not None
            self.link.connection_lost(reason, detail)


class Links(RuleBasedStateMachine):
    clock: trio.testing.MockClock  # of the run that all of them are in

    @initialize(is_dialed=st.booleans(), is_unverified=st.booleans())
    def begin(self, is_dialed: bool, is_unverified: bool) -> None:
        self.is_unverified = is_unverified
        self.handled: list[Message] = []
        self.opened: list[QuicLink] = []
        self.closed: list[QuicLink] = []
        self.called_back = 0
        self.events: list[Event] = []
        bus = EventBus(trio.current_time)
        bus.listen(self.events.append)
        self.context = LinkContext(
            party=party(1, trust=Trust.unverified() if is_unverified else Trust.open()),
            handlers={type(message): self.handle for message in HANDLED},
            wall_clock_ms=lambda: 1,
            events=bus,
            keepalive_s=PATIENCE_S,
            opened=self.opened.append,
            closed=self.closed.append,
            observed=self.observed,
        )
        self.connection = FakeConnection(is_dialed=is_dialed)
        self.link = QuicLink(self.context, self.connection)  # type: ignore[arg-type]  # all that it needs of one
        self.connection.link = self.link
        self.link.add_close_callback(self.call_back)
        self.link.handshake_completed()
        self.fresh = True  # nothing was said yet
        self.half_said: set[int] = set()  # streams on which a frame has begun
        self.rest = b""  # of an introduction that has begun
        self.was_introduced = False  # by a whole good hello, wherever it was said
        self.at_the_end: tuple[object, ...] | None = None

    def handle(self, link: Link, message: Message) -> None:
        assert self.link._state is LinkState.LIVE
        self.handled.append(message)
        if isinstance(message, wire.FindNode):
            link.send_nowait(wire.FindNodeReply(nodes=(), correlation_id=message.correlation_id))

    def call_back(self) -> None:
        self.called_back += 1

    def observed(self, link: QuicLink, address: Address) -> None:
        assert link.is_dialed
        assert link.verified
        assert link._state is LinkState.LIVE

    def hear(self, stream_id: int, data: bytes, cuts: list[int], *, end: bool = False) -> None:
        """What the pump does with the bytes of a stream: it stops when the connection is lost."""
        self.fresh = False
        if stream_id == CONTROL_STREAM:
            self.rest = b""  # whatever was begun goes on otherwise
        edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
        pieces = [data[start:stop] for start, stop in itertools.pairwise(edges)] or [b""]
        for number, piece in enumerate(pieces):
            if not self.connection.is_lost:
                self.link.stream_data_received(stream_id, piece, end and number == len(pieces) - 1)

    # -- what the peer does -----------------------------------------------------------------------------------------

    cuts = st.lists(st.integers(0, 500), max_size=3)
    alive = precondition(lambda self: not self.connection.is_lost)

    @alive
    @rule(cuts=cuts, behind=st.lists(st.sampled_from(HANDLED), max_size=2))
    def introduce_itself(self, cuts: list[int], behind: list[Message]) -> None:
        was_fresh = self.fresh
        self.was_introduced = True
        self.hear(CONTROL_STREAM, GOOD[self.connection.is_dialed] + b"".join(map(encode_message, behind)), cuts)
        if was_fresh:
            assert self.link.verified
            assert self.link.node_id == PEER.credentials.node_id
            assert self.handled == behind

    @precondition(lambda self: self.fresh and not self.connection.is_lost)
    @rule(cut=st.integers(1, 400), stream_id=STREAMS)
    def begin_to_introduce_itself(self, cut: int, stream_id: int) -> None:
        good = GOOD[self.connection.is_dialed]
        cut = min(cut, len(good) - 1)
        self.hear(stream_id, good[:cut], [])
        assert self.link.is_closed == (stream_id != CONTROL_STREAM and not self.is_unverified)
        self.half_said.add(stream_id)
        self.rest = good[cut:] if stream_id == CONTROL_STREAM else b""

    @precondition(lambda self: self.rest and not self.connection.is_lost)
    @rule(cuts=cuts, behind=st.lists(st.sampled_from(HANDLED), max_size=2))
    def introduce_itself_to_the_end(self, cuts: list[int], behind: list[Message]) -> None:
        self.was_introduced = True
        was_connecting, before = self.link._state is LinkState.CONNECTING, len(self.handled)
        self.half_said.discard(CONTROL_STREAM)
        self.hear(CONTROL_STREAM, self.rest + b"".join(map(encode_message, behind)), cuts)
        if was_connecting:
            assert self.link.verified
            assert self.handled[before:] == behind

    @alive
    @rule(stream_id=STREAMS, bad=st.sampled_from(BAD), cuts=cuts)
    def introduce_itself_badly(self, stream_id: int, bad: bytes, cuts: list[int]) -> None:
        was_connecting, handled = self.link._state is LinkState.CONNECTING, len(self.handled)
        self.hear(stream_id, bad + encode_message(HANDLED[0]), cuts)
        if was_connecting and not self.is_unverified and not self.was_introduced:
            assert self.link.is_closed or stream_id in self.half_said
            assert len(self.handled) == handled

    @alive
    @rule(stream_id=STREAMS, messages=WHOLE, cuts=cuts)
    def say(self, stream_id: int, messages: list[Message], cuts: list[int]) -> None:
        is_live, before = self.link._state is LinkState.LIVE, len(self.handled)
        self.hear(stream_id, b"".join(map(encode_message, messages)), cuts)
        if is_live and stream_id not in self.half_said:
            assert self.handled[before:] == [message for message in messages if message in HANDLED]
            assert not self.link.is_closed

    @alive
    @rule(stream_id=STREAMS, garbage=st.sampled_from(BROKEN), cuts=cuts)
    def break_the_rules(self, stream_id: int, garbage: bytes, cuts: list[int]) -> None:
        before = len(self.handled)
        self.hear(stream_id, garbage + encode_message(HANDLED[0]), cuts)
        if stream_id not in self.half_said:
            assert self.link.is_closed
            assert len(self.handled) == before

    @alive
    @rule(stream_id=STREAMS, data=st.sampled_from([b"\1", UNKNOWN, UNKNOWN[:5], encode_message(HANDLED[0])[:-1]]))
    def say_half_of_something(self, stream_id: int, data: bytes) -> None:
        self.hear(stream_id, data, [])
        if data != UNKNOWN:
            self.half_said.add(stream_id)

    @alive
    @rule(stream_id=STREAMS, messages=st.lists(st.sampled_from(HANDLED), max_size=2))
    def say_goodbye(self, stream_id: int, messages: list[Message]) -> None:
        handled = len(self.handled)
        farewell = encode_message(wire.Disconnect(reason="normal"))
        self.hear(stream_id, farewell + b"".join(map(encode_message, messages)), [])
        if stream_id not in self.half_said:
            assert self.link.is_closed
            assert len(self.handled) == handled

    @alive
    @rule(stream_id=STREAMS, is_reset=st.booleans())
    def end_a_stream(self, stream_id: int, is_reset: bool) -> None:
        was_half = stream_id in self.half_said
        self.half_said.discard(stream_id)
        if is_reset:
            self.fresh = False
            self.link.stream_reset(stream_id)
            assert self.link.is_closed == (stream_id == CONTROL_STREAM)
        else:
            self.hear(stream_id, b"", [], end=True)
            assert not was_half or self.link.is_closed

    @alive
    @rule(reason=st.sampled_from(CloseReason), detail=st.sampled_from(["", "normal", "bad_proof", "closing"]))
    def lose_the_connection(self, reason: CloseReason, detail: str) -> None:
        self.connection.lose(reason, detail)

    # -- what we do -------------------------------------------------------------------------------------------------

    @rule(code=st.sampled_from([ErrorCode.NORMAL, ErrorCode.CLOSING, ErrorCode.SILENT]))
    def close(self, code: ErrorCode) -> None:
        self.link.close(code)
        assert self.link.is_closed

    @rule(seconds=st.sampled_from([0.1, PATIENCE_S, 3 * PATIENCE_S]))
    def let_time_pass(self, seconds: float) -> None:
        self.clock.jump(seconds)
        again = self.link.look(0.0)
        assert again > trio.current_time() or self.link._ending.has_begun or self.link.is_closed

    @rule(reason=st.sampled_from(["idle", "surplus"]))
    def retreat(self, reason: str) -> None:
        self.link.retreat(None, reason=reason)

    @rule(port=st.integers(1, 3))
    def see_it_move(self, port: int) -> None:
        """Nobody is told before the proof, or twice, or who has not dialed us."""
        before, was_at = len(self.connection.written), self.connection.seen_at
        self.connection.seen_at = (self.connection.path[0], port)
        self.link.tell_observed()
        self.link.tell_observed()
        is_told = self.link._state is LinkState.LIVE and self.link.verified and not self.connection.is_dialed
        has_moved = self.connection.seen_at != was_at
        told = self.connection.written[before:]
        assert told == [(CONTROL_STREAM, MessageType.PONG)] * (is_told and has_moved)

    @rule()
    def send(self) -> None:
        try:
            self.link.send_nowait(HANDLED[0])
        except NotSent:
            assert self.link._state is not LinkState.LIVE
        else:
            assert self.link._state is LinkState.LIVE

    # -- what always holds ------------------------------------------------------------------------------------------

    @invariant()
    def nothing_is_heard_before_the_proof(self) -> None:
        is_open = bool(self.opened)
        assert len(self.opened) == self.connection.proofs <= 1
        assert not self.handled or is_open
        if not self.is_unverified:
            assert is_open <= self.was_introduced
            assert not is_open or self.link.verified
            assert is_open or set(self.link._inbox._decoders) <= {CONTROL_STREAM}
        if not is_open:
            introductions = {MessageType.CONNECT, MessageType.DISCONNECT}
            assert {kind for _, kind in self.connection.written} <= introductions

    @invariant()
    def nothing_happens_after_the_end(self) -> None:
        assert self.link.is_closed == self.connection.is_lost
        assert self.link._settled.is_set() == (bool(self.opened) or self.link.is_closed)
        if not self.link.is_closed:
            assert self.called_back == len(self.closed) == 0
            return
        now = len(self.handled), len(self.connection.written), len(self.opened), len(self.events)
        self.at_the_end = self.at_the_end or now
        assert now == self.at_the_end
        assert self.called_back == 1
        assert len(self.closed) == len(self.opened)
        assert self.link._inbox._decoders == {}

    @invariant()
    def what_happened_is_told_and_counted(self) -> None:
        told = Counter(event.name for event in self.events)
        assert told["link.opened"] == len(self.opened)
        assert told["link.closed"] == len(self.closed)
        assert told["link.refused"] == self.context.counters.refused.total() <= 1
        assert len(self.link._inbox._decoders) <= STREAMS_MAX


def test_any_sequence_of_bytes_leaves_a_link_in_order() -> None:
    run_inside_trio(
        lambda: run_state_machine_as_test(Links, settings=settings(max_examples=150, stateful_step_count=15))
    )


def run_inside_trio(function: Callable[[], None]) -> None:
    """A link asks Trio for the time, and never waits: the whole machine runs between two steps of one task."""

    async def main() -> None:
        await trio.lowlevel.checkpoint()
        function()

    Links.clock = trio.testing.MockClock()
    trio.run(main, clock=Links.clock)

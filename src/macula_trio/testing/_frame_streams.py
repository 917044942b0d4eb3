"""Reliable streams of frames over paths that are not: what is sent again when, and what one task delivers for all.

Every packet asks `Conditions` for its fate.  A lost one is sent again, as QUIC would, so a stream loses nothing: it is
late, or it ends.  There is one heap of things to do for the whole network, and one task that does them.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Callable
from math import inf
from typing import Any, Final, Protocol, TypeAlias

import attrs
import trio

from macula_trio.testing._faults import Conditions

DATAGRAM_BYTES: Final = 1452  # as in `macula_trio._net.datagram_sizes` over anything but loopback
OVERHEAD_BYTES: Final = 33  # of QUIC around what one datagram carries of a stream, measured on the real link
SEGMENT_BYTES: Final = DATAGRAM_BYTES - OVERHEAD_BYTES
ACK_DELAY_S: Final = 0.025  # RFC 9000, section 18.2: how long a peer may wait before it acknowledges
DOUBLINGS_MAX: Final = 6  # of the time-out: 1.7 s between two tries at 1 ms of latency, so a healed path is soon found
RESENDS_MAX: Final = 64  # of one packet; a path that lets nothing through ends by silence long before
HELD_PACKETS_MAX: Final = 65_536  # for clogged hosts, of the whole network: 95 MB; the rest is lost and sent again
WINDOW_BYTES: Final = 1024 * 1024  # as in `macula_trio._peer.window`: above, whoever can wait waits


class StreamEnd(Protocol):
    """Who sends or receives.

    Attributes:
      heard_at: when the other end last gave a sign of life.
    """

    heard_at: float

    @property
    def is_gone(self) -> bool:
        """Whether it neither sends nor takes anything any more."""
        ...

    def take(self, content: Any) -> None:
        """The next content has arrived."""
        ...

    def given_up(self) -> None:
        """A packet was sent again too often."""
        ...


@attrs.define(eq=False)
class _Item:
    """What was put into a stream, until it has come out whole."""

    content: Any
    size: int
    missing: int  # packets that have not arrived yet


_Packet: TypeAlias = tuple[_Item, int, int]  # of what, bytes of it, how often it was sent before


class Stream:
    """One direction of a link: what is put in comes out once, whole and in order, or never.

    Args:
      paths: what is between the hosts.
      source: name of the sending host.
      target: name of the receiving host.
      sender: told of acknowledgements.
      find_receiver: asked when a packet arrives, until somebody is there.

    Attributes:
      bytes_under_way: put in, and not come out yet.
    """

    __slots__ = (
        "_find_receiver",
        "_items",
        "_paths",
        "_receiver",
        "_room",
        "_sender",
        "_source",
        "_target",
        "bytes_under_way",
    )

    def __init__(
        self,
        paths: Paths,
        source: str,
        target: str,
        *,
        sender: StreamEnd,
        find_receiver: Callable[[], StreamEnd | None],
    ) -> None:
        self._paths = paths
        self._source = source
        self._target = target
        self._sender = sender
        self._find_receiver = find_receiver
        self._receiver: StreamEnd | None = None
        self._items: deque[_Item] = deque()
        self._room: trio.Event | None = None
        self.bytes_under_way: int = 0

    @property
    def is_answered(self) -> bool:
        """Whether anything has reached anybody."""
        return self._receiver is not None

    def put(self, content: Any, size: int) -> None:
        """Send, behind what was sent before."""
        counts = self._paths.counts
        counts.frames += 1
        counts.frame_bytes += size
        item = _Item(content, size, -(-size // SEGMENT_BYTES))
        self._items.append(item)
        self.bytes_under_way += size
        now = self._paths.now()
        while size > SEGMENT_BYTES:
            self._carry((item, SEGMENT_BYTES, 0), now)
            size -= SEGMENT_BYTES
        self._carry((item, size, 0), now)

    @property
    def is_full(self) -> bool:
        """Whether more than `WINDOW_BYTES` are under way."""
        return self.bytes_under_way > WINDOW_BYTES

    async def wait_room(self) -> None:
        """Wait until at most `WINDOW_BYTES` are under way, or the sender is gone."""
        while self.is_full and not self._sender.is_gone:
            self._room = self._room or trio.Event()
            await self._room.wait()

    def stop(self) -> None:
        """The sender is gone: what is under way may still arrive, what is lost is not sent again."""
        if self._room is not None:
            self._room.set()

    def release(self, packet: _Packet) -> None:
        """Send a packet that was held."""
        if not self._sender.is_gone:
            self._carry(packet, self._paths.now())

    def _carry(self, packet: _Packet, now: float) -> None:
        paths = self._paths
        conditions = paths.conditions
        if conditions.has_clog and conditions.is_clogged(self._source, self._target):
            if not paths.hold(self, packet):
                self._lost(packet, "clog", now)
            return
        paths.counts.packets += 1
        fate = conditions.fate(self._source, self._target, packet[1] + OVERHEAD_BYTES, now)
        if fate.loss is None:
            due = fate.arrivals[0] if len(fate.arrivals) == 1 else min(fate.arrivals)  # copies are thrown away
            paths.at(due, self._arrive, packet)
        else:
            self._lost(packet, fate.loss, now)

    def _lost(self, packet: _Packet, reason: str, now: float) -> None:
        """Send it again after QUIC's probe time-out, which doubles each time (RFC 9002, section 6.2)."""
        self._paths.counts.lost[reason] += 1
        item, size, resends = packet
        if resends >= RESENDS_MAX:
            if not self._sender.is_gone:
                self._sender.given_up()
            return
        timeout_s = self._paths.round_trip_max_s(self._source, self._target) + ACK_DELAY_S
        due = now + timeout_s * 2 ** min(resends, DOUBLINGS_MAX)
        self._paths.at(due, self._resend, (item, size, resends + 1))

    def _resend(self, packet: _Packet) -> None:
        if not self._sender.is_gone:
            self._paths.counts.resent += 1
            self._carry(packet, self._paths.now())

    def _arrive(self, packet: _Packet) -> None:
        now = self._paths.now()
        receiver = self._receiver
        if receiver is None:
            receiver = self._receiver = self._find_receiver()
            if receiver is None:
                self._lost(packet, "unreachable", now)
                return
        if receiver.is_gone:
            self._paths.counts.lost["gone"] += 1
            return
        receiver.heard_at = now
        conditions = self._paths.conditions
        if not conditions.has_partition or not conditions.is_cut(self._target, self._source):
            self._sender.heard_at = now  # its acknowledgement, which travels in no time
        packet[0].missing -= 1
        items = self._items
        while items and not items[0].missing and not receiver.is_gone:
            item = items.popleft()
            self.bytes_under_way -= item.size
            receiver.take(item.content)
        if self._room is not None and self.bytes_under_way <= WINDOW_BYTES:
            self._room.set()
            self._room = None


@attrs.define(eq=False)
class FrameCounts:
    """What a network has carried so far; see `macula_trio.testing.frames.FrameStatistics`."""

    frames: int = 0
    frame_bytes: int = 0
    packets: int = 0
    resent: int = 0
    held: int = 0
    lost: Counter[str] = attrs.field(factory=Counter)


_Entry: TypeAlias = tuple[float, int, Callable[[Any], None], Any]


class Paths:
    """What is between the hosts, and what is to be done when.

    Args:
      conditions: decide about packets.
    """

    def __init__(self, conditions: Conditions) -> None:
        self.conditions = conditions
        self.counts: FrameCounts = FrameCounts()
        self._heap: list[_Entry] = []
        self._sequence = 0  # breaks ties: what is due at once is done in the order in which it was asked for
        self._wake = trio.Event()
        self._sleeps_until = -inf  # while it does not sleep nobody needs to wake it
        self.is_served: bool = False
        self._now: float | None = None
        self._held: list[tuple[Stream, _Packet]] = []

    def now(self) -> float:
        """Trio's time; while things are done that are due, the time when that began, as in any event loop."""
        return trio.current_time() if self._now is None else self._now

    def at(self, due: float, action: Callable[[Any], None], argument: Any) -> None:
        """Call ``action(argument)`` at a time on Trio's clock; it must not block."""
        self._sequence += 1
        heapq.heappush(self._heap, (due, self._sequence, action, argument))
        if due < self._sleeps_until:
            self._wake.set()

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Do everything when its time has come, until cancelled."""
        assert not self.is_served, "a network is served by one task"
        self.is_served = True
        task_status.started()
        try:
            while True:
                self._do_what_is_due()
                self._wake = trio.Event()
                self._sleeps_until = self._heap[0][0] if self._heap else inf
                with trio.move_on_at(self._sleeps_until):
                    await self._wake.wait()
                self._sleeps_until = -inf
        finally:
            self.is_served = False

    def _do_what_is_due(self) -> None:
        heap, now, pop = self._heap, trio.current_time(), heapq.heappop
        self._now = now
        try:
            while heap and heap[0][0] <= now:
                _, _, action, argument = pop(heap)
                action(argument)
        finally:
            self._now = None

    def hold(self, stream: Stream, packet: _Packet) -> bool:
        """Keep a packet until `release`; False when too many are kept already."""
        if len(self._held) >= HELD_PACKETS_MAX:
            return False
        self.counts.held += 1
        self._held.append((stream, packet))
        return True

    def release(self) -> None:
        """Send on what is held and need not be any more, in the order in which it was sent."""
        held, self._held = self._held, []
        for stream, packet in held:
            stream.release(packet)

    def round_trip_max_s(self, source: str, target: str) -> float:
        """What a packet and its answer take at most when nothing happens to them."""
        there, back = self.conditions.model(source, target), self.conditions.model(target, source)
        return there.latency_s + there.jitter_s + back.latency_s + back.jitter_s

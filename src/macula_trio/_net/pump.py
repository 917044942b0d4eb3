"""The pump of one socket: when is read, when is written, and when timers fire, for all its connections.

What becomes of a datagram or a timer is not decided here.  Datagrams and flushes cost, so writes of many tasks share a
flush, and what a peer said is acknowledged together with what it is answered (DESIGN section 6).
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final, Generic, Protocol, TypeVar

import trio

from macula_trio._net.alarm import Alarm
from macula_trio._net.fairness import Fairness
from macula_trio._util import Path
from macula_trio.abc import DatagramSocket

T = TypeVar("T", bound=Hashable)
T_contra = TypeVar("T_contra", bound=Hashable, contravariant=True)

TURN_S: Final = 0.002  # of work on what was received, before others have their turn


class Pumped(Protocol[T_contra]):
    """Whom the pump works for; nothing of it may block or raise."""

    def received(self, data: bytes, source: Path, now: float) -> None:
        """A datagram has come."""
        ...

    def transmit(self, connection: T_contra) -> None:
        """Send what a connection has to say, which was marked by `Pump.mark_written` or `Pump.mark_read`."""
        ...

    def timer_fired(self, connection: T_contra, now: float) -> None:
        """The time of `Pump.arm` has come."""
        ...


class Pump(Generic[T]):
    """Moves datagrams.

    Args:
      socket: bound.
      fairness: told when there is more to do than we can.
      pumped: see there.
    """

    def __init__(self, socket: DatagramSocket, fairness: Fairness[T], pumped: Pumped[T]) -> None:
        self._socket = socket
        self._fairness = fairness
        self._pumped = pumped
        self._written: dict[T, None] = {}
        self._read: dict[T, None] = {}
        self._work = trio.Event()
        self._alarm = Alarm[T]()

    @property
    def next_due(self) -> float:
        """When the next timer fires; sometimes earlier than needed."""
        return self._alarm.next_due

    @property
    def remembered(self) -> dict[str, int]:
        """How many connections are marked, and how many have a timer."""
        return {"timers": self._alarm.count, "written": len(self._written), "read": len(self._read)}

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Move datagrams until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._receive)
            nursery.start_soon(self._flush_marked)
            nursery.start_soon(self._fire_timers)
            task_status.started()

    # -- marks and timers -------------------------------------------------------------------------------------------

    def mark_written(self, connection: T) -> None:
        """Flush it with the next tick."""
        self._written[connection] = None
        self._work.set()

    def mark_read(self, connection: T) -> None:
        """Flush it one tick later: those who were woken by what was read answer first."""
        self._read[connection] = None
        self._work.set()

    def arm(self, connection: T, due: float) -> None:
        """Set or move its timer; ``inf`` for none."""
        self._alarm.arm(connection, due)

    def forget(self, connection: T) -> None:
        """It has ended."""
        self._alarm.disarm(connection)
        self._written.pop(connection, None)
        self._read.pop(connection, None)

    def fire_due(self, now: float) -> None:
        """Fire the timers whose time has come."""
        for connection in self._alarm.due(now):
            self._pumped.timer_fired(connection, now)

    def flush_written(self) -> None:
        """Flush what was written."""
        self._flush(self._written)

    def flush_read(self) -> None:
        """Flush what was read and not written."""
        self._flush(self._read)

    def _flush(self, marked: dict[T, None]) -> None:
        while marked:
            connection = next(iter(marked))
            self._written.pop(connection, None)
            self._read.pop(connection, None)
            self._pumped.transmit(connection)

    # -- tasks ------------------------------------------------------------------------------------------------------

    async def _receive(self) -> None:
        while True:
            await self._socket.wait_readable()
            begun = now = trio.current_time()
            for data, source in self._socket.recv_batch():
                if now - begun > TURN_S:
                    # A datagram may hold hundreds of frames: whoever waits for this loop has its turn in between.
                    self.flush_written()
                    await trio.lowlevel.checkpoint()
                    begun = trio.current_time()
                    self._fairness.turn_ended(begun)
                self._pumped.received(data, source, now)
                now = trio.current_time()
            self.fire_due(now)
            self.flush_written()

    async def _flush_marked(self) -> None:
        while True:
            await self._work.wait()
            self._work = trio.Event()
            self.flush_written()
            if self._read:
                # The tasks that were woken by what was read run in this tick; their answers carry the
                # acknowledgements, which saves a datagram each.
                await trio.lowlevel.checkpoint()
                self.flush_written()
                self.flush_read()

    async def _fire_timers(self) -> None:
        while True:
            now, late_s = await self._alarm.wait()
            self._fairness.timer_fired(late_s, now)
            self.fire_due(now)
            self.flush_written()

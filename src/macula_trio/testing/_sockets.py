"""Sockets of the simulated network: an inbox each, in which what is under way waits for its time.

There is no task: the receiver's own `SimSocket.wait_readable` waits until the next datagram is due.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable
from math import inf
from typing import Final

import attrs
import trio

from macula_trio._util import Address
from macula_trio.abc import DatagramSocket

BATCH_MAX: Final = 64
INBOX_MAX: Final = 16_384  # datagrams; a socket's buffer is bounded too, and what exceeds it is lost


@attrs.define(eq=False)
class Counts:
    """What a network has carried so far; see `macula_trio.testing.network.SimStatistics`."""

    sent: int = 0
    delivered: int = 0
    duplicated: int = 0
    held: int = 0
    lost: Counter[str] = attrs.field(factory=Counter)


class SimSocket:
    """A bound socket of a `SimNetwork`."""

    def __init__(
        self,
        address: Address,
        *,
        counts: Counts,
        carry: Callable[[Address, Address, bytes, float], bool],
        unbind: Callable[[SimSocket], None],
    ) -> None:
        self._address = address
        self._counts = counts
        self._carry = carry
        self._unbind = unbind
        self._inbox: list[tuple[float, int, bytes, Address]] = []
        self._arrival = trio.Event()
        self._closed = False
        self._dead = False
        self._lost = 0

    @property
    def address(self) -> Address:
        """Where it is bound."""
        return self._address

    @property
    def datagrams_lost(self) -> int:
        """Datagrams that did not get out of this machine; nobody knows of those that are lost on the way."""
        return self._lost

    @property
    def large_datagrams(self) -> bool:
        """No: links of a simulated network have an ordinary MTU."""
        return False

    def recv_batch(self) -> list[tuple[bytes, Address]]:
        """Take what has arrived by now, at most 64.

        Raises:
          trio.ClosedResourceError: the socket is closed.
        """
        if self._closed:
            raise trio.ClosedResourceError("socket was closed")
        now = trio.current_time()
        batch: list[tuple[bytes, Address]] = []
        while self._inbox and self._inbox[0][0] <= now and len(batch) < BATCH_MAX:
            _, _, data, source = heapq.heappop(self._inbox)
            batch.append((data, source))
        self._counts.delivered += len(batch)
        return batch

    def send_batch(self, datagrams: Iterable[tuple[bytes, Address]]) -> None:
        """Hand over to the network."""
        is_cut_off = self._closed or self._dead
        now = trio.current_time()
        for data, target in datagrams:
            if is_cut_off or not self._carry(self._address, target, data, now):
                self._lost += 1

    async def wait_readable(self) -> None:
        """Wait until a datagram is due.

        Raises:
          trio.ClosedResourceError: somebody closed the socket.
        """
        await trio.lowlevel.checkpoint()
        while not self._closed:
            due = self._inbox[0][0] if self._inbox else inf
            if due <= trio.current_time():
                return
            self._arrival = trio.Event()
            with trio.move_on_at(due):
                await self._arrival.wait()
        raise trio.ClosedResourceError("socket was closed")

    def close(self) -> None:
        """Give the address back; datagrams under way to it are lost."""
        if not self._closed:
            self._closed = True
            self._unbind(self)
            self._lose_after(-inf)
            self._arrival.set()

    def arrive(self, due: float, sequence: int, data: bytes, source: Address) -> bool:
        """Take a datagram in that is due then; False when the buffer is full.

        Args:
          due: on Trio's clock.
          sequence: breaks ties.
          data: of the datagram.
          source: of the datagram.
        """
        if len(self._inbox) >= INBOX_MAX:
            return False
        heapq.heappush(self._inbox, (due, sequence, data, source))
        if self._inbox[0][1] == sequence:
            self._arrival.set()
        return True

    def move(self, address: Address) -> None:
        """Be bound elsewhere from now on; what is still under way to the old address is lost."""
        self._address = address
        self._lose_after(trio.current_time())

    def die(self) -> None:
        """Be cut off for good, as the machine has crashed: whoever waits here simply waits on."""
        self._dead = True
        self._lose_after(-inf)

    def _lose_after(self, now: float) -> None:
        kept = sorted(entry for entry in self._inbox if entry[0] <= now)  # sorted: also a heap
        self._counts.lost["gone"] += len(self._inbox) - len(kept)
        self._inbox = kept


def _conforms(socket: SimSocket) -> DatagramSocket:
    return socket  # mypy proves it

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

from macula_trio._net.families import obstacle
from macula_trio._util import Address, Path, path_local
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
    """A bound socket of a `SimNetwork`.

    Args:
      address: where it is bound: an address of its host, or a wildcard when ``owned`` has several.
      owned: the addresses at which it is reached.
      counts: of the network.
      carry: takes what is sent, with source, target, bytes and time.
      unbind: called when it is closed.
    """

    def __init__(
        self,
        address: Address,
        *,
        owned: tuple[str, ...],
        counts: Counts,
        carry: Callable[[Address, Address, bytes, float], bool],
        unbind: Callable[[SimSocket], None],
    ) -> None:
        self._address = address
        self._owned = owned
        self._counts = counts
        self._carry = carry
        self._unbind = unbind
        self._inbox: list[tuple[float, int, bytes, Path]] = []
        self._arrival = trio.Event()
        self._closed = False
        self._dead = False
        self._lost = 0

    @property
    def address(self) -> Address:
        """Where it is bound."""
        return self._address

    @property
    def reached_at(self) -> list[Address]:
        """Its own address, or all those that the wildcard stands for."""
        return [(host, self._address[1]) for host in self._owned]

    @property
    def datagrams_lost(self) -> int:
        """Datagrams that did not get out of this machine; nobody knows of those that are lost on the way."""
        return self._lost

    @property
    def large_datagrams(self) -> bool:
        """No: links of a simulated network have an ordinary MTU."""
        return False

    def obstacle(self, host: str) -> str | None:
        """Another family."""
        return obstacle(self._address, host, is_dual=any(":" not in own for own in self._owned))

    def recv_batch(self) -> list[tuple[bytes, Path]]:
        """Take what has arrived by now, at most 64.

        Raises:
          trio.ClosedResourceError: the socket is closed.
        """
        if self._closed:
            raise trio.ClosedResourceError("socket was closed")
        now = trio.current_time()
        batch: list[tuple[bytes, Path]] = []
        while self._inbox and self._inbox[0][0] <= now and len(batch) < BATCH_MAX:
            _, _, data, source = heapq.heappop(self._inbox)
            batch.append((data, source))
        self._counts.delivered += len(batch)
        return batch

    def send_batch(self, datagrams: Iterable[tuple[bytes, Path]]) -> None:
        """Hand over to the network."""
        is_cut_off = self._closed or self._dead
        now = trio.current_time()
        for data, path in datagrams:
            if is_cut_off or not self._carry(self._source(path), (path[0], path[1]), data, now):
                self._lost += 1

    def _source(self, path: Path) -> Address:
        if len(self._owned) == 1:
            return self._owned[0], self._address[1]
        local = path_local(path)
        if local in self._owned:
            return local, self._address[1]
        is_v6 = ":" in path[0]
        return next((own for own in self._owned if (":" in own) == is_v6), self._owned[0]), self._address[1]

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

    def arrive(self, due: float, sequence: int, data: bytes, source: Address, local: str) -> bool:
        """Take a datagram in that is due then; False when the buffer is full.

        Args:
          due: on Trio's clock.
          sequence: breaks ties.
          data: of the datagram.
          source: of the datagram.
          local: to which of our addresses it was sent.
        """
        if len(self._inbox) >= INBOX_MAX:
            return False
        path = source if len(self._owned) == 1 else (*source, local)
        heapq.heappush(self._inbox, (due, sequence, data, path))
        if self._inbox[0][1] == sequence:
            self._arrival.set()
        return True

    def move(self, before: str, host: str) -> None:
        """Be reached elsewhere from now on; what is still under way is lost."""
        self._owned = tuple(host if own == before else own for own in self._owned)
        if len(self._owned) == 1:
            self._address = host, self._address[1]
        self._lose_after(trio.current_time())

    def move_port(self, port: int) -> None:
        """Be reached at another port from now on; what is still under way is lost."""
        self._address = self._address[0], port
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

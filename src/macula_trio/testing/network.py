"""A datagram network in memory, on Trio's clock: the seam under the real QUIC (DESIGN section 11).

Without faults for now: every datagram to a bound address arrives after `SimNetwork.latency_s`, in order.  There is
no task: the receiver's own `SimSocket.wait_readable` waits until the next datagram is due.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping
from math import inf
from typing import Final

import trio

from macula_trio._store.memory import MemoryStorage
from macula_trio._util import PORT_MAX, Address, format_endpoint, is_numeric, is_unspecified

EPOCH_MS: Final = 1_735_689_600_000  # 2025-01-01T00:00:00Z: inside every certificate that tests make
BATCH_MAX: Final = 64
INBOX_MAX: Final = 16_384  # datagrams; a socket's buffer is bounded too, and what exceeds it is lost
FIRST_FREE_PORT: Final = 49_152
DATAGRAM_BYTES_MAX: Final = 65_507


class SimSocket:
    """A bound socket of a `SimNetwork`."""

    def __init__(self, network: SimNetwork, address: Address) -> None:
        self._network = network
        self._address = address
        self._inbox: list[tuple[float, int, bytes, Address]] = []
        self._arrival = trio.Event()
        self._closed = False
        self._lost = 0

    @property
    def address(self) -> Address:
        """Where it is bound."""
        return self._address

    @property
    def datagrams_lost(self) -> int:
        """Datagrams that nobody was there to take."""
        return self._lost

    @property
    def large_datagrams(self) -> bool:
        """No: links of a simulated network have an ordinary MTU."""
        return False

    def recv_batch(self) -> list[tuple[bytes, Address]]:
        """Take what has arrived by now, at most 64."""
        now = trio.current_time()
        batch: list[tuple[bytes, Address]] = []
        while self._inbox and self._inbox[0][0] <= now and len(batch) < BATCH_MAX:
            _, _, data, source = heapq.heappop(self._inbox)
            batch.append((data, source))
        return batch

    def send_batch(self, datagrams: Iterable[tuple[bytes, Address]]) -> None:
        """Hand over to the network."""
        for data, target in datagrams:
            if self._closed or not self._network._carry(self._address, target, data):
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
            self._network._unbind(self._address)
            self._arrival.set()

    def _arrive(self, due: float, sequence: int, data: bytes, source: Address) -> bool:
        if len(self._inbox) >= INBOX_MAX:
            return False
        heapq.heappush(self._inbox, (due, sequence, data, source))
        if self._inbox[0][1] == sequence:
            self._arrival.set()
        return True


class SimNetwork:
    """`macula_trio.abc.DatagramNetwork` in memory.

    Args:
      latency_s: how long every datagram takes.
      hosts: names and the addresses that they resolve to.
      tap: called with (source, target, data) for every datagram that is sent, before anything happens to it; what it
        returns is carried instead (None drops it).
    """

    def __init__(
        self,
        *,
        latency_s: float = 0.001,
        hosts: Mapping[str, str] | None = None,
        tap: Callable[[Address, Address, bytes], bytes | None] | None = None,
    ) -> None:
        self.latency_s = latency_s
        self._hosts = dict(hosts or {})
        self._tap = tap
        self._sockets: dict[Address, SimSocket] = {}
        self._sequence = 0  # breaks ties: datagrams due at once arrive in the order of sending
        self._next_port = FIRST_FREE_PORT

    @property
    def bound(self) -> list[Address]:
        """Addresses of the sockets that are open, in the order of binding."""
        return list(self._sockets)

    async def bind(self, address: Address) -> SimSocket:
        """Open a socket; ``0.0.0.0`` becomes an address of a host of its own.

        Raises:
          OSError: the address is in use.
        """
        await trio.lowlevel.checkpoint()
        host, port = address
        if port == 0:
            port = self._free_port(host)
        host = _own_host(host, port)
        if (host, port) in self._sockets:
            raise OSError(98, f"cannot listen on {format_endpoint((host, port))}: Address already in use")
        socket = self._sockets[host, port] = SimSocket(self, (host, port))
        return socket

    async def resolve(self, host: str, *, like: str | None = None) -> str:
        """Look the name up among ``hosts``.

        Raises:
          OSError: no such name.
        """
        await trio.lowlevel.checkpoint()
        if is_numeric(host):
            return host
        if host not in self._hosts:
            raise OSError(-2, f"cannot find host {host!r}: not a host of this network")
        return self._hosts[host]

    def source_host(self, peer: Address) -> str:
        """Loopback: sockets of this network are never bound to a wildcard."""
        return "127.0.0.1"

    def wall_clock_ms(self) -> int:
        """A fixed epoch plus virtual time."""
        return EPOCH_MS + round(trio.current_time() * 1000)

    async def open_storage(self, name: str) -> MemoryStorage:
        """A new one each time: machines that keep something are `host`s."""
        await trio.lowlevel.checkpoint()
        return MemoryStorage()

    def _free_port(self, host: str) -> int:
        for _ in range(FIRST_FREE_PORT, PORT_MAX + 1):
            port = self._next_port
            self._next_port = port + 1 if port < PORT_MAX else FIRST_FREE_PORT
            if (_own_host(host, port), port) not in self._sockets:
                return port
        raise OSError(98, f"cannot listen on {format_endpoint((host, 0))}: no port is free")

    def _unbind(self, address: Address) -> None:
        del self._sockets[address]

    def _carry(self, source: Address, target: Address, data: bytes) -> bool:
        carried = data if self._tap is None else self._tap(source, target, data)
        socket = self._sockets.get(target)
        if carried is None or socket is None or len(carried) > DATAGRAM_BYTES_MAX:
            return False
        self._sequence += 1
        return socket._arrive(trio.current_time() + self.latency_s, self._sequence, carried, source)


def _own_host(host: str, port: int) -> str:
    return f"10.255.{port >> 8}.{port & 255}" if is_unspecified(host) else host

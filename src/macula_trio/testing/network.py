"""A datagram network in memory, on Trio's clock, with faults: the seam under the real QUIC (DESIGN section 11).

Unless it is told otherwise, every datagram to a bound address arrives after the same time, in order.  This file knows
hosts, names and who is told of faults; `_carrier.py` moves the datagrams, `_faults.py` decides what becomes of them.
"""

from __future__ import annotations

import errno
import ipaddress
from collections.abc import Mapping
from typing import Final

import trio

from macula_trio._store.memory import MemoryStorage
from macula_trio._util import PORT_MAX, Address, format_endpoint, is_numeric, is_unspecified
from macula_trio.abc import DatagramNetwork, Storage
from macula_trio.testing._carrier import Carrier, SimStatistics, Tap
from macula_trio.testing._faults import Conditions, LinkModel
from macula_trio.testing._faulty import FaultyNetwork
from macula_trio.testing._sockets import BATCH_MAX, INBOX_MAX, SimSocket

__all__ = ["BATCH_MAX", "EPOCH_MS", "INBOX_MAX", "LinkModel", "SimHost", "SimNetwork", "SimSocket", "SimStatistics"]

EPOCH_MS: Final = 1_735_689_600_000  # 2025-01-01T00:00:00Z: inside every certificate that tests make
FIRST_FREE_PORT: Final = 49_152
FIRST_FREE_HOST: Final = (10 << 24) + (64 << 16) + 1  # 10.64.0.1; lower ones are left to those who choose themselves
LAST_FREE_HOST: Final = (10 << 24) + (254 << 16)  # 10.255.x.y are those of sockets bound to a wildcard


class SimHost:
    """One machine of a `SimNetwork`, and the `macula_trio.abc.DatagramNetwork` of what runs on it.

    Made by `SimNetwork.host`.
    """

    def __init__(self, network: SimNetwork, name: str, address: str) -> None:
        self._network = network
        self._name = name
        self._address = address
        self._is_up = True
        self._boots = 0
        self._clock_skew_ms = 0
        self._storages: dict[str, MemoryStorage] = {}

    @property
    def name(self) -> str:
        """Under which faults know it, and others find it."""
        return self._name

    @property
    def address(self) -> str:
        """Numeric, without a port."""
        return self._address

    @property
    def is_up(self) -> bool:
        """False from `crash` to `restart`."""
        return self._is_up

    @property
    def sockets(self) -> list[SimSocket]:
        """Those that are open, in the order of binding."""
        return [socket for (host, _), socket in self._network._carrier.sockets.items() if host == self._address]

    @property
    def clock_skew_ms(self) -> int:
        """How much its wall clock is ahead of the right time."""
        return self._clock_skew_ms

    @clock_skew_ms.setter
    def clock_skew_ms(self, skew_ms: int) -> None:
        self._clock_skew_ms = skew_ms
        self._network.tell("fault.skew", host=self._name, skew_ms=skew_ms)

    # -- what runs on it sees -------------------------------------------------------------------------------------

    async def bind(self, address: Address) -> SimSocket:
        """Open a socket on the host's address, which ``0.0.0.0`` stands for too.

        Raises:
          OSError: the address is in use or not ours, or the host is down.
        """
        await trio.lowlevel.checkpoint()
        host, port = address
        if is_unspecified(host):
            host = self._address
        if host != self._address:
            raise OSError(errno.EADDRNOTAVAIL, f"cannot listen on {format_endpoint(address)}: not {self._name}'s")
        return self._open(port)

    async def resolve(self, host: str, *, like: str | None = None) -> str:
        """Look the name up in the network.

        Raises:
          OSError: no such name.
        """
        return await self._network.resolve(host, like=like)

    def source_host(self, peer: Address) -> str:
        """Its only address."""
        return self._address

    def wall_clock_ms(self) -> int:
        """The network's, and what this host's clock is wrong by."""
        return self._network.wall_clock_ms() + self._clock_skew_ms

    async def open_storage(self, name: str) -> Storage:
        """What was kept on this host under this name, over restarts too.

        Raises:
          OSError: the host is down.
        """
        await trio.lowlevel.checkpoint()
        if not self._is_up:
            raise OSError(errno.EIO, f"cannot open the storage of {name}: {self._name} is down")
        return _FencedStorage(self, self._storages.setdefault(name, MemoryStorage()))

    # -- what happens to it ---------------------------------------------------------------------------------------

    def crash(self) -> None:
        """Go down without a word.

        Nothing goes out of its sockets or comes in any more, and whoever waits on one simply waits on; its storage
        ignores what it is told through handles of before.  Nothing happens when it is down.
        """
        if self._is_up:
            self._end_everything()
            self._is_up = False
            self._network.tell("fault.crash", host=self._name)

    def restart(self, *, keep_storage: bool = True) -> None:
        """Come up as new, whether it was down or not: sockets may be bound again.

        Args:
          keep_storage: else it is lost.
        """
        self._end_everything()
        self._is_up = True
        if not keep_storage:
            self._storages.clear()
        self._network.tell("fault.restart", host=self._name, keep_storage=keep_storage)

    def change_address(self, address: str) -> None:
        """Move, as a laptop does: open sockets send from the new address, and are reached there.

        Raises:
          ValueError: not an address for one host of the same family, or another host's.
        """
        if address == self._address:
            return
        if (":" in address) != (":" in self._address):
            raise ValueError(f"address: {address!r} is of another family than {self._address}, where sockets are open")
        before = self._address
        self._network._require_free(address)
        self._network._carrier.move(before, address)
        self._address = address
        self._network.tell("fault.address", host=self._name, before=before, address=address)

    def _open(self, port: int) -> SimSocket:
        if not self._is_up:
            where = format_endpoint((self._address, port))
            raise OSError(errno.ENETDOWN, f"cannot listen on {where}: {self._name} is down")
        return self._network._open(self._address, port)

    def _end_everything(self) -> None:
        for socket in self.sockets:
            self._network._carrier.unbind(socket)
            socket.die()
        self._boots += 1  # fences the storage handles given out so far


class _FencedStorage:
    """A handle of one boot of a host: what a node says after its machine has crashed was never said."""

    def __init__(self, host: SimHost, storage: MemoryStorage) -> None:
        self._host = host
        self._storage = storage
        self._boot = host._boots

    def items(self, table: str) -> list[tuple[bytes, bytes]]:
        return self._storage.items(table)

    def put(self, table: str, key: bytes, value: bytes | None) -> None:
        if self._host._boots == self._boot:
            self._storage.put(table, key, value)


class SimNetwork(FaultyNetwork):
    """`macula_trio.abc.DatagramNetwork` in memory.

    `bind` makes a host of its own of every address, named by it, unless one was made by `host`.  Faults name hosts.

    Args:
      seed: of all chance.
      link: the path between any two hosts; `set_link` makes exceptions.
      latency_s: how long every datagram takes, when ``link`` is not given.
      hosts: names and the addresses that they resolve to; the names of hosts made by `host` are known anyway.
      tap: called with (source, target, data) for every datagram that is sent, before anything happens to it; what it
        returns is carried instead (None drops it).
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        link: LinkModel | None = None,
        latency_s: float = 0.001,
        hosts: Mapping[str, str] | None = None,
        tap: Tap | None = None,
    ) -> None:
        conditions = Conditions(seed, link or LinkModel(latency_s=latency_s))
        self._carrier = Carrier(conditions, tap)
        super().__init__(conditions, self._carrier.release)
        self._addresses = dict(hosts or {})
        self._hosts: dict[str, SimHost] = {}
        self._next_port = FIRST_FREE_PORT
        self._next_host = FIRST_FREE_HOST

    @property
    def bound(self) -> list[Address]:
        """Addresses of the sockets that are open, in the order of binding."""
        return list(self._carrier.sockets)

    @property
    def digest(self) -> str:
        """Hexadecimal, over when, from where, where to and how long of every datagram that was sent; not its bytes."""
        return self._carrier.digest

    def statistics(self) -> SimStatistics:
        """Counts so far."""
        return self._carrier.statistics()

    # -- hosts ----------------------------------------------------------------------------------------------------

    def host(self, name: str, address: str | None = None) -> SimHost:
        """Get the machine of this name, or make it.

        Args:
          name: found by `resolve`, too; a numeric one is also its address.
          address: numeric; a free one by default.

        Raises:
          ValueError: the host has another address, the address is another host's, or not one of a single host.
        """
        known = self._hosts.get(name)
        if known is not None:
            if address not in (None, known.address):
                raise ValueError(f"address: {name} has {known.address}; move it by change_address({address!r})")
            return known
        if address is None:
            address = name if is_numeric(name) else self._addresses.get(name) or self._free_host()
        self._require_free(address)
        self._carrier.settle(name, address)
        host = self._hosts[name] = SimHost(self, name, address)
        return host

    async def bind(self, address: Address) -> SimSocket:
        """Open a socket; ``0.0.0.0`` becomes an address of a host of its own.

        Raises:
          OSError: the address is in use or not numeric, or its host is down or has moved away.
        """
        await trio.lowlevel.checkpoint()
        host, port = address
        if is_unspecified(host):
            port = port or self._free_port(host)
            host = _wildcard_host(port)
        name = self._carrier.name_at(host) or host
        if not is_numeric(host) or self.host(name).address != host:
            raise OSError(errno.EADDRNOTAVAIL, f"cannot listen on {format_endpoint(address)}: no host has this address")
        return self.host(name)._open(port)

    async def resolve(self, host: str, *, like: str | None = None) -> str:
        """Look the name up among ``hosts`` and the machines.

        Raises:
          OSError: no such name, or none of the family of ``like``.
        """
        await trio.lowlevel.checkpoint()
        if is_numeric(host):
            return host
        machine = self._hosts.get(host)
        found = self._addresses.get(host) if machine is None else machine.address
        if found is None:
            raise OSError(-2, f"cannot find host {host!r}: not a host of this network")
        if like is not None and (":" in like) != (":" in found):
            raise OSError(-2, f"cannot find host {host!r}: it has no address such as {like}")
        return found

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

    # -- inside ---------------------------------------------------------------------------------------------------

    def _open(self, host: str, port: int) -> SimSocket:
        return self._carrier.open((host, port or self._free_port(host)))

    def _free_port(self, host: str) -> int:
        for _ in range(FIRST_FREE_PORT, PORT_MAX + 1):
            port = self._next_port
            self._next_port = port + 1 if port < PORT_MAX else FIRST_FREE_PORT
            if (_wildcard_host(port) if is_unspecified(host) else host, port) not in self._carrier.sockets:
                return port
        raise OSError(errno.EADDRINUSE, f"cannot listen on {format_endpoint((host, 0))}: no port is free")

    def _free_host(self) -> str:
        while self._next_host < LAST_FREE_HOST:
            address = str(ipaddress.IPv4Address(self._next_host))
            self._next_host += 1
            if self._carrier.name_at(address) is None:
                return address
        raise ValueError("no address is free: give the host one")

    def _require_free(self, address: str) -> None:
        if not is_numeric(address) or is_unspecified(address):
            raise ValueError(f"address: {address!r} is not the numeric address of one host")
        name = self._carrier.name_at(address)
        if name is not None:
            raise ValueError(f"address: {address} is that of {name}")

    def _carry(self, source: Address, target: Address, data: bytes) -> None:
        """Send as if from any address: what tests of forged ones do."""
        self._carrier.carry(source, target, data, trio.current_time())


def _wildcard_host(port: int) -> str:
    return f"10.255.{port >> 8}.{port & 255}"


def _conforms(network: SimNetwork, host: SimHost, storage: _FencedStorage) -> tuple[DatagramNetwork, ...]:
    _: Storage = storage
    return network, host  # mypy proves it

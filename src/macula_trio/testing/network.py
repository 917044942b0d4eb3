"""A datagram network in memory, on Trio's clock, with faults: the seam under the real QUIC (DESIGN section 11).

Unless it is told otherwise, every datagram to a bound address arrives after the same time, in order.  This file knows
hosts, names and who is told of faults; `_carrier.py` moves the datagrams, `_faults.py` decides what becomes of them.
"""

from __future__ import annotations

import errno
import ipaddress
from collections.abc import Mapping, Sequence
from typing import Final

import trio

from macula_trio._store.memory import MemoryStorage
from macula_trio._util import PORT_MAX, Address, format_endpoint, is_numeric, is_unspecified, numeric_host
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

    def __init__(self, network: SimNetwork, name: str, address: str, also: tuple[str, ...]) -> None:
        self._network = network
        self._name = name
        self._address = address
        self._also = also
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
        """Numeric, without a port; the first when it has several."""
        return self._address

    @property
    def addresses(self) -> tuple[str, ...]:
        """All of them."""
        return (self._address, *self._also)

    @property
    def is_up(self) -> bool:
        """False from `crash` to `restart`."""
        return self._is_up

    @property
    def sockets(self) -> list[SimSocket]:
        """Those that are open, in the order of binding."""
        found = self._network._carrier.sockets.items()
        return list(dict.fromkeys(socket for (host, _), socket in found if host in self.addresses))

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
        """Open a socket on an address of the host, or on several.

        A wildcard stands for the only address of a host; when it has several, ``0.0.0.0`` for those of IPv4, and
        ``::`` for all.

        Raises:
          OSError: the address is in use or not ours, or the host is down.
        """
        await trio.lowlevel.checkpoint()
        host, port = address
        owned = self._owned(host)
        if not owned:
            raise OSError(errno.EADDRNOTAVAIL, f"cannot listen on {format_endpoint(address)}: not {self._name}'s")
        return self._open(host, owned, port)

    def _owned(self, host: str) -> tuple[str, ...]:
        if not is_unspecified(host):
            return tuple(own for own in self.addresses if own == host)
        return tuple(own for own in self.addresses if ":" in host or ":" not in own or not self._also)

    async def resolve(self, host: str) -> list[str]:
        """Look the name up in the network.

        Raises:
          OSError: no such name.
        """
        return await self._network.resolve(host)

    def source_host(self, peer: Address) -> str:
        """Its first address of the same family, or its first one."""
        is_v6 = ":" in peer[0]
        return next((own for own in self.addresses if (":" in own) == is_v6), self._address)

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

    def change_port(self, before: int, port: int) -> None:
        """Be seen at another port, as behind an address translator that has forgotten us: the host itself stays.

        What is open at ``before`` sends from the other port, and is reached there alone.

        Raises:
          ValueError: nothing is open there, or something is at the other one.
        """
        if not any(socket.address[1] == before for socket in self.sockets):
            raise ValueError(f"before: {self._name} has nothing open at port {before}")
        if any((host, port) in self._network._carrier.sockets for host in self.addresses):
            raise ValueError(f"port: {port} of {self._name} is in use")
        self._network._carrier.move_port(self.addresses, before, port)
        self._network.tell("fault.port", host=self._name, before=before, port=port)

    def _open(self, host: str, owned: tuple[str, ...], port: int) -> SimSocket:
        if len(owned) == 1:
            (host,) = owned
        if not self._is_up:
            where = format_endpoint((host, port))
            raise OSError(errno.ENETDOWN, f"cannot listen on {where}: {self._name} is down")
        return self._network._carrier.open((host, port or self._network._free_port(owned)), owned)

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
      hosts: names and the addresses that they resolve to, one or several, the first first; the names of hosts made by
        `host` are known anyway.
      tap: called with (source, target, data) for every datagram that is sent, before anything happens to it; what it
        returns is carried instead (None drops it).
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        link: LinkModel | None = None,
        latency_s: float = 0.001,
        hosts: Mapping[str, str | Sequence[str]] | None = None,
        tap: Tap | None = None,
    ) -> None:
        conditions = Conditions(seed, link or LinkModel(latency_s=latency_s))
        self._carrier = Carrier(conditions, tap)
        super().__init__(conditions, self._carrier.release)
        self._addresses = {name: [it] if isinstance(it, str) else list(it) for name, it in (hosts or {}).items()}
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

    def host(self, name: str, address: str | None = None, *, also: Sequence[str] = ()) -> SimHost:
        """Get the machine of this name, or make it.

        Args:
          name: found by `resolve`, too; a numeric one is also its address.
          address: numeric; a free one by default.
          also: further addresses, such as one of the other family.

        Raises:
          ValueError: the host has another address, the address is another host's, or not one of a single host.
        """
        known = self._hosts.get(name)
        if known is not None:
            if address not in (None, known.address):
                raise ValueError(f"address: {name} has {known.address}; move it by change_address({address!r})")
            if tuple(also) not in ((), known.addresses[1:]):
                raise ValueError(f"also: {name} has {', '.join(known.addresses)}")
            return known
        if address is None:
            given = [name] if is_numeric(name) else self._addresses.get(name) or [self._free_host()]
            address, also = given[0], [*given[1:], *also]
        for each in (address, *also):
            self._require_free(each)
            self._carrier.settle(name, each)
        host = self._hosts[name] = SimHost(self, name, address, tuple(also))
        return host

    async def bind(self, address: Address) -> SimSocket:
        """Open a socket; ``0.0.0.0`` becomes an address of a host of its own.

        Raises:
          OSError: the address is in use or not numeric, or its host is down or has moved away.
        """
        await trio.lowlevel.checkpoint()
        host, port = address
        if is_unspecified(host):
            port = port or self._free_port((host,))
            host = _wildcard_host(port)
        name = self._carrier.name_at(host) or host
        if not is_numeric(host) or host not in self.host(name).addresses:
            raise OSError(errno.EADDRNOTAVAIL, f"cannot listen on {format_endpoint(address)}: no host has this address")
        return self.host(name)._open(host, (host,), port)

    async def resolve(self, host: str) -> list[str]:
        """Look the name up among ``hosts`` and the machines.

        Raises:
          OSError: no such name.
        """
        await trio.lowlevel.checkpoint()
        if is_numeric(host):
            return [numeric_host(host)]
        machine = self._hosts.get(host)
        found = self._addresses.get(host) if machine is None else machine.addresses
        if not found:
            raise OSError(-2, f"cannot find host {host!r}: not a host of this network")
        return list(found)

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

    def _free_port(self, hosts: Sequence[str]) -> int:
        for _ in range(FIRST_FREE_PORT, PORT_MAX + 1):
            port = self._next_port
            self._next_port = port + 1 if port < PORT_MAX else FIRST_FREE_PORT
            wanted = [(_wildcard_host(port) if is_unspecified(host) else host, port) for host in hosts]
            if not any(address in self._carrier.sockets for address in wanted):
                return port
        raise OSError(errno.EADDRINUSE, f"cannot listen on {format_endpoint((hosts[0], 0))}: no port is free")

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

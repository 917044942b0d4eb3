"""Carries datagrams between the sockets of a simulated network, as its `Conditions` have it, and counts them.

What becomes of a datagram is decided when it is sent, and the socket that is bound then gets it.
"""

from __future__ import annotations

import errno
import hashlib
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias

import attrs
import trio

from macula_trio._util import Address, format_endpoint
from macula_trio.testing._faults import MTU_BYTES_MAX, Conditions
from macula_trio.testing._sockets import Counts, SimSocket

HELD_PER_PAIR_MAX: Final = 1024  # datagrams of one direction between two hosts, one of them clogged: 1.5 MB
ROUTES_MAX: Final = 65_536  # pairs of addresses that are remembered, only to be quick
DIGEST_AFTER_BYTES: Final = 65_536
_DIGEST_BYTES: Final = 16  # nobody attacks it
_SENT: Final = struct.Struct(">qI")  # when, in microseconds, and how long; then the route
_BROADCAST: Final = "255.255.255.255"  # nobody may send there without having asked for it

Tap: TypeAlias = Callable[[Address, Address, bytes], bytes | None]


@attrs.frozen(kw_only=True)
class SimStatistics:
    """What a network has carried so far.

    When nothing is under way, ``sent + duplicated == delivered + sum(lost.values())``.

    Attributes:
      sent: datagrams that left a machine.
      delivered: that their receivers took, copies included.
      lost: by reason: ``chance``, ``cut``, ``mtu``, ``queue`` (too many wait for bandwidth), ``clog`` (too many are
        held), ``tap``, ``inbox`` (full), ``unreachable`` (no such socket), ``gone`` (the socket was there when it was
        sent, and then crashed, was closed or moved).
      duplicated: copies that were made.
      held: that had to wait because a host was clogged.
    """

    sent: int
    delivered: int
    lost: Mapping[str, int]
    duplicated: int
    held: int


@attrs.frozen(kw_only=True)
class _Route:
    """From one address to another: what would else be worked out anew for every datagram."""

    source: Address
    target: Address
    source_name: str
    target_name: str
    is_possible: bool
    label: bytes


class Carrier:
    """Where sockets are bound, and what is between them.

    Args:
      conditions: what the network is like.
      tap: see `macula_trio.testing.network.SimNetwork`.
    """

    def __init__(self, conditions: Conditions, tap: Tap | None) -> None:
        self.sockets: dict[Address, SimSocket] = {}
        self._names: dict[str, str] = {}  # of the hosts, by their addresses; others are named by their addresses
        self._routes: dict[tuple[Address, Address], _Route] = {}
        self._conditions = conditions
        self._tap = tap
        self._counts = Counts()
        self._digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
        self._undigested = bytearray()  # a hash of many small pieces costs more than the copy
        self._held: list[tuple[_Route, bytes]] = []
        self._held_of: dict[tuple[str, str], int] = {}
        self._sequence = 0  # breaks ties: datagrams due at once arrive in the order of sending

    @property
    def digest(self) -> str:
        """Over when, from where, where to and how long of every datagram that was sent."""
        self._digest_now()
        return self._digest.hexdigest()

    def statistics(self) -> SimStatistics:
        """Counts so far."""
        counts = self._counts
        lost = {reason: count for reason, count in sorted(counts.lost.items()) if count}
        return SimStatistics(
            sent=counts.sent, delivered=counts.delivered, lost=lost, duplicated=counts.duplicated, held=counts.held
        )

    # -- sockets --------------------------------------------------------------------------------------------------

    def open(self, address: Address, owned: tuple[str, ...]) -> SimSocket:
        """Bind a socket.

        Args:
          address: what it says of itself.
          owned: the addresses at which it is reached.

        Raises:
          OSError: an address is in use.
        """
        socket = SimSocket(address, owned=owned, counts=self._counts, carry=self.carry, unbind=self.unbind)
        if any(each in self.sockets for each in socket.reached_at):
            raise OSError(errno.EADDRINUSE, f"cannot listen on {format_endpoint(address)}: Address already in use")
        self.sockets.update(dict.fromkeys(socket.reached_at, socket))
        return socket

    def unbind(self, socket: SimSocket) -> None:
        """Free the addresses of a socket, unless that has lost them already."""
        for address in socket.reached_at:
            if self.sockets.get(address) is socket:
                del self.sockets[address]

    # -- hosts ----------------------------------------------------------------------------------------------------

    def name_at(self, host: str) -> str | None:
        """Name of the host that has this address."""
        return self._names.get(host)

    def settle(self, name: str, host: str) -> None:
        """Let a free address be the one of a host from now on."""
        assert host not in self._names
        self._names[host] = name
        self._routes.clear()

    def move(self, before: str, host: str) -> None:
        """Let a free address be the one of a host instead of another, with all its sockets."""
        self.settle(self._names.pop(before), host)
        for (own, _), socket in self.sockets.items():
            if own == before:
                socket.move(before, host)
        self.sockets = {(host if own == before else own, port): socket for (own, port), socket in self.sockets.items()}

    def move_port(self, hosts: Sequence[str], before: int, port: int) -> None:
        """Let a free port be the one of the sockets at another one of these addresses."""
        moved = {at: socket for at, socket in self.sockets.items() if at[0] in hosts and at[1] == before}
        for socket in dict.fromkeys(moved.values()):
            socket.move_port(port)
        self.sockets = {(at[0], port) if at in moved else at: socket for at, socket in self.sockets.items()}

    # -- datagrams ------------------------------------------------------------------------------------------------

    def carry(self, source: Address, target: Address, data: bytes, now: float) -> bool:
        """Send a datagram on its way; False when its own machine would refuse it."""
        route = self._routes.get((source, target)) or self._find_route(source, target)
        if not route.is_possible or len(data) > MTU_BYTES_MAX:
            return False
        self._counts.sent += 1
        self._undigested += _SENT.pack(round(now * 1_000_000), len(data)) + route.label
        if len(self._undigested) > DIGEST_AFTER_BYTES:
            self._digest_now()
        if self._tap is not None:
            tapped = self._tap(source, target, data)
            if tapped is None:
                self._counts.lost["tap"] += 1
                return True
            data = tapped
        if self._conditions.has_clog and self._conditions.is_clogged(route.source_name, route.target_name):
            self._counts.held += 1
            self._hold(route, data)
        else:
            self._forward(route, data, now)
        return True

    def release(self) -> None:
        """Send on what is held and need not be any more, in the order in which it was sent."""
        now = trio.current_time()
        held, self._held = self._held, []
        self._held_of.clear()
        for route, data in held:
            if self._conditions.is_clogged(route.source_name, route.target_name):
                self._hold(route, data)
            else:
                self._forward(route, data, now)

    def _hold(self, route: _Route, data: bytes) -> None:
        pair = route.source_name, route.target_name
        count = self._held_of.get(pair, 0)
        if count >= HELD_PER_PAIR_MAX:
            self._counts.lost["clog"] += 1
            return
        self._held_of[pair] = count + 1
        self._held.append((route, data))

    def _forward(self, route: _Route, data: bytes, now: float) -> None:
        fate = self._conditions.fate(route.source_name, route.target_name, len(data), now)
        if fate.loss is not None:
            self._counts.lost[fate.loss] += 1
            return
        self._counts.duplicated += len(fate.arrivals) - 1
        socket = self.sockets.get(route.target)
        for due in fate.arrivals:
            self._sequence += 1
            if socket is None:
                self._counts.lost["unreachable"] += 1
            elif not socket.arrive(due, self._sequence, data, route.source, route.target[0]):
                self._counts.lost["inbox"] += 1

    def _find_route(self, source: Address, target: Address) -> _Route:
        if len(self._routes) >= ROUTES_MAX:
            self._routes.clear()  # they are found again
        (from_host, _), (to_host, to_port) = source, target
        route = self._routes[source, target] = _Route(
            source=source,
            target=target,
            source_name=self._names.get(from_host, from_host),
            target_name=self._names.get(to_host, to_host),
            is_possible=to_port != 0 and to_host != _BROADCAST and (":" in from_host) == (":" in to_host),
            label=f"{format_endpoint(source)} {format_endpoint(target)}\n".encode(),
        )
        return route

    def _digest_now(self) -> None:
        self._digest.update(self._undigested)
        self._undigested.clear()

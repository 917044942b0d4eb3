"""How a path is told to the system and read from it: plain, with a scope, mapped, or with our own address.

Chosen once for a socket.  What has one address and no scopes takes the system's own way, which is the fastest.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeAlias

from macula_trio._net.families import mapped, unmapped
from macula_trio._net.socket_options import PacketInfo
from macula_trio._util import Address, Path, is_link_local, path_address, path_local, scope_of, without_scope

DATAGRAM_BYTES_MAX: Final = 65_535
_IPV6_ITEMS: Final = 4  # host, port, flow, scope
REMEMBERED_MAX: Final = 1024  # scopes, and addresses of our own; a machine has a few
PATHS_REMEMBERED_MAX: Final = 8192  # twice as many as there may be connections that others dialed; 3 MiB

Receive: TypeAlias = Callable[[], tuple[bytes, Path]]
"""Takes one datagram; raises `OSError`, of which `BlockingIOError` says that there is none."""
Send: TypeAlias = Callable[[bytes, Any], object]
"""Takes a datagram and a path; raises `OSError`."""
_Ready: TypeAlias = tuple[tuple[tuple[int, int, bytes], ...], tuple[Any, ...]]
"""What is said beside a datagram, and where it goes, as the system takes it."""

# What systems say of a source that is not ours any more, or of an interface that is gone: Linux the third for IPv4
# (EINVAL in older kernels) and the first for IPv6, macOS the second.
_SOURCE_GONE: Final = frozenset({errno.EINVAL, errno.EADDRNOTAVAIL, errno.ENETUNREACH, errno.ENODEV, errno.ENXIO})


def interface_number(scope: str) -> int:
    """The system's number of an interface, given by name or number.

    Raises:
      OSError: there is none.
    """
    try:
        return socket.if_nametoindex(scope)
    except OSError:
        try:
            number = int(scope) if scope.isdecimal() else 0
            socket.if_indextoname(number)
        except (OSError, OverflowError):
            raise OSError(errno.ENODEV, f"this machine has no interface {scope!r}") from None
        return number


def interface_name(number: int) -> str:
    """The name of an interface, or its number once it is gone."""
    try:
        return socket.if_indextoname(number)
    except OSError:
        return str(number)


def with_known_scope(host: str) -> str:
    """A numeric host whose scope, if it is one of this machine, is written as the name of the interface."""
    scope = scope_of(host)
    if scope is None:
        return host
    try:
        return f"{without_scope(host)}%{interface_name(interface_number(scope))}"
    except OSError:
        return host  # whoever listens on it or dials it is told


def to_system(address: Address, *, is_v6: bool) -> tuple[Any, ...]:
    """An address as a socket of this family takes it.

    Raises:
      OSError: no such interface.
    """
    host, port = address
    if not is_v6:
        return address
    scope = scope_of(host)
    # Python forgets the scope of a pair.
    return (mapped(host), port) if scope is None else (without_scope(host), port, 0, interface_number(scope))


def from_system(found: tuple[Any, ...]) -> Address:
    """An address as a socket of any family gives it."""
    host, port = found[0], found[1]
    if ":" not in host:
        return host, port
    host = unmapped(without_scope(host))
    # Python strips the scope off the text.  Other addresses than link-local ones may have one too; it tells nothing.
    scope = _scope_number(found)
    return (f"{host}%{interface_name(scope)}" if scope and is_link_local(host) else host), port


def _scope_number(found: tuple[Any, ...]) -> int:
    """The last item of the four that an IPv6 socket gives; 0 for none."""
    return int(found[3]) if len(found) == _IPV6_ITEMS else 0


def ways(sock: socket.socket, packet_info: PacketInfo | None) -> tuple[Receive, Send]:
    """How to use a bound socket."""
    if packet_info is not None:
        informed = _Informed(sock, packet_info)
        return informed.receive, informed.send
    if sock.family == socket.AF_INET6:
        scoped = _Scoped(sock)
        return scoped.receive, scoped.send
    return partial(sock.recvfrom, DATAGRAM_BYTES_MAX), sock.sendto


class _Names:
    """Between our addresses and the system's, with a memory: an interface costs a call to the system each time."""

    def __init__(self, *, is_v6: bool) -> None:
        self._is_v6 = is_v6
        self._scoped: dict[Address, tuple[Any, ...]] = {}
        self._hosts: dict[tuple[str, int], str] = {}

    def to_system(self, address: Address) -> tuple[Any, ...]:
        if "%" not in address[0]:
            return to_system(address, is_v6=self._is_v6)
        found = self._scoped.get(address)
        if found is None:
            found = to_system(address, is_v6=self._is_v6)
            if len(self._scoped) >= REMEMBERED_MAX:
                self._scoped.clear()
            self._scoped[address] = found
        return found

    def from_system(self, found: tuple[Any, ...]) -> Address:
        scope = _scope_number(found)
        if not scope:
            return unmapped(found[0]), found[1]
        key = found[0], scope
        host = self._hosts.get(key)
        if host is None:
            host = from_system(found)[0]
            if len(self._hosts) >= REMEMBERED_MAX:
                self._hosts.clear()
            self._hosts[key] = host
        return host, found[1]

    def forget(self) -> None:
        """An interface may be gone, or have come back with another number."""
        self._scoped.clear()
        self._hosts.clear()


class _Scoped:
    """An IPv6 socket without packet information."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._names = _Names(is_v6=True)

    def receive(self) -> tuple[bytes, Path]:
        data, found = self._socket.recvfrom(DATAGRAM_BYTES_MAX)
        return data, self._names.from_system(found)

    def send(self, data: bytes, path: Path) -> None:
        try:
            self._socket.sendto(data, self._names.to_system(path_address(path)))
        except OSError:
            self._names.forget()
            raise


class _Informed:
    """A wildcard socket: it has many addresses, and answers from the one that was asked.

    What is worked out for a path is remembered, because this is done for every datagram.
    """

    def __init__(self, sock: socket.socket, info: PacketInfo) -> None:
        self._recvmsg = sock.recvmsg
        self._sendmsg = sock.sendmsg
        self._sendto = sock.sendto
        self._info = info
        self._names = _Names(is_v6=info.is_v6)
        self._space = socket.CMSG_SPACE(info.size_bytes)
        self._locals: dict[bytes, str] = {}  # by what the system says of them
        self._ready: dict[Path, _Ready] = {}

    def receive(self) -> tuple[bytes, Path]:
        data, ancillary, _, found = self._recvmsg(DATAGRAM_BYTES_MAX, self._space)
        host, port = self._names.from_system(found)
        for level, kind, piece in ancillary:
            if kind == self._info.kind and level == self._info.level:
                return data, (host, port, self._locals.get(piece) or self._read(piece))
        return data, (host, port)

    def _read(self, piece: bytes) -> str:
        host, interface = self._info.read(piece)
        local, _ = from_system((host, 0, 0, interface))
        if len(self._locals) >= REMEMBERED_MAX:
            self._locals.clear()
        self._locals[piece] = local
        return local

    def send(self, data: bytes, path: Path) -> None:
        try:
            control, target = self._ready.get(path) or self._prepare(path)
            self._sendmsg((data,), control, 0, target)
        except OSError as exc:
            if exc.errno not in _SOURCE_GONE:
                raise
            self._forget(path)
            if path_local(path) is None:
                raise
            # Our address has gone; the peer may take the answer from another one, or never hear of it.
            self._sendto(data, self._names.to_system(path_address(path)))

    def _prepare(self, path: Path) -> _Ready:
        target, local = self._names.to_system(path_address(path)), path_local(path)
        if len(self._ready) >= PATHS_REMEMBERED_MAX:
            self._ready.clear()
        made = self._ready[path] = (() if local is None else (self._control(local),), target)
        return made

    def _control(self, local: str) -> tuple[int, int, bytes]:
        scope = scope_of(local)
        interface = 0 if scope is None else interface_number(scope)
        host = mapped(without_scope(local)) if self._info.is_v6 else local
        return self._info.level, self._info.kind, self._info.write(host, interface)

    def _forget(self, path: Path) -> None:
        """An interface may be gone, or have come back with another number."""
        self._names.forget()
        self._locals.clear()
        self._ready.pop(path, None)

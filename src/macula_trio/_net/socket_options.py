"""Options of a UDP socket: what is asked of which system, decided from facts; `apply` alone touches a socket.

Nothing here needs a system on import: constants that Python's `socket` lacks somewhere have their numbers here, with
the header that they come from.  What was run and what was not: docs/design/addresses.md.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
import struct
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Final

import attrs

BUFFER_BYTES: Final = 4 * 1024 * 1024  # asked for; a burst of a whole congestion window must fit
BUFFER_BYTES_MIN: Final = 64 * 1024  # below it the system's own default is no worse
LARGE_BUFFER_BYTES: Final = 1024 * 1024  # granted at least this: 16,000-byte datagrams do not overrun it

LINUX: Final = "linux"
MACOS: Final = "darwin"
WINDOWS: Final = "win32"

_IP_PKTINFO: Final = {LINUX: 8, MACOS: 26}  # <linux/in.h>; <netinet/in.h> of XNU, where it also asks to receive
_IPV6_RECVPKTINFO: Final = {LINUX: 49, MACOS: 61}  # <linux/in6.h>; <netinet6/in6.h> of XNU, by RFC 3542
_IPV6_PKTINFO: Final = {LINUX: 50, MACOS: 46}  # the same
_SIO_UDP_CONNRESET: Final = 0x9800000C  # <mstcpip.h> of Windows: _WSAIOW(IOC_VENDOR, 12)

_PKTINFO_V4: Final = struct.Struct("@i4s4s")  # struct in_pktinfo: interface, our address, the header's destination
_PKTINFO_V6: Final = struct.Struct("@16sI")  # struct in6_pktinfo (RFC 3542, section 6.1): our address, interface
_NO_ADDRESS: Final = bytes(4)
_NAMES: Final = ("AF_INET6", "IPPROTO_IPV6", "IPV6_V6ONLY", "SO_EXCLUSIVEADDRUSE", "CMSG_SPACE")


@attrs.frozen(kw_only=True)
class Facts:
    """What decides about options.

    Attributes:
      system: as `sys.platform` has it.
      names: the constants that the `socket` module has, and 0 for functions that it has.
      has_recvmsg: whether sockets can tell and be told more than the datagram.
      has_ioctl: whether sockets have Windows' controls.
    """

    system: str
    names: Mapping[str, int]
    has_recvmsg: bool
    has_ioctl: bool


def facts_of(module: ModuleType = socket, system: str = sys.platform) -> Facts:
    """The facts of this system."""
    found = {name: getattr(module, name) for name in _NAMES if hasattr(module, name)}
    return Facts(
        system=system,
        names={name: value if isinstance(value, int) else 0 for name, value in found.items()},
        has_recvmsg=hasattr(module.socket, "recvmsg") and "CMSG_SPACE" in found,
        has_ioctl=hasattr(module.socket, "ioctl"),
    )


@attrs.frozen
class Option:
    """One option.

    Attributes:
      level: of the option.
      number: of the option.
      value: of the option.
      may_fail: whether the socket is of use without it.
    """

    level: int
    number: int
    value: int
    may_fail: bool = True


@attrs.frozen
class PacketInfo:
    """How a socket says to which of our addresses a datagram came, and is told from which to send.

    Attributes:
      request: what asks for it.
      level: of the piece of ancillary data.
      kind: of the same.
      is_v6: its format.
    """

    request: Option
    level: int
    kind: int
    is_v6: bool

    @property
    def size_bytes(self) -> int:
        """Of its data."""
        return (_PKTINFO_V6 if self.is_v6 else _PKTINFO_V4).size

    def read(self, data: bytes) -> tuple[str, int]:
        """Our address, numeric and without a scope, and the number of the interface."""
        if self.is_v6:
            packed, interface = _PKTINFO_V6.unpack(data)
            ip = ipaddress.IPv6Address(packed)
            return str(ip.ipv4_mapped or ip), interface
        interface, ours, destination = _PKTINFO_V4.unpack(data)
        # The first is what to answer from even when the datagram was a broadcast; macOS leaves it empty.
        return str(ipaddress.IPv4Address(destination if ours == _NO_ADDRESS else ours)), interface

    def write(self, local: str, interface: int) -> bytes:
        """The data that sends from our address ``local``; 0 leaves the interface to the routing table."""
        packed = ipaddress.ip_address(local).packed
        return _PKTINFO_V6.pack(packed, interface) if self.is_v6 else _PKTINFO_V4.pack(interface, packed, _NO_ADDRESS)


@attrs.frozen
class Plan:
    """What is to be done to a socket.

    Attributes:
      options: in order, before it is bound.
      packet_info: None where there is none, or where the socket has one address only.
      quiet_ioctl: a control that stops the system from reporting the losses of others as our errors; None for none.
    """

    options: tuple[Option, ...]
    packet_info: PacketInfo | None
    quiet_ioctl: int | None


def plan(facts: Facts, *, is_v6: bool, is_wildcard: bool) -> Plan:
    """Decide about a socket.

    Args:
      facts: of the system.
      is_v6: of the socket's family.
      is_wildcard: whether it will be bound to the unspecified address.
    """
    names, options = facts.names, []
    if is_v6 and "IPV6_V6ONLY" in names:
        # On a wildcard IPv4 comes in too, where the system lets us; OpenBSD never does.
        options.append(Option(names["IPPROTO_IPV6"], names["IPV6_V6ONLY"], 0 if is_wildcard else 1))
    if "SO_EXCLUSIVEADDRUSE" in names:
        # Else another program could bind the same port on Windows, and take our datagrams.
        options.append(Option(socket.SOL_SOCKET, names["SO_EXCLUSIVEADDRUSE"], 1, may_fail=False))
    packet_info = None
    if is_wildcard and facts.has_recvmsg and facts.system in (LINUX, MACOS):
        if is_v6:
            level = names["IPPROTO_IPV6"]
            request = Option(level, _IPV6_RECVPKTINFO[facts.system], 1)
            packet_info = PacketInfo(request, level, _IPV6_PKTINFO[facts.system], is_v6=True)
        else:
            number = _IP_PKTINFO[facts.system]
            request = Option(socket.IPPROTO_IP, number, 1)
            packet_info = PacketInfo(request, socket.IPPROTO_IP, number, is_v6=False)
    quiet = _SIO_UDP_CONNRESET if facts.system == WINDOWS and facts.has_ioctl else None
    return Plan(tuple(options), packet_info, quiet)


def apply(sock: socket.socket, todo: Plan) -> PacketInfo | None:
    """Do it, before the socket is bound.

    Returns:
      The packet information that will come.

    Raises:
      OSError: what the socket is of no use without was refused.
    """
    for option in todo.options:
        if not _set(sock, option) and not option.may_fail:
            raise OSError(errno.ENOPROTOOPT, "this system refuses what keeps others off the port")
    if todo.quiet_ioctl is not None:
        # CPython lets few controls through; without this one such an error is a counted loss.
        with contextlib.suppress(OSError, ValueError):
            sock.ioctl(todo.quiet_ioctl, False)  # type: ignore[attr-defined]  # Windows only
    info = todo.packet_info
    return info if info is not None and _set(sock, info.request) else None


def _set(sock: socket.socket, option: Option) -> bool:
    try:
        sock.setsockopt(option.level, option.number, option.value)
    except OSError:
        return False
    return True


def is_dual_stack(sock: socket.socket) -> bool:
    """Whether a bound IPv6 wildcard socket takes IPv4 too, as the system tells it."""
    try:
        return not sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    except OSError:
        return False


def ask_for_buffers(sock: socket.socket) -> int:
    """Ask for large buffers, and for half as much again and again where the system refuses; tell what is granted.

    Linux grants less without a word; macOS refuses what exceeds ``kern.ipc.maxsockbuf``.

    Returns:
      Bytes of the receiving one.
    """
    for number in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        size = BUFFER_BYTES
        while size >= BUFFER_BYTES_MIN:
            try:
                sock.setsockopt(socket.SOL_SOCKET, number, size)
                break
            except OSError as exc:
                if exc.errno not in (errno.ENOBUFS, errno.EINVAL):
                    raise
                size //= 2
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)

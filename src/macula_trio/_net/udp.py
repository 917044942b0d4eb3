"""Real UDP: the `macula_trio.abc.DatagramNetwork` of production.

A loss of one datagram (full buffer, too big, unreachable, not permitted) is counted and never the end of the
socket: QUIC sends again what matters (DESIGN section 6).
"""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Iterable
from typing import Final

import trio

from macula_trio._net.fragments import never_fragment
from macula_trio._store.memory import MemoryStorage
from macula_trio._util import Address, format_endpoint, is_numeric

BUFFER_BYTES: Final = 4 * 1024 * 1024  # asked for; a burst of a whole congestion window must fit
LARGE_BUFFER_BYTES: Final = 1024 * 1024  # granted at least this: 16,000-byte datagrams do not overrun it
BATCH_MAX: Final = 64  # datagrams taken before anybody else runs
_DATAGRAM_BYTES_MAX: Final = 65535


class UdpSocket:
    """One bound UDP socket, driven without waiting but for `wait_readable`."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._closed = False
        self._lost = 0
        host, port = sock.getsockname()[:2]
        self._address: Address = (host, port)
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)
        never_fragment(sock)
        self._large = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) >= LARGE_BUFFER_BYTES

    @property
    def address(self) -> Address:
        """Where it is bound."""
        return self._address

    @property
    def datagrams_lost(self) -> int:
        """Datagrams that the system did not take, or whose loss it reported."""
        return self._lost

    @property
    def large_datagrams(self) -> bool:
        """Whether the system granted large buffers."""
        return self._large

    def recv_batch(self) -> list[tuple[bytes, Address]]:
        """Take at most 64 datagrams, without waiting."""
        batch: list[tuple[bytes, Address]] = []
        while len(batch) < BATCH_MAX:
            try:
                data, source = self._socket.recvfrom(_DATAGRAM_BYTES_MAX)
            except BlockingIOError:
                break
            except OSError:
                if self._closed:
                    raise trio.ClosedResourceError("socket was closed") from None
                self._lost += 1  # an ICMP error about an earlier datagram, or Windows' connection reset
                break
            batch.append((data, (source[0], source[1])))
        return batch

    def send_batch(self, datagrams: Iterable[tuple[bytes, Address]]) -> None:
        """Send now or count as lost."""
        for data, target in datagrams:
            try:
                self._socket.sendto(data, target)
            except OSError:
                self._lost += 1

    async def wait_readable(self) -> None:
        """Wait for a datagram.

        Raises:
          trio.ClosedResourceError: somebody closed the socket.
        """
        if self._closed:
            raise trio.ClosedResourceError("socket was closed")
        await trio.lowlevel.wait_readable(self._socket)

    def close(self) -> None:
        """Give the port back."""
        if not self._closed:
            self._closed = True
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()


class UdpNetwork:
    """The system's UDP, names and clock."""

    async def bind(self, address: Address) -> UdpSocket:
        """Open a socket on a numeric address.

        Raises:
          OSError: in use, not ours, or not permitted; the message names the address.
        """
        await trio.lowlevel.checkpoint()
        host, _ = address
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            sock.bind(address)
            return UdpSocket(sock)
        except OSError as exc:
            sock.close()
            reason = exc.strerror or str(exc)
            raise OSError(exc.errno, f"cannot listen on {format_endpoint(address)}: {reason}") from None

    async def resolve(self, host: str, *, like: str | None = None) -> str:
        """Ask the system's resolver; numeric addresses need none.

        Args:
          host: a name or an address.
          like: a numeric address of the family that is wanted.

        Raises:
          OSError: no such name; the message names it.
        """
        if is_numeric(host):
            await trio.lowlevel.checkpoint()
            return host
        try:
            family = socket.AF_UNSPEC if like is None else socket.AF_INET6 if ":" in like else socket.AF_INET
            found = await trio.socket.getaddrinfo(host, None, family=family, type=socket.SOCK_DGRAM)
        except OSError as exc:
            raise OSError(exc.errno, f"cannot find host {host!r}: {exc.strerror or exc}") from None
        except UnicodeError as exc:  # from the idna codec: a label that is empty or too long
            raise OSError(errno.EINVAL, f"cannot find host {host!r}: not a host name") from exc
        return str(found[0][4][0])

    def source_host(self, peer: Address) -> str:
        """Ask the routing table; connecting a UDP socket sends nothing.

        Raises:
          OSError: no route.
        """
        family = socket.AF_INET6 if ":" in peer[0] else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect(peer)
            return str(sock.getsockname()[0])

    def wall_clock_ms(self) -> int:
        """Unix time in milliseconds."""
        return time.time_ns() // 1_000_000

    async def open_storage(self, name: str) -> MemoryStorage:
        """In memory: nothing outlives the process yet."""
        await trio.lowlevel.checkpoint()
        return MemoryStorage()

"""Real UDP: the `macula_trio.abc.DatagramNetwork` of production.

A loss of one datagram (full buffer, too big, unreachable, not permitted) is counted and never the end of the
socket: QUIC sends again what matters (DESIGN section 6).
"""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Iterable, Sequence
from typing import Final

import trio

from macula_trio._net.families import obstacle
from macula_trio._net.fragments import never_fragment
from macula_trio._net.paths import (
    from_system,
    interface_number,
    to_system,
    ways,
    with_known_scope,
)
from macula_trio._net.socket_options import (
    LARGE_BUFFER_BYTES,
    PacketInfo,
    apply,
    ask_for_buffers,
    facts_of,
    is_dual_stack,
    plan,
)
from macula_trio._store.memory import MemoryStorage
from macula_trio._util import (
    Address,
    Path,
    format_endpoint,
    is_link_local,
    is_numeric,
    is_unspecified,
    numeric_host,
    scope_of,
)
from macula_trio.abc import DatagramNetwork, DatagramSocket

BATCH_MAX: Final = 64  # datagrams taken before anybody else runs
ERROR_PAUSE_MIN_S: Final = 0.001  # of a socket that gives nothing but errors, and yet is readable
ERROR_PAUSE_MAX_S: Final = 1.0
_DOUBLINGS_MAX: Final = 10  # from the one to the other

# What systems say less well than we can.
_REASONS: Final = {
    errno.EADDRNOTAVAIL: "it is not an address of this machine",
    errno.EAFNOSUPPORT: "this system has no IPv6",
    errno.EACCES: "not permitted; ports below 1024 need privileges",
}


class UdpSocket:
    """One bound UDP socket, driven without waiting but for `wait_readable`.

    Args:
      sock: bound and non-blocking; closed with this.
      packet_info: what it says beside its datagrams, if anything.
    """

    def __init__(self, sock: socket.socket, packet_info: PacketInfo | None = None) -> None:
        self._socket = sock
        self._closed = trio.Event()
        self._lost = 0
        self._failures = 0  # times in a row that it gave errors only
        self._address = from_system(sock.getsockname())
        self._is_dual = is_unspecified(self._address[0]) and is_dual_stack(sock)
        never_fragment(sock)
        self._large = ask_for_buffers(sock) >= LARGE_BUFFER_BYTES
        self._receive, self._send = ways(sock, packet_info)

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

    def obstacle(self, host: str) -> str | None:
        """Another family, or an interface that there is not."""
        found = obstacle(self._address, host, is_dual=self._is_dual)
        scope = scope_of(host)
        if found is None and scope is not None:
            try:
                interface_number(scope)
            except OSError as exc:
                return exc.strerror
        return found

    def recv_batch(self) -> list[tuple[bytes, Path]]:
        """Take at most 64 datagrams, without waiting."""
        batch: list[tuple[bytes, Path]] = []
        has_failed = False
        for _ in range(BATCH_MAX):
            try:
                batch.append(self._receive())
            except BlockingIOError:
                break
            except OSError:
                if self._closed.is_set():
                    raise trio.ClosedResourceError("socket was closed") from None
                has_failed = True
                self._lost += 1  # an ICMP error about an earlier datagram, or Windows' connection reset
        self._failures = self._failures + 1 if has_failed and not batch else 0
        return batch

    def send_batch(self, datagrams: Iterable[tuple[bytes, Path]]) -> None:
        """Send now or count as lost."""
        send = self._send
        for data, path in datagrams:
            try:
                send(data, path)
            except OSError:
                self._lost += 1

    async def wait_readable(self) -> None:
        """Wait for a datagram; for a while, when there were errors in the place of datagrams.

        Raises:
          trio.ClosedResourceError: somebody closed the socket.
        """
        if self._failures:
            # An error that stays would have whoever reads here do nothing else.
            pause_s = min(ERROR_PAUSE_MIN_S * 2 ** min(self._failures - 1, _DOUBLINGS_MAX), ERROR_PAUSE_MAX_S)
            with trio.move_on_after(pause_s):
                await self._closed.wait()
        if self._closed.is_set():
            raise trio.ClosedResourceError("socket was closed")
        await trio.lowlevel.wait_readable(self._socket)

    def close(self) -> None:
        """Give the port back."""
        if not self._closed.is_set():
            self._closed.set()
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()


class UdpNetwork:
    """The system's UDP, names and clock."""

    async def bind(self, address: Address) -> UdpSocket:
        """Open a socket on a numeric address: on ``::`` for IPv4 and IPv6 where the system lets us, else for one.

        Raises:
          OSError: in use, not ours, not permitted, or of a family or interface that is not here; the message names
            the address and the reason.
        """
        await trio.lowlevel.checkpoint()
        try:
            return _open(address)
        except OSError as exc:
            reason = _REASONS.get(exc.errno or 0) or exc.strerror or str(exc)
            raise OSError(exc.errno, f"cannot listen on {format_endpoint(address)}: {reason}") from None

    async def resolve(self, host: str) -> Sequence[str]:
        """Ask the system's resolver; numeric addresses need none.

        Raises:
          OSError: no such name, or one without an address; the message names it.
        """
        if is_numeric(host):
            await trio.lowlevel.checkpoint()
            return [with_known_scope(numeric_host(host))]
        try:
            found = await trio.socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM)
        except OSError as exc:
            raise socket.gaierror(exc.errno, f"cannot find host {host!r}: {exc.strerror or exc}") from None
        except UnicodeError as exc:  # from the idna codec: a label that is empty or too long
            raise OSError(errno.EINVAL, f"cannot find host {host!r}: not a host name") from exc
        return list(dict.fromkeys(from_system(entry[4])[0] for entry in found))

    def source_host(self, peer: Address) -> str:
        """Ask the routing table; connecting a UDP socket sends nothing.

        Raises:
          OSError: no route.
        """
        is_v6 = ":" in peer[0]
        with socket.socket(socket.AF_INET6 if is_v6 else socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect(to_system(peer, is_v6=is_v6))
            return from_system(sock.getsockname())[0]

    def wall_clock_ms(self) -> int:
        """Unix time in milliseconds."""
        return time.time_ns() // 1_000_000

    async def open_storage(self, name: str) -> MemoryStorage:
        """In memory: nothing outlives the process yet."""
        await trio.lowlevel.checkpoint()
        return MemoryStorage()


def _open(address: Address) -> UdpSocket:
    host, _ = address
    is_v6 = ":" in host
    if is_link_local(host) and scope_of(host) is None:
        raise OSError(errno.EINVAL, f"a link-local address needs its interface, such as {host}%eth0")
    sock = socket.socket(socket.AF_INET6 if is_v6 else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        packet_info = apply(sock, plan(facts_of(), is_v6=is_v6, is_wildcard=is_unspecified(host)))
        sock.bind(to_system(address, is_v6=is_v6))
        return UdpSocket(sock, packet_info)
    except OSError:
        sock.close()
        raise


def _conforms(network: UdpNetwork, bound: UdpSocket) -> tuple[DatagramNetwork, DatagramSocket]:
    return network, bound  # mypy proves it

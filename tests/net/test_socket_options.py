"""What is asked of a socket on Linux, macOS and Windows: decided from facts, so that all three are tested on one."""

from __future__ import annotations

import errno
import socket
import struct
import sys
from types import ModuleType, SimpleNamespace
from typing import Any, Final, cast

import pytest
import trio

from macula_trio._net.socket_options import (
    BUFFER_BYTES,
    BUFFER_BYTES_MIN,
    LINUX,
    MACOS,
    WINDOWS,
    Facts,
    Option,
    PacketInfo,
    apply,
    ask_for_buffers,
    facts_of,
    is_dual_stack,
    plan,
)
from macula_trio._net.udp import BATCH_MAX, ERROR_PAUSE_MAX_S, ERROR_PAUSE_MIN_S, UdpSocket

V6: Final = {"AF_INET6": 10, "IPPROTO_IPV6": 41}
FACTS: Final = {
    # What Python 3.11 has there; its socket module has IP_PKTINFO nowhere.
    LINUX: Facts(system=LINUX, names=V6 | {"IPV6_V6ONLY": 26, "CMSG_SPACE": 0}, has_recvmsg=True, has_ioctl=False),
    MACOS: Facts(system=MACOS, names=V6 | {"IPV6_V6ONLY": 27, "CMSG_SPACE": 0}, has_recvmsg=True, has_ioctl=False),
    WINDOWS: Facts(
        system=WINDOWS,
        names=V6 | {"IPV6_V6ONLY": 27, "SO_EXCLUSIVEADDRUSE": -5},
        has_recvmsg=False,
        has_ioctl=True,
    ),
}
SYSTEMS: Final = sorted(FACTS)


class FakeSocket:
    """Takes options as a system does: refuses some, and grants buffers up to a size."""

    def __init__(self, *, refused: dict[int, int] | None = None, buffer_bytes_max: int = 1 << 30) -> None:
        self.options: list[tuple[int, int, int]] = []
        self.ioctls: list[tuple[int, object]] = []
        self.granted = 212_992
        self._refused = refused or {}
        self._buffer_bytes_max = buffer_bytes_max

    def setsockopt(self, level: int, number: int, value: int) -> None:
        if number in self._refused:
            raise OSError(self._refused[number], "no")
        if level == socket.SOL_SOCKET and number in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            if value > self._buffer_bytes_max:
                raise OSError(errno.ENOBUFS, "No buffer space available")
            self.granted = value
        self.options.append((level, number, value))

    def getsockopt(self, level: int, number: int) -> int:
        if number in self._refused:
            raise OSError(self._refused[number], "no")
        return self.granted

    def ioctl(self, number: int, value: object) -> None:
        if number in self._refused:
            raise ValueError(f"invalid ioctl command {number}")
        self.ioctls.append((number, value))


def applied(fake: FakeSocket, facts: Facts, *, is_v6: bool, is_wildcard: bool) -> PacketInfo | None:
    return apply(cast(socket.socket, fake), plan(facts, is_v6=is_v6, is_wildcard=is_wildcard))


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_socket_on_one_address_asks_for_nothing_but_its_own_family(system: str) -> None:
    exclusive = [(socket.SOL_SOCKET, -5, 1)] if system == WINDOWS else []
    fake = FakeSocket()
    assert applied(fake, FACTS[system], is_v6=False, is_wildcard=False) is None
    assert fake.options == exclusive
    fake = FakeSocket()
    assert applied(fake, FACTS[system], is_v6=True, is_wildcard=False) is None
    assert fake.options == [(41, FACTS[system].names["IPV6_V6ONLY"], 1), *exclusive]


@pytest.mark.parametrize(
    ("system", "is_v6", "options", "kind"),
    [
        (LINUX, False, [(0, 8, 1)], (0, 8)),
        (LINUX, True, [(41, 26, 0), (41, 49, 1)], (41, 50)),
        (MACOS, False, [(0, 26, 1)], (0, 26)),
        (MACOS, True, [(41, 27, 0), (41, 61, 1)], (41, 46)),
        (WINDOWS, False, [(socket.SOL_SOCKET, -5, 1)], None),
        (WINDOWS, True, [(41, 27, 0), (socket.SOL_SOCKET, -5, 1)], None),
    ],
)
def test_a_wildcard_takes_both_families_and_asks_for_packet_information_where_python_can_read_it(
    system: str, is_v6: bool, options: list[tuple[int, int, int]], kind: tuple[int, int] | None
) -> None:
    fake = FakeSocket()
    info = applied(fake, FACTS[system], is_v6=is_v6, is_wildcard=True)
    assert fake.options == options
    assert (None if info is None else (info.level, info.kind)) == kind


def test_a_system_that_nobody_has_tried_gets_no_packet_information() -> None:
    facts = Facts(system="sunos5", names={"CMSG_SPACE": 0}, has_recvmsg=True, has_ioctl=False)
    for is_v6 in (False, True):
        assert plan(facts, is_v6=is_v6, is_wildcard=True).packet_info is None
        assert plan(facts, is_v6=is_v6, is_wildcard=True).options == ()


def test_windows_is_asked_not_to_report_the_losses_of_others_and_may_refuse() -> None:
    fake = FakeSocket()
    applied(fake, FACTS[WINDOWS], is_v6=False, is_wildcard=True)
    assert fake.ioctls == [(0x9800000C, False)]
    applied(FakeSocket(refused={0x9800000C: 0}), FACTS[WINDOWS], is_v6=False, is_wildcard=True)
    for system in (LINUX, MACOS):
        fake = FakeSocket()
        applied(fake, FACTS[system], is_v6=False, is_wildcard=True)
        assert fake.ioctls == []


def test_what_is_refused_is_done_without_unless_others_could_take_our_port() -> None:
    fake = FakeSocket(refused={26: errno.EINVAL, 49: errno.ENOPROTOOPT})
    assert applied(fake, FACTS[LINUX], is_v6=True, is_wildcard=True) is None
    assert fake.options == []
    with pytest.raises(OSError, match="keeps others off the port"):
        applied(FakeSocket(refused={-5: errno.EINVAL}), FACTS[WINDOWS], is_v6=False, is_wildcard=False)


@pytest.mark.parametrize("most", [BUFFER_BYTES, BUFFER_BYTES - 1, 1 << 20, BUFFER_BYTES_MIN])
def test_buffers_are_asked_for_by_halves_until_the_system_grants_them(most: int) -> None:
    granted = ask_for_buffers(cast(socket.socket, FakeSocket(buffer_bytes_max=most)))
    assert most / 2 < granted <= most


def test_a_system_that_grants_no_buffer_keeps_its_own() -> None:
    assert ask_for_buffers(cast(socket.socket, FakeSocket(buffer_bytes_max=0))) == 212_992
    with pytest.raises(OSError, match="no"):
        ask_for_buffers(cast(socket.socket, FakeSocket(refused={socket.SO_RCVBUF: errno.EBADF})))


def test_a_socket_that_cannot_say_whether_it_takes_ipv4_does_not() -> None:
    assert not is_dual_stack(cast(socket.socket, FakeSocket(refused={socket.IPV6_V6ONLY: errno.ENOPROTOOPT})))
    fake = FakeSocket()
    fake.granted = 0
    assert is_dual_stack(cast(socket.socket, fake))


@pytest.mark.parametrize("is_v6", [False, True])
def test_packet_information_is_read_as_it_is_written(is_v6: bool) -> None:
    info = PacketInfo(Option(0, 0, 1), 0, 0, is_v6=is_v6)
    local = "fe80::7" if is_v6 else "192.0.2.7"
    data = info.write(local, 5)
    assert len(data) == info.size_bytes == (20 if is_v6 else 12)
    assert info.read(data) == (local, 5)


def test_an_answer_to_a_broadcast_leaves_from_our_own_address_but_macos_does_not_tell_it() -> None:
    info = PacketInfo(Option(0, 0, 1), 0, 0, is_v6=False)
    ours, destination = socket.inet_aton("192.0.2.7"), socket.inet_aton("192.0.2.255")
    assert info.read(struct.pack("@i4s4s", 2, ours, destination)) == ("192.0.2.7", 2)
    assert info.read(struct.pack("@i4s4s", 2, bytes(4), ours)) == ("192.0.2.7", 2)


def test_the_facts_are_those_of_the_module() -> None:
    found = facts_of()
    assert found.system == sys.platform
    assert found.names["IPPROTO_IPV6"] == socket.IPPROTO_IPV6
    bare = facts_of(cast(ModuleType, SimpleNamespace(socket=object)), "plan9")
    assert bare == Facts(system="plan9", names={}, has_recvmsg=False, has_ioctl=False)


class Troubled:
    """A socket that is readable and gives an error, for as long as a test likes."""

    family = socket.AF_INET

    def __init__(self) -> None:
        self.error: OSError | None = ConnectionResetError(10054, "An existing connection was forcibly closed")
        self.reads = 0
        self.waits = 0

    def __getattr__(self, name: str) -> Any:
        return {
            "getsockname": lambda: ("127.0.0.1", 9443),
            "setsockopt": lambda *_: None,
            "getsockopt": lambda *_: 0,
            "sendto": lambda *_: None,
            "close": lambda: None,
        }[name]

    def recvfrom(self, _size: int) -> tuple[bytes, tuple[str, int]]:
        self.reads += 1
        if self.error is not None:
            raise self.error
        if self.reads % 2:
            raise BlockingIOError
        return b"x", ("127.0.0.1", 1)


async def test_an_error_that_stays_is_waited_out_longer_and_longer(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def readable(_sock: object) -> None:
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr("trio.lowlevel.wait_readable", readable)
    monkeypatch.setattr("trio.lowlevel.notify_closing", lambda _sock: None)
    fake = Troubled()
    udp = UdpSocket(cast(socket.socket, fake))
    pauses = []
    for _ in range(16):
        started = trio.current_time()
        await udp.wait_readable()
        pauses.append(trio.current_time() - started)
        assert udp.recv_batch() == []
    assert pauses[:4] == pytest.approx([0, ERROR_PAUSE_MIN_S, 2 * ERROR_PAUSE_MIN_S, 4 * ERROR_PAUSE_MIN_S])
    assert pauses[-1] == pytest.approx(ERROR_PAUSE_MAX_S)
    assert udp.datagrams_lost == fake.reads == 16 * BATCH_MAX

    fake.error, fake.reads = None, 1
    assert udp.recv_batch() == [(b"x", ("127.0.0.1", 1))]
    started = trio.current_time()
    await udp.wait_readable()
    assert trio.current_time() == started  # it has recovered

    fake.error = OSError(errno.ENETDOWN, "Network is down")
    udp.recv_batch()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait_for_the_end, udp)
        await trio.testing.wait_all_tasks_blocked()
        udp.close()
    assert trio.current_time() == started  # nor does a pause outlive the socket


async def wait_for_the_end(udp: UdpSocket) -> None:
    with pytest.raises(trio.ClosedResourceError):
        await udp.wait_readable()

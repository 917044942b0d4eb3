"""Datagrams are sent whole or not at all: which options say so, and that they do."""

from __future__ import annotations

import socket
import sys
from typing import cast

import pytest
import trio

from macula_trio._net.datagram_sizes import DATAGRAM_BYTES_LOOPBACK
from macula_trio._net.fragments import never_fragment, options_against_fragments
from macula_trio._net.udp import UdpNetwork

V4, V6 = socket.AF_INET, socket.AF_INET6
IP, IPV6 = socket.IPPROTO_IP, socket.IPPROTO_IPV6


class FakeSocket:
    """Remembers its options, and refuses those of some levels."""

    def __init__(self, family: int, *, refuses: tuple[int, ...] = ()) -> None:
        self.family = family
        self.refuses = refuses
        self.options: list[tuple[int, int, int]] = []

    def setsockopt(self, level: int, name: int, value: int) -> None:
        if level in self.refuses:
            raise OSError(22, "Invalid argument")
        self.options.append((level, name, value))

    def never_fragment(self, platform: str) -> list[tuple[int, int, int]]:
        never_fragment(cast(socket.socket, self), platform=platform)
        return self.options


# Written out from the headers of each system, not from the code.
@pytest.mark.parametrize(
    ("platform", "for_v4", "for_v6"),
    [
        ("linux", (IP, 10, 3), (IPV6, 23, 3)),
        ("darwin", (IP, 28, 1), (IPV6, 62, 1)),
        ("win32", (IP, 14, 1), (IPV6, 14, 1)),
        ("freebsd14", (IP, 67, 1), (IPV6, 62, 1)),
    ],
)
def test_each_system_is_told_in_its_own_words(
    platform: str, for_v4: tuple[int, int, int], for_v6: tuple[int, int, int]
) -> None:
    assert options_against_fragments(platform, V4) == [for_v4]
    assert options_against_fragments(platform, V6) == [for_v6, for_v4]
    assert FakeSocket(V4).never_fragment(platform) == [for_v4]
    assert FakeSocket(V6).never_fragment(platform) == [for_v6, for_v4]
    assert FakeSocket(V6, refuses=(IP,)).never_fragment(platform) == [for_v6], "what it refuses it goes without"
    assert FakeSocket(V6, refuses=(IP, IPV6)).never_fragment(platform) == []


def test_a_system_that_nobody_has_looked_at_is_left_alone() -> None:
    assert options_against_fragments("sunos5", V4) == options_against_fragments("sunos5", V6) == []


@pytest.mark.skipif(sys.platform != "linux", reason="reads the options back, which Linux names so")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_real_sockets_are_told_and_still_carry_the_large_datagrams_of_loopback(host: str) -> None:
    network = UdpNetwork()
    try:
        one, two = await network.bind((host, 0)), await network.bind((host, 0))
    except OSError as exc:
        pytest.skip(f"no {host} here: {exc}")
    try:
        assert one._socket.getsockopt(IP, 10) == 3
        if ":" in host:
            assert one._socket.getsockopt(IPV6, 23) == 3
        one.send_batch([(bytes(DATAGRAM_BYTES_LOOPBACK), two.address)])
        with trio.fail_after(5):
            await two.wait_readable()
        assert [len(data) for data, _ in two.recv_batch()] == [DATAGRAM_BYTES_LOOPBACK]
        assert one.datagrams_lost == 0
        one.send_batch([(bytes(65_536), two.address), (b"small", two.address)])
        assert one.datagrams_lost == 1, "what cannot be sent is a loss, and ends nothing"
        with trio.fail_after(5):
            await two.wait_readable()
        assert two.recv_batch() == [(b"small", one.address)]
    finally:
        one.close()
        two.close()

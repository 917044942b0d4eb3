"""Real nodes on real paths that carry less than their datagrams: two hosts, and routers between them.

Hosts have an MTU of 1500, the routers between them 1400 on their link.  Root makes the namespaces.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import trio
from netns_tools import Namespace, connect, open_namespaces, require_namespaces

pytestmark = [pytest.mark.processes, pytest.mark.long]

PATIENCE_S: Final = 50
NODE: Final = str(Path(__file__).with_name("netns_node.py"))
PORT: Final = 9443

# Of one host, the first router on both sides, the second router on both sides, the other host.
ADDRESSES: Final = {
    "IPv4": ("10.71.1.1", "10.71.1.2", "10.71.2.1", "10.71.2.2", "10.71.3.1", "10.71.3.2"),
    "IPv6": ("fd71:1::1", "fd71:1::2", "fd71:2::1", "fd71:2::2", "fd71:3::1", "fd71:3::2"),
}


@contextmanager
def open_path(family: str, *, tells: bool) -> Iterator[tuple[Namespace, str, Namespace, str]]:
    """Two hosts with their addresses.

    Args:
      family: ``IPv4`` or ``IPv6``.
      tells: whether the routers say by ICMP that something was too large, as those behind many firewalls do not.
    """
    one, first, second, third, fourth, other = ADDRESSES[family]
    bits = "64" if family == "IPv6" else "24"
    with open_namespaces(4) as (host, router, next_router, far_host):
        connect(host, f"{one}/{bits}", router, f"{first}/{bits}")
        connect(router, f"{second}/{bits}", next_router, f"{third}/{bits}", mtu=1400)
        connect(next_router, f"{fourth}/{bits}", far_host, f"{other}/{bits}")
        host.ip("route", "add", "default", "via", first)
        far_host.ip("route", "add", "default", "via", fourth)
        router.ip("route", "add", "default", "via", third)
        next_router.ip("route", "add", "default", "via", second)
        for each in (router, next_router):
            each.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
            if not tells:  # what it would say itself has no route; ``lo`` stands for its own packets
                protocol, version = ("ipv6-icmp", "-6") if family == "IPv6" else ("icmp", "-4")
                each.ip(version, "rule", "add", "pref", "5", "iif", "lo", "ipproto", protocol, "blackhole")
        yield host, one, far_host, other


class Child:
    """A node in a namespace."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._read = b""

    async def line(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        while b"\n" not in self._read:
            some = await self._process.stdout.receive_some()
            assert some, f"it has ended, with {await self._process.wait()}"
            self._read += some
        line, _, self._read = self._read.partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        return found

    async def stop(self) -> dict[str, Any]:
        assert self._process.stdin is not None
        await self._process.stdin.aclose()
        last = await self.line()
        assert await self._process.wait() == 0
        return last


@asynccontextmanager
async def open_child(namespace: Namespace, *arguments: str) -> AsyncGenerator[Child, None]:
    command = namespace.command(sys.executable, NODE, *arguments)
    process = await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield Child(process)
    finally:
        process.kill()  # nothing happens when it has ended
        with trio.CancelScope(shield=True):
            await process.wait()
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            await trio.aclose_forcefully(stream)


def endpoint(address: str) -> str:
    return f"[{address}]:{PORT}" if ":" in address else f"{address}:{PORT}"


async def call_across(host: Namespace, address: str, far_host: Namespace, far_address: str) -> dict[str, Any]:
    """Have a node on the one call one on the other; gives what the caller said."""
    async with open_child(far_host, "provide", endpoint(far_address)) as provider:
        assert (await provider.line())["endpoint"] == endpoint(far_address)
        async with open_child(host, "call", endpoint(address), endpoint(far_address)) as caller:
            said = await caller.line()
            assert said["result"] == 5
            assert said["large"] is True
        await provider.stop()
        return said


@pytest.fixture(autouse=True)
def namespaces() -> None:
    require_namespaces()


@pytest.mark.parametrize("tells", [True, False], ids=["routers tell", "routers are silent"])
@pytest.mark.parametrize("family", list(ADDRESSES))
async def test_a_call_gets_through_a_path_of_1400_bytes(family: str, tells: bool) -> None:
    with trio.fail_after(PATIENCE_S), open_path(family, tells=tells) as (host, address, far_host, far_address):
        said = await call_across(host, address, far_host, far_address)
        assert said["raced"] == 1, "the small one was needed, once"
        assert said["datagrams_lost"] == 0, "and no ICMP error came up to the socket"
        ip, told = ("Ip6", "Icmp6InPktTooBigs") if family == "IPv6" else ("Ip", "IcmpInDestUnreachs")
        for each in (host, far_host):
            counted = each.counters()
            assert counted[f"{ip}FragCreates"] == counted[f"{ip}ReasmReqds"] == 0, "nothing travels in pieces"
        assert (host.counters()[told] > 0) == tells, "the test bed does what it promises"


async def test_a_datagram_above_the_mtu_of_our_own_interface_is_a_counted_loss() -> None:
    with trio.fail_after(PATIENCE_S), open_namespaces(2) as (host, far_host):
        connect(host, "10.72.0.1/24", far_host, "10.72.0.2/24", mtu=1400)
        said = await call_across(host, "10.72.0.1", far_host, "10.72.0.2")
        assert said["raced"] == 1
        assert said["datagrams_lost"] >= 2, "the first one and what was sent again of it"
        assert host.counters()["IpFragCreates"] == 0


async def test_ordinary_paths_and_loopback_are_taken_as_they_are() -> None:
    with trio.fail_after(PATIENCE_S), open_namespaces(2) as (host, far_host):
        connect(host, "10.73.0.1/24", far_host, "10.73.0.2/24")
        said = await call_across(host, "10.73.0.1", far_host, "10.73.0.2")
        assert (said["raced"], said["datagrams_lost"]) == (0, 0)
        said = await call_across(host, "127.0.0.1", host, "127.0.0.2")
        assert (said["raced"], said["datagrams_lost"]) == (0, 0)

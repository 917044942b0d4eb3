"""Nodes on machines with interfaces of their own: link-local addresses, and addresses that go and come back."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import attrs
import pytest
import trio
from netns_tools import Namespace, open_namespaces, require_namespaces

pytestmark = [pytest.mark.processes, pytest.mark.long]

NODE: Final = Path(__file__).with_name("interface_node.py")
PATIENCE_S: Final = 40
READS_MAX: Final = 5000  # of a quiet node in some ten seconds it is a few hundred; in circles it would be a million
REALM: Final = "org.example.interfaces"
QUICK: Final = {"realm": REALM, "keepalive_s": 0.5, "join_deadline_s": 0.2, "query_deadline_s": 0.5}


@attrs.define(eq=False)
class Remote:
    """A node on another machine."""

    process: trio.Process
    facts: dict[str, Any] = attrs.field(factory=dict)
    _unread: bytes = b""

    async def ask(self, operation: str, *arguments: object) -> dict[str, Any]:
        assert self.process.stdin is not None
        await self.process.stdin.send_all(json.dumps([operation, *arguments]).encode() + b"\n")
        return await self.line()

    async def get(self, operation: str, *arguments: object) -> Any:
        answer = await self.ask(operation, *arguments)
        assert "answer" in answer, answer
        return answer["answer"]

    async def line(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        with trio.fail_after(PATIENCE_S):
            await trio.lowlevel.checkpoint()
            while b"\n" not in self._unread:
                chunk = await self.process.stdout.receive_some()
                assert chunk, "the node has ended"
                self._unread += chunk
        line, _, self._unread = self._unread.partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        return found

    async def until(self, wanted: Any, operation: str, *arguments: object) -> None:
        """Ask again and again, until the answer is the wanted one."""
        with trio.fail_after(PATIENCE_S):
            while (answer := (await self.ask(operation, *arguments)).get("answer")) != wanted:
                assert self.process.returncode is None, answer
                await trio.sleep(0.1)


@asynccontextmanager
async def open_remote(machine: Namespace, procedure: str, **config: object) -> AsyncGenerator[Remote, None]:
    """Run a node on a machine; it must end in peace."""
    command = machine.command(sys.executable, str(NODE), json.dumps(QUICK | config), procedure)
    process = await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        remote = Remote(process)
        remote.facts = await remote.line()
        yield remote
        await process.stdin.aclose()
        with trio.fail_after(PATIENCE_S):
            assert await process.wait() == 0
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            await process.stdin.aclose()
            await process.stdout.aclose()


@pytest.fixture
def machines() -> Iterator[list[Namespace]]:
    """Two machines with a cable between ``left`` on the one and ``right`` on the other."""
    require_namespaces()
    with open_namespaces(2) as (one, two):
        one.ip("link", "add", "left", "type", "veth", "peer", "name", "right", "netns", two.name)
        for machine, end, number in ((one, "left", 1), (two, "right", 2)):
            machine.ip("link", "set", end, "addrgenmode", "none")
            machine.ip("link", "set", end, "up")
            machine.ip("address", "add", f"10.77.0.{number}/24", "dev", end)
            # Without the search for duplicates, which takes a second before an address can be used.
            for address in (f"fe80::{number}/64", f"fd00:77::{number}/64"):
                machine.ip("address", "add", address, "dev", end, "nodad")
        yield [one, two]


@pytest.mark.parametrize("listen", ["[fe80::1%NUMBER]:9443", "[::]:9443"])
async def test_nodes_meet_by_link_local_addresses(listen: str, machines: list[Namespace]) -> None:
    one, two = machines
    number = one.ip("-o", "link", "show", "left").partition(":")[0]
    async with (
        open_remote(one, "test.gate", listen=listen.replace("NUMBER", number)) as gate,
        open_remote(two, "test.node", listen="[fe80::2%right]:9443", bootstrap=["[fe80::1%right]:9443"]) as node,
    ):
        if listen != "[::]:9443":
            assert gate.facts["ready"] == "[fe80::1]:9443"  # no interface is told
            await node.until(["[fe80::1%right]:9443"], "known")
        assert node.facts["ready"] == "[fe80::2]:9443"
        await gate.until(["[fe80::2%left]:9443"], "known")
        assert set(await gate.get("links")) == {"fe80::2%left"}
        await gate.until(5, "call", "test.node", 2, 3)
        await node.until(5, "call", "test.gate", 2, 3)
        unknown = await node.ask("ping", "[fe80::1%nowhere]:9443")
        assert unknown == {"error": "[fe80::1%nowhere]:9443 cannot be reached: this machine has no interface 'nowhere'"}
        unscoped = await node.ask("ping", "[fe80::1]:9443")
        assert "name the interface that leads there" in unscoped["error"]


@pytest.mark.parametrize(
    ("listen", "bootstrap", "fault"),
    [
        ("10.77.0.1:9443", "10.77.0.1:9443", "address"),
        ("[::]:9443", "10.77.0.1:9443", "link"),
        ("[::]:9443", "[fd00:77::1]:9443", "address"),
    ],
)
async def test_a_node_outlives_its_address_and_is_found_again_when_that_is_back(
    listen: str, bootstrap: str, fault: str, machines: list[Namespace]
) -> None:
    one, two = machines
    addresses = {"10.77.0.1/24": [], "fd00:77::1/64": ["nodad"]}
    async with (
        open_remote(one, "test.gate", listen=listen, advertise=bootstrap) as gate,
        open_remote(two, "test.node", listen="[::]:9443", bootstrap=[bootstrap]) as node,
    ):
        await node.until(5, "call", "test.gate", 2, 3)
        await node.until([bootstrap], "known")
        await gate.until(1, "known_count")
        lost = await gate.get("lost")
        if fault == "link":
            one.ip("link", "set", "left", "down")
        else:
            for address in addresses:
                one.ip("address", "del", address, "dev", "left")
        await node.until([], "known")
        await gate.until([], "known")
        assert await gate.get("lost") > lost
        assert await gate.get("reads") < READS_MAX  # an error that stays does not have it run in circles
        if fault == "link":
            one.ip("link", "set", "left", "up")
        for address, options in addresses.items():
            if fault == "address" or ":" in address:  # a link that goes down loses its IPv6 addresses
                one.ip("address", "add", address, "dev", "left", *options)
        await node.until([bootstrap], "known")
        await node.until(5, "call", "test.gate", 2, 3)
        await gate.until(1, "known_count")

"""Hosts and routers in network namespaces of this machine: real sockets, real routing, and nothing leaves it."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import attrs
import pytest

_numbers: Final = itertools.count()


def why_no_namespaces() -> str | None:
    """Why a test that wants them has to be skipped here, or None."""
    if sys.platform != "linux":
        return "network namespaces are Linux's"
    if os.geteuid() != 0:
        return "only root makes network namespaces"
    if shutil.which("ip") is None:
        return "there is no `ip` (iproute2) here"
    probe = f"probe-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"no network namespace is to be had: {made.stderr.strip()}"
    _ip("netns", "delete", probe)
    return None


def require_namespaces() -> None:
    """Skip the test that calls it where there are none."""
    reason = why_no_namespaces()
    if reason is not None:
        pytest.skip(reason)


@attrs.frozen
class Namespace:
    """One machine."""

    name: str

    def command(self, *command: str) -> list[str]:
        """What runs ``command`` on it, as the very process that is started."""
        return ["ip", "netns", "exec", self.name, *command]

    def run(self, *command: str) -> str:
        return _run(*self.command(*command))

    def ip(self, *arguments: str) -> str:
        return _ip("-n", self.name, *arguments)

    def counters(self) -> dict[str, int]:
        """What its kernel has counted: `/proc/net/snmp` (such as ``IpFragCreates``) and `snmp6`."""
        counted = {name: int(value) for name, value in map(str.split, self.run("cat", "/proc/net/snmp6").splitlines())}
        rows = [line.split() for line in self.run("cat", "/proc/net/snmp").splitlines()]
        for names, values in itertools.pairwise(rows):
            if names[0] == values[0] and not names[1].lstrip("-").isdigit():
                prefix = names[0].rstrip(":")
                counted |= {prefix + name: int(value) for name, value in zip(names[1:], values[1:], strict=True)}
        return counted


@contextmanager
def open_namespaces(count: int) -> Iterator[list[Namespace]]:
    """So many machines with nothing but loopback; they are gone afterwards, and their cables with them."""
    made: list[Namespace] = []
    try:
        for _ in range(count):
            namespace = Namespace(f"macula-{os.getpid()}-{next(_numbers)}")
            _ip("netns", "add", namespace.name)
            made.append(namespace)
            namespace.ip("link", "set", "lo", "up")
        yield made
    finally:
        for namespace in made:
            _ip("netns", "delete", namespace.name)


def connect(one: Namespace, one_address: str, other: Namespace, other_address: str, *, mtu: int = 1500) -> None:
    """Lay a cable between two machines; an address has the length of its network, such as ``10.0.0.1/24``."""
    ends = [f"veth{next(_numbers)}", f"veth{next(_numbers)}"]
    _ip(
        *("-n", one.name, "link", "add", ends[0], "mtu", str(mtu), "type", "veth"),
        *("peer", "name", ends[1], "mtu", str(mtu), "netns", other.name),
    )
    for namespace, end, address in ((one, ends[0], one_address), (other, ends[1], other_address)):
        duplicates = ["nodad"] if ":" in address else []  # else an address can be used only after a second
        namespace.ip("address", "add", address, "dev", end, *duplicates)
        namespace.ip("link", "set", end, "up")


def _ip(*arguments: str) -> str:
    return _run("ip", *arguments)


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}"
    return done.stdout

"""Machines made of network namespaces: real sockets and interfaces, and nothing leaves this one."""

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


def require_namespaces() -> None:
    """Skip the test that calls it where there are none."""
    if sys.platform != "linux":
        pytest.skip("network namespaces are Linux's")
    if os.geteuid() != 0:
        pytest.skip("only root makes network namespaces")
    if shutil.which("ip") is None:
        pytest.skip("there is no `ip` (iproute2) here")
    try:
        with open_namespaces(1):
            pass
    except AssertionError as exc:
        pytest.skip(f"no network namespace is to be had: {exc}")


@attrs.frozen
class Namespace:
    """One machine."""

    name: str

    def command(self, *command: str) -> list[str]:
        """What runs ``command`` on it, as the very process that is started."""
        return ["ip", "netns", "exec", self.name, *command]

    def ip(self, *arguments: str) -> str:
        """Change or show its interfaces."""
        return _ip("-n", self.name, *arguments)


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


def _ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr.strip()}"
    return done.stdout

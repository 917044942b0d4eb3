"""Whole meshes on a simulated network, for tests of applications and of this library."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import attrs
import trio

from macula_trio._config import NodeConfig
from macula_trio._identity.files import Identity
from macula_trio._node import Node
from macula_trio._open import open_node
from macula_trio.testing.network import SimNetwork


def sim_identity(number: int) -> Identity:
    """The identity of the n-th node of every simulated mesh: always the same."""
    return Identity.from_seed(hashlib.sha256(b"simulated node %d" % number).digest())


def sim_address(number: int) -> str:
    """The endpoint of the n-th node of every simulated mesh."""
    return f"10.0.{number >> 8}.{number & 255}:9443"


@asynccontextmanager
async def open_mesh(
    size: int,
    *,
    network: SimNetwork | None = None,
    config: NodeConfig | None = None,
    identity_of: Callable[[int], Identity] = sim_identity,
) -> AsyncGenerator[list[Node], None]:
    """Run ``size`` nodes for the length of the block; all but the first join by the first, and by nothing else.

    Nodes join one after another; entering returns when the last one has.  Use it under ``autojump_clock``.

    Args:
      size: number of nodes.
      network: a new `SimNetwork` by default.
      config: of every node, apart from ``listen``, ``bootstrap`` and ``role``.
      identity_of: gives the identity of the n-th node, from 1.
    """
    network = network or SimNetwork()
    base = config or NodeConfig(realm="org.example.test")
    async with AsyncExitStack() as stack:
        nodes: list[Node] = []
        for number in range(size):
            own = attrs.evolve(
                base,
                listen=sim_address(number + 1),
                bootstrap=() if not nodes else (sim_address(1),),
                role="edge" if nodes else "bootstrap",
            )
            node = await stack.enter_async_context(open_node(own, identity=identity_of(number + 1), network=network))
            nodes.append(node)
        yield nodes
        await trio.lowlevel.checkpoint()

"""A node of `test_narrow_networks.py`, in a namespace of its own: prints one line of JSON for each thing that it did.

As ``provide LISTEN`` it adds numbers until its standard input ends; as ``call LISTEN BOOTSTRAP`` it has them added,
sends a thousand times as much, and is done.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Final

import trio

import macula_trio as macula

REALM: Final = "org.example.test"
LARGE: Final = "x" * 200_000  # characters, so that full datagrams go both ways on the link that came of it


async def add(call: macula.Call) -> object:
    assert isinstance(call.args, dict)
    return call.args["a"] + call.args["b"]


def say(node: macula.Node, **facts: object) -> None:
    assert node._quic is not None
    counters = node._quic.counters
    shared: Mapping[str, object] = {
        "dialed": counters.connections_dialed,
        "raced": counters.connections_raced,
        "datagrams_lost": node._quic.datagrams_lost,
    }
    print(json.dumps({**shared, **facts}), flush=True)


async def provide(listen: str) -> None:
    async with macula.open_node(macula.NodeConfig(realm=REALM, listen=listen)) as node, node.advertise("math.add", add):
        say(node, endpoint=node.endpoint)
        await trio.lowlevel.wait_readable(sys.stdin)
        say(node)


async def call(listen: str, bootstrap: str) -> None:
    config = macula.NodeConfig(realm=REALM, listen=listen, bootstrap=(bootstrap,), require_bootstrap=True)
    async with macula.open_node(config) as node:
        result = await node.call("math.add", {"a": 2, "b": 3})
        large = await node.call("math.add", {"a": LARGE, "b": LARGE})
        say(node, result=result, large=large == LARGE + LARGE)


if __name__ == "__main__":
    trio.run({"provide": provide, "call": call}[sys.argv[1]], *sys.argv[2:])

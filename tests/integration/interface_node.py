"""A node in a process of its own, for tests of interfaces: does what it is asked line by line, answers in JSON.

Started with the fields of its `NodeConfig` as JSON and the name of a procedure, which it offers.  Asked by a list: an
operation and its arguments.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Any

import trio

import macula_trio as macula
from macula_trio import abc
from macula_trio._net.udp import UdpSocket

reads: list[float] = []  # when the socket was read, whether anything was there or not


async def add(call: macula.Call) -> object:
    """What it offers."""
    assert isinstance(call.args, dict)
    return call.args["a"] + call.args["b"]


def tell(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


def count_reads() -> None:
    recv_batch = UdpSocket.recv_batch

    def counted(sock: UdpSocket) -> Sequence[tuple[bytes, abc.Path]]:
        reads.append(trio.current_time())
        return recv_batch(sock)

    UdpSocket.recv_batch = counted  # type: ignore[assignment,method-assign]


async def answer(node: macula.Node, operation: str, *arguments: Any) -> object:
    if operation == "call":
        return await node.call(arguments[0], {"a": arguments[1], "b": arguments[2]})
    if operation == "known":
        return sorted(contact.endpoint for contact in node.known_nodes())
    if operation == "known_count":
        return len(node.known_nodes())
    if operation == "lost":
        return node.statistics().datagrams_lost
    if operation == "reads":
        return len(reads)
    if operation == "links":
        return [link.peer_host for link in node._registry.links]
    assert operation == "ping"
    contact, _ = await node.ping_endpoint(arguments[0])
    return contact.node_id.hex()


async def main() -> None:
    """Serve until the end of the input."""
    count_reads()
    async with (
        macula.open_node(macula.NodeConfig(**json.loads(sys.argv[1]))) as node,
        node.advertise(sys.argv[2], add),
    ):
        tell(ready=node.endpoint, node_id=node.node_id.hex())
        async for line in trio.lowlevel.FdStream(os.dup(0)):
            try:
                with trio.fail_after(5):
                    tell(answer=await answer(node, *json.loads(line)))
            except (macula.MeshError, trio.TooSlowError) as exc:
                tell(error=str(exc) or type(exc).__name__)


if __name__ == "__main__":
    trio.run(main)

"""One process of the demo: a node that does what its parent says, in JSON lines over stdin and stdout.

``{"id": 1, "do": "call", ...}`` in, ``{"id": 1, "result": ...}`` or ``{"id": 1, "error": "..."}`` out, and
``{"event": ..., "facts": {...}}`` for what happens in the node.  The first line in is its configuration, and where to
tell its ``health`` if anywhere; the first out is ``{"ready": {...}}``.  The end of stdin, however the parent ended,
ends the node.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Final

import trio

from macula_trio import Call, EventStream, MeshError, Node, NodeConfig, Reject, open_node
from macula_trio._util import format_endpoint, parse_endpoint

CHUNK_BYTES: Final = 65536
TABLE_POLL_S: Final = 0.1  # the table may also grow without an event
STDIN: Final = 0


async def add(call: Call) -> object:
    """The handler of the demo: ``{"a": ..., "b": ...}`` to their sum."""
    await trio.lowlevel.checkpoint()
    args = call.args
    if not isinstance(args, dict) or not {"a", "b"} <= args.keys():
        raise Reject("bad_args", "give a map with a and b")
    return args["a"] + args["b"]


class DemoNode:
    """Does what the parent asks, each request in a task of its own.

    Args:
      node: to do it with.
      nursery: of advertisements and subscriptions, which last until the end.
    """

    def __init__(self, node: Node, nursery: trio.Nursery) -> None:
        self._node = node
        self._nursery = nursery

    async def serve(self, request: Mapping[str, Any]) -> None:
        """Do one thing and answer."""
        await trio.lowlevel.checkpoint()
        try:
            result = await getattr(self, f"do_{request['do']}")(request)
        except (MeshError, OSError, ValueError) as exc:
            tell({"id": request["id"], "error": f"{type(exc).__name__}: {exc}"})
        else:
            tell({"id": request["id"], "result": result})

    async def do_advertise(self, request: Mapping[str, Any]) -> None:
        """Offer the adder under a name."""
        await self._nursery.start(self._advertise, request["procedure"])

    async def _advertise(self, procedure: str, *, task_status: trio.TaskStatus[None]) -> None:
        async with self._node.advertise(procedure, add):
            task_status.started()
            await trio.sleep_forever()

    async def do_subscribe(self, request: Mapping[str, Any]) -> None:
        """Receive a topic; every message is told as ``demo.message``."""
        await self._nursery.start(self._subscribe, request["topic"])

    async def _subscribe(self, topic: str, *, task_status: trio.TaskStatus[None]) -> None:
        async with self._node.subscribe(topic) as messages:
            task_status.started()
            async for message in messages:
                publisher = None if message.publisher is None else message.publisher.hex()
                facts = {"topic": message.topic, "payload": message.payload, "publisher": publisher}
                tell({"event": "demo.message", "facts": facts})

    async def do_call(self, request: Mapping[str, Any]) -> object:
        """Call somebody."""
        return await self._node.call(request["procedure"], request["args"])

    async def do_publish(self, request: Mapping[str, Any]) -> dict[str, str]:
        """Publish; gives node ids and outcomes."""
        report = await self._node.publish(request["topic"], request["payload"])
        return {node_id.hex(): outcome.value for node_id, outcome in report.outcomes.items()}

    async def do_wait_known(self, request: Mapping[str, Any]) -> dict[str, bool]:
        """Wait until the routing table holds so many nodes; gives each and whether it was we who dialed it."""
        await trio.lowlevel.checkpoint()
        with self._node.events() as events:
            while len(self._node.known_nodes()) < request["nodes"]:
                with trio.move_on_after(TABLE_POLL_S):
                    await events.receive()
        dialed = {peer.node_id for peer in self._node.peers() if peer.dialed}
        return {contact.node_id.hex(): contact.node_id in dialed for contact in self._node.known_nodes()}

    async def do_holds(self, request: Mapping[str, Any]) -> bool:
        """Whether this node holds a value under a key that is not withdrawn."""
        await trio.lowlevel.checkpoint()
        return any(r.key.hex() == request["key"] and not r.withdrawn for r in self._node.stored_values())


def tell(line: Mapping[str, object]) -> None:
    """Write one line to the parent; it reads always, so this does not block for long."""
    with suppress(BrokenPipeError):  # the parent is gone, and stdin says so as well
        sys.stdout.write(f"{json.dumps(line)}\n")
        sys.stdout.flush()


class Parent:
    """What the parent says.  Reads in a thread, because not every system can wait for a pipe otherwise."""

    def __init__(self) -> None:
        self._rest = b""

    async def listen(self) -> dict[str, Any] | None:
        """Wait for the next line; None when there will be no more."""
        await trio.lowlevel.checkpoint()
        while b"\n" not in self._rest:
            chunk = await trio.to_thread.run_sync(os.read, STDIN, CHUNK_BYTES, abandon_on_cancel=True)
            if not chunk:
                return None
            self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\n")
        request: dict[str, Any] = json.loads(line)
        return request


async def main(kind: type[DemoNode] = DemoNode) -> None:
    """Be a node until stdin ends; ``kind`` does what the parent asks."""
    parent = Parent()
    config = await parent.listen()
    if config is None:
        return
    health = config.pop("health", None)
    async with open_node(NodeConfig(**config)) as node:
        with node.events() as events:  # before the parent can ask for anything
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_tell_events, events)
                demo_node = kind(node, nursery)
                ready = {"endpoint": node.endpoint, "node_id": node.node_id.hex()}
                if health is not None:
                    ready["health"] = await _serve_health(nursery, node, health)
                tell({"ready": ready})
                while (request := await parent.listen()) is not None:
                    nursery.start_soon(demo_node.serve, request)
                nursery.cancel_scope.cancel()


async def _serve_health(nursery: trio.Nursery, node: Node, endpoint: str) -> str:
    from macula_trio._http.health import serve_health  # noqa: PLC0415 - an extra, which the demo does without

    return format_endpoint(await nursery.start(partial(serve_health, node, *parse_endpoint(endpoint, port_min=0))))


async def _tell_events(events: EventStream) -> None:
    async for event in events:
        tell({"event": event.name, "facts": dict(event.facts)})


def run(kind: type[DemoNode] = DemoNode) -> None:
    """Be the process."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    logging.getLogger("quic").setLevel(logging.WARNING)  # aioquic tells of every handshake
    trio.run(main, kind)


if __name__ == "__main__":
    run()

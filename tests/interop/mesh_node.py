"""A node that speaks to peers of v0.8, with a procedure and a subscription; ends when its standard input does.

Prints JSON, one object in a line: first where it is, then every message that it receives.
"""

from __future__ import annotations

import json
import sys
from typing import Final

import trio

import macula_trio as macula

REALM: Final = "org.example.interop"
PROCEDURE: Final = "interop.add"
TOPIC: Final = "interop.topic"


def tell(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


async def add(call: macula.Call) -> object:
    assert isinstance(call.args, dict)
    return {"sum": call.args["a"] + call.args["b"]}


async def main() -> None:
    config = macula.NodeConfig(realm=REALM, listen="127.0.0.1:0", trust=macula.Trust.unverified())
    async with (
        macula.open_node(config) as node,
        node.advertise(PROCEDURE, add),
        node.subscribe(TOPIC) as messages,
        trio.open_nursery() as nursery,
    ):

        async def show_messages() -> None:
            async for message in messages:
                tell(topic=message.topic, payload=message.payload)

        nursery.start_soon(show_messages)
        tell(endpoint=node.endpoint, node_id=node.node_id.hex())
        await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)
        statistics = node.statistics()
        tell(
            refused=dict(statistics.refused),
            unknown=statistics.frames_unknown,
            broken=statistics.connections_broken,
            received=dict(statistics.frames_received),
        )
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)

"""One process of the five in the cases of v0.8: a node of the demo that can do what only tests want."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import trio

import macula_trio as macula
from macula_trio._cli import demo_node


async def sleeper(_call: macula.Call) -> object:
    await trio.sleep_forever()


class V08Node(demo_node.DemoNode):
    async def do_advertise_for_all(self, request: Mapping[str, Any]) -> None:
        """Offer the adder to callers who come through other nodes, too."""
        await self._nursery.start(self._offer, request["procedure"], demo_node.add)

    async def do_advertise_sleeper(self, request: Mapping[str, Any]) -> None:
        """Offer what never answers."""
        await self._nursery.start(self._offer, request["procedure"], sleeper)

    async def _offer(self, procedure: str, handler: macula.Handler, *, task_status: trio.TaskStatus[None]) -> None:
        async with self._node.advertise(procedure, handler, allow_routed=True):
            task_status.started()
            await trio.sleep_forever()

    async def do_subscribe_for_all(self, request: Mapping[str, Any]) -> None:
        """Receive a topic also from publishers whose messages come through other nodes."""
        await self._nursery.start(self._subscribe_for_all, request["topic"])

    async def _subscribe_for_all(self, topic: str, *, task_status: trio.TaskStatus[None]) -> None:
        async with self._node.subscribe(topic, allow_routed=True) as messages:
            task_status.started()
            async for message in messages:
                ids = {"publisher": message.publisher, "via": message.via}
                facts = {name: None if node_id is None else node_id.hex() for name, node_id in ids.items()}
                about = {"topic": message.topic, "payload": message.payload}
                demo_node.tell({"event": "demo.message", "facts": facts | about})

    async def do_accept_links_of(self, request: Mapping[str, Any]) -> None:
        """Refuse the links of all others; of everybody's, when no ids are given, none."""
        await trio.lowlevel.checkpoint()
        ids = [macula.NodeId.from_hex(text) for text in request["node_ids"]]
        self._node.reload_trust(macula.Trust.only(ids) if ids else macula.Trust.open())

    async def do_try_to_call(self, request: Mapping[str, Any]) -> dict[str, object]:
        """Call under a deadline of the caller's; gives how it ended, and after how long."""
        started, outcome = trio.current_time(), "answered"
        try:
            with trio.fail_after(request["seconds"]):
                await self._node.call(request["procedure"], request["args"])
        except (macula.MeshError, trio.TooSlowError) as exc:
            outcome = type(exc).__name__
        return {"outcome": outcome, "seconds": trio.current_time() - started}

    async def do_find_providers(self, request: Mapping[str, Any]) -> list[str]:
        return [contact.node_id.hex() for contact in await self._node.find_providers(request["procedure"])]

    async def do_find_subscribers(self, request: Mapping[str, Any]) -> list[str]:
        return [contact.node_id.hex() for contact in await self._node.find_subscribers(request["topic"])]

    async def do_count(self, request: Mapping[str, Any]) -> dict[str, int]:
        """Counts of frames received, by type, and of what was forwarded."""
        await trio.lowlevel.checkpoint()
        statistics = self._node.statistics()
        return {**statistics.frames_received, "forwarded": statistics.envelopes_forwarded}


if __name__ == "__main__":
    demo_node.run(V08Node)

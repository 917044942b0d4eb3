"""Forty nodes, k = 20: a lookup that never leaves the node would be seen, by the frames at its neighbours."""

from __future__ import annotations

import pytest
import trio

import macula_trio as macula
from macula_trio.testing import open_mesh

pytestmark = pytest.mark.long

SIZE = 40
K = 20
PROCEDURE = "test.far.away"


async def answer(call: macula.Call) -> object:
    return "here"


def received(nodes: list[macula.Node], frame: str) -> dict[macula.NodeId, int]:
    return {node.node_id: node.statistics().frames_received.get(frame, 0) for node in nodes}


def more(before: dict[macula.NodeId, int], after: dict[macula.NodeId, int]) -> set[macula.NodeId]:
    """The nodes that received such a frame in between."""
    return {node_id for node_id in after if after[node_id] > before[node_id]}


async def test_values_lie_with_the_twenty_closest_of_forty_and_lookups_travel(
    autojump_clock: trio.testing.MockClock,
) -> None:
    key = macula.dht_key(PROCEDURE)
    async with open_mesh(SIZE) as nodes:
        by_distance = sorted(nodes, key=lambda node: node.node_id.distance(key))
        replicas, others = by_distance[:K], by_distance[K:]
        provider, caller = others[-1], others[-2]  # far from the key: neither is a replica

        asked, stored = received(nodes, "FIND_NODE"), received(nodes, "STORE")
        async with provider.advertise(PROCEDURE, answer):
            assert len(more(asked, received(nodes, "FIND_NODE"))) >= K, "FIND_NODE did not travel"
            assert more(stored, received(nodes, "STORE")) == {node.node_id for node in replicas}
            for node in replicas:
                assert [value.node_id for value in node.stored_values()] == [provider.node_id]
            for node in others:
                assert node.stored_values() == [], "a node that is not among the closest holds the value"

            asked = received(nodes, "FIND_VALUE")
            with trio.fail_after(2):
                assert await caller.call(PROCEDURE) == "here"
            reached = more(asked, received(nodes, "FIND_VALUE"))
            assert reached & {node.node_id for node in replicas}, "FIND_VALUE did not reach a replica"
            assert caller.statistics().frames_sent["CALL"] == 1
            assert provider.statistics().frames_received["CALL"] == 1

        await trio.sleep(1)  # virtual: the withdrawal has reached the replicas
        assert [value.withdrawn for node in replicas for value in node.stored_values()] == [True] * K

"""The ten cases of v0.8's suite for messages over several hops, under their names, on five processes over UDP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import pytest
import trio
from v08_tools import (
    EDGES,
    Mesh,
    a_mesh,
    counts,
    holders,
    is_healthy,
    links_refused,
    peers_are_discovered,
)

import macula_trio as macula
from macula_trio._cli.demo_mesh import ROLES, DemoMesh

pytestmark = [pytest.mark.processes, pytest.mark.thorough]

SETTLE_S: Final = 0.3  # real; for what must not come


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    with a_mesh() as mesh:
        yield mesh


def received(nodes: DemoMesh, topic: str) -> dict[str, list[Any]]:
    """What each node has got of a topic, payloads in order."""
    found: dict[str, list[Any]] = {}
    for name, event, facts in nodes.past_events():
        if event == "demo.message" and facts["topic"] == topic:
            found.setdefault(name, []).append(facts["payload"])
    return found


def test_bootstrap_node_healthy(mesh: Mesh) -> None:
    mesh.run(lambda nodes: is_healthy(nodes, "bootstrap"))


def test_gateway_node_healthy(mesh: Mesh) -> None:
    mesh.run(lambda nodes: is_healthy(nodes, "gateway"))


def test_edge_nodes_healthy(mesh: Mesh) -> None:
    mesh.run(lambda nodes: is_healthy(nodes, *EDGES))


def test_dht_peer_discovery(mesh: Mesh) -> None:
    mesh.run(peers_are_discovered)


def test_subscription_advertisement_in_dht(mesh: Mesh) -> None:
    async def case(nodes: DemoMesh) -> None:
        for name in ("edge1", "edge3"):
            await nodes.request(name, {"do": "subscribe", "topic": "test.advertised"})
        found = await holders(nodes, macula.dht_key("test.advertised"), "subscriber")
        assert found == {name: ["edge1", "edge3"] for name in ROLES}

    mesh.run(case)


def test_subscriber_discovery_via_dht(mesh: Mesh) -> None:
    async def case(nodes: DemoMesh) -> None:
        await nodes.request("edge1", {"do": "subscribe", "topic": "test.discovered"})
        for name in ROLES:
            found = await nodes.request(name, {"do": "find_subscribers", "topic": "test.discovered"})
            assert [nodes.name_of(node_id) for node_id in found] == ["edge1"]

    mesh.run(case)


def test_single_hop_pubsub(mesh: Mesh) -> None:
    async def case(nodes: DemoMesh) -> None:
        await nodes.request("edge1", {"do": "subscribe", "topic": "test.near"})
        before = await counts(nodes)
        outcomes = await nodes.request("edge2", {"do": "publish", "topic": "test.near", "payload": {"n": 1}})
        assert {nodes.name_of(node_id): outcome for node_id, outcome in outcomes.items()} == {"edge1": "queued"}
        message = await nodes.wait_event("edge1", "demo.message", topic="test.near")
        assert message["payload"] == {"n": 1}
        assert nodes.name_of(message["publisher"]) == "edge2", "proven: it came straight"
        after = await counts(nodes)
        routes = {name: after[name].get("PUBSUB_ROUTE", 0) - before[name].get("PUBSUB_ROUTE", 0) for name in ROLES}
        assert routes == {**dict.fromkeys(ROLES, 0), "edge1": 1}

    mesh.run(case)


def test_multi_hop_pubsub(mesh: Mesh) -> None:
    async def case(nodes: DemoMesh) -> None:
        await nodes.request("edge3", {"do": "subscribe_for_all", "topic": "test.far"})
        before = await counts(nodes)
        async with links_refused(nodes, "edge3", "edge2"):
            outcomes = await nodes.request("edge2", {"do": "publish", "topic": "test.far", "payload": {"n": 2}})
            message = await nodes.wait_event("edge3", "demo.message", topic="test.far")
        assert {nodes.name_of(node_id): outcome for node_id, outcome in outcomes.items()} == {"edge3": "forwarded"}
        assert (message["payload"], message["publisher"]) == ({"n": 2}, None)
        after = await counts(nodes)
        forwarded = {name for name in ROLES if after[name]["forwarded"] > before[name]["forwarded"]}
        assert nodes.name_of(message["via"]) in forwarded
        assert not forwarded & {"edge2", "edge3"}

    mesh.run(case)


def test_wildcard_subscriptions(mesh: Mesh) -> None:
    """On nodes that the publisher has not talked to about it: their patterns are found by the prefixes of the topic."""

    async def case(nodes: DemoMesh) -> None:
        await nodes.request("edge1", {"do": "subscribe", "topic": "wild.*.temp"})
        await nodes.request("edge3", {"do": "subscribe", "topic": "wild.**"})
        await nodes.request("gateway", {"do": "subscribe", "topic": "wild.room.#"})
        await nodes.request("bootstrap", {"do": "subscribe", "topic": "wild.*"})
        await nodes.request("edge2", {"do": "publish", "topic": "wild.room.temp", "payload": 21})
        for name in ("edge1", "edge3", "gateway"):
            await nodes.wait_event(name, "demo.message", topic="wild.room.temp")
        await nodes.request("edge2", {"do": "publish", "topic": "wild.hall", "payload": 22})
        for name in ("bootstrap", "edge3"):
            await nodes.wait_event(name, "demo.message", topic="wild.hall")
        await trio.sleep(SETTLE_S)
        assert received(nodes, "wild.room.temp") == {name: [21] for name in ("edge1", "edge3", "gateway")}
        assert received(nodes, "wild.hall") == {name: [22] for name in ("bootstrap", "edge3")}

    mesh.run(case)


def test_multiple_subscribers(mesh: Mesh) -> None:
    async def case(nodes: DemoMesh) -> None:
        subscribers = ("bootstrap", "gateway", "edge1", "edge3")
        for name in subscribers:
            await nodes.request(name, {"do": "subscribe", "topic": "test.many"})
        for number in range(5):
            await nodes.request("edge2", {"do": "publish", "topic": "test.many", "payload": number})
        for name in subscribers:
            await nodes.wait_event(name, "demo.message", topic="test.many", payload=4)
        await trio.sleep(SETTLE_S)
        assert received(nodes, "test.many") == {name: [0, 1, 2, 3, 4] for name in subscribers}

    mesh.run(case)

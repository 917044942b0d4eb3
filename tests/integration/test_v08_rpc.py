"""The eleven cases of v0.8's suite for calls over several hops, under their names, on five processes over UDP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pytest
from v08_tools import (
    EDGES,
    Mesh,
    a_mesh,
    ask,
    contact,
    counts,
    holders,
    is_healthy,
    links_refused,
    outsider,
    peers_are_discovered,
)

import macula_trio as macula
from macula_trio._cli.demo_mesh import ROLES, DemoMesh
from macula_trio._wire import messages as wire
from macula_trio._wire.envelope import HOPS_MAX

pytestmark = [pytest.mark.processes, pytest.mark.thorough]

ARGS: Final = {"a": 2, "b": 3}


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    with a_mesh() as mesh:
        yield mesh


def test_bootstrap_node_healthy(mesh: Mesh) -> None:
    mesh.run(lambda nodes: is_healthy(nodes, "bootstrap"))


def test_gateway_node_healthy(mesh: Mesh) -> None:
    mesh.run(lambda nodes: is_healthy(nodes, "gateway"))


def test_edge_nodes_healthy(mesh: Mesh) -> None:
    mesh.run(lambda nodes: is_healthy(nodes, *EDGES))


def test_dht_peer_discovery(mesh: Mesh) -> None:
    mesh.run(peers_are_discovered)


def test_service_registration_in_dht(mesh: Mesh) -> None:
    async def case(nodes: DemoMesh) -> None:
        await nodes.request("edge3", {"do": "advertise", "procedure": "test.registered"})
        found = await holders(nodes, macula.dht_key("test.registered"), "service")
        assert found == {name: ["edge3"] for name in ROLES}  # of five nodes all are among the twenty closest

    mesh.run(case)


def test_service_discovery_via_dht(mesh: Mesh) -> None:
    async def case(nodes: DemoMesh) -> None:
        await nodes.request("edge3", {"do": "advertise", "procedure": "test.discovered"})
        for name in ROLES:
            found = await nodes.request(name, {"do": "find_providers", "procedure": "test.discovered"})
            assert [nodes.name_of(node_id) for node_id in found] == ["edge3"]

    mesh.run(case)


def test_single_hop_rpc_call(mesh: Mesh) -> None:
    async def case(nodes: DemoMesh) -> None:
        await nodes.request("edge3", {"do": "advertise", "procedure": "test.near"})
        before = await counts(nodes)
        assert await nodes.request("edge2", {"do": "call", "procedure": "test.near", "args": ARGS}) == 5
        called = await nodes.wait_event("edge2", "rpc.called", procedure="test.near")
        assert (nodes.name_of(called["provider"]), called["hops"]) == ("edge3", 1)
        served = await nodes.wait_event("edge3", "rpc.served", procedure="test.near")
        assert (nodes.name_of(served["caller"]), served["outcome"]) == ("edge2", "ok")
        after = await counts(nodes)
        calls = {name: after[name].get("CALL", 0) - before[name].get("CALL", 0) for name in ROLES}
        assert calls == {**dict.fromkeys(ROLES, 0), "edge3": 1}
        assert after["edge3"].get("RPC_ROUTE", 0) == before["edge3"].get("RPC_ROUTE", 0)

    mesh.run(case)


def test_multi_hop_rpc_call(mesh: Mesh) -> None:
    async def case(nodes: DemoMesh) -> None:
        await nodes.request("edge3", {"do": "advertise_for_all", "procedure": "test.far"})
        before = await counts(nodes)
        async with links_refused(nodes, "edge3", "edge2"):
            assert await nodes.request("edge2", {"do": "call", "procedure": "test.far", "args": ARGS}) == 5
        called = await nodes.wait_event("edge2", "rpc.called", procedure="test.far")
        assert nodes.name_of(called["provider"]) == "edge3"
        assert called["hops"] > 1
        served = await nodes.wait_event("edge3", "rpc.served", procedure="test.far")
        assert served["caller"] is None, "nobody has proven to have made it"
        after = await counts(nodes)
        assert after["edge3"].get("CALL", 0) == before["edge3"].get("CALL", 0)
        forwarded = {name for name in ROLES if after[name]["forwarded"] > before[name]["forwarded"]}
        assert forwarded
        assert not forwarded & {"edge2", "edge3"}

    mesh.run(case)


def test_rpc_timeout_handling(mesh: Mesh) -> None:
    async def case(nodes: DemoMesh) -> None:
        await nodes.request("edge3", {"do": "advertise_sleeper", "procedure": "test.sleeper"})
        request = {"do": "try_to_call", "procedure": "test.sleeper", "args": ARGS, "seconds": 1.0}
        ended = await nodes.request("edge2", request)
        assert ended["outcome"] == "TooSlowError"
        assert 1.0 <= ended["seconds"] < 5.0, "not the default time-out"
        served = await nodes.wait_event("edge3", "rpc.served", procedure="test.sleeper")
        assert served["outcome"] in ("cancelled", "timeout")

    mesh.run(case)


def test_rpc_provider_not_found(mesh: Mesh) -> None:
    async def case(nodes: DemoMesh) -> None:
        request = {"do": "try_to_call", "procedure": "test.nobody", "args": ARGS, "seconds": 9.0}
        ended = await nodes.request("edge2", request)
        assert ended["outcome"] == "NoProviders"

    mesh.run(case)


def test_rpc_max_hops_exceeded(mesh: Mesh) -> None:
    async def case(nodes: DemoMesh) -> None:
        await nodes.request("edge3", {"do": "advertise_for_all", "procedure": "test.too.far"})
        async with outsider(nodes) as node:

            async def send(hop_count: int, target: str) -> wire.Reply:
                route = wire.RpcRoute(
                    destination_node_id=contact(nodes, "edge3").node_id,
                    source_node_id=node.node_id,
                    hop_count=hop_count,
                    max_hops=HOPS_MAX,
                    payload_type="call",
                    payload=wire.Call(call_id=bytes([hop_count]) * 16, procedure="test.too.far", args=b'{"a":2,"b":3}'),
                )
                answer = await ask(node, contact(nodes, target), route, wire.RpcRoute)
                assert isinstance(answer.payload, wire.Reply)
                return answer.payload

            for target in ("gateway", "edge3"):  # before anything is forwarded, and before it is delivered
                refused = await send(HOPS_MAX, target)
                assert refused.error is not None
                assert refused.error.code == "max_hops_exceeded"
            assert (await send(HOPS_MAX - 2, "gateway")).result == b"5"

    mesh.run(case)

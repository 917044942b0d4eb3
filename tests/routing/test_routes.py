"""The way of an envelope: nearer with every node, so that it ends wherever it begins and whoever knows whom."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from macula_trio._ids import Contact, NodeId
from macula_trio._routing.routes import first_hops, next_hops, onward, payload_size
from macula_trio._wire.messages import Call, Publish, PubsubRoute, Reply, RpcRoute

IDS = st.binary(min_size=32, max_size=32).map(NodeId)
MESHES = st.lists(IDS, min_size=2, max_size=12, unique=True)


def contacts(ids: list[NodeId], destination: NodeId) -> list[Contact]:
    nearest = sorted(ids, key=lambda node_id: node_id.distance(destination))
    return [Contact(node_id=node_id, endpoint="10.0.0.1:1") for node_id in nearest]


@given(MESHES, st.data())
def test_every_hop_is_nearer_so_that_no_way_is_a_circle(ids: list[NodeId], data: st.DataObject) -> None:
    here, destination = ids[0], data.draw(st.sampled_from(ids[1:]))
    way = [here]
    while here != destination:
        known = data.draw(st.lists(st.sampled_from(ids), unique=True))
        ways = next_hops(destination, contacts(known, destination), own=here, without=(way[-1],))
        if not ways:
            break
        assert [hop.node_id.distance(destination) for hop in ways] == sorted(
            hop.node_id.distance(destination) for hop in ways
        )
        here = data.draw(st.sampled_from(ways)).node_id
        assert here not in way
        way.append(here)
    assert len(way) <= len(ids)


@given(MESHES)
def test_whoever_knows_the_destination_sends_it_there(ids: list[NodeId]) -> None:
    own, destination, *_ = ids
    assert next_hops(destination, contacts(ids, destination), own=own, without=())[0].node_id == destination


@given(MESHES)
def test_it_does_not_go_back_where_it_came_from(ids: list[NodeId]) -> None:
    own, destination, *others = ids
    ways = next_hops(destination, contacts(ids, destination), own=own, without=(destination, *others, None))
    assert ways == []


@given(MESHES)
def test_our_own_may_go_anywhere_but_to_the_destination(ids: list[NodeId]) -> None:
    destination = ids[0]
    assert [hop.node_id for hop in first_hops(destination, contacts(ids, destination))] == sorted(
        ids[1:], key=lambda node_id: node_id.distance(destination)
    )


def test_what_an_application_put_in_is_what_weighs() -> None:
    ends: dict[str, Any] = {
        "destination_node_id": bytes(32),
        "source_node_id": bytes(32),
        "hop_count": 0,
        "max_hops": 10,
    }
    call = Call(call_id=bytes(16), procedure="a.b", args=bytes(7))
    reply, error = Reply(call_id=bytes(16), result=bytes(5)), Reply(call_id=bytes(16))
    message = Publish(topic="a.b", payload=bytes(3), message_id=bytes(16))
    assert payload_size(RpcRoute(**ends, payload_type="call", payload=call)) == 7
    assert payload_size(RpcRoute(**ends, payload_type="reply", payload=reply)) == 5
    assert payload_size(RpcRoute(**ends, payload_type="reply", payload=error)) == 0
    assert payload_size(PubsubRoute(**ends, topic="a.b", payload=message)) == 3


def test_a_hop_is_counted_and_nothing_else_changes() -> None:
    call = RpcRoute(
        destination_node_id=bytes(32),
        source_node_id=bytes([1]) * 32,
        hop_count=3,
        max_hops=10,
        payload_type="call",
        payload=Call(call_id=bytes(16), procedure="a.b", args=b"1"),
    )
    message = PubsubRoute(
        destination_node_id=bytes(32),
        source_node_id=bytes([1]) * 32,
        hop_count=0,
        max_hops=10,
        topic="a.b",
        payload=Publish(topic="a.b", payload=b"1", message_id=bytes(16)),
        delivery_seq=7,
    )
    for route in (call, message):
        after = onward(route)
        assert after.hop_count == route.hop_count + 1
        assert (after.payload, after.max_hops) == (route.payload, route.max_hops)

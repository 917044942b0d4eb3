"""Values that v0.8 stores: who takes them, who finds them, how long they live, and what they never stand in for."""

from __future__ import annotations

from typing import Any, Final

import pytest
import trio
from node_tools import link_between, watch
from old_tools import CLIENT_NUMBER, NODE_NUMBER, OldNode, put, store_body, told
from quic_tools import REALM, Recorder, connect_bare, host, open_endpoint

import macula_trio as macula
from macula_trio import Contact
from macula_trio._dht import quota
from macula_trio._ids import dht_key
from macula_trio._util import format_endpoint, parse_endpoint
from macula_trio._wire import messages as wire
from macula_trio._wire.frame import MessageType
from macula_trio.testing import SimNetwork, open_mesh

pytestmark = pytest.mark.thorough

Clock = trio.testing.MockClock

NAME: Final = "old.echo"
KEY: Final = dht_key(NAME)
OWNER: Final = b"o" * 32
UNVERIFIED: Final = macula.NodeConfig(realm=REALM, trust=macula.Trust.unverified())


@pytest.fixture(autouse=True)
def no_old_nodes() -> None:
    OldNode.made = []


async def settle() -> None:
    await trio.sleep(1)


async def stored(recorder: Recorder, *, owner: bytes = OWNER, endpoint: str = "10.9.9.9:9443", **more: Any) -> None:
    put(recorder, MessageType.STORE, store_body(KEY, owner, endpoint, **more))
    await settle()


async def found(recorder: Recorder) -> dict[str, Any]:
    put(recorder, MessageType.FIND_VALUE, {"type": "find_value", "key": KEY})
    await settle()
    number, body = told(recorder)[-1]
    assert number is MessageType.FIND_VALUE_REPLY
    return body


# -- a client's --------------------------------------------------------------------------------------------------


async def test_a_value_is_taken_answered_as_v08_does_and_found_as_it_was_written(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with (
        open_mesh(1, network=network, config=UNVERIFIED) as (node,),
        open_endpoint(network, CLIENT_NUMBER) as endpoint,
    ):
        client = await connect_bare(endpoint, parse_endpoint(node.endpoint))
        await stored(client, metadata={"zone": b"attic"}, note=b"its own")
        ((number, answer),) = told(client)
        assert (number, answer["type"], answer["result"]) == (MessageType.STORE, b"store_reply", b"ok")
        (record,) = node.stored_values()
        assert (record.node_id, record.kind, record.signed) == (OWNER, "any", False)
        await trio.sleep(98)  # in which an idle connection has ended
        reply = await found(await connect_bare(endpoint, parse_endpoint(node.endpoint)))
        assert (reply["type"], reply["result"]) == (b"find_value_reply", b"value")
        (value,) = reply["value"]
        assert 195 <= value.pop("ttl") <= 201
        assert value == {
            "node_id": OWNER,
            "endpoint": b"10.9.9.9:9443",
            "metadata": {"zone": b"attic"},
            "note": b"its own",
        }
        await trio.sleep(201)
        assert node.stored_values() == []
        later = await connect_bare(endpoint, parse_endpoint(node.endpoint))
        assert (await found(later))["result"] == b"nodes"


async def test_who_stores_it_again_begins_its_time_anew_whoever_that_is(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with (
        open_mesh(1, network=network, config=UNVERIFIED) as (node,),
        open_endpoint(network, CLIENT_NUMBER) as endpoint,
        open_endpoint(network, NODE_NUMBER) as elsewhere,
    ):
        address = parse_endpoint(node.endpoint)
        await stored(await connect_bare(endpoint, address))
        await trio.sleep(250)
        await stored(await connect_bare(elsewhere, address))
        await trio.sleep(250)
        (record,) = node.stored_values()
        assert record.endpoint == "10.9.9.9:9443"
        await stored(
            await connect_bare(endpoint, address), endpoint="10.9.9.8:9443", ttl=100
        )  # of several the last one counts
        await trio.sleep(98)
        assert [record.endpoint for record in node.stored_values()] == ["10.9.9.8:9443"]
        await trio.sleep(2)
        assert node.stored_values() == []


@pytest.mark.parametrize("trust", [macula.Trust.open, macula.Trust.unverified])
async def test_elsewhere_nobody_takes_it(trust: Any, autojump_clock: Clock) -> None:
    async with open_mesh(2, config=macula.NodeConfig(realm=REALM, trust=trust())) as (node, other):
        value = store_body(KEY, OWNER, "10.9.9.9:9443")["value"]
        request = wire.Store(key=KEY, value=value, correlation_id=bytes(16))
        reply = await link_between(other, node).ask(request, wire.StoreReply)
        assert reply.reason == ("malformed" if node.trust.kind == "open" else None)
        assert len(node.stored_values()) == (node.trust.kind == "unverified")


async def test_the_limits_hold(autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quota, "STORES_BURST", 200)
    network = SimNetwork()
    async with (
        open_mesh(1, network=network, config=UNVERIFIED) as (node,),
        open_endpoint(network, CLIENT_NUMBER) as endpoint,
    ):
        client = await connect_bare(endpoint, parse_endpoint(node.endpoint))
        put(client, MessageType.STORE, store_body(KEY, OWNER, "10.9.9.9:9443", note=b"x" * 5000))  # costs 128 more
        for number in range(80):
            put(client, MessageType.STORE, store_body(bytes([number]) * 32, OWNER, "10.9.9.9:9443"))
        await settle()
        reasons = [body.get("reason") for _, body in told(client)]
        assert reasons[0] == b"malformed"
        assert reasons.count(None) == len(node.stored_values()) == 200 - 1 - quota.FORGERY_STORES
        assert reasons.count(b"rate") == 80 - len(node.stored_values())


async def test_it_goes_on_to_the_nodes_near_its_key_once_and_no_further(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with (
        open_mesh(4, network=network, config=UNVERIFIED) as nodes,
        open_endpoint(network, CLIENT_NUMBER) as endpoint,
    ):
        client = await connect_bare(endpoint, parse_endpoint(nodes[1].endpoint))
        received = [watch(node, "dht.value_received") for node in nodes]
        await stored(client)
        assert [len(events) for events in received] == [1, 1, 1, 1]
        first = nodes[1].stored_values()[0].expires_ms
        assert all(node.stored_values()[0].expires_ms <= first for node in nodes)
        assert await nodes[3].find_providers(NAME) == [Contact(node_id=macula.NodeId(OWNER), endpoint="10.9.9.9:9443")]
        await trio.sleep(300)  # an hour later it would still be there if they sent it to each other
        assert [node.stored_values() for node in nodes] == [[], [], [], []]


async def test_nobody_repairs_it_or_hands_it_over(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with open_mesh(2, network=network, config=UNVERIFIED) as (node, other):
        value = store_body(KEY, OWNER, "10.9.9.9:9443")["value"]
        request = wire.Store(key=KEY, value=value, correlation_id=bytes(16))
        await link_between(other, node).ask(request, wire.StoreReply)
        assert [record.signed for record in await other.find_value(KEY)] == [False]
        config = macula.NodeConfig(realm=REALM, trust=macula.Trust.unverified(), listen="10.7.0.50:9443")
        joining = macula.NodeConfig(realm=REALM, trust=config.trust, listen=config.listen, bootstrap=[node.endpoint])
        async with macula.open_node(joining, network=network) as newcomer:
            await settle()
            assert [len(each.stored_values()) for each in (node, other, newcomer)] == [1, 0, 0]
            assert len(await newcomer.find_value(KEY, kind="service")) == 1
            assert len(await newcomer.find_value(KEY, kind="subscriber")) == 1


async def test_nothing_claimed_stands_in_for_what_is_signed_be_it_withdrawn(autojump_clock: Clock) -> None:
    async def echo(call: macula.Call) -> object:
        return call.args

    network = SimNetwork()
    async with (
        open_mesh(2, network=network, config=UNVERIFIED) as (node, other),
        open_endpoint(network, CLIENT_NUMBER) as endpoint,
    ):
        client = await connect_bare(endpoint, parse_endpoint(node.endpoint))
        async with node.advertise(NAME, echo):
            await stored(client, owner=node.node_id, endpoint="10.6.6.6:666")
            genuine = Contact(node_id=node.node_id, endpoint=node.endpoint)
            assert await other.find_providers(NAME) == [genuine]
            assert await other.call(NAME, 7) == 7
            (value,) = (await found(client))["value"]
            assert value["endpoint"] == node.endpoint.encode()
            assert 290 < value["ttl"] <= 300  # which v0.8 reads, as it does not know of dates
        await settle()
        assert len(node.stored_values()) == 2
        reply = await found(client)  # what was withdrawn has no endpoint, which would be a surprise there
        assert (reply["result"], "value" in reply) == (b"nodes", False)
        assert await other.find_providers(NAME) == []


# -- calls and messages to nodes of v0.8 --------------------------------------------------------------------------


@pytest.mark.parametrize("endpoint", [format_endpoint(host(NODE_NUMBER)), "https://attic.example:9443"])
async def test_calls_and_messages_reach_the_nodes_that_such_values_name(endpoint: str, autojump_clock: Clock) -> None:
    network = SimNetwork(hosts={"attic.example": host(NODE_NUMBER)[0]})
    async with (
        open_mesh(2, network=network, config=UNVERIFIED) as (node, other),
        open_endpoint(network, NODE_NUMBER, accept=OldNode) as old,
    ):
        client = await connect_bare(old, parse_endpoint(node.endpoint))
        await stored(client, endpoint=endpoint)
        with trio.fail_after(5):
            assert await other.call(NAME, {"a": 1}) == {"a": 1}
            assert await other.call(NAME, [2]) == [2]
        report = await other.publish(NAME, {"celsius": 23.5})
        assert report.outcomes == {OWNER: macula.Outcome.QUEUED}
        await settle()
        # It is in routing tables now, and asked this and that as well; what is for it goes over one connection.
        kinds = (MessageType.CONNECT, MessageType.CALL, MessageType.PUBSUB_ROUTE)
        told = [[frame for frame in made.frames if frame[0] in kinds] for made in OldNode.made]
        (one,) = [frames for frames in told if len(frames) > 1]
        assert [number.name for number, _ in one] == ["CONNECT", "CALL", "CALL", "PUBSUB_ROUTE"]
        assert one[1][1]["args"] == b'{"a":1}'
        assert one[3][1]["destination_node_id"] == OWNER
        assert one[3][1]["payload"]["payload"] == b'{"celsius":23.5}'
        assert other.statistics().refused == {}


async def test_an_endpoint_that_is_none_harms_nobody(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with (
        open_mesh(1, network=network, config=UNVERIFIED) as (node,),
        open_endpoint(network, CLIENT_NUMBER) as endpoint,
    ):
        client = await connect_bare(endpoint, parse_endpoint(node.endpoint))
        for number, text in enumerate(["undefined", "https://", "no-such-name:1", "", "0.0.0.0:1"]):
            await stored(client, owner=bytes([number]) * 32, endpoint=text)
        assert len(node.stored_values()) == 5
        with pytest.raises(macula.PeerUnavailable):
            await node.call(NAME, 1)

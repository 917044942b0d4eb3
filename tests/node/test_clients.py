"""Clients of v0.8: they subscribe and publish on a link, and the node stands for them in the mesh."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import attrs
import pytest
import trio
from authorisation_tools import FORWARDER_ID, UNVERIFIED, facts, outsider, received
from node_tools import link_between, watch
from quic_tools import REALM, Recorder, connect_bare, open_endpoint

import macula_trio as macula
from macula_trio import Outcome
from macula_trio._net.quic import Connection
from macula_trio._peer.link import QuicLink
from macula_trio._peer.window import WINDOW_BYTES
from macula_trio._pubsub import clients, forwarding
from macula_trio._util import parse_endpoint
from macula_trio._wire import messages as wire
from macula_trio._wire.codec import FrameDecoder, encode_message
from macula_trio.testing import SimNetwork, open_mesh

pytestmark = pytest.mark.thorough

Clock = trio.testing.MockClock

TRANSCRIPT: Final = json.loads(
    (Path(__file__).parents[1] / "vectors" / "transcript_client_session.json").read_text(encoding="utf-8")
)
PUBLISH: Final = wire.Publish(topic="t.x", payload=b'{"v":1}', message_id=bytes(16))


@asynccontextmanager
async def client(network: SimNetwork, node: macula.Node, number: int = 30) -> AsyncGenerator[Recorder, None]:
    """Somebody who proves nothing, as v0.8."""
    async with open_endpoint(network, number) as endpoint:
        recorder = await connect_bare(endpoint, parse_endpoint(node.endpoint))
        recorder.connection.proven()  # it lets the node send what it likes
        recorder.say(wire.Connect(realm_id=REALM))
        yield recorder


def published(recorder: Recorder, stream_id: int = 0) -> list[wire.Publish]:
    return [message for message in recorder.heard(stream_id) if isinstance(message, wire.Publish)]


def payloads(recorder: Recorder, stream_id: int = 0) -> list[object]:
    return [json.loads(message.payload) for message in published(recorder, stream_id)]


def body_of(recorder: Recorder) -> dict[str, Any]:
    """The last frame as it is on the wire."""
    decoder = FrameDecoder()
    decoder.receive_data(bytes(recorder.data[0]))
    last: Any = None
    while (frame := decoder.next_frame()) is not None:
        last = frame.body
    assert isinstance(last, dict)
    return last


async def test_a_client_gets_what_anybody_in_the_mesh_publishes_until_it_unsubscribes(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with (
        open_mesh(3, network=network, config=UNVERIFIED) as (_, gateway, publisher),
        client(network, gateway) as peer,
    ):
        peer.say(wire.Subscribe(topics=("t.*", "t.**", "u")))
        await trio.sleep(0.5)
        report = await publisher.publish("t.x", {"v": 42}, headers={"k": "v"})
        assert report.outcomes == {gateway.node_id: Outcome.QUEUED}
        await publisher.publish("s", 0)
        await gateway.publish("u", [1])
        await trio.sleep(0.1)
        assert [(m.topic, m.payload) for m in published(peer)] == [("t.x", b'{"v":42}'), ("u", b"[1]")]
        assert body_of(peer).keys() == {"topic", "payload", "message_id", "qos", "retain"}
        peer.say(wire.Unsubscribe(topics=("t.*", "unknown")))
        await trio.sleep(0.1)
        await publisher.publish("t.x", 2)
        await trio.sleep(0.1)
        assert len(published(peer)) == 3, "the other pattern still wants it"
        peer.say(wire.Unsubscribe(topics=("t.**", "u")))
        await trio.sleep(2)
        assert (await publisher.publish("t.x", 3)).outcomes == {}
        assert gateway.statistics().clients == 0
        assert gateway._pubsub.clients._kept == {}


async def test_the_recorded_session_of_the_original_works(autojump_clock: Clock) -> None:
    network = SimNetwork()
    config = attrs.evolve(UNVERIFIED, realm="com.example.realm")
    async with (
        open_mesh(2, network=network, config=config) as (gateway, publisher),
        open_endpoint(network, 31) as endpoint,
    ):
        peer = await connect_bare(endpoint, parse_endpoint(gateway.endpoint))
        for row in TRANSCRIPT:
            if row["dir"] != "erl->py":
                continue
            if row["types"] == ["unsubscribe"]:
                await publisher.publish("t.x", {"v": 42})
            peer.write(bytes.fromhex(row["hex"]))
            await trio.sleep(0.3)
        assert [(m.topic, m.payload) for m in published(peer)] == [("t.x", b'{"v":42}')]
        await publisher.publish("t.x", 2)
        await trio.sleep(0.3)
        assert len(published(peer)) == 1


async def test_what_it_gets_comes_on_the_stream_where_it_subscribed(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with open_mesh(1, network=network, config=UNVERIFIED) as (gateway,), client(network, gateway) as peer:
        peer.say(wire.Subscribe(topics=("t.*",)), 4)
        peer.say(wire.Subscribe(topics=("u.*", "*.x")), 8)
        await trio.sleep(0.2)
        for topic in ("t.a", "u.x"):
            await gateway.publish(topic, topic)
        await trio.sleep(0.2)
        assert (payloads(peer), payloads(peer, 4), payloads(peer, 8)) == ([], ["t.a"], ["u.x"])
        peer.say(wire.Subscribe(topics=("t.*",)), 8)
        peer.say(wire.Unsubscribe(topics=("u.*", "*.x")))
        await trio.sleep(0.2)
        for topic in ("t.b", "u.y"):
            await gateway.publish(topic, topic)
        await trio.sleep(0.2)
        assert (payloads(peer, 4), payloads(peer, 8)) == (["t.a"], ["u.x", "t.b"])


async def test_several_clients_of_one_pattern_are_one_subscriber_and_each_gets_a_copy(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with (
        open_mesh(2, network=network, config=UNVERIFIED) as (gateway, publisher),
        client(network, gateway, 30) as one,
        client(network, gateway, 31) as two,
        gateway.subscribe("t.**") as messages,
    ):
        for peer in (one, two):
            peer.say(wire.Subscribe(topics=("t.*",)))
        await trio.sleep(0.5)
        await publisher.publish("t.x", 1)
        assert await received(messages) == [(1, publisher.node_id, None)]
        assert payloads(one) == payloads(two) == [1]
        assert gateway.statistics().frames_received["PUBSUB_ROUTE"] == 1
        one.say(wire.Disconnect(reason="normal"))
        await trio.sleep(1)
        await publisher.publish("t.x", 2)
        await trio.sleep(0.1)
        assert payloads(two) == [1, 2]


@pytest.mark.parametrize("end", ["disconnect", "vanishes"])
async def test_a_client_that_goes_leaves_nothing_behind(end: str, autojump_clock: Clock) -> None:
    gone: list[str] = []
    network = SimNetwork(tap=lambda source, target, data: None if {source[0], target[0]} & set(gone) else data)
    async with open_mesh(2, network=network, config=UNVERIFIED) as (gateway, publisher):
        async with client(network, gateway) as peer:
            peer.say(wire.Subscribe(topics=("t.*", "u")))
            await trio.sleep(0.5)
            assert gateway.statistics().clients == 1
            if end == "disconnect":
                peer.say(wire.Disconnect(reason="normal"))
            else:
                gone.append("10.7.0.30")
            await trio.sleep(60)
            assert gateway.statistics().clients == 0
            assert (await publisher.publish("t.x", 1)).outcomes == {}
        assert [value for value in gateway.stored_values() if not value.withdrawn] == []


async def test_what_a_client_publishes_reaches_everybody_and_comes_back_to_nobody(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with (
        open_mesh(3, network=network, config=UNVERIFIED) as (gateway, one, two),
        client(network, gateway, 30) as speaker,
        client(network, gateway, 31) as listener,
        client(network, two, 32) as far,
        gateway.subscribe("t.x") as here,
        one.subscribe("t.*") as there,
    ):
        listener.say(wire.Subscribe(topics=("t.*",)))
        far.say(wire.Subscribe(topics=("**",)))
        await trio.sleep(0.5)
        events = watch(gateway)
        speaker.say(PUBLISH)
        assert await received(here) == [({"v": 1}, None, None)]
        assert await received(there) == [({"v": 1}, None, gateway.node_id)]
        assert payloads(listener) == payloads(far) == [{"v": 1}]
        assert payloads(speaker) == []
        (told,) = facts(events, "pubsub.client_published")
        assert sorted(told["targets"]) == sorted([one.node_id.hex(), two.node_id.hex()])
        await trio.sleep(5)
        counts = [node.statistics().frames_received.get("PUBSUB_ROUTE", 0) for node in (gateway, one, two)]
        assert counts == [0, 1, 1], "what came in an envelope goes no further"
        speaker.say(wire.Subscribe(topics=("t.x",)))
        speaker.say(attrs.evolve(PUBLISH, payload=b"2"))
        await trio.sleep(0.2)
        assert payloads(speaker) == [2], "it has subscribed itself"


async def test_a_proven_client_is_named_to_us_and_only_as_forwarded_by_others(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with (
        open_mesh(2, network=network) as (gateway, other),
        gateway.subscribe("t.x") as here,
        other.subscribe("t.x") as there,
        outsider(network, gateway) as peer,
    ):
        peer.say(wire.Subscribe(topics=("t.*",)))
        peer.say(PUBLISH)
        assert await received(here) == [({"v": 1}, FORWARDER_ID, None)]
        await trio.sleep(5)  # virtual: the outsider is asked, too, and answers nothing
        assert await received(there) == [({"v": 1}, None, gateway.node_id)]
        assert payloads(peer) == [{"v": 1}]


async def test_who_may_not_publish_does_not_by_way_of_a_node(autojump_clock: Clock) -> None:
    network = SimNetwork()
    asked: list[str] = []

    def rule(_publisher: macula.NodeId, topic: str) -> bool:
        asked.append(topic)
        return False

    config = macula.NodeConfig(realm=REALM, may_publish=rule)
    async with (
        open_mesh(1, network=network, config=config) as (gateway,),
        outsider(network, gateway) as peer,
    ):
        events = watch(gateway)
        peer.say(wire.Subscribe(topics=("t.*",)))
        peer.say(PUBLISH)
        await trio.sleep(1)
        assert asked == ["t.x"]
        assert payloads(peer) == []
        assert facts(events, "pubsub.client_published") == []
        assert gateway.statistics().messages_forbidden == 1


async def test_two_nodes_that_are_clients_of_each_other_do_not_send_messages_round_and_round(
    autojump_clock: Clock,
) -> None:
    async with open_mesh(2) as (one, two), one.subscribe("t.x"), two.subscribe("t.x"):
        for node, other in ((one, two), (two, one)):
            contact = macula.Contact(node_id=other.node_id, endpoint=other.endpoint)
            await node.send_message(contact, macula.wire.MessageType.SUBSCRIBE, {"topics": ["t.*"], "qos": 0})
        await trio.sleep(1)
        events = watch(one)
        await one.publish("t.x", 1)
        await trio.sleep(60)
        frames = [node.statistics().frames_received for node in (one, two)]
        assert sum(each.get("PUBLISH", 0) + each.get("PUBSUB_ROUTE", 0) for each in frames) < 20
        assert "repeated" in {fact["reason"] for fact in facts(events, "pubsub.client_dropped")}


async def test_a_proven_client_is_the_same_one_on_the_link_that_has_replaced_another(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_mesh(2) as (gateway, other):
        contact = macula.Contact(node_id=gateway.node_id, endpoint=gateway.endpoint)
        await other.send_message(contact, macula.wire.MessageType.SUBSCRIBE, {"topics": ["t.*", "u.*"], "qos": 0})
        await trio.sleep(1)
        assert gateway.statistics().clients == 1
        old = link_between(other, gateway)
        assert isinstance(old, QuicLink)
        monkeypatch.setattr(Connection, "is_worn", property(lambda connection: connection is old._connection))
        await trio.sleep(60)
        assert link_between(other, gateway) is not old
        events = watch(gateway)
        for pattern, left in (("t.*", 1), ("u.*", 0)):
            await other.send_message(contact, macula.wire.MessageType.UNSUBSCRIBE, {"topics": [pattern]})
            await trio.sleep(1)
            assert facts(events, "pubsub.client_unsubscribed")[-1]["pattern"] == pattern
            assert gateway.statistics().clients == left


# -- limits -----------------------------------------------------------------------------------------------------------


async def test_a_slow_client_loses_messages_which_is_told_and_goes_on_when_it_reads_again(
    autojump_clock: Clock,
) -> None:
    held: list[str] = []
    network = SimNetwork(tap=lambda _source, target, data: None if target[0] in held else data)
    async with open_mesh(1, network=network, config=UNVERIFIED) as (gateway,), client(network, gateway) as peer:
        peer.say(wire.Subscribe(topics=("t.*",)))
        await trio.sleep(0.2)
        events = watch(gateway)
        for number in range(40):
            await gateway.publish("t.x", [number, "x" * 90_000])
            await trio.sleep(0.05)
        assert len(published(peer)) == 40, "far more than what may wait, but it reads"
        held.append("10.7.0.30")
        reports = [await gateway.publish("t.x", [number, "x" * 90_000]) for number in range(40)]
        dropped = facts(events, "pubsub.client_dropped")
        assert {fact["reason"] for fact in dropped} == {"congested"}
        assert 20 < len(dropped) < 40
        assert gateway.statistics().client_messages_dropped == len(dropped)
        assert reports[-1].having(Outcome.DROPPED) == [gateway.node_id]
        (link,) = gateway._registry.links
        assert link._connection.unsent_bytes < 2 * WINDOW_BYTES
        held.clear()
        await trio.sleep(5)
        await gateway.publish("t.x", "again")
        await trio.sleep(1)
        assert payloads(peer)[-1] == "again"


async def test_what_cannot_be_json_is_dropped_and_told(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with (
        open_mesh(2, network=network, config=UNVERIFIED) as (gateway, publisher),
        client(network, gateway) as peer,
    ):
        peer.say(wire.Subscribe(topics=("t.*",)))
        await trio.sleep(0.5)
        events = watch(gateway)
        await publisher.publish("t.x", b"bytes")
        await publisher.publish("t.x", {"k": b"bytes"})
        peer.say(attrs.evolve(PUBLISH, payload=b"{"))
        await publisher.publish("t.x", 1)
        await trio.sleep(0.2)
        assert payloads(peer) == [1]
        reasons = [fact["reason"] for fact in facts(events, "pubsub.client_dropped")]
        assert sorted(reasons) == ["bad_payload", "not_sendable", "not_sendable"]


async def test_too_many_patterns_and_clients_and_what_is_none_are_refused(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients, "CLIENTS_MAX", 2)
    monkeypatch.setattr(clients, "PATTERNS_MAX", 5)
    monkeypatch.setattr(clients, "PATTERNS_PER_CLIENT_MAX", 3)
    network = SimNetwork()
    async with (
        open_mesh(1, network=network, config=UNVERIFIED) as (gateway,),
        client(network, gateway, 30) as one,
        client(network, gateway, 31) as two,
        client(network, gateway, 32) as three,
    ):
        events = watch(gateway)

        async def refused(peer: Recorder, *patterns: str) -> list[str]:
            events.clear()
            peer.say(wire.Subscribe(topics=patterns))
            await trio.sleep(0.2)
            return [fact["reason"] for fact in facts(events, "pubsub.client_refused")]

        (reason,) = await refused(one, "a.b*c")
        assert "is not valid" in reason
        assert gateway.statistics().clients == 0
        (reason,) = await refused(one, "a", "a", "b", "c", "d")
        assert "3 patterns already" in reason
        (reason,) = await refused(two, "a", "e", "f", "g")
        assert "3 patterns already" in reason
        one.say(wire.Unsubscribe(topics=("a",)))
        (reason,) = await refused(one, "h", "a")
        assert "together have 5" in reason
        (reason,) = await refused(three, "a")
        assert "2 clients" in reason
        assert await refused(three) == []


async def test_patterns_of_clients_and_of_the_node_itself_share_the_room_of_one_value(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with open_mesh(1, network=network, config=UNVERIFIED) as (gateway,), client(network, gateway) as peer:
        peer.say(wire.Subscribe(topics=tuple(f"a.*.n{number}" for number in range(64))))
        await trio.sleep(0.5)
        with pytest.raises(ValueError, match="64 patterns with the prefix 'a' already"):
            async with gateway.subscribe("a.**"):
                raise AssertionError("entered")
        async with gateway.subscribe("a.*.n7"), gateway.subscribe("b.*"):
            peer.say(wire.Unsubscribe(topics=("a.*.n1",)))
            await trio.sleep(0.1)
            async with gateway.subscribe("a.**"):
                events = watch(gateway)
                peer.say(wire.Subscribe(topics=("a.*.z",)))
                await trio.sleep(0.1)
                (fact,) = facts(events, "pubsub.client_refused")
                assert "64 patterns" in fact["reason"]


async def test_more_than_a_node_can_pass_on_is_dropped_and_told(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forwarding, "FORWARDS_MAX", 2)
    monkeypatch.setattr(forwarding, "PASSED_MAX", 5)
    network = SimNetwork()
    async with (
        open_mesh(2, network=network, config=UNVERIFIED) as (gateway, other),
        client(network, gateway) as peer,
        other.subscribe("t.*") as messages,
    ):
        events = watch(gateway)
        for number in range(5):
            peer.say(attrs.evolve(PUBLISH, payload=b"%d" % number))
        # Each of the two is on its way by itself; nobody promises an order between them.
        assert sorted(value for value, _, _ in await received(messages)) == [0, 1]
        reasons = [fact["reason"] for fact in facts(events, "pubsub.client_dropped")]
        assert reasons == ["busy"] * 3
        for number in range(5):
            peer.say(attrs.evolve(PUBLISH, payload=b"%d" % number))
            await trio.sleep(0.1)
        assert [value for value, _, _ in await received(messages)] == [2, 3, 4]
        assert len(gateway._pubsub._forwarding._passed) == 5
        for topic in ("t.*", "", "t..x"):
            peer.say(attrs.evolve(PUBLISH, topic=topic))
        await trio.sleep(0.1)
        reasons = [fact["reason"] for fact in facts(events, "pubsub.client_dropped")]
        assert reasons[3:] == ["repeated", "repeated", *["no_topic"] * 3]


async def test_before_it_has_proven_itself_nobody_subscribes(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with open_mesh(1, network=network) as (gateway,), open_endpoint(network, 30) as endpoint:
        peer = await connect_bare(endpoint, parse_endpoint(gateway.endpoint))
        peer.write(encode_message(wire.Subscribe(topics=("t.*",))))
        await trio.sleep(1)
        assert gateway.statistics().clients == 0
        assert peer.closed.is_set()


async def test_a_pattern_that_cannot_be_advertised_is_told_and_still_serves_what_comes_here(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = SimNetwork()

    def no_room(*_: object) -> None:
        raise macula.PayloadTooLarge(size=5000, limit=4096)

    async with open_mesh(1, network=network, config=UNVERIFIED) as (gateway,), client(network, gateway) as peer:
        monkeypatch.setattr(gateway._dht, "advertised", no_room)
        events = watch(gateway)
        peer.say(wire.Unsubscribe(topics=("t.*",)))  # it has none yet
        peer.say(wire.Subscribe(topics=("t.*",)))
        await trio.sleep(0.2)
        (fact,) = facts(events, "pubsub.client_unadvertised")
        assert fact == {"pattern": "t.*", "reason": "payload of 5000 bytes, limit 4096"}
        await gateway.publish("t.x", 1)
        await trio.sleep(0.1)
        assert payloads(peer) == [1]
        peer.say(wire.Unsubscribe(topics=("t.*",)))
        await trio.sleep(0.1)
        assert gateway.statistics().clients == 0

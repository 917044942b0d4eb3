"""Messages: who gets them, in which order, and what the report says of those who did not."""

from __future__ import annotations

import pytest
import trio

import macula_trio as macula
from macula_trio import Outcome
from macula_trio._pubsub import publisher as publishing
from macula_trio.testing import SimNetwork, open_mesh

Clock = trio.testing.MockClock


async def test_messages_of_one_publisher_arrive_in_its_order_and_are_counted(autojump_clock: Clock) -> None:
    async with open_mesh(3) as (_, publisher, subscriber), subscriber.subscribe("a.b") as messages:
        for number in range(100):
            await publisher.publish("a.b", number)
        received = [await messages.receive() for _ in range(100)]
        assert [message.payload for message in received] == list(range(100))
        assert [message.sequence for message in received] == list(range(1, 101))
        assert {message.publisher for message in received} == {publisher.node_id}


async def test_what_is_remembered_of_subscribers_is_bounded(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their ids cost nothing; who is sent something is remembered in place of who was not for longest."""
    monkeypatch.setattr(publishing, "SEQUENCES_MAX", 2)  # the publisher's own count is one of them
    async with (
        open_mesh(4) as (_, publisher, one, two),
        one.subscribe("a.b") as all_of_one,
        one.subscribe("a.c"),
        two.subscribe("a.c") as all_of_two,
    ):
        for topic in ("a.b", "a.b", "a.c", "a.b"):
            await publisher.publish(topic, topic)
            assert len(publisher._pubsub.publisher._sequences) <= 2
        got = [(await all_of_one.receive()).sequence for _ in range(3)]
        assert got[:2] == [1, 2]
        assert (await all_of_two.receive()).sequence == 1


async def test_only_the_topic_that_was_subscribed_to_arrives(autojump_clock: Clock) -> None:
    async with open_mesh(3) as (_, publisher, subscriber), subscriber.subscribe("a.b") as messages:
        report = await publisher.publish("a.c", 1)
        assert report.outcomes == {}
        await publisher.publish("a.b", 2)
        assert (await messages.receive()).payload == 2
        assert messages.statistics().received == 1


async def test_a_full_subscription_drops_its_oldest_message_and_counts(autojump_clock: Clock) -> None:
    async with open_mesh(2) as (publisher, subscriber), subscriber.subscribe("a.b", buffer=2) as messages:
        for number in range(5):
            await publisher.publish("a.b", number)
        await trio.sleep(0.1)
        statistics = messages.statistics()
        assert (statistics.received, statistics.dropped, statistics.waiting) == (5, 3, 2)
        assert [(await messages.receive()).payload for _ in range(2)] == [3, 4]


async def test_the_report_tells_of_a_full_subscription_here(autojump_clock: Clock) -> None:
    async with open_mesh(1) as (node,), node.subscribe("a.b", buffer=1):
        assert (await node.publish("a.b", 1)).having(Outcome.DELIVERED) == [node.node_id]
        assert (await node.publish("a.b", 2)).having(Outcome.DROPPED) == [node.node_id]


async def test_the_report_tells_of_a_subscriber_that_is_gone(autojump_clock: Clock) -> None:
    gone: list[tuple[str, int]] = []
    network = SimNetwork(tap=lambda source, target, data: None if source in gone or target in gone else data)
    config = macula.NodeConfig(realm="org.example.test", keepalive_s=1)
    async with (
        open_mesh(3, network=network, config=config) as (_, publisher, subscriber),
        subscriber.subscribe("a.b"),
    ):
        assert (await publisher.publish("a.b", 1)).having(Outcome.QUEUED) == [subscriber.node_id]
        gone.append(("10.0.0.3", 9443))
        await trio.sleep(10)  # virtual: the link has timed out
        assert (await publisher.publish("a.b", 2)).having(Outcome.UNREACHABLE) == [subscriber.node_id]


async def test_several_subscriptions_of_one_node_get_one_copy_over_the_network(autojump_clock: Clock) -> None:
    async with (
        open_mesh(2) as (publisher, subscriber),
        subscriber.subscribe("a.b") as one,
        subscriber.subscribe("a.b") as two,
    ):
        await publisher.publish("a.b", {"k": "v"})
        first, second = await one.receive(), await two.receive()
        assert first.payload == second.payload == {"k": "v"}
        assert first.payload is not second.payload, "what one subscriber changes is not seen by the other"
        assert subscriber.statistics().frames_received["PUBSUB_ROUTE"] == 1


async def test_leaving_the_block_ends_the_subscription(autojump_clock: Clock) -> None:
    async with open_mesh(2) as (publisher, subscriber):
        async with subscriber.subscribe("a.b") as outer:
            async with subscriber.subscribe("a.b"):
                pass
            await trio.sleep(2)  # virtual
            report = await publisher.publish("a.b", 1)
            assert report.having(Outcome.QUEUED) == [subscriber.node_id], "the other subscription still stands"
            assert (await outer.receive()).payload == 1
        with pytest.raises(trio.ClosedResourceError):
            await outer.receive()
        await trio.sleep(2)  # virtual: withdrawn, and looked up anew
        assert (await publisher.publish("a.b", 2)).outcomes == {}


async def test_bytes_and_values_arrive_as_they_were_published(autojump_clock: Clock) -> None:
    values: list[object] = [None, 1.5, "text", b"bytes", [1, {"a": None}]]
    async with open_mesh(2) as (publisher, subscriber), subscriber.subscribe("a.b") as messages:
        for value in values:
            await publisher.publish("a.b", value)
            assert (await messages.receive()).payload == value
        with pytest.raises(macula.LocalProtocolError):
            await publisher.publish("a.b", {1, 2})
        report = await publisher.publish("a.b", bytes(2_000_000))
        assert report.having(Outcome.REJECTED) == [subscriber.node_id]
        await publisher.publish("a.b", "still there")
        assert (await messages.receive()).payload == "still there"


async def test_what_is_not_there_yet_says_so(autojump_clock: Clock) -> None:
    async with open_mesh(1) as (node,):
        with pytest.raises(ValueError, match="qos"):
            await node.publish("a.b", 1, qos=1)
        with pytest.raises(ValueError, match="not valid"):
            await node.publish("a.*", 1)

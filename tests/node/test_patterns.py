"""Subscriptions with wildcards: who finds whom, how often, and what strangers can make of it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial
from math import inf
from typing import Any, Final, Literal

import pytest
import trio
from authorisation_tools import facts, outsider
from node_tools import watch

import macula_trio as macula
from macula_trio import Outcome
from macula_trio._ids import Advert
from macula_trio._pubsub import interest
from macula_trio._pubsub.adverts import PATTERNS_MAX, SHARDS, choose, key_of, place_of, shard_of
from macula_trio._wire import messages as wire
from macula_trio.testing import SimNetwork, open_mesh

pytestmark = pytest.mark.thorough

Clock = trio.testing.MockClock


async def payloads(subscription: macula.Subscription) -> list[object]:
    await trio.sleep(0.1)
    return [(await subscription.receive()).payload for _ in range(subscription.statistics().waiting)]


def values_of(nodes: Sequence[macula.Node], owner: macula.Node, pattern: str) -> list[Any]:
    """What the replicas hold of a node's patterns; the newest each."""
    key = key_of(place_of(pattern, owner.node_id))
    held = [value for node in nodes for value in node.stored_values() if value.key == key]
    return [None if value.withdrawn else value.metadata.get("patterns") for value in held]


@pytest.mark.parametrize("pattern", ["a.*.c", "a.**", "a.#", "*.b.c", "**", "#", "a.b.c.**", "a.b.c"])
async def test_a_publisher_that_never_met_the_subscriber_finds_it_by_its_pattern(
    pattern: str, autojump_clock: Clock
) -> None:
    async with open_mesh(5) as (_, publisher, _, _, subscriber), subscriber.subscribe(pattern) as messages:
        assert messages.topic == pattern
        for topic in ("a.b.c", "a.b", "b"):
            report = await publisher.publish(topic, topic)
            wants = macula_matches(pattern, topic)
            assert report.outcomes == ({subscriber.node_id: Outcome.QUEUED} if wants else {})
            assert await payloads(messages) == [topic] * wants
        await publisher.publish("a.b.c", 1)
        message = await messages.receive()
        assert message.topic == "a.b.c"
        assert message.publisher == publisher.node_id


def macula_matches(pattern: str, topic: str) -> bool:
    """By hand, for the three topics above."""
    return (
        topic
        in {
            "a.*.c": ["a.b.c"],
            "a.**": ["a.b.c", "a.b"],
            "a.#": ["a.b.c", "a.b"],
            "*.b.c": ["a.b.c"],
            "**": ["a.b.c", "a.b", "b"],
            "#": ["a.b.c", "a.b", "b"],
            "a.b.c.**": ["a.b.c"],
            "a.b.c": ["a.b.c"],
        }[pattern]
    )


async def test_one_node_gets_one_copy_and_each_of_its_subscriptions_gets_it_once(autojump_clock: Clock) -> None:
    patterns = ["a.b", "a.b", "a.*", "a.*", "a.**", "*.b", "**", "b.*"]
    async with open_mesh(4) as (_, publisher, subscriber, _), AsyncExitStack() as stack:
        events = watch(subscriber)
        subscriptions = [await stack.enter_async_context(subscriber.subscribe(pattern)) for pattern in patterns]
        report = await publisher.publish("a.b", 1)
        assert report.outcomes == {subscriber.node_id: Outcome.QUEUED}
        assert [await payloads(each) for each in subscriptions] == [[1]] * 7 + [[]]
        assert subscriber.statistics().frames_received["PUBSUB_ROUTE"] == 1
        told = [event["subscription"] for event in facts(events, "pubsub.delivered")]
        assert sorted(told) == [each.number for each in subscriptions[:-1]]


async def test_a_node_hears_itself_by_its_patterns(autojump_clock: Clock) -> None:
    async with open_mesh(1) as (node,), node.subscribe("a.*") as one, node.subscribe("#") as other:
        assert (await node.publish("a.b", 1)).having(Outcome.DELIVERED) == [node.node_id]
        assert (await payloads(one), await payloads(other)) == ([1], [1])


async def test_patterns_of_one_prefix_share_one_value_which_follows_them(autojump_clock: Clock) -> None:
    async with open_mesh(4) as nodes:
        subscriber, publisher = nodes[1], nodes[3]
        async with subscriber.subscribe("a.*.c") as outer:
            assert [list(map(as_text, held)) for held in values_of(nodes, subscriber, "a.*")] == [["a.*.c"]] * 4
            async with subscriber.subscribe("a.**") as inner, subscriber.subscribe("a.b.*"):
                for held in values_of(nodes, subscriber, "a.*"):
                    assert sorted(map(as_text, held)) == ["a.**", "a.*.c"], "entered when it was stored everywhere"
                await publisher.publish("a.x", 1)
                assert (await payloads(inner), await payloads(outer)) == ([1], [])
            await trio.sleep(1)  # virtual: the shorter list was stored behind the scenes
            for held in values_of(nodes, subscriber, "a.*"):
                assert list(map(as_text, held)) == ["a.*.c"]
            assert set(values_of(nodes, subscriber, "a.b.*")) == {None}, "the last of its prefix was withdrawn"
            await trio.sleep(2)
            assert (await publisher.publish("a.x", 2)).outcomes == {}
            assert (await publisher.publish("a.x.c", 3)).having(Outcome.QUEUED) == [subscriber.node_id]
        await trio.sleep(2)
        assert set(values_of(nodes, subscriber, "a.*")) == {None}
        assert (await publisher.publish("a.x.c", 4)).outcomes == {}


def as_text(item: str | bytes) -> str:
    """What a node holds of its own is as it wrote it."""
    return item.decode() if isinstance(item, bytes) else item


@pytest.mark.parametrize(("pattern", "seconds"), [("a.*", interest.FRESH_S), ("**", interest.SHARDS_FRESH_S)])
async def test_who_publishes_all_the_time_notices_newcomers_and_those_who_leave(
    pattern: str, seconds: float, autojump_clock: Clock
) -> None:
    async with open_mesh(3) as (_, publisher, subscriber), trio.open_nursery() as nursery:
        outcomes: list[int] = []

        async def publish() -> None:
            while True:
                outcomes.append(len((await publisher.publish("a.b", 1)).outcomes))
                await trio.sleep(0.1)

        nursery.start_soon(publish)
        await trio.sleep(20)
        assert set(outcomes) == {0}
        async with subscriber.subscribe(pattern) as messages:
            with trio.fail_after(seconds + 0.3):
                await messages.receive()
            await trio.sleep(20)
        await trio.sleep(seconds + 1)
        outcomes.clear()
        await trio.sleep(2)
        assert set(outcomes) == {0}
        nursery.cancel_scope.cancel()


@pytest.mark.long
@pytest.mark.long
async def test_seventeen_owners_of_the_empty_prefix_are_all_found(autojump_clock: Clock) -> None:
    async with open_mesh(18) as (publisher, *owners), AsyncExitStack() as stack:
        subscriptions = [
            await stack.enter_async_context(owner.subscribe(f"{'*.' * (number % 3)}**"))
            for number, owner in enumerate(owners)
        ]
        assert 1 < len({shard_of(owner.node_id) for owner in owners}) <= SHARDS
        report = await publisher.publish("a.b.c", 1)
        assert sorted(report.having(Outcome.QUEUED)) == sorted(owner.node_id for owner in owners)
        assert [await payloads(each) for each in subscriptions] == [[1]] * 17


async def test_find_subscribers_finds_them_by_name_and_by_pattern(autojump_clock: Clock) -> None:
    async with open_mesh(4) as (asker, one, two, three):
        assert await asker.find_subscribers("a.b") == []
        async with one.subscribe("a.b"), one.subscribe("a.*"), two.subscribe("**"), three.subscribe("b.*"):
            found = [contact.node_id for contact in await asker.find_subscribers("a.b")]
            assert found == [one.node_id, two.node_id]
            with pytest.raises(ValueError, match="topic 'a.\\*' is not valid"):
                await asker.find_subscribers("a.*")


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", ["a.b*c", "a.*b", "", ".", "a..*", "a.***", "*" * 256, "a b.*", "a.*\n"])
async def test_what_is_no_pattern_is_refused_in_one_line(pattern: str, autojump_clock: Clock) -> None:
    async with open_mesh(1) as (node,):
        with pytest.raises(ValueError, match="is not valid") as caught:
            async with node.subscribe(pattern):
                raise AssertionError("entered")
        assert "\n" not in str(caught.value)
        assert node.stored_values() == []


async def test_too_many_patterns_of_one_prefix_are_refused_and_the_others_stay(autojump_clock: Clock) -> None:
    async with open_mesh(2) as (publisher, subscriber), AsyncExitStack() as stack:
        for number in range(PATTERNS_MAX):
            await stack.enter_async_context(subscriber.subscribe(f"a.*.n{number}"))
        with pytest.raises(ValueError, match="64 patterns with the prefix 'a' already"):
            async with subscriber.subscribe("a.**"):
                raise AssertionError("entered")
        async with subscriber.subscribe("a.*.n7") as again, subscriber.subscribe("b.*") as other:
            assert (await publisher.publish("a.x.n7", 1)).having(Outcome.QUEUED) == [subscriber.node_id]
            await publisher.publish("b.x", 2)
            assert (await payloads(again), await payloads(other)) == ([1], [2])


async def test_a_pattern_does_not_take_what_is_no_topic(autojump_clock: Clock) -> None:
    """Whoever sends a bare PUBLISH may write into it what it likes; an application gets topics."""
    network = SimNetwork()
    async with (
        open_mesh(1, network=network) as (node,),
        node.subscribe("**") as messages,
        outsider(network, node) as stranger,
    ):
        for topic in ("a.*", "**", "", "a..b", "a" * 256, "a\n", "a" * 100_000):
            stranger.say(wire.Publish(topic=topic, payload=b"1", message_id=bytes(16)))
        stranger.say(wire.Publish(topic="a.b", payload=b"2", message_id=bytes(16)))
        assert await payloads(messages) == [2]


async def test_who_may_publish_is_judged_by_the_topic(autojump_clock: Clock) -> None:
    asked: list[str] = []

    def rule(_publisher: macula.NodeId, topic: str) -> bool:
        asked.append(topic)
        return topic == "a.b"

    config = macula.NodeConfig(realm="org.example.test", may_publish=rule)
    async with open_mesh(2, config=config) as (publisher, subscriber), subscriber.subscribe("a.*") as messages:
        for topic in ("a.b", "a.c", "b.c"):
            await publisher.publish(topic, topic)
        assert await payloads(messages) == ["a.b"]
        assert asked == ["a.b", "a.c"]
        assert subscriber.statistics().messages_forbidden == 1


# -- strangers, and a slow mesh ---------------------------------------------------------------------------------------

HOSTILE: Final[list[dict[str, Any]]] = [
    {},
    {"patterns": "a.*"},
    {"patterns": []},
    {"patterns": {"a.*": 1}},
    {"patterns": [1, None, [], {}, True]},
    {"patterns": [b"\xff", b"", b".", b"b.*", b"a.b", b"a" * 2000]},
    {"patterns": [b".".join([*[b"**"] * 80, b"nothing"])] * 10},
]


async def test_whatever_strangers_write_there_the_others_are_found(autojump_clock: Clock) -> None:
    strangers = len(HOSTILE)
    async with open_mesh(strangers + 2) as (publisher, subscriber, *others):
        for other, metadata in zip(others, HOSTILE, strict=True):
            for pattern in ("a.*", "**"):
                await other.store(key_of(place_of(pattern, other.node_id)), metadata, kind="subscriber")
        async with subscriber.subscribe("a.*") as messages:
            report = await publisher.publish("a.b", 1)
            assert report.having(Outcome.QUEUED) == [subscriber.node_id]
            assert await payloads(messages) == [1]


async def test_lists_that_were_not_read_to_the_end_are_told(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interest, "choose", partial(choose, segments_max=8))
    async with open_mesh(3) as (publisher, subscriber, other), AsyncExitStack() as stack:
        for number in range(6):
            await stack.enter_async_context(other.subscribe(f"a.*.n{number}"))
        events = watch(publisher)
        async with subscriber.subscribe("a.**"):
            report = await publisher.publish("a.x", 1)
            await publisher.publish("a.x", 2)
        assert report.having(Outcome.QUEUED) == [subscriber.node_id]
        assert facts(events, "pubsub.patterns_unread") == [{"topic": "a.x", "patterns": 5}]


class SlowDirectory:
    """Answers about topics at once, and about one place when it is let."""

    def __init__(self, publisher: macula.Node, slow: str) -> None:
        self._find = publisher._dht.find
        self._slow = key_of(slow)
        self.gate = trio.Event()
        self.asked = 0

    async def find(self, key: bytes, kind: Literal["service", "subscriber"]) -> list[Advert]:
        if key == self._slow:
            self.asked += 1
            await self.gate.wait()
        return await self._find(key, kind)


async def test_a_slow_lookup_of_patterns_delays_one_message_and_goes_on(autojump_clock: Clock) -> None:
    async with (
        open_mesh(4) as (_, publisher, one, two),
        one.subscribe("a.b") as by_name,
        two.subscribe("a.*") as by_pattern,
    ):
        directory = SlowDirectory(publisher, "pattern:a")
        publisher._pubsub.publisher._interest._directory = directory  # type: ignore[assignment]
        for _ in range(5):
            with trio.fail_after(interest.PATIENCE_S + 0.5):
                assert list((await publisher.publish("a.b", 1)).outcomes) == [one.node_id]
        assert directory.asked == 1, "all wait for the same lookup, and not anew each time"
        with trio.fail_after(0.1):
            await publisher.publish("a.b", 2)
        directory.gate.set()
        await trio.sleep(0.1)
        assert sorted((await publisher.publish("a.b", 3)).outcomes) == sorted([one.node_id, two.node_id])
        assert await payloads(by_pattern) == [3]
        assert (await payloads(by_name))[-1] == 3


async def test_publishers_of_many_topics_share_what_they_look_up(autojump_clock: Clock) -> None:
    async with open_mesh(3) as (_, publisher, subscriber), subscriber.subscribe("a.*") as messages:
        directory = SlowDirectory(publisher, "pattern:a")
        directory.gate.set()
        publisher._pubsub.publisher._interest._directory = directory  # type: ignore[assignment]
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(publisher.publish, f"a.n{number}", number)
        assert sorted(await payloads(messages), key=str) == sorted(range(20), key=str)
        assert directory.asked == 1


async def test_a_publisher_that_is_cancelled_leaves_its_lookup_to_the_others(autojump_clock: Clock) -> None:
    async with open_mesh(3) as (_, publisher, subscriber), subscriber.subscribe("a.*") as messages:
        directory = SlowDirectory(publisher, "pattern:a")
        publisher._pubsub.publisher._interest._directory = directory  # type: ignore[assignment]
        async with trio.open_nursery() as nursery:
            with trio.move_on_after(0.2):
                await publisher.publish("a.b", 1)
            nursery.start_soon(publisher.publish, "a.b", 2)
            await trio.sleep(0.2)
            directory.gate.set()
        assert await payloads(messages) == [2]
        assert directory.asked == 1


async def test_what_a_publisher_remembers_is_bounded(autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interest, "PLACES_MAX", 30)
    monkeypatch.setattr(interest, "PATTERNS_BYTES_MAX", 10)
    async with (
        open_mesh(2) as (publisher, subscriber),
        subscriber.subscribe("a.*") as some,
        subscriber.subscribe("b.*.long-name"),
        subscriber.subscribe("*.*") as everything,
    ):
        known = publisher._pubsub.publisher._interest
        for number in range(40):
            await publisher.publish(f"a.n{number}", number)
            await publisher.publish(f"b.n{number}.long-name", number)
            assert len(known._known) <= 30
            assert len(known._chosen) <= 30
            assert known._bytes == sum(each.size for each in known._known.values()) <= 10
        assert await payloads(some) == await payloads(everything) == list(range(40))


async def test_who_is_not_there_any_more_is_looked_up_again_at_once(autojump_clock: Clock) -> None:
    gone: list[tuple[str, int]] = []
    network = SimNetwork(tap=lambda source, target, data: None if source in gone or target in gone else data)
    config = macula.NodeConfig(realm="org.example.test", keepalive_s=1)
    async with open_mesh(3, network=network, config=config) as (_, publisher, subscriber), subscriber.subscribe("**"):
        assert (await publisher.publish("a.b", 1)).having(Outcome.QUEUED) == [subscriber.node_id]
        known = publisher._pubsub.publisher._interest._known
        place = place_of("**", subscriber.node_id)
        gone.append(("10.0.0.3", 9443))
        await trio.sleep(10)  # virtual: the link has timed out
        assert (await publisher.publish("a.b", 2)).having(Outcome.UNREACHABLE) == [subscriber.node_id]
        assert known[place].until == -inf
        assert known["a.b"].until > 0, "it was not found there"


async def test_a_node_that_is_closed_says_so(autojump_clock: Clock) -> None:
    async with open_mesh(1) as (node,):
        pass
    with pytest.raises(trio.ClosedResourceError):
        await node._pubsub.publisher.publish("a.b", 1, headers=None)

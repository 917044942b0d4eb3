"""Subscriptions that block: a slow reader slows those who publish to it, and nothing else."""

from __future__ import annotations

import random
from contextlib import AsyncExitStack

import pytest
import trio
from authorisation_tools import FORWARDER, facts, outsider
from cancel_tools import CancelAtStep
from node_tools import link_between, watch

import macula_trio as macula
from macula_trio import Outcome
from macula_trio._pubsub import publisher as publishing
from macula_trio._pubsub.window import SCOPE, SendWindow, window_id
from macula_trio._wire import messages as wire
from macula_trio.errors import ErrorCode
from macula_trio.testing import SimNetwork, open_mesh
from macula_trio.testing._mesh import sim_identity
from macula_trio.testing.network import LinkModel

pytestmark = pytest.mark.thorough

Clock = trio.testing.MockClock


async def publish_all(node: macula.Node, topic: str, count: int) -> list[macula.PublishReport]:
    return [await node.publish(topic, number) for number in range(count)]


async def fill(node: macula.Node, topic: str, count: int, *, within_s: float = 1) -> None:
    """Publish as many as fit, without waiting for anybody who reads."""
    started = trio.current_time()
    for report in await publish_all(node, topic, count):
        assert set(report.outcomes.values()) <= {Outcome.QUEUED, Outcome.DELIVERED}
    await trio.sleep(0.1)  # virtual
    assert trio.current_time() - started < within_s


async def take(subscription: macula.Subscription, count: int) -> list[object]:
    payloads: list[object] = []
    with trio.fail_after(10):
        await trio.lowlevel.checkpoint()
        while len(payloads) < count:
            payloads.append((await subscription.receive()).payload)
    return payloads


@pytest.mark.parametrize("buffer", [1, 2, 5, 16])
async def test_a_slow_reader_slows_its_publisher_and_nothing_is_lost(buffer: int, autojump_clock: Clock) -> None:
    reports: list[macula.PublishReport] = []
    async with (
        open_mesh(3) as (_, publisher, subscriber),
        subscriber.subscribe("a.b", when_full="block", buffer=buffer) as messages,
        trio.open_nursery() as nursery,
    ):

        async def publish() -> None:
            reports.extend(await publish_all(publisher, "a.b", 40))

        nursery.start_soon(publish)
        started = trio.current_time()
        received = []
        for taken in range(40):
            await trio.sleep(0.5)
            assert messages.statistics().waiting <= buffer
            assert len(reports) <= taken + buffer
            received.append(await messages.receive())
        assert [message.payload for message in received] == list(range(40))
        assert [message.sequence for message in received] == list(range(1, 41))
        assert messages.statistics() == macula.SubscriptionStatistics(received=40, dropped=0, waiting=0)
        assert 19.9 < trio.current_time() - started < 21, "the reader never waited for a message"
    assert [report.outcomes for report in reports] == [{subscriber.node_id: Outcome.QUEUED}] * 40


async def test_a_fast_reader_slows_nobody_and_its_credits_are_few(autojump_clock: Clock) -> None:
    async with (
        open_mesh(2) as (publisher, subscriber),
        subscriber.subscribe("a.b", when_full="block", buffer=64) as messages,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(publish_all, publisher, "a.b", 1000)
        started = trio.current_time()
        assert await take(messages, 1000) == list(range(1000))
        assert trio.current_time() - started < 2
        assert 1000 / 64 - 1 <= subscriber.statistics().frames_sent["CREDIT"] <= 2 * 1000 / 64 + 1


async def test_other_topics_and_calls_over_the_same_link_are_not_slowed(autojump_clock: Clock) -> None:
    async def handler(call: macula.Call) -> object:
        return call.args

    async with (
        open_mesh(3) as (_, publisher, subscriber),
        subscriber.subscribe("full", when_full="block", buffer=2),
        subscriber.subscribe("quick", when_full="block", buffer=2) as quick,
        subscriber.subscribe("old") as old,
        subscriber.advertise("echo", handler),
    ):
        await fill(publisher, "full", 2)
        await publisher.call("echo", 0)
        await publisher.publish("quick", -1)
        await publisher.publish("old", -1)
        await trio.sleep(1.5)  # what is known of the subscribers is not fresh any more
        async with trio.open_nursery() as nursery:
            nursery.start_soon(publisher.publish, "full", 3)
            await trio.sleep(0.5)
            started = trio.current_time()
            for number in range(10):
                assert await publisher.call("echo", number) == number
                await publisher.publish("quick", number)
                await publisher.publish("old", number)
                assert await take(quick, 1) == [number - 1]
            assert await take(old, 11) == list(range(-1, 10))
            assert trio.current_time() - started < 1
            nursery.cancel_scope.cancel()


async def test_other_subscribers_get_each_message_at_once(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits for credit takes no place of those who are dialed."""
    monkeypatch.setattr(publishing, "FAN_OUT_MAX", 1)
    async with AsyncExitStack() as stack:
        publisher, *subscribers = await stack.enter_async_context(open_mesh(5))
        full = [
            await stack.enter_async_context(node.subscribe("a.b", when_full="block", buffer=1))
            for node in subscribers[:3]
        ]
        free = await stack.enter_async_context(subscribers[3].subscribe("a.b"))
        await fill(publisher, "a.b", 1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(publisher.publish, "a.b", 1)
            await trio.sleep(0.5)
            assert await take(free, 2) == [0, 1]
            for subscription in full:
                assert await take(subscription, 2) == [0, 1]


async def test_nobody_waits_for_a_subscription_that_is_not_read_more_than_once(autojump_clock: Clock) -> None:
    async with (
        open_mesh(3) as (_, publisher, subscriber),
        subscriber.subscribe("a.b", when_full="block", buffer=2) as messages,
    ):
        await fill(publisher, "a.b", 2)
        events = watch(publisher, "pubsub.dropped")
        for patience_s in (publishing.TARGET_DEADLINE_S, 0, 0):
            started = trio.current_time()
            report = await publisher.publish("a.b", "lost")
            assert report.outcomes == {subscriber.node_id: Outcome.DROPPED}
            assert started + patience_s <= trio.current_time() < started + patience_s + 0.5
            told = facts(events, "pubsub.dropped")[-1]
            assert (told["topic"], told["message_id"]) == ("a.b", report.message_id.hex())
            assert told["subscriber"] == subscriber.node_id.hex()
        assert len(events) == publisher.statistics().publications_dropped == 3
        assert messages.statistics() == macula.SubscriptionStatistics(received=2, dropped=0, waiting=2)
        assert await take(messages, 1) == [0]
        await trio.sleep(0.1)
        await fill(publisher, "a.b", 1)
        started = trio.current_time()
        assert (await publisher.publish("a.b", 9)).having(Outcome.DROPPED) == [subscriber.node_id]
        assert trio.current_time() >= started + publishing.TARGET_DEADLINE_S, "it was read, so it is waited for again"


async def test_a_publisher_with_less_patience_leaves_and_nothing_is_left_of_it(autojump_clock: Clock) -> None:
    async with (
        open_mesh(2) as (publisher, subscriber),
        subscriber.subscribe("a.b", when_full="block", buffer=1) as messages,
    ):
        await fill(publisher, "a.b", 1)
        link = link_between(publisher, subscriber)
        before = dict(link._close_callbacks)  # type: ignore[attr-defined]
        with trio.move_on_after(1) as scope:
            await publisher.publish("a.b", "cancelled")
        assert scope.cancelled_caught
        assert link._close_callbacks == before  # type: ignore[attr-defined]
        assert publisher._pubsub.publisher.gates.of(link)._waiting == {}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(publisher.publish, "a.b", 1)
            await trio.sleep(1)
            assert await take(messages, 2) == [0, 1], "its impatience is not the fault of the subscriber"
        assert publisher.statistics().publications_dropped == 0


async def test_cancelled_at_any_step_a_publisher_takes_no_place_with_it(autojump_clock: Clock) -> None:
    async with (
        open_mesh(2) as (publisher, subscriber),
        subscriber.subscribe("a.b", when_full="block", buffer=2) as messages,
    ):
        step, has_ended = 1, False

        async def take_one_later() -> None:
            await trio.sleep(0.1)
            await messages.receive()

        while not has_ended:
            await fill(publisher, "a.b", 2)
            knife = CancelAtStep(step)
            trio.lowlevel.add_instrument(knife)
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(take_one_later)
                    knife.armed = True
                    with knife.scope:
                        await publisher.publish("a.b", 2)
            finally:
                knife.armed = False
                trio.lowlevel.remove_instrument(knife)
            gate = publisher._pubsub.publisher.gates.of(link_between(publisher, subscriber))
            assert gate._waiting == {}
            assert [window.reserved for window in gate._windows.values()] == [0]
            await trio.sleep(0.1)
            await take(messages, messages.statistics().waiting)
            await trio.sleep(0.1)
            has_ended = not knife.scope.cancel_called
            step += 1
        assert step > 5, "too few steps for a sweep of anything"
        assert messages.statistics().dropped == 0


async def test_a_subscription_that_ends_lets_its_publishers_go(autojump_clock: Clock) -> None:
    async with open_mesh(2) as (publisher, subscriber), trio.open_nursery() as nursery:
        async with subscriber.subscribe("a.b", when_full="block", buffer=4) as messages:
            await fill(publisher, "a.b", 4)
            nursery.start_soon(publisher.publish, "a.b", 5)
            await trio.sleep(0.5)
            assert nursery.child_tasks
        await trio.sleep(0.1)
        assert not nursery.child_tasks
        with pytest.raises(trio.ClosedResourceError):
            await messages.receive()
        async with subscriber.subscribe("a.b", when_full="block", buffer=2) as again:
            await trio.sleep(2)  # until the publisher has heard of it
            await fill(publisher, "a.b", 2)
            assert await take(again, 2) == [0, 1]
            await fill(publisher, "a.b", 2)


async def test_messages_for_a_subscription_that_has_ended_are_credited(autojump_clock: Clock) -> None:
    """Else it would be full for this publisher when it comes again."""
    async with open_mesh(2) as (publisher, subscriber):
        async with subscriber.subscribe("a.b", when_full="block", buffer=2):
            await fill(publisher, "a.b", 1)
        await publish_all(publisher, "a.b", 2)  # it does not know yet
        await trio.sleep(0.1)
        (window,) = publisher._pubsub.publisher.gates.of(link_between(publisher, subscriber))._windows.values()
        assert (window.sent, window.taken) == (3, 3)


async def test_when_a_link_is_replaced_who_waits_goes_on_over_the_new_one(autojump_clock: Clock) -> None:
    async with (
        open_mesh(3) as (_, publisher, subscriber),
        subscriber.subscribe("a.b", when_full="block", buffer=3) as messages,
        trio.open_nursery() as nursery,
    ):
        await fill(publisher, "a.b", 3)
        nursery.start_soon(publisher.publish, "a.b", 3)
        await trio.sleep(0.5)
        before = link_between(publisher, subscriber)
        before.close(ErrorCode.NORMAL, "a test")  # type: ignore[attr-defined]
        await trio.sleep(0.5)
        assert not nursery.child_tasks, "on the new link all of its window is there"
        assert link_between(publisher, subscriber) is not before
        await publish_all(publisher, "a.b", 2)
        await trio.sleep(0.1)
        assert messages.statistics().waiting == 6
        nursery.start_soon(publisher.publish, "a.b", 6)
        await trio.sleep(0.5)
        assert nursery.child_tasks
        assert await take(messages, 7) == [0, 1, 2, 3, 0, 1, 6]
        assert messages.statistics().dropped == 0


async def test_a_publisher_that_starts_anew_is_waited_for_like_a_new_one(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with (
        open_mesh(2, network=network) as (bootstrap, subscriber),
        subscriber.subscribe("a.b", when_full="block", buffer=2) as messages,
    ):
        config = macula.NodeConfig(realm=bootstrap.realm, bootstrap=[bootstrap.endpoint], listen="10.0.0.9:9443")
        for run in range(2):
            async with macula.open_node(
                config, identity=sim_identity(9), network=network.host("10.0.0.9")
            ) as publisher:
                await fill(publisher, "a.b", 2)
                with trio.move_on_after(1) as scope:
                    await publisher.publish("a.b", run)
                assert scope.cancelled_caught
        assert messages.statistics() == macula.SubscriptionStatistics(received=4, dropped=0, waiting=4)


async def test_of_several_that_want_a_message_the_slowest_counts_and_one_that_drops_never_blocks(
    autojump_clock: Clock,
) -> None:
    async with (
        open_mesh(2) as (publisher, subscriber),
        subscriber.subscribe("a.b", when_full="block", buffer=4) as one,
        subscriber.subscribe("a.b", when_full="block", buffer=4) as same,
        subscriber.subscribe("a.*", when_full="block", buffer=4) as pattern,
        subscriber.subscribe("a.**", buffer=1) as dropping,
        trio.open_nursery() as nursery,
    ):
        await fill(publisher, "a.b", 4)
        nursery.start_soon(publisher.publish, "a.b", 4)
        for slow in (one, same, pattern):
            await trio.sleep(0.5)
            assert nursery.child_tasks, "somebody has not taken any"
            assert len(await take(slow, 4)) == 4
        await trio.sleep(0.5)
        assert not nursery.child_tasks
        for each in (one, same, pattern, dropping):
            assert await take(each, 1) == [4]
        assert dropping.statistics().dropped == 4
        await fill(publisher, "a.c", 4)
        await fill(publisher, "a.c.d", 6)
        assert await take(pattern, 4) == [0, 1, 2, 3]
        assert subscriber.statistics().frames_received["PUBSUB_ROUTE"] == 5 + 4 + 6


async def test_a_smaller_subscription_that_comes_later_holds_nobody_for_what_was_taken_before(
    autojump_clock: Clock,
) -> None:
    async with (
        open_mesh(2) as (publisher, subscriber),
        subscriber.subscribe("a.b", when_full="block", buffer=100) as large,
    ):
        await fill(publisher, "a.b", 10)
        assert len(await take(large, 9)) == 9
        async with subscriber.subscribe("a.b", when_full="block", buffer=3) as small:
            await trio.sleep(2)
            await fill(publisher, "a.b", 2)
            with trio.move_on_after(1) as scope:
                await publisher.publish("a.b", "too much")
            assert scope.cancelled_caught
            assert await take(small, 2) == [0, 1]
            assert await take(large, 3) == [9, 0, 1]
            await trio.sleep(0.1)
            await fill(publisher, "a.b", 3)


async def test_a_publisher_of_the_same_node_waits_too(autojump_clock: Clock) -> None:
    async with (
        open_mesh(2) as (node, other),
        node.subscribe("a.b", when_full="block", buffer=2) as messages,
        node.subscribe("a.*", buffer=9) as beside,
        other.subscribe("a.b") as elsewhere,
        trio.open_nursery() as nursery,
    ):
        await fill(node, "a.b", 2)
        reports: list[macula.PublishReport] = []

        async def publish() -> None:
            reports.append(await node.publish("a.b", 2))

        nursery.start_soon(publish)
        await trio.sleep(1)
        assert await take(beside, 3) == await take(elsewhere, 3) == [0, 1, 2]
        assert not reports
        assert await take(messages, 1) == [0]
        await trio.sleep(0.1)
        assert reports[0].outcomes == {node.node_id: Outcome.DELIVERED, other.node_id: Outcome.QUEUED}
        events = watch(node, "pubsub.dropped")
        for patience_s in (publishing.TARGET_DEADLINE_S, 0):
            started = trio.current_time()
            report = await node.publish("a.b", 3)
            assert report.outcomes == {node.node_id: Outcome.DROPPED, other.node_id: Outcome.QUEUED}
            assert started + patience_s <= trio.current_time() < started + patience_s + 0.5
        assert len(facts(events, "pubsub.dropped")) == node.statistics().publications_dropped == 2
        assert await take(messages, 2) == [1, 2]
        assert messages.statistics() == macula.SubscriptionStatistics(received=3, dropped=0, waiting=0)
        await fill(node, "a.b", 2)


async def test_clients_and_messages_through_others_are_dropped_when_it_is_full(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with (
        open_mesh(2, network=network) as (publisher, subscriber),
        subscriber.subscribe("a.b", when_full="block", buffer=2) as messages,
        outsider(network, subscriber) as stranger,
    ):
        payload = wire.Publish(topic="a.b", payload=b"1", message_id=bytes(16))
        mark = window_id("a.b") + (1).to_bytes(8)
        for number in range(6):
            if number % 2:
                stranger.say(wire.Publish(topic="a.b", payload=str(number).encode(), message_id=bytes([number]) * 16))
            else:
                stranger.say(
                    wire.PubsubRoute(
                        destination_node_id=subscriber.node_id,
                        source_node_id=publisher.node_id,
                        hop_count=1,
                        max_hops=10,
                        topic="a.b",
                        payload=payload,
                        windows=(mark,),
                    )
                )
            await trio.sleep(0.1)
        assert messages.statistics() == macula.SubscriptionStatistics(received=6, dropped=4, waiting=2)
        await fill(publisher, "a.b", 2, within_s=4)  # it asks the stranger, too, who does not answer
        assert len(await take(messages, 4)) == 4
        assert subscriber.statistics().frames_sent.get("CREDIT", 0) == 2, "only the publisher that counts is told"


async def test_a_client_of_another_node_is_not_waited_for(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with (
        open_mesh(3, network=network) as (_, gateway, subscriber),
        subscriber.subscribe("a.b", when_full="block", buffer=2) as messages,
        outsider(network, gateway) as client,
    ):
        events = watch(gateway, "pubsub.dropped", "pubsub.client_published")
        for number in range(4):
            client.say(wire.Publish(topic="a.b", payload=str(number).encode(), message_id=bytes([number]) * 16))
        await trio.sleep(4)  # the gateway asks it for subscribers, too, and it does not answer
        assert len(facts(events, "pubsub.client_published")) == 4
        assert len(facts(events, "pubsub.dropped")) == gateway.statistics().publications_dropped == 2
        assert messages.statistics() == macula.SubscriptionStatistics(received=2, dropped=0, waiting=2)


async def test_a_publisher_that_keeps_no_link_is_not_slowed(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with (
        open_mesh(2, network=network) as (bootstrap, subscriber),
        subscriber.subscribe("a.b", when_full="block", buffer=3) as messages,
    ):
        config = macula.NodeConfig(
            realm=bootstrap.realm, bootstrap=[bootstrap.endpoint], listen="10.0.0.9:9443", connections="per-message"
        )
        host = network.host("10.0.0.9")
        async with macula.open_node(config, identity=sim_identity(9), network=host) as publisher:
            await fill(publisher, "a.b", 5, within_s=4)
        assert messages.statistics() == macula.SubscriptionStatistics(received=5, dropped=2, waiting=3)
        assert subscriber.statistics().frames_sent.get("CREDIT", 0) == 0


async def test_a_publisher_that_ignores_credit_loses_its_own_messages_only(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        open_mesh(3) as (honest, greedy, subscriber),
        subscriber.subscribe("a.b", when_full="block", buffer=4) as messages,
    ):
        await fill(honest, "a.b", 2)
        with monkeypatch.context() as patched:
            patched.setattr(SendWindow, "has_room", property(lambda _: True))
            await publish_all(greedy, "a.b", 100)
        await trio.sleep(0.5)
        assert messages.statistics() == macula.SubscriptionStatistics(received=102, dropped=84, waiting=18)
        await fill(honest, "a.b", 2)
        received = [await messages.receive() for _ in range(20)]
        assert [m.payload for m in received if m.publisher == honest.node_id] == [0, 1, 0, 1]
        assert [m.payload for m in received if m.publisher == greedy.node_id] == list(range(16))
        await trio.sleep(0.1)
        await fill(greedy, "a.b", 2)


async def test_a_crowd_of_publishers_fills_eight_buffers_and_no_more(autojump_clock: Clock) -> None:
    async with open_mesh(12) as nodes, nodes[0].subscribe("a.b", when_full="block", buffer=2) as messages:
        for node in nodes[1:]:
            await publish_all(node, "a.b", 2)
        await trio.sleep(0.1)
        assert messages.statistics() == macula.SubscriptionStatistics(received=22, dropped=6, waiting=16)
        assert messages._inbox.unread.total() == 16


async def test_whatever_a_peer_credits_nothing_breaks(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with (
        open_mesh(2, network=network) as (publisher, subscriber),
        subscriber.subscribe("a.b", when_full="block", buffer=2) as messages,
        outsider(network, publisher, FORWARDER) as stranger,
    ):
        await fill(publisher, "a.b", 2, within_s=4)  # it asks the stranger, too, who does not answer
        known = window_id("a.b")
        for scope, identifier, credit in [
            ("link", known, 99),
            (SCOPE, b"", 99),
            (SCOPE, bytes(32), 99),
            (SCOPE, known, 0),
            ("", known, 99),
        ]:
            link_between(subscriber, publisher).send_nowait(wire.Credit(scope=scope, id=identifier, credit=credit))
            stranger.say(wire.Credit(scope=scope, id=identifier, credit=credit))
        stranger.say(wire.Credit(scope=SCOPE, id=known, credit=99))
        await trio.sleep(0.1)
        with trio.move_on_after(1) as scope_of_test:
            await publisher.publish("a.b", "held")
        assert scope_of_test.cancelled_caught, "nothing of that was a credit of this window on this link"
        link_between(subscriber, publisher).send_nowait(wire.Credit(scope=SCOPE, id=known, credit=2**62))
        await trio.sleep(0.1)
        await publish_all(publisher, "a.b", 2)
        assert publisher._pubsub.publisher.gates.of(link_between(publisher, subscriber))._windows[known].taken == 2
        await trio.sleep(0.1)
        assert messages.statistics().waiting == 4


async def test_a_message_that_is_too_large_takes_no_place(autojump_clock: Clock) -> None:
    async with (
        open_mesh(2) as (publisher, subscriber),
        subscriber.subscribe("a.b", when_full="block", buffer=1) as messages,
    ):
        report = await publisher.publish("a.b", bytes(2_000_000))
        assert report.outcomes == {subscriber.node_id: Outcome.REJECTED}
        await fill(publisher, "a.b", 1)
        assert await take(messages, 1) == [0]


async def test_a_window_keeps_no_link_alive(autojump_clock: Clock) -> None:
    async with (
        open_mesh(2) as (publisher, subscriber),
        subscriber.subscribe("a.b", when_full="block", buffer=1),
    ):
        await fill(publisher, "a.b", 1)
        assert (await publisher.publish("a.b", 1)).having(Outcome.DROPPED)
        for link in (link_between(publisher, subscriber), link_between(subscriber, publisher)):
            assert link._close_callbacks == {}  # type: ignore[attr-defined]


async def test_bad_policies_and_too_many_windows_are_refused_in_one_line(autojump_clock: Clock) -> None:
    async with open_mesh(1) as (node,), AsyncExitStack() as stack:
        with pytest.raises(ValueError, match="when_full: 'wait' is none of 'drop_oldest', 'block'"):
            async with node.subscribe("a.b", when_full="wait"):  # type: ignore[arg-type]
                pass
        for buffer in range(1, 65):
            await stack.enter_async_context(node.subscribe("a.b", when_full="block", buffer=buffer))
        await stack.enter_async_context(node.subscribe("a.b", when_full="block", buffer=64))
        await stack.enter_async_context(node.subscribe("a.b"))
        with pytest.raises(ValueError, match="64 blocking subscriptions"):
            await stack.enter_async_context(node.subscribe("a.b", when_full="block", buffer=65))
        assert node._pubsub.windows("a.b") == {window_id("a.b"): 1}
    assert node._pubsub._windows == {}
    assert node._pubsub._receipts._advertised == {}


@pytest.mark.thorough
@pytest.mark.parametrize("seed", range(3))
async def test_whatever_happens_to_links_nobody_is_stuck_and_only_what_a_link_took_with_it_is_lost(
    seed: int, autojump_clock: Clock
) -> None:
    """A lossy network, links that end at any moment, a reader of moods, and two publishers that never wait in vain."""
    chance = random.Random(seed)
    network = SimNetwork(seed=seed, link=LinkModel(latency_s=0.02, jitter_s=0.02, loss=0.05, reordering=0.05))
    received: list[macula.Message] = []
    cuts = 0
    async with (
        open_mesh(3, network=network) as (one, other, subscriber),
        subscriber.subscribe("a.*", when_full="block", buffer=chance.randint(1, 6)) as messages,
        subscriber.subscribe("a.b", when_full="block", buffer=chance.randint(1, 6)) as beside,
        trio.open_nursery() as reading,
    ):

        async def read() -> None:
            async for message in messages:
                received.append(message)
                await beside.receive()
                await trio.sleep(chance.choice([0, 0, 0.05, 0.4]))

        async def cut() -> None:
            nonlocal cuts
            while True:
                await trio.sleep(chance.uniform(1, 3))
                link = chance.choice([one, other])._registry.live_link(subscriber.node_id)
                if link is not None:
                    link.close(ErrorCode.NORMAL, "a test")
                    cuts += 1

        async def publish(node: macula.Node) -> None:
            for number in range(60):
                report = await node.publish("a.b", number)
                assert report.outcomes == {subscriber.node_id: Outcome.QUEUED}

        reading.start_soon(read)
        async with trio.open_nursery() as publishing_now:
            reading.start_soon(cut)
            for node in (one, other):
                publishing_now.start_soon(publish, node)
        await trio.sleep(5)
        reading.cancel_scope.cancel()
    for node in (one, other):
        numbers = [message.payload for message in received if message.publisher == node.node_id]
        assert numbers == sorted(set(numbers)), "in order, each once"  # type: ignore[type-var]
        assert len(numbers) > 30
    assert messages.statistics().dropped == beside.statistics().dropped == 0
    assert messages.statistics().received == len(received)
    assert cuts >= 3

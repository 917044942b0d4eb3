"""What one peer, or one careless handler, must not be able to do to a node or to its users."""

from __future__ import annotations

import pytest
import trio
from node_tools import link_between, watch

import macula_trio as macula
from macula_trio import Outcome, abc
from macula_trio._identity.record import sign_record
from macula_trio._peer.link import QuicLink
from macula_trio._peer.window import BACKLOG_BYTES_MAX, WINDOW_BYTES
from macula_trio._wire import messages as wire
from macula_trio.testing import SimNetwork, open_mesh

Clock = trio.testing.MockClock
KEY = bytes(32)


async def fine(call: macula.Call) -> object:
    return "fine"


async def test_a_call_of_an_endless_name_is_answered_in_short(autojump_clock: Clock) -> None:
    async with open_mesh(2) as (victim, attacker), victim.advertise("a.b", fine):
        link = link_between(attacker, victim)
        reply = await link.ask(wire.Call(call_id=bytes(16), procedure="\1" * 300_000, args=b""), wire.Reply)
        assert reply.error is not None
        assert reply.error.code == "no_handler"
        assert len(reply.error.message) < 1000
        assert await attacker.call("a.b") == "fine"


async def test_no_event_quotes_a_peer_at_length(autojump_clock: Clock) -> None:
    """Thousands of events wait for a reader that is slow; each with 1 MiB of a peer's they would be all memory."""
    endless = "x" * 300_000
    message = wire.Publish(topic="a.b", payload=b"", message_id=bytes(16), content_type=endless)
    envelope = wire.PubsubRoute(
        destination_node_id=KEY, source_node_id=KEY, hop_count=0, max_hops=10, topic=endless, payload=message
    )
    async with open_mesh(2) as (victim, attacker), victim.subscribe("a.b"):
        link = link_between(attacker, victim)
        events = watch(victim)
        for said in (wire.Cast(procedure=endless, args=b""), message, envelope):
            link.send_nowait(said)
        await trio.sleep(1)
        told = {event.name: event.facts for event in events}
        assert {"rpc.cast_dropped", "pubsub.bad_payload", "pubsub.refused"} <= told.keys()
        assert all(len(str(facts)) < 1000 for facts in told.values())


@pytest.mark.parametrize(
    "rejection",
    [macula.Reject("bad", "x" * 2_000_000), macula.Reject("bad", "\ud800"), macula.Reject(7, None)],  # type: ignore[arg-type]
    ids=["huge", "surrogate", "no texts"],
)
async def test_a_rejection_that_cannot_travel_does_no_harm(rejection: macula.Reject, autojump_clock: Clock) -> None:
    async def refuse(call: macula.Call) -> object:
        raise rejection

    async with open_mesh(2) as (provider, caller), provider.advertise("a.b", refuse):
        for _ in range(2):
            with pytest.raises(macula.RemoteCallError):
                await caller.call("a.b")


async def test_a_group_of_errors_out_of_a_cancelled_handler_does_no_harm(
    autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail_in_cleanup() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("in the cleanup")

    async def with_nursery(call: macula.Call) -> object:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail_in_cleanup)
            nursery.start_soon(trio.sleep_forever)
        return None

    async with open_mesh(2) as (provider, caller), provider.advertise("a.b", with_nursery):
        with trio.move_on_after(1):
            await caller.call("a.b")
        await trio.sleep(1)
        assert "in the cleanup" in caplog.text
        assert provider.statistics().calls_running == 0
        with trio.move_on_after(1):  # on the node that provides it: the caller's own cancellation, and no group
            await provider.call("a.b")


async def test_values_that_would_crowd_out_others_are_refused_where_they_are_made(autojump_clock: Clock) -> None:
    async with open_mesh(2) as (node, _):
        for metadata in ({"v": {1, 2}}, {"v": [0] * 300}, {"v": "x" * 5000}):
            with pytest.raises(macula.LocalProtocolError):
                async with node.advertise("a.b", fine, metadata=metadata):
                    raise AssertionError("entered")
            with pytest.raises(macula.LocalProtocolError):
                await node.store(KEY, metadata)
        with pytest.raises(ValueError, match="32 bytes"):
            await node.find_node(b"x")
        with pytest.raises(ValueError, match="32 bytes"):
            await node.find_value(b"x")
        with pytest.raises(ValueError, match="headers"):
            await node.publish("a.b", 1, headers={"n": 5})  # type: ignore[dict-item]
        with pytest.raises(ValueError, match="buffer"):
            async with node.subscribe("a.b", buffer=0):
                raise AssertionError("entered")


async def test_a_value_that_one_subscriber_cannot_take_reaches_the_others(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with open_mesh(3, network=network) as (_, publisher, one), one.subscribe("a.b") as messages:
        async with macula.open_node(
            macula.NodeConfig(realm=one.realm, listen="10.0.1.1:1", bootstrap=[one.endpoint]), network=network
        ) as plain:
            plain._party.capabilities = ()  # takes JSON only
            for link in plain._registry.links:
                link.close()
            async with plain.subscribe("a.b"):
                report = await publisher.publish("a.b", {"raw": b"bytes"})
        assert report.outcomes == {one.node_id: Outcome.QUEUED, plain.node_id: Outcome.REJECTED}
        assert (await messages.receive()).payload == {"raw": b"bytes"}


async def test_what_is_advertised_again_at_once_stays_findable_and_leaves_nothing(autojump_clock: Clock) -> None:
    async with open_mesh(4) as nodes:
        for _ in range(10):
            async with nodes[1].advertise("a.b", fine), nodes[1].subscribe("c.d"):
                pass
            async with nodes[1].advertise("a.b", fine), nodes[1].subscribe("c.d"):
                await trio.sleep(0.05)  # virtual: whatever the first withdrawal does, it has done
                assert len(await nodes[2].find_providers("a.b")) == 1
                assert len(await nodes[3].find_subscribers("c.d")) == 1
        await trio.sleep(1)
        for node in nodes:
            assert [value for value in node.stored_values() if not value.withdrawn] == []


async def test_a_node_that_died_leaves_the_tables(autojump_clock: Clock) -> None:
    gone: list[tuple[str, int]] = []
    network = SimNetwork(tap=lambda source, target, data: None if source in gone or target in gone else data)
    async with open_mesh(5, network=network) as nodes:
        gone.append(("10.0.0.5", 9443))
        for _ in range(3):
            await nodes[1].find_node(nodes[4].node_id)
            await trio.sleep(3)  # virtual: it was asked once more, for itself
        assert nodes[4].node_id not in {contact.node_id for contact in nodes[1].known_nodes()}


async def test_a_bootstrap_that_leaves_while_we_join_is_found_again(autojump_clock: Clock) -> None:
    identity = macula.Identity.from_seed(bytes(32))
    listen = macula.NodeConfig(realm="r", listen="10.0.0.1:1")
    join = macula.NodeConfig(realm="r", listen="10.0.0.2:1", bootstrap=["10.0.0.1:1"])

    async def short_lived(delay_ms: int, network: SimNetwork, started: trio.Event) -> None:
        async with macula.open_node(listen, identity=identity, network=network):
            started.set()
            await trio.sleep(delay_ms / 1000)

    for delay_ms in range(1, 9):
        network, started = SimNetwork(), trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(short_lived, delay_ms, network, started)
            await started.wait()
            async with macula.open_node(join, network=network) as node:
                await trio.sleep(2)
                async with macula.open_node(listen, identity=identity, network=network) as bootstrap:
                    await trio.sleep(120)
                    assert bootstrap.node_id in {contact.node_id for contact in node.known_nodes()}, delay_ms


async def test_a_dead_provider_does_not_keep_a_call_from_a_living_one(autojump_clock: Clock) -> None:
    gone: list[tuple[str, int]] = []
    network = SimNetwork(tap=lambda source, target, data: None if source in gone or target in gone else data)
    async with (
        open_mesh(4, network=network) as (_, dead, living, caller),
        dead.advertise("a.b", fine),
        living.advertise("a.b", fine),
    ):
        gone.append(("10.0.0.2", 9443))
        await trio.sleep(60)  # virtual: the link to it has ended
        for _ in range(6):
            assert await caller.call("a.b") == "fine", "within the default time of a call"


async def test_a_call_may_take_longer_than_the_idle_time_out(autojump_clock: Clock) -> None:
    async def slow(call: macula.Call) -> object:
        await trio.sleep(100)
        return "at last"

    async with open_mesh(2) as (provider, caller), provider.advertise("a.b", slow):
        with trio.fail_after(120):
            assert await caller.call("a.b") == "at last"


async def test_a_call_to_a_peer_that_fell_silent_ends_before_its_deadline(autojump_clock: Clock) -> None:
    gone: list[tuple[str, int]] = []
    network = SimNetwork(tap=lambda source, target, data: None if source in gone or target in gone else data)

    async def cut(call: macula.Call) -> object:
        gone.append(("10.0.0.1", 9443))
        await trio.sleep_forever()

    async with open_mesh(2, network=network) as (provider, caller), provider.advertise("a.b", cut):
        with pytest.raises(macula.PeerUnavailable, match="silent"), trio.fail_after(250):
            await caller.call("a.b")


async def test_calls_end_with_the_block_that_offers_them(autojump_clock: Clock) -> None:
    ended: list[str] = []

    async def endless(call: macula.Call) -> object:
        try:
            await trio.sleep_forever()
        finally:
            ended.append("handler")

    async with open_mesh(2) as (provider, caller), trio.open_nursery() as nursery:

        async def call_it(node: macula.Node) -> None:
            with pytest.raises(macula.RemoteCallError) as caught:
                await node.call("a.b")
            ended.append(caught.value.code)

        async with provider.advertise("a.b", endless):
            nursery.start_soon(call_it, caller)
            nursery.start_soon(call_it, provider)
            await trio.sleep(1)
        assert ended.count("handler") == 2, "left before the handlers had ended"
        await trio.sleep(1)
        assert ended.count("cancelled") == 2


def stop_showing_what_was_read(link: abc.Link, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on this end of a link reads, and never credits what it has read."""
    credit = QuicLink._credit

    def keep_it(self: QuicLink, kind: int, size: int) -> None:
        if self is not link:
            credit(self, kind, size)

    monkeypatch.setattr(QuicLink, "_credit", keep_it)


async def test_a_peer_that_takes_no_answers_of_the_dht_gets_no_more(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = SimNetwork()
    async with open_mesh(2, network=network) as (replica, hungry):
        hold_values(replica, network.wall_clock_ms(), count=60, metadata={"v": bytes(3500)})
        link, at_replica = link_between(hungry, replica), link_between(replica, hungry)
        assert isinstance(at_replica, QuicLink)
        stop_showing_what_was_read(link, monkeypatch)
        for number in range(BACKLOG_BYTES_MAX // 100_000):
            link.send_nowait(wire.FindValue(key=KEY, correlation_id=number.to_bytes(16, "big")))
        await trio.sleep(2)
        assert at_replica.is_congested
        assert at_replica._sent.size < 2 * WINDOW_BYTES
        assert replica.statistics().frames_sent["FIND_VALUE_REPLY"] < 10


async def test_large_answers_wait_for_a_peer_that_takes_nothing_and_are_given_up(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def big(call: macula.Call) -> object:
        return bytes(900_000)

    async with open_mesh(2) as (provider, hungry), provider.advertise("a.big", big):
        link, at_provider = link_between(hungry, provider), link_between(provider, hungry)
        assert isinstance(at_provider, QuicLink)
        stop_showing_what_was_read(link, monkeypatch)
        for number in range(2 * BACKLOG_BYTES_MAX // 900_000):
            link.send_nowait(wire.Call(call_id=number.to_bytes(16, "big"), procedure="a.big", args=b"null"))
        await trio.sleep(2)
        assert provider.statistics().calls_running > 10, "they wait"
        assert at_provider._sent.size < BACKLOG_BYTES_MAX / 2
        await trio.sleep(10)  # virtual: the default time of a call is over
        assert provider.statistics().calls_running == 0
        assert at_provider._sent.size < BACKLOG_BYTES_MAX / 2


def hold_values(replica: macula.Node, now_ms: int, *, count: int, metadata: dict[str, object]) -> list[macula.NodeId]:
    """Let a node hold subscribers' values of many owners under `KEY`."""
    owners = [macula.Identity.from_seed(number.to_bytes(32, "big")) for number in range(count)]
    for owner in owners:
        record = sign_record(
            owner,
            realm=replica.realm,
            key=KEY,
            kind="subscriber",
            endpoint="10.0.0.9:1",
            metadata=metadata,
            seq=1,
            expires_ms=now_ms + 300_000,
        )
        assert replica._dht._values.put(record, now_ms).stored
    return [owner.node_id for owner in owners]


async def test_more_values_than_fit_into_one_reply_are_found_page_by_page(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with open_mesh(2, network=network) as (replica, reader):
        owners = hold_values(replica, network.wall_clock_ms(), count=300, metadata={})
        found = await reader.find_value(KEY, kind="subscriber")
        assert {record.node_id for record in found} == set(owners)

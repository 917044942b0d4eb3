"""``connections="per-message"``: everything works without a single connection that stays."""

from __future__ import annotations

import attrs
import pytest
import trio
import trio.lowlevel
from authorisation_tools import CONFIG, UNVERIFIED, Handler, Sleeper, facts
from node_tools import watch

import macula_trio as macula
from macula_trio._peer.per_message import PER_PEER_MAX
from macula_trio._wire.frame import MessageType
from macula_trio.testing import SimNetwork, open_mesh

pytestmark = pytest.mark.thorough

Clock = trio.testing.MockClock
PER_MESSAGE = attrs.evolve(CONFIG, connections="per-message")


async def quiet(nodes: list[macula.Node]) -> None:
    """Wait until what goes on behind the scenes has ended, and its connections with it."""
    for _ in range(100):
        await trio.sleep(0.2)
        if not any(node.peers() for node in nodes):
            return
    raise AssertionError([node.peers() for node in nodes])


@pytest.mark.parametrize("config", [PER_MESSAGE, attrs.evolve(UNVERIFIED, connections="per-message")])
async def test_nodes_find_call_and_publish_and_keep_no_connection(
    config: macula.NodeConfig, autojump_clock: Clock
) -> None:
    handler = Handler()
    async with open_mesh(4, config=config) as nodes:
        one, two, three, four = nodes
        async with one.advertise("a.b", handler), two.subscribe("a.t") as messages:
            assert await three.call("a.b", {"n": 1}) == "fine"
            assert handler.calls[0].caller == three.node_id
            await four.publish("a.t", "text")
            message = await messages.receive()
            assert (message.payload, message.publisher) == ("text", four.node_id)
            await quiet(nodes)
        assert {node.statistics().table_size for node in nodes} == {3}
        await quiet(nodes)


async def test_many_at_once_to_one_peer_take_turns_and_all_arrive(autojump_clock: Clock) -> None:
    async with open_mesh(2, config=PER_MESSAGE) as (one, two), two.subscribe("a.t") as messages:
        body = {"topic": "a.t", "payload": b"1", "message_id": bytes(16), "qos": 0, "retain": False}
        most = 0

        async def send() -> None:
            nonlocal most
            await one.send_message(
                macula.Contact(node_id=two.node_id, endpoint=two.endpoint), MessageType.PUBLISH, body
            )
            most = max(most, len([peer for peer in one.peers() if peer.dialed]))

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(send)
        await trio.sleep(1)
        assert messages.statistics().received == 20
        assert most <= PER_PEER_MAX
        assert one._transport._turns == {}


async def test_cancelling_a_call_ends_its_connection_and_with_it_the_handler(autojump_clock: Clock) -> None:
    sleeper = Sleeper()
    async with open_mesh(2, config=PER_MESSAGE) as (one, two), one.advertise("a.b", sleeper):
        with trio.move_on_after(1):
            await two.call("a.b")
        await trio.sleep(0.5)
        assert len(sleeper.cancelled) == 1
        assert two.statistics().frames_sent.get("CANCEL", 0) == 0
        await quiet([one, two])


async def test_a_node_that_keeps_links_uses_none_that_such_a_peer_has_dialed(autojump_clock: Clock) -> None:
    network = SimNetwork()
    handler = Handler()
    config = macula.NodeConfig(
        realm=CONFIG.realm, listen="10.9.9.9:1", bootstrap=["10.0.0.1:9443"], connections="per-message"
    )
    async with (
        open_mesh(1, network=network) as (keeper,),
        macula.open_node(config, network=network) as node,
        node.advertise("a.b", handler),
    ):
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(keeper.call, "a.b")
                nursery.start_soon(node.ping, macula.Contact(node_id=keeper.node_id, endpoint=keeper.endpoint))
        assert len(handler.calls) == 20


async def test_a_connection_that_nobody_uses_is_closed(autojump_clock: Clock) -> None:
    async with open_mesh(2, config=PER_MESSAGE) as (one, two):
        contact = macula.Contact(node_id=two.node_id, endpoint=two.endpoint)
        link = await one._transport.link_to(contact)
        assert not link.is_closed
        await quiet([one, two])
        assert link.is_closed


async def test_a_dead_peer_is_unreachable_and_leaves_nothing(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with open_mesh(2, network=network, config=PER_MESSAGE) as (one, two):
        nobody = macula.Contact(node_id=two.node_id, endpoint="10.77.77.77:1")
        with pytest.raises(macula.PeerUnavailable):
            await one.ping(nobody)
        assert one._transport._turns == {}


async def test_a_message_whose_end_of_the_line_falls_silent_is_told(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with open_mesh(2, network=network, config=PER_MESSAGE) as (one, two):
        events = watch(one)
        link = await one._transport.link_to(macula.Contact(node_id=two.node_id, endpoint=two.endpoint))
        two.block(one.node_id)
        body = {"topic": "a.t", "payload": b"1", "message_id": bytes(16), "qos": 0, "retain": False}
        await trio.lowlevel.checkpoint()
        link.send_frame_nowait(macula.wire.encode_frame(MessageType.PUBLISH, body))
        await trio.sleep(1)
        assert len(facts(events, "message.unconfirmed")) == one.statistics().messages_unconfirmed == 1


async def test_calls_that_call_back_do_not_wait_for_each_other(autojump_clock: Clock) -> None:
    async with open_mesh(2, config=PER_MESSAGE) as (one, two):

        async def at_one(call: macula.Call) -> object:
            return 0 if call.args == 0 else await one.call("at.two", call.args - 1)

        async def at_two(call: macula.Call) -> object:
            return 0 if call.args == 0 else await two.call("at.one", call.args - 1)

        async with one.advertise("at.one", at_one), two.advertise("at.two", at_two), trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(one.call, "at.two", 2)
        await quiet([one, two])


async def test_long_calls_keep_nothing_else_from_their_peer(autojump_clock: Clock) -> None:
    sleeper = Sleeper()
    async with (
        open_mesh(2, config=PER_MESSAGE) as (one, two),
        one.advertise("a.b", sleeper),
        one.subscribe("a.t") as messages,
        trio.open_nursery() as nursery,
    ):
        for _ in range(4):
            nursery.start_soon(two.call, "a.b")
        await trio.sleep(1)
        with trio.fail_after(1):
            await two.ping(macula.Contact(node_id=one.node_id, endpoint=one.endpoint))
            await two.publish("a.t", "text")
            assert (await messages.receive()).payload == "text"
        sleeper.release.set()


async def test_who_gets_no_turn_in_time_is_told_so(autojump_clock: Clock) -> None:
    sleeper = Sleeper()
    async with (
        open_mesh(2, config=PER_MESSAGE) as (one, two),
        one.advertise("a.b", sleeper),
        trio.open_nursery() as nursery,
    ):

        async def call() -> None:
            with trio.move_on_after(60):
                await two.call("a.b")

        for _ in range(PER_PEER_MAX):
            nursery.start_soon(call)
        await trio.sleep(2)
        assert len(sleeper.calls) == PER_PEER_MAX
        with pytest.raises(macula.PeerUnavailable, match="under way there already"), trio.fail_after(20):
            await two.ping(macula.Contact(node_id=one.node_id, endpoint=one.endpoint))
        sleeper.release.set()


async def test_a_dial_that_nobody_waits_for_any_more_leaves_no_connection(autojump_clock: Clock) -> None:
    network = SimNetwork(latency_s=0.1)
    async with open_mesh(2, network=network, config=PER_MESSAGE) as (one, two):
        await trio.sleep(40)
        await quiet([one, two])
        contact = macula.Contact(node_id=one.node_id, endpoint=one.endpoint)
        for patience_s in (0.05, 0.15, 0.25, 0.35):
            with trio.move_on_after(patience_s):
                await two.ping(contact)
        await trio.sleep(2)
        assert (two.peers(), two._transport._turns) == ([], {})


async def test_a_message_is_known_to_have_arrived_or_told(autojump_clock: Clock) -> None:
    """Of a large one over a long way there is not enough time for all."""
    network = SimNetwork(latency_s=0.06)
    async with (
        open_mesh(2, network=network, config=PER_MESSAGE) as (one, two),
        one.subscribe("a.t") as messages,
    ):
        await trio.sleep(5)
        events = watch(two)
        await two.publish("a.t", bytes(300_000))
        await trio.sleep(5)
        assert messages.statistics().received == 0
        assert len(facts(events, "message.unconfirmed")) == two.statistics().messages_unconfirmed == 1

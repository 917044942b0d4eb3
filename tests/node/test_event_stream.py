"""`Node.events`: frozen facts, bounded, for the length of a block; a lost message is one of them."""

from __future__ import annotations

import attrs
import pytest
import trio
from node_tools import first

import macula_trio as macula
from macula_trio._cli.words import TELLINGS
from macula_trio._events import EventBus
from macula_trio._peer.linger import LINGER_S
from macula_trio._views import EVENT_BUFFER, EventStream
from macula_trio.testing import LinkModel, SimNetwork, open_mesh
from macula_trio.wire import MessageType

Clock = trio.testing.MockClock
CAST = {"procedure": "a.b", "args": b"{}"}


async def test_events_wait_for_their_reader_and_what_exceeds_the_bound_is_counted() -> None:
    bus = EventBus(lambda: 1.5)
    with EventStream(bus) as events:
        for number in range(EVENT_BUFFER + 3):
            bus.emit("some.thing", number=number)
        assert events.missed == 3
        for number in range(EVENT_BUFFER):
            event = await events.receive()
            assert event == macula.Event(1.5, "some.thing", {"number": number})
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            event.name = "another"  # type: ignore[misc]
        bus.emit("some.thing", number=-1)
        assert (await events.receive()).facts == {"number": -1}, "there is room again"
        assert events.missed == 3


async def test_what_waits_is_still_read_when_the_node_has_ended() -> None:
    bus = EventBus(lambda: 0.0)
    with EventStream(bus) as events:
        bus.emit("one")
        bus.emit("two")
        events.end()
        bus.emit("three")
        assert [event.name async for event in events] == ["one", "two"]
        assert events.missed == 1
        with pytest.raises(trio.EndOfChannel):
            await events.receive()


async def test_a_reader_that_has_left_costs_nothing_more(autojump_clock: Clock) -> None:
    async with open_mesh(1) as (node,):
        listeners = len(node._events._listeners)
        for _ in range(100):
            with node.events():
                pass
        assert len(node._events._listeners) == listeners
        assert not node._event_streams
        with node.events() as events:
            assert len(node._event_streams) == 1
            assert events.missed == 0


async def test_what_becomes_of_messages_is_told(autojump_clock: Clock) -> None:
    network = SimNetwork()
    lone = macula.NodeConfig(realm="org.example.test", listen="10.5.5.5:1", connections="per-message", leaf=True)
    async with open_mesh(1, network=network) as (far,), macula.open_node(lone, network=network) as node:
        there = macula.Contact(node_id=far.node_id, endpoint=far.endpoint)
        nowhere = attrs.evolve(there, endpoint="10.9.9.9:9")
        with node.events() as events:
            with pytest.raises(macula.PeerUnavailable):
                await node.send_message(nowhere, MessageType.CAST, CAST)
            failed = await first(events, "message.failed")
            assert failed.facts["peer"] == far.node_id.hex()
            assert "10.9.9.9:9" in str(failed.facts["reason"])
            with trio.move_on_after(1):
                await node.send_message(attrs.evolve(there, endpoint="10.9.9.10:9"), MessageType.CAST, CAST)
            dropped = await first(events, "message.dropped")
            assert dropped.facts == {"peer": far.node_id.hex(), "reason": "cancelled"}
            network.set_link(LinkModel(latency_s=0.6 * LINGER_S))
            await node.send_message(there, MessageType.CAST, CAST)
            unconfirmed = await first(events, "message.unconfirmed")
            assert unconfirmed.facts == {"peer": far.node_id.hex(), "reason": "no answer in time"}
            for event in (failed, dropped, unconfirmed):
                assert event.name in TELLINGS
        statistics = node.statistics()
        assert statistics.messages_sent == statistics.messages_unconfirmed == 1
        assert (statistics.messages_failed, statistics.messages_dropped) == ({"unreachable": 1}, {"cancelled": 1})

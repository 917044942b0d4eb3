"""The main job on the real stack over a simulated network: join, find, call, publish."""

from __future__ import annotations

import pytest
import trio
from node_tools import add, first

import macula_trio as macula
from macula_trio.testing import SimNetwork, open_mesh


async def test_a_call_goes_to_a_provider_found_in_the_dht_in_one_hop(autojump_clock: trio.testing.MockClock) -> None:
    async with open_mesh(5) as nodes:
        edge2, edge3 = nodes[3], nodes[4]
        with edge2.events() as events:
            async with edge3.advertise("test.calculator.add", add):
                with trio.fail_after(2):
                    assert await edge2.call("test.calculator.add", {"a": 2, "b": 3}) == 5
            called = await first(events, "rpc.called")
        assert called.facts["provider"] == edge3.node_id.hex()
        assert called.facts["hops"] == 1


async def test_a_message_reaches_every_subscriber_and_names_its_publisher(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_mesh(5) as nodes:
        _, _, edge1, edge2, edge3 = nodes
        async with edge1.subscribe("test.messages") as first_one, edge3.subscribe("test.messages") as second_one:
            report = await edge2.publish("test.messages", {"n": 1}, headers={"trace": "t1"})
            with trio.fail_after(2):
                for messages in (first_one, second_one):
                    message = await messages.receive()
                    assert message.topic == "test.messages"
                    assert message.payload == {"n": 1}
                    assert message.publisher == edge2.node_id
                    assert message.sequence == 1
                    assert message.headers == {"trace": "t1"}
        assert set(report.having(macula.Outcome.QUEUED)) == {edge1.node_id, edge3.node_id}


async def test_subscribers_on_the_publishing_node_get_the_message_too(autojump_clock: trio.testing.MockClock) -> None:
    async with open_mesh(1) as (alone,), alone.subscribe("a.b") as one, alone.subscribe("a.b") as two:
        report = await alone.publish("a.b", [1, 2])
        assert (await one.receive()).payload == [1, 2]
        assert (await two.receive()).payload == [1, 2]
        assert report.outcomes == {alone.node_id: macula.Outcome.DELIVERED}


async def test_everybody_knows_everybody_after_joining_by_the_bootstrap_alone(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_mesh(5) as nodes:
        await trio.sleep(3)  # virtual: the first refresh
        everybody = {node.node_id for node in nodes}
        for node in nodes:
            assert {contact.node_id for contact in node.known_nodes()} == everybody - {node.node_id}


async def test_nobody_provides_what_was_withdrawn(autojump_clock: trio.testing.MockClock) -> None:
    async with open_mesh(4) as nodes:
        async with nodes[1].advertise("p.q", add):
            assert [c.node_id for c in await nodes[2].find_providers("p.q")] == [nodes[1].node_id]
        await trio.sleep(1)  # virtual: the withdrawal runs behind the scenes
        assert await nodes[2].find_providers("p.q") == []
        with pytest.raises(macula.NoProviders):
            await nodes[3].call("p.q", None)


async def test_the_mesh_goes_on_without_its_bootstrap(autojump_clock: trio.testing.MockClock) -> None:
    gone: list[tuple[str, int]] = []
    network = SimNetwork(tap=lambda source, target, data: None if source in gone or target in gone else data)
    async with open_mesh(5, network=network) as nodes:
        await trio.sleep(3)  # virtual: everybody has met everybody
        async with nodes[4].advertise("test.calculator.add", add):
            gone.append(("10.0.0.1", 9443))
            with trio.fail_after(5):
                assert await nodes[3].call("test.calculator.add", {"a": 2, "b": 3}) == 5

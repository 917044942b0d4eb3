"""SWIM's frames: a node answers for itself and for whom it has a proven link with; nothing that they say changes it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

import attrs
import pytest
import trio
from node_tools import link_between
from old_tools import CLIENT_NUMBER
from quic_tools import REALM, Recorder, connect_bare, open_endpoint

import macula_trio as macula
from macula_trio._membership import service
from macula_trio._peer import budget
from macula_trio._util import parse_endpoint
from macula_trio._wire import messages as wire
from macula_trio.testing import SimNetwork, open_mesh

pytestmark = pytest.mark.thorough

Clock = trio.testing.MockClock

STRANGER: Final = b"s" * 32
CONFIG: Final = macula.NodeConfig(realm=REALM, trust=macula.Trust.unverified())


@attrs.frozen
class Scene:
    network: SimNetwork
    node: macula.Node
    other: macula.Node
    client: Recorder

    async def answers(self, *asked: wire.Message, stream_id: int = 0) -> list[wire.Message | None]:
        before = len(self.client.heard(stream_id))
        for message in asked:
            self.client.say(message, stream_id)
        await trio.sleep(5)
        return self.client.heard(stream_id)[before:]


@asynccontextmanager
async def a_scene() -> AsyncGenerator[Scene, None]:
    network = SimNetwork()
    async with (
        open_mesh(2, network=network, config=CONFIG) as (node, other),
        open_endpoint(network, CLIENT_NUMBER) as endpoint,
    ):
        client = await connect_bare(endpoint, parse_endpoint(node.endpoint))
        yield Scene(network, node, other, client)


@pytest.mark.parametrize("stream_id", [0, 4])
@pytest.mark.parametrize("seq", [1, None])
async def test_a_node_answers_for_itself(seq: int | None, stream_id: int, autojump_clock: Clock) -> None:
    async with a_scene() as scene:
        ack = wire.SwimAck(from_=scene.node.node_id, seq=seq)
        ping = wire.SwimPing(from_=STRANGER, seq=seq)
        request = wire.SwimPingReq(from_=STRANGER, seq=seq, target=scene.node.node_id)
        assert await scene.answers(ping, stream_id=stream_id) == [ack]
        assert await scene.answers(request, stream_id=stream_id) == [ack]


async def test_it_answers_proven_nodes_as_well(autojump_clock: Clock) -> None:
    async with open_mesh(2, config=macula.NodeConfig(realm=REALM)) as (node, other):
        answer = await link_between(other, node).ask(wire.SwimPing(seq=7), wire.SwimAck)
        assert answer == wire.SwimAck(from_=node.node_id, seq=7)


async def test_for_another_it_asks_that_one_over_the_link_that_is_there(autojump_clock: Clock) -> None:
    async with a_scene() as scene:
        request = wire.SwimPingReq(seq=3, target=scene.other.node_id)
        before = scene.other.statistics().frames_received.get("PING", 0)
        assert await scene.answers(request) == [wire.SwimAck(from_=scene.other.node_id, seq=3)]
        assert scene.other.statistics().frames_received["PING"] == before + 1


async def test_it_says_nothing_for_whom_it_has_no_link_with_or_who_is_silent(autojump_clock: Clock) -> None:
    async with a_scene() as scene:
        assert await scene.answers(wire.SwimPingReq(seq=3, target=STRANGER), wire.SwimPingReq(seq=4)) == []
        assert len(scene.node.peers()) == 2, "it dials nobody"
        scene.network.partition([parse_endpoint(scene.other.endpoint)[0]])
        assert await scene.answers(wire.SwimPingReq(seq=3, target=scene.other.node_id)) == []
        assert not scene.node._membership._probing


async def test_nobody_is_told_when_who_asked_has_gone(autojump_clock: Clock) -> None:
    async with a_scene() as scene:
        scene.client.say(wire.SwimPingReq(seq=3, target=scene.other.node_id))
        scene.client.say(wire.Disconnect(reason="normal"))
        await trio.sleep(5)
        assert scene.client.heard() == []
        assert not scene.node._membership._probing


async def test_probes_of_others_are_bounded(autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [wire.SwimPingReq(seq=number) for number in range(12)]
    async with a_scene() as scene:
        requests = [attrs.evolve(request, target=scene.other.node_id) for request in asked]
        assert len(await scene.answers(*requests)) == service.PROBES_PER_ASKER_MAX
        assert len(await scene.answers(*requests[:2])) == 2
        for number, request in enumerate(requests):  # on a stream of its own each
            scene.client.say(request, 4 * number)
        await trio.sleep(5)
        heard = [len(scene.client.heard(4 * number)) for number in range(1, len(requests))]
        assert sum(heard) == service.PROBES_PER_ASKER_MAX - 1
        monkeypatch.setattr(service, "PROBES_MAX", 5)
        assert len(await scene.answers(*requests)) == 5


async def test_an_ack_that_nobody_asked_for_is_counted_and_nothing_else(autojump_clock: Clock) -> None:
    async with a_scene() as scene:
        before = scene.node.statistics()
        assert await scene.answers(wire.SwimAck(from_=STRANGER, seq=1), wire.SwimAck()) == []
        after = scene.node.statistics()
        assert after.replies_unexpected == before.replies_unexpected + 2
        assert (after.refused, after.frames_unknown, after.messages_unhandled) == ({}, 0, 0)


async def test_none_of_them_changes_a_table(autojump_clock: Clock) -> None:
    async with a_scene() as scene:
        known = scene.node.known_nodes()
        await scene.answers(
            wire.SwimPing(from_=STRANGER, seq=1),
            wire.SwimPingReq(from_=STRANGER, seq=2, target=scene.other.node_id),
            wire.SwimAck(from_=STRANGER, seq=1),
        )
        assert scene.node.known_nodes() == known


@pytest.mark.parametrize("message", [wire.SwimPing(seq=1), wire.SwimPingReq(seq=1), wire.SwimAck(seq=1)])
async def test_they_share_the_allowance_of_pings(message: wire.Message, autojump_clock: Clock) -> None:
    async with a_scene() as scene:
        assert len(await scene.answers(wire.Ping(timestamp=1))) == 1
        (link,) = scene.node._registry._anonymous
        link._budget.pings = budget.TokenBucket(1e-9, 1)
        assert len(await scene.answers(wire.Ping(timestamp=2))) == 1
        assert await scene.answers(message, message) == []
        assert scene.node.statistics().requests_excessive == 2

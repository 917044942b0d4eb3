"""Values go to nodes that come closer than those that hold them."""

from __future__ import annotations

from collections import Counter
from typing import Final

import pytest
import trio

from macula_trio import Event, dht_key
from macula_trio._dht import handover
from macula_trio._dht.storage import HOLD_MAX_MS
from macula_trio._dht.table import HANDERS
from macula_trio._identity.record import Record, sign_record
from macula_trio._ids import NodeId
from macula_trio._wire import messages as wire
from macula_trio.testing._frame_node import (
    REALM,
    FrameNode,
    frame_identity,
    open_frame_mesh,
    open_frame_node,
)
from macula_trio.testing.frames import FrameNetwork

pytestmark = pytest.mark.long

Clock = trio.testing.MockClock
REPLICAS: Final = 20
KEYS: Final = [dht_key(f"key.{number}") for number in range(30)]


def nearest(ids: list[NodeId], key: bytes) -> set[NodeId]:
    return set(sorted(ids, key=lambda node_id: node_id.distance(key))[:REPLICAS])


def keys_of(node: FrameNode) -> set[bytes]:
    return {record.key for record in node.stored_values()}


async def test_a_newcomer_is_sent_what_it_is_near_to_and_only_by_a_few(autojump_clock: Clock) -> None:
    network = FrameNetwork(seed=1)
    async with open_frame_mesh(40, network=network) as nodes:
        await trio.sleep(5)
        for key in KEYS:
            await nodes[3].store(key, {}, quorum=REPLICAS)
        before = {record for node in nodes for record in values(node)}
        received: Counter[object] = Counter()

        def listen(event: Event) -> None:
            if event.name == "dht.value_received":
                received[event.facts["key"]] += 1

        async with open_frame_node(network, "late", bootstrap=[nodes[0].endpoint], listener=listen) as late:
            await trio.sleep(10)
            ids = [node.node_id for node in (*nodes, late)]
            owed = {key for key in KEYS if late.node_id in nearest(ids, key)}
            assert keys_of(late) == owed
            assert 0 < len(owed) < len(KEYS)
            assert set(values(late)) <= before  # as they were signed, to the last bit
            assert max(received.values()) <= HANDERS
            # All that held them leave: the newcomer alone still knows.
            for node in nodes[1:]:
                node.crash()
            await trio.sleep(1)
            assert [record.key for record in await late.find_value(min(owed))] == [min(owed)]


def values(node: FrameNode) -> list[tuple[bytes, NodeId, int, int]]:
    return [(v.signature, v.node_id, v.seq, v.expires_ms) for v in node.stored_values()]


async def test_what_has_no_end_is_not_handed_on(autojump_clock: Clock) -> None:
    network = FrameNetwork(seed=1)
    async with open_frame_mesh(3, network=network) as nodes:
        for end_ms in (HOLD_MAX_MS - 1000, 10 * HOLD_MAX_MS):
            for node in nodes[1:]:
                link = nodes[0]._transport.live_link(node.node_id)
                assert link is not None
                record = signed(network, nodes[0], dht_key(str(end_ms)), network.wall_clock_ms() + end_ms)
                request = wire.Store(key=record.key, value=record.to_value(), correlation_id=bytes(16))
                assert (await link.ask(request, wire.StoreReply)).result == "ok"
        async with open_frame_node(network, "late", bootstrap=[nodes[0].endpoint]) as late:
            await trio.sleep(5)
            assert keys_of(late) == {dht_key(str(HOLD_MAX_MS - 1000))}


async def test_a_newcomer_is_not_sent_more_than_so_much(autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "VALUES_MAX", 10)
    monkeypatch.setattr(handover, "KEYS_PER_STEP", 3)
    network = FrameNetwork(seed=1)
    async with open_frame_mesh(2, network=network) as nodes:
        for key in KEYS:
            await nodes[1].store(key, {})
        async with open_frame_node(network, "late", bootstrap=[nodes[0].endpoint]) as late:
            await trio.sleep(5)
            assert keys_of(late) == set(KEYS[:10])


async def test_a_newcomer_that_refuses_is_let_be(autojump_clock: Clock) -> None:
    network = FrameNetwork(seed=1)
    async with open_frame_mesh(2, network=network) as nodes:
        for key in KEYS:
            await nodes[1].store(key, {})
        asked: list[bytes] = []
        async with open_frame_node(network, "late") as late:

            def refuse(link: object, request: wire.Store) -> None:
                asked.append(request.key)
                link.send_nowait(  # type: ignore[attr-defined]
                    wire.StoreReply(result="error", reason="rate", correlation_id=request.correlation_id)
                )

            late._transport._handlers[wire.Store] = refuse
            await late._transport.dial_endpoint(nodes[0].endpoint)
            await trio.sleep(5)
        assert set(asked) == {KEYS[0]}
        assert len(asked) <= HANDERS
        assert nodes[0]._dht._hand_over._serving == {}


async def test_who_leaves_and_comes_again_is_served_once_in_a_while(autojump_clock: Clock) -> None:
    """Coming again costs next to nothing, and looking through all that we hold may take seconds."""
    network = FrameNetwork(seed=1)
    async with open_frame_mesh(1, network=network) as (node,):
        for key in KEYS:
            await node.store(key, {})
        served: list[int] = []
        for _ in range(4):
            async with open_frame_node(network, "again", bootstrap=[node.endpoint]) as again:
                await trio.sleep(3)
                served.append(len(again.stored_values()))
        assert served == [len(KEYS), 0, 0, 0]
        await trio.sleep(handover.SERVED_PAUSE_S)
        async with open_frame_node(network, "again", bootstrap=[node.endpoint]) as again:
            await trio.sleep(3)
            assert len(again.stored_values()) == len(KEYS)


async def test_a_newcomer_that_dies_is_let_be(autojump_clock: Clock) -> None:
    network = FrameNetwork(seed=1)
    async with open_frame_mesh(2, network=network) as nodes:
        for key in KEYS:
            await nodes[1].store(key, {})
        async with open_frame_node(network, "late") as late:
            late._transport._handlers[wire.Store] = lambda _link, _request: None
            await late._transport.dial_endpoint(nodes[0].endpoint)
            await trio.sleep(1)
            late.crash()
        assert list(nodes[0]._dht._hand_over._serving) == [late.node_id]
        await trio.sleep(60)
        assert nodes[0]._dht._hand_over._serving == {}
        assert len(await nodes[1].find_value(KEYS[0])) == 1


def signed(network: FrameNetwork, owner: FrameNode, key: bytes, expires_ms: int) -> Record:
    return sign_record(
        frame_identity(network, owner.name),
        realm=REALM,
        key=key,
        kind="service",
        endpoint=owner.endpoint,
        metadata={},
        seq=1,
        expires_ms=expires_ms,
    )

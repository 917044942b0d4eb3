"""A value whose owner has vanished ends when its owner said, everywhere, whatever others do with it meanwhile."""

from __future__ import annotations

import random
from typing import Final

import pytest
import trio

import macula_trio as macula
from macula_trio import Record
from macula_trio._dht.storage import HOLD_MAX_MS
from macula_trio._identity.record import sign_record
from macula_trio._store.memory import MemoryStorage
from macula_trio._wire import messages as wire
from macula_trio.testing import World, open_world
from macula_trio.testing._frame_node import REALM, FrameNode, frame_identity, open_frame_mesh, open_frame_node
from macula_trio.testing.frames import FrameNetwork

pytestmark = pytest.mark.long

Clock = trio.testing.MockClock
KEY, WITHDRAWN = bytes(range(32)), bytes(range(1, 33))
TTL_S: Final = 90
TICK_S: Final = 0.002
HOUR_MS: Final = 3_600_000


async def answer(call: macula.Call) -> object:
    return None


async def store_again(node: macula.Node, record: Record, other: macula.Node) -> None:
    """What a third party does that means well, or ill: sends what the owner has signed to somebody else."""
    link = node._registry.live_link(other.node_id)
    if link is not None:
        request = wire.Store(key=record.key, value=record.to_value(), correlation_id=random.Random(1).randbytes(16))
        with trio.move_on_after(1):
            await link.ask(request, wire.StoreReply)


async def keep_busy(world: World, until_s: float, records: list[Record]) -> dict[str, int]:
    """Readers read and repair, nodes join, replicas crash and come back, third parties store again: by chance."""
    done = dict.fromkeys(("read", "joined", "restarted", "stored again"), 0)
    while trio.current_time() < until_s:
        what = world.random.choices(list(done), weights=[6, 1, 2, 6])[0]
        if what == "joined" and done[what] < 4:
            await world.start(f"late{done[what]}")
        elif what == "restarted":
            name = world.random.choice([name for name in world.running if name != "node0"])
            world.crash(name)
            await world.restart(name, keep_storage=True)
        elif what == "stored again":
            one, other = world.random.sample(world.running, 2)
            await store_again(world.node(one), world.random.choice(records), world.node(other))
        else:
            what = "read"
            name = world.random.choice(world.running)
            with trio.move_on_after(until_s - trio.current_time()):
                await world.node(name).find_value(KEY)
                assert await world.node(name).find_value(WITHDRAWN) == []
        done[what] += 1
        await trio.sleep(min(world.random.uniform(0, 4), max(0.0, until_s - trio.current_time())))
    return done


@pytest.mark.parametrize("seed", range(4))
async def test_nobody_holds_or_returns_what_has_expired_or_was_withdrawn(seed: int, autojump_clock: Clock) -> None:
    async with open_world(seed=seed) as world:
        for number in range(5):
            await world.start(f"node{number}")
        owner = await world.start("owner", value_ttl_s=TTL_S)
        await trio.sleep(3)  # virtual: everybody has met everybody
        await owner.store(KEY, {}, quorum=6)
        async with owner._dht.advertised(WITHDRAWN, "service", {}):
            (withdrawn,) = await world.node("node1").find_value(WITHDRAWN)
            world.partition(["node4"])  # which does not hear of the withdrawal
            await trio.sleep(1)
        await trio.sleep(6)
        (value,) = await world.node("node1").find_value(KEY)
        assert withdrawn in world.node("node4").stored_values()
        world.crash("owner")
        world.heal()
        expires_s = trio.current_time() + (value.expires_ms - world.network.wall_clock_ms()) / 1000
        assert withdrawn.expires_ms - value.expires_ms < 1000

        # The value that was withdrawn is brought up by every third party, too.
        done = await keep_busy(world, expires_s - 1, [value, withdrawn])

        assert min(done.values()) > 0, done
        assert await world.node("node1").find_value(KEY) == [value]  # not a moment too early
        await trio.sleep(expires_s - trio.current_time() + TICK_S)
        for name in world.running:
            held = {record.key for record in world.node(name).stored_values()}
            assert KEY not in held
            assert await world.node(name).find_value(KEY) == []
        for name in world.running:
            await store_again(world.node(name), value, world.node("node0"))
        await trio.sleep((withdrawn.expires_ms - value.expires_ms) / 1000 + TICK_S)
        for name in world.running:
            assert world.node(name).stored_values() == []
            assert await world.node(name).find_value(WITHDRAWN) == []


async def test_an_end_that_never_comes_is_not_passed_on(autojump_clock: Clock) -> None:
    network, disk = FrameNetwork(), MemoryStorage()
    async with open_frame_mesh(12, network=network) as nodes:
        owner = nodes[3]
        value = sign_record(
            frame_identity(network, owner.name),
            realm=REALM,
            key=KEY,
            kind="service",
            endpoint=owner.endpoint,
            metadata={},
            seq=1,
            expires_ms=network.wall_clock_ms() + 1000 * HOUR_MS,
        )
        for node in nodes[:6]:
            if node is not owner:
                link = owner._transport.live_link(node.node_id)
                assert link is not None
                store = wire.Store(key=KEY, value=value.to_value(), correlation_id=bytes(16))
                assert (await link.ask(store, wire.StoreReply)).result == "ok"
        owner.crash()
        nodes.remove(owner)
        ends_s = trio.current_time() + HOLD_MAX_MS / 1000
        reads = 0
        while trio.current_time() < ends_s - 400:
            # A newcomer whose disk remembers all the times when it was here before.
            async with open_frame_node(network, "late", bootstrap=[nodes[0].endpoint], storage=disk) as late:
                for node in (*nodes, late):
                    assert await node.find_value(KEY) == [value]
                    reads += 1
                await trio.sleep(300)
        assert reads > 100
        assert {node.name for node in nodes if holds(node)} == {"n0", "n1", "n2", "n4", "n5"}
        await trio.sleep(ends_s - trio.current_time() + 1)
        for node in nodes:
            assert not holds(node)
            assert await node.find_value(KEY) == []


def holds(node: FrameNode) -> bool:
    return any(record.key == KEY for record in node.stored_values())

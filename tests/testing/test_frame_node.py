"""Whole DHT nodes on a network of frames: the mesh that they form, its faults, and that it repeats."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from cancel_tools import CancelAtStep
from frame_tools import served

from macula_trio._config import NodeConfig
from macula_trio._events import Event
from macula_trio._ids import dht_key
from macula_trio._store.memory import MemoryStorage
from macula_trio.errors import PeerUnavailable, QuorumNotReached
from macula_trio.testing._determinism import run_seeded
from macula_trio.testing._frame_node import REALM, FrameNode, frame_identity, open_frame_mesh, open_frame_node
from macula_trio.testing.frames import FrameNetwork
from macula_trio.testing.network import LinkModel

pytestmark = pytest.mark.long

Clock = trio.testing.MockClock
REPLICAS = 20
FAULTY = LinkModel(latency_s=0.005, jitter_s=0.01, loss=0.05, duplication=0.05, reordering=0.05)


def nearest(nodes: list[FrameNode], key: bytes) -> set[bytes]:
    return {node.node_id for node in sorted(nodes, key=lambda node: node.node_id.distance(key))[:REPLICAS]}


async def test_sixty_nodes_find_what_is_stored_at_the_twenty_nearest(autojump_clock: Clock) -> None:
    async with open_frame_mesh(60, network=FrameNetwork(seed=3)) as nodes:
        chance = random.Random(1)
        for number in range(5):
            key = dht_key(f"key.{number}")
            owner, asker = chance.sample(nodes, 2)
            report = await owner.store(key, {"n": number}, quorum=REPLICAS)
            assert set(report.stored) == nearest(nodes, key)
            holders = {node.node_id for node in nodes if any(record.key == key for record in node.stored_values())}
            assert holders == nearest(nodes, key)
            found = await asker.find_value(key)
            assert [(record.node_id, record.metadata) for record in found] == [(owner.node_id, {"n": number})]
            assert {contact.node_id for contact in await asker.find_node(key)} == nearest(
                [node for node in nodes if node is not asker], key
            )


async def test_a_mesh_bears_loss_and_disorder(autojump_clock: Clock) -> None:
    async with open_frame_mesh(30, network=FrameNetwork(seed=3, link=FAULTY)) as nodes:
        key = dht_key("key")
        await nodes[3].store(key, {}, quorum=REPLICAS)
        for node in nodes[::7]:
            assert [record.node_id for record in await node.find_value(key)] == [nodes[3].node_id]


async def test_a_store_is_honest_about_a_partition_and_works_when_it_has_healed(autojump_clock: Clock) -> None:
    network = FrameNetwork(seed=1)
    async with open_frame_mesh(12, network=network) as nodes:
        network.partition([node.name for node in nodes[:8]])
        with pytest.raises(QuorumNotReached) as caught:
            await nodes[0].store(dht_key("key"), {}, quorum=12)
        assert caught.value.stored == 8  # those on our side
        network.heal()
        await trio.sleep(60)
        assert len((await nodes[0].store(dht_key("key"), {}, quorum=12)).stored) == 12
        assert await nodes[11].find_value(dht_key("key"))


async def test_a_crashed_node_is_no_more_and_its_values_are_found_elsewhere(autojump_clock: Clock) -> None:
    async with open_frame_mesh(30) as nodes:
        key = dht_key("key")
        await nodes[3].store(key, {})
        crashed = [node for node in nodes if node.node_id in nearest(nodes, key)][:10]
        for node in crashed:
            node.crash()
            node.crash()
        with pytest.raises(trio.ClosedResourceError):
            await crashed[0].find_node(key)
        alive = [node for node in nodes if node not in crashed]
        assert [record.node_id for record in await alive[0].find_value(key)] == [nodes[3].node_id]
        await trio.sleep(120)
        gone = {node.node_id for node in crashed}
        for node in alive:
            assert not gone & {contact.node_id for contact in await node.find_node(key)}


async def test_a_crash_ends_the_tasks_of_its_node_and_not_the_block(autojump_clock: Clock) -> None:
    network = FrameNetwork()
    async with open_frame_mesh(3, network=network), open_frame_node(network, "guest") as guest:
        assert task_names().count("refresh") == 4
        guest.crash()
        await trio.sleep(1)
        assert task_names().count("refresh") == 3


async def test_a_node_is_found_under_what_it_advertises_and_not_afterwards(autojump_clock: Clock) -> None:
    async with open_frame_mesh(8) as nodes:
        key = dht_key("a.procedure")
        async with nodes[2].advertised(key):
            assert [record.node_id for record in await nodes[5].find_value(key)] == [nodes[2].node_id]
        await trio.sleep(1)
        assert await nodes[5].find_value(key) == []


async def test_a_node_that_leaves_withdraws_and_says_goodbye(autojump_clock: Clock) -> None:
    network = FrameNetwork()
    async with open_frame_mesh(8, network=network) as nodes:
        key = dht_key("a.procedure")
        async with open_frame_node(network, "guest", bootstrap=[nodes[0].endpoint]) as guest:
            guest_id = guest.node_id
            await trio.sleep(1)
            assert any(guest_id == contact.node_id for contact in nodes[5].known_nodes())
            async with guest.advertised(key):
                pass
        await trio.sleep(0.1)
        assert await nodes[5].find_value(key) == []
        assert not any(guest_id == contact.node_id for node in nodes for contact in node.known_nodes())
        with pytest.raises(trio.ClosedResourceError):
            await guest.find_node(key)


async def test_a_node_keeps_its_storage_and_its_id_over_a_restart(autojump_clock: Clock) -> None:
    network, storage = FrameNetwork(), MemoryStorage()
    async with open_frame_mesh(4, network=network) as nodes:
        async with open_frame_node(network, "five", bootstrap=[nodes[0].endpoint], storage=storage) as node:
            first = node.contact
            await nodes[1].store(dht_key("key"), {})
            assert len(node.stored_values()) == 1
            node.crash()
        async with open_frame_node(network, "five", storage=storage) as node:
            assert node.contact == first
            assert len(node.stored_values()) == 1


async def test_who_requires_a_bootstrap_that_is_not_there_fails(autojump_clock: Clock) -> None:
    async with served(FrameNetwork()) as network:
        config = NodeConfig(realm=REALM, require_bootstrap=True, join_deadline_s=8)
        with pytest.raises(PeerUnavailable):
            async with open_frame_node(network, "n1", config=config, bootstrap=[network.endpoint_of("n0")]):
                pass
        assert trio.current_time() == pytest.approx(8)
        async with open_frame_node(network, "n0"), open_frame_node(network, "n1") as node:
            with pytest.raises(OSError, match="in use"):
                async with open_frame_node(network, "n1"):
                    pass
            await node.wait_joined()


@pytest.mark.parametrize("size", [0, 1, 3])
async def test_the_error_of_the_body_arrives_as_it_is(size: int, autojump_clock: Clock) -> None:
    with pytest.raises(KeyError, match="True"):
        async with open_frame_mesh(size) as nodes:
            raise KeyError([node.name for node in nodes] == [f"n{number}" for number in range(size)])
    async with served(FrameNetwork()) as network:
        with pytest.raises(KeyError):
            async with open_frame_node(network, "n0"):
                raise KeyError


# -- determinism -----------------------------------------------------------------------------------------------------


async def observe(_chance: random.Random, seed: int) -> tuple[str, ...]:
    """Everything that the nodes of a mesh with faults tell of themselves."""
    seen: list[str] = []

    def listener(event: Event) -> None:
        seen.append(json.dumps([event.time_s, event.name, dict(event.facts)]))

    network = FrameNetwork(seed=seed, link=FAULTY)
    async with open_frame_mesh(12, network=network, listener=listener) as nodes:
        for number, node in enumerate(nodes[:6]):
            await node.store(dht_key(f"key.{number}"), {"n": number})
        network.partition(["n1", "n2", "n3"])
        nodes[4].crash()
        await trio.sleep(40)
        network.heal()
        network.clog("n5")
        for number, node in enumerate(nodes[6:]):
            found = await node.find_value(dht_key(f"key.{number}"))
            seen.append(str([record.node_id.hex() for record in found]))
        network.unclog("n5")
    seen.append(str(network.statistics()))
    return tuple(seen)


def observe_seeded(seed: int) -> tuple[tuple[str, ...], str]:
    run = run_seeded(lambda chance: observe(chance, seed), seed=seed)
    return run.result, run.schedule


def test_one_seed_is_one_course_of_things() -> None:
    first, schedule = observe_seeded(1)
    assert len(first) > 200
    assert observe_seeded(1) == (first, schedule)
    assert observe_seeded(2)[0] != first


def test_another_process_with_another_hash_seed_sees_the_same() -> None:
    code = "import sys, test_frame_node; print(test_frame_node.digest(*test_frame_node.observe_seeded(1)))"
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    digests = set()
    for hash_seed in ("0", "1"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(paths)}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=50
        )
        digests.add(done.stdout)
    assert len(digests) == 1


def digest(seen: tuple[str, ...], schedule: str) -> str:
    return hashlib.sha256("\n".join((*seen, schedule)).encode()).hexdigest()


# -- cancelled at any step -----------------------------------------------------------------------------------------


def task_names() -> list[str]:
    """Of all tasks but the questions that those who stay may be asking."""
    names, waiting = [], [trio.lowlevel.current_root_task()]
    while waiting:
        task = waiting.pop()
        assert task is not None
        names.append(task.name)
        waiting += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
    return sorted(name for name in names if not name.startswith(("ask ", "check ", "repair ", "STORE ")))


@asynccontextmanager
async def a_guest(network: FrameNetwork, entry: FrameNode) -> AsyncGenerator[None, None]:
    async with open_frame_node(network, "guest", bootstrap=[entry.endpoint]) as node:
        async with node.advertised(dht_key("sweep.me")):
            await node.find_node(bytes(32))
        yield


@asynccontextmanager
async def a_crash(network: FrameNetwork, entry: FrameNode) -> AsyncGenerator[None, None]:
    async with open_frame_node(network, "guest", bootstrap=[entry.endpoint]) as node:
        yield
        node.crash()


@pytest.mark.parametrize("block", [a_guest, a_crash])
async def test_cancelled_at_any_step_nothing_is_left(block: object, autojump_clock: Clock) -> None:
    assert callable(block)
    network = FrameNetwork()
    async with open_frame_mesh(3, network=network) as nodes:
        await trio.sleep(2000)  # the early refreshes are over, the next is minutes away
        guest = frame_identity(network, "guest").node_id
        step, was_cancelled = 0, True
        while was_cancelled:
            step += 1
            tasks, knife = task_names(), CancelAtStep(step)
            trio.lowlevel.add_instrument(knife)
            knife.armed = True
            with knife.scope:
                async with block(network, nodes[0]):
                    pass
            knife.armed = False
            trio.lowlevel.remove_instrument(knife)
            was_cancelled = knife.scope.cancel_called
            assert network.transport_at(network.endpoint_of("guest")) is None, "a transport is left"
            await trio.sleep(45)
            assert task_names() == tasks, "a task is left"
            for node in nodes:
                assert node.transport.live_link(guest) is None, "a link is left"
                assert all(record.withdrawn for record in node.stored_values()), "a record is left"
        assert step > 10, "too few steps for a sweep of anything"


async def test_a_range_that_all_of_its_neighbours_have_lost_is_found_again_by_a_refresh(autojump_clock: Clock) -> None:
    """As when a hundred nodes have joined at the same moment: each knew its own quarter, and the other half."""
    async with open_frame_mesh(120, network=FrameNetwork(seed=8)) as nodes:
        quarters: dict[int, list[FrameNode]] = {}
        for node in nodes:
            quarters.setdefault(node.node_id[0] >> 6, []).append(node)
        here, lost = max(((quarters[q], quarters[q ^ 1]) for q in quarters), key=lambda pair: len(pair[0]))
        assert len(here) > 22, "more than a lookup asks, or the lost ones are found through others anyway"
        for node in here:
            for other in lost:
                node._dht._table.remove(other.node_id)
                node._dht.client.entry_points.pop(other.node_id, None)
        asker, ids = here[0], {other.node_id for other in lost}
        target = lost[0].node_id
        assert not ids & {contact.node_id for contact in await asker.find_node(target)}, (
            "nobody who is asked knows them"
        )
        await asker._dht.client.refresh(1)
        assert ids & {contact.node_id for contact in asker._dht.known_nodes()}
        assert ids & {contact.node_id for contact in await asker.find_node(target)}

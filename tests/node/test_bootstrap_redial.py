"""A bootstrap node whose link is lost is dialed again, though there are others to talk to."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial

import attrs
import pytest
import trio
from node_tools import watch

import macula_trio as macula
from macula_trio._identity.files import Identity
from macula_trio.testing import SimNetwork
from macula_trio.testing._mesh import sim_identity
from macula_trio.testing.network import SimHost

pytestmark = pytest.mark.thorough

Clock = trio.testing.MockClock
GATE = "gate:9443"
GATE_IDENTITY = sim_identity(1)


def config(*bootstrap: str) -> macula.NodeConfig:
    return macula.NodeConfig(realm="org.example.test", listen="0.0.0.0:9443", bootstrap=bootstrap, keepalive_s=1)


async def until(is_so: Callable[[], bool], within_s: int = 90) -> None:
    for _ in range(10 * within_s):
        if is_so():
            return
        await trio.sleep(0.1)
    raise AssertionError(f"not within {within_s} s")


@attrs.define
class Scene:
    """A gate, and two nodes that have joined by it and know each other."""

    network: SimNetwork
    machine: SimHost
    nursery: trio.Nursery
    two: macula.Node
    three: macula.Node
    redials: list[macula.Event]

    def crash(self) -> None:
        self.machine.crash()

    async def restart(self, identity: Identity = GATE_IDENTITY) -> macula.Node:
        self.machine.restart()
        gate: macula.Node = await self.nursery.start(partial(run_gate, self.machine, identity))
        return gate

    async def redialed(self, count: int = 1) -> None:
        await until(lambda: len(self.redials) >= count)

    async def linked(self, gate: macula.Node) -> None:
        """Wait for a link; nobody asks for one."""
        await until(lambda: self.two._registry.live_link(gate.node_id) is not None)


async def run_gate(machine: SimHost, identity: Identity, *, task_status: trio.TaskStatus[macula.Node]) -> None:
    async with macula.open_node(config(), network=machine, identity=identity) as gate:
        task_status.started(gate)
        await trio.sleep_forever()


@asynccontextmanager
async def open_scene() -> AsyncGenerator[Scene, None]:
    network = SimNetwork()
    machine = network.host("gate", "10.0.0.1")
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(run_gate, machine, GATE_IDENTITY))
        async with (
            macula.open_node(config(GATE), network=network.host("two", "10.0.0.2")) as two,
            macula.open_node(config(GATE), network=network.host("three", "10.0.0.3")) as three,
        ):
            await two.ping(macula.Contact(node_id=three.node_id, endpoint=three.endpoint))
            yield Scene(network, machine, nursery, two, three, watch(two, "link.redial"))
        nursery.cancel_scope.cancel()


async def test_it_is_dialed_again_with_growing_pauses_until_it_is_back(autojump_clock: Clock) -> None:
    async with open_scene() as scene:
        scene.crash()
        await trio.sleep(300)
        assert scene.two._registry.live_link(scene.three.node_id) is not None, "it is not alone"
        assert [event.facts["attempt"] for event in scene.redials] == list(range(1, len(scene.redials) + 1))
        assert 8 <= len(scene.redials) <= 30
        assert {event.facts["endpoint"] for event in scene.redials} == {"10.0.0.1:9443"}
        await scene.linked(await scene.restart())
        attempts = len(scene.redials)
        await trio.sleep(60)
        assert len(scene.redials) == attempts, "it is back"


async def test_its_name_is_asked_anew_before_each_dial(autojump_clock: Clock) -> None:
    async with open_scene() as scene:
        others = watch(scene.three, "link.redial")
        scene.crash()
        await scene.redialed()
        scene.machine.change_address("10.0.0.77")
        await scene.linked(await scene.restart())
        # Who came first has told it of the other one.
        endpoints = {event.facts["endpoint"] for event in scene.redials + others}
        assert endpoints == {"10.0.0.1:9443", "10.0.0.77:9443"}


async def test_another_node_in_its_place_is_joined_when_nobody_else_is_left_and_wanted_from_then_on(
    autojump_clock: Clock,
) -> None:
    async with open_scene() as scene:
        scene.crash()
        await scene.redialed()
        other = await scene.restart(sim_identity(100))
        await trio.sleep(120)
        assert scene.two._registry.live_link(other.node_id) is None
        attempts = len(scene.redials)
        await trio.sleep(120)
        assert len(scene.redials) == attempts, "no pause makes it the one whom we knew"
        await scene.three.drain(0)
        await scene.linked(other)
        scene.crash()
        await scene.redialed(attempts + 2)
        assert scene.redials[-1].facts["peer"] == other.node_id.hex()


async def test_no_bootstrap_is_dialed_again_where_no_links_are_kept(autojump_clock: Clock) -> None:
    network = SimNetwork()
    apart = attrs.evolve(config("10.0.0.1:9443"), listen="10.0.0.2:9443", connections="per-message")
    async with (
        macula.open_node(attrs.evolve(config(), listen="10.0.0.1:9443"), network=network),
        macula.open_node(apart, network=network) as two,
    ):
        events = watch(two, "link.redial")
        network.partition(["10.0.0.1"])
        await trio.sleep(60)
        assert events == []

"""Nodes with real QUIC on a network with faults: what they must bear, and what a fault must not let through."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

import macula_trio as macula
from macula_trio.testing import open_mesh
from macula_trio.testing._mesh import sim_identity
from macula_trio.testing.network import LinkModel, SimHost, SimNetwork

KEY = bytes(32)


class Echo:
    """A handler that counts how often it ran."""

    def __init__(self) -> None:
        self.runs = 0

    async def __call__(self, call: macula.Call) -> object:
        self.runs += 1
        return call.args


@asynccontextmanager
async def open_on(machine: SimHost, number: int, bootstrap: SimHost | None = None) -> AsyncGenerator[macula.Node, None]:
    """A node on a machine of its own."""
    config = macula.NodeConfig(
        realm="org.example.test",
        listen=f"{machine.address}:9443",
        bootstrap=() if bootstrap is None else (f"{bootstrap.address}:9443",),
    )
    async with macula.open_node(config, identity=sim_identity(number), network=machine) as node:
        yield node


async def call(node: macula.Node, procedure: str, args: object = None, *, within_s: float = 30.0) -> object:
    with trio.fail_after(within_s):
        return await node.call(procedure, args)


@pytest.mark.parametrize("seed", range(3))
async def test_a_fifth_of_everything_may_be_lost(seed: int, autojump_clock: MockClock) -> None:
    network, echo = SimNetwork(seed=seed, link=LinkModel(latency_s=0.02, loss=0.2)), Echo()
    async with open_mesh(2, network=network) as (one, two), one.advertise("echo", echo):
        with trio.fail_after(60):
            await two.wait_joined()
        assert [await call(two, "echo", number) for number in range(20)] == list(range(20))
    assert echo.runs == 20
    assert network.statistics().lost["chance"] > 5


async def test_copies_and_stragglers_do_no_harm(autojump_clock: MockClock) -> None:
    link = LinkModel(jitter_s=0.01, duplication=0.5, reordering=0.3, reordering_delay_s=0.05)
    network, echo = SimNetwork(link=link), Echo()
    async with open_mesh(2, network=network) as (one, two), one.advertise("echo", echo):
        assert [await call(two, "echo", number) for number in range(50)] == list(range(50))
        assert await call(two, "echo", bytes(200_000)) == bytes(200_000)
        assert one.statistics().connections_broken == two.statistics().connections_broken == 0
    assert echo.runs == 51
    assert network.statistics().duplicated > 50


@pytest.mark.parametrize("seconds", [3, 120])
async def test_a_partition_lets_nothing_through_and_healing_mends_it(seconds: float, autojump_clock: MockClock) -> None:
    network, echo = SimNetwork(), Echo()
    async with open_mesh(3, network=network) as (one, two, three), one.advertise("echo", echo):
        assert await call(two, "echo", 1) == 1
        network.partition(["10.0.0.1"])
        with pytest.raises((macula.MeshError, trio.TooSlowError)):
            await call(two, "echo", 2, within_s=seconds)
        assert echo.runs == 1
        await trio.sleep(seconds)
        network.heal()
        await trio.sleep(65)  # who was away is dialed again once a minute
        assert await call(two, "echo", 3) == 3
        assert await call(three, "echo", 4) == 4
    assert network.statistics().lost["cut"] > 0


async def test_through_a_one_way_partition_a_call_is_heard_and_never_answered(autojump_clock: MockClock) -> None:
    network, echo = SimNetwork(), Echo()
    async with open_mesh(2, network=network) as (one, two), one.advertise("echo", echo):
        assert await call(two, "echo", 1) == 1
        network.partition(["10.0.0.1"], ["10.0.0.2"], one_way=True)
        with pytest.raises(trio.TooSlowError):
            await call(two, "echo", 2, within_s=3)
        assert echo.runs == 2
        network.heal()
        assert await call(two, "echo", 3) == 3


async def test_a_call_to_a_clogged_node_waits_for_it(autojump_clock: MockClock) -> None:
    network, echo = SimNetwork(), Echo()
    async with open_mesh(2, network=network) as (one, two), one.advertise("echo", echo):
        assert await call(two, "echo", 1) == 1
        network.clog("10.0.0.1")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call, two, "echo", 2)
            await trio.sleep(2)
            assert echo.runs == 1
            network.unclog("10.0.0.1")
        assert echo.runs == 2
    assert network.statistics().held > 0
    assert network.statistics().lost.get("clog", 0) == 0


async def test_a_path_that_bears_less_than_quic_asks_for_lets_nobody_join(autojump_clock: MockClock) -> None:
    for mtu_bytes, joins, loses in ((1452, True, False), (1451, True, True), (1200, True, True), (1199, False, True)):
        network = SimNetwork(link=LinkModel(mtu_bytes=mtu_bytes))
        async with open_mesh(2, network=network) as nodes:
            assert [len(node.peers()) for node in nodes] == ([1, 1] if joins else [0, 0])
        assert (network.statistics().lost.get("mtu", 0) > 0) is loses


@pytest.mark.parametrize("rate", [100_000, 400_000])
async def test_a_large_call_takes_as_long_as_the_bandwidth_lets_it(rate: int, autojump_clock: MockClock) -> None:
    network = SimNetwork(link=LinkModel(latency_s=0.005, bandwidth_bytes_per_s=rate))

    async def measure(call: macula.Call) -> object:
        assert isinstance(call.args, bytes)
        return len(call.args)

    async with open_mesh(2, network=network) as (one, two), one.advertise("measure", measure):
        assert await call(two, "measure", b"") == 0
        started = trio.current_time()
        assert await call(two, "measure", bytes(300_000)) == 300_000
        assert 1 < (trio.current_time() - started) * rate / 300_000 < 1.25


async def test_a_node_that_moves_keeps_the_links_that_it_dialed(autojump_clock: MockClock) -> None:
    network, at_home, moving = SimNetwork(), Echo(), Echo()
    machines = [network.host("home"), network.host("laptop")]
    async with (
        open_on(machines[0], 1) as home,
        open_on(machines[1], 2, machines[0]) as laptop,
        home.advertise("at.home", at_home),
        laptop.advertise("moving", moving),
    ):
        assert await call(laptop, "at.home", 1) == 1
        assert await call(home, "moving", 1) == 1
        links = home.peers(), laptop.peers()
        machines[1].change_address("10.9.9.9")
        for number in range(30):  # for longer than an idle link lives
            assert await call(laptop, "at.home", number) == number
            assert await call(home, "moving", number) == number
            await trio.sleep(2)
        assert (home.peers(), laptop.peers()) == links
        assert home.statistics().frames_received["CONNECT"] == 1
        assert (home.statistics().links_migrated, laptop.statistics().links_migrated) == (1, 0)


async def test_after_a_crash_the_new_run_of_a_node_takes_the_place_of_the_old(autojump_clock: MockClock) -> None:
    network, before, after = SimNetwork(), Echo(), Echo()
    machines = [network.host("steady"), network.host("shaky")]

    async def first_run(task_status: trio.TaskStatus[None]) -> None:
        async with open_on(machines[1], 2, machines[0]) as node, node.advertise("echo", before):
            task_status.started()
            await trio.sleep_forever()

    async with open_on(machines[0], 1) as steady, trio.open_nursery() as nursery:
        await nursery.start(first_run)
        assert await call(steady, "echo", 1) == 1
        machines[1].crash()
        await trio.sleep(1)
        assert len(steady.peers()) == 1  # nobody has told it
        machines[1].restart()
        async with open_on(machines[1], 2, machines[0]) as shaky, shaky.advertise("echo", after):
            assert await call(steady, "echo", 2) == 2
            assert len(steady.peers()) == len(shaky.peers()) == 1
            nursery.cancel_scope.cancel()  # the process that is dead and does not know it says goodbye to nobody
            with trio.CancelScope(shield=True):
                await trio.sleep(5)
                assert await call(steady, "echo", 3) == 3
                assert len(steady.peers()) == len(shaky.peers()) == 1
    assert (before.runs, after.runs) == (1, 2)


async def test_the_clock_of_a_machine_is_the_clock_of_its_node(autojump_clock: MockClock) -> None:
    network = SimNetwork()
    machines = [network.host("right"), network.host("wrong")]
    machines[1].clock_skew_ms = 60_000
    async with open_on(machines[0], 1) as right, open_on(machines[1], 2, machines[0]) as wrong:
        await right.store(KEY, {})
        await wrong.store(KEY, {})
        ends = {record.node_id: record.expires_ms for record in await right.find_value(KEY)}
        assert ends[wrong.node_id] - ends[right.node_id] == pytest.approx(60_000, abs=1000)
        machines[1].clock_skew_ms = 400_000  # beyond the life of both values
        assert wrong.stored_values() == []
        assert len(right.stored_values()) == 2

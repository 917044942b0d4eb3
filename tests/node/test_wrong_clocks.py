"""Owners whose clock is wrong are told so and are found all the same; replicas that lie about the time get nowhere."""

from __future__ import annotations

from typing import Any, Final

import pytest
import trio
from node_tools import watch

import macula_trio as macula
from macula_trio import Record, abc
from macula_trio._dht.clocks import WITNESSES_MIN
from macula_trio._dht.owner import STORE_ATTEMPTS
from macula_trio._wire import messages as wire
from macula_trio._wire.fields import COUNT_MAX
from macula_trio.testing import World, open_world

pytestmark = pytest.mark.thorough

Clock = trio.testing.MockClock
KEY: Final = bytes(range(32))
TTL_S: Final = 300  # of values, as `NodeConfig` has it
HOUR_MS: Final = 3_600_000
FAR_MS: Final = 1000 * 24 * HOUR_MS  # what liars would like


async def start(world: World, *names: str) -> list[macula.Node]:
    for name in names:
        await world.start(name)
    await trio.sleep(3)  # virtual: everybody has met everybody
    return [world.node(name) for name in names]


async def answer(call: macula.Call) -> object:
    return "here"


def refuse_as_expired(node: macula.Node, server_time: int | None) -> list[wire.Store]:
    """Let a node lie about the time; gives the STOREs that it was sent."""
    asked: list[wire.Store] = []

    def refuse(link: abc.Link, request: wire.Store) -> None:
        asked.append(request)
        link.send_nowait(
            wire.StoreReply(
                result="error", reason="expired", server_time=server_time, correlation_id=request.correlation_id
            )
        )

    node._registry._handlers[wire.Store] = refuse
    return asked


def held_by(nodes: list[macula.Node]) -> set[tuple[int, int, bool]]:
    return {(value.seq, value.expires_ms, value.withdrawn) for node in nodes for value in node.stored_values()}


async def test_an_owner_whose_clock_is_behind_signs_by_the_time_of_the_others(autojump_clock: Clock) -> None:
    async with open_world() as world:
        nodes = await start(world, "a", "b", "c", "owner")
        owner, events = nodes[3], watch(nodes[3], "dht.clock_skew")
        world.skew("owner", -HOUR_MS)

        report = await owner.store(KEY, {"n": 1}, quorum=4)

        assert set(report.stored) == {node.node_id for node in nodes}
        assert [(e.facts["witnesses"], e.facts["asked"]) for e in events] == [(3, 3)]
        (seconds,) = (e.facts["seconds"] for e in events)
        assert seconds == pytest.approx(HOUR_MS / 1000, abs=1)
        now_ms = world.network.wall_clock_ms()
        for node in nodes[:3]:
            (record,) = await node.find_value(KEY)
            assert record.metadata == {"n": 1}
            assert now_ms < record.expires_ms <= now_ms + TTL_S * 1000
        await trio.sleep(TTL_S)
        for node in nodes[:3]:
            assert node.stored_values() == await node.find_value(KEY) == []


async def test_what_is_advertised_outlives_a_clock_that_jumps_back_and_is_withdrawn(autojump_clock: Clock) -> None:
    async with open_world() as world:
        nodes = await start(world, "a", "b", "c", "owner")
        async with nodes[3].advertise("p.q", answer):
            before = held_by(nodes)
            world.skew("owner", -HOUR_MS)
            await trio.sleep(2 * TTL_S)  # it was renewed, and what was stored before has expired
            assert max(held_by(nodes)) > max(before)
            for node in nodes:
                assert await node.call("p.q") == "here"
        await trio.sleep(1)
        for node in nodes:
            assert [value.withdrawn for value in node.stored_values()] == [True]
            assert await node.find_providers("p.q") == []


async def test_an_owner_that_lost_its_storage_passes_what_it_stored_before_by_its_clock_alone(
    autojump_clock: Clock,
) -> None:
    async with open_world() as world:
        _, owner = await start(world, "replica", "owner")
        await owner.store(KEY, {})
        world.crash("owner")
        owner = await world.restart("owner", keep_storage=False)
        asked: list[str | None] = []
        replica = world.node("replica")
        accept = replica._dht._server._accept_value

        def note(*about: Any) -> Any:
            verdict = accept(*about)
            asked.append(verdict[0])
            return verdict

        replica._dht._server._accept_value = note  # type: ignore[method-assign]
        assert replica.node_id in (await owner.store(KEY, {})).stored
        assert asked == [None], "taken at once: no version had to be told"


async def test_an_owner_that_lost_its_storage_and_its_clock_passes_what_it_stored_before(autojump_clock: Clock) -> None:
    async with open_world() as world:
        nodes = await start(world, "a", "b", "c", "owner")
        await nodes[3].store(KEY, {"run": 1}, quorum=4)
        ((before, _, _),) = held_by(nodes)
        world.crash("owner")
        world.skew("owner", -HOUR_MS)
        owner = await world.restart("owner", keep_storage=False)

        report = await owner.store(KEY, {"run": 2}, quorum=4)

        assert report.refused == {}
        for node in (*nodes[:3], owner):
            (record,) = await node.find_value(KEY)
            assert (record.metadata, record.seq) == ({"run": 2}, before + 1)


async def test_what_was_forgotten_under_way_passes_what_is_held_all_the_same(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("macula_trio._dht.owner.SIGNED_MAX", 1)
    async with open_world() as world:
        nodes = await start(world, "a", "b", "owner")
        keys = [bytes([number]) * 32 for number in range(3)]
        for key in keys:
            await nodes[2].store(key, {"run": 1}, quorum=3)
        world.crash("owner")
        world.skew("owner", -TTL_S * 1000 // 2)
        owner = await world.restart("owner", keep_storage=False)
        async with trio.open_nursery() as nursery:
            for key in keys:
                nursery.start_soon(owner.store, key, {"run": 2})
        for key in keys:
            assert [record.metadata for record in await nodes[0].find_value(key)] == [{"run": 2}]


async def test_a_node_that_is_alone_passes_what_its_own_disk_shows(autojump_clock: Clock) -> None:
    async with open_world() as world:
        (alone,) = await start(world, "alone")
        await alone.store(KEY, {"run": 1})
        world.crash("alone")
        world.skew("alone", -TTL_S * 1000 // 2)
        alone = await world.restart("alone")

        report = await alone.store(KEY, {"run": 2})

        assert (report.stored, report.refused) == ((alone.node_id,), {})
        assert [record.metadata for record in await alone.find_value(KEY)] == [{"run": 2}]


async def test_a_tombstone_outlives_every_version_that_was_signed_before_the_clock_was_mended(
    autojump_clock: Clock,
) -> None:
    async with open_world() as world:
        nodes = await start(world, "a", "b", "c", "owner")
        owner = nodes[3]
        world.skew("owner", HOUR_MS // 2)
        async with owner.advertise("p.q", answer):
            ((_, latest, _),) = held_by(nodes)
            world.partition(["c"])  # and what it holds, it holds
            world.skew("owner", 0)
            await trio.sleep(TTL_S)  # renewed by the right time, with an earlier end
            others = [node for node in nodes if node is not nodes[2]]
            assert held_by(others) != held_by([nodes[2]])
        await trio.sleep(TTL_S * 2)  # the last version would be over by now
        assert {(expires, withdrawn) for _, expires, withdrawn in held_by(others)} == {(latest, True)}
        world.heal()
        await trio.sleep(120)
        for node in nodes:
            assert await node.find_providers("p.q") == []
        await trio.sleep(5)
        assert {withdrawn for _, _, withdrawn in held_by(nodes)} == {True}


async def test_one_liar_does_not_prolong_a_value(autojump_clock: Clock) -> None:
    async with open_world() as world:
        nodes = await start(world, "a", "b", "liar", "owner")
        owner, liar, events = nodes[3], nodes[2], watch(nodes[3], "dht.clock_skew")
        asked = refuse_as_expired(liar, world.network.wall_clock_ms() + FAR_MS)

        report = await owner.store(KEY, {})

        assert report.refused == {liar.node_id: "expired"}
        assert len(report.stored) == 3
        assert_not_prolonged(world, asked)
        assert events == []


async def test_the_only_replica_does_not_prolong_a_value_but_is_heard(autojump_clock: Clock) -> None:
    async with open_world() as world:
        liar, owner = await start(world, "liar", "owner")
        events = watch(owner, "dht.clock_skew")
        asked = refuse_as_expired(liar, world.network.wall_clock_ms() + FAR_MS)

        report = await owner.store(KEY, {})

        assert report.refused == {liar.node_id: "expired"}
        assert_not_prolonged(world, asked)
        assert [e.facts["witnesses"] for e in events] == [1]
        assert WITNESSES_MIN == 2


async def test_a_minority_of_liars_does_not_prolong_a_value(autojump_clock: Clock) -> None:
    async with open_world() as world:
        *replicas, owner = await start(world, "a", "b", "c", "d", "e", "f", "owner")
        events = watch(owner, "dht.clock_skew")
        asked = [refuse_as_expired(node, world.network.wall_clock_ms() + FAR_MS) for node in replicas[:3]]

        report = await owner.store(KEY, {})

        assert set(report.refused) == {node.node_id for node in replicas[:3]}
        for stores in asked:
            assert_not_prolonged(world, stores)
        assert events == []


async def test_liars_do_not_prolong_what_honest_replicas_make_us_sign_anew(autojump_clock: Clock) -> None:
    async with open_world() as world:
        *replicas, owner = await start(world, "a", "b", "c", "d", "e", "f", "owner")
        world.skew("owner", -HOUR_MS)
        events = watch(owner, "dht.clock_skew")
        asked = [refuse_as_expired(node, world.network.wall_clock_ms() + FAR_MS) for node in replicas[:2]]

        report = await owner.store(KEY, {}, quorum=5)

        assert set(report.refused) == {node.node_id for node in replicas[:2]}
        now_ms = world.network.wall_clock_ms()
        for stores in asked:
            assert [store.value["expires_ms"] for store in stores][1:] == [pytest.approx(now_ms + TTL_S * 1000, abs=99)]
        (event,) = events
        assert event.facts["seconds"] == pytest.approx(HOUR_MS / 1000, abs=1)


@pytest.mark.parametrize("server_time", [None, 0, -1, COUNT_MAX, 2**64 - 1])
async def test_times_at_which_nothing_can_be_signed_count_for_nothing(
    server_time: int | None, autojump_clock: Clock
) -> None:
    async with open_world() as world:
        *liars, owner = await start(world, "a", "b", "c", "owner")
        events = watch(owner, "dht.clock_skew")
        asked = [refuse_as_expired(node, server_time) for node in liars]

        report = await owner.store(KEY, {})

        assert set(report.refused.values()) == {"expired"}
        assert [len(stores) for stores in asked] == [1, 1, 1]
        assert events == []


async def test_replicas_that_all_lie_for_ever_are_asked_a_few_times(autojump_clock: Clock) -> None:
    async with open_world() as world:
        *liars, owner = await start(world, "a", "b", "c", "owner")
        for number, node in enumerate(liars):
            refuse_as_expired(node, world.network.wall_clock_ms() + (number + 1) * FAR_MS)
        sent = owner.statistics().frames_sent.get("STORE", 0)

        assert len((await owner.store(KEY, {})).refused) == 3

        assert owner.statistics().frames_sent["STORE"] - sent <= 3 * STORE_ATTEMPTS


def assert_not_prolonged(world: World, asked: list[wire.Store]) -> None:
    """It was asked once, and no later end was ever signed."""
    (store,) = asked
    expires_ms = store.value["expires_ms"]
    assert isinstance(expires_ms, int)
    assert expires_ms <= world.network.wall_clock_ms() + TTL_S * 1000
    values: list[Record] = [value for name in world.running for value in world.node(name).stored_values()]
    assert {value.expires_ms for value in values} == {expires_ms}

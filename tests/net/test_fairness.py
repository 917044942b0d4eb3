"""Under pressure, and only then, a peer is held to its share of the work."""

from __future__ import annotations

import trio
from quic_tools import Proving, Recorder, connect_bare, host, open_endpoint

from macula_trio._net.fairness import CONTENTION_S, LATE_S, PRESSURE_S, WORK_BURST, WORK_PER_S, Fairness
from macula_trio._net.quic import Connection
from macula_trio._peer.budget import TokenBucket
from macula_trio.testing import SimNetwork


def test_a_single_talker_is_never_held_back() -> None:
    it = Fairness[str]()
    it.timer_fired(1.0, 0.0)
    assert not any(it.heard("a", 0.1) for _ in range(100))


def test_talkers_are_held_back_only_while_timers_run_late() -> None:
    it = Fairness[str]()
    assert not it.heard("a", 0.0)
    assert not it.heard("b", 0.0)
    it.timer_fired(LATE_S / 2, 0.1)
    assert not it.heard("a", 0.1)
    it.timer_fired(LATE_S * 2, 0.2)
    assert it.heard("a", 0.2)
    assert it.heard("a", 0.2 + PRESSURE_S / 2)
    assert not it.heard("a", 0.2 + PRESSURE_S)


def test_contention_passes_when_the_others_fall_silent() -> None:
    it = Fairness[str]()
    for second in range(3):
        it.timer_fired(1.0, float(second))
    it.heard("a", 2.0)
    assert it.heard("b", 2.0)
    assert not it.heard("b", 2.0 + CONTENTION_S)


def test_who_is_gone_contends_with_nobody() -> None:
    it = Fairness[str]()
    it.timer_fired(1.0, 0.0)
    it.heard("a", 0.1)
    it.forget("b")
    it.forget("a")
    assert not it.heard("b", 0.2)


def test_work_that_was_done_is_paid_for_later() -> None:
    share = TokenBucket(WORK_PER_S, WORK_BURST)
    assert share.take(1, 0.0)
    share.spend(100 * WORK_BURST)
    assert not share.take(1, WORK_BURST / WORK_PER_S)
    assert share.take(1, 2.01 * WORK_BURST / WORK_PER_S), "a debt is at most one burst"


async def test_an_endpoint_whose_loop_stood_still_notices_it(autojump_clock: trio.testing.MockClock) -> None:
    network = SimNetwork()
    async with open_endpoint(network, 1, accept=Proving) as target, open_endpoint(network, 2) as peer:
        await connect_bare(peer, host(1))
        await trio.sleep(1)
        assert target._fairness._pressed_until == 0, "nothing is late so far"
        autojump_clock.jump(target._pump.next_due - trio.current_time() + 2 * LATE_S)  # past a timer, as no sleep is
        await trio.sleep(0.001)
        assert target._fairness._pressed_until > trio.current_time()


async def test_one_who_floods_an_overloaded_endpoint_loses_what_exceeds_its_share_and_others_do_not(
    autojump_clock: trio.testing.MockClock,
) -> None:
    heard: dict[tuple[str, int], Recorder] = {}

    def accept(connection: Connection) -> Recorder:
        recorder = heard[connection.path] = Proving(connection)
        return recorder

    network = SimNetwork()
    async with (
        open_endpoint(network, 1, accept=accept) as target,
        open_endpoint(network, 2) as loud,
        open_endpoint(network, 3) as quiet,
    ):
        shouting, whispering = await connect_bare(loud, host(1)), await connect_bare(quiet, host(1))
        heard[host(2)].connection._share = TokenBucket(10, 10)
        for _ in range(30):
            target._fairness.timer_fired(1.0, trio.current_time())  # as if the loop had stood still
            shouting.write(bytes(20_000))
            whispering.write(b"x")
            await trio.sleep(0.1)
        assert target.counters.datagrams_policed > 100
        assert len(heard[host(3)].data[0]) == 30
        loud_bytes = len(heard[host(2)].data[0])
        assert loud_bytes < 20_000 * 15
        await trio.sleep(20)  # virtual: the pressure is gone, and QUIC has sent everything again
        assert len(heard[host(2)].data[0]) == 20_000 * 30


def test_what_takes_longer_than_a_turn_is_pressure_too() -> None:
    it = Fairness[str]()
    it.heard("a", 0.0)
    assert not it.heard("b", 0.0)
    it.turn_ended(0.1)
    assert it.heard("a", 0.1)
    assert not it.heard("a", 0.1 + PRESSURE_S)

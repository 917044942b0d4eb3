"""One task that waits for many timers, which others move meanwhile."""

from __future__ import annotations

from math import inf

import trio

from macula_trio._net.alarm import Alarm

Clock = trio.testing.MockClock


async def test_it_wakes_for_the_earliest_timer_though_that_was_set_while_it_waits(autojump_clock: Clock) -> None:
    alarm, woken = Alarm[str](), list[tuple[float, list[str]]]()
    started = trio.current_time()

    async def wait() -> None:
        while True:
            now, late_s = await alarm.wait()
            assert late_s == 0, "by the mock clock"
            woken.append((now - started, list(alarm.due(now))))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        alarm.arm("far", started + 8)
        await trio.sleep(1)
        alarm.arm("near", started + 2)
        await trio.sleep(3)
        alarm.arm("past", started + 1)
        await trio.sleep(1)
        alarm.arm("far", started + 16)
        await trio.sleep(20)
        nursery.cancel_scope.cancel()
    assert [(when, items) for when, items in woken if items] == [(2, ["near"]), (4, ["past"]), (16, ["far"])]
    assert len(woken) == 4, "once more for the timer that was moved, and for nothing else"


async def test_many_timers_that_were_moved_wake_it_once(autojump_clock: Clock) -> None:
    """As those of QUIC, which most often move before they fire."""
    alarm, wakes = Alarm[int](), list[float]()
    started = trio.current_time()

    async def wait() -> None:
        while True:
            now, _ = await alarm.wait()
            wakes.append(now - started)
            assert list(alarm.due(now)) == []

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        for number in range(100):
            alarm.arm(number, started + 1 + number / 1000)
        for number in range(100):
            alarm.arm(number, inf if number % 2 else started + 100)
        await trio.sleep(50)
        nursery.cancel_scope.cancel()
    assert wakes == [1]


async def test_what_is_overslept_is_told(mock_clock: Clock) -> None:
    alarm = Alarm[str]()
    alarm.arm("one", trio.current_time() + 1)
    async with trio.open_nursery() as nursery:

        async def wait() -> None:
            now, late_s = await alarm.wait()
            assert late_s == 2
            assert list(alarm.due(now)) == ["one"]

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(3)

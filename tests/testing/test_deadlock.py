"""A run that would never end is an error, and leaves nothing for the run after it."""

from __future__ import annotations

import gc
import random
import sys
from contextlib import ExitStack, suppress
from itertools import count
from typing import TYPE_CHECKING

import pytest
import trio

from macula_trio.testing import Deadlock, run_seeded
from macula_trio.testing._deadlock import TASKS_LISTED_MAX

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Scenario = Callable[[random.Random], Awaitable[None]]

pytestmark = pytest.mark.long


async def _sleep(chance: random.Random) -> None:
    await trio.sleep(3)


async def _stuck(chance: random.Random) -> None:
    await trio.Event().wait()


async def _stuck_behind_a_shield(chance: random.Random) -> None:
    with trio.CancelScope(shield=True):
        await _stuck(chance)


async def _stuck_in_its_cleanup(chance: random.Random) -> None:
    try:
        await _stuck(chance)
    finally:
        with trio.CancelScope(shield=True), trio.CancelScope(shield=True):
            await trio.sleep_forever()


async def _never_cancelled(chance: random.Random) -> None:
    await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.FAILED)


async def _swallows_cancellation(chance: random.Random) -> None:
    while True:  # noqa: ASYNC913  # that is the point
        with suppress(trio.Cancelled):
            await trio.sleep_forever()


async def _raises_in_its_cleanup(chance: random.Random) -> None:
    try:
        await _stuck(chance)
    finally:
        raise KeyError


async def _keep_alive(chance: random.Random) -> None:
    for _ in count():
        await trio.sleep(10)


async def _children(chance: random.Random) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_swallows_cancellation, chance)
        nursery.start_soon(_never_cancelled, chance)
        await _stuck_behind_a_shield(chance)


@pytest.mark.parametrize(
    ("scenario", "place"),
    [
        (_stuck, "_stuck"),
        (_stuck_behind_a_shield, "_stuck"),
        (_stuck_in_its_cleanup, "_stuck"),
        (_never_cancelled, "_never_cancelled"),
        (_swallows_cancellation, "_swallows_cancellation"),
        (_raises_in_its_cleanup, "_stuck"),
        (_children, "_stuck"),
    ],
)
def test_a_scenario_in_which_everybody_waits_is_a_deadlock(
    monkeypatch: pytest.MonkeyPatch, scenario: Scenario, place: str
) -> None:
    complaints: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", complaints.append)
    line = rf"^at 0.000000 s every task is blocked and no timer is pending: test_deadlock\.{scenario.__name__} "
    with pytest.raises(Deadlock, match=rf"{line}at testing/test_deadlock\.py:\d+ {place}(; |$)"):
        run_seeded(scenario, seed=1, steps_per_instant_max=1000)
    gc.collect()
    assert complaints == []  # nothing is left for the test after this one
    assert gc.isenabled()
    assert run_seeded(_sleep, seed=1).virtual_s == 3  # Trio is as good as new


def test_a_shield_without_an_end_is_lifted_and_the_cleanup_inside_still_runs() -> None:
    left: list[float] = []

    async def scenario(chance: random.Random) -> None:
        with trio.CancelScope(shield=True):
            try:
                await _stuck(chance)
            finally:
                with trio.move_on_after(7, shield=True):
                    await trio.sleep_forever()
                left.append(trio.current_time())

    with pytest.raises(Deadlock):
        run_seeded(scenario, seed=1)
    assert left == [7]


def test_timers_that_wake_nobody_are_timers_all_the_same() -> None:
    async def scenario(chance: random.Random) -> str:
        with ExitStack() as stack:
            for seconds in range(1, 300):
                stack.enter_context(trio.move_on_after(seconds))
            with trio.move_on_after(301, shield=True):
                await trio.sleep_forever()
        return "done"

    assert run_seeded(scenario, seed=1).result == "done"


def test_a_deadlock_lists_the_main_task_first_then_its_children_by_name() -> None:
    async def scenario(chance: random.Random) -> None:
        async with trio.open_nursery() as nursery:
            for name in ("c", "b <X at 0xab12>", "a"):
                nursery.start_soon(_stuck, chance, name=name)

    with pytest.raises(Deadlock) as caught:
        run_seeded(scenario, seed=1)
    tasks = str(caught.value).partition(": ")[2].split("; ")
    assert [task.partition(" at testing/")[0] for task in tasks[1:]] == ["a", "b <X at 0x>", "c"]
    assert tasks[0].endswith(" scenario")


def test_a_deadlock_of_many_tasks_is_told_in_one_line() -> None:
    async def scenario(chance: random.Random) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(500):
                nursery.start_soon(trio.sleep_forever)

    with pytest.raises(Deadlock, match=rf"; and {501 - TASKS_LISTED_MAX} more$") as caught:
        run_seeded(scenario, seed=1)
    assert len(str(caught.value)) < 1500
    assert "\n" not in str(caught.value)


def test_a_scenario_that_only_keeps_its_timers_going_ends_at_the_limit() -> None:
    async def scenario(chance: random.Random) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_keep_alive, chance, name="keepalive")
            await trio.sleep_forever()

    with pytest.raises(Deadlock, match=r"^at 1010\.0+ s the scenario goes on beyond 1000 s: .*keepalive at testing/"):
        run_seeded(scenario, seed=1, virtual_s_max=1000)


def test_a_cleanup_may_take_its_time() -> None:
    left: list[float] = []

    async def scenario(chance: random.Random) -> None:
        try:
            await _keep_alive(chance)
        finally:
            with trio.move_on_after(30, shield=True):
                await trio.sleep_forever()
            left.append(trio.current_time())

    with pytest.raises(Deadlock, match="beyond 50 s"):
        run_seeded(scenario, seed=1, virtual_s_max=50)
    assert left == [90]


def test_a_scenario_that_ends_at_the_limit_has_ended() -> None:
    async def scenario(chance: random.Random) -> str:
        await trio.sleep(50)
        return "done"

    assert run_seeded(scenario, seed=1, virtual_s_max=50).result == "done"


def test_tasks_that_go_on_while_time_stands_still_are_stopped() -> None:
    async def scenario(chance: random.Random) -> None:
        await trio.sleep(2)
        for _ in count():
            await trio.lowlevel.checkpoint()

    with pytest.raises(Deadlock, match=r"^at 2\.000000 s tasks went on for 5\d\d\d steps while time stood still: "):
        run_seeded(scenario, seed=1, steps_per_instant_max=5000)


def test_many_steps_are_no_error_while_time_moves() -> None:
    async def scenario(chance: random.Random) -> None:
        for _ in range(3000):
            await trio.sleep(0.001)

    assert run_seeded(scenario, seed=1, steps_per_instant_max=100).steps > 3000


def test_waiting_until_all_are_blocked_is_no_deadlock() -> None:
    async def scenario(chance: random.Random) -> None:
        for _ in range(500):
            await trio.testing.wait_all_tasks_blocked()

    run_seeded(scenario, seed=1)

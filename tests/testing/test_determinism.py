"""Same seed, same run; and a run that would never end is an error."""

from __future__ import annotations

import gc
import json
import os
import random
import subprocess
import sys
import warnings
from contextlib import suppress
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Final, NoReturn

import pytest
import trio
import trio.lowlevel
from aioquic.quic.stream import QuicStream
from trio._core import _run

from macula_trio.testing._deadlock import TASKS_LISTED_MAX
from macula_trio.testing._determinism import (
    SWITCH,
    Deadlock,
    DeterminismUnavailable,
    ScheduleDigest,
    deterministic,
    deterministic_scheduler,
    run_seeded,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    Scenario = Callable[[random.Random], Awaitable[None]]

SWITCHES: Final = vars(_run)


async def _six_at_once(chance: random.Random) -> str:
    """The order in which six tasks ran that wait for the same moment, three times over."""
    order: list[str] = []

    async def walk(name: str) -> None:
        for _ in range(3):
            await trio.sleep(1)
            order.append(name)

    async with trio.open_nursery() as nursery:
        for name in "abcdef":
            nursery.start_soon(walk, name)
    return "".join(order)


# -- the scheduler -------------------------------------------------------------------------------------------------


def test_one_seed_gives_one_schedule() -> None:
    runs = [run_seeded(_six_at_once, seed=7) for _ in range(10)]
    assert {run.result for run in runs} == {runs[0].result}
    assert {(run.schedule, run.steps) for run in runs} == {(runs[0].schedule, runs[0].steps)}


def test_another_seed_gives_another_schedule() -> None:
    runs = [run_seeded(_six_at_once, seed=seed) for seed in range(10)]
    assert len({run.result for run in runs}) == len({run.schedule for run in runs}) == 10


def test_trio_and_the_system_get_back_what_they_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SWITCHES, SWITCH, False)
    state, entropy = _run._r.getstate(), os.urandom
    with deterministic(1):
        assert SWITCHES[SWITCH]
        assert os.urandom is not entropy
        assert "__hash__" in vars(QuicStream)
        with pytest.raises(KeyError), deterministic(2):
            raise KeyError
        assert SWITCHES[SWITCH]
        assert os.urandom is not entropy
        assert hash(QuicStream(stream_id=8)) == 8
    assert SWITCHES[SWITCH] is False
    assert _run._r.getstate() == state
    assert os.urandom is entropy
    assert "__hash__" not in vars(QuicStream)


def test_an_inner_block_does_not_disturb_the_schedule_of_the_outer_one() -> None:
    with deterministic_scheduler(1):
        expected = [_run._r.random() for _ in range(4)]
    with deterministic_scheduler(1):
        found = [_run._r.random() for _ in range(2)]
        with deterministic_scheduler(2):
            _run._r.random()
        found += [_run._r.random() for _ in range(2)]
    assert found == expected


@pytest.mark.parametrize("before", [False, True])
def test_hypothesis_which_is_imported_inside_keeps_its_switch(monkeypatch: pytest.MonkeyPatch, before: bool) -> None:
    monkeypatch.setitem(SWITCHES, SWITCH, before)
    with deterministic_scheduler(1), deterministic_scheduler(2):
        SWITCHES[SWITCH] = True  # what Trio's plugin for Hypothesis does
    assert SWITCHES[SWITCH] is True


def test_entropy_follows_from_the_seed() -> None:
    def draw(seed: int) -> list[bytes]:
        with deterministic(seed):
            return [os.urandom(8), os.urandom(0), os.urandom(32)]

    assert draw(1) == draw(1) != draw(2)
    assert [len(part) for part in draw(1)] == [8, 0, 32]


def test_a_set_of_streams_has_the_order_of_a_set_of_their_numbers() -> None:
    numbers = [number * 4 for number in range(50)]
    with deterministic(1):
        assert [stream.stream_id for stream in {QuicStream(stream_id=number) for number in numbers}] == list(
            set(numbers)
        )
        assert hash(QuicStream()) == hash(QuicStream())  # those of the handshake have no number


# -- where Trio or aioquic are otherwise -----------------------------------------------------------------------------


class _Unlike:
    """What a stream might become."""

    stream_id = 4


class _NamedOtherwise:
    def __init__(self, stream_id: int | None = None) -> None:
        self.number = stream_id


class _ComparedByNumber(QuicStream):
    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, QuicStream) and other.stream_id == self.stream_id


class _HashedOtherwise(QuicStream):
    def __hash__(self) -> int:
        return 1


@pytest.mark.parametrize(
    ("name", "value"), [("_r", None), ("_r", 5), (SWITCH, None), (SWITCH, "yes"), (SWITCH, 2)], ids=str
)
def test_another_trio_is_refused_at_use(monkeypatch: pytest.MonkeyPatch, name: str, value: object) -> None:
    if value is None:
        monkeypatch.delitem(SWITCHES, name)
    else:
        monkeypatch.setitem(SWITCHES, name, value)
    before, entropy = SWITCHES.copy(), os.urandom
    message = (
        rf"^trio {trio.__version__} has no trio\._core\._run\.{name} as replays need it; macula_trio .* knows trio"
    )
    with pytest.raises(DeterminismUnavailable, match=message), deterministic(1):
        pytest.fail("entered")
    with pytest.raises(DeterminismUnavailable, match=message):
        run_seeded(_six_at_once, seed=1)
    assert before == SWITCHES
    assert os.urandom is entropy
    assert gc.isenabled()


@pytest.mark.parametrize("stream", [_Unlike, _NamedOtherwise, _ComparedByNumber, _HashedOtherwise])
def test_another_aioquic_is_refused_at_use(monkeypatch: pytest.MonkeyPatch, stream: type) -> None:
    monkeypatch.setattr("aioquic.quic.stream.QuicStream", stream)
    entropy = os.urandom
    with pytest.raises(DeterminismUnavailable, match=r"^aioquic [\d.]+ has no .*QuicStream"), deterministic(1):
        pytest.fail("entered")
    assert os.urandom is entropy
    with deterministic_scheduler(1):
        pass  # needs Trio alone


# -- a whole run -----------------------------------------------------------------------------------------------------


def test_a_run_tells_its_result_and_how_long_it_took() -> None:
    async def scenario(chance: random.Random) -> float:
        await trio.sleep(90)
        return chance.random()

    run = run_seeded(scenario, seed=3)
    assert run.result == random.Random("scenario:3").random()
    assert run.virtual_s == 90
    assert run.steps > 0


def test_the_error_of_a_scenario_arrives_as_it_is() -> None:
    error = KeyError("its own")

    async def scenario(chance: random.Random) -> NoReturn:
        await trio.sleep(1)
        raise error

    with pytest.raises(KeyError) as caught:
        run_seeded(scenario, seed=1)
    assert caught.value is error
    assert gc.isenabled()


async def test_no_run_starts_inside_of_another() -> None:
    with pytest.raises(RuntimeError, match="run_seeded starts Trio itself"):
        run_seeded(_six_at_once, seed=1)


def test_a_crash_of_trio_is_not_taken_for_a_deadlock() -> None:
    async def crash() -> NoReturn:
        raise KeyError

    async def scenario(chance: random.Random) -> None:
        trio.lowlevel.spawn_system_task(crash)
        await trio.sleep_forever()

    with pytest.raises(trio.TrioInternalError):
        run_seeded(scenario, seed=1)


# A mesh with many streams in one packet: two runs of it differ in the bytes of their key shares and in nothing else.
MESH: Final = """
import json, random, trio
from macula_trio.testing import open_mesh, LinkModel, SimNetwork, run_seeded

async def answer(call):
    return {"answer": call.args["number"]}

async def scenario(chance):
    network = SimNetwork(seed=5, link=LinkModel(latency_s=0.01, jitter_s=0.004, loss=0.03))
    answers = []
    async with open_mesh(4, network=network) as nodes:
        async def ask(number):
            await trio.sleep(0)
            answers.append((await nodes[number % 2 + 2].call("a.b", {"number": number}))["answer"])
        async with nodes[0].advertise("a.b", answer), trio.open_nursery() as nursery:
            for number in range(40):
                nursery.start_soon(ask, number)
    return answers, network.digest

run = run_seeded(scenario, seed=9)
print(json.dumps([*run.result, run.schedule, run.steps, run.virtual_s]))
"""


def test_another_process_takes_the_same_steps_with_real_quic() -> None:
    def run(hash_seed: str) -> list[object]:
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            [sys.executable, "-c", MESH], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        found: list[object] = json.loads(done.stdout)
        return found

    first = run("0")
    assert sorted(first[0]) == list(range(40))  # type: ignore[call-overload]
    assert run("1") == run("2") == first


def test_the_settings_of_the_garbage_collector_do_not_change_a_run() -> None:
    async def forgotten() -> AsyncIterator[int]:
        yield 1

    async def scenario(chance: random.Random) -> None:
        for _ in range(300):
            numbers = forgotten()
            await anext(aiter(numbers))
            cycle: list[object] = [numbers]
            cycle.append(cycle)
            del numbers, cycle  # Trio closes the generator in a task of its own, as soon as it is found
            await trio.sleep(1)

    def schedule(threshold: int) -> str:
        gc.set_threshold(threshold)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # by which Trio tells of each of them
            return run_seeded(scenario, seed=1).schedule

    before = gc.get_threshold()
    try:
        assert len({schedule(threshold) for threshold in (0, 20, 333, 1000)}) == 1
    finally:
        gc.set_threshold(*before)
    assert gc.isenabled()


def test_a_long_run_has_its_garbage_collected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("macula_trio.testing._determinism.COLLECT_STEPS", 100)

    class Thing:
        living = 0

        def __init__(self) -> None:
            self.itself = self
            Thing.living += 1

        def __del__(self) -> None:
            Thing.living -= 1

    async def scenario(chance: random.Random) -> int:
        most = 0
        for _ in range(1000):
            Thing()
            most = max(most, Thing.living)
            await trio.lowlevel.checkpoint()
        return most

    assert run_seeded(scenario, seed=1).result <= 101


def test_a_digest_sees_when_and_who_but_no_addresses() -> None:
    async def scenario(chance: random.Random, name: str) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep, 0.25, name=name)

    def run(name: str) -> tuple[str, list[str]]:
        digest = ScheduleDigest()
        run = run_seeded(partial(scenario, name=name), seed=1, instruments=[digest])
        assert (digest.steps, digest.hexdigest()) == (run.steps, run.schedule)
        return digest.hexdigest(), list(digest.last)

    assert run("<Thing at 0x7f00aa>") == run("<Thing at 0xbb01>")
    assert "t=0.250000 <Thing at 0x> #3" in run("<Thing at 0x7f00aa>")[1]
    assert run("another")[0] != run("thing")[0]
    assert len(run("x" * 5000)[1]) < 300


# -- runs that would never end ---------------------------------------------------------------------------------------


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
    while True:
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
    line = rf"^at 0.000000 s every task is blocked and no timer is pending: test_determinism\.{scenario.__name__} "
    with pytest.raises(Deadlock, match=rf"{line}at testing/test_determinism\.py:\d+ {place}(; |$)"):
        run_seeded(scenario, seed=1, steps_per_instant_max=1000)
    gc.collect()
    assert complaints == []  # nothing is left for the test after this one
    assert gc.isenabled()
    assert run_seeded(_six_at_once, seed=1).virtual_s == 3  # Trio is as good as new


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
        while True:
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

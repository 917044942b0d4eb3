"""Same seed, same run, and everything as before when it has ended."""

from __future__ import annotations

import gc
import json
import os
import random
import subprocess
import sys
import warnings
from functools import partial
from typing import TYPE_CHECKING, Final, NoReturn

import pytest
import trio
import trio.lowlevel
from aioquic.quic.stream import QuicStream
from trio._core import _run

from macula_trio.testing._determinism import (
    SWITCH,
    DeterminismUnavailable,
    ScheduleDigest,
    deterministic,
    deterministic_scheduler,
    run_seeded,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

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


@pytest.mark.thorough
def test_one_seed_gives_one_schedule() -> None:
    runs = [run_seeded(_six_at_once, seed=7) for _ in range(10)]
    assert {run.result for run in runs} == {runs[0].result}
    assert {(run.schedule, run.steps) for run in runs} == {(runs[0].schedule, runs[0].steps)}


@pytest.mark.thorough
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


def test_an_error_inside_leaves_nothing_changed() -> None:
    before, state, entropy = SWITCHES[SWITCH], _run._r.getstate(), os.urandom
    with pytest.raises(KeyError), deterministic(1):
        raise KeyError
    assert (SWITCHES[SWITCH], _run._r.getstate(), os.urandom) == (before, state, entropy)
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


class _NumberedFromZero(QuicStream):
    def __init__(self, stream_id: int = 0) -> None:
        super().__init__(stream_id)


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


@pytest.mark.parametrize("stream", [_Unlike, _NamedOtherwise, _NumberedFromZero, _ComparedByNumber, _HashedOtherwise])
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


@pytest.mark.thorough
def test_the_settings_of_the_garbage_collector_do_not_change_a_run() -> None:
    async def forgotten() -> AsyncIterator[int]:  # noqa: ASYNC900  # that is the point
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


@pytest.mark.thorough
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


@pytest.mark.thorough
def test_a_digest_sees_when_and_who_but_no_addresses() -> None:
    async def scenario(chance: random.Random, name: str, seconds: float) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep, 0.125)
            nursery.start_soon(trio.sleep, seconds, name=name)

    def run(name: str, seconds: float = 0.25) -> tuple[str, list[str]]:
        digest = ScheduleDigest()
        run = run_seeded(partial(scenario, name=name, seconds=seconds), seed=1, instruments=[digest])
        assert (digest.steps, digest.hexdigest()) == (run.steps, run.schedule)
        return digest.hexdigest(), list(digest.last)

    assert run("<Thing at 0x7f00aa>") == run("<Thing at 0xbb01>")
    assert "t=0.250000 <Thing at 0x> #4" in run("<Thing at 0x7f00aa>")[1]
    assert len({run("thing")[0], run("another")[0], run("thing", 0.5)[0]}) == 3
    assert len(run("x" * 5000)[1]) < 300

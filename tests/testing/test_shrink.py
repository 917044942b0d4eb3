"""What a shrink proposes, and that it finds the smallest run that still fails."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from macula_trio.testing._shrink import ATTEMPTS_MAX, Shrink, Size
from macula_trio.testing._world import Scale

Judge = Callable[[Scale, Size], bool]


@attrs.frozen(kw_only=True)
class Scenario:
    """What a scenario takes of what it is given, as `World.nodes` and `World.seconds` decide it."""

    wanted: Size
    least_nodes: int = 2
    least_s: float = 1.0

    def size(self, scale: Scale) -> Size:
        wanted = self.wanted
        nodes = wanted.nodes if scale.nodes is None else min(wanted.nodes, max(self.least_nodes, scale.nodes))
        seconds = wanted.seconds if scale.seconds is None else min(wanted.seconds, max(self.least_s, scale.seconds))
        return Size(
            nodes=nodes if wanted.nodes else 0, seconds=seconds if wanted.seconds else 0.0, faults=wanted.faults
        )


def shrunk(scenario: Scenario, fails: Judge, *, attempts_max: int = ATTEMPTS_MAX) -> tuple[Shrink, list[Scale]]:
    """Shrink to the end; gives all that was tried, too."""
    shrink = Shrink(Scale(), scenario.wanted, attempts_max=attempts_max)
    tried = []
    while shrink.candidate is not None:
        tried.append(shrink.candidate)
        size = scenario.size(shrink.candidate)
        shrink.judge(fails=fails(shrink.candidate, size), size=size)
    return shrink, tried


def kept(shrink: Shrink) -> list[int]:
    return [number for number in range(shrink.size.faults) if number not in shrink.best.skip_faults]


@st.composite
def monotone(draw: st.DrawFn) -> tuple[Scenario, int, int, frozenset[int]]:
    """A scenario that fails from some number of nodes on, some seconds on, with all faults of some set."""
    nodes, seconds, faults = draw(st.integers(0, 40)), draw(st.integers(0, 600)), draw(st.integers(0, 24))
    scenario = Scenario(
        wanted=Size(nodes=nodes, seconds=seconds + draw(st.sampled_from([0.0, 0.5])) * bool(seconds), faults=faults),
        least_nodes=draw(st.integers(1, 5)),
        least_s=float(draw(st.integers(1, 5))),
    )
    needed = draw(st.frozensets(st.integers(0, faults - 1))) if faults else frozenset()
    return scenario, draw(st.integers(0, nodes)), draw(st.integers(0, seconds)), needed


@given(monotone())
def test_of_a_monotone_failure_the_smallest_run_is_found(drawn: tuple[Scenario, int, int, frozenset[int]]) -> None:
    scenario, nodes, seconds, needed = drawn

    def fails(scale: Scale, size: Size) -> bool:
        return size.nodes >= nodes and size.seconds >= seconds and needed.isdisjoint(scale.skip_faults)

    shrink, _ = shrunk(scenario, fails, attempts_max=10_000)
    wanted = scenario.wanted
    assert fails(shrink.best, scenario.size(shrink.best))
    assert shrink.size == scenario.size(shrink.best)
    assert shrink.size.nodes == min(wanted.nodes, max(nodes, scenario.least_nodes))
    assert shrink.size.seconds == min(wanted.seconds, max(seconds, scenario.least_s))
    assert kept(shrink) == sorted(needed)


@given(
    st.integers(0, 40),
    st.floats(0, 600),
    st.integers(0, 24),
    st.integers(),
    st.integers(1, 60),
)
def test_it_ends_whatever_fails_and_never_tries_anything_twice(
    nodes: int, seconds: float, faults: int, luck: int, attempts_max: int
) -> None:
    scenario = Scenario(wanted=Size(nodes=nodes, seconds=seconds, faults=faults))

    def fails(scale: Scale, _size: Size) -> bool:
        return hashlib.sha256(f"{luck} {scale}".encode()).digest()[0] % 2 == 0

    shrink, tried = shrunk(scenario, fails, attempts_max=attempts_max)
    assert shrink.attempts == len(tried) <= attempts_max
    assert len(set(tried)) == len(tried)
    assert Scale() not in tried
    assert shrink.best == Scale() or (shrink.best in tried and fails(shrink.best, shrink.size))
    assert shrink.size == scenario.size(shrink.best)


def test_a_limit_that_changes_nothing_is_seen_at_once() -> None:
    # The scenario takes its 16 nodes whatever it is told: one try shows it.
    scenario = Scenario(wanted=Size(nodes=16, seconds=0.0, faults=0), least_nodes=16)
    shrink, tried = shrunk(scenario, lambda _scale, _size: True)
    assert len(tried) == 1
    assert shrink.best == Scale()


def test_the_least_that_a_scenario_takes_is_not_searched_below() -> None:
    scenario = Scenario(wanted=Size(nodes=16, seconds=0.0, faults=0), least_nodes=5)
    shrink, tried = shrunk(scenario, lambda _scale, _size: True)
    assert tried == [Scale(nodes=8), Scale(nodes=4)]
    assert shrink.size.nodes == 5


def test_a_knob_that_another_one_has_freed_is_turned_again() -> None:
    scenario = Scenario(wanted=Size(nodes=16, seconds=0.0, faults=1))
    shrink, _ = shrunk(scenario, lambda scale, size: size.nodes >= 8 or scale.skip_faults == (0,))
    assert shrink.size.nodes == 2


def test_faults_that_do_not_matter_go_in_one_step() -> None:
    scenario = Scenario(wanted=Size(nodes=0, seconds=0.0, faults=1000))
    shrink, tried = shrunk(scenario, lambda _scale, _size: True)
    assert len(tried) == 1
    assert shrink.best == Scale(skip_faults=tuple(range(1000)))


def test_one_fault_of_many_is_found_by_halving() -> None:
    scenario = Scenario(wanted=Size(nodes=0, seconds=0.0, faults=1000))
    shrink, tried = shrunk(scenario, lambda scale, _size: 700 not in scale.skip_faults)
    assert kept(shrink) == [700]
    assert len(tried) == 15


def test_less_time_may_mean_fewer_faults_which_are_not_searched_any_more() -> None:
    def size(scale: Scale) -> Size:
        seconds = 60.0 if scale.seconds is None else scale.seconds
        return Size(nodes=0, seconds=seconds, faults=int(seconds))

    shrink = Shrink(Scale(), size(Scale()))
    while shrink.candidate is not None:
        taken = size(shrink.candidate)
        shrink.judge(fails=taken.seconds >= 3 and 2 not in shrink.candidate.skip_faults, size=taken)
    assert shrink.best == Scale(seconds=3.0, skip_faults=(0, 1))


def test_a_candidate_that_tells_nothing_has_passed() -> None:
    shrink = Shrink(Scale(), Size(nodes=3, seconds=0.0, faults=0))
    while shrink.candidate is not None:
        shrink.judge(fails=False, size=None)
    assert shrink.best == Scale()
    assert shrink.attempts > 0


@pytest.mark.parametrize("size", [Size(nodes=0, seconds=0.0, faults=0), Size(nodes=1, seconds=1.0, faults=0)])
def test_what_cannot_be_smaller_is_not_tried(size: Size) -> None:
    assert Shrink(Scale(), size).candidate is None

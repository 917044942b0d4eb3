from __future__ import annotations

from math import inf

from hypothesis import given
from hypothesis import strategies as st

from macula_trio._net.timers import WASTE_MAX, Timers

ITEMS = st.integers(0, 2)
TIMES = st.integers(0, 12).map(float) | st.just(inf)
STEPS = st.lists(
    st.tuples(st.just("arm"), ITEMS, TIMES)
    | st.tuples(st.just("disarm"), ITEMS, st.just(0.0))
    | st.tuples(st.just("due"), ITEMS, st.integers(0, 6).map(float)),
    max_size=60,
)


@given(STEPS)
def test_what_fires_is_what_a_list_of_times_would_fire_in_the_order_of_time(
    steps: list[tuple[str, int, float]],
) -> None:
    timers, model, now = Timers[int](), dict[int, float](), 0.0
    for what, item, value in steps:
        if what == "arm":
            before = timers.next_due
            earlier = timers.arm(item, value)
            model[item] = value
            assert earlier == (timers.next_due < before)
        elif what == "disarm":
            timers.disarm(item)
            model.pop(item, None)
        else:
            now += value
            fired = list(timers.due(now))
            times = [model[item] for item in fired]
            assert sorted(fired) == sorted(item for item, due in model.items() if due <= now)
            assert times == sorted(times)
            model.update(dict.fromkeys(fired, inf))
        assert timers.next_due <= min(model.values(), default=inf)
    assert timers.settle() == timers.next_due == min(model.values(), default=inf), "exactly"


@given(STEPS, st.lists(st.tuples(ITEMS, TIMES), max_size=10))
def test_timers_may_be_moved_by_what_another_one_does(
    steps: list[tuple[str, int, float]], moves: list[tuple[int, float]]
) -> None:
    timers, model = Timers[int](), dict[int, float]()
    for what, item, value in steps:
        if what == "arm":
            timers.arm(item, value)
            model[item] = value
    last = 0.0
    for item in timers.due(20.0):
        assert last <= model[item] <= 20.0
        last = model[item]
        model[item] = inf
        if moves:
            other, due = moves.pop()
            later = max(due, last)  # nobody arms for the past
            timers.arm(other, later)
            model[other] = later
    assert min(model.values(), default=inf) > 20.0


def test_of_those_due_at_once_the_first_armed_is_the_first_fired() -> None:
    timers = Timers[str]()
    for item in ("c", "a", "b"):
        timers.arm(item, 1.0)
    assert list(timers.due(1.0)) == ["c", "a", "b"]
    assert list(timers.due(9.0)) == []


def test_a_timer_that_was_moved_behind_another_fires_behind_it_however_late_it_is() -> None:
    timers = Timers[str]()
    timers.arm("moved", 1.0)
    timers.arm("other", 2.0)
    timers.arm("moved", 3.0)
    assert list(timers.due(5.0)) == ["other", "moved"]


def test_a_timer_that_is_moved_for_ever_costs_no_memory() -> None:
    timers = Timers[int]()
    for step in range(10_000):  # an acknowledgement is due soon, then only the end of the connection
        timers.arm(1, step + 0.1)
        assert list(timers.due(step + 0.1)) == [1]
        timers.arm(1, step + 30_000.0)
        assert len(timers._heap) <= 3 + WASTE_MAX


def test_what_is_forgotten_is_not_kept_alive_by_its_entries() -> None:
    timers = Timers[int]()
    for item in range(1000):
        timers.arm(item, 1e6)
        timers.disarm(item)
    assert len(timers._heap) <= 3 + WASTE_MAX
    assert list(timers.due(1e6)) == []
    assert timers.next_due == inf

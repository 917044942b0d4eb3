"""What becomes of a packet follows from the seed, its two hosts and its number, and from nothing else."""

from __future__ import annotations

from collections.abc import Callable
from math import inf, nan
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from macula_trio.testing import _faults
from macula_trio.testing._faults import MTU_BYTES_MAX, Conditions, Fate, LinkModel, host_names, model_facts

NAMES = ["a", "b", "c", "d", "e"]
LUCKY = LinkModel(latency_s=0.05, jitter_s=0.02, loss=0.2, duplication=0.2, reordering=0.2)

names = st.sampled_from(NAMES)
durations = st.floats(0, 10)
probabilities = st.floats(0, 1)
models = st.builds(
    LinkModel,
    latency_s=durations,
    jitter_s=durations,
    loss=probabilities,
    duplication=probabilities,
    reordering=probabilities,
    reordering_delay_s=durations,
    bandwidth_bytes_per_s=st.one_of(st.just(inf), st.floats(1, 1e9)),
    queue_bytes_max=st.integers(0, 100_000),
    mtu_bytes=st.integers(1, MTU_BYTES_MAX),
)
packets = st.tuples(names, names, st.integers(0, 2000))
partitions = st.tuples(st.just("partition"), st.sets(names), st.none() | st.sets(names), st.booleans())
faults = st.one_of(
    partitions,
    st.just(("heal",)),
    st.tuples(st.sampled_from(["clog", "unclog"]), names),
    st.tuples(st.just("set_model"), models, names),
)


def apply(conditions: Conditions, fault: tuple[Any, ...]) -> None:
    if fault[0] == "partition":
        conditions.partition(sorted(fault[1]), fault[2] and sorted(fault[2]), one_way=fault[3])
    else:
        getattr(conditions, fault[0])(*fault[1:])


def fates(conditions: Conditions, source: str, target: str, count: int, *, step_s: float = 0.1) -> list[Fate]:
    return [conditions.fate(source, target, 1000, number * step_s) for number in range(count)]


def losses(found: list[Fate]) -> list[str | None]:
    return [fate.loss for fate in found]


# -- models ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", [field.name for field in LinkModel.__attrs_attrs__])
@pytest.mark.parametrize("value", [-1, -0.001, nan, -inf])
def test_what_cannot_be_is_refused_in_one_line_that_names_it(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"^{field}: {value!r} is not [^\n]+$"):
        LinkModel(**{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("latency_s", inf),
        ("jitter_s", inf),
        ("reordering_delay_s", inf),
        ("loss", 1.001),
        ("duplication", 2),
        ("reordering", inf),
        ("bandwidth_bytes_per_s", 0),
        ("queue_bytes_max", inf),
        ("mtu_bytes", 0),
        ("mtu_bytes", MTU_BYTES_MAX + 1),
    ],
)
def test_what_is_too_much_is_refused_too(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{field}: {value!r} is not "):
        LinkModel(**{field: value})


def test_a_model_as_facts_has_no_infinity() -> None:
    facts = model_facts(LinkModel(loss=0.5))
    assert facts["bandwidth_bytes_per_s"] is None
    assert facts["loss"] == 0.5
    assert model_facts(LinkModel(bandwidth_bytes_per_s=10.0))["bandwidth_bytes_per_s"] == 10.0


def test_of_several_models_the_most_specific_holds() -> None:
    everywhere, from_a, to_b, from_a_to_b = (LinkModel(latency_s=n) for n in (1, 2, 3, 4))
    conditions = Conditions(0, everywhere)
    assert conditions.fate("a", "b", 1, 0).arrivals == (1,)
    conditions.set_model(to_b, target="b")
    assert conditions.fate("a", "b", 1, 0).arrivals == (3,)
    conditions.set_model(from_a, source="a")
    assert conditions.fate("a", "b", 1, 0).arrivals == (2,)
    conditions.set_model(from_a_to_b, "a", "b")
    assert conditions.fate("a", "b", 1, 0).arrivals == (4,)
    assert conditions.fate("b", "a", 1, 0).arrivals == (1,)
    assert conditions.fate("a", "c", 1, 0).arrivals == (2,)
    assert conditions.fate("c", "b", 1, 0).arrivals == (3,)
    conditions.set_model(LinkModel(latency_s=5))
    assert conditions.fate("b", "a", 1, 0).arrivals == (5,)
    assert conditions.fate("a", "b", 1, 0).arrivals == (4,)


# -- chance ----------------------------------------------------------------------------------------------------------


def test_luck_is_the_same_in_every_process_and_version() -> None:
    found = fates(Conditions(2, LUCKY), "a", "b", 6)
    assert [tuple(round(due, 9) for due in fate.arrivals) for fate in found] == [
        (0.051691564,),
        (),
        (0.254186718, 0.254222851),
        (0.355263918, 0.364917877),
        (0.452042742,),
        (0.562357579,),
    ]


def test_names_that_run_into_each_other_have_luck_of_their_own() -> None:
    one, two = Conditions(1, LUCKY), Conditions(1, LUCKY)
    assert fates(one, "ab", "c", 50) != fates(two, "a", "bc", 50)
    assert fates(one, "a", "b", 50) != fates(one, "b", "a", 50)
    assert fates(Conditions(1, LUCKY), "a", "b", 50) != fates(Conditions(11, LUCKY), "a", "b", 50)
    assert fates(Conditions(1, LUCKY), "1", "b", 50) != fates(Conditions(11, LUCKY), "", "b", 50)


@given(
    seed=st.integers(0, 1 << 64),
    model=models,
    noise=st.lists(st.one_of(packets, faults), max_size=30),
    count=st.integers(1, 20),
)
@example(seed=0, model=LUCKY, noise=[("partition", {"c"}, None, False)] * 3, count=20)
def test_what_others_do_and_suffer_changes_nobodys_luck(
    seed: int, model: LinkModel, noise: list[tuple[Any, ...]], count: int
) -> None:
    alone, crowded = Conditions(seed, model), Conditions(seed, model)
    for number in range(count):
        now = number / 10
        for one in noise[number::count]:
            if one[0] in NAMES:
                crowded.fate(*one, now)
            elif one[0] == "partition":  # of everybody but those two
                apply(crowded, ("partition", one[1], set(NAMES) if one[2] is None else one[2], one[3]))
            else:
                apply(crowded, one)
        assert alone.fate("x", "y", 1000, now) == crowded.fate("x", "y", 1000, now)


@given(seed=st.integers(0, 1 << 64), cut=st.lists(st.booleans(), min_size=1, max_size=40))
def test_a_fault_costs_the_packets_that_it_touches_and_shifts_no_other(seed: int, cut: list[bool]) -> None:
    whole, faulty = Conditions(seed, LUCKY), Conditions(seed, LUCKY)
    for number, is_cut in enumerate(cut):
        if is_cut:
            faulty.partition(["a"])
        expected, found = (one.fate("a", "b", 1000, number) for one in (whole, faulty))
        assert found == (Fate((), "cut") if is_cut else expected)
        faulty.heal()


@given(seed=st.integers(0, 1 << 64))
def test_luck_that_is_not_needed_is_used_up_all_the_same(seed: int) -> None:
    always, late = Conditions(seed, LUCKY), Conditions(seed, LinkModel())
    fates(late, "a", "b", 10)
    late.set_model(LinkModel(mtu_bytes=999))
    fates(late, "a", "b", 10)
    late.set_model(LinkModel(bandwidth_bytes_per_s=1, queue_bytes_max=0))
    fates(late, "a", "b", 10)
    late.set_model(LUCKY)
    assert fates(always, "a", "b", 50)[30:] == [late.fate("a", "b", 1000, number * 0.1) for number in range(30, 50)]


@given(seed=st.integers(), model=models, sizes=st.lists(st.tuples(st.integers(0, 70_000), durations), max_size=50))
def test_a_packet_arrives_at_most_twice_and_never_before_its_latency(
    seed: int, model: LinkModel, sizes: list[tuple[int, float]]
) -> None:
    conditions, now = Conditions(seed, model), 0.0
    for size, pause in sizes:
        now += pause
        fate = conditions.fate("a", "b", size, now)
        assert (len(fate.arrivals) in (1, 2)) == (fate.loss is None)
        assert fate.loss != "cut"
        assert (fate.loss == "mtu") == (size > model.mtu_bytes)
        latest = inf
        if model.bandwidth_bytes_per_s == inf:
            latest = now + model.latency_s + model.jitter_s + model.reordering_delay_s
        assert all(now + model.latency_s <= due <= latest for due in fate.arrivals)


@pytest.mark.parametrize(
    ("model", "how_many"),
    [
        (LinkModel(loss=0.25), lambda found: sum(fate.loss == "chance" for fate in found)),
        (LinkModel(duplication=0.25), lambda found: sum(len(fate.arrivals) == 2 for fate in found)),
        (LinkModel(reordering=0.25, reordering_delay_s=7, latency_s=0), lambda found: late(found, 7)),
        (LinkModel(jitter_s=4, latency_s=0), lambda found: late(found, 3)),
        (LinkModel(duplication=1, jitter_s=4, latency_s=0), lambda found: late(found, 3, copy=1)),
    ],
    ids=["loss", "duplication", "reordering", "jitter", "jitter of the copy"],
)
def test_a_quarter_is_about_a_quarter(model: LinkModel, how_many: Callable[[list[Fate]], int]) -> None:
    found = fates(Conditions(3, model), "a", "b", 4000, step_s=0)
    assert 900 < how_many(found) < 1100


def late(found: list[Fate], than_s: float, *, copy: int = 0) -> int:
    return sum(fate.arrivals[copy] >= than_s for fate in found)


def test_the_kinds_of_luck_are_independent() -> None:
    found = fates(
        Conditions(5, LinkModel(duplication=0.5, reordering=0.5, jitter_s=1, latency_s=0)), "a", "b", 4000, step_s=0
    )
    doubled = [fate for fate in found if len(fate.arrivals) == 2]
    assert 1800 < len(doubled) < 2200
    jitters = [(fate.arrivals[0] % 1, fate.arrivals[1]) for fate in doubled]
    assert 0.2 < sum((one > 0.5) == (two > 0.5) for one, two in jitters) / len(jitters) < 0.8


def test_certain_is_certain_and_never_is_never() -> None:
    assert set(losses(fates(Conditions(1, LinkModel(loss=1)), "a", "b", 500))) == {"chance"}
    assert set(losses(fates(Conditions(1, LinkModel(jitter_s=1)), "a", "b", 500))) == {None}
    assert {len(fate.arrivals) for fate in fates(Conditions(1, LinkModel(duplication=1)), "a", "b", 500)} == {2}


# -- bandwidth -------------------------------------------------------------------------------------------------------


def test_packets_leave_one_after_another_and_the_pause_between_them_is_not_saved_up() -> None:
    conditions = Conditions(0, LinkModel(latency_s=1, bandwidth_bytes_per_s=100))
    assert conditions.fate("a", "b", 50, 0).arrivals == (1.5,)
    assert conditions.fate("a", "b", 100, 0).arrivals == (2.5,)
    assert conditions.fate("a", "b", 100, 1).arrivals == (3.5,)
    assert conditions.fate("a", "b", 100, 100).arrivals == (102,)
    assert conditions.fate("b", "a", 100, 0).arrivals == (2,)  # the way back has a bandwidth of its own


def test_what_exceeds_the_queue_is_lost_and_takes_no_bandwidth() -> None:
    conditions = Conditions(0, LinkModel(latency_s=0, bandwidth_bytes_per_s=100, queue_bytes_max=250))
    found = [conditions.fate("a", "b", 100, 0) for _ in range(5)]
    assert losses(found) == [None, None, "queue", "queue", "queue"]  # 100 is leaving, 100 waits: 300 are too many
    assert conditions.fate("a", "b", 50, 0).arrivals == (2.5,)
    assert conditions.fate("a", "b", 100, 1).arrivals == (3.5,)


def test_without_a_queue_a_packet_goes_out_when_nobody_else_does() -> None:
    conditions = Conditions(0, LinkModel(latency_s=0, bandwidth_bytes_per_s=100, queue_bytes_max=0))
    assert conditions.fate("a", "b", 100, 0).arrivals == (1,)
    assert conditions.fate("a", "b", 100, 0.5).loss == "queue"
    assert conditions.fate("a", "b", 100, 1).arrivals == (2,)


def test_a_packet_that_bad_luck_loses_took_its_bandwidth() -> None:
    conditions = Conditions(0, LinkModel(latency_s=0, bandwidth_bytes_per_s=100, loss=1))
    assert conditions.fate("a", "b", 100, 0).loss == "chance"
    conditions.set_model(LinkModel(latency_s=0, bandwidth_bytes_per_s=100))
    assert conditions.fate("a", "b", 100, 0).arrivals == (2,)


@given(
    rate=st.floats(1, 1e6),
    queue=st.integers(0, 10_000),
    sent=st.lists(st.tuples(st.integers(0, 2000), st.floats(0, 2)), max_size=60),
)
def test_the_queue_never_exceeds_its_bound_and_the_rate_is_never_exceeded(
    rate: float, queue: int, sent: list[tuple[int, float]]
) -> None:
    conditions = Conditions(0, LinkModel(latency_s=0, bandwidth_bytes_per_s=rate, queue_bytes_max=queue))
    now, idle_at = 0.0, 0.0
    for size, pause in sent:
        now += pause
        fate = conditions.fate("a", "b", size, now)
        if fate.loss == "queue":
            assert (idle_at - now) * rate + size > queue - 0.001
            continue
        (done,) = fate.arrivals
        assert done == pytest.approx(max(idle_at, now) + size / rate)
        assert idle_at <= now or (done - now) * rate <= queue + 0.001
        idle_at = done


# -- partitions and clogs --------------------------------------------------------------------------------------------


def is_cut(conditions: Conditions, source: str, target: str) -> bool:
    """As a query says it, and as a packet feels it."""
    cut = conditions.is_cut(source, target)
    assert (conditions.fate(source, target, 1, 0).loss == "cut") == cut
    return cut


def test_a_partition_cuts_both_ways_between_its_sides_and_nothing_else() -> None:
    conditions = Conditions(0, LinkModel())
    assert not conditions.has_partition
    conditions.partition(["a", "b"], ["c"])
    assert conditions.has_partition
    assert is_cut(conditions, "a", "c")
    assert is_cut(conditions, "c", "b")
    assert not is_cut(conditions, "a", "b")
    assert not is_cut(conditions, "a", "d")
    assert not is_cut(conditions, "d", "c")


def test_everybody_else_is_everybody_who_comes_later_too() -> None:
    conditions = Conditions(0, LinkModel())
    conditions.partition(["a", "b"])
    assert is_cut(conditions, "a", "never heard of")
    assert is_cut(conditions, "never heard of", "b")
    assert not is_cut(conditions, "a", "b")
    assert not is_cut(conditions, "c", "d")


def test_a_one_way_partition_loses_only_what_its_side_sends() -> None:
    conditions = Conditions(0, LinkModel())
    conditions.partition(["a"], ["b"], one_way=True)
    conditions.partition(["c"], one_way=True)
    assert is_cut(conditions, "a", "b")
    assert not is_cut(conditions, "b", "a")
    assert is_cut(conditions, "c", "d")
    assert not is_cut(conditions, "d", "c")


def test_partitions_add_up_until_all_are_healed() -> None:
    conditions = Conditions(0, LinkModel())
    conditions.partition(["a"], ["b"])
    conditions.partition(["a"], ["c"])
    assert is_cut(conditions, "a", "b")
    assert is_cut(conditions, "c", "a")
    conditions.heal()
    assert not any(is_cut(conditions, source, target) for source in NAMES for target in NAMES)


@given(st.lists(faults))
def test_no_host_is_ever_cut_off_from_itself_or_clogged_towards_itself(history: list[tuple[Any, ...]]) -> None:
    conditions = Conditions(0, LinkModel())
    for fault in history:
        apply(conditions, fault)
    assert not any(is_cut(conditions, name, name) or conditions.is_clogged(name, name) for name in NAMES)


def test_a_lone_name_is_no_list_of_names() -> None:
    conditions = Conditions(0, LinkModel())
    for arguments in (("ab",), (["ab"], "cd")):
        with pytest.raises(ValueError, match=r"^hosts: '(ab|cd)' is one text; give the names in a list$"):
            conditions.partition(*arguments)
    assert not conditions.has_partition
    assert host_names(name for name in ("a", "b")) == ["a", "b"]


def test_a_clogged_host_is_clogged_both_ways_until_it_is_not() -> None:
    conditions = Conditions(0, LinkModel())
    conditions.clog("a")
    conditions.clog("a")
    assert conditions.has_clog
    assert conditions.is_clogged("a", "b")
    assert conditions.is_clogged("b", "a")
    assert not conditions.is_clogged("b", "c")
    conditions.unclog("a")
    conditions.unclog("a")
    assert not conditions.has_clog
    assert not conditions.is_clogged("a", "b")


def test_pairs_that_have_talked_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_faults, "PAIR_STATES_MAX", 3)
    conditions = Conditions(0, LinkModel())
    for name in ("b", "c", "d", "b"):
        conditions.fate("a", name, 1, 0)
    with pytest.raises(ValueError, match="more than 3 pairs of hosts have talked"):
        conditions.fate("a", "e", 1, 0)

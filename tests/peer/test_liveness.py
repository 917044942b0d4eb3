"""When a silent peer is asked, and when it is gone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from macula_trio._peer.liveness import (
    LATENESS_HALF_LIFE_S,
    PINGS_REMEMBERED,
    PROBE_MIN_S,
    PROBES,
    Lateness,
    Liveness,
    Verdict,
)

KEEPALIVE_S = 10.0


def run(liveness: Liveness, until: float, *, late_s: float = 0.0, answers_after_s: float | None = None) -> float | None:
    """Do what is due until then, with a peer that answers or not; when it was given up."""
    now, under_way = 0.0, list[tuple[float, int]]()
    while now < until:
        due = liveness.due_at(late_s)
        assert due > now or liveness.judge(now, late_s) is not Verdict.FINE, "it never waits for nothing"
        answer_at = under_way[0][0] if under_way else until
        now = min(max(now, due), answer_at, until)
        if under_way and now == answer_at:
            liveness.heard(now)
            assert liveness.answered(under_way.pop(0)[1], now)
            continue
        match liveness.judge(now, late_s):
            case Verdict.PING:
                number = liveness.pinged(now)
                if answers_after_s is not None:
                    under_way.append((now + answers_after_s, number))
            case Verdict.GONE:
                return now
    return None


def test_a_crashed_peer_is_noticed_within_the_keepalive_and_three_probes() -> None:
    assert run(Liveness(KEEPALIVE_S, 0.0), 100) == KEEPALIVE_S + PROBES * PROBE_MIN_S


@given(st.floats(0.001, 2.9))
def test_a_peer_that_answers_slowly_is_alive(round_trip_s: float) -> None:
    assert run(Liveness(KEEPALIVE_S, 0.0), 500, answers_after_s=round_trip_s) is None


def test_the_oldest_unanswered_ping_decides_and_not_the_latest() -> None:
    liveness = Liveness(KEEPALIVE_S, 0.0)
    for at in (10.0, 11.0, 12.0):
        assert liveness.judge(at, 0.0) is Verdict.PING
        liveness.pinged(at)
    assert liveness.judge(12.9, 0.0) is Verdict.FINE
    assert liveness.due_at(0.0) == 13.0
    assert liveness.judge(13.0, 0.0) is Verdict.GONE


def test_who_talks_is_alive_though_its_answer_lies_behind_much_else() -> None:
    """Such a one is 300 KB over a lossy line, when a second link was opened and the first asked for a sign of life."""
    liveness = Liveness(KEEPALIVE_S, 0.0)
    liveness.pinged(0.0)
    for tenth in range(100):
        liveness.heard(tenth / 10)
        assert liveness.judge(tenth / 10, 0.0) is not Verdict.GONE
    assert liveness.judge(10.8, 0.0) is not Verdict.GONE
    assert liveness.judge(10.9, 0.0) is Verdict.GONE, "silent for one probe"


def test_an_answer_counts_for_all_pings_before_it() -> None:
    liveness = Liveness(KEEPALIVE_S, 0.0)
    numbers = [liveness.pinged(10.0 + step) for step in range(3)]
    assert liveness.answered(numbers[1], 12.5)
    assert not liveness.answered(numbers[0], 12.6), "it is no news any more"
    assert not liveness.answered(99, 12.6)
    assert liveness.judge(12.0 + liveness.probe_s(0.0), 0.0) is Verdict.PING
    assert liveness.judge(12.0 + PROBES * liveness.probe_s(0.0), 0.0) is Verdict.GONE


def test_our_own_lateness_scales_the_probes() -> None:
    on_time, late = run(Liveness(KEEPALIVE_S, 0.0), 100), run(Liveness(KEEPALIVE_S, 0.0), 100, late_s=2.0)
    assert on_time is not None
    assert late == on_time + PROBES * 2.0


@given(st.lists(st.floats(0.0, 20.0), min_size=1, max_size=20))
def test_lateness_is_the_worst_of_late_and_fades(samples: list[float]) -> None:
    lateness = Lateness()
    for sample in samples:
        lateness.note(sample, 7.0)
    assert lateness.at(7.0) == max(samples)
    assert lateness.at(7.0 + LATENESS_HALF_LIFE_S) == pytest.approx(max(samples) / 2)
    assert lateness.at(7.0 + 100 * LATENESS_HALF_LIFE_S) < 0.001


def test_pings_behind_what_has_yet_to_leave_begin_anew_while_it_moves() -> None:
    liveness = Liveness(KEEPALIVE_S, 0.0)
    liveness.pinged(10.0)
    liveness.stalled(12.9)
    assert liveness.judge(13.0, 0.0) is Verdict.FINE
    assert liveness.judge(12.9 + PROBES * PROBE_MIN_S, 0.0) is Verdict.GONE


@given(st.lists(st.floats(0.001, 3.0), min_size=1, max_size=30))
def test_round_trips_are_smoothed_and_probes_follow(samples: list[float]) -> None:
    liveness = Liveness(KEEPALIVE_S, 0.0)
    assert liveness.round_trip_s is None
    for sample in samples:
        liveness.measured(sample)
    assert liveness.round_trip_s is not None
    slack = 1e-9
    assert min(samples) - slack <= liveness.round_trip_s <= max(samples) + slack
    assert liveness.probe_s(0.0) >= max(PROBE_MIN_S, liveness.round_trip_s) - slack


def test_who_pings_in_vain_remembers_a_bounded_number_and_the_oldest() -> None:
    liveness = Liveness(KEEPALIVE_S, 0.0)
    for step in range(100):
        liveness.pinged(10.0 + step)
    assert liveness._pings is not None
    assert len(liveness._pings) == PINGS_REMEMBERED
    assert liveness.judge(13.0, 0.0) is Verdict.GONE, "the first of them is still the oldest"

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from macula_trio._peer.budget import TokenBucket


def test_a_burst_is_there_at_once_and_not_one_more() -> None:
    bucket = TokenBucket(rate_per_s=1, burst=3)

    assert [bucket.take(1, now=100.0) for _ in range(5)] == [True, True, True, False, False]


def test_what_was_refused_costs_nothing() -> None:
    bucket = TokenBucket(rate_per_s=1, burst=10)

    assert bucket.take(8, now=0.0)
    assert not bucket.take(3, now=0.0)
    assert bucket.take(2, now=0.0)


def test_it_fills_at_its_rate_and_never_above_its_burst() -> None:
    bucket = TokenBucket(rate_per_s=2, burst=4)
    assert bucket.take(4, now=0.0)

    assert not bucket.take(2, now=0.5)
    assert bucket.take(2, now=1.0)
    assert not bucket.take(5, now=1_000_000.0)
    assert bucket.take(4, now=1_000_000.0)


def test_a_clock_that_goes_back_gives_nothing() -> None:
    bucket = TokenBucket(rate_per_s=1, burst=1)
    assert bucket.take(1, now=10.0)

    assert not bucket.take(1, now=5.0)
    assert not bucket.take(1, now=10.5)
    assert bucket.take(1, now=11.0)


@pytest.mark.parametrize(("rate_per_s", "burst"), [(0, 1), (1, 0)])
def test_a_bucket_that_could_never_give_anything_is_our_bug(rate_per_s: float, burst: float) -> None:
    with pytest.raises(AssertionError):
        TokenBucket(rate_per_s, burst)


@given(
    rate_per_s=st.floats(min_value=0.01, max_value=1000),
    burst=st.floats(min_value=0.01, max_value=1000),
    steps=st.lists(st.tuples(st.floats(min_value=0, max_value=100), st.floats(min_value=0, max_value=1000))),
)
def test_nobody_gets_more_than_the_burst_and_what_came_back_since(
    rate_per_s: float, burst: float, steps: list[tuple[float, float]]
) -> None:
    bucket = TokenBucket(rate_per_s, burst)
    now = taken = 0.0

    for pause, amount in steps:
        now += pause
        taken += amount if bucket.take(amount, now) else 0.0
        assert taken <= (burst + now * rate_per_s) * (1 + 1e-9)

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from macula_trio._dht.clocks import majority_time_ms

TIMES = st.integers(min_value=0, max_value=1000)


@pytest.mark.parametrize(
    ("told", "asked", "expected"),
    [
        ([], 0, None),
        ([], 3, None),
        ([5], 1, 5),
        ([5], 2, None),
        ([5, 9], 2, 5),
        ([5, 9], 3, 5),
        ([5, 9], 4, None),
        ([1, 5, 9], 3, 5),  # the median
        ([1, 5, 7, 9], 4, 5),  # the lower one of two
        ([5, 9, 9], 5, 5),
    ],
)
def test_a_time_has_come_when_more_than_half_say_so(told: list[int], asked: int, expected: int | None) -> None:
    assert majority_time_ms(told, asked=asked) == expected


@given(
    st.lists(TIMES, min_size=1, max_size=20),
    st.integers(min_value=0, max_value=20),
    st.lists(st.integers(), max_size=40),
)
def test_fewer_than_half_of_those_asked_cannot_make_it_later(honest: list[int], silent: int, lies: list[int]) -> None:
    lies = lies[: len(honest) + silent - 1]
    found = majority_time_ms([*honest, *lies], asked=len(honest) + silent + len(lies))
    assert found is None or found <= max(honest)


@given(st.lists(TIMES, min_size=1, max_size=20), st.lists(st.integers(), max_size=20))
def test_fewer_than_half_that_all_answer_cannot_make_it_earlier(honest: list[int], liars: list[int]) -> None:
    liars = liars[: len(honest) - 1]
    found = majority_time_ms([*honest, *liars], asked=len(honest) + len(liars))
    assert found is not None
    assert found >= min(honest)

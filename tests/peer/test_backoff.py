"""Pauses behind failures."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from macula_trio._peer import backoff as backoff_module
from macula_trio._peer.backoff import BASE_S, CEILING_S, FORGOTTEN_S, Backoff

fractions = st.floats(0, 1, exclude_max=True)


@given(st.lists(fractions, min_size=1, max_size=50))
def test_every_pause_is_anything_up_to_a_bound_that_doubles(chances: list[float]) -> None:
    backoff, now = Backoff[str, str](), 5.0
    for number, fraction in enumerate(chances):
        pause_s = backoff.failed("a", now, fraction, f"failure {number}")
        assert pause_s == fraction * min(CEILING_S, BASE_S * 2**number)
        assert backoff.left_s("a", now) == pytest.approx(pause_s)
        assert backoff.left_s("a", now + pause_s) == 0
        assert backoff.attempts("a") == number + 1
        assert backoff.reason("a") == f"failure {number}"
        assert backoff.left_s("b", now) == backoff.attempts("b") == 0
        now += pause_s


def test_success_and_time_forget() -> None:
    backoff = Backoff[str, str]()
    for _ in range(5):
        backoff.failed("a", 0.0, 0.5, "")
        backoff.failed("b", 0.0, 0.5, "")
    backoff.succeeded("a")
    backoff.succeeded("c")
    assert (backoff.attempts("a"), backoff.left_s("a", 0.0), backoff.reason("a")) == (0, 0.0, None)
    backoff.failed("b", FORGOTTEN_S, 0.5, "")
    assert backoff.attempts("b") == 6
    backoff.failed("b", 2 * FORGOTTEN_S + 1, 0.5, "")
    assert backoff.attempts("b") == 1


def test_it_remembers_a_bounded_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff_module, "REMEMBERED_MAX", 3)
    backoff = Backoff[int, str]()
    for key in (1, 2, 3, 1, 4):
        backoff.failed(key, 0.0, 0.5, "")
    assert [backoff.attempts(key) for key in (1, 2, 3, 4)] == [2, 0, 1, 1], "who failed first, not who came first"

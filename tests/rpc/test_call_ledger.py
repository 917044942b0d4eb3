from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from math import inf
from typing import Any, Final
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from macula_trio._rpc import calls
from macula_trio._rpc.calls import (
    REPLIES_MAX,
    REPLY_BYTES_MAX,
    REPLY_MEMORY_S,
    CallKey,
    CallLedger,
    granted_s,
    wire_budget_ms,
)
from macula_trio._wire.messages import Reply

ALICE: Final = "alice"
BOB: Final = "bob"
WEEK: Final = 604_800.0


def key(number: int, caller: object = ALICE) -> CallKey:
    return caller, number.to_bytes(16, "big")


def reply(number: int = 0) -> Reply:
    return Reply(call_id=number.to_bytes(16, "big"), result=b"done")


def ledger(running_max: int = 8, per_caller: int = 4) -> CallLedger:
    return CallLedger(running_max=running_max, running_per_caller_max=per_caller)


# -- how much time -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("remaining_s", "ms"),
    [
        (2.5, 2500),
        (300.0, 300_000),
        (300.001, 300_000),
        (inf, 300_000),
        (1e300, 300_000),
        (0.0019, 1),
        (0.001, 1),
        (0.0001, 1),
        (5e-324, 1),
        (0.0, 1),
        (-0.0, 1),
        (-7.0, 1),
        (-inf, 1),  # Trio's deadline of a scope that is cancelled already
    ],
)
def test_a_peer_is_told_what_is_left_from_1_ms_to_the_ceiling(remaining_s: float, ms: int) -> None:
    assert wire_budget_ms(remaining_s, ceiling_s=300) == ms


@given(st.floats(allow_nan=False), st.floats(min_value=1e-6, max_value=1e9))
def test_a_peer_never_gets_more_than_is_left(remaining_s: float, ceiling_s: float) -> None:
    ms = wire_budget_ms(remaining_s, ceiling_s=ceiling_s)
    assert isinstance(ms, int)
    assert ms == 1 or 1 < ms <= min(remaining_s, ceiling_s) * 1000


def test_a_ceiling_below_a_millisecond_still_gives_one() -> None:
    assert wire_budget_ms(10.0, ceiling_s=0.0001) == 1


@pytest.mark.parametrize(
    ("timeout_ms", "seconds"),
    [(None, 5.0), (2500, 2.5), (1, 0.001), (0, 0.0), (-1, 0.0), (300_000, 300.0), (300_001, 300.0), (2**63, 300.0)],
)
def test_a_handler_gets_what_was_asked_up_to_the_ceiling(timeout_ms: int | None, seconds: float) -> None:
    assert granted_s(timeout_ms, default_s=5.0, ceiling_s=300.0) == seconds


def test_the_default_has_the_same_ceiling() -> None:
    assert granted_s(None, default_s=5.0, ceiling_s=1.0) == 1.0


# -- admission -----------------------------------------------------------------------------------------------------


def test_calls_run_up_to_the_bound_in_all() -> None:
    book = ledger(running_max=3)
    assert [book.admit(key(0, caller), 0.0) for caller in range(4)] == ["run", "run", "run", "busy"]
    assert book.running == 3
    book.finish(key(0, 1))
    assert book.running == 2
    assert book.admit(key(0, 3), 0.0) == "run"


def test_one_caller_cannot_take_everything() -> None:
    book = ledger(running_max=8, per_caller=2)
    assert [book.admit(key(number), 0.0) for number in range(3)] == ["run", "run", "busy"]
    assert book.admit(key(0, BOB), 0.0) == "run"
    book.finish(key(0))
    assert book.admit(key(2), 0.0) == "run"
    assert book.admit(key(3), 0.0) == "busy"


def test_a_refused_call_may_be_tried_again() -> None:
    book = ledger(running_max=1)
    assert book.admit(key(0), 0.0) == "run"
    assert book.admit(key(1), 0.0) == "busy"
    book.finish(key(0))
    assert book.admit(key(1), 0.0) == "run"


def test_a_repeat_of_a_running_call_is_ignored_even_when_all_is_busy() -> None:
    book = ledger(running_max=1)
    assert book.admit(key(0), 0.0) == "run"
    assert book.admit(key(0), 1.0) == "running"
    assert book.running == 1


def test_one_id_of_two_callers_is_two_calls() -> None:
    book = ledger()
    assert book.admit(key(0, ALICE), 0.0) == "run"
    assert book.admit(key(0, BOB), 0.0) == "run"


def test_callers_that_are_gone_leave_nothing_behind() -> None:
    book = ledger()
    for caller in range(100):
        assert book.admit(key(0, caller), 0.0) == "run"
        assert book.admit(key(1, caller), 0.0) == "run"
        book.finish(key(0, caller))
        book.finish(key(1, caller))
    assert (book.running, len(book._per_caller), len(book._replies)) == (0, 0, 0)


def test_a_refusal_leaves_nothing_behind_of_its_caller() -> None:
    book = ledger(running_max=0)
    assert book.admit(key(0), 0.0) == "busy"
    assert len(book._per_caller) == 0


# -- memory of replies ---------------------------------------------------------------------------------------------


def finished(book: CallLedger, number: int, *, size: int = 4, deadline: float = 10.0, caller: object = ALICE) -> None:
    assert book.admit(key(number, caller), 0.0) == "run"
    book.finish(key(number, caller), reply(number), size=size, deadline=deadline)


def test_a_repeat_is_answered_from_memory_until_a_minute_after_the_deadline() -> None:
    book = ledger()
    finished(book, 0, deadline=10.0)
    last = 10.0 + REPLY_MEMORY_S
    for now in (0.0, 10.0, last - 0.001):
        assert book.admit(key(0), now) == reply(0)
    assert book.running == 0
    assert book.admit(key(0), last) == "run"


def test_a_reply_is_shown_to_its_caller_only() -> None:
    book = ledger()
    finished(book, 0)
    assert book.admit(key(0, BOB), 0.0) == "run"


def test_a_call_without_a_reply_is_not_remembered() -> None:
    book = ledger()
    assert book.admit(key(0), 0.0) == "run"
    book.finish(key(0), size=5, deadline=10.0)
    assert book.admit(key(0), 0.0) == "run"


def test_a_repeat_is_answered_even_when_all_is_busy() -> None:
    book = ledger(running_max=1)
    finished(book, 0)
    assert book.admit(key(1), 0.0) == "run"
    assert book.admit(key(0), 0.0) == reply(0)


def test_what_is_too_old_is_forgotten_with_its_bytes() -> None:
    book = ledger()
    for number in range(4):
        finished(book, number, size=100, deadline=float(number))
    assert book._reply_bytes == 400
    assert book.admit(key(9), 1.0 + REPLY_MEMORY_S) == "run"
    assert (len(book._replies), book._reply_bytes) == (2, 200)
    assert book.admit(key(8), WEEK) == "run"
    assert (len(book._replies), book._reply_bytes) == (0, 0)


def test_the_oldest_replies_make_room_when_there_are_too_many() -> None:
    book = ledger()
    for number in range(REPLIES_MAX + 2):
        finished(book, number)
    assert len(book._replies) == REPLIES_MAX
    assert book.admit(key(2), 0.0) == reply(2)
    assert book.admit(key(REPLIES_MAX + 1), 0.0) == reply(REPLIES_MAX + 1)
    assert [book.admit(key(number), 0.0) for number in (0, 1)] == ["run", "run"]


def test_the_oldest_replies_make_room_when_they_are_too_big() -> None:
    book = ledger()
    half = REPLY_BYTES_MAX // 2
    finished(book, 0, size=half)
    finished(book, 1, size=half)
    assert book._reply_bytes == REPLY_BYTES_MAX
    finished(book, 2, size=1)
    assert book._reply_bytes == half + 1
    assert book.admit(key(1), 0.0) == reply(1)
    assert book.admit(key(0), 0.0) == "run"


def test_a_reply_beyond_the_whole_memory_is_not_remembered() -> None:
    book = ledger()
    finished(book, 0, size=REPLY_BYTES_MAX + 1)
    assert (len(book._replies), book._reply_bytes) == (0, 0)


class Ledgers(RuleBasedStateMachine):
    """Against a model without limits of memory: few enough calls that nothing is pushed out."""

    def __init__(self) -> None:
        super().__init__()
        self.book = ledger(running_max=4, per_caller=2)
        self.now = 0.0
        self.running: list[CallKey] = []
        self.replies: dict[CallKey, tuple[Reply, float]] = {}

    @rule(caller=st.sampled_from([ALICE, BOB, "carol"]), number=st.integers(0, 4))
    def admit(self, caller: str, number: int) -> None:
        call = key(number, caller)
        mine = [each for each in self.running if each[0] == caller]
        expected: Any = "run"
        if call in self.replies:
            expected = self.replies[call][0]
        elif call in self.running:
            expected = "running"
        elif len(self.running) >= 4 or len(mine) >= 2:
            expected = "busy"
        else:
            self.running.append(call)
        assert self.book.admit(call, self.now) == expected

    @rule(data=st.data(), answered=st.booleans(), size=st.integers(0, 50))
    def finish(self, data: st.DataObject, answered: bool, size: int) -> None:
        if self.running:
            call = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
            # Deadlines in the order of the ends, so that forgetting is exact.
            answer = reply(len(self.replies)) if answered else None
            self.book.finish(call, answer, size=size, deadline=self.now)
            if answer is not None:
                self.replies[call] = (answer, self.now + REPLY_MEMORY_S)

    @rule(seconds=st.sampled_from([1.0, 30.0, REPLY_MEMORY_S]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.replies = {call: kept for call, kept in self.replies.items() if kept[1] > self.now}

    @invariant()
    def counts_what_runs(self) -> None:
        assert self.book.running == len(self.running)
        assert self.book._reply_bytes == sum(kept.size for kept in self.book._replies.values())
        assert sum(self.book._per_caller.values()) == len(self.running)


TestLedgers = Ledgers.TestCase


class ForgetfulLedgers(RuleBasedStateMachine):
    """With hardly any memory, and deadlines in any order: what is not forgotten never runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = ExitStack()
        self.patches.enter_context(patch.object(calls, "REPLIES_MAX", 3))
        self.patches.enter_context(patch.object(calls, "REPLY_BYTES_MAX", 100))
        self.book = ledger(running_max=3, per_caller=2)
        self.now = 0.0
        self.running: list[CallKey] = []

    def teardown(self) -> None:
        self.patches.close()

    @rule(caller=st.sampled_from([ALICE, BOB, "carol"]), number=st.integers(0, 3))
    def admit(self, caller: str, number: int) -> None:
        call = key(number, caller)
        verdict = self.book.admit(call, self.now)
        assert (verdict == "running") == (call in self.running and call not in self.book._replies)
        assert isinstance(verdict, Reply) == (call in self.book._replies)
        if isinstance(verdict, Reply):
            assert verdict.call_id == call[1]
        if verdict == "run":
            self.running.append(call)
        assert len(self.running) == len(set(self.running)) <= 3
        assert max((sum(each[0] == who for each in self.running) for who in (ALICE, BOB, "carol")), default=0) <= 2

    @precondition(lambda self: self.running)
    @rule(
        data=st.data(), answered=st.booleans(), size=st.integers(0, 120), left=st.sampled_from([-5.0, 0.0, 90.0, inf])
    )
    def finish(self, data: st.DataObject, answered: bool, size: int, left: float) -> None:
        call = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        answer = Reply(call_id=call[1], result=b"done") if answered else None
        self.book.finish(call, answer, size=size, deadline=self.now + left)
        assert answered or call not in self.book._replies

    @rule(seconds=st.sampled_from([1.0, REPLY_MEMORY_S, WEEK]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def memory_is_bounded_and_counted(self) -> None:
        assert len(self.book._replies) <= 3
        assert self.book._reply_bytes == sum(kept.size for kept in self.book._replies.values()) <= 100
        assert self.book.running == len(self.running)
        assert +self.book._per_caller == Counter(caller for caller, _ in self.running)


TestForgetfulLedgers = ForgetfulLedgers.TestCase
TestForgetfulLedgers.settings = settings(max_examples=40, stateful_step_count=30)


def test_a_far_deadline_only_keeps_what_was_finished_behind_it_a_little_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(calls, "REPLIES_MAX", 3)
    book = ledger()
    finished(book, 0, deadline=inf)
    finished(book, 1, deadline=0.0)
    assert book.admit(key(1), WEEK) == reply(1)
    for number in (2, 3):
        finished(book, number, deadline=0.0)
    assert book.admit(key(0), WEEK) == "run"
    assert len(book._replies) == 0

"""Windows of subscriptions that block: both ends, whatever the other one says."""

from __future__ import annotations

from collections import deque
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from macula_trio._pubsub import window
from macula_trio._pubsub.window import (
    CREDIT_INTERVAL_S,
    WINDOW_ID_BYTES,
    WINDOW_MAX,
    WINDOWS_PER_LINK_MAX,
    Gate,
    ReceiveWindow,
    Ticket,
    Turn,
    advert_of,
    read_marks,
    read_windows,
    window_id,
)

A, B = window_id("a"), window_id("b")


class Woken:
    """Who was woken, in which order."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def ask(self, gate: Gate, name: str, needs: dict[bytes, int], *, may_wait: bool = True) -> Ticket:
        return gate.ask(needs, may_wait=may_wait, wake=lambda: self.names.append(name))


def send(gate: Gate, needs: dict[bytes, int]) -> dict[bytes, int]:
    """Send one message that has room; gives its numbers."""
    ticket = gate.ask(needs, may_wait=False, wake=lambda: None)
    assert ticket.turn is Turn.ADMITTED
    marks = read_marks(gate.marks(ticket))
    gate.sent(ticket)
    return marks


# -- the publisher's end ----------------------------------------------------------------------------------------------


def test_as_many_go_as_the_window_has_and_the_next_when_some_were_taken() -> None:
    gate, woken = Gate(), Woken()
    assert [send(gate, {A: 2}) for _ in range(2)] == [{A: 1}, {A: 2}]
    third, fourth = woken.ask(gate, "third", {A: 2}), woken.ask(gate, "fourth", {A: 2})
    assert third.turn is fourth.turn is Turn.WAITING
    gate.credit(A, 1)
    assert woken.names == ["third"]
    assert (third.turn, fourth.turn) == (Turn.ADMITTED, Turn.WAITING)
    assert read_marks(gate.marks(third)) == {A: 3}
    gate.sent(third)
    gate.credit(A, 3)
    assert woken.names == ["third", "fourth"]


def test_who_waits_for_one_window_holds_up_nobody_who_needs_another() -> None:
    gate, woken = Gate(), Woken()
    send(gate, {B: 1})
    assert woken.ask(gate, "both", {A: 1, B: 1}).turn is Turn.WAITING
    assert send(gate, {A: 1}) == {A: 1}
    gate.credit(B, 1)
    assert woken.names == [], "the other one is full now"
    gate.credit(A, 1)
    assert woken.names == ["both"]


def test_a_place_that_is_not_used_goes_to_the_next() -> None:
    gate, woken = Gate(), Woken()
    first, second = (woken.ask(gate, name, {A: 1}) for name in ("first", "second"))
    assert (first.turn, second.turn) == (Turn.ADMITTED, Turn.WAITING)
    gate.leave(first, in_vain=False)
    assert second.turn is Turn.ADMITTED
    assert read_marks(gate.marks(second)) == {A: 1}


def test_after_one_has_waited_in_vain_the_others_are_refused_until_something_is_taken() -> None:
    gate, woken = Gate(), Woken()
    send(gate, {A: 1})
    patient = woken.ask(gate, "patient", {A: 1})
    gate.leave(patient, in_vain=True)
    assert woken.ask(gate, "next", {A: 1}).turn is Turn.REFUSED
    assert woken.ask(gate, "elsewhere", {B: 1}).turn is Turn.ADMITTED
    gate.credit(A, 1)
    send(gate, {A: 1})
    assert woken.ask(gate, "later", {A: 1}).turn is Turn.WAITING
    assert woken.names == []


def test_who_is_cancelled_says_nothing_about_the_window() -> None:
    gate, woken = Gate(), Woken()
    send(gate, {A: 1})
    gate.leave(woken.ask(gate, "impatient", {A: 1}), in_vain=False)
    assert woken.ask(gate, "next", {A: 1}).turn is Turn.WAITING
    assert woken.ask(gate, "passing", {A: 1}, may_wait=False).turn is Turn.REFUSED


@pytest.mark.parametrize("nonsense", [0, 1, 2, 3, 2**63 - 1])
def test_a_credit_that_repeats_goes_back_or_is_too_large_breaks_nothing(nonsense: int) -> None:
    gate = Gate()
    for _ in range(3):
        send(gate, {A: 3})
    gate.credit(A, 2)
    gate.credit(A, nonsense)
    gate.credit(B, nonsense)
    room = 3 if nonsense >= 3 else 2
    assert [send(gate, {A: 3})[A] for _ in range(room)] == [4, 5, 6][:room]
    assert gate.ask({A: 3}, may_wait=True, wake=lambda: None).turn is Turn.WAITING


def test_a_window_that_has_become_smaller_counts_at_once() -> None:
    gate = Gate()
    for _ in range(3):
        send(gate, {A: 8})
    assert gate.ask({A: 3}, may_wait=True, wake=lambda: None).turn is Turn.WAITING


def test_what_is_remembered_of_a_link_is_bounded_and_what_is_awaited_is_not_forgotten() -> None:
    gate, woken = Gate(), Woken()
    send(gate, {A: 1})
    waiting = woken.ask(gate, "waiting", {A: 1})
    for number in range(2 * WINDOWS_PER_LINK_MAX):
        identifier = number.to_bytes(WINDOW_ID_BYTES)
        send(gate, {identifier: 5})
        gate.credit(identifier, 1)
    assert len(gate._windows) == WINDOWS_PER_LINK_MAX
    gate.credit(A, 1)
    assert waiting.turn is Turn.ADMITTED


def test_a_window_for_which_there_is_no_place_does_not_hold_back() -> None:
    gate = Gate()
    for number in range(WINDOWS_PER_LINK_MAX):
        send(gate, {number.to_bytes(WINDOW_ID_BYTES): 1})
    assert [send(gate, {A: 1}) for _ in range(3)] == [{}, {}, {}]
    assert len(gate._windows) == WINDOWS_PER_LINK_MAX


# -- the subscriber's end ---------------------------------------------------------------------------------------------


def test_half_a_window_is_worth_a_credit_and_a_held_publisher_gets_less_now_and_then() -> None:
    receive = ReceiveWindow(10)
    for number in range(1, 11):
        receive.arrived(number, 10)
    assert receive.released(0.0) == 1, "its publisher can do nothing"
    assert [receive.released(CREDIT_INTERVAL_S / 2) for _ in range(4)] == [None] * 4
    assert receive.released(CREDIT_INTERVAL_S / 2) == 6
    assert receive.released(9.0) is None, "it has half a window to go on with"


def test_a_publisher_that_begins_anew_is_told_from_one_that_goes_on() -> None:
    receive = ReceiveWindow(4)
    receive.arrived(1, 4)
    receive.arrived(1000, 4)
    assert receive.continues_with(1001)
    assert not receive.continues_with(1000)
    assert not receive.continues_with(1)
    assert receive.taken == 998, "what did not come does not wait"


def test_a_smaller_subscription_makes_the_untold_worth_telling() -> None:
    receive = ReceiveWindow(100)
    for number in range(1, 11):
        receive.arrived(number, 100)
        assert receive.released(0.0) is None
    assert receive.resized(4, 0.0) == 10
    assert receive.resized(4, 0.0) is None


class Pair:
    """Both ends of one window, with credits on their way and a reader."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.gate, self.receive = Gate(), ReceiveWindow(size)
        self.tickets: list[Ticket] = []
        self.credits: deque[int] = deque()
        self.sent = self.taken = 0

    def ask(self) -> None:
        self.tickets.append(self.gate.ask({A: self.size}, may_wait=True, wake=lambda: None))

    def send(self) -> None:
        for ticket in [ticket for ticket in self.tickets if ticket.turn is Turn.ADMITTED]:
            ((_, number),) = read_marks(self.gate.marks(ticket)).items()
            self.gate.sent(ticket)
            self.tickets.remove(ticket)
            assert self.receive.continues_with(number)
            self.receive.arrived(number, self.size)
            self.sent += 1

    def take(self, now: float) -> None:
        if self.receive.waiting:
            self.taken += 1
            total = self.receive.released(now)
            self.credits.extend([] if total is None else [total])

    def hear(self) -> None:
        if self.credits:
            self.gate.credit(A, self.credits.popleft())

    def leave(self, index: int) -> None:
        if self.tickets:
            self.gate.leave(self.tickets.pop(index % len(self.tickets)), in_vain=False)


STEPS: Final = st.lists(st.tuples(st.sampled_from(["ask", "take", "hear", "wait", "leave"]), st.integers(0, 9)))


@given(st.integers(1, 9), STEPS)
def test_nothing_overflows_and_nobody_waits_for_a_reader_that_has_taken_everything(
    size: int, steps: list[tuple[str, int]]
) -> None:
    """Whatever the timing."""
    pair, now = Pair(size), 0.0
    for step, number in steps:
        if step == "ask":
            pair.ask()
        elif step == "take":
            pair.take(now)
        elif step == "hear":
            pair.hear()
        elif step == "wait":
            now += number * CREDIT_INTERVAL_S / 3
        else:
            pair.leave(number)
        pair.send()
        assert pair.receive.waiting == pair.sent - pair.taken <= size
        assert pair.receive.told <= pair.receive.taken == pair.taken
    while pair.receive.waiting or pair.credits:
        pair.take(now)
        pair.hear()
        pair.send()
    assert not pair.tickets, "everything was taken, and somebody waits"
    pair.ask()
    assert pair.tickets[0].turn is Turn.ADMITTED


# -- what travels -----------------------------------------------------------------------------------------------------


@given(st.integers(1, 2 * WINDOW_MAX))
def test_a_window_is_read_as_it_was_advertised(size: int) -> None:
    advert = advert_of("a.*", size)
    assert len(advert) == window.ADVERT_BYTES
    assert read_windows([advert]) == {window_id("a.*"): min(size, WINDOW_MAX)}
    assert len(window_id("a.*")) == WINDOW_ID_BYTES


def test_of_two_sizes_for_one_window_the_smaller_one_counts() -> None:
    assert read_windows([advert_of("a", 7), advert_of("a", 3), advert_of("a", 5)]) == {A: 3}


@pytest.mark.parametrize("item", [A, A + bytes(4), A + b"\xff" * 4, A + bytes(5), "text", None, [], 7], ids=repr)
def test_what_is_no_window_is_none(item: object) -> None:
    assert read_windows([item, advert_of("b", 1)]) == {B: 1}


@given(st.lists(st.binary(max_size=20) | st.binary(min_size=16, max_size=16), max_size=40))
def test_whatever_a_message_carries_its_marks_are_bounded(listed: list[bytes]) -> None:
    marks = read_marks(listed)
    assert len(marks) <= window.WINDOWS_PER_MESSAGE_MAX
    assert all(1 <= number < 2**63 and len(identifier) == WINDOW_ID_BYTES for identifier, number in marks.items())


def test_no_more_marks_are_read_than_a_message_may_carry() -> None:
    gate = Gate()
    needs = {number.to_bytes(WINDOW_ID_BYTES): 1 for number in range(2 * window.WINDOWS_PER_MESSAGE_MAX)}
    assert list(send(gate, needs)) == list(needs)[: window.WINDOWS_PER_MESSAGE_MAX]

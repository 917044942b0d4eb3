"""How large datagrams are: which size to dial with, when to race a smaller one, what to remember."""

from __future__ import annotations

from math import inf

import pytest
from aioquic.quic.configuration import QuicConfiguration
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from macula_trio._net import datagram_sizes as module
from macula_trio._net.datagram_sizes import (
    DATAGRAM_BYTES,
    DATAGRAM_BYTES_LOOPBACK,
    DATAGRAM_BYTES_LOOPBACK_MACOS,
    DATAGRAM_BYTES_SMALL,
    SMALL_REMEMBERED_S,
    DatagramSizes,
    race_after_s,
)
from macula_trio._util import Address

RTT_S = 0.1
FAR: Address = ("192.0.2.1", 9443)


def make(platform: str = "linux", *, large_buffers: bool = True) -> DatagramSizes[str]:
    return DatagramSizes(platform=platform, large_buffers=large_buffers, initial_rtt_s=RTT_S)


def raced(sizes: DatagramSizes[str], now: float = 0.0, peer: Address = FAR) -> None:
    """``large`` was dialed and not answered, ``small`` is its rival."""
    sizes.dialed("large", peer, sizes.to_dial(peer, now), now)
    sizes.raced("large", "small")


@pytest.mark.parametrize(
    ("platform", "large_buffers", "host", "expected"),
    [
        ("linux", True, "192.0.2.1", DATAGRAM_BYTES),
        ("linux", True, "2001:db8::1", DATAGRAM_BYTES),
        ("linux", True, "127.0.0.1", DATAGRAM_BYTES_LOOPBACK),
        ("linux", True, "127.8.0.1", DATAGRAM_BYTES_LOOPBACK),
        ("linux", True, "::1", DATAGRAM_BYTES_LOOPBACK),
        ("win32", True, "::1", DATAGRAM_BYTES_LOOPBACK),
        ("darwin", True, "127.0.0.1", DATAGRAM_BYTES_LOOPBACK_MACOS),
        ("darwin", True, "192.0.2.1", DATAGRAM_BYTES),
        ("linux", False, "127.0.0.1", DATAGRAM_BYTES),
        ("darwin", False, "::1", DATAGRAM_BYTES),
    ],
)
def test_the_size_follows_from_system_buffers_and_peer(
    platform: str, large_buffers: bool, host: str, expected: int
) -> None:
    sizes = make(platform, large_buffers=large_buffers)
    assert sizes.largest((host, 1)) == sizes.to_dial((host, 1), 0.0) == expected


def test_two_time_outs_of_aioquics_first_datagram_are_six_tenths_of_a_second() -> None:
    assert race_after_s(QuicConfiguration().initial_rtt) == pytest.approx(0.2 + 0.4)


def test_an_answer_in_time_means_that_there_is_no_race() -> None:
    sizes = make()
    sizes.dialed("large", FAR, DATAGRAM_BYTES, 5.0)
    assert sizes.race_at("large") == 5.0 + race_after_s(RTT_S)
    assert sizes.answered("large") is None
    assert sizes.race_at("large") == inf
    sizes.completed("large", 6.0)
    assert sizes.ended("large") is None
    assert sizes.to_dial(FAR, 6.0) == DATAGRAM_BYTES


def test_there_is_nothing_smaller_to_race_a_small_one() -> None:
    sizes = make()
    sizes.dialed("small", FAR, DATAGRAM_BYTES_SMALL, 0.0)
    assert sizes.race_at("small") == inf


def test_one_dial_gets_one_rival() -> None:
    sizes = make()
    raced(sizes)
    assert sizes.race_at("large") == inf
    assert sizes.ended("small") is None
    assert sizes.race_at("large") == inf, "even when the rival has failed by itself"
    assert sizes.answered("large") is None, "and it may be answered yet"


def test_a_large_one_that_is_answered_late_wins_and_nothing_is_remembered() -> None:
    sizes = make()
    raced(sizes)
    assert sizes.answered("large") == ("large", "small")
    assert sizes.answered("small") is None, "its answer under way counts no more"
    sizes.completed("large", 1.0)
    assert sizes.ended("small") is None
    assert sizes.to_dial(FAR, 1.0) == DATAGRAM_BYTES


def test_an_address_that_only_the_small_one_reached_is_remembered_for_ten_minutes() -> None:
    sizes = make()
    raced(sizes)
    assert sizes.answered("small") == ("large", "small")
    assert sizes.to_dial(FAR, 1.0) == DATAGRAM_BYTES, "an answer is not yet a success"
    sizes.completed("large", 1.0)
    assert sizes.to_dial(FAR, 1.0) == DATAGRAM_BYTES_SMALL
    assert sizes.to_dial(("192.0.2.1", 9444), 1.0) == DATAGRAM_BYTES, "it says nothing of other addresses"
    assert sizes.to_dial(FAR, 0.999 + SMALL_REMEMBERED_S) == DATAGRAM_BYTES_SMALL
    assert sizes.to_dial(FAR, 1.0 + SMALL_REMEMBERED_S) == DATAGRAM_BYTES, "being dialed does not prolong it"
    assert sizes.to_dial(FAR, 1.0) == DATAGRAM_BYTES, "it is forgotten then"


def test_an_address_that_does_not_answer_at_all_is_not_remembered() -> None:
    sizes = make()
    raced(sizes)
    assert sizes.ended("large") == "small", "the rival has to go with it"
    assert sizes.ended("small") is None
    assert sizes.to_dial(FAR, 1.0) == DATAGRAM_BYTES


def test_a_small_one_that_was_answered_and_failed_then_is_not_remembered() -> None:
    sizes = make()
    raced(sizes)
    sizes.answered("small")
    assert sizes.ended("large") is None
    sizes.completed("large", 1.0)
    assert sizes.to_dial(FAR, 1.0) == DATAGRAM_BYTES


def test_the_address_that_was_dialed_least_recently_is_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SMALL_REMEMBERED_MAX", 3)
    sizes = make()
    addresses = [(f"192.0.2.{number}", 1) for number in range(4)]

    def learn(peer: Address) -> None:
        raced(sizes, peer=peer)
        sizes.answered("small")
        sizes.completed("large", 0.0)

    for peer in addresses[:3]:
        learn(peer)
    assert sizes.to_dial(addresses[0], 1.0) == DATAGRAM_BYTES_SMALL
    learn(addresses[3])
    found = [sizes.to_dial(peer, 1.0) == DATAGRAM_BYTES_SMALL for peer in addresses]
    assert found == [True, False, True, True]


class Dials(RuleBasedStateMachine):
    """Dials and their rivals in any order of events, against a model that keeps everything."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes = DatagramSizes[int](platform="linux", large_buffers=True, initial_rtt_s=RTT_S)
        self.now = 0.0
        self.last = 0
        self.waiting: dict[int, tuple[Address, float]] = {}  # not answered, by dial: where to, and since when
        self.rivals: dict[int, int] = {}  # by dial; those that run
        self.had_rival: set[int] = set()
        self.small_won: dict[int, Address] = {}
        self.learnt: dict[Address, float] = {}

    def next(self) -> int:
        self.last += 1
        return self.last

    @rule(seconds=st.floats(0, 400))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(number=st.integers(0, 5))
    def dial(self, number: int) -> None:
        peer = (f"192.0.2.{number}", 9443)
        is_small = self.now < self.learnt.get(peer, -inf)
        size = self.sizes.to_dial(peer, self.now)
        assert size == (DATAGRAM_BYTES_SMALL if is_small else DATAGRAM_BYTES)
        connection = self.next()
        self.sizes.dialed(connection, peer, size, self.now)
        if not is_small:
            self.waiting[connection] = peer, self.now

    @precondition(lambda self: self.waiting.keys() - self.had_rival)
    @rule(data=st.data())
    def race(self, data: st.DataObject) -> None:
        connection = data.draw(st.sampled_from(sorted(self.waiting.keys() - self.had_rival)))
        self.rivals[connection] = self.next()
        self.had_rival.add(connection)
        self.sizes.raced(connection, self.rivals[connection])

    @precondition(lambda self: self.waiting)
    @rule(data=st.data(), by_rival=st.booleans())
    def answer(self, data: st.DataObject, by_rival: bool) -> None:
        connection = data.draw(st.sampled_from(sorted(self.waiting)))
        rival = self.rivals.pop(connection, None)
        peer, _ = self.waiting.pop(connection)
        if rival is None:
            assert self.sizes.answered(connection) is None
            return
        assert self.sizes.answered(rival if by_rival else connection) == (connection, rival)
        if by_rival:
            self.small_won[connection] = peer

    @precondition(lambda self: self.small_won)
    @rule(data=st.data(), succeeds=st.booleans())
    def settle(self, data: st.DataObject, succeeds: bool) -> None:
        connection = data.draw(st.sampled_from(sorted(self.small_won)))
        peer = self.small_won.pop(connection)
        if succeeds:
            self.sizes.completed(connection, self.now)
            self.learnt[peer] = self.now + SMALL_REMEMBERED_S
        assert self.sizes.ended(connection) is None

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        connection = data.draw(st.sampled_from(sorted(self.waiting)))
        del self.waiting[connection]
        assert self.sizes.ended(connection) == self.rivals.pop(connection, None)

    @precondition(lambda self: self.rivals)
    @rule(data=st.data())
    def rival_fails(self, data: st.DataObject) -> None:
        connection = data.draw(st.sampled_from(sorted(self.rivals)))
        assert self.sizes.ended(self.rivals.pop(connection)) is None

    @invariant()
    def a_race_is_due_for_those_that_wait_and_never_had_one(self) -> None:
        for connection in range(1, self.last + 1):
            due = inf
            if connection in self.waiting and connection not in self.had_rival:
                due = self.waiting[connection][1] + race_after_s(RTT_S)
            assert self.sizes.race_at(connection) == due

    @invariant()
    def nothing_is_kept_of_what_is_over(self) -> None:
        assert self.sizes._dials.keys() == self.waiting.keys()
        assert {rival: dialed for dialed, rival in self.rivals.items()} == self.sizes._runs_for
        assert self.sizes._won_by_small == self.small_won
        assert self.sizes._small_until.keys() <= self.learnt.keys()


Dials.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestDials = Dials.TestCase

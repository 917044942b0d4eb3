"""Who may open a connection, and who has to go: facts in, decisions out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from macula_trio._net import admission
from macula_trio._net.admission import Admission, Verdict
from macula_trio._util import host_group

SOURCES = [("192.0.2.1", 1), ("192.0.2.1", 2), ("192.0.2.2", 1), ("2001:db8::1", 1), ("2001:db8::2", 1), ("::1", 1)]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "HALF_OPEN_FREE", 2)
    monkeypatch.setattr(admission, "HALF_OPEN_MAX", 6)
    monkeypatch.setattr(admission, "HALF_OPEN_PER_HOST_MAX", 4)


def host(number: int) -> tuple[str, int]:
    return f"192.0.2.{number}", 9443


def fill(it: Admission[str], number: int, count: int, *, proven: bool = False) -> list[str]:
    names = [f"{number}.{n}" for n in range(count)]
    for name in names:
        it.opened(name, host(number))
        if proven:
            it.proven(name)
    return names


def test_the_first_few_need_no_proof_of_their_address() -> None:
    it = Admission[str]()
    assert it.judge(host(1), has_token=False) is Verdict.ACCEPT
    assert it.judge(host(1), has_token=True) is Verdict.VALIDATE
    fill(it, 1, 2)
    assert it.judge(host(2), has_token=False) is Verdict.VALIDATE
    it.proven("1.0")
    assert it.judge(host(2), has_token=False) is Verdict.ACCEPT


def test_one_host_has_its_share_and_no_more() -> None:
    it = Admission[str](per_host_max=3)
    fill(it, 1, 3, proven=True)
    assert it.judge(host(1), has_token=False) is Verdict.REFUSE
    assert it.judge(host(2), has_token=False) is Verdict.ACCEPT
    it.closed("1.1")
    assert it.judge(host(1), has_token=False) is Verdict.ACCEPT
    it.closed("1.1")


def test_a_subnet_of_ipv6_is_one_host_and_a_mapped_address_is_the_ipv4_one() -> None:
    it = Admission[str](per_host_max=2)
    for number in range(2):
        it.opened(f"{number}", (f"2001:db8:0:1::{number}", 1))
        it.proven(f"{number}")
    assert it.judge(("2001:db8:0:1:ffff::9", 1), has_token=False) is Verdict.REFUSE
    assert it.judge(("2001:db8:0:2::9", 1), has_token=False) is Verdict.ACCEPT
    assert host_group("::ffff:192.0.2.1") == host_group("192.0.2.1") == "192.0.2.1"
    assert host_group("fe80::1%eth0") == host_group("fe80::2%eth0")


def test_this_machine_is_no_host_with_a_share() -> None:
    it = Admission[str](per_host_max=1)
    for number in range(5):
        it.opened(f"{number}", ("127.0.0.1", number + 1))
        it.proven(f"{number}")
    assert it.judge(("127.0.0.1", 9), has_token=False) is Verdict.ACCEPT


def test_a_host_that_is_refused_for_a_while_is_not_even_asked_for_its_address() -> None:
    it = Admission[str](is_welcome=lambda address: address != host(1))
    assert it.judge(host(1), has_token=True) is Verdict.REFUSE
    assert it.judge(host(2), has_token=False) is Verdict.ACCEPT


def test_of_half_open_ones_the_oldest_of_the_busiest_host_goes() -> None:
    it = Admission[str]()
    fill(it, 1, 4)
    assert it.make_room(host(1)) == (False, None), "its own share is full"
    fill(it, 2, 2)
    assert it.make_room(host(3)) == (True, "1.0")
    assert it.make_room(host(2)) == (True, "1.0")
    it.closed("1.0")
    assert it.make_room(host(2)) == (True, None)
    fill(it, 3, 1)
    assert it.make_room(host(2)) == (False, None), "three against three: nobody gives way"


def test_of_all_connections_the_oldest_of_the_busiest_host_goes() -> None:
    it = Admission[str](connections_max=5)
    fill(it, 1, 3, proven=True)
    fill(it, 2, 2, proven=True)
    assert it.judge(host(3), has_token=False) is Verdict.VALIDATE
    assert it.make_room(host(3)) == (True, "1.0")
    assert it.make_room(host(2)) == (False, None)


@given(st.lists(st.tuples(st.sampled_from(SOURCES), st.sampled_from(["open", "prove", "close"]), st.integers(0, 9))))
def test_whatever_comes_and_goes_the_counts_are_right(
    steps: list[tuple[tuple[str, int], str, int]],
) -> None:
    it, there, proven = Admission[int](connections_max=8, per_host_max=3), dict[int, str](), set[int]()
    for source, what, number in steps:
        if what == "open" and number not in there:
            verdict = it.judge(source, has_token=False)
            if verdict is Verdict.REFUSE:
                continue
            may_come, must_go = it.make_room(source) if verdict is Verdict.VALIDATE else (True, None)
            if must_go is not None:
                it.closed(must_go)
                there.pop(must_go)
            if may_come:
                it.opened(number, source)
                there[number] = host_group(source[0])
                proven.discard(number)
        elif what == "prove":
            it.proven(number)
            proven.add(number)
        elif what == "close":
            it.closed(number)
            there.pop(number, None)
        assert it.half_open == len(there.keys() - proven) <= 6
        assert len(there) <= 8
    for number in tuple(there):
        it.closed(number)
    assert (it._half_open, it._of_host, it._host_of) == ({}, {}, {})

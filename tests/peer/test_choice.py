"""Both ends of several links to one peer choose the same, whatever each of them saw first."""

from __future__ import annotations

import random

import attrs
from hypothesis import given
from hypothesis import strategies as st

from macula_trio._ids import NodeId
from macula_trio._peer.choice import choose

LOW, HIGH = NodeId(bytes(32)), NodeId(b"\xff" * 32)


@attrs.frozen
class Candidate:
    link_id: bytes
    client_random: bytes
    replaces: bytes | None
    is_dialed: bool  # by the lower id


def other_end(link: Candidate) -> Candidate:
    return attrs.evolve(link, is_dialed=not link.is_dialed)


ids = st.binary(min_size=1, max_size=2)
candidates = st.lists(
    st.builds(Candidate, ids, st.binary(min_size=32, max_size=32), st.none() | ids, st.booleans()),
    max_size=6,
    unique_by=(lambda link: link.link_id, lambda link: link.client_random),
)


@given(candidates, st.randoms())
def test_both_ends_choose_alike(links: list[Candidate], chance: random.Random) -> None:
    here = choose(links, own=LOW, peer=HIGH)
    shuffled = [other_end(link) for link in links]
    chance.shuffle(shuffled)
    there = choose(shuffled, own=HIGH, peer=LOW)
    assert (here and here.link_id) == (there and there.link_id)
    assert (here is None) == (not links)


def test_the_dial_of_the_lower_id_stays() -> None:
    by_low, by_high = Candidate(b"z", b"z", None, is_dialed=True), Candidate(b"a", b"a", None, is_dialed=False)
    assert choose([by_high, by_low], own=LOW, peer=HIGH) is by_low


def test_what_was_replaced_goes_whoever_dialed() -> None:
    old, new = Candidate(b"a", b"a", None, is_dialed=True), Candidate(b"z", b"z", b"a", is_dialed=False)
    assert choose([old, new], own=LOW, peer=HIGH) is new

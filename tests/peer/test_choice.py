"""Both ends of several links to one peer choose the same, whatever each of them saw first."""

from __future__ import annotations

import random

import attrs
from hypothesis import given
from hypothesis import strategies as st

from macula_trio._ids import NodeId
from macula_trio._peer.choice import Lineage, choose, rank

LOW, HIGH = NodeId(bytes(32)), NodeId(b"\xff" * 32)


@attrs.frozen
class Candidate:
    lineage: Lineage


def at_other_end(link: Candidate) -> Candidate:
    return Candidate(attrs.evolve(link.lineage, is_ours=not link.lineage.is_ours))


numbers = st.binary(min_size=1, max_size=2)
candidates = st.lists(
    st.builds(Candidate, st.builds(Lineage, st.booleans(), numbers, st.integers(0, 3), numbers)),
    max_size=6,
    unique=True,
)


@given(candidates, st.randoms())
def test_both_ends_choose_alike(links: list[Candidate], chance: random.Random) -> None:
    here = rank(links, own=LOW, peer=HIGH)
    shuffled = [at_other_end(link) for link in links]
    chance.shuffle(shuffled)
    assert [at_other_end(link) for link in rank(shuffled, own=HIGH, peer=LOW)] == here
    assert choose(links, own=LOW, peer=HIGH) == next(iter(here), None)


def test_the_dial_of_the_lower_id_stays() -> None:
    by_low, by_high = Candidate(Lineage(True, b"z")), Candidate(Lineage(False, b"a"))
    assert choose([by_high, by_low], own=LOW, peer=HIGH) is by_low


def test_what_replaces_a_link_comes_into_its_very_place() -> None:
    better, old, worse = (Candidate(Lineage(True, number)) for number in (b"a", b"b", b"c"))
    new, other = Candidate(old.lineage.next(b"x")), Candidate(old.lineage.next(b"y"))  # by both ends at the same time
    assert rank([old, worse, other, new, better], own=LOW, peer=HIGH) == [better, new, other, old, worse]

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from random import Random
from typing import Any, Final

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from macula_trio._dht import lookup as lookup_module
from macula_trio._dht.lookup import CANDIDATES_PER_K_MAX, ENDPOINTS_MAX, QUERIES_PER_K_MAX, Lookup, Query
from macula_trio._dht.table import RoutingTable
from macula_trio._ids import ID_BYTES, Contact, NodeId, distance

VECTORS: Final = json.loads((Path(__file__).parents[1] / "vectors" / "kademlia.json").read_text(encoding="utf-8"))
TARGET: Final = bytes(ID_BYTES)  # so that an id is its distance
OWN: Final = NodeId(b"\xff" * ID_BYTES)

Answer = Iterable[Contact] | None  # None: it failed


def node(value: int) -> NodeId:
    return NodeId(value.to_bytes(ID_BYTES, "big"))


def contact(value: int, port: int = 9443) -> Contact:
    return Contact(node_id=node(value), endpoint=f"192.0.2.1:{port}")


def contacts(*values: int) -> list[Contact]:
    return [contact(value) for value in values]


def numbers(found: Iterable[Contact]) -> list[int]:
    return [int.from_bytes(c.node_id, "big") for c in found]


def drive(lookup: Lookup, answer: Callable[[Contact], Answer], rng: Random | None = None, alpha: int = 3) -> list[int]:
    """Run a lookup to its end; answers arrive in a random order, or in that of the questions."""
    flying = lookup.next_queries()
    asked = numbers(flying)
    while not lookup.done:
        assert 0 < len(flying) <= alpha, "it waits for nothing, or for too much"
        landed = flying.pop(rng.randrange(len(flying)) if rng else 0)
        told = answer(landed)
        if told is None:
            lookup.failed(landed.node_id)
        else:
            lookup.answered(landed.node_id, told)
        fresh = lookup.next_queries()
        asked += numbers(fresh)
        flying += fresh
    assert lookup.next_queries() == []
    return asked


# -- whom it asks ----------------------------------------------------------------------------------------------


def test_the_nearest_are_asked_first_and_never_more_than_alpha_at_once() -> None:
    lookup = Lookup(TARGET, OWN, contacts(9, 3, 7, 1, 5), alpha=3)
    assert numbers(lookup.next_queries()) == [1, 3, 5]
    assert lookup.next_queries() == []
    lookup.answered(node(5), contacts(4))
    assert numbers(lookup.next_queries()) == [4]
    lookup.failed(node(1))
    assert numbers(lookup.next_queries()) == [7]


def test_a_free_place_is_taken_at_once_there_are_no_rounds() -> None:
    lookup = Lookup(TARGET, OWN, contacts(1, 2, 3, 4, 5, 6))
    lookup.next_queries()
    for landed, next_one in ((3, 4), (4, 5), (5, 6)):
        lookup.answered(node(landed), [])
        assert numbers(lookup.next_queries()) == [next_one]


def test_it_ends_when_the_k_nearest_that_did_not_fail_have_answered() -> None:
    lookup = Lookup(TARGET, OWN, contacts(1, 2, 3, 9), k=3)
    lookup.next_queries()
    assert not lookup.done
    lookup.answered(node(1), [])
    lookup.failed(node(2))
    assert numbers(lookup.next_queries()) == [9]
    lookup.answered(node(3), contacts(4))
    assert not lookup.done
    assert numbers(lookup.next_queries()) == [4]
    lookup.answered(node(4), [])
    assert lookup.done  # 9 is still in flight, and farther than 1, 3 and 4
    assert numbers(lookup.closest()) == [1, 3, 4]
    lookup.answered(node(9), [])
    assert numbers(lookup.closest()) == [1, 3, 4]


def test_without_seeds_it_has_ended_before_it_began() -> None:
    lookup = Lookup(TARGET, OWN, [])
    assert lookup.done
    assert lookup.next_queries() == lookup.closest() == lookup.queries() == []


def test_we_never_ask_ourselves() -> None:
    lookup = Lookup(TARGET, OWN, [Contact(node_id=OWN, endpoint="192.0.2.1:1"), contact(1)])
    told = [Contact(node_id=OWN, endpoint="192.0.2.1:1"), contact(2)]
    assert drive(lookup, lambda _: told) == [1, 2]


def test_only_who_answered_is_found() -> None:
    lookup = Lookup(TARGET, OWN, contacts(1, 2, 3))
    drive(lookup, lambda asked: None if asked == contact(1) else [])
    assert numbers(lookup.closest()) == [2, 3]
    assert numbers(lookup.replied()) == [2, 3]


@pytest.mark.parametrize("twice", [False, True])
def test_an_answer_that_nobody_asked_for_is_a_mistake(twice: bool) -> None:
    lookup = Lookup(TARGET, OWN, contacts(1, 2, 3, 4))
    lookup.next_queries()
    lookup.answered(node(1), [])
    lookup.failed(node(2))
    for value in (1, 2) if twice else (4, 5):
        with pytest.raises(ValueError, match="was not asked"):
            lookup.answered(node(value), [])
        with pytest.raises(ValueError, match="was not asked"):
            lookup.failed(node(value))
    assert numbers(lookup.next_queries()) == [4]


def test_it_is_exhausted_when_nobody_is_left_to_ask_but_some_answers_are_missing() -> None:
    lookup = Lookup(TARGET, OWN, contacts(1, 2, 3, 4))
    for landed in (None, 1):
        if landed is not None:
            lookup.answered(node(landed), [])
        assert not lookup.exhausted
        lookup.next_queries()
    assert lookup.exhausted
    assert not lookup.done
    lookup.answered(node(2), contacts(5))
    assert not lookup.exhausted


def test_it_is_exhausted_when_too_many_were_asked() -> None:
    lookup = Lookup(TARGET, OWN, contacts(10**9), k=1, alpha=1)
    drive(lookup, lambda asked: [contact(numbers([asked])[0] - 1)], alpha=1)
    assert lookup.exhausted
    assert numbers(c.contact for c in lookup._shortlist()) == [10**9 - QUERIES_PER_K_MAX]


# -- liars -----------------------------------------------------------------------------------------------------


def test_of_one_answer_only_k_contacts_count() -> None:
    lookup = Lookup(TARGET, OWN, contacts(100), k=3)
    assert drive(lookup, lambda asked: contacts(9, 8, 7, 1, 2) if asked == contact(100) else []) == [100, 7, 8, 9]


def test_those_who_invent_ever_nearer_nodes_are_heard_only_so_long() -> None:
    lookup = Lookup(TARGET, OWN, contacts(10**9), k=2)
    asked = drive(lookup, lambda asked: [contact(numbers([asked])[0] - n) for n in (1, 2)])
    assert len(asked) == 2 * QUERIES_PER_K_MAX
    assert len(lookup.closest()) == 2


def test_candidates_are_bounded_and_the_nearest_are_kept() -> None:
    bound = 2 * CANDIDATES_PER_K_MAX
    lookup = Lookup(TARGET, OWN, contacts(*range(1000, 1100)), k=2)
    assert len(lookup._candidates) == len(lookup._ranked) == bound
    assert numbers(c.contact for c in lookup._ranked) == list(range(1000, 1000 + bound))
    lookup.next_queries()
    lookup.answered(node(1000), contacts(1, 2000))
    assert numbers(c.contact for c in lookup._ranked) == [1, *range(1000, 1000 + bound - 1)]
    lookup.answered(node(1001), contacts(2))
    assert numbers(c.contact for c in lookup._ranked) == [1, 2, *range(1000, 1000 + bound - 2)]


def test_who_was_asked_is_not_forgotten_however_many_nearer_ones_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup_module, "CANDIDATES_PER_K_MAX", QUERIES_PER_K_MAX)
    lookup = Lookup(TARGET, OWN, contacts(*range(1000, 1020)), k=2)
    nearer = iter(range(999, 0, -1))
    [fast, slow] = lookup.next_queries()
    while not lookup.done:
        lookup.answered(fast.node_id, [contact(next(nearer)), contact(next(nearer))])
        fast, *_ = (*lookup.next_queries(), fast)
    assert slow == contact(1001)
    lookup.answered(slow.node_id, [contact(1000)])
    assert [q.contact for q in lookup.queries()].count(contact(1000)) == 1
    assert [q.answered for q in lookup.queries()].count(True) >= QUERIES_PER_K_MAX


def test_a_wrong_endpoint_told_by_a_liar_does_not_hide_a_node() -> None:
    lookup = Lookup(TARGET, OWN, contacts(2, 3, 4))

    def answer(asked: Contact) -> Answer:
        if asked.node_id == node(1):
            return [] if asked == contact(1) else None
        return {2: [contact(1, port=6666)], 3: [contact(1, port=6667)], 4: [contact(1)]}[numbers([asked])[0]]

    assert drive(lookup, answer) == [2, 3, 4, 1, 1, 1]
    assert lookup.closest()[0] == contact(1)
    assert [(q.contact, q.answered) for q in lookup.queries()[-3:]] == [
        (contact(1, port=6666), False),
        (contact(1, port=6667), False),
        (contact(1), True),
    ]


def test_a_failed_node_is_asked_again_when_another_endpoint_is_told_later() -> None:
    lookup = Lookup(TARGET, OWN, [contact(1, port=6666), contact(2)])
    lookup.next_queries()
    lookup.failed(node(1))
    assert lookup.next_queries() == []
    lookup.answered(node(2), [contact(1, port=6666), contact(1)])
    assert lookup.next_queries() == [contact(1)]
    lookup.answered(node(1), [])
    assert lookup.closest() == contacts(1, 2)
    assert lookup.done


def test_a_node_that_answered_keeps_its_endpoint() -> None:
    lookup = Lookup(TARGET, OWN, contacts(1, 2))
    lookup.next_queries()
    lookup.answered(node(1), [])
    lookup.answered(node(2), [contact(1, port=6666)])
    assert lookup.done
    assert lookup.closest() == contacts(1, 2)


def test_one_liar_cannot_use_up_the_endpoints_of_a_node() -> None:
    lookup = Lookup(TARGET, OWN, contacts(2, 3))

    def answer(asked: Contact) -> Answer:
        if asked.node_id == node(1):
            return [] if asked == contact(1) else None
        return [contact(1, port=port) for port in range(6001, 6010)] if asked == contact(2) else contacts(1)

    drive(lookup, answer)
    assert lookup.closest()[0] == contact(1)


def test_endpoints_of_one_id_are_tried_only_so_often() -> None:
    lookup = Lookup(TARGET, OWN, contacts(*range(2, 9)))
    asked = drive(lookup, lambda c: None if c.node_id == node(1) else [contact(1, port=numbers([c])[0])])
    assert asked.count(1) == ENDPOINTS_MAX


# -- what can be told about it ------------------------------------------------------------------------------------


def test_a_report_says_through_whom_and_how_deep() -> None:
    lookup = Lookup(TARGET, OWN, contacts(100))
    told = {100: contacts(50), 50: contacts(25, 100), 25: None}
    drive(lookup, lambda asked: told[numbers([asked])[0]])
    assert lookup.queries() == [
        Query(contact=contact(100), via=None, depth=1, answered=True),
        Query(contact=contact(50), via=node(100), depth=2, answered=True),
        Query(contact=contact(25), via=node(50), depth=3, answered=False),
    ]


# -- networks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", VECTORS["iterative"]["runs"], ids=lambda run: run["target"][:8])
def test_what_is_found_is_at_least_as_near_as_in_the_original(run: dict[str, Any]) -> None:
    own, target = NodeId.from_hex(run["start"]), bytes.fromhex(run["target"])
    tables: dict[NodeId, RoutingTable] = {}
    for entry in VECTORS["iterative"]["nodes"]:
        node_id = NodeId.from_hex(entry["node_id"])
        table = tables[node_id] = RoutingTable(node_id, k=VECTORS["iterative"]["k"])
        for known in entry["known_in_add_order"]:
            table.add(Contact(node_id=NodeId.from_hex(known), endpoint="10.0.0.1:9443"), 0.0)
    lookup = Lookup(target, own, tables[own].closest(target), k=run["k"], alpha=run["alpha"])
    drive(lookup, lambda asked: tables[asked.node_id].closest(target), alpha=run["alpha"])
    ours = [distance(c.node_id, target) for c in lookup.closest()]
    theirs = [distance(bytes.fromhex(text), target) for text in run["result"] if text != run["start"]]
    assert len(ours) >= len(theirs)
    assert all(mine <= other for mine, other in zip(ours, theirs, strict=False))


@given(st.integers(0, 2**32), st.integers(1, 60), st.integers(1, 8), st.integers(1, 5))
def test_among_nodes_that_know_everybody_exactly_the_nearest_are_found(seed: int, n: int, k: int, alpha: int) -> None:
    rng = Random(seed)
    everybody = contacts(*rng.sample(range(1000), n))
    nearest = sorted(everybody, key=lambda c: c.node_id)[:k]
    lookup = Lookup(TARGET, OWN, rng.sample(everybody, rng.randint(1, n)), k=k, alpha=alpha)
    drive(lookup, lambda _: nearest, rng, alpha)
    assert lookup.closest() == nearest


@attrs.frozen
class Mesh:
    """Nodes that know a random few; some are dead, some lie."""

    rng: Random
    known: dict[NodeId, list[Contact]]
    dead: frozenset[NodeId]
    liars: frozenset[NodeId]
    k: int

    @classmethod
    def drawn(cls, rng: Random, n: int, k: int) -> Mesh:
        everybody = contacts(*rng.sample(range(10_000), n))
        known = {c.node_id: rng.sample(everybody, rng.randint(0, n)) for c in everybody}
        dead = frozenset(c.node_id for c in everybody if rng.random() < 0.2)
        liars = frozenset(c.node_id for c in everybody if rng.random() < 0.2)
        return cls(rng, known, dead, liars, k)

    def answer(self, asked: Contact) -> Answer:
        reachable = asked.node_id in self.known and asked.endpoint == "192.0.2.1:9443"
        if not reachable or asked.node_id in self.dead:
            return None
        if asked.node_id in self.liars:
            # Invented nodes, wrong endpoints of real ones, ourselves and the liar; too many of all.
            invented = [contact(self.rng.randrange(10_000), port=self.rng.randint(1, 9)) for _ in range(2 * self.k)]
            return [Contact(node_id=OWN, endpoint="192.0.2.1:1"), asked, *invented, *invented]
        return sorted(self.known[asked.node_id], key=lambda c: c.node_id)[: self.k]


@given(st.integers(0, 2**32), st.integers(1, 60), st.integers(1, 8), st.integers(1, 5))
def test_every_lookup_ends_whatever_is_answered_in_whatever_order(seed: int, n: int, k: int, alpha: int) -> None:
    rng = Random(seed)
    mesh = Mesh.drawn(rng, n, k)
    lookup = Lookup(TARGET, OWN, rng.choice(list(mesh.known.values())), k=k, alpha=alpha)
    asked = drive(lookup, mesh.answer, rng, alpha)
    assert len(asked) <= k * QUERIES_PER_K_MAX
    assert all(asked.count(value) <= ENDPOINTS_MAX for value in asked)
    assert len(lookup._candidates) == len(lookup._ranked) <= k * CANDIDATES_PER_K_MAX
    found = lookup.closest()
    assert len(found) <= k
    assert found == sorted(found, key=lambda c: c.node_id)
    assert all(c.node_id in mesh.known and c.node_id not in mesh.dead for c in found)
    answered = {q.contact for q in lookup.queries() if q.answered}
    assert found == sorted(answered, key=lambda c: c.node_id)[:k]


def test_the_same_answers_give_the_same_questions() -> None:
    runs = []
    for _ in range(2):
        rng = Random(7)
        mesh = Mesh.drawn(rng, 50, 5)
        seeds = next(iter(mesh.known.values()))
        runs.append(drive(Lookup(TARGET, OWN, seeds, k=5), mesh.answer, rng))
    assert runs[0] == runs[1]
    assert len(runs[0]) > 5

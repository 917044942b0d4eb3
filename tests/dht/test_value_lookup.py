from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import attrs
import pytest

from macula_trio._dht import lookup as lookup_module
from macula_trio._dht.lookup import ValueLookup
from macula_trio._ids import ID_BYTES, Contact, NodeId

TARGET: Final = bytes(ID_BYTES)  # so that an id is its distance
OWN: Final = NodeId(b"\xff" * ID_BYTES)


def node(value: int) -> NodeId:
    return NodeId(value.to_bytes(ID_BYTES, "big"))


def contact(value: int) -> Contact:
    return Contact(node_id=node(value), endpoint="192.0.2.1:9443")


def contacts(*values: int) -> list[Contact]:
    return [contact(value) for value in values]


def numbers(found: Iterable[Contact]) -> list[int]:
    return [int.from_bytes(c.node_id, "big") for c in found]


@attrs.frozen
class Value:
    node_id: NodeId
    seq: int
    kind: str = "service"
    digest: bytes = b""


def value(owner: int, seq: int = 1, kind: str = "service", digest: bytes = b"") -> Value:
    return Value(node(owner), seq, kind, digest)


def drive_values(lookup: ValueLookup[Value], holding: Callable[[int], list[Value]]) -> list[int]:
    flying = lookup.next_queries()
    asked = numbers(flying)
    while not lookup.done:
        landed = flying.pop(0)
        lookup.answered(landed.node_id, [], holding(numbers([landed])[0]))
        fresh = lookup.next_queries()
        asked += numbers(fresh)
        flying += fresh
    assert lookup.next_queries() == []
    return asked


def test_values_are_looked_for_until_five_of_the_nearest_answered() -> None:
    lookup = ValueLookup[Value](TARGET, OWN, contacts(*range(1, 20)))
    asked = drive_values(lookup, lambda asked: [value(asked), value(99, seq=asked)])
    assert asked == [1, 2, 3, 4, 5, 6, 7]  # two of them were in flight at the end
    assert lookup.values() == [value(1), value(2), value(3), value(4), value(5), value(99, seq=5)]
    assert len(lookup.nodes.replied()) == 5


def test_that_there_is_no_value_takes_eight_answers() -> None:
    lookup = ValueLookup[Value](TARGET, OWN, contacts(*range(1, 20)))
    assert len(drive_values(lookup, lambda _: [])) == 8 + 2
    assert lookup.values() == []
    assert len(lookup.nodes.replied()) == 8


def test_in_a_small_mesh_everybody_is_asked() -> None:
    lookup = ValueLookup[Value](TARGET, OWN, contacts(1, 2, 3))
    assert drive_values(lookup, lambda asked: [value(9)] if asked == 1 else []) == [1, 2, 3]
    assert lookup.values() == [value(9)]


def test_answers_from_far_away_do_not_count_but_what_they_hold_does() -> None:
    lookup = ValueLookup[Value](TARGET, OWN, contacts(*range(1001, 1010)), k=20)
    lookup.next_queries()
    for landed in (1001, 1002):
        lookup.answered(node(landed), [], [value(7)])
    assert numbers(lookup.nodes.replied()) == [1001, 1002]
    lookup.next_queries()
    lookup.answered(node(1003), contacts(*range(1, 21)), [value(7)])
    assert lookup.values() == [value(7)]
    assert lookup.nodes.replied() == []
    assert not lookup.done
    assert numbers(lookup.next_queries()) == [1]


def test_a_search_is_settled_when_there_is_a_value_and_nobody_left_to_ask() -> None:
    lookup = ValueLookup[Value](TARGET, OWN, contacts(1, 2, 3))
    lookup.next_queries()
    lookup.answered(node(1), [], [])
    assert not lookup.settled
    lookup.answered(node(2), contacts(4), [value(9)])
    assert not lookup.settled
    lookup.next_queries()
    assert lookup.settled
    assert not lookup.done


def test_failures_are_no_replies() -> None:
    lookup = ValueLookup[Value](TARGET, OWN, contacts(*range(1, 7)))
    while not lookup.done:
        for asked in lookup.next_queries():
            lookup.failed(asked.node_id)
    assert lookup.values() == []
    assert lookup.nodes.replied() == []
    assert len(lookup.nodes.queries()) == 6


def test_what_we_hold_ourselves_is_a_value_but_no_reply() -> None:
    lookup = ValueLookup[Value](TARGET, OWN, contacts(*range(1, 20)))
    lookup.add_values([value(9, seq=2), value(9, seq=3)])
    assert not lookup.done
    assert len(drive_values(lookup, lambda _: [value(9, seq=1)])) == 5 + 2
    assert lookup.values() == [value(9, seq=3)]


def test_of_every_owner_and_kind_the_newest_value_is_found() -> None:
    lookup = ValueLookup[Value](TARGET, OWN, contacts(1, 2, 3))
    held = {
        1: [value(9, seq=2), value(8, kind="subscriber")],
        2: [value(9, seq=1), value(8), value(7, digest=b"a")],
        3: [value(7, digest=b"b")],
    }
    drive_values(lookup, held.__getitem__)
    assert lookup.values() == [value(7, digest=b"b"), value(8), value(8, kind="subscriber"), value(9, seq=2)]


def test_who_answered_with_less_than_the_newest_is_to_be_sent_it() -> None:
    lookup = ValueLookup[Value](TARGET, OWN, contacts(1, 2, 3, 4))
    lookup.next_queries()
    lookup.answered(node(1), [], [value(9, seq=2), value(8)])
    lookup.answered(node(2), [], [value(9, seq=1)])
    lookup.next_queries()
    lookup.failed(node(4))
    lookup.answered(node(3), [], [value(9, seq=1)], complete=False)
    assert lookup.stale_holders(lookup.values()) == [
        (contact(2), value(8)),
        (contact(2), value(9, seq=2)),
        (contact(3), value(9, seq=2)),  # whether it holds the other one was not said
    ]
    assert lookup.stale_holders([]) == []


def test_of_one_answer_only_as_many_values_count_as_a_replica_may_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup_module, "VALUES_PER_KEY_MAX", 2)
    lookup = ValueLookup[Value](TARGET, OWN, contacts(1))
    drive_values(lookup, lambda _: [value(9), value(8), value(7)])
    assert lookup.values() == [value(8), value(9)]

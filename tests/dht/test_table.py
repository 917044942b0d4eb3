from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from macula_trio._dht.table import (
    HANDERS,
    NETWORK_PER_BUCKET_MAX,
    NETWORK_PER_TABLE_MAX,
    RoutingTable,
    id_in_bucket,
)
from macula_trio._ids import ID_BYTES, Contact, NodeId, bucket_index, distance, leading_zeros

VECTORS: Final = json.loads((Path(__file__).parents[1] / "vectors" / "kademlia.json").read_text(encoding="utf-8"))
OWN: Final = NodeId(bytes(ID_BYTES))


def node(value: int) -> NodeId:
    """An id far from ours: ``value`` in its first byte."""
    return NodeId(bytes([value]) + bytes(ID_BYTES - 1))


def contact(value: int, port: int = 9443) -> Contact:
    return Contact(node_id=node(value), endpoint=f"10.0.0.{value}:{port}")


def full_table(k: int = 3) -> RoutingTable:
    """Bucket 0 full of 128, 129, ... seen at 0, 1, ... seconds."""
    table = RoutingTable(OWN, k=k)
    for age in range(k):
        assert table.add(contact(128 + age), float(age)) is None
    return table


def values(contacts: list[Contact]) -> list[int]:
    return [c.node_id[0] for c in contacts]


# -- what the original says ------------------------------------------------------------------------------------


def normalised(text: str) -> bytes:
    raw = bytes.fromhex(text)
    return raw if len(raw) == ID_BYTES else hashlib.sha256(raw).digest()


@pytest.mark.parametrize("row", VECTORS["distance"])
def test_distances_and_buckets_are_those_of_the_original(row: dict[str, Any]) -> None:
    a, b = normalised(row["a"]), normalised(row["b"])
    assert (a.hex(), b.hex()) == (row["a_normalized"], row["b_normalized"])
    between = distance(a, b).to_bytes(ID_BYTES, "big")
    assert between.hex() == row["distance"]
    assert leading_zeros(between) == row["leading_zeros"]
    assert bucket_index(a, b) == row["bucket_index"]


@pytest.mark.parametrize("row", VECTORS["compare"])
def test_nearness_is_that_of_the_original(row: dict[str, Any]) -> None:
    target, a, b = (NodeId.from_hex(row[name]) for name in ("target", "a", "b"))
    difference = target.distance(a) - target.distance(b)
    assert (difference < 0) is row["closer_to"]
    assert row["compare"] == ("less" if difference < 0 else "greater" if difference > 0 else "equal")


@pytest.mark.parametrize("row", VECTORS["leading_zeros"])
def test_leading_zeros_are_those_of_the_original(row: dict[str, Any]) -> None:
    assert leading_zeros(bytes.fromhex(row["bin"])) == row["leading_zeros"]


@pytest.mark.parametrize("row", VECTORS["tables"], ids=lambda row: f"k{row['k']}-{row['size']}")
def test_tables_are_those_of_the_original_while_the_oldest_answer(row: dict[str, Any]) -> None:
    own = NodeId.from_hex(row["local_node_id"])
    table = RoutingTable(own, k=row["k"])
    for entry in row["nodes_in_add_order"]:
        newcomer = Contact(node_id=NodeId.from_hex(entry["node_id"]), endpoint=entry["address"])
        doubtful = table.add(newcomer, float(entry["last_seen"]))
        assert (doubtful is None) is (newcomer.node_id in table or newcomer.node_id == own)
        if doubtful is not None:
            table.alive(doubtful.node_id, float(entry["last_seen"]))
    assert len(table) == row["size"]
    buckets: dict[int, list[str]] = {}
    for known in table.contacts():
        buckets.setdefault(bucket_index(own, known.node_id), []).append(known.node_id.hex())
    expected = {bucket["index"]: sorted(bucket["node_ids"]) for bucket in row["buckets"]}
    assert {index: sorted(ids) for index, ids in buckets.items()} == expected
    for query in row["find_closest"]:
        found = table.closest(bytes.fromhex(query["target"]), query["n"])
        assert [c.node_id.hex() for c in found] == query["node_ids"]


# -- who stays and who goes --------------------------------------------------------------------------------------


def test_our_own_id_is_never_stored() -> None:
    table = RoutingTable(OWN)
    assert table.add(Contact(node_id=OWN, endpoint="192.0.2.1:9443"), 0.0) is None
    table.alive(OWN, 1.0)
    table.failed(OWN)
    table.remove(OWN)
    table.looked_up(OWN, 0.0)
    assert len(table) == 0
    assert OWN not in table
    assert table.get(OWN) is None
    assert table.stale_buckets(1e9, 1.0) == []


def test_a_node_heard_again_goes_to_the_end_and_its_new_endpoint_counts() -> None:
    table = full_table()
    assert table.add(contact(128, port=1), 3.0) is None
    assert values(table.contacts()) == [129, 130, 128]
    assert table.get(node(128)) == contact(128, port=1)
    assert len(table) == 3


def test_a_newcomer_waits_while_the_oldest_is_asked() -> None:
    table = full_table()
    assert table.add(contact(200), 3.0) == contact(128)
    assert node(200) not in table
    assert table.get(node(200)) is None
    table.alive(node(128), 4.0)
    assert table.add(contact(201), 5.0) == contact(129)
    assert values(table.contacts()) == [129, 130, 128]


def test_a_failed_node_makes_room_at_once_for_the_replacement_seen_last() -> None:
    table = full_table()
    for value in (200, 201, 202, 201):
        table.add(contact(value), 3.0)
    table.failed(node(128))
    assert values(table.contacts()) == [129, 130, 201]
    table.failed(node(129))
    table.failed(node(130))
    assert values(table.contacts()) == [201, 202, 200]


def test_a_promoted_replacement_that_was_not_seen_for_longest_is_asked_first() -> None:
    table = full_table()
    table.add(contact(200), 3.0)
    for value in (129, 130):
        table.alive(node(value), 4.0)
    table.failed(node(128))
    assert values(table.contacts()) == [129, 130, 200]
    assert table.add(contact(201), 5.0) == contact(200)


def test_without_a_replacement_a_node_goes_at_its_second_failure_in_a_row() -> None:
    table = full_table()
    table.failed(node(128))
    table.alive(node(128), 3.0)
    table.failed(node(128))
    table.add(contact(128), 4.0)
    table.failed(node(128))
    assert node(128) in table
    table.failed(node(128))
    assert node(128) not in table
    table.failed(node(128))
    assert values(table.contacts()) == [129, 130]


def test_a_replacement_that_failed_no_longer_waits() -> None:
    table = full_table()
    table.add(contact(200), 3.0)
    table.failed(node(200))
    table.failed(node(128))
    assert values(table.contacts()) == [128, 129, 130]


def test_a_replacement_that_is_alive_goes_to_the_end_of_those_who_wait() -> None:
    table = full_table()
    for value in (200, 201):
        table.add(contact(value), 3.0)
    table.alive(node(200), 4.0)
    table.alive(node(250), 4.0)
    table.remove(node(128))
    assert values(table.contacts()) == [129, 130, 200]


def test_the_replacement_that_waited_longest_falls_out_of_a_full_cache() -> None:
    table = full_table(k=2)
    for value in (200, 201, 202):
        table.add(contact(value), 3.0)
    for value in (128, 129):
        table.remove(node(value))
    assert values(table.contacts()) == [202, 201]
    table.remove(node(201))
    assert values(table.contacts()) == [202]


def test_a_removed_node_does_not_come_back_from_the_replacements() -> None:
    table = full_table()
    table.add(contact(200), 3.0)
    table.remove(node(200))
    table.remove(node(128))
    assert values(table.contacts()) == [129, 130]


def test_the_closest_are_looked_for_in_all_buckets() -> None:
    # 64 and 65 share a bucket; towards 192 the far bucket with 128 is nearer.
    table = RoutingTable(OWN, k=2)
    for value in (64, 65, 128, 1):
        table.add(contact(value), 0.0)
    assert values(table.closest(node(192))) == [128, 64]
    assert values(table.closest(node(192), 9)) == [128, 64, 65, 1]
    assert table.closest(node(192), 0) == []


# -- refreshing --------------------------------------------------------------------------------------------------


def test_a_bucket_is_stale_until_and_long_after_a_lookup_into_its_range() -> None:
    table = RoutingTable(OWN)
    assert table.stale_buckets(0.0, 600.0) == []
    table.add(contact(128), 0.0)  # bucket 0
    table.add(contact(16), 0.0)  # bucket 3: those nearer than that are covered by looking up ourselves
    assert table.stale_buckets(0.0, 600.0) == [0, 1, 2, 3]
    table.looked_up(node(129), 10.0)
    table.looked_up(node(32), 20.0)
    assert table.stale_buckets(609.0, 600.0) == [1, 3]
    assert table.stale_buckets(610.0, 600.0) == [0, 1, 3]
    table.add(contact(129), 615.0)  # who talks to us says nothing about the others there
    assert table.stale_buckets(620.0, 600.0) == [0, 1, 2, 3]


@given(
    st.binary(min_size=ID_BYTES, max_size=ID_BYTES),
    st.integers(0, 255),
    st.binary(min_size=ID_BYTES, max_size=ID_BYTES),
)
def test_a_made_id_falls_into_its_bucket_and_keeps_its_entropy(own: bytes, index: int, entropy: bytes) -> None:
    made = id_in_bucket(NodeId(own), index, entropy)
    assert bucket_index(own, made) == index
    assert distance(made, entropy) & ((1 << (255 - index)) - 1) == 0


@pytest.mark.parametrize(("index", "size"), [(-1, 32), (256, 32), (0, 31), (0, 33)])
def test_there_are_256_buckets_and_32_bytes_of_entropy(index: int, size: int) -> None:
    with pytest.raises(ValueError, match="entropy"):
        id_in_bucket(OWN, index, bytes(size))


# -- whatever happens -------------------------------------------------------------------------------------------


class AnyTable(RuleBasedStateMachine):
    """A small table under any sequence of events, in which time moves on."""

    K = 2

    def __init__(self) -> None:
        super().__init__()
        self.table = RoutingTable(OWN, k=self.K)
        self.now = 0.0
        self.seen: dict[NodeId, float] = {}
        self.settled: set[NodeId] = set()  # got a place, and have done nothing since that costs it

    @rule(value=st.integers(0, 15), port=st.integers(1, 2))
    def hear(self, value: int, port: int) -> None:
        self.now += 1.0
        before = self.table.contacts()
        doubtful = self.table.add(contact(value, port), self.now)
        self.seen[node(value)] = self.now
        if doubtful is not None:
            assert doubtful in before
            assert self.table.contacts() == before  # nobody is pushed out
            index = bucket_index(OWN, node(value))
            neighbours = [c.node_id for c in before if bucket_index(OWN, c.node_id) == index]
            assert doubtful.node_id == min(neighbours, key=self.seen.__getitem__)

    @rule(value=st.integers(8, 15), answers=st.booleans())
    def hear_many_while_the_oldest_is_asked(self, value: int, answers: bool) -> None:
        """Somebody makes ids without end: as long as the old ones answer, they gain nothing."""
        before = {c.node_id for c in self.table.contacts()}
        for number in range(16, 16 + 3 * self.K):
            self.now += 1.0
            newcomer = Contact(node_id=NodeId(bytes([value, number]) + bytes(ID_BYTES - 2)), endpoint="192.0.2.9:1")
            doubtful = self.table.add(newcomer, self.now)
            self.seen[newcomer.node_id] = self.now
            if doubtful is not None and answers:
                self.table.alive(doubtful.node_id, self.now)
                self.seen[doubtful.node_id] = self.now
        assert before <= {c.node_id for c in self.table.contacts()}

    @rule(value=st.integers(0, 15))
    def answer(self, value: int) -> None:
        self.now += 1.0
        size = len(self.table)
        self.table.alive(node(value), self.now)
        if node(value) in self.seen:
            self.seen[node(value)] = self.now
        assert len(self.table) == size

    @rule(value=st.integers(0, 15))
    def fail(self, value: int) -> None:
        self.table.failed(node(value))
        self.settled.discard(node(value))

    @rule(value=st.integers(0, 15))
    def forget(self, value: int) -> None:
        self.table.remove(node(value))
        self.settled.discard(node(value))
        assert node(value) not in self.table

    @rule()
    def hear_ourselves(self) -> None:
        before = self.table.contacts()
        assert self.table.add(Contact(node_id=OWN, endpoint="192.0.2.1:1"), self.now) is None
        self.table.alive(OWN, self.now)
        self.table.failed(OWN)
        assert self.table.contacts() == before

    @invariant()
    def whoever_got_a_place_keeps_it_until_he_fails(self) -> None:
        known = {c.node_id for c in self.table.contacts()}
        assert self.settled <= known
        assert OWN not in known
        self.settled = known

    @invariant()
    def buckets_are_bounded_and_nobody_waits_without_need(self) -> None:
        for bucket in self.table._buckets:
            assert len(bucket.entries) <= self.K
            assert len(bucket.replacements) <= self.K
            assert not bucket.replacements or len(bucket.entries) == self.K
            assert not bucket.entries.keys() & bucket.replacements.keys()

    @invariant()
    def everybody_is_found(self) -> None:
        known = self.table.contacts()
        assert len(known) == len(self.table) == len({c.node_id for c in known})
        assert all(c.node_id in self.table and self.table.get(c.node_id) == c for c in known)
        assert self.table.closest(OWN, 99) == sorted(known, key=lambda c: c.node_id)


TestAnyTable = AnyTable.TestCase
TestAnyTable.settings = settings(max_examples=30, stateful_step_count=30)


# -- who hands values to newcomers -------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 255), unique=True, min_size=1, max_size=30), st.integers(0, 255), st.integers(1, 6))
def test_values_are_owed_to_a_newcomer_among_the_nearest_by_the_few_that_are_nearest(
    known: list[int], key: int, k: int
) -> None:
    newcomer, *others = known
    table = RoutingTable(OWN, k=256)
    for value in known:
        table.add(contact(value), 0.0)
    table._k = k  # of replicas; the buckets are large enough for everybody
    everybody = sorted([0, *known], key=lambda value: value ^ key)
    handers = sorted([0, *others], key=lambda value: value ^ key)[:HANDERS]
    expected = newcomer in everybody[:k] and 0 in handers
    assert table.owes(node(key), node(newcomer)) == expected


def test_what_lies_between_two_nodes_is_owed_by_the_other() -> None:
    table = RoutingTable(OWN)
    table.add(contact(1), 0.0)
    assert table.owes(node(200), node(1))
    assert table.owes(node(1), node(1))


# -- many ids in few networks ------------------------------------------------------------------------------------


def at(value: int, endpoint: str) -> Contact:
    return Contact(node_id=node(value), endpoint=endpoint)


@pytest.mark.parametrize(
    "endpoints",
    [
        ["198.51.100.1:1", "198.51.100.1:2", "198.51.100.255:3"],
        ["[2001:db8::1]:1", "[2001:db8::2]:1", "[2001:db8::ffff:0:0:1]:1"],
        ["198.51.100.1:1", "[::ffff:198.51.100.2]:1", "198.51.100.3:1"],
    ],
)
def test_a_bucket_takes_two_nodes_of_a_network(endpoints: list[str]) -> None:
    table = RoutingTable(OWN)
    for number, endpoint in enumerate(endpoints):
        assert table.add(at(128 + number, endpoint), 0.0) is None
    assert values(table.contacts()) == [128, 129]
    assert NETWORK_PER_BUCKET_MAX == 2
    table.remove(node(128))
    table.add(at(130, endpoints[2]), 0.0)
    assert values(table.contacts()) == [129, 130]


@pytest.mark.parametrize("other", ["198.51.101.1:1", "198.51.99.1:1", "[2001:db8:0:1::1]:1", "10.0.0.1:1"])
def test_nodes_of_another_network_are_taken(other: str) -> None:
    table = RoutingTable(OWN)
    for value, endpoint in ((128, "198.51.100.1:1"), (129, "198.51.100.2:1"), (130, other)):
        table.add(at(value, endpoint), 0.0)
    assert values(table.contacts()) == [128, 129, 130]


def test_a_table_takes_ten_nodes_of_a_network() -> None:
    table = RoutingTable(OWN)
    for bucket in range(8):
        for number in range(2):
            table.add(at((128 >> bucket) + number, f"198.51.100.{number}:1"), 0.0)
    assert len(table) == NETWORK_PER_TABLE_MAX == 10
    table.add(at(1, "198.51.101.1:1"), 0.0)
    assert len(table) == 11


@pytest.mark.parametrize("host", ["10.0.0", "192.168.7", "127.0.0"])
def test_private_networks_are_taken_whole(host: str) -> None:
    table = RoutingTable(OWN)
    for number in range(20):
        table.add(at(128 + number, f"{host}.{number}:1"), 0.0)
    assert len(table) == 20


def test_who_is_here_is_renewed_and_moves_where_there_is_room() -> None:
    table = RoutingTable(OWN)
    for value in (128, 129):
        table.add(at(value, f"198.51.100.{value}:1"), 0.0)
    table.add(at(130, "198.51.101.1:1"), 0.0)
    table.add(at(128, "198.51.100.128:2"), 1.0)  # within its network
    table.add(at(130, "198.51.100.130:1"), 2.0)  # into a crowded one
    table.add(at(129, "198.51.102.1:1"), 3.0)
    assert {c.node_id[0]: c.endpoint for c in table.contacts()} == {
        128: "198.51.100.128:2",
        129: "198.51.102.1:1",
        130: "198.51.101.1:1",
    }


def test_a_free_place_goes_to_a_replacement_whose_network_has_room() -> None:
    table = RoutingTable(OWN, k=3)
    for value, host in ((128, "198.51.100.1"), (129, "198.51.101.1"), (130, "198.51.102.1")):
        table.add(at(value, f"{host}:1"), 0.0)
    for value, host in ((131, "198.51.103.1"), (132, "198.51.100.2"), (133, "198.51.100.3")):
        assert table.add(at(value, f"{host}:1"), 1.0) is not None
    for gone in (129, 130, 131):  # 133 and 131 take their places: two are of one network by then
        table.failed(node(gone))
    assert values(table.contacts()) == [128, 133]
    assert table.get(node(132)) is None
    table.failed(node(128))
    assert values(table.contacts()) == [133, 132]


def test_about_an_empty_bucket_those_outside_of_it_may_know() -> None:
    table = RoutingTable(OWN)
    far, near = (
        Contact(node_id=NodeId((1 << bit).to_bytes(ID_BYTES, "big")), endpoint="10.0.0.1:9443") for bit in (255, 250)
    )
    for one in (far, near):
        table.add(one, 0.0)
    assert table.outside(0) == []
    assert table.outside(3) == [far]
    assert table.outside(5) == [], "it has an entry"
    assert table.outside(9) == [far, near]

from __future__ import annotations

from typing import Final

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from macula_trio._dht import storage
from macula_trio._dht.storage import (
    OVERHEAD_BYTES,
    SKEW_MS,
    TTL_MAX_MS,
    VALUE_BYTES_MAX,
    ValueStore,
    Verdict,
    merge,
)
from macula_trio._ids import ANY_KIND, ID_BYTES, NodeId

NOW: Final = 1_700_000_000_000
TTL: Final = 300_000
KEY: Final = b"k" * 32
STORED: Final = Verdict(stored=True)
QUOTA: Final = Verdict(stored=False, reason="quota")


@attrs.frozen
class Value:
    node_id: NodeId
    seq: int = 1
    kind: str = "service"
    key: bytes = KEY
    expires_ms: int = NOW + TTL
    digest: bytes = b"m"
    size: int = 200
    withdrawn: bool = False
    chain_bytes: int = 0


def node(value: int) -> NodeId:
    return NodeId(bytes([value]) * ID_BYTES)


def value(
    owner: int,
    seq: int = 1,
    *,
    kind: str = "service",
    key: bytes = KEY,
    expires_ms: int = NOW + TTL,
    digest: bytes = b"m",
    size: int = 200,
    withdrawn: bool = False,
) -> Value:
    return Value(node(owner), seq, kind, key, expires_ms, digest, size, withdrawn)


def filled(*values: Value) -> ValueStore[Value]:
    store = ValueStore[Value]()
    for each in values:
        assert store.put(each, NOW) == STORED
    return store


def key(value: int) -> bytes:
    return bytes([value]) * 32


# -- which version wins --------------------------------------------------------------------------------------------


def test_a_newer_version_replaces_an_older_one() -> None:
    store = filled(value(1, 5), value(1, 6))
    assert store.get(KEY, NOW) == ([value(1, 6)], False)
    assert len(store) == 1


def test_an_older_version_is_refused_and_the_held_one_shown() -> None:
    store = filled(value(1, 5))
    assert store.put(value(1, 4), NOW) == Verdict(stored=False, reason="stale", held=value(1, 5))
    assert store.get(KEY, NOW) == ([value(1, 5)], False)


def test_of_two_values_with_one_seq_the_larger_digest_wins() -> None:
    store = filled(value(1, digest=b"b"), value(1, digest=b"c"))
    assert store.put(value(1, digest=b"a"), NOW) == Verdict(stored=False, reason="stale", held=value(1, digest=b"c"))


def test_the_same_value_again_is_stored_and_changes_nothing() -> None:
    store = filled(value(1), value(1))
    assert len(store) == 1
    assert store.items(NOW) == [value(1)]


def test_owners_kinds_and_keys_are_places_of_their_own() -> None:
    values = [value(1), value(1, kind="subscriber"), value(2), value(1, key=key(2))]
    store = filled(*values)
    assert store.items(NOW) == values
    assert store.keys() == [KEY, key(2)]
    assert len(store) == 4


def test_a_tombstone_keeps_older_values_away_until_it_expires() -> None:
    tombstone = value(1, 2, withdrawn=True)
    store = filled(value(1, 1), tombstone)
    assert store.get(KEY, NOW) == ([tombstone], False)
    assert store.put(value(1, 1), NOW) == Verdict(stored=False, reason="stale", held=tombstone)
    assert store.put(value(1, 1, expires_ms=NOW + 2 * TTL), NOW + TTL) == STORED


@given(
    st.lists(
        st.builds(
            value,
            st.integers(1, 3),
            st.integers(1, 3),
            kind=st.sampled_from(["service", "subscriber"]),
            digest=st.sampled_from([b"a", b"b"]),
        )
    )
)
def test_merging_keeps_the_newest_of_each_place_whatever_the_order(values: list[Value]) -> None:
    merged = merge(values)
    assert merged == merge(reversed(values)) == merge(merged)
    places = {(v.node_id, v.kind) for v in values}
    assert [(v.node_id, v.kind) for v in merged] == sorted(places)
    for kept in merged:
        rivals = [v for v in values if (v.node_id, v.kind) == (kept.node_id, kept.kind)]
        assert (kept.seq, kept.digest) == max((v.seq, v.digest) for v in rivals)


# -- how long it is held --------------------------------------------------------------------------------------------


def test_a_value_is_gone_at_the_moment_it_expires() -> None:
    store = filled(value(1), value(2, expires_ms=NOW + TTL + 1))
    assert store.next_expiry_ms == NOW + TTL
    assert store.expire(NOW + TTL - 1) == 0
    assert store.expire(NOW + TTL) == 1
    assert store.next_expiry_ms == NOW + TTL + 1
    assert store.items(NOW + TTL) == [value(2, expires_ms=NOW + TTL + 1)]
    assert store.expire(NOW + TTL + 1) == 1
    assert store.next_expiry_ms is None
    assert store.keys() == []
    assert len(store) == 0


def test_of_what_nobody_has_signed_the_last_one_counts() -> None:
    store = filled(value(1, 9, kind=ANY_KIND, expires_ms=NOW + TTL))
    sooner = value(1, 3, kind=ANY_KIND, expires_ms=NOW + 10)
    assert store.put(sooner, NOW) == STORED
    assert store.items(NOW) == [sooner]
    assert store.put(sooner, NOW + 9) == STORED
    assert store.expire(NOW + 10) == 1


def test_what_nobody_has_signed_lies_beside_what_is_signed_and_is_of_either_kind() -> None:
    signed, claimed = value(1, 1), value(1, 9, kind=ANY_KIND)
    store = filled(signed, claimed)
    assert store.get(KEY, NOW)[0] == [claimed, signed]
    assert store.get(KEY, NOW, kind="service")[0] == [claimed, signed]
    assert store.get(KEY, NOW, kind="subscriber")[0] == [claimed]


def test_claims_in_the_name_of_an_owner_take_none_of_its_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "KEYS_PER_OWNER_MAX", 2)
    store = ValueStore[Value]()
    claims = [store.put(value(1, kind=ANY_KIND, key=bytes([number]) * 32), NOW) for number in range(3)]
    assert claims == [STORED, STORED, QUOTA]
    assert store.put(value(1), NOW) == STORED


@pytest.mark.parametrize("late_ms", [0, 1])
def test_what_has_expired_is_refused(late_ms: int) -> None:
    store = ValueStore[Value]()
    assert store.put(value(1), NOW + TTL + late_ms) == Verdict(stored=False, reason="expired")
    assert len(store) == 0


@pytest.mark.parametrize("ask", ["get", "items"])
def test_what_has_expired_is_not_shown_even_if_nobody_cleaned_up(ask: str) -> None:
    store = filled(value(1))
    later = NOW + TTL
    assert (store.get(KEY, later)[0] if ask == "get" else store.items(later)) == []


def test_a_value_from_far_in_the_future_is_held_only_so_long() -> None:
    cap = NOW + TTL_MAX_MS + SKEW_MS
    store = filled(value(1, expires_ms=cap + 1), value(2, expires_ms=cap))
    assert store.next_expiry_ms == cap
    assert len(store.items(cap - 1)) == 2
    assert store.put(value(1, expires_ms=cap + 1), cap - 1) == STORED  # the same again prolongs nothing
    assert store.items(cap) == []


def test_a_replaced_value_takes_its_expiry_along() -> None:
    store = filled(value(1, 1), value(1, 2, expires_ms=NOW + 2 * TTL), value(2, 1, expires_ms=NOW + 9 * TTL))
    assert store.expire(NOW + TTL) == 0
    assert store.next_expiry_ms == NOW + 2 * TTL
    store.put(value(1, 3, expires_ms=NOW + TTL + 1), NOW + TTL)
    assert store.expire(NOW + TTL + 1) == 1
    assert store.next_expiry_ms == NOW + 9 * TTL


def test_an_owner_who_renews_all_the_time_costs_no_memory() -> None:
    store = ValueStore[Value]()
    for seq in range(1000):
        store.put(value(1, seq), NOW)
    assert len(store._heap) < 100
    assert store.expire(NOW + TTL) == 1
    assert not store._slots_of


def test_what_expires_first_goes_first_also_after_many_renewals() -> None:
    owners = range(1, 100)
    store = ValueStore[Value]()
    for seq in (1, 2, 3):
        for owner in owners:
            store.put(value(owner, seq, expires_ms=NOW + (owner * 37) % 101), NOW)
    for ms in range(1, 102):
        assert store.next_expiry_ms == NOW + ms or ms in (37 * 100 % 101, 101)
        store.expire(NOW + ms)
    assert len(store) == 0


# -- how much is held ------------------------------------------------------------------------------------------------


def test_a_value_has_a_largest_size() -> None:
    store = filled(value(1, size=VALUE_BYTES_MAX))
    assert store.put(value(2, size=VALUE_BYTES_MAX + 1), NOW) == Verdict(stored=False, reason="too_large")


@pytest.mark.parametrize(
    ("limit", "newcomer"),
    [
        ("VALUES_PER_KEY_MAX", value(9)),
        ("KEYS_MAX", value(9, key=key(9))),
        ("KEYS_PER_OWNER_MAX", value(1, key=key(9))),
    ],
)
def test_a_full_store_refuses_newcomers_renews_what_it_has_and_forgets_what_expired(
    monkeypatch: pytest.MonkeyPatch, limit: str, newcomer: Value
) -> None:
    monkeypatch.setattr(storage, limit, 2)
    held = {
        "VALUES_PER_KEY_MAX": [value(1), value(2, expires_ms=NOW + 2 * TTL)],
        "KEYS_MAX": [value(1), value(2, key=key(2), expires_ms=NOW + 2 * TTL)],
        "KEYS_PER_OWNER_MAX": [value(1), value(1, key=key(2), expires_ms=NOW + 2 * TTL)],
    }[limit]
    store = filled(*held)
    newcomer = attrs.evolve(newcomer, expires_ms=NOW + 3 * TTL)
    assert store.put(newcomer, NOW) == QUOTA
    assert store.items(NOW) == held
    assert store.put(attrs.evolve(held[1], seq=2), NOW) == STORED
    assert store.put(newcomer, NOW + TTL) == STORED


def test_there_is_a_limit_on_all_bytes_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "TOTAL_BYTES_MAX", 2 * OVERHEAD_BYTES + 300)
    store = filled(value(1, size=200), value(2, size=100, expires_ms=NOW + 2 * TTL))
    assert store.put(value(3, size=1), NOW) == QUOTA
    assert store.put(value(2, 2, size=101, expires_ms=NOW + 2 * TTL), NOW) == QUOTA
    assert store.put(value(2, 2, size=99, expires_ms=NOW + 2 * TTL), NOW) == STORED
    assert store.put(value(2, 3, size=100, expires_ms=NOW + 2 * TTL), NOW) == STORED
    assert store.put(value(3, size=200, expires_ms=NOW + 2 * TTL), NOW + TTL) == STORED


def test_the_room_of_what_expired_is_given_back_to_its_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "KEYS_PER_OWNER_MAX", 1)
    store = ValueStore[Value]()
    for round_ in range(3):
        now = NOW + round_ * TTL
        assert store.put(value(1, key=key(round_), expires_ms=now + TTL), now) == STORED
        assert store.put(value(1, key=key(99), expires_ms=now + TTL), now) == QUOTA


# -- pages -----------------------------------------------------------------------------------------------------------


def test_values_come_in_order_and_in_pages() -> None:
    store = filled(*(value(owner) for owner in (5, 3, 1, 4, 2)))
    assert store.get(KEY, NOW, limit=2) == ([value(1), value(2)], True)
    assert store.get(KEY, NOW, limit=2, after=node(2)) == ([value(3), value(4)], True)
    assert store.get(KEY, NOW, limit=2, after=node(4)) == ([value(5)], False)
    assert store.get(KEY, NOW, limit=5) == ([value(owner) for owner in range(1, 6)], False)
    assert store.get(KEY, NOW, after=node(9)) == ([], False)
    assert store.get(KEY, NOW, after=b"") == store.get(KEY, NOW)
    assert store.get(key(9), NOW) == ([], False)


def test_a_page_goes_on_behind_an_owner_who_is_gone() -> None:
    store = filled(value(1), value(2), value(4))
    assert store.get(KEY, NOW, after=node(3)) == ([value(4)], False)


def test_a_page_never_parts_the_values_of_one_owner() -> None:
    both = [value(1), value(1, kind="subscriber")]
    store = filled(*both, value(2))
    assert store.get(KEY, NOW, limit=1) == (both, True)
    assert store.get(KEY, NOW, limit=1, after=node(1)) == ([value(2)], False)


def test_one_kind_can_be_asked_for() -> None:
    store = filled(value(1, kind="subscriber"), value(1), value(2), value(3, kind="subscriber"), value(4))
    wanted = [value(1, kind="subscriber"), value(3, kind="subscriber")]
    assert store.get(KEY, NOW, kind="subscriber") == (wanted, False)
    assert store.get(KEY, NOW, kind="subscriber", limit=1) == (wanted[:1], True)
    assert store.get(KEY, NOW, kind="subscriber", limit=1, after=node(1)) == (wanted[1:], False)


@pytest.mark.parametrize("limit", [0, -1])
def test_a_page_has_room_for_one_value_whatever_is_asked(limit: int) -> None:
    assert filled(value(1), value(2)).get(KEY, NOW, limit=limit) == ([value(1)], True)


@given(
    st.lists(st.tuples(st.integers(1, 9), st.sampled_from(["service", "subscriber"])), unique=True),
    st.integers(1, 5),
    st.sampled_from([None, "service", "subscriber"]),
)
def test_all_pages_together_are_everything_once(places: list[tuple[int, str]], limit: int, kind: str | None) -> None:
    store = filled(*(value(owner, kind=k) for owner, k in places))
    pages: list[Value] = []
    after: bytes | None = None
    more = True
    while more:
        page, more = store.get(KEY, NOW, kind=kind, limit=limit, after=after)
        assert len(page) <= limit + 1
        pages += page
        after = page[-1].node_id if page else None
    assert pages == [value(owner, kind=k) for owner, k in sorted(places) if kind in (None, k)]


# -- reasons beside their age ----------------------------------------------------------------------------------------


def test_values_are_dropped_by_whose_they_are() -> None:
    changes: list[tuple[bytes, object]] = []
    store = ValueStore[Value](lambda _key, slot, held: changes.append((slot[0], held)))
    for each in (value(1), value(2), value(2, kind="subscriber"), value(2, key=key(9)), value(3)):
        assert store.put(each, NOW).stored
    changes.clear()
    assert store.drop(lambda held: held.node_id == node(2)) == 3
    assert changes == [(node(2), None)] * 3
    assert [held.node_id for held in store.items(NOW)] == [node(1), node(3)]
    assert store.drop(lambda _held: True) == 2
    assert (len(store), store._bytes, store.keys()) == (0, 0, [])


def test_certificates_take_their_place_too() -> None:
    store = ValueStore[Value]()
    assert store.put(attrs.evolve(value(1), chain_bytes=5000), NOW).stored
    plain = ValueStore[Value]()
    assert plain.put(value(1), NOW).stored
    assert store._bytes == plain._bytes + 5000

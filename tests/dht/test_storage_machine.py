"""Any sequence of values, times and questions against a store with tiny limits, compared with a plain dict."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Final
from unittest.mock import patch

import attrs
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from macula_trio._dht import storage
from macula_trio._dht.storage import OVERHEAD_BYTES, Refusal, Slot, ValueStore, Verdict
from macula_trio._ids import ANY_KIND, ID_BYTES, NodeId

START_MS: Final = 1_700_000_000_000
# Small, so that a few values meet each of them.
LIMITS: Final = {
    "VALUE_BYTES_MAX": 9,
    "VALUES_PER_KEY_MAX": 3,
    "KEYS_MAX": 3,
    "KEYS_PER_OWNER_MAX": 2,
    "TOTAL_BYTES_MAX": 7 * OVERHEAD_BYTES + 40,
    "TTL_MAX_MS": 30,
    "SKEW_MS": 5,
    "HOLD_MAX_MS": 35,
    "_HEAP_SLACK": 4,
}
CAP_MS: Final = LIMITS["HOLD_MAX_MS"]
COUNT_MAX: Final = LIMITS["TOTAL_BYTES_MAX"] // OVERHEAD_BYTES
KINDS: Final = ("service", "subscriber")
KEYS: Final = [bytes([number]) * 32 for number in range(1, 5)]


@attrs.frozen(kw_only=True)
class Value:
    key: bytes
    node_id: NodeId
    kind: str
    seq: int
    digest: bytes
    size: int
    withdrawn: bool
    chain_bytes: int = 0
    expires_ms: int = 0


def cost_of(value: Value) -> int:
    return value.size + value.chain_bytes + OVERHEAD_BYTES


VALUES: Final = st.builds(
    Value,
    key=st.sampled_from(KEYS),
    node_id=st.integers(1, 4).map(lambda number: NodeId(bytes([number]) * ID_BYTES)),
    kind=st.sampled_from([*KINDS, ANY_KIND]),
    seq=st.integers(1, 3),
    digest=st.sampled_from([b"a", b"b"]),
    size=st.integers(1, LIMITS["VALUE_BYTES_MAX"] + 1),
    withdrawn=st.booleans(),
    chain_bytes=st.integers(0, 2),
)


@attrs.frozen
class Held:
    value: Value
    until_ms: int  # by the rules


class Stores(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.patches = ExitStack()
        for name, limit in LIMITS.items():
            self.patches.enter_context(patch.object(storage, name, limit))
        self.now = START_MS
        self.model: dict[tuple[bytes, NodeId, str], Held] = {}
        self.told: dict[tuple[bytes, NodeId, str], Value] = {}
        self.store = ValueStore[Value](self.note)

    def teardown(self) -> None:
        self.patches.close()

    def note(self, key: bytes, slot: Slot, value: Value | None) -> None:
        """What a storage on a disk would keep."""
        place = (key, *slot)
        if value is None:
            del self.told[place]
        else:
            self.told[place] = value

    # -- what happens -----------------------------------------------------------------------------------------------

    @rule(drawn=VALUES, life_ms=st.integers(-1, 20) | st.just(CAP_MS) | st.integers(CAP_MS, 10 * CAP_MS))
    def put(self, drawn: Value, life_ms: int) -> None:
        self.put_now(attrs.evolve(drawn, expires_ms=self.now + life_ms))

    @precondition(lambda self: self.model)
    @rule(data=st.data(), change=st.sampled_from(["same", "newer", "older", "tombstone", "longer"]))
    def put_again(self, data: st.DataObject, change: str) -> None:
        held = self.model[data.draw(st.sampled_from(sorted(self.model)))].value
        changes: dict[str, Any] = {
            "same": {},
            "newer": {"seq": held.seq + 1, "expires_ms": self.now + 10},
            "older": {"seq": held.seq - 1, "expires_ms": self.now + 10},
            "tombstone": {"seq": held.seq + 1, "withdrawn": True},
            "longer": {"seq": held.seq + 1, "expires_ms": held.expires_ms + 1, "size": LIMITS["VALUE_BYTES_MAX"]},
        }[change]
        self.put_now(attrs.evolve(held, **changes))

    def put_now(self, value: Value) -> None:
        expected = self.expected(value)
        assert self.store.put(value, self.now) == expected
        place = (value.key, value.node_id, value.kind)
        if expected.stored:
            held = self.model.get(place)
            if held is None or value.kind == ANY_KIND or version(held.value) < version(value):
                self.model[place] = Held(value, min(value.expires_ms, self.now + CAP_MS))

    def expected(self, value: Value) -> Verdict[Value]:
        """What the rules say, from the whole content each time."""
        if value.expires_ms <= self.now:
            return refused("expired")
        if value.size > LIMITS["VALUE_BYTES_MAX"]:
            return refused("too_large")
        held = self.model.get((value.key, value.node_id, value.kind))
        if held is not None and value.kind != ANY_KIND and version(held.value) >= version(value):
            if version(held.value) == version(value):
                return Verdict(stored=True)
            return Verdict(stored=False, reason="stale", held=held.value)
        cost = cost_of(value) - (0 if held is None else cost_of(held.value))
        if self.total_bytes() + cost > LIMITS["TOTAL_BYTES_MAX"]:
            return refused("quota")
        if held is None:
            places = list(self.model)
            keys = {key for key, _, _ in places}
            if value.key not in keys and len(keys) >= LIMITS["KEYS_MAX"]:
                return refused("quota")
            if sum(key == value.key for key, _, _ in places) >= LIMITS["VALUES_PER_KEY_MAX"]:
                return refused("quota")
            accounts = [(owner, kind == ANY_KIND) for _, owner, kind in places]
            if accounts.count((value.node_id, value.kind == ANY_KIND)) >= LIMITS["KEYS_PER_OWNER_MAX"]:
                return refused("quota")
        return Verdict(stored=True)

    @rule(ms=st.integers(1, 12), is_told=st.booleans())
    def wait(self, ms: int, is_told: bool) -> None:
        self.now += ms
        live = {place: held for place, held in self.model.items() if held.until_ms > self.now}
        gone, self.model = len(self.model) - len(live), live
        if is_told:
            assert self.store.expire(self.now) == gone

    @rule(key=st.sampled_from(KEYS), kind=st.sampled_from([None, *KINDS]), limit=st.integers(0, 4))
    def read_pages(self, key: bytes, kind: str | None, limit: int) -> None:
        pages = list(self.pages(key, kind, limit))
        assert [value for page in pages for value in page] == self.values(key, kind)
        for page in pages:
            owners = [value.node_id for value in page]
            assert len(set(owners)) <= max(1, limit)
        for before, after in itertools.pairwise(pages):
            assert len(before) >= max(1, limit), "a page that is not full is the last one"
            assert before[-1].node_id < after[0].node_id

    def pages(self, key: bytes, kind: str | None, limit: int) -> Iterator[list[Value]]:
        after, more = None, True
        while more:
            page, more = self.store.get(key, self.now, kind=kind, limit=limit, after=after)
            assert page or not more
            yield page
            after = page[-1].node_id if page else None

    # -- what always holds ------------------------------------------------------------------------------------------

    def total_bytes(self) -> int:
        return sum(cost_of(held.value) for held in self.model.values())

    def values(self, key: bytes, kind: str | None = None) -> list[Value]:
        asked = [*KINDS, ANY_KIND] if kind is None else [kind, ANY_KIND]
        return [self.model[place].value for place in sorted(self.model) if place[0] == key and place[2] in asked]

    @invariant()
    def every_view_shows_what_is_alive_and_nothing_else(self) -> None:
        assert sorted(self.store.items(self.now), key=place_of) == [
            self.model[place].value for place in sorted(self.model)
        ]
        assert sorted(self.store.keys()) == sorted({key for key, _, _ in self.model})
        assert len(self.store) == len(self.model)
        for key in KEYS:
            assert self.store.get(key, self.now) == (self.values(key), False)

    @invariant()
    def what_it_counts_is_what_it_holds(self) -> None:
        self.store.expire(self.now)
        assert self.store._bytes == self.total_bytes() <= LIMITS["TOTAL_BYTES_MAX"]
        accounts = [(owner, kind != ANY_KIND) for _, owner, kind in self.model]
        assert dict(self.store._slots_of) == {account: accounts.count(account) for account in accounts}
        assert self.told == {place: held.value for place, held in self.model.items()}
        assert len(self.store._heap) <= 2 * COUNT_MAX + LIMITS["_HEAP_SLACK"]

    @invariant()
    def nothing_stays_longer_than_its_owner_and_we_allow(self) -> None:
        self.store.expire(self.now)
        assert self.store.next_expiry_ms == min((held.until_ms for held in self.model.values()), default=None)
        for place, held in self.model.items():
            shelf = self.store._shelves[place[0]]
            assert shelf.held[place[1:]].expires_ms == held.until_ms <= self.now + CAP_MS


def version(value: Value) -> tuple[int, bytes]:
    return value.seq, value.digest


def place_of(value: Value) -> tuple[bytes, NodeId, str]:
    return value.key, value.node_id, value.kind


def refused(reason: Refusal) -> Verdict[Value]:
    return Verdict(stored=False, reason=reason)


TestStores = Stores.TestCase
TestStores.settings = settings(max_examples=40, stateful_step_count=40)

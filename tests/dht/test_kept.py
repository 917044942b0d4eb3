"""What a replica keeps over a restart, and that it believes a disk as little as a peer."""

from __future__ import annotations

import logging

import pytest

from macula_trio import Identity
from macula_trio._dht.kept import TABLE, keeper, kept, reload
from macula_trio._dht.storage import HOLD_MAX_MS, ValueStore
from macula_trio._identity.record import Record, read_trusted, sign_record
from macula_trio._identity.trust import TrustJudge
from macula_trio._store.memory import MemoryStorage
from macula_trio._trust import Trust
from macula_trio._wire import messages as wire
from macula_trio._wire.codec import encode_message

KEY = bytes(range(32))
OWNER = Identity.from_seed(bytes(32))
JUDGE = TrustJudge(Trust.open(), realm="a.b")


def record(
    *, seq: int = 1, expires_ms: int = 2000, endpoint: str | None = "10.0.0.1:9443", realm: str = "a.b"
) -> Record:
    """A value of the owner's; without an endpoint its tombstone."""
    return sign_record(
        OWNER, realm=realm, key=KEY, kind="service", endpoint=endpoint, metadata={}, seq=seq, expires_ms=expires_ms
    )


def test_a_store_is_what_it_was_before_the_restart() -> None:
    storage = MemoryStorage()
    store = ValueStore[Record](keeper(storage))
    store.put(record(seq=1), 0)
    store.put(record(seq=2), 0)
    assert kept(storage, realm="a.b", judge=JUDGE, now_ms=1) == [record(seq=2)]
    store.put(record(seq=3, endpoint=None), 0)
    assert kept(storage, realm="a.b", judge=JUDGE, now_ms=1) == [record(seq=3, endpoint=None)]


def test_what_was_refused_or_has_expired_is_not_kept() -> None:
    storage = MemoryStorage()
    store = ValueStore[Record](keeper(storage))
    store.put(record(seq=2), 0)
    store.put(record(seq=1), 0)  # stale
    assert [value.seq for value in kept(storage, realm="a.b", judge=JUDGE, now_ms=1)] == [2]
    store.expire(2000)
    assert kept(storage, realm="a.b", judge=JUDGE, now_ms=1) == []
    assert storage.items(TABLE) == []


@pytest.mark.parametrize("damage", [b"", b"garbage", bytes([1, 2, 0, 0, 0, 0, 0, 0])])
def test_what_cannot_be_read_is_dropped_and_told(damage: bytes, caplog: pytest.LogCaptureFixture) -> None:
    storage = MemoryStorage()
    ValueStore[Record](keeper(storage)).put(record(), 0)
    storage.put(TABLE, b"damaged", damage)
    with caplog.at_level(logging.WARNING, "macula_trio.dht"):
        assert kept(storage, realm="a.b", judge=JUDGE, now_ms=1) == [record()]
    assert len(caplog.records) == 1
    assert len(storage.items(TABLE)) == 1


def test_a_value_signed_for_another_realm_or_changed_on_the_disk_is_dropped() -> None:
    storage = MemoryStorage()
    ValueStore[Record](keeper(storage)).put(record(realm="c.d"), 0)
    assert kept(storage, realm="a.b", judge=JUDGE, now_ms=1) == []
    ValueStore[Record](keeper(storage)).put(record(), 0)
    ((name, frame),) = storage.items(TABLE)
    storage.put(TABLE, name, frame.replace(b"10.0.0.1", b"10.6.6.6"))
    assert kept(storage, realm="a.b", judge=JUDGE, now_ms=1) == []


def test_what_expired_while_the_node_was_away_is_forgotten() -> None:
    storage = MemoryStorage()
    ValueStore[Record](keeper(storage)).put(record(expires_ms=2000), 0)
    assert [value.expires_ms for value in kept(storage, realm="a.b", judge=JUDGE, now_ms=1)] == [2000]

    store = ValueStore[Record](keeper(storage))
    reload(store, storage, realm="a.b", judge=JUDGE, now_ms=2000)

    assert store.items(0) == []
    assert storage.items(TABLE) == []


def test_a_restart_does_not_begin_the_time_of_a_value_anew() -> None:
    storage = MemoryStorage()
    now_ms, step_ms = 0, HOLD_MAX_MS // 3
    ValueStore[Record](keeper(storage)).put(record(expires_ms=20 * HOLD_MAX_MS), now_ms)

    for _ in range(3):  # more often than the time of any value is long
        now_ms += step_ms
        store = ValueStore[Record](keeper(storage))
        reload(store, storage, realm="a.b", judge=JUDGE, now_ms=now_ms)
    assert store.items(now_ms) == []
    assert storage.items(TABLE) == []


def test_a_restart_keeps_what_ends_in_time() -> None:
    storage = MemoryStorage()
    ValueStore[Record](keeper(storage)).put(record(expires_ms=HOLD_MAX_MS), 0)

    store = ValueStore[Record](keeper(storage))
    reload(store, storage, realm="a.b", judge=JUDGE, now_ms=1)

    assert store.items(1) == kept(storage, realm="a.b", judge=JUDGE, now_ms=1) == [record(expires_ms=HOLD_MAX_MS)]
    assert store.next_expiry_ms == HOLD_MAX_MS


def test_the_values_of_those_who_are_trusted_no_more_are_dropped() -> None:
    storage = MemoryStorage()
    assert ValueStore[Record](keeper(storage)).put(record(), 1).stored
    judge = TrustJudge(Trust.open(), realm="a.b")
    judge.block(OWNER.node_id)
    assert kept(storage, realm="a.b", judge=judge, now_ms=1) == []
    assert storage.items(TABLE) == []


def test_what_nobody_has_signed_is_not_kept_for_its_time_would_begin_anew() -> None:
    storage, judge = MemoryStorage(), TrustJudge(Trust.unverified(), realm="a.b")
    store = ValueStore[Record](keeper(storage))
    value = {"node_id": bytes(32), "endpoint": b"10.0.0.1:9443", "ttl": 300}
    store.put(read_trusted(value, realm="a.b", key=KEY, judge=judge, now_ms=0), 0)
    assert storage.items(TABLE) == []
    frame = encode_message(wire.Store(key=KEY, value=value))  # by a version that did not know
    storage.put(TABLE, b"old", frame)
    anew = ValueStore[Record]()
    reload(anew, storage, realm="a.b", judge=judge, now_ms=1)
    assert len(anew) == 0

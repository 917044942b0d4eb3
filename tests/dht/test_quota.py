from __future__ import annotations

from macula_trio._dht.quota import (
    FORGERY_STORES,
    PEERS_MAX,
    QUERIES_BURST,
    QUERIES_PER_S,
    STORES_BURST,
    STORES_PER_MINUTE,
    PeerQuotas,
)
from macula_trio._dht.storage import KEYS_PER_OWNER_MAX

ALICE, BOB = bytes(32), "192.0.2.7"


def test_what_is_within_the_burst_is_not_refused_and_then_it_is_counted() -> None:
    quotas = PeerQuotas()
    assert not any(quotas.refusals(ALICE, "store", 0.0) for _ in range(STORES_BURST))
    assert [quotas.refusals(ALICE, "store", 0.0) for _ in range(3)] == [1, 2, 3]
    assert quotas.refusals(ALICE, "store", 60 / STORES_PER_MINUTE) == 0
    assert quotas.refusals(ALICE, "store", 60 / STORES_PER_MINUTE) == 4


def test_peers_and_kinds_of_requests_do_not_pay_for_each_other() -> None:
    quotas = PeerQuotas()
    for _ in range(STORES_BURST):
        quotas.refusals(ALICE, "store", 0.0)
    assert quotas.refusals(ALICE, "store", 0.0) == 1
    assert quotas.refusals(BOB, "store", 0.0) == 0
    assert not any(quotas.refusals(ALICE, "query", 0.0) for _ in range(QUERIES_BURST))
    assert quotas.refusals(ALICE, "query", 0.0) == 2
    assert quotas.refusals(ALICE, "query", 1 / QUERIES_PER_S) == 0


def test_the_busiest_honest_owner_passes() -> None:
    """Stored at the start, again when it has joined, renewed every few minutes, withdrawn at the end."""
    quotas = PeerQuotas()
    for now in (0.0, 5.0, 245.0, 485.0, 725.0, 730.0):
        for _ in range(KEYS_PER_OWNER_MAX):
            assert quotas.refusals(ALICE, "query", now) == 0
            assert quotas.refusals(ALICE, "store", now) == 0


def test_who_is_forgotten_begins_anew_and_nobody_else_is_forgotten() -> None:
    quotas = PeerQuotas()
    for peer in (ALICE, BOB):
        for _ in range(STORES_BURST + 5):
            quotas.refusals(peer, "store", 0.0)
    quotas.forget(ALICE)
    quotas.forget(ALICE)
    assert len(quotas) == 1
    assert quotas.refusals(ALICE, "store", 0.0) == 0
    assert quotas.refusals(BOB, "store", 0.0) == 6


def test_no_more_than_so_many_peers_are_remembered_the_longest_silent_goes() -> None:
    quotas = PeerQuotas()
    for _ in range(STORES_BURST + 1):
        quotas.refusals(ALICE, "store", 0.0)
        quotas.refusals(BOB, "store", 0.0)
    for number in range(PEERS_MAX - 1):
        quotas.refusals(b"%d" % number, "query", 0.0)
        assert quotas.refusals(BOB, "store", 0.0) == number + 2
    assert len(quotas) == PEERS_MAX
    assert quotas.refusals(ALICE, "store", 0.0) == 0


def test_forgeries_cost_a_peer_its_stores_and_those_who_are_forgotten_nothing() -> None:
    quotas = PeerQuotas()
    quotas.forged(b"nobody")
    assert len(quotas) == 0
    assert quotas.refusals(b"liar", "store", 0.0) == 0
    for _ in range(STORES_BURST // FORGERY_STORES + 1):
        quotas.forged(b"liar")
    assert quotas.refusals(b"liar", "store", 0.0) == 1
    assert quotas.refusals(b"liar", "query", 0.0) == 0
    assert quotas.refusals(b"honest", "store", 0.0) == 0

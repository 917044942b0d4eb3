"""How much one peer may make a node do, and whom it may make it dial."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import trio
from node_tools import link_between, watch
from quic_tools import connect_bare, host, open_endpoint

import macula_trio as macula
from macula_trio import Contact, abc, dht_key
from macula_trio._dht import quota
from macula_trio._dht.quota import FORGERY_STORES, QUERIES_BURST, STORES_BURST
from macula_trio._dht.storage import KEYS_PER_OWNER_MAX
from macula_trio._identity.record import sign_record
from macula_trio._util import parse_endpoint
from macula_trio._wire import messages as wire
from macula_trio.errors import ErrorCode
from macula_trio.testing import SimNetwork, open_mesh, open_world
from macula_trio.testing._frame_node import open_frame_mesh

pytestmark = pytest.mark.long

Clock = trio.testing.MockClock
KEY, ID = bytes(range(32)), bytes(16)
REALM = "org.example.test"
VICTIM = "10.66.66.66:9443"


def correlation(number: int) -> bytes:
    return number.to_bytes(16, "big")


async def test_who_stores_without_end_is_refused_and_others_are_not(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quota, "STORES_PER_MINUTE", 6)  # so that a few moments give nothing back
    async with open_mesh(3) as (victim, attacker, other):
        events = watch(victim, "dht.rate_limited", "dht.value_refused")
        link = link_between(attacker, victim)
        assert victim.node_id in (await attacker.store(KEY, {})).stored
        value = next(held.to_value() for held in victim.stored_values() if held.node_id == attacker.node_id)
        extra = 20
        again = [wire.Store(key=KEY, value=value, correlation_id=correlation(n)) for n in range(STORES_BURST + extra)]
        reasons: list[str | None] = []

        async def store(request: wire.Store) -> None:
            reasons.append((await link.ask(request, wire.StoreReply)).reason)

        for start in range(0, len(again), 1000):
            async with trio.open_nursery() as nursery:
                for request in again[start : start + 1000]:
                    nursery.start_soon(store, request)

        assert set(reasons) == {None, "rate"}
        assert 0 < reasons.count("rate") <= extra + 1
        limited = [event.facts for event in events if event.name == "dht.rate_limited"]
        assert [facts["refused"] for facts in limited] == [1, 2, 4, 8, 16][: len(limited)]
        assert {(facts["peer"], facts["request"]) for facts in limited} == {(attacker.node_id.hex(), "store")}
        assert victim.node_id in (await other.store(KEY, {})).stored
        report = await attacker.store(KEY, {})
        assert report.refused == {victim.node_id: "rate"}
        await trio.sleep(60)
        assert (await attacker.store(KEY, {})).refused == {}


async def test_who_stores_what_nobody_has_signed_is_soon_not_listened_to(autojump_clock: Clock) -> None:
    async with open_mesh(3) as (victim, attacker, other):
        events = watch(victim, "dht.value_refused")
        link = link_between(attacker, victim)
        assert victim.node_id in (await other.store(KEY, {})).stored
        value = next(held.to_value() for held in victim.stored_values() if held.node_id == other.node_id)
        reasons = []
        for number in range(100):
            forged = value | {"seq": 10**15 + number} if number % 2 else {}
            request = wire.Store(key=KEY, value=forged, correlation_id=correlation(number))
            reasons.append((await link.ask(request, wire.StoreReply)).reason)
        looked_at = STORES_BURST // FORGERY_STORES
        assert reasons[:looked_at] == ["malformed", "bad_signature"] * (looked_at // 2)
        assert set(reasons[looked_at + 2 :]) == {"rate"}
        assert len(events) <= looked_at + 2, "no signature was checked for the rest"
        assert victim.node_id in (await other.store(KEY, {})).stored


async def test_who_asks_without_end_is_not_answered_and_others_are(autojump_clock: Clock) -> None:
    async with open_mesh(3) as (victim, attacker, other):
        events = watch(victim, "dht.rate_limited")
        link = link_between(attacker, victim)
        for number in range(2 * QUERIES_BURST):
            if number % 2:
                link.send_nowait(wire.FindNode(target=KEY, correlation_id=correlation(number)))
            else:
                link.send_nowait(wire.FindValue(key=KEY, correlation_id=correlation(number)))
            if not number % 100:
                await link.wait_writable()
        await trio.sleep(0.01)
        with trio.move_on_after(5) as unanswered:
            await link.ask(wire.FindNode(target=KEY, correlation_id=ID), wire.FindNodeReply)
        assert unanswered.cancelled_caught or events  # the last one may have come when there was room again
        answered = sum(victim.statistics().frames_sent[name] for name in ("FIND_NODE_REPLY", "FIND_VALUE_REPLY"))
        assert QUERIES_BURST <= answered < 2 * QUERIES_BURST
        assert {event.facts["request"] for event in events} == {"query"}
        assert await other.find_node(KEY)
        await trio.sleep(1)
        await link.ask(wire.FindNode(target=KEY, correlation_id=ID), wire.FindNodeReply)


async def test_an_allowance_is_forgotten_with_the_last_link(autojump_clock: Clock) -> None:
    async with open_mesh(2) as (node, peer):
        await peer.find_node(KEY)
        quotas = node._dht._server._quotas
        (before,) = quotas._allowances.values()
        again = await peer._registry.dial_anew(node.endpoint, expected=node.node_id, trusted=True)  # for one thing
        again.close()
        await trio.sleep(1)
        assert list(quotas._allowances.values()) == [before]  # another link is left
        for link in peer._registry.links:
            link.close()
        await trio.sleep(1)
        assert len(quotas) == 0


async def test_a_peer_that_proves_nothing_is_counted_by_its_address(autojump_clock: Clock) -> None:
    network = SimNetwork()
    config = macula.NodeConfig(realm=REALM, trust=macula.Trust.unverified())
    async with open_mesh(1, network=network, config=config) as (node,), open_endpoint(network, 7) as stranger:
        recorder = await connect_bare(stranger, parse_endpoint(node.endpoint))
        recorder.say(wire.FindNode(target=KEY, correlation_id=ID))
        await trio.sleep(0.1)
        assert isinstance(recorder.heard()[-1], wire.FindNodeReply)
        assert list(node._dht._server._quotas._allowances) == [host(7)[0]]
        recorder.connection.close(ErrorCode.NORMAL)
        await trio.sleep(1)
        assert len(node._dht._server._quotas) == 0


async def test_a_node_with_all_the_adverts_that_it_may_have_is_not_limited(autojump_clock: Clock) -> None:
    async with open_frame_mesh(4) as nodes:
        events: list[macula.Event] = []
        for node in nodes:
            node.events.listen(lambda event: events.append(event) if event.name == "dht.rate_limited" else None)
        reports = []

        async def store(number: int) -> None:
            reports.append(await nodes[1].store(dht_key(f"advert.{number}"), {}))

        for _ in range(3):  # when it starts, when it has joined, and once more
            async with trio.open_nursery() as nursery:
                for number in range(KEYS_PER_OWNER_MAX):
                    nursery.start_soon(store, number)
        assert [report for report in reports if report.refused or len(report.stored) < 4] == []
        assert events == []


@pytest.mark.parametrize(
    ("metadata", "count", "reason"),
    [({"x": "y" * 5000}, 1, "too_large"), ({}, KEYS_PER_OWNER_MAX + 1, "quota")],
)
async def test_a_refusal_says_which_limit_it_was(
    metadata: dict[str, object], count: int, reason: str, autojump_clock: Clock
) -> None:
    async with open_mesh(2) as (node, owner):
        link = link_between(owner, node)
        for number in range(count):
            record = sign_record(
                owner._party.credentials,
                realm=REALM,
                key=dht_key(f"{number}"),
                kind="service",
                endpoint=owner.endpoint,
                metadata=metadata,
                seq=1,
                expires_ms=owner._dht._wall_clock_ms() + 300_000,
            )
            request = wire.Store(key=record.key, value=record.to_value(), correlation_id=correlation(number))
            reply = await link.ask(request, wire.StoreReply)
        assert reply.reason == reason


async def test_what_is_too_large_for_any_replica_is_refused_where_it_is_made(autojump_clock: Clock) -> None:
    async with open_mesh(2) as nodes:
        refused = 0
        for length in range(3800, 4000):  # around what is left of 4 KiB beside everything else that is signed
            try:
                report = await nodes[1].store(KEY, {"x": "y" * length})
            except macula.PayloadTooLarge:
                refused += 1
            else:
                assert not refused
                assert (len(report.stored), report.refused) == (2, {})
        assert 0 < refused < 200


async def test_a_value_that_was_forgotten_expires_by_itself(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("macula_trio._dht.owner.SIGNED_MAX", 3)
    async with open_frame_mesh(2) as (node, owner):
        for number in range(5):
            await owner.store(dht_key(f"{number}"), {})
        assert len(owner._dht.owner._signed) == 3
        for number in range(5):
            await owner._dht.owner.withdraw(dht_key(f"{number}"), "service", {})
        assert [value.withdrawn for value in node.stored_values()] == [False, False, True, True, True]
        await trio.sleep(301)
        assert node.stored_values() == []


# -- endpoints that peers tell ----------------------------------------------------------------------------------


@asynccontextmanager
async def open_liar(liar_host: str) -> AsyncGenerator[tuple[SimNetwork, macula.Node, macula.Node], None]:
    """A node, and one at an address of the test's choice that tells of a node at a private one."""
    async with open_world() as world:
        world.network.host("node", "198.51.100.1")
        world.network.host("liar", liar_host)
        node, liar = await world.start("node"), await world.start("liar")
        nobody = (wire.NodeEntry(node_id=bytes(32), address=VICTIM),)

        def find_node(link: abc.Link, query: wire.FindNode) -> None:
            link.send_nowait(wire.FindNodeReply(nodes=nobody, correlation_id=query.correlation_id))

        def find_value(link: abc.Link, query: wire.FindValue) -> None:
            link.send_nowait(wire.FindValueReply(result="nodes", nodes=nobody, correlation_id=query.correlation_id))

        handlers = liar._registry._handlers
        handlers[wire.FindNode], handlers[wire.FindValue] = find_node, find_value
        yield world.network, node, liar


@pytest.mark.parametrize(("liar_host", "is_dialed"), [("198.51.100.2", False), ("10.1.1.1", True)])
@pytest.mark.parametrize("what", ["node", "value"])
async def test_private_addresses_count_only_from_private_peers(
    liar_host: str, is_dialed: bool, what: str, autojump_clock: Clock
) -> None:
    async with open_liar(liar_host) as (network, node, _):
        victim = await network.host("victim", VICTIM.rpartition(":")[0]).bind(("0.0.0.0", 9443))
        await (node.find_node(KEY) if what == "node" else node.find_value(KEY))
        await trio.sleep(0.1)
        assert bool(victim.recv_batch()) == is_dialed
        victim.close()


@pytest.mark.parametrize(("host", "is_dialed"), [("198.51.100.2", False), ("10.1.1.1", True)])
async def test_a_private_endpoint_is_not_believed_of_a_public_peer(
    host: str, is_dialed: bool, autojump_clock: Clock
) -> None:
    async with open_world() as world:
        world.network.host("node", "198.51.100.1")
        world.network.host("peer", host)
        victim = await world.network.host("victim", VICTIM.rpartition(":")[0]).bind(("0.0.0.0", 9443))
        node = await world.start("node")
        events = watch(node, "dht.endpoint_refuted")
        peer = await world.start("peer", advertise=VICTIM)
        await trio.sleep(0.1)
        assert bool(victim.recv_batch()) == is_dialed
        told = [(event.facts["peer"], event.facts["endpoint"]) for event in events]
        assert told == ([] if is_dialed else [(peer.node_id.hex(), VICTIM)])
        assert Contact(node_id=peer.node_id, endpoint=VICTIM) not in node.known_nodes()
        victim.close()

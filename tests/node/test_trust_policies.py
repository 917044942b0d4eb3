"""Whom a whole node lets in, names to others and believes, under each trust policy; and what a change of it does."""

from __future__ import annotations

import datetime
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID
from node_tools import add, first
from realm_tools import NAME, REALM, SERVER, Authority, usage

import macula_trio as macula
from macula_trio._dht.quota import FORGERY_STORES, STORES_BURST
from macula_trio._identity.record import sign_record
from macula_trio.testing import SimNetwork, open_mesh
from macula_trio.testing._mesh import sim_identity
from macula_trio.testing.network import EPOCH_MS

Clock = trio.testing.MockClock
ROOT = Authority.create()
MEMBER = ROOT.issue(7)


def config(trust: macula.Trust, **changes: Any) -> macula.NodeConfig:
    fields: dict[str, Any] = {
        "realm": REALM,
        "listen": "10.9.9.9:9",
        "bootstrap": ["10.0.0.1:9443"],
        "require_bootstrap": True,
        "trust": trust,
    }
    return macula.NodeConfig(**(fields | changes))


async def entering(network: SimNetwork, trust: macula.Trust, identity: macula.Identity, **changes: Any) -> None:
    """Join the mesh and leave it again."""
    async with macula.open_node(config(trust, **changes), identity=identity, network=network):
        pass


@asynccontextmanager
async def a_mesh(
    trust: macula.Trust, size: int = 1, *, network: SimNetwork | None = None, **changes: Any
) -> AsyncGenerator[tuple[SimNetwork, list[macula.Node]], None]:
    network = network or SimNetwork()
    base = macula.NodeConfig(realm=REALM, trust=trust)
    async with open_mesh(size, network=network, config=base, **changes) as nodes:
        yield network, nodes


def knows(node: macula.Node, other: macula.NodeId) -> bool:
    return other in {c.node_id for c in node.known_nodes()} or other in {peer.node_id for peer in node.peers()}


# -- realms --------------------------------------------------------------------------------------------------------


async def test_the_main_job_in_a_realm(autojump_clock: Clock) -> None:
    async with a_mesh(macula.Trust.realm(ROOT.pem), 5, identity_of=ROOT.issue) as (_, nodes):
        async with nodes[4].advertise("test.add", add), nodes[2].subscribe("test.topic") as messages:
            assert await nodes[3].call("test.add", {"a": 2, "b": 3}) == 5
            await nodes[3].publish("test.topic", {"n": 1})
            assert (await messages.receive()).publisher == nodes[3].node_id
        await trio.sleep(3)
        assert all(len(node.known_nodes()) == 4 for node in nodes)


@pytest.mark.parametrize("key_type", list(trustme.KeyType))
async def test_trustmes_certificates_make_a_realm(key_type: trustme.KeyType, autojump_clock: Clock) -> None:
    ca = trustme.CA(key_type=key_type)
    between = ca.create_child_ca()

    def issue(number: int) -> macula.Identity:
        cert = (ca, between)[number % 2].issue_cert(NAME, key_type=key_type)
        return macula.Identity.from_pem(cert.private_key_and_cert_chain_pem.bytes())

    trust = macula.Trust.realm(ca.cert_pem.bytes())
    async with a_mesh(trust, 3, identity_of=issue) as (_, nodes), nodes[1].advertise("test.add", add):
        assert await nodes[2].call("test.add", {"a": 2, "b": 3}) == 5


# In the past and in the future of the simulated clock and of this machine's, which QUIC's own check goes by.
LONG_AGO, FAR_AWAY = (
    datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC),
    datetime.datetime(2100, 1, 1, tzinfo=datetime.UTC),
)


BAD_MEMBERS = {
    "self-signed": sim_identity(99),
    "other authority": Authority.create(2).issue(8),
    "expired": ROOT.issue(8, end=LONG_AGO),
    "not yet valid": ROOT.issue(8, begin=FAR_AWAY),
    "other realm": ROOT.issue(8, names=["0123.realm"]),
    "no name": ROOT.issue(8, names=()),
    "intermediate missing": macula.Identity(ROOT.child().issue(8).private_key, ROOT.child().issue(8).chain[:1]),
    "intermediate expired": ROOT.child(end=LONG_AGO).issue(8),
}
# What QUIC's own check lets pass, and ours does not.
MORE_BAD_MEMBERS = {
    "authority as leaf": ROOT.issue(8, authority=True, key_usage=None),
    "key usage": ROOT.issue(8, key_usage=usage(digital_signature=False)),
    "extended usage": ROOT.issue(8, extended=[ExtendedKeyUsageOID.CODE_SIGNING]),
}
ALL_BAD_MEMBERS = BAD_MEMBERS | MORE_BAD_MEMBERS


@pytest.mark.parametrize("who", ALL_BAD_MEMBERS)
async def test_who_is_no_member_is_refused_by_the_one_who_is_dialed(who: str, autojump_clock: Clock) -> None:
    async with a_mesh(macula.Trust.realm(ROOT.pem), identity_of=ROOT.issue) as (network, (member,)):
        with pytest.raises(macula.TrustError, match="not trusted"):
            await entering(network, macula.Trust.open(), ALL_BAD_MEMBERS[who])
        assert member.statistics().refused == {"untrusted": 1}
        assert member.known_nodes() == member.peers() == []


@pytest.mark.parametrize("who", BAD_MEMBERS)
async def test_nothing_is_said_to_a_listener_who_is_no_member(who: str, autojump_clock: Clock) -> None:
    async with a_mesh(macula.Trust.open(), identity_of=lambda _: BAD_MEMBERS[who]) as (network, (stranger,)):
        with pytest.raises(macula.TrustError, match="TLS certificate is refused"):
            await entering(network, macula.Trust.realm(ROOT.pem), MEMBER)
        assert stranger.statistics().frames_received == {}, "QUIC itself has refused it"


@pytest.mark.parametrize("who", MORE_BAD_MEMBERS)
async def test_a_listener_who_is_no_member_is_refused_at_its_answer(who: str, autojump_clock: Clock) -> None:
    async with a_mesh(macula.Trust.open(), identity_of=lambda _: MORE_BAD_MEMBERS[who]) as (network, (stranger,)):
        with pytest.raises(macula.TrustError, match="not trusted"):
            await entering(network, macula.Trust.realm(ROOT.pem), MEMBER)
        await trio.sleep(1)
        assert stranger.statistics().frames_received == {"CONNECT": 1, "DISCONNECT": 1}
        assert stranger.peers() == []


async def test_a_good_certificate_in_tls_is_no_excuse_for_a_bad_one_in_the_answer(autojump_clock: Clock) -> None:
    async with a_mesh(macula.Trust.open(), identity_of=ROOT.issue) as (network, (listener,)):
        other = Authority.create(2).issue(1)
        listener._party.credentials = macula.Identity(other.private_key, other.chain)
        with pytest.raises(macula.TrustError, match="local issuer"):
            await entering(network, macula.Trust.realm(ROOT.pem), MEMBER)


async def test_a_certificate_for_servers_only_may_be_dialed_and_may_not_dial(autojump_clock: Clock) -> None:
    server = ROOT.issue(8, extended=[SERVER])
    async with a_mesh(macula.Trust.realm(ROOT.pem), identity_of=lambda _: server) as (network, (listener,)):
        await entering(network, macula.Trust.realm(ROOT.pem), MEMBER)
        assert listener.statistics().refused == {}
    async with a_mesh(macula.Trust.realm(ROOT.pem), identity_of=lambda _: MEMBER) as (network, (listener,)):
        with pytest.raises(macula.TrustError, match="no clientAuth"):
            await entering(network, macula.Trust.realm(ROOT.pem), server)
        assert listener.statistics().refused == {"untrusted": 1}


async def test_a_certificate_without_its_key_is_no_proof(autojump_clock: Clock) -> None:
    async with a_mesh(macula.Trust.realm(ROOT.pem), identity_of=lambda _: MEMBER) as (network, (listener,)):
        thief = sim_identity(5)
        stolen = ROOT.issue(8)
        async with macula.open_node(
            config(macula.Trust.open(), require_bootstrap=False, join_deadline_s=0.1), identity=thief, network=network
        ) as node:
            object.__setattr__(node._party.credentials, "chain", stolen.chain)  # what it shows, signed by its own key
            object.__setattr__(node._party.credentials, "node_id", stolen.node_id)
            with pytest.raises(macula.TrustError):
                await node.ping_endpoint("10.0.0.1:9443")
        assert listener.statistics().refused.get("bad_proof", 0) >= 1
        assert listener.peers() == []


async def test_a_company_has_names_of_its_own_hosts(autojump_clock: Clock) -> None:
    hosts = {"10.0.0.1:9443": "node1.example.org", "10.0.0.2:9443": "node2.example.org", "10.9.9.9:9": "c.example.org"}
    trust = macula.Trust.realm(ROOT.pem, name=hosts.__getitem__)

    def issue(number: int) -> macula.Identity:
        return ROOT.issue(number, names=[f"node{number}.example.org"])

    async with a_mesh(trust, 2, identity_of=issue) as (network, (one, two)):
        assert one.peers()
        assert two.peers()
        await entering(network, trust, ROOT.issue(9, names=["c.example.org"]))
        with pytest.raises(macula.TrustError, match="does not carry the name 'c.example.org'"):
            await entering(network, trust, ROOT.issue(9, names=["node1.example.org"]))
        with pytest.raises(macula.TrustError, match="nobody is known by a name"):
            await entering(network, trust, ROOT.issue(9, names=["c.example.org"]), listen="10.9.9.8:9")


async def test_a_certificate_that_expires_ends_its_links(autojump_clock: Clock) -> None:
    async def endless(call: macula.Call) -> object:
        await trio.sleep_forever()

    soon = datetime.datetime.fromtimestamp(EPOCH_MS / 1000 + 300, datetime.UTC)
    members = macula.NodeConfig(realm=REALM, trust=macula.Trust.realm(ROOT.pem), call_timeout_max_s=1000)
    visiting = config(macula.Trust.open(), call_timeout_max_s=1000)
    network = SimNetwork()
    async with (
        open_mesh(1, network=network, config=members, identity_of=ROOT.issue) as (member,),
        member.advertise("test.endless", endless),
        macula.open_node(visiting, identity=ROOT.issue(9, end=soon), network=network) as visitor,
    ):
        with member.events() as events:
            # Something that keeps the link in use.
            with pytest.raises(macula.PeerUnavailable, match="expired"), trio.fail_after(1000):
                await visitor.call("test.endless")
            assert 290 < trio.current_time() < 320
            assert "expired" in str((await first(events, "link.refused")).facts["reason"])
        assert member.peers() == []
        with pytest.raises(macula.TrustError, match="expired"):
            await visitor.ping(macula.Contact(node_id=member.node_id, endpoint=member.endpoint))


# -- lists and pins --------------------------------------------------------------------------------------------------


async def test_only_those_on_the_list_are_let_in_and_dialed(autojump_clock: Clock) -> None:
    friends = macula.Trust.only([sim_identity(n).node_id for n in (1, 2, 4)])
    async with a_mesh(friends, 2) as (network, (one, two)):
        with pytest.raises(macula.TrustError, match="not on our list"):
            await entering(network, macula.Trust.open(), sim_identity(3))
        with pytest.raises(macula.TrustError, match="not on our list"):
            await entering(network, macula.Trust.only([sim_identity(3).node_id]), sim_identity(4), listen="10.9.9.8:1")
        assert not knows(one, sim_identity(3).node_id)
        dialed = one.statistics().frames_sent.get("CONNECT", 0)
        with pytest.raises(macula.TrustError, match="not on our list"):
            await one.ping(macula.Contact(node_id=sim_identity(3).node_id, endpoint="10.9.9.9:9"))
        assert one.statistics().frames_sent.get("CONNECT", 0) == dialed, "nobody was dialed for that"
        assert two.peers()


async def test_pins_hold_in_both_directions(autojump_clock: Clock) -> None:
    pins = [sim_identity(n).chain[0].fingerprint(hashes.SHA256()) for n in (1, 2)]
    async with a_mesh(macula.Trust.pinned(pins), 2) as (network, (one, two)):
        async with one.advertise("test.add", add):
            assert await two.call("test.add", {"a": 1, "b": 2}) == 3
        with pytest.raises(macula.TrustError, match="fingerprint"):
            await entering(network, macula.Trust.open(), sim_identity(3))
        with pytest.raises(macula.TrustError, match="fingerprint"):
            await entering(network, macula.Trust.pinned(pins[1:]), sim_identity(3))


# -- changes while a node runs ---------------------------------------------------------------------------------------


async def test_a_list_that_is_read_again_ends_the_links_of_those_who_are_gone(
    autojump_clock: Clock, tmp_path: Path
) -> None:
    file = tmp_path / "members"
    file.write_text("".join(f"{sim_identity(n).node_id.hex()}\n" for n in (1, 2, 3)))
    async with a_mesh(macula.Trust.only(file), 3) as (_, (one, two, three)):
        file.write_text("".join(f"{sim_identity(n).node_id.hex()}\n" for n in (1, 2)))
        assert knows(one, three.node_id)
        with one.events() as events:
            one.reload_trust()
            assert (await first(events, "trust.reloaded")).facts["links"] == 1
        assert not knows(one, three.node_id)
        assert {peer.node_id for peer in one.peers()} == {two.node_id}
        await trio.sleep(1)
        assert one.node_id not in {peer.node_id for peer in three.peers()}
        with pytest.raises(macula.MeshError, match="not on our list|in vain"):  # it has tried by itself, too
            await three.ping(macula.Contact(node_id=one.node_id, endpoint=one.endpoint))
        file.write_text("nonsense\n")
        with pytest.raises(macula.TrustError, match="line 1"):
            one.reload_trust()
        assert {peer.node_id for peer in one.peers()} == {two.node_id}, "the policy stays as it was"
        one.reload_trust(macula.Trust.open())
        await trio.sleep(61)  # virtual: a minute after its attempts in vain
        await three.ping(macula.Contact(node_id=one.node_id, endpoint=one.endpoint))


async def test_what_is_read_again_is_the_file_of_the_policy_in_force(autojump_clock: Clock, tmp_path: Path) -> None:
    file = tmp_path / "members"
    file.write_text(f"{sim_identity(2).node_id.hex()}\n")
    async with a_mesh(macula.Trust.open(), 3) as (_, (one, two, three)):
        one.reload_trust(macula.Trust.only(file))
        assert {peer.node_id for peer in one.peers()} == {two.node_id}
        file.write_text(f"{three.node_id.hex()}\n")
        one.reload_trust()
        assert one.trust == macula.Trust(kind="only", node_ids=frozenset([three.node_id]), path=file)
        assert one.peers() == []


async def test_another_authority_ends_the_links_of_the_old_one(autojump_clock: Clock, tmp_path: Path) -> None:
    file, other = tmp_path / "ca.pem", Authority.create(2)
    file.write_bytes(ROOT.pem + other.pem)
    issuers = {1: ROOT, 2: ROOT, 3: other}
    async with a_mesh(macula.Trust.realm(file), 3, identity_of=lambda n: issuers[n].issue(n)) as (_, (one, two, three)):
        file.write_bytes(ROOT.pem)
        one.reload_trust()
        assert {peer.node_id for peer in one.peers()} == {two.node_id}
        with pytest.raises(macula.TrustError):
            await one.ping(macula.Contact(node_id=three.node_id, endpoint=three.endpoint))


async def test_who_is_blocked_is_cut_off_at_once_and_until_unblocked(autojump_clock: Clock) -> None:
    async with a_mesh(macula.Trust.open(), 3) as (_, (one, two, three)), three.advertise("test.add", add):
        assert await one.call("test.add", {"a": 1, "b": 2}) == 3
        one.block(three.node_id)
        assert not knows(one, three.node_id)
        with pytest.raises(macula.MeshError):
            await one.call("test.add", {"a": 1, "b": 2})
        assert await two.call("test.add", {"a": 1, "b": 2}) == 3, "others decide for themselves"
        with pytest.raises(macula.MeshError, match="blocked|in vain"):
            await three.ping(macula.Contact(node_id=one.node_id, endpoint=one.endpoint))
        one.unblock(three.node_id)
        await trio.sleep(61)
        await three.ping(macula.Contact(node_id=one.node_id, endpoint=one.endpoint))
        with pytest.raises(ValueError, match="itself"):
            one.block(one.node_id)


async def test_a_policy_whose_file_cannot_be_used_opens_nothing(autojump_clock: Clock, tmp_path: Path) -> None:
    network = SimNetwork()
    (tmp_path / "ca.pem").write_text("no certificate")
    for trust, complaint in (
        (macula.Trust.realm(tmp_path / "missing"), "cannot be read"),
        (macula.Trust.realm(tmp_path / "ca.pem"), "no certificate in PEM form"),
        (macula.Trust.only(tmp_path / "ca.pem"), "line 1"),
    ):
        with pytest.raises(macula.TrustError, match=complaint):
            await entering(network, trust, MEMBER)
        with pytest.raises(macula.TrustError, match=complaint):
            await macula.send_message("10.0.0.1:1", 3, {"timestamp": 1}, realm=REALM, trust=trust, network=network)  # type: ignore[arg-type]
    assert network.bound == []


async def test_a_node_does_not_become_gullible_while_it_runs(autojump_clock: Clock) -> None:
    async with a_mesh(macula.Trust.open()) as (_, (node,)):
        with pytest.raises(ValueError, match=r"Trust\.unverified"):
            node.reload_trust(macula.Trust.unverified())
        assert node.trust == macula.Trust.open()


# -- one key, two nodes --------------------------------------------------------------------------------------------


async def test_two_nodes_with_one_key_do_not_fight(autojump_clock: Clock) -> None:
    shared = sim_identity(50)
    early_config = config(macula.Trust.open(), require_bootstrap=False)
    late_config = config(macula.Trust.open(), require_bootstrap=False, listen="10.9.9.8:9")
    async with (
        a_mesh(macula.Trust.open(), 2) as (network, (one, _)),
        macula.open_node(early_config, identity=shared, network=network) as early,
    ):
        target = macula.Contact(node_id=one.node_id, endpoint=one.endpoint)
        with one.events() as seen, early.events() as told:
            async with macula.open_node(late_config, identity=shared, network=network) as late:
                for _ in range(3):
                    await trio.sleep(1)
                    with pytest.raises(macula.MeshError, match="key|in vain"):
                        await early.ping(target)
                    links = [link for link in one._registry.links if link.node_id == shared.node_id]
                    assert [link.instance for link in links] == [late._party.instance]
                    await late.ping(target)
            await first(told, "identity_conflict")
            await first(seen, "identity_conflict")


# -- values ----------------------------------------------------------------------------------------------------------


async def test_the_values_of_who_is_blocked_are_gone_and_refused(autojump_clock: Clock) -> None:
    async with a_mesh(macula.Trust.open(), 3) as (_, (one, two, three)), three.advertise("test.add", add):
        assert any(value.node_id == three.node_id for value in one.stored_values())
        one.block(three.node_id)
        assert not any(value.node_id == three.node_id for value in one.stored_values())
        assert await one.find_providers("test.add") == [], "not even when others hold and tell it"
        assert [c.node_id for c in await two.find_providers("test.add")] == [three.node_id]
        with pytest.raises(macula.NoProviders):
            await one.call("test.add", {"a": 1, "b": 2})
        record = next(value for value in two.stored_values() if value.node_id == three.node_id)
        # What one trusts and another does not is no lie: whoever passes it on is not charged for one.
        for _ in range(STORES_BURST // FORGERY_STORES + 5):
            reply = await two._dht.client.put_at(macula.Contact(node_id=one.node_id, endpoint=one.endpoint), record)
            assert (reply.result, reply.reason) == ("error", "untrusted")


async def test_a_member_does_not_bring_in_the_values_of_others(autojump_clock: Clock) -> None:
    """Who is let in may well hold and pass on what a stranger signed."""
    async with a_mesh(macula.Trust.realm(ROOT.pem), 2, identity_of=ROOT.issue) as (network, (one, two)):
        key = macula.dht_key("test.add")
        strangers = [sim_identity(66), Authority.create(2).issue(66), ROOT.issue(66, names=["other.realm"])]
        target = macula.Contact(node_id=one.node_id, endpoint=one.endpoint)
        for stranger in strangers:
            for with_chain in (True, False):
                record = sign_record(
                    stranger,
                    realm=REALM,
                    key=key,
                    kind="service",
                    endpoint="10.6.6.6:6",
                    metadata={},
                    seq=network.wall_clock_ms(),
                    expires_ms=network.wall_clock_ms() + 60_000,
                    with_chain=with_chain,
                )
                reply = await two._dht.client.put_at(target, record)
                assert (reply.result, reply.reason) == ("error", "untrusted")
                assert two._dht._values.put(record, network.wall_clock_ms()).stored  # it keeps it itself
                assert await one.find_providers("test.add") == [], "and tells it"
                two._dht._values.drop(lambda _held: True)
        assert one.stored_values() == []


async def test_the_values_of_a_member_end_with_its_certificate(autojump_clock: Clock) -> None:
    soon = datetime.datetime.fromtimestamp(EPOCH_MS / 1000 + 100, datetime.UTC)
    async with a_mesh(macula.Trust.realm(ROOT.pem), 2, identity_of=ROOT.issue) as (network, (one, two)):
        visitor = ROOT.issue(9, end=soon)
        visiting = config(macula.Trust.open(), value_ttl_s=3000)
        async with macula.open_node(visiting, identity=visitor, network=network) as node:
            node._party.judge.change(macula.Trust.realm(ROOT.pem))  # its values carry its certificates
            report = await node.store(bytes(32), {})
            assert set(report.stored) >= {one.node_id, two.node_id}
        assert len(await one.find_value(bytes(32))) == 1
        await trio.sleep(101)
        assert await one.find_value(bytes(32)) == []
        assert await two.find_value(bytes(32)) == []
        await trio.sleep(700)
        assert one.stored_values() == [], "dropped at the next refresh, long before its own time is over"


async def test_a_report_says_that_replicas_do_not_trust_us(autojump_clock: Clock) -> None:
    async with a_mesh(macula.Trust.open(), 3) as (_, (one, two, three)):
        one._party.judge.change(macula.Trust.realm(ROOT.pem))  # its links stay: only values are judged anew
        report = await three.store(bytes(32), {})
        assert report.refused == {one.node_id: "untrusted"}
        assert set(report.stored) == {two.node_id, three.node_id}


# -- our own certificate -----------------------------------------------------------------------------------------------


@pytest.mark.long
async def test_a_certificate_that_is_due_for_renewal_is_told_in_time_and_renewed(autojump_clock: Clock) -> None:
    begin = datetime.datetime.fromtimestamp(EPOCH_MS / 1000, datetime.UTC)
    day = datetime.timedelta(days=1)
    told: list[macula.Event] = []
    first_chain, second_chain = ROOT.issue(1, begin=begin, end=begin + 9 * day), ROOT.issue(1)
    members = macula.NodeConfig(realm=REALM, listen="10.0.0.1:1", trust=macula.Trust.realm(ROOT.pem))
    network = SimNetwork()
    async with macula.open_node(members, identity=first_chain, network=network, listener=told.append) as node:
        due = [event for event in told if event.name == "identity.renewal_due"]
        assert due == []
        await trio.sleep(6.1 * 86_400)
        due = [event for event in told if event.name == "identity.renewal_due"]
        assert due
        assert due[0].facts == {"valid_until": (begin + 9 * day).isoformat(), "days_left": pytest.approx(3, abs=0.1)}
        with pytest.raises(macula.IdentityFileError, match="another key"):
            node.renew_identity(ROOT.issue(2))
        node.renew_identity(second_chain)
        told.clear()
        await trio.sleep(9 * 86_400)
        assert not [event for event in told if event.name.startswith("identity.")]


async def test_a_renewed_certificate_is_the_one_that_others_see(autojump_clock: Clock) -> None:
    soon = datetime.datetime.fromtimestamp(EPOCH_MS / 1000 + 100, datetime.UTC)
    async with a_mesh(macula.Trust.realm(ROOT.pem), 2, identity_of=ROOT.issue) as (network, (one, two)):
        visiting = config(macula.Trust.open())
        async with macula.open_node(visiting, identity=ROOT.issue(9, end=soon), network=network) as node:
            node._party.change_trust(macula.Trust.realm(ROOT.pem))
            async with node.advertise("test.add", add):
                assert await one.call("test.add", {"a": 1, "b": 2}) == 3
                node.renew_identity(ROOT.issue(9))
                await trio.sleep(110)
                assert [c.node_id for c in await two.find_providers("test.add")] == [node.node_id], "stored anew"
                assert await one.call("test.add", {"a": 1, "b": 2}) == 3
                link = one._registry.live_link(node.node_id)
                assert link is not None
                assert link.trusted_until_ms > EPOCH_MS + 10**9


async def test_a_node_whose_own_certificate_is_nobodys_is_told(autojump_clock: Clock) -> None:
    told: list[macula.Event] = []
    stranger = macula.NodeConfig(realm=REALM, listen="10.0.0.1:1", trust=macula.Trust.realm(ROOT.pem))
    async with macula.open_node(stranger, identity=sim_identity(1), network=SimNetwork(), listener=told.append):
        await trio.sleep(1)
    assert ["self-signed" in str(e.facts["reason"]) for e in told if e.name == "identity.untrusted"] == [True]

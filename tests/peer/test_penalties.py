"""Who breaks the rules and goes on is refused for a while; who stops is forgiven."""

from __future__ import annotations

import pytest
import trio
from aioquic.tls import Epoch
from quic_tools import (
    REALM,
    Peer,
    connect_bare,
    credentials,
    dial_bare,
    host,
    leftovers,
    open_endpoint,
    open_peer,
    scatter_handshake,
)

from macula_trio._ids import Contact
from macula_trio._net import credit
from macula_trio._net.quic import Connection
from macula_trio._peer import penalties
from macula_trio._peer.handshake import LocalParty, make_connect
from macula_trio._peer.link import QuicLink
from macula_trio._peer.penalties import (
    OFFENCE_PERIOD_S,
    OFFENCES_OF_HOST_MAX,
    OFFENCES_OF_NODE_MAX,
    REFUSED_S,
    Penalties,
)
from macula_trio._trust import Trust
from macula_trio._util import format_endpoint
from macula_trio.errors import ErrorCode, TrustError
from macula_trio.testing import SimNetwork

Clock = trio.testing.MockClock


def test_a_few_offences_are_borne_and_the_next_is_not() -> None:
    it = Penalties()
    assert [it.offend("a", 1.0, offences_max=2) for _ in range(3)] == [False, False, True]
    assert it.refused_for_s("a", 1.0) == REFUSED_S
    assert it.refused_for_s("b", 1.0) == 0
    assert it.refused_for_s("a", 1.0 + REFUSED_S / 2) == REFUSED_S / 2
    assert it.refused_for_s("a", 1.0 + REFUSED_S) == 0


def test_offences_are_forgiven_after_their_time() -> None:
    it = Penalties()
    assert not it.offend("a", 0.0, offences_max=1)
    assert not it.offend("a", OFFENCE_PERIOD_S, offences_max=1)
    assert it.offend("a", OFFENCE_PERIOD_S + 1, offences_max=1)
    # The count begins anew: the penalty itself is what remains.
    assert not it.offend("a", OFFENCE_PERIOD_S + 2, offences_max=1)


def test_the_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(penalties, "OFFENDERS_MAX", 3)
    it = Penalties()
    for number in range(10):
        it.offend(number, 1.0, offences_max=1)
        it.offend(number, 1.0, offences_max=1)
    assert [it.refused_for_s(number, 1.0) > 0 for number in range(10)] == [False] * 7 + [True] * 3
    assert len(it._offences) <= 3


async def offend(peer: Peer, network: SimNetwork, times: int, *, identity: int | None = None) -> list[str]:
    """Break the rules so many times, each on a connection of its own; how each ended."""
    details = []
    async with open_endpoint(network, 2) as attacker:
        for number in range(times):
            recorder = await connect_bare(attacker, peer.address)
            party = LocalParty(
                credentials=credentials(100 + number if identity is None else identity),
                instance=b"attackerattacker",
                realm=REALM,
                trust=Trust.open(),
            )
            recorder.say(make_connect(party, binding=recorder.connection.binding, peer=None))
            recorder.write(b"garbage")
            await trio.sleep(0.5)
            details.append(recorder.detail)
    return details


async def test_a_node_that_insists_is_refused_for_a_while_wherever_it_comes_from(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with open_peer(network, 1) as peer, open_peer(network, 3, identity=50) as honest:
        details = await offend(peer, network, OFFENCES_OF_NODE_MAX + 2, identity=50)
        assert details[:-1] == [ErrorCode.UNSUPPORTED_VERSION] * (OFFENCES_OF_NODE_MAX + 1)
        assert details[-1] == ErrorCode.LIMIT_EXCEEDED
        assert [e.facts["offender"] for e in peer.named("peer.penalized")] == [credentials(50).node_id.hex()]
        with pytest.raises(TrustError, match="is refused for"):
            await peer.registry.link_to(Contact(node_id=honest.node_id, endpoint=format_endpoint(host(3))))
        assert peer.endpoint.counters.connections_dialed == 0, "nor is it dialed"
        await trio.sleep(REFUSED_S)
        assert (await honest.registry.link_to(peer.contact)).node_id == peer.node_id


async def test_a_host_that_insists_under_ever_new_keys_is_not_heard_for_a_while(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with open_peer(network, 1) as peer, open_peer(network, 3) as honest:
        peer.endpoint._admission.is_welcome = peer.registry.is_welcome
        await offend(peer, network, OFFENCES_OF_HOST_MAX + 1)
        assert [e.facts["offender"] for e in peer.named("peer.penalized")] == [host(2)[0]]
        refused = peer.endpoint.counters.connections_refused
        async with open_endpoint(network, 2) as attacker:
            with trio.move_on_after(3), pytest.raises(trio.TooSlowError):
                await connect_bare(attacker, peer.address)
        assert peer.endpoint.counters.connections_refused > refused
        assert (await honest.registry.link_to(peer.contact)).node_id == peer.node_id, "others are served"
        await trio.sleep(REFUSED_S)
        async with open_endpoint(network, 2) as attacker:
            await connect_bare(attacker, peer.address)


async def test_a_host_that_brings_false_proofs_again_and_again_is_not_heard_for_a_while(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with open_peer(network, 1) as peer, open_endpoint(network, 2) as attacker:
        for number in range(OFFENCES_OF_HOST_MAX + 1):
            assert peer.registry.is_welcome(host(2))
            recorder = await connect_bare(attacker, peer.address)
            party = LocalParty(
                credentials=credentials(100 + number), instance=b"attackerattacker", realm=REALM, trust=Trust.open()
            )
            recorder.say(make_connect(party, binding=bytes(32), peer=None))
            await recorder.closed.wait()
            assert recorder.detail == ErrorCode.BAD_PROOF
        assert [e.facts["offender"] for e in peer.named("peer.penalized")] == [host(2)[0]]
        assert not peer.registry.is_welcome(host(2))


async def test_the_other_links_of_an_offender_end_with_the_penalty(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with open_peer(network, 1) as peer, open_peer(network, 3, identity=50, instance=b"attackerattacker") as other:
        link = await other.registry.link_to(peer.contact)
        await offend(peer, network, OFFENCES_OF_NODE_MAX + 1, identity=50)
        assert link.is_closed


async def test_who_has_not_shown_that_he_is_at_an_address_brings_no_penalty_on_it(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first datagrams of a connection may come from a forged address: that of somebody who shall be shut out."""
    monkeypatch.setattr(credit, "PIECES_UNPROVEN_MAX", 4)
    network = SimNetwork()
    async with open_peer(network, 1) as peer, open_endpoint(network, 2) as forger:
        for _ in range(OFFENCES_OF_HOST_MAX + 1):
            recorder = dial_bare(forger, peer.address)
            await scatter_handshake(recorder, Epoch.INITIAL, 8)
            await trio.sleep(0.5)
        await trio.sleep(10)
        assert peer.endpoint.counters.connections_accepted > OFFENCES_OF_HOST_MAX
        assert leftovers(peer.endpoint) == {}
        assert peer.named("peer.penalized") == []
        assert peer.registry.is_welcome(host(2))


async def test_a_handshake_that_breaks_is_not_held_against_the_host_that_it_claims_to_come_from(
    autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """Until it is through, anybody can have written that address into his datagrams."""

    def fail(*_args: object, **_more: object) -> None:
        raise ArithmeticError("planted")

    def break_off(connection: Connection, link: QuicLink) -> QuicLink:
        if connection.path == host(2):
            connection._quic.receive_datagram = fail  # type: ignore[method-assign]
        return link

    network = SimNetwork()
    async with open_peer(network, 1, wrap=break_off) as peer, open_endpoint(network, 2) as attacker:
        for _ in range(2 * OFFENCES_OF_HOST_MAX):
            dial_bare(attacker, peer.address)
        await trio.sleep(0.5)
        assert peer.endpoint.counters.connections_broken >= 2 * OFFENCES_OF_HOST_MAX
        assert peer.named("peer.penalized") == []
        assert peer.registry.is_welcome(host(2))


async def test_who_shares_this_machine_is_known_by_its_id_alone(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with open_peer(network, 1) as peer:
        connection = peer.endpoint.dial(("127.0.0.1", 9), peer.registry.accept)
        for _ in range(OFFENCES_OF_HOST_MAX + 1):
            peer.registry._offended(connection._handler)  # type: ignore[arg-type]
        assert peer.named("peer.penalized") == []
        assert peer.registry.is_welcome(("127.0.0.1", 1))

"""Paths that carry less than the large datagrams: two connections race, one link comes of it, and it is remembered."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest
import realm_tools
import trio
from node_tools import add, watch
from quic_tools import Peer, credentials, host, leftovers, open_peer

import macula_trio as macula
from macula_trio._net import admission
from macula_trio._net.datagram_sizes import DATAGRAM_BYTES, DATAGRAM_BYTES_SMALL, SMALL_REMEMBERED_S
from macula_trio._net.quic import CloseReason, Connection
from macula_trio._peer.link import QuicLink
from macula_trio._util import Address, format_endpoint
from macula_trio._wire import messages as wire
from macula_trio._wire.frame import MessageType
from macula_trio.errors import PeerUnavailable, TrustError
from macula_trio.testing import LinkModel, SimNetwork, open_mesh

Clock = trio.testing.MockClock
ONE, TWO, NOBODY = host(1), host(2), host(9)
SMALL_PATH: Final = LinkModel(mtu_bytes=1372)  # an MTU of 1400, less the headers of IPv4 and UDP
RACE_S: Final = 0.6
CAST: Final = {"procedure": "a.b", "args": b"{}"}


class Wire:
    """A network, and the sizes of the first and the largest datagrams of each direction, sent or not carried."""

    def __init__(self, model: LinkModel | None = None) -> None:
        self.sizes: dict[tuple[Address, Address], list[int]] = {}
        self.network = SimNetwork(link=model, tap=self._tap)

    def _tap(self, source: Address, target: Address, data: bytes) -> bytes:
        self.sizes.setdefault((source, target), []).append(len(data))
        return data

    def first(self, source: Address, target: Address) -> int:
        """Size of the first datagram since this was asked last."""
        return self.sizes.pop((source, target))[0]


@asynccontextmanager
async def open_pair(wire_: Wire, **changes: Any) -> AsyncGenerator[tuple[Peer, Peer], None]:
    async with open_peer(wire_.network, 1, **changes) as one, open_peer(wire_.network, 2, **changes) as two:
        yield one, two


async def connect(one: Peer, two: Peer) -> QuicLink:
    link = await one.registry.link_to(two.contact)
    assert link.node_id == two.node_id
    assert isinstance(await link.ask(wire.Ping(timestamp=1), wire.Pong), wire.Pong)
    return link


def assert_one_link_and_no_trace_of_another(one: Peer, two: Peer) -> None:
    for peer in (one, two):
        assert [event.name for event in peer.events] == ["link.opened"]
        assert len(peer.registry.links) == 1
        assert peer.registry.dial_counters.failed == 0
        assert peer.refused == {}
        assert peer.endpoint._admission.half_open == 0
        assert peer.endpoint.connections == 1, "the loser is gone on both sides"
    assert one.endpoint.counters.connections_dialed == 1
    assert one.endpoint.counters.connections_broken == two.endpoint.counters.connections_broken == 0
    assert two.registry.counters.received["CONNECT"] == 1, "only one of the two ever said who it is"


async def test_a_small_path_is_found_by_a_race_and_remembered_for_ten_minutes(autojump_clock: Clock) -> None:
    wires = Wire(SMALL_PATH)
    async with open_pair(wires) as (one, two):
        dialed = one.endpoint.counters
        started = trio.current_time()
        link = await connect(one, two)
        assert trio.current_time() - started == pytest.approx(RACE_S, abs=0.05)
        assert wires.first(ONE, TWO) == DATAGRAM_BYTES
        await trio.sleep(5)
        assert_one_link_and_no_trace_of_another(one, two)
        assert two.endpoint.counters.connections_accepted == 1
        assert dialed.connections_raced == 1
        link.close()
        await trio.sleep(5)
        wires.sizes.clear()

        started = trio.current_time()
        (await connect(one, two)).close()
        assert trio.current_time() - started < RACE_S
        assert max(wires.sizes[ONE, TWO] + wires.sizes[TWO, ONE]) == DATAGRAM_BYTES_SMALL, "at once, and both ways"
        assert (dialed.connections_dialed, dialed.connections_raced) == (2, 1)

        await trio.sleep(SMALL_REMEMBERED_S)
        wires.sizes.clear()
        await connect(one, two)
        assert wires.first(ONE, TWO) == DATAGRAM_BYTES, "the path may carry more again"
        assert (dialed.connections_dialed, dialed.connections_raced) == (3, 2)


@pytest.mark.parametrize("narrow", [(ONE, TWO), (TWO, ONE)], ids=["to the listener", "to the dialer"])
@pytest.mark.parametrize("demands_retry", [False, True])
async def test_a_path_that_is_small_in_one_direction_only_is_found_too(
    narrow: tuple[Address, Address], demands_retry: bool, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the listener answers is padded to the size of the dialer's first datagram, so it does not come back."""
    if demands_retry:
        monkeypatch.setattr(admission, "HALF_OPEN_FREE", 0)
    wires = Wire()
    async with open_pair(wires) as (one, two):
        wires.network.set_link(SMALL_PATH, *(address[0] for address in narrow))
        await connect(one, two)
        assert (two.endpoint.counters.retries_demanded > 0) == demands_retry
        await trio.sleep(5)
        assert_one_link_and_no_trace_of_another(one, two)
        assert one.endpoint.counters.connections_raced == 1
        assert one.endpoint._sizes.to_dial(TWO, trio.current_time()) == DATAGRAM_BYTES_SMALL


def in_realm(number: int, authority: realm_tools.Authority) -> dict[str, Any]:
    """What a member is, of the realm whose root is `realm_tools.Authority.create`'s first one."""
    trust = macula.Trust.realm(realm_tools.Authority.create().pem)
    return {"credentials": authority.issue(number), "trust": trust, "realm": realm_tools.REALM}


async def test_the_small_rest_of_a_large_answer_does_not_pass_for_one(autojump_clock: Clock) -> None:
    """A chain of certificates takes two datagrams: the full one is lost, and without it the rest cannot be read."""
    wires = Wire()
    authority = realm_tools.Authority.create().child(101).child(102).child(103)
    async with (
        open_peer(wires.network, 1, **in_realm(1, authority)) as one,
        open_peer(wires.network, 2, **in_realm(2, authority)) as two,
    ):
        wires.network.set_link(SMALL_PATH, TWO[0], ONE[0])
        await connect(one, two)
        assert any(size <= SMALL_PATH.mtu_bytes for size in wires.sizes[TWO, ONE][:2]), "something small came back"
        print(wires.sizes[TWO, ONE][:6])
        assert one.endpoint.counters.connections_raced == 1
        await trio.sleep(5)
        assert_one_link_and_no_trace_of_another(one, two)


async def test_both_connections_of_a_race_are_held_to_the_same_certificate(autojump_clock: Clock) -> None:
    wires = Wire(SMALL_PATH)
    good, other = realm_tools.Authority.create(), realm_tools.Authority.create(2)
    strangers = {"credentials": other.issue(2), "trust": macula.Trust.realm(other.pem), "realm": realm_tools.REALM}
    async with (
        open_peer(wires.network, 1, **in_realm(1, good)) as one,
        open_peer(wires.network, 2, **strangers) as two,
    ):
        with pytest.raises(TrustError, match="TLS certificate is refused"):
            await one.registry.dial_endpoint(two.contact.endpoint)
        assert one.endpoint.counters.connections_raced == 1
        assert two.registry.counters.received["CONNECT"] == 0
        assert one.endpoint._sizes.to_dial(TWO, trio.current_time()) == DATAGRAM_BYTES, "a refusal is no success"
        await trio.sleep(10)
        assert leftovers(one.endpoint) == leftovers(two.endpoint) == {}


async def test_both_connections_of_a_race_are_for_the_node_that_was_asked_for(autojump_clock: Clock) -> None:
    wires = Wire(SMALL_PATH)
    async with open_pair(wires) as (one, two):
        with pytest.raises(TrustError):
            await one.registry.dial_endpoint(two.contact.endpoint, expected=credentials(3).node_id)
        assert one.endpoint.counters.connections_raced == 1
        assert list(one.registry._dialer._down._failures) == [(TWO, credentials(3).node_id)], (
            "one failure, and of that wish only"
        )
        assert two.registry.links == []
        assert wires.first(ONE, TWO) == DATAGRAM_BYTES
        await trio.sleep(5)
        wires.sizes.clear()
        await connect(one, two)
        assert wires.first(ONE, TWO) == DATAGRAM_BYTES_SMALL, (
            "who answered is one thing, how much the path carries another"
        )


async def test_a_slow_peer_wins_with_the_large_ones_while_the_race_is_on(autojump_clock: Clock) -> None:
    wires = Wire(LinkModel(latency_s=0.4))
    async with open_pair(wires) as (one, two):
        started = trio.current_time()
        await connect(one, two)
        assert trio.current_time() - started == pytest.approx(3 * 0.8), "three round trips from the first dial on"
        assert one.endpoint.counters.connections_raced == 1
        await trio.sleep(3)  # less than the listener would wait for a loser that did not say so
        assert_one_link_and_no_trace_of_another(one, two)
        assert two.endpoint.counters.connections_accepted == 2
        wires.sizes.clear()
        one.registry.links[0].close()
        await trio.sleep(5)
        wires.sizes.clear()
        await connect(one, two)
        assert wires.first(ONE, TWO) == DATAGRAM_BYTES, "nothing was learnt"


async def test_whoever_answers_in_time_is_not_raced(autojump_clock: Clock) -> None:
    wires = Wire(LinkModel(latency_s=0.29))  # an answer after 0.58 s
    async with open_pair(wires) as (one, two):
        await connect(one, two)
        await trio.sleep(5)
        assert_one_link_and_no_trace_of_another(one, two)
        assert one.endpoint.counters.connections_raced == 0
        assert two.endpoint.counters.connections_accepted == 1


async def test_a_dead_address_costs_two_connections_and_is_the_error_that_it_was(autojump_clock: Clock) -> None:
    wires = Wire()
    async with open_peer(wires.network, 1, dial_deadline_s=2) as one:
        most = 3
        for _ in range(most):
            started = trio.current_time()
            with pytest.raises(PeerUnavailable, match=r"nobody answered at 10\.7\.0\.9:9443 within 2 s"):
                await one.registry.dial_endpoint(format_endpoint(NOBODY), trusted=True)
            assert trio.current_time() - started == pytest.approx(2, abs=0.01)
            assert wires.first(ONE, NOBODY) == DATAGRAM_BYTES, "that it is silent says nothing of the path"
        with pytest.raises(PeerUnavailable, match="not dialed again"):
            await one.registry.dial_endpoint(format_endpoint(NOBODY))
        counters = one.endpoint.counters
        assert (counters.connections_dialed, counters.connections_raced) == (most, most)
        assert one.registry.dial_counters.failed == most, "a race fails once"
        assert one.events == []
        await trio.sleep(5)
        assert leftovers(one.endpoint) == {}
        assert one.endpoint._sizes._dials == one.endpoint._sizes._runs_for == {}


async def test_a_dial_that_is_over_before_two_time_outs_has_no_race(autojump_clock: Clock) -> None:
    wires = Wire()
    async with open_peer(wires.network, 1, dial_deadline_s=0.5) as one:
        with pytest.raises(PeerUnavailable):
            await one.registry.dial_endpoint(format_endpoint(NOBODY))
        await trio.sleep(5)
        assert one.endpoint.counters.connections_raced == 0
        assert leftovers(one.endpoint) == {}


async def test_two_that_dial_each_other_over_a_small_path_at_once_agree_on_a_link(autojump_clock: Clock) -> None:
    wires = Wire(SMALL_PATH)
    async with open_pair(wires) as (one, two):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connect, one, two)
            nursery.start_soon(connect, two, one)
        ours, theirs = one.registry.live_link(two.node_id), two.registry.live_link(one.node_id)
        assert ours is not None
        assert theirs is not None
        assert ours.is_dialed != theirs.is_dialed, "the two ends of one link"
        assert ours._connection.binding == theirs._connection.binding
        for peer in (one, two):
            assert len(peer.named("link.opened")) == len(peer.events) == 2, "one for each dial"
            assert peer.endpoint.counters.connections_raced == 1
        await ours.ask(wire.Ping(timestamp=2), wire.Pong)


async def test_a_refusal_of_the_large_one_ends_the_small_one_too(autojump_clock: Clock) -> None:
    """A peer that speaks no version of ours answers at once, however small the path is."""

    class Busy:
        def __init__(self, connection: Connection) -> None:
            self.connection = connection

        def handshake_completed(self) -> None:
            pass

        def stream_data_received(self, stream_id: int, data: bytes, end_stream: bool) -> None:
            pass

        def stream_reset(self, stream_id: int) -> None:
            pass

        def moved(self, old: Address, new: Address) -> None:
            pass

        def connection_lost(self, reason: CloseReason, detail: str) -> None:
            ended.append((reason, self.connection.path))

    ended: list[tuple[CloseReason, Address]] = []
    wires = Wire()
    async with open_peer(wires.network, 1) as one:
        connection = one.endpoint.dial(NOBODY, Busy)
        await trio.sleep(RACE_S + 0.1)
        assert one.endpoint.connections == 2
        with connection._contained:
            raise ValueError("what aioquic raises on a malformed answer")
        assert ended == [(CloseReason.FAILED, NOBODY)]
        await trio.sleep(5)
        assert leftovers(one.endpoint) == {}
        assert len(ended) == 1


async def test_a_rival_that_breaks_leaves_the_large_one_its_chance(autojump_clock: Clock) -> None:
    wires = Wire(LinkModel(latency_s=0.5))
    async with open_pair(wires) as (one, two):
        links: list[QuicLink] = []

        async def dial() -> None:
            links.append(await connect(one, two))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(dial)
            await trio.sleep(RACE_S + 0.1)
            rival = next(iter(one.endpoint._sizes._runs_for))
            with rival._contained:
                raise ValueError("what aioquic raises on a malformed answer")
        assert len(links) == 1
        assert one.endpoint.counters.connections_raced == 1
        assert [event.name for event in one.events] == ["link.opened"]


@pytest.mark.parametrize("trust", [macula.Trust.open(), macula.Trust.unverified()], ids=lambda trust: trust.kind)
async def test_the_v08_connector_gets_through_a_small_path_too(trust: macula.Trust, autojump_clock: Clock) -> None:
    wires = Wire(SMALL_PATH)
    async with open_peer(wires.network, 1, trust=trust, realm="org.example.test") as peer:
        casts: list[wire.Cast] = []
        peer.registry.handle(wire.Cast, lambda _link, cast: casts.append(cast))
        await macula.send_message(
            format_endpoint(ONE), MessageType.CAST, CAST, realm="org.example.test", trust=trust, network=wires.network
        )
        assert casts == [wire.Cast(procedure="a.b", args=b"{}")]
        assert len(peer.named("link.opened")) == 1
    assert wires.network.bound == []


@pytest.mark.parametrize("model", [SMALL_PATH, LinkModel(latency_s=0.4)], ids=["small", "slow"])
async def test_a_dial_that_is_given_up_at_any_moment_of_a_race_leaves_nothing(
    model: LinkModel, autojump_clock: Clock
) -> None:
    wires = Wire(model)
    for moment_ms in (100, 599, 600, 601, 603, *range(605, 620), 700, 800, 900, 1199, 1201, 1401, 1601, 2001):
        async with (
            open_peer(wires.network, 1, dial_deadline_s=moment_ms / 1000) as one,
            open_peer(wires.network, 2) as two,
        ):
            try:
                link = await one.registry.link_to(two.contact)
            except PeerUnavailable:
                pass
            else:
                link.close()
            assert one.endpoint._sizes._dials == one.endpoint._sizes._runs_for == {}
            await trio.sleep(10)
            assert leftovers(one.endpoint) == leftovers(two.endpoint) == {}
            assert two.registry.links == []


async def test_a_mesh_on_small_paths_joins_calls_and_leaves(autojump_clock: Clock) -> None:
    network = SimNetwork(link=SMALL_PATH)
    async with open_mesh(3, network=network) as nodes:
        events = watch(nodes[2])
        async with nodes[1].advertise("math.add", add):
            assert await nodes[2].call("math.add", {"a": 2, "b": 3}) == 5
            large = "x" * 200_000  # more than a stranger may send: the winner is the one that was proven
            assert await nodes[2].call("math.add", {"a": large, "b": large}) == large + large
            assert {peer.node_id for peer in nodes[2].peers()} == {node.node_id for node in nodes[:2]}
            assert [event for event in events if event.name == "link.refused"] == []
    assert network.bound == []

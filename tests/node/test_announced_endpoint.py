"""What a node tells others of where it is, while addresses change under it and peers lie about it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

import attrs
import pytest
import trio
from node_tools import add

import macula_trio as macula
from macula_trio._dht.advertiser import RENEWAL_MARGIN_S
from macula_trio._ids import dht_key
from macula_trio._peer import introduction
from macula_trio._peer.announcer import ROUTE_CHECK_S
from macula_trio._peer.handshake import LocalParty
from macula_trio._wire import messages as wire
from macula_trio.abc import Address, DatagramSocket, Storage
from macula_trio.testing import SimNetwork
from macula_trio.testing._mesh import sim_identity
from macula_trio.testing.network import SimHost

pytestmark = pytest.mark.long

REALM: Final = "org.example.test"
PROCEDURE: Final = "where.are.you"
INSIDE: Final = "192.168.1.5"
OUTSIDE: Final = "198.51.100.7"
ELSEWHERE: Final = "203.0.113.9"
Clock = trio.testing.MockClock


class BoundSocket:
    """A socket of a simulated machine that says, as a real one does, where it was bound to."""

    def __init__(self, socket: DatagramSocket, host: str) -> None:
        self._socket = socket
        self._host = host

    @property
    def address(self) -> Address:
        return self._host, self._socket.address[1]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)


class Machine:
    """A simulated machine with a wildcard; behind an address translator when it has an address of its own inside."""

    def __init__(self, host: SimHost, inside: str | None = None) -> None:
        self.host = host
        self.inside = inside
        self.has_route = True

    async def bind(self, address: Address) -> DatagramSocket:
        return BoundSocket(await self.host.bind(address), address[0])  # type: ignore[return-value]  # by its __getattr__

    async def resolve(self, host: str) -> list[str]:
        return await self.host.resolve(host)

    def source_host(self, peer: Address) -> str:
        if not self.has_route:
            raise OSError("no route")
        return self.inside or self.host.address

    def wall_clock_ms(self) -> int:
        return self.host.wall_clock_ms()

    async def open_storage(self, name: str) -> Storage:
        return await self.host.open_storage(name)


def public(number: int) -> str:
    """Each in a network of its own."""
    return f"5.0.{number}.1"


@asynccontextmanager
async def a_mesh(size: int, address: Callable[[int], str] = public) -> AsyncGenerator[tuple[SimNetwork, Any], None]:
    """Nodes that listen on one address each and have joined by the first."""
    network = SimNetwork()
    async with AsyncExitStack() as stack:
        nodes = []
        for number in range(1, size + 1):
            host = network.host(f"n{number}", address(number))
            bootstrap = [f"{address(1)}:9443"] if nodes else []
            config = macula.NodeConfig(realm=REALM, listen=f"{address(number)}:9443", bootstrap=bootstrap)
            nodes.append(
                await stack.enter_async_context(macula.open_node(config, identity=sim_identity(number), network=host))
            )
        yield network, nodes
        await trio.lowlevel.checkpoint()


@asynccontextmanager
async def a_mover(
    machine: Machine, bootstrap: macula.Node, **changes: Any
) -> AsyncGenerator[tuple[macula.Node, list[macula.Event]], None]:
    """A node that listens on the wildcard, offers something, and whatever happens in it."""
    events: list[macula.Event] = []
    fields: dict[str, Any] = {"realm": REALM, "listen": "0.0.0.0:9443", "bootstrap": [bootstrap.endpoint]}
    async with (
        macula.open_node(
            macula.NodeConfig(**(fields | changes)),
            identity=sim_identity(99),
            network=machine,
            listener=events.append,
        ) as mover,
        mover.advertise(PROCEDURE, add),
    ):
        yield mover, events


def changes_of(events: Iterable[macula.Event]) -> list[tuple[Any, Any]]:
    return [(e.facts["before"], e.facts["endpoint"]) for e in events if e.name == "endpoint.changed"]


async def assert_found(network: SimNetwork, mover: macula.Node, bootstrap: macula.Node, endpoint: str) -> None:
    """Somebody who never knew another address finds it at this one, and calls it there."""
    config = macula.NodeConfig(realm=REALM, listen="5.9.9.9:9443", bootstrap=[bootstrap.endpoint], leaf=True)
    host = network.host("fresh", "5.9.9.9")
    async with macula.open_node(config, identity=sim_identity(98), network=host) as fresh:
        found = await fresh.find_providers(PROCEDURE)
        assert [(contact.node_id, contact.endpoint) for contact in found] == [(mover.node_id, endpoint)]
        with trio.fail_after(3):
            assert await fresh.call(PROCEDURE, {"a": 2, "b": 3}) == 5


def known_at(nodes: Iterable[macula.Node], mover: macula.Node) -> set[str]:
    """Where it is in the tables of others."""
    return {c.endpoint for node in nodes for c in node.known_nodes() if c.node_id == mover.node_id}


# -- how it learns ----------------------------------------------------------------------------------------------------


async def test_behind_a_translator_a_node_is_found_where_others_see_it(autojump_clock: Clock) -> None:
    async with a_mesh(5) as (network, nodes):
        machine = Machine(network.host("mover", OUTSIDE), inside=INSIDE)
        async with a_mover(machine, nodes[0]) as (mover, events):
            await trio.sleep(2)
            assert changes_of(events) == [(f"{INSIDE}:9443", f"{OUTSIDE}:9443")]
            assert mover.endpoint == f"{OUTSIDE}:9443"
            assert known_at(nodes, mover) == {f"{OUTSIDE}:9443"}
            await assert_found(network, mover, nodes[0], f"{OUTSIDE}:9443")


async def test_a_mesh_of_two_is_told_by_the_route_alone(autojump_clock: Clock) -> None:
    async with a_mesh(1) as (network, (bootstrap,)):
        machine = Machine(network.host("mover", OUTSIDE))
        async with a_mover(machine, bootstrap) as (mover, events):
            assert mover.endpoint == f"{OUTSIDE}:9443"
            machine.host.change_address(ELSEWHERE)
            await trio.sleep(ROUTE_CHECK_S + 2)
            assert changes_of(events) == [(f"{OUTSIDE}:9443", f"{ELSEWHERE}:9443")]
            assert known_at([bootstrap], mover) == {f"{ELSEWHERE}:9443"}
            await assert_found(network, mover, bootstrap, f"{ELSEWHERE}:9443")


async def test_a_node_that_moves_is_found_at_its_new_address(autojump_clock: Clock) -> None:
    async with a_mesh(6) as (network, nodes):
        machine = Machine(network.host("mover", OUTSIDE))
        async with a_mover(machine, nodes[0]) as (mover, events):
            await trio.sleep(5)
            assert known_at(nodes, mover) == {f"{OUTSIDE}:9443"}
            machine.host.change_address(ELSEWHERE)
            await trio.sleep(60)
            assert changes_of(events) == [(f"{OUTSIDE}:9443", f"{ELSEWHERE}:9443")]
            assert known_at(nodes, mover) == {f"{ELSEWHERE}:9443"}
            await assert_found(network, mover, nodes[0], f"{ELSEWHERE}:9443")


async def test_when_its_translator_moves_others_tell_it(autojump_clock: Clock) -> None:
    """Its own address stays, so nothing but what peers see can say it; and nobody talks to it meanwhile."""
    async with a_mesh(6) as (network, nodes):
        machine = Machine(network.host("mover", OUTSIDE), inside=INSIDE)
        async with a_mover(machine, nodes[0]) as (mover, events):
            await trio.sleep(5)
            machine.host.change_address(ELSEWHERE)
            await trio.sleep(macula.NodeConfig(realm=REALM).value_ttl_s - RENEWAL_MARGIN_S + 5)
            assert changes_of(events)[-1] == (f"{OUTSIDE}:9443", f"{ELSEWHERE}:9443")
            assert known_at(nodes, mover) == {f"{ELSEWHERE}:9443"}
            await assert_found(network, mover, nodes[0], f"{ELSEWHERE}:9443")


async def test_links_that_never_fall_silent_tell_it_too_and_stay(autojump_clock: Clock) -> None:
    async with a_mesh(6) as (network, nodes):
        machine = Machine(network.host("mover", OUTSIDE), inside=INSIDE)
        async with a_mover(machine, nodes[0]) as (mover, events):
            await trio.sleep(5)
            links = [link for link in mover._registry.links if link.is_dialed]
            assert len(links) >= 3
            machine.host.change_address(ELSEWHERE)
            del events[:]
            for number in range(80):  # longer than the pause between two changes
                await trio.sleep(1)
                for link in links:
                    await link.ask(wire.Ping(timestamp=number), wire.Pong)
            assert changes_of(events) == [(f"{OUTSIDE}:9443", f"{ELSEWHERE}:9443")]
            assert not any(link.is_closed for link in links)
            await assert_found(network, mover, nodes[0], f"{ELSEWHERE}:9443")


async def test_what_is_advertised_is_signed_anew_at_once(autojump_clock: Clock) -> None:
    async with a_mesh(3) as (network, nodes):
        machine = Machine(network.host("mover", OUTSIDE))
        async with a_mover(machine, nodes[0]):
            machine.host.change_address(ELSEWHERE)
            await trio.sleep(ROUTE_CHECK_S + 1)
            for node in nodes:
                (record,) = [r for r in node.stored_values() if r.key == dht_key(PROCEDURE)]
                assert record.endpoint == f"{ELSEWHERE}:9443"


async def test_a_node_without_a_route_is_there_when_one_comes(autojump_clock: Clock) -> None:
    async with a_mesh(1) as (network, (bootstrap,)):
        machine = Machine(network.host("mover", OUTSIDE))
        machine.has_route = False
        async with a_mover(machine, bootstrap, join_deadline_s=0.5) as (mover, events):
            assert mover.endpoint == "127.0.0.1:9443"
            await trio.sleep(2 * ROUTE_CHECK_S)
            assert changes_of(events) == []
            machine.has_route = True
            await trio.sleep(ROUTE_CHECK_S)
            assert mover.endpoint == f"{OUTSIDE}:9443"
            machine.has_route = False  # it keeps what it had
            await trio.sleep(ROUTE_CHECK_S)
            assert changes_of(events) == [("127.0.0.1:9443", f"{OUTSIDE}:9443")]


@pytest.mark.parametrize(
    "changes", [{"advertise": "198.51.100.200:1"}, {"listen": f"{OUTSIDE}:9443"}], ids=["advertise", "one address"]
)
async def test_who_was_told_what_to_announce_keeps_to_it(changes: dict[str, str], autojump_clock: Clock) -> None:
    async with a_mesh(5) as (network, nodes):
        machine = Machine(network.host("mover", OUTSIDE), inside=INSIDE)
        async with a_mover(machine, nodes[0], **changes) as (mover, events):
            before = mover.endpoint
            await trio.sleep(5)
            machine.host.change_address(ELSEWHERE)
            machine.inside = "192.168.7.7"
            await trio.sleep(60)
            assert changes_of(events) == []
            assert mover.endpoint == before
            assert before in changes.values()


# -- liars ------------------------------------------------------------------------------------------------------------


def let_lie(monkeypatch: pytest.MonkeyPatch, liars: Iterable[macula.Node], lie: str) -> None:
    """Have nodes say in every PONG that they see the other there."""
    parties = [liar._party for liar in liars]
    make_pong = introduction.make_pong

    def make(party: LocalParty, **fields: Any) -> wire.Pong:
        pong = make_pong(party, **fields)
        return attrs.evolve(pong, observed=lie) if party in parties else pong

    monkeypatch.setattr(introduction, "make_pong", make)


@pytest.mark.parametrize("lie", ["198.51.100.66:9443", "10.0.0.66:9443", "0.0.0.0:9443"])
async def test_a_minority_of_liars_does_not_move_a_node(
    lie: str, monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock
) -> None:
    async with a_mesh(7) as (network, nodes):
        let_lie(monkeypatch, nodes[:3], lie)
        async with a_mover(Machine(network.host("mover", OUTSIDE)), nodes[0]) as (mover, events):
            await trio.sleep(20)
            assert len(mover.known_nodes()) == 7
            assert changes_of(events) == []
            await assert_found(network, mover, nodes[0], f"{OUTSIDE}:9443")


async def test_all_nodes_of_one_network_together_are_one_liar(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock
) -> None:
    async with a_mesh(7, lambda number: f"5.5.5.{number}") as (network, nodes):
        let_lie(monkeypatch, nodes, "198.51.100.66:9443")
        async with a_mover(Machine(network.host("mover", OUTSIDE)), nodes[0]) as (_, events):
            await trio.sleep(20)
            assert changes_of(events) == []


async def test_most_of_all_peers_can_have_a_node_announce_a_wrong_address(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock
) -> None:
    """What the page on security admits; no table believes it."""
    async with a_mesh(5) as (network, nodes):
        let_lie(monkeypatch, nodes, "198.51.100.66:9443")
        async with a_mover(Machine(network.host("mover", OUTSIDE)), nodes[0]) as (mover, events):
            await trio.sleep(20)
            assert changes_of(events) == [(f"{OUTSIDE}:9443", "198.51.100.66:9443")]
            assert known_at(nodes, mover) <= {f"{OUTSIDE}:9443"}

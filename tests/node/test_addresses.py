"""Where nodes listen, what they tell of it, and how they find others by names, families and scopes."""

from __future__ import annotations

import errno
from typing import Any

import attrs
import pytest
import trio
from node_tools import add, watch
from trio.testing import MockClock as Clock

import macula_trio as macula
from macula_trio._addresses import own_endpoint, with_route
from macula_trio._net.families import obstacle
from macula_trio._util import Address, is_unspecified
from macula_trio.abc import DatagramNetwork, DatagramSocket
from macula_trio.testing import SimNetwork

REALM = "org.example.test"


def config(**fields: Any) -> macula.NodeConfig:
    return macula.NodeConfig(**({"realm": REALM, "listen": "10.0.0.1:9443"} | fields))


# -- names ------------------------------------------------------------------------------------------------------------


async def test_a_name_whose_first_address_is_dead_is_joined_by_the_next_one_at_once(autojump_clock: Clock) -> None:
    network = SimNetwork(hosts={"gate": ["10.9.9.9", "10.0.0.1"]})
    async with macula.open_node(config(), network=network) as gate:
        started = trio.current_time()
        async with macula.open_node(config(listen="10.0.0.2:1", bootstrap=["gate:9443"]), network=network) as node:
            assert [contact.node_id for contact in node.known_nodes()] == [gate.node_id]
            assert trio.current_time() - started < 0.5


async def test_a_name_with_addresses_of_both_families_is_joined_by_the_one_that_we_speak(
    autojump_clock: Clock,
) -> None:
    network = SimNetwork(hosts={"localhost": ["::1", "10.0.0.1"]})
    async with macula.open_node(config(), network=network) as gate:
        started = trio.current_time()
        async with macula.open_node(config(listen="10.0.0.2:1", bootstrap=["localhost:9443"]), network=network) as node:
            assert [contact.endpoint for contact in node.known_nodes()] == [gate.endpoint]
            assert trio.current_time() - started < 0.2  # nobody waited for what cannot be reached


async def test_a_name_is_asked_anew_at_every_dial(autojump_clock: Clock) -> None:
    network = SimNetwork()
    machine = network.host("gate", "10.0.0.1")
    seeker = config(listen="10.0.0.2:1", bootstrap=["gate:9443"], keepalive_s=1)
    async with macula.open_node(seeker, network=network) as node:
        assert node.known_nodes() == []  # nobody is there yet
        machine.change_address("10.0.0.77")
        async with macula.open_node(config(listen="0.0.0.0:9443"), network=machine) as gate:
            assert gate.endpoint == "10.0.0.77:9443"
            with trio.fail_after(60):
                await node.wait_joined()
            assert [contact.endpoint for contact in node.known_nodes()] == ["10.0.0.77:9443"]
        with node.events() as events:
            machine.change_address("10.0.0.78")
            async with macula.open_node(config(listen="0.0.0.0:9443"), network=machine) as gate:
                await joined_by(events, node, gate)


async def joined_by(events: macula.EventStream, node: macula.Node, gate: macula.Node) -> None:
    with trio.fail_after(120):
        async for event in events:
            if event.name == "node.joined" and gate.node_id in {contact.node_id for contact in node.known_nodes()}:
                return


async def test_one_frame_reaches_a_name_whose_first_address_is_dead(autojump_clock: Clock) -> None:
    network = SimNetwork(hosts={"gate": ["10.9.9.9", "10.0.0.1"]})
    async with macula.open_node(config(), network=network) as gate:
        await macula.send_message(
            "gate:9443", macula.wire.MessageType.PING, {"timestamp": 1}, realm=REALM, network=network
        )
        assert gate.statistics().frames_received["PING"] >= 1


async def test_what_listens_by_a_name_takes_the_address_from_which_it_reaches_its_bootstrap(
    autojump_clock: Clock,
) -> None:
    network = SimNetwork(hosts={"localhost": ["fd00::2", "10.0.0.2"]})
    async with macula.open_node(config(), network=network) as gate:
        seeker = config(listen="localhost:1", bootstrap=[gate.endpoint])
        async with macula.open_node(seeker, network=network) as node:
            assert node.endpoint == "10.0.0.2:1"
            assert len(node.known_nodes()) == 1
    async with macula.open_node(config(listen="localhost:1"), network=network) as node:
        assert node.endpoint == "[fd00::2]:1"


# -- families ---------------------------------------------------------------------------------------------------------


async def test_what_our_socket_cannot_reach_is_told_at_once_and_not_held_against_it(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with macula.open_node(config(), network=network) as node:
        other = macula.Contact(node_id=macula.Identity.generate().node_id, endpoint="[::1]:9443")
        started = trio.current_time()
        for _ in range(5):
            with pytest.raises(macula.PeerUnavailable, match=r"^\[::1\]:9443 cannot be reached: .*on \[::\]:9443"):
                await node.ping(other)
        assert trio.current_time() == started
        assert node._registry._dialer._down._failures == {}


async def test_a_bootstrap_out_of_reach_is_told_at_once_and_ends_what_requires_it(autojump_clock: Clock) -> None:
    network = SimNetwork()
    started = trio.current_time()
    hopeless = config(bootstrap=["[fd00::1]:9443"], require_bootstrap=True)
    with pytest.raises(macula.PeerUnavailable, match=r"\[fd00::1\]:9443 cannot be reached: .* listen on \[::\]:9443"):
        async with macula.open_node(hopeless, network=network):
            raise AssertionError("entered")
    assert trio.current_time() == started
    assert network.bound == []


async def test_a_node_on_both_families_is_where_they_meet_and_addresses_are_plain(autojump_clock: Clock) -> None:
    network = SimNetwork()
    machine = network.host("both", "10.0.0.1", also=["fd00::1"])
    async with (
        macula.open_node(config(listen="[::]:9443"), network=machine) as both,
        both.advertise("test.add", add),
        macula.open_node(config(listen="10.0.0.4:9443", bootstrap=["10.0.0.1:9443"]), network=network) as four,
        macula.open_node(config(listen="[fd00::6]:9443", bootstrap=["[fd00::1]:9443"]), network=network) as six,
    ):
        assert both.endpoint == "10.0.0.1:9443"  # one can be told; most others are reached by IPv4
        assert {contact.endpoint for contact in both.known_nodes()} == {"10.0.0.4:9443", "[fd00::6]:9443"}
        assert {link.peer_host for link in both._registry.links} == {"10.0.0.4", "fd00::6"}
        for node in (four, six):
            assert await node.call("test.add", {"a": 1, "b": 2}) == 3
        # Told of each other by the one in the middle, neither waits for the other.
        started = trio.current_time()
        contact = macula.Contact(node_id=four.node_id, endpoint=four.endpoint)
        with pytest.raises(macula.PeerUnavailable, match="is IPv6 only"):
            await six.ping(contact)
        assert trio.current_time() == started


# -- scopes -----------------------------------------------------------------------------------------------------------


async def test_a_mesh_on_one_link_works_and_tells_nobody_of_the_interface(autojump_clock: Clock) -> None:
    network = SimNetwork()

    def on_link(number: int, **fields: Any) -> macula.NodeConfig:
        return config(listen=f"[fe80::{number}%lan]:9443", **fields)

    gate_endpoint = "[fe80::1%lan]:9443"
    async with (
        macula.open_node(on_link(1), network=network) as gate,
        macula.open_node(on_link(2, bootstrap=[gate_endpoint]), network=network) as two,
        two.advertise("test.add", add),
        macula.open_node(on_link(3, bootstrap=[gate_endpoint]), network=network) as three,
    ):
        assert (gate.endpoint, two.endpoint) == ("[fe80::1]:9443", "[fe80::2]:9443")
        await trio.sleep(5)
        # Whom the others know by the gate's word, they know with the scope of the link that it came by.
        assert {contact.endpoint for contact in three.known_nodes()} == {gate_endpoint, "[fe80::2%lan]:9443"}
        [provider] = await three.find_providers("test.add")
        assert provider == macula.Contact(node_id=two.node_id, endpoint="[fe80::2%lan]:9443")
        assert await three.call("test.add", {"a": 1, "b": 2}) == 3
        entries = gate._dht._server._entries(three.node_id, next(iter(gate._registry.links)))
        assert entries
        assert not any("%" in entry.address for entry in entries)
        announced = {node._party.endpoint for node in (gate, two, three)}
        assert announced == {f"[fe80::{number}]:9443" for number in (1, 2, 3)}


async def test_a_link_local_address_without_an_interface_is_not_dialed(autojump_clock: Clock) -> None:
    async with macula.open_node(config(listen="[fe80::1%lan]:9443"), network=SimNetwork()) as node:
        other = macula.Contact(node_id=macula.Identity.generate().node_id, endpoint="[fe80::2]:9443")
        with pytest.raises(macula.PeerUnavailable, match=r"name the interface that leads there, such as fe80::2%eth0"):
            await node.ping(other)


def test_an_interface_cannot_be_advertised() -> None:
    with pytest.raises(ValueError, match="advertise: .* names an interface, which means nothing on other machines"):
        config(advertise="[fe80::1%eth0]:9443")


# -- what others are told ---------------------------------------------------------------------------------------------


@attrs.frozen
class Machine:
    """A network as `own_endpoint` sees it: which of our addresses leads where."""

    routes: dict[str, str]

    def source_host(self, peer: Address) -> str:
        try:
            return self.routes[peer[0]]
        except KeyError:
            raise OSError(errno.ENETUNREACH, "Network is unreachable") from None


@attrs.frozen
class Bound:
    address: Address
    is_dual: bool = True

    def obstacle(self, host: str) -> str | None:
        return obstacle(self.address, host, is_dual=self.is_dual and is_unspecified(self.address[0]))


FOUR, SIX = "192.0.2.1", "2001:db8::1"  # anywhere
BOTH = {FOUR: "10.0.0.5", SIX: "fd00::5", "10.0.0.9": "10.0.0.5", "fd00::9": "fd00::5", "fe80::9%lan": "fe80::5%lan"}


@pytest.mark.parametrize(
    ("listen", "routes", "bootstrap", "told"),
    [
        ("192.0.2.7", BOTH, "10.0.0.9", "192.0.2.7:9443"),
        ("fe80::7%lan", BOTH, "fe80::9%lan", "[fe80::7]:9443"),
        ("0.0.0.0", BOTH, "10.0.0.9", "10.0.0.5:9443"),
        ("0.0.0.0", BOTH, None, "10.0.0.5:9443"),
        ("0.0.0.0", BOTH, "fd00::9", "10.0.0.5:9443"),
        ("0.0.0.0", {}, None, "127.0.0.1:9443"),
        ("0.0.0.0", {SIX: "fd00::5"}, None, "127.0.0.1:9443"),
        ("::", BOTH, "10.0.0.9", "10.0.0.5:9443"),
        ("::", BOTH, "fd00::9", "[fd00::5]:9443"),
        ("::", BOTH, "fe80::9%lan", "[fe80::5]:9443"),
        ("::", BOTH, None, "10.0.0.5:9443"),
        ("::", {SIX: "fd00::5"}, None, "[fd00::5]:9443"),
        ("::", {}, None, "127.0.0.1:9443"),
    ],
)
def test_a_wildcard_is_told_as_our_address_on_the_way_to_the_bootstrap(
    listen: str, routes: dict[str, str], bootstrap: str | None, told: str
) -> None:
    network: DatagramNetwork = Machine(routes)  # type: ignore[assignment]
    bound: DatagramSocket = Bound((listen, 9443))  # type: ignore[assignment]
    assert own_endpoint(config(), network, bound, None if bootstrap is None else (bootstrap, 1)) == told


def test_where_the_system_keeps_ipv4_out_a_wildcard_is_ipv6() -> None:
    network: DatagramNetwork = Machine({FOUR: "10.0.0.5"})  # type: ignore[assignment]
    bound: DatagramSocket = Bound(("::", 9443), is_dual=False)  # type: ignore[assignment]
    assert own_endpoint(config(), network, bound, None) == "[::1]:9443"
    assert own_endpoint(config(advertise="[::ffff:192.0.2.7]:1"), network, bound, None) == "192.0.2.7:1"


def test_what_has_no_route_is_left_out_unless_nothing_has_one() -> None:
    network: DatagramNetwork = Machine({"10.0.0.9": "10.0.0.5"})  # type: ignore[assignment]
    four, six = ("10.0.0.9", 1), ("fd00::9", 1)
    assert with_route(network, [six, four]) == [four]
    assert with_route(network, [six]) == [six]


async def test_the_failure_of_a_bootstrap_is_an_event_with_the_mend(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with macula.open_node(config(bootstrap=["[fd00::1]:9443"], join_deadline_s=0.1), network=network) as node:
        events = watch(node, "node.bootstrap_failed")
        await trio.sleep(5)
        assert events
        assert all("listen on [::]:9443 for both" in str(event.facts["reason"]) for event in events)
        assert {event.facts["endpoint"] for event in events} == {"[fd00::1]:9443"}

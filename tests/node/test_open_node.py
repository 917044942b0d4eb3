"""Entering and leaving the block of a node, by every door."""

from __future__ import annotations

import pytest
import trio
from quic_tools import Recorder, host, open_endpoint

import macula_trio as macula
from macula_trio._net.quic import Connection
from macula_trio._util import format_endpoint
from macula_trio._wire import messages as wire
from macula_trio._wire.frame import MessageType
from macula_trio.testing import SimNetwork, open_mesh

Clock = trio.testing.MockClock
REALM = "org.example.test"


def config(**changes: object) -> macula.NodeConfig:
    return macula.NodeConfig(**{"realm": REALM, "listen": "10.0.0.1:9443", **changes})  # type: ignore[arg-type]


class Oops(Exception):
    """What a body may raise."""


async def test_an_exception_of_the_body_arrives_as_it_is(autojump_clock: Clock) -> None:
    network = SimNetwork()
    with pytest.raises(Oops) as caught:
        async with macula.open_node(config(), network=network):
            raise Oops
    assert caught.value.__context__ is None or not isinstance(caught.value.__context__, BaseExceptionGroup)
    assert network.bound == []


async def test_a_cancelled_body_says_goodbye_and_is_cancelled(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with (
        open_mesh(1, network=network) as (first,),
        macula.open_node(config(listen="10.0.0.2:1", bootstrap=[first.endpoint]), network=network) as second,
    ):
        assert [peer.node_id for peer in first.peers()] == [second.node_id]
        with trio.CancelScope() as scope:
            async with macula.open_node(
                config(listen="10.0.0.3:1", bootstrap=[first.endpoint]), network=network
            ) as third:
                assert third.node_id in {peer.node_id for peer in first.peers()}
                scope.cancel()
                await trio.sleep_forever()
        assert scope.cancelled_caught
        await trio.sleep(0.01)  # virtual: one way
        assert third.node_id not in {peer.node_id for peer in first.peers()}
        assert first.statistics().frames_received["DISCONNECT"] == 1


async def test_a_bug_in_a_task_of_the_node_arrives_unwrapped(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = SimNetwork()

    async def broken() -> None:
        await trio.sleep(1)
        raise Oops

    monkeypatch.setattr("macula_trio._dht.service.DhtService._refresh", lambda _service: broken())
    with pytest.raises(Oops):
        async with macula.open_node(config(), network=network):
            await trio.sleep_forever()
    assert network.bound == []


async def test_a_nursery_in_the_body_does_not_hide_a_bug_in_a_task_of_the_node(autojump_clock: Clock) -> None:
    async def fail() -> None:
        raise Oops

    async def run() -> None:
        async with macula.open_node(config(), network=SimNetwork()) as node, trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)  # with the body's own there are two Cancelled: a group of them
            node._rpc.callee._background.start_soon(fail, name="a task of the node")
            await trio.sleep_forever()

    # Not only Oops: a Cancelled that escapes would end this test in silence.
    with pytest.raises(BaseException) as caught:  # noqa: PT011
        await run()
    assert type(caught.value) is Oops


async def test_a_port_in_use_is_one_clear_line(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with macula.open_node(config(), network=network):
        with pytest.raises(OSError, match=r"cannot listen on 10\.0\.0\.1:9443"):
            async with macula.open_node(config(), network=network):
                raise AssertionError("entered")


async def test_a_bootstrap_name_that_does_not_resolve_is_one_clear_line(autojump_clock: Clock) -> None:
    network = SimNetwork(hosts={"seed.example": "10.0.0.9"})
    with pytest.raises(OSError, match=r"nowhere\.example"):
        async with macula.open_node(config(bootstrap=["nowhere.example:1"]), network=network):
            raise AssertionError("entered")
    assert network.bound == []
    async with (
        macula.open_node(config(listen="seed.example:9443"), network=network) as seed,
        macula.open_node(config(bootstrap=["seed.example:9443"]), network=network) as node,
    ):
        assert [contact.node_id for contact in node.known_nodes()] == [seed.node_id]


async def test_without_its_bootstrap_a_node_opens_late_and_joins_when_it_comes(autojump_clock: Clock) -> None:
    network = SimNetwork()
    started = trio.current_time()
    async with macula.open_node(config(bootstrap=["10.0.0.9:9443"]), network=network) as node:
        assert trio.current_time() - started == pytest.approx(5, abs=0.1)
        assert node.known_nodes() == []
        async with macula.open_node(config(listen="10.0.0.9:9443"), network=network) as bootstrap:
            with trio.fail_after(120):
                await node.wait_joined()
            assert [contact.node_id for contact in node.known_nodes()] == [bootstrap.node_id]


async def test_what_was_advertised_alone_is_stored_when_the_mesh_is_found(autojump_clock: Clock) -> None:
    async def here(call: macula.Call) -> object:
        return "here"

    network = SimNetwork()
    async with (
        macula.open_node(config(bootstrap=["10.0.0.9:9443"]), network=network) as node,
        node.advertise("a.b", here),
        macula.open_node(config(listen="10.0.0.9:9443"), network=network) as bootstrap,
    ):
        with trio.fail_after(120):
            await node.wait_joined()
        await trio.sleep(1)
        assert await bootstrap.call("a.b") == "here"


async def test_require_bootstrap_refuses_to_open_alone(autojump_clock: Clock) -> None:
    network = SimNetwork()
    with pytest.raises(macula.PeerUnavailable, match=r"10\.0\.0\.9:9443"):
        async with macula.open_node(config(bootstrap=["10.0.0.9:9443"], require_bootstrap=True), network=network):
            raise AssertionError("entered")
    assert network.bound == []


async def test_a_bootstrap_that_is_somebody_else_is_refused(autojump_clock: Clock) -> None:
    network = SimNetwork()
    expected = macula.Identity.generate().node_id
    async with (
        macula.open_node(config(), network=network) as first,
        macula.open_node(
            config(listen="10.0.0.2:1", bootstrap=[f"{expected}@{first.endpoint}"], join_deadline_s=1), network=network
        ) as second,
    ):
        assert first.peers() == second.peers() == []
        assert first.known_nodes() == second.known_nodes() == []


async def test_another_realm_is_refused_on_both_sides(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with macula.open_node(config(), network=network) as first:
        other = config(realm="org.example.other", listen="10.0.0.2:1", bootstrap=[first.endpoint], join_deadline_s=1)
        async with macula.open_node(other, network=network) as second:
            with second.events() as events:
                event = await anext(events)
                while event.name != "node.bootstrap_failed":
                    event = await anext(events)
            assert "realm" in str(event.facts["reason"])
            assert first.statistics().refused["realm_mismatch"] >= 1
            assert first.known_nodes() == second.known_nodes() == []


async def test_a_leaf_finds_and_is_found_but_enters_no_table_and_holds_nothing(autojump_clock: Clock) -> None:
    async def here(call: macula.Call) -> object:
        return "leaf"

    network = SimNetwork()
    async with open_mesh(3, network=network) as nodes:
        leaf_config = config(listen="10.0.1.1:1", bootstrap=[nodes[0].endpoint], leaf=True)
        async with macula.open_node(leaf_config, network=network) as leaf, leaf.advertise("a.leaf", here):
            assert await nodes[2].call("a.leaf") == "leaf"
            async with nodes[1].advertise("a.node", here):
                assert await leaf.call("a.node") == "leaf"
            assert leaf.stored_values() == []
            for node in nodes:
                assert leaf.node_id not in {contact.node_id for contact in node.known_nodes()}


async def test_a_closed_node_says_that_it_is_closed(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with macula.open_node(config(), network=network) as node:
        pass
    with pytest.raises(trio.ClosedResourceError):
        await node.call("a.b")
    with pytest.raises(trio.ClosedResourceError):
        await node.publish("a.b", 1)
    with pytest.raises(trio.ClosedResourceError):
        async with node.subscribe("a.b"):
            raise AssertionError("entered")
    with pytest.raises(trio.ClosedResourceError):
        await node.find_node(bytes(32))


async def test_a_node_sends_a_frame_over_its_live_link(autojump_clock: Clock) -> None:
    got: list[object] = []

    async def note(call: macula.Call) -> object:
        got.append((call.args, call.caller))

    async with open_mesh(2) as (first, second), first.advertise("a.note", note):
        contact = macula.Contact(node_id=first.node_id, endpoint=first.endpoint)
        await second.send_message(contact, MessageType.CAST, {"procedure": "a.note", "args": b'{"n":1}'})
        await trio.sleep(0.1)
        assert got == [({"n": 1}, second.node_id)]
        assert first.statistics().links == 1


async def test_a_hundred_send_message_at_once_all_arrive(autojump_clock: Clock) -> None:
    got: list[object] = []

    async def note(call: macula.Call) -> object:
        got.append(call.args)

    network = SimNetwork()
    async with open_mesh(1, network=network) as (node,), node.advertise("a.note", note):

        async def send(number: int) -> None:
            body = {"procedure": "a.note", "args": str(number)}
            await macula.send_message(node.endpoint, MessageType.CAST, body, realm=REALM, network=network)

        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(send, number)
        await trio.sleep(1)
        assert sorted(got, key=str) == sorted(range(100), key=str)
        assert network.bound == [("10.0.0.1", 9443)]


async def test_send_message_needs_a_realm_to_prove_itself_in() -> None:
    with pytest.raises(ValueError, match="realm"):
        await macula.send_message("127.0.0.1:1", MessageType.PING, {"timestamp": 1})


async def test_a_node_that_has_left_is_handed_out_no_more(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with open_mesh(4, network=network) as nodes:
        async with macula.open_node(
            config(listen="10.0.1.1:1", bootstrap=[nodes[0].endpoint]), network=network
        ) as guest:
            assert all(guest.node_id in {c.node_id for c in node.known_nodes()} for node in nodes)
        await trio.sleep(0.1)  # virtual: the goodbye has arrived
        assert not any(guest.node_id in {c.node_id for c in node.known_nodes()} for node in nodes)
        started = trio.current_time()
        assert len(await nodes[3].find_node(guest.node_id)) == 3
        assert trio.current_time() - started < 0.1, "nobody waits for the one who left"


async def test_a_node_that_died_delays_a_lookup_by_moments_only(autojump_clock: Clock) -> None:
    gone: list[tuple[str, int]] = []
    network = SimNetwork(tap=lambda source, target, data: None if source in gone or target in gone else data)
    async with open_mesh(5, network=network) as nodes:
        gone.append(("10.0.0.5", 9443))
        started = trio.current_time()
        found = await nodes[1].find_node(nodes[4].node_id)
        assert nodes[4].node_id not in {contact.node_id for contact in found}
        assert trio.current_time() - started < 1


async def test_a_required_bootstrap_that_refuses_says_why_at_once(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with macula.open_node(config(), network=network) as first:
        other = config(
            realm="org.example.other", listen="10.0.0.2:1", bootstrap=[first.endpoint], require_bootstrap=True
        )
        started = trio.current_time()
        with pytest.raises(macula.RealmMismatch, match=r"org\.example\.other"):
            async with macula.open_node(other, network=network):
                raise AssertionError("entered")
        assert trio.current_time() - started < 1


async def test_a_listener_hears_what_happens_before_the_block_is_entered(autojump_clock: Clock) -> None:
    network = SimNetwork()
    heard: list[str] = []
    async with open_mesh(1, network=network) as (first,):
        async with macula.open_node(
            config(listen="10.0.0.2:1", bootstrap=[first.endpoint]),
            network=network,
            listener=lambda event: heard.append(event.name),
        ):
            assert heard[:2] == ["link.opened", "node.joined"]
        assert heard[-1] == "link.closed"


async def test_a_call_that_fails_is_told_with_its_reason(autojump_clock: Clock) -> None:
    async with open_mesh(1) as (node,):
        with node.events() as events:
            with pytest.raises(macula.NoProviders):
                await node.call("nobody.there")
            event = await anext(events)
        assert event.name == "rpc.failed"
        assert event.facts["reason"] == "NoProviders: no node advertises 'nobody.there'"


async def test_nobody_talks_a_node_out_of_its_bootstrap_node(autojump_clock: Clock) -> None:
    """Whoever has its address for a moment proves nothing; of ourselves we would never ask again."""

    class Liar(Recorder):
        def stream_data_received(self, stream_id: int, data: bytes, end_stream: bool) -> None:
            super().stream_data_received(stream_id, data, end_stream)
            self.say(wire.Disconnect(reason="own_identity"))

    network, place = SimNetwork(), format_endpoint(host(2))
    lies: list[Liar] = []

    def accept(connection: Connection) -> Liar:
        lies.append(Liar(connection))
        return lies[-1]

    async def lie(*, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
        with trio.CancelScope() as scope:
            async with open_endpoint(network, 2, accept=accept):
                task_status.started(scope)
                await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        liar = await nursery.start(lie)
        async with macula.open_node(config(bootstrap=[place], require_bootstrap=False), network=network) as node:
            await trio.sleep(5)
            liar.cancel()
            await trio.sleep(1)
            assert lies
            async with macula.open_node(config(listen=place), network=network):
                await trio.sleep(120)
                assert [contact.endpoint for contact in node.known_nodes()] == [place]

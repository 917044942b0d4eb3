"""Calls and messages that go over other nodes: they arrive, are answered, bounded and cancelled, and harm nobody."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
from authorisation_tools import (
    CALL,
    CONFIG,
    FORWARDER_ID,
    STRANGER_ID,
    UNVERIFIED,
    Handler,
    Sleeper,
    facts,
    outcomes,
    outsider,
    pubsub_route,
    rpc_route,
)
from node_tools import watch
from quic_tools import REALM, Recorder, credentials, host

import macula_trio as macula
from macula_trio._routing.service import FORWARDED_BYTES_MAX, FORWARDED_MAX, FORWARDED_PER_PEER_MAX
from macula_trio._util import format_endpoint
from macula_trio._wire import messages as wire
from macula_trio._wire.codec import encode_frame
from macula_trio._wire.frame import HEADER_BYTES, MAX_PAYLOAD, MessageType
from macula_trio.testing import SimNetwork, open_mesh

pytestmark = pytest.mark.thorough

Clock = trio.testing.MockClock
Nodes = list[macula.Node]


def keep_out(node: macula.Node, shut_out: macula.Node, nodes: Nodes) -> None:
    """Let a node refuse direct links from another one."""
    node.reload_trust(macula.Trust.only([other.node_id for other in nodes if other not in (node, shut_out)]))


@asynccontextmanager
async def a_mesh_in_which_one_keeps_another_out() -> AsyncGenerator[tuple[macula.Node, macula.Node, Nodes], None]:
    """Provider, caller, and two nodes between them."""
    async with open_mesh(4) as nodes:
        provider, caller, *between = nodes
        keep_out(provider, caller, nodes)
        await trio.sleep(1)  # virtual: links between the two have ended
        yield provider, caller, between


# -- a call that cannot go straight ------------------------------------------------------------------------------------


async def test_a_call_to_a_provider_that_refuses_our_links_goes_over_another_node(autojump_clock: Clock) -> None:
    handler = Handler()
    async with a_mesh_in_which_one_keeps_another_out() as (provider, caller, between):
        events = watch(caller)
        async with provider.advertise("a.b", handler, allow_routed=True):
            assert await caller.call("a.b", {"n": 1}, headers={"k": "v"}) == "fine"
        [call] = handler.calls
        assert (call.args, call.caller, dict(call.headers)) == ({"n": 1}, None, {"k": "v"})
        assert call.via in {node.node_id for node in between}
        [called] = facts(events, "rpc.called")
        assert (called["hops"], called["provider"]) == (2, provider.node_id.hex())
        assert sum(node.statistics().envelopes_forwarded for node in between) == 1
        assert sum(node.statistics().envelopes_refused for node in [provider, caller, *between]) == 0


async def test_a_handler_that_takes_no_such_calls_is_not_even_asked(autojump_clock: Clock) -> None:
    handler = Handler()
    async with a_mesh_in_which_one_keeps_another_out() as (provider, caller, between):
        async with provider.advertise("a.b", handler):
            with pytest.raises((macula.TrustError, macula.PeerUnavailable)):  # refused, or too often to try again
                await caller.call("a.b")
        assert handler.calls == []
        assert [node.statistics().frames_received.get("RPC_ROUTE", 0) for node in between] == [0, 0]


async def test_whoever_can_be_reached_is_asked_before_anything_goes_over_others(autojump_clock: Clock) -> None:
    far, near = Handler(answer="far"), Handler(answer="near")
    async with a_mesh_in_which_one_keeps_another_out() as (provider, caller, between):
        async with provider.advertise("a.b", far, allow_routed=True), between[0].advertise("a.b", near):
            for _ in range(8):
                assert await caller.call("a.b") == "near"
        assert far.calls == []


async def test_an_error_of_the_handler_comes_back_over_others_as_it_is(autojump_clock: Clock) -> None:
    async def reject(_call: macula.Call) -> object:
        raise macula.Reject("too_hot", "42 degrees")

    async with a_mesh_in_which_one_keeps_another_out() as (provider, caller, _between):
        async with provider.advertise("a.b", reject, allow_routed=True):
            with pytest.raises(macula.RemoteCallError) as caught:
                await caller.call("a.b")
        assert (caught.value.code, caught.value.message) == ("too_hot", "42 degrees")


async def test_cancelling_the_caller_cancels_the_handler_behind_other_nodes(autojump_clock: Clock) -> None:
    sleeper = Sleeper()
    async with a_mesh_in_which_one_keeps_another_out() as (provider, caller, between):
        async with provider.advertise("a.b", sleeper, allow_routed=True):
            with trio.move_on_after(2) as scope:
                await caller.call("a.b")
            assert scope.cancelled_caught
            await trio.sleep(0.5)
            assert len(sleeper.calls) == len(sleeper.cancelled) == 1
            assert [node.statistics().frames_received.get("CANCEL", 0) for node in (provider,)] == [1]
        for node in [provider, *between]:
            assert node._router._scopes == {}
            assert node._router._asked == set()
            assert node._router._under_way.total() == 0


async def test_a_handler_behind_other_nodes_runs_under_the_callers_deadline(autojump_clock: Clock) -> None:
    sleeper = Sleeper()
    async with (
        a_mesh_in_which_one_keeps_another_out() as (provider, caller, _between),
        provider.advertise("a.b", sleeper, allow_routed=True),
    ):
        started = trio.current_time()
        with trio.move_on_after(2):
            await caller.call("a.b")
        assert started < sleeper.calls[0].deadline <= started + 2.5
        with pytest.raises(macula.CallTimeout):
            await caller.call("a.b")


async def test_a_node_on_the_way_that_dies_is_a_lost_peer_and_the_handler_is_cancelled(autojump_clock: Clock) -> None:
    sleeper = Sleeper()
    async with (
        a_mesh_in_which_one_keeps_another_out() as (provider, caller, between),
        provider.advertise("a.b", sleeper, allow_routed=True),
        trio.open_nursery() as nursery,
    ):
        lost: list[Exception] = []

        async def call() -> None:
            try:
                await caller.call("a.b")
            except macula.PeerUnavailable as exc:
                lost.append(exc)

        nursery.start_soon(call)
        await trio.sleep(1)
        via = next(node for node in between if node.node_id == sleeper.calls[0].via)
        via.block(provider.node_id)
        await trio.sleep(1)
        assert len(lost) == 1, "the answer cannot come any more, and the caller knows"
        assert len(sleeper.cancelled) == 1
        assert len(sleeper.calls) == 1, "a call that may have run is not made again"


async def test_a_call_that_may_run_twice_goes_on_to_the_next_provider(autojump_clock: Clock) -> None:
    sleeper, handler = Sleeper(), Handler()
    async with open_mesh(5) as nodes:
        key = macula.dht_key("a.b")
        one, other, caller, *between = sorted(nodes, key=lambda node: node.node_id.distance(key))
        events = watch(caller)
        for provider in (one, other):
            provider.reload_trust(macula.Trust.only([node.node_id for node in (one, other, *between)]))
        await trio.sleep(1)
        async with (
            one.advertise("a.b", sleeper, allow_routed=True),
            other.advertise("a.b", handler, allow_routed=True),
            trio.open_nursery() as nursery,
        ):
            answers: list[object] = []

            async def call() -> None:
                answers.append(await caller.call("a.b", idempotent=True, select="first"))

            nursery.start_soon(call)
            await trio.sleep(1)
            assert (len(sleeper.calls), answers) == (1, [])
            for via in between:
                via.block(one.node_id)
            await trio.sleep(1)
            assert (len(sleeper.cancelled), answers) == (1, ["fine"])
            assert len(facts(events, "rpc.repeated")) == 1


# -- a message that cannot go straight -------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", ["a.b", "a.*", "**"])
async def test_a_message_to_a_subscriber_that_refuses_our_links_goes_over_another_node(
    pattern: str, autojump_clock: Clock
) -> None:
    async with (
        a_mesh_in_which_one_keeps_another_out() as (subscriber, publisher, between),
        subscriber.subscribe(pattern, allow_routed=True) as messages,
    ):
        events = watch(publisher)
        report = await publisher.publish("a.b", {"n": 1}, headers={"k": "v"})
        assert report.outcomes == {subscriber.node_id: macula.Outcome.FORWARDED}
        assert [fact["hops"] for fact in facts(events, "pubsub.published")] == [None]
        message = await messages.receive()
        assert (message.payload, message.publisher, dict(message.headers)) == ({"n": 1}, None, {"k": "v"})
        assert message.via in {node.node_id for node in between}
        await trio.sleep(1)
        assert messages.statistics().received == 1


async def test_a_subscriber_that_takes_no_such_messages_is_reported_as_it_is(autojump_clock: Clock) -> None:
    async with a_mesh_in_which_one_keeps_another_out() as (subscriber, publisher, between):
        async with subscriber.subscribe("a.b") as messages:
            report = await publisher.publish("a.b", {"n": 1})
            assert set(report.outcomes) == {subscriber.node_id}
            assert report.outcomes[subscriber.node_id] in (macula.Outcome.REJECTED, macula.Outcome.UNREACHABLE)
            await trio.sleep(1)
            assert messages.statistics().received == 0
        assert [node.statistics().frames_received.get("PUBSUB_ROUTE", 0) for node in between] == [0, 0]


async def test_when_nobody_can_carry_a_message_the_report_says_so(autojump_clock: Clock) -> None:
    async with open_mesh(2) as nodes:
        subscriber, publisher = nodes
        async with subscriber.subscribe("a.b", allow_routed=True):
            assert (await publisher.publish("a.b", 1)).outcomes == {subscriber.node_id: macula.Outcome.QUEUED}
            keep_out(subscriber, publisher, nodes)
            await trio.sleep(0.5)
            report = await publisher.publish("a.b", 2)
            assert report.outcomes == {subscriber.node_id: macula.Outcome.REJECTED}


# -- what a node forwards ----------------------------------------------------------------------------------------------


async def test_a_call_for_another_node_is_forwarded_and_its_answer_brought_back(autojump_clock: Clock) -> None:
    handler = Handler()
    network = SimNetwork()
    async with (
        open_mesh(2, network=network) as (forwarder, provider),
        provider.advertise("a.b", handler, allow_routed=True),
        outsider(network, forwarder) as source,
    ):
        source.say(rpc_route(provider))
        await trio.sleep(0.5)
        [answer] = [message for message in source.heard() if isinstance(message, wire.RpcRoute)]
        assert (answer.destination_node_id, answer.source_node_id) == (STRANGER_ID, provider.node_id)
        assert (answer.hop_count, answer.payload_type) == (1, "reply")
        assert outcomes(source) == [str(b'"fine"')]
        assert [(call.caller, call.via) for call in handler.calls] == [(None, forwarder.node_id)]
        assert forwarder.statistics().envelopes_forwarded == 1


async def test_a_message_for_another_node_is_forwarded(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with (
        open_mesh(2, network=network) as (forwarder, subscriber),
        subscriber.subscribe("a.b") as messages,
        outsider(network, forwarder) as source,
    ):
        source.say(pubsub_route(subscriber))
        message = await messages.receive()
        assert (message.publisher, message.via) == (None, forwarder.node_id)
        assert forwarder.statistics().envelopes_forwarded == 1


async def test_an_answer_for_another_node_is_forwarded_where_nobody_proves_anything(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with (
        open_mesh(2, network=network, config=UNVERIFIED) as (forwarder, other),
        outsider(network, forwarder) as source,
    ):
        source.say(rpc_route(other, payload_type="reply", payload=wire.Reply(call_id=bytes(16), result=b"1")))
        await trio.sleep(0.5)
        assert forwarder.statistics().envelopes_forwarded == 1
        assert other.statistics().frames_received["RPC_ROUTE"] == 1
        assert other.statistics().envelopes_refused == 1, "nobody there waits for it"


async def test_nobody_answers_who_was_not_asked(autojump_clock: Clock) -> None:
    sleeper = Sleeper()
    network = SimNetwork()
    async with (
        open_mesh(4, network=network) as nodes,
        nodes[0].advertise("a.b", sleeper, allow_routed=True),
        outsider(network, nodes[2]) as one,
        outsider(network, nodes[3], number=11) as other,
        trio.open_nursery() as nursery,
    ):
        provider, caller, *_ = nodes
        keep_out(provider, caller, nodes)
        await trio.sleep(1)
        nursery.start_soon(caller.call, "a.b")
        await trio.sleep(1)
        forged = wire.Reply(call_id=sleeper.calls[0].call_id, result=b'"forged"')
        for liar in (one, other):
            ends = {"destination_node_id": caller.node_id, "source_node_id": provider.node_id}
            liar.say(rpc_route(provider, payload_type="reply", payload=forged, **ends))
        await trio.sleep(0.5)
        assert caller.statistics().frames_received.get("RPC_ROUTE", 0) == 0
        sleeper.release.set()


async def test_an_answer_that_nobody_waits_for_is_refused(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with open_mesh(1, network=network) as (node,), outsider(network, node) as peer:
        events = watch(node)
        peer.say(rpc_route(node, payload_type="reply", payload=wire.Reply(call_id=bytes(16), result=b"1")))
        await trio.sleep(0.1)
        assert [fact["reason"] for fact in facts(events, "rpc.route_refused")] == ["not_asked"]
        assert node.statistics().envelopes_refused == 1


async def test_what_has_no_hops_left_is_not_forwarded(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with (
        open_mesh(2, network=network) as (forwarder, provider),
        provider.advertise("a.b", Handler(), allow_routed=True),
        outsider(network, forwarder) as source,
    ):
        source.say(rpc_route(provider, hop_count=9, max_hops=10))
        await trio.sleep(0.5)
        assert outcomes(source) == ["max_hops_exceeded"], "said by the provider, and brought back"
        source.say(rpc_route(provider, hop_count=10, max_hops=10))
        await trio.sleep(0.5)
        assert outcomes(source) == ["max_hops_exceeded"] * 2
        assert provider.statistics().frames_received["RPC_ROUTE"] == 1


async def say_both(source: Recorder, node: macula.Node, **changes: object) -> list[str]:
    """A call and a message for a node; what came back for the call."""
    before = len(outcomes(source))
    source.say(rpc_route(node, **changes))
    source.say(pubsub_route(node, **changes))
    await trio.sleep(0.5)
    return outcomes(source)[before:]


async def test_what_is_for_nobody_that_we_know_has_no_route(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with open_mesh(1, network=network) as (node,), outsider(network, node) as source:
        events = watch(node)
        assert await say_both(source, node, destination_node_id=STRANGER_ID) == ["no_route"]
        assert facts(events, "pubsub.refused") == [{"topic": "a.b", "reason": "no_route", "hop_count": 1}]
        assert node.statistics().envelopes_refused == 2


async def test_nothing_goes_back_where_it_came_from(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with open_mesh(1, network=network) as (node,), outsider(network, node) as source:
        assert await say_both(source, node, destination_node_id=FORWARDER_ID) == ["no_route"]


async def test_what_says_that_it_is_ours_goes_no_further(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with open_mesh(2, network=network) as (node, other), outsider(network, node) as source:
        assert await say_both(source, other, source_node_id=node.node_id) == ["no_route"]
        assert other.statistics().frames_received.get("RPC_ROUTE", 0) == 0


@pytest.mark.parametrize("blocked", ["source", "destination"])
async def test_nothing_is_forwarded_from_or_for_who_is_blocked(blocked: str, autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with open_mesh(3, network=network) as (node, other, third), outsider(network, node) as source:
        node.block(other.node_id if blocked == "destination" else third.node_id)
        assert await say_both(source, other, source_node_id=third.node_id) == ["no_route"]
        assert other.statistics().frames_received.get("RPC_ROUTE", 0) == 0


async def test_a_leaf_forwards_nothing(autojump_clock: Clock) -> None:
    network = SimNetwork()
    leaf = macula.NodeConfig(realm=REALM, listen="10.9.9.9:1", bootstrap=["10.0.0.1:9443"], leaf=True)
    async with (
        open_mesh(2, network=network) as (_one, other),
        macula.open_node(leaf, network=network) as node,
        outsider(network, node) as source,
    ):
        assert await say_both(source, other) == ["no_route"]


async def test_a_leaf_that_has_a_link_to_us_is_reached(autojump_clock: Clock) -> None:
    network = SimNetwork()
    handler = Handler()
    config = macula.NodeConfig(realm=REALM, listen="10.9.9.9:1", bootstrap=["10.0.0.1:9443"], leaf=True)
    async with (
        open_mesh(2, network=network) as (node, _other),
        macula.open_node(config, network=network) as leaf,
        leaf.advertise("a.b", handler, allow_routed=True),
        outsider(network, node) as source,
    ):
        assert leaf.node_id not in {contact.node_id for contact in node.known_nodes()}
        source.say(rpc_route(leaf))
        await trio.sleep(0.5)
        assert outcomes(source) == [str(b'"fine"')]


async def test_one_peer_takes_only_its_share_of_what_we_forward(autojump_clock: Clock) -> None:
    sleeper = Sleeper()
    network = SimNetwork()
    async with (
        open_mesh(2, network=network, config=attrs.evolve(CONFIG, handlers_per_caller_max=1000)) as (node, provider),
        provider.advertise("a.b", sleeper, allow_routed=True),
        outsider(network, node) as greedy,
        outsider(network, node, number=11) as other,
    ):
        assert FORWARDED_PER_PEER_MAX < FORWARDED_MAX
        for number in range(FORWARDED_PER_PEER_MAX + 3):
            call = attrs.evolve(CALL, call_id=number.to_bytes(16, "big"))
            greedy.say(rpc_route(provider, call))
        await trio.sleep(0.5)
        assert outcomes(greedy) == ["busy"] * 3
        other.say(rpc_route(provider, attrs.evolve(CALL, call_id=bytes([255]) * 16)))
        await trio.sleep(0.5)
        assert outcomes(other) == []
        assert len(sleeper.calls) == FORWARDED_PER_PEER_MAX + 1
        sleeper.release.set()
        await trio.sleep(0.5)
        assert len(outcomes(greedy)) == FORWARDED_PER_PEER_MAX + 3
        assert node._router._under_way.total() == 0


@pytest.mark.long
async def test_all_together_hold_no_more_than_so_many_bytes(autojump_clock: Clock) -> None:
    sleeper = Sleeper()
    network = SimNetwork()
    async with (
        open_mesh(2, network=network, config=attrs.evolve(CONFIG, handlers_per_caller_max=1000)) as (node, provider),
        provider.advertise("a.b", sleeper, allow_routed=True),
        outsider(network, node) as source,
    ):
        size = 900_000
        fit = FORWARDED_BYTES_MAX // size
        for number in range(fit + 1):
            args = b'"' + b"x" * (size - 2) + b'"'
            source.say(rpc_route(provider, attrs.evolve(CALL, call_id=bytes([number]) * 16, args=args, timeout=60_000)))
            await trio.sleep(1)
        assert outcomes(source) == ["busy"]
        assert len(sleeper.calls) == fit
        sleeper.release.set()
        await trio.sleep(1)
        assert node._router._bytes_under_way == 0


async def test_one_call_twice_at_once_is_asked_once(autojump_clock: Clock) -> None:
    sleeper = Sleeper()
    network = SimNetwork()
    async with (
        open_mesh(2, network=network) as (node, provider),
        provider.advertise("a.b", sleeper, allow_routed=True),
        outsider(network, node) as source,
        outsider(network, node, number=11) as liar,
    ):
        source.say(rpc_route(provider))
        liar.say(rpc_route(provider))
        await trio.sleep(0.5)
        assert (outcomes(source), outcomes(liar)) in (([], ["busy"]), (["busy"], []))
        assert len(sleeper.calls) == 1


async def test_who_brought_a_call_and_nobody_else_cancels_it(autojump_clock: Clock) -> None:
    sleeper = Sleeper()
    network = SimNetwork()
    async with (
        open_mesh(2, network=network) as (node, provider),
        provider.advertise("a.b", sleeper, allow_routed=True),
        outsider(network, node) as source,
        outsider(network, node, number=11) as liar,
    ):
        source.say(rpc_route(provider))
        await trio.sleep(0.5)
        for cancel in (
            wire.Cancel(call_id=CALL.call_id, source_node_id=STRANGER_ID),
            wire.Cancel(call_id=CALL.call_id),
        ):
            liar.say(cancel)
        source.say(wire.Cancel(call_id=CALL.call_id))
        await trio.sleep(0.5)
        assert sleeper.cancelled == []
        source.say(wire.Cancel(call_id=CALL.call_id, source_node_id=STRANGER_ID))
        await trio.sleep(0.5)
        assert len(sleeper.cancelled) == 1
        assert outcomes(source) == []


async def test_when_who_brought_a_call_vanishes_the_handler_is_cancelled(autojump_clock: Clock) -> None:
    sleeper = Sleeper()
    network = SimNetwork()
    async with (
        open_mesh(2, network=network) as (node, provider),
        provider.advertise("a.b", sleeper, allow_routed=True),
    ):
        async with outsider(network, node) as source:
            source.say(rpc_route(provider))
            await trio.sleep(0.5)
            assert (len(sleeper.calls), sleeper.cancelled) == (1, [])
            source.say(wire.Disconnect(reason="normal"))
            await trio.sleep(0.5)
        assert len(sleeper.cancelled) == 1


async def test_a_forwarded_call_that_nobody_answers_ends_with_its_time(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with (
        open_mesh(2, network=network) as (node, provider),
        provider.advertise("a.b", Sleeper(), allow_routed=True),
        outsider(network, node) as source,
    ):
        source.say(rpc_route(provider, attrs.evolve(CALL, timeout=700)))
        await trio.sleep(0.5)
        assert node._router._under_way.total() == 1
        await trio.sleep(0.5)
        assert node._router._under_way.total() == 0


async def test_what_is_larger_as_we_write_it_is_not_forwarded_and_harms_nothing(
    autojump_clock: Clock,
) -> None:
    network = SimNetwork()
    async with open_mesh(2, network=network) as (node, other), outsider(network, node) as source:
        envelope = {
            "destination_node_id": other.node_id,
            "source_node_id": STRANGER_ID,
            "hop_count": 127,  # the next number takes one byte more
            "max_hops": 200,
        }

        def frame_with(size: int) -> bytes:
            body = {"procedure": "a.b", "args": bytes(size), "call_id": bytes(16)}
            return encode_frame(MessageType.RPC_ROUTE, envelope | {"payload_type": "call", "payload": body})

        size = MAX_PAYLOAD - 1000
        size += MAX_PAYLOAD - (len(frame_with(size)) - HEADER_BYTES)
        source.write(frame_with(size))  # full to its last byte
        await trio.sleep(3)
        assert outcomes(source) == ["no_route"]
        assert not source.closed.is_set()
        assert await node.ping(macula.Contact(node_id=other.node_id, endpoint=other.endpoint)) >= 0


@pytest.mark.long
async def test_large_answers_to_many_forwarded_calls_all_arrive(autojump_clock: Clock) -> None:
    handler = Handler(answer="x" * 900_000)
    async with (
        a_mesh_in_which_one_keeps_another_out() as (provider, caller, _between),
        provider.advertise("a.b", handler, allow_routed=True),
    ):
        sizes: list[int] = []

        async def call() -> None:
            with trio.fail_after(100):
                sizes.append(len(str(await caller.call("a.b"))))

        async with trio.open_nursery() as nursery:
            for _ in range(24):
                nursery.start_soon(call)
        assert sizes == [900_000] * 24


async def test_nobody_is_dialed_where_only_an_envelopes_destination_says_that_it_is(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    dialed: list[str] = []
    network = SimNetwork()
    async with (
        open_mesh(1, network=network) as (node,),
        outsider(network, node) as source,
        outsider(network, node, number=11, capabilities=("leaf",)) as leaf,  # so it is in no table
    ):
        link_to = node._transport.link_to

        async def watched(contact: macula.Contact) -> object:
            dialed.append(contact.endpoint)
            return await link_to(contact)

        monkeypatch.setattr(node._transport, "link_to", watched)
        source.say(pubsub_route(node, destination_node_id=credentials(11).node_id))
        await trio.sleep(3)
        assert any(isinstance(message, wire.PubsubRoute) for message in leaf.heard())
        assert format_endpoint(host(11)) not in dialed

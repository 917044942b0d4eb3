"""Nobody becomes somebody else by saying so in an envelope, and no envelope is opened that should not be."""

from __future__ import annotations

from typing import Final

import attrs
import pytest
import trio
from authorisation_tools import (
    CALL,
    CONFIG,
    FORWARDER,
    FORWARDER_ID,
    STRANGER_ID,
    UNVERIFIED,
    Handler,
    Sleeper,
    code_of,
    facts,
    outcomes,
    outsider,
    pubsub_route,
    rpc_route,
)
from node_tools import link_between, watch
from quic_tools import REALM, connect_bare, open_endpoint

import macula_trio as macula
from macula_trio._util import parse_endpoint
from macula_trio._wire import messages as wire
from macula_trio._wire.codec import encode_frame
from macula_trio._wire.frame import MAX_PAYLOAD, MessageType
from macula_trio.testing import SimNetwork, open_mesh

Clock = trio.testing.MockClock

NO_REPLY: Final = wire.Reply(call_id=bytes(16))

# -- who it is --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("claims_by", ["connect", "nothing"])
async def test_who_proves_nothing_passes_no_rule_whoever_it_claims_to_be(claims_by: str, autojump_clock: Clock) -> None:
    guarded, free = Handler(), Handler()
    asked: list[macula.NodeId] = []
    network = SimNetwork()
    async with (
        open_mesh(2, network=network, config=UNVERIFIED) as (provider, friend),
        provider.advertise("a.b", guarded, allow=[friend.node_id]),
        provider.advertise("a.c", guarded, allow=lambda caller: not asked.append(caller)),
        provider.advertise("a.d", free),
        open_endpoint(network, FORWARDER) as endpoint,
    ):
        recorder = await connect_bare(endpoint, parse_endpoint(provider.endpoint))
        if claims_by == "connect":
            recorder.say(wire.Connect(realm_id=REALM, node_id=friend.node_id))
        for number, procedure in enumerate(("a.b", "a.c", "a.d")):
            recorder.say(attrs.evolve(CALL, call_id=bytes([number]) * 16, procedure=procedure))
            recorder.say(wire.Cast(procedure=procedure, args=b"null"))
            routed = attrs.evolve(CALL, call_id=bytes([number + 8]) * 16, procedure=procedure)
            recorder.say(rpc_route(provider, routed, source_node_id=friend.node_id))
        await trio.sleep(0.5)
        assert sorted(outcomes(recorder)) == [*[str(b'"fine"')] * 2, *["forbidden"] * 4]
        assert guarded.calls == asked == []
        assert [(call.caller, call.via) for call in free.calls] == [(None, None)] * 3
        assert provider.statistics().calls_forbidden == 6
        assert await code_of(friend, "a.b") == "fine"


def claimed_sources(provider: macula.Node, friend: macula.Node) -> list[bytes]:
    return [friend.node_id, provider.node_id, bytes(32), STRANGER_ID]


async def test_a_forwarded_call_reaches_only_handlers_that_take_such_calls(autojump_clock: Clock) -> None:
    plain, listed, asking, open_ = Handler(), Handler(), Handler(), Handler()
    network = SimNetwork()
    async with (
        open_mesh(2, network=network) as (provider, friend),
        provider.advertise("a.plain", plain),
        provider.advertise("a.listed", listed, allow=[friend.node_id, FORWARDER_ID], allow_routed=True),
        provider.advertise("a.asking", asking, allow=lambda _caller: True, allow_routed=True),
        provider.advertise("a.open", open_, allow_routed=True),
        outsider(network, provider) as forwarder,
    ):
        events = watch(provider)
        for number, source in enumerate(claimed_sources(provider, friend)):
            for procedure in ("a.plain", "a.listed", "a.asking", "a.open"):
                call = attrs.evolve(CALL, procedure=procedure, call_id=bytes([number]) * 16)
                forwarder.say(rpc_route(provider, call, source_node_id=source))
        await trio.sleep(0.5)
        assert sorted(outcomes(forwarder)) == [*[str(b'"fine"')] * 4, *["forbidden"] * 12]
        assert plain.calls == listed.calls == asking.calls == []
        assert [(call.caller, call.via) for call in open_.calls] == [(None, FORWARDER_ID)] * 4
        assert provider.statistics().calls_forbidden == 12
        assert facts(events, "rpc.forbidden")[0] == {
            "procedure": "a.plain",
            "caller": None,
            "via": FORWARDER_ID.hex(),
        }
        assert {fact["caller"] for fact in facts(events, "rpc.served")} == {None}


async def test_an_unverified_node_takes_forwarded_calls_everywhere(autojump_clock: Clock) -> None:
    handler = Handler()
    network = SimNetwork()
    async with (
        open_mesh(1, network=network, config=UNVERIFIED) as (provider,),
        provider.advertise("a.b", handler),
        outsider(network, provider) as forwarder,
    ):
        forwarder.say(rpc_route(provider))
        await trio.sleep(0.1)
        assert [(call.caller, call.via) for call in handler.calls] == [(None, FORWARDER_ID)]


async def test_the_answer_to_a_forwarded_call_goes_back_where_it_came_from(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with (
        open_mesh(1, network=network) as (provider,),
        provider.advertise("a.b", Handler(), allow_routed=True),
        outsider(network, provider) as forwarder,
    ):
        forwarder.say(rpc_route(provider))
        forwarder.say(rpc_route(provider, attrs.evolve(CALL, procedure="a.c")))
        await trio.sleep(0.1)
        answers = [message for message in forwarder.heard() if isinstance(message, wire.RpcRoute)]
        assert len(answers) == 2
        for answer in answers:
            assert attrs.evolve(answer, payload=NO_REPLY) == wire.RpcRoute(
                destination_node_id=STRANGER_ID,
                source_node_id=provider.node_id,
                hop_count=0,
                max_hops=10,
                payload_type="reply",
                payload=NO_REPLY,
            )
            assert isinstance(answer.payload, wire.Reply)
            assert answer.payload.call_id == CALL.call_id
        assert sorted(outcomes(forwarder)) == [str(b'"fine"'), "no_handler"]


async def test_a_peer_that_puts_its_own_call_into_an_envelope_is_its_caller(autojump_clock: Clock) -> None:
    handler = Handler()
    network = SimNetwork()
    async with (
        open_mesh(1, network=network) as (provider,),
        provider.advertise("a.b", handler, allow=[FORWARDER_ID]),
        outsider(network, provider) as peer,
    ):
        peer.say(rpc_route(provider, source_node_id=FORWARDER_ID))
        await trio.sleep(0.1)
        assert [(call.caller, call.via) for call in handler.calls] == [(FORWARDER_ID, None)]
        [answer] = [message for message in peer.heard() if isinstance(message, wire.RpcRoute)]
        assert answer.destination_node_id == FORWARDER_ID
        assert outcomes(peer) == [str(b'"fine"')]


async def test_what_a_payload_says_of_its_caller_means_nothing(autojump_clock: Clock) -> None:
    handler = Handler()
    network = SimNetwork()
    async with (
        open_mesh(2, network=network) as (provider, friend),
        provider.advertise("a.b", handler, allow=[friend.node_id]),
        provider.advertise("a.c", handler, allow_routed=True),
        provider.subscribe("a.b") as messages,
        outsider(network, provider) as peer,
    ):
        claims = dict.fromkeys(("caller", "via", "source_node_id", "node_id", "publisher", "from"), friend.node_id)
        body = {"procedure": "a.b", "args": b"null", **claims}
        envelope = {
            "destination_node_id": provider.node_id,
            "source_node_id": STRANGER_ID,
            "hop_count": 1,
            "max_hops": 10,
            **{name: claims[name] for name in ("caller", "via", "publisher")},
        }
        for number, procedure in enumerate(("a.b", "a.c")):
            call = body | {"procedure": procedure, "call_id": bytes([number]) * 16}
            peer.write(encode_frame(MessageType.CALL, call))
            routed = call | {"call_id": bytes([number + 8]) * 16}
            peer.write(encode_frame(MessageType.RPC_ROUTE, envelope | {"payload_type": "call", "payload": routed}))
        message = {"topic": "a.b", "payload": b"1", "message_id": bytes(16), "qos": 0, "retain": False, **claims}
        peer.write(encode_frame(MessageType.PUBLISH, message))
        peer.write(encode_frame(MessageType.PUBSUB_ROUTE, envelope | {"topic": "a.b", "payload": message}))
        await trio.sleep(0.5)
        calls = sorted(handler.calls, key=lambda call: call.call_id)
        assert [(call.caller, call.via) for call in calls] == [(FORWARDER_ID, None), (None, FORWARDER_ID)]
        received = [await messages.receive() for _ in range(2)]
        assert [(m.publisher, m.via) for m in received] == [(FORWARDER_ID, None), (None, FORWARDER_ID)]
        assert outcomes(peer).count("forbidden") == 2


# -- which are opened ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("hop_count", "max_hops"), [(10, 10), (11, 10), (0, 0), (1, 1)])
@pytest.mark.parametrize("for_us", [True, False])
async def test_an_envelope_that_went_too_far_is_refused_before_anything_else(
    hop_count: int, max_hops: int, for_us: bool, autojump_clock: Clock
) -> None:
    handler = Handler()
    network = SimNetwork()
    async with (
        open_mesh(1, network=network) as (provider,),
        provider.advertise("a.b", handler, allow_routed=True),
        provider.subscribe("a.b") as messages,
        outsider(network, provider) as forwarder,
    ):
        events = watch(provider)
        destination = provider.node_id if for_us else STRANGER_ID
        changes = {"hop_count": hop_count, "max_hops": max_hops, "destination_node_id": destination}
        forwarder.say(rpc_route(provider, **changes))
        forwarder.say(pubsub_route(provider, **changes))
        await trio.sleep(0.1)
        assert outcomes(forwarder) == ["max_hops_exceeded"]
        assert handler.calls == []
        assert messages.statistics().received == 0
        assert provider.statistics().envelopes_refused == 2
        assert facts(events, "rpc.route_refused") == [
            {"reason": "max_hops_exceeded", "payload_type": "call", "hop_count": hop_count}
        ]
        assert len(facts(events, "pubsub.refused")) == 1


async def test_an_envelope_may_use_all_of_its_hops(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with (
        open_mesh(1, network=network) as (provider,),
        provider.advertise("a.b", Handler(), allow_routed=True),
        outsider(network, provider) as forwarder,
    ):
        forwarder.say(rpc_route(provider, hop_count=9))
        await trio.sleep(0.1)
        assert outcomes(forwarder) == [str(b'"fine"')]


async def test_nobody_gets_an_answer_by_claiming_to_be_its_caller(autojump_clock: Clock) -> None:
    handler = Handler()
    network = SimNetwork()
    async with (
        open_mesh(2, network=network) as (provider, friend),
        provider.advertise("a.b", handler, allow_routed=True),
        outsider(network, provider) as forwarder,
    ):
        handler.answer = "for the friend"
        reply = await link_between(friend, provider).ask(CALL, wire.Reply)
        handler.answer = "for whoever forwards"
        for source in (friend.node_id, STRANGER_ID):
            for _ in range(2):
                forwarder.say(rpc_route(provider, source_node_id=source))
                await trio.sleep(0.1)
        handler.answer = "for the forwarder itself"
        forwarder.say(CALL)
        await trio.sleep(0.1)
        again = await link_between(friend, provider).ask(CALL, wire.Reply)
        assert b"for the friend" in reply.result
        assert again == reply, "nor does a forwarded call stand in the way of the friend's"
        assert [call.caller for call in handler.calls] == [friend.node_id, None, None, FORWARDER_ID]
        assert sum("friend" in outcome for outcome in outcomes(forwarder)) == 0
        assert sum("whoever" in outcome for outcome in outcomes(forwarder)) == 4, "a repeat is answered from memory"


async def test_a_call_is_cancelled_by_nobody_but_who_made_it(autojump_clock: Clock) -> None:
    sleeper = Sleeper()
    network = SimNetwork()
    async with (
        open_mesh(2, network=network) as (provider, friend),
        provider.advertise("a.b", sleeper, allow_routed=True),
        outsider(network, provider) as forwarder,
    ):
        direct = link_between(friend, provider)
        direct.send_nowait(CALL)
        await trio.sleep(0.1)
        forwarder.say(rpc_route(provider, source_node_id=friend.node_id))
        await trio.sleep(0.1)
        assert [call.caller for call in sleeper.calls] == [friend.node_id, None]
        forwarder.say(wire.Cancel(call_id=CALL.call_id))
        await trio.sleep(0.1)
        assert sleeper.cancelled == []
        direct.send_nowait(wire.Cancel(call_id=CALL.call_id))
        await trio.sleep(0.1)
        assert [call.caller for call in sleeper.cancelled] == [friend.node_id]


async def test_a_peer_cancels_the_call_that_it_put_into_an_envelope_itself(autojump_clock: Clock) -> None:
    sleeper = Sleeper()
    network = SimNetwork()
    async with (
        open_mesh(1, network=network) as (provider,),
        provider.advertise("a.b", sleeper),
        outsider(network, provider) as peer,
    ):
        peer.say(rpc_route(provider, source_node_id=FORWARDER_ID))
        await trio.sleep(0.1)
        peer.say(wire.Cancel(call_id=CALL.call_id))
        await trio.sleep(0.1)
        assert [call.caller for call in sleeper.cancelled] == [FORWARDER_ID]


async def test_a_stranger_cancels_no_call_of_another_who_says_the_same_id(autojump_clock: Clock) -> None:
    sleeper = Sleeper()
    network = SimNetwork()
    hello = wire.Connect(node_id=STRANGER_ID, realm_id=REALM, capabilities=(), endpoint=None)
    async with (
        open_mesh(1, network=network, config=UNVERIFIED) as (provider,),
        provider.advertise("a.b", sleeper),
        open_endpoint(network, 10) as one,
        open_endpoint(network, 11) as other,
    ):
        honest, liar = [await connect_bare(it, parse_endpoint(provider.endpoint)) for it in (one, other)]
        for recorder in (honest, liar):
            recorder.say(hello)
        honest.say(CALL)
        await trio.sleep(0.1)
        liar.say(wire.Cancel(call_id=CALL.call_id))
        await trio.sleep(0.1)
        assert (len(sleeper.calls), sleeper.cancelled) == (1, [])
        honest.say(wire.Cancel(call_id=CALL.call_id))
        await trio.sleep(0.1)
        assert len(sleeper.cancelled) == 1


async def test_forwarded_calls_run_on_the_account_of_who_forwards_them(autojump_clock: Clock) -> None:
    sleeper = Sleeper()
    network = SimNetwork()
    async with (
        open_mesh(2, network=network, config=attrs.evolve(CONFIG, handlers_per_caller_max=2)) as (provider, friend),
        provider.advertise("a.b", sleeper, allow_routed=True),
        outsider(network, provider) as forwarder,
        trio.open_nursery() as nursery,
    ):
        for number in range(5):
            forwarder.say(rpc_route(provider, source_node_id=bytes([number]) * 32))
        await trio.sleep(0.1)
        assert outcomes(forwarder) == ["busy"] * 3
        nursery.start_soon(code_of, friend)
        await trio.sleep(1)
        assert [call.caller for call in sleeper.calls] == [None, None, friend.node_id]
        sleeper.release.set()


@pytest.mark.parametrize("source", [FORWARDER_ID, STRANGER_ID], ids=["own", "forwarded"])
async def test_a_result_that_only_its_envelope_makes_too_large_is_an_error_and_harms_nothing(
    source: macula.NodeId, autojump_clock: Clock
) -> None:
    handler = Handler(answer=bytes(MAX_PAYLOAD - 100))
    network = SimNetwork()
    async with (
        open_mesh(2, network=network) as (provider, friend),
        provider.advertise("a.b", handler, allow_routed=True),
        outsider(network, provider) as forwarder,
    ):
        assert await friend.call("a.b") == handler.answer
        for _ in range(2):
            forwarder.say(rpc_route(provider, source_node_id=source))
            await trio.sleep(1)
        assert outcomes(forwarder) == ["internal_error"] * 2, "from memory, too"
        assert not forwarder.closed.is_set()
        assert len(handler.calls) == 2

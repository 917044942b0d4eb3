"""Who may call and publish here (DESIGN section 5)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import attrs
import pytest
import trio
from authorisation_tools import (
    CALL,
    CONFIG,
    FORWARDER,
    FORWARDER_ID,
    PUBLISH,
    STRANGER_ID,
    UNVERIFIED,
    Handler,
    Sleeper,
    code_of,
    facts,
    outsider,
    pubsub_route,
    received,
)
from node_tools import link_between, watch
from quic_tools import REALM, connect_bare, open_endpoint

import macula_trio as macula
from macula_trio._util import parse_endpoint
from macula_trio._wire import messages as wire
from macula_trio.testing import SimNetwork, open_mesh
from macula_trio.testing._mesh import sim_identity

Clock = trio.testing.MockClock

# -- calls ----------------------------------------------------------------------------------------------------


async def test_only_who_is_listed_may_call(autojump_clock: Clock) -> None:
    handler = Handler()
    async with (
        open_mesh(3) as (provider, friend, stranger),
        provider.advertise("a.b", handler, allow=[friend.node_id]),
    ):
        events = watch(provider)
        assert await code_of(friend) == "fine"
        assert await code_of(stranger) == "forbidden"
        assert [call.caller for call in handler.calls] == [friend.node_id]
        assert [call.via for call in handler.calls] == [None]
        assert facts(events, "rpc.forbidden") == [
            {"procedure": "a.b", "caller": stranger.node_id.hex(), "via": None},
        ]
        assert provider.statistics().calls_forbidden == 1
        assert stranger.statistics().calls_forbidden == 0


async def test_a_function_decides_at_once_about_every_call(autojump_clock: Clock) -> None:
    handler = Handler()
    asked: list[macula.NodeId] = []

    def every_second(caller: macula.NodeId) -> bool:
        asked.append(caller)
        return len(asked) % 2 == 0

    async with open_mesh(2) as (provider, caller), provider.advertise("a.b", handler, allow=every_second):
        assert [await code_of(caller) for _ in range(4)] == ["forbidden", "fine"] * 2
        assert asked == [caller.node_id] * 4
        assert len(handler.calls) == 2


@pytest.mark.parametrize("answer", [lambda _caller: 1 // 0, lambda _caller: "yes"], ids=["raises", "no bool"])
async def test_a_function_that_fails_refuses_is_logged_and_harms_nothing(
    answer: Callable[[macula.NodeId], Any], autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    handler = Handler()
    async with (
        open_mesh(2) as (provider, caller),
        provider.advertise("a.b", handler, allow=answer),
        provider.advertise("a.c", handler),
    ):
        link = link_between(caller, provider)
        assert await code_of(caller) == "forbidden"
        link.send_nowait(wire.Cast(procedure="a.b", args=b"null"))
        assert await code_of(caller, "a.c") == "fine"
        assert not link.is_closed
        assert provider.statistics().calls_forbidden == 2
        assert len(handler.calls) == 1
    assert caplog.text.count("allow of a.b failed") == 2
    assert caplog.text.count("Traceback") == 2


async def test_who_may_not_is_told_so_while_every_place_is_taken(autojump_clock: Clock) -> None:
    config = attrs.evolve(CONFIG, handlers_max=1, handlers_per_caller_max=1)
    sleeper = Sleeper()
    async with (
        open_mesh(3, config=config) as (provider, friend, stranger),
        provider.advertise("a.b", sleeper, allow=[friend.node_id]),
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(code_of, friend)
        await trio.sleep(0.5)
        assert await code_of(friend) == "busy"
        started = trio.current_time()
        assert await code_of(stranger) == "forbidden"
        assert trio.current_time() - started < 1
        assert provider.statistics().calls_running == 1
        sleeper.release.set()


async def test_arguments_of_somebody_who_may_not_call_are_never_read(autojump_clock: Clock) -> None:
    unreadable = attrs.evolve(CALL, args=b"\xff")
    async with (
        open_mesh(3) as (provider, friend, stranger),
        provider.advertise("a.b", Handler(), allow=[friend.node_id]),
    ):
        codes = []
        for caller in (friend, stranger):
            link = await caller._registry.link_to(macula.Contact(node_id=provider.node_id, endpoint=provider.endpoint))
            codes.append((await link.ask(unreadable, wire.Reply)).error.code)
        assert codes == ["bad_payload", "forbidden"]


async def test_a_cast_of_somebody_who_may_not_is_dropped_and_counted(autojump_clock: Clock) -> None:
    handler = Handler()
    async with (
        open_mesh(2) as (provider, friend),
        provider.advertise("a.b", handler, allow=[friend.node_id]),
        provider.advertise("a.c", handler, allow=[STRANGER_ID]),
    ):
        events, link = watch(provider), link_between(friend, provider)
        for procedure in ("a.b", "a.c"):
            link.send_nowait(wire.Cast(procedure=procedure, args=b"null"))
        await trio.sleep(0.1)
        assert [call.procedure for call in handler.calls] == ["a.b"]
        assert provider.statistics().calls_forbidden == 1
        assert facts(events, "rpc.forbidden") == [{"procedure": "a.c", "caller": friend.node_id.hex(), "via": None}]
        assert facts(events, "rpc.cast_dropped") == []


@pytest.mark.parametrize("allow", [[], lambda _caller: False], ids=["nobody", "never"])
async def test_a_node_may_always_call_itself(allow: Any, autojump_clock: Clock) -> None:
    async with open_mesh(1) as (node,), node.advertise("a.b", Handler(), allow=allow):
        assert await code_of(node) == "fine"
        assert node.statistics().calls_forbidden == 0


async def test_a_forbidden_call_is_not_tried_elsewhere(autojump_clock: Clock) -> None:
    handlers = [Handler(), Handler()]
    strict: set[macula.NodeId] = set()
    async with (
        open_mesh(4) as (_, one, other, caller),
        one.advertise("a.b", handlers[0], allow=lambda _caller: one.node_id not in strict),
        other.advertise("a.b", handlers[1], allow=lambda _caller: other.node_id not in strict),
    ):
        strict.add((await caller.find_providers("a.b"))[0].node_id)
        assert await code_of(caller, select="first", idempotent=True) == "forbidden"
        assert handlers[0].calls == handlers[1].calls == []
        assert one.statistics().calls_forbidden + other.statistics().calls_forbidden == 1
        strict.clear()
        assert await code_of(caller, select="first") == "fine", "whoever refused is still remembered as a provider"


async def test_what_is_no_rule_is_refused_where_it_is_given(autojump_clock: Clock) -> None:
    async with open_mesh(1) as (node,):
        for allow in ("all", node.node_id, [bytes(32)], 1):
            with pytest.raises(ValueError, match="^allow: "):
                node.advertise("a.b", Handler(), allow=allow)  # type: ignore[arg-type]


# -- messages ---------------------------------------------------------------------------------------------------------

FRIEND: Final = sim_identity(2).node_id  # of `open_mesh`


def one_topic_of_the_friend(publisher: macula.NodeId, topic: str) -> bool:
    return publisher == FRIEND and topic == "a.b"


@pytest.mark.parametrize("may_publish", [[FRIEND], one_topic_of_the_friend], ids=["ids", "function"])
async def test_only_who_may_publishes_here(may_publish: Any, autojump_clock: Clock) -> None:
    config = macula.NodeConfig(realm=REALM, may_publish=may_publish)
    async with open_mesh(3, config=config) as (subscriber, friend, stranger), subscriber.subscribe("a.b") as messages:
        events = watch(subscriber)
        for publisher in (friend, stranger):
            await publisher.publish("a.b", publisher.node_id.hex())
        assert await received(messages) == [(FRIEND.hex(), FRIEND, None)]
        for publisher in (friend, stranger):
            link_between(publisher, subscriber).send_nowait(PUBLISH)
        assert await received(messages) == [(1, FRIEND, None)]
        assert subscriber.statistics().messages_forbidden == 2
        assert (
            facts(events, "pubsub.forbidden")
            == [{"topic": "a.b", "publisher": stranger.node_id.hex(), "via": None}] * 2
        )


async def test_a_function_judges_the_topic_that_a_message_is_delivered_under(autojump_clock: Clock) -> None:
    asked: list[str] = []

    def note(_publisher: macula.NodeId, topic: str) -> bool:
        asked.append(topic)
        return topic == "a.b"

    config = macula.NodeConfig(realm=REALM, may_publish=note)
    async with (
        open_mesh(2, config=config) as (subscriber, friend),
        subscriber.subscribe("a.b") as one,
        subscriber.subscribe("a.c") as other,
    ):
        link = link_between(friend, subscriber)
        hidden = attrs.evolve(PUBLISH, topic="a.c")
        link.send_nowait(pubsub_route(subscriber, hidden, topic="a.b", source_node_id=FRIEND))
        link.send_nowait(pubsub_route(subscriber, source_node_id=FRIEND))
        unwanted = attrs.evolve(PUBLISH, topic="nobody.wants.it")
        link.send_nowait(pubsub_route(subscriber, unwanted, source_node_id=FRIEND))
        link.send_nowait(attrs.evolve(PUBLISH, topic="others.may.want.it"))
        assert await received(one) == [(1, FRIEND, None)]
        assert await received(other) == []
        assert asked == ["a.c", "a.b", "others.may.want.it"], "and not about what goes no further than here"
        assert subscriber.statistics().messages_forbidden == 2


@pytest.mark.parametrize("answer", [lambda *_: 1 // 0, lambda *_: "yes"], ids=["raises", "no bool"])
async def test_a_function_about_publishers_that_fails_refuses_is_logged_and_harms_nothing(
    answer: Callable[..., Any], autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    config = macula.NodeConfig(realm=REALM, may_publish=answer)
    async with open_mesh(2, config=config) as (subscriber, friend), subscriber.subscribe("a.b") as messages:
        link = link_between(friend, subscriber)
        await friend.publish("a.b", 1)
        link.send_nowait(PUBLISH)
        assert await received(messages) == []
        assert subscriber.statistics().messages_forbidden == 2
        assert not link.is_closed
    assert caplog.text.count("may_publish failed for a.b") == 2
    assert caplog.text.count("Traceback") == 2


@pytest.mark.parametrize("may_publish", [[], lambda *_: False], ids=["nobody", "never"])
async def test_a_node_may_always_publish_to_itself(may_publish: Any, autojump_clock: Clock) -> None:
    config = macula.NodeConfig(realm=REALM, may_publish=may_publish)
    async with open_mesh(1, config=config) as (node,), node.subscribe("a.b") as messages:
        await node.publish("a.b", 1)
        assert await received(messages) == [(1, node.node_id, None)]
        assert node.statistics().messages_forbidden == 0


async def test_a_message_of_somebody_who_may_not_publish_is_never_read(autojump_clock: Clock) -> None:
    config = macula.NodeConfig(realm=REALM, may_publish=[FRIEND])
    unreadable = attrs.evolve(PUBLISH, payload=b"\xff")
    async with open_mesh(3, config=config) as (subscriber, friend, stranger), subscriber.subscribe("a.b") as messages:
        events = watch(subscriber)
        for publisher in (friend, stranger):
            link_between(publisher, subscriber).send_nowait(unreadable)
        assert await received(messages) == []
        assert len(facts(events, "pubsub.bad_payload")) == len(facts(events, "pubsub.forbidden")) == 1


@pytest.mark.parametrize("may_publish", [None, [FRIEND, FORWARDER_ID], lambda *_: True], ids=["all", "ids", "function"])
async def test_a_forwarded_message_has_no_publisher_whomever_its_envelope_names(
    may_publish: Any, autojump_clock: Clock
) -> None:
    network = SimNetwork()
    config = macula.NodeConfig(realm=REALM, may_publish=may_publish)
    async with (
        open_mesh(2, network=network, config=config) as (subscriber, friend),
        subscriber.subscribe("a.b") as messages,
        outsider(network, subscriber) as forwarder,
    ):
        for source in (friend.node_id, subscriber.node_id, bytes(32), STRANGER_ID):
            forwarder.say(pubsub_route(subscriber, source_node_id=source))
        assert await received(messages) == ([(1, None, FORWARDER_ID)] * 4 if may_publish is None else [])
        assert subscriber.statistics().messages_forbidden == (0 if may_publish is None else 4)
        forwarder.say(pubsub_route(subscriber, source_node_id=FORWARDER_ID))
        assert await received(messages) == [(1, FORWARDER_ID, None)]


@pytest.mark.parametrize("may_publish", [None, [FRIEND], lambda *_: True], ids=["all", "ids", "function"])
@pytest.mark.parametrize("claims_by", ["connect", "nothing"])
async def test_who_proves_nothing_is_no_publisher_whoever_it_claims_to_be(
    claims_by: str, may_publish: Any, autojump_clock: Clock
) -> None:
    network = SimNetwork()
    config = attrs.evolve(UNVERIFIED, may_publish=may_publish)
    async with (
        open_mesh(2, network=network, config=config) as (subscriber, friend),
        subscriber.subscribe("a.b") as messages,
        open_endpoint(network, FORWARDER) as endpoint,
    ):
        recorder = await connect_bare(endpoint, parse_endpoint(subscriber.endpoint))
        if claims_by == "connect":
            recorder.say(wire.Connect(realm_id=REALM, node_id=friend.node_id))
        recorder.say(PUBLISH)
        recorder.say(pubsub_route(subscriber, source_node_id=friend.node_id))
        assert await received(messages) == ([(1, None, None)] * 2 if may_publish is None else [])
        assert subscriber.statistics().messages_forbidden == (0 if may_publish is None else 2)
        await friend.publish("a.b", 2)
        assert await received(messages) == [(2, FRIEND, None)]

"""Every field of `NodeStatistics` is moved by something that happens to a real node, and by the right thing."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, Final

import attrs
import pytest
import trio
from authorisation_tools import CONFIG, PUBLISH, Handler, Sleeper, code_of, outsider, pubsub_route, rpc_route
from quic_tools import Recorder, host, open_peer

import macula_trio as macula
from macula_trio._peer.budget import TokenBucket
from macula_trio._peer.linger import LINGER_S
from macula_trio._util import format_endpoint, parse_endpoint
from macula_trio._wire import messages as wire
from macula_trio._wire.frame import MessageType
from macula_trio.abc import Message
from macula_trio.testing import LinkModel, SimNetwork, open_mesh
from macula_trio.testing._mesh import sim_identity

pytestmark = pytest.mark.thorough

Clock = trio.testing.MockClock
CAST: Final = {"procedure": "a.b", "args": b"{}"}
NOBODY: Final = macula.Contact(node_id=macula.NodeId(bytes(32)), endpoint=format_endpoint(host(99)))
UNKNOWN_FRAME: Final = bytes.fromhex("01 7e 00 00 00000001 80")  # of a type that does not exist


@attrs.define(eq=False)
class Stage:
    """A node that is looked at, and another one that it has a link with."""

    network: SimNetwork
    node: macula.Node
    other: macula.Node
    nursery: trio.Nursery
    stack: AsyncExitStack

    async def enter(self, context: AbstractAsyncContextManager[Any]) -> Any:
        """Until the node was looked at."""
        return await self.stack.enter_async_context(context)

    async def outsider(self, number: int = 9) -> Recorder:
        """Somebody who has proven who it is, and says what it likes to the node."""
        return await self.stack.enter_async_context(outsider(self.network, self.node, number))

    async def tell(self, *messages: Message) -> None:
        """Say something to the node from outside."""
        peer = await self.outsider()
        for message in messages:
            peer.say(message)
        await trio.sleep(0.5)

    @property
    def contact(self) -> macula.Contact:
        return contact_of(self.node)


def contact_of(node: macula.Node) -> macula.Contact:
    return macula.Contact(node_id=node.node_id, endpoint=node.endpoint)


@asynccontextmanager
async def a_stage() -> AsyncGenerator[Stage, None]:
    network = SimNetwork()
    banned = sim_identity(2).node_id
    config = attrs.evolve(CONFIG, may_publish=lambda publisher, _topic: publisher != banned)
    async with (
        open_mesh(2, network=network, config=config) as (node, other),
        trio.open_nursery() as nursery,
        AsyncExitStack() as stack,
    ):
        yield Stage(network, node, other, nursery, stack)
        nursery.cancel_scope.cancel()


# -- what moves them ------------------------------------------------------------------------------------------------


async def a_ping_is_answered(stage: Stage) -> None:
    await stage.other.ping(stage.contact)


async def a_frame_of_an_unknown_type_comes(stage: Stage) -> None:
    peer = await stage.outsider()
    peer.write(UNKNOWN_FRAME)
    await trio.sleep(0.1)


async def an_answer_comes_that_nobody_asked_for(stage: Stage) -> None:
    await stage.tell(wire.FindNodeReply(nodes=(), correlation_id=bytes(16)))


async def a_message_comes_that_nobody_here_takes(stage: Stage) -> None:
    await stage.tell(wire.Puback(message_id=bytes(16), results={}))


async def more_pings_come_than_one_peer_may_send(stage: Stage) -> None:
    peer = await stage.outsider()
    for link in stage.node._registry.links:
        link._budget.pings = TokenBucket(1e-9, 1)
    peer.say(wire.Ping(timestamp=1))
    peer.say(wire.Ping(timestamp=2))
    await trio.sleep(0.1)


async def somebody_of_another_realm_dials(stage: Stage) -> None:
    with pytest.raises(macula.RealmMismatch):
        await macula.send_message(stage.node.endpoint, MessageType.CAST, CAST, realm="org.other", network=stage.network)


async def it_sends_a_message(stage: Stage) -> None:
    await stage.node.send_message(contact_of(stage.other), MessageType.CAST, CAST)


async def it_sends_a_message_to_nobody(stage: Stage) -> None:
    with pytest.raises(macula.PeerUnavailable):
        await stage.node.send_message(NOBODY, MessageType.CAST, CAST)


async def sending_a_message_is_cancelled(stage: Stage) -> None:
    with trio.move_on_after(1) as scope:
        await stage.node.send_message(NOBODY, MessageType.CAST, CAST)
    assert scope.cancelled_caught


async def a_message_is_read_too_late_to_be_known(stage: Stage) -> None:
    far = await stage.enter(open_peer(stage.network, 40))
    stage.network.set_link(LinkModel(latency_s=0.6 * LINGER_S))
    await stage.node.send_message(far.contact, MessageType.CAST, CAST)


async def somebody_dials(stage: Stage) -> None:
    await stage.outsider()


async def a_peer_breaks_its_connection(stage: Stage) -> None:
    peer = await stage.outsider()
    peer.connection._quic.stop_stream(0, 1)
    peer.say(wire.Ping(timestamp=1))
    await trio.sleep(0.5)


async def garbage_comes(stage: Stage) -> None:
    socket = await stage.network.bind(host(50))
    socket.send_batch([(b"garbage", parse_endpoint(stage.node.endpoint))])
    await trio.sleep(0.1)
    socket.close()


async def two_peers_talk_while_it_cannot_keep_up(stage: Stage) -> None:
    loud, quiet = await stage.outsider(9), await stage.outsider(10)
    assert stage.node._quic is not None
    for connection in stage.node._quic._connections:
        connection._share = TokenBucket(1e-9, 1)
    stage.node._quic._fairness.timer_fired(1.0, trio.current_time())  # as if the loop had stood still
    for _ in range(5):
        loud.say(wire.Ping(timestamp=1))
        quiet.say(wire.Ping(timestamp=1))
        await trio.sleep(0.01)


async def it_dials_what_no_datagram_can_be_sent_to(stage: Stage) -> None:
    with pytest.raises(macula.PeerUnavailable):
        await stage.node.ping(attrs.evolve(NOBODY, endpoint="255.255.255.255:9443"))


async def a_node_joins(stage: Stage) -> None:
    config = attrs.evolve(CONFIG, listen="10.0.0.77:9443", bootstrap=[stage.node.endpoint])
    await stage.enter(macula.open_node(config, network=stage.network))
    await trio.sleep(1)


async def a_value_is_stored(stage: Stage) -> None:
    report = await stage.other.store(bytes(32), {"k": "v"})
    assert stage.node.node_id in report.stored


async def a_call_takes_its_time(stage: Stage) -> None:
    sleeper = Sleeper()
    await stage.enter(stage.node.advertise("a.b", sleeper))
    stage.nursery.start_soon(stage.other.call, "a.b")
    await trio.sleep(1)
    assert len(sleeper.calls) == 1


async def somebody_calls_who_may_not(stage: Stage) -> None:
    await stage.enter(stage.node.advertise("a.b", Handler(), allow=[]))
    assert await code_of(stage.other) == "forbidden"


async def somebody_publishes_who_may_not(stage: Stage) -> None:
    await stage.enter(stage.node.subscribe("a.t"))
    await stage.other.publish("a.t", 1)
    await trio.sleep(0.5)


async def an_envelope_comes_that_nobody_waits_for(stage: Stage) -> None:
    reply = wire.Reply(call_id=bytes(16), result=b"1")
    await stage.tell(rpc_route(stage.node, payload_type="reply", payload=reply))


async def an_envelope_for_another_node_comes(stage: Stage) -> None:
    await stage.enter(stage.other.subscribe("a.b", allow_routed=True))
    await stage.tell(pubsub_route(stage.other))


async def the_other_one_says_goodbye(stage: Stage) -> None:
    for link in stage.other._registry.links:
        link.close()
    await trio.sleep(0.1)


async def a_client_moves(stage: Stage) -> None:
    home = stage.network.host("home", "10.3.0.1", also=["10.3.0.2"])
    node = await stage.enter(
        macula.open_node(attrs.evolve(CONFIG, listen="0.0.0.0:9443", bootstrap=[stage.node.endpoint]), network=home)
    )
    home.change_address("10.3.0.3")
    await node.ping(stage.contact)
    await trio.sleep(1)


async def a_subscriber_that_it_publishes_to_dies(stage: Stage) -> None:
    await stage.enter(stage.other.subscribe("a.t"))
    await trio.sleep(1)
    await stage.node.publish("a.t", 1)
    stage.network.partition([stage.other.endpoint.rpartition(":")[0]])
    await trio.sleep(30)


async def it_dials_somebody_who_is_not_there(stage: Stage) -> None:
    with pytest.raises(macula.PeerUnavailable):
        await stage.node.ping(NOBODY)


async def it_dials_him_again_and_again(stage: Stage) -> None:
    for _ in range(20):
        await it_dials_somebody_who_is_not_there(stage)


async def it_is_called_while_it_drains(stage: Stage) -> None:
    await stage.enter(stage.node.advertise("a.b", Sleeper()))
    peer = await stage.outsider()
    stage.nursery.start_soon(stage.other.call, "a.b")
    await trio.sleep(0.5)
    stage.nursery.start_soon(stage.node.drain, 5)
    await trio.sleep(0.5)
    peer.say(wire.Call(call_id=bytes(16), procedure="a.b", args=b"null"))
    await trio.sleep(0.5)


async def nobody_takes_what_it_publishes(stage: Stage) -> None:
    await stage.enter(stage.other.subscribe("a.t", buffer=1, when_full="block"))
    await trio.sleep(1)
    for number in range(3):
        await stage.node.publish("a.t", number)


async def a_client_subscribes(stage: Stage) -> None:
    await stage.tell(wire.Subscribe(topics=("t.*",)))


async def a_client_publishes_a_message_twice(stage: Stage) -> None:
    await stage.tell(wire.Subscribe(topics=("t.*",)), PUBLISH, PUBLISH)


MOVES: Final[Mapping[str, Callable[[Stage], Awaitable[None]]]] = {
    "frames_sent": a_ping_is_answered,
    "frames_received": a_ping_is_answered,
    "frames_unknown": a_frame_of_an_unknown_type_comes,
    "replies_unexpected": an_answer_comes_that_nobody_asked_for,
    "messages_unhandled": a_message_comes_that_nobody_here_takes,
    "requests_excessive": more_pings_come_than_one_peer_may_send,
    "refused": somebody_of_another_realm_dials,
    "messages_sent": it_sends_a_message,
    "messages_failed": it_sends_a_message_to_nobody,
    "messages_dropped": sending_a_message_is_cancelled,
    "messages_unconfirmed": a_message_is_read_too_late_to_be_known,
    "links": somebody_dials,
    "links_opened": somebody_dials,
    "links_closed": the_other_one_says_goodbye,
    "links_migrated": a_client_moves,
    "links_redialed": a_subscriber_that_it_publishes_to_dies,
    "dials_failed": it_dials_somebody_who_is_not_there,
    "dials_avoided": it_dials_him_again_and_again,
    "connections_broken": a_peer_breaks_its_connection,
    "datagrams_unroutable": garbage_comes,
    "datagrams_policed": two_peers_talk_while_it_cannot_keep_up,
    "datagrams_lost": it_dials_what_no_datagram_can_be_sent_to,
    "table_size": a_node_joins,
    "stored_values": a_value_is_stored,
    "calls_running": a_call_takes_its_time,
    "calls_forbidden": somebody_calls_who_may_not,
    "calls_turned_away": it_is_called_while_it_drains,
    "messages_forbidden": somebody_publishes_who_may_not,
    "publications_dropped": nobody_takes_what_it_publishes,
    "envelopes_refused": an_envelope_comes_that_nobody_waits_for,
    "envelopes_forwarded": an_envelope_for_another_node_comes,
    "clients": a_client_subscribes,
    "client_messages_dropped": a_client_publishes_a_message_twice,
}
# What goes on in every scene moves these, too; nothing else may move along, but what is said here.
COMMON: Final = frozenset(
    {"frames_sent", "frames_received", "links", "links_opened", "table_size", "stored_values", "clients"}
)
ALONG: Final[Mapping[str, frozenset[str]]] = {
    "messages_unconfirmed": frozenset({"messages_sent", "links_closed"}),
    "messages_failed": frozenset({"dials_failed"}),
    "connections_broken": frozenset({"datagrams_unroutable", "links_closed"}),  # what was under way to it
    "links_redialed": frozenset({"links_closed", "dials_failed", "dials_avoided"}),
    "dials_avoided": frozenset({"dials_failed"}),
    "datagrams_lost": frozenset({"dials_failed"}),
    "calls_turned_away": frozenset({"calls_running"}),
}


def amounts(statistics: macula.NodeStatistics) -> dict[str, int]:
    values = {field.name: getattr(statistics, field.name) for field in attrs.fields(macula.NodeStatistics)}
    return {name: sum(value.values()) if isinstance(value, Mapping) else value for name, value in values.items()}


def test_every_field_has_something_that_moves_it() -> None:
    assert list(MOVES) == [field.name for field in attrs.fields(macula.NodeStatistics)]


@pytest.mark.parametrize("name", MOVES)
async def test_it_moves_the_field_and_no_other(name: str, autojump_clock: Clock) -> None:
    async with a_stage() as stage:
        before = amounts(stage.node.statistics())
        await MOVES[name](stage)
        after = amounts(stage.node.statistics())
        moved = {field for field in MOVES if after[field] > before[field]}
    assert name in moved
    assert moved - COMMON - ALONG.get(name, frozenset()) <= {name}

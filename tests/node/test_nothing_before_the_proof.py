"""With the default policy nothing of an unproven peer reaches a handler, a subscription, the table or the storage.

Every type of message is sent, aimed at what really is there: an advertised procedure, a topic that is subscribed to, a
value that is well signed.  The same messages of a proven peer arrive, which shows that they are aimed well.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import attrs
import pytest
import trio
from message_examples import EXAMPLES
from quic_tools import Recorder, connect_bare, credentials, host, open_endpoint

import macula_trio as macula
from macula_trio._identity.record import sign_record
from macula_trio._net.quic import QuicEndpoint
from macula_trio._peer.handshake import LocalParty, make_connect
from macula_trio._trust import Trust
from macula_trio._util import format_endpoint, parse_endpoint
from macula_trio._wire import messages as wire
from macula_trio._wire.codec import encode_message
from macula_trio._wire.frame import MessageType
from macula_trio.abc import Message
from macula_trio.testing import SimNetwork, open_mesh
from macula_trio.testing.network import EPOCH_MS

Clock = trio.testing.MockClock
PROCEDURE, TOPIC, ID, KEY = "math.add", "a.b", bytes(16), macula.dht_key("math.add")
ATTACKER: Final = credentials(66)
TYPES: Final = [kind.name for kind in MessageType]


def aimed(kind: str, node: macula.Node, binding: bytes) -> Message:
    """A message of this type that would have an effect, if anybody listened."""
    publish = wire.Publish(topic=TOPIC, payload=b"{}", message_id=ID)
    call = wire.Call(call_id=ID, procedure=PROCEDURE, args=b"{}")
    value = sign_record(
        ATTACKER,
        realm=node.realm,
        key=KEY,
        kind="service",
        endpoint=format_endpoint(host(2)),
        metadata={},
        seq=EPOCH_MS,
        expires_ms=EPOCH_MS + 300_000,
    ).to_value()
    made: dict[str, Message] = {
        "CONNECT": attrs.evolve(hello(node, binding), proof=None),
        "PUBLISH": publish,
        "PUBSUB_ROUTE": wire.PubsubRoute(
            destination_node_id=node.node_id,
            source_node_id=ATTACKER.node_id,
            hop_count=0,
            max_hops=10,
            topic=TOPIC,
            payload=publish,
        ),
        "CALL": call,
        "CAST": wire.Cast(procedure=PROCEDURE, args=b"{}"),
        "RPC_ROUTE": wire.RpcRoute(
            destination_node_id=node.node_id,
            source_node_id=ATTACKER.node_id,
            hop_count=0,
            max_hops=10,
            payload_type="call",
            payload=call,
        ),
        "STORE": wire.Store(key=KEY, value=value, correlation_id=ID),
        "STORE_REPLY": wire.StoreReply(result="ok", correlation_id=ID),  # without an id it is a STORE, as in v0.8
    }
    examples = {wire_name(message): message for message in EXAMPLES}
    return made.get(kind) or examples[kind]


def wire_name(message: Message) -> str:
    return MessageType(encode_message(message)[1]).name


def hello(node: macula.Node, binding: bytes) -> wire.Connect:
    party = LocalParty(
        credentials=ATTACKER,
        instance=b"attackerattacker",
        realm=node.realm,
        trust=Trust.open(),
        endpoint=format_endpoint(host(2)),
    )
    return make_connect(party, binding=binding, peer=node.node_id)


@attrs.define(eq=False)
class Scene:
    node: macula.Node
    attacker: QuicEndpoint
    called: list[macula.Call]
    messages: macula.Subscription
    events: list[macula.Event]

    def state(self) -> dict[str, Any]:
        """All that somebody from outside could have changed."""
        return {
            "called": len(self.called),
            "received": self.messages.statistics().received,
            "known": {contact.node_id for contact in self.node.known_nodes()},
            "stored": {(value.key, value.node_id) for value in self.node.stored_values()},
            "peers": {peer.node_id for peer in self.node.peers()},
        }

    def gained(self, before: dict[str, Any]) -> dict[str, Any]:
        """What there is more of than before; links that nobody needs and old values may have gone by themselves."""
        now = self.state()
        return {name: now[name] - before[name] for name in now if now[name] - before[name]}

    async def connect(self) -> Recorder:
        return await connect_bare(self.attacker, parse_endpoint(self.node.endpoint))


@asynccontextmanager
async def a_scene() -> AsyncGenerator[Scene, None]:
    called: list[macula.Call] = []

    async def handler(call: macula.Call) -> object:
        called.append(call)
        return None

    network = SimNetwork()
    async with (
        open_mesh(2, network=network) as (_, node),
        node.advertise(PROCEDURE, handler, allow_routed=True),
        node.subscribe(TOPIC) as messages,
        open_endpoint(network, 2) as attacker,
    ):
        await trio.sleep(5)  # virtual: whatever belongs to joining is over
        events: list[macula.Event] = []
        node._events.listen(events.append)
        yield Scene(node, attacker, called, messages, events)


def alone(message: Message, connect: wire.Connect) -> list[tuple[int, Message]]:
    return [(0, message)]


def on_another_stream(message: Message, connect: wire.Connect) -> list[tuple[int, Message]]:
    return [(4, message)]


def behind_a_connect_without_proof(message: Message, connect: wire.Connect) -> list[tuple[int, Message]]:
    return [(0, attrs.evolve(connect, proof=None)), (0, message)]


def behind_a_connect_with_a_false_proof(message: Message, connect: wire.Connect) -> list[tuple[int, Message]]:
    return [(0, attrs.evolve(connect, proof=bytes(64))), (0, message)]


def in_front_of_a_good_connect(message: Message, connect: wire.Connect) -> list[tuple[int, Message]]:
    return [(0, message), (0, connect)]


def on_a_stream_in_front_of_a_good_connect(message: Message, connect: wire.Connect) -> list[tuple[int, Message]]:
    return [(4, message), (0, connect)]


WAYS: Final[list[Callable[[Message, wire.Connect], list[tuple[int, Message]]]]] = [
    alone,
    on_another_stream,
    behind_a_connect_without_proof,
    behind_a_connect_with_a_false_proof,
    in_front_of_a_good_connect,
    on_a_stream_in_front_of_a_good_connect,
]


@pytest.mark.thorough
async def test_nothing_of_an_unproven_peer_has_any_effect(autojump_clock: Clock) -> None:
    async with a_scene() as scene:
        before = scene.state()
        for kind in TYPES:
            for way in WAYS:
                recorder = await scene.connect()
                binding = recorder.connection.binding
                for stream_id, message in way(aimed(kind, scene.node, binding), hello(scene.node, binding)):
                    recorder.say(message, stream_id)
                await trio.sleep(0.5)
                assert recorder.closed.is_set(), (kind, way.__name__)
                assert scene.gained(before) == {}, (kind, way.__name__)
                await trio.sleep(60)  # virtual: a host that insists is refused for a while, and this is not about that
        names = {event.name for event in scene.events}
        assert not {name for name in names if name.startswith(("rpc.", "pubsub."))}
        assert not {e.facts.get("owner") for e in scene.events if e.name == "dht.value_received"} & {
            ATTACKER.node_id.hex()
        }
        assert "link.opened" not in {e.name for e in scene.events if e.facts.get("peer") == ATTACKER.node_id.hex()}
        refused = scene.node.statistics().refused
        assert refused.keys() <= {"proof_required", "bad_proof", "unexpected_message", "malformed_message"}, refused
        assert refused["proof_required"] > len(TYPES) * 3


@pytest.mark.parametrize(
    ("kind", "effect"),
    [
        ("CALL", "called"),
        ("CAST", "called"),
        ("RPC_ROUTE", "called"),
        ("PUBLISH", "received"),
        ("PUBSUB_ROUTE", "received"),
        ("STORE", "stored"),
        ("PING", "peers"),
    ],
)
async def test_the_same_of_a_proven_peer_has_its_effect(kind: str, effect: str, autojump_clock: Clock) -> None:
    async with a_scene() as scene:
        before = scene.state()
        recorder = await scene.connect()
        binding = recorder.connection.binding
        recorder.say(hello(scene.node, binding))
        recorder.say(aimed(kind, scene.node, binding))
        await trio.sleep(0.5)
        assert not recorder.closed.is_set()
        assert effect in scene.gained(before)

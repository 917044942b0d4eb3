"""Nodes that ask, and outsiders that say what they like, for tests of who may do what and of envelopes."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final

import attrs
import trio
from quic_tools import REALM, Recorder, connect_bare, credentials, host, open_endpoint

import macula_trio as macula
from macula_trio._events import Event
from macula_trio._peer.handshake import LocalParty, make_connect
from macula_trio._trust import Trust
from macula_trio._util import format_endpoint, parse_endpoint
from macula_trio._wire import messages as wire
from macula_trio.testing import SimNetwork

FORWARDER: Final = 9  # who stands outside the mesh and says what it likes
FORWARDER_ID: Final = credentials(FORWARDER).node_id
STRANGER_ID: Final = credentials(10).node_id
CALL: Final = wire.Call(call_id=bytes(16), procedure="a.b", args=b"null")
PUBLISH: Final = wire.Publish(topic="a.b", payload=b"1", message_id=bytes(16))
CONFIG: Final = macula.NodeConfig(realm=REALM)
UNVERIFIED: Final = macula.NodeConfig(realm=REALM, trust=Trust.unverified())


@attrs.define(eq=False)
class Handler:
    """Notes whom it was run for."""

    calls: list[macula.Call] = attrs.field(factory=list)
    answer: object = "fine"

    async def __call__(self, call: macula.Call) -> object:
        self.calls.append(call)
        return self.answer


@attrs.define(eq=False)
class Sleeper:
    """Notes who is cancelled."""

    release: trio.Event = attrs.field(factory=trio.Event)
    calls: list[macula.Call] = attrs.field(factory=list)
    cancelled: list[macula.Call] = attrs.field(factory=list)

    async def __call__(self, call: macula.Call) -> object:
        self.calls.append(call)
        try:
            await self.release.wait()
        except trio.Cancelled:
            self.cancelled.append(call)
            raise
        return len(self.calls)


def facts(events: list[Event], name: str) -> list[dict[str, Any]]:
    return [dict(event.facts) for event in events if event.name == name]


async def code_of(caller: macula.Node, procedure: str = "a.b", **options: Any) -> str:
    """How a call ends: its error's code, or what it returned."""
    try:
        return str(await caller.call(procedure, **options))
    except macula.RemoteCallError as exc:
        return exc.code


@asynccontextmanager
async def outsider(
    network: SimNetwork, node: macula.Node, number: int = FORWARDER, *, capabilities: tuple[str, ...] = ()
) -> AsyncGenerator[Recorder, None]:
    """A connection of somebody who proves who it is, and then says what it likes."""
    async with open_endpoint(network, number) as endpoint:
        recorder = await connect_bare(endpoint, parse_endpoint(node.endpoint))
        party = LocalParty(
            credentials=credentials(number),
            instance=bytes([number]) * 16,
            realm=REALM,
            trust=Trust.open(),
            endpoint=format_endpoint(host(number)),
            capabilities=capabilities,
        )
        recorder.say(make_connect(party, binding=recorder.connection.binding, peer=None))
        await trio.sleep(0.1)  # virtual
        yield recorder


def rpc_route(node: macula.Node, call: wire.Call = CALL, **changes: Any) -> wire.RpcRoute:
    fields: dict[str, Any] = {
        "destination_node_id": node.node_id,
        "source_node_id": STRANGER_ID,
        "hop_count": 1,
        "max_hops": 10,
        "payload_type": "call",
        "payload": call,
    }
    return wire.RpcRoute(**(fields | changes))


def pubsub_route(node: macula.Node, message: wire.Publish = PUBLISH, **changes: Any) -> wire.PubsubRoute:
    fields: dict[str, Any] = {
        "destination_node_id": node.node_id,
        "source_node_id": STRANGER_ID,
        "hop_count": 1,
        "max_hops": 10,
        "topic": message.topic,
        "payload": message,
    }
    return wire.PubsubRoute(**(fields | changes))


def replies(recorder: Recorder) -> list[wire.Reply]:
    """What a caller got, bare or in envelopes."""
    messages = [m.payload if isinstance(m, wire.RpcRoute) else m for m in recorder.heard()]
    return [message for message in messages if isinstance(message, wire.Reply)]


def outcomes(recorder: Recorder) -> list[str]:
    return [reply.error.code if reply.error else str(reply.result) for reply in replies(recorder)]


async def received(
    subscription: macula.Subscription,
) -> list[tuple[object, macula.NodeId | None, macula.NodeId | None]]:
    await trio.sleep(0.1)
    waiting = [await subscription.receive() for _ in range(subscription.statistics().waiting)]
    return [(message.payload, message.publisher, message.via) for message in waiting]

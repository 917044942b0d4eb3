"""Peers that speak as v0.8 does: no proof, no ids echoed, one frame to a stream, and no word of who they are."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import trio
from authorisation_tools import UNVERIFIED, Handler
from quic_tools import REALM, Recorder, connect_bare, credentials, host, open_endpoint

import macula_trio as macula
from macula_trio._net.quic import Connection
from macula_trio._peer.link import UNVERIFIED_STREAMS_MAX
from macula_trio._util import format_endpoint, parse_endpoint
from macula_trio._wire import messages as wire
from macula_trio._wire.codec import FrameDecoder, decode_message, encode_frame
from macula_trio._wire.frame import Frame, MessageType
from macula_trio.testing import SimNetwork, open_mesh

Clock = trio.testing.MockClock
OLD = 30
OLD_ID = credentials(OLD).node_id
OLD_ENDPOINT = format_endpoint(host(OLD))
PER_MESSAGE = attrs.evolve(UNVERIFIED, connections="per-message")
MODES = [pytest.param(UNVERIFIED, id="links"), pytest.param(PER_MESSAGE, id="per-message")]


@attrs.define(eq=False)
class OldNode:
    """A listener that answers as v0.8 documents, and takes notes."""

    frames: list[Frame] = attrs.field(factory=list)
    connections: int = 0
    broken: list[str] = attrs.field(factory=list)  # what v0.8 would have lost

    def accept(self, connection: Connection) -> Recorder:
        self.connections += 1
        return _OldConnection(connection, self)

    def answer(self, frame: Frame) -> bytes | None:
        body: dict[str, Any] = frame.body or {}
        if frame.type is MessageType.CONNECT:
            return encode_frame(MessageType.PONG, {"timestamp": 1, "server_time": 2})
        if frame.type is MessageType.PING:
            return encode_frame(MessageType.PONG, {"timestamp": body["timestamp"], "server_time": 2})
        if frame.type is MessageType.FIND_NODE:
            return encode_frame(MessageType.FIND_NODE_REPLY, {"type": "find_node_reply", "nodes": []})
        if frame.type is MessageType.FIND_VALUE:
            nothing = {"type": "find_value_reply", "result": "nodes", "nodes": []}
            return encode_frame(MessageType.FIND_VALUE_REPLY, nothing)
        if frame.type is MessageType.STORE:
            return encode_frame(MessageType.STORE, {"type": "store_reply", "result": "ok"})
        if frame.type is MessageType.CALL:
            return encode_frame(MessageType.REPLY, {"call_id": body["call_id"], "result": b'"old"'})
        return None


class _OldConnection(Recorder):
    def __init__(self, connection: Connection, node: OldNode) -> None:
        super().__init__(connection)
        self.node = node

    def handshake_completed(self) -> None:
        super().handshake_completed()
        self.connection.proven()

    def stream_data_received(self, stream_id: int, data: bytes, end_stream: bool) -> None:
        if stream_id in self.data and data[1] != MessageType.DISCONNECT:
            self.node.broken.append(f"a second piece on stream {stream_id}")
        super().stream_data_received(stream_id, data, end_stream)
        decoder = FrameDecoder()
        decoder.receive_data(data)  # never put together, as in v0.8
        while (frame := decoder.next_frame()) is not None:
            self.node.frames.append(frame)
            answer = self.node.answer(frame)
            if answer is not None:
                self.write(answer, stream_id)
        if decoder.buffered:
            self.node.broken.append("a part of a frame")


@pytest.mark.parametrize("config", MODES)
async def test_we_ask_store_and_call_it_and_it_is_known(config: macula.NodeConfig, autojump_clock: Clock) -> None:
    network = SimNetwork()
    old = OldNode()
    config = attrs.evolve(config, bootstrap=[f"{OLD_ID}@{OLD_ENDPOINT}"], listen="10.0.0.1:9443")
    async with (
        open_endpoint(network, OLD, accept=old.accept),
        macula.open_node(config, network=network) as node,
    ):
        await node.wait_joined()
        assert [contact.node_id for contact in node.known_nodes()] == [OLD_ID]
        assert {peer.verified for peer in node.peers()} <= {False}
        contact = macula.Contact(node_id=OLD_ID, endpoint=OLD_ENDPOINT)
        assert await node.ping(contact) > 0
        assert await node.find_node(bytes(32)) == [contact]
        assert await node.find_value(bytes(32)) == []
        report = await node.store(bytes(32), {"k": "v"})
        assert OLD_ID in report.stored
        body = {"topic": "a.b", "payload": b"1", "message_id": bytes(16), "qos": 0, "retain": False}
        await node.send_message(contact, MessageType.PUBLISH, body)
        await trio.sleep(0.5)
        types = {frame.type for frame in old.frames}
        assert types >= {MessageType.PING, MessageType.FIND_NODE, MessageType.FIND_VALUE, MessageType.STORE}
        assert MessageType.PUBLISH in types
        assert old.broken == []
        if config.connections == "per-message":
            assert old.connections >= 5
        else:
            assert old.connections == 1


async def test_its_connections_end_before_it_would_lose_frames(autojump_clock: Clock) -> None:
    network = SimNetwork()
    old = OldNode()
    config = attrs.evolve(UNVERIFIED, bootstrap=[f"{OLD_ID}@{OLD_ENDPOINT}"], listen="10.0.0.1:9443")
    async with (
        open_endpoint(network, OLD, accept=old.accept),
        macula.open_node(config, network=network) as node,
    ):
        contact = macula.Contact(node_id=OLD_ID, endpoint=OLD_ENDPOINT)
        before = len(old.frames)
        for _ in range(UNVERIFIED_STREAMS_MAX + 20):
            await node.ping(contact)
        assert len(old.frames) - before >= UNVERIFIED_STREAMS_MAX + 20
        assert old.connections == 2
        assert old.broken == []


async def test_a_claimed_id_takes_no_proven_nodes_place(autojump_clock: Clock) -> None:
    network = SimNetwork()
    old = OldNode()
    async with (
        open_mesh(2, network=network, config=UNVERIFIED) as (node, friend),
        open_endpoint(network, OLD, accept=old.accept) as endpoint,
    ):
        liar = await connect_bare(endpoint, parse_endpoint(node.endpoint))
        liar.say(wire.Connect(realm_id=REALM, node_id=friend.node_id, endpoint=OLD_ENDPOINT))
        await trio.sleep(1)
        assert node.known_nodes() == [macula.Contact(node_id=friend.node_id, endpoint=friend.endpoint)]
        handler = Handler()
        async with friend.advertise("a.b", handler):
            assert await node.call("a.b") == "fine"
            assert handler.calls[0].caller == node.node_id


async def test_who_connects_and_answers_where_it_says_is_known(autojump_clock: Clock) -> None:
    network = SimNetwork()
    old = OldNode()
    async with (
        open_mesh(1, network=network, config=UNVERIFIED) as (node,),
        open_endpoint(network, OLD, accept=old.accept) as endpoint,
    ):
        peer = await connect_bare(endpoint, parse_endpoint(node.endpoint))
        peer.say(wire.Connect(realm_id=REALM, node_id=OLD_ID, endpoint=f"https://{OLD_ENDPOINT}"))
        await trio.sleep(1)
        assert node.known_nodes() == [macula.Contact(node_id=OLD_ID, endpoint=OLD_ENDPOINT)]
        [answer] = peer.heard()
        assert isinstance(answer, wire.Pong)
        frames = [decode_message(frame) for frame in old.frames]
        assert any(isinstance(frame, wire.Connect) for frame in frames)


async def test_who_does_not_answer_where_it_says_is_not(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with (
        open_mesh(1, network=network, config=UNVERIFIED) as (node,),
        open_endpoint(network, OLD) as endpoint,
    ):
        peer = await connect_bare(endpoint, parse_endpoint(node.endpoint))
        peer.say(wire.Connect(realm_id=REALM, node_id=OLD_ID, endpoint="10.66.66.66:1"))
        await trio.sleep(10)
        assert node.known_nodes() == []

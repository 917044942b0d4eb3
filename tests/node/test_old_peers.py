"""Peers that speak as v0.8 does: no proof, no ids echoed, one frame to a stream, and no word of who they are."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import trio
from authorisation_tools import CALL, UNVERIFIED, Handler, Sleeper
from quic_tools import REALM, Recorder, connect_bare, credentials, host, open_endpoint

import macula_trio as macula
from macula_trio._net.quic import Connection
from macula_trio._peer.link import UNVERIFIED_STREAMS_MAX
from macula_trio._util import format_endpoint, parse_endpoint
from macula_trio._wire import messages as wire
from macula_trio._wire.codec import FrameDecoder, decode_message, encode_frame
from macula_trio._wire.frame import Frame, MessageType
from macula_trio.testing import SimNetwork, open_mesh

pytestmark = pytest.mark.thorough

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


# -- what they may take ----------------------------------------------------------------------------------------------


async def test_one_call_on_several_streams_runs_once(autojump_clock: Clock) -> None:
    network = SimNetwork()
    handler = Handler()
    async with (
        open_mesh(1, network=network, config=UNVERIFIED) as (node,),
        node.advertise("a.b", handler),
        open_endpoint(network, OLD) as endpoint,
    ):
        peer = await connect_bare(endpoint, parse_endpoint(node.endpoint))
        for stream_id in (0, 4, 8):
            peer.say(CALL, stream_id)
        await trio.sleep(1)
        assert len(handler.calls) == 1


async def test_streams_are_no_accounts_of_their_own(autojump_clock: Clock) -> None:
    network = SimNetwork()
    sleeper = Sleeper()
    config = attrs.evolve(UNVERIFIED, handlers_per_caller_max=5)
    async with (
        open_mesh(1, network=network, config=config) as (node,),
        node.advertise("a.b", sleeper),
        open_endpoint(network, OLD) as endpoint,
    ):
        peer = await connect_bare(endpoint, parse_endpoint(node.endpoint))
        for number in range(20):
            peer.say(attrs.evolve(CALL, call_id=bytes([number]) * 16), 4 * number)
        await trio.sleep(1)
        assert len(sleeper.calls) == 5
        peer.say(wire.Cancel(call_id=sleeper.calls[0].call_id), 4)
        await trio.sleep(1)
        assert [call.call_id for call in sleeper.cancelled] == [sleeper.calls[0].call_id]


async def test_answers_that_come_in_another_order_are_told_apart_by_their_streams(autojump_clock: Clock) -> None:
    slow, quick = bytes([1]) * 32, bytes([2]) * 32
    network = SimNetwork()
    later: list[tuple[_OldConnection, bytes, int]] = []

    def values(key: bytes) -> bytes:
        value = {"node_id": key, "endpoint": "10.1.1.1:1", "ttl": 300}
        reply = {"type": "find_value_reply", "result": "value", "value": [value], "nodes": []}
        return encode_frame(MessageType.FIND_VALUE_REPLY, reply)

    class Late(_OldConnection):
        def stream_data_received(self, stream_id: int, data: bytes, end_stream: bool) -> None:
            if data[1] != MessageType.FIND_VALUE:
                super().stream_data_received(stream_id, data, end_stream)
                return
            decoder = FrameDecoder()
            decoder.receive_data(data)
            frame = decoder.next_frame()
            assert frame is not None
            assert frame.body is not None
            if frame.body["key"] == slow:
                later.append((self, values(slow), stream_id))
                return
            self.write(values(quick), stream_id)
            for connection, answer, stream in later:
                connection.write(answer, stream)

    config = attrs.evolve(UNVERIFIED, bootstrap=[f"{OLD_ID}@{OLD_ENDPOINT}"], listen="10.0.0.1:9443")
    found: dict[bytes, list[bytes]] = {}
    async with (
        open_endpoint(network, OLD, accept=lambda connection: Late(connection, OldNode())),
        macula.open_node(config, network=network) as node,
    ):

        async def ask(key: bytes) -> None:
            found[key] = [record.node_id for record in await node.find_value(key)]

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, slow)
            await trio.sleep(0.05)
            nursery.start_soon(ask, quick)
    assert found == {slow: [slow], quick: [quick]}


async def test_many_questions_at_once_open_no_more_streams_than_it_reads(autojump_clock: Clock) -> None:
    network = SimNetwork()
    old = OldNode()
    made: list[Patient] = []

    class Patient(_OldConnection):
        """Puts together what arrives in pieces, which is more than v0.8 does: so many at once share datagrams."""

        def __init__(self, connection: Connection) -> None:
            super().__init__(connection, old)
            self.rest: dict[int, bytes] = {}
            made.append(self)

        def stream_data_received(self, stream_id: int, data: bytes, end_stream: bool) -> None:
            data = self.rest.pop(stream_id, b"") + data
            if len(data) < 8 or len(data) < 8 + int.from_bytes(data[4:8], "big"):
                self.rest[stream_id] = data
            else:
                super().stream_data_received(stream_id, data, end_stream)

    config = attrs.evolve(UNVERIFIED, bootstrap=[f"{OLD_ID}@{OLD_ENDPOINT}"], listen="10.0.0.1:9443")
    async with open_endpoint(network, OLD, accept=Patient), macula.open_node(config, network=network) as node:
        contact = macula.Contact(node_id=OLD_ID, endpoint=OLD_ENDPOINT)
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                for _ in range(300):
                    nursery.start_soon(node.ping, contact)
        assert max(len(recorder.data) for recorder in made) <= 100
        assert len(made) >= 300 // UNVERIFIED_STREAMS_MAX
        assert old.broken == []


async def test_who_sent_and_was_sent_more_than_a_mebibyte_is_still_served(autojump_clock: Clock) -> None:
    network = SimNetwork()
    handler = Handler(answer="x" * 300_000)
    async with (
        open_mesh(1, network=network, config=UNVERIFIED) as (node,),
        node.advertise("a.b", handler),
        open_endpoint(network, OLD) as endpoint,
    ):
        peer = await connect_bare(endpoint, parse_endpoint(node.endpoint))
        for number in range(8):
            peer.say(attrs.evolve(CALL, call_id=bytes([number]) * 16), 4 * number)
            await trio.sleep(3)
        replies = [message for number in range(8) for message in peer.heard(4 * number)]
        assert len(replies) == 8

"""What a node writes to a peer of v0.8: keys and texts as bin, one frame per write, on the stream of the question.

The frames are read by a walker of its own, not by our codec: it knows the bytes of MessagePack and nothing else.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, Final

import attrs
import pytest
import trio
from old_tools import CLIENT_NUMBER, NODE_NUMBER, OldNode, put, store_body
from quic_tools import REALM, connect_bare, host, open_endpoint

import macula_trio as macula
from macula_trio._ids import dht_key
from macula_trio._net import quic
from macula_trio._net.quic import Connection
from macula_trio._util import format_endpoint, parse_endpoint
from macula_trio._wire.frame import MessageType
from macula_trio.testing import SimNetwork, open_mesh

pytestmark = pytest.mark.thorough

Clock = trio.testing.MockClock

HEADER_BYTES: Final = 8
ID: Final = bytes(range(16))
OWNER: Final = b"o" * 32
TOPIC: Final = "old.topic"
ECHO: Final = "old.echo"
FAR: Final = "far.echo"


# -- MessagePack, walked ----------------------------------------------------------------------------------------------


@attrs.frozen
class Item:
    """One element: its family, and whether it is a key of a map."""

    family: str
    is_key: bool
    content: bytes = b""


_FIXED: Final = {0xC0: 0, 0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8} | {0xCC + n: 1 << n for n in range(4)}
_FIXED.update({0xD0 + n: 1 << n for n in range(4)})
_SIZED: Final = {0xC4: "bin", 0xC5: "bin", 0xC6: "bin", 0xD9: "str", 0xDA: "str", 0xDB: "str"}
_WIDTH: Final = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4, 0xDC: 2, 0xDD: 4, 0xDE: 2, 0xDF: 4}


class Walker:
    """Goes over the bytes of one value."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.place = 0

    def take(self, count: int) -> bytes:
        piece = self.data[self.place : self.place + count]
        assert len(piece) == count, "the value ends too early"
        self.place += count
        return piece

    def length(self, first: int) -> int:
        return int.from_bytes(self.take(_WIDTH[first]), "big")

    def items(self, *, is_key: bool = False) -> Iterator[Item]:
        (first,) = self.take(1)
        if first <= 0x7F or first >= 0xE0:
            yield Item("number", is_key)
        elif first in _FIXED:
            self.take(_FIXED[first])
            yield Item("nil" if first == 0xC0 else "number", is_key)
        elif 0xA0 <= first <= 0xBF:
            yield Item("str", is_key, self.take(first & 0x1F))
        elif first in _SIZED:
            yield Item(_SIZED[first], is_key, self.take(self.length(first)))
        elif 0x90 <= first <= 0x9F or first in (0xDC, 0xDD):
            yield Item("list", is_key)
            for _ in range(first & 0x0F if first <= 0x9F else self.length(first)):
                yield from self.items()
        else:
            assert 0x80 <= first <= 0x8F or first in (0xDE, 0xDF), f"an ext type: {first:#x}"
            yield Item("map", is_key)
            for _ in range(first & 0x0F if first <= 0x8F else self.length(first)):
                yield from self.items(is_key=True)
                yield from self.items()


def walked(payload: bytes) -> list[Item]:
    walker = Walker(payload)
    found = list(walker.items())
    assert walker.place == len(payload), "bytes behind the value"
    return found


def assert_well_spelled(frame: bytes) -> None:
    version, _number, flags, reserved, length = struct.unpack(">BBBBI", frame[:HEADER_BYTES])
    assert (version, flags, reserved) == (1, 0, 0)
    assert length == len(frame) - HEADER_BYTES, "one frame, whole, in one write"
    found = walked(frame[HEADER_BYTES:])
    assert found[0].family == "map"
    assert {item.family for item in found if item.is_key} <= {"bin"}
    # The original writes a str only for a list of small integers.  We write a list as a list, which it reads as well.
    assert [item for item in found if item.family == "str"] == []


@pytest.mark.parametrize(
    "payload",
    [b"\x81\xa1k\x01", b"\x81\xc4\x01k\xa1v", b"\x81\xc4\x01k\x91\x81\xc4\x01k\xd9\x01v", b"\x81\xc4\x01k\xa0"],
)
def test_the_walker_finds_a_str_wherever_it_is(payload: bytes) -> None:
    with pytest.raises(AssertionError):
        assert_well_spelled(struct.pack(">BBBBI", 1, 3, 0, 0, len(payload)) + payload)
    assert_well_spelled(struct.pack(">BBBBI", 1, 3, 0, 0, 4) + b"\x81\xc4\x00\xc0")


# -- a whole session --------------------------------------------------------------------------------------------------


@attrs.define
class Written:
    """Every write of connections to old peers, by stream."""

    frames: list[tuple[int, bytes]] = attrs.field(factory=list)

    def on(self, stream_id: int) -> list[MessageType]:
        return [MessageType(frame[1]) for stream, frame in self.frames if stream == stream_id]


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Written:
    """Writes of nodes; a test's own peers are no links."""
    record, write = Written(), quic.Connection.write

    def watched(self: Connection, stream_id: int, data: bytes, *, end_stream: bool = False) -> None:
        link = self._handler
        if type(link).__name__ == "QuicLink" and is_old(self):
            record.frames.append((stream_id, bytes(data)))
        write(self, stream_id, data, end_stream=end_stream)

    def is_old(connection: Connection) -> bool:
        host_name = connection.path[0]
        return host_name in (host(CLIENT_NUMBER)[0], host(NODE_NUMBER)[0])

    monkeypatch.setattr(quic.Connection, "write", watched)
    return record


def questions(node: macula.Node, other: macula.Node) -> list[tuple[MessageType, dict[str, Any], list[MessageType]]]:
    """What the client asks, each on a stream of its own, and the types of the answers."""
    kind = MessageType
    call = {"call_id": ID, "procedure": ECHO, "args": b'{"a":1}', "timeout": 5000}
    routed = call | {"call_id": b"r" * 16}
    publish = {"topic": TOPIC, "payload": b"1", "qos": 0, "retain": False, "message_id": ID}
    envelope = {"destination_node_id": node.node_id, "source_node_id": OWNER, "hop_count": 0, "max_hops": 10}
    connect = {"version": "1.0", "node_id": OWNER, "realm_id": REALM, "capabilities": ["pubsub", "rpc"]}
    return [
        (kind.CONNECT, connect | {"endpoint": "https://localhost:9443"}, [kind.PONG]),
        (kind.PING, {"timestamp": 7}, [kind.PONG]),
        (kind.FIND_NODE, {"type": "find_node", "target": OWNER}, [kind.FIND_NODE_REPLY]),
        (kind.STORE, store_body(dht_key(FAR), OWNER, format_endpoint(host(NODE_NUMBER))), [kind.STORE]),
        (kind.STORE, store_body(dht_key(FAR), b"short", "x"), [kind.STORE]),
        (kind.FIND_VALUE, {"type": "find_value", "key": dht_key(FAR)}, [kind.FIND_VALUE_REPLY]),
        (kind.FIND_VALUE, {"type": "find_value", "key": dht_key(ECHO)}, [kind.FIND_VALUE_REPLY]),
        (kind.FIND_VALUE, {"type": "find_value", "key": bytes(32)}, [kind.FIND_VALUE_REPLY]),
        (kind.CALL, call, [kind.REPLY]),
        (kind.CALL, call | {"call_id": bytes(16), "procedure": "old.fails"}, [kind.REPLY]),
        (kind.CALL, call | {"call_id": ID[::-1], "procedure": "no.such"}, [kind.REPLY]),
        (kind.CALL, call | {"call_id": b"x" * 16, "args": b"no JSON"}, [kind.REPLY]),
        (kind.CAST, {"procedure": ECHO, "args": b"{}"}, []),
        (
            kind.RPC_ROUTE,
            envelope | {"payload_type": "call", "payload": routed},
            [kind.RPC_ROUTE],
        ),
        (kind.PUBLISH, publish, []),
        (kind.SUBSCRIBE, {"topics": [TOPIC], "qos": 0}, []),
        (kind.UNSUBSCRIBE, {"topics": [TOPIC]}, []),
        (kind.SWIM_PING, {"from": OWNER, "seq": 1}, [kind.SWIM_ACK]),
        (kind.SWIM_PING_REQ, {"from": OWNER, "seq": 2, "target": other.node_id}, [kind.SWIM_ACK]),
    ]


async def test_everything_that_an_old_peer_hears_is_spelled_as_it_reads_it(
    written: Written, autojump_clock: Clock
) -> None:
    OldNode.made = []

    async def echo(call: macula.Call) -> object:
        return {"args": call.args, "list": [], "text": "gr\u00fc\u00df"}

    async def fail(call: macula.Call) -> object:
        raise macula.Reject("handler_error", "no, th\u00e4nks")

    network = SimNetwork()
    config = macula.NodeConfig(realm=REALM, trust=macula.Trust.unverified())
    async with (
        open_mesh(2, network=network, config=config) as (node, other),
        open_endpoint(network, CLIENT_NUMBER) as endpoint,
        open_endpoint(network, NODE_NUMBER, accept=OldNode),
        node.advertise(ECHO, echo),
        node.advertise("old.fails", fail),
        node.subscribe(TOPIC) as messages,
    ):
        client = await connect_bare(endpoint, parse_endpoint(node.endpoint))
        asked = questions(node, other)
        for number, (message_type, body, _) in enumerate(asked):
            put(client, message_type, body, 4 * number)
            await trio.sleep(1)
        assert (await messages.receive()).payload == 1
        for number, (message_type, _, answers) in enumerate(asked):
            assert written.on(4 * number) == answers, message_type.name
        answered = len(written.frames)

        # What a node sends to old nodes of its own accord.
        assert await node.call(FAR, {"a": [1, 2, 3], "b": "text"}) == {"a": [1, 2, 3], "b": "text"}
        key = dht_key(TOPIC)
        put(client, MessageType.STORE, store_body(key, OWNER, format_endpoint(host(NODE_NUMBER))))
        await trio.sleep(1)
        await node.publish(TOPIC, {"celsius": 23.5, "tags": []})
        with trio.move_on_after(0.1):
            await node.call(FAR, None, headers={"trace": "t\u00e9"})
        # A rule of the wire broken: the goodbye says which.
        put(client, MessageType.FIND_NODE, {"type": "find_node"})
        await trio.sleep(1)
        assert written.on(0)[-1] is MessageType.DISCONNECT
    later = [MessageType(frame[1]) for _, frame in written.frames[answered:]]
    assert {MessageType.CONNECT, MessageType.CALL, MessageType.PUBSUB_ROUTE, MessageType.DISCONNECT} <= set(later)
    assert len(written.frames) > 20
    for _, frame in written.frames:
        assert_well_spelled(frame)

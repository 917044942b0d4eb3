"""One message of every type, with nothing but what it must have."""

from __future__ import annotations

from typing import Final

from macula_trio._wire import messages as wire
from macula_trio.abc import Message

ID, KEY = bytes(16), bytes(range(32))
PUBLISH: Final = wire.Publish(topic="a.b", payload=b"{}", message_id=ID)
CALL: Final = wire.Call(call_id=ID, procedure="a.b", args=b"{}")
EXAMPLES: Final[tuple[Message, ...]] = (
    wire.Disconnect(reason="normal"),
    wire.Ping(timestamp=1),
    wire.Pong(timestamp=1, server_time=2),
    PUBLISH,
    wire.Subscribe(topics=("a.*",)),
    wire.Unsubscribe(topics=("a.*",)),
    wire.PubsubRoute(
        destination_node_id=KEY, source_node_id=KEY, hop_count=0, max_hops=10, topic="a.b", payload=PUBLISH
    ),
    wire.Puback(message_id=ID, results={}),
    CALL,
    wire.Reply(call_id=ID, result=b"1"),
    wire.Cast(procedure="a.b", args=b"{}"),
    wire.RpcRoute(
        destination_node_id=KEY, source_node_id=KEY, hop_count=0, max_hops=10, payload_type="call", payload=CALL
    ),
    wire.Cancel(call_id=ID),
    wire.Item(call_id=ID, seq=0, payload=b"x"),
    wire.Credit(scope="subscription", id=b"x", credit=1),
    wire.SwimPing(),
    wire.SwimAck(),
    wire.SwimPingReq(),
    wire.FindNode(target=KEY, correlation_id=ID),
    wire.FindNodeReply(nodes=()),
    wire.Store(key=KEY, value={}, correlation_id=ID),
    wire.StoreReply(result="ok"),
    wire.FindValue(key=KEY, correlation_id=ID),
    wire.FindValueReply(result="nodes"),
)

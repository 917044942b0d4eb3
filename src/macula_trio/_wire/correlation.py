"""What a request and its reply have in common, by which a link finds who waits for what."""

from __future__ import annotations

from typing import Final

from macula_trio._wire import messages as wire
from macula_trio.abc import Message


def correlation_of(message: Message) -> tuple[str, object] | None:
    """What a request and its reply have in common; None for messages that stand alone."""
    match message:
        case wire.Call(call_id=call_id) | wire.Reply(call_id=call_id):
            return "call", call_id
        case wire.RpcRoute(payload_type="call", source_node_id=caller, payload=payload):
            return "routed", (bytes(caller), payload.call_id)
        case wire.RpcRoute(destination_node_id=caller, payload=payload):
            return "routed", (bytes(caller), payload.call_id)
        case wire.Ping(timestamp=timestamp) | wire.Pong(timestamp=timestamp):
            return "ping", timestamp
        case wire.SwimPing(seq=seq) | wire.SwimAck(seq=seq):
            return "swim", seq
        case (
            wire.FindNode(correlation_id=correlation_id)
            | wire.FindNodeReply(correlation_id=correlation_id)
            | wire.FindValue(correlation_id=correlation_id)
            | wire.FindValueReply(correlation_id=correlation_id)
            | wire.Store(correlation_id=correlation_id)
            | wire.StoreReply(correlation_id=correlation_id)
        ):
            return "query", correlation_id
    return None


def is_reply(message: Message) -> bool:
    """Whether somebody asked for this message, so that it is for whoever waits and for nobody else."""
    return isinstance(message, REPLIES)


def may_be_reply(message: Message) -> bool:
    """Whether it is for whoever waits, if anybody does, and otherwise for the handler of its type."""
    return isinstance(message, wire.RpcRoute) and message.payload_type == "reply"


REPLIES: Final = (wire.Reply, wire.Pong, wire.FindNodeReply, wire.FindValueReply, wire.StoreReply, wire.SwimAck)

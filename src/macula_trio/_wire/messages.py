"""The typed messages: one frozen class per type on the wire, and the one table that says which.

What a field is called here it is called on the wire, and its annotation is its rule (see
`macula_trio._wire.fields`).  Optional fields are None when they are not there.  DESIGN sections 4 to 10.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

import attrs

from macula_trio._wire.fields import (
    Blob,
    Blobs,
    Count,
    Endpoint,
    Flag,
    Hint,
    Kind,
    Map,
    Maps,
    NodeKey,
    Number,
    Qos,
    Schema,
    ShortId,
    SparseFlag,
    SparseTexts,
    Text,
    TextMap,
    Texts,
    check_map,
    list_of,
    one_of,
    schema_of,
    struct,
)
from macula_trio._wire.frame import MessageType
from macula_trio.abc import Message
from macula_trio.errors import ErrorCode, LocalProtocolError, RemoteProtocolError


@attrs.frozen(kw_only=True)
class CallError:
    """Why a call failed; ``code`` is one of `macula_trio._rpc.errors_map`, or what v0.8 names."""

    code: Text
    message: Text = ""


@attrs.frozen(kw_only=True)
class NodeEntry:
    """A node that a peer knows; ``last_seen`` is v0.8's, in ms on the peer's clock."""

    node_id: NodeKey
    address: Text
    last_seen: Number | None = None


@attrs.frozen(kw_only=True)
class Connect(Message):
    """First frame of a dialer: who it is.  ``realm_id`` is the realm's name (DESIGN section 5)."""

    realm_id: Text
    version: Text = "1.0"
    node_id: NodeKey | None = None
    capabilities: Texts = ()
    endpoint: Endpoint | None = None
    instance: ShortId | None = None
    certificate_chain: Blobs | None = None
    proof: Blob | None = None
    peer_node_id: NodeKey | None = None
    replaces: ShortId | None = None


@attrs.frozen(kw_only=True)
class Disconnect(Message):
    """Last frame: ``reason`` is an `ErrorCode`, or v0.8's ``normal`` and ``error``."""

    reason: Text
    message: Text = ""


@attrs.frozen(kw_only=True)
class Ping(Message):
    """Are you there?  ``timestamp`` means something to its sender only."""

    timestamp: Number


@attrs.frozen(kw_only=True)
class Pong(Message):
    """Answer to PING (v0.8: also to CONNECT); ours to a CONNECT also says who the listener is.

    ``observed``: where the listener sees the dialer, ``host:port``; also in a PONG that nobody asked for, timestamp -1,
    when that has changed under a link.
    """

    timestamp: Number
    server_time: Number
    node_id: NodeKey | None = None
    capabilities: SparseTexts = ()
    endpoint: Endpoint | None = None
    instance: ShortId | None = None
    certificate_chain: Blobs | None = None
    proof: Blob | None = None
    peer_node_id: NodeKey | None = None
    observed: Hint | None = None


@attrs.frozen(kw_only=True)
class Publish(Message):
    """One message on a topic; ``expires_ms`` is how long it is worth delivering, a duration."""

    topic: Text
    payload: Blob
    message_id: ShortId
    qos: Qos = 0
    retain: Flag = False
    content_type: Text | None = None
    headers: TextMap | None = None
    expires_ms: Count | None = None


@attrs.frozen(kw_only=True)
class Subscribe(Message):
    """What v0.8 asks of a gateway; ours advertise in the DHT instead."""

    topics: Texts
    qos: Qos = 0


@attrs.frozen(kw_only=True)
class Unsubscribe(Message):
    """Undo a SUBSCRIBE."""

    topics: Texts


@attrs.frozen(kw_only=True)
class PubsubRoute(Message):
    """A PUBLISH on its way to one subscriber node; ``delivery_seq`` counts what its publisher sent there, from 1.

    ``windows`` says in which windows of subscriptions that block it is counted: 8 bytes of id, and its number there as
    big-endian uint64.
    """

    destination_node_id: NodeKey
    source_node_id: NodeKey
    hop_count: Count
    max_hops: Count
    topic: Text
    payload: Annotated[Publish, struct(Publish)]
    delivery_seq: Count | None = None
    windows: Blobs | None = None


@attrs.frozen(kw_only=True)
class Puback(Message):
    """What became of a qos 1 message: ``results`` has ``accepted`` or ``dropped`` per subscription."""

    message_id: ShortId
    results: TextMap


@attrs.frozen(kw_only=True)
class Call(Message):
    """A question to a procedure; ``timeout`` is what is left of the caller's time, in ms."""

    call_id: ShortId
    procedure: Text
    args: Blob
    timeout: Count | None = None
    content_type: Text | None = None
    headers: TextMap | None = None
    realm: Text | None = None


@attrs.frozen(kw_only=True)
class Reply(Message):
    """The answer to a CALL: a result or an error; neither is v0.8's ``null``."""

    call_id: ShortId
    result: Blob | None = None
    error: Annotated[CallError, struct(CallError)] | None = None
    content_type: Text | None = None


@attrs.frozen(kw_only=True)
class Cast(Message):
    """A CALL that nobody answers."""

    procedure: Text
    args: Blob
    content_type: Text | None = None
    headers: TextMap | None = None


def _read_routed(value: object) -> Any:
    """Tell the two apart by what only a CALL has; `RpcRoute` compares that with ``payload_type``."""
    body = check_map(value)
    return SCHEMAS[MessageType.CALL if "procedure" in body else MessageType.REPLY].read(body)


def _write_routed(value: Call | Reply) -> dict[str, Any]:
    return SCHEMAS[_TYPES[type(value)]].write(value)


@attrs.frozen(kw_only=True)
class RpcRoute(Message):
    """A CALL or a REPLY that travels over other nodes.

    Raises:
      ValueError: ``payload_type`` and ``payload`` disagree.
    """

    destination_node_id: NodeKey
    source_node_id: NodeKey
    hop_count: Count
    max_hops: Count
    payload_type: Annotated[str, one_of("call", "reply")]
    payload: Annotated[Call | Reply, Kind(read=_read_routed, write=_write_routed)]

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.payload, _ROUTED.get(self.payload_type, ())):
            raise ValueError(f"payload: is not a {self.payload_type}")


@attrs.frozen(kw_only=True)
class Cancel(Message):
    """Nobody waits for this call any more; ``source_node_id`` as in the RPC_ROUTE that brought it, if one did."""

    call_id: ShortId
    source_node_id: NodeKey | None = None


@attrs.frozen(kw_only=True)
class Item(Message):
    """One element of a streaming call; ``seq`` counts from 0 per direction."""

    call_id: ShortId
    seq: Count
    payload: Blob
    content_type: Text | None = None
    last: Flag = False


@attrs.frozen(kw_only=True)
class Credit(Message):
    """The reader has taken this much by now: ``scope`` says of what, ``id`` of which."""

    scope: Text
    id: Blob
    credit: Count


@attrs.frozen(kw_only=True)
class SwimPing(Message):
    """Membership probe (Das et al. 2002); v0.8 has the type and never sends it."""

    from_: NodeKey | None = None
    seq: Count | None = None


@attrs.frozen(kw_only=True)
class SwimAck(Message):
    """Answer to a membership probe."""

    from_: NodeKey | None = None
    seq: Count | None = None


@attrs.frozen(kw_only=True)
class SwimPingReq(Message):
    """Please probe ``target`` for me."""

    from_: NodeKey | None = None
    seq: Count | None = None
    target: NodeKey | None = None


@attrs.frozen(kw_only=True)
class FindNode(Message):
    """Who is close to ``target``?"""

    target: NodeKey
    correlation_id: ShortId | None = None


@attrs.frozen(kw_only=True)
class FindNodeReply(Message):
    """The nodes that the answerer knows to be closest."""

    nodes: Annotated[tuple[NodeEntry, ...], list_of(struct(NodeEntry))]
    correlation_id: ShortId | None = None


@attrs.frozen(kw_only=True)
class Store(Message):
    """Please hold this value; its shape is the DHT's affair, but a map it must be."""

    key: NodeKey
    value: Map
    correlation_id: ShortId | None = None


@attrs.frozen(kw_only=True)
class StoreReply(Message):
    """Whether it is held; a ``stale`` refusal shows what is held instead, ``expired`` the time of the refuser."""

    result: Annotated[str, one_of("ok", "error")]
    reason: Text | None = None
    correlation_id: ShortId | None = None
    value: Map | None = None
    server_time: Number | None = None


@attrs.frozen(kw_only=True)
class FindValue(Message):
    """What is stored under ``key``?  At most ``limit`` values, those behind ``after`` in the replica's order."""

    key: NodeKey
    kind: Text | None = None
    limit: Count | None = None
    after: Blob | None = None
    correlation_id: ShortId | None = None


@attrs.frozen(kw_only=True)
class FindValueReply(Message):
    """Values, or the nodes that may have some; ``more``: there are values behind the last one."""

    result: Annotated[str, one_of("value", "nodes")]
    value: Maps = ()
    nodes: Annotated[tuple[NodeEntry, ...], list_of(struct(NodeEntry), sparse=True)] = ()
    more: SparseFlag = False
    correlation_id: ShortId | None = None


CLASSES: Final[Mapping[MessageType, type[Message]]] = {
    MessageType.CONNECT: Connect,
    MessageType.DISCONNECT: Disconnect,
    MessageType.PING: Ping,
    MessageType.PONG: Pong,
    MessageType.PUBLISH: Publish,
    MessageType.SUBSCRIBE: Subscribe,
    MessageType.UNSUBSCRIBE: Unsubscribe,
    MessageType.PUBSUB_ROUTE: PubsubRoute,
    MessageType.PUBACK: Puback,
    MessageType.CALL: Call,
    MessageType.REPLY: Reply,
    MessageType.CAST: Cast,
    MessageType.RPC_ROUTE: RpcRoute,
    MessageType.CANCEL: Cancel,
    MessageType.ITEM: Item,
    MessageType.CREDIT: Credit,
    MessageType.SWIM_PING: SwimPing,
    MessageType.SWIM_ACK: SwimAck,
    MessageType.SWIM_PING_REQ: SwimPingReq,
    MessageType.FIND_NODE: FindNode,
    MessageType.FIND_NODE_REPLY: FindNodeReply,
    MessageType.STORE: Store,
    MessageType.FIND_VALUE: FindValue,
    MessageType.FIND_VALUE_REPLY: FindValueReply,
    MessageType.STORE_REPLY: StoreReply,
}
"""Which class a type on the wire is."""

SCHEMAS: Final[Mapping[MessageType, Schema]] = {number: schema_of(cls) for number, cls in CLASSES.items()}
"""The fields of each type."""

_ROUTED: Final[Mapping[str, type[Message]]] = {"call": Call, "reply": Reply}
_TYPES: Final[Mapping[type[Message], MessageType]] = {cls: number for number, cls in CLASSES.items()}
# Every DHT body repeats its type, by which v0.8 tells replies apart.
_DHT_NAMES: Final = {number: number.name.lower() for number in MessageType if number >= MessageType.FIND_NODE}


def frame_type_of(message: Message) -> MessageType:
    """The type in the header of a message's frame.

    A STORE_REPLY to somebody who gave nothing to tell it by goes out as v0.8 has it: a STORE of type ``store_reply``.
    """
    if type(message) is StoreReply and message.correlation_id is None:
        return MessageType.STORE
    return _TYPES[type(message)]


def to_body(message: Message) -> dict[str, Any]:
    """Turn a typed message into the map that `encode_frame` takes; fields that are None are left out.

    Raises:
      LocalProtocolError: a field breaks its rule.
    """
    number = _TYPES[type(message)]
    try:
        body = SCHEMAS[number].write(message)
    except ValueError as exc:
        raise LocalProtocolError(f"{number.name} {exc}", code=ErrorCode.MALFORMED_MESSAGE) from exc
    if isinstance(message, FindValueReply) and message.result == "nodes" and message.correlation_id is None:
        body.setdefault("nodes", [])  # v0.8 does not read a reply without them
    if number in _DHT_NAMES:
        body["type"] = _DHT_NAMES[number]
    return body


def from_body(number: MessageType, body: Mapping[str, Any]) -> Message:
    """Turn a decoded map into the typed message; unknown keys are ignored.

    Raises:
      RemoteProtocolError: a field is missing or breaks its rule; the text names the type and the field.
    """
    if number is MessageType.STORE and body.get("type") == b"store_reply":
        number = MessageType.STORE_REPLY  # v0.8 sends it as a STORE
    try:
        return SCHEMAS[number].read(body)  # type: ignore[no-any-return]  # schemas are not generic
    except ValueError as exc:
        raise RemoteProtocolError(f"{number.name} {exc}", code=ErrorCode.MALFORMED_MESSAGE) from exc

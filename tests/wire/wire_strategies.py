"""Hypothesis strategies for typed messages, made from their annotations' rules by hand, not from the code's tables."""

from __future__ import annotations

from typing import Any, Final

from hypothesis import strategies as st

from macula_trio._wire import messages as m
from macula_trio.abc import Message

COUNT: Final = st.integers(0, 2**63 - 1)
NUMBER: Final = st.integers(-(2**63), 2**64 - 1)
TEXT: Final = st.text(max_size=12)
BLOB: Final = st.binary(max_size=24)
KEY: Final = st.binary(min_size=32, max_size=32)
ID: Final = st.binary(min_size=16, max_size=16)
QOS: Final = st.integers(0, 2)
TEXT_MAP: Final = st.dictionaries(TEXT, TEXT, max_size=3)
MAP: Final = st.dictionaries(
    TEXT,
    st.none() | st.booleans() | NUMBER | BLOB | st.lists(BLOB, max_size=2) | st.dictionaries(TEXT, NUMBER),
    max_size=4,
)
ENDPOINT: Final = TEXT.filter(lambda text: text != "undefined")


def many(item: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(item, max_size=3).map(tuple)


def make(cls: type[Any], optional: dict[str, st.SearchStrategy[Any]] | None = None, **required: Any) -> Any:
    """Instances with every required field, and any of the optional ones."""
    fields = st.fixed_dictionaries(required, optional=optional or {})
    return fields.map(lambda values: cls(**values))


def maybe(**fields: st.SearchStrategy[Any]) -> dict[str, st.SearchStrategy[Any]]:
    return {name: st.none() | strategy for name, strategy in fields.items()}


NODES: Final = many(make(m.NodeEntry, maybe(last_seen=NUMBER), node_id=KEY, address=TEXT))
INTRODUCTION: Final = {
    "capabilities": many(TEXT),
    **maybe(node_id=KEY, endpoint=ENDPOINT, instance=ID, certificate_chain=many(BLOB), proof=BLOB, peer_node_id=KEY),
}
CODEC: Final = maybe(content_type=TEXT, headers=TEXT_MAP)
CORRELATION: Final = maybe(correlation_id=ID)
ROUTE: Final = {"destination_node_id": KEY, "source_node_id": KEY, "hop_count": COUNT, "max_hops": COUNT}
SWIM: Final = maybe(from_=KEY, seq=COUNT)
PUBLISH: Final = make(
    m.Publish,
    {"qos": QOS, "retain": st.booleans(), **CODEC, **maybe(expires_ms=COUNT)},
    topic=TEXT,
    payload=BLOB,
    message_id=ID,
)
CALL: Final = make(m.Call, {**CODEC, **maybe(timeout=COUNT, realm=TEXT)}, call_id=ID, procedure=TEXT, args=BLOB)
ERROR: Final = make(m.CallError, code=TEXT, message=TEXT)
REPLY: Final = make(m.Reply, maybe(result=BLOB, error=ERROR, content_type=TEXT), call_id=ID)

BY_CLASS: Final[dict[type[Message], st.SearchStrategy[Any]]] = {
    m.Connect: make(m.Connect, {"version": TEXT, **INTRODUCTION, **maybe(replaces=ID)}, realm_id=TEXT),
    m.Disconnect: make(m.Disconnect, {"message": TEXT}, reason=TEXT),
    m.Ping: make(m.Ping, timestamp=NUMBER),
    m.Pong: make(m.Pong, INTRODUCTION, timestamp=NUMBER, server_time=NUMBER),
    m.Publish: PUBLISH,
    m.Subscribe: make(m.Subscribe, {"qos": QOS}, topics=many(TEXT)),
    m.Unsubscribe: make(m.Unsubscribe, topics=many(TEXT)),
    m.PubsubRoute: make(m.PubsubRoute, **ROUTE, topic=TEXT, payload=PUBLISH),
    m.Puback: make(m.Puback, message_id=ID, results=TEXT_MAP),
    m.Call: CALL,
    m.Reply: REPLY,
    m.Cast: make(m.Cast, CODEC, procedure=TEXT, args=BLOB),
    m.RpcRoute: make(m.RpcRoute, **ROUTE, payload_type=st.just("call"), payload=CALL)
    | make(m.RpcRoute, **ROUTE, payload_type=st.just("reply"), payload=REPLY),
    m.Cancel: make(m.Cancel, call_id=ID),
    m.Item: make(m.Item, {"last": st.booleans(), **maybe(content_type=TEXT)}, call_id=ID, seq=COUNT, payload=BLOB),
    m.Credit: make(m.Credit, scope=TEXT, id=BLOB, credit=COUNT),
    m.SwimPing: make(m.SwimPing, SWIM),
    m.SwimAck: make(m.SwimAck, SWIM),
    m.SwimPingReq: make(m.SwimPingReq, {**SWIM, **maybe(target=KEY)}),
    m.FindNode: make(m.FindNode, CORRELATION, target=KEY),
    m.FindNodeReply: make(m.FindNodeReply, CORRELATION, nodes=NODES),
    m.Store: make(m.Store, CORRELATION, key=KEY, value=MAP),
    m.FindValue: make(m.FindValue, {**CORRELATION, **maybe(kind=TEXT, limit=COUNT, after=BLOB)}, key=KEY),
    m.FindValueReply: make(
        m.FindValueReply,
        {"value": many(MAP), "nodes": NODES, "more": st.booleans(), **CORRELATION},
        result=st.sampled_from(["value", "nodes"]),
    ),
    m.StoreReply: make(
        m.StoreReply,
        {**CORRELATION, **maybe(reason=TEXT, value=MAP, server_time=NUMBER)},
        result=st.sampled_from(["ok", "error"]),
    ),
}
MESSAGES: Final = st.one_of(*BY_CLASS.values())

"""Typed messages: what is said survives the wire, and what breaks a rule is refused by its name."""

from __future__ import annotations

from typing import Any, Final

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_strategies import BY_CLASS, MESSAGES

from macula_trio import wire
from macula_trio._ids import NodeId
from macula_trio._wire import messages as m
from macula_trio._wire.codec import decode_message, encode_message
from macula_trio.abc import Message
from macula_trio.errors import ErrorCode, LocalProtocolError, RemoteProtocolError

KEY: Final = bytes(32)
ID: Final = bytes(16)
CALL: Final = m.Call(call_id=ID, procedure="p", args=b"{}")
PUBLISH: Final = m.Publish(topic="t", payload=b"", message_id=ID)


def through(message: Message) -> Message | None:
    return decode_message(wire.Frame(*wire.decode_frame(encode_message(message))))


def body_of(message: Message) -> dict[str, Any]:
    return wire.decode_frame(encode_message(message))[1]


def remote_refusal(number: wire.MessageType, body: dict[str, Any]) -> str:
    with pytest.raises(RemoteProtocolError) as caught:
        m.from_body(number, body)
    assert caught.value.code is ErrorCode.MALFORMED_MESSAGE
    return str(caught.value)


def local_refusal(message: Message) -> str:
    with pytest.raises(LocalProtocolError) as caught:
        encode_message(message)
    assert caught.value.code is ErrorCode.MALFORMED_MESSAGE
    return str(caught.value)


def test_every_type_has_one_class_and_is_tested() -> None:
    assert list(m.CLASSES) == list(wire.MessageType)
    assert list(m.CLASSES.values()) == list(BY_CLASS)
    assert [m._TYPES[cls] for cls in BY_CLASS] == list(wire.MessageType)


@pytest.mark.parametrize("cls", BY_CLASS, ids=lambda cls: cls.__name__)
def test_a_typed_message_survives_the_wire(cls: type[Message]) -> None:
    @settings(max_examples=15)
    @given(message=BY_CLASS[cls])
    def check(message: Message) -> None:
        frame = encode_message(message)
        number, body = wire.decode_frame(frame)
        assert decode_message(wire.Frame(number, body)) == message
        assert wire.encode_frame(number, body) == frame

    check()


@settings(max_examples=25)
@given(messages=st.lists(MESSAGES, max_size=4), data=st.data())
def test_messages_survive_any_chunking(messages: list[Message], data: st.DataObject) -> None:
    stream = b"".join(map(encode_message, messages))
    decoder = wire.FrameDecoder()
    received = []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        decoder.receive_data(stream[:size])
        stream = stream[size:]
        while (frame := decoder.next_frame()) is not None:
            received.append(decode_message(frame))
    decoder.end()
    assert received == messages


@settings(max_examples=25)
@given(message=MESSAGES, extra=st.dictionaries(st.text(min_size=1).map("x-".__add__), st.binary(), max_size=3))
def test_unknown_keys_are_ignored(message: Message, extra: dict[str, bytes]) -> None:
    number, body = wire.decode_frame(encode_message(message))
    assert m.from_body(number, body | extra) == message


@pytest.mark.parametrize("cls", BY_CLASS, ids=lambda cls: cls.__name__)
def test_a_field_that_must_be_there_is_missed_by_its_name(cls: type[Any]) -> None:
    number = next(number for number, known in m.CLASSES.items() if known is cls)
    required = sorted(field.name for field in attrs.fields(cls) if field.default is attrs.NOTHING)
    if not required:
        assert m.from_body(number, {}) == cls()
        return
    assert remote_refusal(number, {}) == f"{number.name} {required[0]}: is missing"
    nil = dict.fromkeys(required)
    assert remote_refusal(number, nil) == f"{number.name} {required[0]}: is missing"


def test_what_is_none_is_not_on_the_wire() -> None:
    assert body_of(CALL) == {"call_id": ID, "procedure": b"p", "args": b"{}"}
    assert body_of(m.Pong(timestamp=1, server_time=2)) == {"timestamp": 1, "server_time": 2}
    reply = m.FindValueReply(result="nodes", correlation_id=ID)
    assert body_of(reply) == {"type": b"find_value_reply", "result": b"nodes", "correlation_id": ID}


def test_what_the_original_requires_is_always_on_the_wire() -> None:
    assert body_of(PUBLISH) == {"topic": b"t", "payload": b"", "message_id": ID, "qos": 0, "retain": False}
    assert body_of(m.Connect(realm_id="r")) == {"version": b"1.0", "realm_id": b"r", "capabilities": []}
    assert body_of(m.Subscribe(topics=())) == {"topics": [], "qos": 0}
    assert body_of(m.FindNodeReply(nodes=())) == {"type": b"find_node_reply", "nodes": []}
    assert body_of(m.Disconnect(reason=ErrorCode.NORMAL)) == {"reason": b"normal", "message": b""}


@pytest.mark.parametrize(
    "name", ["find_node", "find_node_reply", "store", "find_value", "find_value_reply", "store_reply"]
)
def test_a_dht_body_repeats_its_type(name: str) -> None:
    cls = m.CLASSES[wire.MessageType[name.upper()]]

    @settings(max_examples=1)
    @given(message=BY_CLASS[cls])
    def check(message: Message) -> None:
        assert body_of(message)["type"] == name.encode()

    check()


def test_the_underscore_behind_a_python_keyword_is_not_on_the_wire() -> None:
    assert body_of(m.SwimPing(from_=KEY, seq=1)) == {"from": KEY, "seq": 1}


def test_nil_is_the_same_as_not_there() -> None:
    assert m.from_body(wire.MessageType.REPLY, {"call_id": ID, "result": None, "error": None}) == m.Reply(call_id=ID)
    assert m.from_body(wire.MessageType.DISCONNECT, {"reason": b"x", "message": None}) == m.Disconnect(reason="x")


def test_a_text_may_come_as_a_str_and_so_may_bytes_that_have_no_fixed_size() -> None:
    received = m.from_body(wire.MessageType.CALL, {"call_id": ID, "procedure": "é", "args": "é"})
    assert received == m.Call(call_id=ID, procedure="é", args="é".encode())


def test_only_a_store_can_be_the_answer_to_a_store() -> None:
    body = {"type": b"store_reply", "result": b"ok", "timestamp": 1}
    assert m.from_body(wire.MessageType.STORE, body) == m.StoreReply(result="ok")
    assert m.from_body(wire.MessageType.PING, body) == m.Ping(timestamp=1)


BAD: Final[list[tuple[str, wire.MessageType, dict[str, Any], str]]] = [
    ("short id", wire.MessageType.CANCEL, {"call_id": bytes(15)}, "call_id: must be 16 bytes"),
    ("id as str", wire.MessageType.CANCEL, {"call_id": "x" * 16}, "call_id: must be 16 bytes"),
    ("long key", wire.MessageType.FIND_NODE, {"target": bytes(33)}, "target: must be 32 bytes"),
    ("optional id", wire.MessageType.SWIM_PING, {"from": b""}, "from: must be 32 bytes"),
    ("text as number", wire.MessageType.DISCONNECT, {"reason": 1}, "reason: must be a text"),
    ("text not UTF-8", wire.MessageType.DISCONNECT, {"reason": b"\xff"}, "reason: 'utf-8' codec can't decode"),
    ("blob as number", wire.MessageType.CAST, {"procedure": b"", "args": 1}, "args: must be bytes"),
    ("flag as number", wire.MessageType.ITEM, {"last": 1}, "last: must be true or false"),
    ("number as flag", wire.MessageType.PING, {"timestamp": True}, "timestamp: must be an integer"),
    ("number as float", wire.MessageType.PING, {"timestamp": 1.0}, "timestamp: must be an integer"),
    ("negative count", wire.MessageType.CALL, {"timeout": -1}, "timeout: must be an integer from 0"),
    ("huge count", wire.MessageType.CREDIT, {"credit": 2**63}, "credit: must be an integer from 0"),
    ("qos", wire.MessageType.SUBSCRIBE, {"qos": 3}, "qos: must be an integer from 0 to 2"),
    ("list as map", wire.MessageType.SUBSCRIBE, {"topics": {}}, "topics: must be a list"),
    ("item of list", wire.MessageType.SUBSCRIBE, {"topics": [b"a", 1]}, "topics: must be a text"),
    ("item of chain", wire.MessageType.CONNECT, {"certificate_chain": [1]}, "certificate_chain: must be bytes"),
    ("map as list", wire.MessageType.PUBACK, {"results": []}, "results: must be a map"),
    ("value of map", wire.MessageType.PUBACK, {"results": {"a": 1}}, "results: must be a text"),
    ("word", wire.MessageType.STORE_REPLY, {"result": b"maybe"}, "result: must be one of ok, error"),
    ("single value", wire.MessageType.FIND_VALUE_REPLY, {"value": b"v"}, "value: must be a map"),
    ("values", wire.MessageType.FIND_VALUE_REPLY, {"value": [b"v"]}, "value: must be a map"),
    ("node", wire.MessageType.FIND_NODE_REPLY, {"nodes": [b"n"]}, "nodes: must be a map"),
    ("in a node", wire.MessageType.FIND_NODE_REPLY, {"nodes": [{"node_id": b""}]}, "nodes: node_id: must be 32 bytes"),
    ("missing in a node", wire.MessageType.FIND_NODE_REPLY, {"nodes": [{}]}, "nodes: address: is missing"),
    ("error", wire.MessageType.REPLY, {"error": b"e"}, "error: must be a map"),
    ("in an error", wire.MessageType.REPLY, {"error": {"code": 1}}, "error: code: must be a text"),
    ("publish", wire.MessageType.PUBSUB_ROUTE, {"payload": b""}, "payload: must be a map"),
    ("in a publish", wire.MessageType.PUBSUB_ROUTE, {"payload": {"qos": -1}}, "payload: qos: must be an integer"),
    ("routed", wire.MessageType.RPC_ROUTE, {"payload": b""}, "payload: must be a map"),
    ("in a call", wire.MessageType.RPC_ROUTE, {"payload": {"procedure": 1}}, "payload: procedure: must be a text"),
    ("in a reply", wire.MessageType.RPC_ROUTE, {"payload": {"call_id": 1}}, "payload: call_id: must be 16 bytes"),
    ("route", wire.MessageType.RPC_ROUTE, {"payload_type": b"cast"}, "payload_type: must be one of call, reply"),
]


@pytest.mark.parametrize(("number", "body", "reason"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_a_field_that_breaks_its_rule_is_refused_by_its_name(
    number: wire.MessageType, body: dict[str, Any], reason: str
) -> None:
    assert remote_refusal(number, body).startswith(f"{number.name} {reason}")


ROUTE: Final = {"destination_node_id": KEY, "source_node_id": KEY, "hop_count": 0, "max_hops": 10}


def test_a_route_says_what_it_carries() -> None:
    call = m.RpcRoute(**ROUTE, payload_type="call", payload=CALL)
    assert through(call) == call
    body = body_of(call)
    assert remote_refusal(wire.MessageType.RPC_ROUTE, body | {"payload_type": b"reply"}) == (
        "RPC_ROUTE payload: is not a reply"
    )
    with pytest.raises(ValueError, match="is not a call"):
        m.RpcRoute(**ROUTE, payload_type="call", payload=m.Reply(call_id=ID))
    with pytest.raises(ValueError, match="is not a cast"):
        m.RpcRoute(**ROUTE, payload_type="cast", payload=CALL)


UNSENDABLE: Final[list[tuple[str, Message, str]]] = [
    ("short id", m.Cancel(call_id=b"x"), "CANCEL call_id: must be 16 bytes"),
    ("none", m.Cancel(call_id=None), "CANCEL call_id: must be 16 bytes"),  # type: ignore[arg-type]
    ("text as bytes", m.Disconnect(reason=b"x"), "DISCONNECT reason: must be a str"),  # type: ignore[arg-type]
    ("blob as str", attrs.evolve(CALL, args="{}"), "CALL args: must be bytes"),
    ("integer", m.Ping(timestamp=2**64), "PING timestamp: must be an integer"),
    ("one text", m.Unsubscribe(topics="t"), "UNSUBSCRIBE topics: must be a tuple"),  # type: ignore[arg-type]
    ("word", m.StoreReply(result="maybe"), "STORE_REPLY result: must be one of ok, error"),
    ("no map", m.Store(key=KEY, value=None), "STORE value: must be a map"),  # type: ignore[arg-type]
    ("header", attrs.evolve(CALL, headers={"a": 1}), "CALL headers: must be a str"),
    ("header name", attrs.evolve(CALL, headers={1: "a"}), "CALL headers: must be a str"),
    ("error", m.Reply(call_id=ID, error="e"), "REPLY error: must be a CallError"),  # type: ignore[arg-type]
    (
        "in a node",
        m.FindNodeReply(nodes=(m.NodeEntry(node_id=b"", address=""),)),
        "FIND_NODE_REPLY nodes: node_id: must be 32 bytes",
    ),
    (
        "in a routed call",
        m.RpcRoute(**ROUTE, payload_type="call", payload=attrs.evolve(CALL, call_id=b"")),
        "RPC_ROUTE payload: call_id: must be 16 bytes",
    ),
]


@pytest.mark.parametrize(("message", "reason"), [row[1:] for row in UNSENDABLE], ids=[row[0] for row in UNSENDABLE])
def test_a_message_that_breaks_a_rule_is_not_sent(message: Message, reason: str) -> None:
    assert local_refusal(message).startswith(reason)


def test_a_value_that_has_no_place_on_the_wire_is_not_sent() -> None:
    with pytest.raises(LocalProtocolError):
        encode_message(m.Store(key=KEY, value={"x": object()}))


def test_node_ids_and_lists_may_stand_for_bytes_and_tuples() -> None:
    received = through(m.FindNodeReply(nodes=[m.NodeEntry(node_id=NodeId(KEY), address="a:1")]))  # type: ignore[arg-type]
    assert received == m.FindNodeReply(nodes=(m.NodeEntry(node_id=KEY, address="a:1"),))


def test_messages_are_immutable_and_have_no_room_for_slips() -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        CALL.args = b""  # type: ignore[misc]
    assert not hasattr(CALL, "__dict__")
    with pytest.raises(TypeError):
        m.Ping(1)  # type: ignore[misc]


def test_a_reply_to_v08_has_nodes_even_when_there_are_none() -> None:
    assert m.to_body(m.FindValueReply(result="nodes"))["nodes"] == []
    assert "nodes" not in m.to_body(m.FindValueReply(result="nodes", correlation_id=bytes(16)))
    assert "nodes" not in m.to_body(m.FindValueReply(result="value"))

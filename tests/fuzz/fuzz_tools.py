"""What the fuzz targets share: where their inputs begin, how bytes become decisions, and how a smoke test varies them.

A target is a module ``fuzz_NAME.py`` with ``fuzz_one(data)``, which raises when it has found something, and
``seeds()``, the inputs from which a fuzzer starts.  They know nothing of the fuzzer: ``python tests/fuzz NAME`` runs
one under atheris, `test_fuzz_targets.py` runs all of them without it.
"""

from __future__ import annotations

import copy
import importlib
import json
import random
from pathlib import Path
from typing import Any, Final, Protocol, cast

import attrs
import msgpack

from macula_trio._wire import messages as wire
from macula_trio._wire.codec import encode_message
from macula_trio.abc import Message

TARGETS: Final = ("frames", "handshakes", "dht", "hellos", "certificates")
VECTORS: Final = Path(__file__).parents[1] / "vectors"

ID, KEY = bytes(range(16)), bytes(range(32))
_ROUTE: Final[dict[str, Any]] = {"destination_node_id": KEY, "source_node_id": KEY, "hop_count": 0, "max_hops": 10}
_PUBLISH: Final = wire.Publish(topic="a.b", payload=b"{}", message_id=ID, qos=1, headers={"a": "b"}, expires_ms=9)
_CALL: Final = wire.Call(call_id=ID, procedure="a.b", args=b"[1]", timeout=5, headers={"a": "b"}, content_type="x")
_HELLO: Final[dict[str, Any]] = {
    "node_id": KEY,
    "capabilities": ("msgpack",),
    "endpoint": "192.0.2.1:9443",
    "instance": ID,
    "certificate_chain": (b"leaf", b"issuer"),
    "proof": b"proof",
    "peer_node_id": KEY,
}
_ENTRY: Final = wire.NodeEntry(node_id=KEY, address="192.0.2.1:9443", last_seen=-5)
_VALUE: Final = {"kind": "service", "seq": 1, "metadata": {"a": [1, 2.5, None, True], "b": {"c": b"d"}}}

MESSAGES: Final[tuple[Message, ...]] = (
    wire.Connect(realm_id="r", replaces=ID, **_HELLO),
    wire.Disconnect(reason="normal", message="bye"),
    wire.Ping(timestamp=-1),
    wire.Pong(timestamp=1, server_time=2, observed="192.0.2.9:9443", **_HELLO),
    _PUBLISH,
    wire.Subscribe(topics=("a.*", "b"), qos=2),
    wire.Unsubscribe(topics=()),
    wire.PubsubRoute(**_ROUTE, topic="a.b", payload=_PUBLISH, delivery_seq=1, windows=(bytes(16),)),
    wire.Puback(message_id=ID, results={"a": "accepted"}),
    _CALL,
    wire.Reply(call_id=ID, error=wire.CallError(code="busy", message="later")),
    wire.Cast(procedure="a.b", args=b"{}"),
    wire.RpcRoute(**_ROUTE, payload_type="call", payload=_CALL),
    wire.RpcRoute(**_ROUTE, payload_type="reply", payload=wire.Reply(call_id=ID, result=b"1")),
    wire.Cancel(call_id=ID),
    wire.Item(call_id=ID, seq=3, payload=b"x", last=True),
    wire.Credit(scope="link", id=b"x", credit=1),
    wire.SwimPing(from_=KEY, seq=1),
    wire.SwimAck(from_=KEY, seq=1),
    wire.SwimPingReq(from_=KEY, seq=1, target=KEY),
    wire.FindNode(target=KEY, correlation_id=ID),
    wire.FindNodeReply(nodes=(_ENTRY,), correlation_id=ID),
    wire.Store(key=KEY, value=_VALUE, correlation_id=ID),
    wire.StoreReply(result="error", reason="stale", value=_VALUE, server_time=5, correlation_id=ID),
    wire.FindValue(key=KEY, kind="service", limit=3, after=KEY, correlation_id=ID),
    wire.FindValueReply(result="value", value=(_VALUE, _VALUE), nodes=(_ENTRY,), more=True, correlation_id=ID),
)
"""One of every type, with nearly every field."""


class Target(Protocol):
    """A module that can be fuzzed."""

    def fuzz_one(self, data: bytes) -> None:
        """Try one input; raise when it shows a bug."""
        ...

    def seeds(self) -> list[bytes]:
        """Inputs to start from."""
        ...

    def vary(self, data: bytes, others: list[bytes], chance: random.Random) -> bytes:
        """A mutation that knows the shape of an input; a fuzzer has its own ones beside."""
        ...


def target(name: str) -> Target:
    return cast("Target", importlib.import_module(f"fuzz_{name}"))


def vector_frames() -> list[bytes]:
    """The frames of the original, those that it refuses included."""
    frames = json.loads((VECTORS / "frames.json").read_text(encoding="utf-8"))["vectors"]
    errors = json.loads((VECTORS / "decode_errors.json").read_text(encoding="utf-8"))
    return [bytes.fromhex(row["frame_hex"]) for row in (*frames, *errors["errors"], *errors["accepted"])]


def own_frames() -> list[bytes]:
    return [encode_message(message) for message in MESSAGES]


@attrs.define(eq=False)
class Choices:
    """Decisions out of a fuzzer's bytes; all of them 0 when the bytes are used up."""

    data: bytes
    position: int = 0

    @property
    def is_empty(self) -> bool:
        return self.position >= len(self.data)

    def take(self, count: int) -> bytes:
        taken = self.data[self.position : self.position + count]
        self.position += count
        return taken.ljust(count, b"\0")

    def below(self, limit: int) -> int:
        return int.from_bytes(self.take(1 if limit <= 256 else 2), "big") % limit


def vary(data: bytes, others: list[bytes], chance: random.Random) -> bytes:
    """A mutation without a fuzzer: bytes changed, cut out, put in, doubled, or another input's tail behind."""
    varied = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at, length = chance.randrange(len(varied) + 1), chance.choice((1, 1, 2, 4, 16))
        changes = (
            chance.randbytes(length),
            bytes(chance.choice((0, 1, 0x7F, 0x80, 0xC0, 0xFF)) for _ in range(length)),
            b"",
            2 * bytes(varied[at : at + length]),
            chance.choice(others)[at:],
        )
        varied[at : at + chance.choice((0, length))] = chance.choice(changes)
    return bytes(varied)


def vary_map(data: bytes, others: list[bytes], chance: random.Random) -> bytes:
    """A mutation of one byte and a MessagePack map behind it: mostly of one value in it, so that it stays a map."""
    try:
        body = msgpack.unpackb(data[1:], strict_map_key=False, raw=True)
    except (ValueError, TypeError):  # mutated before, or nothing but bytes
        body = None
    if not isinstance(body, dict) or chance.random() < 0.2:
        return vary(data, others, chance)
    for _ in range(chance.randint(1, 2)):
        _vary_inside(body, chance)
    head = bytes([chance.randrange(256)]) if chance.random() < 0.1 else data[:1]
    return head + msgpack.packb(body, use_bin_type=chance.random() < 0.95)


def _vary_inside(container: Any, chance: random.Random) -> None:
    places = list(container) if isinstance(container, dict) else list(range(len(container)))
    if not places:
        return
    place = chance.choice(places)
    value = container[place]
    if isinstance(value, (dict, list)) and value and chance.random() < 0.8:
        _vary_inside(value, chance)
    elif isinstance(value, bytes) and value and chance.random() < 0.7:
        changed = bytearray(value)
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
        container[place] = bytes(changed)
    elif isinstance(container, dict) and chance.random() < 0.2:
        del container[place]
    else:
        container[place] = copy.deepcopy(chance.choice(_VALUES))  # may be varied itself


_VALUES: Final[tuple[Any, ...]] = (
    *(None, True, 0, -1, 2**63 - 1, 2**64 - 1, 1.5, b"", "", "a", b"\xff", b"undefined", [], {}, [0], [b"x", {}]),
    *({b"a": b"b"}, ID, KEY, bytes(33), [[[[[[[[[[]]]]]]]]]], list(range(300)), {b"\xff": 1}, msgpack.Timestamp(1)),
)

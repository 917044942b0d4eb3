"""A client of v0.8 on aioquic's own asyncio protocol; nothing of macula_trio is imported, MessagePack included.

Usage: ``aioquic_client.py HOST PORT``.  Prints one JSON object: what was answered to each question.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import ssl
import struct
import sys
from collections.abc import Mapping
from typing import Any, Final

from aioquic.asyncio import QuicConnectionProtocol, connect
from aioquic.quic.configuration import QuicConfiguration

HEADER_BYTES: Final = 8
NODE_ID: Final = b"a" * 32
KEY: Final = hashlib.sha256(b"interop.stored").digest()
PATIENCE_S: Final = 10


# -- MessagePack as v0.8 writes it: every text is bin --------------------------------------------------------------


def packed(value: object) -> bytes:
    if value is None or isinstance(value, bool):
        return {None: b"\xc0", False: b"\xc2", True: b"\xc3"}[value]
    if isinstance(value, int):
        return bytes([value]) if 0 <= value <= 0x7F else b"\xcf" + value.to_bytes(8, "big")
    if isinstance(value, str):
        value = value.encode()
    if isinstance(value, bytes):
        short = len(value) < 1 << 8
        return (struct.pack(">BB", 0xC4, len(value)) if short else struct.pack(">BH", 0xC5, len(value))) + value
    if isinstance(value, list):
        return bytes([0x90 + len(value)]) + b"".join(map(packed, value))
    assert isinstance(value, Mapping)
    return bytes([0x80 + len(value)]) + b"".join(packed(key) + packed(item) for key, item in value.items())


def unpacked(data: bytes, start: int = 0) -> tuple[Any, int]:
    """A value and where it ends; a str, which no node may write, is an error."""
    first, start = data[start], start + 1
    numbers = {0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q", 0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q"}
    if first <= 0x7F:
        return first, start
    if first >= 0xE0:
        return first - 0x100, start
    if first in (0xC0, 0xC2, 0xC3):
        return {0xC0: None, 0xC2: False, 0xC3: True}[first], start
    if first in numbers:
        size = struct.calcsize(numbers[first])
        return struct.unpack_from(numbers[first], data, start)[0], start + size
    if first in (0xC4, 0xC5, 0xC6):
        width = 1 << (first - 0xC4)
        length, start = int.from_bytes(data[start : start + width], "big"), start + width
        return data[start : start + length], start + length
    count = first & 0x0F
    if first in (0xDC, 0xDE):
        count, start = int.from_bytes(data[start : start + 2], "big"), start + 2
    if 0x90 <= first <= 0x9F or first == 0xDC:
        items = []
        for _ in range(count):
            item, start = unpacked(data, start)
            items.append(item)
        return items, start
    assert 0x80 <= first <= 0x8F or first == 0xDE, f"not what v0.8 reads: {first:#x}"
    found = {}
    for _ in range(count):
        key, start = unpacked(data, start)
        found[key.decode()], start = unpacked(data, start)
    return found, start


def frame(number: int, body: Mapping[str, object]) -> bytes:
    payload = packed(body)
    return struct.pack(">BBBBI", 1, number, 0, 0, len(payload)) + payload


def shown(value: Any) -> Any:
    """For JSON: texts as they are, other bytes in hexadecimal."""
    if isinstance(value, bytes):
        return value.decode() if value.isascii() and value.decode("ascii").isprintable() else value.hex()
    if isinstance(value, dict):
        return {key: shown(item) for key, item in value.items()}
    return [shown(item) for item in value] if isinstance(value, list) else value


# -- the session ----------------------------------------------------------------------------------------------------


QUESTIONS: Final[list[tuple[str, int, dict[str, object]]]] = [
    (
        "CONNECT",
        0x01,
        {
            "version": "1.0",
            "node_id": NODE_ID,
            "realm_id": "org.example.interop",
            "capabilities": ["pubsub", "rpc"],
            "endpoint": "https://localhost:9443",
        },
    ),
    ("PING", 0x03, {"timestamp": 1234567890123}),
    ("FIND_NODE", 0x40, {"type": "find_node", "target": NODE_ID}),
    (
        "STORE",
        0x42,
        {
            "type": "store",
            "key": KEY,
            "value": {"node_id": NODE_ID, "endpoint": "https://localhost:9443", "metadata": {}, "ttl": 300},
        },
    ),
    ("FIND_VALUE", 0x43, {"type": "find_value", "key": KEY}),
    ("CALL", 0x20, {"call_id": b"c" * 16, "procedure": "interop.add", "args": '{"a":2,"b":3}', "timeout": 5000}),
]
PUBLISH: Final = frame(
    0x10,
    {"topic": "interop.topic", "payload": '{"celsius":23.5}', "qos": 0, "retain": False, "message_id": b"m" * 16},
)


async def asked(protocol: QuicConnectionProtocol, number: int, body: Mapping[str, object]) -> dict[str, object]:
    """The answer, which comes on the stream of the question."""
    reader, writer = await protocol.create_stream()
    writer.write(frame(number, body))
    header = await reader.readexactly(HEADER_BYTES)
    version, answer, flags, reserved, length = struct.unpack(">BBBBI", header)
    assert (version, flags, reserved) == (1, 0, 0)
    payload = await reader.readexactly(length)
    value, end = unpacked(payload)
    assert end == length
    return {"type": answer, "body": shown(value)}


async def main(host: str, port: int) -> None:
    configuration = QuicConfiguration(alpn_protocols=["macula"], is_client=True, verify_mode=ssl.CERT_NONE)
    async with asyncio.timeout(PATIENCE_S), connect(host, port, configuration=configuration) as protocol:
        answers = {name: await asked(protocol, number, body) for name, number, body in QUESTIONS}
        _, writer = await protocol.create_stream()
        writer.write(PUBLISH)
        # Answered behind the message, so that it has arrived.
        answers["last PING"] = await asked(protocol, 0x03, {"timestamp": 7})
        _, writer = await protocol.create_stream()
        writer.write(frame(0x02, {"reason": "normal", "message": "bye"}))
        await asyncio.sleep(0.1)  # as v0.8 does, so that it is sent
    print(json.dumps(answers))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))

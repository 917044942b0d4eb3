"""What stands around a message: eight bytes of header.  Limits on frames live here and nowhere else.

A header is judged as soon as the bytes that condemn it are there, so that nobody makes us buffer
towards a frame that we would refuse (DESIGN section 4).
"""

from __future__ import annotations

import enum
import struct
from typing import Any, Final, NamedTuple, TypeAlias

from macula_trio.errors import ErrorCode, RemoteProtocolError

VERSION: Final = 0x01

HEADER: Final = struct.Struct("!BBxxI")
"""Version, type, flags, reserved, payload length.  The two in the middle are sent as 0 and not looked at."""

HEADER_BYTES: Final = HEADER.size

MAX_PAYLOAD: Final = 1 << 20  # bytes; the default of v0.8's wire (DESIGN section 4), bounds what one peer makes us hold

PUNCH: Final = 0x50  # reserved for hole punching: no such message exists yet, so it is an unknown type
RELAY: Final = 0x51  # reserved for relayed datagrams, likewise

Buffer: TypeAlias = bytes | bytearray


class MessageType(enum.IntEnum):
    """The second byte of a header.  A v0.8 peer logs the types marked "ours" as unknown and survives them."""

    CONNECT = 0x01
    DISCONNECT = 0x02
    PING = 0x03
    PONG = 0x04
    PUBLISH = 0x10
    SUBSCRIBE = 0x11
    UNSUBSCRIBE = 0x12
    PUBSUB_ROUTE = 0x13
    PUBACK = 0x14  # ours
    CALL = 0x20
    REPLY = 0x21
    CAST = 0x22
    RPC_ROUTE = 0x23
    CANCEL = 0x24  # ours
    ITEM = 0x25  # ours
    CREDIT = 0x26  # ours
    SWIM_PING = 0x30
    SWIM_ACK = 0x31
    SWIM_PING_REQ = 0x32
    FIND_NODE = 0x40
    FIND_NODE_REPLY = 0x41
    STORE = 0x42
    FIND_VALUE = 0x43
    FIND_VALUE_REPLY = 0x44
    STORE_REPLY = 0x45  # ours


KNOWN_TYPES: Final[dict[int, MessageType]] = {int(member): member for member in MessageType}
"""The types by number: calling the enum costs five times as much, and an unknown type is no error."""


class Frame(NamedTuple):
    """One frame as it was received.

    Attributes:
      type: a `MessageType`, or a plain int that this version does not know.
      body: the map inside; None for an unknown type, whose payload nobody has looked at.
    """

    type: int
    body: dict[str, Any] | None


def parse_header(data: Buffer, start: int = 0, payload_max: int = MAX_PAYLOAD) -> tuple[int, int] | None:
    """Read the header at ``start``: ``(type, payload bytes)``, or None while it is incomplete.

    Raises:
      RemoteProtocolError: unsupported version (as soon as its byte is there), or a *claimed* length
        above ``payload_max``.
    """
    available = len(data) - start
    if available > 0 and data[start] != VERSION:
        raise RemoteProtocolError(
            f"frame of version {data[start]}, we speak {VERSION}", code=ErrorCode.UNSUPPORTED_VERSION
        )
    if available < HEADER_BYTES:
        return None
    _version, number, length = HEADER.unpack_from(data, start)
    if length > payload_max:
        raise RemoteProtocolError(
            f"frame of type {number:#04x} announces {length} bytes, limit {payload_max}",
            code=ErrorCode.FRAME_TOO_LARGE,
        )
    return number, length

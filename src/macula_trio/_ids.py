"""Names of things: node ids, the XOR metric over them, and where a node can be dialed.

Pure.  The metric is Kademlia's (Maymounkov & Mazieres 2002, section 2.1); DESIGN section 8.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final, Self

import attrs

ID_BYTES: Final = 32
ID_BITS: Final = 8 * ID_BYTES

ANY_KIND: Final = "any"
"""The kind of a value that has none on the wire: v0.8's, which may be a service's or a subscriber's."""


class NodeId(bytes):
    """32 bytes: SHA-256 of the SubjectPublicKeyInfo (DER) of a node's key.

    Compares and sorts as bytes.

    Raises:
      ValueError: not exactly 32 bytes.
    """

    __slots__ = ()

    def __new__(cls, value: bytes) -> Self:
        if len(value) != ID_BYTES:
            raise ValueError(f"a node id has {ID_BYTES} bytes, not {len(value)}")
        return super().__new__(cls, value)

    @classmethod
    def from_hex(cls, text: str) -> Self:
        """Read 64 hexadecimal digits.

        Raises:
          ValueError: anything else.
        """
        if len(text) != 2 * ID_BYTES:
            raise ValueError(f"a node id has {2 * ID_BYTES} hexadecimal digits, not {len(text)}")
        return cls(bytes.fromhex(text))

    def distance(self, other: bytes) -> int:
        """XOR distance to another 32-byte id or key, as an integer below 2**256."""
        return distance(self, other)

    @property
    def short(self) -> str:
        """The first eight hexadecimal digits, for people."""
        return self[:4].hex()

    def __repr__(self) -> str:
        return f"NodeId({self.hex()})"

    def __str__(self) -> str:
        return self.hex()


@attrs.frozen(kw_only=True)
class Contact:
    """A node and the endpoint (``"host:port"``) at which it says that it can be dialed."""

    node_id: NodeId
    endpoint: str


@attrs.frozen(kw_only=True)
class Advert:
    """A node that is found under a DHT key, and the small map that it attached; texts in it arrive as bytes."""

    contact: Contact
    metadata: Mapping[str, object]


def hex_or_none(node_id: NodeId | None) -> str | None:
    """How events tell an id that may be unknown."""
    return None if node_id is None else node_id.hex()


def distance(a: bytes, b: bytes) -> int:
    """XOR distance of two ids of the same length, as an integer."""
    return int.from_bytes(a, "big") ^ int.from_bytes(b, "big")


def leading_zeros(value: bytes) -> int:
    """Number of zero bits in front of the first one bit, ``8 * len(value)`` when there is none."""
    return 8 * len(value) - int.from_bytes(value, "big").bit_length()


def bucket_index(own: bytes, other: bytes) -> int:
    """Length of the common prefix of two ids in bits, 0..255; 256 for our own id."""
    return ID_BITS - distance(own, other).bit_length()


def dht_key(name: str) -> bytes:
    """DHT key of a procedure or an exact topic: plain SHA-256 of its name (DESIGN section 4)."""
    return hashlib.sha256(name.encode()).digest()

"""Whom a node talks to: the policy as its owner states it (DESIGN section 5).

Only says what is wanted; `macula_trio._identity.trust` judges by it, and `macula_trio._identity.trust_file` reads the
file that it names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from pathlib import PurePath
from typing import Final, Literal, TypeAlias, TypeVar

import attrs

from macula_trio._ids import NodeId

PeerName: TypeAlias = str | Callable[[str], str | None]
"""A DNS name or IP address, or what gives it for a numeric endpoint (None, or `LookupError`: nobody has it there)."""

Item = TypeVar("Item", bound=bytes | str)

FINGERPRINT_BYTES: Final = 32  # SHA-256
LISTED_MAX: Final = 65_536  # ids or fingerprints in one policy; a larger mesh wants a realm
CA_PEM_BYTES_MAX: Final = 1024 * 1024  # hundreds of certificates
_COMMENT: Final = "#"


def _count(held: Sized) -> str:
    """A list of thousands says how long it is, and nothing else."""
    return str(len(held))


@attrs.frozen(kw_only=True)
class Trust:
    """Whom a node talks to.  Made by the class methods.

    Attributes:
      kind: which policy.
      node_ids: of `only`.
      fingerprints: of `pinned`.
      ca_pem: of `realm`.
      name: of `realm`, when certificates carry another name than the realm's own.
      path: the file that the list or the certificates come from, read when a node opens and at each reload; None when
        they were given.
    """

    kind: Literal["open", "unverified", "only", "pinned", "realm"]
    node_ids: frozenset[NodeId] = attrs.field(default=frozenset(), repr=_count)
    fingerprints: frozenset[bytes] = attrs.field(default=frozenset(), repr=_count)
    ca_pem: bytes = attrs.field(default=b"", repr=_count)
    name: PeerName | None = None
    path: PurePath | None = None

    @classmethod
    def open(cls) -> Trust:
        """Any node that proves that it holds the key of its id.  The default."""
        return cls(kind="open")

    @classmethod
    def unverified(cls) -> Trust:
        """Also peers that prove nothing, as Macula v0.8.0 does.  For closed networks only."""
        return cls(kind="unverified")

    @classmethod
    def only(cls, node_ids: Iterable[NodeId] | PurePath) -> Trust:
        """Only the nodes listed, in both directions.

        Args:
          node_ids: ids, or a file with one id of 64 hexadecimal digits per line (``#`` begins a comment).

        Raises:
          ValueError: not ids, or too many.
        """
        if isinstance(node_ids, PurePath):
            return cls(kind="only", path=node_ids)
        return cls(kind="only", node_ids=frozenset(map(NodeId, _listed("only", node_ids))))

    @classmethod
    def pinned(cls, fingerprints: Iterable[bytes | str] | PurePath) -> Trust:
        """Only nodes whose certificate has one of these fingerprints: SHA-256 of its DER.

        Unlike an id, which is that of the key, a fingerprint changes with every renewal.

        Args:
          fingerprints: 32 bytes each, or hexadecimal with or without colons as tools print it, or a file with one per
            line (``#`` begins a comment).

        Raises:
          ValueError: not fingerprints, or too many.
        """
        if isinstance(fingerprints, PurePath):
            return cls(kind="pinned", path=fingerprints)
        return cls(kind="pinned", fingerprints=frozenset(map(_fingerprint, _listed("pinned", fingerprints))))

    @classmethod
    def realm(cls, ca_pem: bytes | PurePath, *, name: PeerName | None = None) -> Trust:
        """Only nodes whose certificate chains to the realm's certificate authority.

        Certificates must be valid now, be meant for the side of the connection that shows them (extended key usage,
        when they have one), be no authorities themselves, and carry the realm's name.

        Args:
          ca_pem: certificates of the authority, PEM, or the file that has them.
          name: what certificates carry instead of the realm's own name: a DNS name or IP address for all, or a function
            of a node's numeric endpoint, which is called in the midst of things and must not block.

        Raises:
          ValueError: neither bytes nor a path.
        """
        if isinstance(ca_pem, PurePath):
            return cls(kind="realm", path=ca_pem, name=name)
        if not isinstance(ca_pem, bytes):
            raise ValueError("Trust.realm: give the certificates as bytes of PEM, or their file as a pathlib.Path")
        return cls(kind="realm", ca_pem=ca_pem, name=name)

    @property
    def wants_certificates(self) -> bool:
        """Whether the certificate of a value's owner is asked for, so that values have to carry it."""
        return self.kind in {"pinned", "realm"}

    def filled(self, data: bytes) -> Trust:
        """The policy with what its file contains.

        Raises:
          ValueError: the contents are not what they should be; one line, with its number.
        """
        if self.kind == "realm":
            if len(data) > CA_PEM_BYTES_MAX:
                raise ValueError(f"{len(data)} bytes are too many for certificates, limit {CA_PEM_BYTES_MAX}")
            return attrs.evolve(self, ca_pem=data)
        if self.kind == "only":
            return attrs.evolve(self, node_ids=frozenset(_lines(data, NodeId.from_hex)))
        return attrs.evolve(self, fingerprints=frozenset(_lines(data, _fingerprint)))


def _listed(policy: str, items: Iterable[Item]) -> list[Item]:
    """The items of a list that was given, which one text or the bytes of one id are not."""
    if isinstance(items, (str, bytes)):
        raise ValueError(f"Trust.{policy}: {items!r} is one entry; give a list, or a file as a pathlib.Path")
    listed = list(items)
    if len(listed) > LISTED_MAX:
        raise ValueError(f"Trust.{policy}: {len(listed)} entries, limit {LISTED_MAX}; a larger mesh wants a realm")
    return listed


def _fingerprint(item: bytes | str) -> bytes:
    if isinstance(item, str):
        try:
            item = bytes.fromhex(item.replace(":", ""))
        except ValueError:
            raise ValueError(f"{item!r} is not a fingerprint of {2 * FINGERPRINT_BYTES} hexadecimal digits") from None
    if len(item) != FINGERPRINT_BYTES:
        raise ValueError(f"a fingerprint is SHA-256 and has {FINGERPRINT_BYTES} bytes, not {len(item)}")
    return bytes(item)


def _lines(data: bytes, read: Callable[[str], Item]) -> Iterator[Item]:
    """One entry a line; what stands behind ``#`` is for people."""
    count = 0
    for number, line in enumerate(data.decode(errors="replace").splitlines(), start=1):
        text = line.partition(_COMMENT)[0].strip()
        if not text:
            continue
        count += 1
        if count > LISTED_MAX:
            raise ValueError(f"more than {LISTED_MAX} entries; a larger mesh wants a realm")
        try:
            yield read(text)
        except ValueError as exc:
            raise ValueError(f"line {number}: {exc}") from None

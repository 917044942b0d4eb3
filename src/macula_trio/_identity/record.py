"""A signed value of the DHT: who offers a procedure or wants a topic, until when (DESIGN section 5).

Sans-IO.  The signature covers realm, key and kind, so a value cannot be moved; ``expires_ms`` is absolute,
so nobody can prolong it.  A tombstone is a value without an endpoint.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final, Literal, TypeAlias, TypeVar

import attrs

from macula_trio._identity.keys import CHAIN_LENGTH_MAX, Credentials, load_spki, node_id_of, verify
from macula_trio._identity.trust import OWNER_CHAIN_BYTES_MAX, TrustJudge
from macula_trio._ids import ID_BYTES, NodeId
from macula_trio._wire.codec import pack_canonical, unpack_map
from macula_trio.errors import ErrorCode, LocalProtocolError, RemoteProtocolError, TrustError

Kind: TypeAlias = Literal["service", "subscriber"]

_CONTEXT: Final = b"macula-trio/1 record"
METADATA_DEPTH_MAX: Final = 8  # many values share one reply, whose nesting and elements are bounded too
METADATA_ELEMENTS_MAX: Final = 256
_SEQ_MAX: Final = 2**63 - 1
_KINDS: Final[Mapping[bytes, Kind]] = {b"service": "service", b"subscriber": "subscriber"}

_T = TypeVar("_T", bytes, int, dict[str, object])


@attrs.frozen(kw_only=True)
class Record:
    """One value, as its owner signed it.

    Attributes:
      key: 32 bytes, where it is stored.
      kind: ``service`` or ``subscriber``.
      node_id: its owner.
      endpoint: ``host:port`` of the owner; None withdraws what was stored before (a tombstone).
      metadata: small map that the owner attached; texts arrive as bytes.
      seq: the owner's version; the higher one wins.
      expires_ms: Unix time in milliseconds.
      spki: the owner's public key, SubjectPublicKeyInfo DER.
      signature: by that key.
      digest: SHA-256 of what was signed; decides between two values of one ``seq``.
      size: bytes that were signed.
      chain: the owner's certificates, leaf first, DER; beside what is signed, because they say who the signer is.
    """

    key: bytes
    kind: Kind
    node_id: NodeId
    endpoint: str | None
    metadata: Mapping[str, object]
    seq: int
    expires_ms: int
    spki: bytes
    signature: bytes
    digest: bytes
    size: int
    chain: tuple[bytes, ...] = ()

    @property
    def chain_bytes(self) -> int:
        """How long the certificates are."""
        return sum(map(len, self.chain))

    @property
    def withdrawn(self) -> bool:
        """Whether this is a tombstone."""
        return self.endpoint is None

    def to_value(self) -> dict[str, object]:
        """The map that travels in STORE and FIND_VALUE_REPLY."""
        value: dict[str, object] = {
            "kind": self.kind,
            "node_id": self.node_id,
            "endpoint": self.endpoint,
            "metadata": dict(self.metadata),
            "seq": self.seq,
            "expires_ms": self.expires_ms,
            "public_key": self.spki,
            "signature": self.signature,
        }
        if self.chain:
            value["certificate_chain"] = list(self.chain)
        return value


def check_metadata(metadata: Mapping[str, object]) -> None:
    """Refuse metadata that would crowd out the other values of a reply.

    Raises:
      ValueError: deeper than `METADATA_DEPTH_MAX`, or more than `METADATA_ELEMENTS_MAX` entries and items.
    """
    elements = 0
    level: list[object] = [metadata]
    for _ in range(METADATA_DEPTH_MAX):
        containers = [value for value in level if isinstance(value, (Mapping, list, tuple))]
        if not containers:
            return
        level = [item for value in containers for item in (value.values() if isinstance(value, Mapping) else value)]
        elements += len(level)
        if elements > METADATA_ELEMENTS_MAX:
            raise ValueError(f"metadata has more than {METADATA_ELEMENTS_MAX} elements")
    if any(isinstance(value, (Mapping, list, tuple)) for value in level):
        raise ValueError(f"metadata is nested deeper than {METADATA_DEPTH_MAX}")


def _signed_data(
    *,
    realm: str,
    key: bytes,
    kind: str,
    node_id: bytes,
    endpoint: str | None,
    metadata: Mapping[str, object],
    seq: int,
    expires_ms: int,
) -> bytes:
    return _CONTEXT + pack_canonical(
        {
            "realm_id": realm,
            "key": key,
            "kind": kind,
            "node_id": node_id,
            "endpoint": endpoint,
            "metadata": metadata,
            "seq": seq,
            "expires_ms": expires_ms,
        }
    )


def sign_record(
    owner: Credentials,
    *,
    realm: str,
    key: bytes,
    kind: Kind,
    endpoint: str | None,
    metadata: Mapping[str, object],
    seq: int,
    expires_ms: int,
    with_chain: bool = False,
) -> Record:
    """Make a value of ours, with our certificates where others ask for them.

    Raises:
      LocalProtocolError: ``metadata`` cannot be encoded, is too deep or has too many elements.
    """
    try:
        check_metadata(metadata)
    except ValueError as exc:
        raise LocalProtocolError(str(exc), code=ErrorCode.BAD_VALUE) from exc
    data = _signed_data(
        realm=realm,
        key=key,
        kind=kind,
        node_id=owner.node_id,
        endpoint=endpoint,
        metadata=metadata,
        seq=seq,
        expires_ms=expires_ms,
    )
    return Record(
        key=key,
        kind=kind,
        node_id=owner.node_id,
        endpoint=endpoint,
        metadata=metadata,
        seq=seq,
        expires_ms=expires_ms,
        spki=owner.spki,
        signature=owner.sign(data),
        digest=hashlib.sha256(data).digest(),
        size=len(data),
        chain=owner.chain_der if with_chain else (),
    )


def read_trusted(value: Mapping[str, object], *, realm: str, key: bytes, judge: TrustJudge, now_ms: int) -> Record:
    """Check a value that a peer sent as `read_record` does, and that its owner is one whom the trust policy lets in.

    Raises:
      RemoteProtocolError: malformed.
      TrustError: not its owner's, or its owner is nobody to us; ``code`` is then `ErrorCode.UNTRUSTED`.
    """
    record = read_record(value, realm=realm, key=key)
    judge_record(record, judge, now_ms)
    # What nobody here asks for is not worth its place.
    return attrs.evolve(record, chain=()) if record.chain and not judge.trust.wants_certificates else record


def judge_record(record: Record, judge: TrustJudge, now_ms: int) -> None:
    """Check that the owner of a value is one whom the trust policy lets in now.

    Raises:
      TrustError: it is not.
    """
    judge.judge_owner(record.node_id, record.spki, record.chain, endpoint=record.endpoint, now_ms=now_ms)


def _chain(value: Mapping[str, object]) -> tuple[bytes, ...]:
    chain = value.get("certificate_chain")
    if chain is None or chain == "":  # how Erlang spells an empty list
        return ()
    if not isinstance(chain, list) or not all(isinstance(item, bytes) for item in chain):
        raise RemoteProtocolError("value: certificate_chain is not a list of bytes", code=ErrorCode.BAD_VALUE)
    if len(chain) > CHAIN_LENGTH_MAX or sum(map(len, chain)) > OWNER_CHAIN_BYTES_MAX:
        raise RemoteProtocolError("value: certificate_chain is too long", code=ErrorCode.BAD_VALUE)
    return tuple(chain)


def _field(value: Mapping[str, object], name: str, kind: type[_T]) -> _T:
    found = value.get(name)
    if not isinstance(found, kind) or isinstance(found, bool):
        raise RemoteProtocolError(f"value: {name} is missing or not {kind.__name__}", code=ErrorCode.BAD_VALUE)
    return found


def read_record(value: Mapping[str, object], *, realm: str, key: bytes) -> Record:
    """Check a value that a peer sent, and that its owner signed it for this realm and key.

    Raises:
      RemoteProtocolError: malformed.
      TrustError: the key is not the owner's, or the signature does not match.
    """
    kind, chain = _KINDS.get(_field(value, "kind", bytes)), _chain(value)
    node_id, spki = _field(value, "node_id", bytes), _field(value, "public_key", bytes)
    seq, expires_ms = _field(value, "seq", int), _field(value, "expires_ms", int)
    signature, metadata = _field(value, "signature", bytes), _field(value, "metadata", dict)
    if kind is None or len(node_id) != ID_BYTES or not 0 <= seq <= _SEQ_MAX or not 0 <= expires_ms <= _SEQ_MAX:
        raise RemoteProtocolError("value: kind, node_id, seq or expires_ms is out of range", code=ErrorCode.BAD_VALUE)
    try:
        endpoint = None if value.get("endpoint") is None else _field(value, "endpoint", bytes).decode()
    except UnicodeDecodeError as exc:
        raise RemoteProtocolError("value: endpoint is not text", code=ErrorCode.BAD_VALUE) from exc
    try:
        check_metadata(metadata)
    except ValueError as exc:
        raise RemoteProtocolError(f"value: {exc}", code=ErrorCode.BAD_VALUE) from exc
    if node_id_of(spki) != node_id:
        raise TrustError("value: the public key is not its owner's")
    data = _signed_data(
        realm=realm,
        key=key,
        kind=kind,
        node_id=node_id,
        endpoint=endpoint,
        metadata=metadata,
        seq=seq,
        expires_ms=expires_ms,
    )
    verify(load_spki(spki), signature, data)
    return Record(
        key=key,
        kind=kind,
        node_id=NodeId(node_id),
        endpoint=endpoint,
        # As it was signed: a peer can spell the same data with MessagePack's str, and would be believed.
        metadata=unpack_map(data[len(_CONTEXT) :])["metadata"],
        seq=seq,
        expires_ms=expires_ms,
        spki=spki,
        signature=signature,
        digest=hashlib.sha256(data).digest(),
        size=len(data),
        chain=chain,
    )

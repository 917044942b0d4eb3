"""A signed value of the DHT: who offers a procedure or wants a topic, until when (DESIGN section 5).

Sans-IO.  The signature covers realm, key and kind, so a value cannot be moved; ``expires_ms`` is absolute,
so nobody can prolong it.  A tombstone is a value without an endpoint.

A value of v0.8 has no signature and says how long it lives from now on.  It counts under `Trust.unverified` only,
beside the signed ones and never in their place; and its time begins anew with whoever stores it, for anybody may.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Final, Literal, TypeAlias, TypeVar

import attrs

from macula_trio._identity.keys import CHAIN_LENGTH_MAX, Credentials, load_spki, node_id_of, verify
from macula_trio._identity.trust import OWNER_CHAIN_BYTES_MAX, TrustJudge
from macula_trio._ids import ANY_KIND, ID_BYTES, NodeId
from macula_trio._wire.codec import pack_canonical, unpack_map
from macula_trio.errors import ErrorCode, LocalProtocolError, RemoteProtocolError, TrustError

Kind: TypeAlias = Literal["service", "subscriber"]

_CONTEXT: Final = b"macula-trio/1 record"
METADATA_DEPTH_MAX: Final = 8  # many values share one reply, whose nesting and elements are bounded too
METADATA_ELEMENTS_MAX: Final = 256
UNSIGNED_BYTES_MAX: Final = 4096  # packed; as of signed ones
UNSIGNED_TTL_MAX_MS: Final = 3_600_000  # from when it came, whatever it says; as of signed ones, without their skew
_SEQ_MAX: Final = 2**63 - 1
_KINDS: Final[Mapping[bytes, Kind]] = {b"service": "service", b"subscriber": "subscriber"}

_T = TypeVar("_T", bytes, int, dict[str, object])


@attrs.frozen(kw_only=True)
class Record:
    """One value, as its owner signed it; or one of v0.8, which nobody signed (`signed`).

    Attributes:
      key: 32 bytes, where it is stored.
      kind: ``service`` or ``subscriber``; ``any`` of an unsigned one, which does not say.
      node_id: its owner; of an unsigned one the owner that it names.
      endpoint: ``host:port`` of the owner; None withdraws what was stored before (a tombstone).  An unsigned one may
        have v0.8's ``https://host:port``, where the host may be a name.
      metadata: small map that the owner attached; texts arrive as bytes.
      seq: the owner's version; the higher one wins.  Of two unsigned ones the one that lives longer does.
      expires_ms: Unix time in milliseconds; of an unsigned one by our own clock.
      spki: the owner's public key, SubjectPublicKeyInfo DER; empty of an unsigned one.
      signature: by that key; empty of an unsigned one.
      digest: SHA-256 of what was signed; decides between two values of one ``seq``.
      size: bytes that were signed.
      chain: the owner's certificates, leaf first, DER; beside what is signed, because they say who the signer is.
      written: an unsigned value as it was written, None of a signed one.
    """

    key: bytes
    kind: Kind | Literal["any"]
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
    written: Mapping[str, object] | None = None

    @property
    def signed(self) -> bool:
        """Whether its owner has signed it; False only under `Trust.unverified`."""
        return self.written is None

    @property
    def chain_bytes(self) -> int:
        """How long the certificates are."""
        return sum(map(len, self.chain))

    @property
    def withdrawn(self) -> bool:
        """Whether this is a tombstone."""
        return self.endpoint is None

    def to_value(self, now_ms: int = 0) -> dict[str, object]:
        """The map that travels in STORE and FIND_VALUE_REPLY; an unsigned one as it was written, with what is left.

        Args:
          now_ms: Unix time, for the ``ttl`` of an unsigned value; the others do not change with time.
        """
        if self.written is not None:
            # Whole seconds, rounded down: by being told on, nothing may live longer.
            return {**self.written, "ttl": max(0, self.expires_ms - now_ms) // 1000}
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

    Under `Trust.unverified` a value without a signature is read as v0.8's.

    Raises:
      RemoteProtocolError: malformed.
      TrustError: not its owner's, or its owner is nobody to us; ``code`` is then `ErrorCode.UNTRUSTED`.
    """
    if judge.trust.kind == "unverified" and "signature" not in value:
        record = read_unsigned(value, key=key, now_ms=now_ms)
    else:
        record = read_record(value, realm=realm, key=key)
    judge_record(record, judge, now_ms)
    # What nobody here asks for is not worth its place.
    return attrs.evolve(record, chain=()) if record.chain and not judge.trust.wants_certificates else record


def judge_record(record: Record, judge: TrustJudge, now_ms: int) -> None:
    """Check that the owner of a value is one whom the trust policy lets in now.

    Raises:
      TrustError: it is not.
    """
    if not record.signed:
        if judge.trust.kind != "unverified":
            raise TrustError("value: nobody has signed it", code=ErrorCode.UNTRUSTED)
        judge.judge_id(record.node_id)
        return
    judge.judge_owner(record.node_id, record.spki, record.chain, endpoint=record.endpoint, now_ms=now_ms)


def without_shadowed(records: Iterable[Record]) -> list[Record]:
    """Leave out unsigned values of owners that have a signed one here, a tombstone included: what is proven counts."""
    found = list(records)
    proven = {record.node_id for record in found if record.signed}
    return [record for record in found if record.signed or record.node_id not in proven]


def read_unsigned(value: Mapping[str, object], *, key: bytes, now_ms: int) -> Record:
    """Read a value as v0.8 stores it: ``node_id``, ``endpoint``, ``ttl`` in seconds, maybe ``metadata`` and others.

    It lives from now on for its ``ttl``, and for `UNSIGNED_TTL_MAX_MS` at most.

    Raises:
      RemoteProtocolError: malformed, too large, too deep, or of too many elements.
    """
    node_id, ttl_s, endpoint = _field(value, "node_id", bytes), _field(value, "ttl", int), value.get("endpoint")
    metadata = value.get("metadata")
    if metadata is None or metadata == "":  # how Erlang spells an empty list
        metadata = {}
    if len(node_id) != ID_BYTES or not isinstance(endpoint, (bytes, str)) or not isinstance(metadata, dict):
        raise RemoteProtocolError(
            "value: node_id, endpoint or metadata is not what it must be", code=ErrorCode.BAD_VALUE
        )
    try:
        text = endpoint if isinstance(endpoint, str) else str(endpoint, "utf-8")
        packed = pack_canonical(value)
        if len(packed) > UNSIGNED_BYTES_MAX:
            raise ValueError(f"more than {UNSIGNED_BYTES_MAX} bytes")
        written = {name: _as_list(item) for name, item in value.items()}
        check_metadata(written)
    except (ValueError, LocalProtocolError) as exc:  # not UTF-8 is a ValueError too
        raise RemoteProtocolError(f"value: {exc}", code=ErrorCode.BAD_VALUE) from exc
    expires_ms = now_ms + min(1000 * ttl_s, UNSIGNED_TTL_MAX_MS)
    return Record(
        key=key,
        kind=ANY_KIND,
        node_id=NodeId(node_id),
        endpoint=text,
        metadata=metadata,
        seq=expires_ms,
        expires_ms=expires_ms,
        spki=b"",
        signature=b"",
        digest=hashlib.sha256(packed).digest(),
        size=len(packed),
        written=written,
    )


def _as_list(item: object) -> object:
    """MessagePack's str is how Erlang spells a list of small integers; as that it goes back to who wrote it."""
    if isinstance(item, str):
        return [ord(character) for character in item]
    if isinstance(item, dict):
        return {name: _as_list(inner) for name, inner in item.items()}
    return [_as_list(inner) for inner in item] if isinstance(item, list) else item


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

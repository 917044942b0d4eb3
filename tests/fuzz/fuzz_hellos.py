"""CONNECT and PONG: nobody is taken for somebody whose key he does not have.

The first byte says what the MessagePack behind it is, and under which policy and on which connection it arrives.  The
fuzzer has what the owners of some keys have said, and no key: whoever is proven must be one of those owners, on his own
connection, and must have meant us.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID
from fuzz_tools import own_frames, vary_map, vector_frames

from macula_trio._identity.keys import Credentials, node_id_of, spki
from macula_trio._peer.handshake import (
    UNKNOWN_PEER,
    LocalParty,
    RemoteParty,
    accept_connect,
    accept_pong,
    make_connect,
    make_pong,
)
from macula_trio._peer.observed import read_observed
from macula_trio._trust import Trust
from macula_trio._util import is_unspecified
from macula_trio._wire.codec import decode_message, encode_message, unpack_map
from macula_trio._wire.frame import HEADER_BYTES, Frame, MessageType
from macula_trio._wire.messages import Connect, Pong
from macula_trio.errors import ErrorCode, RemoteProtocolError, TrustError

REALM: Final = "org.example.fuzz"
BINDING: Final = hashlib.sha256(b"this connection").digest()
OTHER_BINDING: Final = hashlib.sha256(b"another connection").digest()
OWN: Final = Credentials.from_seed(bytes(32))
STRANGER: Final = Credentials.from_seed(b"\x09" * 32)

NOW_MS: Final = 1_735_689_600_000

UNVERIFIED, RELAYED, DIALED_BY_ADDRESS, PONG = 1, 2, 4, 8  # bits of the first byte

vary = vary_map


def seeds() -> list[bytes]:
    frames = [encode_message(hello) for hello in _hellos()]
    frames += [frame for frame in (*own_frames(), *vector_frames()) if frame[1:2] in (b"\1", b"\4")]
    return [
        bytes([flags | PONG * (frame[1] == MessageType.PONG)]) + frame[HEADER_BYTES:]
        for frame in frames
        for flags in (0, UNVERIFIED, RELAYED, DIALED_BY_ADDRESS)
    ]


def fuzz_one(data: bytes) -> None:
    if not data:
        return
    flags, kind = data[0], MessageType.PONG if data[0] & PONG else MessageType.CONNECT
    try:
        hello = decode_message(Frame(kind, unpack_map(data[1:])))
    except RemoteProtocolError:
        return
    assert isinstance(hello, (Connect, Pong))
    seen_at = read_observed(hello.observed) if isinstance(hello, Pong) else None
    assert seen_at is None or not is_unspecified(seen_at[0])
    is_relayed = bool(flags & RELAYED)
    policy = Trust.unverified() if flags & UNVERIFIED else Trust.open()
    party = LocalParty(credentials=OWN, instance=b"own instance 16b", realm=REALM, trust=policy)
    binding = OTHER_BINDING if is_relayed else BINDING
    dialed = None if flags & DIALED_BY_ADDRESS or isinstance(hello, Connect) else owners()[0].node_id
    try:
        if isinstance(hello, Connect):
            remote = accept_connect(party, hello, binding=binding, now_ms=NOW_MS)
        else:
            remote = accept_pong(party, hello, binding=binding, peer=dialed, now_ms=NOW_MS)
    except (TrustError, RemoteProtocolError) as exc:
        assert exc.code in ErrorCode
        return
    assert isinstance(hello, Pong) or hello.realm_id == REALM
    assert dialed is None or remote.node_id == dialed
    _judge(hello, remote, policy, is_relayed=is_relayed)


def _judge(hello: Connect | Pong, remote: RemoteParty, policy: Trust, *, is_relayed: bool) -> None:
    assert remote.node_id != OWN.node_id
    if not remote.verified:
        assert policy.kind == "unverified"
        assert hello.proof is None
        return
    assert not is_relayed, "a proof of another connection was believed"
    assert remote.node_id in {owner.node_id for owner in owners()}
    assert remote.instance is not None
    meant = (OWN.node_id, UNKNOWN_PEER, None) if isinstance(hello, Connect) else (OWN.node_id,)
    assert hello.peer_node_id in meant


# -- what honest nodes say ------------------------------------------------------------------------------------------


@functools.cache
def owners() -> tuple[Credentials, ...]:
    """Keys of every kind that can be had without chance; the first one is an ordinary node."""
    first = Credentials.from_seed(b"\x01" * 32)
    curves: list[ec.EllipticCurve] = [ec.SECP256R1(), ec.SECP384R1()]
    keys = [ec.derive_private_key(int.from_bytes(b"\x07" * 32, "big"), curve) for curve in curves]
    return first, *(Credentials(key, (certificate_of(key.public_key()),)) for key in keys)


def certificate_of(key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey) -> x509.Certificate:
    """A certificate for a key of any kind; who issued it does not matter."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fuzz")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key).serial_number(1)
    dates = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC), datetime.datetime(2120, 1, 1, tzinfo=datetime.UTC)
    issuer = ed25519.Ed25519PrivateKey.from_private_bytes(b"\x08" * 32)
    return builder.not_valid_before(dates[0]).not_valid_after(dates[1]).sign(issuer, None)


def rsa_public_key() -> rsa.RSAPublicKey:
    """A key of 2,048 bits of which nobody has the other half."""
    modulus = int.from_bytes(hashlib.shake_128(b"modulus").digest(256), "big") | (1 << 2047) | 1
    return rsa.RSAPublicNumbers(65537, modulus).public_key()


def _hellos() -> list[Connect | Pong]:
    made: list[Connect | Pong] = []
    for owner in owners():
        fields: dict[str, Any] = {"capabilities": ("msgpack", "leaf"), "endpoint": "192.0.2.1:9443"}
        who = LocalParty(credentials=owner, instance=bytes(16), realm=REALM, trust=Trust.open(), **fields)
        to_us = RemoteParty(node_id=OWN.node_id, verified=True)
        to_another = RemoteParty(node_id=STRANGER.node_id, verified=True)
        made += [make_connect(who, binding=BINDING, peer=peer) for peer in (OWN.node_id, None, STRANGER.node_id)]
        made += [
            make_pong(who, binding=BINDING, peer=to, timestamp=1, server_time=2, observed=seen_at)
            for to in (to_us, to_another)
            for seen_at in (None, ("192.0.2.9", 9443))
        ]
    return [*made, _with_a_key_of_nobody()]


def _with_a_key_of_nobody() -> Connect:
    """A well-formed CONNECT by RSA, so that this way through the verification is walked too."""
    certificate = certificate_of(rsa_public_key())
    return Connect(
        realm_id=REALM,
        node_id=node_id_of(spki(rsa_public_key())),
        instance=bytes(16),
        certificate_chain=(certificate.public_bytes(serialization.Encoding.DER),),
        proof=bytes(256),
        peer_node_id=OWN.node_id,
    )

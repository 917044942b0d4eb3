"""Certificate chains of peers and of owners of values, judged by a realm: only those of its authority pass.

The first byte says on which side and by which name; behind it are certificates, each with its length in two bytes.  The
fuzzer has no key of an authority, so what passes must have a leaf that was issued as it is.
"""

from __future__ import annotations

import random
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from fuzz_tools import vary as vary_bytes
from realm_tools import NAME, REALM, Authority

from macula_trio._identity.files import Identity
from macula_trio._identity.keys import load_chain, node_id_of, spki
from macula_trio._identity.proof import Side
from macula_trio._identity.trust import TrustJudge
from macula_trio._trust import Trust
from macula_trio.errors import ErrorCode, TrustError

NOW_MS: Final = 1_735_689_600_000
LISTENER, OWNER, BY_ENDPOINT = 1, 2, 4  # bits of the first byte
ROOT: Final = Authority.create(1)
RSA_ROOT: Final = Authority.create(2, key=rsa.generate_private_key(65537, 2048))
GOOD: Final[list[Identity]] = [
    ROOT.issue(1),
    ROOT.child(101).issue(2),
    ROOT.child(101).child(102).issue(3),
    RSA_ROOT.issue(4, key=ec.generate_private_key(ec.SECP256R1())),
    ROOT.issue(5, names=[NAME, "192.0.2.7", "node.example.org"]),
]
BAD: Final[list[Identity]] = [
    Identity.from_seed(bytes(32)),
    Authority.create(9).issue(1),
    ROOT.issue(6, names=["other.realm"]),
    ROOT.issue(7, authority=True, key_usage=None),
]
NAMES: Final = {"192.0.2.1:9": NAME, "192.0.2.2:9": "node.example.org"}
_ISSUED: Final = frozenset(owner.chain_der[0] for owner in GOOD)


def pack(flags: int, chain: tuple[bytes, ...]) -> bytes:
    return bytes([flags]) + b"".join(len(der).to_bytes(2, "big") + der for der in chain)


def unpack(data: bytes) -> list[bytes]:
    chain, position = [], 1
    while position + 2 <= len(data):
        end = position + 2 + int.from_bytes(data[position : position + 2], "big")
        chain.append(data[position + 2 : end])
        position = end
    return chain


def seeds() -> list[bytes]:
    return [pack(flags, owner.chain_der) for owner in (*GOOD, *BAD) for flags in range(8)] + [b"", b"\0", b"\0\0\0"]


def vary(data: bytes, others: list[bytes], chance: random.Random) -> bytes:
    """Within a certificate, whose length stays right, or the chain itself: other certificates, another order."""
    chain = unpack(data)
    if not chain or chance.random() < 0.1:
        return vary_bytes(data, others, chance)
    where = chance.randrange(len(chain))
    if chance.random() < 0.7:
        chain[where] = vary_bytes(chain[where], chain, chance)[:65535]
    elif chance.random() < 0.5:
        chain.insert(where, chance.choice(unpack(chance.choice(others)) or [b""]))
    else:
        chance.shuffle(chain)
    return pack(data[0], tuple(chain))


def fuzz_one(data: bytes) -> None:
    flags, chain = data[0] if data else 0, unpack(data)
    trust = Trust.realm(ROOT.pem + RSA_ROOT.pem, name=NAMES.__getitem__ if flags & BY_ENDPOINT else None)
    judge = TrustJudge(trust, realm=REALM)
    endpoint = f"192.0.2.{flags >> 3 & 3}:9"
    side: Side = "listener" if flags & LISTENER else "dialer"
    try:
        key = load_chain(chain)  # as the proof does before
        node_id = node_id_of(spki(key))
        if flags & OWNER:
            judge.judge_owner(node_id, spki(key), chain, endpoint=endpoint, now_ms=NOW_MS)
        else:
            judge.judge_peer(node_id, chain, side=side, endpoint=endpoint, now_ms=NOW_MS)
    except TrustError as exc:
        assert exc.code in {ErrorCode.UNTRUSTED, ErrorCode.BAD_PROOF}
        assert "\n" not in str(exc)
        return
    assert chain[0] in _ISSUED, "a leaf that nobody has issued like this"

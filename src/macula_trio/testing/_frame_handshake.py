"""The handshake of links of frames: its steps, their sizes, and who is let in.  No proofs: nobody can lie here."""

from __future__ import annotations

import enum
from typing import Final

import attrs

from macula_trio._identity.proof import Side
from macula_trio._ids import NodeId
from macula_trio._peer.handshake import LocalParty, realm_mismatch
from macula_trio.errors import ErrorCode, OwnIdentity, TrustError
from macula_trio.testing._frame_streams import SEGMENT_BYTES

# What the first four packets of a link carry, measured on the real one with Ed25519 identities.
HELLO_BYTES: Final = SEGMENT_BYTES  # a client's first packet is padded (RFC 9000, section 14.1), here to the whole MTU
FLIGHT_BYTES: Final = SEGMENT_BYTES  # the server's certificate and its proof for TLS; padded likewise
CONNECT_BYTES: Final = SEGMENT_BYTES  # the end of TLS and CONNECT; padded likewise
PONG_BYTES: Final = 843


class Step(enum.Enum):
    """Parts of the handshake that say nothing of nodes."""

    HELLO = "hello"
    FLIGHT = "flight"


@attrs.frozen
class Introduction:
    """CONNECT: who dials, and for whom."""

    party: LocalParty
    expected: NodeId | None


def judge(party: LocalParty, dialer: LocalParty, expected: NodeId | None, now_ms: int) -> TrustError | None:
    """What `macula_trio._peer.handshake` decides about a CONNECT whose proof is good."""
    own = party.credentials.node_id
    if dialer.realm != party.realm:
        return realm_mismatch(party.realm, dialer.realm)
    if expected not in (None, own):
        return TrustError("peer dialed for another node than us", code=ErrorCode.WRONG_PEER)
    if dialer.credentials.node_id == own:
        return OwnIdentity("peer has our own node id")
    return judge_policy(party, dialer, "dialer", now_ms)


def judge_policy(party: LocalParty, peer: LocalParty, side: Side, now_ms: int) -> TrustError | None:
    """What the trust policy of one node says of the other, which is on this side of the link."""
    owner = peer.credentials
    try:
        party.judge.judge_peer(owner.node_id, owner.chain_der, side=side, endpoint=peer.endpoint, now_ms=now_ms)
    except TrustError as exc:
        return exc
    return None

"""CONNECT and PONG: who the peer is, decided before anything else it says is looked at (DESIGN section 5).

Sans-IO: takes the messages and the channel binding, gives messages and a verdict.
"""

from __future__ import annotations

from math import inf
from typing import Final

import attrs

from macula_trio._identity.keys import Credentials, load_chain, node_id_of, spki, verify
from macula_trio._identity.proof import Side, proof_data
from macula_trio._identity.trust import TrustJudge
from macula_trio._ids import ID_BYTES, NodeId
from macula_trio._trust import Trust
from macula_trio._util import Address, format_endpoint
from macula_trio._wire.messages import Connect, Pong
from macula_trio.errors import ErrorCode, OwnIdentity, RealmMismatch, RemoteProtocolError, TrustError

UNKNOWN_PEER: Final = bytes(ID_BYTES)  # CONNECT's peer_node_id of a dialer that knows only an address
HANDSHAKE_PAYLOAD_BYTES_MAX: Final = 16 * 1024  # CONNECT with a chain of RSA certificates fits; floods do not
CLOCK_TOLERANCE_MS: Final = 60_000  # by which replicas take a value whose owner's clock is ahead; less does no harm
CAPABILITIES_MAX: Final = 32  # each is remembered for as long as the link lives

LEAF: Final = "leaf"
"""Capability of a short-lived client: never in routing tables."""

PER_MESSAGE: Final = "per-message"
"""Capability of who closes a connection, or all that it dials, after one thing: others send nothing of theirs on it."""

AFRESH: Final = "afresh"
"""Capability in a CONNECT that names a link in ``replaces``: that one has ended at the dialer's side already."""

MSGPACK: Final = "msgpack"
"""Capability of a node that takes MessagePack as the payload of calls and messages."""


@attrs.define(eq=False, kw_only=True)
class LocalParty:
    """What we say of ourselves in every CONNECT and PONG.

    Attributes:
      endpoint: where others dial us, which may change (`macula_trio._peer.announcer`); None while it is not known.
      instance: 16 random bytes per run of this node.
      judge: decides by ``trust``.

    Raises:
      TrustError: the policy cannot be used.
    """

    credentials: Credentials
    instance: bytes
    realm: str
    trust: Trust
    capabilities: tuple[str, ...] = ()
    endpoint: str | None = None
    judge: TrustJudge = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.judge = TrustJudge(self.trust, realm=self.realm)

    def change_trust(self, trust: Trust) -> None:
        """Judge by another policy from now on.

        Raises:
          TrustError: it cannot be used; the old one stays.
        """
        self.judge.change(trust)
        self.trust = trust


@attrs.frozen(kw_only=True)
class RemoteParty:
    """What is known of a peer once its CONNECT or PONG was accepted.

    Attributes:
      node_id: proven when ``verified``, else claimed or None.
      instance: None for a v0.8 peer.
      chain: the certificates that it showed, leaf first, to judge it by again.
      trusted_until_ms: when the policy stops to let it in by itself, Unix time.
      clock_ahead_ms: of ours, by the time in its PONG; None when it told none, or has proven nothing.
      replaces: the link in whose place it dialed this one.
    """

    node_id: NodeId | None
    verified: bool
    instance: bytes | None = None
    capabilities: frozenset[str] = frozenset()
    endpoint: str | None = None
    chain: tuple[bytes, ...] = ()
    trusted_until_ms: float = inf
    clock_ahead_ms: float | None = None
    replaces: bytes | None = None

    @property
    def clock_differs(self) -> bool:
        """Whether one of the two is so wrong that values which its node signs mean little to the other."""
        return self.clock_ahead_ms is not None and abs(self.clock_ahead_ms) > CLOCK_TOLERANCE_MS


ANONYMOUS: Final = RemoteParty(node_id=None, verified=False)
"""A v0.8 peer that speaks without CONNECT."""


def make_connect(
    party: LocalParty,
    *,
    binding: bytes,
    peer: NodeId | None,
    replaces: bytes | None = None,
    is_passing: bool = False,
    is_afresh: bool = False,
) -> Connect:
    """The dialer's first frame.

    Args:
      party: us.
      binding: of this connection.
      peer: whom we dial for, None when only the address is known.
      replaces: the link of ours in whose place this one comes, by what both ends call it.
      is_passing: we close this connection after one thing.
      is_afresh: that other one has ended here, which the peer may not know.
    """
    peer_node_id = peer or UNKNOWN_PEER
    passing = (PER_MESSAGE,) if is_passing and PER_MESSAGE not in party.capabilities else ()
    return Connect(
        node_id=party.credentials.node_id,
        realm_id=party.realm,
        capabilities=(*party.capabilities, *passing, *((AFRESH,) if is_afresh else ())),
        endpoint=party.endpoint,
        instance=party.instance,
        certificate_chain=party.credentials.chain_der,
        peer_node_id=peer_node_id,
        proof=_prove(party, "dialer", binding, peer_node_id),
        replaces=replaces,
    )


def accept_connect(party: LocalParty, connect: Connect, *, binding: bytes, now_ms: int) -> RemoteParty:
    """Judge the first frame of a peer that dialed us.

    Args:
      party: us.
      connect: the frame.
      binding: of this connection.
      now_ms: Unix time, for the dates of certificates.

    Raises:
      RealmMismatch: it belongs to another realm.
      TrustError: its proof is missing or bad, or it is not whom it may be.
      RemoteProtocolError: what it announces exceeds the limits.
    """
    if connect.realm_id != party.realm:
        raise realm_mismatch(party.realm, connect.realm_id)
    if connect.peer_node_id not in (None, UNKNOWN_PEER, party.credentials.node_id):
        raise TrustError("peer dialed for another node than us", code=ErrorCode.WRONG_PEER)
    addressed_to = connect.peer_node_id or UNKNOWN_PEER
    return _judge(party, connect, "dialer", binding=binding, addressed_to=addressed_to, now_ms=now_ms)


def make_pong(
    party: LocalParty,
    *,
    binding: bytes,
    peer: RemoteParty,
    timestamp: int,
    server_time: int,
    observed: Address | None = None,
) -> Pong:
    """The listener's answer to an accepted CONNECT; a v0.8 peer reads the two times only.

    Args:
      party: us.
      binding: of this connection.
      peer: who dialed us.
      timestamp: Unix ms.
      server_time: Unix ms.
      observed: where the dialer's datagrams come from.
    """
    peer_node_id = peer.node_id or UNKNOWN_PEER
    return Pong(
        timestamp=timestamp,
        server_time=server_time,
        node_id=party.credentials.node_id,
        instance=party.instance,
        capabilities=party.capabilities,
        endpoint=party.endpoint,
        certificate_chain=party.credentials.chain_der,
        peer_node_id=peer_node_id,
        proof=_prove(party, "listener", binding, peer_node_id),
        observed=None if observed is None else format_endpoint(observed),
    )


def accept_pong(party: LocalParty, pong: Pong, *, binding: bytes, peer: NodeId | None, now_ms: int) -> RemoteParty:
    """Judge the listener's answer to our CONNECT.

    Args:
      party: us.
      pong: the answer.
      binding: of this connection.
      peer: whom we dialed for, None when only the address was known.
      now_ms: Unix time, for the dates of certificates.

    Who says nothing of itself, as a v0.8 node, is taken for whom we dialed: only `Trust.unverified` gets that far.

    Raises:
      TrustError: the proof is missing or bad, or somebody else than ``peer`` answers.
      RemoteProtocolError: what it announces exceeds the limits.
    """
    own = party.credentials.node_id
    if pong.proof is not None and pong.peer_node_id != own:
        raise TrustError("peer answers to another node than us", code=ErrorCode.WRONG_PEER)
    remote = _judge(party, pong, "listener", binding=binding, addressed_to=own, now_ms=now_ms)
    if remote.node_id is None:
        return judge_again(party, attrs.evolve(remote, node_id=peer), is_dialed=True, now_ms=now_ms)
    if peer is not None and remote.node_id != peer:
        raise TrustError(f"dialed node {peer}, but node {remote.node_id} answered", code=ErrorCode.WRONG_PEER)
    if remote.verified and pong.server_time is not None:
        return attrs.evolve(remote, clock_ahead_ms=pong.server_time - now_ms)
    return remote


def realm_mismatch(own: str, other: str) -> RealmMismatch:
    """What a listener of one realm says to a dialer of another, who reads it as our words."""
    return RealmMismatch(f"we are in realm {own!r}, not {other!r}; nodes of one mesh name the same realm")


def judge_again(party: LocalParty, remote: RemoteParty, *, is_dialed: bool, now_ms: int) -> RemoteParty:
    """Judge a peer that was let in once more, by the policy and the date of now.

    Raises:
      TrustError: it would not be let in today.
    """
    if not remote.verified or remote.node_id is None:
        if party.trust.kind != "unverified":
            raise TrustError("peer has proven nothing", code=ErrorCode.PROOF_REQUIRED)
        if remote.node_id is not None:  # only said; but whoever says an id that is blocked is taken at his word
            party.judge.judge_id(remote.node_id)
        return remote
    side: Side = "listener" if is_dialed else "dialer"
    until_ms = party.judge.judge_peer(remote.node_id, remote.chain, side=side, endpoint=remote.endpoint, now_ms=now_ms)
    return attrs.evolve(remote, trusted_until_ms=until_ms)


def _prove(party: LocalParty, side: Side, binding: bytes, peer_node_id: bytes) -> bytes:
    own = party.credentials
    return own.sign(
        proof_data(side, binding=binding, node_id=own.node_id, peer_node_id=peer_node_id, realm=party.realm)
    )


def _judge(
    party: LocalParty, hello: Connect | Pong, side: Side, *, binding: bytes, addressed_to: bytes, now_ms: int
) -> RemoteParty:
    """Check the proof in a CONNECT or PONG, then ask the trust policy; a missing proof is the policy's affair too."""
    if len(hello.capabilities) > CAPABILITIES_MAX:
        raise RemoteProtocolError(
            f"peer announces {len(hello.capabilities)} capabilities", code=ErrorCode.LIMIT_EXCEEDED
        )
    verified = hello.proof is not None
    if verified:
        _check_proof(party, hello, side, binding=binding, addressed_to=addressed_to)
    elif party.trust.kind != "unverified":
        raise TrustError(
            "peer proves nothing; only Trust.unverified() talks to such peers", code=ErrorCode.PROOF_REQUIRED
        )
    if hello.node_id == party.credentials.node_id:
        if hello.instance in (None, party.instance):
            raise OwnIdentity("peer has our own node id")
        raise OwnIdentity(
            "another node runs with the same key; give every node a key of its own", code=ErrorCode.IDENTITY_CONFLICT
        )
    remote = RemoteParty(
        node_id=None if hello.node_id is None else NodeId(hello.node_id),
        verified=verified,
        instance=hello.instance,
        capabilities=frozenset(hello.capabilities),
        endpoint=hello.endpoint,
        chain=(hello.certificate_chain or ()) if verified else (),
        replaces=hello.replaces if verified and isinstance(hello, Connect) else None,
    )
    return judge_again(party, remote, is_dialed=side == "listener", now_ms=now_ms)


def _check_proof(party: LocalParty, hello: Connect | Pong, side: Side, *, binding: bytes, addressed_to: bytes) -> None:
    if hello.node_id is None or hello.certificate_chain is None or hello.instance is None or hello.proof is None:
        raise TrustError("proof without node_id, instance or certificate_chain")
    key = load_chain(hello.certificate_chain)
    if node_id_of(spki(key)) != hello.node_id:
        raise TrustError("node_id is not that of the certificate's key")
    data = proof_data(side, binding=binding, node_id=hello.node_id, peer_node_id=addressed_to, realm=party.realm)
    verify(key, hello.proof, data)

"""Whom the trust policy lets in, decided from facts (DESIGN section 5).

Sans-IO.  A judge is asked about peers when they introduce themselves, about owners when their values come, and about
ids before anybody is dialed; it may be given another policy while the node runs.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Sequence
from math import inf
from typing import Final

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from macula_trio._identity.certificate import realm_server_name
from macula_trio._identity.chain import load_authority, parse_certificates, verify_chain
from macula_trio._identity.keys import MALFORMED_CERTIFICATE, Credentials, spki_of_certificate
from macula_trio._identity.proof import Side
from macula_trio._ids import NodeId
from macula_trio._trust import Trust
from macula_trio._util import clip, format_endpoint, numeric_endpoint, without_scope
from macula_trio.errors import ErrorCode, TrustError

OWNERS_REMEMBERED: Final = 4096  # whose certificates were good: values of one owner come again and again
OWNER_CHAIN_BYTES_MAX: Final = 8 * 1024  # of certificates beside a value: 64 values of 4 KiB share one frame of 1 MiB
BLOCKED_MAX: Final = 65_536  # as many as a list of `Trust.only` may have: who must name more wants such a list


@attrs.frozen
class ServerCheck:
    """What QUIC checks about the certificate of a listener while TLS goes on."""

    ca_pem: bytes
    name: str


class TrustJudge:
    """A policy at work.

    Args:
      trust: with the contents of its file, if it names one.
      realm: its name.

    Raises:
      TrustError: the realm's authority cannot be read.
    """

    def __init__(self, trust: Trust, *, realm: str) -> None:
        self._realm = realm
        self._blocked: dict[NodeId, None] = {}
        self._probe: NodeId | None = None
        self.change(trust)

    @property
    def trust(self) -> Trust:
        """The policy."""
        return self._trust

    def change(self, trust: Trust) -> None:
        """Judge by another policy from now on; who is blocked stays blocked.

        Raises:
          TrustError: the realm's authority cannot be read; the old policy stays.
        """
        self._roots = load_authority(trust.ca_pem) if trust.kind == "realm" else ()
        self._trust = trust
        # By the digest of an owner's key, name and chain: from when to when they are good, in Unix ms.
        self._owners: dict[bytes, tuple[float, float]] = {}

    def block(self, node_id: NodeId) -> None:
        """Let this node in no more, whatever the policy says.

        Raises:
          ValueError: too many are blocked.
        """
        if len(self._blocked) >= BLOCKED_MAX and node_id not in self._blocked:
            raise ValueError(f"{BLOCKED_MAX} nodes are blocked already; use Trust.only or Trust.realm")
        self._blocked[node_id] = None

    def unblock(self, node_id: NodeId) -> None:
        """Undo `block`."""
        self._blocked.pop(node_id, None)

    def judge_named(self, node_id: NodeId) -> None:
        """Refuse what an envelope says to be from or for a node that is blocked.

        Others say so without a proof: the list of `Trust.only` is about who speaks to us, and is not asked.

        Raises:
          TrustError: it is blocked.
        """
        if node_id in self._blocked:
            raise TrustError(f"node {node_id} is blocked here", code=ErrorCode.UNTRUSTED)

    @property
    def probe(self) -> NodeId | None:
        """Who asks us on our own behalf whether we are well."""
        return self._probe

    def expect_probe(self, node_id: NodeId) -> None:
        """Let in, whatever the policy says, who proves this id: its key was made here, and nobody else has it."""
        self._probe = node_id

    def judge_id(self, node_id: NodeId) -> None:
        """Refuse a node of whom nothing but its id is known yet.

        Raises:
          TrustError: it is blocked, or not on the list.
        """
        self.judge_named(node_id)
        if self._trust.kind == "only" and node_id not in self._trust.node_ids:
            raise TrustError(f"node {node_id} is not on our list", code=ErrorCode.UNTRUSTED)

    def judge_peer(
        self, node_id: NodeId, chain_der: Sequence[bytes], *, side: Side, endpoint: str | None, now_ms: int
    ) -> float:
        """Decide about a peer that has proven to hold the key of the leaf of its chain.

        Args:
          node_id: proven.
          chain_der: leaf first.
          side: on which side of the connection the peer is.
          endpoint: where it says that it can be dialed; names that depend on the endpoint are found by it.
          now_ms: Unix time.

        Returns:
          Until when that holds, Unix time in ms.

        Raises:
          TrustError: it is not let in.
        """
        if node_id == self._probe:
            return inf
        self.judge_id(node_id)
        if not self._trust.wants_certificates:
            return inf
        name = self._peer_name(endpoint) if self._trust.kind == "realm" else None
        return self._judge_certificates(parse_certificates(chain_der), side, name, now_ms)[1]

    def own_problem(self, credentials: Credentials, *, endpoint: str | None, now_ms: int) -> str | None:
        """Say why those who have our policy would not let us in ourselves; None when they would."""
        try:
            for side in ("dialer", "listener"):
                self.judge_peer(credentials.node_id, credentials.chain_der, side=side, endpoint=endpoint, now_ms=now_ms)
        except TrustError as exc:
            return str(exc)
        return None

    def judge_owner(
        self, node_id: NodeId, spki: bytes, chain_der: Sequence[bytes], *, endpoint: str | None, now_ms: int
    ) -> None:
        """Decide about the owner of a value whose signature is good.

        Args:
          node_id: the owner.
          spki: the key that signed.
          chain_der: what came with the value, leaf first; maybe nothing.
          endpoint: of the value.
          now_ms: Unix time.

        Raises:
          TrustError: its values count nothing here.
        """
        self.judge_id(node_id)
        if not self._trust.wants_certificates:
            return
        if sum(map(len, chain_der)) > OWNER_CHAIN_BYTES_MAX:
            raise TrustError(f"value: over {OWNER_CHAIN_BYTES_MAX} bytes of certificates", code=ErrorCode.UNTRUSTED)
        # A withdrawn value has no endpoint, so a name that depends on it is not known; nor does it lead anybody there.
        name = None if callable(self._trust.name) and endpoint is None else self._peer_name(endpoint)
        facts = [spki, (name or "").encode(), *(hashlib.sha256(der).digest() for der in chain_der)]
        digest = hashlib.sha256(b"".join(facts)).digest()
        known = self._owners.get(digest)
        if known is not None and known[0] <= now_ms < known[1]:
            return
        certificates = parse_certificates(chain_der)
        if _key_of(certificates[0]) != spki:
            raise TrustError("value: the certificate is not that of its owner's key", code=ErrorCode.UNTRUSTED)
        self._owners.pop(digest, None)
        if len(self._owners) >= OWNERS_REMEMBERED:
            del self._owners[next(iter(self._owners))]
        self._owners[digest] = self._judge_certificates(certificates, None, name, now_ms)

    def server_check(self, endpoint: str) -> ServerCheck | None:
        """What QUIC checks when we dial a numeric endpoint; None when the policy says nothing about authorities.

        Raises:
          TrustError: nobody has a name there.
        """
        if self._trust.kind != "realm":
            return None
        return ServerCheck(self._trust.ca_pem, self._peer_name(endpoint))

    def _peer_name(self, endpoint: str | None) -> str:
        name = self._trust.name
        if name is None:
            return realm_server_name(self._realm)
        if isinstance(name, str):
            return name
        if endpoint is None:
            raise TrustError("it announces no endpoint, on which its name depends", code=ErrorCode.UNTRUSTED)
        try:
            host, port = numeric_endpoint(endpoint)
            found: object = name(format_endpoint((without_scope(host), port)))  # as others write it, too
        except (ValueError, LookupError) as exc:
            raise TrustError(f"nobody is known by a name at {clip(endpoint)}", code=ErrorCode.UNTRUSTED) from exc
        except Exception as exc:  # the function is the application's, and we are in the midst of a peer's bytes
            text = f"the function for names fails at {clip(endpoint)}: {type(exc).__name__}: {clip(str(exc))}"
            raise TrustError(text, code=ErrorCode.UNTRUSTED) from exc
        if not isinstance(found, str) or not found:
            what = f"the function for names gives {clip(repr(found))}" if found else "nobody is known by a name"
            raise TrustError(f"{what} at {clip(endpoint)}", code=ErrorCode.UNTRUSTED)
        return found

    def _judge_certificates(
        self, certificates: Sequence[x509.Certificate], side: Side | None, name: str | None, now_ms: int
    ) -> tuple[float, float]:
        """From when to when these certificates are good, in Unix ms."""
        if self._trust.kind == "pinned":
            if certificates[0].fingerprint(hashes.SHA256()) not in self._trust.fingerprints:
                raise TrustError("the fingerprint of its certificate is not on our list", code=ErrorCode.UNTRUSTED)
            return -inf, inf
        now = datetime.datetime.fromtimestamp(now_ms / 1000, datetime.UTC)
        validity = verify_chain(certificates, roots=self._roots, side=side, name=name, now=now)
        return validity.not_before.timestamp() * 1000, validity.not_after.timestamp() * 1000


def _key_of(certificate: x509.Certificate) -> bytes | None:
    """SubjectPublicKeyInfo; None when the key is of a kind that nobody here knows, which shows only when asked for."""
    try:
        return spki_of_certificate(certificate)
    except MALFORMED_CERTIFICATE:
        return None

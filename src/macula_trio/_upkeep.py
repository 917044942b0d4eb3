"""What changes while a node runs: whom it lets in, and the certificate that it shows."""

from __future__ import annotations

import datetime
import logging
from collections.abc import Callable
from typing import Final

import trio

from macula_trio._dht.service import DhtService
from macula_trio._events import EventBus
from macula_trio._identity.facts import certificate_renewal
from macula_trio._identity.keys import Credentials
from macula_trio._identity.trust_file import load_trust
from macula_trio._ids import NodeId
from macula_trio._net.quic import QuicEndpoint
from macula_trio._peer.handshake import LocalParty
from macula_trio._peer.registry import LinkRegistry
from macula_trio._trust import Trust
from macula_trio.errors import IdentityFileError

logger = logging.getLogger("macula_trio")

CERTIFICATE_CHECK_S: Final = 3600.0  # of our own; realms give certificates for days
DAY_S: Final = 86_400


class Upkeep:
    """Trust and identity of one node, kept up to date; `Node` says what each operation means.

    Args:
      party: what we say of ourselves, and whom we let in.
      quic: shows the certificate.
      registry: its links are judged anew.
      dht: its values are judged, or signed, anew.
      events: where changes are told.
      wall_clock_ms: Unix time.
    """

    def __init__(
        self,
        party: LocalParty,
        *,
        quic: QuicEndpoint,
        registry: LinkRegistry,
        dht: DhtService,
        events: EventBus,
        wall_clock_ms: Callable[[], int],
    ) -> None:
        self._party = party
        self._quic = quic
        self._registry = registry
        self._dht = dht
        self._events = events
        self._wall_clock_ms = wall_clock_ms

    def reload_trust(self, trust: Trust | None) -> None:
        """See `Node.reload_trust`."""
        loaded = load_trust(trust or self._party.trust)
        if (loaded.kind == "unverified") is not (self._party.trust.kind == "unverified"):
            raise ValueError("Trust.unverified: how a node speaks is decided when it opens; open another one")
        self._party.change_trust(loaded)
        self._judge_again()
        self._events.emit("trust.reloaded", policy=self._party.trust.kind, links=len(self._registry.links))

    def renew_identity(self, identity: Credentials) -> None:
        """See `Node.renew_identity`."""
        if identity.node_id != self._party.credentials.node_id:
            raise IdentityFileError(
                f"node {identity.node_id.short} has another key; a node keeps its own while it runs"
            )
        self._party.credentials = identity
        self._quic.present(identity)
        self._dht.renew(identity)
        self._events.emit("identity.renewed", valid_until=_date(identity.chain[0].not_valid_after_utc))
        self._check_certificate()

    def block(self, node_id: NodeId) -> None:
        """See `Node.block`."""
        if node_id == self._party.credentials.node_id:
            raise ValueError("a node cannot block itself")
        self._party.judge.block(NodeId(node_id))
        self._judge_again()
        self._events.emit("trust.blocked", peer=node_id.hex())

    def unblock(self, node_id: NodeId) -> None:
        """See `Node.unblock`."""
        self._party.judge.unblock(node_id)

    def _judge_again(self) -> None:
        self._registry.judge_again()
        self._dht.judge_again()

    async def watch_certificate(self) -> None:
        """Tell what is wrong with our certificate, now and every hour, until cancelled."""
        while True:
            self._check_certificate()
            await trio.sleep(CERTIFICATE_CHECK_S)

    def _check_certificate(self) -> None:
        """Tell in time that our own certificate expires, or that others refuse us for it."""
        credentials, now_ms = self._party.credentials, self._wall_clock_ms()
        leaf = credentials.chain[0]
        if now_ms / 1000 >= certificate_renewal(leaf).timestamp():
            left_s = leaf.not_valid_after_utc.timestamp() - now_ms / 1000
            self._events.emit(
                "identity.renewal_due", valid_until=_date(leaf.not_valid_after_utc), days_left=round(left_s / DAY_S, 1)
            )
        problem = self._party.judge.own_problem(credentials, endpoint=self._party.endpoint, now_ms=now_ms)
        if problem is not None:
            logger.warning("others with our trust policy would not let us in: %s", problem)
            self._events.emit("identity.untrusted", reason=problem)


def _date(when: datetime.datetime) -> str:
    return when.isoformat(timespec="seconds")

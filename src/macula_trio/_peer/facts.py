"""What a link knows of its peer."""

from __future__ import annotations

import hashlib
from math import inf
from typing import Final

from macula_trio._ids import NodeId
from macula_trio._net.quic import Connection
from macula_trio._peer.choice import Lineage
from macula_trio._peer.handshake import AFRESH, RemoteParty
from macula_trio._util import Address, format_endpoint, path_address, told_address

LINK_ID_BYTES: Final = 16


class PeerFacts:
    """Who is at the other end of a connection, and where."""

    _connection: Connection
    _peer: RemoteParty | None
    _replaces: bytes | None
    _is_afresh: bool
    _inherited: Lineage | None = None

    @property
    def node_id(self) -> NodeId | None:
        """The peer's id: proven if `verified`, else claimed or None."""
        return None if self._peer is None else self._peer.node_id

    @property
    def verified(self) -> bool:
        """Whether the peer proved its id."""
        return self._peer is not None and self._peer.verified

    @property
    def instance(self) -> bytes | None:
        """Which run of the peer this is."""
        return None if self._peer is None else self._peer.instance

    @property
    def trusted_until_ms(self) -> float:
        """Until when the policy lets the peer in, Unix time; that is when its certificate expires."""
        return inf if self._peer is None else self._peer.trusted_until_ms

    @property
    def capabilities(self) -> frozenset[str]:
        """What the peer announced."""
        return frozenset() if self._peer is None else self._peer.capabilities

    @property
    def endpoint(self) -> str | None:
        """Where the peer says that it can be dialed."""
        return None if self._peer is None else self._peer.endpoint

    @property
    def link_id(self) -> bytes:
        """What both ends call this link; 16 bytes that nobody else knows before one of them tells."""
        return hashlib.sha256(b"macula link" + self._connection.binding).digest()[:LINK_ID_BYTES]

    @property
    def client_random(self) -> bytes:
        """What its dialer drew for it, which both ends know."""
        return self._connection.client_random

    @property
    def lineage(self) -> Lineage:
        """Its place among the links to its peer."""
        return self._inherited or Lineage(self.is_dialed, self.client_random)

    def inherit(self, replaced: Lineage) -> None:
        """Come into the place of another link."""
        self._inherited = replaced.next(self.client_random)

    @property
    def replaces(self) -> bytes | None:
        """The `link_id` in whose place this one was dialed."""
        return self._replaces if self.is_dialed or self._peer is None else self._peer.replaces

    @property
    def is_afresh(self) -> bool:
        """Whether that one had ended at the dialer's side already."""
        return self._is_afresh if self.is_dialed else AFRESH in self.capabilities

    @property
    def is_dialed(self) -> bool:
        """Whether we dialed it."""
        return self._connection.is_dialed

    @property
    def peer_address(self) -> Address:
        """Where its datagrams come from."""
        return path_address(self._connection.path)

    @property
    def peer_host(self) -> str:
        """The same without the port."""
        return self.peer_address[0]

    @property
    def dialed_endpoint(self) -> str | None:
        """Where we dialed it; None when the peer dialed us."""
        return format_endpoint(self.peer_address) if self.is_dialed else None

    @property
    def proven_endpoint(self) -> str | None:
        """The announced endpoint when this link shows that it reaches the peer.

        A node listens and dials on one socket, so an announced endpoint that is where the peer's datagrams come
        from has been shown by QUIC's own address validation to reach it (docs/design/routing-table.md).
        """
        if self.endpoint is None:
            return None
        try:
            announced = told_address(self.endpoint, self.peer_host)
        except ValueError:
            return None
        return format_endpoint(announced) if announced == self.peer_address else None

    def _label(self) -> str:
        at = format_endpoint(self.peer_address)
        return f"node {self.node_id.short} at {at}" if self.node_id else f"peer at {at}"

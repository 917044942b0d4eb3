"""How much one peer may make us do: stores and queries (DESIGN section 8, "Limits").

Sans-IO.  Every STORE costs a signature check and every query a sort of the routing table, whatever becomes of them,
so both are counted before anything is looked at.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import attrs

from macula_trio._dht.storage import KEYS_PER_OWNER_MAX
from macula_trio._peer.budget import TokenBucket

# The busiest honest peer: all the values that we hold of one owner, stored when it starts and again when it has
# joined, each signed anew once, and withdrawn when it leaves.
STORES_BURST: Final = 4 * KEYS_PER_OWNER_MAX
STORES_PER_MINUTE: Final = 2 * KEYS_PER_OWNER_MAX  # it renews them every few minutes
# What a value costs that its owner has not signed: whoever sends one does not pass on what he was told, but lies.
FORGERY_STORES: Final = 128
QUERIES_BURST: Final = 4 * KEYS_PER_OWNER_MAX  # in a small mesh each of those stores looks its key up at everybody
QUERIES_PER_S: Final = 256  # a tenth of what one core can answer
PEERS_MAX: Final = 4096  # whose allowances are remembered; whoever was silent longest is taken for new

Request: TypeAlias = Literal["store", "query"]
Peer: TypeAlias = bytes | str
"""A proven id; the address of a peer that proves nothing."""


@attrs.define(eq=False)
class _Allowance:
    stores: TokenBucket = attrs.field(factory=lambda: TokenBucket(STORES_PER_MINUTE / 60, STORES_BURST))
    queries: TokenBucket = attrs.field(factory=lambda: TokenBucket(QUERIES_PER_S, QUERIES_BURST))
    refused: int = 0


class PeerQuotas:
    """The allowances of the peers that we have links with."""

    def __init__(self) -> None:
        self._allowances: dict[Peer, _Allowance] = {}

    def refusals(self, peer: Peer, request: Request, now: float) -> int:
        """Count a request.

        Args:
          peer: whose it is.
          request: of which kind.
          now: seconds on one clock.

        Returns:
          0 when it is within the peer's allowance, else how many of its requests were refused so far.
        """
        allowance = self._allowances.pop(peer, None) or _Allowance()
        if len(self._allowances) >= PEERS_MAX:
            del self._allowances[next(iter(self._allowances))]
        self._allowances[peer] = allowance
        bucket = allowance.stores if request == "store" else allowance.queries
        if bucket.take(1, now):
            return 0
        allowance.refused += 1
        return allowance.refused

    def forged(self, peer: Peer) -> None:
        """Charge a peer for a value that was not what it pretends to be: after some of them it stores nothing more."""
        allowance = self._allowances.get(peer)
        if allowance is not None:
            allowance.stores.spend(FORGERY_STORES)

    def forget(self, peer: Peer) -> None:
        """Its last link has ended."""
        self._allowances.pop(peer, None)

    def __len__(self) -> int:
        return len(self._allowances)

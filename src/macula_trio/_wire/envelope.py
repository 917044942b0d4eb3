"""Envelopes of what travels over other nodes, RPC_ROUTE and PUBSUB_ROUTE: what is taken, and who is behind it.

Sans-IO.  An envelope is not proof: whoever forwards it could have written it (DESIGN section 5).
"""

from __future__ import annotations

from typing import Final, Literal

import attrs

from macula_trio._ids import NodeId
from macula_trio._wire.messages import PubsubRoute, RpcRoute
from macula_trio.abc import Link

HOPS_MAX: Final = 10  # DESIGN section 4, the default of v0.8


@attrs.frozen(kw_only=True)
class Origin:
    """Who said something, as far as that is proven.

    Attributes:
      node_id: the proven id of the node that said it; None when it came through another, or is unproven.
      via: the proven id of the node that forwarded it; None when nobody did, or who did is unproven.
      forwarded: whether somebody else than the peer of the link is claimed to have said it.
    """

    node_id: NodeId | None
    via: NodeId | None = None
    forwarded: bool = False


def origin_of(link: Link, source: bytes | None = None) -> Origin:
    """Who said what came on a link.

    Args:
      link: where it came from.
      source: whom an envelope names; None without an envelope.
    """
    proven = link.node_id if link.verified else None
    if source is None or source == proven:
        return Origin(node_id=proven)
    return Origin(node_id=None, via=proven, forwarded=True)


def refusal_of(envelope: RpcRoute | PubsubRoute, own: NodeId) -> Literal["max_hops_exceeded", "not_for_us"] | None:
    """Why an envelope is not opened here; None when it is.  The hop rule goes first (DESIGN section 4)."""
    if envelope.hop_count >= envelope.max_hops:
        return "max_hops_exceeded"
    return None if envelope.destination_node_id == own else "not_for_us"

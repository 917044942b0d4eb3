"""What is counted on one socket."""

from __future__ import annotations

import attrs


@attrs.define(eq=False)
class EndpointCounters:
    """What happened on one socket.  Only ever grows."""

    datagrams_received: int = 0
    datagrams_sent: int = 0
    datagrams_unroutable: int = 0
    datagrams_policed: int = 0
    connections_accepted: int = 0
    connections_dialed: int = 0
    connections_raced: int = 0  # of those dialed: got a second, smaller one
    connections_refused: int = 0
    connections_broken: int = 0
    retries_demanded: int = 0

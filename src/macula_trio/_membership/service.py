"""Who is alive, for those who ask by SWIM's frames (Das et al. 2002): SWIM_PING, SWIM_PING_REQ and SWIM_ACK.

v0.8 names these frames and sends none, so we answer and never ask: nothing that comes here changes what we know of
anybody.  How many of them one peer may send is bounded where PINGs are, by the link.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final

import trio

from macula_trio._background import Background
from macula_trio._ids import NodeId
from macula_trio._wire import messages as wire
from macula_trio.abc import Link, LinkTransport
from macula_trio.errors import PeerUnavailable, RemoteProtocolError

PROBE_DEADLINE_S: Final = 2.0  # who asks on behalf of others waits no longer for a sign of life
PROBES_MAX: Final = 64  # of others at once, in all
PROBES_PER_ASKER_MAX: Final = 8  # for one peer: the others have their turn, too
_PING_BYTES: Final = 7  # a PING's timestamp is a signed 64-bit integer


class MembershipService:
    """Answers for ourselves, and for the nodes that we have proven links with.

    Args:
      own: our id.
      transport: where links come from.
      random_bytes: for PINGs that are unlike every other.
      background: takes probes; owned by another service of the node, as they are rare.
    """

    def __init__(
        self,
        *,
        own: NodeId,
        transport: LinkTransport,
        random_bytes: Callable[[int], bytes],
        background: Background,
    ) -> None:
        self._own = own
        self._transport = transport
        self._random_bytes = random_bytes
        self._background = background
        self._probing: Counter[bytes | str] = Counter()
        transport.handle(wire.SwimPing, self._on_ping)
        transport.handle(wire.SwimPingReq, self._on_ping_request)

    def _on_ping(self, link: Link, ping: wire.SwimPing) -> None:
        link.send_nowait(wire.SwimAck(from_=self._own, seq=ping.seq))

    def _on_ping_request(self, link: Link, request: wire.SwimPingReq) -> None:
        """Answer for ourselves at once; for another node when it answers over a link that is there."""
        if request.target == self._own:
            link.send_nowait(wire.SwimAck(from_=self._own, seq=request.seq))
            return
        if request.target is None:
            return
        target = NodeId(request.target)
        asker = _asker(link)
        probed = self._transport.live_link(target)
        if probed is None or self._probing[asker] >= PROBES_PER_ASKER_MAX or self._probing.total() >= PROBES_MAX:
            return
        if self._background.start_soon(self._probe, link, probed, target, request.seq, name=f"probe {target.short}"):
            self._probing[asker] += 1

    async def _probe(self, link: Link, probed: Link, target: NodeId, seq: int | None) -> None:
        asker = _asker(link)
        ping = wire.Ping(timestamp=int.from_bytes(self._random_bytes(_PING_BYTES), "big"))
        try:
            with trio.move_on_after(PROBE_DEADLINE_S) as scope:
                await probed.ask(ping, wire.Pong)
            if not scope.cancelled_caught:
                link.send_nowait(wire.SwimAck(from_=target, seq=seq))
        except (PeerUnavailable, RemoteProtocolError):
            return  # no sign of life, or nobody left to tell
        finally:
            self._probing[asker] -= 1
            if not self._probing[asker]:
                del self._probing[asker]


def _asker(link: Link) -> bytes | str:
    """On whose account a probe runs: a proven id, else an address, however many links and streams there are."""
    return link.node_id if link.verified and link.node_id is not None else link.peer_host

"""A network of frames, for thousands of nodes in one run: the seam above QUIC (DESIGN section 11).

`FrameTransport` is an `macula_trio.abc.LinkTransport`, so services run on it unchanged; it is used where QUIC and TLS
would cost more than what is under test.  The same `Conditions` as under the datagram network decide about packets.

What it keeps of the real link:

- Every message is encoded, cut into packets of the real size, and decoded: limits, sizes and copying are true.
- A link is reliable and in order.  A lost packet is sent again after QUIC's probe time-out, so loss is delay; packets
  that overtake each other or come twice are put right.  What follows a lost packet waits for it.
- A partition or a dead peer is noticed as on a real link: by silence, after three keepalive intervals; after two when
  somebody waits for an answer or has added a close callback.  Dialing it fails after ``dial_deadline_s``.
- A dial takes two round trips and four packets of the real sizes, and may be lost like anything else.  Realm, id and
  our own id are judged by the rules of CONNECT and PONG, in their order; a second dial shares the first.
- Of several links between two nodes the one that the lower NodeId dialed is used for new work; a new run of a peer
  ends the links of the old one.
- Backpressure at 1 MiB under way, the end of a link at 8 MiB.
- An orderly leave says DISCONNECT; whoever does not get it learns by silence.

What it leaves out: proofs (nobody can lie about its id or address here), congestion control, the packets of
acknowledgements (they arrive at once, unless a partition cuts the way back), the union of small frames into one
packet, QUIC's own CONNECTION_CLOSE, limits on dials, unverified peers of v0.8.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias

import trio

from macula_trio._events import EventBus
from macula_trio._ids import Contact, NodeId
from macula_trio._peer.context import KEEPALIVE_S
from macula_trio._peer.handshake import LocalParty
from macula_trio._peer.registry import LINKS_PER_PEER_MAX
from macula_trio._util import format_endpoint, numeric_endpoint
from macula_trio.abc import Link, LinkTransport, Message, MessageHandler, MessageT
from macula_trio.errors import ErrorCode, NotSent, PeerUnavailable, TrustError
from macula_trio.testing._frame_link import FrameContext, FrameLink
from macula_trio.testing._frame_network import FrameNetwork, FrameStatistics

__all__ = ["FrameLink", "FrameNetwork", "FrameStatistics", "FrameTransport"]

IDLE_KEEPALIVES: Final = 3  # the idle time-out in keepalive intervals, as `macula_trio._open` has it
DIAL_DEADLINE_S: Final = 5.0  # as `NodeConfig` has it

_Wish: TypeAlias = tuple[str, NodeId | None]  # an endpoint, and whom we dial for


class FrameTransport:
    """All links of one node; attached to its network when it is made, until `leave` or `crash`.

    Args:
      network: which must be served.
      name: of its host.
      party: what it says of itself; its endpoint may be a lie.
      events: where openings, refusals and ends are told.
      dial_deadline_s: how long a dial may take.
      keepalive_s: how long a peer that something depends on may be silent before it is asked for a sign of life.

    Raises:
      OSError: the host has a transport already.
    """

    def __init__(
        self,
        network: FrameNetwork,
        name: str,
        *,
        party: LocalParty,
        events: EventBus,
        dial_deadline_s: float = DIAL_DEADLINE_S,
        keepalive_s: float = KEEPALIVE_S,
    ) -> None:
        self.name = name
        self.address: str = network.endpoint_of(name)
        self._network = network
        self._own = party.credentials.node_id
        self._handlers: dict[type[Message], MessageHandler[Any]] = {}
        self._ends: dict[FrameLink, None] = {}  # connecting and live
        self._live: dict[NodeId, list[FrameLink]] = {}
        self._dials: dict[_Wish, FrameLink] = {}
        self._opened_callbacks: list[Callable[[FrameLink], None]] = []
        self._closed_callbacks: list[Callable[[FrameLink], None]] = []
        self._is_over = False
        self._context = FrameContext(
            party=party,
            host=name,
            address=self.address,
            paths=network.paths,
            events=events,
            handlers=self._handlers,
            wall_clock_ms=network.wall_clock_ms,
            dial_deadline_s=dial_deadline_s,
            idle_timeout_s=IDLE_KEEPALIVES * keepalive_s,
            keepalive_s=keepalive_s,
            opened=self._link_opened,
            closed=self._link_closed,
        )
        network.attach(self)

    @property
    def links(self) -> list[FrameLink]:
        """Every live link, oldest peer first."""
        return [link for links in self._live.values() for link in links]

    def on_opened(self, callback: Callable[[FrameLink], None]) -> None:
        """Call back for every link that becomes live."""
        self._opened_callbacks.append(callback)

    def on_closed(self, callback: Callable[[FrameLink], None]) -> None:
        """Call back for every link that was live and has ended."""
        self._closed_callbacks.append(callback)

    def handle(self, message_type: type[MessageT], handler: MessageHandler[MessageT]) -> None:
        """Hand messages of this type to ``handler``."""
        assert message_type not in self._handlers, f"two handlers for {message_type.__name__}"
        self._handlers[message_type] = handler

    # -- links out -------------------------------------------------------------------------------------------------

    def live_link(self, node_id: NodeId) -> FrameLink | None:
        """The link to use for new work with this node, if one is live."""
        links = self._live.get(node_id)
        if not links:
            return None
        by_rule = node_id > self._own  # the lower id's dial counts: ours if we are lower
        return next((link for link in links if link.is_dialed == by_rule), links[0])

    async def link_to(self, contact: Contact) -> FrameLink:
        """The live link to a node, dialing its endpoint when there is none."""
        if contact.node_id == self._own:
            raise TrustError("a node does not dial itself")
        live = self.live_link(contact.node_id)
        if live is not None:
            await trio.lowlevel.checkpoint()
            return live
        return await self._dial_once(contact.endpoint, contact.node_id)

    async def dial_endpoint(self, endpoint: str, *, expected: NodeId | None = None, trusted: bool = False) -> FrameLink:
        """Dial a numeric endpoint even when a link to its node exists already."""
        return await self._dial_once(endpoint, expected)

    async def _dial_once(self, endpoint: str, expected: NodeId | None) -> FrameLink:
        try:
            address = format_endpoint(numeric_endpoint(endpoint))
        except ValueError as exc:
            raise PeerUnavailable(str(exc)) from None
        link = self._dials.get((address, expected))
        if link is None:
            if self._is_over:
                raise NotSent("the node is closing")
            link = self._dials[address, expected] = FrameLink(
                self._context,
                peer_host=self._network.name_at(address),
                peer_address=address,
                find_peer=self._find_peer,
                is_dialed=True,
                expected=expected,
            )
            self._ends[link] = None
            link.dial()
        await link.settled.wait()
        if not link.was_live:
            # A fresh one for every waiter: a raised exception collects a traceback and must not be shared.
            kind = type(link.error) if isinstance(link.error, (TrustError, NotSent)) else PeerUnavailable
            raise kind(str(link.error)) from link.error
        return link

    def _find_peer(self, dialer: FrameLink) -> FrameLink | None:
        listener = self._network.transport_at(dialer.peer_address)
        return None if listener is None else listener._accept(dialer, self)

    def _accept(self, dialer: FrameLink, source: FrameTransport) -> FrameLink:
        link = FrameLink(
            self._context,
            peer_host=source.name,
            peer_address=source.address,
            find_peer=lambda _link: dialer,
            is_dialed=False,
        )
        self._ends[link] = None
        return link

    # -- links that come and go ------------------------------------------------------------------------------------

    def _link_opened(self, link: FrameLink) -> None:
        assert link.node_id is not None
        self._forget_dial(link)
        links = self._live.setdefault(link.node_id, [])
        outdated = [other for other in links if other.instance != link.instance]
        links.append(link)
        for other in outdated:
            other.close(ErrorCode.NORMAL, "the peer was started anew")
        preferred = self.live_link(link.node_id)
        if len(links) > LINKS_PER_PEER_MAX:
            surplus = next(other for other in links if other is not preferred)
            surplus.close(ErrorCode.LIMIT_EXCEEDED, "too many links")
        for callback in self._opened_callbacks:
            callback(link)

    def _link_closed(self, link: FrameLink, was_live: bool) -> None:
        self._ends.pop(link, None)
        self._forget_dial(link)
        if not was_live:
            return
        assert link.node_id is not None
        links = self._live[link.node_id]
        links.remove(link)
        if not links:
            del self._live[link.node_id]
        for callback in self._closed_callbacks:
            callback(link)

    def _forget_dial(self, link: FrameLink) -> None:
        if link.is_dialed:
            wish = (link.peer_address, link.expected)
            if self._dials.get(wish) is link:
                del self._dials[wish]

    # -- the end -----------------------------------------------------------------------------------------------------

    def leave(self) -> None:
        """Say goodbye to everybody, and be reached no more."""
        self._is_over = True
        self._network.detach(self)
        for link in list(self._ends):
            if link.was_live:
                link.close(ErrorCode.CLOSING, "the node is closing")
            else:
                link.end(NotSent(f"{link.peer_address}: the node is closing"))

    def crash(self) -> None:
        """Vanish without a word: whoever waits for a link of ours, here or elsewhere, simply waits on."""
        if self._is_over:
            return
        self._is_over = True
        self._network.detach(self)
        for link in self._ends:
            link.crash()
        self._ends.clear()
        self._network.tell("fault.crash", host=self.name)


def _conforms(transport: FrameTransport) -> tuple[LinkTransport, type[Link]]:
    return transport, FrameLink  # mypy proves that it is an `abc.LinkTransport`

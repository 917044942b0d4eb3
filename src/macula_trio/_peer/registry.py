"""All links of a node, and which of several to one peer is used and stays (DESIGN section 7).

The rules are in `choice`, `ending`, `liveness`, `backoff` and `penalties`; here they are applied.  What they are for,
and what each costs, is in docs/design/connections.md.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from math import inf
from typing import Any, Final

import attrs
import trio

from macula_trio._background import Background
from macula_trio._events import EventBus
from macula_trio._ids import Contact, NodeId
from macula_trio._net.quic import Connection, QuicEndpoint
from macula_trio._peer.choice import Lineage, choose, rank
from macula_trio._peer.context import KEEPALIVE_S, LinkContext, LinkCounters
from macula_trio._peer.dialer import Aim, DialCounters, Dialer, address_of
from macula_trio._peer.handshake import PER_MESSAGE, LocalParty, RemoteParty
from macula_trio._peer.link import ENDING_GRACE_S, QuicLink
from macula_trio._peer.penalties import OFFENCES_OF_HOST_MAX, OFFENCES_OF_NODE_MAX, REFUSED_S, Penalties
from macula_trio._peer.redialer import Locate, Redialer
from macula_trio._peer.upkeep import Upkeep
from macula_trio._util import Address, host_group, is_loopback
from macula_trio.abc import Link, LinkTransport, Message, MessageHandler, MessageT
from macula_trio.errors import ErrorCode, MeshError, OwnIdentity, PeerUnavailable, TrustError

LINKS_MAX: Final = 100  # that we dialed and keep, as `NodeConfig` has it
LINK_IDLE_S: Final = 300.0  # likewise
LINKS_PER_PEER_MAX: Final = 4  # two by simultaneous dials, and as many that are about to end
PASSING_LINKS_PER_PEER_MAX: Final = 64  # where one of the two opens one for every message
ENDS_PATIENCE_S: Final = 1.0
DIALS_PER_WISH_MAX: Final = 3  # a peer that ends each link at once must not keep us dialing
REPLACED_MAX: Final = 4096  # nodes whose former runs are remembered; who was replaced first is forgotten first
RUNS_REMEMBERED: Final = 4  # of one node: a service that restarts in a loop leaves many
KEEPALIVE_SLACK: Final = 0.01  # of the keepalive: by so much a peer is asked earlier, so that many are asked at once
ACCEPTED_IDLE_SHARE: Final = 1.1  # of the idle time, for what others dialed: they end it first


@attrs.frozen(kw_only=True)
class LinkPolicy:
    """How long links live; times in seconds, as `NodeConfig` has them.

    Attributes:
      dial_deadline_s: for a connection and both proofs.
      keepalive_s: how long a peer may be silent before it is asked for a sign of life.
      links_max: of those that we dialed are kept.
      link_idle_s: how long a link is kept that nobody uses.
    """

    dial_deadline_s: float
    keepalive_s: float = KEEPALIVE_S
    links_max: int = LINKS_MAX
    link_idle_s: float = LINK_IDLE_S


@attrs.frozen
class _Over:
    """The last link to a node that has ended, of those that another one may replace.

    The next dial names it, since the peer may not have heard of its end; and what the peer has dialed to replace it
    comes into its place here as well as there.
    """

    link_id: bytes
    instance: bytes | None
    lineage: Lineage


class LinkRegistry:
    """All links of a node; the `macula_trio.abc.LinkTransport` of production.

    Args:
      party: what we say of ourselves.
      events: where openings, refusals and ends are told.
      wall_clock_ms: Unix time.
      random_fraction: chance in [0, 1), for the pauses behind failed dials.
      policy: how long links live.
    """

    def __init__(
        self,
        party: LocalParty,
        *,
        events: EventBus,
        wall_clock_ms: Callable[[], int],
        random_fraction: Callable[[], float],
        policy: LinkPolicy,
    ) -> None:
        self._party = party
        self._policy = policy
        self._handlers: dict[type[Message], MessageHandler[Any]] = {}
        self._live: dict[NodeId, list[QuicLink]] = {}
        self._anonymous: dict[QuicLink, None] = {}
        self._probes: dict[QuicLink, None] = {}
        self._worn: dict[QuicLink, None] = {}  # whose successors are being dialed
        self._has_surplus = False
        self._dials_anew = 0
        self._opened_callbacks: list[Callable[[QuicLink], None]] = []
        self._closed_callbacks: list[Callable[[QuicLink], None]] = []
        self._observed_callbacks: list[Callable[[QuicLink, Address], None]] = []
        self._background = Background()
        self._penalties = Penalties()
        self._replaced: dict[NodeId | None, tuple[bytes | None, ...]] = {}  # former runs, by node
        self._over: dict[NodeId, _Over] = {}
        self._context = LinkContext(
            party=party,
            handlers=self._handlers,
            wall_clock_ms=wall_clock_ms,
            events=events,
            keepalive_s=policy.keepalive_s,
            admit=self._admit,
            offended=self._offended,
            opened=self._link_opened,
            closed=self._link_closed,
            ending=self._link_ending,
            alive=self._link_alive,
            siblings=self._siblings,
            observed=self._observed,
        )
        self._upkeep = Upkeep(self._look)
        self._dialer = Dialer(
            self._context,
            background=self._background,
            deadline_s=policy.dial_deadline_s,
            random_fraction=random_fraction,
            ended=self._settle,
            over=lambda node_id: self._over[node_id].link_id if node_id in self._over else None,
        )
        self._redialer = Redialer(
            background=self._background, events=events, dial=self._dial_wanted, pause_s=self._pause_s
        )

    @property
    def counters(self) -> LinkCounters:
        """Of all links."""
        return self._context.counters

    @property
    def dial_counters(self) -> DialCounters:
        """Of all dials."""
        return self._dialer.counters

    @property
    def redials(self) -> int:
        """How often links that were lost have been dialed again because somebody wanted them."""
        return self._redialer.redials

    @property
    def links(self) -> list[QuicLink]:
        """Every live link, oldest peer first; those of our own probes are nobody's."""
        return [link for links in self._live.values() for link in links] + list(self._anonymous)

    def accept(self, connection: Connection) -> QuicLink:
        """The handler of a connection that somebody dialed to us."""
        return QuicLink(self._context, connection)

    def on_opened(self, callback: Callable[[QuicLink], None]) -> None:
        """Call back for every link that becomes live."""
        self._opened_callbacks.append(callback)

    def on_closed(self, callback: Callable[[QuicLink], None]) -> None:
        """Call back for every link that was live and has ended."""
        self._closed_callbacks.append(callback)

    def on_observed(self, callback: Callable[[QuicLink, Address], None]) -> None:
        """Call back whenever a proven peer that we dialed says where it sees us."""
        self._observed_callbacks.append(callback)

    def handle(self, message_type: type[MessageT], handler: MessageHandler[MessageT]) -> None:
        """Hand messages of this type to ``handler``."""
        assert message_type not in self._handlers, f"two handlers for {message_type.__name__}"
        self._handlers[message_type] = handler

    async def serve(
        self, endpoint: QuicEndpoint, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Own the dials until cancelled."""
        self._dialer.endpoint = endpoint
        await self._background.serve(self._upkeep.run, task_status=task_status)

    # -- links out -----------------------------------------------------------------------------------------------

    def live_link(self, node_id: NodeId) -> QuicLink | None:
        """The link to use for new work with this node, if one is live."""
        if self._ending_link(node_id) is not None:
            return None
        best = choose(
            (link for link in self._live.get(node_id, ()) if self._is_usable(link)), own=self._own, peer=node_id
        )
        if best is None or best.is_dialed or self._own > node_id or self._dialer.introduced_to(node_id) is None:
            return best
        # The peer dialed us, and our own dial, which counts, may be used by the peer already: whoever waits a moment
        # says everything in its order.
        return None

    async def link_to(self, contact: Contact) -> QuicLink:
        """The live link to a node, dialing its endpoint when there is none.

        Raises:
          PeerUnavailable: it cannot be reached, did not answer a moment ago, or its endpoint is not numeric.
          TrustError: somebody else answered, or one side refuses the other.
        """
        self.require_welcome(contact)
        dials = 0
        while True:
            link = self.live_link(contact.node_id) or self._unproven_link(contact) or self._spared(contact.node_id)
            if link is None:
                dials += 1
                await self._wait_for_ends(contact.node_id)
                dialed = await self._dial_for(contact)
                # A better one may have come meanwhile and be in use: who waited must not fall behind it.
                link = self.live_link(contact.node_id) or dialed
            else:
                await trio.lowlevel.checkpoint()
            if link.is_ending and dials < DIALS_PER_WISH_MAX:  # since a moment ago: the next one comes behind it
                continue
            if link.verified or link.reserve():  # else others were quicker, and it takes no more
                link.note_use()
                return link

    async def _wait_for_ends(self, node_id: NodeId) -> None:
        """Wait while a link ends that nothing replaces: what comes on the next one would overtake what it brings."""
        while (link := self._ending_link(node_id)) is not None:
            with trio.move_on_after(ENDS_PATIENCE_S):  # then it may count no more
                await link.wait_ended()

    def _spared(self, node_id: NodeId) -> QuicLink | None:
        """A link that was about to end because nobody used it, and has not said its last word."""
        link = self._ending_link(node_id)
        if link is None or link.peer_has_finished or not link.resume():
            return None
        self._settle(node_id, has_changed=True)  # there may be others by now
        return link

    def _ending_link(self, node_id: NodeId) -> QuicLink | None:
        """A link whose end everything new has to wait for.

        Not for long where the peer waits for answers of ours, which may take their time: its last word comes behind
        them, while ours has most likely arrived.
        """
        patient_since = trio.current_time() - ENDS_PATIENCE_S
        return next((link for link in self._live.get(node_id, ()) if self._holds_up(link, patient_since)), None)

    def _holds_up(self, link: QuicLink, patient_since: float) -> bool:
        is_ending = link.is_ending and link.heir is link and not self._is_apart(link)
        return is_ending and not (link.works_for_peer and link.ending_since <= patient_since)

    async def _dial_for(self, contact: Contact) -> QuicLink:
        dial = self._dialer.introduced_to(contact.node_id)
        try:
            if dial is not None:
                return await dial.wait()
            return await self._dialer.dial(Aim(address_of(contact.endpoint), contact.node_id), insists=False)
        except MeshError:
            link = self.live_link(contact.node_id)  # the peer has dialed us meanwhile
            if link is None:
                raise
            return link

    def link_for_message(self, contact: Contact) -> QuicLink | None:
        """The live link to use for one more message to a node, if there is one."""
        link = self.live_link(contact.node_id) or self._unproven_link(contact)
        return link if link is None or link.verified or link.reserve() else None

    def _unproven_link(self, contact: Contact) -> QuicLink | None:
        """A live link to whoever answered at a node's endpoint without proving anything: a v0.8 node."""
        if self._party.trust.kind != "unverified":
            return None
        at = address_of(contact.endpoint)
        found = (
            link for link in self._anonymous if link.takes_more and not link.is_passing and link.peer_address == at
        )
        return next((link for link in found if link.node_id == contact.node_id), None)

    async def dial_endpoint(self, endpoint: str, *, expected: NodeId | None = None, trusted: bool = False) -> QuicLink:
        """Dial a numeric endpoint even when a link to its node exists already.

        Args:
          endpoint: numeric ``host:port``.
          expected: whom we dial for, if known.
          trusted: our own configuration names it, so that it may be tried as often as we like.

        Raises:
          PeerUnavailable: nobody answers there, or nobody did a moment ago.
          TrustError: somebody else than ``expected`` answered, or one side refuses the other.
        """
        return await self._dialer.dial(Aim(address_of(endpoint), expected), trusted=trusted)

    async def dial_anew(self, endpoint: str, *, expected: NodeId | None, trusted: bool) -> QuicLink:
        """A connection for one thing: nobody else gets it, and whoever dials closes it."""
        self._dials_anew += 1
        aim = Aim(address_of(endpoint), expected, self._dials_anew, is_passing=True)
        return await self._dialer.dial(aim, trusted=trusted)

    def want(self, contact: Contact, locate: Locate | None = None) -> AbstractContextManager[None]:
        """Dial a node again whenever its last link is lost, for the length of the block.

        Args:
          contact: whom; nothing happens when its endpoint is not numeric.
          locate: asked where it is before it is dialed again; without, it is dialed where it was.
        """
        try:
            address_of(contact.endpoint)
        except PeerUnavailable:
            return nullcontext()  # it has dialed us, or another endpoint of it was dialed
        return self._redialer.want(contact, locate)

    async def _dial_wanted(self, contact: Contact) -> None:
        self.require_welcome(contact)
        if self.live_link(contact.node_id) is None:
            await self._dialer.dial(Aim(address_of(contact.endpoint), contact.node_id), trusted=True, insists=False)

    def _pause_s(self, contact: Contact) -> float:
        return self._dialer.down_for_s(address_of(contact.endpoint), contact.node_id)

    def require_welcome(self, contact: Contact) -> None:
        """Refuse to dial a node that we want nothing from.

        Raises:
          TrustError: it is ourselves, not one whom the policy lets in, or one that has broken the rules.
        """
        if contact.node_id == self._own:
            raise TrustError("a node does not dial itself")
        self._party.judge.judge_id(contact.node_id)
        self._require_welcome(contact.node_id)

    @property
    def _own(self) -> NodeId:
        return self._party.credentials.node_id

    # -- who may come in ---------------------------------------------------------------------------------------------

    def judge_again(self) -> None:
        """The policy has changed: end the links whose peers would not be let in any more."""
        now_ms = self._context.wall_clock_ms()
        for link in self.links:
            link.judge_again(now_ms)

    def _admit(self, remote: RemoteParty) -> None:
        """Refuse an offender, and a run of a node that was followed by another one: both are alive, and share a key.

        The later one stays, so that the two do not end each other's links again and again.
        """
        if remote.verified and remote.node_id is not None:
            self._require_welcome(remote.node_id)
        if remote.verified and remote.instance in self._replaced.get(remote.node_id, ()):
            raise OwnIdentity(
                "another node was started with the same key since; give every node a key of its own",
                code=ErrorCode.IDENTITY_CONFLICT,
            )

    def _require_welcome(self, node_id: NodeId) -> None:
        left_s = self._penalties.refused_for_s(node_id, trio.current_time())
        if left_s:
            text = f"node {node_id.short} broke the rules too often, and is refused for {left_s:.0f} s"
            raise TrustError(text, code=ErrorCode.LIMIT_EXCEEDED)

    def is_welcome(self, address: Address) -> bool:
        """Whether the host at an address may dial us, or has offended too often."""
        return not self._penalties.refused_for_s(host_group(address[0]), trio.current_time())

    def _offended(self, link: QuicLink) -> None:
        now, node_id = trio.current_time(), link.node_id
        offend = self._penalties.offend
        if node_id is not None and link.verified and offend(node_id, now, offences_max=OFFENCES_OF_NODE_MAX):
            self._context.events.emit("peer.penalized", offender=node_id.hex(), seconds=REFUSED_S)
            for other in tuple(self._live.get(node_id, ())):
                other.close(ErrorCode.LIMIT_EXCEEDED, "the rules were broken too often")
        host = link.peer_address[0]
        # Those on this machine share one address, and have shorter ways to harm each other.
        if not is_loopback(host) and offend(host_group(host), now, offences_max=OFFENCES_OF_HOST_MAX):
            self._context.events.emit("peer.penalized", offender=host_group(host), seconds=REFUSED_S)

    def _note_replaced(self, link: QuicLink) -> None:
        earlier = self._replaced.pop(link.node_id, ())
        if len(self._replaced) >= REPLACED_MAX:
            del self._replaced[next(iter(self._replaced))]
        self._replaced[link.node_id] = (*earlier, link.instance)[-RUNS_REMEMBERED:]

    # -- which link stays --------------------------------------------------------------------------------------------

    def _is_apart(self, link: QuicLink) -> bool:
        """Whether it is for one thing, and no link to a peer like others."""
        return link.is_passing or PER_MESSAGE in link.capabilities or PER_MESSAGE in self._party.capabilities

    def _siblings(self, link: QuicLink) -> list[QuicLink]:
        links = () if link.node_id is None else self._live.get(link.node_id, ())
        return [other for other in links if other is not link]

    def _is_usable(self, link: QuicLink) -> bool:
        if link.is_ending or link.is_passing:
            return False
        return link.is_dialed or PER_MESSAGE not in link.capabilities

    def _settle(self, node_id: NodeId, *, vouched: QuicLink | None = None, has_changed: bool = False) -> None:
        """See to it that one link stays; the others end in order.

        A link that is older than the one that would go may be dead, and only its peer knows: it is asked first.

        Args:
          node_id: of the peer.
          vouched: a link whose peer has just shown that it is there.
          has_changed: the last link has just opened, or an older one goes on after all.
        """
        links = [link for link in self._live.get(node_id, ()) if not self._is_apart(link)]
        best = choose((link for link in links if not link.is_ending), own=self._own, peer=node_id)
        self._put_in_order(node_id, links)
        is_older = True
        for link in links:
            if link is best:
                is_older = False
            elif best is not None:
                if is_older or link.peer_has_finished or best is vouched:
                    self._retreat(link, best, "replaced")
                elif has_changed:
                    best.ask_for_life()
                    self._upkeep.look_at(best, trio.current_time())
            elif link.peer_has_finished and self._dialer.introduced_to(node_id) is None:
                self._retreat(link, None, "goodbye")

    def _put_in_order(self, node_id: NodeId, links: list[QuicLink]) -> None:
        """Read what comes on several links in the order in which it was sent.

        Whoever sends goes from a link to a better one, and to a worse one only when the better has ended.
        """
        coming = [*links, *(link for link in self._dialer.introduced_links(node_id) if link not in links)]
        ranked = rank(coming, own=self._own, peer=node_id)
        if ranked and ranked[0].peer_has_finished:  # in favour of none that is here
            ranked.append(ranked.pop(0))
        for place, link in enumerate(ranked):
            link.wait_only_for(ranked[place + 1 :])
        for link in reversed(ranked):
            link.take_queued()

    def _retreat(self, link: QuicLink, successor: QuicLink | None, reason: str) -> None:
        link.retreat(successor, reason=reason)
        if not link.is_ended:  # nobody waits for ever for the end of the other side
            self._upkeep.look_at(link, trio.current_time() + ENDING_GRACE_S)

    def _link_ending(self, link: QuicLink) -> None:
        assert link.node_id is not None
        self._settle(link.node_id)
        if not link.is_ended:
            self._upkeep.look_at(link, trio.current_time() + ENDING_GRACE_S)

    def _link_alive(self, link: QuicLink) -> None:
        if link.verified and link.node_id is not None and len(self._live.get(link.node_id, ())) > 1:
            self._settle(link.node_id, vouched=link)

    def _link_opened(self, link: QuicLink) -> None:
        if link.is_probe:
            self._probes[link] = None
            return
        self._context.counters.opened += 1
        if link.node_id is None or not link.verified:
            self._anonymous[link] = None  # never in place of a proven one
        else:
            self._add(link, link.node_id)
        if not link.is_ended:
            self._upkeep.begin(link)
        for callback in self._opened_callbacks:
            callback(link)

    def _add(self, link: QuicLink, node_id: NodeId) -> None:
        links = self._live.setdefault(node_id, [])
        self._dialer.note_up(link.peer_address, node_id)
        outdated = [other for other in links if other.instance != link.instance]
        links.append(link)
        replaced = next((other for other in links if other.link_id == link.replaces and other is not link), None)
        over = self._over.get(node_id)
        if link.is_afresh:
            if replaced is not None:
                replaced.end_with_peer()
        elif replaced is not None:
            link.inherit(replaced.lineage)
        elif over is not None and (over.link_id, over.instance) == (link.replaces, link.instance):
            link.inherit(over.lineage)  # the other side, which replaces it as well, may still have it
        for other in outdated:
            self._note_replaced(other)
            other.close(ErrorCode.NORMAL, "the peer was started anew", reason="restarted")
        is_apart = self._is_apart(link)
        if not is_apart:
            self._redialer.found(node_id)
            if not link.is_dialed:
                self._dialer.supersede(node_id, link)
            self._settle(node_id, has_changed=True)
            if link.is_dialed:
                self._trim()
        alike = [other for other in links if self._is_apart(other) is is_apart]
        if len(alike) > (PASSING_LINKS_PER_PEER_MAX if is_apart else LINKS_PER_PEER_MAX):
            preferred = choose(alike, own=self._own, peer=node_id)
            surplus = next(other for other in alike if other is not preferred)
            surplus.close(ErrorCode.LIMIT_EXCEEDED, "too many links")

    def _link_closed(self, link: QuicLink) -> None:
        if link in self._probes:
            del self._probes[link]
            return
        self._upkeep.end(link)
        self._worn.pop(link, None)
        self._anonymous.pop(link, None)
        links = [] if link.node_id is None else self._live.get(link.node_id, [])
        if link in links:
            links.remove(link)
            assert link.node_id is not None
            if not links:
                del self._live[link.node_id]
            # Another one may have replaced it in order: then that is their heir.
            resumed = [predecessor.resume() for predecessor in links if predecessor.heir is link]
            if not self._is_apart(link):
                self._note_over(link, link.node_id)
                if link.was_lost:
                    self._note_lost(link, link.node_id)
            self._settle(link.node_id, has_changed=any(resumed))
        for callback in self._closed_callbacks:
            callback(link)

    def _note_over(self, link: QuicLink, node_id: NodeId) -> None:
        self._over.pop(node_id, None)
        if len(self._over) >= REPLACED_MAX:
            del self._over[next(iter(self._over))]
        self._over[node_id] = _Over(link.link_id, link.instance, link.lineage)

    def _note_lost(self, link: QuicLink, node_id: NodeId) -> None:
        """Nobody ended it: the peer has crashed, or cannot be reached, and is not dialed at once."""
        if self.live_link(node_id) is None:
            if link.is_dialed or link.proven_endpoint is not None:
                self._dialer.note_down(link.peer_address, PeerUnavailable(link.end))
            self._redialer.lost(node_id)

    def _observed(self, link: QuicLink, address: Address) -> None:
        for callback in self._observed_callbacks:
            callback(link, address)

    # -- what time demands -------------------------------------------------------------------------------------------

    def _look(self, link: QuicLink, late_s: float) -> float:
        due = link.look(late_s, KEEPALIVE_SLACK * self._policy.keepalive_s)
        if link.is_ended or link.is_ending or not link.verified or self._is_apart(link):
            return due
        now = trio.current_time()
        share = 1.0 if link.is_dialed else ACCEPTED_IDLE_SHARE
        idle_at = link.used_at + share * self._policy.link_idle_s
        if now >= idle_at and self._is_dispensable(link):
            self._retreat(link, None, "idle")
        elif link.is_worn:
            self._replace(link)
        if self._has_surplus:
            self._trim()
        return min(due, idle_at if idle_at > now else inf)

    def _trim(self) -> None:
        """Keep no more of those that we dialed than the policy allows: who was used last stays."""
        dialed = [
            link
            for links in self._live.values()
            for link in links
            if link.is_dialed and not link.is_ending and not self._is_apart(link)
        ]
        surplus = len(dialed) - self._policy.links_max
        self._has_surplus = surplus > 0  # tried again when one is looked at: those that are busy now may be idle then
        if surplus > 0:
            idle = sorted((link for link in dialed if self._is_dispensable(link)), key=lambda link: link.used_at)
            for link in idle[:surplus]:
                self._retreat(link, None, "surplus")

    def _is_dispensable(self, link: QuicLink) -> bool:
        """Whether nothing is under way on it, nor another link to its peer, which would be in its place."""
        assert link.node_id is not None
        others = (other for other in self._live[link.node_id] if other is not link and not self._is_apart(other))
        return not link.is_busy and not any(others) and not self._dialer.is_dialing(link.node_id)

    def _replace(self, link: QuicLink) -> None:
        """Dial another link in the place of one whose connection is worn."""
        address = link.peer_address
        reachable = link.is_dialed or link.proven_endpoint is not None
        if link not in self._worn and reachable and not self._dialer.down_for_s(address, link.node_id):
            self._worn[link] = None
            self._background.start_soon(self._turn_over, link, address, name="replace a worn link")

    async def _turn_over(self, link: QuicLink, address: Address) -> None:
        self._dials_anew += 1
        try:
            await self._dialer.dial(Aim(address, link.node_id, self._dials_anew, replaces=link.link_id))
        except MeshError:
            self._worn.pop(link, None)  # counted by the dialer; tried again when it is looked at next

    def leave(self) -> None:
        """Say goodbye to everybody and close."""
        for link in (*self.links, *self._probes):
            link.close(ErrorCode.CLOSING, "the node is closing")


def _conforms(registry: LinkRegistry) -> tuple[LinkTransport, type[Link]]:
    return registry, QuicLink  # mypy proves that the registry is an `abc.LinkTransport`

"""Who dials, and which of several links to one peer is used: the links of a node (DESIGN section 7).

One link per pair is used for new work.  Of two links with the same ``instance`` of a peer, both sides pick the one
that the lower NodeId dialed; the other keeps serving what is under way on it and ends by QUIC's idle time-out, so no
answer is ever cut off.  A new ``instance`` of a peer ends the links of the old one at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import attrs
import trio

from macula_trio._background import Background
from macula_trio._events import EventBus
from macula_trio._ids import Contact, NodeId
from macula_trio._net.quic import Connection, QuicEndpoint
from macula_trio._peer.handshake import PER_MESSAGE, LocalParty, RemoteParty
from macula_trio._peer.link import LinkContext, LinkCounters, QuicLink
from macula_trio._peer.penalties import OFFENCES_OF_HOST_MAX, OFFENCES_OF_NODE_MAX, REFUSED_S, Penalties
from macula_trio._util import Address, format_endpoint, host_group, is_loopback, numeric_endpoint
from macula_trio.abc import Link, LinkTransport, Message, MessageHandler, MessageT
from macula_trio.errors import (
    ErrorCode,
    MeshError,
    NotSent,
    OwnIdentity,
    PeerUnavailable,
    TrustError,
    afresh,
    no_answer,
)

KEEPALIVE_S: Final = 10.0  # as `NodeConfig` has it
DIALS_MAX: Final = 128  # dials under way at once; each is a TLS handshake, and peers can provoke some
DIALS_WAITING_MAX: Final = 4096  # and those that wait for their turn
LINKS_PER_PEER_MAX: Final = 4  # two by simultaneous dials, and as many that are about to end
PASSING_LINKS_PER_PEER_MAX: Final = 64  # where one of the two opens one for every message
FAILED_DIALS_MAX: Final = 3  # of one endpoint within a minute: records of liars must not aim us at a victim
FAILED_DIALS_PERIOD_S: Final = 60.0
REPLACED_MAX: Final = 4096  # nodes whose former runs are remembered; who was replaced first is forgotten first
RUNS_REMEMBERED: Final = 4  # of one node: a service that restarts in a loop leaves many
FAILED_ENDPOINTS_MAX: Final = 4096  # remembered; the one that failed first is forgotten first


@attrs.define(eq=False)
class _Dial:
    """One dial under way, and everybody who waits for it."""

    done: trio.Event = attrs.field(factory=trio.Event)
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    link: QuicLink | None = None
    error: MeshError | None = None

    async def wait(self) -> QuicLink:
        await self.done.wait()
        if self.link is None:
            assert self.error is not None
            raise afresh(self.error) from self.error
        return self.link

    def give_up(self) -> None:
        """Nobody wants its link, whether it is there already or would be a moment later."""
        self.scope.cancel()
        if self.link is not None:
            self.link.close(ErrorCode.NORMAL, "nobody waits for it any more")


class LinkRegistry:
    """All links of a node; the `macula_trio.abc.LinkTransport` of production.

    Args:
      party: what we say of ourselves.
      events: where openings, refusals and ends are told.
      wall_clock_ms: Unix time.
      dial_deadline_s: for a connection and both proofs.
      keepalive_s: how long a peer that something depends on may be silent before it is asked for a sign of life.
    """

    def __init__(
        self,
        party: LocalParty,
        *,
        events: EventBus,
        wall_clock_ms: Callable[[], int],
        dial_deadline_s: float,
        keepalive_s: float = KEEPALIVE_S,
    ) -> None:
        self._party = party
        self._keepalive_s = keepalive_s
        self._dial_deadline_s = dial_deadline_s
        self._handlers: dict[type[Message], MessageHandler[Any]] = {}
        self._live: dict[NodeId, list[QuicLink]] = {}
        self._anonymous: dict[QuicLink, None] = {}
        self._probes: dict[QuicLink, None] = {}
        # By whom was asked for, too: else one endpoint told wrong for a node, or one wrong node told for an
        # endpoint, would fail everybody who asks for the right one meanwhile.
        self._dials: dict[tuple[Address, NodeId | None, int], _Dial] = {}
        self._dials_anew = 0
        self._opened_callbacks: list[Callable[[QuicLink], None]] = []
        self._closed_callbacks: list[Callable[[QuicLink], None]] = []
        self._observed_callbacks: list[Callable[[QuicLink, Address], None]] = []
        self._endpoint: QuicEndpoint | None = None
        self._background = Background()
        self._dial_limiter = trio.CapacityLimiter(DIALS_MAX)
        # With whom was asked for when somebody did answer: who names a wrong node for an endpoint, or a wrong endpoint
        # for a node, must not keep anybody from the right one.
        self._failed_dials: dict[tuple[Address, NodeId | None], list[float]] = {}
        self._penalties = Penalties()
        self._replaced: dict[NodeId | None, tuple[bytes | None, ...]] = {}  # former runs, by node
        self._context = LinkContext(
            party=party,
            handlers=self._handlers,
            wall_clock_ms=wall_clock_ms,
            events=events,
            admit=self._admit,
            offended=self._offended,
            opened=self._link_opened,
            closed=self._link_closed,
            observed=self._observed,
        )

    @property
    def counters(self) -> LinkCounters:
        """Frames of all links."""
        return self._context.counters

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
        self._endpoint = endpoint
        await self._background.serve(self._watch_links, task_status=task_status)

    async def _watch_links(self) -> None:
        while True:
            await trio.sleep(self._keepalive_s / 2)
            now_ms = self._context.wall_clock_ms()
            for link in self.links:
                link.check_alive(trio.current_time(), self._keepalive_s)
                link.tell_observed()
                if link.trusted_until_ms <= now_ms:
                    link.judge_again(now_ms)

    # -- links out -----------------------------------------------------------------------------------------------

    def live_link(self, node_id: NodeId) -> QuicLink | None:
        """The link to use for new work with this node, if one is live."""
        links = [link for link in self._live.get(node_id, ()) if _takes_new_work(link)]
        if not links:
            return None
        by_rule = node_id > self._party.credentials.node_id  # the lower id's dial counts: ours if we are lower
        return next((link for link in links if link.is_dialed == by_rule), links[0])

    async def link_to(self, contact: Contact) -> QuicLink:
        """The live link to a node, dialing its endpoint when there is none.

        Raises:
          PeerUnavailable: it cannot be reached, or its endpoint is not numeric.
          TrustError: somebody else answered, or one side refuses the other.
        """
        self.require_welcome(contact)
        while True:
            link = self.live_link(contact.node_id) or self._unproven_link(contact)
            if link is None:
                link = await self._dial_once(contact.endpoint, contact.node_id)
            else:
                await trio.lowlevel.checkpoint()
            if link.verified or link.reserve():  # else others were quicker, and it takes no more
                return link

    def link_for_message(self, contact: Contact) -> QuicLink | None:
        """The live link to use for one more message to a node, if there is one."""
        link = self.live_link(contact.node_id) or self._unproven_link(contact)
        return link if link is None or link.verified or link.reserve() else None

    def _unproven_link(self, contact: Contact) -> QuicLink | None:
        """A live link to whoever answered at a node's endpoint without proving anything: a v0.8 node."""
        if self._party.trust.kind != "unverified":
            return None
        at = _address(contact.endpoint)
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
          PeerUnavailable: nobody answers there, or too often did not within the last minute.
          TrustError: somebody else than ``expected`` answered, or one side refuses the other.
        """
        return await self._dial_once(endpoint, expected, trusted=trusted)

    async def dial_anew(self, endpoint: str, *, expected: NodeId | None, trusted: bool) -> QuicLink:
        """The same for one purpose: nobody else gets the link, who dials there at the moment or looks for one later."""
        self._dials_anew += 1
        return await self._dial_once(endpoint, expected, trusted=trusted, number=self._dials_anew)

    def require_welcome(self, contact: Contact) -> None:
        """Refuse to dial a node that we want nothing from.

        Raises:
          TrustError: it is ourselves, not one whom the policy lets in, or one that has broken the rules.
        """
        if contact.node_id == self._party.credentials.node_id:
            raise TrustError("a node does not dial itself")
        self._party.judge.judge_id(contact.node_id)
        self._require_welcome(contact.node_id)

    async def _dial_once(
        self, endpoint: str, expected: NodeId | None, *, trusted: bool = False, number: int = 0
    ) -> QuicLink:
        address = _address(endpoint)
        key = (address, expected, number)
        dial = self._dials.get(key)
        if dial is None:
            if len(self._dials) >= DIALS_WAITING_MAX:
                raise NotSent(f"{DIALS_WAITING_MAX} dials are waiting already; {endpoint} is one too many")
            if not trusted and self._has_failed_often(address, expected):
                text = f"{endpoint} was dialed in vain {FAILED_DIALS_MAX} times within {FAILED_DIALS_PERIOD_S:g} s"
                raise PeerUnavailable(text)
            dial = _Dial()
            # A task of the node, not of the caller: others may wait for the same dial, and must not lose it
            # because the first who wanted it was cancelled.
            if not self._background.start_soon(self._run_dial, dial, key, name=f"dial {endpoint}"):
                raise NotSent("the node is closing")
            self._dials[key] = dial
        is_taken = False
        try:
            link = await dial.wait()
            is_taken = True
        finally:
            if number and not is_taken:
                dial.give_up()  # nobody else waits for it, and nobody would close its link
        return link

    async def _run_dial(self, dial: _Dial, key: tuple[Address, NodeId | None, int]) -> None:
        address, expected, number = key
        dial.error = NotSent(f"{format_endpoint(address)}: the node is closing")
        try:
            with dial.scope:
                async with self._dial_limiter:
                    await self._dial(dial, address, expected, is_passing=number > 0)
        finally:
            del self._dials[key]
            dial.done.set()

    async def _dial(self, dial: _Dial, address: Address, expected: NodeId | None, *, is_passing: bool) -> None:
        assert self._endpoint is not None
        links: list[QuicLink] = []

        def make_link(connection: Connection) -> QuicLink:
            links.append(QuicLink(self._context, connection, expected=expected, is_passing=is_passing))
            return links[0]

        obstacle = self._endpoint.obstacle(address[0])
        if obstacle is not None:  # the fault is ours, so it does not count as one of the endpoint's failures
            dial.error = NotSent(f"{format_endpoint(address)} cannot be reached: {obstacle}")
            return
        try:
            check = self._party.judge.server_check(format_endpoint(address))
        except TrustError as exc:
            dial.error = exc
            return
        self._endpoint.dial(address, make_link, check=check)
        try:
            with trio.move_on_after(self._dial_deadline_s) as scope:
                await links[0].wait_live()
                if not dial.scope.cancel_called:
                    dial.link = links[0]
            if scope.cancelled_caught:
                dial.error = no_answer(format_endpoint(address), self._dial_deadline_s)
                self._note_failed(address, None)
        except MeshError as exc:
            dial.error = exc
            self._note_failed(address, expected if isinstance(exc, TrustError) else None)
        finally:
            if dial.link is None:
                links[0].close(ErrorCode.HANDSHAKE_TIMEOUT, "gave up waiting")

    def _has_failed_often(self, address: Address, expected: NodeId | None) -> bool:
        since = trio.current_time() - FAILED_DIALS_PERIOD_S
        return any(
            sum(failed_at > since for failed_at in self._failed_dials.get(key, ())) >= FAILED_DIALS_MAX
            for key in ((address, None), (address, expected))
        )

    def _note_failed(self, address: Address, expected: NodeId | None) -> None:
        earlier = self._failed_dials.pop((address, expected), [])
        if len(self._failed_dials) >= FAILED_ENDPOINTS_MAX:
            del self._failed_dials[next(iter(self._failed_dials))]
        self._failed_dials[address, expected] = [*earlier, trio.current_time()][-FAILED_DIALS_MAX:]

    # -- links that come and go ------------------------------------------------------------------------------------

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

    def _link_opened(self, link: QuicLink) -> None:
        if link.is_probe:
            self._probes[link] = None
            return
        if link.node_id is None or not link.verified:
            self._anonymous[link] = None  # never in place of a proven one
        else:
            links = self._live.setdefault(link.node_id, [])
            self._failed_dials.pop((link.peer_address, None), None)
            self._failed_dials.pop((link.peer_address, link.node_id), None)
            outdated = [other for other in links if other.instance != link.instance]
            links.append(link)
            for other in outdated:
                self._note_replaced(other)
                other.close(ErrorCode.NORMAL, "the peer was started anew")
            preferred = self.live_link(link.node_id)
            apart = link.is_passing or PER_MESSAGE in link.capabilities or PER_MESSAGE in self._party.capabilities
            if len(links) > (PASSING_LINKS_PER_PEER_MAX if apart else LINKS_PER_PEER_MAX):
                next(other for other in links if other is not preferred).close(
                    ErrorCode.LIMIT_EXCEEDED, "too many links"
                )
        for callback in self._opened_callbacks:
            callback(link)

    def _link_closed(self, link: QuicLink) -> None:
        if link in self._probes:
            del self._probes[link]
            return
        self._anonymous.pop(link, None)
        links = [] if link.node_id is None else self._live.get(link.node_id, [])
        if link in links:
            links.remove(link)
            if not links and link.node_id is not None:
                del self._live[link.node_id]
        for callback in self._closed_callbacks:
            callback(link)

    def _observed(self, link: QuicLink, address: Address) -> None:
        for callback in self._observed_callbacks:
            callback(link, address)

    def leave(self) -> None:
        """Say goodbye to everybody and close."""
        for link in (*self.links, *self._probes):
            link.close(ErrorCode.CLOSING, "the node is closing")


def _takes_new_work(link: QuicLink) -> bool:
    """Whether whoever dialed it will keep it."""
    return not link.is_passing if link.is_dialed else PER_MESSAGE not in link.capabilities


def _address(endpoint: str) -> Address:
    try:
        return numeric_endpoint(endpoint)
    except ValueError as exc:
        raise PeerUnavailable(str(exc)) from None


def _conforms(registry: LinkRegistry) -> tuple[LinkTransport, type[Link]]:
    return registry, QuicLink  # mypy proves that the registry is an `abc.LinkTransport`

"""Dials under way: shared by those who want the same, bounded, and not repeated too soon when they fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import attrs
import trio

from macula_trio._background import Background
from macula_trio._ids import NodeId
from macula_trio._net.quic import Connection, QuicEndpoint
from macula_trio._peer.backoff import Backoff
from macula_trio._peer.context import LinkContext
from macula_trio._peer.link import QuicLink
from macula_trio._util import Address, format_endpoint, numeric_endpoint
from macula_trio.errors import ErrorCode, MeshError, NotSent, PeerUnavailable, TrustError, afresh, no_answer

DIALS_MAX: Final = 128  # dials under way at once; each is a TLS handshake, and peers can provoke some
DIALS_WAITING_MAX: Final = 4096  # and those that wait for their turn


@attrs.frozen
class Aim:
    """What one dial is for; those who want the same share it.

    Attributes:
      address: where.
      expected: by whom was asked for, too: else one endpoint told wrong for a node, or one wrong node told for an
        endpoint, would fail everybody who asks for the right one meanwhile.
      number: of a dial that nobody shares; 0 of others.
      replaces: `link_id` of the link in whose place it comes.
      is_passing: for one thing, and closed then.
    """

    address: Address
    expected: NodeId | None
    number: int = 0
    replaces: bytes | None = None
    is_passing: bool = False


@attrs.define(eq=False)
class Dial:
    """One dial under way, and everybody who waits for it.

    Attributes:
      link: of the dial; what those who wait get, once it is ``done`` without an ``error``.
      insist: how many want this very connection, and no other link to the same node.
    """

    done: trio.Event = attrs.field(factory=trio.Event)
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    link: QuicLink | None = None
    error: MeshError | None = None
    insist: int = 0

    @property
    def is_introduced(self) -> bool:
        """Whether its CONNECT has left, for a link that is like others."""
        return self.link is not None and self.link.is_introduced and not self.link.is_passing

    async def wait(self) -> QuicLink:
        """The link.

        Raises:
          MeshError: why there is none; a fresh one for everybody, because a raised exception collects a traceback.
        """
        await self.done.wait()
        if self.error is None:
            assert self.link is not None
            return self.link
        raise afresh(self.error) from self.error

    def give_up(self) -> None:
        """Nobody wants its link, whether it is there already or would be a moment later."""
        self.scope.cancel()
        if self.link is not None:
            self.link.close(ErrorCode.NORMAL, "nobody waits for it any more")


@attrs.define(eq=False)
class DialCounters:
    """Only ever grows.

    Attributes:
      failed: nobody answered, or one side refused the other.
      avoided: not made, because its endpoint is known to be down.
    """

    failed: int = 0
    avoided: int = 0


class Dialer:
    """Makes links.

    Args:
      context: shared by the links of a node.
      background: owns the dials.
      deadline_s: for a connection and both proofs.
      random_fraction: chance in [0, 1), for the pauses behind failures.
      ended: called with the node that was dialed for, when a dial has ended.
      over: gives the `link_id` of the last link to a node that has ended here, None when there was none.
    """

    def __init__(
        self,
        context: LinkContext,
        *,
        background: Background,
        deadline_s: float,
        random_fraction: Callable[[], float],
        ended: Callable[[NodeId], None],
        over: Callable[[NodeId], bytes | None],
    ) -> None:
        self._context = context
        self._background = background
        self._deadline_s = deadline_s
        self._random_fraction = random_fraction
        self._ended = ended
        self._over = over
        self._dials: dict[Aim, Dial] = {}
        self._of_node: dict[NodeId, dict[Dial, None]] = {}
        self._limiter = trio.CapacityLimiter(DIALS_MAX)
        # With whom was asked for when somebody did answer: who names a wrong node for an endpoint, or a wrong endpoint
        # for a node, must not keep anybody from the right one.
        self._down = Backoff[tuple[Address, NodeId | None], MeshError]()
        self.endpoint: QuicEndpoint | None = None
        self.counters = DialCounters()

    async def dial(self, aim: Aim, *, trusted: bool = False, insists: bool = True) -> QuicLink:
        """Dial, or share a dial that is under way.

        Args:
          aim: where, and for whom.
          trusted: our own configuration names it, so that it may be tried as often as we like.
          insists: on this very connection; else another link to the same node, which comes first, does as well.

        Raises:
          PeerUnavailable: nobody answers there, or nobody did a moment ago.
          TrustError: somebody else than expected answered, or one side refuses the other.
        """
        dial = self._dials.get(aim) or self._begin(aim, trusted=trusted)
        dial.insist += insists
        is_taken = False
        try:
            link = await dial.wait()
            is_taken = True
        finally:
            dial.insist -= insists
            if aim.number and not is_taken:
                dial.give_up()  # nobody else waits for it, and nobody would close its link
        return link

    def _begin(self, aim: Aim, *, trusted: bool) -> Dial:
        where = format_endpoint(aim.address)
        if len(self._dials) >= DIALS_WAITING_MAX:
            raise NotSent(f"{DIALS_WAITING_MAX} dials are waiting already; {where} is one too many")
        if not trusted:
            self._require_not_down(aim)
        dial = Dial()
        # A task of the node, not of the caller: others may wait for the same dial, and must not lose it
        # because the first who wanted it was cancelled.
        if not self._background.start_soon(self._run, dial, aim, name=f"dial {where}"):
            raise NotSent("the node is closing")
        self._dials[aim] = dial
        if aim.expected is not None:
            self._of_node.setdefault(aim.expected, {})[dial] = None
        return dial

    def _require_not_down(self, aim: Aim) -> None:
        now = trio.current_time()
        for key in ((aim.address, None), (aim.address, aim.expected)):
            left_s, reason = self._down.left_s(key, now), self._down.reason(key)
            if left_s and reason is not None:
                self.counters.avoided += 1
                raise afresh(reason, more=f"; not dialed again for {left_s:.1f} s")

    # -- what is known ------------------------------------------------------------------------------------------------

    def is_dialing(self, node_id: NodeId) -> bool:
        """Whether a dial for this node is under way."""
        return node_id in self._of_node

    def introduced_to(self, node_id: NodeId) -> Dial | None:
        """A dial for this node whose CONNECT has left, so that the peer may use the link already.

        None for one thing alone: whoever dials that closes it.
        """
        return next((dial for dial in self._of_node.get(node_id, ()) if dial.is_introduced), None)

    def introduced_links(self, node_id: NodeId) -> list[QuicLink]:
        """The links of all such dials."""
        return [dial.link for dial in self._of_node.get(node_id, ()) if dial.link is not None and dial.is_introduced]

    def supersede(self, node_id: NodeId, link: QuicLink) -> None:
        """A node has dialed us: what we dial for it, and has not said anything there, is not needed."""
        for aim, dial in list(self._dials.items()):
            is_idle = dial.link is None or not dial.link.is_introduced
            if aim.expected == node_id and not aim.number and not dial.insist and is_idle and not dial.done.is_set():
                vain, dial.link = dial.link, link
                dial.done.set()
                dial.scope.cancel()
                if vain is not None:
                    vain.close(ErrorCode.NORMAL, "the peer was quicker")

    def down_for_s(self, address: Address, expected: NodeId | None) -> float:
        """For how long an endpoint is taken to be down yet."""
        now = trio.current_time()
        return max(self._down.left_s((address, None), now), self._down.left_s((address, expected), now))

    def note_down(self, address: Address, reason: MeshError, *, expected: NodeId | None = None) -> None:
        """An endpoint does not answer; with ``expected``, it is not that node's."""
        self._down.failed((address, expected), trio.current_time(), self._random_fraction(), reason)

    def note_up(self, address: Address, node_id: NodeId) -> None:
        """A node has proven itself there."""
        self._down.succeeded((address, None))
        self._down.succeeded((address, node_id))

    # -- one dial -----------------------------------------------------------------------------------------------------

    async def _run(self, dial: Dial, aim: Aim) -> None:
        failure: MeshError | None = NotSent(f"{format_endpoint(aim.address)}: the node is closing")
        try:
            with dial.scope:
                async with self._limiter:
                    failure = await self._attempt(dial, aim)
        finally:
            del self._dials[aim]
            if aim.expected is not None:
                of_node = self._of_node[aim.expected]
                del of_node[dial]
                if not of_node:
                    del self._of_node[aim.expected]
            if not dial.done.is_set():
                dial.error = failure
                dial.done.set()
            if aim.expected is not None:
                self._ended(aim.expected)

    async def _attempt(self, dial: Dial, aim: Aim) -> MeshError | None:
        assert self.endpoint is not None
        where, party = format_endpoint(aim.address), self._context.party
        obstacle = self.endpoint.obstacle(aim.address[0])
        if obstacle is not None:  # the fault is ours, so it does not count as one of the endpoint's failures
            return NotSent(f"{where} cannot be reached: {obstacle}")
        try:
            check = party.judge.server_check(where)
        except TrustError as exc:
            return exc

        over = None if aim.replaces or aim.expected is None or aim.is_passing else self._over(aim.expected)

        def make_link(connection: Connection) -> QuicLink:
            dial.link = QuicLink(
                self._context,
                connection,
                expected=aim.expected,
                replaces=aim.replaces or over,
                is_passing=aim.is_passing,
                is_afresh=over is not None,
            )
            return dial.link

        self.endpoint.dial(aim.address, make_link, check=check)
        link = dial.link
        assert link is not None
        is_live = False
        try:
            with trio.move_on_after(self._deadline_s) as scope:
                await link.wait_live()
                is_live = True
            if scope.cancelled_caught:
                self.counters.failed += 1
                silence = no_answer(where, self._deadline_s)
                self.note_down(aim.address, silence)
                return silence
        except MeshError as exc:
            if dial.done.is_set():
                return None  # it was superseded, and has not failed
            self.counters.failed += 1
            self.note_down(aim.address, exc, expected=aim.expected if isinstance(exc, TrustError) else None)
            return exc
        finally:
            if not is_live:
                link.close(ErrorCode.HANDSHAKE_TIMEOUT, "gave up waiting")
        return None


def address_of(endpoint: str) -> Address:
    """The numeric address of an endpoint.

    Raises:
      PeerUnavailable: it is none.
    """
    try:
        return numeric_endpoint(endpoint)
    except ValueError as exc:
        raise PeerUnavailable(str(exc)) from None

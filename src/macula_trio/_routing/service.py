"""Takes envelopes off the links: those for us are opened, the others go on towards their destination.

A call that is forwarded is a task with the caller's deadline, which waits for the answer at the next node: it is
cancelled when the caller cancels or vanishes, and cancels the next one.  A message is handed on once.  Leaves forward
nothing.  Nobody is answered when a message cannot be forwarded: v0.8 has no frame for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol, TypeAlias

import attrs
import trio

from macula_trio._background import Background
from macula_trio._events import EventBus
from macula_trio._ids import Contact, NodeId
from macula_trio._routing.routes import Carried, first_hops, next_hops, onward, payload_size
from macula_trio._rpc.calls import CallKey, granted_s
from macula_trio._rpc.errors_map import was_not_started
from macula_trio._rpc.incoming import Incoming, cancel_key, payer_of
from macula_trio._rpc.replies import error_reply
from macula_trio._util import clip
from macula_trio._wire import messages as wire
from macula_trio._wire.envelope import HOPS_MAX, refusal_of
from macula_trio.abc import Link, LinkTransport, MessageHandler
from macula_trio.errors import LocalProtocolError, NotSent, PeerUnavailable, RemoteProtocolError, TrustError

FORWARDED_MAX: Final = 256  # envelopes on their way through us at once
FORWARDED_PER_PEER_MAX: Final = 64  # of them, those that one peer has brought
FORWARDED_BYTES_MAX: Final = 16 * 1024 * 1024  # of all of them
HOPS_TRIED_MAX: Final = 3  # nodes that one envelope is offered to, one after the other
HOP_SHARE_S: Final = 1.5  # for reaching one of them
MESSAGE_DEADLINE_S: Final = 5.0  # for handing a message on, as in v0.8


Way: TypeAlias = Contact | Link
"""A node to dial, or a link to use as long as it lives."""


class Judge(Protocol):
    """What is asked of the trust policy."""

    def judge_named(self, node_id: NodeId) -> None:
        """Refuse a node that is blocked here.

        Raises:
          TrustError: it is.
        """
        ...


@attrs.frozen(kw_only=True)
class RoutingSettings:
    """From `NodeConfig`: times in seconds.

    Attributes:
      leaf: forward nothing.
      stray_replies: forward answers that were not asked for here, as a v0.8 node may send them.
    """

    timeout_default_s: float
    timeout_max_s: float
    leaf: bool
    stray_replies: bool


class Router:
    """Receives, forwards and sends envelopes; the `macula_trio._routing.routes.Carrier` of a node.

    Args:
      own: our id.
      transport: where links come from.
      closest: the nodes that we know, those closest to an id first.
      background: takes what is being forwarded.
      judge: whose envelopes, and for whom, go nowhere.
      events: where refusals are told.
      settings: times and bounds.
      take_call: opens an RPC_ROUTE with a call to us.
      take_cancel: takes a CANCEL of a call that was to us.
      take_message: opens a PUBSUB_ROUTE to us.
    """

    def __init__(
        self,
        *,
        own: NodeId,
        transport: LinkTransport,
        closest: Callable[[NodeId], Iterable[Contact]],
        background: Background,
        judge: Judge,
        events: EventBus,
        settings: RoutingSettings,
        take_call: Callable[[Incoming], None],
        take_cancel: MessageHandler[wire.Cancel],
        take_message: MessageHandler[wire.PubsubRoute],
    ) -> None:
        self._own = own
        self._transport = transport
        self._closest = closest
        self._judge = judge
        self._events = events
        self._settings = settings
        self._take_call = take_call
        self._take_cancel = take_cancel
        self._take_message = take_message
        self._background = background
        self._scopes: dict[CallKey, trio.CancelScope] = {}
        self._asked: set[tuple[bytes, bytes]] = set()  # source and id of calls on their way, ours included
        self._under_way: Counter[object] = Counter()  # envelopes, by who brought them
        self._bytes_under_way = 0
        self.refused: int = 0
        self.forwarded: int = 0
        transport.handle(wire.RpcRoute, self._on_rpc)
        transport.handle(wire.PubsubRoute, self._on_message)
        transport.handle(wire.Cancel, self._on_cancel)

    # -- what comes in ----------------------------------------------------------------------------------------------

    def _on_rpc(self, link: Link, route: wire.RpcRoute) -> None:
        """A call, or an answer that nobody here waits for on this link."""
        refusal: str | None = refusal_of(route, self._own)
        if isinstance(route.payload, wire.Reply):
            if refusal == "not_for_us" and self._settings.stray_replies:
                self._note_refused(route, self._start(link, route))
            else:
                self._note_refused(route, refusal or "not_asked")
            return
        incoming = Incoming.in_envelope(link, route.payload, route.source_node_id, own=self._own)
        if refusal is None:
            self._take_call(incoming)
            return
        if refusal == "not_for_us":
            refusal = self._start_call(link, route, incoming.key)
        self._note_refused(route, refusal)
        if refusal is not None:  # the caller may know another way
            text = f"{route.hop_count} hops" if refusal == "max_hops_exceeded" else "cannot be forwarded from here"
            incoming.answer(error_reply(incoming.call.call_id, refusal, text))

    def _on_message(self, link: Link, route: wire.PubsubRoute) -> None:
        refusal = refusal_of(route, self._own)
        if refusal is None:
            self._take_message(link, route)
        elif refusal == "not_for_us":
            self._note_refused(route, self._start(link, route))
        else:
            self._note_refused(route, refusal)

    def _on_cancel(self, link: Link, cancel: wire.Cancel) -> None:
        scope = self._scopes.get(cancel_key(link, cancel))
        if scope is not None:
            scope.cancel()
        self._take_cancel(link, cancel)

    def _note_refused(self, route: wire.RpcRoute | wire.PubsubRoute, reason: str | None) -> None:
        if reason is None:
            return
        self.refused += 1
        if isinstance(route, wire.PubsubRoute):
            self._events.emit("pubsub.refused", topic=clip(route.topic), reason=reason, hop_count=route.hop_count)
        else:
            self._events.emit(
                "rpc.route_refused", reason=reason, payload_type=route.payload_type, hop_count=route.hop_count
            )

    # -- forwarding ---------------------------------------------------------------------------------------------------

    def _ways(self, link: Link, route: wire.RpcRoute | wire.PubsubRoute) -> list[Way]:
        """The nodes that an envelope of another may go on to, the best first; none when it should not."""
        source, destination = NodeId(route.source_node_id), NodeId(route.destination_node_id)
        if self._settings.leaf or source == self._own:
            return []  # what says that it is ours has gone in a circle, or lies
        try:
            self._judge.judge_named(source)
            self._judge.judge_named(destination)
        except TrustError:
            return []
        without = (link.node_id, source)
        ways: list[Way] = [*next_hops(destination, self._closest(destination), own=self._own, without=without)]
        live = self._transport.live_link(destination)
        if live is not None and destination not in without:
            ways.insert(0, live)  # a leaf is in no table; and where it says that it is, nobody has verified
        return ways[:HOPS_TRIED_MAX]

    def _may_begin(self, payer: object, route: wire.RpcRoute | wire.PubsubRoute) -> bool:
        return (
            self._under_way.total() < FORWARDED_MAX
            and self._under_way[payer] < FORWARDED_PER_PEER_MAX
            and self._bytes_under_way + payload_size(route) <= FORWARDED_BYTES_MAX
        )

    def _began(self, payer: object, route: wire.RpcRoute | wire.PubsubRoute) -> None:
        self._under_way[payer] += 1
        self._bytes_under_way += payload_size(route)

    def _ended(self, payer: object, route: wire.RpcRoute | wire.PubsubRoute) -> None:
        self._bytes_under_way -= payload_size(route)
        self._under_way[payer] -= 1
        if not self._under_way[payer]:
            del self._under_way[payer]

    def _start(self, link: Link, route: wire.RpcRoute | wire.PubsubRoute) -> str | None:
        """Begin to hand on what nobody waits for an answer to; gives why not."""
        ways = self._ways(link, route)
        payer = payer_of(link)
        if not ways:
            return "no_route"
        if not self._may_begin(payer, route):
            return "busy"
        if not self._background.start_soon(self._forward, payer, route, ways, name="forward"):
            return "draining"
        self._began(payer, route)
        return None

    async def _forward(self, payer: object, route: wire.RpcRoute | wire.PubsubRoute, ways: Sequence[Way]) -> None:
        try:
            with trio.move_on_after(MESSAGE_DEADLINE_S):
                if await self._hand_on(onward(route), ways):
                    self.forwarded += 1
                    return
            self._note_refused(route, "no_route")
        finally:
            self._ended(payer, route)

    async def _hand_on(self, route: wire.RpcRoute | wire.PubsubRoute, ways: Sequence[Way]) -> bool:
        """Put an envelope on the link to the first node that can be reached."""
        for way in ways:
            link = await self._reach(way)
            if link is None:
                continue
            try:
                await link.wait_writable()
                link.send_nowait(route)
            except (NotSent, LocalProtocolError):  # the latter: it is larger as we write it
                continue
            return True
        return False

    def _start_call(self, link: Link, route: wire.RpcRoute, key: CallKey) -> str | None:
        """Begin to forward a call; gives why not."""
        ways = self._ways(link, route)
        payer = key[0]
        if not ways:
            return "no_route"
        if not self._may_begin(payer, route) or _call_of(route) in self._asked:
            return "busy"  # the same call twice: its answers could not be told apart
        if not self._background.start_soon(self._forward_call, link, route, key, ways, name="forward a call"):
            return "draining"
        self._asked.add(_call_of(route))
        self._began(payer, route)
        return None

    async def _forward_call(self, link: Link, route: wire.RpcRoute, key: CallKey, ways: Sequence[Way]) -> None:
        assert isinstance(route.payload, wire.Call)
        settings = self._settings
        granted = granted_s(
            route.payload.timeout, default_s=settings.timeout_default_s, ceiling_s=settings.timeout_max_s
        )
        scope = self._scopes[key] = trio.CancelScope(deadline=trio.current_time() + granted)
        gone = scope.cancel  # one object, so that it can be removed again
        link.add_close_callback(gone)
        answer: wire.RpcRoute | None = None
        try:
            with scope:
                found = await self._ask_one(onward(route), ways)
                await link.wait_writable()  # large answers take turns, within the caller's time
                answer = found
        finally:
            link.remove_close_callback(gone)
            del self._scopes[key]
            self._asked.discard(_call_of(route))
            self._ended(key[0], route)
        if answer is None and trio.current_time() >= scope.deadline:
            answer = self._own_answer(route, "timeout", "no answer came in the caller's time")
        if answer is None or link.is_closed:
            return  # whoever waited has given up, or will in a moment
        self.forwarded += 1
        try:
            link.send_nowait(self._back(route, answer))
        except LocalProtocolError as exc:  # larger as we write it
            link.send_nowait(self._own_answer(route, "connection_lost", str(exc)))

    async def _ask_one(self, route: wire.RpcRoute, ways: Sequence[Way]) -> wire.RpcRoute:
        """Ask the first node that can be reached; an answer of our own when there is none, or when it was lost."""
        try:
            answer = await self._ask(route, ways)
        except PeerUnavailable as exc:
            return self._own_answer(route, "connection_lost", str(exc))
        return answer or self._own_answer(route, "no_route", "nobody nearer can be reached")

    def _own_answer(self, route: wire.RpcRoute, code: str, text: str) -> wire.RpcRoute:
        return wire.RpcRoute(
            destination_node_id=route.source_node_id,
            source_node_id=self._own,
            hop_count=0,
            max_hops=HOPS_MAX,
            payload_type="reply",
            payload=error_reply(route.payload.call_id, code, text),
        )

    def _back(self, route: wire.RpcRoute, answer: wire.RpcRoute) -> wire.RpcRoute:
        """The answer as the node before us gets it."""
        if answer.source_node_id == self._own:
            return answer
        if answer.hop_count >= answer.max_hops:
            return self._own_answer(route, "connection_lost", "the answer went through too many nodes")
        return onward(answer)

    async def _ask(self, route: wire.RpcRoute, ways: Sequence[Way]) -> wire.RpcRoute | None:
        """The answer of the first node that could be asked; None when none could.

        Raises:
          PeerUnavailable: it was asked, and its answer can no longer come.
        """
        for way in ways:
            link = await self._reach(way)
            if link is None:
                continue
            answered = False
            try:
                answer = await link.ask(route, wire.RpcRoute)
                answered = True
            except (NotSent, LocalProtocolError):
                answered = True  # it was never asked
                continue
            except RemoteProtocolError as exc:
                raise PeerUnavailable(str(exc)) from exc
            finally:
                if not answered and not link.is_closed:
                    cancel = wire.Cancel(call_id=route.payload.call_id, source_node_id=route.source_node_id)
                    link.send_nowait(cancel)
            return answer
        return None

    async def _reach(self, way: Way) -> Link | None:
        link: Link | None = None
        if not isinstance(way, Contact):
            await trio.lowlevel.checkpoint()
            return None if way.is_closed else way
        try:
            with trio.move_on_after(HOP_SHARE_S):
                link = await self._transport.link_to(way)
        except (PeerUnavailable, TrustError):
            pass  # the next one may do
        return link

    # -- our own ------------------------------------------------------------------------------------------------------

    async def carry_call(self, destination: NodeId, call: wire.Call) -> Carried:
        """See `macula_trio._routing.routes.Carrier`."""
        self._judge.judge_named(destination)
        route = wire.RpcRoute(
            destination_node_id=destination,
            source_node_id=self._own,
            hop_count=0,
            max_hops=HOPS_MAX,
            payload_type="call",
            payload=call,
        )
        answer = self._own_answer(route, "no_route", f"nobody here knows a way to node {destination.short}")
        self._asked.add(_call_of(route))
        try:
            for contact in first_hops(destination, self._closest(destination))[:HOPS_TRIED_MAX]:
                found = await self._ask(route, [contact])
                answer = found or answer
                if found is not None and (found.source_node_id == destination or not _may_try_another(found)):
                    break
        finally:
            self._asked.discard(_call_of(route))
        assert isinstance(answer.payload, wire.Reply)
        return Carried(reply=answer.payload, hops=answer.hop_count + 1)

    async def carry_message(self, route: wire.PubsubRoute) -> bool:
        """See `macula_trio._routing.routes.Carrier`."""
        destination = NodeId(route.destination_node_id)
        self._judge.judge_named(destination)
        return await self._hand_on(route, first_hops(destination, self._closest(destination))[:HOPS_TRIED_MAX])


def _call_of(route: wire.RpcRoute) -> tuple[bytes, bytes]:
    return bytes(route.source_node_id), route.payload.call_id


def _may_try_another(answer: wire.RpcRoute) -> bool:
    """Whether the call that was answered so certainly has not run."""
    assert isinstance(answer.payload, wire.Reply)
    return answer.payload.error is not None and was_not_started(answer.payload.error.code)

"""Publish: straight to every node that wants the topic, one copy each, and what became of each (DESIGN section 10).

Qos 0 for now.  There is no delivery to those who are not there.  Who wants a topic is found out in ``interest.py``.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final, Protocol

import attrs
import trio

from macula_trio._background import Background
from macula_trio._events import EventBus
from macula_trio._ids import Contact, NodeId
from macula_trio._peer.handshake import MSGPACK
from macula_trio._pubsub.credits import Gates, Passage
from macula_trio._pubsub.interest import Interest
from macula_trio._pubsub.outgoing import Outgoing, Passing
from macula_trio._pubsub.topics import validate_topic
from macula_trio._pubsub.wanted import Wanted
from macula_trio._pubsub.window import Turn
from macula_trio._routing.routes import Carrier
from macula_trio._util import validate_headers
from macula_trio._wire import messages as wire
from macula_trio._wire.codec import CONTENT_JSON, CONTENT_MSGPACK
from macula_trio._wire.envelope import HOPS_MAX
from macula_trio.abc import Directory, Link, LinkTransport
from macula_trio.errors import LocalProtocolError, PeerUnavailable, RemoteProtocolError, TrustError

SEQUENCES_MAX: Final = 65_536  # nodes whose count is remembered; for the one not sent to for longest it begins again
FAN_OUT_MAX: Final = 64  # subscribers reached at once; each may need a dial
DIRECT_SHARE_S: Final = 1.5  # of that, where another node may carry the message
TARGET_DEADLINE_S: Final = 5.0  # for reaching one subscriber, as in v0.8, unless the caller's is sooner


class Outcome(enum.StrEnum):
    """What became of a message at one node."""

    DELIVERED = "delivered"  # to subscriptions on this node
    QUEUED = "queued"  # on the link; at most once, nobody confirms (qos 0)
    # A subscription on this node was full: its oldest message made room, or, if it blocks, nobody took one in time.
    # Or one on another node blocks, and nobody there took one in time: the message was not sent.
    DROPPED = "dropped"
    FORWARDED = "forwarded"  # handed to another node to carry; at most once, and nobody confirms
    UNREACHABLE = "unreachable"
    REJECTED = "rejected"  # one side's trust policy refuses the other, or it cannot be encoded for it


def together(one: Outcome | None, other: Outcome | None) -> Outcome | None:
    """What became of a message at a node where several were to get it: the worst, if any was to get it."""
    by_weight = (Outcome.DROPPED, Outcome.DELIVERED, Outcome.QUEUED)
    return next((outcome for outcome in by_weight if outcome in {one, other}), None)


@attrs.frozen(kw_only=True)
class PublishReport:
    """What became of one message.

    Attributes:
      topic: as given to `Node.publish`.
      message_id: 16 bytes.
      outcomes: one for every node that subscribes to the topic, ours included.
    """

    topic: str
    message_id: bytes
    outcomes: Mapping[NodeId, Outcome]

    def having(self, outcome: Outcome) -> list[NodeId]:
        """The nodes with this outcome."""
        return [node_id for node_id, found in self.outcomes.items() if found is outcome]


class Here(Protocol):
    """The subscriptions of the publisher's own node, and its clients."""

    def deliver(self, message: wire.Publish, *, sequence: int) -> Outcome | None:
        """Hand a message to everybody who wants it and does not block; None when nobody does."""
        ...

    def windows(self, topic: str) -> Mapping[bytes, int]:
        """The windows of subscriptions that want a topic and block; messages by id."""
        ...

    def deliver_counted(self, message: wire.Publish, *, sequence: int, marks: Iterable[bytes]) -> Outcome | None:
        """Hand a message to them that is counted in some of those windows."""
        ...


@attrs.define(eq=False)
class _Attempt:
    """One message on its way to one node.

    Attributes:
      scope: of all that is done for it.
      outcome: what becomes of it if time is up now.
    """

    contact: Contact
    message: Outgoing | Passing
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    outcome: Outcome = Outcome.UNREACHABLE

    def begin(self) -> None:
        """Its time begins to run, if it has not yet."""
        self.scope.deadline = min(self.scope.deadline, trio.current_time() + TARGET_DEADLINE_S)


class Publisher:
    """Brings messages to all who want them.

    Attributes:
      carrier: takes messages to subscribers that cannot be reached directly.
      gates: where messages wait for subscriptions that block.
      wanted: told whom something was sent to.

    Args:
      own: our id.
      transport: where links come from.
      directory: who wants what.
      background: takes lookups.
      events: where messages are told.
      random_bytes: for the first half of message ids, once.
      here: the subscriptions of this node.
    """

    def __init__(
        self,
        *,
        own: NodeId,
        transport: LinkTransport,
        directory: Directory,
        background: Background,
        events: EventBus,
        random_bytes: Callable[[int], bytes],
        here: Here,
    ) -> None:
        self._own = own
        self._transport = transport
        self._events = events
        self._here = here
        self.carrier: Carrier | None = None
        self.wanted: Wanted | None = None
        self.gates: Gates = Gates()
        self._interest = Interest(directory=directory, background=background, events=events)
        self._message_prefix = random_bytes(8)
        self._published = self._dropped = 0
        self._sequences: dict[NodeId, int] = {}

    @property
    def dropped(self) -> int:
        """Messages that were not sent to a subscriber, because it blocked and took none in time."""
        return self._dropped

    async def publish(self, topic: str, payload: object, *, headers: Mapping[str, str] | None) -> PublishReport:
        """Send a message to everybody who subscribes to a topic; see `Node.publish`."""
        validate_topic(topic)
        message = Outgoing(topic, payload, self._next_message_id(), validate_headers(headers) if headers else None)
        started = trio.current_time()
        outcomes: dict[NodeId, Outcome] = {}
        encoded, sequence = message.encoded(CONTENT_MSGPACK), self._next_sequence(self._own)
        here = self._here.deliver(encoded, sequence=sequence)
        if here is not None:
            outcomes[self._own] = here
        await self.fan_out(message, outcomes, self._deliver_counted(encoded, outcomes, sequence))
        self._events.emit(
            "pubsub.published",
            topic=topic,
            message_id=message.message_id.hex(),
            targets=[node_id.hex() for node_id in outcomes],
            hops=None if Outcome.FORWARDED in outcomes.values() else 1,  # how many it took, nobody tells
            seconds=round(trio.current_time() - started, 6),
        )
        return PublishReport(topic=topic, message_id=message.message_id, outcomes=outcomes)

    async def fan_out(
        self,
        message: Outgoing | Passing,
        outcomes: dict[NodeId, Outcome],
        also: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Send a message to all other nodes that want it, and note what became of it at each.

        Args:
          message: it.
          outcomes: where that is noted.
          also: what is done meanwhile.
        """
        contacts = [c for c in await self._interest.in_topic(message.topic) if c.node_id != self._own]
        outcomes.update(dict.fromkeys((c.node_id for c in contacts), Outcome.UNREACHABLE))
        limiter = trio.CapacityLimiter(FAN_OUT_MAX)

        async def send(contact: Contact) -> None:
            attempt = _Attempt(contact, message)
            with attempt.scope:
                attempt.outcome = await self._send(attempt, limiter)
            outcomes[contact.node_id] = attempt.outcome
            if attempt.outcome is Outcome.DROPPED:
                self._note_dropped(message, contact.node_id)

        async with trio.open_nursery() as nursery:
            if also is not None:
                nursery.start_soon(also, name=f"publish {message.topic} here")
            for contact in contacts:
                nursery.start_soon(send, contact, name=f"publish {message.topic} to {contact.node_id.short}")

    def _deliver_counted(
        self, message: wire.Publish, outcomes: dict[NodeId, Outcome], sequence: int
    ) -> Callable[[], Awaitable[None]] | None:
        """Hand a message to the subscriptions here that block; gives what is to be awaited if they are full."""
        needs = self._here.windows(message.topic)
        if not needs:
            return None

        def deliver(passage: Passage) -> None:
            marks = passage.marks()
            passage.sent()
            note(self._here.deliver_counted(message, sequence=sequence, marks=marks))

        def note(outcome: Outcome | None) -> None:
            outcome = together(outcomes.get(self._own), outcome)
            if outcome is not None:
                outcomes[self._own] = outcome

        async def wait() -> None:
            with trio.move_on_after(TARGET_DEADLINE_S) as scope:
                with self.gates.passage(self.gates.here, needs, may_wait=True, scope=scope) as passage:
                    await passage.wait(None)
                    if passage.turn is Turn.ADMITTED:
                        deliver(passage)
                        return
            note(Outcome.DROPPED)
            self._note_dropped(message, self._own)

        with self.gates.passage(self.gates.here, needs, may_wait=False, scope=trio.CancelScope()) as passage:
            if passage.turn is Turn.ADMITTED:
                deliver(passage)
                return None
        return wait

    def _note_dropped(self, message: Outgoing | Passing | wire.Publish, subscriber: NodeId) -> None:
        self._dropped += 1
        self._events.emit(
            "pubsub.dropped",
            topic=message.topic,
            message_id=message.message_id.hex(),
            subscriber=subscriber.hex(),
        )

    async def _send(self, attempt: _Attempt, limiter: trio.CapacityLimiter) -> Outcome:
        """Bring a message to one node: straight, or over others if it takes that."""
        topic, node_id = attempt.message.topic, attempt.contact.node_id
        may_go_round = self.carrier is not None and self._interest.takes_routed(topic, node_id)
        try:
            if not await self._send_straight(attempt, limiter, DIRECT_SHARE_S if may_go_round else math.inf):
                return Outcome.DROPPED
            if self.wanted is not None:
                self.wanted.keep(attempt.contact)
            return Outcome.QUEUED
        except (PeerUnavailable, trio.TooSlowError):
            self._interest.doubt(topic, node_id)
            outcome = Outcome.UNREACHABLE
        except TrustError:
            outcome = Outcome.REJECTED
        except (LocalProtocolError, RemoteProtocolError):
            return Outcome.REJECTED
        if not may_go_round:
            return outcome
        async with limiter:
            return await self._carry(attempt.contact, attempt.message) or outcome

    async def _send_straight(self, attempt: _Attempt, limiter: trio.CapacityLimiter, share_s: float) -> bool:
        """Put a message on the link to its node; False when a subscription there blocks and the message cannot wait.

        Waiting for one subscriber's credit takes no place of ``limiter``: the others are dialed meanwhile.
        """
        contact, message = attempt.contact, attempt.message
        while True:
            async with limiter:
                attempt.begin()
                with trio.fail_after(share_s):
                    link = await self._transport.link_to(contact)
                    await link.wait_writable()
            needs = self._interest.windows(message.topic, contact.node_id) if link.verified else {}
            if not needs:
                link.send_nowait(self._envelope(contact, message, _content_type(link)))
                return True
            gate = self.gates.of(link)
            with self.gates.passage(gate, needs, may_wait=message.may_wait, scope=attempt.scope) as passage:
                if passage.turn is Turn.REFUSED:
                    return False
                if passage.turn is Turn.WAITING:
                    attempt.outcome = Outcome.DROPPED
                    await passage.wait(link)
                    attempt.outcome = Outcome.UNREACHABLE
                    await link.wait_writable()  # all who have waited with us go now
                if passage.turn is Turn.ADMITTED and not link.is_closed:
                    link.send_nowait(self._envelope(contact, message, _content_type(link), passage.marks()))
                    passage.sent()  # not what was too large: it would never be taken
                    return True
            # The link has ended meanwhile.  On another one all begins anew.

    async def _carry(self, contact: Contact, message: Outgoing | Passing) -> Outcome | None:
        """Let other nodes carry a message; None when nobody takes it."""
        assert self.carrier is not None
        try:
            is_on_its_way = await self.carrier.carry_message(self._envelope(contact, message, CONTENT_JSON))
        except (TrustError, LocalProtocolError, RemoteProtocolError):
            return Outcome.REJECTED
        return Outcome.FORWARDED if is_on_its_way else None

    def _envelope(
        self,
        contact: Contact,
        message: Outgoing | Passing,
        content_type: str,
        windows: tuple[bytes, ...] | None = None,
    ) -> wire.PubsubRoute:
        return wire.PubsubRoute(
            destination_node_id=contact.node_id,
            source_node_id=message.source or self._own,
            hop_count=0,
            max_hops=HOPS_MAX,
            topic=message.topic,
            payload=message.encoded(content_type),
            delivery_seq=self._next_sequence(contact.node_id),
            windows=windows,
        )

    async def subscribers(self, topic: str) -> list[Contact]:
        """Who subscribes to a topic, by name or by a pattern, as the DHT says now; see `Node.find_subscribers`."""
        validate_topic(topic)
        return list(await self._interest.ask(topic))

    def _next_message_id(self) -> bytes:
        self._published += 1
        return self._message_prefix + self._published.to_bytes(8, "big")

    def _next_sequence(self, target: NodeId) -> int:
        sequence = self._sequences.pop(target, 0) + 1
        if len(self._sequences) >= SEQUENCES_MAX:  # ids cost nothing, and subscribers may bring ever new ones
            del self._sequences[next(iter(self._sequences))]
        self._sequences[target] = sequence
        return sequence


def _content_type(link: Link) -> str:
    return CONTENT_MSGPACK if MSGPACK in link.capabilities else CONTENT_JSON

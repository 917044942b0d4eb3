"""Publish: straight to every node that wants the topic, one copy each, and what became of each (DESIGN section 10).

Qos 0 for now.  There is no delivery to those who are not there.  Who wants a topic is found out in ``interest.py``.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Mapping
from typing import Final, Protocol

import attrs
import trio

from macula_trio._background import Background
from macula_trio._events import EventBus
from macula_trio._ids import Contact, NodeId
from macula_trio._peer.handshake import MSGPACK
from macula_trio._pubsub.interest import Interest
from macula_trio._pubsub.outgoing import Outgoing, Passing
from macula_trio._pubsub.topics import validate_topic
from macula_trio._routing.routes import Carrier
from macula_trio._util import validate_headers
from macula_trio._wire import messages as wire
from macula_trio._wire.codec import CONTENT_JSON, CONTENT_MSGPACK
from macula_trio._wire.envelope import HOPS_MAX, Origin
from macula_trio.abc import Directory, LinkTransport
from macula_trio.errors import LocalProtocolError, PeerUnavailable, RemoteProtocolError, TrustError

SEQUENCES_MAX: Final = 65_536  # nodes whose count is remembered; for the one not sent to for longest it begins again
FAN_OUT_MAX: Final = 64  # subscribers reached at once; each may need a dial
DIRECT_SHARE_S: Final = 1.5  # of that, where another node may carry the message
TARGET_DEADLINE_S: Final = 5.0  # for reaching one subscriber, as in v0.8, unless the caller's is sooner


class Outcome(enum.StrEnum):
    """What became of a message at one node."""

    DELIVERED = "delivered"  # to subscriptions on this node
    QUEUED = "queued"  # on the link; at most once, nobody confirms (qos 0)
    DROPPED = "dropped"  # a subscription on this node was full: its oldest message made room
    FORWARDED = "forwarded"  # handed to another node to carry; at most once, and nobody confirms
    UNREACHABLE = "unreachable"
    REJECTED = "rejected"  # one side's trust policy refuses the other, or it cannot be encoded for it


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
    """The subscriptions of the publisher's own node."""

    def deliver(self, message: wire.Publish, origin: Origin, *, sequence: int) -> Outcome | None:
        """Hand a message to everybody here who wants its topic; None when nobody does."""
        ...


class Publisher:
    """Brings messages to all who want them.

    Attributes:
      carrier: takes messages to subscribers that cannot be reached directly.

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
        self._interest = Interest(directory=directory, background=background, events=events)
        self._message_prefix = random_bytes(8)
        self._published = 0
        self._sequences: dict[NodeId, int] = {}

    async def publish(self, topic: str, payload: object, *, headers: Mapping[str, str] | None) -> PublishReport:
        """Send a message to everybody who subscribes to a topic; see `Node.publish`."""
        validate_topic(topic)
        message = Outgoing(topic, payload, self._next_message_id(), validate_headers(headers) if headers else None)
        started = trio.current_time()
        outcomes: dict[NodeId, Outcome] = {}
        encoded, sequence = message.encoded(CONTENT_MSGPACK), self._next_sequence(self._own)
        here = self._here.deliver(encoded, Origin(node_id=self._own), sequence=sequence)
        if here is not None:
            outcomes[self._own] = here
        await self.fan_out(message, outcomes)
        self._events.emit(
            "pubsub.published",
            topic=topic,
            message_id=message.message_id.hex(),
            targets=[node_id.hex() for node_id in outcomes],
            hops=None if Outcome.FORWARDED in outcomes.values() else 1,  # how many it took, nobody tells
            seconds=round(trio.current_time() - started, 6),
        )
        return PublishReport(topic=topic, message_id=message.message_id, outcomes=outcomes)

    async def fan_out(self, message: Outgoing | Passing, outcomes: dict[NodeId, Outcome]) -> None:
        """Send a message to all other nodes that want it, and note what became of it at each."""
        contacts = [c for c in await self._interest.in_topic(message.topic) if c.node_id != self._own]
        outcomes.update(dict.fromkeys((c.node_id for c in contacts), Outcome.UNREACHABLE))
        limiter = trio.CapacityLimiter(FAN_OUT_MAX)

        async def send(contact: Contact) -> None:
            async with limiter:
                with trio.move_on_after(TARGET_DEADLINE_S):
                    outcomes[contact.node_id] = await self._send(contact, message)

        async with trio.open_nursery() as nursery:
            for contact in contacts:
                nursery.start_soon(send, contact, name=f"publish {message.topic} to {contact.node_id.short}")

    async def _send(self, contact: Contact, message: Outgoing | Passing) -> Outcome:
        """Bring a message to one node: straight, or over others if it takes that."""
        may_go_round = self.carrier is not None and self._interest.takes_routed(message.topic, contact.node_id)
        try:
            with trio.fail_after(DIRECT_SHARE_S if may_go_round else math.inf):
                link = await self._transport.link_to(contact)
                await link.wait_writable()
            content_type = CONTENT_MSGPACK if MSGPACK in link.capabilities else CONTENT_JSON
            link.send_nowait(self._envelope(contact, message, content_type))
            return Outcome.QUEUED
        except (PeerUnavailable, trio.TooSlowError):
            self._interest.doubt(message.topic, contact.node_id)
            outcome = Outcome.UNREACHABLE
        except TrustError:
            outcome = Outcome.REJECTED
        except (LocalProtocolError, RemoteProtocolError):
            return Outcome.REJECTED
        return await self._carry(contact, message) or outcome if may_go_round else outcome

    async def _carry(self, contact: Contact, message: Outgoing | Passing) -> Outcome | None:
        """Let other nodes carry a message; None when nobody takes it."""
        assert self.carrier is not None
        try:
            is_on_its_way = await self.carrier.carry_message(self._envelope(contact, message, CONTENT_JSON))
        except (TrustError, LocalProtocolError, RemoteProtocolError):
            return Outcome.REJECTED
        return Outcome.FORWARDED if is_on_its_way else None

    def _envelope(self, contact: Contact, message: Outgoing | Passing, content_type: str) -> wire.PubsubRoute:
        return wire.PubsubRoute(
            destination_node_id=contact.node_id,
            source_node_id=message.source or self._own,
            hop_count=0,
            max_hops=HOPS_MAX,
            topic=message.topic,
            payload=message.encoded(content_type),
            delivery_seq=self._next_sequence(contact.node_id),
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

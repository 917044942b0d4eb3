"""Publish and subscribe: straight to every node that wants the topic, one copy each (DESIGN section 10).

Qos 0 for now.  There is no delivery to those who are not there, and a report says what became of the message at every
target.  Who wants a topic is found out in ``interest.py``.
"""

from __future__ import annotations

import enum
import logging
import math
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Final, Self

import attrs
import trio

from macula_trio._authorisation import Allowance
from macula_trio._background import Background
from macula_trio._events import EventBus
from macula_trio._ids import Contact, NodeId, hex_or_none
from macula_trio._peer.handshake import MSGPACK
from macula_trio._pubsub.adverts import key_of, metadata_of, place_of, require_room
from macula_trio._pubsub.clients import Clients
from macula_trio._pubsub.index import PatternIndex
from macula_trio._pubsub.interest import Interest
from macula_trio._pubsub.outgoing import NOBODY, Outgoing, Passing, Sameness, sameness_of
from macula_trio._pubsub.topics import is_pattern, is_topic, validate_pattern, validate_topic
from macula_trio._routing.routes import Carrier
from macula_trio._util import clip, validate_headers
from macula_trio._wire import messages as wire
from macula_trio._wire.codec import CONTENT_JSON, CONTENT_MSGPACK, decode_payload
from macula_trio._wire.envelope import HOPS_MAX, Origin, origin_of
from macula_trio.abc import Directory, Link, LinkTransport
from macula_trio.errors import LocalProtocolError, PeerUnavailable, RemoteProtocolError, TrustError

logger = logging.getLogger("macula_trio.pubsub")

SEQUENCES_MAX: Final = 65_536  # nodes whose count is remembered; for the one not sent to for longest it begins again
FAN_OUT_MAX: Final = 64  # subscribers reached at once; each may need a dial
DIRECT_SHARE_S: Final = 1.5  # of that, where another node may carry the message
FORWARDS_MAX: Final = 64  # messages of clients on their way into the mesh; each may wait for a lookup and for dials
PASSED_S: Final = 10.0  # messages of clients are remembered: twice as long as reaching a subscriber may take
PASSED_MAX: Final = 65_536  # more than a node can receive meanwhile
TARGET_DEADLINE_S: Final = 5.0  # for reaching one subscriber, as in v0.8, unless the caller's is sooner


@attrs.frozen(kw_only=True)
class Message:
    """What a subscriber receives.

    Attributes:
      topic: the topic that it was published under.
      payload: plain JSON-like values, or bytes.
      publisher: the proven id of the node that published it; None when it came through another or is unproven.
      via: the proven id of the node that forwarded it, None when nobody did.
      sequence: counts what this publisher sent to this node, from 1.
      headers: small texts that travelled with it.
    """

    topic: str
    payload: object
    publisher: NodeId | None
    via: NodeId | None
    sequence: int
    headers: Mapping[str, str]


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


@attrs.frozen(kw_only=True)
class SubscriptionStatistics:
    """Counts since the subscription began.

    Attributes:
      received: messages that arrived for it.
      dropped: messages that made room for newer ones, because nobody took them in time.
      waiting: messages that are there to be taken.
    """

    received: int
    dropped: int
    waiting: int


class Subscription:
    """Messages of one topic, or of all that match a pattern, in the order of arrival.

    An async iterator, which ends when the node was drained; made by `Node.subscribe`.

    Attributes:
      topic: the topic or the pattern, as given to `Node.subscribe`.
      number: counts the subscriptions of this node, from 1; tells them apart in events.
    """

    def __init__(self, topic: str, buffer: int, *, number: int) -> None:
        self.topic = topic
        self.number = number
        self._send, self._receive = trio.open_memory_channel[Message](buffer)
        self._received = self._dropped = 0

    async def receive(self) -> Message:
        """Wait for the next message.

        Raises:
          trio.ClosedResourceError: the subscription's block was left; or the node was drained, and everything that
            came before was taken.
        """
        try:
            return await self._receive.receive()
        except trio.EndOfChannel:
            raise trio.ClosedResourceError("the node was drained; no more messages will come") from None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        try:
            return await self._receive.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None

    def statistics(self) -> SubscriptionStatistics:
        """Counts so far."""
        waiting = self._receive.statistics().current_buffer_used
        return SubscriptionStatistics(received=self._received, dropped=self._dropped, waiting=waiting)

    def _deliver(self, message: Message) -> bool:
        """Add a message; False when the oldest was dropped for it."""
        self._received += 1
        try:
            self._send.send_nowait(message)
        except trio.WouldBlock:
            self._receive.receive_nowait()
            self._dropped += 1
            self._send.send_nowait(message)
            return False
        return True

    def _end(self) -> None:
        """No more will come; what is there can still be taken."""
        self._send.close()

    def _close(self) -> None:
        self._send.close()
        self._receive.close()


class PubSubService:
    """Both ends of messages.

    Attributes:
      carrier: takes messages to subscribers that cannot be reached directly.
      clients: who has subscribed on a link, as v0.8 does.

    Args:
      own: our id.
      transport: where links come from.
      directory: who wants what.
      background: takes lookups, and what clients publish.
      events: where messages are told.
      random_bytes: for the first half of message ids, once.
      buffer: messages that wait in one subscription.
      may_publish: who may publish to the subscriptions here, by topic.
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
        buffer: int,
        may_publish: Allowance[str],
    ) -> None:
        self._own = own
        self._transport = transport
        self._directory = directory
        self.carrier: Carrier | None = None
        self._events = events
        self._buffer = buffer
        self._may_publish = may_publish
        self._forbidden = 0
        self._message_prefix = random_bytes(8)
        self._published = self._subscribed = 0
        self._sequences: dict[NodeId, int] = {}
        self._subscriptions = PatternIndex[Subscription]()
        self._open: dict[Subscription, None] = {}
        self._background = background
        self._interest = Interest(directory=directory, background=self._background, events=events)
        self.clients = Clients(
            own=own,
            transport=transport,
            directory=directory,
            background=self._background,
            events=events,
            beside=self._subscriptions.beside,
        )
        self._forwarding = 0
        self._passed: dict[Sameness, float] = {}
        transport.handle(wire.Publish, self._on_publish)

    @property
    def forbidden(self) -> int:
        """Messages that were dropped because of who published them."""
        return self._forbidden

    # -- the subscriber -------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def subscribe(
        self, topic: str, *, buffer: int | None = None, allow_routed: bool = False
    ) -> AsyncGenerator[Subscription, None]:
        """Receive a topic's messages for the length of the block; see `Node.subscribe`."""
        validate_pattern(topic)
        if buffer is not None and buffer < 1:
            raise ValueError(f"buffer: {buffer!r} messages is too few; at least one must fit")
        if is_pattern(topic):
            require_room([*self._subscriptions.beside(topic), *self.clients.beside(topic)], topic)
        self._subscribed += 1
        subscription = Subscription(topic, self._buffer if buffer is None else buffer, number=self._subscribed)
        self._subscriptions.add(topic, subscription)
        self._open[subscription] = None
        try:
            key = key_of(place_of(topic, self._own))
            async with self._directory.advertised(key, "subscriber", metadata_of(topic, allow_routed=allow_routed)):
                yield subscription
        finally:
            self._subscriptions.remove(topic, subscription)
            del self._open[subscription]
            subscription._close()

    def end(self) -> None:
        """The node has left: nothing more comes to any subscription."""
        for subscription in self._open:
            subscription._end()

    def take_route(self, link: Link, route: wire.PubsubRoute) -> None:
        """Open an envelope that is for us."""
        self._receive(route.payload, origin_of(link, route.source_node_id), sequence=route.delivery_seq or 0)

    def _on_publish(self, link: Link, message: wire.Publish) -> None:
        """A bare PUBLISH, as clients of v0.8 send it and `send_message` can: for us, and for the mesh.

        Ours alone goes onwards: what comes in a PUBSUB_ROUTE has been sent to everybody by its publisher.
        """
        origin = origin_of(link)
        if not is_topic(message.topic):
            self.clients.drop(link, message, "no_topic")
        elif self._is_permitted(message, origin):
            passes_on = self._is_new(message)
            self._deliver(message, origin, sequence=0, to_clients=passes_on)
            if passes_on:
                self._forward(link, message, origin)
            else:
                self.clients.drop(link, message, "repeated")

    def _receive(self, message: wire.Publish, origin: Origin, *, sequence: int) -> None:
        """Take a message of somebody else's, if that is allowed; judged by the topic that it is delivered under."""
        if not self._subscriptions.wanting(message.topic) and not self.clients.want(message.topic):
            return  # and the application's rule meets no topic that nobody here has asked for
        if self._is_permitted(message, origin):
            self._deliver(message, origin, sequence=sequence)

    def _is_permitted(self, message: wire.Publish, origin: Origin) -> bool:
        def note_failure(error: Exception) -> None:
            logger.error("may_publish failed for %s, which is a refusal", message.topic, exc_info=error)

        if self._may_publish.permits(origin.node_id, message.topic, failed=note_failure):
            return True
        self._forbidden += 1
        self._events.emit(
            "pubsub.forbidden", topic=message.topic, publisher=hex_or_none(origin.node_id), via=hex_or_none(origin.via)
        )
        return False

    def _deliver(
        self, message: wire.Publish, origin: Origin, *, sequence: int, to_clients: bool = True
    ) -> Outcome | None:
        """Hand a message to every subscription and client that wants its topic, once to each; None without any."""
        sent = self.clients.deliver(message) if to_clients else None
        outcome: Outcome | None = None if sent is None else Outcome.QUEUED if sent else Outcome.DROPPED
        for subscription in self._subscriptions.wanting(message.topic):
            try:
                payload = decode_payload(message.payload, message.content_type)  # each gets a copy of its own
            except RemoteProtocolError as exc:
                self._events.emit("pubsub.bad_payload", topic=message.topic, reason=clip(str(exc)))
                return outcome
            fits = subscription._deliver(
                Message(
                    topic=message.topic,
                    payload=payload,
                    publisher=origin.node_id,
                    via=origin.via,
                    sequence=sequence,
                    headers=MappingProxyType(message.headers or {}),
                )
            )
            self._events.emit(
                "pubsub.delivered",
                topic=message.topic,
                message_id=message.message_id.hex(),
                subscription=subscription.number,
                publisher=hex_or_none(origin.node_id),
                outcome=(Outcome.DELIVERED if fits else Outcome.DROPPED).value,
            )
            outcome = Outcome.DELIVERED if fits and outcome is not Outcome.DROPPED else Outcome.DROPPED
        return outcome

    # -- the publisher --------------------------------------------------------------------------------------------

    async def publish(self, topic: str, payload: object, *, headers: Mapping[str, str] | None) -> PublishReport:
        """Send a message to everybody who subscribes to a topic; see `Node.publish`."""
        validate_topic(topic)
        message = Outgoing(topic, payload, self._next_message_id(), validate_headers(headers) if headers else None)
        started = trio.current_time()
        outcomes: dict[NodeId, Outcome] = {}
        encoded, sequence = message.encoded(CONTENT_MSGPACK), self._next_sequence(self._own)
        here = self._deliver(encoded, Origin(node_id=self._own), sequence=sequence)
        if here is not None:
            outcomes[self._own] = here
        await self._fan_out(message, outcomes)
        self._events.emit(
            "pubsub.published",
            topic=topic,
            message_id=message.message_id.hex(),
            targets=[node_id.hex() for node_id in outcomes],
            hops=None if Outcome.FORWARDED in outcomes.values() else 1,  # how many it took, nobody tells
            seconds=round(trio.current_time() - started, 6),
        )
        return PublishReport(topic=topic, message_id=message.message_id, outcomes=outcomes)

    async def _fan_out(self, message: Outgoing | Passing, outcomes: dict[NodeId, Outcome]) -> None:
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

    def _forward(self, link: Link, message: wire.Publish, origin: Origin) -> None:
        """Send what a client has published to the mesh, behind the scenes."""
        passing = Passing(message, origin.node_id or NOBODY)
        if self._forwarding >= FORWARDS_MAX:
            self.clients.drop(link, message, "busy")
            del self._passed[sameness_of(message)]  # the client may try again
        elif self._background.start_soon(self._forward_one, passing, name=f"publish {message.topic} for a client"):
            self._forwarding += 1

    def _is_new(self, message: wire.Publish) -> bool:
        """Whether a client's message was not here before; remembers it.

        A node of ours that subscribed as a client gets PUBLISHes, too, and takes them for a client's: without this two
        such nodes would send a message back and forth for ever.
        """
        now, same = trio.current_time(), sameness_of(message)
        was_here = self._passed.pop(same, -math.inf) + PASSED_S > now
        self._passed[same] = now
        if len(self._passed) > PASSED_MAX:
            del self._passed[next(iter(self._passed))]
        return not was_here

    async def _forward_one(self, message: Passing) -> None:
        outcomes: dict[NodeId, Outcome] = {}
        try:
            await self._fan_out(message, outcomes)
        finally:
            self._forwarding -= 1
        self._events.emit(
            "pubsub.client_published",
            topic=message.topic,
            message_id=message.message.message_id.hex(),
            targets=[node_id.hex() for node_id in outcomes],
        )

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

"""Publish and subscribe, put together: what comes in reaches the subscriptions and clients here (DESIGN section 10).

What goes out is in ``publisher.py``, what a subscriber holds in ``subscription.py``, and what clients of v0.8 say and
are told in ``clients.py``.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from types import MappingProxyType

from macula_trio._authorisation import Allowance
from macula_trio._background import Background
from macula_trio._events import EventBus
from macula_trio._ids import NodeId, hex_or_none
from macula_trio._pubsub.adverts import key_of, metadata_of, place_of, require_room
from macula_trio._pubsub.clients import Clients
from macula_trio._pubsub.forwarding import Forwarding
from macula_trio._pubsub.index import PatternIndex
from macula_trio._pubsub.publisher import Outcome, Publisher
from macula_trio._pubsub.subscription import Message, Subscription
from macula_trio._pubsub.topics import is_pattern, is_topic, validate_pattern
from macula_trio._util import clip
from macula_trio._wire import messages as wire
from macula_trio._wire.codec import decode_payload
from macula_trio._wire.envelope import Origin, origin_of
from macula_trio.abc import Directory, Link, LinkTransport
from macula_trio.errors import RemoteProtocolError

logger = logging.getLogger("macula_trio.pubsub")


class PubSubService:
    """Both ends of messages.

    Attributes:
      publisher: brings messages to those who want them.
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
        self._directory = directory
        self._events = events
        self._buffer = buffer
        self._may_publish = may_publish
        self._forbidden = self._subscribed = 0
        self._subscriptions = PatternIndex[Subscription]()
        self.publisher = Publisher(
            own=own,
            transport=transport,
            directory=directory,
            background=background,
            events=events,
            random_bytes=random_bytes,
            here=self,
        )
        self.clients = Clients(
            own=own,
            transport=transport,
            directory=directory,
            background=background,
            events=events,
            beside=self._subscriptions.beside,
        )
        self._forwarding = Forwarding(
            publisher=self.publisher, clients=self.clients, background=background, events=events
        )
        transport.handle(wire.Publish, self._on_publish)

    @property
    def forbidden(self) -> int:
        """Messages that were dropped because of who published them."""
        return self._forbidden

    # -- subscriptions ------------------------------------------------------------------------------------------------

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
        try:
            key = key_of(place_of(topic, self._own))
            async with self._directory.advertised(key, "subscriber", metadata_of(topic, allow_routed=allow_routed)):
                yield subscription
        finally:
            self._subscriptions.remove(topic, subscription)
            subscription.close()

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
            passes_on = self._forwarding.is_new(message)
            self.deliver(message, origin, sequence=0, to_clients=passes_on)
            if passes_on:
                self._forwarding.forward(link, message, origin)
            else:
                self.clients.drop(link, message, "repeated")

    def _receive(self, message: wire.Publish, origin: Origin, *, sequence: int) -> None:
        """Take a message of somebody else's, if that is allowed; judged by the topic that it is delivered under."""
        if not self._subscriptions.wanting(message.topic) and not self.clients.want(message.topic):
            return  # and the application's rule meets no topic that nobody here has asked for
        if self._is_permitted(message, origin):
            self.deliver(message, origin, sequence=sequence)

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

    def deliver(
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
            fits = subscription.deliver(
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

"""Publish and subscribe, put together: what comes in reaches the subscriptions and clients here (DESIGN section 10).

What goes out is in ``publisher.py``, what a subscriber holds in ``subscription.py``, and what clients of v0.8 say and
are told in ``clients.py``.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Mapping
from contextlib import asynccontextmanager, contextmanager, nullcontext
from types import MappingProxyType

from macula_trio._authorisation import Allowance
from macula_trio._background import Background
from macula_trio._events import EventBus
from macula_trio._ids import NodeId, hex_or_none
from macula_trio._peer.handshake import PER_MESSAGE
from macula_trio._pubsub.adverts import Place, key_of, metadata_of, place_of, require_room
from macula_trio._pubsub.clients import Clients
from macula_trio._pubsub.credits import Arrival, Receipts
from macula_trio._pubsub.forwarding import Forwarding
from macula_trio._pubsub.index import PatternIndex
from macula_trio._pubsub.publisher import Outcome, Publisher, together
from macula_trio._pubsub.subscription import WHEN_FULL, Inbox, Message, Subscription, WhenFull
from macula_trio._pubsub.topics import is_pattern, is_topic, validate_pattern
from macula_trio._pubsub.window import WINDOWS_PER_MESSAGE_MAX, advert_of
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
        self._subscriptions = PatternIndex[Inbox]()
        self._open: dict[Inbox, None] = {}
        self._windows: dict[Place, Counter[bytes]] = {}  # as advertised there
        self.publisher: Publisher = Publisher(
            own=own,
            transport=transport,
            directory=directory,
            background=background,
            events=events,
            random_bytes=random_bytes,
            here=self,
        )
        self._receipts = Receipts(tell_own=self.publisher.gates.here.credit)
        self.clients: Clients = Clients(
            own=own,
            transport=transport,
            directory=directory,
            background=background,
            events=events,
            beside=self._subscriptions.beside,
            windows_in=lambda place: len(self._windows.get(place, ())),
        )
        self._forwarding = Forwarding(
            publisher=self.publisher, clients=self.clients, background=background, events=events
        )
        transport.handle(wire.Publish, self._on_publish)
        transport.handle(wire.Credit, self.publisher.gates.take_credit)

    @property
    def forbidden(self) -> int:
        """Messages that were dropped because of who published them."""
        return self._forbidden

    # -- subscriptions ------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def subscribe(
        self,
        topic: str,
        *,
        buffer: int | None = None,
        when_full: WhenFull = "drop_oldest",
        allow_routed: bool = False,
    ) -> AsyncGenerator[Subscription, None]:
        """Receive a topic's messages for the length of the block; see `Node.subscribe`."""
        validate_pattern(topic)
        if buffer is not None and buffer < 1:
            raise ValueError(f"buffer: {buffer!r} messages is too few; at least one must fit")
        if when_full not in WHEN_FULL:
            raise ValueError(f"when_full: {when_full!r} is none of {', '.join(map(repr, WHEN_FULL))}")
        size = self._buffer if buffer is None else buffer
        window = advert_of(topic, size) if when_full == "block" else None
        place = place_of(topic, self._own)
        self._require_room(topic, place, window)
        self._subscribed += 1
        inbox = Inbox(topic, size, number=self._subscribed, when_full=when_full)
        metadata = metadata_of(topic, allow_routed=allow_routed, window=window)
        with self._receiving(inbox, place, window):
            async with self._directory.advertised(key_of(place), "subscriber", metadata):
                yield Subscription(inbox)

    def _require_room(self, topic: str, place: Place, window: bytes | None) -> None:
        there = self._windows.get(place, Counter())
        windows = len(there) + (window is not None and window not in there)
        if is_pattern(topic):
            require_room([*self._subscriptions.beside(topic), *self.clients.beside(topic)], topic, windows=windows)
        elif window is not None:
            require_room([], topic, windows=windows)

    @contextmanager
    def _receiving(self, inbox: Inbox, place: Place, window: bytes | None) -> Generator[None, None, None]:
        """Hand messages to a subscription for the length of the block."""
        with nullcontext() if window is None else self._windowed(inbox, place, window):
            self._subscriptions.add(inbox.pattern, inbox)
            self._open[inbox] = None
            try:
                yield
            finally:
                self._subscriptions.remove(inbox.pattern, inbox)
                del self._open[inbox]
                inbox.close()

    @contextmanager
    def _windowed(self, inbox: Inbox, place: Place, window: bytes) -> Generator[None, None, None]:
        """Have a window for the length of the block."""
        self._windows.setdefault(place, Counter())[window] += 1
        try:
            with self._receipts.advertised(inbox.pattern, inbox.window):
                yield
        finally:
            self._windows[place] -= Counter([window])
            if not self._windows[place]:
                del self._windows[place]

    def windows(self, topic: str) -> dict[bytes, int]:
        """The windows of the subscriptions here that want a topic and block: messages by id."""
        windows: dict[bytes, int] = {}
        for inbox in self._subscriptions.wanting(topic):
            if inbox.blocks and (inbox.window_id in windows or len(windows) < WINDOWS_PER_MESSAGE_MAX):
                windows[inbox.window_id] = min(inbox.window, windows.get(inbox.window_id, inbox.window))
        return windows

    # -- what comes in ------------------------------------------------------------------------------------------------

    def end(self) -> None:
        """The node has left: nothing more comes to any subscription."""
        for inbox in self._open:
            inbox.end()

    def take_route(self, link: Link, route: wire.PubsubRoute) -> None:
        """Open an envelope that is for us."""
        origin = origin_of(link, route.source_node_id)
        # Whoever forwards has counted nothing, v0.8 takes no credit, and some keep no link on which it could come.
        is_counted = origin.node_id is not None and PER_MESSAGE not in link.capabilities
        arrivals = self._receipts.of_link(link, route.windows or ()) if is_counted else {}
        self._receive(route.payload, origin, sequence=route.delivery_seq or 0, arrivals=arrivals)
        for arrival in arrivals.values():
            arrival.release()

    def _on_publish(self, link: Link, message: wire.Publish) -> None:
        """A bare PUBLISH, as clients of v0.8 send it and `send_message` can: for us, and for the mesh.

        Ours alone goes onwards: what comes in a PUBSUB_ROUTE has been sent to everybody by its publisher.
        """
        origin = origin_of(link)
        if not is_topic(message.topic):
            self.clients.drop(link, message, "no_topic")
        elif self._is_permitted(message, origin):
            passes_on = self._forwarding.is_new(message)
            self._deliver(message, origin, sequence=0, to_clients=passes_on)
            if passes_on:
                self._forwarding.forward(link, message, origin)
            else:
                self.clients.drop(link, message, "repeated")

    def _receive(
        self, message: wire.Publish, origin: Origin, *, sequence: int, arrivals: Mapping[bytes, Arrival]
    ) -> None:
        """Take a message of somebody else's, if that is allowed; judged by the topic that it is delivered under."""
        if not self._subscriptions.wanting(message.topic) and not self.clients.want(message.topic):
            return  # and the application's rule meets no topic that nobody here has asked for
        if self._is_permitted(message, origin):
            self._deliver(message, origin, sequence=sequence, arrivals=arrivals)

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
        self,
        message: wire.Publish,
        origin: Origin,
        *,
        sequence: int,
        to_clients: bool = True,
        arrivals: Mapping[bytes, Arrival] = MappingProxyType({}),
    ) -> Outcome | None:
        """Hand a message to every subscription and client that wants its topic, once to each; None without any."""
        outcome = self._deliver_to_clients(message) if to_clients else None
        inboxes = self._subscriptions.wanting(message.topic)
        return together(outcome, self._hand(message, origin, inboxes, sequence=sequence, arrivals=arrivals))

    def deliver(self, message: wire.Publish, *, sequence: int) -> Outcome | None:
        """Hand a message of our own to the clients and subscriptions here that do not block; None without any."""
        origin = Origin(node_id=self._own)
        inboxes = [each for each in self._subscriptions.wanting(message.topic) if not each.blocks]
        outcome = self._deliver_to_clients(message)
        return together(outcome, self._hand(message, origin, inboxes, sequence=sequence, arrivals={}))

    def deliver_counted(self, message: wire.Publish, *, sequence: int, marks: Iterable[bytes]) -> Outcome | None:
        """The same to those that do, counted in windows of theirs."""
        origin = Origin(node_id=self._own)
        inboxes = [each for each in self._subscriptions.wanting(message.topic) if each.blocks]
        arrivals = self._receipts.of_own(marks)
        outcome = self._hand(message, origin, inboxes, sequence=sequence, arrivals=arrivals)
        for arrival in arrivals.values():
            arrival.release()
        return outcome

    def _deliver_to_clients(self, message: wire.Publish) -> Outcome | None:
        sent = self.clients.deliver(message)
        return None if sent is None else Outcome.QUEUED if sent else Outcome.DROPPED

    def _hand(
        self,
        message: wire.Publish,
        origin: Origin,
        inboxes: Iterable[Inbox],
        *,
        sequence: int,
        arrivals: Mapping[bytes, Arrival],
    ) -> Outcome | None:
        outcome: Outcome | None = None
        for inbox in inboxes:
            try:
                payload = decode_payload(message.payload, message.content_type)  # each gets a copy of its own
            except RemoteProtocolError as exc:
                self._events.emit("pubsub.bad_payload", topic=message.topic, reason=clip(str(exc)))
                return outcome
            fits = inbox.deliver(
                Message(
                    topic=message.topic,
                    payload=payload,
                    publisher=origin.node_id,
                    via=origin.via,
                    sequence=sequence,
                    headers=MappingProxyType(message.headers or {}),
                ),
                arrival=arrivals.get(inbox.window_id),
            )
            here = Outcome.DELIVERED if fits else Outcome.DROPPED
            self._events.emit(
                "pubsub.delivered",
                topic=message.topic,
                message_id=message.message_id.hex(),
                subscription=inbox.number,
                publisher=hex_or_none(origin.node_id),
                outcome=here.value,
            )
            outcome = together(outcome, here)
        return outcome

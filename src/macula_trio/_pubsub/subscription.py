"""What a subscriber holds in its hand: messages that wait, and counts (DESIGN section 10)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from typing import Final, Literal, Self, TypeAlias, get_args

import attrs
import trio

from macula_trio._ids import NodeId
from macula_trio._pubsub.credits import Arrival
from macula_trio._pubsub.window import WINDOW_MAX

WhenFull: TypeAlias = Literal["drop_oldest", "block"]
"""What happens to messages when nobody takes them."""

WHEN_FULL: Final[tuple[WhenFull, ...]] = get_args(WhenFull)
# Of one that blocks: a publisher has a buffer of its own on every link, and what came on its last one may be waiting
# still; more of them than fill this many buffers are not held back in time, and what is too much is dropped.
LINKS_FULL_MAX: Final = 2
PUBLISHERS_FULL_MAX: Final = 8


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


@attrs.frozen(kw_only=True)
class SubscriptionStatistics:
    """Counts since the subscription began.

    Attributes:
      received: messages that arrived for it.
      dropped: of those, how many nobody took in time: they made room for newer ones, or found none.
      waiting: messages that are there to be taken.
    """

    received: int
    dropped: int
    waiting: int


@attrs.frozen
class _Waiting:
    """A message that nobody has taken yet.

    Attributes:
      message: it.
      payer: the publisher that it is counted for; None for all that cannot be slowed down.
      arrival: it in the window of its publisher.
    """

    message: Message
    payer: NodeId | None = None
    arrival: Arrival | None = None


class Subscription:
    """Messages of one topic, or of all that match a pattern, in the order of arrival.

    An async iterator; made by `Node.subscribe`.

    Attributes:
      topic: the topic or the pattern, as given to `Node.subscribe`.
      number: counts the subscriptions of this node, from 1; tells them apart in events.
      when_full: what happens to messages when nobody takes them.
      buffer: messages that may wait; of one publisher if it blocks.
    """

    def __init__(self, topic: str, buffer: int, *, number: int, when_full: WhenFull = "drop_oldest") -> None:
        self.topic = topic
        self.number = number
        self.when_full: WhenFull = when_full
        self.buffer = buffer
        capacity = PUBLISHERS_FULL_MAX * buffer if self.blocks else buffer
        self._send, self._receive = trio.open_memory_channel[_Waiting](capacity)
        self._received = self._dropped = 0
        self._unread: Counter[NodeId | None] = Counter()  # of one that blocks, by payer

    @property
    def blocks(self) -> bool:
        """Whether its publishers wait while it is full."""
        return self.when_full == "block"

    @property
    def window(self) -> int:
        """Messages that each publisher may have waiting here, if it blocks."""
        return min(self.buffer, WINDOW_MAX)

    async def receive(self) -> Message:
        """Wait for the next message.

        Raises:
          trio.ClosedResourceError: the subscription's block was left.
        """
        waiting = await self._receive.receive()
        self._let_go(waiting)
        return waiting.message

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        return await self.receive()

    def statistics(self) -> SubscriptionStatistics:
        """Counts so far."""
        waiting = self._receive.statistics().current_buffer_used
        return SubscriptionStatistics(received=self._received, dropped=self._dropped, waiting=waiting)

    def deliver(self, message: Message, *, arrival: Arrival | None = None) -> bool:
        """Add a message; False when one was dropped: of one that blocks this one, else the oldest.

        Args:
          message: it.
          arrival: it in the window of this subscription, if its publisher has counted it there.
        """
        self._received += 1
        kept = self._add(message, arrival) if self.blocks else self._push(message)
        self._dropped += not kept
        return kept

    def _push(self, message: Message) -> bool:
        try:
            self._send.send_nowait(_Waiting(message))
        except trio.WouldBlock:
            self._receive.receive_nowait()
            self._send.send_nowait(_Waiting(message))
            return False
        return True

    def _add(self, message: Message, arrival: Arrival | None) -> bool:
        payer = None if arrival is None else message.publisher
        if self._unread[payer] >= self.buffer * (1 if payer is None else LINKS_FULL_MAX):
            return False
        try:
            self._send.send_nowait(_Waiting(message, payer, arrival))
        except trio.WouldBlock:
            return False
        self._unread[payer] += 1
        if arrival is not None:
            arrival.hold()
        return True

    def _let_go(self, waiting: _Waiting) -> None:
        if not self.blocks:
            return
        self._unread[waiting.payer] -= 1
        if not self._unread[waiting.payer]:
            del self._unread[waiting.payer]
        if waiting.arrival is not None:
            waiting.arrival.release()

    def close(self) -> None:
        """End it; what waits is lost, and nobody waits for it."""
        with suppress(trio.WouldBlock):
            while True:
                self._let_go(self._receive.receive_nowait())
        self._send.close()
        self._receive.close()

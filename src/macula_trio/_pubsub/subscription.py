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
from macula_trio._pubsub.window import WINDOW_MAX, window_id

WhenFull: TypeAlias = Literal["drop_oldest", "block"]
"""What happens to messages when nobody takes them."""

WHEN_FULL: Final[tuple[WhenFull, ...]] = get_args(WhenFull)
# Of one that blocks: a publisher has a buffer of its own on every link, and what came on its last one may be waiting
# still; more of them than fill this many buffers are not held back in time, and what is too much is dropped.
LINKS_FULL_MAX: Final = 4
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


class Inbox:
    """Where the messages of one subscription wait.

    Attributes:
      pattern: what it wants.
      number: counts the subscriptions of this node, from 1.
      blocks: whether its publishers wait while it is full.
      window_id: of its pattern.
      unread: of one that blocks, messages that wait, by whom they are counted for.

    Args:
      pattern: or a topic.
      size: messages that may wait; of one publisher if it blocks.
      number: of the subscription.
      when_full: what happens to messages when nobody takes them.
    """

    def __init__(self, pattern: str, size: int, *, number: int, when_full: WhenFull) -> None:
        self.pattern = pattern
        self.number = number
        self.blocks: bool = when_full == "block"
        self.window_id: bytes = window_id(pattern)
        self.unread: Counter[NodeId | None] = Counter()
        self._size = size
        self._send, self._receive = trio.open_memory_channel[_Waiting](
            size * (PUBLISHERS_FULL_MAX if self.blocks else 1)
        )
        self._received = self._dropped = 0

    @property
    def window(self) -> int:
        """Messages that each publisher may have waiting here, if it blocks."""
        return min(self._size, WINDOW_MAX)

    @property
    def statistics(self) -> SubscriptionStatistics:
        """Counts so far."""
        waiting = self._receive.statistics().current_buffer_used
        return SubscriptionStatistics(received=self._received, dropped=self._dropped, waiting=waiting)

    def deliver(self, message: Message, *, arrival: Arrival | None = None) -> bool:
        """Add a message; False when one was dropped: this one if it blocks, else the oldest.

        Args:
          message: it.
          arrival: it in the window of this subscription, if its publisher has counted it there.
        """
        self._received += 1
        kept = self._add(message, arrival) if self.blocks else self._push(message)
        self._dropped += not kept
        return kept

    async def take(self) -> Message:
        """Wait for the next message.

        Raises:
          trio.ClosedResourceError: it is closed.
          trio.EndOfChannel: it has ended, and everything that came before was taken.
        """
        waiting = await self._receive.receive()
        self._let_go(waiting)
        return waiting.message

    def end(self) -> None:
        """No more will come; what is there can still be taken."""
        self._send.close()

    def close(self) -> None:
        """End it; what waits is lost, and nobody waits for it."""
        with suppress(trio.WouldBlock, trio.EndOfChannel):
            while True:
                self._let_go(self._receive.receive_nowait())
        self._send.close()
        self._receive.close()

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
        if self.unread[payer] >= self._size * (1 if payer is None else LINKS_FULL_MAX):
            return False
        try:
            self._send.send_nowait(_Waiting(message, payer, arrival))
        except trio.WouldBlock:
            return False
        self.unread[payer] += 1
        if arrival is not None:
            arrival.hold()
        return True

    def _let_go(self, waiting: _Waiting) -> None:
        if not self.blocks:
            return
        self.unread[waiting.payer] -= 1
        if not self.unread[waiting.payer]:
            del self.unread[waiting.payer]
        if waiting.arrival is not None:
            waiting.arrival.release()


class Subscription:
    """Messages of one topic, or of all that match a pattern, in the order of arrival.

    An async iterator, which ends when the node was drained; made by `Node.subscribe`.

    Attributes:
      topic: the topic or the pattern, as given to `Node.subscribe`.
      number: counts the subscriptions of this node, from 1; tells them apart in events.
    """

    def __init__(self, inbox: Inbox) -> None:
        self.topic: str = inbox.pattern
        self.number: int = inbox.number
        self._inbox = inbox

    async def receive(self) -> Message:
        """Wait for the next message.

        Raises:
          trio.ClosedResourceError: the subscription's block was left; or the node was drained, and everything that
            came before was taken.
        """
        try:
            return await self._inbox.take()
        except trio.EndOfChannel:
            raise trio.ClosedResourceError("the node was drained; no more messages will come") from None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        try:
            return await self._inbox.take()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None

    def statistics(self) -> SubscriptionStatistics:
        """Counts so far."""
        return self._inbox.statistics

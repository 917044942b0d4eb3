"""What a subscriber holds in its hand: messages that wait, and counts (DESIGN section 10)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import attrs
import trio

from macula_trio._ids import NodeId


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
      dropped: messages that made room for newer ones, because nobody took them in time.
      waiting: messages that are there to be taken.
    """

    received: int
    dropped: int
    waiting: int


class Subscription:
    """Messages of one topic, or of all that match a pattern, in the order of arrival.

    An async iterator; made by `Node.subscribe`.

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
          trio.ClosedResourceError: the subscription's block was left.
        """
        return await self._receive.receive()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        return await self.receive()

    def statistics(self) -> SubscriptionStatistics:
        """Counts so far."""
        waiting = self._receive.statistics().current_buffer_used
        return SubscriptionStatistics(received=self._received, dropped=self._dropped, waiting=waiting)

    def deliver(self, message: Message) -> bool:
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

    def close(self) -> None:
        self._send.close()
        self._receive.close()

"""What a node shows of itself: peers, counts, events."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Final, Self

import attrs
import trio

from macula_trio._events import Event, EventBus
from macula_trio._ids import NodeId

EVENT_BUFFER: Final = 4096  # events that wait for one reader; what exceeds it is counted as missed


@attrs.frozen(kw_only=True)
class PeerInfo:
    """A node that we have a live link with.

    Attributes:
      node_id: proven if ``verified``.
      endpoint: where it says that it can be dialed.
      dialed: whether we dialed it.
      verified: whether it proved its id.
      leaf: whether it is a short-lived client.
    """

    node_id: NodeId | None
    endpoint: str | None
    dialed: bool
    verified: bool
    leaf: bool


@attrs.frozen(kw_only=True)
class NodeStatistics:
    """Counts since the node was opened, and what it holds now.

    Attributes:
      frames_sent: by name of the message type.
      frames_received: the same.
      frames_unknown: of a type that we do not know, skipped.
      replies_unexpected: late, or to a question that nobody asked.
      messages_unhandled: known, but not for us.
      requests_excessive: beyond what one peer may ask in a while, not answered.
      refused: links refused, by reason.
      messages_sent: by `Node.send_message`: written on a link or on a connection of their own.
      messages_failed: the same that were not, by reason: ``unreachable``, or ``refused`` by one of the two sides.
      messages_dropped: the same that were given up before, by reason: ``cancelled`` by whoever sent, or ``not_sent``
        because of a limit of ours, because the node is closing, or because our socket does not reach such an address.
      messages_unconfirmed: on connections of their own, whoever sent them: written, but maybe not read.
      links: live links, connections that end with a message included.
      links_opened: that have become live.
      links_closed: that have ended, by reason: ``idle``, ``surplus``, ``replaced`` by another one, ``restarted``,
        ``goodbye`` of the peer, ``silent``, or what QUIC or a rule of the wire says.
      links_migrated: how often a link went on while its peer's address changed.
      links_redialed: how often lost ones were dialed again because somebody wanted them.
      dials_failed: nobody answered, or one side refused the other.
      dials_avoided: not made, because the peer had not answered a moment ago.
      connections_broken: closed because of what came out of QUIC for the peer's bytes.
      datagrams_unroutable: garbage on the UDP port.
      datagrams_policed: dropped unread, because their sender took more than its share of an overloaded node.
      datagrams_lost: that the system did not take.
      table_size: nodes in the routing table.
      stored_values: DHT values held for others and for ourselves.
      calls_running: handlers that run now.
      calls_forbidden: calls and casts refused because of who made them.
      calls_turned_away: calls and casts refused because the node was draining.
      messages_forbidden: dropped because of who published them.
      publications_dropped: not sent to a subscriber, because its subscription blocks and nobody there took one in time.
      envelopes_refused: of calls and messages through other nodes, those that went too far or that nobody waits for,
        and those for others that could not go on.
      envelopes_forwarded: of those for others, how many went on; calls count when they are answered.
      clients: links on which somebody has subscribed by SUBSCRIBE, as v0.8 does.
      client_messages_dropped: messages to such clients, or from them, that went no further.
    """

    frames_sent: Mapping[str, int]
    frames_received: Mapping[str, int]
    frames_unknown: int
    replies_unexpected: int
    messages_unhandled: int
    requests_excessive: int
    refused: Mapping[str, int]
    messages_sent: int
    messages_failed: Mapping[str, int]
    messages_dropped: Mapping[str, int]
    messages_unconfirmed: int
    links: int
    links_opened: int
    links_closed: Mapping[str, int]
    links_migrated: int
    links_redialed: int
    dials_failed: int
    dials_avoided: int
    connections_broken: int
    datagrams_unroutable: int
    datagrams_policed: int
    datagrams_lost: int
    table_size: int
    stored_values: int
    calls_running: int
    calls_forbidden: int
    calls_turned_away: int
    messages_forbidden: int
    publications_dropped: int
    envelopes_refused: int
    envelopes_forwarded: int
    clients: int
    client_messages_dropped: int


class EventStream:
    """Events of a node while its ``with`` block lasts; an async iterator.

    4,096 events wait for whoever reads; those that come behind them are not kept.

    Attributes:
      missed: how many those were.
    """

    def __init__(self, bus: EventBus, *, left: Callable[[EventStream], object] = lambda _stream: None) -> None:
        self._bus = bus
        self._left = left
        self._send, self._receive = trio.open_memory_channel[Event](EVENT_BUFFER)
        self.missed: int = 0

    def __enter__(self) -> Self:
        self._bus.listen(self._on_event)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bus.unlisten(self._on_event)
        self._send.close()
        self._receive.close()
        self._left(self)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        try:
            return await self.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None

    async def receive(self) -> Event:
        """Wait for the next event.

        Raises:
          trio.EndOfChannel: the node's block was left.
        """
        return await self._receive.receive()

    def end(self) -> None:
        """No more events come; those that wait can still be taken."""
        self._send.close()

    def _on_event(self, event: Event) -> None:
        try:
            self._send.send_nowait(event)
        except (trio.WouldBlock, trio.ClosedResourceError, trio.BrokenResourceError):
            self.missed += 1

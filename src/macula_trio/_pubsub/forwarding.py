"""What clients publish, on its way into the mesh behind the scenes (DESIGN section 4)."""

from __future__ import annotations

import math
from typing import Final

import trio

from macula_trio._background import Background
from macula_trio._events import EventBus
from macula_trio._ids import NodeId
from macula_trio._pubsub.clients import Clients
from macula_trio._pubsub.outgoing import NOBODY, Passing, Sameness, sameness_of
from macula_trio._pubsub.publisher import Outcome, Publisher
from macula_trio._wire import messages as wire
from macula_trio._wire.envelope import Origin
from macula_trio.abc import Link

FORWARDS_MAX: Final = 64  # messages of clients on their way into the mesh; each may wait for a lookup and for dials
PASSED_S: Final = 10.0  # messages of clients are remembered: twice as long as reaching a subscriber may take
PASSED_MAX: Final = 65_536  # more than a node can receive meanwhile


class Forwarding:
    """Messages of clients that pass through us, each once.

    Args:
      publisher: brings them to the other nodes.
      clients: told of those that go no further.
      background: takes one task for each message.
      events: where they are told.
    """

    def __init__(self, *, publisher: Publisher, clients: Clients, background: Background, events: EventBus) -> None:
        self._publisher = publisher
        self._clients = clients
        self._background = background
        self._events = events
        self._under_way = 0
        self._passed: dict[Sameness, float] = {}

    def forward(self, link: Link, message: wire.Publish, origin: Origin) -> None:
        """Send what a client has published to the mesh, behind the scenes."""
        passing = Passing(message, origin.node_id or NOBODY)
        if self._under_way >= FORWARDS_MAX:
            self._clients.drop(link, message, "busy")
            del self._passed[sameness_of(message)]  # the client may try again
        elif self._background.start_soon(self._forward_one, passing, name=f"publish {message.topic} for a client"):
            self._under_way += 1

    def is_new(self, message: wire.Publish) -> bool:
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
            await self._publisher.fan_out(message, outcomes)
        finally:
            self._under_way -= 1
        self._events.emit(
            "pubsub.client_published",
            topic=message.topic,
            message_id=message.message.message_id.hex(),
            targets=[node_id.hex() for node_id in outcomes],
        )

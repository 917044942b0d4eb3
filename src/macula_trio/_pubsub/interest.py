"""Who wants a topic, as the DHT says: looked up once, then kept fresh while somebody publishes (DESIGN section 10).

Each place (a topic, a prefix, a shard of the empty prefix) is remembered by itself, so that all topics of a publisher
share what they have in common.  One task of the node per lookup: publishers that want the same thing wait for the
same one, and whoever waits may be cancelled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from math import inf
from typing import Final

import attrs
import trio

from macula_trio._background import Background
from macula_trio._events import EventBus
from macula_trio._ids import Contact, NodeId
from macula_trio._pubsub.adverts import (
    Choice,
    Found,
    Place,
    choose,
    is_of_patterns,
    is_shard,
    key_of,
    places_for,
    read_adverts,
)
from macula_trio.abc import Directory

FRESH_S: Final = 1.0  # a publisher in a loop asks the DHT once a second, and newcomers wait no longer
# The sixteen shards are all over the mesh, and the same for all topics; they are looked up less often.
SHARDS_FRESH_S: Final = 5.0
# How long a message waits for patterns whose lookup goes on after that of its topic has ended: what was found before,
# maybe nothing, is used meanwhile.  Long enough for the time-out of one question to a dead node.
PATIENCE_S: Final = 2.5
PLACES_MAX: Final = 4096  # remembered; the one not asked for for longest goes first
PATTERNS_BYTES_MAX: Final = 32 * 1024 * 1024  # remembered of all places; an honest pattern has 20 bytes
LOOKUPS_MAX: Final = 128  # at once; a publisher waits its turn


@attrs.define(eq=False)
class _Known:
    """What is known of one place.

    Attributes:
      found: by the last lookup that ended.
      edition: which of all lookups that was.
      size: characters of all patterns in it.
      until: when it is not fresh any more.
      lookup: ends with the lookup that is under way, None when there is none.
      started: when that began.
    """

    found: tuple[Found, ...] = ()
    edition: int = 0
    size: int = 0
    until: float = -inf
    lookup: trio.Event | None = None
    started: float = -inf


@attrs.frozen
class _Chosen:
    """The choice for one topic, and the editions of what it was made of."""

    editions: tuple[int, ...]
    choice: Choice


class Interest:
    """What publishers know of subscribers.

    Args:
      directory: asked.
      background: takes the lookups.
      events: told of lists that were too long to read.
    """

    def __init__(self, *, directory: Directory, background: Background, events: EventBus) -> None:
        self._directory = directory
        self._background = background
        self._events = events
        self._known: dict[Place, _Known] = {}
        self._bytes = self._lookups = 0
        self._chosen: dict[str, _Chosen] = {}
        self._turns = trio.Semaphore(LOOKUPS_MAX)

    async def in_topic(self, topic: str) -> tuple[Contact, ...]:
        """The nodes that want a topic, each once; those with its exact name first.

        Raises:
          trio.ClosedResourceError: the node is closed.
        """
        await trio.lowlevel.checkpoint()
        exact, *others = [await self._refresh(place) for place in places_for(topic)]
        if exact.lookup is not None:
            await exact.lookup.wait()
        for known in others:
            if known.lookup is not None:
                with trio.move_on_at(known.started + PATIENCE_S):
                    await known.lookup.wait()
        return self._choose(topic, [exact, *others])

    def takes_routed(self, topic: str, node_id: NodeId) -> bool:
        """Whether a node that was found last takes messages through other nodes."""
        chosen = self._chosen.get(topic)
        return chosen is not None and node_id in chosen.choice.routed

    def windows(self, topic: str, node_id: NodeId) -> Mapping[bytes, int]:
        """The windows of subscriptions of a node that was found last, and that block; messages by id."""
        chosen = self._chosen.get(topic)
        return {} if chosen is None else chosen.choice.windows.get(node_id, {})

    async def ask(self, topic: str) -> tuple[Contact, ...]:
        """The same, looked up anew and to the end, by us ourselves."""
        places = places_for(topic)
        found: dict[Place, tuple[Found, ...]] = {}

        async def look_up(place: Place) -> None:
            found[place] = read_adverts(place, await self._directory.find(key_of(place), "subscriber"))

        async with trio.open_nursery() as nursery:
            for place in places:
                nursery.start_soon(look_up, place, name=f"ask who is in {place}")
        return choose(topic, [found[place] for place in places]).contacts

    def doubt(self, topic: str, node_id: NodeId) -> None:
        """A subscriber could not be reached: look again where it was found."""
        for place in places_for(topic):
            known = self._known.get(place)
            if known is not None and any(found.contact.node_id == node_id for found in known.found):
                known.until = -inf

    # -- inside -------------------------------------------------------------------------------------------------------

    async def _refresh(self, place: Place) -> _Known:
        """What is known of a place; begins to look it up when that is not fresh."""
        known = self._touch(place)
        if known.lookup is not None or known.until > trio.current_time():
            return known
        await self._turns.acquire()
        known = self._touch(place)  # much may have happened while we waited for our turn
        if known.lookup is None and known.until <= trio.current_time():
            look_up = partial(self._look_up, place, known)
            if self._background.start_soon(look_up, name=f"ask who is in {place}"):
                known.lookup, known.started = trio.Event(), trio.current_time()
                return known
            self._turns.release()
            raise trio.ClosedResourceError("the node is closed")
        self._turns.release()
        return known

    async def _look_up(self, place: Place, known: _Known) -> None:
        assert known.lookup is not None
        try:
            adverts = await self._directory.find(key_of(place), "subscriber")
            self._lookups += 1
            known.found, known.edition = read_adverts(place, adverts), self._lookups
            known.until = trio.current_time() + (SHARDS_FRESH_S if is_shard(place) else FRESH_S)
            self._resize(place, known)
        finally:
            self._turns.release()
            known.lookup.set()
            known.lookup = None

    def _touch(self, place: Place) -> _Known:
        """Remember a place as the one that was asked for last."""
        known = self._known.pop(place, None) or _Known()
        self._known[place] = known
        if len(self._known) > PLACES_MAX:
            self._forget_oldest()
        return known

    def _resize(self, place: Place, known: _Known) -> None:
        before, known.size = known.size, sum(found.size for found in known.found) if is_of_patterns(place) else 0
        if self._known.get(place) is known:  # else it was forgotten meanwhile
            self._bytes += known.size - before
            while self._bytes > PATTERNS_BYTES_MAX:
                self._forget_oldest()

    def _forget_oldest(self) -> None:
        self._bytes -= self._known.pop(next(iter(self._known))).size

    def _choose(self, topic: str, places: Sequence[_Known]) -> tuple[Contact, ...]:
        """Compare patterns only when something new was found: a loop of messages costs nothing."""
        editions = tuple(known.edition for known in places)
        chosen = self._chosen.pop(topic, None)
        if chosen is None or chosen.editions != editions:
            choice = choose(topic, [known.found for known in places])
            if choice.unread:
                self._events.emit("pubsub.patterns_unread", topic=topic, patterns=choice.unread)
            chosen = _Chosen(editions, choice)
        self._chosen[topic] = chosen
        if len(self._chosen) > PLACES_MAX:
            del self._chosen[next(iter(self._chosen))]
        return chosen.choice.contacts

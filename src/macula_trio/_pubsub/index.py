"""Who here wants a topic: subscriptions of this node, or clients, by their patterns (DESIGN section 10).

Sans-IO.  A message is compared only with the patterns that have a prefix of its topic, and those are bounded, one
prefix at a time, by what fits into one value of the DHT.
"""

from __future__ import annotations

from typing import Generic, TypeVar

import attrs

from macula_trio._pubsub.adverts import prefix_of, prefixes_of
from macula_trio._pubsub.topics import Matcher, is_pattern, is_topic

T = TypeVar("T")


@attrs.define(eq=False)
class PatternIndex(Generic[T]):
    """Things by the pattern that each is there for; one thing may have several, and a pattern several things."""

    _topics: dict[str, dict[T, None]] = attrs.field(factory=dict, init=False)
    _prefixes: dict[str, dict[str, dict[T, None]]] = attrs.field(factory=dict, init=False)

    def add(self, pattern: str, thing: T) -> bool:
        """Add a thing; True when it is the first one of its pattern."""
        shelf = self._shelf(pattern)
        is_first = pattern not in shelf
        shelf.setdefault(pattern, {})[thing] = None
        return is_first

    def remove(self, pattern: str, thing: T) -> bool:
        """Remove a thing that is there; True when it was the last one of its pattern."""
        shelf = self._shelf(pattern)
        del shelf[pattern][thing]
        if shelf[pattern]:
            return False
        del shelf[pattern]
        if shelf is not self._topics and not shelf:
            del self._prefixes[prefix_of(pattern)]
        return True

    def beside(self, pattern: str) -> list[str]:
        """The patterns that have the same prefix as one with a wildcard; itself included if it is there."""
        return list(self._prefixes.get(prefix_of(pattern), ()))

    def wanting(self, topic: str) -> list[T]:
        """The things whose pattern matches, each once; none for what is no valid topic, whoever sent it."""
        if not is_topic(topic):
            return []
        things = dict(self._topics.get(topic, {}))
        if self._prefixes:
            matcher = Matcher(topic)
            for prefix in ("", *prefixes_of(topic)):
                for pattern, wanting in self._prefixes.get(prefix, {}).items():
                    if matcher.wanted_by(pattern):
                        things |= wanting
        return list(things)

    def _shelf(self, pattern: str) -> dict[str, dict[T, None]]:
        return self._prefixes.setdefault(prefix_of(pattern), {}) if is_pattern(pattern) else self._topics

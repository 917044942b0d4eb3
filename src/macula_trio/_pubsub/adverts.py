"""Where a pattern is advertised, where a publisher looks, and whom it finds there (DESIGN section 10).

Sans-IO.  An exact topic has a DHT key of its own.  A pattern lies under the key of its literal prefix, together with
all other patterns of its node that have the same prefix, and a publisher looks under every prefix that its topic has.
Patterns that begin with a wildcard have none: they lie under one of 16 keys, by the id of their node, so that no
single key has to hold all who want everything.

What lies there was written by strangers: whatever it is, reading it costs a bounded amount of work, and what is no
pattern, or does not belong where it lies, is nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, TypeAlias

import attrs

from macula_trio._ids import Advert, Contact, NodeId, dht_key
from macula_trio._pubsub.topics import Matcher, is_pattern, validate_pattern
from macula_trio._pubsub.window import ADVERT_BYTES, WINDOWS_PER_MESSAGE_MAX, read_windows, window_id
from macula_trio._routing.routes import ROUTED, takes_routed

PREFIX_SEGMENTS_MAX: Final = 4  # a publisher looks once under every prefix of its topic
SHARDS: Final = 16  # of the empty prefix
PATTERNS_MAX: Final = 64  # in one value; metadata may have 256 elements
# Of all patterns in one value, with 3 bytes each for MessagePack.  A value has 4096 bytes; its other fields take less
# than 900 with the longest realm and endpoint.
PATTERNS_BYTES_MAX: Final = 3072
PATTERN_OVERHEAD_BYTES: Final = 3
WINDOWS_MAX: Final = 64  # of subscriptions that block in one value; they share its bytes with the patterns
WINDOW_BYTES: Final = ADVERT_BYTES + 2
# Segments that are compared for one topic after its subscribers were looked up: a thousand nodes with 64 patterns of
# four segments each, some 30 ms of work.
SEGMENTS_MAX: Final = 262_144

_METADATA_KEY: Final = "patterns"
_WINDOWS_KEY: Final = "windows"
_CONTEXT: Final = "pattern:"
_SHARD_MARK: Final = "#"  # is no segment of any prefix

Place: TypeAlias = str
"""A name whose hash is the key: a topic, or what `place_of` gives for a pattern."""


def prefix_of(pattern: str) -> str:
    """The segments before the first wildcard, joined by dots, at most `PREFIX_SEGMENTS_MAX`; maybe none."""
    literal: list[str] = []
    for segment in pattern.split(".", PREFIX_SEGMENTS_MAX)[:PREFIX_SEGMENTS_MAX]:
        if is_pattern(segment):
            break
        literal.append(segment)
    return ".".join(literal)


def prefixes_of(topic: str) -> list[str]:
    """The prefixes of all patterns that may match a topic, but for the empty one; shortest first."""
    segments = topic.split(".", PREFIX_SEGMENTS_MAX)[:PREFIX_SEGMENTS_MAX]
    return [".".join(segments[: length + 1]) for length in range(len(segments))]


def shard_of(owner: NodeId) -> int:
    """Which of the `SHARDS` keys of the empty prefix is a node's: the first hexadecimal digit of its id."""
    return owner[0] >> 4


def place_of(pattern: str, owner: NodeId) -> Place:
    """Where a node advertises a subscription.

    Returns:
      The topic itself when it has no wildcard; else ``pattern:`` and its prefix, or, without one, ``pattern:#`` and
      the shard as a hexadecimal digit.
    """
    if not is_pattern(pattern):
        return pattern
    return _CONTEXT + (prefix_of(pattern) or f"{_SHARD_MARK}{shard_of(owner):x}")


def places_for(topic: str) -> list[Place]:
    """Where all subscriptions lie that may want a topic: the topic, its prefixes, the shards of the empty one."""
    return [
        topic,
        *(_CONTEXT + prefix for prefix in prefixes_of(topic)),
        *(f"{_CONTEXT}{_SHARD_MARK}{shard:x}" for shard in range(SHARDS)),
    ]


def is_of_patterns(place: Place) -> bool:
    """Whether patterns lie there; else subscriptions to one topic."""
    return place.startswith(_CONTEXT)


def is_shard(place: Place) -> bool:
    """Whether patterns without a prefix lie there."""
    return place.startswith(_CONTEXT + _SHARD_MARK)


def key_of(place: Place) -> bytes:
    """The DHT key of a place, 32 bytes."""
    return dht_key(place)


# -- what a node attaches -------------------------------------------------------------------------------------------


def metadata_of(pattern: str, *, allow_routed: bool = False, window: bytes | None = None) -> dict[str, object]:
    """What the advert of a subscription says; lists of several subscriptions in one place are joined.

    Args:
      pattern: or a topic.
      allow_routed: it takes messages that come through other nodes.
      window: as `macula_trio._pubsub.window.advert_of` has it, when it blocks.
    """
    metadata: dict[str, object] = {_METADATA_KEY: [pattern]} if is_pattern(pattern) else {}
    if allow_routed:
        metadata[ROUTED] = True
    if window is not None:
        metadata[_WINDOWS_KEY] = [window]
    return metadata


def require_room(patterns: Iterable[str], pattern: str, *, windows: int = 0) -> None:
    """Check that a pattern fits into one value with those that are there.

    Args:
      patterns: those that are there.
      pattern: one more, or one of them; or a topic, beside which there are none.
      windows: how many lie there then.

    Raises:
      ValueError: one line that says what to do instead.
    """
    together = {*patterns, pattern}
    size = sum(len(each) + PATTERN_OVERHEAD_BYTES for each in together) + windows * WINDOW_BYTES
    if len(together) <= PATTERNS_MAX and windows <= WINDOWS_MAX and size <= PATTERNS_BYTES_MAX:
        return
    if windows > WINDOWS_MAX:
        raise ValueError(
            f"{pattern!r}: this node has {WINDOWS_MAX} blocking subscriptions in one value of the DHT already, and no "
            "more fit; those to the same pattern count once if their buffers are the same"
        )
    prefix = prefix_of(pattern)
    among = f"with the prefix {prefix!r}" if prefix else "that begin with a wildcard"
    raise ValueError(
        f"pattern {pattern!r}: this node has {len(together) - 1} patterns {among} already, and no more fit into one "
        f"value of the DHT ({PATTERNS_MAX} patterns, {PATTERNS_BYTES_MAX} bytes); a broader one can stand for several"
    )


# -- whom a publisher finds -----------------------------------------------------------------------------------------


@attrs.frozen
class Found:
    """A node that was found in a place.

    Attributes:
      contact: the node.
      patterns: what it wants of what is published there.
      takes_routed: whether it takes messages that come through other nodes.
      windows: of those patterns that block, messages by `macula_trio._pubsub.window.window_id`.
    """

    contact: Contact
    patterns: tuple[str, ...]
    takes_routed: bool = False
    windows: Mapping[bytes, int] = attrs.field(factory=dict)

    @property
    def size(self) -> int:
        """Characters of its patterns."""
        return sum(map(len, self.patterns))


def read_adverts(place: Place, adverts: Iterable[Advert]) -> tuple[Found, ...]:
    """What the adverts in a place say, whoever wrote them.

    Whoever is found under a topic wants the topic, whatever else its advert says.
    """
    if not is_of_patterns(place):
        return tuple(_found(advert, (place,)) for advert in adverts)
    return tuple(
        _found(advert, patterns)
        for advert in adverts
        if (patterns := tuple(_patterns_in(place, advert.contact.node_id, advert.metadata)))
    )


def _found(advert: Advert, patterns: tuple[str, ...]) -> Found:
    listed = advert.metadata.get(_WINDOWS_KEY)
    windows = read_windows(listed[:WINDOWS_MAX]) if isinstance(listed, (list, tuple)) else {}
    return Found(advert.contact, patterns, takes_routed(advert), windows)


def _patterns_in(place: Place, owner: NodeId, metadata: Mapping[str, object]) -> Iterator[str]:
    listed = metadata.get(_METADATA_KEY)
    if not isinstance(listed, (list, tuple)):
        return
    for item in listed[:PATTERNS_MAX]:
        if not isinstance(item, bytes):
            continue
        try:
            pattern = validate_pattern(item.decode("ascii"))
        except ValueError:
            continue
        # A pattern counts in one place only, so nobody can make it be compared in all of them.
        if is_pattern(pattern) and place_of(pattern, owner) == place:
            yield pattern


@attrs.frozen
class Choice:
    """Who wants a topic.

    Attributes:
      contacts: each node once, in the order in which they were found.
      routed: those of them that take messages through other nodes.
      unread: patterns that were not compared, because there were too many.
      windows: of those nodes that have a subscription to the topic that blocks, messages by window.
    """

    contacts: tuple[Contact, ...]
    routed: frozenset[NodeId]
    unread: int
    windows: Mapping[NodeId, Mapping[bytes, int]] = attrs.field(factory=dict)


def choose(topic: str, places: Sequence[Sequence[Found]], *, segments_max: int = SEGMENTS_MAX) -> Choice:
    """Compare what was found in the places of a topic with it.

    Each node has the same share of ``segments_max``, so that a crowd with long lists takes nothing from the others; the
    first pattern of each is compared in any case.

    Args:
      topic: of the message.
      places: what was found in each of `places_for`.
      segments_max: of all patterns that are compared, in the order in which their nodes wrote them.
    """
    share = segments_max // max(1, sum(map(len, places)))
    matcher = Matcher(topic)
    contacts: dict[NodeId, Contact] = {}
    routed: set[NodeId] = set()
    windows: dict[NodeId, dict[bytes, int]] = {}
    unread = 0
    for found in (each for place in places for each in place):
        node_id, left = found.contact.node_id, share
        for index, pattern in enumerate(found.patterns):
            if node_id in contacts and not found.windows:
                break  # one pattern is enough, unless others of them block
            left -= pattern.count(".") + 1
            if index and left < 0:
                unread += (len(found.patterns) - index) * (node_id not in contacts)
                break
            if matcher.wanted_by(pattern):
                if node_id not in contacts:
                    contacts[node_id] = found.contact
                    if found.takes_routed:
                        routed.add(node_id)
                _note_window(windows, found, pattern)
    return Choice(tuple(contacts.values()), frozenset(routed), unread, windows)


def _note_window(windows: dict[NodeId, dict[bytes, int]], found: Found, pattern: str) -> None:
    if not found.windows:
        return
    identifier = window_id(pattern)
    size = found.windows.get(identifier)
    known = windows.get(found.contact.node_id, {})
    if size is not None and len(known) < WINDOWS_PER_MESSAGE_MAX:
        windows[found.contact.node_id] = {**known, identifier: size}

"""Which names are topics, which are patterns, and which pattern wants which topic (DESIGN section 10).

Sans-IO.  A pattern is a topic in which segments may be wildcards: ``*`` stands for one segment, ``**`` (and ``#``,
its synonym in v0.8) for any number of them, none included.
"""

from __future__ import annotations

import re
from typing import Final

from macula_trio._util import NAME_BYTES_MAX, validate_name

_ONE: Final = "*"
_ANY: Final = ("**", "#")
_TOPIC: Final = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_PATTERN: Final = re.compile(r"([A-Za-z0-9_-]+|\*\*?|#)(\.([A-Za-z0-9_-]+|\*\*?|#))*")


def validate_topic(topic: str) -> str:
    """Give back a valid topic, in which wildcards have no place.

    Raises:
      ValueError: one line that names it and the rule.
    """
    return validate_name(topic, what="topic")


def validate_pattern(pattern: str) -> str:
    """Give back a valid pattern; a topic is one, too.

    Raises:
      ValueError: one line that names it and the rule.
    """
    if len(pattern) > NAME_BYTES_MAX or not _PATTERN.fullmatch(pattern):
        raise ValueError(
            f"pattern {pattern!r} is not valid: a topic of at most {NAME_BYTES_MAX} bytes in which whole segments "
            "may be '*' (one segment) or '**' (any number), such as sensors.*.celsius"
        )
    return pattern


def is_topic(text: str) -> bool:
    """Whether what a peer sent is a valid topic."""
    return len(text) <= NAME_BYTES_MAX and _TOPIC.fullmatch(text) is not None


def is_pattern(name: str) -> bool:
    """Whether a segment of ``name`` is a wildcard."""
    return any(segment == _ONE or segment in _ANY for segment in name.split("."))


def matches(pattern: str, topic: str) -> bool:
    """Whether a subscription to ``pattern`` wants ``topic``; see `Matcher`, which is for more than one pattern."""
    return Matcher(topic).wanted_by(pattern)


class Matcher:
    """One topic, to be compared with many patterns.

    Both may come from anybody and need not be valid; what is longer than a name can be matches nothing.  The cost is
    one step for each segment of the pattern, no backtracking, so that ``**.**.**`` and the like are harmless.

    Args:
      topic: of a message.
    """

    def __init__(self, topic: str) -> None:
        self._is_sane = len(topic) <= NAME_BYTES_MAX
        segments = topic.split(".") if self._is_sane else []
        self._end = 1 << len(segments)
        self._everywhere = 2 * self._end - 1
        self._places: dict[str, int] = {}
        for index, segment in enumerate(segments):
            self._places[segment] = self._places.get(segment, 0) | 1 << index

    def wanted_by(self, pattern: str) -> bool:
        """Whether a subscription to ``pattern`` wants the topic."""
        if not self._is_sane or len(pattern) > NAME_BYTES_MAX:
            return False
        # Bit n: the pattern so far matches exactly the first n segments.
        reached = 1
        for wanted in pattern.split("."):
            if wanted in _ANY:
                reached = -(reached & -reached) & self._everywhere  # the lowest bit, and all above it
            elif wanted == _ONE:
                reached = reached << 1 & self._everywhere
            else:
                reached = (reached & self._places.get(wanted, 0)) << 1
        return bool(reached & self._end)

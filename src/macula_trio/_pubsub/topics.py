"""Which names are topics, which are patterns, and which pattern wants which topic (DESIGN section 10).

Sans-IO.  A pattern is a topic in which segments may be wildcards: ``*`` stands for one segment, ``**`` (and ``#``,
its synonym in v0.8) for any number of them, none included.
"""

from __future__ import annotations

import re
from itertools import accumulate
from operator import or_
from typing import Final

from macula_trio._util import NAME_BYTES_MAX, validate_name

_ONE: Final = "*"
_ANY: Final = ("**", "#")
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


def is_pattern(name: str) -> bool:
    """Whether a segment of ``name`` is a wildcard."""
    return any(segment == _ONE or segment in _ANY for segment in name.split("."))


def matches(pattern: str, topic: str) -> bool:
    """Whether a subscription to ``pattern`` wants ``topic``.

    Both may come from anybody and need not be valid; what is longer than a name can be matches nothing.  The cost is
    the product of the two numbers of segments: a row for each segment of the pattern, no backtracking, so that
    ``**.**.**`` and the like are harmless.
    """
    if max(len(pattern), len(topic)) > NAME_BYTES_MAX:
        return False
    segments = topic.split(".")
    # reached[n]: the pattern so far matches exactly the first n segments.
    reached = [True] + [False] * len(segments)
    for wanted in pattern.split("."):
        if wanted in _ANY:
            reached = list(accumulate(reached, or_))
        else:
            steps = zip(reached, segments, strict=False)  # from the last place there is no step
            reached = [False, *(before and wanted in (_ONE, segment) for before, segment in steps)]
    return reached[-1]

"""The lines of a trace, read; and texts of a trace, made safe to show."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

import attrs

QUOTED_MAX: Final = 40  # characters of a line that is none

ALL_NODES: Final = "*"  # in a trace: of the network, or of the scenario itself
FAULT: Final = "fault."
SUMMARY: Final = "trace.summary"

_CONTROLS: Final = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\ud800-\\udfff]")


@attrs.frozen
class Happening:
    """One line of a trace."""

    t_us: int
    node: str
    event: str
    facts: Mapping[str, Any]


def escape(text: str) -> str:
    """Escape what a terminal would obey or cannot write."""
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def clip(text: str, width: int) -> str:
    """Escape a text for a terminal, and cut it to so many characters."""
    text = escape(text)
    return text if len(text) <= width else f"{text[: width - 3]}..."


def read_line(line: str) -> Happening:
    """Read one line of a trace.

    Raises:
      ValueError: it is none.
    """
    try:
        fields = json.loads(line)
        happening = Happening(int(fields["t_us"]), str(fields["node"]), str(fields["event"]), dict(fields["facts"]))
    except (ValueError, TypeError, KeyError) as exc:
        raise ValueError(f"{clip(line, QUOTED_MAX)!r} is no line of a trace") from exc
    return happening

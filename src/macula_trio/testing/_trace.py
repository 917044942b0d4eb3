"""What happened in a run, line by line: JSON that two runs can be compared by (DESIGN section 11).

A line is ``{"event": "link.opened", "facts": {...}, "node": "edge1", "t_us": 1250}``, its keys sorted.  Node ids
appear as the names of their nodes.  Bytes of the wire never appear: key shares come from OpenSSL, and differ in every
run.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from typing import Final

import attrs

from macula_trio._events import Fact

LINES_MAX: Final = 200_000  # some 40 MB; a scenario that says more wants `Trace.summarise`
SUMMARY: Final = "trace.summary"  # always the last line, however many there are
ALL_NODES: Final = "*"  # the node of what happens to the whole network, or to the scenario itself


class TraceTooLong(Exception):
    """A scenario said more than anybody can compare."""


@attrs.define(eq=False)
class Trace:
    """The lines of one run, and what was only counted."""

    lines: list[str] = attrs.field(factory=list, init=False)
    _names: dict[str, str] = attrs.field(factory=dict, init=False)
    _summarised: tuple[str, ...] = attrs.field(default=(), init=False)
    _counts: Counter[str] = attrs.field(factory=Counter, init=False)
    _digest: hashlib._Hash = attrs.field(factory=hashlib.sha256, init=False)

    def name(self, node_id: str, name: str) -> None:
        """Write ``name`` where this id (hexadecimal) stands."""
        self._names[node_id] = name

    def summarise(self, *prefixes: str) -> None:
        """Events whose names begin so are counted and go into a digest, which `finish` writes, and get no line."""
        self._summarised += prefixes

    def add(self, time_s: float, node: str, event: str, facts: Mapping[str, Fact]) -> None:
        """Write down one event.

        Raises:
          TraceTooLong: there are `LINES_MAX` lines already.
        """
        told = {name: self._told(fact) for name, fact in facts.items()}
        line = json.dumps(
            {"t_us": round(time_s * 1e6), "node": node, "event": event, "facts": told},
            sort_keys=True,
            separators=(",", ":"),
        )
        if event.startswith(self._summarised) and self._summarised:
            self._counts[event] += 1
            self._digest.update(line.encode())
            return
        if len(self.lines) >= LINES_MAX and event != SUMMARY:
            raise TraceTooLong(f"a trace has at most {LINES_MAX} lines; count the common ones by world.summarise(...)")
        self.lines.append(line)

    def finish(self, time_s: float) -> None:
        """Write one last line about what was only counted."""
        if self._counts:
            counts = dict(sorted(self._counts.items()))
            self.add(time_s, ALL_NODES, SUMMARY, {**counts, "digest": self._digest.hexdigest()[:16]})

    @property
    def hash(self) -> str:
        """SHA-256 over the lines, hexadecimal."""
        return hashlib.sha256("".join(f"{line}\n" for line in self.lines).encode()).hexdigest()

    def _told(self, fact: Fact) -> Fact:
        if isinstance(fact, str):
            return self._names.get(fact, fact)
        if isinstance(fact, list):
            return [self._names.get(item, item) for item in fact]
        return fact

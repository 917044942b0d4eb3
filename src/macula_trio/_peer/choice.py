"""Which of several links to one peer stays: both sides choose alike, without a word (DESIGN section 7).  Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, Self, TypeVar

import attrs

from macula_trio._ids import NodeId


@attrs.frozen
class Lineage:
    """What the choice depends on; what replaces a link comes into its place, whoever dialed it.

    Attributes:
      is_ours: whether we dialed the first of the line.
      number: what its dialer drew for that one, which both ends know.  Not its id, which comes out of OpenSSL: no
        replay would choose alike.
      generation: how often it was replaced.
      last: what the dialer of the last one drew; both ends may replace a link at the same time.
    """

    is_ours: bool
    number: bytes
    generation: int = 0
    last: bytes = b""

    def next(self, number: bytes) -> Self:
        """Of what replaces it, for which its dialer drew this number."""
        return attrs.evolve(self, generation=self.generation + 1, last=number)


class Candidate(Protocol):
    """A link."""

    @property
    def lineage(self) -> Lineage:
        """What the choice depends on."""
        ...


C = TypeVar("C", bound=Candidate)


def rank(links: Iterable[C], *, own: NodeId, peer: NodeId) -> list[C]:
    """All of them, the one that stays first.

    What the lower id dialed stays; of what one node dialed at the same time, the one for which it drew the lowest
    number; and of one line the youngest.
    """
    ours_counts = own < peer

    def place(link: C) -> tuple[bool, bytes, int, bytes]:
        lineage = link.lineage
        return lineage.is_ours is not ours_counts, lineage.number, -lineage.generation, lineage.last

    return sorted(links, key=place)


def choose(links: Iterable[C], *, own: NodeId, peer: NodeId) -> C | None:
    """The one that stays, if there is any."""
    return next(iter(rank(links, own=own, peer=peer)), None)

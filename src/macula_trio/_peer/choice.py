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
    """

    is_ours: bool
    number: bytes
    generation: int = 0

    def next(self) -> Self:
        """Of what replaces it."""
        return attrs.evolve(self, generation=self.generation + 1)


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

    def place(link: C) -> tuple[bool, bytes, int]:
        lineage = link.lineage
        return lineage.is_ours is not ours_counts, lineage.number, -lineage.generation

    return sorted(links, key=place)


def choose(links: Iterable[C], *, own: NodeId, peer: NodeId) -> C | None:
    """The one that stays, if there is any."""
    return next(iter(rank(links, own=own, peer=peer)), None)

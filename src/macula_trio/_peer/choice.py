"""Which of several links to one peer stays: both sides choose alike, without a word (DESIGN section 7).  Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar

from macula_trio._ids import NodeId


class Candidate(Protocol):
    """What of a link the choice depends on."""

    @property
    def link_id(self) -> bytes:
        """What both ends call it."""
        ...

    @property
    def replaces(self) -> bytes | None:
        """The link in whose place it was dialed."""
        ...

    @property
    def is_dialed(self) -> bool:
        """Whether we dialed it."""
        ...


C = TypeVar("C", bound=Candidate)


def choose(links: Iterable[C], *, own: NodeId, peer: NodeId) -> C | None:
    """The one that stays.

    What was replaced goes first; then what the higher id dialed; of the rest, which one node dialed at the same time,
    the one whose id is the lowest stays, since both ends know it.
    """
    candidates = list(links)
    replaced = {link.replaces for link in candidates if link.replaces is not None}
    ours_counts = own < peer
    return min(
        candidates,
        key=lambda link: (link.link_id in replaced, link.is_dialed is not ours_counts, link.link_id),
        default=None,
    )

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
    def client_random(self) -> bytes:
        """What its dialer drew for it, which both ends know."""
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


def rank(links: Iterable[C], *, own: NodeId, peer: NodeId) -> list[C]:
    """All of them, the one that stays first.

    What was replaced goes first; then what the higher id dialed; of the rest, which one node dialed at the same time,
    the one for which it drew the lowest number stays, since both ends know it.  Not the lowest `link_id`, which comes
    out of OpenSSL: no replay would choose alike.
    """
    candidates = list(links)
    replaced = {link.replaces for link in candidates if link.replaces is not None}
    ours_counts = own < peer
    return sorted(
        candidates,
        key=lambda link: (link.link_id in replaced, link.is_dialed is not ours_counts, link.client_random),
    )


def choose(links: Iterable[C], *, own: NodeId, peer: NodeId) -> C | None:
    """The one that stays, if there is any."""
    return next(iter(rank(links, own=own, peer=peer)), None)

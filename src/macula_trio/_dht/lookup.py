"""Whom to ask next: iterative lookups of nodes and of values (DESIGN section 8).

Sans-IO (Maymounkov & Mazieres 2002, section 2.3).  Contract: call `next_queries` after construction and after every
`answered` or `failed`; put each contact that it returns one question; stop when `done`.  The result depends only on
what was answered, in which order, never on hashes.
"""

from __future__ import annotations

import enum
from bisect import insort
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Final, Generic

import attrs

from macula_trio._dht.storage import VALUES_PER_KEY_MAX, AnyVersioned, Slot, Versioned, merge, slot_of, version_of
from macula_trio._dht.table import K
from macula_trio._ids import Contact, NodeId, distance

ALPHA: Final = 3  # queries in flight; the paper's
CANDIDATES_PER_K_MAX: Final = 20  # remembered; far more than a lookup among millions of nodes meets
# Asked, per k.  An honest lookup asks k nodes and one for each halving of the distance; liars that invent nearer and
# nearer nodes would keep us busy for ever.  Below CANDIDATES_PER_K_MAX, so that what was asked is never forgotten.
QUERIES_PER_K_MAX: Final = 10
ENDPOINTS_MAX: Final = 3  # tried for one id: a liar can name a wrong one, but not hide a node by it
REPLIES_FOUND: Final = 5  # among the k closest, when values were found; DESIGN section 8
REPLIES_NOT_FOUND: Final = 8  # the same, for "there is none"


class _State(enum.Enum):
    NEW = enum.auto()
    IN_FLIGHT = enum.auto()
    ANSWERED = enum.auto()
    FAILED = enum.auto()


@attrs.frozen(kw_only=True)
class Query:
    """One question of a lookup.

    Attributes:
      contact: who was asked, and where.
      via: who told us of that endpoint, None when we knew it.
      depth: 1 when we knew it, else one more than that of who told us.
      answered: whether the answer came.
    """

    contact: Contact
    via: NodeId | None
    depth: int
    answered: bool = False


@attrs.define(eq=False)
class _Candidate:
    """A node that we heard of.  The last query tried is ``queries[tried - 1]``; those behind it are spare endpoints."""

    rank: tuple[int, NodeId]
    queries: list[Query]
    tried: int = 0
    state: _State = _State.NEW

    @property
    def contact(self) -> Contact:
        return self.queries[max(0, self.tried - 1)].contact

    def wants(self, query: Query) -> bool:
        """Whether this is an endpoint to fall back to.  What was told first is tried first: our own table."""
        # One per teller, so that one liar cannot use up all endpoints of another node.
        return (
            self.state is not _State.ANSWERED
            and len(self.queries) < ENDPOINTS_MAX
            and all(k.via != query.via and k.contact.endpoint != query.contact.endpoint for k in self.queries)
        )


def _rank(candidate: _Candidate) -> tuple[int, NodeId]:
    return candidate.rank


class Lookup:
    """One lookup of the k nodes nearest to ``target``, among those that answer.

    Always `alpha` queries are in flight while there is somebody to ask; there are no rounds.  It ends when the k
    nearest of the nodes that we heard of, without those that failed, have all answered, or when too many were asked.

    Args:
      target: 32 bytes.
      own: our id; never asked.
      seeds: whom we know.
      k: how many nodes are looked for, and taken from one answer.
      alpha: queries in flight.
    """

    def __init__(self, target: bytes, own: NodeId, seeds: Iterable[Contact], *, k: int = K, alpha: int = ALPHA) -> None:
        self._target = target
        self._own = own
        self._k = k
        self._alpha = alpha
        self._candidates: dict[NodeId, _Candidate] = {}
        self._ranked: list[_Candidate] = []  # the same, nearest first
        self._asked: list[tuple[_Candidate, int]] = []  # and which of its queries
        self._in_flight = 0
        for contact in seeds:
            self._learn(Query(contact=contact, via=None, depth=1))
        self._forget_farthest()

    def next_queries(self) -> list[Contact]:
        """Whom to ask now, nearest first; each is in flight until `answered` or `failed`."""
        room = min(self._alpha - self._in_flight, self._k * QUERIES_PER_K_MAX - len(self._asked))
        chosen = [candidate for candidate in self._shortlist() if candidate.state is _State.NEW][: max(0, room)]
        for candidate in chosen:
            candidate.state = _State.IN_FLIGHT
            self._asked.append((candidate, candidate.tried))
            candidate.tried += 1
        self._in_flight += len(chosen)
        return [candidate.contact for candidate in chosen]

    def answered(self, node_id: NodeId, contacts: Iterable[Contact]) -> None:
        """Take the answer of a node that is in flight; of its contacts the first k.

        Raises:
          ValueError: it is not in flight.
        """
        candidate = self._landed(node_id)
        candidate.state = _State.ANSWERED
        query = candidate.queries[candidate.tried - 1]
        candidate.queries[candidate.tried - 1] = attrs.evolve(query, answered=True)
        for contact in islice(contacts, self._k):
            self._learn(Query(contact=contact, via=node_id, depth=query.depth + 1))
        self._forget_farthest()

    def failed(self, node_id: NodeId) -> None:
        """Note that a node in flight did not answer; it is asked again if another endpoint was told for it.

        Raises:
          ValueError: it is not in flight.
        """
        candidate = self._landed(node_id)
        candidate.state = _State.NEW if candidate.tried < len(candidate.queries) else _State.FAILED

    @property
    def done(self) -> bool:
        """Whether there is nothing more to wait for; queries still in flight to farther nodes may be dropped."""
        return self.exhausted and all(c.state is not _State.IN_FLIGHT for c in self._shortlist())

    @property
    def exhausted(self) -> bool:
        """Whether nobody is left to ask: what is still missing is under way, or does not come."""
        if len(self._asked) >= self._k * QUERIES_PER_K_MAX:
            return True
        return all(candidate.state is not _State.NEW for candidate in self._shortlist())

    @property
    def settled(self) -> bool:
        """Whether somebody has answered, and nobody is left to ask: the rest may be dead."""
        return self.exhausted and bool(self.replied())

    def closest(self) -> list[Contact]:
        """The k nearest nodes that answered, nearest first, each at the endpoint where it did."""
        answered = (candidate for candidate in self._ranked if candidate.state is _State.ANSWERED)
        return [candidate.contact for candidate in islice(answered, self._k)]

    def replied(self) -> list[Contact]:
        """Those that answered among the k nearest that we heard of, nearest first."""
        return [candidate.contact for candidate in self._shortlist() if candidate.state is _State.ANSWERED]

    def queries(self) -> list[Query]:
        """Every question that was put, in order: through whom, how deep, and whether it was answered."""
        return [candidate.queries[place] for candidate, place in self._asked]

    def _shortlist(self) -> list[_Candidate]:
        alive = (candidate for candidate in self._ranked if candidate.state is not _State.FAILED)
        return list(islice(alive, self._k))

    def _landed(self, node_id: NodeId) -> _Candidate:
        candidate = self._candidates.get(node_id)
        if candidate is None or candidate.state is not _State.IN_FLIGHT:
            raise ValueError(f"{node_id} was not asked, or has answered or failed already")
        self._in_flight -= 1
        return candidate

    def _learn(self, query: Query) -> None:
        node_id = query.contact.node_id
        candidate = self._candidates.get(node_id)
        if node_id == self._own:
            return
        if candidate is None:
            candidate = _Candidate((distance(node_id, self._target), node_id), [query])
            self._candidates[node_id] = candidate
            insort(self._ranked, candidate, key=_rank)
        elif candidate.wants(query):
            candidate.queries.append(query)
            if candidate.state is _State.FAILED:
                candidate.state = _State.NEW

    def _forget_farthest(self) -> None:
        """Keep the number of candidates bounded; those that were asked are never forgotten, or asked again."""
        excess = len(self._ranked) - self._k * CANDIDATES_PER_K_MAX
        if excess > 0:
            never_asked = [candidate for candidate in self._ranked if not candidate.tried]
            for candidate in never_asked[-excess:]:
                del self._candidates[candidate.rank[1]]
            self._ranked = sorted(self._candidates.values(), key=_rank)


class ValueLookup(Generic[AnyVersioned]):
    """One lookup of the values under a key: the union of what several replicas hold.

    The same contract as `Lookup`, which it drives towards ``key``.  It ends as soon as 5 of the k nearest nodes have
    answered and there is a value, or 8 without one.

    Args:
      key: 32 bytes.
      own: our id; never asked.
      seeds: whom we know.
      k: replicas of a value.
      alpha: queries in flight.
    """

    def __init__(self, key: bytes, own: NodeId, seeds: Iterable[Contact], *, k: int = K, alpha: int = ALPHA) -> None:
        self.nodes = Lookup(key, own, seeds, k=k, alpha=alpha)
        self._newest: dict[Slot, AnyVersioned] = {}
        self._held_by: dict[NodeId, _Holding] = {}

    def next_queries(self) -> list[Contact]:
        """Whom to ask now; see `Lookup.next_queries`."""
        return [] if self.done else self.nodes.next_queries()

    def add_values(self, values: Iterable[AnyVersioned]) -> None:
        """Add what we hold ourselves; that is no reply."""
        self._newest = {slot_of(value): value for value in merge([*self._newest.values(), *values])}

    def answered(
        self, node_id: NodeId, contacts: Iterable[Contact], values: Iterable[AnyVersioned], *, complete: bool = True
    ) -> None:
        """Take the answer of a node that is in flight.

        Args:
          node_id: who answered.
          contacts: the nearer nodes that it told; the first k count.
          values: what it holds, verified and not expired; at most `VALUES_PER_KEY_MAX` count.
          complete: whether this is all that it holds, and not only the first pages.

        Raises:
          ValueError: it is not in flight.
        """
        self.nodes.answered(node_id, contacts)
        taken = merge(islice(values, VALUES_PER_KEY_MAX))
        self._held_by[node_id] = _Holding({slot_of(value): version_of(value) for value in taken}, complete)
        self.add_values(taken)

    def failed(self, node_id: NodeId) -> None:
        """Note that a node in flight did not answer; see `Lookup.failed`."""
        self.nodes.failed(node_id)

    @property
    def done(self) -> bool:
        """Whether enough nodes have answered, or there is nobody left to ask."""
        wanted = REPLIES_FOUND if self._newest else REPLIES_NOT_FOUND
        return len(self.nodes.replied()) >= wanted or self.nodes.done

    @property
    def settled(self) -> bool:
        """Whether there is a value, and nobody is left to ask: the rest may be dead, and need not be awaited long."""
        return bool(self._newest) and self.nodes.exhausted

    def values(self) -> list[AnyVersioned]:
        """The newest value of each owner and kind, tombstones included, sorted by both."""
        return list(self._newest.values())

    def stale_holders(self, newest: Iterable[AnyVersioned]) -> list[tuple[Contact, AnyVersioned]]:
        """Who of the k nearest answered without one of these values, or with an older one, and should be sent it.

        Args:
          newest: those of `values` that are still worth sending.
        """
        values = tuple(newest)
        replied = self.nodes.replied()
        return [(c, value) for c in replied for value in values if self._held_by[c.node_id].lacks(value)]


@attrs.frozen
class _Holding:
    """What one node holds, as far as it said."""

    versions: Mapping[Slot, tuple[int, bytes]]
    complete: bool

    def lacks(self, value: Versioned) -> bool:
        held = self.versions.get(slot_of(value))
        return self.complete if held is None else held < version_of(value)

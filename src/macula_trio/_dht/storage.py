"""The values that we hold for the mesh, and which of two versions is the newer one (DESIGN sections 5 and 8).

Sans-IO.  A value belongs to its owner: it is replaced by a newer version of his, or expires, and nobody else's
value ever makes it go.  Signatures were verified before a value comes here.  Times are Unix time in milliseconds.

A value that nobody has signed (v0.8's, kind ``any``) has a slot and an account of its own, so that it takes nothing
from the owner that it names.  Of those the last one counts, for they have no versions; and nobody passes them on.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import islice
from operator import itemgetter
from typing import Final, Generic, Literal, Protocol, TypeAlias, TypeVar

import attrs

from macula_trio._ids import ANY_KIND, NodeId

VALUE_BYTES_MAX: Final = 4096  # as signed; an advert is 200 to 500 bytes, the rest is for metadata
VALUES_PER_KEY_MAX: Final = 4096  # a popular topic has thousands of subscribers
KEYS_MAX: Final = 65_536  # among 20 replicas and 1,000 nodes enough for 3,000 keys of each node
KEYS_PER_OWNER_MAX: Final = 1024  # of one node's adverts we see a share only; a key in two kinds counts twice
TOTAL_BYTES_MAX: Final = 128 * 1024 * 1024  # what a node can spare for others
OVERHEAD_BYTES: Final = 1024  # that a held value costs beyond its packed bytes: key, signature, objects, indexes
TTL_MAX_MS: Final = 3_600_000  # owners renew after minutes; what lies longer than an hour has no owner any more
SKEW_MS: Final = 60_000  # by which an owner's clock may be ahead of ours
HOLD_MAX_MS: Final = TTL_MAX_MS + SKEW_MS  # of any value, from when it came
_HEAP_SLACK: Final = 64  # outdated entries of the heap that are not worth a rebuild

Slot: TypeAlias = tuple[NodeId, str]
"""Owner and kind: under one key there is one value of each."""


class Versioned(Protocol):
    """A value as far as its place and age go."""

    @property
    def node_id(self) -> NodeId:
        """Its owner."""
        ...

    @property
    def kind(self) -> str:
        """``service`` or ``subscriber``, or ``any`` when nobody has signed it."""
        ...

    @property
    def seq(self) -> int:
        """The owner's version; the higher one wins."""
        ...

    @property
    def digest(self) -> bytes:
        """Decides between two values of one ``seq``: the larger one wins."""
        ...


class StoredValue(Versioned, Protocol):
    """A value that can be held."""

    @property
    def key(self) -> bytes:
        """32 bytes, where it is stored."""
        ...

    @property
    def expires_ms(self) -> int:
        """Unix time in milliseconds."""
        ...

    @property
    def size(self) -> int:
        """Packed bytes."""
        ...

    @property
    def chain_bytes(self) -> int:
        """Of its owner's certificates, held beside it."""
        ...

    @property
    def withdrawn(self) -> bool:
        """Whether this is a tombstone: it takes its slot like any value, so that older ones stay away."""
        ...


AnyVersioned = TypeVar("AnyVersioned", bound=Versioned)
AnyStored = TypeVar("AnyStored", bound=StoredValue)


def slot_of(value: Versioned) -> Slot:
    """The place of a value under its key."""
    return value.node_id, value.kind


def _account(slot: Slot) -> tuple[NodeId, bool]:
    return slot[0], slot[1] != ANY_KIND


def version_of(value: Versioned) -> tuple[int, bytes]:
    """What is larger for the newer of two values in one slot."""
    return value.seq, value.digest


def merge(values: Iterable[AnyVersioned]) -> list[AnyVersioned]:
    """The newest value of each slot, tombstones included, sorted by owner and kind."""
    newest: dict[Slot, AnyVersioned] = {}
    for value in values:
        slot = slot_of(value)
        if slot not in newest or version_of(value) > version_of(newest[slot]):
            newest[slot] = value
    return [newest[slot] for slot in sorted(newest)]


def may_pass_on(value: StoredValue, now_ms: int) -> bool:
    """Whether a value of another's may be sent to somebody who lacks it.

    Not when it expires after the time for which it may be held: whoever gets it holds it for that time from then on,
    so that passed from one to the next it would never end, long after its owner has.  Its owner may store it again.
    Never when nobody has signed when it expires.
    """
    return value.kind != ANY_KIND and now_ms < value.expires_ms <= now_ms + HOLD_MAX_MS


Refusal: TypeAlias = Literal["expired", "too_large", "stale", "quota"]


@attrs.frozen(kw_only=True)
class Verdict(Generic[AnyStored]):
    """What became of a value.

    Attributes:
      stored: whether we hold it now.
      reason: why not: its time is over, its size, a newer one is here, or there is no room; None when it is stored.
      held: the newer one, when the reason is ``stale``.
    """

    stored: bool
    reason: Refusal | None = None
    held: AnyStored | None = None


@attrs.frozen
class _Held(Generic[AnyStored]):
    value: AnyStored
    expires_ms: int  # the owner's, or the end of our patience

    @property
    def cost(self) -> int:
        return self.value.size + self.value.chain_bytes + OVERHEAD_BYTES


@attrs.define(eq=False)
class _Shelf(Generic[AnyStored]):
    """The values under one key, and their slots in order."""

    held: dict[Slot, _Held[AnyStored]] = attrs.field(factory=dict)
    order: list[Slot] = attrs.field(factory=list)


class ValueStore(Generic[AnyStored]):
    """Values by key, owner and kind, within fixed bounds.

    Args:
      on_change: told the key, the slot and the value that is held there from now on; None when there is none any more.
    """

    def __init__(self, on_change: Callable[[bytes, Slot, AnyStored | None], None] | None = None) -> None:
        self._on_change = on_change
        self._shelves: dict[bytes, _Shelf[AnyStored]] = {}
        self._slots_of: Counter[tuple[NodeId, bool]] = Counter()  # by owner, and whether signed
        self._bytes = 0
        self._count = 0
        # When what expires.  Entries of values that were replaced stay until they come up, or until a rebuild.
        self._heap: list[tuple[int, bytes, Slot]] = []

    def put(self, value: AnyStored, now_ms: int) -> Verdict[AnyStored]:
        """Hold a value, unless it is too old, too large or too much.

        The same value again is stored (and nothing changes).  It is held until it expires, and at most until
        `HOLD_MAX_MS` from now.
        """
        if value.expires_ms <= now_ms:
            return Verdict(stored=False, reason="expired")
        if value.size > VALUE_BYTES_MAX:
            return Verdict(stored=False, reason="too_large")
        self.expire(now_ms)
        shelf, slot = self._shelves.get(value.key), slot_of(value)
        before = None if shelf is None else shelf.held.get(slot)
        if before is not None and value.kind != ANY_KIND and version_of(before.value) >= version_of(value):
            if version_of(before.value) == version_of(value):
                return Verdict(stored=True)
            return Verdict(stored=False, reason="stale", held=before.value)
        held = _Held(value, min(value.expires_ms, now_ms + HOLD_MAX_MS))
        if not self._has_room(shelf, held, before):
            return Verdict(stored=False, reason="quota")
        self._keep(slot, held, before)
        return Verdict(stored=True)

    def get(
        self,
        key: bytes,
        now_ms: int,
        *,
        kind: str | None = None,
        limit: int = VALUES_PER_KEY_MAX,
        after: bytes | None = None,
    ) -> tuple[list[AnyStored], bool]:
        """A page of the values under a key, tombstones included, sorted by owner and kind.

        Args:
          key: 32 bytes.
          now_ms: for what has expired.
          kind: only this one, and what nobody has signed, which does not say.
          limit: of values; there is always room for one.  As the next page begins behind an *owner*, those of the
            last owner are always complete, even beyond the limit.
          after: the last owner of the page before, None for the first page.

        Returns:
          The values, and whether there are more behind them.
        """
        self.expire(now_ms)
        page: list[AnyStored] = []
        shelf = self._shelves.get(key)
        if shelf is None:
            return page, False
        start = 0 if after is None else bisect_right(shelf.order, after, key=itemgetter(0))
        for slot in islice(shelf.order, start, None):
            if kind is not None and slot[1] not in (kind, ANY_KIND):
                continue
            if len(page) >= max(1, limit) and slot[0] != page[-1].node_id:
                return page, True
            page.append(shelf.held[slot].value)
        return page, False

    def expire(self, now_ms: int) -> int:
        """Drop what has expired; tell how many.  Cheap when nothing has."""
        dropped = 0
        while self._heap and self._heap[0][0] <= now_ms:
            entry = heapq.heappop(self._heap)
            if self._is_current(entry):
                self._drop(entry[1], entry[2])
                dropped += 1
        return dropped

    def drop(self, is_unwanted: Callable[[AnyStored], bool]) -> int:
        """Drop values for another reason than their age; tell how many."""
        unwanted = [
            (key, slot)
            for key, shelf in self._shelves.items()
            for slot, held in shelf.held.items()
            if is_unwanted(held.value)
        ]
        for key, slot in unwanted:
            self._drop(key, slot)
        return len(unwanted)

    @property
    def next_expiry_ms(self) -> int | None:
        """When the next value expires, None when there is none."""
        while self._heap and not self._is_current(self._heap[0]):
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def keys(self) -> list[bytes]:
        """The keys under which something lies, in the order in which they came."""
        return list(self._shelves)

    def items(self, now_ms: int) -> list[AnyStored]:
        """All values, tombstones included, key by key."""
        self.expire(now_ms)
        return [shelf.held[slot].value for shelf in self._shelves.values() for slot in shelf.order]

    def __len__(self) -> int:
        return self._count

    def _has_room(
        self, shelf: _Shelf[AnyStored] | None, held: _Held[AnyStored], before: _Held[AnyStored] | None
    ) -> bool:
        if before is not None:
            return self._bytes + held.cost - before.cost <= TOTAL_BYTES_MAX
        place_for_key = len(self._shelves) < KEYS_MAX if shelf is None else len(shelf.held) < VALUES_PER_KEY_MAX
        return (
            place_for_key
            and self._slots_of[_account(slot_of(held.value))] < KEYS_PER_OWNER_MAX
            and self._bytes + held.cost <= TOTAL_BYTES_MAX
        )

    def _keep(self, slot: Slot, held: _Held[AnyStored], before: _Held[AnyStored] | None) -> None:
        key = held.value.key
        shelf = self._shelves.setdefault(key, _Shelf())
        if before is None:
            insort(shelf.order, slot)
            self._slots_of[_account(slot)] += 1
            self._count += 1
        else:
            self._bytes -= before.cost
        shelf.held[slot] = held
        self._bytes += held.cost
        heapq.heappush(self._heap, (held.expires_ms, key, slot))
        if self._on_change is not None:
            self._on_change(key, slot, held.value)
        # An owner may send a new version every moment; each leaves an entry behind.
        if len(self._heap) > 2 * self._count + _HEAP_SLACK:
            self._heap = [
                (held.expires_ms, key, slot)
                for key, shelf in self._shelves.items()
                for slot, held in shelf.held.items()
            ]
            heapq.heapify(self._heap)

    def _is_current(self, entry: tuple[int, bytes, Slot]) -> bool:
        expires_ms, key, slot = entry
        shelf = self._shelves.get(key)
        held = None if shelf is None else shelf.held.get(slot)
        return held is not None and held.expires_ms == expires_ms

    def _drop(self, key: bytes, slot: Slot) -> None:
        shelf = self._shelves[key]
        self._bytes -= shelf.held.pop(slot).cost
        self._count -= 1
        del shelf.order[bisect_left(shelf.order, slot)]
        if not shelf.held:
            del self._shelves[key]
        account = _account(slot)
        self._slots_of[account] -= 1
        if not self._slots_of[account]:
            del self._slots_of[account]
        if self._on_change is not None:
            self._on_change(key, slot, None)

"""Whom we know: Kademlia's buckets, and whom to ask before somebody new takes a place.

Sans-IO (DESIGN section 8; Maymounkov & Mazieres 2002, sections 2.2 to 2.4).  The table never pings: it names the
contact to be pinged, and is told how that went.  Those who answer stay: nobody can push a live node out, however
many ids he makes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Final

import attrs

from macula_trio._ids import ID_BITS, ID_BYTES, Contact, NodeId, bucket_index, distance
from macula_trio._util import public_network

K: Final = 20  # contacts in a bucket and replicas of a value; the paper's: unlikely to die within one hour together
# Ids are free, addresses in many networks are not: who wants to surround us needs these (DESIGN section 8).
NETWORK_PER_BUCKET_MAX: Final = 2
NETWORK_PER_TABLE_MAX: Final = 10
HANDERS: Final = 2  # replicas that hand a value to a newcomer: the nearest one may be dead, or a liar
FAILURES_MAX: Final = 2  # in a row; one lost answer is no death, unless somebody else waits for the place


@attrs.define(eq=False)
class _Entry:
    contact: Contact
    last_seen_s: float
    failures: int = 0


@attrs.define(eq=False)
class _Bucket:
    """Two dicts in order of age, the longest unseen first.  Replacements wait only while the entries are full."""

    entries: dict[NodeId, _Entry] = attrs.field(factory=dict)
    replacements: dict[NodeId, _Entry] = attrs.field(factory=dict)
    looked_up_s: float | None = None

    def oldest(self) -> Contact:
        # By time and not by place alone: a promoted replacement stands last, but may not have been seen for long.
        return min(self.entries.values(), key=lambda entry: entry.last_seen_s).contact


def _network_of(contact: Contact) -> str | None:
    return public_network(contact.endpoint.rpartition(":")[0].strip("[]"))


def _renew(entries: dict[NodeId, _Entry], contact: Contact, now: float) -> None:
    """Put a contact last, as just seen."""
    entries.pop(contact.node_id, None)
    entries[contact.node_id] = _Entry(contact, now)


class RoutingTable:
    """The contacts of one node, in 256 buckets by the length of the prefix that they share with it.

    All times are seconds on one clock that never goes back.  Only nodes that were dialed at their endpoint and have
    proven their id may be added.

    Args:
      own: our id; never stored.
      k: contacts in a bucket.
    """

    def __init__(self, own: NodeId, k: int = K) -> None:
        self._own = own
        self._k = k
        self._buckets = [_Bucket() for _ in range(ID_BITS)]
        self._depth = 0  # no bucket from here on was ever used: a mesh of a million fills some twenty of the 256

    def add(self, contact: Contact, now: float) -> Contact | None:
        """Add a node that was just heard, or renew it; a new endpoint replaces the old one.

        Returns:
          The contact to be pinged because its bucket is full, or None.  The newcomer waits in its bucket's
          replacement cache until `failed` makes room; the one that waited longest falls out of a full cache.
          Nothing happens when there are enough nodes of its network.
        """
        if contact.node_id == self._own:
            return None
        bucket = self._bucket(contact.node_id)
        if self._is_crowded(bucket, contact):
            return None
        if contact.node_id in bucket.entries or len(bucket.entries) < self._k:
            _renew(bucket.entries, contact, now)
            self._depth = max(self._depth, bucket_index(self._own, contact.node_id) + 1)
            return None
        _renew(bucket.replacements, contact, now)
        if len(bucket.replacements) > self._k:
            del bucket.replacements[next(iter(bucket.replacements))]
        return bucket.oldest()

    def alive(self, node_id: NodeId, now: float) -> None:
        """Note that a node answered; nothing happens if we do not know it."""
        bucket = self._bucket(node_id)
        for entries in (bucket.entries, bucket.replacements):
            entry = entries.get(node_id)
            if entry is not None:
                _renew(entries, entry.contact, now)

    def failed(self, node_id: NodeId) -> None:
        """Note that a node did not answer; it leaves at its second failure in a row, or at once if another waits."""
        bucket = self._bucket(node_id)
        bucket.replacements.pop(node_id, None)
        entry = bucket.entries.get(node_id)
        if entry is None:
            return
        entry.failures += 1
        if bucket.replacements or entry.failures >= FAILURES_MAX:
            self.remove(node_id)

    def remove(self, node_id: NodeId) -> None:
        """Forget a node; a replacement takes its place."""
        bucket = self._bucket(node_id)
        bucket.replacements.pop(node_id, None)
        if bucket.entries.pop(node_id, None) is not None:
            self._promote(bucket)

    def closest(self, target: bytes, n: int | None = None) -> list[Contact]:
        """The ``n`` contacts nearest to a 32-byte id or key, nearest first; ``k`` of them by default."""
        # Sort, then cut: walking the buckets outwards from the target's and stopping at n finds others.
        ranked = sorted(self.contacts(), key=lambda contact: (distance(contact.node_id, target), contact.node_id))
        return ranked[: self._k if n is None else n]

    def owes(self, key: bytes, newcomer: NodeId) -> bool:
        """Whether it is for us to hand what lies under ``key`` to a node that has just entered.

        It is when the newcomer is among the k nearest to the key that we know, ourselves included, and when only a
        few of the others are nearer than we are: else all k replicas would send it the same.
        """
        ours, theirs = distance(self._own, key), distance(newcomer, key)
        nearer_than_us = nearer_than_newcomer = 0
        for node_id in self._node_ids():
            if node_id == newcomer:
                continue
            away = distance(node_id, key)
            nearer_than_us += away < ours
            if nearer_than_us >= HANDERS:
                return False  # for nearly every key, after a few contacts
            nearer_than_newcomer += away < theirs
        return nearer_than_newcomer + (ours < theirs) < self._k

    def get(self, node_id: NodeId) -> Contact | None:
        """The contact with this id, unless it is unknown or waits for a place."""
        entry = self._bucket(node_id).entries.get(node_id)
        return None if entry is None else entry.contact

    def contacts(self) -> list[Contact]:
        """All contacts, the farthest bucket first, in each the longest unseen first."""
        return [entry.contact for bucket in self._buckets[: self._depth] for entry in bucket.entries.values()]

    def outside(self, index: int) -> list[Contact]:
        """Contacts in buckets farther than ``index``, the farthest first: they may know nodes in its range.

        None of them when the bucket has an entry of its own.
        """
        if self._buckets[index].entries:
            return []
        return [entry.contact for bucket in self._buckets[:index] for entry in bucket.entries.values()]

    def __contains__(self, node_id: NodeId) -> bool:
        return node_id in self._bucket(node_id).entries

    def __len__(self) -> int:
        return sum(len(bucket.entries) for bucket in self._buckets[: self._depth])

    def looked_up(self, target: bytes, now: float) -> None:
        """Note that a lookup towards ``target`` was made, which refreshes its bucket."""
        self._bucket(target).looked_up_s = now

    def stale_buckets(self, now: float, idle_s: float) -> list[int]:
        """Indexes of the buckets that want a refresh: no lookup went into their range for ``idle_s`` seconds.

        A bucket that never saw one counts as stale.  Nodes that merely talk to us do not refresh a bucket: they say
        nothing about who else is there.  Buckets nearer than our nearest neighbour are not meant (section 2.3 of the
        paper): looking up our own id covers their whole range.
        """
        used = enumerate(self._buckets[: self._depth])
        nearest = max((index for index, bucket in used if bucket.entries), default=-1)
        return [
            index
            for index, bucket in enumerate(self._buckets[: nearest + 1])
            if bucket.looked_up_s is None or now - bucket.looked_up_s >= idle_s
        ]

    def _promote(self, bucket: _Bucket) -> None:
        """Give a free place to the replacement that was seen last, of those whose networks have room."""
        for node_id, entry in reversed(bucket.replacements.items()):
            if not self._is_crowded(bucket, entry.contact):
                del bucket.replacements[node_id]
                bucket.entries[node_id] = entry
                return

    def _is_crowded(self, bucket: _Bucket, contact: Contact) -> bool:
        """Whether enough other nodes of its network are here."""
        network = _network_of(contact)
        if network is None:
            return False

        def neighbours(entries: Iterable[_Entry]) -> int:
            others = (entry.contact for entry in entries if entry.contact.node_id != contact.node_id)
            return sum(_network_of(other) == network for other in others)

        everybody = chain.from_iterable(bucket.entries.values() for bucket in self._buckets[: self._depth])
        return (
            neighbours(bucket.entries.values()) >= NETWORK_PER_BUCKET_MAX
            or neighbours(everybody) >= NETWORK_PER_TABLE_MAX
        )

    def _node_ids(self) -> Iterator[NodeId]:
        return chain.from_iterable(bucket.entries for bucket in self._buckets[: self._depth])

    def _bucket(self, node_id: bytes) -> _Bucket:
        # Our own id has index 256; it shares the nearest bucket, where it is never found.
        return self._buckets[min(bucket_index(self._own, node_id), ID_BITS - 1)]


def id_in_bucket(own: NodeId, index: int, entropy: bytes) -> bytes:
    """Make an id that falls into bucket ``index`` of ``own``, as the target of a refresh.

    Args:
      own: whose table it is.
      index: 0 (the farthest half of all ids) to 255.
      entropy: 32 random bytes; those behind the shared prefix are used.

    Raises:
      ValueError: there is no such bucket, or not 32 bytes of entropy.
    """
    if not 0 <= index < ID_BITS or len(entropy) != ID_BYTES:
        raise ValueError(f"bucket {index} with {len(entropy)} bytes of entropy: wants 0..{ID_BITS - 1} and {ID_BYTES}")
    free_bits = ID_BITS - 1 - index
    prefix = (int.from_bytes(own, "big") >> free_bits) ^ 1
    rest = int.from_bytes(entropy, "big") & ((1 << free_bits) - 1)
    return (prefix << free_bits | rest).to_bytes(ID_BYTES, "big")

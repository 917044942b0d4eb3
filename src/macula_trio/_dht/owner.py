"""What we store in the mesh: signed, sent to the replicas, and signed anew when they refuse it (DESIGN section 5).

Refusals are believed as far as they can be shown: a later version of ours carries our signature, and a wrong clock of
ours is what a majority of the replicas says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

import attrs
import trio

from macula_trio._dht.client import QUERY_ERRORS, DhtClient, DhtSettings, require_key
from macula_trio._dht.clocks import WITNESSES_MIN, majority_time_ms
from macula_trio._dht.storage import VALUE_BYTES_MAX, ValueStore
from macula_trio._dht.table import K
from macula_trio._events import EventBus
from macula_trio._identity.keys import Credentials
from macula_trio._identity.record import Kind, Record, read_record, sign_record
from macula_trio._identity.trust import TrustJudge
from macula_trio._ids import ANY_KIND, Contact, NodeId, distance
from macula_trio._util import clip
from macula_trio._wire import messages as wire
from macula_trio._wire.fields import COUNT_MAX
from macula_trio.errors import PayloadTooLarge, QuorumNotReached, RemoteProtocolError, TrustError

# A wrong clock is corrected once, and what then shows of a version from before a restart is passed once; the third
# is for both.  Replicas cannot make us try without end.
STORE_ATTEMPTS: Final = 3
SIGNED_MAX: Final = 65_536  # values of ours whose last version is remembered; the oldest is forgotten first

_Place: TypeAlias = tuple[bytes, Kind]


@attrs.frozen(kw_only=True)
class StoreReport:
    """What became of a value at each of the nodes closest to its key.

    The reasons of refusals, and what each means for you:

    ``stale``: it holds a later version of ours that we could not pass.
    ``expired``: by its clock the value's time is over.  Either its clock is wrong, or ours: then the event
        ``dht.clock_skew`` was told; a majority of at least two replicas has its way, and the value was signed anew by
        their time.
    ``quota``: it has no room, for this key, for more of ours, or for anything.
    ``rate``: we have stored too much there within the last minute.  Later works.
    ``too_large``: more bytes than it takes.
    ``leaf``: it is a one-shot client and holds nothing.
    ``untrusted``: its trust policy does not let us in, or no more: our certificate may have expired.
    ``malformed``, ``bad_signature``: it cannot read the value, or does not believe that it is ours: a node of another
        version, or a liar.
    Any other text is that of a node that knows other reasons; ``refused`` is one that gave none.

    Attributes:
      key: 32 bytes.
      stored: nodes that confirmed, ourselves included when we are one of them.
      refused: nodes that refused, with their reasons.
      unreachable: nodes that did not answer in time.
    """

    key: bytes
    stored: tuple[NodeId, ...]
    refused: Mapping[NodeId, str]
    unreachable: tuple[NodeId, ...]


@attrs.frozen(kw_only=True)
class _Signed:
    """What we have signed for one place so far.

    Attributes:
      seq: the highest, seen at replicas included.
      expires_ms: the latest of all versions: until then an old one may lie somewhere.
      withdrawn: whether the last one was a tombstone.
    """

    seq: int = 0
    expires_ms: int = 0
    withdrawn: bool = True


@attrs.define(eq=False)
class _Round:
    """What became of one version of a value at the replicas.

    Attributes:
      outcomes: None for stored, a text for refused; who is missing was not reached.
      asked: replicas beside ourselves.
      expired_at_ms: the times of those of them that refused it as expired.
      held_seq: of the latest version of ours that one of them has shown.
    """

    outcomes: dict[NodeId, str | None] = attrs.field(factory=dict)
    asked: tuple[NodeId, ...] = ()
    expired_at_ms: list[int] = attrs.field(factory=list)
    held_seq: int = 0

    def report(self, key: bytes) -> StoreReport:
        return StoreReport(
            key=key,
            stored=tuple(node_id for node_id, reason in self.outcomes.items() if reason is None),
            refused={node_id: reason for node_id, reason in self.outcomes.items() if reason is not None},
            unreachable=tuple(node_id for node_id in self.asked if node_id not in self.outcomes),
        )


class ValueOwner:
    """Stores and withdraws our values.

    Args:
      credentials: sign them.
      client: finds the replicas and reaches them.
      store: what we hold ourselves.
      events: where stores are told.
      wall_clock_ms: Unix time, for versions and expiry.
      judge: whether values carry certificates here.
      settings: see `DhtSettings`.
    """

    def __init__(
        self,
        *,
        credentials: Credentials,
        client: DhtClient,
        store: ValueStore[Record],
        events: EventBus,
        wall_clock_ms: Callable[[], int],
        judge: TrustJudge,
        settings: DhtSettings,
    ) -> None:
        self._credentials = credentials
        self._own = credentials.node_id
        self._client = client
        self._store = store
        self._events = events
        self._wall_clock_ms = wall_clock_ms
        self._judge = judge
        self._settings = settings
        self._endpoint = settings.endpoint
        self._signed: dict[_Place, _Signed] = {}

    def renew(self, credentials: Credentials) -> None:
        """Put another certificate chain of the same key beside what is signed from now on."""
        self._credentials = credentials

    def move(self, endpoint: str) -> None:
        """Sign another endpoint from now on."""
        self._endpoint = endpoint

    async def store(self, key: bytes, kind: Kind, metadata: Mapping[str, object], *, quorum: int = 0) -> StoreReport:
        """Sign a value of ours and store it with the k nodes closest to its key."""
        self.require_storable(key, kind, metadata)
        report = await self._sign_and_put((key, kind), self._endpoint, metadata)
        if len(report.stored) < quorum:
            raise QuorumNotReached(stored=len(report.stored), wanted=quorum)
        return report

    def require_storable(self, key: bytes, kind: Kind, metadata: Mapping[str, object]) -> None:
        """Check at the caller's what every replica would refuse.

        Raises:
          ValueError: the key has not 32 bytes.
          LocalProtocolError: the metadata cannot be encoded, is too deep or has too many elements.
          PayloadTooLarge: the value is larger than replicas take.
        """
        require_key(key)
        # With the longest numbers: what passes here must not be refused later, by everybody at once.
        record = self._sign((key, kind), self._endpoint, metadata, seq=COUNT_MAX, expires_ms=COUNT_MAX)
        if record.size > VALUE_BYTES_MAX:
            raise PayloadTooLarge(size=record.size, limit=VALUE_BYTES_MAX)

    async def withdraw(self, key: bytes, kind: Kind, metadata: Mapping[str, object]) -> None:
        """Put a tombstone where the value is; it lives as long as any version of the value may."""
        if not self._signed.get((key, kind), _Signed()).withdrawn:
            await self._sign_and_put((key, kind), None, {})

    # -- inside ---------------------------------------------------------------------------------------------------

    def _sign(
        self, place: _Place, endpoint: str | None, metadata: Mapping[str, object], *, seq: int, expires_ms: int
    ) -> Record:
        return sign_record(
            self._credentials,
            realm=self._settings.realm,
            key=place[0],
            kind=place[1],
            endpoint=endpoint,
            metadata=metadata,
            seq=seq,
            expires_ms=expires_ms,
            with_chain=self._judge.trust.wants_certificates,
        )

    def _sign_next(
        self, place: _Place, endpoint: str | None, metadata: Mapping[str, object], expires_ms: int, *, above: int
    ) -> Record:
        """The next version; a tombstone stays as long as what it stands against, whatever became of our clock since."""
        before = self._signed.get(place, _Signed())  # it may be forgotten by now, if we store very much at once
        latest_ms = max(before.expires_ms, expires_ms)
        # Behind the last one even if the clock was set back.
        seq = max(before.seq + 1, above + 1, self._wall_clock_ms())
        self._remember(place, _Signed(seq=seq, expires_ms=latest_ms, withdrawn=endpoint is None))
        return self._sign(place, endpoint, metadata, seq=seq, expires_ms=latest_ms if endpoint is None else expires_ms)

    def _remember(self, place: _Place, signed: _Signed) -> None:
        self._signed.pop(place, None)
        self._signed[place] = signed
        if len(self._signed) > SIGNED_MAX:
            del self._signed[next(iter(self._signed))]

    async def _sign_and_put(self, place: _Place, endpoint: str | None, metadata: Mapping[str, object]) -> StoreReport:
        ttl_ms = round(self._settings.value_ttl_s * 1000)
        expires_ms = 0 if endpoint is None else self._wall_clock_ms() + ttl_ms
        closest = await self._client.find_node(place[0])
        round_ = _Round()
        for _ in range(STORE_ATTEMPTS):
            record = self._sign_next(place, endpoint, metadata, expires_ms, above=round_.held_seq)
            round_ = await self._put(record, closest)
            time_ms = None if endpoint is None else self._correct_time_ms(round_)
            if time_ms is not None:
                expires_ms = time_ms + ttl_ms
            elif round_.held_seq < record.seq:
                break
        report = round_.report(record.key)
        self._events.emit(
            "dht.withdrawn" if endpoint is None else "dht.stored",
            key=record.key.hex(),
            kind=record.kind,
            replicas=[node_id.hex() for node_id in report.stored],
            refused=len(report.refused),
            unreachable=len(report.unreachable),
        )
        return report

    def _correct_time_ms(self, round_: _Round) -> int | None:
        """The time to sign by when a majority has refused a fresh value as expired; tells that our clock is wrong."""
        time_ms = majority_time_ms(round_.expired_at_ms, asked=len(round_.asked))
        if time_ms is None:
            return None
        witnesses = len(round_.expired_at_ms)
        seconds = round((time_ms - self._wall_clock_ms()) / 1000, 3)
        self._events.emit("dht.clock_skew", seconds=seconds, witnesses=witnesses, asked=len(round_.asked))
        return time_ms if witnesses >= WITNESSES_MIN else None

    async def _put(self, record: Record, closest: list[Contact]) -> _Round:
        """STORE at the closest nodes, all at once, and here when we are one of them."""
        round_ = _Round()
        targets = sorted(closest, key=lambda contact: distance(contact.node_id, record.key))[:K]
        if self._is_replica(record.key, targets):
            targets = targets[: K - 1]
            verdict = self._store.put(record, self._wall_clock_ms())
            round_.outcomes[self._own] = verdict.reason
            if verdict.held is not None:
                self._note_held(round_, record, verdict.held)
        round_.asked = tuple(contact.node_id for contact in targets)

        async def one(contact: Contact) -> None:
            try:
                reply = await self._client.put_at(contact, record)
            except QUERY_ERRORS:
                return  # it is missing among the outcomes
            self._note_reply(round_, contact.node_id, record, reply)

        async with trio.open_nursery() as nursery:
            for contact in targets:
                nursery.start_soon(one, contact, name=f"STORE {contact.node_id.short}")
        return round_

    def _is_replica(self, key: bytes, closest: list[Contact]) -> bool:
        if self._settings.leaf:
            return False
        return len(closest) < K or distance(self._own, key) < distance(closest[-1].node_id, key)

    def _note_reply(self, round_: _Round, node_id: NodeId, record: Record, reply: wire.StoreReply) -> None:
        if reply.result == "ok":
            round_.outcomes[node_id] = None
            return
        round_.outcomes[node_id] = clip(reply.reason or "refused")
        if reply.reason == "stale" and reply.value is not None:
            try:
                held = read_record(reply.value, realm=self._settings.realm, key=record.key)
            except (RemoteProtocolError, TrustError):
                return
            if held.node_id == self._own and held.kind == record.kind:
                self._note_held(round_, record, held)
        elif reply.reason == "expired" and reply.server_time is not None:
            # By an earlier time it is not expired, and by a later one than this nothing can be signed.
            longest_ms = COUNT_MAX - round(self._settings.value_ttl_s * 1000)
            if record.expires_ms <= reply.server_time <= longest_ms:
                round_.expired_at_ms.append(reply.server_time)

    def _note_held(self, round_: _Round, record: Record, held: Record) -> None:
        """Sign above a later version of ours, from before a restart or a step of the clock, that a replica holds."""
        if held.digest == record.digest:
            return  # it refuses what it shows that it has: nothing to sign above
        assert held.kind != ANY_KIND, "of an owner's own values, which are signed"
        place = (held.key, held.kind)
        signed = self._signed.get(place)
        if signed is None:
            signed = _Signed(seq=record.seq, expires_ms=record.expires_ms, withdrawn=record.withdrawn)
        # Whoever shows an old version makes us do nothing; but it exists, and a tombstone must outlive it.
        round_.held_seq = max(round_.held_seq, held.seq)
        seq, expires_ms = max(signed.seq, held.seq), max(signed.expires_ms, held.expires_ms)
        self._remember(place, attrs.evolve(signed, seq=seq, expires_ms=expires_ms))

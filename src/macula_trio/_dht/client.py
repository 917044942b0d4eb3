"""Asking the mesh: lookups over links, and repair of what they found (DESIGN section 8).

Whom to ask next is decided in ``lookup.py``, which value wins in ``storage.py``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from math import inf
from typing import Final, TypeVar

import attrs
import trio

from macula_trio._background import Background
from macula_trio._dht.lookup import Lookup, ValueLookup
from macula_trio._dht.storage import ValueStore, may_pass_on
from macula_trio._dht.table import K, RoutingTable, id_in_bucket
from macula_trio._events import EventBus
from macula_trio._identity.record import Kind, Record, judge_record, read_trusted, without_shadowed
from macula_trio._identity.trust import TrustJudge
from macula_trio._ids import ANY_KIND, ID_BYTES, Contact, NodeId
from macula_trio._util import clip, format_endpoint, may_tell, told_address
from macula_trio._wire import messages as wire
from macula_trio.abc import Link, LinkTransport, Message, ReplyT
from macula_trio.errors import NotSent, PeerUnavailable, RemoteProtocolError, TrustError

# Of at most 4 KiB, and 8 KiB of certificates, each: well inside a frame; more follow by ``after``.
VALUES_PER_REPLY: Final = 64
PAGES_MAX: Final = 64  # per node and lookup: 4,096 values, what one key may hold
PATIENCE_MIN_S: Final = 0.25  # for the last answers of a lookup, when nobody else is left to ask
PATIENCE_FACTOR: Final = 3  # or so many times what the slowest answer took: far nodes are not dead ones
OUTSIDERS_ASKED: Final = 3  # about a bucket that is empty, beside the bootstrap nodes; as many as a lookup asks at once
REPAIRS_MAX: Final = 32  # stale replicas under repair at once
CORRELATION_BYTES: Final = 16
PING_BYTES: Final = 7  # a PING's timestamp is a signed 64-bit integer

# What one question to one node may end in; the node is then noted as failed.
QUERY_ERRORS: Final = (PeerUnavailable, TrustError, RemoteProtocolError, trio.TooSlowError)

_T = TypeVar("_T")


@attrs.frozen
class Bootstrap:
    """A node to join by: its id if it is known, and ``host:port``, where the host may be a name."""

    node_id: NodeId | None
    endpoint: str


@attrs.frozen(kw_only=True)
class DhtSettings:
    """What of `NodeConfig` concerns the DHT.

    Attributes:
      endpoint: where others dial us, to begin with.
      bootstraps: the nodes to join by.
    """

    realm: str
    endpoint: str
    leaf: bool
    bootstraps: tuple[Bootstrap, ...]
    query_deadline_s: float
    value_ttl_s: float


class DhtClient:
    """Asks other nodes.

    Args:
      own: our id.
      transport: where links come from.
      table: whom we know; told who answered and who did not.
      store: what we hold ourselves.
      events: where values are told that nobody should believe.
      wall_clock_ms: Unix time, for expiry.
      random_bytes: for correlation ids.
      background: takes repairs.
      judge: whose values count.
      settings: see `DhtSettings`.
    """

    def __init__(
        self,
        *,
        own: NodeId,
        transport: LinkTransport,
        table: RoutingTable,
        store: ValueStore[Record],
        events: EventBus,
        wall_clock_ms: Callable[[], int],
        random_bytes: Callable[[int], bytes],
        background: Background,
        judge: TrustJudge,
        settings: DhtSettings,
    ) -> None:
        self._own = own
        self._transport = transport
        self._table = table
        self._store = store
        self._events = events
        self._wall_clock_ms = wall_clock_ms
        self._random_bytes = random_bytes
        self._background = background
        self._judge = judge
        self._settings = settings
        self._repairing = 0
        self.entry_points: dict[NodeId, Contact] = {}
        """Bootstrap nodes that have answered: asked even when they are not in the table."""
        self.alone: trio.Event = trio.Event()
        """Set when the table has lost its last node."""
        self.doubt: Callable[[Contact], None] = lambda _contact: None
        """Told of nodes that were silent in a lookup when everybody else had answered."""

    # -- one node -------------------------------------------------------------------------------------------------

    async def ping(self, target: Contact) -> float:
        """Round-trip time to a node over its link, in seconds."""
        link = await self._transport.link_to(target)
        started = trio.current_time()
        await link.ask(self.new_ping(), wire.Pong)
        return trio.current_time() - started

    def _new_id(self) -> bytes:
        return self._random_bytes(CORRELATION_BYTES)

    def new_ping(self) -> wire.Ping:
        """A PING that is unlike every other."""
        return wire.Ping(timestamp=int.from_bytes(self._random_bytes(PING_BYTES), "big"))

    async def attempt(self, contact: Contact, ask: Callable[[Link], Awaitable[_T]]) -> _T:
        """Ask one node within the query's deadline, and note whether it is alive.

        Raises:
          PeerUnavailable, TrustError, RemoteProtocolError, trio.TooSlowError: it did not answer.
        """
        try:
            with trio.fail_after(self._settings.query_deadline_s):
                answer = await ask(await self._transport.link_to(contact))
        except NotSent:
            raise  # our own limits say nothing about the node
        except QUERY_ERRORS:
            self._table.failed(contact.node_id)
            self.entry_points.pop(contact.node_id, None)
            self._notice_solitude()
            raise
        self._table.alive(contact.node_id, trio.current_time())
        return answer

    async def put_at(self, contact: Contact, record: Record) -> wire.StoreReply:
        """STORE a value, ours or another's, at one node.

        Raises:
          PeerUnavailable, TrustError, RemoteProtocolError, trio.TooSlowError: it did not answer.
        """
        value = record.to_value(self._wall_clock_ms())
        request = wire.Store(key=record.key, value=value, correlation_id=self._new_id())
        return await self.attempt(contact, partial(_ask, request, wire.StoreReply))

    def forget(self, node_id: NodeId) -> None:
        """A node has left: nobody is told of it any more."""
        self._table.remove(node_id)
        self.entry_points.pop(node_id, None)
        self._notice_solitude()

    def _notice_solitude(self) -> None:
        if not len(self._table) and not self.entry_points:
            self.alone.set()

    # -- lookups --------------------------------------------------------------------------------------------------

    async def refresh(self, index: int) -> None:
        """Look up a random id in the range of a bucket.

        A bucket may be empty here because it is empty in all nodes near us, as when many have joined at the same
        moment: a lookup would then ask only them, and find the range empty again, for ever.  So those farther off are
        asked first, of whom some know nodes in it.
        """
        target = id_in_bucket(self._own, index, self._random_bytes(ID_BYTES))
        outside = {contact.node_id: contact for contact in self._table.outside(index)[:OUTSIDERS_ASKED]}
        told: list[Contact] = []

        async def ask(contact: Contact) -> None:
            request = wire.FindNode(target=target, correlation_id=self._new_id())
            try:
                reply, teller = await self.attempt(contact, partial(_ask_and_see, request, wire.FindNodeReply))
            except QUERY_ERRORS:
                return  # noted by `attempt`
            told.extend(_contacts(reply.nodes, teller))

        async with trio.open_nursery() as nursery:
            for contact in (outside | self.entry_points if outside else {}).values():
                nursery.start_soon(ask, contact, name=f"ask {contact.node_id.short} about bucket {index}")
        await self.find_node(target, also=told)

    async def find_node(self, target: bytes, *, also: Iterable[Contact] = ()) -> list[Contact]:
        """The k nodes closest to ``target`` that answered, nearest first.

        Args:
          target: 32 bytes.
          also: nodes to begin with, beside those that we know.
        """
        require_key(target)
        lookup = Lookup(target, self._own, [*self._seeds(target), *also])

        async def query(contact: Contact) -> None:
            request = wire.FindNode(target=target, correlation_id=self._new_id())
            reply, teller = await self.attempt(contact, partial(_ask_and_see, request, wire.FindNodeReply))
            lookup.answered(contact.node_id, _contacts(reply.nodes, teller))

        await self._run(lookup, query)
        self._table.looked_up(target, trio.current_time())
        return lookup.closest()

    async def find_value(self, key: bytes, kind: Kind | None = None) -> list[Record]:
        """The verified values under ``key``: one per owner and kind, the newest each, without withdrawn ones.

        Under `Trust.unverified` also those of v0.8 that nobody has signed, which are of either kind; not of owners that
        have a signed one, be it withdrawn.
        """
        require_key(key)
        lookup = ValueLookup[Record](key, self._own, self._seeds(key))

        async def query(contact: Contact) -> None:
            values, nodes, complete = await self._ask_for_values(contact, key, kind)
            # Before they are compared: what is over must not hide what is not.
            now_ms = self._wall_clock_ms()
            alive = [record for record in values if record.expires_ms > now_ms]
            lookup.answered(contact.node_id, nodes, alive, complete=complete)

        await self._run(lookup, query)
        lookup.add_values(self._values_here(key, kind))
        now_ms = self._wall_clock_ms()
        found = [record for record in lookup.values() if record.expires_ms > now_ms]
        self._repair(lookup, [record for record in found if may_pass_on(record, now_ms)])
        return [record for record in without_shadowed(found) if not record.withdrawn]

    async def _ask_for_values(
        self, contact: Contact, key: bytes, kind: Kind | None
    ) -> tuple[list[Record], list[Contact], bool]:
        """What one node holds, page by page, each in a query's time; the nodes that it knows; whether that was all."""
        values: list[Record] = []
        nodes: list[Contact] = []
        after: bytes | None = None
        for page_number in range(PAGES_MAX):
            request = wire.FindValue(
                key=key, kind=kind, limit=VALUES_PER_REPLY, after=after, correlation_id=self._new_id()
            )
            try:
                reply, teller = await self.attempt(contact, partial(_ask_and_see, request, wire.FindValueReply))
            except QUERY_ERRORS:
                if not page_number:
                    raise
                break  # what came before counts
            page = self._verified(contact, key, kind, reply.value)
            values += page
            nodes = _contacts(reply.nodes, teller)
            if not reply.more:
                return values, nodes, True
            if not page or page[-1].node_id <= (after or b""):
                break  # who shows the same page again would show it for ever
            after = page[-1].node_id
        return values, nodes, False

    def _values_here(self, key: bytes, kind: Kind | None) -> list[Record]:
        values: list[Record] = []
        more, after = True, b""
        while more:
            page, more = self._store.get(key, self._wall_clock_ms(), kind=kind, after=after)
            values += filter(self.is_trusted, page)
            after = page[-1].node_id if page else after
        return values

    def is_trusted(self, record: Record) -> bool:
        """Whether the owner of a value that was believed once is still let in, by its certificate too."""
        try:
            judge_record(record, self._judge, self._wall_clock_ms())
        except TrustError:
            return False
        return True

    def _verified(
        self, teller: Contact, key: bytes, kind: Kind | None, values: tuple[Mapping[str, object], ...]
    ) -> list[Record]:
        found: list[Record] = []
        for value in values[:VALUES_PER_REPLY]:
            try:
                record = read_trusted(
                    value, realm=self._settings.realm, key=key, judge=self._judge, now_ms=self._wall_clock_ms()
                )
            except (RemoteProtocolError, TrustError) as exc:
                self._events.emit("dht.value_refused", peer=teller.node_id.hex(), key=key.hex(), reason=clip(str(exc)))
                continue
            if kind is None or record.kind in (kind, ANY_KIND):
                found.append(record)
        return found

    async def _run(self, lookup: Lookup | ValueLookup[Record], query: Callable[[Contact], Awaitable[None]]) -> None:
        """Drive a lookup to its end: as many queries in flight as it wants, no rounds.

        Who is silent when everybody else has answered is not awaited for the whole of a query's deadline: in a small
        mesh, or after many have died, every lookup meets the dead.
        """
        patience_s = PATIENCE_MIN_S
        in_flight: dict[Contact, None] = {}
        async with trio.open_nursery() as nursery:

            async def one(contact: Contact) -> None:
                nonlocal patience_s
                started = trio.current_time()
                in_flight[contact] = None
                try:
                    await query(contact)
                    patience_s = max(patience_s, PATIENCE_FACTOR * (trio.current_time() - started))
                except QUERY_ERRORS:
                    lookup.failed(contact.node_id)
                del in_flight[contact]  # not when cancelled: who is left here was given up
                go_on()

            def go_on() -> None:
                if lookup.done:
                    nursery.cancel_scope.cancel()
                for contact in lookup.next_queries():
                    nursery.start_soon(one, contact, name=f"ask {contact.node_id.short}")
                nursery.cancel_scope.deadline = trio.current_time() + patience_s if lookup.settled else inf

            go_on()
        if not lookup.done:
            for contact in in_flight:
                self.doubt(contact)

    def _seeds(self, target: bytes) -> list[Contact]:
        closest = self._table.closest(target)
        known = {contact.node_id: None for contact in closest}
        return closest + [contact for node_id, contact in self.entry_points.items() if node_id not in known]

    def _repair(self, lookup: ValueLookup[Record], newest: list[Record]) -> None:
        """Bring replicas up to date that answered with less than others, behind the scenes."""
        for contact, record in lookup.stale_holders(newest):
            if self._repairing >= REPAIRS_MAX:
                return
            task = f"repair {contact.node_id.short}"
            self._repairing += self._background.start_soon(self._repair_one, contact, record, name=task)

    async def _repair_one(self, contact: Contact, record: Record) -> None:
        try:
            await self.put_at(contact, record)
        except QUERY_ERRORS:
            pass  # noted by `attempt`; the next reader repairs it
        finally:
            self._repairing -= 1


async def _ask(request: Message, reply_type: type[ReplyT], link: Link) -> ReplyT:
    return await link.ask(request, reply_type)


async def _ask_and_see(request: Message, reply_type: type[ReplyT], link: Link) -> tuple[ReplyT, str]:
    """The reply, and the host that it came from."""
    return await link.ask(request, reply_type), link.peer_host


def require_key(key: bytes) -> None:
    """Raise `ValueError` for what is no key or id."""
    if len(key) != ID_BYTES:
        raise ValueError(f"a key or id has {ID_BYTES} bytes, not {len(key)}; dht_key() makes one of a name")


def _contacts(entries: tuple[wire.NodeEntry, ...], teller: str) -> list[Contact]:
    """What a peer told of others; what cannot be dialed, or what it has no business to know, is left out."""
    contacts: list[Contact] = []
    for entry in entries[:K]:
        try:
            address = told_address(entry.address, teller)
        except ValueError:
            continue
        if may_tell(teller, address):
            contacts.append(Contact(node_id=NodeId(entry.node_id), endpoint=format_endpoint(address)))
    return contacts

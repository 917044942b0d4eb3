"""The DHT over the network: joins, finds nodes and values, stores, answers others (DESIGN section 8).

Puts the parts together, and keeps the routing table.  Decides nothing about whom to ask next or which value wins: that
is ``lookup.py``, ``table.py`` and ``storage.py``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final

import trio

from macula_trio._background import Background
from macula_trio._dht.advertiser import Advertiser
from macula_trio._dht.client import QUERY_ERRORS, DhtClient, DhtSettings
from macula_trio._dht.handover import HandOver
from macula_trio._dht.joining import Joining
from macula_trio._dht.kept import keeper, reload
from macula_trio._dht.owner import ValueOwner
from macula_trio._dht.server import DhtServer
from macula_trio._dht.storage import ValueStore
from macula_trio._dht.table import RoutingTable
from macula_trio._events import EventBus
from macula_trio._identity.keys import Credentials
from macula_trio._identity.record import Kind, Record
from macula_trio._identity.trust import TrustJudge
from macula_trio._ids import Advert, Contact, NodeId, distance
from macula_trio._peer.handshake import LEAF
from macula_trio._util import (
    format_endpoint,
    is_link_local,
    may_tell,
    numeric_endpoint,
    parse_endpoint,
    scope_of,
    told_address,
    without_scope,
)
from macula_trio._wire import messages as wire
from macula_trio.abc import Link, LinkTransport, Redialer, Storage
from macula_trio.errors import PeerUnavailable, TrustError

CHECKS_MAX: Final = 32  # nodes whose endpoint is being dialed, or whose life is doubted, at once
UNPROVEN_MAX: Final = 8192  # more than the table holds
PASSING_MAX: Final = 32  # values of v0.8 clients on their way to the nodes near their keys; each takes a lookup
NAMES_MAX: Final = 16  # of v0.8's endpoints resolved for one answer: strangers may write as many as they like
REFRESH_FIRST_S: Final = 1.0  # neighbours that joined together find each other in their first seconds
REFRESH_S: Final = 600.0  # Kademlia's bucket refresh; also the ceiling of the growing pause


class DhtService:
    """Our part of the DHT.

    Attributes:
      client: asks other nodes.
      owner: stores and withdraws our values.

    Args:
      credentials: sign our values.
      transport: where links come from.
      events: where joins and stores are told.
      wall_clock_ms: Unix time, for expiry.
      random_bytes: for correlation ids and refresh targets.
      random_fraction: a random number in [0, 1), for jitter.
      resolve: gives the numeric form of an endpoint that names its host; raises `OSError`.
      judge: whose values count.
      settings: see `DhtSettings`.
      storage: keeps the values that we hold over a restart.
      background: takes what goes on behind the scenes; `serve` owns it.
      redialer: dials nodes again by which we have joined; None when no links are kept.
    """

    def __init__(
        self,
        *,
        credentials: Credentials,
        transport: LinkTransport,
        events: EventBus,
        wall_clock_ms: Callable[[], int],
        random_bytes: Callable[[int], bytes],
        random_fraction: Callable[[], float],
        resolve: Callable[[str], Awaitable[Sequence[str]]],
        judge: TrustJudge,
        settings: DhtSettings,
        storage: Storage,
        background: Background | None = None,
        redialer: Redialer | None = None,
    ) -> None:
        self._own = credentials.node_id
        self._transport = transport
        self._events = events
        self._wall_clock_ms = wall_clock_ms
        self._random_bytes = random_bytes
        self._random_fraction = random_fraction
        self._judge = judge
        self._settings = settings
        self._table = RoutingTable(self._own)
        self._values = ValueStore[Record](keeper(storage))
        reload(self._values, storage, realm=settings.realm, judge=judge, now_ms=wall_clock_ms())
        self._checking: dict[NodeId, None] = {}
        self._unproven: dict[NodeId, None] = {}  # nodes that entered the table without a proof
        self._passing = 0
        self._resolve = resolve
        self._is_telling = self._has_to_tell = False  # our neighbours, that we have moved
        self._background = background or Background()
        self.client: DhtClient = DhtClient(
            own=self._own,
            transport=transport,
            table=self._table,
            store=self._values,
            events=events,
            wall_clock_ms=wall_clock_ms,
            random_bytes=random_bytes,
            background=self._background,
            judge=judge,
            settings=settings,
        )
        self.client.doubt = lambda contact: self._start_check(contact, self._check_alive)
        self.owner: ValueOwner = ValueOwner(
            credentials=credentials,
            client=self.client,
            store=self._values,
            events=events,
            wall_clock_ms=wall_clock_ms,
            judge=judge,
            settings=settings,
        )
        self._hand_over = HandOver(
            own=self._own,
            client=self.client,
            table=self._table,
            store=self._values,
            wall_clock_ms=wall_clock_ms,
            background=self._background,
        )
        self._server = DhtServer(
            transport=transport,
            table=self._table,
            store=self._values,
            events=events,
            wall_clock_ms=wall_clock_ms,
            realm=settings.realm,
            judge=judge,
            leaf=settings.leaf,
            pass_on=self._pass_on,
        )
        self._joining = Joining(
            own=self._own,
            bootstraps=[entry for entry in settings.bootstraps if entry.endpoint != settings.endpoint],
            transport=transport,
            client=self.client,
            table=self._table,
            events=events,
            random_fraction=random_fraction,
            resolve=resolve,
            background=self._background,
            redialer=redialer,
        )
        self._advertiser = Advertiser(
            put=self.owner.store,
            withdraw=self.owner.withdraw,
            check=self.owner.require_storable,
            ttl_s=settings.value_ttl_s,
            random_fraction=random_fraction,
        )

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Join, and own everything that goes on behind the scenes, until cancelled."""
        await self._background.serve(self._stay, task_status=task_status)

    async def wait_joined(self) -> None:
        """Wait until another node was found, or there is none to look for."""
        await self._joining.wait_joined()

    async def wait_joined_or_refused(self) -> None:
        """The same, but do not wait for nodes that have all refused us, or that we cannot reach from our socket.

        Raises:
          TrustError: they have.
          PeerUnavailable: we cannot.
        """
        await self._joining.wait_joined_or_refused()

    def join_failures(self) -> Mapping[str, str]:
        """Why bootstrap nodes could not be joined by when they were last dialed, by endpoint as configured."""
        return self._joining.failures

    async def wait_withdrawn(self) -> None:
        """Withdraw what is still advertised and wait for it."""
        await self._advertiser.wait_withdrawn()

    async def hand_over_all(self) -> None:
        """Give the values that we hold for others to nodes that stay."""
        await self._hand_over.give_all()

    def known_nodes(self) -> list[Contact]:
        """The routing table, nearest first."""
        return self._table.closest(self._own, len(self._table))

    def closest(self, target: bytes) -> list[Contact]:
        """The k nodes of the routing table closest to an id or key, nearest first; asks nobody."""
        return self._table.closest(target)

    def stored_values(self) -> list[Record]:
        """What we hold."""
        return list(self._values.items(self._wall_clock_ms()))

    def renew(self, credentials: Credentials) -> None:
        """Store what we advertise again, with another certificate chain of the same key."""
        self.owner.renew(credentials)
        self._advertiser.renew_all()

    def move(self, endpoint: str) -> None:
        """Be found at another endpoint: what we advertise is stored anew, and those who know us are told."""
        self.owner.move(endpoint)
        self._advertiser.renew_all()
        self._has_to_tell = not self._settings.leaf
        if self._has_to_tell and not self._is_telling:
            self._is_telling = self._background.start_soon(self._tell_neighbours, name="tell our neighbours")

    async def _tell_neighbours(self) -> None:
        """Dial those who are asked for us anew: a CONNECT says where we are, from there, so they need no more.

        One round after the other: a dial that is under way may have said what was true before.
        """
        while self._has_to_tell:
            self._has_to_tell = False
            neighbours = {contact.node_id: contact for contact in self._table.closest(self._own)}
            async with trio.open_nursery() as nursery:
                for contact in (neighbours | self.client.entry_points).values():
                    nursery.start_soon(self._tell_neighbour, contact, name=f"tell {contact.node_id.short}")
        self._is_telling = False

    async def _tell_neighbour(self, contact: Contact) -> None:
        try:
            with trio.move_on_after(self._settings.query_deadline_s):
                await self._transport.dial_endpoint(contact.endpoint, expected=contact.node_id)
        except (PeerUnavailable, TrustError):
            pass  # it learns of us when it or we need the other

    def judge_again(self) -> None:
        """Forget the nodes and drop the values that the trust policy lets in no more."""
        for contact in self._table.contacts():
            try:
                self._judge.judge_id(contact.node_id)
            except TrustError:
                self.client.forget(contact.node_id)
        self._values.drop(lambda record: not self.client.is_trusted(record))

    # -- who is there -------------------------------------------------------------------------------------------

    def link_opened(self, link: Link) -> None:
        """A link became live: its node enters the table once its endpoint is known to reach it."""
        if link.node_id is not None and not link.verified and link.dialed_endpoint is not None:
            self._add_unproven(Contact(node_id=link.node_id, endpoint=link.dialed_endpoint))
            return
        if link.node_id is None or link.endpoint is None or LEAF in link.capabilities:
            return
        if not link.verified and self._table.get(link.node_id) is not None and link.node_id not in self._unproven:
            return
        if link.verified and link.proven_endpoint is not None:
            self._unproven.pop(link.node_id, None)
            self._add(Contact(node_id=link.node_id, endpoint=link.proven_endpoint))
            return
        try:
            address = told_address(link.endpoint, link.peer_host)
        except ValueError:
            return
        claimed = Contact(node_id=link.node_id, endpoint=format_endpoint(address))
        if not may_tell(link.peer_host, address):
            self._events.emit("dht.endpoint_refuted", peer=claimed.node_id.hex(), endpoint=claimed.endpoint)
        elif self._table.get(link.node_id) != claimed:
            self._start_check(claimed, self._verify_endpoint)

    def link_closed(self, link: Link) -> None:
        """A link ended: a node that has left is not handed out to others any more."""
        self._server.link_closed(link)
        if (
            link.verified
            and link.peer_is_leaving
            and link.node_id is not None
            and self._transport.live_link(link.node_id) is None
        ):
            self.client.forget(link.node_id)

    def _add_unproven(self, contact: Contact) -> None:
        """A v0.8 node that answered where we dialed it, under `Trust.unverified`; never in place of a proven one."""
        if contact.node_id not in self._table or contact.node_id in self._unproven:
            self._unproven[contact.node_id] = None
            while len(self._unproven) > UNPROVEN_MAX:  # those that are no longer in the table, too
                del self._unproven[next(iter(self._unproven))]
            self._add(contact)

    def _add(self, contact: Contact) -> None:
        was_known = contact.node_id in self._table
        doubtful = self._table.add(contact, trio.current_time())
        self._joining.met()
        if not was_known and contact.node_id in self._table:
            self._hand_over.begin(contact)
        if doubtful is not None:
            self._start_check(doubtful, self._check_alive)

    def _start_check(self, contact: Contact, check: Callable[[Contact], Awaitable[None]]) -> None:
        if contact.node_id in self._checking or len(self._checking) >= CHECKS_MAX:
            return  # nothing is lost: the next contact with the node starts it again
        if self._background.start_soon(check, contact, name=f"check {contact.endpoint}"):
            self._checking[contact.node_id] = None

    async def _verify_endpoint(self, claimed: Contact) -> None:
        """Dial the endpoint that a node announces; the new link's own `link_opened` enters it into the table."""
        try:
            with trio.move_on_after(self._settings.query_deadline_s):
                await self._transport.dial_endpoint(claimed.endpoint, expected=claimed.node_id)
        except (PeerUnavailable, TrustError):
            self._events.emit("dht.endpoint_refuted", peer=claimed.node_id.hex(), endpoint=claimed.endpoint)
        finally:
            del self._checking[claimed.node_id]

    async def _check_alive(self, contact: Contact) -> None:
        try:
            await self.client.attempt(contact, lambda link: link.ask(self.client.new_ping(), wire.Pong))
        except QUERY_ERRORS:
            pass  # noted by `attempt`
        finally:
            del self._checking[contact.node_id]

    # -- the directory of calls and messages ------------------------------------------------------------------------

    async def find(self, key: bytes, kind: Kind) -> list[Advert]:
        """The nodes that have advertised under a key, nearest to the key first."""
        records = await self.client.find_value(key, kind)
        records.sort(key=lambda record: distance(record.node_id, key))
        numeric = await self._resolve_names(records)
        adverts: list[Advert] = []
        for record in records:
            assert record.endpoint is not None  # withdrawn ones are left out
            endpoint = numeric.get(record.node_id) or self._scoped(record.node_id, record.endpoint)
            adverts.append(Advert(contact=Contact(node_id=record.node_id, endpoint=endpoint), metadata=record.metadata))
        return adverts

    async def _resolve_names(self, records: Sequence[Record]) -> dict[NodeId, str]:
        """Numeric endpoints of unsigned values, whose owners write names as they like; what has none is left out.

        Only under `Trust.unverified`: no other policy lets a peer make us ask DNS.
        """
        found: dict[NodeId, str] = {}

        async def resolve(owner: NodeId, endpoint: str) -> None:
            with contextlib.suppress(OSError, ValueError):  # dialing says what is wrong with it
                with trio.move_on_after(self._settings.query_deadline_s):
                    found[owner] = (await self._resolve(endpoint))[0]

        unsigned = [record for record in records if not record.signed][:NAMES_MAX]
        if unsigned:
            async with trio.open_nursery() as nursery:
                for record in unsigned:
                    nursery.start_soon(resolve, record.node_id, record.endpoint or "", name="resolve an endpoint")
        return found

    def _pass_on(self, record: Record) -> None:
        """Bring what a v0.8 client has stored here to the nodes near its key, where others look for it."""
        task = f"pass on a value of {record.node_id.short}"
        if self._passing < PASSING_MAX and self._background.start_soon(self._pass_on_now, record, name=task):
            self._passing += 1
        else:
            self._events.emit("dht.value_not_passed_on", key=record.key.hex(), owner=record.node_id.hex())

    async def _pass_on_now(self, record: Record) -> None:
        async def put(contact: Contact) -> None:
            with contextlib.suppress(*QUERY_ERRORS):  # noted by `attempt`; the client stores it again
                await self.client.put_at(contact, record)

        try:
            closest = await self.client.find_node(record.key)
            async with trio.open_nursery() as nursery:
                for contact in closest:
                    nursery.start_soon(put, contact, name=f"STORE {contact.node_id.short}")
        finally:
            self._passing -= 1

    def _scoped(self, owner: NodeId, endpoint: str) -> str:
        """The endpoint of a value; a link-local one with the scope by which we know its owner, or else everybody.

        A value is the same for all who hold it, so it cannot say on which of our links its owner is.
        """
        try:
            host, port = numeric_endpoint(endpoint)
        except ValueError:
            return endpoint  # dialing says what is wrong with it
        if not is_link_local(host):
            return endpoint
        known = self._table.get(owner)
        contacts = self._table.contacts() if known is None else [known]
        scopes = {scope_of(parse_endpoint(contact.endpoint)[0]) for contact in contacts} - {None}
        return f"[{without_scope(host)}%{scopes.pop()}]:{port}" if len(scopes) == 1 else endpoint

    def advertised(self, key: bytes, kind: Kind, metadata: Mapping[str, object]) -> AbstractAsyncContextManager[None]:
        """Be found under a key for the length of the block."""
        self.owner.require_storable(key, kind, metadata)
        return self._advertiser.advertised(self._background, key, kind, metadata)

    # -- joining and staying --------------------------------------------------------------------------------------

    async def _stay(self) -> None:
        self._background.start_soon(self._refresh, name="refresh")
        await self._joining.keep_joined(self._advertiser.renew_all)

    async def _refresh(self) -> None:
        """Look ourselves and quiet buckets up again, at growing intervals (Kademlia, section 2.3)."""
        await self._joining.joined.wait()
        pause_s = REFRESH_FIRST_S
        while True:
            await trio.sleep(pause_s * (1 - 0.2 * self._random_fraction()))
            pause_s = min(2 * pause_s, REFRESH_S)
            self._values.expire(self._wall_clock_ms())
            self.judge_again()  # certificates of owners expire too
            await self.client.find_node(self._own)
            for index in self._table.stale_buckets(trio.current_time(), REFRESH_S):
                await self.client.refresh(index)

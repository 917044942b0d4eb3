"""Values for nodes that become responsible for them (DESIGN 8).

Who enters among the replicas of a key is sent what we hold under it.  When we leave, the node that takes our place
among them is sent it, and the one nearest to the key, which readers ask first: we may have been the only one to hold
it.  To ask them what they lack would cost as much as to send it.

A value goes on as its owner signed it, so it ends when it would have; and what might never end is not passed on
(`macula_trio._dht.storage.may_pass_on`).  What is left out here, the next reader repairs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from macula_trio._background import Background
from macula_trio._dht.client import QUERY_ERRORS, DhtClient
from macula_trio._dht.storage import ValueStore, may_pass_on
from macula_trio._dht.table import RoutingTable
from macula_trio._identity.record import Record
from macula_trio._ids import Contact, NodeId, distance

NEWCOMERS_MAX: Final = 16  # served at once, each by one STORE after the other: it has its own work to do
WAITING_MAX: Final = 1024  # newcomers that are served or wait for their turn
VALUES_MAX: Final = 512  # for one newcomer; far less than it takes from one peer in a while (quota.py)
KEYS_PER_STEP: Final = 32  # looked through before others get their turn: a millisecond or two, if they are near us
# Until a node that has left and come again is served once more: looking through 65,536 keys takes seconds, and coming
# again takes a handshake.
SERVED_PAUSE_S: Final = 60.0
SERVED_MAX: Final = 4096  # nodes of which that is remembered; who was served first is forgotten first
HEIRS_TRIED_MAX: Final = 3  # of those nearest to a key: one may have left a moment ago, and its goodbye be on its way
GIVEN_AT_ONCE: Final = 32  # values that are sent when we leave: a thousand of them take a few dozen round trips


class HandOver:
    """Sends newcomers their values, and when we leave all values to those who stay.

    Args:
      own: our id.
      client: reaches them.
      table: who is near to what.
      store: what we hold.
      wall_clock_ms: Unix time, for expiry.
      background: takes the work.
    """

    def __init__(
        self,
        *,
        own: NodeId,
        client: DhtClient,
        table: RoutingTable,
        store: ValueStore[Record],
        wall_clock_ms: Callable[[], int],
        background: Background,
    ) -> None:
        self._own = own
        self._client = client
        self._table = table
        self._store = store
        self._wall_clock_ms = wall_clock_ms
        self._background = background
        self._serving: dict[NodeId, None] = {}
        self._served: dict[NodeId, float] = {}
        self._limiter = trio.CapacityLimiter(NEWCOMERS_MAX)

    def begin(self, newcomer: Contact) -> None:
        """A node has entered the table."""
        if not len(self._store) or newcomer.node_id in self._serving or len(self._serving) >= WAITING_MAX:
            return
        if self._was_served(newcomer.node_id, trio.current_time()):
            return
        if self._background.start_soon(self._serve, newcomer, name=f"hand over to {newcomer.node_id.short}"):
            self._serving[newcomer.node_id] = None

    def _was_served(self, node_id: NodeId, now: float) -> bool:
        """Whether it was a short while ago; if not, it is from now on."""
        served_at = self._served.get(node_id)
        if served_at is not None and now - served_at < SERVED_PAUSE_S:
            return True
        self._served.pop(node_id, None)
        if len(self._served) >= SERVED_MAX:
            del self._served[next(iter(self._served))]
        self._served[node_id] = now
        return False

    async def _serve(self, newcomer: Contact) -> None:
        try:
            async with self._limiter:
                await self._send_all(newcomer)
        except QUERY_ERRORS:
            pass  # noted by `DhtClient.attempt`
        finally:
            del self._serving[newcomer.node_id]

    async def _send_all(self, newcomer: Contact) -> None:
        left = VALUES_MAX
        for number, key in enumerate(self._store.keys(), 1):
            if not number % KEYS_PER_STEP:
                await trio.lowlevel.checkpoint()
            if not self._table.owes(key, newcomer.node_id):
                continue
            for record in self._worth_passing_on(key)[:left]:
                left -= 1
                if (await self._client.put_at(newcomer, record)).reason == "rate":
                    return
            if not left:
                return

    def _worth_passing_on(self, key: bytes) -> list[Record]:
        now_ms = self._wall_clock_ms()
        records, _ = self._store.get(key, now_ms)
        return [record for record in records if may_pass_on(record, now_ms)]

    # -- when we leave -------------------------------------------------------------------------------------------------

    async def give_all(self) -> None:
        """Send every value to those who become responsible for it; whoever does not answer is asked no more."""
        keys = self._store.keys()
        deaf: set[NodeId] = set()
        send, receive = trio.open_memory_channel[tuple[Record, list[Contact]]](0)
        async with trio.open_nursery() as nursery, send, receive:
            for _ in range(min(GIVEN_AT_ONCE, len(keys))):
                nursery.start_soon(self._give_each, receive.clone(), deaf, name="hand over values")
            for key in keys:
                await trio.lowlevel.checkpoint()
                if worth := self._worth_giving(key):
                    for heirs in self._heirs(key):
                        for record in worth:
                            await send.send((record, heirs))

    async def _give_each(
        self, receive: trio.MemoryReceiveChannel[tuple[Record, list[Contact]]], deaf: set[NodeId]
    ) -> None:
        async with receive:
            async for record, heirs in receive:
                for heir in heirs:
                    if heir.node_id not in deaf and await self._give(record, heir, deaf):
                        break

    async def _give(self, record: Record, heir: Contact, deaf: set[NodeId]) -> bool:
        """Whether a node has taken a value, or need not; those who have not will get no other one either."""
        try:
            reply = await self._client.put_at(heir, record)
        except QUERY_ERRORS:
            deaf.add(heir.node_id)
            return False
        if reply.reason == "rate":
            deaf.add(heir.node_id)
        return reply.reason in {None, "stale"}

    def _heirs(self, key: bytes) -> list[list[Contact]]:
        """Who must get what lies under a key: of each list the first who takes it.

        The nearest of those who stay, and who is the last replica without us if that is somebody else.
        """
        others = self._table.closest(key)
        if not others:
            return []
        nearest, last = others[:HEIRS_TRIED_MAX], others[-1]
        takes_our_place = distance(self._own, key) < distance(last.node_id, key)
        return [nearest, [last]] if takes_our_place and last != others[0] else [nearest]

    def _worth_giving(self, key: bytes) -> list[Record]:
        """What is not ours, which we have withdrawn ourselves, and is not withdrawn, as all others know as well."""
        return [r for r in self._worth_passing_on(key) if not r.withdrawn and r.node_id != self._own]

"""What others ask of us: the nodes that we know, the values that we hold, and to hold theirs (DESIGN section 8).

Runs in the callbacks of links: nothing here waits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import trio

from macula_trio._dht.client import VALUES_PER_REPLY
from macula_trio._dht.quota import Peer, PeerQuotas, Request
from macula_trio._dht.storage import ValueStore
from macula_trio._dht.table import K, RoutingTable
from macula_trio._events import EventBus
from macula_trio._identity.record import Record, read_trusted, without_shadowed
from macula_trio._identity.trust import TrustJudge
from macula_trio._util import clip, tellable_endpoint
from macula_trio._wire import messages as wire
from macula_trio.abc import Link, LinkTransport
from macula_trio.errors import ErrorCode, RemoteProtocolError, TrustError


class DhtServer:
    """Answers other nodes.

    Args:
      transport: where links come from.
      table: whom we know.
      store: what we hold.
      events: where values and refusals are told.
      wall_clock_ms: Unix time, for expiry.
      realm: for which values must be signed.
      judge: whose values count.
      leaf: whether we hold nothing.
      pass_on: called with an unsigned value that was taken from a peer which proves nothing.
    """

    def __init__(
        self,
        *,
        transport: LinkTransport,
        table: RoutingTable,
        store: ValueStore[Record],
        events: EventBus,
        wall_clock_ms: Callable[[], int],
        realm: str,
        judge: TrustJudge,
        leaf: bool,
        pass_on: Callable[[Record], None],
    ) -> None:
        self._transport = transport
        self._table = table
        self._store = store
        self._events = events
        self._wall_clock_ms = wall_clock_ms
        self._realm = realm
        self._judge = judge
        self._leaf = leaf
        self._pass_on = pass_on
        self._quotas = PeerQuotas()
        transport.handle(wire.FindNode, self._on_find_node)
        transport.handle(wire.FindValue, self._on_find_value)
        transport.handle(wire.Store, self._on_store)

    def link_closed(self, link: Link) -> None:
        """A link ended; with a peer's last one its allowance is forgotten."""
        if not link.verified or link.node_id is None or self._transport.live_link(link.node_id) is None:
            self._quotas.forget(_peer(link))

    def _may_ask(self, link: Link) -> bool:
        """Whether a query is answered: no more than the peer reads, for an answer is a thousand times its question."""
        return self._is_within_quota(link, "query") and not link.is_congested

    def _is_within_quota(self, link: Link, request: Request) -> bool:
        peer = _peer(link)
        refusals = self._quotas.refusals(peer, request, trio.current_time())
        # Told at the 1st, 2nd, 4th, 8th ...: who floods us must not flood those who listen to our events.
        if refusals and not refusals & (refusals - 1):
            name = peer if isinstance(peer, str) else peer.hex()
            self._events.emit("dht.rate_limited", peer=name, request=request, refused=refusals)
        return not refusals

    def _on_find_node(self, link: Link, query: wire.FindNode) -> None:
        if self._may_ask(link):
            nodes = self._entries(query.target, link)
            link.send_nowait(wire.FindNodeReply(nodes=nodes, correlation_id=query.correlation_id))

    def _on_find_value(self, link: Link, query: wire.FindValue) -> None:
        if not self._may_ask(link):
            return
        limit = min(query.limit or VALUES_PER_REPLY, VALUES_PER_REPLY)
        now_ms = self._wall_clock_ms()
        records, more = self._store.get(query.key, now_ms, kind=query.kind, limit=limit, after=query.after or b"")
        values = [record.to_value(now_ms) for record in without_shadowed(records)]
        if query.correlation_id is None:
            values = [_for_old(value, now_ms) for value in values if value["endpoint"] is not None]
        link.send_nowait(
            wire.FindValueReply(
                result="value" if values else "nodes",
                value=tuple(values),
                nodes=self._entries(query.key, link),
                more=more,
                correlation_id=query.correlation_id,
            )
        )

    def _on_store(self, link: Link, request: wire.Store) -> None:
        reason: str | None = "rate"
        held: Record | None = None
        if self._is_within_quota(link, "store"):
            reason, held = self._accept_value(link, request.key, request.value)
        link.send_nowait(
            wire.StoreReply(
                result="ok" if reason is None else "error",
                reason=reason,
                value=None if held is None else held.to_value(),
                server_time=self._wall_clock_ms(),
                correlation_id=request.correlation_id,
            )
        )

    def _accept_value(self, link: Link, key: bytes, value: Mapping[str, object]) -> tuple[str | None, Record | None]:
        """Store what a peer sent; gives the reason of a refusal, and what we hold instead."""
        if self._leaf:
            return "leaf", None
        now_ms = self._wall_clock_ms()
        try:
            record = read_trusted(value, realm=self._realm, key=key, judge=self._judge, now_ms=now_ms)
        except (RemoteProtocolError, TrustError) as exc:
            peer = None if link.node_id is None else link.node_id.hex()
            self._events.emit("dht.value_refused", peer=peer, key=key.hex(), reason=clip(str(exc)))
            reason = _reason(exc)
            if reason != "untrusted":  # what one trusts and another does not is no lie
                self._quotas.forged(_peer(link))
            return reason, None
        verdict = self._store.put(record, now_ms)
        self._events.emit(
            "dht.value_received",
            key=key.hex(),
            kind=record.kind,
            owner=record.node_id.hex(),
            withdrawn=record.withdrawn,
            outcome=verdict.reason or "stored",
        )
        # Only what v0.8 itself brings: what came from one of our nodes was passed on by it, and goes no further.
        if verdict.stored and not record.signed and not link.verified:
            self._pass_on(record)
        return verdict.reason, verdict.held

    def _entries(self, target: bytes, link: Link) -> tuple[wire.NodeEntry, ...]:
        found = self._table.closest(target, K + 1)
        return tuple(
            wire.NodeEntry(node_id=contact.node_id, address=endpoint)
            for contact in found
            if contact.node_id != link.node_id
            and (endpoint := tellable_endpoint(contact.endpoint, link.peer_host)) is not None
        )[:K]


def _for_old(value: dict[str, object], now_ms: int) -> dict[str, object]:
    """A value for a peer of v0.8, which knows nothing of dates; and nothing of tombstones, which it is not shown."""
    expires_ms = value.get("expires_ms")
    return value | {"ttl": max(0, expires_ms - now_ms) // 1000} if isinstance(expires_ms, int) else value


def _reason(error: RemoteProtocolError | TrustError) -> str:
    if isinstance(error, RemoteProtocolError):
        return "malformed"
    return "untrusted" if error.code is ErrorCode.UNTRUSTED else "bad_signature"


def _peer(link: Link) -> Peer:
    return link.node_id if link.verified and link.node_id is not None else link.peer_host

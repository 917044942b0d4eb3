"""A node as its users see it: what can be done with a member of the mesh.

Says what each operation means, and leaves it to the service that does it.  How a node is put together is in
``_composition.py``, how it begins and ends in ``_open.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager

import trio

from macula_trio._authorisation import Allowance, read_rule
from macula_trio._composition import Services
from macula_trio._config import NodeConfig, Role
from macula_trio._dht.owner import StoreReport
from macula_trio._drain import Drain, Stage
from macula_trio._health import HealthReport
from macula_trio._identity.keys import Credentials
from macula_trio._identity.record import Kind, Record
from macula_trio._ids import Contact, NodeId, dht_key
from macula_trio._net.quic import QuicEndpoint
from macula_trio._peer.handshake import LEAF
from macula_trio._peer.link import QuicLink
from macula_trio._pubsub.publisher import PublishReport
from macula_trio._pubsub.subscription import Subscription, WhenFull
from macula_trio._rpc.offer import Handler
from macula_trio._trust import Trust
from macula_trio._upkeep import Upkeep
from macula_trio._util import validate_name
from macula_trio._views import EventStream, NodeStatistics, PeerInfo
from macula_trio._wire.codec import encode_frame
from macula_trio._wire.frame import MessageType
from macula_trio.errors import PeerUnavailable, no_answer


class Node:
    """A member of the mesh; made by `open_node`, alive for its block."""

    def __init__(self, config: NodeConfig, services: Services, quic: QuicEndpoint, drain: Drain) -> None:
        self._config = config
        self._quic = quic
        self._events = services.events
        self._party = services.party
        self._registry = services.registry
        self._confirmations = services.confirmations
        self._sender = services.sender
        self._transport = services.transport
        self._dht = services.dht
        self._rpc = services.rpc
        self._pubsub = services.pubsub
        self._router = services.router
        self._health = services.health
        self._membership = services.membership
        self._upkeep = Upkeep(
            services.party,
            quic=quic,
            registry=services.registry,
            dht=services.dht,
            events=services.events,
            wall_clock_ms=services.wall_clock_ms,
        )
        self._drain = drain
        self._event_streams: dict[EventStream, None] = {}

    # -- who we are -------------------------------------------------------------------------------------------------

    @property
    def node_id(self) -> NodeId:
        """Our id: the hash of our public key."""
        return self._party.credentials.node_id

    @property
    def identity(self) -> Credentials:
        """Our key and the certificate chain that we show."""
        return self._party.credentials

    @property
    def endpoint(self) -> str:
        """``host:port`` where others dial us.

        It changes while a node that listens on a wildcard, without ``advertise``, moves (event ``endpoint.changed``).
        """
        assert self._party.endpoint is not None
        return self._party.endpoint

    @property
    def realm(self) -> str:
        """The mesh that we belong to."""
        return self._config.realm

    @property
    def role(self) -> Role:
        """``bootstrap``, ``gateway`` or ``edge``."""
        return self._config.role

    # -- calls --------------------------------------------------------------------------------------------------------

    def advertise(
        self,
        procedure: str,
        handler: Handler,
        *,
        metadata: Mapping[str, object] | None = None,
        allow: Iterable[NodeId] | Callable[[NodeId], bool] | None = None,
        allow_routed: bool = False,
    ) -> AbstractAsyncContextManager[None]:
        """Offer a procedure to the mesh for the length of the block.

        Entering returns when the nodes closest to the procedure's DHT key have answered, so that a call made
        afterwards from anywhere finds us.  Leaving is prompt: calls that still run are cancelled, and the withdrawal
        runs behind the scenes.

        Args:
          procedure: dotted name.
          handler: ``async def handler(call: Call) -> object``; what it returns is JSON-like or bytes.  It runs in a
            task of the node under the caller's deadline.  `Reject` is an answer; any other exception becomes
            ``internal_error`` at the caller.
          metadata: small map kept in the DHT beside the advertisement.
          allow: who may call, ourselves apart, who always may: None for everybody whom the trust policy lets in, ids,
            or a plain function of the caller's id, which is called at once for every call and must not block.  All
            others get the error ``forbidden`` before anything of their call is read; so does who has proven nothing,
            and everybody while the function fails.
          allow_routed: take also calls that came through another node, whose ``Call.caller`` is None because nobody
            can prove it (never together with ``allow``); always on under `Trust.unverified`.  A caller that cannot
            reach us directly then lets the nodes that it knows carry its call; the advertisement says so.

        Raises:
          AlreadyAdvertised: this node has a handler for it.
          ValueError: not a valid name, or ``allow`` is none of these.
          trio.ClosedResourceError: the node is draining, or has left.
        """
        self._require_taking()
        allowance = Allowance[()](read_rule(allow, what="allow"))
        return self._rpc.advertise(
            procedure, handler, metadata=metadata or {}, allowance=allowance, allow_routed=allow_routed
        )

    async def call(
        self,
        procedure: str,
        args: object = None,
        *,
        headers: Mapping[str, str] | None = None,
        select: str = "random",
        idempotent: bool = False,
    ) -> object:
        """Call a procedure somewhere in the mesh and return what its handler returned.

        The remaining time of your cancel scope travels with the call; when it expires, or when you are cancelled
        otherwise, the handler is cancelled too.  Outside any deadline ``call_timeout_default_s`` applies.

        Args:
          procedure: dotted name.
          args: JSON-like value, or bytes.
          headers: small texts for the handler.
          select: how to choose among providers: ``random``, ``round_robin`` or ``first``.
          idempotent: the call may be made again elsewhere even when it may have run.

        Raises:
          NoProviders: nobody advertises it.
          RemoteCallError: the handler, or its node, answered with an error.
          PeerUnavailable: no provider could be reached, or the link ended under way.
          CallTimeout: no reply within the default time, or the provider gave up at the deadline.
          TrustError: the only providers refuse us, or are not who they must be.
          LocalProtocolError: the arguments cannot be encoded.
          RemoteProtocolError: the reply cannot be decoded.
          ValueError: not a valid name, or not a known way to select.
          trio.ClosedResourceError: the node has left; or it is draining, and no handler of its own makes the call.
        """
        if self._rpc.callee.handlers.include_this_task():
            self._require_open()
        else:
            self._require_taking()
        return await self._rpc.call(procedure, args, headers=headers, select=select, idempotent=idempotent)

    async def find_providers(self, procedure: str) -> list[Contact]:
        """Ask the mesh who advertises a procedure."""
        self._require_open()
        validate_name(procedure, what="procedure")
        return [advert.contact for advert in await self._dht.find(dht_key(procedure), "service")]

    # -- messages -----------------------------------------------------------------------------------------------------

    def subscribe(
        self,
        topic: str,
        *,
        buffer: int | None = None,
        when_full: WhenFull = "drop_oldest",
        allow_routed: bool = False,
    ) -> AbstractAsyncContextManager[Subscription]:
        """Receive the messages of a topic, or of all topics that match a pattern, for the length of the block.

        Entering returns when the nodes closest to the DHT key of the topic, or of the pattern's prefix, know of it.
        Who has published before finds a new subscription within a second, and one whose pattern begins with a wildcard
        within five.

        Args:
          topic: dotted name.  Whole segments may be wildcards: ``*`` stands for one segment, ``**`` (or ``#``) for any
            number of them, none included: ``sensors.*.celsius``, ``sensors.**``.
          buffer: messages that wait to be taken; the node's ``subscription_buffer`` by default.
          when_full: what happens when nobody takes them. ``"drop_oldest"``: the oldest is dropped and counted.
            ``"block"``: as many of each publisher wait, and its `publish` waits until some were taken, at most 5
            seconds; then that message is dropped and counted there. Publishers of v0.8 and messages that come through
            other nodes cannot be held back: what does not fit is dropped and counted here. At most eight times
            ``buffer`` wait, whoever publishes.
          allow_routed: publishers that cannot reach us directly may let the nodes that they know carry their messages,
            whose ``Message.publisher`` is then None; always so under `Trust.unverified`.

        Raises:
          ValueError: not a valid topic, pattern or policy, or this node has too many patterns with the same prefix.
          trio.ClosedResourceError: the node is draining, or has left.
        """
        self._require_taking()
        allow_routed = allow_routed or self._party.trust.kind == "unverified"
        return self._pubsub.subscribe(topic, buffer=buffer, when_full=when_full, allow_routed=allow_routed)

    async def publish(
        self, topic: str, payload: object, *, headers: Mapping[str, str] | None = None, qos: int = 0
    ) -> PublishReport:
        """Send a message to every node that subscribes to a topic, by its name or by a pattern, ours included.

        A node gets it once, however many of its subscriptions want it.  Waits for subscriptions that block and are
        full, at most 5 seconds, and for one that nobody reads only once.

        Args:
          topic: dotted name.
          payload: JSON-like value, or bytes.
          headers: small texts for the subscribers.
          qos: 0, at most once; 1 is not available yet.

        Returns:
          What became of it at every node that subscribes.

        Raises:
          ValueError: not a valid topic, or not a quality of service that is available.
          LocalProtocolError: the payload cannot be encoded.
        """
        if qos != 0:
            raise ValueError(f"qos: {qos!r} is not available yet; use 0")
        self._require_open()
        return await self._pubsub.publisher.publish(topic, payload, headers=headers)

    async def find_subscribers(self, topic: str) -> list[Contact]:
        """Ask the mesh who subscribes to a topic, by its name or by a pattern."""
        self._require_open()
        return await self._pubsub.publisher.subscribers(topic)

    # -- the DHT ------------------------------------------------------------------------------------------------------

    async def find_node(self, target: bytes) -> list[Contact]:
        """The k nodes closest to a 32-byte id or key, nearest first, as the network knows them."""
        self._require_open()
        return await self._dht.client.find_node(target)

    async def store(
        self, key: bytes, metadata: Mapping[str, object], *, kind: Kind = "service", quorum: int = 0
    ) -> StoreReport:
        """Sign a value of ours and store it once with the k nodes closest to ``key``; it is not renewed.

        Args:
          key: 32 bytes.
          metadata: small map; texts come back as bytes.
          kind: which of our two values under this key.
          quorum: how many replicas must confirm, ourselves included.

        Returns:
          Who holds it, who refused it and why (`StoreReport` says what each reason means for you), who did not answer.

        Raises:
          ValueError: the key has not 32 bytes.
          LocalProtocolError: the metadata cannot be encoded, is too deep or has too many elements.
          PayloadTooLarge: the value is larger than replicas take.
          QuorumNotReached: fewer than ``quorum`` confirmed; some may hold it.
        """
        self._require_open()
        return await self._dht.owner.store(key, kind, metadata, quorum=quorum)

    async def find_value(self, key: bytes, *, kind: Kind | None = None) -> list[Record]:
        """Ask the network for the values under a 32-byte key: verified, one per owner and kind, the newest each."""
        self._require_open()
        return await self._dht.client.find_value(key, kind)

    # -- everything else ----------------------------------------------------------------------------------------------

    async def send_message(self, target: Contact, message_type: MessageType, body: Mapping[str, object]) -> None:
        """Send one frame to a node: fire and forget.

        It rides the live link to the node: written when the node has taken most of what was sent before.  Without one
        it gets a connection of its own, which no link comes of, and which it shares with what is sent to the same node
        at the same time; this returns when the node has read the frame, 100 ms later at most, and has closed the
        connection then.  Not to know whether the frame was read is no error, but counted in `statistics`, as is
        everything else that becomes of it, and an event.

        Raises:
          PeerUnavailable: it cannot be reached.
          TrustError: somebody else answered, or one side refuses the other.
          LocalProtocolError: the body cannot be encoded.
        """
        self._require_open()
        await self._sender.send(target, encode_frame(message_type, body))

    # -- whom we talk to ----------------------------------------------------------------------------------------------

    @property
    def trust(self) -> Trust:
        """The policy, with the contents of its file."""
        return self._party.trust

    def reload_trust(self, trust: Trust | None = None) -> None:
        """Read the file of the trust policy again, or take another policy; links that no longer pass are closed.

        Values in the DHT whose owners no longer pass are dropped here.  Blocks on the disk, briefly.

        Args:
          trust: the policy from now on; the present one by default.

        Raises:
          TrustError: the file cannot be read or used; the policy stays as it was.
          ValueError: from or to `Trust.unverified`, which is decided when a node opens.
        """
        self._require_open()
        self._upkeep.reload_trust(trust)

    def renew_identity(self, identity: Credentials) -> None:
        """Show a new certificate chain of our own key from now on, before the old one expires.

        What we advertise is stored anew with it.  Links that are open stay; those who know the old certificate by them
        end them when that expires, and are dialed again when somebody needs them.

        Raises:
          IdentityFileError: it is another key.
        """
        self._require_open()
        self._upkeep.renew_identity(identity)

    def block(self, node_id: NodeId) -> None:
        """Have nothing to do with a node any more, until `unblock`: whatever the policy says, as long as we run.

        Its links are closed, it is neither dialed nor let in nor named to others, and its values count nothing.

        Raises:
          ValueError: too many are blocked already, or it is our own id.
        """
        self._require_open()
        self._upkeep.block(node_id)

    def unblock(self, node_id: NodeId) -> None:
        """Undo `block`; what was closed comes back when somebody needs it."""
        self._upkeep.unblock(node_id)

    def peers(self) -> list[PeerInfo]:
        """The nodes that we have a live link with."""
        return [_peer_info(link) for link in self._registry.links]

    def known_nodes(self) -> list[Contact]:
        """The nodes in our routing table, nearest first."""
        return self._dht.known_nodes()

    def stored_values(self) -> list[Record]:
        """The DHT values that this node holds, for itself and for others, withdrawn ones included."""
        return self._dht.stored_values()

    async def ping(self, target: Contact) -> float:
        """Round-trip time to a node over its link, in seconds.

        Raises:
          PeerUnavailable: it cannot be reached.
          TrustError: somebody else answered, or one side refuses the other.
        """
        self._require_open()
        return await self._dht.client.ping(target)

    async def ping_endpoint(self, endpoint: str) -> tuple[Contact, float]:
        """Dial a numeric endpoint and measure; tells also who answered.

        Raises:
          PeerUnavailable: nobody answers there.
          TrustError: one side refuses the other.
        """
        self._require_open()
        link = await self._transport.dial_endpoint(endpoint, trusted=True)
        if link.node_id is None:
            raise PeerUnavailable(f"{endpoint} did not say who it is")
        contact = Contact(node_id=link.node_id, endpoint=endpoint)
        return contact, await self._dht.client.ping(contact)

    async def wait_joined(self) -> None:
        """Wait until another node was found; at once when there is no bootstrap to ask."""
        self._require_open()
        await self._dht.wait_joined()

    @property
    def is_ready(self) -> bool:
        """Whether others may be sent here: we know another node now, or have none to ask, and are not draining."""
        is_member = not self._config.bootstrap or bool(self._dht.known_nodes())
        return is_member and self._drain.stage is Stage.OPEN

    async def drain(self, deadline_s: float | None = None) -> None:
        """End the work of this node in peace, and leave the mesh.

        What it advertises is withdrawn.  It answers new calls with ``draining``, so that their callers go to other
        providers, while messages still reach the subscriptions here.  The values that it holds for others go to nodes
        that stay.  Handlers that run may finish, and make the calls that they need; what is left of them at the
        deadline is cancelled, which their callers are told.  At last every peer hears that the node leaves, and no
        task and no connection is left.

        `is_ready` is False from the beginning, and there is no way back.  `advertise`, `subscribe` and calls that no
        handler makes raise `trio.ClosedResourceError` at once, and all that would talk to others does so afterwards.
        Subscriptions and `events` end when what was there is taken.

        Whoever drains a node that is being drained waits for the end of that.  Cancelled, the one who drains has no
        more patience: handlers are cancelled, and withdrawals and goodbyes leave within ``close_deadline_s``.

        Args:
          deadline_s: for all this, in seconds; ``drain_deadline_s`` by default.

        Raises:
          ValueError: not a number, or below 0.
          RuntimeError: a handler of this node would wait for its own end; let it set an event for whoever drains.
        """
        patience_s = self._config.drain_deadline_s if deadline_s is None else deadline_s
        if not patience_s >= 0:
            raise ValueError(f"deadline_s: {patience_s!r} is not a number from 0 on")
        await self._drain.run(patience_s)
        self._end_events()

    async def check_health(self) -> HealthReport:
        """Call ourselves through our own socket, and report whether the answer came.

        A second socket dials where we listen, both sides prove who they are, and a call goes the way of every other
        call, all within 1 s.  It works under every trust policy.  Who asks while a check is under way, or within 1 s
        behind it, gets the same report.  A check that fails is an event, ``health.failed``.
        """
        self._require_open()
        return await self._health.check(self._quic)

    def events(self) -> EventStream:
        """What happens in this node: ``with node.events() as events: async for event in events: ...``."""
        stream = EventStream(self._events, left=lambda stream: self._event_streams.pop(stream, None))
        self._event_streams[stream] = None
        return stream

    def statistics(self) -> NodeStatistics:
        """Counts so far."""
        frames, datagrams = self._registry.counters, self._quic.counters
        return NodeStatistics(
            frames_sent=dict(frames.sent),
            frames_received=dict(frames.received),
            frames_unknown=frames.unknown_type,
            replies_unexpected=frames.unexpected,
            messages_unhandled=frames.unhandled,
            requests_excessive=frames.excess,
            refused=dict(frames.refused),
            messages_sent=self._sender.sent,
            messages_failed=dict(self._sender.failed),
            messages_dropped=dict(self._sender.dropped),
            messages_unconfirmed=self._confirmations.missing,
            links=len(self._registry.links),
            links_opened=frames.opened,
            links_closed=dict(frames.closed),
            links_migrated=frames.migrated,
            links_redialed=self._registry.redials,
            dials_failed=self._registry.dial_counters.failed,
            dials_avoided=self._registry.dial_counters.avoided,
            connections_broken=datagrams.connections_broken,
            datagrams_unroutable=datagrams.datagrams_unroutable,
            datagrams_policed=datagrams.datagrams_policed,
            datagrams_lost=self._quic.datagrams_lost,
            table_size=len(self._dht.known_nodes()),
            stored_values=len(self._dht.stored_values()),
            calls_running=self._rpc.callee.running,
            calls_forbidden=self._rpc.callee.forbidden,
            calls_turned_away=self._rpc.callee.turned_away,
            messages_forbidden=self._pubsub.forbidden,
            publications_dropped=self._pubsub.publisher.dropped,
            envelopes_refused=self._router.refused,
            envelopes_forwarded=self._router.forwarded,
            clients=self._pubsub.clients.count,
            client_messages_dropped=self._pubsub.clients.dropped,
        )

    def _require_open(self) -> None:
        if self._drain.stage is Stage.LEFT:
            raise trio.ClosedResourceError("this node has left the mesh: it was drained, or its block was left")

    def _require_taking(self) -> None:
        """Refuse to begin what a node that drains would not finish."""
        self._require_open()
        if self._drain.stage is Stage.DRAINING:
            raise trio.ClosedResourceError("this node is draining: only the handlers that run may still call")

    async def _join(self) -> None:
        required, deadline_s = self._config.require_bootstrap, self._config.join_deadline_s
        with trio.move_on_after(deadline_s) as scope:
            await (self._dht.wait_joined_or_refused() if required else self._dht.wait_joined())
        if not scope.cancelled_caught:
            return
        bootstraps = ", ".join(self._config.bootstrap)
        if required:
            failures = self._dht.join_failures().values()
            raise PeerUnavailable("; ".join(failures)) if failures else no_answer(bootstraps, deadline_s)
        self._events.emit("node.join_delayed", bootstrap=bootstraps)

    def _end_events(self) -> None:
        for stream in self._event_streams:
            stream.end()


def _peer_info(link: QuicLink) -> PeerInfo:
    return PeerInfo(
        node_id=link.node_id,
        endpoint=link.endpoint,
        dialed=link.is_dialed,
        verified=link.verified,
        leaf=LEAF in link.capabilities,
    )

"""A node: composes sockets, links and services in one visible nursery order.

The only file besides ``testing/`` where randomness comes from; everything below receives it (DESIGN section 3).
"""

from __future__ import annotations

import datetime
import logging
import os
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Final

import trio

from macula_trio._addresses import bind_first, first_route, own_endpoint, reachable_endpoints, source_host
from macula_trio._authorisation import Allowance, read_rule
from macula_trio._background import Background, hidden_nursery, open_service_nursery
from macula_trio._config import NodeConfig, Role
from macula_trio._dht.client import Bootstrap, DhtSettings
from macula_trio._dht.owner import StoreReport
from macula_trio._dht.service import DhtService
from macula_trio._events import EventBus, Listener
from macula_trio._health import HealthCheck, HealthReport
from macula_trio._identity.facts import certificate_renewal
from macula_trio._identity.files import Identity
from macula_trio._identity.keys import Credentials
from macula_trio._identity.record import Kind, Record
from macula_trio._identity.trust_file import load_trust
from macula_trio._ids import Contact, NodeId, dht_key
from macula_trio._membership.service import MembershipService
from macula_trio._net.admission import Admission
from macula_trio._net.quic import QuicEndpoint
from macula_trio._net.udp import UdpNetwork
from macula_trio._peer.announcer import Announcer
from macula_trio._peer.connector import send_once
from macula_trio._peer.handshake import LEAF, MSGPACK, PER_MESSAGE, LocalParty
from macula_trio._peer.linger import Confirmations
from macula_trio._peer.link import QuicLink
from macula_trio._peer.per_message import PerMessageTransport
from macula_trio._peer.registry import LinkPolicy, LinkRegistry
from macula_trio._peer.sender import Sender
from macula_trio._pubsub.publisher import PublishReport
from macula_trio._pubsub.service import PubSubService
from macula_trio._pubsub.subscription import Subscription, WhenFull
from macula_trio._routing.service import Router, RoutingSettings
from macula_trio._rpc.callee import CallSettings
from macula_trio._rpc.offer import Handler
from macula_trio._rpc.service import RpcService
from macula_trio._trust import Trust
from macula_trio._util import format_endpoint, is_unspecified, parse_bootstrap, parse_endpoint, validate_name
from macula_trio._views import EventStream, NodeStatistics, PeerInfo
from macula_trio._wire.codec import encode_frame
from macula_trio._wire.frame import MessageType
from macula_trio.abc import DatagramNetwork, Storage
from macula_trio.errors import IdentityFileError, PeerUnavailable, no_answer

logger = logging.getLogger("macula_trio")

INSTANCE_BYTES: Final = 16
CERTIFICATE_CHECK_S: Final = 3600.0  # of our own; realms give certificates for days
DAY_S: Final = 86_400
SEED_BYTES: Final = 32  # an Ed25519 private key is 32 random bytes (RFC 8032, section 5.1.5)
IDLE_KEEPALIVES: Final = 3  # QUIC's idle time-out in keepalive intervals (DESIGN section 6)


class Node:
    """A member of the mesh; made by `open_node`, alive for its block."""

    def __init__(
        self,
        config: NodeConfig,
        credentials: Credentials,
        network: DatagramNetwork,
        storage: Storage,
        *,
        endpoint: str,
        resolve: Callable[[str], Awaitable[Sequence[str]]],
        trust: Trust,
    ) -> None:
        chance = random.Random(os.urandom(32))
        self._config = config
        self._events = EventBus(trio.current_time)
        self._party = LocalParty(
            credentials=credentials,
            instance=os.urandom(INSTANCE_BYTES),
            realm=config.realm,
            trust=trust,
            capabilities=_capabilities(config),
            endpoint=endpoint,
        )
        self._registry = LinkRegistry(
            self._party,
            events=self._events,
            wall_clock_ms=network.wall_clock_ms,
            random_fraction=chance.random,
            policy=LinkPolicy(
                dial_deadline_s=config.dial_deadline_s,
                keepalive_s=config.keepalive_s,
                links_max=config.links_max,
                link_idle_s=config.link_idle_s,
            ),
        )
        background = Background()  # one for several services: that is a few tasks less in every node
        self._confirmations = Confirmations(self._events)
        self._per_message = PerMessageTransport(
            self._registry, confirmations=self._confirmations, background=background
        )
        per_message = config.connections == "per-message"
        self._sender = Sender(
            self._registry, events=self._events, confirmations=self._confirmations, uses_links=not per_message
        )
        self._transport = transport = self._per_message if per_message else self._registry
        self._dht = DhtService(
            credentials=credentials,
            transport=transport,
            events=self._events,
            wall_clock_ms=network.wall_clock_ms,
            random_bytes=os.urandom,
            random_fraction=chance.random,
            resolve=resolve,
            judge=self._party.judge,
            settings=DhtSettings(
                realm=config.realm,
                endpoint=endpoint,
                leaf=config.leaf,
                bootstraps=tuple(_bootstrap(entry) for entry in config.bootstrap),
                query_deadline_s=config.query_deadline_s,
                value_ttl_s=config.value_ttl_s,
            ),
            storage=storage,
            background=background,
        )
        self._registry.on_opened(self._dht.link_opened)
        self._registry.on_closed(self._dht.link_closed)
        self._rpc = RpcService(
            own=credentials.node_id,
            transport=transport,
            directory=self._dht,
            events=self._events,
            random_bytes=os.urandom,
            random_below=chance.randrange,
            settings=CallSettings(
                timeout_default_s=config.call_timeout_default_s,
                timeout_max_s=config.call_timeout_max_s,
                handlers_max=config.handlers_max,
                handlers_per_caller_max=config.handlers_per_caller_max,
                allow_routed=trust.kind == "unverified",
            ),
        )
        self._pubsub = PubSubService(
            own=credentials.node_id,
            transport=transport,
            directory=self._dht,
            background=background,
            events=self._events,
            random_bytes=os.urandom,
            buffer=config.subscription_buffer,
            may_publish=Allowance(config.may_publish),
        )
        self._router = self._rpc.carrier = self._pubsub.publisher.carrier = Router(
            own=credentials.node_id,
            transport=transport,
            closest=self._dht.closest,
            background=background,
            judge=self._party.judge,
            events=self._events,
            settings=RoutingSettings(
                timeout_default_s=config.call_timeout_default_s,
                timeout_max_s=config.call_timeout_max_s,
                leaf=config.leaf,
                stray_replies=trust.kind == "unverified",
            ),
            take_call=self._rpc.callee.take,
            take_cancel=self._rpc.callee.cancel,
            take_message=self._pubsub.take_route,
        )
        self._health = HealthCheck(
            self._party,
            network=network,
            events=self._events,
            random_bytes=os.urandom,
            make_identity=_new_identity,
            answer_probe=self._rpc.callee.answer_probe,
        )
        self._membership = MembershipService(
            own=credentials.node_id, transport=transport, random_bytes=os.urandom, background=background
        )
        self._wall_clock_ms = network.wall_clock_ms
        self._quic: QuicEndpoint | None = None
        self._is_open = False
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
        """
        self._require_open()
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
        """
        self._require_open()
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
        """
        self._require_open()
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
        loaded = load_trust(trust or self._party.trust)
        if (loaded.kind == "unverified") is not (self._party.trust.kind == "unverified"):
            raise ValueError("Trust.unverified: how a node speaks is decided when it opens; open another one")
        self._party.change_trust(loaded)
        self._judge_again()
        self._events.emit("trust.reloaded", policy=self._party.trust.kind, links=len(self._registry.links))

    def renew_identity(self, identity: Credentials) -> None:
        """Show a new certificate chain of our own key from now on, before the old one expires.

        What we advertise is stored anew with it.  Links that are open stay; those who know the old certificate by them
        end them when that expires, and are dialed again when somebody needs them.

        Raises:
          IdentityFileError: it is another key.
        """
        self._require_open()
        assert self._quic is not None
        if identity.node_id != self.node_id:
            raise IdentityFileError(
                f"node {identity.node_id.short} has another key; a node keeps its own while it runs"
            )
        self._party.credentials = identity
        self._quic.present(identity)
        self._dht.renew(identity)
        self._events.emit("identity.renewed", valid_until=_date(identity.chain[0].not_valid_after_utc))
        self._check_certificate()

    async def _watch_certificate(self) -> None:
        while True:
            self._check_certificate()
            await trio.sleep(CERTIFICATE_CHECK_S)

    def _check_certificate(self) -> None:
        """Tell in time that our own certificate expires, or that others refuse us for it."""
        credentials, now_ms = self._party.credentials, self._wall_clock_ms()
        leaf = credentials.chain[0]
        if now_ms / 1000 >= certificate_renewal(leaf).timestamp():
            left_s = leaf.not_valid_after_utc.timestamp() - now_ms / 1000
            self._events.emit(
                "identity.renewal_due", valid_until=_date(leaf.not_valid_after_utc), days_left=round(left_s / DAY_S, 1)
            )
        problem = self._party.judge.own_problem(credentials, endpoint=self._party.endpoint, now_ms=now_ms)
        if problem is not None:
            logger.warning("others with our trust policy would not let us in: %s", problem)
            self._events.emit("identity.untrusted", reason=problem)

    def block(self, node_id: NodeId) -> None:
        """Have nothing to do with a node any more, until `unblock`: whatever the policy says, as long as we run.

        Its links are closed, it is neither dialed nor let in nor named to others, and its values count nothing.

        Raises:
          ValueError: too many are blocked already, or it is our own id.
        """
        self._require_open()
        if node_id == self.node_id:
            raise ValueError("a node cannot block itself")
        self._party.judge.block(NodeId(node_id))
        self._judge_again()
        self._events.emit("trust.blocked", peer=node_id.hex())

    def unblock(self, node_id: NodeId) -> None:
        """Undo `block`; what was closed comes back when somebody needs it."""
        self._party.judge.unblock(node_id)

    def _judge_again(self) -> None:
        self._registry.judge_again()
        self._dht.judge_again()

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
        """Whether others may be sent here: we know another node now, or have none to ask, and are not closing."""
        return self._is_open and (not self._config.bootstrap or bool(self._dht.known_nodes()))

    async def check_health(self) -> HealthReport:
        """Call ourselves through our own socket, and report whether the answer came.

        A second socket dials where we listen, both sides prove who they are, and a call goes the way of every other
        call, all within 1 s.  It works under every trust policy.  Who asks while a check is under way, or within 1 s
        behind it, gets the same report.  A check that fails is an event, ``health.failed``.
        """
        self._require_open()
        assert self._quic is not None
        return await self._health.check(self._quic)

    def events(self) -> EventStream:
        """What happens in this node: ``with node.events() as events: async for event in events: ...``."""
        stream = EventStream(self._events, left=lambda stream: self._event_streams.pop(stream, None))
        self._event_streams[stream] = None
        return stream

    def statistics(self) -> NodeStatistics:
        """Counts so far."""
        assert self._quic is not None
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
            messages_forbidden=self._pubsub.forbidden,
            messages_dropped=self._pubsub.publisher.dropped,
            envelopes_refused=self._router.refused,
            envelopes_forwarded=self._router.forwarded,
            clients=self._pubsub.clients.count,
            client_messages_dropped=self._pubsub.clients.dropped,
        )

    def _announcer(self, source_host: Callable[[], str], port: int) -> Announcer:
        """What keeps our endpoint true, when we were given none to announce."""
        party = self._party

        def problem_with(endpoint: str) -> str | None:
            return party.judge.own_problem(party.credentials, endpoint=endpoint, now_ms=self._wall_clock_ms())

        announcer = Announcer(
            party,
            port=port,
            events=self._events,
            source_host=source_host,
            problem_with=problem_with,
            moved=self._dht.move,
        )
        self._registry.on_observed(announcer.observed)
        return announcer

    def _require_open(self) -> None:
        if not self._is_open:
            raise trio.ClosedResourceError("the block of this node was left")

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

    def _say_goodbye(self) -> None:
        self._is_open = False
        self._registry.leave()
        for stream in self._event_streams:
            stream.end()


@asynccontextmanager
async def open_node(
    config: NodeConfig,
    *,
    identity: Identity | None = None,
    network: DatagramNetwork | None = None,
    listener: Listener | None = None,
) -> AsyncGenerator[Node, None]:
    """Be a member of the mesh for the length of the block.

    Entering returns once the node has joined, or after ``join_deadline_s``, when it goes on trying behind the scenes.
    Leaving withdraws what was advertised and says goodbye to the peers, for at most ``close_deadline_s``, also when
    being cancelled; no task and no socket is left.  An exception of the body arrives as it is.

    Args:
      config: how to behave.
      identity: who we are; a new one by default.
      network: real UDP by default.
      listener: told of every event from the very beginning, where `Node.events` begins when it is asked; is called in
        the midst of things, so it must neither block nor raise.

    Raises:
      OSError: the listen address is in use or not ours, which the message says, or no bootstrap name has an address.
      PeerUnavailable: no bootstrap node answered, or none can be reached from where we listen, and
        ``require_bootstrap`` is set.
      TrustError: the trust policy's file cannot be used; or every bootstrap node refused us, or is not whom it must
        be, and ``require_bootstrap`` is set.
    """
    credentials = identity or _new_identity()
    network = network or UdpNetwork()
    trust = load_trust(config.trust)
    if trust.kind == "unverified":
        logger.warning("trust is unverified: peers that prove nothing can read, call and publish here")
    host, port = parse_endpoint(config.listen, port_min=0)
    hosts = await network.resolve(host)
    route = await first_route(network, config.bootstrap, listen=hosts)
    storage = await network.open_storage(credentials.node_id.hex())
    socket = await bind_first(network, hosts, port, route=route)
    try:
        endpoint = own_endpoint(config, network, socket, route)
        resolve = partial(reachable_endpoints, network, socket.obstacle)
        node = Node(config, credentials, network, storage, endpoint=endpoint, resolve=resolve, trust=trust)
        if listener is not None:
            node._events.listen(listener)
        node._quic = quic = QuicEndpoint(
            socket,
            credentials,
            accept=node._registry.accept,
            idle_timeout_s=IDLE_KEEPALIVES * config.keepalive_s,
            random_bytes=os.urandom,
            admission=Admission(is_welcome=node._registry.is_welcome),
        )
        with hidden_nursery() as hidden:
            async with open_service_nursery() as services:
                await services.start(quic.serve)
                await services.start(partial(node._registry.serve, quic))
                if config.advertise is None and is_unspecified(hosts[0]):
                    announcer = node._announcer(partial(source_host, network, socket, route), socket.address[1])
                    services.start_soon(announcer.watch_route, name="watch our address")
                await services.start(node._rpc.serve)
                await services.start(node._dht.serve)
                services.start_soon(node._watch_certificate, name="watch our certificate")
                node._is_open = True
                try:
                    with hidden.body():
                        await node._join()
                        yield node
                finally:
                    with trio.move_on_after(config.close_deadline_s, shield=True):
                        await node._dht.wait_withdrawn()
                    node._say_goodbye()
    finally:
        socket.close()


async def send_message(
    endpoint: str,
    message_type: MessageType,
    body: Mapping[str, object],
    *,
    identity: Identity | None = None,
    realm: str | None = None,
    trust: Trust | None = None,
    linger: float = 0.1,
    dial_deadline_s: float = 5.0,
    network: DatagramNetwork | None = None,
) -> None:
    """The v0.8 peer connector: connect, write one frame, linger, close.  Fire and forget, owned by your nursery.

    By default both sides prove who they are first, and the linger is cut short when the peer has shown that it read
    the frame.  Under `Trust.unverified` exactly what v0.8 does: connect, write, sleep ``linger``, close.

    Args:
      endpoint: ``host:port``; of a name with several addresses each is tried, one after the other.
      message_type: of the frame.
      body: of the frame.
      identity: who we are; a new one by default.
      realm: needed but under `Trust.unverified`.
      trust: `Trust.open` by default.
      linger: seconds.
      dial_deadline_s: for the connection and both proofs.
      network: real UDP by default.

    Raises:
      PeerUnavailable: nobody answered, or the connection ended too early.
      TrustError: one side refused the other.
      LocalProtocolError: the body cannot be encoded.
      ValueError: a malformed endpoint, or no realm.
      OSError: the name does not resolve.
    """
    trust = load_trust(trust or Trust.open())
    if realm is None and trust.kind != "unverified":
        raise ValueError("realm: a proof names its realm; give one, or speak v0.8 by trust=Trust.unverified()")
    frame = encode_frame(message_type, body)
    network = network or UdpNetwork()
    host, port = parse_endpoint(endpoint)
    party = LocalParty(
        credentials=identity or _new_identity(),
        instance=os.urandom(INSTANCE_BYTES),
        realm=realm or "",
        trust=trust,
        capabilities=(LEAF,),
    )
    await send_once(
        network,
        party,
        [(numeric, port) for numeric in await network.resolve(host)],
        frame,
        linger_s=linger,
        dial_deadline_s=dial_deadline_s,
        random_bytes=os.urandom,
    )


def _new_identity() -> Identity:
    """By the system's entropy as `Identity.generate`, but from Python's side, where a replay can have its own."""
    return Identity.from_seed(os.urandom(SEED_BYTES))


def _date(when: datetime.datetime) -> str:
    return when.isoformat(timespec="seconds")


def _capabilities(config: NodeConfig) -> tuple[str, ...]:
    told = {LEAF: config.leaf, MSGPACK: True, PER_MESSAGE: config.connections == "per-message"}
    return tuple(capability for capability, has in told.items() if has)


def _bootstrap(entry: str) -> Bootstrap:
    node_id, address = parse_bootstrap(entry)
    return Bootstrap(node_id, format_endpoint(address))


def _peer_info(link: QuicLink) -> PeerInfo:
    return PeerInfo(
        node_id=link.node_id,
        endpoint=link.endpoint,
        dialed=link.is_dialed,
        verified=link.verified,
        leaf=LEAF in link.capabilities,
    )

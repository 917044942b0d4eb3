"""The services of a node, put together: the one place that knows them all."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import trio

from macula_trio._authorisation import Allowance
from macula_trio._background import Background
from macula_trio._chance import new_generator, new_identity, new_instance, random_bytes
from macula_trio._config import NodeConfig
from macula_trio._dht.client import Bootstrap, DhtSettings
from macula_trio._dht.service import DhtService
from macula_trio._events import EventBus
from macula_trio._health import HealthCheck
from macula_trio._identity.keys import Credentials
from macula_trio._membership.service import MembershipService
from macula_trio._peer.announcer import Announcer
from macula_trio._peer.handshake import LEAF, MSGPACK, PER_MESSAGE, LocalParty
from macula_trio._peer.linger import Confirmations
from macula_trio._peer.per_message import PerMessageTransport
from macula_trio._peer.registry import LinkPolicy, LinkRegistry
from macula_trio._peer.sender import Sender
from macula_trio._pubsub.service import PubSubService
from macula_trio._pubsub.wanted import Wanted
from macula_trio._routing.service import Router, RoutingSettings
from macula_trio._rpc.callee import CallSettings
from macula_trio._rpc.service import RpcService
from macula_trio._trust import Trust
from macula_trio._util import format_endpoint, parse_bootstrap
from macula_trio.abc import DatagramNetwork, Storage


class Services:
    """What a node consists of, connected; nothing runs before `macula_trio._open` starts it.

    Attributes:
      events: where everything is told.
      party: what we say of ourselves, and whom we let in.
      registry: all links.
      confirmations: finds out whether messages without a link have arrived.
      sender: fires and forgets.
      transport: where the services get their links: the registry, or connections that are good for one message.
      dht: finds and stores.
      rpc: both ends of calls.
      pubsub: both ends of messages.
      router: takes calls and messages through other nodes.
      health: calls ourselves.
      membership: answers the probes of SWIM.
      wall_clock_ms: Unix time.

    Args:
      config: how to behave.
      credentials: who we are.
      network: gives the wall clock, and health checks their sockets.
      storage: keeps the values that we hold.
      endpoint: ``host:port`` that others dial.
      resolve: gives the numeric form of an endpoint that names its host.
      trust: whom we talk to, with the contents of its file.
    """

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
        self.wall_clock_ms: Callable[[], int] = network.wall_clock_ms
        chance = new_generator()
        self.events: EventBus = EventBus(trio.current_time)
        self.party: LocalParty = LocalParty(
            credentials=credentials,
            instance=new_instance(),
            realm=config.realm,
            trust=trust,
            capabilities=_capabilities(config),
            endpoint=endpoint,
        )
        self.registry: LinkRegistry = LinkRegistry(
            self.party,
            events=self.events,
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
        self.confirmations: Confirmations = Confirmations(self.events)
        per_message = PerMessageTransport(self.registry, confirmations=self.confirmations, background=background)
        apart = config.connections == "per-message"
        transport = per_message if apart else self.registry
        self.transport: PerMessageTransport | LinkRegistry = transport
        self.sender: Sender = Sender(
            self.registry, events=self.events, confirmations=self.confirmations, uses_links=not apart
        )
        self.dht: DhtService = DhtService(
            credentials=credentials,
            transport=transport,
            events=self.events,
            wall_clock_ms=network.wall_clock_ms,
            random_bytes=random_bytes,
            random_fraction=chance.random,
            resolve=resolve,
            judge=self.party.judge,
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
            redialer=None if apart else self.registry,
        )
        self.registry.on_opened(self.dht.link_opened)
        self.registry.on_closed(self.dht.link_closed)
        self.rpc: RpcService = RpcService(
            own=credentials.node_id,
            transport=transport,
            directory=self.dht,
            events=self.events,
            random_bytes=random_bytes,
            random_below=chance.randrange,
            settings=CallSettings(
                timeout_default_s=config.call_timeout_default_s,
                timeout_max_s=config.call_timeout_max_s,
                handlers_max=config.handlers_max,
                handlers_per_caller_max=config.handlers_per_caller_max,
                allow_routed=trust.kind == "unverified",
            ),
        )
        self.pubsub: PubSubService = PubSubService(
            own=credentials.node_id,
            transport=transport,
            directory=self.dht,
            background=background,
            events=self.events,
            random_bytes=random_bytes,
            buffer=config.subscription_buffer,
            may_publish=Allowance(config.may_publish),
        )
        if not apart:
            self.pubsub.publisher.wanted = Wanted(self.registry, background=background)
        self.router: Router = Router(
            own=credentials.node_id,
            transport=transport,
            closest=self.dht.closest,
            background=background,
            judge=self.party.judge,
            events=self.events,
            settings=RoutingSettings(
                timeout_default_s=config.call_timeout_default_s,
                timeout_max_s=config.call_timeout_max_s,
                leaf=config.leaf,
                stray_replies=trust.kind == "unverified",
            ),
            take_call=self.rpc.callee.take,
            take_cancel=self.rpc.callee.cancel,
            take_message=self.pubsub.take_route,
        )
        self.rpc.carrier = self.pubsub.publisher.carrier = self.router
        self.health: HealthCheck = HealthCheck(
            self.party,
            network=network,
            events=self.events,
            random_bytes=random_bytes,
            make_identity=new_identity,
            answer_probe=self.rpc.callee.answer_probe,
        )
        self.membership: MembershipService = MembershipService(
            own=credentials.node_id, transport=transport, random_bytes=random_bytes, background=background
        )

    def announcer(self, source_host: Callable[[], str], port: int) -> Announcer:
        """What keeps our endpoint true, when we were given none to announce."""
        party = self.party

        def problem_with(endpoint: str) -> str | None:
            return party.judge.own_problem(party.credentials, endpoint=endpoint, now_ms=self.wall_clock_ms())

        announcer = Announcer(
            party,
            port=port,
            events=self.events,
            source_host=source_host,
            problem_with=problem_with,
            moved=self.dht.move,
        )
        self.registry.on_observed(announcer.observed)
        return announcer


def _capabilities(config: NodeConfig) -> tuple[str, ...]:
    told = {LEAF: config.leaf, MSGPACK: True, PER_MESSAGE: config.connections == "per-message"}
    return tuple(capability for capability, has in told.items() if has)


def _bootstrap(entry: str) -> Bootstrap:
    node_id, address = parse_bootstrap(entry)
    return Bootstrap(node_id, format_endpoint(address))

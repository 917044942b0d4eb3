"""A node that is only its part of the DHT, on a network of frames; and thousands of them."""

from __future__ import annotations

import hashlib
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final

import trio

from macula_trio._background import hidden_nursery, open_service_nursery
from macula_trio._config import NodeConfig
from macula_trio._dht.client import Bootstrap, DhtSettings
from macula_trio._dht.owner import StoreReport
from macula_trio._dht.service import DhtService
from macula_trio._events import EventBus, Listener
from macula_trio._identity.files import Identity
from macula_trio._identity.keys import Credentials
from macula_trio._identity.record import Kind, Record
from macula_trio._ids import Contact, NodeId
from macula_trio._peer.handshake import LEAF, MSGPACK, LocalParty
from macula_trio._store.memory import MemoryStorage
from macula_trio._util import format_endpoint, parse_bootstrap
from macula_trio.abc import Storage
from macula_trio.errors import PeerUnavailable
from macula_trio.testing.frames import FrameNetwork, FrameTransport

REALM: Final = "org.example.frames"
INSTANCE_BYTES: Final = 16
# By whom each node joins.  If all joined by the same one, half of them would know nobody in the half of the ids that
# it is not in, until their first refresh a second later, and would find wrong nodes there.
ENTRY_POINTS: Final = 2
WAVE: Final = 256  # nodes that join at once, while what they join has grown as large


class FrameNode:
    """A member of the DHT; made by `open_frame_node`, alive for its block."""

    def __init__(
        self,
        network: FrameNetwork,
        name: str,
        *,
        credentials: Credentials,
        config: NodeConfig,
        bootstrap: Iterable[str],
        storage: Storage,
        chance: random.Random,
    ) -> None:
        self._config = config
        self._events = EventBus(trio.current_time)
        self._is_open = False
        self._crashed = trio.Event()
        endpoint = network.endpoint_of(name)
        party = LocalParty(
            credentials=credentials,
            instance=chance.randbytes(INSTANCE_BYTES),
            realm=config.realm,
            trust=config.trust,
            capabilities=(LEAF, MSGPACK) if config.leaf else (MSGPACK,),
            endpoint=endpoint,
        )
        self._transport = FrameTransport(
            network,
            name,
            party=party,
            events=self._events,
            dial_deadline_s=config.dial_deadline_s,
            keepalive_s=config.keepalive_s,
        )
        self._own = credentials.node_id
        self._dht = DhtService(
            credentials=credentials,
            transport=self._transport,
            events=self._events,
            wall_clock_ms=network.wall_clock_ms,
            random_bytes=chance.randbytes,
            random_fraction=chance.random,
            resolve=_resolve,
            judge=party.judge,
            settings=DhtSettings(
                realm=config.realm,
                endpoint=endpoint,
                leaf=config.leaf,
                bootstraps=tuple(_bootstrap(entry) for entry in bootstrap),
                query_deadline_s=config.query_deadline_s,
                value_ttl_s=config.value_ttl_s,
            ),
            storage=storage,
        )
        self._transport.on_opened(self._dht.link_opened)
        self._transport.on_closed(self._dht.link_closed)

    # -- who it is ------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """Of its host: what faults call it."""
        return self._transport.name

    @property
    def node_id(self) -> NodeId:
        """The hash of its public key."""
        return self._own

    @property
    def endpoint(self) -> str:
        """``host:port`` where others dial it."""
        return self._transport.address

    @property
    def contact(self) -> Contact:
        """Both."""
        return Contact(node_id=self._own, endpoint=self.endpoint)

    @property
    def transport(self) -> FrameTransport:
        """Its links."""
        return self._transport

    @property
    def events(self) -> EventBus:
        """Where it tells what happens in it."""
        return self._events

    # -- the DHT ----------------------------------------------------------------------------------------------------

    async def find_node(self, target: bytes) -> list[Contact]:
        """The k nodes closest to a 32-byte id or key, nearest first, as the network knows them."""
        self._require_open()
        return await self._dht.client.find_node(target)

    async def find_value(self, key: bytes, *, kind: Kind | None = None) -> list[Record]:
        """Ask the network for the values under a 32-byte key: verified, one per owner and kind, the newest each."""
        self._require_open()
        return await self._dht.client.find_value(key, kind)

    async def store(
        self, key: bytes, metadata: Mapping[str, object], *, kind: Kind = "service", quorum: int = 0
    ) -> StoreReport:
        """Sign a value and store it once with the k nodes closest to ``key``; it is not renewed.

        Raises:
          QuorumNotReached: fewer than ``quorum`` confirmed; some may hold it.
        """
        self._require_open()
        return await self._dht.owner.store(key, kind, metadata, quorum=quorum)

    def advertised(
        self, key: bytes, kind: Kind = "service", metadata: Mapping[str, object] | None = None
    ) -> AbstractAsyncContextManager[None]:
        """Be found under a key for the length of the block."""
        self._require_open()
        return self._dht.advertised(key, kind, metadata or {})

    async def ping(self, target: Contact) -> float:
        """Round-trip time to a node over its link, in seconds."""
        self._require_open()
        return await self._dht.client.ping(target)

    async def wait_joined(self) -> None:
        """Wait until another node was found; at once when there is no bootstrap to ask."""
        self._require_open()
        await self._dht.wait_joined()

    def known_nodes(self) -> list[Contact]:
        """The nodes in its routing table, nearest first."""
        return self._dht.known_nodes()

    def stored_values(self) -> list[Record]:
        """The values that it holds, for itself and for others, withdrawn ones included."""
        return self._dht.stored_values()

    def crash(self) -> None:
        """Vanish without a word, with all tasks of its own; the block that it lives in goes on."""
        self._is_open = False
        self._transport.crash()
        self._crashed.set()

    # -- inside -------------------------------------------------------------------------------------------------------

    def _require_open(self) -> None:
        if not self._is_open:
            raise trio.ClosedResourceError("the block of this node was left, or it has crashed")

    async def _serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(self._dht.serve)
            task_status.started()
            await self._crashed.wait()
            nursery.cancel_scope.cancel()

    async def _join(self) -> None:
        required = self._config.require_bootstrap
        with trio.move_on_after(self._config.join_deadline_s) as scope:
            await (self._dht.wait_joined_or_refused() if required else self._dht.wait_joined())
        if scope.cancelled_caught and required:
            raise PeerUnavailable(f"no bootstrap node answered within {self._config.join_deadline_s:g} s")


@asynccontextmanager
async def open_frame_node(
    network: FrameNetwork,
    name: str,
    *,
    identity: Credentials | None = None,
    config: NodeConfig | None = None,
    bootstrap: Iterable[str] = (),
    storage: Storage | None = None,
    listener: Listener | None = None,
) -> AsyncGenerator[FrameNode, None]:
    """Be a member of the DHT for the length of the block, as `macula_trio.open_node` is of the mesh.

    Args:
      network: which must be served.
      name: of its host, on which no other node may run; it may be used again afterwards.
      identity: follows from the network's seed and the name by default.
      config: ``listen``, ``advertise`` and ``bootstrap`` are not looked at.
      bootstrap: endpoints of nodes to join by, as `FrameNetwork.endpoint_of` gives them, or ``NODEID@endpoint``.
      storage: what it keeps; in memory, and empty, by default.
      listener: told of every event from the very beginning.

    Raises:
      OSError: a node runs on this host.
      PeerUnavailable, TrustError: no bootstrap node took us, and ``config.require_bootstrap`` is set.
    """
    run = network.count_run(name)
    node = FrameNode(
        network,
        name,
        credentials=identity or frame_identity(network, name),
        config=config or NodeConfig(realm=REALM),
        bootstrap=bootstrap,
        storage=MemoryStorage() if storage is None else storage,
        chance=random.Random(f"{network.seed}:{name}:{run}"),
    )
    if listener is not None:
        node.events.listen(listener)
    try:
        with hidden_nursery() as hidden:
            async with open_service_nursery() as services:
                await services.start(node._serve)
                node._is_open = True
                try:
                    with hidden.body():
                        await node._join()
                        yield node
                finally:
                    if node._is_open:  # it has not crashed
                        with trio.move_on_after(node._config.close_deadline_s, shield=True):
                            await node._dht.wait_withdrawn()
                        node._is_open = False
                        node._transport.leave()
    finally:
        node._transport.leave()  # also when it was cancelled before it was open


def frame_identity(network: FrameNetwork, name: str) -> Identity:
    """The identity of a node that is given none."""
    return Identity.from_seed(hashlib.sha256(f"{network.seed}:{name}".encode()).digest())


@asynccontextmanager
async def open_frame_mesh(
    size: int,
    *,
    network: FrameNetwork | None = None,
    config: NodeConfig | None = None,
    wave: int = WAVE,
    listener: Listener | None = None,
) -> AsyncGenerator[list[FrameNode], None]:
    """Run ``size`` nodes, ``n0`` to ``n<size-1>``, for the length of the block.

    Each joins by a few that are there already.  Entering returns when the last one has joined, less than a virtual
    second later; tables are full when all have refreshed them, in the next one.  When the block is left the nodes
    vanish together, without goodbyes.  Use it under ``autojump_clock``.

    Args:
      size: number of nodes.
      network: a new one by default; it is served here unless it is served already.
      config: of every node.
      wave: so many join at once, at most.
      listener: told of the events of all nodes.
    """
    network = network or FrameNetwork()
    chance = random.Random(f"mesh:{network.seed}")

    async def run(number: int, bootstrap: list[str], *, task_status: trio.TaskStatus[FrameNode]) -> None:
        async with open_frame_node(
            network, f"n{number}", config=config, bootstrap=bootstrap, listener=listener
        ) as node:
            task_status.started(node)
            try:
                await trio.sleep_forever()
            finally:
                node.crash()

    with hidden_nursery() as hidden:
        async with open_service_nursery() as services:
            if not network.is_served:
                await services.start(network.serve)
            with hidden.body():
                yield await _start_all(services, run, size, wave=wave, chance=chance)


async def _start_all(
    services: trio.Nursery, run: Callable[..., Awaitable[object]], size: int, *, wave: int, chance: random.Random
) -> list[FrameNode]:
    """One node, then waves that double the mesh, as long as they are not larger than ``wave``."""
    nodes: list[FrameNode] = []
    while len(nodes) < size:
        started: dict[int, FrameNode] = {}
        entries = [node.endpoint for node in nodes]

        async def start(number: int, started: dict[int, FrameNode], bootstrap: list[str]) -> None:
            started[number] = await services.start(run, number, bootstrap, name=f"node n{number}")

        count = min(len(nodes) or 1, wave, size - len(nodes))
        async with trio.open_nursery() as nursery:
            for number in range(len(nodes), len(nodes) + count):
                bootstrap = chance.sample(entries, min(len(entries), ENTRY_POINTS))
                nursery.start_soon(start, number, started, bootstrap, name=f"start n{number}")
        nodes += [started[number] for number in sorted(started)]
    return nodes


def _bootstrap(entry: str) -> Bootstrap:
    node_id, address = parse_bootstrap(entry)
    return Bootstrap(node_id, format_endpoint(address))


async def _resolve(endpoint: str) -> list[str]:
    """Hosts of this network have no names but in faults."""
    await trio.lowlevel.checkpoint()
    return [endpoint]

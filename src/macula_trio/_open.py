"""How a node comes to life and ends: its socket, its services in one visible nursery order, its goodbye."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import trio

from macula_trio._addresses import bind_first, first_route, own_endpoint, reachable_endpoints, source_host
from macula_trio._background import hidden_nursery, open_service_nursery
from macula_trio._chance import new_identity, random_bytes
from macula_trio._composition import Services
from macula_trio._config import NodeConfig
from macula_trio._drain import Drain
from macula_trio._events import Listener
from macula_trio._identity.files import Identity
from macula_trio._identity.trust_file import load_trust
from macula_trio._net.admission import Admission
from macula_trio._net.quic import QuicEndpoint
from macula_trio._net.udp import UdpNetwork
from macula_trio._node import Node
from macula_trio._util import is_unspecified, parse_endpoint
from macula_trio.abc import DatagramNetwork

logger = logging.getLogger("macula_trio")

IDLE_KEEPALIVES: Final = 3  # QUIC's idle time-out in keepalive intervals (DESIGN section 6)


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
    Leaving drains the node for at most ``close_deadline_s`` (see `Node.drain`).  Left by an exception, or cancelled, it
    has less patience: handlers that run are cancelled at once, and only withdrawals and goodbyes have that time.  No
    task and no socket is left.  An exception of the body arrives as it is.

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
    credentials = identity or new_identity()
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
        services = Services(config, credentials, network, storage, endpoint=endpoint, resolve=resolve, trust=trust)
        if listener is not None:
            services.events.listen(listener)
        quic = QuicEndpoint(
            socket,
            credentials,
            accept=services.registry.accept,
            idle_timeout_s=IDLE_KEEPALIVES * config.keepalive_s,
            random_bytes=random_bytes,
            admission=Admission(is_welcome=services.registry.is_welcome),
        )
        ended = trio.Event()
        with hidden_nursery() as hidden:
            async with open_service_nursery(ended) as nursery:
                drain = Drain(services, nursery=nursery, ended=ended, close_deadline_s=config.close_deadline_s)
                node = Node(config, services, quic, drain)
                await nursery.start(quic.serve)
                await nursery.start(partial(services.registry.serve, quic))
                if config.advertise is None and is_unspecified(hosts[0]):
                    announcer = services.announcer(partial(source_host, network, socket, route), socket.address[1])
                    nursery.start_soon(announcer.watch_route, name="watch our address")
                await nursery.start(services.rpc.serve)
                await nursery.start(services.dht.serve)
                nursery.start_soon(node._upkeep.watch_certificate, name="watch our certificate")
                is_in_peace = False
                try:
                    with hidden.body():
                        await node._join()
                        yield node
                        is_in_peace = True
                finally:
                    await drain.leave(patiently=is_in_peace)  # noqa: ASYNC102  # shields itself, and has deadlines
                    node._end_events()
    finally:
        socket.close()

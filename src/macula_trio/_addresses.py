"""Where a node listens, what it tells others of that, and by which addresses a name is reached.

Decided from what the configuration says and what the network knows; docs/design/addresses.md has the rules.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from macula_trio._config import NodeConfig
from macula_trio._net.families import may_reach
from macula_trio._util import (
    Address,
    format_endpoint,
    is_unspecified,
    numeric_endpoint,
    parse_bootstrap,
    parse_endpoint,
    without_scope,
)
from macula_trio.abc import DatagramNetwork, DatagramSocket

# Only to ask the routing table: nothing is ever sent to these networks of the documentation (RFC 5737, RFC 3849).
# IPv4 first, because a node can tell one address only, and most others listen on IPv4 alone.
_ANYWHERE: Final[tuple[Address, ...]] = (("192.0.2.1", 9), ("2001:db8::1", 9))


async def first_route(network: DatagramNetwork, entries: tuple[str, ...], *, listen: Sequence[str]) -> Address | None:
    """The first address of a bootstrap that we may reach; names are resolved anew whenever they are dialed.

    Args:
      network: knows names.
      entries: as `NodeConfig.bootstrap`.
      listen: numeric hosts of which we listen on one.

    Raises:
      OSError: none of them has an address.
    """
    failure: OSError | None = None
    has_any = False
    for entry in entries:
        _, (host, port) = parse_bootstrap(entry)
        try:
            found = await network.resolve(host)
        except OSError as exc:
            failure = failure or exc
            continue
        has_any = True
        for numeric in found:
            if any(may_reach(own, numeric) for own in listen):
                return numeric, port
    if failure is not None and not has_any:
        raise failure
    return None


async def bind_first(
    network: DatagramNetwork, hosts: Sequence[str], port: int, *, route: Address | None
) -> DatagramSocket:
    """A socket on the first of the addresses of a name that can be listened on, those on the way to ``route`` first.

    Raises:
      OSError: none can; what was wrong with the first.
    """
    failure: OSError | None = None
    for host in sorted(hosts, key=lambda own: route is not None and not may_reach(own, route[0])):
        try:
            return await network.bind((host, port))
        except OSError as exc:
            failure = failure or exc
    assert failure is not None, "a name has at least one address"
    raise failure


def own_endpoint(config: NodeConfig, network: DatagramNetwork, socket: DatagramSocket, route: Address | None) -> str:
    """What we tell others; a wildcard is replaced by our address on the route to the bootstrap, a scope is left out."""
    if config.advertise is not None:
        return format_endpoint(numeric_endpoint(config.advertise))
    host, port = socket.address
    if is_unspecified(host):
        host = source_host(network, socket, route)
    return format_endpoint((without_scope(host), port))


def source_host(network: DatagramNetwork, socket: DatagramSocket, route: Address | None) -> str:
    """What stands for a wildcard: our address on the route to a peer, else to anywhere, else the loopback's."""
    for peer in _ANYWHERE if route is None else (route, *_ANYWHERE):
        if socket.obstacle(peer[0]) is None:
            try:
                return without_scope(network.source_host(peer))
            except OSError:
                continue
    # A machine without any route: only itself can reach it.
    return "127.0.0.1" if socket.obstacle("127.0.0.1") is None else "::1"


async def reachable_endpoints(
    network: DatagramNetwork, obstacle: Callable[[str], str | None], endpoint: str
) -> list[str]:
    """The numeric endpoints that an endpoint stands for now; those out of reach only when there are no others.

    Args:
      network: knows names.
      obstacle: as `DatagramSocket.obstacle`.
      endpoint: ``host:port``, the host may be a name.

    Raises:
      OSError: no such name.
    """
    host, port = parse_endpoint(endpoint)
    found = await network.resolve(host)
    within_reach = [numeric for numeric in found if obstacle(numeric) is None]
    return [format_endpoint((numeric, port)) for numeric in within_reach or found]


def with_route(network: DatagramNetwork, addresses: Sequence[Address]) -> list[Address]:
    """Those to which this machine has a route; all of them when it has none.

    A name may have an IPv6 address that is of no use here.
    """
    routed: list[Address] = []
    for address in addresses:
        try:
            network.source_host(address)
        except OSError:
            continue
        routed.append(address)
    return routed or list(addresses)

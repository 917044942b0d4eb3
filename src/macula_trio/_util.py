"""Texts that people and peers write: endpoints (``host:port``) and dotted names, read and judged.

Pure: nothing here resolves a name; see `macula_trio.abc.DatagramNetwork.resolve`.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Mapping
from typing import Final, TypeAlias

from macula_trio._ids import NodeId

Address: TypeAlias = tuple[str, int]
"""A numeric host in its one spelling (`numeric_host`; IPv6 without brackets) and a UDP port."""

Path: TypeAlias = Address | tuple[str, int, str]
"""Where a peer is; behind that, on a socket that has several addresses, which of ours it talks to.

One peer may talk to two of our addresses at once, and expects each to answer for itself, so the two are not the same.
"""

_IpAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

PORT_MAX: Final = 65535
_WITH_LOCAL: Final = 3  # items of a path that names an address of ours
ENDPOINTS_CACHED: Final = 4096  # read before: every answer of a lookup names twenty, mostly the same ones again
HOST_CHARS_MAX: Final = 253  # RFC 1035, section 2.3.4, less what a name's own lengths take
ENDPOINT_CHARS_MAX: Final = 300  # with v0.8's prefix, brackets, port and slash; what peers write is remembered above

_SUBNET_BITS: Final = 64  # of IPv6; RFC 4291, section 2.5.4: what follows is the owner's to choose
_SITE_BITS: Final = 24  # of IPv4; the smallest network that routers of the Internet tell each other of

_PORT = re.compile(r"[0-9]{1,5}")
_URL_PREFIX = "https://"  # how v0.8 announces endpoints; accepted on receipt, never written


def parse_endpoint(text: str, *, port_min: int = 1) -> Address:
    """Split ``host:port``, ``[v6]:port`` or v0.8's ``https://host:port``; the host may be a name.

    Args:
      text: the endpoint.
      port_min: 1, or 0 where "any free port" makes sense.

    Raises:
      ValueError: one line that names the text and the mend.
    """
    rest = text.removeprefix(_URL_PREFIX).rstrip("/") if text.startswith(_URL_PREFIX) else text
    host, colon, port_text = rest.rpartition(":")
    if not colon or not host:
        raise ValueError(f"endpoint {text!r} is not HOST:PORT, such as 127.0.0.1:9443 or [::1]:9443")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        if ":" not in host or not is_numeric(host):
            raise ValueError(f"endpoint {text!r}: brackets are for IPv6 addresses, such as [::1]:9443")
    elif ":" in host:
        raise ValueError(f"endpoint {text!r}: write an IPv6 address in brackets, such as [::1]:9443")
    if not _is_host(host):
        raise ValueError(f"endpoint {text!r}: {host!r} is not a host name or address")
    if not (_PORT.fullmatch(port_text) and port_min <= int(port_text) <= PORT_MAX):
        raise ValueError(f"endpoint {text!r}: port {port_text!r} is not a number from {port_min} to {PORT_MAX}")
    return host, int(port_text)


def _is_host(host: str) -> bool:
    """Whether a resolver takes it at all; it must not meet what it raises `UnicodeError` for."""
    if len(host) > HOST_CHARS_MAX or not host.isprintable() or any(c.isspace() or c in "/@" for c in host):
        return False
    try:
        return bool(host.encode("idna"))
    except UnicodeError:
        return False


def parse_bootstrap(text: str) -> tuple[NodeId | None, Address]:
    """Split ``host:port`` or ``NODEID@host:port``.

    Raises:
      ValueError: one line that names the text and the mend.
    """
    id_text, at, endpoint = text.rpartition("@")
    if not at:
        return None, parse_endpoint(text)
    try:
        node_id = NodeId.from_hex(id_text)
    except ValueError as exc:
        raise ValueError(f"bootstrap {text!r}: {exc}; write NODEID@HOST:PORT or HOST:PORT") from None
    return node_id, parse_endpoint(endpoint)


def format_endpoint(address: Address) -> str:
    """Write an address as ``host:port`` or ``[v6]:port``."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@functools.lru_cache(maxsize=ENDPOINTS_CACHED)
def numeric_endpoint(text: str) -> Address:
    """Read an endpoint that a peer told us: it must be numeric, so that no peer makes us ask DNS.

    What it says of a scope is kept; `told_address` judges it.

    Raises:
      ValueError: malformed, a name, or the unspecified address.
    """
    if len(text) > ENDPOINT_CHARS_MAX:
        raise ValueError(f"endpoint of {len(text)} characters, limit {ENDPOINT_CHARS_MAX}")
    host, port = parse_endpoint(text)
    ip = ipaddress.ip_address(host)  # ValueError for a name
    embedded = _embedded(ip)
    if embedded.is_unspecified or embedded.is_multicast:
        raise ValueError(f"endpoint {text!r}: {host} is not the address of one node")
    return numeric_host(host), port


def told_address(text: str, teller: str) -> Address:
    """Read an endpoint told by a peer that is itself reached at the host ``teller``.

    A scope names an interface of one machine, so the peer's own says nothing here: a link-local address that came over
    a link gets the scope of that link.

    Raises:
      ValueError: as `numeric_endpoint`, or link-local and told by somebody who is not on a link with us.
    """
    host, port = numeric_endpoint(text)
    if not is_link_local(host):
        return host, port
    scope = scope_of(teller)
    if scope is None:
        raise ValueError(f"endpoint {text!r}: a link-local address, and whoever told it is on no link with us")
    return f"{without_scope(host)}%{scope}", port


def tellable_endpoint(text: str, hearer: str) -> str | None:
    """One of our own endpoints as the peer reached at the host ``hearer`` may be told of it.

    Never with a scope, which means something on this machine only; None when it is on a link where the peer is not.
    """
    if "%" not in text:
        return text
    host, port = numeric_endpoint(text)
    return format_endpoint((without_scope(host), port)) if scope_of(host) == scope_of(hearer) else None


def path_address(path: Path) -> Address:
    """Where the peer is."""
    return path[0], path[1]


def path_local(path: Path) -> str | None:
    """Which of our addresses the peer talks to, if the path says so."""
    return path[2] if len(path) == _WITH_LOCAL else None


def numeric_host(host: str) -> str:
    """The one spelling of a numeric host: IPv4 also when it is mapped into IPv6, and a scope only where one counts.

    Raises:
      ValueError: not numeric.
    """
    ip = _embedded(ipaddress.ip_address(host))
    return str(ip) if ip.is_link_local else without_scope(str(ip))


def without_scope(host: str) -> str:
    """A host without the name of an interface."""
    return host.partition("%")[0]


def scope_of(host: str) -> str | None:
    """The interface by which a link-local address is reached, if it says so."""
    return host.partition("%")[2] or None


def is_link_local(host: str) -> bool:
    """True for IPv6 addresses that are told apart by their interface only (RFC 4291, section 2.5.6)."""
    return ":" in host and is_numeric(host) and ipaddress.ip_address(host).is_link_local


def _embedded(ip: _IpAddress) -> _IpAddress:
    """The IPv4 address in an IPv6 one that means it, which not every Python judges by itself."""
    return (ip.ipv4_mapped or ip) if isinstance(ip, ipaddress.IPv6Address) else ip


def is_numeric(host: str) -> bool:
    """Tell an IP address from a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_unspecified(host: str) -> bool:
    """True for ``0.0.0.0`` and ``::``: addresses to listen on, never to announce."""
    return is_numeric(host) and _embedded(ipaddress.ip_address(host)).is_unspecified


def is_loopback(host: str) -> bool:
    """True for 127.0.0.0/8 and ``::1``."""
    return is_numeric(host) and _embedded(ipaddress.ip_address(host)).is_loopback


def is_local(host: str) -> bool:
    """True for numeric addresses that mean nothing, or another thing, elsewhere: loopback, link-local, scoped."""
    ip = _embedded(ipaddress.ip_address(host))
    return "%" in host or ip.is_loopback or ip.is_link_local


def unmapped(address: Address) -> Address:
    """The IPv4 address where an IPv6 one means it; other addresses as they are."""
    host, port = address
    return str(_embedded(ipaddress.ip_address(host))), port


def host_group(host: str) -> str:
    """What of a numeric address one owner has in all: the IPv4 address, or the /64 of an IPv6 one."""
    ip = _embedded(ipaddress.ip_address(host))
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    network = str(ipaddress.IPv6Network((int(ip), _SUBNET_BITS), strict=False))
    return f"{network}%{ip.scope_id}" if ip.scope_id else network


# Where only those can be dialed who are near: written out, because what `ipaddress` calls private differs between
# versions of Python, and it counts the documentation's networks in.
_PRIVATE_NETWORKS: Final = tuple(
    ipaddress.ip_network(network)
    for network in (
        "127.0.0.0/8",
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "169.254.0.0/16",  # link-local
        "100.64.0.0/10",  # between a provider and his customers (RFC 6598)
        "::1/128",
        "fc00::/7",
        "fe80::/10",
    )
)


@functools.lru_cache(maxsize=ENDPOINTS_CACHED)
def is_private(host: str) -> bool:
    """True for the numeric addresses of this machine and of networks that are not the Internet."""
    ip = _embedded(ipaddress.ip_address(host))
    return any(ip.version == network.version and ip in network for network in _PRIVATE_NETWORKS)


@functools.lru_cache(maxsize=ENDPOINTS_CACHED)
def public_network(host: str) -> str | None:
    """A name for the /24 (of IPv6 the /64) that a public address is in: one owner gets it as easily as one address.

    None for private addresses, and for what is not numeric.
    """
    if not is_numeric(host) or is_private(host):
        return None
    ip = _embedded(ipaddress.ip_address(host))
    owned_bits = _SITE_BITS if isinstance(ip, ipaddress.IPv4Address) else _SUBNET_BITS
    return f"{ip.version}:{int(ip) >> (ip.max_prefixlen - owned_bits):x}"


def may_tell(teller: str, address: Address) -> bool:
    """Whether a peer that is reached at ``teller`` may have us dial an address: a private one only from nearby.

    Else anybody on the Internet could aim us at what listens behind our firewall.
    """
    return is_private(teller) or not is_private(address[0])


REASON_CHARACTERS_MAX: Final = 512  # of texts that tell a peer what went wrong; they may quote what it sent


def clip(text: str) -> str:
    """Shorten a text for a peer, and make it one that can be encoded whatever it quotes."""
    shorter = text if len(text) <= REASON_CHARACTERS_MAX else text[: REASON_CHARACTERS_MAX - 1] + "\u2026"
    return shorter.encode(errors="replace").decode()


SHOWN_MAX: Final = 100  # characters of a bad value in a complaint; a node id with its quotes fits


def shown(value: object) -> str:
    """Write a bad value for a complaint: on one line, and not longer than a reader wants it."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no integers of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= SHOWN_MAX else f"{text[:SHOWN_MAX]}..."


def validate_headers(headers: Mapping[str, object]) -> dict[str, str]:
    """Give back headers as a dict of texts.

    Raises:
      ValueError: a value is not a text.
    """
    texts: dict[str, str] = {}
    for name, value in headers.items():
        if not isinstance(value, str):
            raise ValueError(f"headers: {name!r}: {value!r} is not a text")
        texts[name] = value
    return texts


NAME_BYTES_MAX: Final = 255  # a name travels in every call and message
_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")


def validate_name(name: str, *, what: str) -> str:
    """Give back a valid topic or procedure name (DESIGN section 10).

    Args:
      name: dot-separated segments of letters, digits, ``_`` and ``-``.
      what: ``"topic"`` or ``"procedure"``, for the message.

    Raises:
      ValueError: one line that names it and the rule.
    """
    if len(name) > NAME_BYTES_MAX or not _NAME.fullmatch(name):
        raise ValueError(
            f"{what} {name!r} is not valid: dot-separated segments of letters, digits, '_' and '-', "
            f"at most {NAME_BYTES_MAX} bytes, such as sensors.kitchen"
        )
    return name

"""IPv4 and IPv6: which of the two a socket reaches, and how IPv4 is written on a socket of both.

Pure.  An IPv4 address is mapped into IPv6 in calls to the system and nowhere else (RFC 4291, section 2.5.5.2).
"""

from __future__ import annotations

from typing import Final

from macula_trio._util import Address, format_endpoint, is_link_local, is_unspecified, scope_of

_MAPPED_PREFIX: Final = "::ffff:"


def mapped(host: str) -> str:
    """A numeric host as an IPv6 socket has it."""
    return host if ":" in host else _MAPPED_PREFIX + host


def unmapped(host: str) -> str:
    """The plain form of what an IPv6 socket has told."""
    return host[len(_MAPPED_PREFIX) :] if host.startswith(_MAPPED_PREFIX) and "." in host else host


def may_reach(listen_host: str, host: str) -> bool:
    """Whether a socket on one numeric host may reach another by its family; one on ``::`` may have both."""
    return (":" in host) == (":" in listen_host) or (":" in listen_host and is_unspecified(listen_host))


def obstacle(bound: Address, host: str, *, is_dual: bool) -> str | None:
    """Why nothing from a socket will ever reach a numeric host, in words with the mend; None when it may.

    Args:
      bound: where the socket is.
      host: of the peer.
      is_dual: whether an IPv6 socket takes IPv4, too.
    """
    where, port = format_endpoint(bound), bound[1]
    is_v6 = ":" in bound[0]
    if ":" in host and not is_v6:
        return f"this node's socket on {where} is IPv4 only; listen on [::]:{port} for both"
    if ":" not in host and is_v6 and not is_dual:
        if is_unspecified(bound[0]):
            return f"this system keeps IPv4 out of {where}; listen on 0.0.0.0:{port} for IPv4"
        return f"this node's socket on {where} is IPv6 only; listen on [::]:{port} for both"
    if is_link_local(host) and scope_of(host) is None:
        return f"it is a link-local address; name the interface that leads there, such as {host}%eth0"
    return None

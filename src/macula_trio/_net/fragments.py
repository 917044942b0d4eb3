"""No datagram of ours is ever cut into fragments on its way (RFC 9000, section 14): one that is too large is lost.

A lost datagram is what QUIC notices, and what makes us dial with smaller ones (`datagram_sizes.py`).  Fragments are
something else: where one of them is lost, or a firewall drops them all, the whole datagram is, and a network that
puts them together does so at the expense of everybody.

Which option says so is decided by `options_against_fragments` from facts; `never_fragment` sets it.  Python names few
of these options, so they are written out here, from the headers of the systems.  Those of Linux were run; those of
macOS, the BSDs and Windows were only tested with facts handed in.
"""

from __future__ import annotations

import logging
import socket
import sys
from typing import Final, TypeAlias

logger = logging.getLogger("macula_trio.udp")

Option: TypeAlias = tuple[int, int, int]
"""Level, name and value, as `socket.socket.setsockopt` takes them."""

# Linux: <linux/in.h> and <linux/in6.h>.  PROBE, not DO: with DO the kernel believes what anybody tells it by ICMP about
# the path, and refuses larger datagrams for ten minutes; with PROBE only our own interface counts.
_LINUX_IP_MTU_DISCOVER: Final = 10
_LINUX_IPV6_MTU_DISCOVER: Final = 23
_LINUX_PMTUDISC_PROBE: Final = 3
# macOS: <netinet/in.h> and <netinet6/in6.h>.
_MACOS_IP_DONTFRAG: Final = 28
_MACOS_IPV6_DONTFRAG: Final = 62
# FreeBSD: the same files.
_FREEBSD_IP_DONTFRAG: Final = 67
_FREEBSD_IPV6_DONTFRAG: Final = 62
# Windows: <ws2ipdef.h>.
_WINDOWS_IP_DONTFRAGMENT: Final = 14
_WINDOWS_IPV6_DONTFRAG: Final = 14

# By the beginning of `sys.platform`: what to set for IPv4, and what for IPv6.
_OPTIONS: Final[dict[str, tuple[tuple[int, int], tuple[int, int]]]] = {
    "linux": ((_LINUX_IP_MTU_DISCOVER, _LINUX_PMTUDISC_PROBE), (_LINUX_IPV6_MTU_DISCOVER, _LINUX_PMTUDISC_PROBE)),
    "android": ((_LINUX_IP_MTU_DISCOVER, _LINUX_PMTUDISC_PROBE), (_LINUX_IPV6_MTU_DISCOVER, _LINUX_PMTUDISC_PROBE)),
    "darwin": ((_MACOS_IP_DONTFRAG, 1), (_MACOS_IPV6_DONTFRAG, 1)),
    "freebsd": ((_FREEBSD_IP_DONTFRAG, 1), (_FREEBSD_IPV6_DONTFRAG, 1)),
    "win32": ((_WINDOWS_IP_DONTFRAGMENT, 1), (_WINDOWS_IPV6_DONTFRAG, 1)),
}


def options_against_fragments(platform: str, family: int) -> list[Option]:
    """What to set on a UDP socket so that its datagrams are sent whole or not at all.

    Args:
      platform: as `sys.platform` names it.
      family: ``socket.AF_INET`` or ``socket.AF_INET6``; the latter may carry IPv4 as well, so it gets both.

    Returns:
      Nothing for a system that we know nothing of.
    """
    for name, (for_v4, for_v6) in _OPTIONS.items():
        if platform.startswith(name):
            options = [(socket.IPPROTO_IPV6, *for_v6)] if family == socket.AF_INET6 else []
            return [*options, (socket.IPPROTO_IP, *for_v4)]
    return []


def never_fragment(sock: socket.socket, *, platform: str = sys.platform) -> None:
    """Have the system send the datagrams of a socket whole or not at all, as far as it knows how.

    A system that refuses an option is no reason not to start: an IPv6 socket of some has none for IPv4.
    """
    for level, name, value in options_against_fragments(platform, sock.family):
        try:
            sock.setsockopt(level, name, value)
        except OSError as exc:
            logger.debug("option %d of level %d, against fragments, was refused: %s", name, level, exc)

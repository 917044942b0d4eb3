"""Who may open a connection to us: bounds in all and for each host, and who has to go when there is no room.

Pure.  A host is an IPv4 address or the /64 of an IPv6 one, which is what one owner gets; connections from this very
machine count in all, but not per host, because all its processes share one.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Final, Generic, TypeVar

import attrs

from macula_trio._util import Address, host_group, is_loopback

T = TypeVar("T", bound=Hashable)

HALF_OPEN_FREE: Final = 64  # from here on a dialer must show that it can receive at its address (Retry)
HALF_OPEN_MAX: Final = 512  # each costs a TLS handshake and 76 KiB
HALF_OPEN_PER_HOST_MAX: Final = 256  # one host alone, shown to be there by Retry, cannot shut everybody else out
CONNECTIONS_MAX: Final = 4096  # that others dialed; 300 MiB at 76 KiB each
CONNECTIONS_PER_HOST_MAX: Final = 512  # an eighth of all: many nodes behind one address translator fit


class Verdict(enum.Enum):
    """What becomes of the first datagram of a connection."""

    ACCEPT = enum.auto()
    VALIDATE = enum.auto()  # its sender must show first that it receives at its address (RFC 9000, section 8.1.2)
    REFUSE = enum.auto()


@attrs.define(eq=False, kw_only=True)
class Admission(Generic[T]):
    """The connections that others dialed to one socket, by host.

    Attributes:
      connections_max: in all.
      per_host_max: of one host.
      is_welcome: asked first; False for an address whose host is refused for a while.
    """

    connections_max: int = CONNECTIONS_MAX
    per_host_max: int = CONNECTIONS_PER_HOST_MAX
    is_welcome: Callable[[Address], bool] = lambda _address: True
    _half_open: dict[T, str] = attrs.field(factory=dict, init=False)
    _of_host: dict[str, dict[T, None]] = attrs.field(factory=dict, init=False)
    _host_of: dict[T, str] = attrs.field(factory=dict, init=False)

    @property
    def half_open(self) -> int:
        """Connections whose peer has not proven who it is."""
        return len(self._half_open)

    def judge(self, source: Address, *, has_token: bool) -> Verdict:
        """Decide about a newcomer who may have forged its address."""
        host = host_group(source[0])
        if not self.is_welcome(source):
            return Verdict.REFUSE
        if not is_loopback(source[0]) and len(self._of_host.get(host, ())) >= self.per_host_max:
            return Verdict.REFUSE
        if has_token or self.half_open >= HALF_OPEN_FREE or len(self._host_of) >= self.connections_max:
            return Verdict.VALIDATE
        return Verdict.ACCEPT

    def make_room(self, source: Address) -> tuple[bool, T | None]:
        """Decide about a newcomer who has shown that it is at its address.

        Returns:
          Whether it may come in, and whose connection has to go for it: the oldest one of the host that has the most,
          so that whoever fills the place pays for it himself.
        """
        host = host_group(source[0])
        half_open = Counter(self._half_open.values())
        if half_open[host] >= HALF_OPEN_PER_HOST_MAX:
            return False, None
        if self.half_open >= HALF_OPEN_MAX:
            busiest, count = half_open.most_common(1)[0]
            oldest = next(one for one, its_host in self._half_open.items() if its_host == busiest)
            return (True, oldest) if count > half_open[host] + 1 else (False, None)
        if len(self._host_of) >= self.connections_max:
            of_busiest = max(self._of_host.values(), key=len)
            fits = len(of_busiest) > len(self._of_host.get(host, ())) + 1
            return (True, next(iter(of_busiest))) if fits else (False, None)
        return True, None

    def opened(self, connection: T, source: Address) -> None:
        """Note a connection that was accepted."""
        host = host_group(source[0])
        self._half_open[connection] = self._host_of[connection] = host
        self._of_host.setdefault(host, {})[connection] = None

    def proven(self, connection: T) -> None:
        """Note that its peer has proven who it is."""
        self._half_open.pop(connection, None)

    def closed(self, connection: T) -> None:
        """Forget a connection; nothing happens if it is not known."""
        self._half_open.pop(connection, None)
        host = self._host_of.pop(connection, None)
        if host is not None:
            of_host = self._of_host[host]
            del of_host[connection]
            if not of_host:
                del self._of_host[host]

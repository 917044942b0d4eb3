"""How large the datagrams of a connection are: which size to dial with, when to race a smaller one, what to remember.

Pure.  QUIC pads its first datagrams to the full size and keeps that size for the whole connection (aioquic cannot
change it on a live one), so on a path that carries less nothing ever comes back.  A dial that nothing answers for two
time-outs of its first datagram gets a rival of the smallest size that QUIC allows; the first of the two that is
answered is the connection, and the other one is given up.  DESIGN section 6; the reasons of each rule are in
docs/design/connections.md.
"""

from __future__ import annotations

from collections.abc import Hashable
from math import inf
from typing import Final, Generic, TypeVar

import attrs

from macula_trio._util import Address, is_loopback

T = TypeVar("T", bound=Hashable)

DATAGRAM_BYTES: Final = 1452  # fits IPv6 over Ethernet: 1500 - 40 - 8
DATAGRAM_BYTES_SMALL: Final = 1200  # every path that carries QUIC carries it (RFC 9000, section 14)
DATAGRAM_BYTES_LOOPBACK: Final = 16_000  # loopback's MTU is larger, and so is aioquic's gain (4.6x one-way)
DATAGRAM_BYTES_LOOPBACK_MACOS: Final = 9_000  # its sockets send 9,216 at most (net.inet.udp.maxdgram)
INITIAL_TIMEOUTS: Final = 2  # unanswered ones before a race: one datagram is lost easily, three in a row are not
SMALL_REMEMBERED_S: Final = 600.0  # of a path that carries little: routes change, and large datagrams save a fifth
SMALL_REMEMBERED_MAX: Final = 4096  # addresses; the one that was dialed least recently is forgotten first

_MACOS: Final = "darwin"  # as `sys.platform` has it


def race_after_s(initial_rtt_s: float) -> float:
    """How long a first datagram may be unanswered: its first `INITIAL_TIMEOUTS` time-outs, one after another.

    The first is twice the assumed round trip, and each is twice as long as the one before (RFC 9002, sections 6.2.1
    and 6.2.2; aioquic keeps to them save that it takes 2 * RTT for RTT + 4 * RTT / 2).
    """
    return 2 * initial_rtt_s * (2**INITIAL_TIMEOUTS - 1)


@attrs.define(eq=False)
class _Dial(Generic[T]):
    """A dialed connection that nothing has answered yet."""

    peer: Address
    race_at: float  # inf once the race is on
    rival: T | None = None


@attrs.define(eq=False, kw_only=True)
class DatagramSizes(Generic[T]):
    """What one socket knows of the sizes that its peers' addresses take, and the races that find it out.

    Attributes:
      platform: as `sys.platform` names it.
      large_buffers: whether the system granted buffers that many datagrams of loopback's size fit into.
      initial_rtt_s: what QUIC assumes of a round trip before it has measured one.
    """

    platform: str
    large_buffers: bool
    initial_rtt_s: float
    _small_until: dict[Address, float] = attrs.field(factory=dict, init=False)  # least recently dialed first
    _dials: dict[T, _Dial[T]] = attrs.field(factory=dict, init=False)
    _runs_for: dict[T, T] = attrs.field(factory=dict, init=False)  # by rival
    _won_by_small: dict[T, Address] = attrs.field(factory=dict, init=False)  # until TLS is through

    def largest(self, peer: Address) -> int:
        """The size that we would use with ``peer`` if the path were ours to choose; a listener's, too."""
        if not (self.large_buffers and is_loopback(peer[0])):
            return DATAGRAM_BYTES
        return DATAGRAM_BYTES_LOOPBACK_MACOS if self.platform == _MACOS else DATAGRAM_BYTES_LOOPBACK

    def to_dial(self, peer: Address, now: float) -> int:
        """The size to dial with: the largest one, unless the path to this very address was found to be small."""
        until = self._small_until.pop(peer, -inf)
        if now >= until:
            return self.largest(peer)
        self._small_until[peer] = until  # behind all others: it was dialed last
        return DATAGRAM_BYTES_SMALL

    # -- a dial, and the race that it may become ------------------------------------------------------------------

    def dialed(self, connection: T, peer: Address, size: int, now: float) -> None:
        """Note a first datagram under way; below the smallest size nothing is left to try."""
        if size > DATAGRAM_BYTES_SMALL:
            self._dials[connection] = _Dial(peer, now + race_after_s(self.initial_rtt_s))

    def race_at(self, connection: T) -> float:
        """When `raced` is to be called, if nothing has come back by then; ``inf`` for never."""
        dial = self._dials.get(connection)
        return inf if dial is None else dial.race_at

    def raced(self, connection: T, rival: T) -> None:
        """Note that a smaller one runs for the same peer."""
        dial = self._dials[connection]
        dial.race_at, dial.rival = inf, rival
        self._runs_for[rival] = connection

    def answered(self, connection: T) -> tuple[T, T] | None:
        """Note that the peer has answered the first flight of a connection: it is the one, whatever becomes of it.

        Returns:
          What was dialed and its rival, when there was a race: the one of them that was not answered has to go.
        """
        dialed = self._runs_for.pop(connection, connection)
        dial = self._dials.pop(dialed, None)
        if dial is None or dial.rival is None:
            return None
        self._runs_for.pop(dial.rival, None)
        if dialed is not connection:
            self._won_by_small[dialed] = dial.peer
        return dialed, dial.rival

    def completed(self, connection: T, now: float) -> None:
        """Note that TLS is through with what was dialed: if the small one won, that is worth remembering."""
        peer = self._won_by_small.pop(connection, None)
        if peer is None:
            return
        if len(self._small_until) >= SMALL_REMEMBERED_MAX:
            del self._small_until[next(iter(self._small_until))]
        self._small_until[peer] = now + SMALL_REMEMBERED_S

    def ended(self, connection: T) -> T | None:
        """Forget a connection; nothing happens if it is not known.

        Returns:
          Its rival, if one is running: it has to go, too.
        """
        self._won_by_small.pop(connection, None)
        dialed = self._runs_for.pop(connection, None)
        if dialed is not None:  # a rival that failed by itself: what was dialed may still be answered
            self._dials[dialed].rival = None
            return None
        dial = self._dials.pop(connection, None)
        if dial is None or dial.rival is None:
            return None
        del self._runs_for[dial.rival]
        return dial.rival

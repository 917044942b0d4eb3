"""Where a peer that we dialed is: it may move, or be moved by an address translator, and its connection goes on.

Pure.  aioquic follows the peers that dialed us; those that we dialed have one address for it, and here is decided which
one that stands for.  Who sends something new from elsewhere is a candidate.  It is challenged by a QUIC PING that goes
there and nowhere else, and the path changes when the answer comes from there.  Meanwhile everything else keeps to the
path, and a single datagram from there calls it all off: what still talks has not moved.  What an attacker can make of
it: docs/design/connections.md.
"""

from __future__ import annotations

from collections.abc import Collection
from math import inf
from typing import Final

import attrs

from macula_trio._util import Address

CHALLENGE_PAUSE_S: Final = 1.0  # at least, between two challenges of one connection, whoever is challenged
CHALLENGES_MAX: Final = 3  # for one sign of life of the candidate: one may be lost on the way, three in a row are not
AMPLIFICATION_MAX: Final = 3  # bytes to a candidate for each byte that came from it (RFC 9000, section 8.1)


@attrs.define(eq=False)
class PeerPath:
    """The way to one peer.

    Attributes:
      address: where it is.
      uid: of the latest challenge; answers to earlier ones count no more.
      wants_challenge: whether it has yet to leave.
    """

    address: Address
    uid: int = attrs.field(default=0, init=False)
    wants_challenge: bool = attrs.field(default=False, init=False)
    _candidate: Address | None = attrs.field(default=None, init=False)
    _is_waiting: bool = attrs.field(default=False, init=False)
    _is_challenged: bool = attrs.field(default=False, init=False)
    _left: int = attrs.field(default=0, init=False)  # challenges, before it must give a new sign of life
    _allowance: int = attrs.field(default=0, init=False)  # bytes that it may be sent
    _challenged_at: float = attrs.field(default=-inf, init=False)

    def heard(self, source: Address, size: int, now: float, *, is_news: bool) -> bool:
        """Note a datagram, after it was acted on.

        Args:
          source: where it came from.
          size: its bytes.
          now: in seconds.
          is_news: whether it brought something that only the peer can have sent, and for the first time.

        Returns:
          True when a challenge is due: what is to be sent anyway leaves before, then `challenge` is called.
        """
        if source == self.address:
            self._give_up()
            return False
        may_challenge = now - self._challenged_at >= CHALLENGE_PAUSE_S
        if source == self._candidate:
            self._allowance += AMPLIFICATION_MAX * size
        elif is_news and may_challenge:
            self._candidate, self._allowance = source, AMPLIFICATION_MAX * size
        else:
            return False
        if is_news:
            self._left = CHALLENGES_MAX
        if not (may_challenge and self._left):
            return False
        self._left -= 1
        self._challenged_at = now
        return True

    def challenge(self) -> int:
        """Begin a challenge; gives the new `uid` of the PING to be sent now."""
        self.uid += 1
        self.wants_challenge, self._is_waiting, self._is_challenged = True, False, False
        return self.uid

    def wait(self) -> None:
        """Note that the PING has to wait, because too much is under way already.

        From outside nobody sees which datagram takes it along, so whatever fits goes to the candidate until it answers,
        or the path speaks again.  To one that is false that is a loss of a few hundred bytes.
        """
        self._is_waiting = True

    def target(self, size: int) -> Address:
        """Where the next datagram goes: the first one after a challenge was wanted goes to the candidate."""
        if not self.wants_challenge or self._candidate is None:
            return self.address
        self.wants_challenge = self._is_waiting
        if size > self._allowance:
            return self.address  # should it have had the PING, the next challenge may fit
        self._allowance -= size
        self._is_challenged = True
        return self._candidate

    def answered(self, uids: Collection[int], source: Address) -> bool:
        """Take the PINGs that a datagram answers, and its source; True when the peer is at its new `address` now."""
        if self.uid not in uids or not self._is_challenged or source != self._candidate:
            return False
        self.address = source
        self._give_up()
        return True

    def _give_up(self) -> None:
        self._candidate = None
        self.wants_challenge = self._is_waiting = self._is_challenged = False

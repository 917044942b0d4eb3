"""What one peer may ask of us in a while: a token bucket (DESIGN section 8, "Limits").

Sans-IO.  It fills at a steady rate and holds a bounded burst: honest peers come in bursts, and only who goes on
and on is refused.
"""

from __future__ import annotations


class TokenBucket:
    """An allowance that grows with time.

    Full at first: how long a peer was silent before we met it is not known, and newcomers ask most.

    Args:
      rate_per_s: how much comes back in a second.
      burst: how much it holds.
    """

    __slots__ = ("_at", "_burst", "_left", "_rate_per_s")

    def __init__(self, rate_per_s: float, burst: float) -> None:
        assert rate_per_s > 0, "an empty bucket would never fill again"
        assert burst > 0, "nobody could ever take anything"
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._left = burst
        self._at: float | None = None

    def take(self, amount: float, now: float) -> bool:
        """Take ``amount`` if it is there; what is refused costs nothing.

        Args:
          amount: at most the burst, or it is never there.
          now: seconds on one clock; a time before the last one counts as no time at all.
        """
        if self._at is not None:
            self._left = min(self._burst, self._left + max(0.0, now - self._at) * self._rate_per_s)
        self._at = now if self._at is None else max(self._at, now)
        if amount > self._left:
            return False
        self._left -= amount
        return True

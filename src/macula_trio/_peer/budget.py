"""What one peer may ask of us in a while: a token bucket (DESIGN section 8, "Limits").

Sans-IO.  It fills at a steady rate and holds a bounded burst: honest peers come in bursts, and only who goes on
and on is refused.
"""

from __future__ import annotations

from typing import Final

from macula_trio.errors import ErrorCode, RemoteProtocolError

# Far above what a node of ours can send or take: who is beyond them does not talk, but attacks.
FRAMES_PER_S: Final = 100_000.0
FRAMES_BURST: Final = 500_000.0
BYTES_PER_S: Final = 256.0 * 1024 * 1024
BYTES_BURST: Final = 512.0 * 1024 * 1024
# PINGs are answered one by one, at 10 us each: one peer may have a twentieth of a core by them.
PINGS_PER_S: Final = 5_000.0
PINGS_BURST: Final = 10_000.0
# Frames that nobody here knows or wants: a few come from newer versions, and more are an attempt to keep us busy.
NOISE_PER_S: Final = 1_000.0
NOISE_BURST: Final = 10_000.0


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

    def spend(self, amount: float) -> None:
        """Take what was used already; the debt is at most a burst, and is paid before anything is there again."""
        self._left = max(-self._burst, self._left - amount)


class LinkBudget:
    """What one link may bring us in a while."""

    __slots__ = ("bytes", "frames", "noise", "pings")

    def __init__(self) -> None:
        self.frames = TokenBucket(FRAMES_PER_S, FRAMES_BURST)
        self.bytes = TokenBucket(BYTES_PER_S, BYTES_BURST)
        self.pings = TokenBucket(PINGS_PER_S, PINGS_BURST)
        self.noise = TokenBucket(NOISE_PER_S, NOISE_BURST)

    def endure(self, frames: int, size: int, now: float) -> None:
        """Take in what came.

        Raises:
          RemoteProtocolError: it is too much.
        """
        if not (self.frames.take(frames, now) and self.bytes.take(size, now)):
            raise RemoteProtocolError("more in a second than anybody may send", code=ErrorCode.LIMIT_EXCEEDED)

    def endure_noise(self, now: float) -> None:
        """Take in a frame that is of no use here.

        Raises:
          RemoteProtocolError: it is one too many.
        """
        if not self.noise.take(1, now):
            raise RemoteProtocolError("too many frames that are not for us", code=ErrorCode.LIMIT_EXCEEDED)

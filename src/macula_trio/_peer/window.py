"""How much of what was written on a link its reader has taken: backpressure is ours (DESIGN section 6).

Sans-IO.  QUIC's acknowledgements say that bytes have arrived, not that anybody took them; CREDIT does.  It carries a
running total, so that a lost, late or repeated one does no harm.
"""

from __future__ import annotations

from typing import Final

WINDOW_BYTES: Final = 1024 * 1024  # sent and not taken: above, whoever can wait waits
BACKLOG_BYTES_MAX: Final = 8 * 1024 * 1024  # the same: above, the link ends; aioquic's send buffer has no bound
CREDIT_EVERY_BYTES: Final = WINDOW_BYTES // 4  # a reader tells so often; less is told by nothing, and stops nobody


class SendWindow:
    """What we wrote on one link and the peer has not taken."""

    __slots__ = ("_taken", "_written")

    def __init__(self) -> None:
        self._written = self._taken = 0

    @property
    def size(self) -> int:
        """Bytes that were written and not taken."""
        return self._written - self._taken

    @property
    def is_congested(self) -> bool:
        """Whether it is more than 1 MiB."""
        return self.size > WINDOW_BYTES

    @property
    def is_hopeless(self) -> bool:
        """Whether it is more than any peer that reads ever leaves."""
        return self.size > BACKLOG_BYTES_MAX

    def wrote(self, size: int) -> None:
        """Count a frame that waits for credit."""
        self._written += size

    def credited(self, total: int) -> bool:
        """Take the peer's word for how much it has taken in all; whether there is more room now.

        What it cannot have taken is ignored, so whoever credits without reading gains the window once, and what it
        leaves unread is bounded by what QUIC lets through.
        """
        if not self._taken < total <= self._written:
            return False
        self._taken = total
        return True


class ReceiveWindow:
    """What we have taken of one link and not told."""

    __slots__ = ("_taken", "_told")

    def __init__(self) -> None:
        self._taken = self._told = 0

    def took(self, size: int) -> int | None:
        """Count a frame that was taken; the total to be told now, or None."""
        self._taken += size
        if self._taken - self._told < CREDIT_EVERY_BYTES:
            return None
        self._told = self._taken
        return self._taken

"""What was written on a link and not shown to be read: backpressure is ours (DESIGN section 6).

Sans-IO.  QUIC's acknowledgements say that bytes have arrived, not that anybody took them; a PING behind them, which a
peer answers in its order, does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

WINDOW_BYTES: Final = 1024 * 1024  # sent and not shown to be taken: above, whoever can wait waits
BACKLOG_BYTES_MAX: Final = 8 * 1024 * 1024  # the same: above, the link ends; aioquic's send buffer has no bound
_PROBE_BYTES: Final = 7  # of chance in the PING that asks what was taken


class Backlog:
    """Counts the bytes of one link.

    Args:
      random_bytes: which the peer cannot guess; who could answer without having read would make us buffer without end.
    """

    def __init__(self, random_bytes: Callable[[int], bytes]) -> None:
        self._random_bytes = random_bytes
        self._written = self._taken = 0
        self._mark: tuple[int, int] | None = None  # of the probe under way: its timestamp, and what was written before

    @property
    def size(self) -> int:
        """Bytes that were written and not shown to be taken."""
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
        """Count a frame."""
        self._written += size

    def next_probe(self) -> int | None:
        """The timestamp of a PING to be written now; None when there is little to ask for, or one is under way."""
        if self.size <= WINDOW_BYTES // 2 or self._mark is not None:
            return None
        probe = -2 - int.from_bytes(self._random_bytes(_PROBE_BYTES))
        self._mark = probe, self._written
        return probe

    def answered(self, timestamp: int) -> bool:
        """Take the answer to a PING; whether it was to our probe, so that something has changed."""
        if self._mark is None or timestamp != self._mark[0]:
            return False
        self._taken, self._mark = self._mark[1], None
        return True

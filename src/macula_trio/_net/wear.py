"""How much a connection has carried, and when it had better be replaced.

Pure, and cheap enough to ask after every message.
"""

from __future__ import annotations

from typing import Final

import attrs

# aioquic 1.7.2 keeps nothing of a stream that has finished; others remember each for ever, and nothing public tells
# which ones.
STREAMS_WORN: Final = 10_000
# With AES-GCM, 2**23 packets under one key are safe (RFC 9001, section 6.6), and aioquic neither counts them nor takes
# another key by itself.  Half of that leaves as much for the end of what is under way.
DATAGRAMS_WORN: Final = 2**22

_STREAM_KINDS: Final = 4  # by who opened it, and in how many directions it goes (RFC 9000, section 2.1)


@attrs.frozen(kw_only=True)
class WearLimits:
    """What one connection may carry.

    Attributes:
      streams: opened by both sides together.
      datagrams: that we sent; packets and datagrams are the same once the handshake is over.
    """

    streams: int = STREAMS_WORN
    datagrams: int = DATAGRAMS_WORN


@attrs.define(eq=False)
class Wear:
    """Counts of one connection."""

    limits: WearLimits
    datagrams_sent: int = 0
    _opened: list[int] = attrs.field(factory=lambda: [0] * _STREAM_KINDS, init=False)

    @property
    def streams_opened(self) -> int:
        """By both sides, and those that were skipped: opening one opens all before it."""
        return sum(self._opened)

    @property
    def is_worn(self) -> bool:
        """Whether a limit is reached."""
        return self.datagrams_sent >= self.limits.datagrams or self.streams_opened >= self.limits.streams

    def used(self, stream_id: int) -> None:
        """Note a stream on which something was written, or came."""
        number, kind = divmod(stream_id, _STREAM_KINDS)
        if number >= self._opened[kind]:
            self._opened[kind] = number + 1

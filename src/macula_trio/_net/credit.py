"""How much a peer may make us hold for it before it has been read: flow control on the receiving side.

aioquic doubles the window of a connection as it is used, whether or not anybody could read what came, and keeps a
stream whose front is missing as one buffer from its front to the farthest byte that came.  So a peer that sends single
bytes far behind the front would double what we hold with each of them, and a dozen small datagrams of a stranger would
take all memory.  Here the window is what was taken plus a constant (RFC 9000, section 4.1).

The window is in none of aioquic's public parts (docs/design/connections.md).
"""

from __future__ import annotations

from typing import Final

from aioquic.quic.connection import Limit, QuicConnection
from aioquic.quic.packet import QuicFrameType

# Twice what a peer may withhold before its connection is ended (`macula_trio._net.quic`), so that this comes first.
WINDOW_UNPROVEN_BYTES: Final = 128 * 1024  # CONNECT has at most 16 KiB; the rest is room for loss
WINDOW_BYTES: Final = 8 * 1024 * 1024  # a frame has at most 1 MiB; at 100 ms of round trip this is 80 MB per second
# Pieces that have come while something in front of them is missing.  aioquic walks them for each new one, so their
# number costs its square: 2,048 take 60 ms, 20,000 take 6 s.  Of 4 MiB in full datagrams with every second one lost
# there are 1,500.
PIECES_UNPROVEN_MAX: Final = 256
PIECES_MAX: Final = 2048
HANDSHAKE_AHEAD_MAX: Final = 64 * 1024  # of a TLS message whose front is missing: all of them together take 20 KiB


class _Window(Limit):
    """In the place of aioquic's own count: it may read the limit, and its doubling comes to nothing."""

    granted: int

    @property
    def value(self) -> int:
        return self.granted

    @value.setter
    def value(self, value: int) -> None:
        """What is granted, `InboundCredit` alone decides."""


class InboundCredit:
    """The window of one connection.

    Args:
      quic: just made, with ``max_data`` of `WINDOW_UNPROVEN_BYTES`.
    """

    def __init__(self, quic: QuicConnection) -> None:
        self._quic = quic
        self._bytes = WINDOW_UNPROVEN_BYTES
        self._pieces_max = PIECES_UNPROVEN_MAX
        self._window = _Window(QuicFrameType.MAX_DATA, "max_data", self._bytes)
        self._window.granted = self._bytes
        quic._local_max_data = self._window

    def widen(self) -> None:
        """The peer has proven who it is."""
        self._bytes, self._pieces_max = WINDOW_BYTES, PIECES_MAX
        self.update()

    def update(self) -> bool:
        """Grant again what was taken, after each datagram.

        Returns:
          False when the peer has sent too much, or too many pieces, of something whose front is missing: give it up.
        """
        held = pieces = 0
        for stream in self._quic._streams.values():
            receiver = stream.receiver
            waiting = 0 if receiver.is_finished else receiver.highest_offset - receiver.starting_offset()
            if waiting:
                held += waiting
                pieces += len(receiver._ranges)
        # Anybody who has sent one datagram may write there, and aioquic takes half a megabyte, in any number of pieces.
        handshake = [stream.receiver for stream in self._quic._crypto_streams.values()]
        pieces += sum(len(receiver._ranges) for receiver in handshake)
        ahead = max((receiver.highest_offset - receiver.starting_offset() for receiver in handshake), default=0)
        grant = self._window.used - held + self._bytes
        # Not for every byte: each grant is a frame of its own.
        if grant - self._window.granted >= self._bytes // 2:
            self._window.granted = grant
        return pieces <= self._pieces_max and ahead <= HANDSHAKE_AHEAD_MAX

"""What we need of aioquic's private parts, beside its window (``credit.py``); each has a test that sees it work.

These two files and ``testing/_determinism.py`` are the only ones that touch them (docs/design/connections.md).
"""

from __future__ import annotations

from typing import Final

from aioquic.buffer import Buffer  # type: ignore[attr-defined]  # public, but re-exported without saying so
from aioquic.quic.connection import QuicConnection

_NOTHING: Final = Buffer(capacity=0)


def acknowledge_with_answers(quic: QuicConnection) -> None:
    """Let the next datagram acknowledge what came before it.

    aioquic holds an acknowledgement back for a millisecond, so that none rides on an answer, and each costs a datagram
    and a timer of its own.  When to flush what was only read, `macula_trio._net.pump` decides: within a tick or two.
    """
    quic._ack_delay = 0.0


def forget_handshake(quic: QuicConnection) -> None:
    """Free 16 KiB for each stage of a handshake: what TLS writes to, and aioquic keeps for the connection's life."""
    quic._crypto_buffers = dict.fromkeys(quic._crypto_buffers, _NOTHING)


def is_heard(quic: QuicConnection, stream_id: int) -> bool:
    """Whether the peer has acknowledged a stream of ours to its end; aioquic forgets such streams, or says so."""
    stream = quic._streams.get(stream_id)
    return stream is None or stream.sender.is_finished

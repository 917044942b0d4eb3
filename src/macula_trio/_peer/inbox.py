"""Frames out of the streams of one link, and how much a peer may leave unfinished.  Sans-IO."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from macula_trio._wire.codec import FrameDecoder
from macula_trio._wire.frame import Frame
from macula_trio.errors import ErrorCode, RemoteProtocolError

STREAMS_MAX: Final = 128  # on which a peer may begin a frame at once: v0.8 uses up to 100, each may hold a frame
BUFFERED_BYTES_MAX: Final = 4 * 1024 * 1024  # of unfinished frames on all streams of one link


class Inbox:
    """Cuts frames; one decoder for each stream that has begun and not ended.

    Args:
      payload_max: what a frame may hold, by stream; asked anew for every frame, because a proof changes it.
    """

    __slots__ = ("_decoders", "_payload_max")

    def __init__(self, payload_max: Callable[[int], int]) -> None:
        self._payload_max = payload_max
        self._decoders: dict[int, FrameDecoder] = {}

    def receive(self, stream_id: int, data: bytes, *, end_stream: bool) -> Iterator[tuple[Frame, int]]:
        """The frames that are complete with these bytes, and the size of each.

        Raises:
          RemoteProtocolError: they are none, or too much is unfinished.
        """
        decoder = self._decoders.get(stream_id)
        if decoder is None:
            if len(self._decoders) >= STREAMS_MAX:
                raise RemoteProtocolError(f"more than {STREAMS_MAX} streams", code=ErrorCode.LIMIT_EXCEEDED)
            decoder = self._decoders[stream_id] = FrameDecoder(payload_max=self._payload_max(stream_id))
        decoder.receive_data(data)
        before = decoder.buffered
        while (frame := decoder.next_frame()) is not None:
            after = decoder.buffered
            yield frame, before - after
            before = after
            decoder.payload_max = self._payload_max(stream_id)
        if end_stream:
            decoder.end()
            del self._decoders[stream_id]
        elif sum(decoder.buffered for decoder in self._decoders.values()) > BUFFERED_BYTES_MAX:
            raise RemoteProtocolError("too many unfinished frames", code=ErrorCode.LIMIT_EXCEEDED)

    def forget(self, stream_id: int) -> None:
        """The peer gave a stream up."""
        self._decoders.pop(stream_id, None)

    def clear(self) -> None:
        """Nothing more comes."""
        self._decoders.clear()

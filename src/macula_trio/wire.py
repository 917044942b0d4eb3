"""For people who write another peer: frames out of bytes, and bytes out of frames (DESIGN section 4)."""

from macula_trio._wire.codec import FrameDecoder, decode_frame, encode_frame
from macula_trio._wire.frame import HEADER_BYTES, MAX_PAYLOAD, VERSION, Frame, MessageType
from macula_trio._wire.values import DEPTH_MAX, ELEMENTS_MAX, INT_MAX, INT_MIN

__all__ = [
    "DEPTH_MAX",
    "ELEMENTS_MAX",
    "HEADER_BYTES",
    "INT_MAX",
    "INT_MIN",
    "MAX_PAYLOAD",
    "VERSION",
    "Frame",
    "FrameDecoder",
    "MessageType",
    "decode_frame",
    "encode_frame",
]

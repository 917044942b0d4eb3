"""A client and a node of v0.8 as far as their frames go: they prove nothing, and give nothing to tell replies by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from quic_tools import Proving, Recorder

from macula_trio._net.quic import CONTROL_STREAM, Connection
from macula_trio._wire.codec import FrameDecoder, encode_frame
from macula_trio._wire.frame import MessageType

CLIENT_NUMBER: Final = 8
NODE_NUMBER: Final = 9

Frames = list[tuple[MessageType, dict[str, Any]]]


def frames_in(data: bytes) -> Frames:
    decoder, found = FrameDecoder(), Frames()
    decoder.receive_data(data)
    while (frame := decoder.next_frame()) is not None:
        assert frame.body is not None
        found.append((MessageType(frame.type), frame.body))
    decoder.end()
    return found


def told(recorder: Recorder, stream_id: int = CONTROL_STREAM) -> Frames:
    """What somebody has heard on a stream so far."""
    return frames_in(bytes(recorder.data.get(stream_id, b"")))


def put(recorder: Recorder, number: MessageType, body: Mapping[str, Any], stream_id: int = CONTROL_STREAM) -> None:
    recorder.write(encode_frame(number, body), stream_id)


def store_body(key: bytes, owner: bytes, endpoint: str, **more: Any) -> dict[str, Any]:
    return {"type": "store", "key": key, "value": {"node_id": owner, "endpoint": endpoint, "ttl": 300} | more}


class OldNode(Proving):
    """Listens, answers CONNECT by the two times and every CALL by its own arguments; remembers the rest."""

    made: list[OldNode]

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self.frames = Frames()
        self._decoders: dict[int, FrameDecoder] = {}
        type(self).made.append(self)

    def stream_data_received(self, stream_id: int, data: bytes, end_stream: bool) -> None:
        decoder = self._decoders.setdefault(stream_id, FrameDecoder())
        decoder.receive_data(data)
        while (frame := decoder.next_frame()) is not None:
            assert frame.body is not None
            self.frames.append((MessageType(frame.type), frame.body))
            if frame.type == MessageType.CONNECT:
                put(self, MessageType.PONG, {"timestamp": 1, "server_time": 2}, stream_id)
            elif frame.type == MessageType.CALL:
                answer = {"call_id": frame.body["call_id"], "result": frame.body["args"]}
                put(self, MessageType.REPLY, answer, stream_id)

"""Frames, messages and payloads from bytes that anybody may send, cut anywhere.

The first byte chooses what the rest is: a stream, with the sizes of its pieces, or the payload of an application.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from typing import Any, Final

import attrs
import msgpack
from fuzz_tools import own_frames, vary, vector_frames

from macula_trio import wire
from macula_trio._wire import messages
from macula_trio._wire.codec import (
    CONTENT_JSON,
    CONTENT_MSGPACK,
    CONTENT_OCTETS,
    decode_message,
    decode_payload,
    encode_message,
    encode_payload,
)
from macula_trio._wire.frame import HEADER_BYTES, MAX_PAYLOAD, Frame
from macula_trio.abc import Message
from macula_trio.errors import ErrorCode, RemoteProtocolError

__all__ = ["fuzz_one", "seeds", "vary"]

CONTENT_TYPES: Final = (None, CONTENT_JSON, CONTENT_MSGPACK, CONTENT_OCTETS, "text/plain")
STREAMS: Final = 251  # first bytes below mean a stream, the others one content type each
BYTEWISE_MAX: Final = 4096  # longer streams are not fed byte by byte as well
REENCODED_MAX: Final = MAX_PAYLOAD // 4  # shorter frames fit again, whatever spelling they arrive in

# What may hold anything, and so a MessagePack str, which is written as bin when it is sent on.
_FREE_MAPS: Final = (messages.Store, messages.StoreReply, messages.FindValueReply)


def seeds() -> list[bytes]:
    frames = [*vector_frames(), *own_frames()]
    values: list[Any] = [
        None,
        True,
        0,
        -1,
        2**64 - 1,
        1.5,
        "text",
        "\u00e9",
        [],
        {},
        [1, [2, [3]]],
        {"a": {"b": [None]}},
    ]
    payloads = [bytes([STREAMS + index % 2]) + json.dumps(value).encode() for index, value in enumerate(values)]
    payloads += [bytes([STREAMS + 2]) + msgpack.packb(value) for value in (*values, b"bytes", {"a": b"b"})]
    payloads += [bytes([STREAMS + 3]) + b"octets", bytes([STREAMS + 4]) + b"text"]
    streams = [bytes([index % STREAMS]) + frame for index, frame in enumerate(frames)]
    return [*streams, b"\5" + b"".join(own_frames()), *payloads]


def fuzz_one(data: bytes) -> None:
    if not data:
        return
    if data[0] < STREAMS:
        _try_stream(data[1:], random.Random(data[0]))
    else:
        _try_payload(data[1:], CONTENT_TYPES[data[0] - STREAMS])


@attrs.frozen
class _Outcome:
    frames: list[Frame]
    failure: ErrorCode | None  # of the stream itself
    left: int  # bytes that wait for more


def _feed(pieces: Iterable[bytes]) -> _Outcome:
    decoder, frames = wire.FrameDecoder(), list[Frame]()
    try:
        for piece in pieces:
            decoder.receive_data(piece)
            while (frame := decoder.next_frame()) is not None:
                frames.append(frame)
    except RemoteProtocolError as exc:
        _assert_useless(decoder, exc.code)
        return _Outcome(frames, exc.code, 0)
    left = decoder.buffered
    try:
        decoder.end()
    except RemoteProtocolError as exc:
        assert left
        assert exc.code is ErrorCode.INCOMPLETE_FRAME
    else:
        assert not left
    return _Outcome(frames, None, left)


def _assert_useless(decoder: wire.FrameDecoder, code: ErrorCode) -> None:
    try:
        decoder.next_frame()
    except RemoteProtocolError as exc:
        assert exc.code is code
    else:
        raise AssertionError("a decoder that has failed goes on")


def _cut(data: bytes, chance: random.Random) -> Iterable[bytes]:
    start = 0
    while start < len(data):
        size = chance.choice((0, 1, 2, 7, HEADER_BYTES, 50, 1000))
        yield data[start : start + size]
        start += size


def _try_stream(data: bytes, chance: random.Random) -> None:
    whole = _feed([data])
    assert whole == _feed(_cut(data, chance))
    if len(data) <= BYTEWISE_MAX:
        assert whole == _feed(data[index : index + 1] for index in range(len(data)))
    _compare_with_one_frame(data, whole)
    for frame in whole.frames:
        try:
            message = decode_message(frame)
        except RemoteProtocolError:
            continue
        if message is None:
            assert frame.body is None
        elif len(data) <= REENCODED_MAX:
            _try_again(message)


def _compare_with_one_frame(data: bytes, whole: _Outcome) -> None:
    """`decode_frame` has the stream's opinion of its first frame."""
    try:
        number, body = wire.decode_frame(data)
    except RemoteProtocolError as exc:
        if whole.frames:
            assert whole.frames[0].body is None
            assert exc.code is ErrorCode.UNKNOWN_TYPE
        elif whole.failure is not None:
            assert exc.code is whole.failure
        else:
            assert exc.code in (ErrorCode.INCOMPLETE_FRAME, ErrorCode.UNKNOWN_TYPE)
    else:
        assert whole.frames[0] == Frame(number, body)


def _try_again(message: Message) -> None:
    """What was understood can be sent on, and is understood again."""
    frame = Frame(*wire.decode_frame(encode_message(message)))
    again = decode_message(frame)
    assert again == _as_sent(message)
    assert type(again) is type(message)
    assert encode_message(again) == encode_message(message)


def _as_sent(message: Message) -> Message:
    if not isinstance(message, _FREE_MAPS) or message.value is None:
        return message
    return attrs.evolve(message, value=_texts_as_bytes(message.value))


def _texts_as_bytes(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, dict):
        return {key: _texts_as_bytes(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_texts_as_bytes, value))
    return value


def _try_payload(data: bytes, content_type: str | None) -> None:
    try:
        value = decode_payload(data, content_type)
    except RemoteProtocolError as exc:
        assert exc.code is ErrorCode.MALFORMED_PAYLOAD
        return
    assert decode_payload(encode_payload(value, content_type), content_type) == value

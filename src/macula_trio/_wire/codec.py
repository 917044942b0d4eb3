"""MessagePack and JSON: the only place that knows them, and where their exceptions end.

Whatever bytes a peer sends, what comes out of here is a value or a `RemoteProtocolError`; whatever we are
asked to send, bytes or a `LocalProtocolError`.  DESIGN section 4 has the rules.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

import attrs
import msgpack

from macula_trio._wire.frame import (
    HEADER,
    HEADER_BYTES,
    KNOWN_TYPES,
    MAX_PAYLOAD,
    VERSION,
    Buffer,
    Frame,
    MessageType,
    parse_header,
)
from macula_trio._wire.messages import SCHEMAS, frame_type_of, from_body, to_body
from macula_trio._wire.values import cannot_encode, canonical, check_application_value, check_shape, check_unpacked
from macula_trio.abc import Message
from macula_trio.errors import ErrorCode, LocalProtocolError, PayloadTooLarge, RemoteProtocolError

CONTENT_JSON: Final = "application/json"
CONTENT_MSGPACK: Final = "application/msgpack"
CONTENT_OCTETS: Final = "application/octet-stream"

# Looking up the common keys takes a third of the time of converting them.
_KEY_BYTES: Final[dict[str, bytes]] = {key: key.encode() for schema in SCHEMAS.values() for key in schema.readers}
_KEY_TEXTS: Final[dict[str | bytes, str]] = {data: key for key, data in _KEY_BYTES.items()}


# -- reading -----------------------------------------------------------------------------------------------------


def _build_list(items: list[Any]) -> list[Any]:
    check_unpacked(items)
    return items


def _key_text(key: str | bytes) -> str:
    return key if isinstance(key, str) else str(key, "utf-8")


def _build_map(pairs: list[tuple[str | bytes, Any]]) -> dict[str, Any]:
    """Make a dict with str keys; what is inside was built and judged before."""
    result = {_KEY_TEXTS.get(key) or _key_text(key): value for key, value in pairs}
    if len(result) != len(pairs):  # also a key once as bin and once as str
        raise ValueError("a key occurs twice")
    check_unpacked(result.values())
    return result


def _build_plain_map(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    """The same for applications' payloads: keys stay what they are."""
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key occurs twice")
    return result


def _unpack(data: Buffer, build_map: Callable[[list[tuple[Any, Any]]], dict[Any, Any]]) -> Any:
    """Unpack one value that takes all of ``data``.

    msgpack raises `ValueError` and its subclasses (FormatError, StackError, ExtraData, UnicodeDecodeError)
    here, and nothing else: it refuses keys other than str and bin itself.

    Raises:
      ValueError: whatever is wrong.
    """
    check_shape(data)
    return msgpack.unpackb(data, object_pairs_hook=build_map, list_hook=_build_list)


def unpack_map(data: Buffer) -> dict[str, Any]:
    """Unpack one map: keys are str, texts and binaries bytes, a MessagePack str stays a str.

    Raises:
      RemoteProtocolError: anything that section 4 of DESIGN forbids.
    """
    try:
        body = _unpack(data, _build_map)
    except ValueError as exc:
        raise RemoteProtocolError(f"bad MessagePack: {exc}", code=ErrorCode.MALFORMED_PAYLOAD) from exc
    if type(body) is not dict:
        raise RemoteProtocolError("a payload must be a map", code=ErrorCode.MALFORMED_PAYLOAD)
    return body


def _unpack_body(number: MessageType, payload: Buffer) -> dict[str, Any]:
    """`unpack_map`, and Erlang's spelling of lists of small integers (the empty one!) undone where we know."""
    body = unpack_map(payload)
    for key in SCHEMAS[number].lists:
        value = body.get(key)
        if type(value) is str:
            body[key] = list(map(ord, value))
    return body


def decode_frame(data: Buffer) -> tuple[MessageType, dict[str, Any]]:
    """Decode the first frame of ``data``; bytes behind it are ignored, as v0.8 does.

    Raises:
      RemoteProtocolError: malformed, incomplete, or of an unknown type.
    """
    header = parse_header(data)
    if header is None:
        raise RemoteProtocolError(f"a header needs {HEADER_BYTES} bytes", code=ErrorCode.INCOMPLETE_FRAME)
    number, length = header
    known = KNOWN_TYPES.get(number)
    if known is None:
        raise RemoteProtocolError(f"unknown type {number:#04x}", code=ErrorCode.UNKNOWN_TYPE)
    payload = data[HEADER_BYTES : HEADER_BYTES + length]
    if len(payload) < length:
        raise RemoteProtocolError(f"{len(payload)} of {length} bytes are there", code=ErrorCode.INCOMPLETE_FRAME)
    return known, _unpack_body(known, payload)


def decode_message(frame: Frame) -> Message | None:
    """The typed message of a frame; None for a type that this version does not know.

    Raises:
      RemoteProtocolError: a field is missing or breaks its rule.
    """
    known = KNOWN_TYPES.get(frame.type)
    if known is None or frame.body is None:
        return None
    return from_body(known, frame.body)


@attrs.define(eq=False)
class FrameDecoder:
    """Cut one byte stream into frames: feed `receive_data`, pull `next_frame` until None, `end` at its end.

    After the first `RemoteProtocolError` every call raises it again: close the stream.

    Attributes:
      payload_max: bytes that a frame may announce; may change between frames.
      unknown_frames: frames of unknown types so far.
    """

    payload_max: int = MAX_PAYLOAD
    unknown_frames: int = attrs.field(default=0, init=False)
    _buffer: bytearray = attrs.field(factory=bytearray, init=False)
    _start: int = attrs.field(default=0, init=False)  # of the first frame that was not taken yet
    _failure: RemoteProtocolError | None = attrs.field(default=None, init=False)

    @property
    def buffered(self) -> int:
        """Bytes that wait for the rest of their frame."""
        return len(self._buffer) - self._start

    def receive_data(self, data: Buffer | memoryview) -> None:
        """Take the next bytes of the stream, however they were cut.

        Raises:
          RemoteProtocolError: the stream is beyond repair already.
        """
        self._check()
        # Only when half of it is waste, so that every byte is moved once at most: many small frames in one
        # big chunk would otherwise cost the square of their number.
        if 2 * self._start > len(self._buffer):
            del self._buffer[: self._start]
            self._start = 0
        self._buffer += data

    def next_frame(self) -> Frame | None:
        """Take the next frame, None when more data is needed.

        Raises:
          RemoteProtocolError: the bytes break the rules of the wire.
        """
        self._check()
        try:
            return self._cut()
        except RemoteProtocolError as exc:
            self._failure = RemoteProtocolError(str(exc), code=exc.code)
            self._buffer.clear()
            raise

    def end(self) -> None:
        """Tell that the stream has ended.

        Raises:
          RemoteProtocolError: in the midst of a frame.
        """
        self._check()
        rest = self.buffered
        if rest:
            self._failure = RemoteProtocolError(
                f"the stream ended {rest} bytes into a frame", code=ErrorCode.INCOMPLETE_FRAME
            )
            self._check()

    def _cut(self) -> Frame | None:
        header = parse_header(self._buffer, self._start, self.payload_max)
        if header is None:
            return None
        number, length = header
        start = self._start + HEADER_BYTES
        end = start + length
        if len(self._buffer) < end:
            return None
        payload = self._buffer[start:end]
        if end == len(self._buffer):
            self._buffer.clear()  # an idle stream holds nothing
            self._start = 0
        else:
            self._start = end
        known = KNOWN_TYPES.get(number)
        if known is None:
            self.unknown_frames += 1
            return Frame(number, None)
        return Frame(known, _unpack_body(known, payload))

    def _check(self) -> None:
        if self._failure is not None:  # a new one each time: one that was raised keeps its frames alive
            raise RemoteProtocolError(str(self._failure), code=self._failure.code)


# -- writing -----------------------------------------------------------------------------------------------------


def pack_canonical(mapping: Mapping[str, Any]) -> bytes:
    """Pack a map in the one way that equal maps share: keys sorted at every level, texts as bin.

    Raises:
      LocalProtocolError: it cannot be encoded.
    """
    try:
        return msgpack.packb(canonical(mapping, keys=_KEY_BYTES))
    except (OverflowError, UnicodeEncodeError) as exc:  # integers beyond 64 bits, lone surrogates
        raise cannot_encode(str(exc)) from exc


def encode_frame(number: int, body: Mapping[str, Any]) -> bytes:
    """Make one frame; ``str`` and ``bytes`` both travel as bin.

    Raises:
      PayloadTooLarge: above `MAX_PAYLOAD`.
      LocalProtocolError: an unknown type, or a body that cannot be encoded.
    """
    if number not in KNOWN_TYPES:
        raise LocalProtocolError(f"unknown type {number!r}", code=ErrorCode.UNKNOWN_TYPE)
    payload = pack_canonical(body)
    if len(payload) > MAX_PAYLOAD:
        raise PayloadTooLarge(size=len(payload), limit=MAX_PAYLOAD)
    return HEADER.pack(VERSION, number, len(payload)) + payload


def encode_message(message: Message) -> bytes:
    """Make the frame of a typed message.

    Raises:
      PayloadTooLarge: above `MAX_PAYLOAD`.
      LocalProtocolError: a field breaks its rule.
    """
    return encode_frame(frame_type_of(message), to_body(message))


# -- payloads of applications ------------------------------------------------------------------------------------

# Made once: the functions of `json` make a new one for every call with options.
_JSON_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_JSON_DECODER: Final = json.JSONDecoder(object_pairs_hook=_build_plain_map)


def encode_payload(value: object, content_type: str | None = None) -> bytes:
    """Encode args, a result or what is published; None means JSON.

    Raises:
      LocalProtocolError: the codec cannot carry the value, or nobody knows the codec.
    """
    try:
        if content_type in {None, CONTENT_JSON}:
            check_application_value(value, binary=False)
            return _JSON_ENCODER.encode(value).encode()
        if content_type == CONTENT_MSGPACK:
            check_application_value(value, binary=True)
            return msgpack.packb(value)
        if content_type == CONTENT_OCTETS and isinstance(value, bytes):
            return value
    except ValueError as exc:
        raise cannot_encode(f"{content_type or CONTENT_JSON}: {exc}") from exc
    raise cannot_encode(f"{content_type} does not carry {type(value).__name__}")


def decode_payload(data: bytes, content_type: str | None = None) -> Any:
    """Decode what a peer's application sent; None means JSON.

    Raises:
      RemoteProtocolError: it is malformed, or nobody knows the codec.
    """
    value: object
    try:
        if content_type in {None, CONTENT_JSON}:
            value = _JSON_DECODER.decode(str(data, "utf-8"))
            check_application_value(value, binary=False)
        elif content_type == CONTENT_MSGPACK:
            value = _unpack(data, _build_plain_map)
            check_unpacked((value,))  # here, because msgpack's class for ext types is a tuple
            check_application_value(value, binary=True)
        elif content_type == CONTENT_OCTETS:
            value = data
        else:
            raise ValueError("unknown content type")
    except (ValueError, RecursionError) as exc:  # json nests as deep as the interpreter bears
        raise RemoteProtocolError(f"{content_type or CONTENT_JSON}: {exc}", code=ErrorCode.MALFORMED_PAYLOAD) from exc
    return value

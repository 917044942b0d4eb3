"""Whatever bytes a peer sends, it gets `RemoteProtocolError` or a message, and nothing else happens."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

import msgpack
from hypothesis import example, given, settings
from hypothesis import strategies as st
from wire_vectors import VALID_FRAMES

from macula_trio import wire
from macula_trio._wire.codec import decode_message, decode_payload
from macula_trio.errors import RemoteProtocolError

SMALL_FRAMES: Final = [frame for frame in VALID_FRAMES if len(frame) < 1000]
TOKENS: Final = [
    *(bytes([first]) for first in range(0x80, 0x94)),
    *(bytes([first]) + bytes(8) for first in range(0xC0, 0xE0)),
    *(bytes([first]) + b"\xff" * 8 for first in range(0xC0, 0xE0)),
    *(b"\xc4" + bytes([len(key)]) + key for key in (b"topic", b"call_id", b"nodes", b"value", b"type", b"payload")),
    b"\xc4\x10" + bytes(16),
    b"\xc4\x20" + bytes(32),
    b"\xa0",
    b"\xa2\xc3\xa9",
    b"\xa1\xff",
    b"\xd6\xff\0\0\0\0",
    b"\xca\x7f\x80\0\0",
]

types: Final = st.sampled_from(list(wire.MessageType))
payloads: Final = st.binary(max_size=60) | st.lists(st.sampled_from(TOKENS), max_size=30).map(b"".join)


def framed(number: int, payload: bytes) -> bytes:
    return bytes([wire.VERSION, number, 0, 0]) + len(payload).to_bytes(4, "big") + payload


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A frame of the original with some bytes changed, cut out or put in; its length is mended now and then."""
    frame = bytearray(draw(st.sampled_from(SMALL_FRAMES)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(frame) - 1))
        frame[at : at + draw(st.integers(0, 2))] = draw(st.binary(max_size=2) | st.sampled_from(TOKENS))
        frame = frame or bytearray(1)
    return framed(frame[1 % len(frame)], bytes(frame[8:])) if draw(st.booleans()) else bytes(frame)


def survive(data: bytes) -> None:
    with suppress(RemoteProtocolError):
        number, body = wire.decode_frame(data)
        decode_message(wire.Frame(number, body))
    decoder = wire.FrameDecoder()
    with suppress(RemoteProtocolError):
        decoder.receive_data(data)
        while (frame := decoder.next_frame()) is not None:
            decode_message(frame)
        decoder.end()


@settings(max_examples=100)
@given(st.binary(max_size=80))
@example(b"\x01")
def test_raw_bytes(data: bytes) -> None:
    survive(data)


@settings(max_examples=100)
@given(types, payloads)
@example(wire.MessageType.PING, b"\x91" * 2000)
@example(wire.MessageType.PING, b"\x81" * 2000)
@example(wire.MessageType.STORE, b"\xde\xff\xff" * 500)
def test_bytes_behind_a_valid_header(number: wire.MessageType, payload: bytes) -> None:
    survive(framed(number, payload))


@settings(max_examples=100)
@given(mutated())
def test_mutated_frames_of_the_original(data: bytes) -> None:
    survive(data)


@settings(max_examples=100)
@given(
    types,
    st.dictionaries(
        st.sampled_from(["call_id", "topic", "payload", "nodes", "value", "result", "type"]),
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers(-9, 2**64 - 1)
            | st.text(max_size=3)
            | st.binary(max_size=3)
            | st.sampled_from([bytes(16), bytes(32), b"value", b"call"]),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=7), inner, max_size=3),
            max_leaves=6,
        ),
    ),
)
def test_well_formed_maps_of_the_wrong_shape(number: wire.MessageType, body: dict[str, object]) -> None:
    survive(framed(number, msgpack.packb(body)))


@settings(max_examples=100)
@given(
    payloads | st.text(alphabet='[]{}",:0123456789.eE-+\\u dDnulltrefas', max_size=60).map(str.encode),
    st.sampled_from([None, "application/json", "application/msgpack", "application/octet-stream", "text/plain", ""]),
)
@example(b"[" * 200_000, None)
@example(b'{"a":' * 200_000, None)
@example(b"\x91" * 200_000, "application/msgpack")
@example(b"9" * 10_000, None)
def test_payloads_of_applications(data: bytes, content_type: str | None) -> None:
    with suppress(RemoteProtocolError):
        decode_payload(data, content_type)

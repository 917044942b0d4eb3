"""How a byte stream becomes frames: limits, chunks, and what is left after an error."""

from __future__ import annotations

from typing import Any, Final

import pytest

from macula_trio import wire
from macula_trio._wire.frame import PUNCH, RELAY, parse_header
from macula_trio.errors import ErrorCode, LocalProtocolError, PayloadTooLarge, RemoteProtocolError

PING: Final = wire.encode_frame(wire.MessageType.PING, {"timestamp": 1})
HEADER: Final = PING[:8]


def code_of(call: Any, *args: Any) -> ErrorCode:
    with pytest.raises(RemoteProtocolError) as caught:
        call(*args)
    return caught.value.code


def header(length: int, *, number: int = wire.MessageType.PING) -> bytes:
    return bytes([wire.VERSION, number, 0, 0]) + length.to_bytes(4, "big")


def decoder_after(data: bytes, **options: int) -> wire.FrameDecoder:
    decoder = wire.FrameDecoder(**options)
    decoder.receive_data(data)
    return decoder


def test_a_wrong_version_is_refused_on_its_first_byte() -> None:
    assert code_of(decoder_after(b"\x02").next_frame) is ErrorCode.UNSUPPORTED_VERSION
    assert code_of(wire.decode_frame, b"\x02") is ErrorCode.UNSUPPORTED_VERSION


def test_a_claimed_length_is_judged_before_the_payload_is_there() -> None:
    assert decoder_after(header(wire.MAX_PAYLOAD)).next_frame() is None
    assert code_of(decoder_after(header(wire.MAX_PAYLOAD + 1)).next_frame) is ErrorCode.FRAME_TOO_LARGE
    assert code_of(wire.decode_frame, header(2**32 - 1)) is ErrorCode.FRAME_TOO_LARGE


def test_a_claimed_length_is_judged_for_unknown_types_too() -> None:
    assert code_of(decoder_after(header(wire.MAX_PAYLOAD + 1, number=0xEE)).next_frame) is ErrorCode.FRAME_TOO_LARGE


def test_the_limit_of_a_decoder_may_change_between_frames() -> None:
    decoder = decoder_after(PING + PING, payload_max=len(PING) - 8)
    assert decoder.next_frame() is not None
    decoder.payload_max -= 1
    assert code_of(decoder.next_frame) is ErrorCode.FRAME_TOO_LARGE


def test_the_largest_frame_passes_and_one_byte_more_does_not() -> None:
    overhead = len(wire.encode_frame(wire.MessageType.PUBLISH, {"payload": bytes(1 << 16)})) - (1 << 16)
    largest = bytes(8 + wire.MAX_PAYLOAD - overhead)
    frame = wire.encode_frame(wire.MessageType.PUBLISH, {"payload": largest})
    assert decoder_after(frame).next_frame() == (wire.MessageType.PUBLISH, {"payload": largest})
    with pytest.raises(PayloadTooLarge) as caught:
        wire.encode_frame(wire.MessageType.PUBLISH, {"payload": largest + b"\0"})
    assert (caught.value.size, caught.value.limit) == (wire.MAX_PAYLOAD + 1, wire.MAX_PAYLOAD)


@pytest.mark.parametrize("number", [PUNCH, RELAY, 0x00, 0xFF])
def test_unknown_types_are_counted_and_skipped_without_a_look_inside(number: int) -> None:
    decoder = decoder_after(header(2, number=number) + b"\xc1\xc1" + PING)
    assert decoder.next_frame() == wire.Frame(number, None)
    assert decoder.next_frame() == wire.Frame(wire.MessageType.PING, {"timestamp": 1})
    assert (decoder.next_frame(), decoder.unknown_frames) == (None, 1)
    assert code_of(wire.decode_frame, header(0, number=number)) is ErrorCode.UNKNOWN_TYPE


def test_flags_and_the_reserved_byte_are_ignored() -> None:
    frame = PING[:2] + b"\xff\xff" + PING[4:]
    assert decoder_after(frame).next_frame() == wire.decode_frame(frame) == (wire.MessageType.PING, {"timestamp": 1})


def test_we_write_no_flags() -> None:
    assert PING[:8] == bytes([1, 3, 0, 0]) + (len(PING) - 8).to_bytes(4, "big")


def test_the_type_of_a_frame_is_a_member_of_the_enumeration() -> None:
    frame = decoder_after(PING).next_frame()
    assert frame is not None
    assert frame.type is wire.MessageType.PING


def test_only_known_types_are_written() -> None:
    with pytest.raises(LocalProtocolError) as caught:
        wire.encode_frame(0x50, {})
    assert caught.value.code is ErrorCode.UNKNOWN_TYPE


def test_after_an_error_a_decoder_repeats_it_whatever_comes() -> None:
    decoder = decoder_after(PING + b"\x07" + PING)
    assert decoder.next_frame() is not None
    for call in (decoder.next_frame, decoder.next_frame, lambda: decoder.receive_data(PING), decoder.end):
        with pytest.raises(RemoteProtocolError, match="version 7") as caught:
            call()
        assert caught.value.code is ErrorCode.UNSUPPORTED_VERSION


def test_after_a_bad_payload_a_decoder_is_done_as_well() -> None:
    decoder = decoder_after(header(1) + b"\xc1" + PING)
    assert code_of(decoder.next_frame) is ErrorCode.MALFORMED_PAYLOAD
    assert code_of(decoder.next_frame) is ErrorCode.MALFORMED_PAYLOAD


def test_a_stream_may_end_between_frames_only() -> None:
    wire.FrameDecoder().end()
    decoder = decoder_after(PING)
    assert decoder.next_frame() is not None
    decoder.end()
    for size in (1, 7, 8, len(PING) - 1):
        cut = decoder_after(PING + PING[:size])
        assert cut.next_frame() is not None
        assert cut.next_frame() is None
        assert code_of(cut.end) is ErrorCode.INCOMPLETE_FRAME
        assert code_of(cut.next_frame) is ErrorCode.INCOMPLETE_FRAME


def test_data_may_come_in_any_buffer() -> None:
    decoder = wire.FrameDecoder()
    for data in (PING[:5], bytearray(PING[5:9]), memoryview(PING)[9:]):
        decoder.receive_data(data)
    assert decoder.next_frame() == (wire.MessageType.PING, {"timestamp": 1})
    assert wire.decode_frame(bytearray(PING)) == (wire.MessageType.PING, {"timestamp": 1})


def test_bytes_of_a_frame_do_not_change_when_more_arrives() -> None:
    frame = wire.encode_frame(wire.MessageType.PUBLISH, {"payload": b"first"})
    decoder = decoder_after(frame)
    received = decoder.next_frame()
    decoder.receive_data(frame.replace(b"first", b"other"))
    assert received == (wire.MessageType.PUBLISH, {"payload": b"first"})


def test_what_was_taken_is_not_kept() -> None:
    decoder = decoder_after(PING * 1000 + PING[:3])
    while decoder.next_frame() is not None:
        pass
    decoder.receive_data(PING[3:5])
    assert len(decoder._buffer) == 5
    decoder.receive_data(PING[5:])
    assert decoder.next_frame() is not None
    assert len(decoder._buffer) == 0


def test_the_cost_of_a_stream_grows_with_its_bytes_only() -> None:
    # Not a time but the work: each byte moves at most once, however many frames wait in front of it.
    class Counted(bytearray):
        moved = 0

        def __delitem__(self, index: Any) -> None:
            Counted.moved += len(self) - index.stop
            super().__delitem__(index)

    decoder = wire.FrameDecoder()
    decoder._buffer = Counted()
    stream = PING * 3000
    decoder.receive_data(stream)
    for _ in range(2999):
        assert decoder.next_frame() is not None
        decoder.receive_data(PING[:0])
    assert 0 < Counted.moved <= len(stream)


def test_a_header_may_stand_anywhere_in_a_buffer() -> None:
    assert parse_header(b"xyz" + HEADER, 3) == (wire.MessageType.PING, len(PING) - 8)
    assert parse_header(b"xyz" + HEADER[:7], 3) is None
    assert parse_header(b"xyz", 3) is None

"""Frames that Macula v0.8.0 itself wrote, and its verdicts on malformed ones."""

from __future__ import annotations

from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_vectors import FRAME_IDS, FRAMES, VALID_FRAMES, as_erlang, load, untag

from macula_trio import wire
from macula_trio._ids import dht_key
from macula_trio._wire import messages
from macula_trio._wire.codec import decode_message, encode_message
from macula_trio.errors import ErrorCode, RemoteProtocolError

# Of these the original writes a list of small integers (the empty one) as a str.
WRITTEN_ANOTHER_WAY: Final = {"unsubscribe-none", "find_node_reply-empty", "call-args map (not json)"}
# What our typed messages do not say, or say in another way that a v0.8 peer takes.
SAID_ANOTHER_WAY: Final = WRITTEN_ANOTHER_WAY | {
    "connect-undefined endpoint",
    "reply-result null",
    "store-store_reply (handle_query path)",
    "find_value_reply-single value",
}
NOT_FOR_US: Final = {
    "call-args map (not json)": "CALL args: must be bytes",
    "cast-empty map": "CAST args: is missing",
    "store-plain binary value": "STORE value: must be a map",
}
DECODE_ERRORS: Final = load("decode_errors.json")
REFUSED: Final = {case["name"]: bytes.fromhex(case["frame_hex"]) for case in DECODE_ERRORS["errors"]}
ACCEPTED: Final = {
    case["name"]: (bytes.fromhex(case["frame_hex"]), case["result"]["$tuple"][1]["$tuple"])
    for case in DECODE_ERRORS["accepted"]
}
PING: Final = ACCEPTED["two frames concatenated: only first returned"][0][:21]


def by_id(names: set[str] | dict[str, str]) -> list[Any]:
    return [pytest.param(vector, id=name) for vector, name in zip(FRAMES, FRAME_IDS, strict=True) if name in names]


def pull(decoder: wire.FrameDecoder) -> list[wire.Frame]:
    frames = []
    while (frame := decoder.next_frame()) is not None:
        frames.append(frame)
    return frames


def feed(pieces: list[bytes]) -> tuple[list[wire.Frame], wire.FrameDecoder]:
    decoder = wire.FrameDecoder()
    frames = []
    for piece in pieces:
        decoder.receive_data(piece)
        frames += pull(decoder)
    return frames, decoder


def single_bytes(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


def test_all_vectors_are_there() -> None:
    assert len(FRAMES) == 52


def test_type_ids_are_those_of_the_original() -> None:
    original = {name.upper(): number for name, number in load("types.json")["type_ids"].items()}
    ours = {"PUBACK": 0x14, "CANCEL": 0x24, "ITEM": 0x25, "CREDIT": 0x26, "STORE_REPLY": 0x45}
    assert {member.name: member.value for member in wire.MessageType} == original | ours


@pytest.mark.parametrize("case", load("hashing.json")["sha256"], ids=lambda case: case["input"])
def test_the_dht_key_of_a_name_is_its_sha256(case: dict[str, str]) -> None:
    assert dht_key(case["input"]).hex() == case["sha256"]


@pytest.mark.parametrize("vector", FRAMES, ids=FRAME_IDS)
def test_a_frame_of_the_original_is_decoded(vector: dict[str, Any]) -> None:
    number, body = wire.decode_frame(bytes.fromhex(vector["frame_hex"]))
    assert (number, number.name.lower()) == (vector["type_id"], vector["type"])
    assert as_erlang(body) == untag(vector["decoded"])


@pytest.mark.parametrize("vector", by_id(set(FRAME_IDS) - WRITTEN_ANOTHER_WAY))
def test_a_decoded_body_is_encoded_to_the_bytes_of_the_original(vector: dict[str, Any]) -> None:
    assert wire.encode_frame(vector["type_id"], untag(vector["decoded"])).hex() == vector["frame_hex"]


@pytest.mark.parametrize("name", ["unsubscribe-none", "find_node_reply-empty"])
def test_an_empty_list_of_the_original_is_a_list_and_is_written_as_one(name: str) -> None:
    frame = VALID_FRAMES[FRAME_IDS.index(name)]
    number, body = wire.decode_frame(frame)
    assert [] in body.values()
    assert wire.encode_frame(number, body) == frame.replace(b"\xa0", b"\x90")


@pytest.mark.parametrize("vector", by_id(set(FRAME_IDS) - set(NOT_FOR_US)))
def test_a_typed_message_says_what_the_frame_of_the_original_said(vector: dict[str, Any]) -> None:
    frame = bytes.fromhex(vector["frame_hex"])
    message = decode_message(wire.Frame(*wire.decode_frame(frame)))
    assert message is not None
    again = encode_message(message)
    assert decode_message(wire.Frame(*wire.decode_frame(again))) == message
    if f"{vector['type']}-{vector['name']}" not in SAID_ANOTHER_WAY:
        assert again == frame


@pytest.mark.parametrize("vector", by_id(NOT_FOR_US))
def test_what_no_handler_could_use_is_refused_by_its_field(vector: dict[str, Any]) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        decode_message(wire.Frame(*wire.decode_frame(bytes.fromhex(vector["frame_hex"]))))
    assert str(caught.value) == NOT_FOR_US[f"{vector['type']}-{vector['name']}"]
    assert caught.value.code is ErrorCode.MALFORMED_MESSAGE


def test_the_original_spells_no_endpoint_undefined() -> None:
    message = decode_message(
        wire.Frame(*wire.decode_frame(VALID_FRAMES[FRAME_IDS.index("connect-undefined endpoint")]))
    )
    assert isinstance(message, messages.Connect)
    assert message.endpoint is None


def test_the_original_answers_a_store_with_a_store() -> None:
    frame = VALID_FRAMES[FRAME_IDS.index("store-store_reply (handle_query path)")]
    assert decode_message(wire.Frame(*wire.decode_frame(frame))) == messages.StoreReply(result="ok")


def test_a_single_value_of_the_original_is_a_tuple_of_one() -> None:
    frame = VALID_FRAMES[FRAME_IDS.index("find_value_reply-single value")]
    message = decode_message(wire.Frame(*wire.decode_frame(frame)))
    assert isinstance(message, messages.FindValueReply)
    assert [value["ttl"] for value in message.value] == [300]


def test_a_recorded_session_of_the_original_is_understood() -> None:
    session = [item for item in load("transcript_client_session.json") if item["dir"] == "erl->py"]
    frames, decoder = feed([bytes.fromhex(item["hex"]) for item in session])
    decoder.end()
    understood = [decode_message(frame) for frame in frames]
    assert [type(message).__name__ for message in understood] == [
        "".join(part.title() for part in kind.split("_")) for item in session for kind in item["types"]
    ]


@pytest.mark.parametrize("cut", [lambda data: [data], single_bytes], ids=["whole", "byte by byte"])
def test_all_vectors_come_out_of_one_stream(cut: Any) -> None:
    frames, decoder = feed(cut(b"".join(VALID_FRAMES)))
    decoder.end()
    assert frames == [wire.decode_frame(frame) for frame in VALID_FRAMES]


@settings(max_examples=50)
@given(chosen=st.lists(st.sampled_from(VALID_FRAMES), max_size=6), data=st.data())
def test_how_a_stream_is_cut_does_not_matter(chosen: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(chosen)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=12)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    frames, decoder = feed(pieces)
    decoder.end()
    assert frames == [wire.decode_frame(frame) for frame in chosen]


@pytest.mark.parametrize("frame", REFUSED.values(), ids=REFUSED)
def test_decode_frame_refuses_what_the_original_refuses(frame: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        wire.decode_frame(frame)


@pytest.mark.parametrize("cut", [lambda data: [data], single_bytes], ids=["whole", "byte by byte"])
@pytest.mark.parametrize("name", REFUSED)
def test_a_stream_meets_the_verdict_of_the_original(name: str, cut: Any) -> None:
    if name == "empty":
        frames, decoder = feed(cut(b""))
        decoder.end()
        assert frames == []
    elif name == "7 bytes" or name.startswith("incomplete payload"):
        frames, decoder = feed(cut(REFUSED[name]))
        assert frames == []
        with pytest.raises(RemoteProtocolError) as caught:
            decoder.end()
        assert caught.value.code is ErrorCode.INCOMPLETE_FRAME
    elif name.startswith("unknown type"):
        frames, decoder = feed(cut(REFUSED[name] + PING))
        decoder.end()
        assert frames == [(REFUSED[name][1], None), (wire.MessageType.PING, {"timestamp": 1})]
        assert decoder.unknown_frames == 1
        assert decode_message(frames[0]) is None
    else:
        with pytest.raises(RemoteProtocolError):
            feed(cut(REFUSED[name]))


@pytest.mark.parametrize("name", [name for name in ACCEPTED if name != "payload array"])
def test_decode_frame_accepts_what_the_original_accepts(name: str) -> None:
    frame, (kind, body) = ACCEPTED[name]
    number, decoded = wire.decode_frame(frame)
    assert (number.name.lower(), decoded) == (kind["$atom"], untag(body))


def test_a_payload_that_is_no_map_is_refused_though_the_original_takes_it() -> None:
    with pytest.raises(RemoteProtocolError, match="must be a map"):
        wire.decode_frame(ACCEPTED["payload array"][0])


def test_a_stream_goes_on_behind_the_first_frame() -> None:
    frames, decoder = feed([ACCEPTED["two frames concatenated: only first returned"][0]])
    decoder.end()
    assert [frame.type for frame in frames] == [wire.MessageType.PING, wire.MessageType.PONG]


def test_junk_behind_a_frame_is_the_next_frame_of_a_stream() -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        feed([ACCEPTED["trailing bytes after payload ignored"][0]])
    assert caught.value.code is ErrorCode.UNSUPPORTED_VERSION

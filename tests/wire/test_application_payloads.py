"""Args, results and published values: three codecs, the same values."""

from __future__ import annotations

import enum
import math
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from macula_trio import wire
from macula_trio._wire.codec import CONTENT_JSON, CONTENT_MSGPACK, CONTENT_OCTETS, decode_payload, encode_payload
from macula_trio.errors import ErrorCode, LocalProtocolError, RemoteProtocolError

BOTH: Final = [CONTENT_JSON, CONTENT_MSGPACK]

both = pytest.mark.parametrize("content_type", BOTH)

scalars = (
    st.none()
    | st.booleans()
    | st.integers(wire.INT_MIN, wire.INT_MAX)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def local_refusal(value: object, content_type: str | None) -> str:
    with pytest.raises(LocalProtocolError) as caught:
        encode_payload(value, content_type)
    assert caught.value.code is ErrorCode.MALFORMED_PAYLOAD
    return str(caught.value)


def remote_refusal(data: bytes, content_type: str | None) -> str:
    with pytest.raises(RemoteProtocolError) as caught:
        decode_payload(data, content_type)
    assert caught.value.code is ErrorCode.MALFORMED_PAYLOAD
    return str(caught.value)


@settings(max_examples=50)
@given(values)
def test_both_codecs_give_back_what_they_were_given(value: object) -> None:
    for content_type in BOTH:
        assert decode_payload(encode_payload(value, content_type), content_type) == value


def test_json_is_what_is_meant_when_nothing_is_said() -> None:
    value = {"a": [1, 2.5, "é"], "b": None}
    assert encode_payload(value) == encode_payload(value, CONTENT_JSON) == '{"a":[1,2.5,"é"],"b":null}'.encode()
    assert decode_payload(b' {"a" : [1, 2.5, "\\u00e9"], "b": null} ') == value


def test_messagepack_tells_texts_from_bytes() -> None:
    assert encode_payload({"a": b"b", "c": "d"}, CONTENT_MSGPACK) == b"\x82\xa1a\xc4\x01b\xa1c\xa1d"
    assert decode_payload(b"\x82\xa1a\xc4\x01b\xa1c\xa1d", CONTENT_MSGPACK) == {"a": b"b", "c": "d"}


def test_octets_are_carried_as_they_are() -> None:
    assert encode_payload(b"\0\xff", CONTENT_OCTETS) == decode_payload(b"\0\xff", CONTENT_OCTETS) == b"\0\xff"
    assert local_refusal("text", CONTENT_OCTETS) == "application/octet-stream does not carry str"


def test_a_codec_that_nobody_knows_is_refused() -> None:
    assert local_refusal(1, "text/plain") == "text/plain does not carry int"
    assert remote_refusal(b"1", "text/plain") == "text/plain: unknown content type"
    remote_refusal(b"1", "")


def test_bytes_do_not_fit_into_json() -> None:
    assert local_refusal({"a": [b"x"]}, None) == "application/json: bytes cannot travel"


@both
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_not_written(value: float, content_type: str) -> None:
    assert "not finite" in local_refusal([value], content_type)


@pytest.mark.parametrize("data", [b"NaN", b"Infinity", b"[-Infinity]", b"1e999", b'{"a":-1e999}'])
def test_numbers_that_are_not_finite_are_not_read_from_json(data: bytes) -> None:
    assert "not finite" in remote_refusal(data, None)


@pytest.mark.parametrize(
    "data", [b"\xcb\x7f\xf8" + bytes(6), b"\x91\xca\x7f\x80\0\0", b"\x81\xa1a\xcb\x7f\xf0" + bytes(6)]
)
def test_numbers_that_are_not_finite_are_not_read_from_messagepack(data: bytes) -> None:
    assert "not finite" in remote_refusal(data, CONTENT_MSGPACK)


@both
def test_integers_have_the_range_of_messagepack_in_both(content_type: str) -> None:
    edges = [wire.INT_MIN, wire.INT_MAX]
    assert decode_payload(encode_payload(edges, content_type), content_type) == edges
    local_refusal(wire.INT_MAX + 1, content_type)
    local_refusal({"a": wire.INT_MIN - 1}, content_type)


def test_integers_beyond_that_range_are_not_read_from_json() -> None:
    remote_refusal(str(wire.INT_MAX + 1).encode(), None)
    remote_refusal(str(wire.INT_MIN - 1).encode(), None)
    remote_refusal(b"1" * 5000, None)


@both
@pytest.mark.parametrize("key", [1, None, True, 1.5, b"k", ("k",)], ids=repr)
def test_keys_other_than_str_are_refused_and_never_converted(key: Any, content_type: str) -> None:
    assert "keys must be str" in local_refusal({key: 1}, content_type)


@pytest.mark.parametrize("key", [b"\x01", b"\xc4\x01k", b"\xc0", b"\x90"], ids=bytes.hex)
def test_keys_other_than_str_are_not_read_from_messagepack(key: bytes) -> None:
    remote_refusal(b"\x81" + key + b"\x01", CONTENT_MSGPACK)


def test_a_key_that_occurs_twice_is_refused() -> None:
    assert "occurs twice" in remote_refusal(b'[{"a":1,"a":1}]', None)
    assert "occurs twice" in remote_refusal(b"\x82\xa1a\1\xa1a\1", CONTENT_MSGPACK)


@both
@pytest.mark.parametrize("value", [{1}, object(), 1j, bytearray(b"x")], ids=lambda v: type(v).__name__)
def test_other_types_are_not_written(value: object, content_type: str) -> None:
    assert "cannot travel" in local_refusal([value], content_type)


@pytest.mark.parametrize("data", [b"\xd4\1\0", b"\x91\xd6\xff\0\0\0\1", b"\x81\xa1a\xd6\xff\0\0\0\1"], ids=bytes.hex)
def test_ext_types_and_timestamps_are_not_read(data: bytes) -> None:
    remote_refusal(data, CONTENT_MSGPACK)


@both
def test_lone_surrogates_are_refused(content_type: str) -> None:
    local_refusal(["\ud800"], content_type)
    local_refusal({"\ud800": 1}, content_type)
    remote_refusal(b'"\\ud800"', CONTENT_JSON)
    remote_refusal(b'{"\\udc00":1}', CONTENT_JSON)
    assert decode_payload(b'"\\ud83d\\ude00"', CONTENT_JSON) == "\U0001f600"


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[1,]", b"'a'", b"1 2", b"\xff", b"\xef\xbb\xbf1", b"\x001\x00", b'"\n"'], ids=repr
)
def test_malformed_json_is_refused(data: bytes) -> None:
    remote_refusal(data, None)


@pytest.mark.parametrize("data", [b"", b"\x91", b"\xc1", b"\x01\x02", b"\xa1\xff", b"\xc4\x05a"], ids=bytes.hex)
def test_malformed_messagepack_is_refused(data: bytes) -> None:
    remote_refusal(data, CONTENT_MSGPACK)


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


@both
def test_depth_has_one_limit_in_both(content_type: str) -> None:
    deepest = nested(wire.DEPTH_MAX)
    data = encode_payload(deepest, content_type)
    assert decode_payload(data, content_type) == deepest
    assert "nested" in local_refusal([deepest], content_type)
    assert "nested" in local_refusal({"a": deepest}, content_type)
    one_more = b"[" + data + b"]" if content_type == CONTENT_JSON else b"\x91" + data
    assert "nested" in remote_refusal(one_more, content_type)


def test_a_bomb_of_brackets_is_refused() -> None:
    remote_refusal(b"[" * (1 << 20), None)
    remote_refusal(b'{"a":' * (1 << 17), None)
    assert "nested" in remote_refusal(b"[" * 500 + b"]" * 500, None)


@both
def test_elements_have_one_limit_in_both(content_type: str) -> None:
    most = [0] * wire.ELEMENTS_MAX
    data = encode_payload(most, content_type)
    assert decode_payload(data, content_type) == most
    assert "elements" in local_refusal([*most, 0], content_type)
    assert "elements" in local_refusal([{"a": most}], content_type)
    one_more = b"[0," + data[1:] if content_type == CONTENT_JSON else b"\x91" + data
    assert "elements" in remote_refusal(one_more, content_type)


class Level(enum.IntEnum):
    LOW = 1


class Colour(enum.StrEnum):
    RED = "red"


@both
def test_enumerations_and_tuples_travel_as_what_they_are(content_type: str) -> None:
    data = encode_payload((Level.LOW, {Colour.RED: Colour.RED}), content_type)
    assert decode_payload(data, content_type) == [1, {"red": "red"}]

"""What MessagePack may and may not say inside a frame, read and written."""

from __future__ import annotations

import enum
import math
import tracemalloc
from collections import OrderedDict
from types import MappingProxyType
from typing import Any, Final

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_vectors import load

from macula_trio import wire
from macula_trio._ids import NodeId
from macula_trio._wire.codec import pack_canonical, unpack_map
from macula_trio.errors import ErrorCode, LocalProtocolError, RemoteProtocolError

DEPTH: Final = wire.DEPTH_MAX
ELEMENTS: Final = wire.ELEMENTS_MAX
KEY: Final = b"\xc4\x01k"


def refusal(data: bytes) -> str:
    with pytest.raises(RemoteProtocolError) as caught:
        unpack_map(data)
    assert caught.value.code is ErrorCode.MALFORMED_PAYLOAD
    return str(caught.value)


def local_refusal(body: Any) -> str:
    with pytest.raises(LocalProtocolError) as caught:
        pack_canonical(body)
    assert caught.value.code is ErrorCode.MALFORMED_PAYLOAD
    return str(caught.value)


def with_value(value: bytes) -> bytes:
    """A map of one entry with these bytes as its value."""
    return b"\x81" + KEY + value


# -- reading -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [b"\xc4\x01k", b"\xa1k", b"\xd9\x01k", b"\xc5\0\x01k"], ids=bytes.hex)
def test_a_key_may_be_bin_or_str(key: bytes) -> None:
    assert unpack_map(b"\x81" + key + b"\x01") == {"k": 1}


def test_the_keys_that_messages_have_may_be_bin_or_str_too() -> None:
    assert unpack_map(b"\x82\xa5topic\x01\xc4\x03qos\x02") == {"topic": 1, "qos": 2}


@pytest.mark.parametrize(
    "twins", [KEY + b"\1" + KEY + b"\2", KEY + b"\1\xa1k\2", b"\xa1k\1\xa1k\2"], ids=["bin", "bin and str", "str"]
)
def test_a_key_that_occurs_twice_is_refused_at_any_depth(twins: bytes) -> None:
    assert "occurs twice" in refusal(b"\x82" + twins)
    assert "occurs twice" in refusal(with_value(b"\x91\x82" + twins))


@pytest.mark.parametrize("key", [b"\xc4\x01\xff", b"\xa1\xff", b"\xc4\x03\xed\xa0\x80"], ids=bytes.hex)
def test_a_key_that_is_not_utf_8_is_refused(key: bytes) -> None:
    refusal(b"\x81" + key + b"\x01")


@pytest.mark.parametrize("key", [b"\x01", b"\xc0", b"\x90", b"\x80", b"\xca\0\0\0\0", b"\xd4\1\0"], ids=bytes.hex)
def test_a_key_of_another_type_is_refused(key: bytes) -> None:
    refusal(b"\x81" + key + b"\x01")


def test_texts_and_binaries_are_bytes_and_a_str_stays_one() -> None:
    assert unpack_map(with_value(b"\x93\xc4\x01a\xa1a\xa0")) == {"k": [b"a", "a", ""]}


def test_a_str_in_the_place_of_a_list_is_its_code_points() -> None:
    frame = wire.encode_frame(wire.MessageType.FIND_NODE_REPLY, {"nodes": [], "type": "find_node_reply"})
    erlang = frame.replace(b"\x90", b"\xa3\x01\xc3\xa9")[:4] + (len(frame) - 5).to_bytes(4, "big")
    erlang += frame[8:].replace(b"\x90", b"\xa3\x01\xc3\xa9")
    assert wire.decode_frame(erlang)[1]["nodes"] == [1, 0xE9]


WITH_INTEGERS_AS_KEYS: Final = {"map int key", "map mixed keys", "map 15", "map 16"}


@pytest.mark.parametrize("vector", load("msgpack_rules.json")["pack"], ids=lambda vector: vector["name"])
def test_what_the_original_packs_is_unpacked_unless_its_keys_are_no_texts(vector: dict[str, Any]) -> None:
    data = with_value(bytes.fromhex(vector["packed_hex"]))
    if vector["name"] in WITH_INTEGERS_AS_KEYS:
        refusal(data)
    else:
        unpack_map(data)


@pytest.mark.parametrize("value", [b"\xcc\x05", b"\xd3" + b"\0" * 7 + b"\x05", b"\xce\0\0\0\x05"], ids=bytes.hex)
def test_an_integer_need_not_be_written_short(value: bytes) -> None:
    assert unpack_map(with_value(value)) == {"k": 5}


def test_floats_of_both_sizes_are_read() -> None:
    assert unpack_map(with_value(b"\x92\xca\x3f\xc0\0\0\xcb\x3f\xf8\0\0\0\0\0\0")) == {"k": [1.5, 1.5]}


@pytest.mark.parametrize("value", ["cb7ff0000000000000", "cbfff0000000000000", "cb7ff8000000000000", "ca7f800000"])
def test_a_float_that_is_not_finite_is_refused_in_maps_and_lists(value: str) -> None:
    assert "not finite" in refusal(with_value(bytes.fromhex(value)))
    assert "not finite" in refusal(with_value(b"\x91" + bytes.fromhex(value)))


EXT: Final = {
    "fixext1": b"\xd4\1\0",
    "ext8": b"\xc7\1\1\0",
    "ext of negative type": b"\xd4\xf0\0",
    "timestamp32": b"\xd6\xff\0\0\0\1",
    "timestamp64": b"\xd7\xff" + bytes(8),
    "timestamp96": b"\xc7\x0c\xff" + bytes(12),
    "timestamp of bad size": b"\xd4\xff\0",
    "timestamp out of range": b"\xd7\xff" + b"\xff" * 8,
}


@pytest.mark.parametrize("value", EXT.values(), ids=EXT)
def test_ext_types_and_timestamps_are_refused_everywhere(value: bytes) -> None:
    refusal(value)
    refusal(with_value(value))
    refusal(with_value(b"\x91" + value))
    # A payload with so many lists that it is walked before it is unpacked.
    assert "ext types" in refusal(with_value(b"\xdc\0\x65" + b"\x90" * 100 + value))


@pytest.mark.parametrize("payload", [b"", b"\x90", b"\xc0", b"\x01", b"\xc4\x01a", b"\xa0", b"\xcb" + bytes(8)])
def test_a_payload_is_a_map(payload: bytes) -> None:
    refusal(payload)


@pytest.mark.parametrize("lists", [b"", b"\x90" * 100], ids=["small", "walked"])
def test_bytes_behind_the_map_are_refused(lists: bytes) -> None:
    payload = with_value(b"\xdc" + len(lists).to_bytes(2, "big") + lists)
    unpack_map(payload)
    refusal(payload + b"\xc0")
    for size in range(len(payload)):
        refusal(payload[:size])


def test_a_walk_knows_the_size_of_every_kind_of_value() -> None:
    # The many lists in front make the payload a suspect; a wrong size anywhere would lose the way behind it.
    values = [
        *(bytes([first]) for first in (0x00, 0x7F, 0xC0, 0xC2, 0xC3, 0xE0, 0xFF)),
        *(bytes([0xA0 + size]) + b"\x7f" * size for size in range(32)),
        *(b"\xc4" + bytes([size]) + b"\x91" * size for size in (0, 1, 255)),
        *(b"\xd9" + bytes([size]) + b"\x7f" * size for size in (0, 255)),
        *(first + b"\1\0" + b"\x7f" * 256 for first in (b"\xc5", b"\xda")),
        *(first + b"\0\1\0\0" + b"\x7f" * 65536 for first in (b"\xc6", b"\xdb")),
        *(first + b"\x7f" * 1 for first in (b"\xcc", b"\xd0")),
        *(first + b"\x7f" * 2 for first in (b"\xcd", b"\xd1")),
        *(first + b"\x7f" * 4 for first in (b"\xca", b"\xce", b"\xd2")),
        *(first + b"\x3f" * 8 for first in (b"\xcb", b"\xcf", b"\xd3")),
        b"\x91\xc0",
        b"\x81\xa1a\xc0",
        b"\xdc\0\1\xc0",
        b"\xdd\0\0\0\1\xc0",
        b"\xde\0\1\xa1a\xc0",
        b"\xdf\0\0\0\1\xa1a\xc0",
    ]
    deep = b"\x91" * (DEPTH - 2) + b"\xc0"
    for value in values:
        lists = b"\x90" * 99
        assert len(unpack_map(with_value(b"\xdc\0\x65" + lists + value + deep))["k"]) == 101
        assert "nested" in refusal(with_value(b"\xdc\0\x65" + lists + value + b"\x91" + deep))


def test_nesting_is_counted_with_the_outermost_map() -> None:
    unpack_map(with_value(b"\x91" * (DEPTH - 1) + b"\xc0"))
    unpack_map((b"\x81" + KEY) * (DEPTH - 1) + b"\x80")
    assert "nested" in refusal(with_value(b"\x91" * DEPTH + b"\xc0"))
    assert "nested" in refusal((b"\x81" + KEY) * DEPTH + b"\x80")


def test_elements_are_items_of_lists_and_entries_of_maps() -> None:
    most = (ELEMENTS - 1).to_bytes(4, "big")
    assert len(unpack_map(with_value(b"\xdd" + most + b"\0" * (ELEMENTS - 1)))["k"]) == ELEMENTS - 1
    assert "elements" in refusal(with_value(b"\xdd" + ELEMENTS.to_bytes(4, "big") + b"\0" * ELEMENTS))
    halves = b"\x92" + 2 * (b"\xdd" + (ELEMENTS // 2).to_bytes(4, "big") + b"\0" * (ELEMENTS // 2))
    assert "elements" in refusal(with_value(halves))


@pytest.mark.parametrize(
    "bomb",
    [
        b"\x91" * wire.MAX_PAYLOAD,
        (b"\x81" + KEY) * (wire.MAX_PAYLOAD // 4),
        b"\xdd\0\1\xff\xff" * (wire.MAX_PAYLOAD // 5),
        b"\xdf\0\0\xff\xff\xa0" * (wire.MAX_PAYLOAD // 6),
        b"\xdd\xff\xff\xff\xff" * 60,
        b"\x81\xa1k\xdd\0\x0f\xff\xff" + b"\x80" * (wire.MAX_PAYLOAD - 8),
    ],
    ids=["lists", "maps", "claimed lists", "claimed maps", "huge claims", "empty maps"],
)
def test_a_bomb_is_refused_before_anything_is_built_from_it(bomb: bytes) -> None:
    tracemalloc.start()
    try:
        refusal(bomb)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 2 * len(bomb) + 100_000


# -- writing -----------------------------------------------------------------------------------------------------


def test_texts_keys_and_binaries_travel_as_bin_and_keys_are_sorted_at_every_level() -> None:
    assert pack_canonical({"b": "x", "a": {"d": b"y", "c": [{"f": 1, "e": None}]}}) == bytes.fromhex(
        "82 c40161 82 c40163 91 82 c40165 c0 c40166 01 c40164 c40179 c40162 c40178"
    )


def test_keys_are_sorted_as_their_bytes_are() -> None:
    keys = ["\ufffd", "\U0001f600", "z", "", "é", "Z"]
    assert list(unpack_map(pack_canonical(dict.fromkeys(keys)))) == sorted(keys, key=str.encode)


@pytest.mark.parametrize("vector", load("msgpack_rules.json")["bin_headers"], ids=lambda vector: str(vector["n"]))
def test_the_header_of_a_binary_is_the_shortest(vector: dict[str, Any]) -> None:
    packed = pack_canonical({"k": b"\1" * vector["n"]})
    assert packed[4:].startswith(bytes.fromhex(vector["header_hex"]))
    assert len(packed) == 4 + vector["total"]


def test_integers_travel_over_the_whole_range_of_messagepack() -> None:
    body = {"k": [wire.INT_MIN, wire.INT_MAX, 0, -1]}
    assert unpack_map(pack_canonical(body)) == body
    local_refusal({"k": wire.INT_MAX + 1})
    local_refusal({"k": [wire.INT_MIN - 1]})


class Colour(enum.StrEnum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


def test_subclasses_and_other_mappings_travel_as_what_they_are() -> None:
    body = MappingProxyType(
        {Colour.RED: NodeId(bytes(32)), "l": Level.LOW, "o": OrderedDict(t=(Colour.RED, True, 1.5))}
    )
    assert unpack_map(pack_canonical(body)) == {"red": bytes(32), "l": 1, "o": {"t": [b"red", True, 1.5]}}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_floats_that_are_not_finite_are_not_written(value: float) -> None:
    assert "not finite" in local_refusal({"k": value})
    assert "not finite" in local_refusal({"k": [value]})


@pytest.mark.parametrize(
    "value", [{1}, object(), 1j, bytearray(b"x"), memoryview(b"x"), range(2)], ids=lambda v: type(v).__name__
)
def test_other_types_are_not_written(value: object) -> None:
    assert "no type of the wire" in local_refusal({"k": value})


@pytest.mark.parametrize("keys", [[1], [b"a"], [None], ["a", 1], [("a",)], [1, 2]], ids=repr)
def test_keys_other_than_str_are_not_written(keys: list[Any]) -> None:
    assert "keys must be str" in local_refusal(dict.fromkeys(keys))
    assert "keys must be str" in local_refusal({"k": dict.fromkeys(keys)})


def test_lone_surrogates_are_not_written() -> None:
    local_refusal({"k": "\ud800"})
    local_refusal({"\ud800": 1})


def nested(depth: int, *, maps: bool = False) -> Any:
    value: Any = None
    for _ in range(depth):
        value = {"k": value} if maps else [value]
    return value


@pytest.mark.parametrize("maps", [False, True], ids=["lists", "maps"])
def test_what_we_write_is_as_deep_as_what_we_read(maps: bool) -> None:
    body = {"k": nested(DEPTH - 1, maps=maps)}
    assert unpack_map(pack_canonical(body)) == body
    assert "nested" in local_refusal({"k": nested(DEPTH, maps=maps)})


def test_a_list_that_contains_itself_is_not_written() -> None:
    loop: list[Any] = []
    loop.append(loop)
    assert "nested" in local_refusal({"k": loop})


def test_what_we_write_has_as_many_elements_as_what_we_read() -> None:
    body = {"k": [0] * (ELEMENTS - 1)}
    assert unpack_map(pack_canonical(body)) == body
    assert "elements" in local_refusal({"k": [0] * ELEMENTS})
    shared: Any = []
    for _ in range(DEPTH - 2):
        shared = [shared, shared]  # 2**62 lists when written out
    assert "elements" in local_refusal({"k": shared})


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(wire.INT_MIN, wire.INT_MAX)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=5),
    max_leaves=8,
)
bodies = st.dictionaries(st.text(max_size=8) | st.sampled_from(["topic", "key", "nodes"]), values, max_size=6)


@settings(max_examples=50)
@given(body=bodies, random=st.randoms(use_true_random=False))
def test_equal_bodies_have_one_encoding_and_survive_it(body: dict[str, Any], random: Any) -> None:
    packed = pack_canonical(body)
    assert unpack_map(packed) == body
    shuffled = list(body.items())
    random.shuffle(shuffled)
    assert pack_canonical(dict(shuffled)) == packed


@settings(max_examples=30)
@given(body=bodies)
def test_the_walk_takes_whatever_we_write(body: dict[str, Any]) -> None:
    plain = {"lists": [[]] * 70, "body": body}
    assert unpack_map(pack_canonical(plain)) == plain
    assert unpack_map(msgpack.packb(plain, use_bin_type=True)) == plain

from __future__ import annotations

import copy
import hashlib
import json
import pickle
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from macula_trio._ids import ID_BITS, ID_BYTES, Contact, NodeId, bucket_index, dht_key, distance, leading_zeros

HASHING: Final = json.loads((Path(__file__).parent / "vectors" / "hashing.json").read_text(encoding="utf-8"))

ZERO: Final = NodeId(bytes(ID_BYTES))
ONES: Final = NodeId(b"\xff" * ID_BYTES)
IDS: Final = st.binary(min_size=ID_BYTES, max_size=ID_BYTES).map(NodeId)


# -- node ids ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 31, 33, 64])
def test_a_node_id_has_32_bytes(size: int) -> None:
    with pytest.raises(ValueError, match=f"a node id has 32 bytes, not {size}"):
        NodeId(bytes(size))


@given(IDS)
def test_a_node_id_is_read_from_its_digits(node_id: NodeId) -> None:
    for text in (node_id.hex(), node_id.hex().upper(), str(node_id)):
        again = NodeId.from_hex(text)
        assert again == node_id
        assert type(again) is NodeId


@pytest.mark.parametrize("text", ["", "ab", "0" * 63, "0" * 65, "0x" + "0" * 64])
def test_another_number_of_digits_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=f"a node id has 64 hexadecimal digits, not {len(text)}"):
        NodeId.from_hex(text)


@pytest.mark.parametrize("text", ["g" * 64, "0x" + "0" * 62, "é" * 64, "٣" * 64, "00 " * 21 + "0"])
def test_what_is_no_digit_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="non-hexadecimal number"):
        NodeId.from_hex(text)


def test_spaces_are_not_counted_as_digits() -> None:
    with pytest.raises(ValueError, match="32 bytes, not 31"):
        NodeId.from_hex("00" * 31 + "  ")


def test_a_node_id_is_bytes_to_whoever_wants_bytes() -> None:
    raw = bytes(range(32))
    node_id = NodeId(raw)
    assert node_id == raw
    assert {raw: 1}[node_id] == 1
    assert sorted([ONES, node_id, ZERO]) == [ZERO, node_id, ONES]
    assert type(node_id[:4]) is bytes


def test_people_see_its_digits() -> None:
    node_id = NodeId(bytes(range(32)))
    assert str(node_id) == f"{node_id}" == bytes(range(32)).hex()
    assert repr(node_id) == f"NodeId({node_id.hex()})"
    assert node_id.short == "00010203"


def test_a_node_id_can_be_copied_and_pickled() -> None:
    for again in (copy.deepcopy(ONES), pickle.loads(pickle.dumps(ONES))):
        assert again == ONES
        assert type(again) is NodeId


def test_contacts_compare_by_what_they_say() -> None:
    assert Contact(node_id=ZERO, endpoint="a:1") == Contact(node_id=NodeId(bytes(32)), endpoint="a:1")
    assert Contact(node_id=ZERO, endpoint="a:1") != Contact(node_id=ZERO, endpoint="a:2")


# -- the metric; tests/dht/test_table.py compares it with the original's -------------------------------------------


@given(IDS, IDS, IDS)
def test_the_distance_is_a_metric(a: NodeId, b: NodeId, c: NodeId) -> None:
    assert a.distance(b) == distance(a, b) == distance(b, a) < 2**ID_BITS
    assert (distance(a, b) == 0) == (a == b)
    assert distance(a, c) <= distance(a, b) + distance(b, c)


@pytest.mark.parametrize(
    ("value", "zeros"),
    [(b"", 0), (b"\0", 8), (b"\x80", 0), (b"\x01", 7), (b"\0\x40", 9), (bytes(32), 256), (b"\0" * 31 + b"\1", 255)],
)
def test_zeros_are_counted_from_the_front(value: bytes, zeros: int) -> None:
    assert leading_zeros(value) == zeros


@given(IDS, st.integers(0, 255))
def test_a_bucket_is_the_length_of_the_common_prefix(own: NodeId, bit: int) -> None:
    other = (int.from_bytes(own, "big") ^ (1 << (255 - bit))).to_bytes(32, "big")
    assert bucket_index(own, other) == bit
    assert bucket_index(own, own) == ID_BITS
    xored = distance(own, other).to_bytes(32, "big")
    assert leading_zeros(xored) == bit


# -- keys ----------------------------------------------------------------------------------------------------------


def test_keys_are_those_of_the_original() -> None:
    assert HASHING["sha256"]
    for case in HASHING["sha256"]:
        assert dht_key(case["input"]).hex() == case["sha256"]


def test_a_key_is_the_hash_of_the_utf_8_of_the_name() -> None:
    assert dht_key("é") == hashlib.sha256(b"\xc3\xa9").digest()

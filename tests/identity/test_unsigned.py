"""Values as v0.8 stores them: nobody has signed them, and they say how long they live from now on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest

from macula_trio._dht.storage import TTL_MAX_MS, VALUE_BYTES_MAX, may_pass_on
from macula_trio._identity.keys import Credentials
from macula_trio._identity.record import (
    METADATA_DEPTH_MAX,
    METADATA_ELEMENTS_MAX,
    UNSIGNED_BYTES_MAX,
    UNSIGNED_TTL_MAX_MS,
    Record,
    judge_record,
    read_trusted,
    read_unsigned,
    sign_record,
    without_shadowed,
)
from macula_trio._identity.trust import TrustJudge
from macula_trio._trust import Trust
from macula_trio._wire.codec import decode_frame, encode_message, unpack_map
from macula_trio._wire.messages import Store
from macula_trio.errors import ErrorCode, RemoteProtocolError, TrustError

VECTORS: Final = Path(__file__).parents[1] / "vectors" / "frames.json"
NOW: Final = 1_700_000_000_000
KEY: Final = bytes(range(32))
OWNER: Final = b"o" * 32
VALUE: Final[dict[str, Any]] = {"node_id": OWNER, "endpoint": b"https://attic:9443", "ttl": 300}
REALM: Final = "org.example"
UNVERIFIED: Final = TrustJudge(Trust.unverified(), realm=REALM)


def read(**changes: Any) -> Record:
    return read_unsigned(VALUE | changes, key=KEY, now_ms=NOW)


def signed(owner: Credentials, *, endpoint: str | None = "192.0.2.7:9443") -> Record:
    return sign_record(
        owner, realm=REALM, key=KEY, kind="service", endpoint=endpoint, metadata={}, seq=1, expires_ms=NOW + 1
    )


# -- what it is ----------------------------------------------------------------------------------------------------


def test_the_values_of_v08_are_read_and_come_back_as_they_were() -> None:
    stores = [
        bytes.fromhex(vector["frame_hex"])
        for vector in json.loads(VECTORS.read_text(encoding="utf-8"))["vectors"]
        if vector["name"] in {"subscriber value", "service value"}
    ]
    assert len(stores) == 2
    for frame in stores:
        body = decode_frame(frame)[1]
        record = read_trusted(body["value"], realm=REALM, key=body["key"], judge=UNVERIFIED, now_ms=NOW)
        assert not record.signed
        assert not record.withdrawn
        assert (record.kind, record.expires_ms) == ("any", NOW + 300_000)
        # Its own keys, and no others: the very frame, as its keys are sorted.
        assert encode_message(Store(key=record.key, value=record.to_value(NOW))) == frame


def test_what_is_left_of_its_time_is_told_in_whole_seconds() -> None:
    record = read()
    assert [record.to_value(NOW + ms)["ttl"] for ms in (0, 1, 1000, 299_999, 300_000, 400_000)] == [
        *(300, 299, 299, 0, 0, 0)
    ]


@pytest.mark.parametrize(("ttl", "lives_ms"), [(1, 1000), (3600, 3_600_000), (3601, 3_600_000), (2**63, 3_600_000)])
def test_it_lives_for_its_ttl_and_for_an_hour_at_most(ttl: int, lives_ms: int) -> None:
    assert read(ttl=ttl).expires_ms == NOW + lives_ms


@pytest.mark.parametrize("ttl", [0, -1, -(2**63)])
def test_it_may_have_ended_before_it_came(ttl: int) -> None:
    assert read(ttl=ttl).expires_ms <= NOW


def test_its_bounds_are_those_of_signed_values() -> None:
    assert (UNSIGNED_TTL_MAX_MS, UNSIGNED_BYTES_MAX) == (TTL_MAX_MS, VALUE_BYTES_MAX)


def test_its_metadata_may_be_missing_or_an_empty_erlang_list() -> None:
    assert read().metadata == read(metadata=None).metadata == read(metadata="").metadata == {}
    assert read(metadata={"zone": b"attic"}).metadata == {"zone": b"attic"}


def test_a_text_may_be_an_erlang_string_and_goes_back_as_the_list_that_it_is() -> None:
    # MessagePack's str is how Erlang spells lists of small integers; as bin it would come back as something else.
    value = unpack_map(b"\x81\xa1m\x82\xa1e\xa0\xa1l\x92\xa3abc\xc4\x01b")
    record = read(endpoint="10.0.0.1:1", metadata=value["m"])
    assert record.endpoint == "10.0.0.1:1"
    told = record.to_value(NOW)
    assert told["endpoint"] == [ord(character) for character in "10.0.0.1:1"]
    assert told["metadata"] == {"e": [], "l": [[97, 98, 99], b"b"]}


def test_it_is_never_passed_on() -> None:
    assert not may_pass_on(read(), NOW)
    assert may_pass_on(signed(Credentials.from_seed(bytes(32))), NOW)


# -- what it is not ------------------------------------------------------------------------------------------------


def nested(depth: int) -> dict[str, Any]:
    return {} if not depth else {"m": nested(depth - 1)}


@pytest.mark.parametrize(
    "wrong",
    [
        {"node_id": b"short"},
        {"node_id": None},
        {"node_id": "o" * 32},
        {"ttl": None},
        {"ttl": True},
        {"ttl": b"300"},
        {"ttl": 1.5},
        {"endpoint": None},
        {"endpoint": 7},
        {"endpoint": b"\xff"},
        {"metadata": b"text"},
        {"metadata": [1]},
        {"metadata": nested(METADATA_DEPTH_MAX + 1)},
        {"metadata": {"list": [0] * METADATA_ELEMENTS_MAX}},
        {"metadata": {"text": "x" * METADATA_ELEMENTS_MAX}},  # an Erlang string is a list too
        {"note": b"x" * UNSIGNED_BYTES_MAX},
        {"note": 2**70},
    ],
)
def test_what_it_must_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(RemoteProtocolError, match="value: ") as error:
        read(**wrong)
    assert error.value.code is ErrorCode.BAD_VALUE


@pytest.mark.parametrize("trust", [Trust.open(), Trust.only([OWNER])])
def test_it_counts_in_unverified_realms_only(trust: Trust) -> None:
    judge = TrustJudge(trust, realm=REALM)
    with pytest.raises(RemoteProtocolError, match="value: "):
        read_trusted(VALUE, realm=REALM, key=KEY, judge=judge, now_ms=NOW)
    with pytest.raises(TrustError) as error:  # and one that came in before the policy changed
        judge_record(read(), judge, NOW)
    assert error.value.code is ErrorCode.UNTRUSTED


def test_a_value_with_a_signature_is_judged_by_it_there_too() -> None:
    with pytest.raises(RemoteProtocolError):
        read_trusted(VALUE | {"signature": b"s"}, realm=REALM, key=KEY, judge=UNVERIFIED, now_ms=NOW)


def test_who_is_blocked_has_none() -> None:
    judge = TrustJudge(Trust.unverified(), realm=REALM)
    judge.block(read().node_id)
    with pytest.raises(TrustError, match="blocked"):
        read_trusted(VALUE, realm=REALM, key=KEY, judge=judge, now_ms=NOW)


@pytest.mark.parametrize("endpoint", ["192.0.2.7:9443", None])
def test_it_never_stands_in_the_place_of_a_signed_one(endpoint: str | None) -> None:
    owner = Credentials.from_seed(bytes(32))
    genuine = signed(owner, endpoint=endpoint)
    claimed, other = read(node_id=bytes(owner.node_id)), read()
    assert without_shadowed([claimed, genuine, other]) == [genuine, other]

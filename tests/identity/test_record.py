from __future__ import annotations

import datetime
import hashlib
from collections.abc import Mapping
from typing import Any, Final

import attrs
import msgpack
import pytest
import realm_tools
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st
from realm_tools import Authority

from macula_trio._identity.keys import CHAIN_LENGTH_MAX, Credentials, load_spki, verify
from macula_trio._identity.record import (
    METADATA_DEPTH_MAX,
    METADATA_ELEMENTS_MAX,
    Record,
    read_record,
    read_trusted,
    sign_record,
)
from macula_trio._identity.trust import OWNER_CHAIN_BYTES_MAX, TrustJudge
from macula_trio._trust import Trust
from macula_trio._wire.codec import FrameDecoder, decode_message, encode_message, unpack_map
from macula_trio._wire.messages import Store
from macula_trio.errors import ErrorCode, LocalProtocolError, RemoteProtocolError, TrustError

REALM: Final = "org.example"
KEY: Final = bytes(range(32))
OWNER: Final = Credentials.from_seed(b"o" * 32)
OTHER: Final = Credentials.from_seed(b"x" * 32)
EXPIRES: Final = 1_700_000_300_000
TOP: Final = 2**63 - 1


def signed(owner: Credentials = OWNER, **changes: Any) -> Record:
    fields: dict[str, Any] = {
        "realm": REALM,
        "key": KEY,
        "kind": "service",
        "endpoint": "192.0.2.7:9443",
        "metadata": {"zone": "attic", "load": 3, "tags": [b"a", 1.5, None, True], "more": {"b": -1}},
        "seq": 7,
        "expires_ms": EXPIRES,
    }
    return sign_record(owner, **(fields | changes))


def travelled(value: Mapping[str, object]) -> dict[str, Any]:
    """The value as it arrives in a STORE."""
    decoder = FrameDecoder()
    decoder.receive_data(encode_message(Store(key=KEY, value=dict(value))))
    frame = decoder.next_frame()
    assert frame is not None
    message = decode_message(frame)
    assert isinstance(message, Store)
    return message.value


def read(value: Mapping[str, object], *, realm: str = REALM, key: bytes = KEY) -> Record:
    return read_record(value, realm=realm, key=key)


ARRIVED: Final = travelled(signed().to_value())
TOMBSTONE: Final = travelled(signed(endpoint=None).to_value())


def refused_as_malformed(value: Mapping[str, object]) -> str:
    with pytest.raises(RemoteProtocolError) as error:
        read(value)
    assert error.value.code is ErrorCode.BAD_VALUE
    return str(error.value)


# -- there and back ------------------------------------------------------------------------------------------------


def test_what_the_owner_signed_is_read_at_the_other_end_of_the_wire() -> None:
    own, record = signed(), read(ARRIVED)
    assert (record.key, record.kind, record.node_id) == (KEY, "service", OWNER.node_id)
    assert (record.endpoint, record.seq, record.expires_ms) == ("192.0.2.7:9443", 7, EXPIRES)
    assert record.metadata == {"zone": b"attic", "load": 3, "tags": [b"a", 1.5, None, True], "more": {"b": -1}}
    assert attrs.evolve(record, metadata=own.metadata) == own
    assert not record.withdrawn


def test_what_was_read_can_be_handed_on() -> None:
    assert travelled(read(ARRIVED).to_value()) == ARRIVED
    assert read(travelled(read(ARRIVED).to_value())) == read(ARRIVED)


def test_a_subscriber_is_told_from_a_service() -> None:
    assert read(travelled(signed(kind="subscriber").to_value())).kind == "subscriber"


def test_a_tombstone_is_a_value_without_an_endpoint() -> None:
    record = read(TOMBSTONE)
    assert record.withdrawn
    assert record.endpoint is None
    assert TOMBSTONE["endpoint"] is None
    assert read({key: value for key, value in TOMBSTONE.items() if key != "endpoint"}) == record


def test_an_owner_may_have_another_kind_of_key() -> None:
    leaf = trustme.CA().issue_cert("node.example.org")
    owner = Credentials.from_pem(leaf.private_key_and_cert_chain_pem.bytes())
    assert read(travelled(signed(owner).to_value())).node_id == owner.node_id


def test_the_signature_is_over_the_bytes_that_the_design_says() -> None:
    record = signed(metadata={"b": 1, "a": "x"})
    # Keys sorted and texts as bin, written by hand.
    fields = {
        b"endpoint": b"192.0.2.7:9443",
        b"expires_ms": EXPIRES,
        b"key": KEY,
        b"kind": b"service",
        b"metadata": {b"a": b"x", b"b": 1},
        b"node_id": bytes(OWNER.node_id),
        b"realm_id": b"org.example",
        b"seq": 7,
    }
    data = b"macula-trio/1 record" + msgpack.packb(fields)
    verify(load_spki(OWNER.spki), record.signature, data)
    assert record.digest == hashlib.sha256(data).digest()
    assert record.size == len(data)


@pytest.mark.parametrize("number", [0, 1, TOP])
def test_seq_and_expiry_reach_from_0_to_the_63rd_bit(number: int) -> None:
    record = read(travelled(signed(seq=number, expires_ms=number).to_value()))
    assert (record.seq, record.expires_ms) == (number, number)


# -- nobody else's -------------------------------------------------------------------------------------------------


def test_a_value_cannot_be_moved_to_another_realm_or_key() -> None:
    with pytest.raises(TrustError, match="signature does not match"):
        read(ARRIVED, realm="org.example.other")
    with pytest.raises(TrustError, match="signature does not match"):
        read(ARRIVED, key=KEY[::-1])


@pytest.mark.parametrize(
    ("field", "forged"),
    [
        ("kind", b"subscriber"),
        ("endpoint", b"192.0.2.8:9443"),
        ("endpoint", None),
        ("metadata", {}),
        ("metadata", ARRIVED["metadata"] | {"load": 4}),
        ("metadata", ARRIVED["metadata"] | {"load": 3.0}),
        ("metadata", ARRIVED["metadata"] | {"extra": None}),
        ("seq", 8),
        ("seq", 6),
        ("expires_ms", EXPIRES + 1),
        ("signature", b""),
        ("signature", ARRIVED["signature"][:-1]),
        ("signature", bytes(64)),
        ("signature", TOMBSTONE["signature"]),
    ],
)
def test_nothing_that_the_owner_said_can_be_changed(field: str, forged: object) -> None:
    with pytest.raises(TrustError, match="signature does not match"):
        read(ARRIVED | {field: forged})


def test_a_tombstone_cannot_be_brought_back_to_life() -> None:
    with pytest.raises(TrustError, match="signature does not match"):
        read(TOMBSTONE | {"endpoint": b"192.0.2.7:9443"})


def test_the_key_must_be_the_owners() -> None:
    stranger = travelled(signed(OTHER).to_value())
    for forged in (
        ARRIVED | {"public_key": OTHER.spki},
        ARRIVED | {"node_id": OTHER.node_id},
        ARRIVED | {"public_key": OTHER.spki, "signature": stranger["signature"]},
        ARRIVED | {"public_key": b""},
    ):
        with pytest.raises(TrustError, match="public key is not its owner's"):
            read(forged)
    with pytest.raises(TrustError, match="signature does not match"):
        read(ARRIVED | {"public_key": OTHER.spki, "node_id": OTHER.node_id})


@pytest.mark.parametrize("public_key", [b"", b"no key", bytes(2000), OWNER.spki + b"\0"])
def test_an_id_made_of_what_is_no_key_is_refused(public_key: bytes) -> None:
    with pytest.raises(TrustError, match="public key (is malformed|of 2000 bytes)"):
        read(ARRIVED | {"public_key": public_key, "node_id": hashlib.sha256(public_key).digest()})


def test_the_metadata_is_as_it_was_signed_however_a_peer_spells_it() -> None:
    spelled = ARRIVED | {"metadata": ARRIVED["metadata"] | {"zone": "attic"}}  # MessagePack's str, not bin
    arrived = unpack_map(msgpack.packb({"value": spelled}))["value"]
    assert arrived["metadata"]["zone"] == "attic"
    assert read(arrived) == read(ARRIVED)


def test_keys_that_are_unknown_are_neither_signed_nor_kept() -> None:
    assert read(ARRIVED | {"hint": b"closer"}) == read(ARRIVED)


# -- malformed -----------------------------------------------------------------------------------------------------

BYTES: Final = ("kind", "node_id", "public_key", "signature")
NUMBERS: Final = ("seq", "expires_ms")


@pytest.mark.parametrize("field", [*BYTES, *NUMBERS, "metadata"])
def test_a_field_that_is_missing_is_named(field: str) -> None:
    value = {key: item for key, item in ARRIVED.items() if key != field}
    assert f"value: {field} is missing" in refused_as_malformed(value)
    assert f"value: {field} is missing" in refused_as_malformed(ARRIVED | {field: None})


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        *((name, wrong) for name in (*BYTES, "endpoint") for wrong in ("text", 5, True, [], {}, 1.5)),
        *((name, wrong) for name in NUMBERS for wrong in (True, False, 7.0, b"7", "7", [7])),
        *(("metadata", wrong) for wrong in ([], b"", "", 0, False)),
    ],
)
def test_a_field_of_another_type_is_named(field: str, wrong: object) -> None:
    assert f"value: {field} is missing or not" in refused_as_malformed(ARRIVED | {field: wrong})


@pytest.mark.parametrize(
    "wrong",
    [
        *({name: number} for name in NUMBERS for number in (-1, -(2**63), TOP + 1, 2**64 - 1)),
        *({"kind": kind} for kind in (b"", b"Service", b"service ", b"\xff")),
        *({"node_id": node_id} for node_id in (b"", OWNER.node_id[:-1], OWNER.node_id + b"\0")),
    ],
)
def test_a_field_out_of_range_is_refused_even_when_it_is_signed(wrong: dict[str, Any]) -> None:
    assert "out of range" in refused_as_malformed(ARRIVED | wrong)
    if wrong.keys() & {*NUMBERS}:
        assert "out of range" in refused_as_malformed(travelled(signed(**wrong).to_value()))


def test_an_endpoint_that_is_no_text_is_refused() -> None:
    assert "endpoint is not text" in refused_as_malformed(ARRIVED | {"endpoint": b"\xff:1"})


WIRE: Final = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.binary(max_size=40) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
FIELDS: Final = st.sampled_from(sorted(ARRIVED))


def owned(value: dict[str, Any]) -> dict[str, Any]:
    """The same with the id that goes with its key, so that reading gets as far as it can."""
    key = value.get("public_key")
    return value | {"node_id": hashlib.sha256(key).digest()} if isinstance(key, bytes) else value


@given(st.dictionaries(FIELDS | st.text(max_size=5), WIRE) | st.dictionaries(FIELDS, WIRE).map(lambda m: ARRIVED | m))
@settings(max_examples=100)
def test_whatever_map_arrives_it_is_read_or_refused(value: dict[str, Any]) -> None:
    for each in (value, owned(value)):
        arrived = unpack_map(msgpack.packb(each))
        try:
            record = read(arrived)
        except (RemoteProtocolError, TrustError):
            continue
        assert record == read(ARRIVED)


@given(FIELDS.filter(lambda name: name != "metadata"), st.data())
def test_no_bit_of_a_value_can_be_turned(field: str, data: st.DataObject) -> None:
    item = ARRIVED[field]
    forged: object
    if isinstance(item, int):
        forged = item ^ (1 << data.draw(st.integers(0, 62)))
    else:
        bits = int.from_bytes(item, "big") ^ (1 << data.draw(st.integers(0, 8 * len(item) - 1)))
        forged = bits.to_bytes(len(item), "big")
    with pytest.raises((RemoteProtocolError, TrustError)):
        read(ARRIVED | {field: forged})


# -- limits of the metadata ----------------------------------------------------------------------------------------


def nested(depth: int) -> dict[str, Any]:
    return {} if depth == 1 else {"a": nested(depth - 1)}


def test_the_deepest_and_the_largest_metadata_are_read() -> None:
    for metadata in (nested(METADATA_DEPTH_MAX), {"a": [0] * (METADATA_ELEMENTS_MAX - 1)}):
        assert read(travelled(signed(metadata=metadata).to_value())).metadata == metadata


@pytest.mark.parametrize("metadata", [nested(METADATA_DEPTH_MAX + 1), {"a": [0] * METADATA_ELEMENTS_MAX}])
def test_metadata_that_would_crowd_out_others_is_refused_on_both_sides(metadata: dict[str, Any]) -> None:
    with pytest.raises(LocalProtocolError):
        signed(metadata=metadata)
    value = signed().to_value()
    with pytest.raises(RemoteProtocolError):
        read(travelled({**value, "metadata": metadata}))


@pytest.mark.parametrize("metadata", [nested(64), {"a": [0] * 131_072}, {"a": 2**64}, {"a": float("nan")}, {"a": {1}}])
def test_metadata_that_cannot_travel_is_our_own_mistake(metadata: dict[str, Any]) -> None:
    with pytest.raises(LocalProtocolError):
        signed(metadata=metadata)


# -- certificates beside a value -----------------------------------------------------------------------------------

ROOT: Final = Authority.create()
MEMBER: Final = ROOT.issue(7)
NOW_MS: Final = 1_700_000_000_000


def realm_judge(*roots: Authority) -> TrustJudge:
    return TrustJudge(Trust.realm(b"".join(root.pem for root in roots)), realm=realm_tools.REALM)


def believed(value: Mapping[str, object], judge: TrustJudge, now_ms: int = NOW_MS) -> Record:
    return read_trusted(value, realm=realm_tools.REALM, key=KEY, judge=judge, now_ms=now_ms)


def in_realm(owner: Credentials = MEMBER, **changes: Any) -> Record:
    return signed(owner, realm=realm_tools.REALM, with_chain=True, **changes)


@pytest.mark.parametrize("endpoint", ["192.0.2.7:9443", None])
def test_a_value_of_a_realm_brings_its_owners_certificates(endpoint: str | None) -> None:
    record = believed(travelled(in_realm(endpoint=endpoint).to_value()), realm_judge(ROOT))
    assert record.chain == MEMBER.chain_der
    assert record.chain_bytes == sum(map(len, MEMBER.chain_der))
    assert believed(travelled(record.to_value()), realm_judge(ROOT)) == record


def test_where_nobody_asks_for_certificates_they_are_not_kept() -> None:
    judge = TrustJudge(Trust.open(), realm=realm_tools.REALM)
    value = travelled(in_realm().to_value())
    assert believed(value, judge).chain == ()
    assert believed(travelled(signed(realm=realm_tools.REALM).to_value()), judge).chain == ()


@pytest.mark.parametrize(
    "value",
    [
        signed(MEMBER, realm=realm_tools.REALM).to_value(),
        in_realm(OWNER).to_value(),
        in_realm(Authority.create(2).issue(7)).to_value(),
        in_realm(ROOT.issue(7, names=["other.realm"])).to_value(),
        in_realm(OWNER).to_value() | {"certificate_chain": list(MEMBER.chain_der)},
        in_realm().to_value() | {"certificate_chain": []},
    ],
    ids=["no certificates", "self-signed", "other authority", "other realm", "another's certificate", "empty"],
)
def test_a_value_of_nobody_in_the_realm_is_not_believed(value: dict[str, object]) -> None:
    with pytest.raises(TrustError) as caught:
        believed(travelled(value), realm_judge(ROOT))
    assert caught.value.code is ErrorCode.UNTRUSTED


def test_a_value_is_worth_nothing_when_the_certificate_of_its_owner_has_expired() -> None:
    soon = datetime.datetime.fromtimestamp(NOW_MS / 1000 + 60, datetime.UTC)
    value = travelled(in_realm(ROOT.issue(7, end=soon)).to_value())
    judge = realm_judge(ROOT)
    believed(value, judge)
    with pytest.raises(TrustError, match="expired"):
        believed(value, judge, NOW_MS + 61_000)


def test_a_forged_value_stays_one_whatever_certificates_come_with_it() -> None:
    value = travelled(in_realm().to_value()) | {"seq": 8}
    with pytest.raises(TrustError) as caught:
        believed(value, realm_judge(ROOT))
    assert caught.value.code is ErrorCode.BAD_PROOF


@pytest.mark.parametrize(
    "chain",
    [5, b"x", ["x"], [b"x", None], [b"x"] * (CHAIN_LENGTH_MAX + 1), [bytes(OWNER_CHAIN_BYTES_MAX + 1)], "abc"],
    ids=lambda chain: type(chain).__name__ + str(len(chain) if isinstance(chain, list) else ""),
)
def test_certificates_of_another_shape_are_malformed(chain: object) -> None:
    assert "certificate_chain" in refused_as_malformed(ARRIVED | {"certificate_chain": chain})


def test_an_erlang_node_spells_no_certificates_as_an_empty_text() -> None:
    assert read(ARRIVED | {"certificate_chain": ""}).chain == ()

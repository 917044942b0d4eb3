"""What messages look like to those who get them."""

from __future__ import annotations

from typing import Any, Final

import attrs
import pytest

from macula_trio._ids import NodeId
from macula_trio._pubsub.outgoing import NOBODY, Outgoing, Passing, as_in_v08, in_json, sameness_of
from macula_trio._wire import messages as wire
from macula_trio._wire.codec import CONTENT_JSON, CONTENT_MSGPACK, CONTENT_OCTETS, encode_payload
from macula_trio.errors import LocalProtocolError, RemoteProtocolError

VALUE: Final = {"celsius": 23.5}


def message(value: object = VALUE, content_type: str | None = CONTENT_MSGPACK, **changes: Any) -> wire.Publish:
    return wire.Publish(
        topic="a.b",
        payload=encode_payload(value, content_type),
        message_id=bytes(16),
        content_type=content_type,
        headers={"k": "v"},
        expires_ms=1000,
        **changes,
    )


@pytest.mark.parametrize("content_type", [None, CONTENT_JSON, CONTENT_MSGPACK])
def test_a_client_of_v08_gets_json_and_nothing_that_it_does_not_know(content_type: str | None) -> None:
    sent = as_in_v08(message(content_type=content_type, qos=1, retain=True))
    assert sent == wire.Publish(topic="a.b", payload=b'{"celsius":23.5}', message_id=bytes(16), qos=1, retain=True)
    assert (sent.content_type, sent.headers, sent.expires_ms) == (None, None, None)


def test_what_json_does_not_carry_or_what_is_none_is_refused() -> None:
    for carried in (message(b"bytes", CONTENT_OCTETS), message({"k": b"bytes"})):
        with pytest.raises(LocalProtocolError):
            in_json(carried)
    for malformed in (b"\xff", b"{", b"NaN"):
        with pytest.raises(RemoteProtocolError):
            in_json(attrs.evolve(message(content_type=None), payload=malformed))


def test_what_passes_goes_on_as_it_came_but_for_who_reads_json_only() -> None:
    passing = Passing(message(), NOBODY)
    assert passing.topic == "a.b"
    assert passing.encoded(CONTENT_MSGPACK) is passing.message
    assert passing.encoded(CONTENT_JSON) == attrs.evolve(
        passing.message, payload=b'{"celsius":23.5}', content_type=CONTENT_JSON
    )


def test_a_message_of_ours_is_encoded_once_for_each_way_to_read_it() -> None:
    outgoing = Outgoing("a.b", VALUE, bytes(16), None)
    assert outgoing.encoded(CONTENT_JSON) is outgoing.encoded(CONTENT_JSON)
    assert outgoing.encoded(CONTENT_MSGPACK).payload != outgoing.encoded(CONTENT_JSON).payload
    assert Outgoing("a.b", b"x", bytes(16), None).encoded(CONTENT_JSON).content_type == CONTENT_OCTETS
    assert outgoing.source is None


def test_only_copies_are_the_same() -> None:
    one = message()
    assert sameness_of(one) == sameness_of(attrs.evolve(one, qos=1, headers=None))
    others = [
        attrs.evolve(one, topic="a.c"),
        attrs.evolve(one, message_id=bytes([1] * 16)),
        attrs.evolve(one, payload=b"1"),
    ]
    assert len({sameness_of(each) for each in (one, *others)}) == 4
    assert bytes(NodeId(bytes(32))) == NOBODY

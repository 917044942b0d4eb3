"""The fuzz targets themselves: they run, find nothing in a small sample, and see a bug when there is one."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import fuzz_dht
import fuzz_frames
import fuzz_handshakes
import pytest
from cryptography import x509
from fuzz_tools import MESSAGES, TARGETS, Target, target

from macula_trio._dht import client, server
from macula_trio._identity import chain
from macula_trio._identity.record import sign_record
from macula_trio._net import connection, quic
from macula_trio._peer import handshake
from macula_trio._wire import codec, messages
from macula_trio.errors import TrustError

pytestmark = pytest.mark.thorough

VARIATIONS: Final = {
    "frames": 400,
    "handshakes": 40,
    "dht": 300,
    "hellos": 400,
    "certificates": 300,
}  # each target for about a second
SEEDS_MAX: Final = {"handshakes": 70}  # every so manieth of its many seeds: a handshake costs 10 ms

every_target = pytest.mark.parametrize("name", TARGETS)


def inputs(name: str) -> Iterator[bytes]:
    """Seeds, and mutations of them, always the same ones."""
    seeds, chance = target(name).seeds(), random.Random(name)
    yield from seeds[:: -(-len(seeds) // SEEDS_MAX.get(name, len(seeds)))]
    for _ in range(VARIATIONS[name]):
        yield target(name).vary(chance.choice(seeds), seeds, chance)


def find_something(module: Target, data: Iterator[bytes] | list[bytes]) -> None:
    for each in data:
        module.fuzz_one(each)


def test_every_target_has_its_module_and_the_launcher_knows_it() -> None:
    here = Path(__file__).parent
    assert sorted(f"fuzz_{name}" for name in (*TARGETS, "tools")) == sorted(
        path.stem for path in here.glob("fuzz_*.py")
    )
    assert repr(list(TARGETS)).replace("'", '"') in (here / "__main__.py").read_text(encoding="utf-8")


def test_the_seeds_have_a_message_of_every_type() -> None:
    assert {type(message) for message in MESSAGES} == set(messages.CLASSES.values())


@every_target
def test_nothing_is_found_in_the_seeds_and_some_mutations_of_them(name: str) -> None:
    find_something(target(name), inputs(name))


# -- what would be found ------------------------------------------------------------------------------------------


def test_an_exception_of_another_kind_out_of_the_codec_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    check = codec.check_shape

    def careless(data: codec.Buffer) -> None:
        if data[:1] == b"\x80":
            raise IndexError("planted")
        check(data)

    monkeypatch.setattr(codec, "check_shape", careless)
    with pytest.raises(IndexError, match="planted"):
        find_something(fuzz_frames, inputs("frames"))


def test_a_decoder_that_minds_where_it_is_cut_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    receive = codec.FrameDecoder.receive_data

    def forgetful(self: codec.FrameDecoder, data: bytes) -> None:
        receive(self, data if len(data) != 7 else data[:-1])

    monkeypatch.setattr(codec.FrameDecoder, "receive_data", forgetful)
    with pytest.raises(AssertionError):
        find_something(fuzz_frames, inputs("frames"))


def test_a_field_that_is_lost_on_the_way_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    to_body = codec.to_body
    monkeypatch.setattr(codec, "to_body", lambda message: to_body(message) | {"headers": {}})
    with pytest.raises(AssertionError):
        find_something(fuzz_frames, inputs("frames"))


def test_what_escapes_from_the_pump_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def short_sighted(data: bytes) -> bytes:
        return data[6 : 6 + data[5]] if data[0] & 0x80 else data[1:9]

    monkeypatch.setattr(quic, "destination_cid", short_sighted)
    with pytest.raises(IndexError):
        find_something(fuzz_handshakes, inputs("handshakes"))


def test_an_error_of_aioquic_s_that_is_not_contained_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection._Containment, "__exit__", lambda *_: False)
    with pytest.raises(x509.InvalidVersion):
        find_something(fuzz_handshakes, inputs("handshakes"))


def test_a_connection_that_is_not_forgotten_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    forget = quic.QuicEndpoint._forget

    def keep_ids(self: quic.QuicEndpoint, connection: quic.Connection) -> None:
        forget(self, connection)
        self._by_cid.update(dict.fromkeys(connection._cids, connection))

    monkeypatch.setattr(quic.QuicEndpoint, "_forget", keep_ids)
    with pytest.raises(AssertionError, match="ids"):
        find_something(fuzz_handshakes, inputs("handshakes"))


@pytest.mark.parametrize("module", ["hellos", "dht"])
def test_a_signature_that_nobody_looks_at_is_found(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner: Any = handshake if module == "hellos" else sys.modules[sign_record.__module__]
    monkeypatch.setattr(owner, "verify", lambda _key, _signature, _data: None)
    with pytest.raises(AssertionError):
        find_something(target(module), inputs(module))


def test_a_refusal_that_reaches_the_pump_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def angry(*_args: object, **_more: object) -> None:
        raise TrustError("planted")

    monkeypatch.setattr(server, "read_trusted", angry)
    monkeypatch.setattr(server, "TrustError", ZeroDivisionError)
    with pytest.RaisesGroup(pytest.RaisesExc(TrustError, match="planted")):
        find_something(fuzz_dht, inputs("dht"))


def test_a_value_of_another_realm_in_an_answer_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    read = client.read_trusted
    monkeypatch.setattr(client, "read_trusted", lambda value, **rest: read(value, **(rest | {"realm": "org.other"})))
    with pytest.RaisesGroup(AssertionError):
        find_something(fuzz_dht, inputs("dht"))


def test_a_chain_that_nobody_verifies_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    path = chain._verified_path

    def gullible(shown: Any, roots: Any, now: Any) -> Any:
        try:
            return path(shown, roots, now)
        except TrustError:
            return [shown[0], roots[0]]

    monkeypatch.setattr(chain, "_verified_path", gullible)
    with pytest.raises(AssertionError, match="nobody has issued"):
        find_something(target("certificates"), inputs("certificates"))


def test_a_certificate_that_only_openssl_refuses_is_found_where_that_is_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chain, "_MALFORMED", ())
    with pytest.raises((ValueError, TypeError, chain.crypto.Error)):
        find_something(target("certificates"), inputs("certificates"))

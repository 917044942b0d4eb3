from __future__ import annotations

import pytest

from macula_trio import errors
from macula_trio.errors import (
    AlreadyAdvertised,
    ErrorCode,
    LocalProtocolError,
    MeshError,
    NoProviders,
    PayloadTooLarge,
    ProtocolError,
    QuorumNotReached,
    RealmMismatch,
    Reject,
    RemoteCallError,
    RemoteProtocolError,
    TrustError,
)


def test_everything_public_is_under_one_root_but_the_codes() -> None:
    tree = [getattr(errors, name) for name in errors.__all__ if name != "ErrorCode"]
    assert all(issubclass(error, MeshError) for error in tree)
    defined = {
        name for name, value in vars(errors).items() if isinstance(value, type) and value.__module__ == errors.__name__
    }
    assert defined == set(errors.__all__)


def test_nobody_raises_a_protocol_error_without_saying_whose_fault_it_is() -> None:
    with pytest.raises(TypeError, match="raise LocalProtocolError or RemoteProtocolError"):
        ProtocolError("somebody", code=ErrorCode.BAD_VALUE)
    assert issubclass(LocalProtocolError, ProtocolError)
    assert issubclass(RemoteProtocolError, ProtocolError)
    assert not issubclass(RemoteProtocolError, LocalProtocolError)


@pytest.mark.parametrize("error", [LocalProtocolError, RemoteProtocolError])
def test_a_protocol_error_has_a_code(error: type[ProtocolError]) -> None:
    raised = error("bad header", code=ErrorCode.MALFORMED_PAYLOAD)
    assert (str(raised), raised.code) == ("bad header", ErrorCode.MALFORMED_PAYLOAD)


def test_a_payload_that_is_too_large_says_how_much() -> None:
    error = PayloadTooLarge(size=11, limit=10)
    assert isinstance(error, LocalProtocolError)
    assert (error.size, error.limit, error.code) == (11, 10, ErrorCode.FRAME_TOO_LARGE)
    assert str(error) == "payload of 11 bytes, limit 10"


def test_another_realm_is_a_matter_of_trust() -> None:
    assert issubclass(RealmMismatch, TrustError)


@pytest.mark.parametrize("error", [NoProviders, AlreadyAdvertised])
def test_the_procedure_is_named(error: type[NoProviders | AlreadyAdvertised]) -> None:
    raised = error("math.add")
    assert raised.procedure == "math.add"
    assert "'math.add'" in str(raised)


@pytest.mark.parametrize("error", [RemoteCallError, Reject])
def test_an_answer_has_a_code_and_maybe_words(error: type[RemoteCallError | Reject]) -> None:
    raised = error("out_of_stock", "no apples")
    assert (raised.code, raised.message, str(raised)) == ("out_of_stock", "no apples", "out_of_stock: no apples")
    assert str(error("out_of_stock", "")) == "out_of_stock"


def test_a_handler_may_reject_without_words() -> None:
    assert Reject("closed").message == ""


def test_a_missed_quorum_has_its_numbers() -> None:
    error = QuorumNotReached(stored=2, wanted=3)
    assert (error.stored, error.wanted) == (2, 3)
    assert str(error) == "stored on 2 of 3 replicas"


def test_codes_travel_as_their_names() -> None:
    assert all(code == code.name.lower() for code in ErrorCode)

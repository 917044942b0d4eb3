"""What the reason for the end of a link is to those who depend on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from macula_trio.errors import ErrorCode, MeshError, PeerUnavailable, RealmMismatch, TrustError

_TRUST_REFUSALS: Final[Mapping[ErrorCode | None, type[TrustError]]] = {
    ErrorCode.BAD_PROOF: TrustError,
    ErrorCode.PROOF_REQUIRED: TrustError,
    ErrorCode.WRONG_PEER: TrustError,
    ErrorCode.UNTRUSTED: TrustError,
    ErrorCode.OWN_IDENTITY: TrustError,
    ErrorCode.IDENTITY_CONFLICT: TrustError,
    ErrorCode.REALM_MISMATCH: RealmMismatch,
}


def code_of(text: str) -> ErrorCode | None:
    """The reason that a peer gave, if it is one that we know."""
    try:
        return ErrorCode(text)
    except ValueError:
        return None


def error_of(code: ErrorCode | None, text: str) -> MeshError:
    """The error of those who wait: a refusal is told from an end."""
    kind = _TRUST_REFUSALS.get(code)
    return PeerUnavailable(text) if kind is None else kind(text, code=code)

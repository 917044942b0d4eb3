"""The one tree of errors.  A branch answers: whose fault is it, and what can be done now?

Foreign exceptions are translated in ``_wire/codec.py``, ``_net/quic.py`` and ``_identity/`` and nowhere
else.  Misuse of a closed object is Trio's own `trio.ClosedResourceError`.
"""

from __future__ import annotations

import enum

__all__ = [
    "AlreadyAdvertised",
    "CallTimeout",
    "ErrorCode",
    "IdentityFileError",
    "LocalProtocolError",
    "MeshError",
    "NoProviders",
    "NotSent",
    "OwnIdentity",
    "PayloadTooLarge",
    "PeerUnavailable",
    "ProtocolError",
    "QuorumNotReached",
    "RealmMismatch",
    "Reject",
    "RemoteCallError",
    "RemoteProtocolError",
    "TrustError",
]


class ErrorCode(enum.StrEnum):
    """Why a link is closed, as DISCONNECT's ``reason`` and QUIC's close phrase carry it."""

    NORMAL = "normal"
    CLOSING = "closing"  # the whole node leaves the mesh, not only this link
    UNSUPPORTED_VERSION = "unsupported_version"
    UNKNOWN_TYPE = "unknown_type"
    INCOMPLETE_FRAME = "incomplete_frame"
    FRAME_TOO_LARGE = "frame_too_large"
    MALFORMED_PAYLOAD = "malformed_payload"
    MALFORMED_MESSAGE = "malformed_message"
    UNEXPECTED_MESSAGE = "unexpected_message"
    PROOF_REQUIRED = "proof_required"
    BAD_PROOF = "bad_proof"
    REALM_MISMATCH = "realm_mismatch"
    WRONG_PEER = "wrong_peer"
    OWN_IDENTITY = "own_identity"
    IDENTITY_CONFLICT = "identity_conflict"  # two nodes run with one key at the same time
    UNTRUSTED = "untrusted"  # the policy of the one who refuses does not let the other in
    LIMIT_EXCEEDED = "limit_exceeded"
    HANDSHAKE_TIMEOUT = "handshake_timeout"
    BAD_VALUE = "bad_value"
    SILENT = "silent"
    INTERNAL_ERROR = "internal_error"


class MeshError(Exception):
    """Root of everything that this library raises on purpose."""


class ProtocolError(MeshError):
    """Somebody broke the wire rules.  Never raised directly; see the two subclasses.

    Attributes:
      code: the rule, as a peer would be told.
    """

    def __init__(self, message: str, *, code: ErrorCode) -> None:
        if type(self) is ProtocolError:
            raise TypeError("raise LocalProtocolError or RemoteProtocolError")
        super().__init__(message)
        self.code: ErrorCode = code


class LocalProtocolError(ProtocolError):
    """We were asked to send something that the wire rules forbid."""


class RemoteProtocolError(ProtocolError):
    """The peer sent something that the wire rules forbid: close the link with ``code``."""


class PayloadTooLarge(LocalProtocolError):
    """A payload exceeds what one frame may carry (``size`` and ``limit`` in bytes)."""

    def __init__(self, *, size: int, limit: int) -> None:
        super().__init__(f"payload of {size} bytes, limit {limit}", code=ErrorCode.FRAME_TOO_LARGE)
        self.size: int = size
        self.limit: int = limit


class PeerUnavailable(MeshError):
    """The peer could not be reached, or its link ended; trying again later may help."""


def no_answer(where: str, seconds: float) -> PeerUnavailable:
    """Silence has several reasons, which cannot be told apart from here: the one who reads this can."""
    mend = "check the address, that a node runs there, and that no firewall stops UDP"
    return PeerUnavailable(f"nobody answered at {where} within {seconds:g} s; {mend}")


class NotSent(PeerUnavailable):
    """Nothing was sent, because of a limit of ours, or we are closing, or cannot reach such addresses from our socket.

    It says nothing about the peer.
    """


class TrustError(MeshError):
    """The peer is not who it must be, or our trust policy refuses it (or its policy refuses us).

    Attributes:
      code: how a refused peer is told why.
    """

    code: ErrorCode = ErrorCode.BAD_PROOF

    def __init__(self, message: str, *, code: ErrorCode | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code


class OwnIdentity(TrustError):
    """The peer has our own node id: it is ourselves, or somebody runs with our key."""

    code = ErrorCode.OWN_IDENTITY


class RealmMismatch(TrustError):
    """The peer belongs to another realm."""

    code = ErrorCode.REALM_MISMATCH


class IdentityFileError(MeshError):
    """A key or certificate file is missing, unreadable, malformed, or its parts do not match."""


class NoProviders(MeshError):
    """Nobody in the mesh advertises the procedure."""

    def __init__(self, procedure: str) -> None:
        super().__init__(f"no node advertises {procedure!r}")
        self.procedure: str = procedure


class AlreadyAdvertised(MeshError):
    """This node already has a handler for the procedure."""

    def __init__(self, procedure: str) -> None:
        super().__init__(f"this node already advertises {procedure!r}; leave that block first")
        self.procedure: str = procedure


class RemoteCallError(MeshError):
    """The provider answered with an error.

    Attributes:
      code: one of `macula_trio._rpc.errors_map`, or that of the handler's `Reject`.
      message: for people; may be empty.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}" if message else code)
        self.code: str = code
        self.message: str = message


class Reject(MeshError):
    """Raised by a handler to answer with an error of its own; the caller gets `RemoteCallError`.

    Attributes:
      code: a word for programs, of the application's own.
      message: for people; may be empty.
    """

    def __init__(self, code: str, message: str = "") -> None:
        super().__init__(f"{code}: {message}" if message else code)
        self.code: str = code
        self.message: str = message


class CallTimeout(MeshError):
    """No reply within the default time of a call; whether the handler ran is unknown."""


class QuorumNotReached(MeshError):
    """A STORE reached fewer replicas than asked for.  Some replicas *do* hold the value.

    Attributes:
      stored: replicas that have confirmed.
      wanted: those that were asked for.
    """

    def __init__(self, *, stored: int, wanted: int) -> None:
        super().__init__(f"stored on {stored} of {wanted} replicas")
        self.stored: int = stored
        self.wanted: int = wanted


def afresh(error: MeshError, *, more: str = "") -> MeshError:
    """One more exception for another one who waited for the same connection.

    What was raised collects a traceback and must not be shared.  A peer that broke the rules while we dialed it is to
    all of them one that could not be reached.

    Args:
      error: what the first one got.
      more: to be said behind it.
    """
    text = f"{error}{more}"
    if isinstance(error, TrustError):
        return type(error)(text, code=error.code)
    return NotSent(text) if isinstance(error, NotSent) else PeerUnavailable(text)

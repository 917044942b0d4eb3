"""The error codes that a REPLY can carry, in one table (DESIGN section 9).

A handler's `Reject` may add codes of its own; what is not in the table may have run.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import attrs


@attrs.frozen
class CallErrorInfo:
    """What a code means.

    Attributes:
      meaning: for people.
      not_started: whether another provider may be tried: the handler certainly was not run here, and the reason is
        this node's, not the call's.
    """

    meaning: str
    not_started: bool


CALL_ERRORS: Final[Mapping[str, CallErrorInfo]] = MappingProxyType(
    {
        # As v0.8 spells them.
        "no_handler": CallErrorInfo("the node does not offer the procedure, or no longer", not_started=True),
        "handler_error": CallErrorInfo("the handler of a v0.8 node failed", not_started=False),
        "gateway_bootstrap_only": CallErrorInfo("a v0.8 gateway, which runs no handlers", not_started=True),
        "max_hops_exceeded": CallErrorInfo("a forwarded call went through too many nodes", not_started=True),
        "no_route": CallErrorInfo("a node that should forward the call knows nobody nearer", not_started=True),
        # Ours.
        "connection_lost": CallErrorInfo("the answer to a forwarded call was lost on its way", not_started=False),
        "busy": CallErrorInfo("the node, or its share for this caller, runs as many calls as it may", not_started=True),
        "draining": CallErrorInfo("the node is shutting down and takes no new calls", not_started=True),
        "forbidden": CallErrorInfo("the node does not let this caller use the procedure", not_started=False),
        "bad_payload": CallErrorInfo("the arguments could not be decoded", not_started=False),
        "internal_error": CallErrorInfo("the handler failed; its node has the traceback", not_started=False),
        "timeout": CallErrorInfo("the handler did not finish in the caller's time", not_started=False),
        "cancelled": CallErrorInfo("the call was given up while the handler ran", not_started=False),
    }
)


def was_not_started(code: str) -> bool:
    """Whether a call that failed with this code certainly did not run."""
    info = CALL_ERRORS.get(code)
    return info is not None and info.not_started

"""What whoever runs a node should hear of while it runs: from events to lines that say what to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import attrs

from macula_trio import Event

LINES_REMEMBERED: Final = 64  # peers can provoke some; what was said is not said again until as many others were

_RENEW: Final = "renew it: macula-trio realm issue DIRECTORY FILE"


def _not_joined(facts: Mapping[str, Any]) -> str:
    endpoint, reason = facts["endpoint"], facts["reason"]
    return f"not joined: {reason}" if endpoint in reason else f"not joined by {endpoint}: {reason}"


def _clock_differs(facts: Mapping[str, Any]) -> str:
    seconds, side = abs(facts["ahead_s"]), "behind" if facts["ahead_s"] > 0 else "ahead of"
    return (
        f"our clock is {seconds} s {side} that of the node at {facts['address']}; set the wrong one, by NTP for example"
    )


def _clock_wrong(facts: Mapping[str, Any]) -> str:
    told = f"{facts['witnesses']} of {facts['asked']} nodes say that our clock is {facts['seconds']} s behind"
    return f"{told}; set it, by NTP for example"


def _renewal_due(facts: Mapping[str, Any]) -> str:
    verb = "is" if facts["days_left"] > 0 else "was"
    return f"our certificate {verb} valid until {facts['valid_until']}; {_RENEW}"


def _untrusted(facts: Mapping[str, Any]) -> str:
    return f"others with our --trust would not let us in: {facts['reason']}"


def _key_shared(facts: Mapping[str, Any]) -> str:
    mend = "give every node a key file of its own, made by macula-trio keygen FILE"
    return f"the node at {facts['address']} runs with the same key as we do; {mend}"


def _moved(facts: Mapping[str, Any]) -> str:
    return f"we announce {facts['endpoint']} from now on, where we are seen, and no longer {facts['before']}"


_ADVICE: Final[Mapping[str, Callable[[Mapping[str, Any]], str]]] = {
    "clock.differs": _clock_differs,
    "dht.clock_skew": _clock_wrong,
    "endpoint.changed": _moved,
    "identity.renewal_due": _renewal_due,
    "identity.untrusted": _untrusted,
    "identity_conflict": _key_shared,
    "node.bootstrap_failed": _not_joined,
}


@attrs.define(eq=False, kw_only=True)
class Adviser:
    """Turns events into advice, and says nothing twice.

    Attributes:
      joins: whether failures to join are told here; else they are the error of the command.
    """

    joins: bool
    _said: dict[str, None] = attrs.field(factory=dict, init=False)

    def advise(self, event: Event) -> str | None:
        """One line, when an event asks for one that was not said lately."""
        write = _ADVICE.get(event.name)
        if write is None or (event.name == "node.bootstrap_failed" and not self.joins):
            return None
        line = write(event.facts)
        if line in self._said:
            return None
        if len(self._said) >= LINES_REMEMBERED:
            del self._said[next(iter(self._said))]
        self._said[line] = None
        return line

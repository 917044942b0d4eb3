"""What must hold in every run, whatever the network does: checked with every event, not only at the end.

Pure.  A violation is returned and not raised: events are told in the midst of things.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final

import attrs

from macula_trio._events import Fact

CALL_ONCE: Final = "no call is answered twice"
MESSAGE_ONCE: Final = "no message is delivered twice to one subscription"
VALUE_FOUND: Final = "a value stored by a quorum is found after healing"
NOTHING_LEFT: Final = "a closed block leaves nothing behind"


class InvariantViolated(AssertionError):
    """Something that must never happen has happened.

    Attributes:
      invariant: which one, as a sentence.
    """

    def __init__(self, invariant: str, what: str) -> None:
        super().__init__(f"{invariant}: {what}")
        self.invariant = invariant


@attrs.define(eq=False)
class Invariants:
    """Watches the events of all nodes.

    Attributes:
      checked: how often each invariant was put to the test.
    """

    checked: Counter[str] = attrs.field(factory=Counter, init=False)
    _started: dict[str, str] = attrs.field(factory=dict, init=False)  # by call id: where its handler ran
    _answered: dict[str, str] = attrs.field(factory=dict, init=False)  # by call id: who got the answer
    _delivered: dict[tuple[str, int, int, str], None] = attrs.field(factory=dict, init=False)

    def observe(self, node: str, run: int, event: str, facts: Mapping[str, Fact]) -> InvariantViolated | None:
        """Take note of one event.

        Args:
          node: its name.
          run: how often this node was started before; subscriptions are numbered anew in each run.
          event: such as ``"rpc.served"``.
          facts: of the event.
        """
        if event == "rpc.started":
            return self._once(self._started, str(facts["call_id"]), node, "was run by")
        if event == "rpc.repeated":  # its caller said that it may run more than once
            self._started.pop(str(facts["call_id"]), None)
        if event == "rpc.called":
            return self._once(self._answered, str(facts["call_id"]), node, "was answered to")
        if event == "pubsub.delivered":
            number, message_id = facts["subscription"], str(facts["message_id"])
            assert isinstance(number, int)
            return self._note_delivery((node, run, number, message_id), str(facts["topic"]))
        return None

    def _once(self, seen: dict[str, str], call_id: str, node: str, what: str) -> InvariantViolated | None:
        self.checked[CALL_ONCE] += 1
        if call_id in seen:
            return InvariantViolated(CALL_ONCE, f"{call_id} {what} {seen[call_id]}, then {node}")
        seen[call_id] = node
        return None

    def _note_delivery(self, delivery: tuple[str, int, int, str], topic: str) -> InvariantViolated | None:
        self.checked[MESSAGE_ONCE] += 1
        if delivery in self._delivered:
            node, _, number, message_id = delivery
            return InvariantViolated(MESSAGE_ONCE, f"{message_id} on {topic} to subscription {number} of {node}")
        self._delivered[delivery] = None
        return None

"""What happens in a node, as facts: the vocabulary of `Node.events` and of traces (DESIGN section 11).

An event has no message text: who reads it decides how to say it.  Listeners are plain callables,
called at once; they must not block or raise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import attrs

Fact: TypeAlias = "str | int | float | bool | list[str] | None"


@attrs.frozen
class Event:
    """One thing that happened.

    Attributes:
      time_s: on Trio's clock.
      name: such as ``"link.opened"``.
      facts: JSON-able details; ids are hexadecimal.
    """

    time_s: float
    name: str
    facts: Mapping[str, Fact]


Listener: TypeAlias = Callable[[Event], None]


@attrs.define(eq=False)
class EventBus:
    """Hands every event to every listener, in the order in which they came."""

    _now: Callable[[], float]
    _listeners: list[Listener] = attrs.field(factory=list, init=False)

    def emit(self, name: str, /, **facts: Fact) -> None:
        """Tell the listeners; free of charge when there is none."""
        if not self._listeners:
            return
        event = Event(self._now(), name, facts)
        for listener in tuple(self._listeners):
            listener(event)

    def listen(self, listener: Listener) -> None:
        """Call ``listener`` for every later event."""
        self._listeners.append(listener)

    def unlisten(self, listener: Listener) -> None:
        """Undo one `listen`."""
        self._listeners.remove(listener)

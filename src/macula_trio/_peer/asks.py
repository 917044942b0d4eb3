"""Requests of ours that wait for their replies on one link."""

from __future__ import annotations

from typing import Final

import attrs
import trio

from macula_trio._wire.correlation import correlation_of
from macula_trio.abc import Message
from macula_trio.errors import MeshError, NotSent, PeerUnavailable

ASKS_MAX: Final = 4096  # unanswered requests of ours on one link; each is remembered until its end

Key = tuple[str, object]


@attrs.define(eq=False)
class Pending:
    """One request; ``home`` is where it waits now, which a successor of its link may take over."""

    reply_type: type[Message]
    stream_id: int
    home: Asks
    done: trio.Event = attrs.field(factory=trio.Event)
    outcome: Message | MeshError | None = None

    def resolve(self, outcome: Message | MeshError) -> None:
        """The first outcome counts: the reply that came, even when the link ended behind it."""
        if self.outcome is None:
            self.outcome = outcome
            self.done.set()


class Asks:
    """All of one link."""

    __slots__ = ("_pending",)

    def __init__(self) -> None:
        self._pending: dict[Key, Pending] = {}

    def __len__(self) -> int:
        return len(self._pending)

    def require_room(self, label: str) -> None:
        """Refuse one too many.

        Raises:
          NotSent: it is.
        """
        if len(self._pending) >= ASKS_MAX:
            raise NotSent(f"{label}: {ASKS_MAX} requests are waiting for their answers already")

    def begin(self, key: Key, reply_type: type[Message], stream_id: int) -> Pending:
        """Wait for the reply to a request that leaves now."""
        assert key not in self._pending, "correlation used twice"
        pending = self._pending[key] = Pending(reply_type, stream_id, self)
        return pending

    def end(self, key: Key, pending: Pending) -> None:
        """Wait no longer."""
        del pending.home._pending[key]

    def find(self, reply: Message, stream_id: int, *, verified: bool) -> Pending | None:
        """Who waits for a reply: by what question and answer share, or by their stream, as v0.8 sends nothing back."""
        key = correlation_of(reply)
        if key is not None and key[1] is None and not verified:
            waiting = (p for p in self._pending.values() if p.stream_id == stream_id and p.reply_type is type(reply))
            return next(waiting, None)
        return None if key is None else self._pending.get(key)

    def fail(self, text: str) -> None:
        """The link has ended; those who wait leave by themselves."""
        for pending in self._pending.values():
            pending.resolve(PeerUnavailable(text))

    def move_to(self, other: Asks) -> None:
        """Let the successor of the link take the replies."""
        for key, pending in self._pending.items():
            assert key not in other._pending, "correlation used twice"
            other._pending[key] = pending
            pending.home = other
        self._pending.clear()

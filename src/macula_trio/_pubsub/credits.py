"""The windows of blocking subscriptions on the links that they belong to (docs/design/backpressure.md).

What is remembered of a link is forgotten with it, at both ends: a new one begins anew.  A link is not told to tell when
it ends, unless a message waits, because links that owe us a word are kept alive by PINGs.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, MutableMapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Final, TypeAlias
from weakref import WeakKeyDictionary

import attrs
import trio

from macula_trio._pubsub.window import (
    SCOPE,
    WINDOWS_PER_LINK_MAX,
    Gate,
    ReceiveWindow,
    Ticket,
    Turn,
    read_marks,
    window_id,
)
from macula_trio._wire.messages import Credit
from macula_trio.abc import Link
from macula_trio.errors import NotSent

_UNKNOWN_SIZE: Final = 1  # of a window that nobody here has: its publisher is told at once that nothing waits

Tell: TypeAlias = Callable[[bytes, int], None]


# -- the publisher's end --------------------------------------------------------------------------------------------


@attrs.define(eq=False)
class Passage:
    """One message at a gate, for the length of a block; see `Gates.passage`."""

    _gate: Gate
    _ticket: Ticket
    _changed: trio.Event

    @property
    def turn(self) -> Turn:
        """Whether it may go."""
        return self._ticket.turn

    async def wait(self, link: Link | None) -> None:
        """Wait for its turn, if it has to wait.  Returns also when ``link`` ends.  Always a checkpoint."""
        await trio.lowlevel.checkpoint()
        if self.turn is not Turn.WAITING:
            return
        woken = self._changed.set
        if link is not None:
            link.add_close_callback(woken)
        try:
            await self._changed.wait()
        finally:
            if link is not None:
                link.remove_close_callback(woken)

    def marks(self) -> tuple[bytes, ...]:
        """What the message carries if it leaves now, before any other."""
        return self._gate.marks(self._ticket)

    def sent(self) -> None:
        """It has left."""
        self._gate.sent(self._ticket)


class Gates:
    """Where messages wait for credit: one gate for each link, and one for the subscriptions here.

    Attributes:
      here: the gate of our own subscriptions.
    """

    def __init__(self) -> None:
        self.here: Gate = Gate()
        self._gates: MutableMapping[Link, Gate] = WeakKeyDictionary()

    def of(self, link: Link) -> Gate:
        """The gate of a link."""
        return self._gates.setdefault(link.whole, Gate())

    def take_credit(self, link: Link, credit: Credit) -> None:
        """Handle CREDIT: that of other scopes is not for us, and that of windows that we do not know is nothing."""
        gate = self._gates.get(link.whole)
        if gate is not None and credit.scope == SCOPE:
            gate.credit(credit.id, credit.credit)

    @contextmanager
    def passage(
        self, gate: Gate, needs: Mapping[bytes, int], *, may_wait: bool, scope: trio.CancelScope
    ) -> Generator[Passage, None, None]:
        """Bring one message through a gate, or leave it at the end of the block.

        Args:
          gate: which.
          needs: the windows that the message is counted in; messages by id.
          may_wait: whether the message may.
          scope: of the block; when its deadline has passed, the message has waited in vain.
        """
        changed = trio.Event()
        ticket = gate.ask(needs, may_wait=may_wait, wake=changed.set)
        try:
            yield Passage(gate, ticket, changed)
        finally:
            gate.leave(ticket, in_vain=trio.current_time() >= scope.deadline)


# -- the subscriber's end -------------------------------------------------------------------------------------------


@attrs.define(eq=False)
class Arrival:
    """One message in one window: it waits there until everybody who holds it has let go."""

    _window: ReceiveWindow
    _tell: Callable[[int], None]
    _holders: int = 1

    def hold(self) -> None:
        """One more holds it."""
        self._holders += 1

    def release(self) -> None:
        """One lets go of it: has taken it, or will not."""
        self._holders -= 1
        if not self._holders:
            total = self._window.released(trio.current_time())
            if total is not None:
                self._tell(total)


@attrs.define(eq=False)
class _Advertised:
    """Blocking subscriptions of one pattern.

    Attributes:
      count: how many there are.
      smallest: messages of the smallest since there was the first: a publisher may know no other yet.
    """

    count: int
    smallest: int


class Receipts:
    """Counts what arrives in the windows here, and tells its publishers what was taken.

    Args:
      tell_own: takes the credits for what we publish ourselves.
    """

    def __init__(self, tell_own: Tell) -> None:
        self._tell_own = tell_own
        self._advertised: dict[bytes, _Advertised] = {}
        self._of_links: MutableMapping[Link, dict[bytes, ReceiveWindow]] = WeakKeyDictionary()
        self._of_own: dict[bytes, ReceiveWindow] = {}

    @contextmanager
    def advertised(self, pattern: str, size: int) -> Generator[None, None, None]:
        """Have a window of a pattern for the length of the block."""
        identifier = window_id(pattern)
        known = self._advertised.setdefault(identifier, _Advertised(0, size))
        known.count += 1
        known.smallest = min(known.smallest, size)
        self._resize(identifier, known.smallest)
        try:
            yield
        finally:
            known.count -= 1
            if not known.count:
                del self._advertised[identifier]

    def of_link(self, link: Link, marks: Iterable[bytes]) -> dict[bytes, Arrival]:
        """A message of the peer's own has come on its link.

        Args:
          link: on which its credits go back.
          marks: what the message carries.

        Returns:
          It in each of its windows, held by the caller.
        """
        numbers = read_marks(marks)
        if not numbers:
            return {}
        return self._arrived(self._of_links.setdefault(link.whole, {}), numbers, partial(_tell_peer, link.whole))

    def of_own(self, marks: Iterable[bytes]) -> dict[bytes, Arrival]:
        """The same for a message of our own."""
        return self._arrived(self._of_own, read_marks(marks), self._tell_own)

    def _arrived(
        self, windows: dict[bytes, ReceiveWindow], numbers: Mapping[bytes, int], tell: Tell
    ) -> dict[bytes, Arrival]:
        arrivals: dict[bytes, Arrival] = {}
        for identifier, number in numbers.items():
            known = self._advertised.get(identifier)
            size = _UNKNOWN_SIZE if known is None else known.smallest
            window = windows.pop(identifier, None)
            if window is None or not window.continues_with(number):
                window = ReceiveWindow(size)
            windows[identifier] = window
            if len(windows) > WINDOWS_PER_LINK_MAX:
                del windows[next(iter(windows))]
            window.arrived(number, size)
            arrivals[identifier] = Arrival(window, partial(tell, identifier))
        return arrivals

    def _resize(self, identifier: bytes, size: int) -> None:
        ends: list[tuple[dict[bytes, ReceiveWindow], Tell]] = [(self._of_own, self._tell_own)]
        ends += ((windows, partial(_tell_peer, link)) for link, windows in self._of_links.items())
        for windows, tell in ends:
            window = windows.get(identifier)
            total = None if window is None else window.resized(size, trio.current_time())
            if total is not None:
                tell(identifier, total)


def _tell_peer(link: Link, identifier: bytes, total: int) -> None:
    with suppress(NotSent):  # its windows have ended with the link
        link.send_nowait(Credit(scope=SCOPE, id=identifier, credit=total))

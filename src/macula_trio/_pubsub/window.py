"""How much a publisher may send to a subscription that blocks before some of it was taken (DESIGN sections 6 and 10).

Sans-IO; both ends.  A *window* belongs to one pattern of one subscriber node on one link: so many messages may be there
that were sent and not taken.  Its publisher numbers them from 1, and every message says which windows it is counted in,
and as which number; the subscriber credits the running total of those that are not waiting any more.  So the two need
not agree on when counting began: a publisher that has forgotten a window, or begins anew, begins at 1, and a subscriber
that has forgotten it goes on from whatever number comes next.  What a peer says wrong costs its own messages only.

`Gate` is the publisher's end for one link, `ReceiveWindow` the subscriber's for one window.
"""

from __future__ import annotations

import enum
import hashlib
import struct
from collections.abc import Callable, Iterable, Mapping
from math import inf
from typing import Final

import attrs

from macula_trio._wire.fields import COUNT_MAX

SCOPE: Final = "subscription"
"""Of a CREDIT; its ``id`` is a `window_id`, its ``credit`` the number of messages that do not wait any more."""

WINDOW_ID_BYTES: Final = 8
WINDOW_MAX: Final = 65_536  # messages; more than anybody needs on its way to one node
WINDOWS_PER_MESSAGE_MAX: Final = 16  # one message is counted in; patterns of one node that match one topic
WINDOWS_PER_LINK_MAX: Final = 256  # remembered at either end; one in which nothing is waited for is forgotten first
CREDIT_INTERVAL_S: Final = 0.1  # a slow reader's credits, while its publisher can do nothing without them

_MARK: Final = struct.Struct(f"!{WINDOW_ID_BYTES}sQ")
_ADVERT: Final = struct.Struct(f"!{WINDOW_ID_BYTES}sI")
ADVERT_BYTES: Final = _ADVERT.size


def window_id(pattern: str) -> bytes:
    """Which window is a pattern's, 8 bytes of its SHA-256: only its own node could find two that are the same."""
    return hashlib.sha256(pattern.encode()).digest()[:WINDOW_ID_BYTES]


def advert_of(pattern: str, size: int) -> bytes:
    """How a node advertises the window of a pattern."""
    return _ADVERT.pack(window_id(pattern), min(size, WINDOW_MAX))


def read_windows(listed: Iterable[object]) -> dict[bytes, int]:
    """The windows in a list that anybody may have written: messages by id, of two for one id the smaller one."""
    windows: dict[bytes, int] = {}
    for item in listed:
        if isinstance(item, bytes) and len(item) == ADVERT_BYTES:
            identifier, size = _ADVERT.unpack(item)
            if 1 <= size <= WINDOW_MAX:
                windows[identifier] = min(size, windows.get(identifier, size))
    return windows


def read_marks(listed: Iterable[bytes]) -> dict[bytes, int]:
    """The windows that a message is counted in, each with its number; of anything else nothing."""
    marks: dict[bytes, int] = {}
    for item in listed:
        if len(item) == _MARK.size and len(marks) < WINDOWS_PER_MESSAGE_MAX:
            identifier, number = _MARK.unpack(item)
            if 1 <= number <= COUNT_MAX:
                marks[identifier] = number
    return marks


# -- the publisher's end --------------------------------------------------------------------------------------------


@attrs.define(eq=False)
class SendWindow:
    """One window as its publisher counts.

    Attributes:
      size: messages that may be there without having been taken.
      sent: the number of the last message.
      taken: how many of those are not waiting any more, as the subscriber says.
      reserved: messages that may go now and have not gone yet.
      is_stalled: a message has waited for its turn in vain, and nothing was taken since.
    """

    size: int
    sent: int = 0
    taken: int = 0
    reserved: int = 0
    is_stalled: bool = False

    @property
    def has_room(self) -> bool:
        """Whether one more message may go."""
        return self.sent + self.reserved - self.taken < self.size

    @property
    def is_idle(self) -> bool:
        """Whether everything was taken and nothing is about to go: it may be forgotten."""
        return self.sent == self.taken and not self.reserved

    def credit(self, total: int) -> bool:
        """Take a total; whether it is news.  Nobody can have taken more than was sent, or less than before."""
        total = min(total, self.sent)
        if total <= self.taken:
            return False
        self.taken, self.is_stalled = total, False
        return True


class Turn(enum.Enum):
    """Where a message is on its way through a gate; only ever moves down this list."""

    WAITING = "waiting"
    ADMITTED = "admitted"  # it may be sent
    REFUSED = "refused"  # there was no room, and it would not wait, or is not worth waiting for
    OVER = "over"  # it was sent, or goes no further


@attrs.define(eq=False)
class Ticket:
    """One message that wants to pass a gate.

    Attributes:
      windows: that it is counted in, by id.
      wake: called when its turn has come.
      turn: where it is.
    """

    windows: Mapping[bytes, SendWindow]
    wake: Callable[[], object]
    turn: Turn = Turn.WAITING

    @property
    def may_go(self) -> bool:
        """Whether all its windows have room."""
        return all(window.has_room for window in self.windows.values())


class Gate:
    """All windows of one link, as their publisher counts.  Who waits for one holds up nobody who needs another."""

    def __init__(self) -> None:
        self._windows: dict[bytes, SendWindow] = {}
        self._waiting: dict[Ticket, None] = {}

    def ask(self, needs: Mapping[bytes, int], *, may_wait: bool, wake: Callable[[], object]) -> Ticket:
        """Let one message pass that is counted in some windows, now or later.

        After a message has waited in vain nobody else waits for the same window until something is taken there: one
        subscription that nobody reads must not slow its publishers for ever.

        Args:
          needs: their sizes, by id.
          may_wait: whether it should wait when there is no room.
          wake: called when its turn has come, if it had to wait.
        """
        windows = {identifier: self._window(identifier, size) for identifier, size in needs.items()}
        ticket = Ticket({identifier: window for identifier, window in windows.items() if window is not None}, wake)
        if ticket.may_go:
            self._admit(ticket)
        elif not may_wait or any(w.is_stalled and not w.has_room for w in ticket.windows.values()):
            ticket.turn = Turn.REFUSED
        else:
            self._waiting[ticket] = None
        return ticket

    def credit(self, identifier: bytes, total: int) -> None:
        """The subscriber says how many messages of a window do not wait any more."""
        window = self._windows.get(identifier)
        if window is not None and window.credit(total):
            self._admit_waiting()

    def marks(self, ticket: Ticket) -> tuple[bytes, ...]:
        """What an admitted message carries if it leaves now, before any other."""
        return tuple(_MARK.pack(identifier, window.sent + 1) for identifier, window in ticket.windows.items())

    def sent(self, ticket: Ticket) -> None:
        """It has left: count it."""
        assert ticket.turn is Turn.ADMITTED, "it is not its turn"
        ticket.turn = Turn.OVER
        for window in ticket.windows.values():
            window.reserved -= 1
            window.sent += 1

    def leave(self, ticket: Ticket, *, in_vain: bool) -> None:
        """A message goes no further; nothing happens if it was sent.

        Args:
          ticket: of the message.
          in_vain: it has waited as long as any message should.
        """
        if ticket.turn is Turn.ADMITTED:
            for window in ticket.windows.values():
                window.reserved -= 1
            self._admit_waiting()
        elif ticket.turn is Turn.WAITING:
            del self._waiting[ticket]
            for window in ticket.windows.values():
                window.is_stalled |= in_vain and not window.has_room
        ticket.turn = Turn.OVER

    def _window(self, identifier: bytes, size: int) -> SendWindow | None:
        """None when there are too many already: the message is not counted in it, and may be dropped where it goes."""
        window = self._windows.pop(identifier, None)
        if window is None:
            if len(self._windows) >= WINDOWS_PER_LINK_MAX:
                idle = next((each for each, known in self._windows.items() if known.is_idle), None)
                if idle is None:
                    return None
                del self._windows[idle]
            window = SendWindow(size)
        self._windows[identifier] = window
        window.size = size
        return window

    def _admit(self, ticket: Ticket) -> None:
        for window in ticket.windows.values():
            window.reserved += 1
        ticket.turn = Turn.ADMITTED

    def _admit_waiting(self) -> None:
        for ticket in list(self._waiting):
            if ticket.may_go:
                del self._waiting[ticket]
                self._admit(ticket)
                ticket.wake()


# -- the subscriber's end -------------------------------------------------------------------------------------------


@attrs.define(eq=False)
class ReceiveWindow:
    """One window as its subscriber counts.

    Attributes:
      size: the smallest that its publisher may know.
      received: the number of the last message.
      waiting: how many have not been taken, or dropped, by everybody here who got them.
      told: the total that its publisher was told last.
      told_at: when that was, in seconds.
    """

    size: int
    received: int = 0
    waiting: int = 0
    told: int = 0
    told_at: float = -inf

    @property
    def taken(self) -> int:
        """Messages that do not wait any more."""
        return self.received - self.waiting

    def continues_with(self, number: int) -> bool:
        """Whether a number is further on; else its publisher has begun anew, and so should the window."""
        return number > self.received

    def arrived(self, number: int, size: int) -> None:
        """Count a message in.  Numbers that were left out were counted there and did not come: nothing of them waits.

        Args:
          number: of the message; `continues_with` it.
          size: the smallest that its publisher may know by now.
        """
        self.received, self.size = number, size
        self.waiting += 1

    def released(self, now: float) -> int | None:
        """Count a message out; gives the total to tell its publisher, or None while that can wait.

        Told is what is worth a frame: half a window.  A slower reader tells less, too, but only now and then, while its
        publisher cannot send anything.  Whatever is left untold leaves the publisher half a window to go on with.
        """
        self.waiting -= 1
        untold = self.taken - self.told
        is_held = self.received - self.told >= self.size
        if 2 * untold < self.size and not (untold > 0 and is_held and now - self.told_at >= CREDIT_INTERVAL_S):
            return None
        return self._tell(now)

    def resized(self, size: int, now: float) -> int | None:
        """Another subscription may have made it smaller: what was not worth telling may be more than all of it now."""
        self.size = size
        return self._tell(now) if self.taken > self.told else None

    def _tell(self, now: float) -> int:
        self.told, self.told_at = self.taken, now
        return self.told

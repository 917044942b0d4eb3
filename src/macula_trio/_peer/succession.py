"""One link after another to the same peer, in order: what comes on the later waits for the end of the earlier."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, TypeAlias

from macula_trio._wire import messages as wire
from macula_trio._wire.correlation import is_reply, may_be_reply
from macula_trio.abc import Message

if TYPE_CHECKING:
    from macula_trio._peer.link import QuicLink

Early: TypeAlias = tuple[int, Message, int, int]
"""A message that has come before its turn: its stream, itself, its type, its size in bytes."""

# Answers and signs of life are told by what they carry, so they overtake.
_OUT_OF_ORDER: Final = (wire.Ping, wire.Pong, wire.Credit)


class Succession:
    """The place of one link in the row.

    Attributes:
      successor: on which everything new goes.
    """

    __slots__ = ("_followers", "_predecessors", "_queue", "_queued_bytes", "successor")

    def __init__(self) -> None:
        self.successor: QuicLink | None = None
        self._predecessors: dict[QuicLink, None] = {}  # on which something may come yet
        self._followers: dict[QuicLink, None] = {}  # that wait for this one
        self._queue: deque[Early] = deque()
        self._queued_bytes = 0

    @property
    def queued_bytes(self) -> int:
        """Of what has come too early."""
        return self._queued_bytes

    @property
    def has_queued(self) -> bool:
        """Whether something has come too early."""
        return bool(self._queue)

    def follow_only(self, link: QuicLink, predecessors: Iterable[QuicLink]) -> None:
        """Let a link, whose place this is, wait for the ends of these others and of no more."""
        for former in self._predecessors:
            former.succession._followers.pop(link, None)
        self._predecessors = dict.fromkeys(predecessors)
        for predecessor in self._predecessors:
            predecessor.succession._followers[link] = None

    def clear(self) -> None:
        """Forget what has come too early: its link has ended before it was its turn."""
        self._queue.clear()
        self._queued_bytes = 0

    def must_wait(self, message: Message) -> bool:
        """Whether a message that has come now has its turn later."""
        if not self._predecessors:
            return False
        return not (isinstance(message, _OUT_OF_ORDER) or is_reply(message) or may_be_reply(message))

    def put(self, early: Early) -> None:
        """Keep a message for later."""
        self._queue.append(early)
        self._queued_bytes += early[-1]

    def take(self, *, now_or_never: bool = False) -> Early | None:
        """The next message whose turn has come.

        Args:
          now_or_never: the link ends, so it is its turn whatever may come elsewhere.
        """
        if not self._queue or (self._predecessors and not now_or_never):
            return None
        early = self._queue.popleft()
        self._queued_bytes -= early[-1]
        return early

    def ended(self, link: QuicLink) -> list[QuicLink]:
        """Nothing comes any more on a link, whose place this is: those that may go on now."""
        followers, self._followers = self._followers, {}
        for follower in followers:
            follower.succession._predecessors.pop(link, None)
        return [follower for follower in followers if not follower.succession._predecessors]

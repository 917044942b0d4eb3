"""Fire and forget: messages that nobody answers (DESIGN section 7).

A message rides the live link to its peer.  Without one it gets a connection that ends behind it, owned by the very task
that sends: no link comes of it, and nothing else begins on it, neither here nor at the peer.  Messages to one peer that
are sent at the same time share such a connection, and the last one closes it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import count
from typing import Final

import attrs
import trio

from macula_trio._events import EventBus
from macula_trio._ids import Contact
from macula_trio._peer.dialer import DIALS_MAX
from macula_trio._peer.linger import Confirmations
from macula_trio._peer.link import QuicLink
from macula_trio._peer.registry import LinkRegistry
from macula_trio._util import clip
from macula_trio.errors import ErrorCode, MeshError, NotSent, PeerUnavailable, TrustError, afresh

CONNECTIONS_MAX: Final = DIALS_MAX * 3 // 4  # at once, to all peers together: calls and queries can always dial
# Of one connection at once: small messages of so many are about what QUIC sends before it has heard from the peer, so
# that all can be confirmed within the linger; a thousand at once could not over a long way, nor from a busy node.
SHARERS_MAX: Final = 64
ROOM_DEADLINE_S: Final = 5.0  # for a peer to take what was written before: it holds a place that others wait for


@attrs.define(eq=False)
class _Message:
    """One frame on its way."""

    contact: Contact
    frame: bytes
    is_written: bool = False


@attrs.define(eq=False)
class _Passing:
    """A connection to one peer for the messages that need it now.

    Attributes:
      users: messages that are under way on it, or wait to be.
      dialing: somebody dials; set when that has ended, and whoever runs first then is the next if there is no link.
      places: for those that have it.
      link: None before it was dialed.
      failure: why there is none.
      numbers: of the PINGs.
    """

    contact: Contact
    users: int = 0
    dialing: trio.Event | None = None
    places: trio.CapacityLimiter = attrs.field(factory=lambda: trio.CapacityLimiter(SHARERS_MAX))
    link: QuicLink | None = None
    failure: MeshError | None = None
    numbers: Iterator[int] = attrs.field(factory=count)

    @property
    def is_over(self) -> bool:
        """Whether another message needs another one."""
        if self.link is None:
            return self.failure is not None
        return self.link.is_closed or not (self.link.verified or self.link.takes_more)


class Sender:
    """Sends frames, and accounts for every one: it was sent, or failed, or was dropped.

    Args:
      registry: has the live links, and dials.
      events: where failures and drops are told.
      confirmations: for messages on connections of their own.
      uses_links: whether live links may be used; not under ``connections="per-message"``.

    Attributes:
      sent: frames that were written.
      failed: that could not be, by reason: ``unreachable``, or ``refused`` by one of the two sides.
      dropped: that were not even tried to the end, by reason: ``not_sent``, by a limit of ours or because of what our
        socket reaches, or ``cancelled`` by whoever sent.
    """

    def __init__(
        self, registry: LinkRegistry, *, events: EventBus, confirmations: Confirmations, uses_links: bool
    ) -> None:
        self._registry = registry
        self._events = events
        self._confirmations = confirmations
        self._uses_links = uses_links
        self._passing: dict[Contact, _Passing] = {}
        self._limiter = trio.CapacityLimiter(CONNECTIONS_MAX)
        self.sent: int = 0
        self.failed: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()

    async def send(self, contact: Contact, frame: bytes) -> None:
        """Send one frame to a node, in the caller's task.

        On a live link it returns when the frame was written, for which it waits until the peer has taken most of what
        was sent before.  Else it returns when the peer has read the frame, 100 ms later at most.  Whether the peer has
        is then an event and a count (`Confirmations`) and no error.

        Raises:
          PeerUnavailable: it cannot be reached; `NotSent` when that is not the peer's fault.
          TrustError: somebody else answered, or one side refuses the other.
        """
        message = _Message(contact, frame)
        problem: MeshError | None = None
        try:
            self._registry.require_welcome(contact)
            link = self._registry.link_for_message(contact) if self._uses_links else None
            if link is not None:
                await link.wait_writable()
                if not link.is_closed:  # else it has ended meanwhile, and the peer may be reached by another one
                    self._write(link, message)
            while not message.is_written:
                await self._send_apart(message)
        except MeshError as exc:
            problem = exc
            raise
        finally:
            if not message.is_written:
                self._account(contact, problem)

    def _write(self, link: QuicLink, message: _Message) -> None:
        link.send_frame_nowait(message.frame)
        message.is_written = True
        self.sent += 1

    def _account(self, contact: Contact, problem: MeshError | None) -> None:
        """Nothing is lost silently: count and tell what became of a message that was not written."""
        peer, reason = contact.node_id.hex(), "cancelled" if problem is None else clip(str(problem))
        if problem is None or isinstance(problem, NotSent):
            self.dropped["cancelled" if problem is None else "not_sent"] += 1
            self._events.emit("message.dropped", peer=peer, reason=reason)
        else:
            self.failed["refused" if isinstance(problem, TrustError) else "unreachable"] += 1
            self._events.emit("message.failed", peer=peer, reason=reason)

    async def _send_apart(self, message: _Message) -> None:
        """Send on a connection that ends behind it; not written when that takes no more messages."""
        passing = self._join(message.contact)
        try:
            async with passing.places:
                link = await self._connect(passing)
                if not link.verified and not link.reserve():
                    return  # a v0.8 peer reads a bounded number on one connection
                with trio.move_on_after(ROOM_DEADLINE_S) as patience:
                    await link.wait_writable()
                if patience.cancelled_caught:
                    raise PeerUnavailable(f"{message.contact.endpoint} does not take what was sent to it before")
                if link.is_closed:
                    raise PeerUnavailable(f"{message.contact.endpoint} ended the connection before the message left")
                self._write(link, message)
                await self._confirmations.wait(link, number=next(passing.numbers))
        finally:
            self._leave(passing)

    def _join(self, contact: Contact) -> _Passing:
        passing = self._passing.get(contact)
        if passing is None or passing.is_over:
            passing = self._passing[contact] = _Passing(contact)
        passing.users += 1
        return passing

    async def _connect(self, passing: _Passing) -> QuicLink:
        """The link of a connection, dialed by whoever is first; when that one is cancelled, by the next."""
        while passing.link is None:
            if passing.failure is not None:
                raise afresh(passing.failure) from passing.failure
            if passing.dialing is None:
                passing.dialing = dialing = trio.Event()
                try:
                    passing.link = await self._dial(passing)
                finally:
                    passing.dialing = None
                    dialing.set()  # all at once, so that their messages share datagrams
            else:
                await passing.dialing.wait()
        return passing.link

    async def _dial(self, passing: _Passing) -> QuicLink:
        await self._limiter.acquire_on_behalf_of(passing)  # whose last user gives it back, who may be another task
        connected = False
        try:
            contact = passing.contact
            link = await self._registry.dial_anew(contact.endpoint, expected=contact.node_id, trusted=False)
            connected = True
        except MeshError as exc:
            passing.failure = exc
            raise
        finally:
            if not connected:
                self._limiter.release_on_behalf_of(passing)
        return link

    def _leave(self, passing: _Passing) -> None:
        passing.users -= 1
        if passing.users:
            return
        if self._passing.get(passing.contact) is passing:
            del self._passing[passing.contact]
        if passing.link is not None:
            passing.link.close(ErrorCode.NORMAL, "sent")
            self._limiter.release_on_behalf_of(passing)

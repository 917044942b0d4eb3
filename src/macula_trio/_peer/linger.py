"""How a connection ends that lives for its messages: when they were read, or 100 ms later (DESIGN section 7)."""

from __future__ import annotations

from typing import Final

import attrs
import trio

from macula_trio._events import EventBus
from macula_trio._ids import hex_or_none
from macula_trio._peer.link import QuicLink
from macula_trio._wire.messages import Ping, Pong
from macula_trio.errors import MeshError, PeerUnavailable

LINGER_S: Final = 0.1  # as in v0.8


async def linger(link: QuicLink, *, linger_s: float = LINGER_S, number: int = 0) -> None:
    """Wait until a PING behind what was written is answered; towards v0.8, which may read late, the whole time.

    Args:
      link: on which something was written.
      linger_s: for how long at most.
      number: of the PING, unlike those that are under way on this link.

    Raises:
      PeerUnavailable: the link has ended before.
      RemoteProtocolError: by a fault of the peer.
      trio.TooSlowError: no answer in time.
    """
    if link.verified:
        with trio.fail_after(linger_s):
            await link.ask(Ping(timestamp=number), Pong)
        return
    await trio.sleep(linger_s)
    if link.is_closed:
        raise PeerUnavailable("the connection ended too early")


@attrs.define(eq=False)
class Confirmations:
    """Finds out whether messages have arrived, and tells of those of which it did not.

    Attributes:
      missing: how many those are.
    """

    _events: EventBus
    missing: int = attrs.field(default=0, init=False)

    async def wait(self, link: QuicLink, *, number: int = 0) -> None:
        """Linger behind one message, the last one that was written on a link.

        Cancelled, it does not know of this one either.
        """
        reason: str | None = "nobody waited for the answer"
        try:
            await linger(link, number=number)
            reason = None
        except trio.TooSlowError:
            reason = "no answer in time"
        except MeshError as exc:
            reason = str(exc)
        finally:
            if reason is not None:
                self.missing += 1
                self._events.emit("message.unconfirmed", peer=hex_or_none(link.node_id), reason=reason)

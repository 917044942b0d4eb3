"""Views of a link that say or close something in another way than the link itself: as v0.8 peers expect it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs
import trio

from macula_trio._ids import NodeId
from macula_trio.abc import Message, ReplyT
from macula_trio.errors import ErrorCode, NotSent

if TYPE_CHECKING:
    from macula_trio._peer.link import QuicLink


@attrs.define(eq=False)
class LinkView:
    """A link, as it is."""

    _link: QuicLink

    @property
    def whole(self) -> QuicLink:
        return self._link

    @property
    def node_id(self) -> NodeId | None:
        return self._link.node_id

    @property
    def verified(self) -> bool:
        return self._link.verified

    @property
    def endpoint(self) -> str | None:
        return self._link.endpoint

    @property
    def proven_endpoint(self) -> str | None:
        return self._link.proven_endpoint

    @property
    def is_dialed(self) -> bool:
        return self._link.is_dialed

    @property
    def dialed_endpoint(self) -> str | None:
        return self._link.dialed_endpoint

    @property
    def peer_host(self) -> str:
        return self._link.peer_host

    @property
    def capabilities(self) -> frozenset[str]:
        return self._link.capabilities

    @property
    def is_closed(self) -> bool:
        return self._link.is_closed

    @property
    def is_congested(self) -> bool:
        return self._link.is_congested

    @property
    def peer_is_leaving(self) -> bool:
        return self._link.peer_is_leaving

    def send_nowait(self, message: Message) -> None:
        self._link.send_nowait(message)

    async def wait_writable(self) -> None:
        await self._link.wait_writable()

    async def ask(self, request: Message, reply_type: type[ReplyT]) -> ReplyT:
        return await self._link.ask(request, reply_type)

    def add_close_callback(self, callback: Callable[[], None]) -> None:
        self._link.add_close_callback(callback)

    def remove_close_callback(self, callback: Callable[[], None]) -> None:
        self._link.remove_close_callback(callback)


@attrs.define(eq=False)
class OneStream(LinkView):
    """Answers on the stream on which an unverified peer asked (DESIGN section 4)."""

    _stream_id: int

    def send_nowait(self, message: Message) -> None:
        self._link.send_on(self._stream_id, message)


@attrs.define(eq=False)
class OneMessage(LinkView):
    """Good for one message, or one question and its answer; its owner closes it then.

    Attributes:
      begun: something was sent, or the link has ended.
      over: the answer has come, or will not.
      was_asked: it is a question that was sent.
    """

    begun: trio.Event = attrs.field(factory=trio.Event, init=False)
    over: trio.Event = attrs.field(factory=trio.Event, init=False)
    was_asked: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self._link.add_close_callback(self._end)

    @property
    def is_closed(self) -> bool:
        return self.begun.is_set() or self._link.is_closed

    def send_nowait(self, message: Message) -> None:
        self._begin()
        self._link.send_nowait(message)

    def send_frame_nowait(self, frame: bytes) -> None:
        """Put one encoded frame on the way."""
        self._begin()
        self._link.send_frame_nowait(frame)

    async def ask(self, request: Message, reply_type: type[ReplyT]) -> ReplyT:
        self._begin()
        self.was_asked = True
        try:
            return await self._link.ask(request, reply_type)
        finally:
            self.over.set()

    def close(self) -> None:
        """End the connection; nothing happens when it has ended."""
        self._link.remove_close_callback(self._end)
        self._link.close(ErrorCode.NORMAL, "one message")

    def _begin(self) -> None:
        if self.is_closed:
            raise NotSent("this connection was for one message, which was sent")
        self.begun.set()

    def _end(self) -> None:
        self.begun.set()
        self.over.set()

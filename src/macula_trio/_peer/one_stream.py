"""How a v0.8 peer is answered: on the stream on which it asked (DESIGN section 4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs

from macula_trio._ids import NodeId
from macula_trio.abc import Message, ReplyT

if TYPE_CHECKING:
    from macula_trio._peer.link import QuicLink


@attrs.frozen(eq=False)
class OneStream:
    """A view of an unverified link that answers on the stream on which it was asked, as v0.8 peers expect."""

    _link: QuicLink
    _stream_id: int

    @property
    def node_id(self) -> NodeId | None:
        return self._link.node_id

    @property
    def verified(self) -> bool:
        return False

    @property
    def endpoint(self) -> str | None:
        return self._link.endpoint

    @property
    def proven_endpoint(self) -> str | None:
        return self._link.proven_endpoint

    @property
    def peer_host(self) -> str:
        return self._link.peer_host

    @property
    def whole(self) -> QuicLink:
        return self._link

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
        self._link.send_on(self._stream_id, message)

    async def wait_writable(self) -> None:
        await self._link.wait_writable()

    async def ask(self, request: Message, reply_type: type[ReplyT]) -> ReplyT:
        return await self._link.ask(request, reply_type)

    def add_close_callback(self, callback: Callable[[], None]) -> None:
        self._link.add_close_callback(callback)

    def remove_close_callback(self, callback: Callable[[], None]) -> None:
        self._link.remove_close_callback(callback)

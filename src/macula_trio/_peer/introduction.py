"""What the two ends of a connection say to each other before either is a peer, and of where one sees the other.

The dialer says CONNECT, the listener PONG, each with its proof; ``handshake.py`` decides what the proofs are worth.
"""

from __future__ import annotations

from typing import Final

import trio

from macula_trio._ids import NodeId
from macula_trio._net.quic import Connection
from macula_trio._peer.context import LinkContext
from macula_trio._peer.handshake import RemoteParty, accept_connect, accept_pong, make_connect, make_pong
from macula_trio._util import Address, format_endpoint
from macula_trio._wire import messages as wire
from macula_trio.abc import Message
from macula_trio.errors import ErrorCode, RemoteProtocolError

UNASKED: Final = -1  # timestamp of a PONG that answers nothing; our PINGs count down from -2, callers up from 0


class Introduction:
    """That of one link.

    Args:
      context: shared by the links of a node.
      connection: just dialed or accepted.
      expected: whom we dial for, if known.
      replaces: `link_id` of the link in whose place we dial.
      is_passing: we dial for one thing; the peer is told.
      is_afresh: the link in whose place we dial has ended; the peer is told.

    Attributes:
      made_at: when our CONNECT left, on Trio's clock; None before.
    """

    def __init__(
        self,
        context: LinkContext,
        connection: Connection,
        *,
        expected: NodeId | None,
        replaces: bytes | None,
        is_passing: bool,
        is_afresh: bool,
    ) -> None:
        self._context = context
        self._connection = connection
        self._expected = expected
        self._replaces = replaces
        self._is_passing = is_passing
        self._is_afresh = is_afresh
        self._told_address: Address | None = None  # where we told a peer that dialed us that we see it
        self.made_at: float | None = None

    def connect(self) -> wire.Connect:
        """What we say first on a connection that we dialed; TLS is through."""
        self.made_at = trio.current_time()
        return make_connect(
            self._context.party,
            binding=self._connection.binding,
            peer=self._expected,
            replaces=self._replaces,
            is_passing=self._is_passing,
            is_afresh=self._is_afresh,
        )

    def hear_answer(self, message: Message) -> RemoteParty:
        """Whom the first message on a connection that we dialed shows.

        Raises:
          TrustError: not the one whom we want.
          RemoteProtocolError: it is no answer.
        """
        if not isinstance(message, wire.Pong):
            raise RemoteProtocolError("expected PONG first", code=ErrorCode.UNEXPECTED_MESSAGE)
        party, binding, now_ms = self._context.party, self._connection.binding, self._context.wall_clock_ms()
        remote = accept_pong(party, message, binding=binding, peer=self._expected, now_ms=now_ms)
        self._context.admit(remote)
        return remote

    def hear_connect(self, connect: wire.Connect) -> tuple[RemoteParty, wire.Pong]:
        """Whom a CONNECT shows, and what we answer.

        Raises:
          TrustError: we want nothing of that one.
          RemoteProtocolError: it breaks the rules.
        """
        party, binding, now_ms = self._context.party, self._connection.binding, self._context.wall_clock_ms()
        remote = accept_connect(party, connect, binding=binding, now_ms=now_ms)
        self._context.admit(remote)
        self._told_address = seen_at = self._connection.seen_at
        pong = make_pong(party, binding=binding, peer=remote, timestamp=now_ms, server_time=now_ms, observed=seen_at)
        return remote, pong

    def sighting(self) -> wire.Pong | None:
        """What to tell a peer that dialed us when we see it elsewhere than it was told (docs/design/endpoints.md)."""
        seen_at = self._connection.seen_at
        if self._told_address in (None, seen_at):
            return None
        self._told_address = seen_at
        now_ms = self._context.wall_clock_ms()
        return wire.Pong(timestamp=UNASKED, server_time=now_ms, observed=format_endpoint(seen_at))

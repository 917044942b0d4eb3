"""A procedure that is offered here: its handler, and the calls that run in it while its block lasts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final, TypeAlias

import attrs
import trio

from macula_trio._authorisation import Allowance
from macula_trio._ids import NodeId

HEALTH_PROCEDURE: Final = "macula.health"
"""What a node calls at itself to find out whether calls are answered; for all others there is no such procedure."""


@attrs.frozen(kw_only=True)
class Call:
    """What a handler gets.

    Attributes:
      args: as the caller gave them; plain JSON-like values, or bytes.
      caller: the proven id of the node that called; None when it came through another, or is unproven.
      procedure: the name under which the handler is advertised.
      headers: small texts that travelled with the call.
      call_id: 16 bytes.
      deadline: on Trio's clock; the handler is cancelled then.
      via: the proven id of the node that forwarded the call; None when nobody did, or who did is unproven.
    """

    args: object
    caller: NodeId | None
    procedure: str
    headers: Mapping[str, str]
    call_id: bytes
    deadline: float
    via: NodeId | None = None


Handler: TypeAlias = Callable[[Call], Awaitable[object]]


@attrs.define(eq=False)
class Offer:
    """A procedure while its block lasts, and the calls that run in it.

    Args:
      handler: of the application.
      allowance: who may call it.
      allow_routed: whether forwarded calls reach it, whose caller nobody can prove.
    """

    handler: Handler
    allowance: Allowance[()]
    allow_routed: bool
    scopes: dict[trio.CancelScope, None] = attrs.field(factory=dict)
    idle: trio.Event = attrs.field(factory=trio.Event)
    ended: bool = False

    def begin(self, deadline: float) -> trio.CancelScope:
        """The scope for one call: until its deadline, and no longer than the block."""
        scope = trio.CancelScope(deadline=deadline)
        self.scopes[scope] = None
        return scope

    def finish(self, scope: trio.CancelScope) -> None:
        """Note the end of a call."""
        del self.scopes[scope]
        if self.ended and not self.scopes:
            self.idle.set()

    async def end(self) -> None:
        """Cancel the calls that run, and wait for them: nothing outlives the block."""
        self.ended = True
        for scope in tuple(self.scopes):
            scope.cancel()
        if self.scopes:
            with trio.CancelScope(shield=True):
                await self.idle.wait()

"""The handlers that run here: what a drain waits for, and who is part of one.

A call that a handler makes belongs to its work, also from the tasks that it has started; that is told by the context of
the task, which a task has from the one that started it.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

import attrs
import trio

from macula_trio._rpc.offer import Offer

_WITHIN: Final = ContextVar[tuple[trio.CancelScope, ...]]("macula_trio._rpc.running", default=())
"""Of the handlers that the task is part of, the outermost first; they may be of several nodes in one process."""


@attrs.define(eq=False)
class RunningHandlers:
    """Those of one node.

    Attributes:
      stopped: whether they were told to end, and every later one is.
    """

    _scopes: dict[trio.CancelScope, None] = attrs.field(factory=dict, init=False)
    _ended: trio.Event = attrs.field(factory=trio.Event, init=False)
    stopped: bool = attrs.field(default=False, init=False)

    @contextmanager
    def one(self, offer: Offer, deadline: float) -> Generator[trio.CancelScope, None, None]:
        """Goes around the run of a handler in this task; gives the scope that its run has to enter."""
        scope = offer.begin(deadline)
        if self.stopped:
            scope.cancel()
        self._scopes[scope] = None
        before = _WITHIN.set((*_WITHIN.get(), scope))
        try:
            yield scope
        finally:
            _WITHIN.reset(before)
            del self._scopes[scope]
            offer.finish(scope)
            if not self._scopes:
                self._ended.set()
                self._ended = trio.Event()

    def __len__(self) -> int:
        return len(self._scopes)

    def include_this_task(self) -> bool:
        """Whether whoever asks is part of a handler that still runs here."""
        return any(scope in self._scopes for scope in _WITHIN.get())

    async def wait_ended(self) -> None:
        """Wait until none runs.  Whoever ran last has sent its answer by then: it does so without a checkpoint."""
        await trio.lowlevel.checkpoint()
        while self._scopes:
            await self._ended.wait()

    def stop(self) -> None:
        """Cancel them all."""
        self.stopped = True
        for scope in tuple(self._scopes):
            scope.cancel()

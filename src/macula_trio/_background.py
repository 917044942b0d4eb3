"""Where the tasks of a service live: a nursery that can tell whether it still takes new ones.

The tasks of a node end together, in no particular order; whoever wants one more meanwhile learns that it is too late,
instead of a crash.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVarTuple

import trio

Ts = TypeVarTuple("Ts")


class Background:
    """A nursery with a state: takes tasks from `serve` until it is cancelled."""

    def __init__(self) -> None:
        self._nursery: trio.Nursery | None = None

    async def serve(
        self,
        main: Callable[[], Awaitable[object]] = trio.sleep_forever,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Own the tasks until cancelled.

        Args:
          main: what this task itself does meanwhile; must not return.
          task_status: told when tasks can be started.
        """
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            try:
                await main()
            finally:
                self._nursery = None

    @property
    def is_open(self) -> bool:
        """Whether a task can be started."""
        return self._nursery is not None

    def start_soon(self, function: Callable[[*Ts], Awaitable[object]], *args: *Ts, name: str) -> bool:
        """Start a task; False when the service has not begun, or is ending."""
        if self._nursery is None:
            return False
        self._nursery.start_soon(function, *args, name=name)
        return True

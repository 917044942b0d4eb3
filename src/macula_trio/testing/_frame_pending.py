"""A request that waits for its reply."""

from __future__ import annotations

from typing import Any

import trio

from macula_trio.abc import Message
from macula_trio.errors import MeshError


class Pending:
    """One request of ours that waits for its reply; a `trio.Event` in fewer steps."""

    __slots__ = ("_task", "outcome")

    def __init__(self) -> None:
        self.outcome: Message | MeshError | None = None
        self._task: trio.lowlevel.Task | None = None

    async def wait(self) -> None:
        """Wait for the outcome; always a checkpoint."""
        if self.outcome is not None:  # the link ended by the request itself
            await trio.lowlevel.checkpoint()
            return
        self._task = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._abort)

    def resolve(self, outcome: Message | MeshError) -> None:
        """Decide, unless it was decided before."""
        if self.outcome is None:  # the reply that came counts, even when the link ended behind it
            self.outcome = outcome
            if self._task is not None:
                trio.lowlevel.reschedule(self._task)
                self._task = None

    def _abort(self, _raise_cancel: Any) -> trio.lowlevel.Abort:
        self._task = None  # Trio wakes it; a reply that comes now must not wake it again
        return trio.lowlevel.Abort.SUCCEEDED

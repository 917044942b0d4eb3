"""Where the tasks of a node live, and how the blocks that hide them end.

The tasks of a node end together, in no particular order; whoever wants one more meanwhile learns that it is too late,
instead of a crash.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import TypeVarTuple

import attrs
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


@asynccontextmanager
async def open_service_nursery(ended: trio.Event | None = None) -> AsyncGenerator[trio.Nursery, None]:
    """A nursery whose children outlive the body's cancellation, never the block.

    Withdrawals and farewells need the pump and the links after the body was cancelled.

    Args:
      ended: set when all children have ended, by the nursery's own ``cancel_scope`` perhaps.
    """
    shield = trio.CancelScope(shield=True)
    opened = trio.Event()
    nurseries: list[trio.Nursery] = []

    async def hold() -> None:
        try:
            with shield:
                async with trio.open_nursery() as services:
                    nurseries.append(services)
                    opened.set()
                    await trio.sleep_forever()
        finally:
            if ended is not None:
                ended.set()

    async with trio.open_nursery() as supervisor:
        supervisor.start_soon(hold)
        try:
            # Not ``supervisor.start``: cancelled during it, Trio would wait for a child that the shield keeps
            # alive.  ``hold`` gets to ``opened.set()`` without a checkpoint that could be cancelled.
            with trio.CancelScope(shield=True):
                await opened.wait()
            yield nurseries[0]
        finally:
            shield.cancel()


def includes_this_task(nursery: trio.Nursery) -> bool:
    """Whether the current task is a child of the nursery, or a descendant of one."""
    task: trio.lowlevel.Task | None = trio.lowlevel.current_task()
    while task is not None and task.parent_nursery is not None:
        if task.parent_nursery is nursery:
            return True
        task = task.parent_nursery.parent_task
    return False


@attrs.define(eq=False)
class HiddenNursery:
    """Remembers what the body of a block raised, so that it is told from what the tasks behind the block raised."""

    body_error: BaseException | None = None

    @contextmanager
    def body(self) -> Generator[None, None, None]:
        """Goes around the ``yield`` of the block."""
        try:
            yield
        except BaseException as exc:  # only looked at, so that the nursery around cannot hide it
            self.body_error = exc
            raise


@contextmanager
def hidden_nursery() -> Generator[HiddenNursery, None, None]:
    """Goes around a nursery that the user of a block does not see: nobody should have to write ``except*`` for it."""
    hidden = HiddenNursery()
    failure: BaseException | None = None
    try:
        yield hidden
    except BaseExceptionGroup as group:  # of the nursery; what counts in it is raised below
        failure = prefer_body_error(group, hidden.body_error)
    if failure is not None:
        context = failure.__context__
        try:
            raise failure
        finally:
            failure.__context__ = context  # as the body saw it: without the group, which is nobody's concern


def prefer_body_error(group: BaseExceptionGroup[BaseException], body_error: BaseException | None) -> BaseException:
    """The one exception that a block which hides a nursery raises: nobody should have to write ``except*``.

    Ctrl-C first, then the body's own error, then whatever made a task of the node fail.
    """
    urgent = group.subgroup((KeyboardInterrupt, SystemExit))
    if urgent is not None:
        return sole_leaf(urgent)
    if body_error is not None and not _is_only_cancelled(body_error):
        return body_error
    _, failures = group.split(trio.Cancelled)
    if failures is None:
        return group if body_error is None else body_error
    return sole_leaf(failures)


def _is_only_cancelled(error: BaseException) -> bool:
    """Also a group of nothing else, as a nursery in the body raises it: it must not hide why it was cancelled."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(trio.Cancelled)[1] is None
    return isinstance(error, trio.Cancelled)


def sole_leaf(error: BaseException) -> BaseException:
    """The one exception in a group of one, however deep; anything else as it is."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error

"""Runs that would never end, ended: a scenario that is stuck is an error and not a spin (DESIGN section 11)."""

from __future__ import annotations

import contextlib
import gc
import os
import re
from collections.abc import Iterator
from math import inf
from pathlib import Path
from types import FrameType
from typing import Final

import trio
from trio.lowlevel import Task
from trio.testing import MockClock

from macula_trio.errors import MeshError

IDLE_PASSES: Final = 100  # of the run loop, some 10 us each: a datagram over loopback is seen by then
# A thousand nodes take some 9,000 at their busiest instant; half a million take about ten seconds.
STEPS_PER_INSTANT_MAX: Final = 500_000
VIRTUAL_S_MAX: Final = 86_400.0  # a day: longer than any timer of a node
CLEANUP_S: Final = 300.0  # virtual; what a stuck scenario has for leaving, well over all deadlines of closing
CLEANUP_STEPS: Final = 100_000  # at one instant of it; a task that swallows its cancellation would take all there are
TASKS_LISTED_MAX: Final = 12  # of a stuck scenario: one line that can still be read

TRIO_TASKS: Final = ("<init>", "<TrioToken.run_sync_soon task>")  # its own, which always wait
MACHINERY: Final = (f"{Path(trio.__file__).parent}{os.sep}", contextlib.__file__)  # files that nobody looks for
_ADDRESS: Final = re.compile(r"0x[0-9a-fA-F]+")


class Deadlock(MeshError):
    """A scenario would never have ended; the message says why, and where its tasks wait."""


def without_addresses(name: str) -> str:
    """A task's name as it is in every run: one that is the repr() of an object has an address in it."""
    return _ADDRESS.sub("0x", name) if "0x" in name else name


class DeadlockWatch(trio.abc.Instrument):
    """Ends a run that never would: everybody waits for nobody, time runs on too long, or stands still.

    It cannot raise: Trio logs and drops what an instrument raises.  So what runs is to stand inside of `scope`, and
    whoever started the run calls `check` after it.  What does not end when the scope is cancelled loses its shields,
    and what goes on even then loses the run loop: the clock, which the loop asks in every pass, raises.

    Args:
      clock: of the run.
      virtual_s_max: the time on it that is too long.
      steps_max: steps at one instant that are too many.

    Attributes:
      scope: around everything that runs.
      fired: whether the run was ended.
      blocked: the tasks of that moment, and where each waited; one line.
    """

    def __init__(
        self, clock: MockClock, *, virtual_s_max: float = VIRTUAL_S_MAX, steps_max: int = STEPS_PER_INSTANT_MAX
    ) -> None:
        self.scope: trio.CancelScope = trio.CancelScope()
        self.fired: bool = False
        self.blocked: str = ""
        self._clock = vars(clock)
        self._reason = ""
        self._limit_s = virtual_s_max
        self._steps_max = steps_max
        self._means = [self.scope.cancel, _lift_shields, self._stop_clock]  # each is tried when the last failed
        self._instant = -inf
        self._steps = 0  # at this instant
        self._idle = 0  # passes of the loop without a step

    def before_task_step(self, task: Task) -> None:
        """Somebody does something."""
        self._steps += 1
        self._idle = 0

    def after_io_wait(self, timeout: float) -> None:
        """See whether this can go on."""
        now = trio.current_time()
        if now != self._instant:
            self._instant, self._steps = now, 0
        reason = self._stuck(now)
        if reason is None:
            return
        if not self.fired:
            self.fired, self._reason = True, f"at {now:.6f} s {reason}"
            self.blocked = _waiting_tasks()
        self._limit_s, self._steps_max = now + CLEANUP_S, min(self._steps_max, CLEANUP_STEPS)
        self._steps = self._idle = 0
        self._means.pop(0)()

    def check(self) -> None:
        """Say that the run was ended.

        Raises:
          Deadlock: it was.
        """
        if self.fired:
            raise Deadlock(f"{self._reason}: {self.blocked}")

    def _stuck(self, now: float) -> str | None:
        self._idle += 1
        if self._idle >= IDLE_PASSES:
            self._idle = 0
            statistics = trio.lowlevel.current_statistics()
            waits = statistics.tasks_runnable or statistics.run_sync_soon_queue_size
            if not waits and statistics.seconds_to_next_deadline == inf:
                return "every task is blocked and no timer is pending"
        if now > self._limit_s:
            return f"the scenario goes on beyond {self._limit_s:g} s"
        if self._steps > self._steps_max:
            return f"tasks went on for {self._steps} steps while time stood still"
        return None

    def _stop_clock(self) -> None:
        self._clock["current_time"] = self.check


def _lift_shields() -> None:
    """Let the cancellation through to tasks that are shielded from it."""
    for thing in gc.get_objects():
        if type(thing) is trio.CancelScope and thing.shield:
            thing.shield = False


def _waiting_tasks() -> str:
    """Tasks of this run and where each of them waits, the main task first and parents before their children."""
    root = trio.lowlevel.current_root_task()
    found: list[str] = []
    pending = [] if root is None else [root]
    while pending:
        task = pending.pop()
        if task.name not in TRIO_TASKS:
            found.append(f"{without_addresses(task.name)} {_place(task)}")
        children = [child for nursery in task.child_nurseries for child in nursery.child_tasks]
        pending += sorted(children, key=lambda child: (child.name, _place(child)), reverse=True)
    left = len(found) - TASKS_LISTED_MAX
    return "; ".join(found[:TASKS_LISTED_MAX]) + (f"; and {left} more" if left > 0 else "")


def _place(task: Task) -> str:
    """Where a task waits: its innermost frame that is not Trio's."""
    frame, line = None, 0
    for inner, inner_line in _frames(task):
        if frame is None or not inner.f_code.co_filename.startswith(MACHINERY):
            frame, line = inner, inner_line
    if frame is None:
        return "somewhere"
    return f"at {'/'.join(Path(frame.f_code.co_filename).parts[-2:])}:{line} {frame.f_code.co_name}"


def _frames(task: Task) -> Iterator[tuple[FrameType, int]]:
    try:
        yield from task.iter_await_frames()
    except TypeError:
        return  # it awaits something that Trio cannot look into

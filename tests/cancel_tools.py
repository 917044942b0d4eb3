"""For sweeps that cancel something at each of its steps: the knife, and the tasks that must not be left."""

from __future__ import annotations

import trio

# What the nodes that stay may be asking of the one that has just gone, until the question times out; and a publisher
# wants whom it has lately sent something to for a minute.
QUESTIONS = ("ask ", "dial ", "check ", "repair ", "STORE ", "want ", "redial ")


class CancelAtStep(trio.abc.Instrument):
    """Cancels ``scope`` at the n-th task step after `armed` becomes true; counts the steps."""

    def __init__(self, step: float) -> None:
        self.step, self.steps, self.armed = step, 0, False
        self.scope = trio.CancelScope()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if self.armed:
            self.steps += 1
            if self.steps == self.step:
                self.scope.cancel()


def lasting_tasks() -> list[str]:
    """The names of all tasks that live, without questions under way."""
    names, waiting = [], [trio.lowlevel.current_root_task()]
    while waiting:
        task = waiting.pop()
        assert task is not None
        names.append(task.name)
        waiting += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
    return sorted(name for name in names if not name.startswith(QUESTIONS))

"""SIGINT and SIGTERM, from the first line of the program to its last.

While modules are imported, and when all is done, a signal ends the process at once: nothing is held that would have to
be given back.  In between SIGINT is Python's `KeyboardInterrupt` and SIGTERM becomes the same, so that one way out
serves both, until `macula_trio._cli.runner` takes the signals into Trio.  Imports nothing that takes time.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final, NoReturn, TypeAlias

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)

_Handler: TypeAlias = Callable[[int, FrameType | None], Any]
_received: list[int] = []


def exit_code() -> int:
    """Exit code of a command that was interrupted: 128 and the signal's number, as shells say it."""
    return 128 + (_received[-1] if _received else signal.SIGINT)


def leave_at_once() -> None:
    """Let signals end the process without a word; for the whole process only."""
    _install(_leave, _leave)


def interrupt() -> None:
    """Let signals raise `KeyboardInterrupt`; for the whole process only."""
    _install(signal.default_int_handler, _terminate)


def leave(number: int) -> NoReturn:
    """End the process now, as the signal of this number would; what was printed is flushed by whoever printed it."""
    os._exit(128 + number)


@contextmanager
def deferred() -> Generator[None, None, None]:
    """Hold back signals during the block, which must be short, such as the writing of a file: whole, or not at all."""
    held: list[int] = []

    def hold(number: int, _frame: FrameType | None) -> None:
        held.append(number)

    before = {number: signal.signal(number, hold) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if held:
            signal.raise_signal(held[0])


def _install(interrupted: _Handler, terminated: _Handler) -> None:
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as shells start what runs in the background
        signal.signal(signal.SIGINT, interrupted)
    signal.signal(signal.SIGTERM, terminated)


def _leave(number: int, _frame: FrameType | None) -> None:
    leave(number)


def _terminate(number: int, frame: FrameType | None) -> None:
    """Do what SIGINT would do now: Trio, while it runs, raises the interruption where its own state is whole."""
    _received.append(number)
    handler = signal.getsignal(signal.SIGINT)
    if not callable(handler):  # ignored
        raise KeyboardInterrupt
    handler(signal.SIGINT, frame)

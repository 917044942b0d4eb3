"""Processes of attacks.py: one JSON object per line each way, and none outlives the process that started it.

A child ends when its standard input does, so also when its parent is killed; Ctrl-C is the parent's affair alone.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any, Final

import attrs
import trio

Answer = dict[str, Any]

REPLY_PATIENCE_S: Final = 60.0  # no answer takes so long: the longest attack ends by itself after half of it
LAST_WORDS_MAX: Final = 2000  # characters of what a dead child had written to its standard error


class ChildDied(Exception):
    """A child ended, or did not answer, while it was needed."""


class Lines:
    """Whole lines of a stream of bytes."""

    def __init__(self, stream: trio.abc.ReceiveStream) -> None:
        self._stream = stream
        self._buffer = bytearray()

    async def receive(self) -> Answer | None:
        """The object on the next line; None at the end."""
        while b"\n" not in self._buffer:
            data = await self._stream.receive_some()
            if not data:
                return None
            self._buffer += data
        line, _, rest = bytes(self._buffer).partition(b"\n")
        self._buffer = bytearray(rest)
        found: Answer = json.loads(line)
        return found


# -- in the child ----------------------------------------------------------------------------------------------------


def requests() -> Lines:
    """What the parent asks."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return Lines(trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())))


def reply(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)


async def answer_all(asked: Lines, answer: Callable[[Answer], Awaitable[Answer]]) -> None:
    """Answer each request, until there will be none."""
    while (request := await asked.receive()) is not None:
        reply(**await answer(request))


# -- in the parent ---------------------------------------------------------------------------------------------------


@attrs.define(eq=False)
class Child:
    name: str
    process: trio.Process
    lines: Lines
    errors: IO[bytes]

    async def ask(self, **request: Any) -> Answer:
        """Send one request and wait for its answer.

        Raises:
          ChildDied: it has ended, or takes too long.
        """
        found: Answer | None = None
        with trio.move_on_after(REPLY_PATIENCE_S) as patience:
            found = await self._exchange(json.dumps(request).encode() + b"\n")
        if found is None:
            raise self.failed("does not answer" if patience.cancelled_caught else "has died")
        return found

    def read_proc(self, name: str) -> str:
        """A file of what the system tells about it.

        Raises:
          ChildDied: it has ended.
        """
        try:
            return Path(f"/proc/{self.process.pid}/{name}").read_text(encoding="utf-8")
        except OSError:
            raise self.failed("has died") from None

    def failed(self, what: str) -> ChildDied:
        return ChildDied(f"the {self.name} process {what}{self._last_words()}")

    async def _exchange(self, line: bytes) -> Answer | None:
        assert self.process.stdin is not None
        try:
            await self.process.stdin.send_all(line)
        except trio.BrokenResourceError:
            return None  # it has gone
        return await self.lines.receive()

    async def hear(self) -> Answer:
        """What it says of its own accord, once."""
        with trio.move_on_after(REPLY_PATIENCE_S):
            found = await self.lines.receive()
            if found is not None:
                return found
        raise self.failed("did not start")

    def _last_words(self) -> str:
        self.errors.seek(0, os.SEEK_END)
        self.errors.seek(max(0, self.errors.tell() - LAST_WORDS_MAX))
        words = self.errors.read().decode(errors="replace").strip()
        return f": ...{words}" if words else ""


async def _kill(process: trio.Process) -> None:
    process.kill()


@asynccontextmanager
async def open_child(name: str, *arguments: str, directory: str) -> AsyncGenerator[Child, None]:
    """A process of this benchmark for the length of the block; what it logs goes to a file in ``directory``."""
    command = [sys.executable, str(Path(__file__).with_name("attacks.py")), "--child", *arguments]
    # Nothing waits for the disk here, and whoever reads the file does so when the child has ended.
    with open(f"{directory}/{name}-{trio.current_time()}", "w+b") as errors:  # noqa: ASYNC230, PTH123
        async with trio.open_nursery() as nursery:
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": errors, "check": False}
            run = partial(trio.run_process, command, deliver_cancel=_kill, **pipes)
            process: trio.Process = await nursery.start(run)
            assert process.stdout is not None
            yield Child(name, process, Lines(process.stdout), errors)
            nursery.cancel_scope.cancel()  # kills it: nobody waits for the farewells of these nodes

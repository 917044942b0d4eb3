"""Commands of the command line in processes of their own, read as they speak."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

import attrs
import trio

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

PROGRAM: Final = [sys.executable, "-m", "macula_trio"]


@attrs.define(eq=False)
class Terminal:
    """One process of the command line whose output is read as it comes."""

    process: trio.Process
    output: str = ""
    errors: str = ""
    _streams: int = 2
    _news: trio.Event = attrs.field(factory=trio.Event)

    async def read(self, which: str) -> None:
        """Collect a stream until its end."""
        stream = self.process.stdout if which == "output" else self.process.stderr
        assert stream is not None
        with suppress(trio.ClosedResourceError):
            async for chunk in stream:
                setattr(self, which, getattr(self, which) + chunk.decode())
                self._tell()
        self._streams -= 1
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = trio.Event()

    async def line(self, which: str = "output") -> str:
        """Wait for the first line."""
        while "\n" not in getattr(self, which):
            await self._news.wait()
        first: str = getattr(self, which).partition("\n")[0]
        return first

    async def says(self, text: str, which: str = "errors") -> str:
        """Wait until a line contains ``text``; give it."""
        while True:
            for line in getattr(self, which).splitlines():
                if text in line:
                    return str(line)
            await self._news.wait()

    async def exit_code(self) -> int:
        """Wait for the end of the process and of all that it wrote."""
        while self._streams:
            await self._news.wait()
        return await self.process.wait()

    async def signalled(self, number: signal.Signals) -> int:
        """Send a signal; give the exit code."""
        self.process.send_signal(number)
        with trio.fail_after(5):
            return await self.exit_code()


@asynccontextmanager
async def open_terminal(*arguments: str, program: Sequence[str] = PROGRAM) -> AsyncGenerator[Terminal, None]:
    """Run a command for the length of the block."""
    command = [*program, *arguments]
    process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    terminal = Terminal(process)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(terminal.read, "output")
            nursery.start_soon(terminal.read, "errors")
            yield terminal
            nursery.cancel_scope.cancel()
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            for stream in (process.stdout, process.stderr):
                assert stream is not None
                await stream.aclose()


async def shell(*arguments: str) -> Any:
    """Run one command to its end; give the JSON object that it prints."""
    done = await trio.run_process([*PROGRAM, *arguments, "--json"], capture_stdout=True, capture_stderr=True)
    return json.loads(done.stdout)


async def refused(*arguments: str) -> str:
    """Run a command that must fail; give its one line of error."""
    done = await trio.run_process([*PROGRAM, *arguments], capture_stdout=True, capture_stderr=True, check=False)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.decode().splitlines() if line.startswith("error")]
    return line


def ready_facts(line: str) -> dict[str, str]:
    """What a node says when it is ready."""
    ready, *facts = line.split(" ")
    assert ready == "ready"
    return dict(fact.split("=") for fact in facts)

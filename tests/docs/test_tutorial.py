"""The tutorial is done as a reader does it: every file written, every command given, every output compared, in order.

How the page tells what is what:

- A block whose first line is a comment with a file name is that file.
- ``sh`` under the title "Terminal N" is typed there once the command before has ended.
- ``text`` under "Terminal N says" is what has appeared there since what was shown before.  When a command has ended,
  everything that it printed must have been shown.
- Bold "Ctrl-C in terminal N" in the prose is pressed there.

A command succeeds, unless a line of its output begins with ``error:`` or it was interrupted.

What is put in the place of what the page says: a free port for 9443; for ``pip install`` a link to the package under
test, which needs no network; in outputs any id and any time for those shown.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import attrs
import pytest
import trio
from page_tools import Block, blocks, read

from macula_trio._pubsub.interest import FRESH_S

pytestmark = [pytest.mark.processes, pytest.mark.thorough]

PAGE: Final = "docs/tutorial.md"
PORT: Final = "9443"
PRESSED: Final = re.compile(r"\*\*Ctrl-C in terminal (\d)\*\*")
PATIENCE_S: Final = 45  # for one step; a limit for what hangs, not a claim
INSTALL: Final = 'pip install "macula-trio[cli]"\n'
# As re.escape() writes them.
PLACEHOLDERS: Final = {
    r"\b[0-9a-f]{64}\b": r"[0-9a-f]{64}",
    r"\b[0-9]+(?:\\\.[0-9]+)?\\ (?=m?s\b)": r"[0-9]+(?:\.[0-9]+)?\ ",
}


@attrs.define(eq=False)
class Terminal:
    """A shell in which commands are typed, and all that appears there."""

    name: str
    process: trio.Process
    output: str = ""
    codes: list[int] = attrs.field(factory=list)  # of the blocks of commands that have ended
    _shown: int = 0  # characters of the output that the page has shown
    _typed: str = ""  # the block that runs, or ran last
    _begun: int = 0  # characters that had been there before it
    _blocks: int = 0  # that were typed so far
    _interrupted: bool = False
    _news: trio.Event = attrs.field(factory=trio.Event)

    async def read(self, stream: trio.abc.ReceiveStream, take: Callable[[str], None]) -> None:
        """Hand on what comes, until its end."""
        async for chunk in stream:
            take(chunk.decode())
            self._news.set()
            self._news = trio.Event()

    def appear(self, text: str) -> None:
        """Something is printed."""
        self.output += text

    def end_block(self, text: str) -> None:
        """The shell tells an exit code."""
        self.codes += map(int, text.split())

    async def type(self, commands: str) -> None:
        """Give a block of commands, as soon as the one before has ended as it should."""
        await self.ended()
        self._typed, self._begun, self._interrupted = commands, len(self.output), False
        self._blocks += 1
        await self._send(f"{{\n{commands}}}\necho $? >&3\n")

    async def _send(self, text: str) -> None:
        assert self.process.stdin is not None
        await self.process.stdin.send_all(text.encode())

    async def _until(self, holds: Callable[[], object]) -> None:
        while not holds():
            await self._news.wait()
        await trio.lowlevel.checkpoint()

    async def says(self, text: str) -> None:
        """Wait until exactly this has appeared."""
        wanted = re.compile(pattern(text))
        with trio.move_on_after(PATIENCE_S):
            await self._until(lambda: wanted.match(self.output, self._shown))
            self._shown += len(wanted.match(self.output, self._shown)[0])
            return
        pytest.fail(f"{self.name} should say\n{text}\nand says\n{self.output[self._shown :]}\nafter\n{self._typed}")

    async def ended(self) -> None:
        """Wait until the last block has ended; judge its exit code, and that it said nothing else than is shown."""
        with trio.move_on_after(PATIENCE_S) as patience:
            await self._until(lambda: len(self.codes) == self._blocks)
        said = self.output[self._begun :]
        assert not patience.cancelled_caught, f"{self.name}: does not end: {self._typed}\n{said}"
        assert self.output[self._shown :] == "", f"{self.name}: not on the page, after\n{self._typed}"
        if self._blocks and not self._interrupted:
            failed = re.search("^error: ", said, re.MULTILINE) is not None
            assert self.codes[-1] == int(failed), f"{self.name}: {self._typed}\n{said}"

    def press_control_c(self) -> None:
        """Interrupt everything that runs in the terminal; its shell has a trap."""
        self._interrupted = True
        os.killpg(self.process.pid, signal.SIGINT)


@asynccontextmanager
async def open_terminal(name: str, directory: Path, environment: dict[str, str]) -> AsyncGenerator[Terminal, None]:
    """A terminal for the length of the block, with a process group of its own."""
    reading, writing = os.pipe()
    process = await trio.lowlevel.open_process(
        ["bash"],  # sh may know no descriptors above 9
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=[writing],
        cwd=directory,
        env=environment,
        start_new_session=True,
    )
    os.close(writing)
    terminal = Terminal(name, process)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with (
            trio.lowlevel.FdStream(reading) as codes,
            process.stdin,
            process.stdout,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(terminal.read, process.stdout, terminal.appear)
            nursery.start_soon(terminal.read, codes, terminal.end_block)
            await terminal._send(f"exec 3>&{writing} {writing}>&-; trap : INT\n")
            yield terminal
            nursery.cancel_scope.cancel()
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        with trio.CancelScope(shield=True):
            await process.wait()


def pattern(text: str) -> str:
    """What matches an output as the page shows it."""
    made = re.escape(text)
    for shown, any_such in PLACEHOLDERS.items():
        made = re.sub(shown, any_such.replace("\\", r"\\"), made)
    return made


def free_port() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        return str(udp.getsockname()[1])


def link_the_package(directory: Path) -> None:
    """What ``pip install`` would have brought: the package under test, and its program."""
    (python,) = directory.glob(".venv/lib/python*/site-packages")
    seen = [path for path in sys.path if Path(path).is_dir()]
    (python / "under_test.pth").write_text("\n".join(seen), encoding="utf-8")
    executable(directory / ".venv/bin/macula-trio", f'exec "{directory}/.venv/bin/python" -m macula_trio "$@"')


def executable(path: Path, command: str) -> None:
    path.write_text(f"#!/bin/sh\n{command}\n", encoding="utf-8")
    path.chmod(0o755)


def environment(directory: Path) -> dict[str, str]:
    """One in which ``python3`` is the interpreter of the tests; without pip, which it would take long to put there."""
    programs = directory / "programs"
    programs.mkdir()
    executable(
        programs / "python3",
        f'[ "$*" = "-m venv .venv" ] && set -- -m venv --without-pip .venv\nexec "{sys.executable}" "$@"',
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "MACULA", "VIRTUAL"))}
    return {**kept, "PATH": f"{programs}:{kept['PATH']}", "PYTHONUNBUFFERED": "1"}


def steps() -> list[Block | str]:
    """Blocks of the page, and numbers of terminals in which Ctrl-C is pressed, in order."""
    pressed = [(match.start(), match[1]) for match in PRESSED.finditer(read(PAGE))]
    found: list[tuple[int, Block | str]] = [*pressed, *((block.start, block) for block in blocks(PAGE))]
    return [step for _, step in sorted(found, key=lambda step: step[0])]


@attrs.define(eq=False)
class Reader:
    """Somebody who does what the page says."""

    directory: Path
    port: str
    terminals: dict[str, Terminal]

    async def do(self, step: Block | str) -> None:
        if isinstance(step, str):
            self.terminals[step].press_control_c()
            return
        text = step.text.replace(PORT, self.port)
        terminal, says = re.fullmatch(r"(?:Terminal (\d)( says)?)?", step.title).groups()
        if step.language == "python" and step.file and not terminal:
            (self.directory / step.file).write_text(text, encoding="utf-8")
            # Nobody copies a program in less time than a publisher may not know of a newcomer (`Node.subscribe`).
            await trio.sleep(FRESH_S)
        elif step.language == "sh" and terminal and not says:
            await self._type(self.terminals[terminal], text)
        elif step.language == "text" and says:
            await self.terminals[terminal].says(text)
        else:
            pytest.fail(f"a reader would not know what to do with\n{step.text}")

    async def _type(self, terminal: Terminal, text: str) -> None:
        before, install, after = text.partition(INSTALL)
        if install:
            assert not after
            await terminal.type(before)
            await terminal.ended()
            link_the_package(self.directory)
        else:
            await terminal.type(text)


@pytest.mark.timeout(180)  # a dozen processes, one after another, where other tests want the cores as well
async def test_the_tutorial_is_true_from_its_first_command_to_its_last(tmp_path: Path) -> None:
    started = environment(tmp_path)
    directory = tmp_path / "tea"
    directory.mkdir()
    async with AsyncExitStack() as stack:
        terminals = {
            number: await stack.enter_async_context(open_terminal(f"terminal {number}", directory, started))
            for number in "123"
        }
        reader = Reader(directory, free_port(), terminals)
        for step in steps():
            await reader.do(step)
        for terminal in terminals.values():
            await terminal.ended()


def test_everything_that_can_be_done_is_in_it() -> None:
    done = steps()
    titles = [step.title for step in done if isinstance(step, Block)]
    assert [step for step in done if isinstance(step, str)] == ["3", "2", "1"]
    assert {step.file for step in done if isinstance(step, Block) and step.file} == {
        "kettle.py",
        "guest.py",
        "hurry.py",
    }
    assert {f"Terminal {number}{says}" for number in "123" for says in ("", " says")} <= set(titles)
    assert "pip install" in read(PAGE)
    assert INSTALL in read(PAGE)


@pytest.mark.parametrize(
    ("shown", "said", "same"),
    [
        (f"node_id={'a' * 64} x\n", f"node_id={'0' * 64} x\n", True),
        (f"node_id={'a' * 64} x\n", f"node_id={'0' * 63} x\n", False),
        ("in 1 hop, 1050.2 ms\n", "in 1 hop, 7 ms\n", True),
        ("in 1 hop, 1050.2 ms\n", "in 2 hop, 1050.2 ms\n", False),
        ("here you are: 2\n", "here you are: 3\n", False),
        ("a (b)?\n", "a (b)?\n", True),
        ("off\n", "oFf\n", False),
    ],
)
def test_only_ids_and_times_may_differ(shown: str, said: str, *, same: bool) -> None:
    assert (re.fullmatch(pattern(shown), said) is not None) is same

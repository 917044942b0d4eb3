"""SIGINT and SIGTERM end every command at every moment: the right exit code, no traceback, nothing left behind.

When a command is where it should be is told by itself: by a datagram to its bootstrap node, which is us and silent, or
by one that a scenario sends.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
import trio
from terminals import Terminal, open_terminal
from test_demo import is_running

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

pytestmark = [pytest.mark.processes, pytest.mark.long]

PATIENCE_S: Final = 50
CODES: Final = {signal.SIGINT: 130, signal.SIGTERM: 143}
SCENARIO: Final = '''
"""Says its process id, and goes on for ever without any time passing."""
import os, socket, trio

async def scenario(world):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as told:
        told.sendto(str(os.getpid()).encode(), ("127.0.0.1", {port}))
    while True:
        await trio.lowlevel.checkpoint()
'''


def write_scenario(directory: Path, port: int) -> None:
    """Write a scenario that never ends."""
    (directory / "endless.py").write_text(SCENARIO.replace("{port}", str(port)))


def names(directory: Path) -> list[str]:
    """What is left in a directory."""
    return [path.name for path in directory.iterdir()]


@asynccontextmanager
async def open_listener() -> AsyncGenerator[tuple[trio.socket.SocketType, int], None]:
    """A UDP socket that answers nobody, and its port."""
    with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as listener:
        await listener.bind(("127.0.0.1", 0))
        yield listener, listener.getsockname()[1]


async def end(terminal: Terminal, number: signal.Signals) -> None:
    """Signal a command and see that it ends as it should."""
    terminal.process.send_signal(number)
    assert await terminal.exit_code() == CODES[number]
    assert terminal.output == ""
    assert terminal.errors.strip() == ""


@pytest.mark.parametrize("number", CODES)
def test_while_modules_are_imported_it_ends_without_a_word(number: signal.Signals) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "macula_trio", "node", "--realm", "a"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stdout is not None
        try:
            for line in process.stderr:
                if line.endswith("| click.core\n") or line.strip().endswith("click.core"):
                    break
            process.send_signal(number)
            rest = process.stderr.read()
            assert process.wait(PATIENCE_S) == CODES[number]
        finally:
            process.kill()
        assert [line for line in rest.splitlines() if not line.startswith("import time:")] == []
        assert process.stdout.read() == ""


async def test_one_shot_commands_end_while_they_join() -> None:
    numbers = list(CODES) * 4

    async def one(number: signal.Signals, *command: str) -> None:
        async with open_listener() as (listener, port):
            endpoint = f"127.0.0.1:{port}"
            where = [endpoint] if command == ("ping",) else ["--bootstrap", endpoint]
            async with open_terminal(*command, *where, "--realm", "a", "--timeout", "300") as terminal:
                await listener.recvfrom(1)
                await end(terminal, number)

    commands = [
        ["call", "math.add", "{}"],
        ["publish", "topic", "1"],
        ["subscribe", "topic"],
        ["dht", "get", "key"],
        ["dht", "put", "key", "1"],
        ["dht", "find-node", "key"],
        ["ping"],
    ]
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            for number, command in zip(numbers, commands, strict=False):
                nursery.start_soon(one, number, *command)


async def test_a_node_that_is_still_joining_ends_as_one_that_runs() -> None:
    with trio.fail_after(PATIENCE_S):
        async with open_listener() as (listener, port):
            arguments = ["--realm", "a", "--listen", "127.0.0.1:0", "--bootstrap", f"127.0.0.1:{port}"]
            async with open_terminal("node", *arguments) as node:
                await listener.recvfrom(1)
                assert await node.signalled(signal.SIGTERM) == 0
                assert node.errors == ""


@pytest.mark.parametrize(
    ("number", "command"),
    [
        (signal.SIGTERM, ["replay", "{}", "--trace", "trace.jsonl"]),
        (signal.SIGINT, ["replay", "{}", "--trace", "trace.jsonl", "--hash-seeds", "0:2"]),
        (signal.SIGTERM, ["sweep", "{}", "--seeds", "0:9", "--jobs", "2", "--json"]),
    ],
    ids=["replay", "replay with hash seeds", "sweep"],
)
async def test_replays_leave_neither_children_nor_files(
    number: signal.Signals, command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with trio.fail_after(PATIENCE_S):
        async with open_listener() as (listener, port):
            write_scenario(tmp_path, port)
            arguments = [part.replace("{}", "endless.py") for part in command]
            monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
            async with open_terminal(*arguments) as terminal:
                pids = [int((await listener.recvfrom(100))[0]) for _ in range(1 if command[-1] == "trace.jsonl" else 2)]
                await end(terminal, number)
                assert [pid for pid in pids if is_running(pid)] == []
    assert names(tmp_path) == ["endless.py"]


async def test_a_second_signal_ends_the_processes_of_a_demo_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with trio.fail_after(PATIENCE_S):
        async with open_terminal("demo") as demo:
            line = await demo.says("(pid ", "output")
            pids = [int(part.partition(")")[0]) for part in line.split("(pid ")[1:]]
            assert len(pids) == 5
            # Stopped, none of them would obey the end of its stdin within the patience of the first signal.
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            demo.process.send_signal(signal.SIGTERM)
            demo.process.send_signal(signal.SIGINT)
            assert await demo.exit_code() in CODES.values()
            assert [pid for pid in pids if is_running(pid)] == []
    assert names(tmp_path) == []

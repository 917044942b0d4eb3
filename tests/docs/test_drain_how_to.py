"""The program of docs/how-to/drain-a-node.md: under a signal the call that runs gets its answer, in real processes."""

from __future__ import annotations

import re
import signal
import sys
from pathlib import Path
from typing import Final

import page_tools
import pytest
import trio
from terminals import open_terminal

import macula_trio as macula
from macula_trio._config import DRAIN_DEADLINE_S

PAGE: Final = "docs/how-to/drain-a-node.md"
REALM: Final = "org.example.home"

pytestmark = pytest.mark.thorough


@pytest.mark.processes
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_lets_the_call_that_runs_finish(tmp_path: Path, number: signal.Signals) -> None:
    files = page_tools.files(PAGE)
    assert list(files) == ["squares.py"]
    program = tmp_path / "squares.py"
    program.write_text(files["squares.py"], encoding="utf-8")
    results: list[object] = []
    with trio.fail_after(30):
        async with open_terminal("127.0.0.1:0", program=[sys.executable, str(program)]) as squares:
            endpoint = (await squares.says("ready at", "output")).split()[-1]
            config = macula.NodeConfig(
                realm=REALM, listen="127.0.0.1:0", advertise=None, bootstrap=[endpoint], require_bootstrap=True
            )
            async with macula.open_node(config) as node, trio.open_nursery() as nursery:

                async def call() -> None:
                    results.append(await node.call("math.square", 12))

                nursery.start_soon(call)
                await squares.says("squares 12", "output")
                squares.process.send_signal(number)
                assert await squares.exit_code() == 0
            assert squares.output.splitlines()[-1] == "drained"
            assert squares.errors == ""
    assert results == [144]


def test_the_page_knows_the_deadline() -> None:
    assert re.search(rf"`drain_deadline_s` is {DRAIN_DEADLINE_S:g} s", page_tools.read(PAGE))

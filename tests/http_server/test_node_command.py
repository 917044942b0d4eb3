"""`macula-trio node --health`, and the demo's nodes with it, as processes."""

from __future__ import annotations

import io
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
import trio
from terminals import open_terminal, ready_facts
from test_health_endpoint import ask

from macula_trio._cli.demo_mesh import open_demo_mesh
from macula_trio._cli.main import main
from macula_trio._util import Address, parse_endpoint

pytestmark = pytest.mark.thorough

NODE: Final = ["node", "--realm", "org.example.test", "--listen", "127.0.0.1:0"]
EXTRA: Final = ("hypercorn", "starlette")
PATIENCE_S: Final = 40


async def until_well(address: Address) -> None:
    """Wait while a busy machine needs more than the second that a node has."""
    while (health := await ask(address, "/health")).status != 200:
        assert health.json["reason"] == "no answer within 1 s"


@pytest.mark.processes
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_node_tells_where_it_is_well_and_leaves_though_somebody_is_connected(number: signal.Signals) -> None:
    with trio.fail_after(PATIENCE_S):
        async with open_terminal(*NODE, "--health", "127.0.0.1:0") as terminal:
            line = await terminal.line()
            address = parse_endpoint(ready_facts(line)["health"])
            assert line.endswith(f" role=edge health=127.0.0.1:{address[1]}")
            await until_well(address)
            assert (await ask(address, "/ready")).status == 200
            assert (await ask(address, "/nothing")).status == 404
            async with await trio.open_tcp_stream(*address) as idle:
                await idle.send_all(b"GET /hea")
                assert await terminal.signalled(number) == 0
            assert (terminal.output, terminal.errors) == (f"{line}\n", "")


@pytest.mark.processes
async def test_a_port_in_use_is_one_line_and_no_ready_one() -> None:
    with trio.fail_after(PATIENCE_S), socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        async with open_terminal(*NODE, "--health", address) as terminal:
            assert await terminal.exit_code() == 2
            assert terminal.output == ""
            assert terminal.errors.startswith(f"error: cannot listen on {address}: ")
            assert "choose another by --health HOST:PORT" in terminal.errors
            assert terminal.errors.count("\n") == 1


@pytest.mark.processes
async def test_the_nodes_of_the_demo_are_well_when_they_are_asked() -> None:
    with trio.fail_after(PATIENCE_S):
        async with open_demo_mesh(health=True) as mesh:
            for node in mesh.nodes.values():
                assert node.health is not None
                address = parse_endpoint(node.health)
                await until_well(address)
                assert (await ask(address, "/ready")).status == 200
            assert len({node.health for node in mesh.nodes.values()}) == 5


@pytest.fixture(params=EXTRA)
def without_the_extra(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(("macula_trio._http", request.param))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, request.param, None)


@pytest.mark.parametrize(
    ("origin", "value"),
    [
        ("--health", "127.0.0.1:0"),
        ("environment MACULA_HEALTH", "127.0.0.1:0"),
        ("environment HEALTH_PORT", "0"),
    ],
)
def test_without_the_extra_it_is_one_line_that_says_what_to_install(
    origin: str, value: str, without_the_extra: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, variable = origin.partition("environment ")
    if variable:
        monkeypatch.setenv(variable, value)
    flags = [] if variable else [origin, value]
    told = io.StringIO()
    monkeypatch.setattr(sys, "stderr", told)
    assert main([*NODE, "--identity", str(tmp_path / "node.pem"), *flags]) == 2
    assert told.getvalue() == (
        f'error: {origin}: the health endpoint is an extra; install it: pip install "macula-trio[http]"'
        "; see macula-trio node --help\n"
    )
    assert list(tmp_path.iterdir()) == []  # not even a key


@pytest.mark.processes
@pytest.mark.parametrize(
    "code",
    [
        "import macula_trio; macula_trio.open_node",
        "from macula_trio._cli import commands, demo_mesh, demo_node",
        "assert main(['config', 'show', '--realm', 'a', '--health', 'a:1']) == 0",
        "assert main(['node', '--realm', 'a', '--listen', '192.0.2.1:0']) == 2",
    ],
)
def test_who_wants_no_endpoint_loads_nothing_of_it(code: str) -> None:
    loaded = f"print(sorted({set(EXTRA)!r} & sys.modules.keys()))"
    around = f"import sys\nfrom macula_trio._cli.main import main\n{code}\n{loaded}"
    done = subprocess.run([sys.executable, "-c", around], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stderr

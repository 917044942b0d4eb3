"""`macula-trio sweep --cluster`: a real scheduler and two workers in processes of their own, on loopback."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import pytest
import trio

# Not `importorskip`: what Dask warns about at its import is an error here; only child processes import it.
pytestmark = [
    pytest.mark.long,
    pytest.mark.processes,
    pytest.mark.skipif(find_spec("distributed") is None, reason="the extra `cluster` is not installed"),
]

PATIENCE_S: Final = 50

FAILING: Final = '''"""Fails for odd seeds with three nodes."""
import os
async def scenario(world):
    nodes = world.nodes(4, least=1)
    with open(os.path.join(r"DIRECTORY", f"{world.seed}-{nodes}-{os.getppid()}"), "w"):
        pass
    world.check("three are too many", not (world.seed % 2 and nodes >= 3))
'''
SPINS: Final = """
import os
async def scenario(world):
    with open(r"DIRECTORY/began", "w") as file:
        file.write("began")
    while not os.path.exists(r"DIRECTORY/enough"):
        pass
"""


@pytest.fixture(autouse=True)
def empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ran").mkdir()
    return tmp_path


def scenario(name: str, text: str) -> str:
    Path(f"{name}.py").write_text(text.replace("DIRECTORY", str(Path("ran").absolute())), encoding="utf-8")
    return f"{name}.py"


@asynccontextmanager
async def open_process(*command: str) -> AsyncGenerator[trio.Process, None]:
    """A process for the length of the block, whose output nobody reads."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "check": False}
    async with trio.open_nursery() as nursery:
        process: trio.Process = await nursery.start(
            partial(trio.run_process, [sys.executable, "-m", *command], deliver_cancel=kill, **quiet)
        )
        yield process
        nursery.cancel_scope.cancel()


async def kill(process: trio.Process) -> None:
    process.kill()


@asynccontextmanager
async def open_cluster(*, workers: int) -> AsyncGenerator[tuple[str, list[trio.Process]], None]:
    """A scheduler and its workers for the length of the block; gives the address and the workers."""
    known = ["--scheduler-file", "scheduler.json"]
    scheduler = ["distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", *known]
    worker = ["distributed.cli.dask_worker", "--nthreads", "1", "--no-nanny", "--no-dashboard", *known]
    async with open_process(*scheduler):
        address = json.loads(await wait_text("scheduler.json", end="}"))["address"]
        async with open_workers(worker, workers) as processes:
            yield address, processes


async def wait_text(path: str, *, end: str) -> str:
    """Text of a file that another process writes, as soon as it ends so."""
    file = trio.Path(path)
    while True:
        text = await file.read_text(encoding="utf-8") if await file.exists() else ""
        if text.rstrip().endswith(end):
            return text
        await trio.sleep(0.05)  # what another process does is no event of ours


@asynccontextmanager
async def open_workers(command: list[str], count: int) -> AsyncGenerator[list[trio.Process], None]:
    if not count:
        yield []
        return
    async with open_process(*command) as first, open_workers(command, count - 1) as others:
        yield [first, *others]


def runs() -> list[list[str]]:
    """Seed, number of nodes and parent process of every replay that ran."""
    return [path.name.split("-") for path in Path("ran").iterdir()]


async def sweep(*arguments: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "macula_trio", "sweep", *arguments]
    return await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False, **options)


async def test_a_cluster_runs_every_seed_once_and_tells_what_fails() -> None:
    with trio.fail_after(PATIENCE_S):
        async with open_cluster(workers=2) as (address, _):
            done = await sweep(scenario("failing", FAILING), "--seeds", "0:6", "--cluster", address, "--json")
    assert done.stderr == b"error: 3 of 6 seeds failed\n"
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert (found["done"], found["failed"]) == (6, 3)
    assert [(kind["error_kind"], kind["seeds"]) for kind in found["errors"]] == [
        ("invariant:three are too many", [1, 3, 5])
    ]
    assert found["shrunk"]["command"] == "macula-trio replay failing.py --seed 1 --nodes 3"
    ran = runs()
    parents = {parent for _, nodes, parent in ran if nodes == "4"}
    assert sorted(seed for seed, nodes, _ in ran if nodes == "4") == list("012345")
    assert len(parents) == 2, "both workers have run some"
    assert len({parent for _, nodes, parent in ran if nodes != "4"} - parents) == 1, "it is shrunk here"


async def test_an_interrupted_sweep_leaves_the_cluster_as_it_was() -> None:
    with trio.fail_after(PATIENCE_S):
        async with open_cluster(workers=1) as (address, _), trio.open_nursery() as nursery:
            spins = scenario("spins", SPINS)

            async def run(*, task_status: trio.TaskStatus[trio.Process]) -> None:
                done = await sweep(
                    spins, "--seeds", "0:5", "--cluster", address, "--timeout", str(PATIENCE_S), task_status=task_status
                )
                assert (done.returncode, done.stderr) == (130, b"")
                assert done.stdout.startswith(b"spins: 0 of 5 seeds (0:5) in ")

            process = await nursery.start(run)
            await wait_text("ran/began", end="began")
            process.send_signal(signal.SIGINT)
            await process.wait()
            await trio.Path("ran/enough").touch()
            done = await sweep(scenario("empty", "async def scenario(world):\n    pass\n"), "--seeds", "0:1",
                               "--cluster", address)  # fmt: skip
            assert (done.returncode, done.stderr) == (0, b"")


async def test_a_cluster_that_is_not_there_or_has_no_worker_is_one_line() -> None:
    failing = scenario("failing", FAILING)

    async def complaint(address: str, text: str) -> None:
        done = await sweep(failing, "--seeds", "0:6", "--cluster", address, "--json")
        assert (done.returncode, done.stdout) == (1, b"")
        assert done.stderr.decode().startswith(f"error: {text}")
        assert done.stderr.count(b"\n") == 1

    with trio.fail_after(PATIENCE_S):
        async with open_cluster(workers=0) as (address, _), trio.open_nursery() as nursery:
            nursery.start_soon(complaint, address, f"no worker at {address} within 10 s")
            nursery.start_soon(complaint, "127.0.0.1:9", "no scheduler of a cluster at 127.0.0.1:9: ")


async def test_a_cluster_that_loses_its_last_worker_is_one_line() -> None:
    with trio.fail_after(PATIENCE_S):
        async with open_cluster(workers=1) as (address, (worker,)), trio.open_nursery() as nursery:
            spins = scenario("spins", SPINS)

            async def run() -> None:
                done = await sweep(spins, "--seeds", "0:5", "--cluster", address, "--timeout", "3")
                assert (done.returncode, done.stdout) == (1, b"")
                assert done.stderr.startswith(b"error: ")
                assert address.encode() in done.stderr
                assert done.stderr.count(b"\n") == 1

            nursery.start_soon(run)
            await wait_text("ran/began", end="began")
            worker.kill()

"""The demo in real processes: it works without its bootstrap, says what failed, and leaves no process behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
import trio

from macula_trio import dht_key
from macula_trio._cli import demo_mesh
from macula_trio._cli.demo_mesh import NodeFailed, open_demo_mesh

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.processes

COMMAND: Final = [sys.executable, "-m", "macula_trio", "demo"]
PATIENCE_S: Final = 30


def is_running(pid: int) -> bool:
    """Whether a process lives; one that has ended and was not yet waited for does not."""
    status = Path(f"/proc/{pid}/stat")
    if Path("/proc/self/stat").exists():
        try:
            return status.read_text().rpartition(")")[2].split()[0] != "Z"
        except (FileNotFoundError, ProcessLookupError):
            return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_ended(pids: list[int], *, seconds: float) -> list[int]:
    """Give those that still run after this time."""
    deadline = time.monotonic() + seconds
    while (running := [pid for pid in pids if is_running(pid)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    return running


@contextmanager
def started_demo() -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """The demo, just when its five processes have been started, and their pids."""
    with subprocess.Popen(COMMAND, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            pids = [int(pid) for pid in re.findall(r"pid (\d+)", process.stdout.readline())]
            assert len(pids) == 5
            yield process, pids
        finally:
            process.kill()


def test_the_last_line_of_the_demo_is_ok_and_it_fits_80_columns() -> None:
    done = subprocess.run(COMMAND, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[-1] == "ok"
    assert max(map(len, lines[2:])) <= 80  # the second has process ids, which may be long


@pytest.mark.long
def test_the_demo_reports_itself_as_one_json_object() -> None:
    done = subprocess.run([*COMMAND, "--json"], capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    names = ["bootstrap", "gateway", "edge1", "edge2", "edge3"]
    assert report["ok"] is True
    assert [node["name"] for node in report["nodes"]] == names
    assert [node["role"] for node in report["nodes"]] == ["bootstrap", "gateway", "edge", "edge", "edge"]
    assert all(len({node[field] for node in report["nodes"]}) == 5 for field in ("node_id", "endpoint", "pid"))
    rpc, pubsub = report["rpc"], report["pubsub"]
    assert (rpc["procedure"], rpc["result"], rpc["provider"], rpc["hops"]) == ("test.calculator.add", 5, "edge3", 1)
    assert (pubsub["topic"], sorted(pubsub["delivered"]), pubsub["hops"]) == ("test.messages", ["edge1", "edge3"], 1)
    assert 0 < rpc["seconds"] < PATIENCE_S
    assert 0 < pubsub["seconds"] < PATIENCE_S
    assert report["dht"] == {  # fewer than k nodes: all of them are replicas
        name: {"key": dht_key(name).hex(), "replicas": names} for name in ("test.calculator.add", "test.messages")
    }
    assert wait_ended([node["pid"] for node in report["nodes"]], seconds=0) == []


@pytest.mark.long
async def test_the_mesh_works_when_its_bootstrap_is_killed_before_the_call() -> None:
    with trio.fail_after(PATIENCE_S):
        async with open_demo_mesh() as mesh:
            for name in mesh.nodes:
                await mesh.request(name, {"do": "wait_known", "nodes": 4})
            await mesh.request("edge3", {"do": "advertise", "procedure": "test.calculator.add"})
            await mesh.request("edge1", {"do": "subscribe", "topic": "test.messages"})
            await mesh.request("edge3", {"do": "subscribe", "topic": "test.messages"})
            mesh.kill("bootstrap")
            await mesh.nodes["bootstrap"].process.wait()
            args = {"a": 2, "b": 3}
            call = {"do": "call", "procedure": "test.calculator.add", "args": args}
            assert await mesh.request("edge2", call) == 5
            called = await mesh.wait_event("edge2", "rpc.called")
            assert mesh.name_of(called["provider"]) == "edge3"
            await mesh.request("edge2", {"do": "publish", "topic": "test.messages", "payload": "still here"})
            for name in ("edge1", "edge3"):
                message = await mesh.wait_event(name, "demo.message", payload="still here")
                assert mesh.name_of(message["publisher"]) == "edge2"
            held = await mesh.holders(dht_key("test.calculator.add").hex())
            assert held == ["gateway", "edge1", "edge2", "edge3"]
    assert wait_ended([node.pid for node in mesh.nodes.values()], seconds=0) == []


@pytest.mark.long
async def test_a_node_that_dies_ends_the_mesh_with_its_log() -> None:
    pids: list[int] = []

    async def lose_one() -> None:
        async with open_demo_mesh() as mesh:
            pids.extend(node.pid for node in mesh.nodes.values())
            os.kill(mesh.nodes["edge1"].pid, signal.SIGKILL)
            await trio.sleep_forever()

    with (
        trio.fail_after(PATIENCE_S),
        pytest.raises(NodeFailed, match="edge1 ended unexpectedly, exit code -9") as failure,
    ):
        await lose_one()
    assert failure.value.log != []
    assert wait_ended(pids, seconds=0) == []


@pytest.mark.long
async def test_a_node_that_does_not_come_up_is_reported_and_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_mesh, "START_DEADLINE_S", 0.5)
    monkeypatch.setattr(demo_mesh, "EXIT_DEADLINE_S", 0.5)
    pids: list[int] = []

    def stop_one(mesh: demo_mesh.DemoMesh) -> None:
        pids.extend(node.pid for node in mesh.nodes.values())
        os.kill(mesh.nodes["bootstrap"].pid, signal.SIGSTOP)

    async def start() -> None:
        async with open_demo_mesh(on_started=stop_one):
            pytest.fail("the bootstrap is stopped")

    with trio.fail_after(PATIENCE_S), pytest.raises(NodeFailed, match="bootstrap did not come up within 0.5 s"):
        await start()
    assert wait_ended(pids, seconds=0) == []


@pytest.mark.long
async def test_an_error_of_the_body_arrives_as_it_is_and_ends_the_processes() -> None:
    pids: list[int] = []

    async def fail() -> None:
        async with open_demo_mesh() as mesh:
            pids.extend(node.pid for node in mesh.nodes.values())
            raise KeyError("mine")

    with trio.fail_after(PATIENCE_S), pytest.raises(KeyError, match="mine"):
        await fail()
    assert wait_ended(pids, seconds=0) == []


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_demo_leaves_no_process(number: signal.Signals) -> None:
    with started_demo() as (process, pids):
        process.send_signal(number)
        _, errors = process.communicate(timeout=PATIENCE_S)
        assert (process.returncode, errors) == (128 + number, "")
        assert wait_ended(pids, seconds=0) == []


@pytest.mark.long
def test_killing_the_demo_leaves_no_process() -> None:
    with started_demo() as (process, pids):
        process.kill()
        process.wait(PATIENCE_S)
        assert wait_ended(pids, seconds=10) == []

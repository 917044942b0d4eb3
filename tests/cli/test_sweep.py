"""`macula-trio sweep`: many seeds, each in a process of its own; what fails is told and made small."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pytest
import trio
from trio.testing import memory_stream_one_way_pair

from macula_trio._cli import sweep as sweep_module
from macula_trio._cli.children import DIED, OUTPUT_BYTES_MAX, TIMEOUT, Child, Tail, run_child
from macula_trio._cli.main import main
from macula_trio._cli.scales import read_numbers
from macula_trio._cli.sweep import KINDS_MAX, OTHER_KINDS, SEEDS_MAX, Found

pytestmark = pytest.mark.thorough

EMPTY: Final = "async def scenario(world):\n    pass\n"
NODES, SECONDS, FAULTS = 12, 40.0, 6  # what the pretended scenario wants


@pytest.fixture(autouse=True)
def empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scenario("empty", EMPTY)


def scenario(name: str, text: str) -> str:
    Path(f"{name}.py").write_text(text, encoding="utf-8")
    return f"{name}.py"


def child(error_kind: str | None, error: str | None = None, **report: Any) -> Child:
    return Child(report={"error_kind": error_kind, **report}, error_kind=error_kind, error=error, wall_s=1.0)


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Replays that fail for every third seed, when they are large enough; gives how many ran at once."""
    running = 0
    at_once: list[int] = []

    async def run(arguments: Sequence[str], *, limit_s: float) -> Child:
        nonlocal running
        running += 1
        at_once.append(running)
        await trio.lowlevel.checkpoint()
        running -= 1
        assert arguments[0] == "replay"
        wish = dict(zip(arguments[2::2], arguments[3::2], strict=True))
        seed, nodes = int(wish["--seed"]), min(NODES, max(2, int(wish.get("--nodes", NODES))))
        seconds = min(SECONDS, float(wish.get("--seconds", SECONDS)))
        skipped = read_numbers(wish["--skip-faults"]) if "--skip-faults" in wish else ()
        fails = seed % 3 == 1 and nodes >= 5 and seconds >= 7 and 3 not in skipped
        report = {"nodes": nodes, "seconds": seconds, "faults": FAULTS}
        return child("exception:KeyError", f"KeyError: {seed}", **report) if fails else child(None, **report)

    monkeypatch.setattr(sweep_module, "run_child", run)
    return at_once


def report(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    (line,) = capsys.readouterr().out.splitlines()
    found = json.loads(line)
    assert isinstance(found, dict)
    return found


# -- what is told ------------------------------------------------------------------------------------------------------


def test_failures_are_grouped_counted_and_shrunk(pretended: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "empty.py", "--seeds", "0:100"]) == 1
    output = capsys.readouterr()
    lines = output.out.splitlines()
    assert max(len(line) for line in lines if "macula-trio replay" not in line) <= 80
    assert lines[0].startswith("empty: 100 seeds (0:100) in ")
    assert lines[0].endswith(" s, 33 failed")
    assert lines[1:5] == [
        "",
        "33 seeds: exception:KeyError",
        "  seed 1: KeyError: 1",
        "  macula-trio replay empty.py --seed 1",
    ]
    assert lines[3 + SEEDS_MAX] == f"  macula-trio replay empty.py --seed {3 * SEEDS_MAX - 2}"
    assert lines[4 + SEEDS_MAX] == f"  and {33 - SEEDS_MAX} more"
    assert lines[-2].startswith("shrunk seed 1 in ")
    assert lines[-2].endswith(" runs: 5 of 12 nodes, 7 of 40 s, 1 of 6 faults")
    assert lines[-1] == "  macula-trio replay empty.py --seed 1 --nodes 5 --seconds 7 --skip-faults 0:3,4,5"
    assert output.err == "error: 33 of 100 seeds failed\n"


def test_the_same_as_one_json_object(pretended: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "empty.py", "--seeds", "2:9", "--json"]) == 1
    found = report(capsys)
    del found["wall_s"], found["shrunk"]["attempts"]
    commands = ["macula-trio replay empty.py --seed 4", "macula-trio replay empty.py --seed 7"]
    kind = {"error_kind": "exception:KeyError", "error": "KeyError: 4", "count": 2, "seeds": [4, 7]}
    assert found == {
        "scenario": "empty",
        "seeds": [2, 9],
        "done": 7,
        "failed": 2,
        "errors": [{**kind, "commands": commands}],
        "shrunk": {
            "seed": 4,
            "error_kind": "exception:KeyError",
            "left": "5 of 12 nodes, 7 of 40 s, 1 of 6 faults",
            "nodes": 5,
            "seconds": 7.0,
            "skip_faults": [0, 1, 2, 4, 5],
            "command": "macula-trio replay empty.py --seed 4 --nodes 5 --seconds 7 --skip-faults 0:3,4,5",
        },
    }


def test_without_shrinking_the_failures_are_all(pretended: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "empty.py", "--seeds", "0:3", "--no-shrink", "--json"]) == 1
    found = report(capsys)
    assert (found["failed"], found["shrunk"]) == (1, None)
    assert len(pretended) == 3


def test_when_nothing_fails_all_is_well(pretended: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "empty.py", "--seeds", "2:4"]) == 0
    output = capsys.readouterr()
    assert output.out.endswith("s, none failed\n")
    assert output.err == ""


def test_what_a_file_prints_when_it_is_imported_is_not_the_result(
    pretended: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    path = scenario("talks", f"print('hello')\n{EMPTY}")
    assert main(["sweep", path, "--seeds", "2:4", "--json"]) == 0
    output = capsys.readouterr()
    assert json.loads(output.out)["failed"] == 0
    assert output.err == "hello\n"


@pytest.mark.parametrize("jobs", [1, 3])
def test_no_more_run_at_once_than_was_asked_for(pretended: list[int], jobs: int) -> None:
    assert main(["sweep", "empty.py", "--seeds", "0:20", "--jobs", str(jobs), "--no-shrink"]) == 1
    assert max(pretended) == jobs
    assert len(pretended) == 20


def test_another_error_on_the_way_is_not_the_one_that_is_shrunk(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def run(arguments: Sequence[str], *, limit_s: float) -> Child:
        await trio.lowlevel.checkpoint()
        size = {"nodes": NODES, "seconds": 0.0, "faults": 0}
        if "--nodes" not in arguments:
            return child("exception:KeyError", "KeyError", **size)
        nodes = int(arguments[arguments.index("--nodes") + 1])
        size["nodes"] = nodes
        return child("exception:KeyError" if nodes >= 9 else "deadlock", "error", **size)

    monkeypatch.setattr(sweep_module, "run_child", run)
    assert main(["sweep", "empty.py", "--seeds", "0:1", "--json"]) == 1
    assert report(capsys)["shrunk"]["nodes"] == 9


def test_what_was_found_is_bounded_whatever_fails_and_in_whatever_order() -> None:
    found = Found()
    for seed in reversed(range(1000)):
        found.take(seed, child(f"exception:Error{seed % 50}", f"error of {seed}"))
    found.take(1000, child(None))
    assert (found.done, found.failed) == (1001, 1000)
    assert len(found.kinds) == KINDS_MAX + 1
    assert all(len(kind.seeds) <= SEEDS_MAX for kind in found.kinds.values())
    assert found.kinds["exception:Error49"].seeds == [49 + 50 * number for number in range(SEEDS_MAX)]
    assert found.kinds["exception:Error49"].error == "error of 49"
    assert found.kinds[OTHER_KINDS].count == 1000 - KINDS_MAX * 20
    assert found.first is not None
    assert found.first[0] == 0


def test_a_run_that_told_nothing_of_itself_is_not_shrunk(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def run(_arguments: Sequence[str], *, limit_s: float) -> Child:
        await trio.lowlevel.checkpoint()
        return Child(report=None, error_kind=TIMEOUT, error=f"killed after {limit_s:g} s", wall_s=limit_s)

    monkeypatch.setattr(sweep_module, "run_child", run)
    assert main(["sweep", "empty.py", "--seeds", "0:2", "--timeout", "7", "--json"]) == 1
    found = report(capsys)
    assert found["shrunk"] is None
    assert found["errors"][0]["error"] == "killed after 7 s"


# -- wrong usage -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        (["missing.py", "--seeds", "0:2"], "missing.py: no such file"),
        (["empty.py"], "--seeds"),
        (["empty.py", "--seeds", "7"], "'7' is not A:B"),
        (["empty.py", "--seeds", "0:2", "--jobs", "0"], "--jobs"),
        (["empty.py", "--seeds", "0:2", "--timeout", "0"], "--timeout"),
        (["empty.py", "--seeds", "0:2", "--timeout", "nan"], "nan is not a finite number of seconds"),
        (["empty.py", "--seeds", "0:2", "--timeout", "inf"], "--timeout"),
        (["empty.py", "--seeds", "0:2", "--timeout", "86401"], "--timeout"),
        (["empty.py", "--seeds", "0:2", "--cluster", "nowhere"], "'nowhere' is not HOST:PORT"),
        (["empty.py", "--seeds", "0:2", "--cluster", "tcp://nowhere"], "'nowhere' is not HOST:PORT"),
        (["empty.py", "--seeds", "0:2", "--cluster", "http://127.0.0.1:1"], "http:// is none of tcp, tls"),
        (["empty.py", "--seeds", "0:2", "--jobs", "2", "--cluster", "127.0.0.1:1"], "--jobs is for this machine"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_wishes_of_a_sweep_are_one_line(wish: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", *wish]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error: ")
    assert output.err.count("\n") == 1
    assert words in output.err


def test_a_cluster_without_its_extra_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    monkeypatch.setitem(sys.modules, "dask", None)
    assert main(["sweep", "empty.py", "--seeds", "0:2", "--cluster", "127.0.0.1:1"]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith('error: --cluster is an extra; install it: pip install "macula-trio[cluster]"')
    assert output.err.count("\n") == 1


def test_help_of_sweep_fits_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "--help"]) == 0
    assert max(len(line) for line in capsys.readouterr().out.splitlines()) <= 80


# -- real processes ----------------------------------------------------------------------------------------------------

REAL: Final = '''"""Fails for odd seeds with three nodes."""
async def scenario(world):
    nodes = world.nodes(4, least=1)
    world.note("began", nodes=nodes)
    world.check("three are too many", not (world.seed % 2 and nodes >= 3))
'''
SPINS: Final = """
import os, signal
async def scenario(world):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with open(f"pid{world.seed}", "w") as file:
        file.write(str(os.getpid()))
    while world.seed != 1:
        pass
"""


def are_written(paths: list[Path]) -> bool:
    return all(path.exists() and path.read_text(encoding="utf-8") for path in paths)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.long
@pytest.mark.processes
def test_a_real_sweep_finds_and_shrinks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", scenario("real", REAL), "--seeds", "0:4", "--json"]) == 1
    found = report(capsys)
    assert (found["done"], found["failed"]) == (4, 2)
    assert [kind["seeds"] for kind in found["errors"]] == [[1, 3]]
    assert found["errors"][0]["error_kind"] == "invariant:three are too many"
    command = "macula-trio replay real.py --seed 1 --nodes 3"
    assert found["shrunk"]["command"] == command
    assert main(command.split()[1:]) == 1  # it does what it says
    assert "nodes=3" in capsys.readouterr().out


@pytest.mark.long
@pytest.mark.processes
def test_a_child_that_spins_is_killed_and_reported(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", scenario("spins", SPINS), "--seeds", "0:2", "--timeout", "8", "--json"]) == 1
    found = report(capsys)
    assert [(kind["error_kind"], kind["seeds"]) for kind in found["errors"]] == [("timeout", [0])]
    assert not is_running(int(Path("pid0").read_text(encoding="utf-8")))


@pytest.mark.long
@pytest.mark.processes
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_an_interrupted_sweep_leaves_no_child(number: signal.Signals) -> None:
    command = [sys.executable, "-m", "macula_trio", "sweep", scenario("spins", SPINS), "--seeds", "0:9", "--jobs", "3"]
    with trio.fail_after(40):
        async with trio.open_nursery() as nursery:

            async def run(*, task_status: trio.TaskStatus[trio.Process]) -> None:
                done = await trio.run_process(
                    command, capture_stdout=True, capture_stderr=True, check=False, task_status=task_status
                )
                assert done.returncode == 128 + number
                assert done.stdout.startswith(b"spins: 1 of 9 seeds (0:9) in ")
                assert done.stdout.endswith(b" s, none failed\n")
                assert done.stderr == b""

            process = await nursery.start(run)
            paths = [Path(f"pid{seed}") for seed in (0, 2, 3)]
            while not are_written(paths):  # noqa: ASYNC110 - what another process does is no event of ours
                await trio.sleep(0.05)
            process.send_signal(number)
    assert not any(is_running(int(path.read_text(encoding="utf-8"))) for path in paths)


@pytest.mark.processes
def test_a_child_whose_parent_was_killed_ends_by_itself() -> None:
    command = [sys.executable, "-m", "macula_trio", "replay", scenario("spins", SPINS), "--limit", "1"]
    assert subprocess.run(command, check=False, timeout=30).returncode == -signal.SIGALRM


@pytest.mark.long
@pytest.mark.processes
async def test_a_child_that_talks_much_is_heard_to_its_end() -> None:
    noisy = "import sys\nasync def scenario(world):\n    sys.stderr.write('x' * 3_000_000 + '\\nthe end\\n')\n"
    ended = await run_child(["replay", scenario("noisy", noisy)], limit_s=30)
    assert ended.error_kind is None
    assert ended.report is not None
    dies = f"{noisy}    sys.stderr.flush()\n    __import__('os')._exit(3)\n"
    ended = await run_child(["replay", scenario("dies", dies)], limit_s=30)
    assert (ended.report, ended.error_kind) == (None, DIED)
    assert ended.error == "no report, exit code 3: the end"


async def test_of_what_a_child_writes_only_the_end_is_kept() -> None:
    send, receive = memory_stream_one_way_pair()
    tail = Tail()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tail.read, receive)
        for number in range(40):
            await send.send_all(b"%03d" % number * (OUTPUT_BYTES_MAX // 30))
        await send.aclose()
    assert len(tail.kept) == OUTPUT_BYTES_MAX
    assert tail.text().endswith("039")


@pytest.mark.long
@pytest.mark.processes
async def test_a_module_in_the_current_directory_takes_nobodys_place() -> None:
    scenario("attrs", "raise SystemExit('not the real one')")
    process = await trio.run_process(
        [Path(sys.executable).with_name("macula-trio"), "sweep", "empty.py", "--seeds", "0:1"],
        capture_stdout=True,
        check=False,
        stderr=subprocess.STDOUT,
    )
    assert (process.returncode, b"none failed" in process.stdout) == (0, True)

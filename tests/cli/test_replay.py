"""`macula-trio replay`: the story of a run, comparisons, and what it does with bad wishes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest
import trio

from macula_trio._cli.main import main
from macula_trio._cli.scales import (
    read_hash_seeds,
    read_numbers,
    read_range,
    replay_arguments,
    replay_command,
    write_numbers,
)
from macula_trio.testing._world import Scale

pytestmark = pytest.mark.thorough

WIDTH: Final = 80

# Fails when it has 5 nodes, 7 seconds and fault 3, and its seed is 1, 4, 7...
FAILING: Final = '''"""Machines are held back, one after another.

No more than that.
"""
import trio

async def scenario(world):
    nodes, seconds = world.nodes(12, least=2), world.seconds(40)
    for number in range(6):
        world.clog(f"host{number}")
    world.note("began", nodes=nodes)
    print("what a scenario prints is not the result")
    await trio.sleep(seconds)
    held = world.network.conditions.is_clogged("host3", "elsewhere")
    failing = nodes >= 5 and seconds >= 7 and held and world.seed % 3 == 1
    world.check("host3 is free", not failing, "it is held back")
'''
KEYS: Final = {
    "scenario", "summary", "seed", "ok", "trace_hash", "schedule_hash", "datagram_hash", "lines", "virtual_s", "wall_s",
    "nodes", "seconds", "faults", "invariants", "error_kind", "error",
}  # fmt: skip


@pytest.fixture(autouse=True)
def empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def failing() -> str:
    return scenario("machines", FAILING)


def scenario(name: str, text: str) -> str:
    Path(f"{name}.py").write_text(text, encoding="utf-8")
    return f"{name}.py"


def complaint(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of a command that wrote nothing else."""
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error: ")
    assert output.err.count("\n") == 1
    return output.err


def report(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The one JSON object on stdout."""
    (line,) = capsys.readouterr().out.splitlines()
    found = json.loads(line)
    assert isinstance(found, dict)
    return found


def test_a_run_is_told_with_its_faults_invariants_and_hashes(failing: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", failing]) == 0
    output = capsys.readouterr()
    lines = output.out.splitlines()
    assert max(map(len, lines)) <= WIDTH
    assert lines[:6] == [
        "machines, seed 0",
        "Machines are held back, one after another.",
        "",
        "    0.0000 s  network   holds back all of 6 machines 6 times",
        "    0.0000 s  scenario  began nodes=12",
        "",
    ]
    assert "faults      6, numbered from 0" in lines
    assert "invariants         2  a closed block leaves nothing behind" in lines
    assert "                   1  host3 is free" in lines
    for name in ("trace hash", "schedule", "datagrams"):
        assert any(line.startswith(f"{name} ") for line in lines)
    assert any(line.startswith("time        40.000 s virtual, ") for line in lines)
    assert "trace       7 lines, of which the story tells 7; --trace FILE has all" in lines
    assert output.err == "what a scenario prints is not the result\n"


def test_json_is_one_object_with_all_that_is_known(failing: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", failing, "--seed", "3", "--json"]) == 0
    first = report(capsys)
    assert set(first) == KEYS
    assert (first["scenario"], first["seed"], first["ok"], first["error_kind"]) == ("machines", 3, True, None)
    assert (first["nodes"], first["seconds"], first["faults"], first["lines"]) == (12, 40.0, 6, 7)
    assert first["invariants"] == {"a closed block leaves nothing behind": 2, "host3 is free": 1}
    assert main(["replay", failing, "--seed", "3", "--json"]) == 0
    again = report(capsys)
    assert {**again, "wall_s": 0} == {**first, "wall_s": 0}


def test_what_fails_is_named_with_the_command_that_replays_it(failing: str, capsys: pytest.CaptureFixture[str]) -> None:
    wish = [failing, "--seed", "4", "--nodes", "5", "--seconds", "7.5", "--skip-faults", "0:3,5"]
    assert main(["replay", *wish]) == 1
    output = capsys.readouterr()
    command = "macula-trio replay " + " ".join(wish)
    assert output.out.splitlines()[-1] == f"replay it: {command}"
    assert "began nodes=5" in output.out
    assert "faults      6, numbered from 0, without 0:3,5" in output.out
    assert output.err.splitlines()[-1] == "error: machines, seed 4: host3 is free: it is held back"


def test_what_fails_is_an_object_too(failing: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", failing, "--seed", "1", "--json"]) == 1
    found = report(capsys)
    assert (found["ok"], found["error_kind"]) == (False, "invariant:host3 is free")
    assert found["error"] == "host3 is free: it is held back"


@pytest.mark.parametrize("wish", [["--skip-faults", "3"], ["--nodes", "4"], ["--seconds", "6.9"]])
def test_a_smaller_run_is_another_run(wish: list[str], failing: str) -> None:
    assert main(["replay", failing, "--seed", "1", *wish]) == 0


def test_an_exception_and_a_stuck_scenario_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    raises = scenario("raises", "async def scenario(world):\n    world.note('here')\n    raise KeyError('x')\n")
    assert main(["replay", raises]) == 1
    output = capsys.readouterr()
    assert "scenario  here" in output.out
    assert output.err == "error: raises, seed 0: KeyError: 'x'\n"
    assert main(["replay", raises, "--traceback", "--json"]) == 1
    output = capsys.readouterr()
    assert json.loads(output.out)["error_kind"] == "exception:KeyError"
    assert 'raises.py", line 3, in scenario' in output.err
    stuck = scenario("stuck", "import trio\nasync def scenario(world):\n    await trio.Event().wait()\n")
    assert main(["replay", stuck, "--json"]) == 1
    output = capsys.readouterr()
    assert json.loads(output.out)["error_kind"] == "deadlock"
    assert output.err.startswith("error: stuck, seed 0: ")
    assert output.err.count("\n") == 1


# -- traces ------------------------------------------------------------------------------------------------------------


def test_a_trace_that_was_written_comes_out_again(failing: str, capsys: pytest.CaptureFixture[str]) -> None:
    golden = "golden.jsonl"
    assert main(["replay", failing, "--trace", golden]) == 0
    lines = [json.loads(line) for line in Path(golden).read_text(encoding="utf-8").splitlines()]
    assert [line["event"] for line in lines] == ["fault.clog"] * 6 + ["began"]
    capsys.readouterr()
    assert main(["replay", failing, "--against", golden]) == 0
    assert f"against     the same as {golden}" in capsys.readouterr().out


def test_the_trace_of_a_run_that_fails_is_written_too(failing: str) -> None:
    assert main(["replay", failing, "--seed", "1", "--trace", "failed.jsonl"]) == 1
    assert len(Path("failed.jsonl").read_text(encoding="utf-8").splitlines()) == 7


def test_a_difference_from_a_golden_trace_is_shown(failing: str, capsys: pytest.CaptureFixture[str]) -> None:
    golden = Path("golden.jsonl")
    assert main(["replay", failing, "--trace", str(golden)]) == 0
    capsys.readouterr()
    assert main(["replay", failing, "--nodes", "11", "--against", str(golden)]) == 1
    output = capsys.readouterr()
    lines = output.out.splitlines()
    assert max(map(len, lines[:-1])) <= WIDTH
    assert lines[-5:-2] == ["facts.nodes differs:", "  golden  12", "  now     11"]
    assert "golden      7  0.000000 s * began nodes=12" in lines
    assert lines[-1] == f"replay it: macula-trio replay {failing} --seed 0 --nodes 11 --against {golden}"
    assert output.err.splitlines()[-1] == f"error: machines, seed 0: the trace leaves {golden} at line 7"
    golden.write_text(golden.read_text(encoding="utf-8") + '{"t_us":1}\n', encoding="utf-8")
    assert main(["replay", failing, "--against", str(golden), "--json"]) == 1
    found = report(capsys)
    assert (found["ok"], found["error_kind"]) == (False, "differs:golden")
    assert found["error"].endswith("at line 8")


def test_a_trace_takes_the_place_of_what_was_there_when_the_run_is_over(failing: str) -> None:
    trace = Path("trace.jsonl")
    trace.write_text("old\n" * 1000, encoding="utf-8")
    assert main(["replay", "missing.py", "--trace", str(trace)]) == 2
    assert trace.read_text(encoding="utf-8") == "old\n" * 1000
    assert main(["replay", failing, "--trace", str(trace)]) == 0
    assert len(trace.read_text(encoding="utf-8").splitlines()) == 7


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no file that is always full")
def test_a_trace_that_cannot_be_written_to_its_end_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    for notes in (1, 10_000):  # seen when the file is closed, and before
        path = scenario("noted", f"async def scenario(world):\n    for n in range({notes}): world.note('n')\n")
        assert main(["replay", path, "--trace", "/dev/full"]) == 1
        assert complaint(capsys) == "error: --trace /dev/full: No space left on device\n"


def test_a_trace_can_go_into_a_pipe(failing: str, capsys: pytest.CaptureFixture[str]) -> None:
    reader, writer = os.pipe()
    try:
        assert main(["replay", failing, "--trace", f"/dev/fd/{writer}"]) == 0
        os.close(writer)
        with open(reader, encoding="utf-8", closefd=False) as pipe:
            assert len(pipe.readlines()) == 7
    finally:
        os.close(reader)


# -- wrong usage -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        (["missing.py"], "missing.py: no such file"),
        (["missing.py", "--hash-seeds", "0:2"], "missing.py: no such file"),
        (["syntax.py"], "syntax.py: SyntaxError"),
        (["empty.py"], "empty.py: has no async def scenario(world)"),
        (["empty.py", "--against", "missing.jsonl"], "--against missing.jsonl: No such file"),
        (["empty.py", "--against", "binary.jsonl"], "--against binary.jsonl: not a trace"),
        (["empty.py", "--trace", "missing/trace.jsonl"], "--trace missing/trace.jsonl"),
        (["ran.py", "--trace", "missing/trace.jsonl"], "--trace missing/trace.jsonl: No such file"),
        (["ran.py", "--trace", "empty.py/trace.jsonl"], "--trace empty.py/trace.jsonl: Not a directory"),
        (["empty.py", "--trace", "."], "--trace .: Is a directory"),
        (["empty.py", "--hash-seeds", "3"], "'3' is not A:B"),
        (["empty.py", "--hash-seeds", "3:3"], "'3:3' has 0 numbers"),
        (["empty.py", "--hash-seeds", "0:1001"], "'0:1001' has 1001 numbers (B is not among them); give 1 to 1000"),
        (["empty.py", "--hash-seeds", f"7:{2**32 + 1}"], "numbers"),
        (["empty.py", "--hash-seeds", f"{2**32}:{2**32 + 1}"], "B is at most 4294967296"),
        (["empty.py", "--hash-seeds", "0:2", "--traceback"], "--traceback"),
        (["empty.py", "--seed", "-1"], "--seed"),
        (["empty.py", "--nodes", "0"], "--nodes"),
        (["empty.py", "--seconds", "0"], "--seconds"),
        (["empty.py", "--seconds", "nan"], "nan is not a finite number of seconds"),
        (["empty.py", "--seconds", "inf"], "inf is not a finite number of seconds"),
        (["empty.py", "--limit", "nan"], "nan is not a finite number of seconds"),
        (["empty.py", "--limit", "1e300"], "--limit"),
        (["empty.py", "--skip-faults", "1,x"], "'1,x' is not a list"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_wishes_are_one_line_and_exit_code_2(
    wish: list[str],
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    scenario("empty", "")
    scenario("syntax", "async def (")
    scenario("ran", "raise AssertionError('it ran before its trace file was judged')")
    Path("binary.jsonl").write_bytes(b"\xff\xfe")
    assert main(["replay", *wish]) == 2
    assert words in complaint(capsys)


def test_help_of_replay_fits_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", "--help"]) == 0
    assert max(len(line) for line in capsys.readouterr().out.splitlines()) <= WIDTH


@pytest.mark.parametrize(
    ("numbers", "text"),
    [((4,), "4"), ((1, 2), "1,2"), ((1, 2, 3), "1:4"), ((0, 1, 2, 5, 7, 8, 9, 10), "0:3,5,7:11")],
)
def test_numbers_are_read_as_they_are_written(numbers: tuple[int, ...], text: str) -> None:
    assert write_numbers(numbers) == text
    assert read_numbers(text) == numbers


def test_numbers_are_read_once_each_and_in_order() -> None:
    assert read_numbers("9,1:3,2") == (1, 2, 9)


@pytest.mark.parametrize(
    "text", ["", ":", "1:", ":3", "a:b", "3:1", "0:99999999999", "0:" + "9" * 19, "-1:3", "1:2:3", "\u0661:\u0663"]
)
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="whole numbers|has"):
        read_range(text)


def test_hash_seeds_go_as_far_as_those_of_python() -> None:
    assert read_hash_seeds(f"{2**32 - 1000}:{2**32}") == range(2**32 - 1000, 2**32)


@pytest.mark.parametrize("text", ["", ",", "1,", "x", "0:999999", "1;2"])
def test_what_is_no_list_of_numbers_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="whole numbers|more than"):
        read_numbers(text)


def test_a_command_can_be_pasted_into_a_shell() -> None:
    scale = Scale(nodes=5, seconds=12.0625, skip_faults=(0, 1, 2, 9))
    assert replay_command("my files/a'b.py", 7, scale) == (
        """macula-trio replay 'my files/a'"'"'b.py' --seed 7 --nodes 5 --seconds 12.0625 --skip-faults 0:3,9"""
    )
    assert replay_arguments("x.py", 7, Scale(seconds=9.0)) == ["replay", "x.py", "--seed", "7", "--seconds", "9"]


# -- other processes ---------------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.processes
def test_one_run_under_many_hash_seeds_is_one_run(failing: str, capsys: pytest.CaptureFixture[str]) -> None:
    golden = "golden.jsonl"
    assert main(["replay", failing, "--trace", golden]) == 0
    capsys.readouterr()
    wish = ["replay", failing, "--hash-seeds", "1:4", "--against", golden]
    assert main([*wish, "--json"]) == 0
    found = report(capsys)
    assert set(found) == KEYS | {"hash_seeds"}
    assert list(found["hash_seeds"]) == ["1", "2", "3"]
    hashes = {name: found[name] for name in ("trace_hash", "schedule_hash", "datagram_hash")}
    assert all(each == hashes for each in found["hash_seeds"].values())
    assert main(wish) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == [
        f"against     the same as {golden}",
        "hash seeds  1:4: the same trace, schedule and datagrams",
    ]


ORDERED_BY_HASH: Final = """
async def scenario(world):
    world.note("before")
    for name in {f"name{number}" for number in range(50)}:
        world.note("next", name=name)
"""


@pytest.mark.long
@pytest.mark.processes
def test_a_run_that_follows_from_how_strings_are_hashed_is_found_out(capsys: pytest.CaptureFixture[str]) -> None:
    path = scenario("sets", ORDERED_BY_HASH)
    assert main(["replay", path, "--hash-seeds", "0:3"]) == 1
    output = capsys.readouterr()
    assert max(map(len, output.out.splitlines())) <= WIDTH
    assert "The two part at line 2; hash seed 0 has 51 lines, hash seed 1 has 51." in output.out
    assert "facts.name differs:" in output.out
    assert output.out.splitlines()[-1] == "replay it: macula-trio replay sets.py --seed 0 --hash-seeds 0:3"
    assert output.err == "error: sets, seed 0: PYTHONHASHSEED=1 gives another trace than PYTHONHASHSEED=0\n"


@pytest.mark.long
@pytest.mark.processes
def test_what_a_file_prints_when_it_is_imported_is_not_the_result_either(capsys: pytest.CaptureFixture[str]) -> None:
    path = scenario("talks", "print('hello')\nasync def scenario(world):\n    pass\n")
    assert main(["replay", path, "--hash-seeds", "0:2", "--json"]) == 0
    output = capsys.readouterr()
    assert json.loads(output.out)["ok"] is True
    assert output.err == "hello\n"


@pytest.mark.long
@pytest.mark.processes
def test_every_child_has_the_hash_seed_that_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    note = "import os\nasync def scenario(world):\n    world.note('told', seed=os.environ['PYTHONHASHSEED'])\n"
    assert main(["replay", scenario("told", note), "--hash-seeds", "5:7"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "  hash seed 5  5" in lines
    assert "  hash seed 6  6" in lines


SCHEDULED_BY_HASH: Final = """
import trio
async def scenario(world):
    for _ in range(hash("schedule") % 97):
        await trio.lowlevel.checkpoint()
"""


@pytest.mark.long
@pytest.mark.processes
def test_the_schedule_counts_as_well(capsys: pytest.CaptureFixture[str]) -> None:
    path = scenario("steps", SCHEDULED_BY_HASH)
    assert main(["replay", path, "--hash-seeds", "0:3", "--json"]) == 1
    found = report(capsys)
    assert (found["ok"], found["error_kind"]) == (False, "differs:hash_seeds")
    assert "another schedule" in found["error"]


@pytest.mark.long
@pytest.mark.processes
def test_a_run_that_fails_under_every_hash_seed_fails_as_one(failing: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", failing, "--seed", "1", "--hash-seeds", "0:2"]) == 1
    assert capsys.readouterr().err.endswith("error: machines, seed 1: host3 is free: it is held back\n")


@pytest.mark.long
@pytest.mark.processes
def test_a_child_that_dies_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    path = scenario("dies", "import os\nasync def scenario(world):\n    os._exit(7)\n")
    assert main(["replay", path, "--hash-seeds", "0:2"]) == 1
    assert "PYTHONHASHSEED=0: no report, exit code 7: it wrote nothing" in complaint(capsys)


ENDLESS: Final = """
import sys, trio
async def scenario(world):
    print("began", flush=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(work)
        await work()
async def work():
    while True:
        await trio.sleep(1e-9)
"""


@pytest.mark.processes
async def test_an_interrupted_replay_says_nothing_more() -> None:
    path = scenario("endless", ENDLESS)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            process = await nursery.start(start, ["replay", path])
            async with process.stdout, process.stderr:
                said = b""
                while b"\n" not in said:
                    said += await process.stderr.receive_some()
                process.send_signal(signal.SIGINT)
                assert await process.wait() == 130
                assert b"".join([said, *[chunk async for chunk in process.stderr]]) == b"began\n"
                assert [chunk async for chunk in process.stdout] == []


async def start(arguments: list[str], *, task_status: trio.TaskStatus[trio.Process]) -> None:
    command = [sys.executable, "-m", "macula_trio", *arguments]
    await trio.run_process(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False, task_status=task_status
    )

"""What the installed package adds to pytest: seeds of Trio tests, fixtures, and nothing to runs that want neither."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zlib
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.processes, pytest.mark.long]
pytest_plugins = ["pytester"]

# A test that tells the order in which Trio ran six tasks, and the seed.
ORDER: Final = """
import os
import pytest
import trio

async def order():
    found = []

    async def walk(name):
        for _ in range(3):
            await trio.lowlevel.checkpoint()
            found.append(name)

    async with trio.open_nursery() as nursery:
        for name in "abcdef":
            nursery.start_soon(walk, name)
    return "".join(found)
"""
TELLS: Final = f"""{ORDER}
@pytest.mark.trio
async def test_first(macula_seed):
    print("first:", await order(), macula_seed)

@pytest.mark.trio
async def test_second(macula_seed):
    print("second:", await order(), macula_seed)
"""


class Runner:
    """Runs pytest in a process and a directory of its own; none of this repository's settings reach it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("MACULA", "PYTEST"))
        }
        (directory / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")

    def write(self, name: str, text: str) -> None:
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def run(self, *arguments: str, code: int = 0, **environment: str) -> str:
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
        done = subprocess.run(
            command,
            cwd=self.directory,
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        text = done.stdout + done.stderr
        assert done.returncode == code, text
        return text


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    return Runner(tmp_path)


def _told(text: str, name: str) -> tuple[str, int]:
    """What the test said of itself."""
    found = re.search(rf"^{name}: (\w+) (\d+)$", text, re.MULTILINE)
    assert found is not None, text
    return found[1], int(found[2])


def _shown(seed: str) -> str:
    """A bad seed as a complaint has it."""
    return repr(seed if len(seed) <= 40 else f"{seed[:40]}...")


# -- seeds -----------------------------------------------------------------------------------------------------------


def test_every_trio_test_has_a_seed_of_its_own_and_repeats(runner: Runner) -> None:
    runner.write("test_it.py", TELLS)
    text = runner.run("-rP")
    assert _told(text, "first")[1] == zlib.crc32(b"test_it.py::test_first")
    assert _told(text, "second")[1] == zlib.crc32(b"test_it.py::test_second")
    assert _told(text, "first")[0] != _told(text, "second")[0]
    again = runner.run("-rP", "-k", "second")  # whatever ran before it
    assert _told(again, "second") == _told(text, "second")
    assert "to repeat:" not in text  # that is for those who fail


def test_the_variable_chooses_the_seed_and_the_option_beats_it(runner: Runner) -> None:
    runner.write("test_it.py", TELLS)
    by_variable = runner.run("-rP", MACULA_SEED="12")
    assert _told(by_variable, "first")[1] == _told(by_variable, "second")[1] == 12
    by_option = runner.run("-rP", "--macula-seed", "7", MACULA_SEED="12")
    assert _told(by_option, "first")[1] == 7
    assert _told(by_option, "first")[0] != _told(by_variable, "first")[0]
    assert _told(runner.run("-rP", "--macula-seed=7"), "first") == _told(by_option, "first")


@pytest.mark.parametrize("seed", ["x", "-1", "", "1" * 21, "9" * 5000], ids=["x", "-1", "empty", "21", "5000"])
def test_a_bad_option_ends_the_run_with_one_line(runner: Runner, seed: str) -> None:
    runner.write("test_it.py", "def test_it(): pass")
    text = runner.run(f"--macula-seed={seed}", code=pytest.ExitCode.USAGE_ERROR)
    assert f"--macula-seed: {_shown(seed)} is not a seed" in text
    assert "Traceback" not in text
    assert "INTERNALERROR" not in text


@pytest.mark.parametrize("seed", ["x", "9" * 5000], ids=["x", "5000"])
def test_a_bad_variable_fails_those_tests_alone_that_ask_for_a_seed(runner: Runner, seed: str) -> None:
    runner.write("test_sync.py", "def test_it(): pass")
    assert "1 passed" in runner.run("test_sync.py", MACULA_SEED=seed)
    runner.write(
        "test_it.py",
        """
import pytest

@pytest.fixture
def broken():
    raise KeyError("broken")

@pytest.mark.trio
async def test_runs():
    raise AssertionError("it must not begin")

@pytest.mark.trio
async def test_asks(macula_seed): pass

@pytest.mark.trio
async def test_is_broken(broken): pass

def test_asks_for_a_network(sim_network): pass
""",
    )
    text = runner.run(code=1, MACULA_SEED=seed)
    assert "1 failed, 1 passed, 3 errors" in text
    assert len(re.findall(rf"^MACULA_SEED: {re.escape(_shown(seed))} is not a seed", text, re.MULTILINE)) == 3
    assert "INTERNALERROR" not in text
    assert "must not begin" not in text
    assert "pytest_plugin.py" not in text  # no traceback
    assert "KeyError: 'broken'" in text
    assert "3 passed" in runner.run("--macula-seed=7", "-k", "not broken and not runs", MACULA_SEED=seed)


def test_an_empty_variable_is_none(runner: Runner) -> None:
    runner.write("test_it.py", TELLS)
    assert _told(runner.run("-rP", MACULA_SEED=""), "first")[1] == zlib.crc32(b"test_it.py::test_first")


def test_a_failing_trio_test_tells_its_seed_and_how_to_repeat_it(runner: Runner) -> None:
    runner.write(
        "test_it.py",
        f"""{ORDER}
@pytest.mark.trio
@pytest.mark.parametrize("name", ["it's"])
async def test_fails(name):
    assert await order() == ""

@pytest.mark.trio
async def test_passes():
    pass

def test_is_not_async():
    assert False
""",
    )
    text = runner.run(code=1)
    assert text.count("to repeat:") == 1
    found = re.search(r"^seed (\d+); to repeat: pytest (.*)$", text, re.MULTILINE)
    assert found is not None
    assert found[2] == f"""--macula-seed {found[1]} 'test_it.py::test_fails[it'"'"'s]'"""
    orders = re.findall(r"assert '([a-f]{18})' == ''", text)
    again = runner.run("--macula-seed", found[1], "test_it.py::test_fails[it's]", code=1)
    assert re.findall(r"assert '([a-f]{18})' == ''", again) == orders != []


def test_trio_fixtures_start_in_the_same_order_in_every_process(runner: Runner) -> None:
    runner.write(
        "test_it.py",
        """
import pytest
import trio
from macula_trio.testing import ScheduleDigest

@pytest.fixture
def digest():
    return ScheduleDigest()

@pytest.fixture
async def a(): await trio.sleep(0); yield; await trio.sleep(0)
@pytest.fixture
async def b(): await trio.sleep(0); yield; await trio.sleep(0)
@pytest.fixture
async def c(): await trio.sleep(0); yield; await trio.sleep(0)
@pytest.fixture
async def d(a, b, c): await trio.sleep(0); yield; await trio.sleep(0)

@pytest.fixture
def after(digest):
    yield
    print("digest:", digest.hexdigest(), digest.steps)

@pytest.mark.trio
async def test_it(after, digest, d, c, b, a, nursery, autojump_clock):
    await trio.sleep(1)
""",
    )
    assert len({_told(runner.run("-rP", PYTHONHASHSEED=str(seed)), "digest") for seed in range(3)}) == 1


@pytest.mark.parametrize("trio_mode", [True, False], ids=["trio_mode", "marked"])
def test_tests_of_hypothesis_go_on_working(runner: Runner, trio_mode: bool) -> None:
    mark = "" if trio_mode else "@pytest.mark.trio"
    runner.write("pytest.ini", f"[pytest]\ntrio_mode = {str(trio_mode).lower()}\n")
    runner.write(
        "test_it.py",
        f"""{ORDER}
from hypothesis import given, strategies as st
from trio._core import _run

orders = set()

{mark}
@given(number=st.integers())
async def test_many(number):
    orders.add(await order())

def test_all_examples_had_one_schedule():
    assert len(orders) == 1
    assert _run._ALLOW_DETERMINISTIC_SCHEDULING is True

{mark}
@given(number=st.integers())
async def test_fails(number):
    await order()
    assert number < 10
""",
    )
    text = runner.run(code=1)
    assert "1 failed, 2 passed" in text
    assert "number=10," in text
    assert "Flaky" not in text
    assert text.count("to repeat:") == 1


def test_tests_of_other_processes_tell_their_seeds(runner: Runner) -> None:
    pytest.importorskip("xdist")
    runner.write("test_it.py", TELLS.replace("print(", "raise AssertionError("))
    assert runner.run("-n2", "--macula-seed=3", code=1).count("seed 3; to repeat:") == 2


# -- fixtures --------------------------------------------------------------------------------------------------------

MESHES: Final = """
import os
import pytest
import trio
from macula_trio.testing import SimNetwork, World

async def answer(call):
    return call.args

{mark}
async def test_a_mesh(open_mesh, sim_network, autojump_clock):
    async with open_mesh(3) as nodes, nodes[0].advertise("a.b", answer):
        assert await nodes[2].call("a.b", [1]) == [1]
        assert len(sim_network.bound) == 3
    print("mesh:", sim_network.digest, os.urandom(2)[0])

{mark}
async def test_a_mesh_elsewhere(open_mesh, sim_network, autojump_clock):
    other = SimNetwork()
    async with open_mesh(2, network=other):
        assert len(other.bound) == 2
        assert sim_network.bound == []

{mark}
async def test_a_world(scenario_world, macula_seed, autojump_clock, nursery):
    nursery.start_soon(trio.sleep_forever)
    assert isinstance(scenario_world, World)
    assert scenario_world.seed == macula_seed
    await scenario_world.start("one")
    await scenario_world.start("two")
    print("world:", scenario_world.trace.hash, macula_seed)
    print("time:", round(trio.current_time() * 1e6), len(scenario_world.network.bound))
"""


@pytest.mark.parametrize("trio_mode", [True, False], ids=["trio_mode", "marked"])
def test_meshes_and_worlds_are_at_hand_and_repeat(runner: Runner, trio_mode: bool) -> None:
    runner.write("pytest.ini", f"[pytest]\ntrio_mode = {str(trio_mode).lower()}\nfilterwarnings = error\n")
    runner.write("test_it.py", MESHES.format(mark="" if trio_mode else "@pytest.mark.trio"))
    first, second = runner.run("-rP", PYTHONHASHSEED="1"), runner.run("-rP", PYTHONHASHSEED="2")
    assert "3 passed" in first
    for name in ("mesh", "world", "time"):
        assert _told(first, name) == _told(second, name)
    other = runner.run("-rP", "--macula-seed=5")
    assert _told(other, "mesh")[1] != _told(first, "mesh")[1]  # the entropy of the nodes
    assert _told(other, "world") != _told(first, "world")


def test_a_networks_chance_follows_from_the_seed(runner: Runner) -> None:
    runner.write(
        "test_it.py",
        """
from macula_trio.testing import LinkModel

def test_it(sim_network, macula_seed):
    sim_network.set_link(LinkModel(loss=0.5))
    fates = [sim_network.conditions.fate("a", "b", 9, 0.0) for _ in range(64)]
    print("fates:", "".join("10"[fate.loss is None] for fate in fates), macula_seed)
""",
    )
    first, other = (runner.run("-rP", f"--macula-seed={seed}") for seed in (1, 2))
    assert _told(first, "fates")[0] != _told(other, "fates")[0]
    assert _told(runner.run("-rP", "--macula-seed=1"), "fates") == _told(first, "fates")


def test_an_error_of_the_world_fails_the_test(runner: Runner) -> None:
    runner.write(
        "test_it.py",
        """
import pytest

@pytest.mark.trio
async def test_it(scenario_world, autojump_clock):
    await scenario_world.start("one")
    scenario_world.check("the sky is blue", False, "it is grey")
""",
    )
    text = runner.run(code=1)
    assert "the sky is blue: it is grey" in text
    assert "to repeat:" in text


# -- runs that want nothing of it ------------------------------------------------------------------------------------

ALONE: Final = ("-p", "no:trio", "-p", "no:hypothesispytest", "-p", "no:anyio")  # they load Trio by themselves
UNIMPORTABLE: Final = ("aioquic", "attr", "attrs", "cryptography", "msgpack", "OpenSSL", "trio")


def _without(runner: Runner, *modules: str) -> dict[str, str]:
    """An environment in which these modules cannot be imported."""
    for module in modules:
        runner.write(f"broken/{module}/__init__.py", f'raise ImportError("{module} is broken")')
    path = [str(runner.directory / "broken"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(path)}


def test_an_unrelated_run_does_not_need_what_the_package_needs(runner: Runner) -> None:
    runner.write("test_it.py", "def test_it(): pass")
    environment = _without(runner, *UNIMPORTABLE)
    runner.run(*ALONE, **environment)
    assert "sim_network" in runner.run(*ALONE, "--fixtures", **environment)


def test_an_unrelated_run_loads_nothing_of_it(runner: Runner) -> None:
    runner.write(
        "test_it.py",
        f"""
import sys

def test_it(pytestconfig):
    assert pytestconfig.pluginmanager.has_plugin("macula_trio")
    own = {{name for name in sys.modules if name.startswith("macula_trio")}}
    assert own == {{"macula_trio", "macula_trio.testing", "macula_trio.testing.pytest_plugin"}}
    assert {set(UNIMPORTABLE)!r}.isdisjoint(sys.modules)
""",
    )
    runner.run(*ALONE)


def test_it_can_be_left_out(runner: Runner) -> None:
    runner.write("test_it.py", TELLS.replace("macula_seed", "monkeypatch").replace(", monkeypatch)", ", 1)"))
    runner.run("-p", "no:macula_trio", MACULA_SEED="nonsense")
    assert "unrecognized arguments" in runner.run("-p", "no:macula_trio", "--macula-seed=1", code=4)


def test_another_trio_stops_the_own_fixtures_and_nothing_else(runner: Runner) -> None:
    # The generator must be there for Trio itself, but of another kind.
    runner.write(
        "conftest.py",
        """
import random
import trio._core._run as run

class Otherwise:
    def __init__(self):
        self.inner = random.Random()

    def __getattr__(self, name):
        return getattr(self.inner, name)

run._r = Otherwise()
""",
    )
    runner.write(
        "test_it.py",
        f"""{ORDER}
def test_is_not_async():
    pass

@pytest.mark.trio
async def test_passes():
    await order()

@pytest.mark.trio
async def test_fails():
    assert await order() == ""

@pytest.mark.trio
async def test_asks(sim_network):
    pass

@pytest.mark.trio
async def test_asks_for_a_world(scenario_world):
    pass
""",
    )
    text = runner.run(code=1)
    assert "1 failed, 2 passed, 2 errors" in text
    why = r"trio [\d.]+ has no trio\._core\._run\._r as replays need it; macula_trio [\d.]+ knows trio"
    assert len(re.findall(rf"^this test has no seed, .*: {why}", text, re.MULTILINE)) == 3
    assert len(re.findall(rf"^the fixtures of macula_trio cannot be used here: {why}", text, re.MULTILINE)) == 2
    assert "to repeat: " not in text


def test_without_trio_the_own_fixtures_say_so(runner: Runner) -> None:
    runner.write("test_it.py", "def test_it(sim_network): pass\ndef test_passes(): pass")
    text = runner.run(*ALONE, code=1, **_without(runner, "trio"))
    assert "1 passed, 1 error" in text
    assert "the fixtures of macula_trio cannot be used here: ImportError: trio is broken" in text
    assert "Traceback" not in text

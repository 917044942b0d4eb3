"""What is checked, and how: ``nox`` alone runs everything that a change must pass.

``nox -s tests-3.12 -- tests/dht -k lookup`` takes one interpreter and hands the rest to pytest;
``nox -r`` keeps the environments of the last run.  Interpreters are found, never downloaded.

Versions come from ``lock.txt``, so that a verdict changes with a commit here and not with a release elsewhere;
``tests_min`` and ``tests_latest`` look at both ends of what ``pyproject.toml`` allows.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import nox

ROOT = Path(__file__).parent
PROJECT = nox.project.load_toml(ROOT / "pyproject.toml")
PYTHONS = ["3.11", "3.12", "3.13", "3.14"]
LOCK = ROOT / "lock.txt"
SCENARIOS = ROOT / "scenarios"
SCENARIO_NAMES = sorted(path.stem for path in SCENARIOS.glob("*.py"))
# Too long for every day; `nox -s scenarios_all` has them.
LONG_SCENARIOS = {"churn", "store_fanout", "thousand_nodes", "thundering_join"}

FUZZ_PYTHON = "3.13"  # atheris has wheels for 3.11 to 3.13
FUZZ_TARGETS = ["frames", "handshakes", "dht", "hellos", "certificates"]
FUZZ_FOUND = 77  # libFuzzer's exit code

# flake8-async checks what ruff cannot see; flake8 lends it all cores, because it takes a second for 300 lines.
ASYNC_RULES = ["--isolated", "--select=ASYNC1,ASYNC2,ASYNC3,ASYNC9"]
ASYNC_DISABLED = [
    "ASYNC114",  # wants a second list of all functions that take task_status
    "ASYNC122",  # is about Trio before 0.27
    "ASYNC128",  # does not see that task_status is handed on to the one who calls started()
    # Ask a checkpoint of private functions and of every return behind a caught error as well.  The loops and
    # scopes that cannot be cancelled are found by ASYNC912 and ASYNC913.
    "ASYNC910",
    "ASYNC911",
]
ASYNC_DISABLED_IN_TESTS = [*ASYNC_DISABLED, "ASYNC124"]  # a test may be async for its fixtures alone, a handler as such
# These see no checkpoint in a call that may fail, and none in a comprehension.
ASYNC_DISABLED_IN_SCENARIOS = [*ASYNC_DISABLED_IN_TESTS, "ASYNC100", "ASYNC912"]

nox.needs_version = ">=2025.10.14"  # the first whose noxfiles may set download_python
nox.options.sessions = ["tests", "lint", "types", "scenarios", "docs"]
nox.options.default_venv_backend = "uv|virtualenv"  # uv saves a minute and a half of a whole run; pip does as well
nox.options.download_python = "never"
nox.options.error_on_external_run = True
nox.options.error_on_missing_interpreters = False  # also where CI is set: a skipped one is told, in one line


def expose_pyenv() -> None:
    """Let nox see every interpreter that pyenv holds, not only the one that is selected."""
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    # In front, because a shim of pyenv's answers for versions that it then refuses to start.
    found = [str(path) for path in sorted(root.glob("versions/3.*/bin"))]
    os.environ["PATH"] = os.pathsep.join([*found, os.environ.get("PATH", os.defpath)])


expose_pyenv()

# Every day the long ones are left out, and on all but the oldest that is here those that say nothing about an
# interpreter.
HERE = [version for version in PYTHONS if shutil.which(f"python{version}")] or PYTHONS[:1]
OLDEST, NEWEST = HERE[0], HERE[-1]
EVERYDAY, BRIEF, LONG = ("-m", "not long"), ("-m", "not long and not thorough"), ("-m", "long")
# Which are slow is told each time, before they are many.
PARALLEL = ("-n", "auto", "--dist", "worksteal", "--durations=20")


def group(name: str) -> tuple[str, ...]:
    """Requirements of a dependency group of pyproject.toml."""
    return nox.project.dependency_groups(PROJECT, name)


@functools.cache
def wheel_directory() -> Path:
    """Where this run of nox keeps its wheel; made empty once."""
    directory = ROOT / ".nox" / "wheel"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    return directory


@functools.cache
def constraints() -> tuple[str, str]:
    """Options that pin every version to the locked one; without hashes, as our own wheel can have none."""
    path = ROOT / ".nox" / "constraints.txt"
    lines = (line.removesuffix(" \\") for line in LOCK.read_text().splitlines() if not line.startswith(" "))
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return "-c", str(path)


def lowest() -> list[str]:
    """The oldest versions that pyproject.toml allows, one requirement each."""
    project = PROJECT["project"]
    extras = project["optional-dependencies"]
    allowed = [*project["dependencies"], *extras["cli"], *extras["http"]]
    return [re.sub(r">=(\S+)", r"==\1", requirement) for requirement in allowed]


def install_wheel(session: nox.Session, *requirements: str) -> None:
    """Install the package as users get it, with its extras ``cli`` and ``http``; the wheel is built once per run."""
    directory = wheel_directory()
    if not list(directory.glob("*.whl")):
        session.install(*group("wheel"), *constraints())
        session.run("python", "-m", "build", "--wheel", "--outdir", str(directory), str(ROOT), silent=True)
    wheel = next(directory.glob("*.whl"))
    session.install(f"{wheel}[cli,http]", *requirements)
    # In an environment that is used again pip would keep the old wheel: its version is the same.
    session.install("--force-reinstall", "--no-deps", str(wheel))


def install_locked(session: nox.Session, *requirements: str) -> None:
    """Install the package with the locked versions, by which the golden traces were made, too."""
    install_wheel(session, *requirements, *constraints())


def replay(session: nox.Session, *names: str) -> None:
    """Replay scenarios under two hash seeds each; both must give the committed trace."""
    for name in session.posargs or names:
        path, golden = SCENARIOS / f"{name}.py", SCENARIOS / "golden" / f"{name}.jsonl"
        session.run("macula-trio", "replay", str(path), "--against", str(golden), "--hash-seeds", "1:3")


def run_pytest(session: nox.Session, launcher: Sequence[str], *options: str, part: str = "tests") -> None:
    """Run the tests from an empty directory, so that only the installed package can be imported."""
    pytest = ["-m", "pytest", "-c", str(ROOT / "pyproject.toml"), *options]
    arguments = [str(ROOT / part) if (ROOT / part.partition("::")[0]).exists() else part for part in session.posargs]
    if not any(part.startswith(str(ROOT)) for part in arguments):
        arguments.append(str(ROOT / part))
    with tempfile.TemporaryDirectory() as empty, session.chdir(empty):
        session.run(*launcher, *pytest, *arguments, env={"TESTS_OF_THE_WHEEL": "1"})


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the everyday tests against the wheel, on every supported interpreter that is here: most of them on one."""
    install_locked(session, *group("test"))
    chosen = () if session.posargs else EVERYDAY if session.python == OLDEST else BRIEF
    run_pytest(session, ["python"], *PARALLEL, *chosen)


@nox.session(python=OLDEST)
def tests_long(session: nox.Session) -> None:
    """Run the tests that the everyday sessions leave out: sweeps, and what takes many processes or nodes."""
    install_locked(session, *group("test"))
    run_pytest(session, ["python"], *PARALLEL, *(() if session.posargs else LONG))


@nox.session(python=PYTHONS)
def tests_all(session: nox.Session) -> None:
    """Run all tests on every supported interpreter that is here; takes half an hour."""
    install_locked(session, *group("test"))
    run_pytest(session, ["python"], *PARALLEL)


@nox.session(python=OLDEST)
def tests_min(session: nox.Session) -> None:
    """Run most tests with the oldest versions that pyproject.toml allows: what it says is what this proves."""
    install_wheel(session, *group("test"), *lowest())
    run_pytest(session, ["python"], *PARALLEL, *(() if session.posargs else BRIEF))


@nox.session(python=NEWEST)
def tests_latest(session: nox.Session) -> None:
    """Run all tests with the newest versions, those before their release included: what is coming."""
    before_release = "--prerelease=allow" if session.venv_backend == "uv" else "--pre"
    install_wheel(session, *group("test"), before_release)
    run_pytest(session, ["python"], *PARALLEL)


@nox.session(python=OLDEST)
def interop(session: nox.Session) -> None:
    """Let clients of v0.8 that are not ours talk to a node: on plain aioquic, and on Deno's QUIC; none is skipped."""
    install_locked(session, *group("test"), *group("interop"))
    session.env["TESTS_OF_INTEROP"] = "1"
    run_pytest(session, ["python"], part="tests/interop")


@nox.session
def lock(session: nox.Session) -> None:
    """Write lock.txt anew: the newest versions of everything that is used here, for all interpreters and systems."""
    session.install("uv")
    groups = [part for name in PROJECT["dependency-groups"] for part in ("--group", name)]
    session.run(
        *("uv", "pip", "compile", "--quiet", "--universal", "--python-version", PYTHONS[0], "--all-extras", *groups),
        *("--generate-hashes", "--no-header", "--no-annotate", "--no-emit-index-url", "--upgrade"),
        *("--output-file", str(LOCK), "pyproject.toml"),
    )


@nox.session(venv_backend="none")
def dev(session: nox.Session) -> None:
    """Make .venv for development: the locked versions by their hashes, and the package from the tree."""
    python = str(ROOT / ".venv" / ("Scripts" if os.name == "nt" else "bin") / "python")
    session.run("python3", "-m", "venv", str(ROOT / ".venv"), external=True)
    install = (python, "-m", "pip", "install", "--quiet")
    session.run(*install, "--require-hashes", "-r", str(LOCK), external=True)
    session.run(*install, "--no-deps", "--editable", str(ROOT), external=True)


@nox.session
def scenarios(session: nox.Session) -> None:
    """Replay the everyday scenarios against their golden traces; `-- NAME...` takes others."""
    install_locked(session)
    replay(session, *sorted(set(SCENARIO_NAMES) - LONG_SCENARIOS))


@nox.session(python=PYTHONS)
def scenarios_all(session: nox.Session) -> None:
    """Replay all scenarios, on every supported interpreter that is here."""
    install_locked(session)
    replay(session, *SCENARIO_NAMES)


@nox.session
def golden(session: nox.Session) -> None:
    """Write the golden traces anew: what a change did to them is then seen in the diff."""
    install_locked(session)
    for name in session.posargs or SCENARIO_NAMES:
        path, golden = SCENARIOS / f"{name}.py", SCENARIOS / "golden" / f"{name}.jsonl"
        session.run("macula-trio", "replay", str(path), "--trace", str(golden))


@nox.session(python=FUZZ_PYTHON)
def fuzz(session: nox.Session) -> None:
    """Fuzz with atheris, each target for a minute; `-- --seconds N` for N seconds, `-- frames` only this one."""
    install_locked(session, *group("fuzz"))
    chosen = [name for name in session.posargs if name in FUZZ_TARGETS]
    options = [part for part in session.posargs if part not in FUZZ_TARGETS]
    findings = ROOT / ".nox" / "findings"
    for name in chosen or FUZZ_TARGETS:
        command = ("python", str(ROOT / "tests" / "fuzz"), name, "--findings", str(findings), *options)
        session.run(*command, success_codes=[0, FUZZ_FOUND])  # found or not, the others have their turn
    found = sorted(path.name for path in findings.glob("*"))
    if found:
        session.error(f"findings in {findings}: {', '.join(found)}; mend the bug, keep the input in a test, delete it")


def flake8_async(session: nox.Session, disabled: Sequence[str], *parts: str) -> None:
    """Check Trio's rules in parts of the tree."""
    session.install(*group("lint"), *constraints())
    session.run("flake8", *ASYNC_RULES, f"--extend-ignore={','.join(disabled)}", *(str(ROOT / part) for part in parts))


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format with ruff, and Trio's rules in what is run by others with flake8-async."""
    session.install(*group("lint"), *constraints())
    session.run("ruff", "check", str(ROOT))
    session.run("ruff", "format", "--check", str(ROOT))
    flake8_async(session, ASYNC_DISABLED, "src")
    flake8_async(session, ASYNC_DISABLED_IN_SCENARIOS, "scenarios")


@nox.session
def lint_tests(session: nox.Session) -> None:
    """Check Trio's rules in the tests and the benchmarks as well; takes a minute."""
    flake8_async(session, ASYNC_DISABLED_IN_TESTS, "tests", "benchmarks")


@nox.session
def types(session: nox.Session) -> None:
    """Check the types inside with mypy, and that everything public has one with pyright."""
    install_locked(session, *group("types"))
    session.run("mypy", "--strict")
    # Outside the tree, so that pyright meets the installed package and its py.typed marker.
    session.env["PYRIGHT_PYTHON_IGNORE_WARNINGS"] = "1"  # no word about newer releases: it is pinned
    with tempfile.TemporaryDirectory() as empty, session.chdir(empty):
        session.run("pyright", "--verifytypes", "macula_trio", "--ignoreexternal")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the site; a link, a name or a page that leads nowhere fails, and whatever comes from another host."""
    install_locked(session, *group("docs"))
    site = str(ROOT / ".nox" / "site")
    # Its makers advertise what comes after MkDocs 1; see docs/design/dependencies.md.
    session.run("mkdocs", "build", "--strict", "--site-dir", site, env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session
def coverage(session: nox.Session) -> None:
    """Measure coverage by branch; the sans-IO layers must be covered to the last one."""
    install_locked(session, *group("coverage"))
    data = {"COVERAGE_FILE": str(ROOT / ".coverage"), "COVERAGE_RCFILE": str(ROOT / "pyproject.toml")}
    session.env.update(data)
    session.run("coverage", "erase")
    # ``coverage run``, not a pytest plugin: it starts before anything imports the package.
    run_pytest(session, ["coverage", "run"])
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report")
    layers = PROJECT["tool"]["macula-trio"]["layers"]
    pure = ",".join(f"*/macula_trio/{pattern}" for layer in ("L0", "L1") for pattern in layers[layer])
    session.run("coverage", "report", "--fail-under=100", f"--include={pure}")

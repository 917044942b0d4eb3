"""Trio tests that repeat, and meshes for them: what the installed package adds to pytest.

Every pytest run of an environment imports this file, so it imports nothing but pytest and the standard library.  What
needs Trio is imported by the test that asks for it.
"""

from __future__ import annotations

import os
import shlex
import sys
import zlib
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Iterator, MutableSet
from contextlib import AbstractAsyncContextManager, ExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

import pytest

if TYPE_CHECKING:
    from pluggy import Result

    from macula_trio._node import Node
    from macula_trio.testing._world import World
    from macula_trio.testing.network import SimNetwork

VARIABLE: Final = "MACULA_SEED"
SEED_DIGITS_MAX: Final = 20  # those of 64 bits; Python itself refuses to read a number of some thousands
SHOWN_MAX: Final = 40  # characters of a bad seed in a complaint
SECTION: Final = "macula_trio"
OWN_FIXTURES: Final = frozenset({"sim_network", "scenario_world"})  # `open_mesh` brings the first along

T = TypeVar("T")

NOT_SEEDED: Final = pytest.StashKey[str]()  # of an item: why


def pytest_addoption(parser: pytest.Parser) -> None:
    """Offer ``--macula-seed``."""
    parser.getgroup("macula_trio").addoption(
        "--macula-seed",
        metavar="N",
        help=f"seed of every Trio test (default: {VARIABLE}, else each test has one that follows from its name)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """End the run before it begins when the option is no seed; let pytest-trio start fixtures in a fixed order."""
    if config.getoption("--macula-seed") is not None:  # the variable may be meant for others: whom it concerns sees it
        _chosen_seed(config)
    pytest_trio = sys.modules.get("pytest_trio.plugin")
    if pytest_trio is not None:
        # It keeps a test's fixtures in a set, hashed by id, and starts their tasks in the order of that set.
        vars(pytest_trio)["set"] = _OrderedSet
        config.add_cleanup(partial(vars(pytest_trio).pop, "set", None))


@pytest.hookimpl(hookwrapper=True, tryfirst=True)  # the new `wrapper=True` would be an error under an old pytest
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Run Trio tests on a schedule that follows from the seed; pytest-trio starts Trio inside of this."""
    with ExitStack() as stack:
        if _is_trio_test(item):
            own = not OWN_FIXTURES.isdisjoint(getattr(item, "fixturenames", ()))
            reason = _enter_determinism(stack, _seed_or_fail(item), entropy=own)
            if reason is not None:
                item.stash[NOT_SEEDED] = reason
        yield


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Result[pytest.TestReport], None]:
    """Tell the seed of a Trio test that has failed."""
    outcome = yield
    report = outcome.get_result()
    if report.failed and _is_trio_test(item):
        with suppress(pytest.UsageError):  # the test has failed because of it, or would have
            report.sections.append((SECTION, _seed_text(item)))


# -- fixtures ------------------------------------------------------------------------------------------------------


@pytest.fixture
def macula_seed(request: pytest.FixtureRequest) -> int:
    """The seed of this test."""
    return _seed_or_fail(request.node)


@pytest.fixture
def _determinism(request: pytest.FixtureRequest) -> None:
    """Fail with one clear line where replays are impossible, before anything needs Trio."""
    with ExitStack() as stack:
        reason = _enter_determinism(stack, 0, entropy=True)
    if reason is not None:
        request.node.stash[NOT_SEEDED] = reason
        pytest.fail(f"the fixtures of macula_trio cannot be used here: {reason}", pytrace=False)


@pytest.fixture
def sim_network(macula_seed: int, _determinism: None) -> SimNetwork:
    """A simulated network of this test's own, whose chance follows from its seed."""
    from macula_trio.testing.network import SimNetwork

    return SimNetwork(seed=macula_seed)


@pytest.fixture
def open_mesh(sim_network: SimNetwork) -> Callable[..., AbstractAsyncContextManager[list[Node]]]:
    """`macula_trio.testing.open_mesh`, on ``sim_network`` unless another network is given."""
    from macula_trio.testing._mesh import open_mesh

    return partial(open_mesh, network=sim_network)


@pytest.fixture
async def scenario_world(macula_seed: int, _determinism: None) -> AsyncGenerator[World, None]:
    """A `macula_trio.testing.World` for the length of the test, whose chance follows from the test's seed."""
    from macula_trio.testing._world import open_world

    async with open_world(seed=macula_seed) as world:
        yield world


# -- inside --------------------------------------------------------------------------------------------------------


class _OrderedSet(MutableSet[T]):
    """A set in the order of insertion."""

    def __init__(self, items: Iterable[T] = ()) -> None:
        self._items = dict.fromkeys(items)

    def __contains__(self, item: object) -> bool:
        return item in self._items

    def __iter__(self) -> Iterator[T]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def add(self, value: T) -> None:
        self._items[value] = None

    def discard(self, value: T) -> None:
        self._items.pop(value, None)

    def update(self, items: Iterable[T]) -> None:
        self._items.update(dict.fromkeys(items))


def _is_trio_test(item: pytest.Item) -> bool:
    return item.get_closest_marker("trio") is not None


def _chosen_seed(config: pytest.Config) -> int | None:
    """The seed that somebody asked for: the option, else the variable, which CI leaves empty for "not set".

    Raises:
      pytest.UsageError: it is not a whole number, or too long.
    """
    option: str | None = config.getoption("--macula-seed")
    source, text = (VARIABLE, os.environ.get(VARIABLE) or None) if option is None else ("--macula-seed", option)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= SEED_DIGITS_MAX):
        shown = text if len(text) <= SHOWN_MAX else f"{text[:SHOWN_MAX]}..."
        wanted = f"a whole number of at most {SEED_DIGITS_MAX} digits, such as 7"
        raise pytest.UsageError(f"{source}: {shown!r} is not a seed, which is {wanted}")
    return int(text)


def _seed_of(item: pytest.Item) -> int:
    chosen = _chosen_seed(item.config)
    return zlib.crc32(item.nodeid.encode("utf-8", "backslashreplace")) if chosen is None else chosen


def _seed_or_fail(item: pytest.Item) -> int:
    """The seed of a test that needs it now, and fails when the variable is none."""
    try:
        return _seed_of(item)
    except pytest.UsageError as exc:
        raise pytest.fail.Exception(str(exc), pytrace=False) from None  # `pytest.fail` would say it twice


def _seed_text(item: pytest.Item) -> str:
    reason = item.stash.get(NOT_SEEDED, None)
    if reason is not None:
        return f"this test has no seed, so it may go another way when it is repeated: {reason}"
    seed = _seed_of(item)
    return f"seed {seed}; to repeat: pytest --macula-seed {seed} {shlex.quote(item.nodeid)}"


def _enter_determinism(stack: ExitStack, seed: int, *, entropy: bool) -> str | None:
    """Run the rest of ``stack`` as a function of ``seed``; otherwise give the reason why that is impossible.

    Args:
      stack: entered.
      seed: of the test.
      entropy: also what comes from `os.urandom`, which is where nodes get their jitter from.
    """
    try:
        from macula_trio.testing._determinism import DeterminismUnavailable, deterministic, deterministic_scheduler
    except ImportError as exc:
        return f"{type(exc).__name__}: {exc}"
    try:
        stack.enter_context((deterministic if entropy else deterministic_scheduler)(seed))
    except DeterminismUnavailable as exc:
        return str(exc)
    return None

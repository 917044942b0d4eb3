"""The same seed, the same run: the only module that reaches into private parts of Trio and aioquic.

What it changes, it changes for the length of a ``with`` block.  Whether Trio and aioquic are still made as it
supposes is looked at when a block is entered and never at import, so that a new release of theirs stops replays
and nothing else.  The changes are to the whole process: blocks may be nested, but not used in two threads at once.
"""

from __future__ import annotations

import gc
import hashlib
import os
import random
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from importlib.metadata import version
from typing import Final, Generic, TypeVar

import attrs
import trio
from trio.lowlevel import Task
from trio.testing import MockClock

from macula_trio.errors import MeshError
from macula_trio.testing._deadlock import (
    STEPS_PER_INSTANT_MAX,
    VIRTUAL_S_MAX,
    Deadlock,
    DeadlockWatch,
    without_addresses,
)

__all__ = [
    "Deadlock",
    "DeadlockWatch",
    "DeterminismUnavailable",
    "ScheduleDigest",
    "SeededRun",
    "deterministic",
    "deterministic_scheduler",
    "run_seeded",
]

TRIO_KNOWN: Final = "0.30 to 0.35"  # both ends gave the same schedules, on Python 3.11 and 3.13
AIOQUIC_KNOWN: Final = "1.7"

SWITCH: Final = "_ALLOW_DETERMINISTIC_SCHEDULING"
SWITCHED_ON: Final = 1  # as good as True to Trio, and known again as ours: Hypothesis sets True, which must stay

STEPS_KEPT: Final = 300  # of `ScheduleDigest.last`: enough to see where two runs part, a few screens to read
COLLECT_STEPS: Final = 50_000  # between two garbage collections; some 0.3 s of work

T = TypeVar("T")


class DeterminismUnavailable(MeshError):
    """The installed Trio or aioquic is not made as replays need it."""


# -- the private parts ---------------------------------------------------------------------------------------------


@contextmanager
def deterministic_scheduler(seed: int) -> Iterator[None]:
    """Make every `trio.run` inside the block schedule its tasks as a function of ``seed``.

    Raises:
      DeterminismUnavailable: this Trio does it otherwise.
    """
    internals, generator = _scheduler()
    state = generator.getstate()
    # An outer block, or Hypothesis, may have switched it on already.
    ours = not internals[SWITCH]
    if ours:
        internals[SWITCH] = SWITCHED_ON
    generator.seed(seed)
    try:
        yield
    finally:
        generator.setstate(state)
        # True by now: Hypothesis was imported inside the block, and has to find it so for ever.
        if ours and internals[SWITCH] is SWITCHED_ON:
            internals[SWITCH] = False


@contextmanager
def deterministic(seed: int) -> Iterator[None]:
    """Make schedule, `os.urandom` and the order of aioquic's streams a function of ``seed`` inside the block.

    Key shares come from OpenSSL and still differ: they change the bytes of datagrams, never their sizes or times.

    Raises:
      DeterminismUnavailable: this Trio or aioquic does it otherwise.
    """
    stream_class = _stream_class()
    entropy = random.Random(f"entropy:{seed}")
    with (
        deterministic_scheduler(seed),
        _seeded_globally(seed),
        _replaced(os, "urandom", entropy.randbytes),
        _replaced(random, "_urandom", entropy.randbytes),  # of `random.SystemRandom`, and so of `secrets`
        # aioquic extends its queue of streams by a set of those that were sent.
        _replaced(stream_class, "__hash__", _hash_by_stream_id),
    ):
        yield


@contextmanager
def _seeded_globally(seed: int) -> Iterator[None]:
    """The functions of `random` itself: nothing of ours uses them, an application under test may."""
    state = random.getstate()
    random.seed(f"global:{seed}")
    try:
        yield
    finally:
        random.setstate(state)


def _scheduler() -> tuple[dict[str, object], random.Random]:
    """The names of Trio's run loop, and the generator that it shuffles tasks with."""
    try:
        import trio._core._run as run
    except ImportError as exc:
        raise _unavailable("trio", "trio._core._run", TRIO_KNOWN) from exc
    internals = vars(run)  # the switch is Final to type checkers
    generator = internals.get("_r")
    if not isinstance(generator, random.Random):
        raise _unavailable("trio", "trio._core._run._r", TRIO_KNOWN)
    switch = internals.get(SWITCH)
    if not isinstance(switch, bool) and switch is not SWITCHED_ON:
        raise _unavailable("trio", f"trio._core._run.{SWITCH}", TRIO_KNOWN)
    return internals, generator


def _stream_class() -> type:
    """The class of aioquic's streams, if they are hashed by id and know their number."""
    try:
        from aioquic.quic.stream import QuicStream

        numbers = (QuicStream(stream_id=4).stream_id, QuicStream().stream_id)
    except (ImportError, TypeError, AttributeError) as exc:
        raise _unavailable("aioquic", "aioquic.quic.stream.QuicStream.stream_id", AIOQUIC_KNOWN) from exc
    by_identity = QuicStream.__eq__ is object.__eq__ and QuicStream.__hash__ in (object.__hash__, _hash_by_stream_id)
    if numbers != (4, None) or not by_identity:
        raise _unavailable("aioquic", "QuicStream that is hashed by identity", AIOQUIC_KNOWN)
    return QuicStream


def _hash_by_stream_id(stream: object) -> int:
    number: int | None = stream.stream_id  # type: ignore[attr-defined]  # a QuicStream; aioquic stays unimported here
    return -2 if number is None else number  # streams of the handshake have none; the hash of None is an address


def _unavailable(library: str, missing: str, known: str) -> DeterminismUnavailable:
    return DeterminismUnavailable(
        f"{library} {version(library)} has no {missing} as replays need it;"
        f" macula_trio {version('macula-trio')} knows {library} {known}"
    )


@contextmanager
def _replaced(owner: object, name: str, value: object) -> Iterator[None]:
    """Set an attribute for the length of the block; one that was inherited is inherited again."""
    own = name in vars(owner)
    before: object = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if own:
            setattr(owner, name, before)
        else:
            delattr(owner, name)


# -- a run seen from outside -----------------------------------------------------------------------------------------


class ScheduleDigest(trio.abc.Instrument):
    """A hash over when (in virtual us) which task was stepped: its name, and its number in the order of spawning.

    Attributes:
      steps: how many there were.
    """

    def __init__(self) -> None:
        self.steps: int = 0
        self._hash = hashlib.blake2b(digest_size=16)
        self._last: deque[tuple[float, str]] = deque(maxlen=STEPS_KEPT)
        self._names: dict[Task, str] = {}
        self._spawned = 0

    def task_spawned(self, task: Task) -> None:
        """Give it its number."""
        self._names[task] = f"{without_addresses(task.name)} #{self._spawned}"
        self._spawned += 1

    def task_exited(self, task: Task) -> None:
        """Forget it."""
        del self._names[task]

    def before_task_step(self, task: Task) -> None:
        """Add one step."""
        now, name = trio.current_time(), self._names[task]
        self.steps += 1
        self._hash.update(b"%d %s\n" % (round(now * 1e6), name.encode("utf-8", "backslashreplace")))
        self._last.append((now, name))

    def hexdigest(self) -> str:
        """The hash over all steps so far."""
        return self._hash.hexdigest()

    @property
    def last(self) -> deque[str]:
        """The last few hundred steps, such as ``"t=1.000250 pump #17"``."""
        return deque((f"t={now:.6f} {name}" for now, name in self._last), maxlen=STEPS_KEPT)


# -- a whole run ---------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class SeededRun(Generic[T]):
    """What `run_seeded` gives.

    Attributes:
      result: of the scenario.
      schedule: hash over every step of every task, hexadecimal; compare it only between runs of the same code.
      steps: how many there were.
      virtual_s: how long the run took on Trio's clock.
    """

    result: T
    schedule: str
    steps: int
    virtual_s: float


def run_seeded(
    scenario: Callable[[random.Random], Awaitable[T]],
    *,
    seed: int,
    virtual_s_max: float = VIRTUAL_S_MAX,
    steps_per_instant_max: int = STEPS_PER_INSTANT_MAX,
    instruments: Sequence[trio.abc.Instrument] = (),
) -> SeededRun[T]:
    """Run a scenario on Trio's mock clock, as a function of ``seed``: the same steps in the same order every time.

    It may use neither threads nor real sockets: the clock jumps while they work.

    Args:
      scenario: called with a generator of its own that follows from the seed.
      seed: of everything.
      virtual_s_max: a run that takes longer on Trio's clock is stuck.
      steps_per_instant_max: a run that takes more steps while that clock stands still is stuck, too.
      instruments: further ones for `trio.run`.

    Raises:
      Deadlock: the scenario would never have ended.
      DeterminismUnavailable: Trio or aioquic are of a version that cannot be replayed.
      RuntimeError: Trio runs already.
    """
    if trio.lowlevel.in_trio_run():
        raise RuntimeError("run_seeded starts Trio itself; call it from a function that is not async")
    clock = MockClock(autojump_threshold=0)
    digest, watch = ScheduleDigest(), DeadlockWatch(clock, virtual_s_max=virtual_s_max, steps_max=steps_per_instant_max)
    ended_s = 0.0

    @wraps(scenario)  # so that Trio names the main task by it
    async def main() -> T:
        nonlocal ended_s
        with watch.scope:
            result = await scenario(random.Random(f"scenario:{seed}"))
            ended_s = trio.current_time()
            return result
        raise AssertionError("cancelled by the watch, which raises")

    torn = False
    with deterministic(seed), _steady_collection(digest) as collector:
        try:
            result = trio.run(main, clock=clock, instruments=[digest, watch, collector, *instruments])
        except trio.TrioInternalError as exc:
            torn = isinstance(exc.__cause__, Deadlock)
            if not torn:
                raise
        finally:
            if torn:
                _bury(watch, digest)
            watch.check()
    return SeededRun(result=result, schedule=digest.hexdigest(), steps=digest.steps, virtual_s=ended_s)


def _bury(watch: DeadlockWatch, digest: ScheduleDigest) -> None:
    """Collect the tasks of a run that lost its loop: all of them complain, and would do so in the midst of another."""
    watch.scope = trio.CancelScope()  # the old one knows the tasks in it
    digest._names.clear()
    with _replaced(sys, "unraisablehook", lambda _: None):
        gc.collect()


class _Collector(trio.abc.Instrument):
    """Collects garbage at certain steps, and so in every run at the same ones."""

    def __init__(self, digest: ScheduleDigest) -> None:
        self._digest = digest
        self._next = COLLECT_STEPS

    def after_io_wait(self, timeout: float) -> None:
        if self._digest.steps >= self._next:
            self._next = self._digest.steps + COLLECT_STEPS
            gc.collect()


@contextmanager
def _steady_collection(digest: ScheduleDigest) -> Iterator[_Collector]:
    """Keep what the process did before, and the version of Python, from deciding when garbage is collected.

    It decides when a forgotten async generator is found, which Trio then closes in a task of its own, and when a
    finalizer runs: both are steps of the run, or change it.
    """
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield _Collector(digest)
    finally:
        if enabled:
            gc.enable()

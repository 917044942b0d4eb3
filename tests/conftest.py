"""What holds for every test: no socket outlives it, and Hypothesis runs the same way each time in CI.

Every Trio test is seeded by the package's own pytest plugin: by its node id, so it meets the same order of tasks each
time.  `MACULA_SEED=$RANDOM` or `--macula-seed N` lets all of them meet another one.  Importing Hypothesis makes Trio
schedule deterministically in the whole process (Trio registers itself there); inside ``@given`` it reseeds for each
example.  The plugin is imported before anything else, and so before coverage would start if that were a plugin, but it
imports nothing of the package but itself.
"""

from __future__ import annotations

import gc
import os
import signal
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import settings
from hypothesis.database import DirectoryBasedExampleDatabase

from macula_trio.testing import pytest_plugin

if TYPE_CHECKING:
    from collections.abc import Iterator

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As in a background job of a shell, and in all that it starts: nothing that the tests interrupt would hear of it.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Under the mock clock all is simulated, so chance is the seed's as well: a test that passes once passes always.
pytest_plugin.OWN_FIXTURES = pytest_plugin.OWN_FIXTURES | {"autojump_clock"}  # type: ignore[misc]

ROOT: Final = Path(__file__).parents[1]
FD_DIRECTORY: Final = Path("/dev/fd")  # Windows has none

settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
# The tests may run from another directory (nox does), but what failed before is tried again first.
settings.register_profile(
    "dev", deadline=None, print_blob=True, database=DirectoryBasedExampleDatabase(ROOT / ".hypothesis" / "examples")
)
settings.load_profile("ci" if "CI" in os.environ else "dev")


def open_sockets() -> set[tuple[int, int]]:
    """File descriptor and inode of every socket of this process; empty where that cannot be known."""
    found = set()
    for path in FD_DIRECTORY.iterdir() if FD_DIRECTORY.is_dir() else ():
        try:
            status = os.fstat(int(path.name))
        except OSError:
            continue  # the descriptor by which the directory was listed
        if stat.S_ISSOCK(status.st_mode):
            found.add((int(path.name), status.st_ino))
    return found


@pytest.fixture(autouse=True)
def no_socket_is_left() -> Iterator[None]:
    """Fail a test that leaves a socket open, or open until the garbage collector came by.

    Collecting costs more than most tests, so it is done only after a leak: then the `ResourceWarning`
    that names the socket belongs to the test that made it.
    """
    before = open_sockets()
    yield
    leaked = open_sockets() - before
    if not leaked:
        return
    gc.collect()
    kept = len(leaked & open_sockets())
    pytest.fail(f"sockets left open: {len(leaked)}, of them still referenced: {kept}", pytrace=False)

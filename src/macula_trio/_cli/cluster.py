"""A sweep on a Dask cluster: each worker runs one child process per seed, as this machine would.

What is shipped is the text of the scenario; the package must be there.  Never to be used inside of Trio: the client is
synchronous, and has an event loop and a thread of its own.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from macula_trio._cli.children import Child, run_child
from macula_trio._cli.scales import replay_arguments
from macula_trio.errors import MeshError
from macula_trio.testing._world import Scale

if TYPE_CHECKING:
    from distributed import Client, Future

CONNECT_DEADLINE_S: Final = 10  # for the scheduler, and then for the first worker
CLOSE_DEADLINE_S: Final = 3
GRACE_S: Final = 30.0  # beyond a child's own limit: then something must have been done, or the cluster is stuck
POLL_S: Final = 2.0  # between looks at whether scheduler and workers are still there
AHEAD: Final = 2  # tasks for each thread of a worker: one runs, one waits; memory does not grow with the seeds


class MissingExtra(Exception):
    """The package that speaks with clusters is not installed."""


class ClusterFailed(MeshError):
    """The cluster does not do its work."""


def run_seed(name: str, source: bytes, seed: int, limit_s: float) -> Child:
    """Replay a scenario under one seed in a child process; what the workers do, each in a thread of its pool."""
    with tempfile.TemporaryDirectory(prefix="macula-trio-sweep-", ignore_cleanup_errors=True) as directory:
        path = Path(directory) / name
        path.write_bytes(source)

        async def work() -> Child:
            return await run_child(replay_arguments(str(path), seed, Scale()), limit_s=limit_s)

        return trio.run(work)


def sweep_cluster(
    address: str, *, name: str, source: bytes, seeds: range, limit_s: float, take: Callable[[int, Child], None]
) -> None:
    """Replay every seed on the cluster, and hand on how each ended, as they come.

    Args:
      address: of the scheduler, such as ``tcp://192.0.2.7:8786``.
      name: of the scenario's file.
      source: its text.
      seeds: to replay.
      limit_s: for each seed, on the worker's clock.
      take: is told the seed and how its replay has ended.

    Raises:
      MissingExtra: Dask's package is not installed.
      ClusterFailed: the scheduler or its workers are not there, or not any more; one line.
    """
    turns = iter(seeds)
    pending: dict[Future, int] = {}
    with _open_client(address) as client:
        ahead = AHEAD * _threads(client, address)
        while True:
            while len(pending) < ahead and (seed := next(turns, None)) is not None:
                pending[client.submit(run_seed, name, source, seed, limit_s, pure=False)] = seed
            if not pending:
                return
            _wait_for_one(client, address, list(pending), limit_s + GRACE_S)
            for future in [future for future in pending if future.done()]:
                take(pending.pop(future), _result(future, address))


@contextmanager
def _open_client(address: str) -> Generator[Client, None, None]:
    """The client for the length of the block; what it would log is said by our errors."""
    try:
        import dask  # noqa: PLC0415 - an extra
        from distributed import Client  # noqa: PLC0415
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] not in ("dask", "distributed"):
            raise
        raise MissingExtra('--cluster is an extra; install it: pip install "macula-trio[cluster]"') from exc
    logging.disable(logging.CRITICAL)
    try:
        with dask.config.set({"distributed.comm.timeouts.connect": f"{CONNECT_DEADLINE_S} s"}):
            try:
                client = Client(address, timeout=CONNECT_DEADLINE_S, set_as_default=False)
            except Exception as exc:  # an address that is none, nobody there, somebody else there
                raise ClusterFailed(f"no scheduler of a cluster at {address}: {exc}") from exc
            try:
                yield client
            finally:
                client.close(timeout=CLOSE_DEADLINE_S)  # what nobody waits for any more is cancelled
    finally:
        logging.disable(logging.NOTSET)


def _threads(client: Client, address: str) -> int:
    """How many tasks the cluster runs at once; waits for the first worker."""
    try:
        client.wait_for_workers(1, timeout=CONNECT_DEADLINE_S)
        threads: dict[str, int] = client.nthreads()
    except Exception as exc:
        raise ClusterFailed(f"no worker at {address} within {CONNECT_DEADLINE_S} s") from exc
    return max(1, sum(threads.values()))


def _wait_for_one(client: Client, address: str, futures: list[Future], limit_s: float) -> None:
    """Wait until one is done; what became of it is not judged here.

    Raises:
      ClusterFailed: scheduler or workers are gone, or nothing was done within the limit.
    """
    started = seen = time.monotonic()
    while not any(future.done() for future in futures):
        _poll(futures)
        now = time.monotonic()
        try:
            is_there = client.status == "running" and bool(client.nthreads())
        except Exception:  # whatever a broken connection comes to
            is_there = False
        if is_there:
            seen = now
        elif now - seen > CONNECT_DEADLINE_S:
            raise ClusterFailed(f"the cluster at {address} has lost its scheduler or its last worker")
        if now - started > limit_s:
            raise ClusterFailed(f"the cluster at {address} has not ended any seed within {limit_s:g} s")


def _poll(futures: list[Future]) -> None:
    from distributed import wait  # noqa: PLC0415 - see _open_client

    try:
        wait(futures, timeout=POLL_S, return_when="FIRST_COMPLETED")
    except Exception:  # its time is over, or one was cancelled; the caller looks for itself
        return


def _result(future: Future, address: str) -> Child:
    try:
        child: Child = future.result(timeout=CONNECT_DEADLINE_S)
        return child
    except Exception as exc:  # raised by a worker that could not even start, or because it is gone
        raise ClusterFailed(f"a worker at {address} failed: {type(exc).__name__}: {exc}") from exc

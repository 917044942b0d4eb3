"""A sweep on a Dask cluster: each worker runs one child process per seed, as this machine would.

What is shipped is the text of the scenario; the package must be there.  The client of Dask is made for asyncio, so all
of this runs in an event loop of its own, never inside of Trio.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

import attrs

from macula_trio._cli.children import Child, replay_text
from macula_trio.errors import MeshError

if TYPE_CHECKING:
    from distributed import Client

CONNECT_DEADLINE_S: Final = 10.0  # for the scheduler, and then for the first worker
CLOSE_DEADLINE_S: Final = 3.0
GRACE_S: Final = 30.0  # beyond a child's own limit: then something must have been done, or the cluster is stuck
POLL_S: Final = 2.0  # between looks at whether scheduler and workers are still there
AHEAD: Final = 2  # tasks for each thread of a worker: one runs, one waits; memory does not grow with the seeds


class MissingExtra(Exception):
    """The package that speaks with clusters is not installed."""


class ClusterFailed(MeshError):
    """The cluster does not do its work."""


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
    try:
        import distributed  # noqa: F401, PLC0415 - an extra, and slow to load
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] not in ("dask", "distributed"):
            raise
        raise MissingExtra('--cluster is an extra; install it: pip install "macula-trio[cluster]"') from exc
    logging.disable(logging.CRITICAL)  # what Dask would log is said by our errors
    try:
        asyncio.run(_sweep(address, _Work(name, source, limit_s, iter(seeds), take)))
    finally:
        logging.disable(logging.NOTSET)


@attrs.define
class _Work:
    """What is to be done, and when something was done last."""

    name: str
    source: bytes
    limit_s: float
    turns: Iterator[int]
    take: Callable[[int, Child], None]
    progress_at: float = attrs.field(factory=time.monotonic)


async def _sweep(address: str, work: _Work) -> None:
    failure: ClusterFailed | None = None
    async with _open_client(address) as client:
        threads = await _threads(client, address)
        work.progress_at = time.monotonic()
        try:
            async with asyncio.TaskGroup() as group:
                watch = group.create_task(_watch(client, address, work))
                await asyncio.gather(
                    *(group.create_task(_take_turns(client, address, work)) for _ in range(AHEAD * threads))
                )
                watch.cancel()
        except* ClusterFailed as failed:
            failure = _first(failed)
    if failure is not None:
        raise failure  # outside of ``except*``, which would wrap it


async def _take_turns(client: Client, address: str, work: _Work) -> None:
    """Have one seed after another replayed; several of us share them."""
    for seed in work.turns:
        future = client.submit(replay_text, work.name, work.source, seed, work.limit_s, pure=False)
        # Gathered, because Dask says of a task whose scheduler is gone that it is cancelled, as if we were.
        ended: list[Child | BaseException] = await asyncio.gather(future, return_exceptions=True)
        child = ended[0]
        if isinstance(child, BaseException):  # a worker could not even start, or is gone again and again
            raise ClusterFailed(f"a worker at {address} failed: {type(child).__name__}: {child}") from child
        work.progress_at = time.monotonic()
        work.take(seed, child)


async def _watch(client: Client, address: str, work: _Work) -> None:
    """Look whether the cluster is alive and does something.

    Raises:
      ClusterFailed: scheduler or workers are gone, or nothing was done within the limit.
    """
    seen = time.monotonic()
    while True:
        await asyncio.sleep(POLL_S)
        with suppress(Exception):  # whatever a broken connection comes to
            async with asyncio.timeout(CONNECT_DEADLINE_S):
                if await client.nthreads() and client.status == "running":
                    seen = time.monotonic()
        now = time.monotonic()
        if now - seen > CONNECT_DEADLINE_S:
            raise ClusterFailed(f"the cluster at {address} has lost its scheduler or its last worker")
        if now - work.progress_at > work.limit_s + GRACE_S:
            raise ClusterFailed(f"the cluster at {address} has not ended any seed in {work.limit_s + GRACE_S:g} s")


@asynccontextmanager
async def _open_client(address: str) -> AsyncGenerator[Client, None]:
    """A client for the length of the block."""
    from distributed import Client  # noqa: PLC0415 - see sweep_cluster

    client = Client(address, asynchronous=True, timeout=CONNECT_DEADLINE_S, set_as_default=False)
    try:
        try:
            # Its own time-out does not cover somebody who accepts and says nothing.
            async with asyncio.timeout(CONNECT_DEADLINE_S):
                await client
        except Exception as exc:  # nobody there, or somebody else
            reason = str(exc) or f"no answer within {CONNECT_DEADLINE_S:g} s"
            raise ClusterFailed(f"no scheduler of a cluster at {address}: {reason}") from exc
        yield client
    finally:
        with suppress(Exception):  # what nobody waits for any more is cancelled, if anybody is there to be told
            async with asyncio.timeout(CLOSE_DEADLINE_S):
                await client.close()


async def _threads(client: Client, address: str) -> int:
    """How many tasks the cluster runs at once; waits for the first worker."""
    try:
        async with asyncio.timeout(CONNECT_DEADLINE_S):
            await client.wait_for_workers(1)
            threads: dict[str, int] = await client.nthreads()
    except Exception as exc:  # the scheduler's and the network's, of any kind
        raise ClusterFailed(f"no worker at {address} within {CONNECT_DEADLINE_S:g} s") from exc
    return max(1, sum(threads.values()))


def _first(group: BaseExceptionGroup[ClusterFailed]) -> ClusterFailed:
    """One of them says enough."""
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first

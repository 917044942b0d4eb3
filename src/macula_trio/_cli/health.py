"""The health endpoint of ``macula-trio node``: an extra, which is imported only when it is asked for."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import trio

from macula_trio import Node
from macula_trio._background import hidden_nursery
from macula_trio._cli.levels import Settled
from macula_trio._cli.runner import listening
from macula_trio._util import format_endpoint, parse_endpoint

_EXTRA: Final = ("hypercorn", "starlette")


def require_extra(settled: Settled) -> None:
    """Complain when the endpoint is wanted and what it needs is not installed.

    Raises:
      ValueError: one line that says what to install.
    """
    if settled["health"] is None:
        return
    try:
        import macula_trio._http.health  # noqa: F401, PLC0415 - who wants no endpoint needs none of it
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] not in _EXTRA:
            raise
        text = 'the health endpoint is an extra; install it: pip install "macula-trio[http]"'
        raise settled.complaint("health", text) from None


@asynccontextmanager
async def open_health(member: Node, endpoint: str | None) -> AsyncGenerator[str | None, None]:
    """Serve the health of a node for the length of the block; gives where, as ``HOST:PORT``.

    Args:
      member: the node.
      endpoint: where to listen; None for nowhere.

    Raises:
      click.UsageError: it cannot be listened on.
    """
    if endpoint is None:
        await trio.lowlevel.checkpoint()
        yield None
        return
    from macula_trio._http.health import serve_health  # noqa: PLC0415 - see above

    host, port = parse_endpoint(endpoint, port_min=0)
    with hidden_nursery() as hidden:
        async with trio.open_nursery() as nursery:
            with hidden.body():
                with listening("--health"):
                    address = await nursery.start(partial(serve_health, member, host, port))
                yield format_endpoint(address)
            nursery.cancel_scope.cancel()

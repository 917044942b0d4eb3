"""HTTP over TCP: few connections, short ones, and none that harms the process or keeps it from leaving.

Hypercorn speaks HTTP on each connection.  The connections are ours and not those of its own server, which has no bound
on their number, ends with the first error in one of them, and sends under a shield: whoever asks and does not read the
answer could hold up our exit.
"""

from __future__ import annotations

import logging
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import trio
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from hypercorn.utils import wrap_app

from macula_trio._background import sole_leaf
from macula_trio._net.paths import to_system
from macula_trio._net.udp import UdpNetwork
from macula_trio._util import Address, clip, format_endpoint, is_unspecified

logger = logging.getLogger("macula_trio.http")

CONNECTIONS_MAX: Final = 32  # of probes two or three are open at once; whoever comes last is served
CONNECTION_S: Final = 5.0  # one request and its answer, which takes a second at most
REQUEST_BYTES_MAX: Final = 8 * 1024  # first line and headers; probes send some hundred bytes
STREAMS_MAX: Final = 4  # of HTTP/2, which nobody needs here, and Hypercorn speaks when asked


async def listen(host: str, port: int) -> trio.SocketListener:
    """Listen on the first address of a host that can be listened on; ``::`` takes IPv4 as well.

    Raises:
      OSError: none can; the message names the address and the reason.
    """
    failure: OSError | None = None
    for numeric in await UdpNetwork().resolve(host):
        try:
            return _bind((numeric, port))
        except OSError as exc:
            text = f"cannot listen on {format_endpoint((numeric, port))}: {exc.strerror or exc}"
            failure = failure or OSError(exc.errno, text)
    assert failure is not None, "a name has at least one address"
    raise failure


def _bind(address: Address) -> trio.SocketListener:
    is_v6 = ":" in address[0]
    sock = socket.socket(socket.AF_INET6 if is_v6 else socket.AF_INET, socket.SOCK_STREAM)
    try:
        if sys.platform != "win32":  # there it would let others listen on the same port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_v6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not is_unspecified(address[0]))
        sock.bind(to_system(address, is_v6=is_v6))
        sock.listen(CONNECTIONS_MAX)
    except OSError:
        sock.close()
        raise
    return trio.SocketListener(trio.socket.from_stdlib_socket(sock))


class HttpServer:
    """Serves an ASGI application, one request on each connection.

    Args:
      app: which answers within a second or so, and reads no bodies.
    """

    def __init__(self, app: Callable[[Any, Any, Any], Awaitable[None]]) -> None:
        self._app = wrap_app(app, REQUEST_BYTES_MAX, "asgi")
        self._config = _config()
        self._open: dict[trio.SocketStream, trio.CancelScope] = {}

    async def serve(self, listeners: Sequence[trio.SocketListener]) -> None:
        """Take connections until cancelled; closes the listeners."""
        await trio.serve_listeners(self._serve_one, list(listeners))

    async def _serve_one(self, stream: trio.SocketStream) -> None:
        with trio.CancelScope() as scope:
            if len(self._open) >= CONNECTIONS_MAX:
                next(iter(self._open.values())).cancel()  # the oldest, so that nobody keeps out who comes later
            self._open[stream] = scope
            try:
                await self._converse(stream)
            finally:
                del self._open[stream]

    async def _converse(self, stream: trio.SocketStream) -> None:
        # 0.18 says that the stream must be one of TLS, and takes others all the same.
        server = TCPServer(self._app, self._config, WorkerContext(None), ConnectionState({}), stream)  # type: ignore[arg-type]
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_close_in_time, stream)
                await server.run()
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            # What a stranger's bytes make Hypercorn raise ends his connection, and not the node.
            urgent, failures = group.split((trio.Cancelled, KeyboardInterrupt, SystemExit))
            if failures is not None:
                logger.warning("an HTTP connection ended by %s", clip(repr(sole_leaf(failures))))
            if urgent is not None:
                raise urgent from None


async def _close_in_time(stream: trio.SocketStream) -> None:
    """End a connection that takes too long, or is cancelled: what waits for it under a shield is woken, too."""
    try:
        await trio.sleep(CONNECTION_S)
    finally:
        stream.socket.close()


def _config() -> Config:
    config = Config()
    config.accesslog = None  # stdout is for what the node prints
    config.errorlog = logger
    config.include_server_header = False
    config.keep_alive_max_requests = 0  # every answer says that it is the last one
    config.h11_max_incomplete_size = REQUEST_BYTES_MAX
    config.h2_max_header_list_size = REQUEST_BYTES_MAX
    config.h2_max_concurrent_streams = STREAMS_MAX
    return config

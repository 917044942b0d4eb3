"""Health of a node for those who ask by HTTP: systemd, Kubernetes, load balancers.

``/health`` and ``/ready`` with the status codes and the keys of v0.8, and some keys more.  v0.8 asserted that it was
well; here ``/health`` says what a call of the node to itself has shown.
"""

from __future__ import annotations

import trio
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, Router

from macula_trio import HealthReport, Node
from macula_trio._http.connections import HttpServer, listen, logger
from macula_trio._util import Address, format_endpoint

OK, UNAVAILABLE = 200, 503


async def serve_health(
    node: Node, host: str, port: int, *, task_status: trio.TaskStatus[Address] = trio.TASK_STATUS_IGNORED
) -> None:
    """Answer ``GET`` and ``HEAD`` of ``/health`` and ``/ready`` until cancelled.

    Args:
      node: whose health it is.
      host: name or address to listen on.
      port: of TCP; 0 takes a free one.
      task_status: told where it listens once it does.

    Raises:
      OSError: the address is in use or not ours, which the message says.
    """
    listener = await listen(host, port)
    try:
        own, own_port = listener.socket.getsockname()[:2]
        logger.info("health endpoint listens on http://%s", format_endpoint((own, own_port)))
        task_status.started((own, own_port))
        await HttpServer(health_app(node)).serve([listener])
    finally:
        listener.socket.close()  # also when it is cancelled before it is served


def health_app(node: Node) -> Router:
    """The ASGI application."""
    began = trio.current_time()

    async def health(_request: Request) -> JSONResponse:
        try:
            report = await node.check_health()
        except trio.ClosedResourceError as exc:
            report = HealthReport(ok=False, seconds=0.0, reason=str(exc))
        body: dict[str, object] = {
            "status": "healthy" if report.ok else "unhealthy",
            "ready": node.is_ready,
            "uptime": int(trio.current_time() - began),
            "seconds": round(report.seconds, 6),
        }
        if not report.ok:
            body["reason"] = report.reason
        return JSONResponse(body, OK if report.ok else UNAVAILABLE)

    async def ready(_request: Request) -> JSONResponse:
        await trio.lowlevel.checkpoint()
        if node.is_ready:
            return JSONResponse({"status": "ready"}, OK)
        return JSONResponse({"status": "not ready", "reason": "no other node is known, or it is draining"}, UNAVAILABLE)

    return Router([Route("/health", health), Route("/ready", ready)], redirect_slashes=False)

"""`/health` and `/ready` over real TCP: what they answer, what they refuse, and that they harm and hold up nothing."""

from __future__ import annotations

import errno
import json
import logging
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import attrs
import pytest
import trio
from cancel_tools import CancelAtStep, lasting_tasks
from node_tools import watch

import macula_trio as macula
from macula_trio import _health
from macula_trio._http import connections
from macula_trio._http.connections import REQUEST_BYTES_MAX, TCPServer
from macula_trio._http.health import serve_health
from macula_trio._util import Address
from macula_trio.testing import SimNetwork

REALM: Final = "org.example.test"
PATIENCE_S: Final = 20
GET: Final = b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"
HTTP2: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
HTTP2_PING: Final = bytes([0, 0, 8, 6, 0, 0, 0, 0, 0]) + bytes(8)  # which must be answered


@pytest.fixture(autouse=True)
def a_busy_machine_is_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_health, "HEALTH_DEADLINE_S", PATIENCE_S)


@attrs.frozen
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        body: dict[str, Any] = json.loads(self.body)
        return body


async def send(address: Address, request: bytes) -> bytes:
    """Send a request, and read until the other side has closed."""
    with trio.fail_after(PATIENCE_S):
        async with await trio.open_tcp_stream(*address) as stream:
            await stream.send_all(request)
            return b"".join([chunk async for chunk in stream])


async def ask(address: Address, path: str, method: str = "GET") -> Answer:
    answer = await send(address, f"{method} {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return Answer(int(first.split()[1]), headers, body)


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@asynccontextmanager
async def open_served(node: macula.Node, host: str = "127.0.0.1") -> AsyncGenerator[Address, None]:
    """A node's endpoint, and where it is."""
    async with trio.open_nursery() as nursery:
        yield await nursery.start(partial(serve_health, node, host, 0))
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_both(**changes: Any) -> AsyncGenerator[tuple[macula.Node, Address], None]:
    """A node on a network in memory with an endpoint on loopback, on the real clock."""
    config = macula.NodeConfig(**({"realm": REALM, "listen": "10.0.0.1:9443"} | changes))
    async with macula.open_node(config, network=SimNetwork()) as node, open_served(node) as address:
        yield node, address


# -- what is answered ----------------------------------------------------------------------------------------------


async def test_a_node_that_is_well_and_has_joined() -> None:
    async with open_both() as (_, address):
        health = await ask(address, "/health")
        assert (health.status, health.headers["content-type"]) == (200, "application/json")
        assert health.json.keys() == {"status", "ready", "uptime", "seconds"}  # the first three are v0.8's
        assert (health.json["status"], health.json["ready"]) == ("healthy", True)
        assert isinstance(health.json["uptime"], int)
        assert health.json["seconds"] > 0
        ready = await ask(address, "/ready?from=kubernetes")
        assert (ready.status, ready.json) == (200, {"status": "ready"})


async def test_a_node_that_answers_no_calls_is_unhealthy_and_says_why() -> None:
    running, release = trio.Event(), trio.Event()

    async def handler(call: macula.Call) -> None:
        running.set()
        await release.wait()

    async with (
        open_both(handlers_max=1) as (node, address),
        node.advertise("a.b", handler),
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(node.call, "a.b")
        await running.wait()
        health = await ask(address, "/health")
        assert health.status == 503
        assert (health.json["status"], health.json["reason"]) == ("unhealthy", "busy: too many calls are running")
        release.set()


async def test_a_node_that_knows_nobody_yet_is_healthy_and_not_ready() -> None:
    async with open_both(bootstrap=["10.0.0.9:9"], join_deadline_s=0.01) as (_, address):
        health, ready = await ask(address, "/health"), await ask(address, "/ready")
        assert (health.status, health.json["ready"]) == (200, False)
        assert (ready.status, ready.json["status"]) == (503, "not ready")
        assert ready.json["reason"]


async def test_a_node_that_was_closed_is_neither() -> None:
    async with macula.open_node(macula.NodeConfig(realm=REALM, listen="10.0.0.1:1"), network=SimNetwork()) as node:
        pass
    async with open_served(node) as address:
        health, ready = await ask(address, "/health"), await ask(address, "/ready")
        assert (health.status, health.json["status"], health.json["ready"]) == (503, "unhealthy", False)
        assert ready.status == 503


async def test_head_is_answered_without_a_body() -> None:
    async with open_both() as (_, address):
        for path in ("/health", "/ready"):
            answer = await ask(address, path, "HEAD")
            assert (answer.status, answer.body) == (200, b"")
            assert int(answer.headers["content-length"]) > 0


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/metrics", 404),
        ("GET", "/health/", 404),
        ("GET", "/../health", 404),
        ("POST", "/health", 405),
        ("DELETE", "/ready", 405),
        ("BREW", "/health", 405),
    ],
)
async def test_anything_else_is_not_there(method: str, path: str, status: int) -> None:
    async with open_both() as (node, address):
        events = watch(node)
        answer = await ask(address, path, method)
        assert (answer.status, answer.headers["connection"]) == (status, "close")
        assert events == [], "it has made the node call itself"


async def test_many_requests_make_one_call() -> None:
    async with open_both() as (node, address), trio.open_nursery() as nursery:
        assert node._quic is not None
        for _ in range(20):
            nursery.start_soon(ask, address, "/health")
        await ask(address, "/health")
        assert node._quic.counters.connections_accepted == 1


# -- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_bytes", "begin"),
    [
        (b"nonsense\r\n\r\n", b"HTTP/1.1 400 "),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"HTTP/1.1 400 "),  # TLS
        (b"GET /" + b"x" * REQUEST_BYTES_MAX, b"HTTP/1.1 431 "),
        (b"GET /health HTTP/1.1\r\nHost: a\r\nX: " + b"x" * REQUEST_BYTES_MAX, b"HTTP/1.1 431 "),
        (GET[:-2] + b"Content-Length: 1000000000\r\n\r\n", b"HTTP/1.1 200 "),  # a body that nobody reads
        (
            GET[:-2] + b"Upgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
            b"HTTP/1.1 403 ",
        ),
    ],
    ids=["nonsense", "tls", "long path", "long header", "body", "websocket"],
)
async def test_what_is_no_small_request_is_refused(request_bytes: bytes, begin: bytes) -> None:
    async with open_both() as (_, address):
        assert (await send(address, request_bytes)).startswith(begin)
        assert (await ask(address, "/health")).status == 200


async def test_one_connection_is_for_one_request() -> None:
    async with open_both() as (_, address):
        assert (await send(address, GET * 100)).count(b"HTTP/1.1") == 1


@pytest.mark.parametrize("beginning", [b"", b"GET /hea", HTTP2], ids=["silent", "slow", "HTTP/2"])
async def test_a_connection_that_takes_too_long_is_ended(beginning: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_both() as (_, address):
        with monkeypatch.context() as impatient:
            impatient.setattr(connections, "CONNECTION_S", 0.01)
            await send(address, beginning)  # ends
        assert (await ask(address, "/health")).status == 200


async def test_of_too_many_connections_the_oldest_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "CONNECTIONS_MAX", 2)
    async with (
        open_both() as (_, address),
        await trio.open_tcp_stream(*address) as first,
        await trio.open_tcp_stream(*address) as second,
    ):
        assert (await ask(address, "/health")).status == 200
        with trio.fail_after(PATIENCE_S):
            assert await first.receive_some() == b""
            await second.send_all(GET)
            assert (await second.receive_some()).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("error", [KeyError("h2"), ExceptionGroup("two", [ValueError("one"), KeyError("other")])])
async def test_what_hypercorn_raises_ends_one_connection(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(_server: TCPServer) -> None:
        raise error

    async with open_both() as (_, address):
        with monkeypatch.context() as broken:
            broken.setattr(TCPServer, "run", fail)
            assert await send(address, b"") == b""
        assert (await ask(address, "/health")).status == 200
    told = [record for record in caplog.records if record.name == "macula_trio.http" and record.levelno > logging.INFO]
    assert [record.levelname for record in told] == ["WARNING"]
    assert "KeyError" in told[0].getMessage()


# -- leaving -------------------------------------------------------------------------------------------------------


async def test_whoever_does_not_read_his_answers_holds_up_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "CONNECTION_S", 10 * PATIENCE_S)
    with trio.fail_after(PATIENCE_S), socket.socket() as client:
        async with open_both() as (_, address):
            client.connect(address)
            client.setblocking(False)
            client.send(HTTP2)
            refusals = 0
            while refusals < 20:  # until the other side is stuck with its answers, and reads no more
                await trio.sleep(0.02 if refusals else 0)
                try:
                    client.send(HTTP2_PING * 1000)
                    refusals = 0
                except BlockingIOError:
                    refusals += 1


async def test_the_port_is_free_behind_it() -> None:
    async with open_both() as (node, (host, port)):
        assert (await ask((host, port), "/ready")).status == 200  # closed by us, so the system remembers it for a while
    async with trio.open_nursery() as nursery:
        assert await nursery.start(serve_health, node, host, port) == (host, port)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(("host", "number"), [("127.0.0.1", errno.EADDRINUSE), ("192.0.2.1", errno.EADDRNOTAVAIL)])
async def test_an_address_that_cannot_be_listened_on_is_named(host: str, number: int) -> None:
    async with open_both() as (node, (_, port)):
        with pytest.raises(OSError, match=f"cannot listen on {host}:{port}: ") as caught:
            await serve_health(node, host, port)
        assert caught.value.errno == number


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here")
async def test_the_ipv6_wildcard_takes_ipv4_as_well() -> None:
    config = macula.NodeConfig(realm=REALM, listen="10.0.0.1:1")
    async with macula.open_node(config, network=SimNetwork()) as node, open_served(node, "::") as (_, port):
        assert (await ask(("127.0.0.1", port), "/ready")).status == 200
        assert (await ask(("::1", port), "/ready")).status == 200


async def test_cancelled_at_any_step_nothing_is_left(autojump_clock: trio.testing.MockClock) -> None:
    async with macula.open_node(macula.NodeConfig(realm=REALM, listen="10.0.0.1:1"), network=SimNetwork()) as node:
        step = 1
        while True:
            tasks = lasting_tasks()
            knife = CancelAtStep(step)
            trio.lowlevel.add_instrument(knife)
            try:
                knife.armed = True
                with knife.scope:
                    async with open_served(node):
                        pass
            finally:
                knife.armed = False
                trio.lowlevel.remove_instrument(knife)
            assert lasting_tasks() == tasks, "a task is left"
            if not knife.scope.cancel_called:
                break
            step += 1
        assert step > 3, "too few steps for a sweep of anything"

"""Sockets with several addresses, real ones on loopback and simulated ones: each answer leaves from where it was asked.

No mock clock, so that both run alike.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import TypeAlias

import pytest
import trio
from aioquic.buffer import Buffer
from aioquic.quic.packet import QuicPacketType, pull_quic_header
from quic_tools import Proving, Recorder, credentials, seeded_bytes

from macula_trio._net import admission
from macula_trio._net.quic import Connection, QuicEndpoint
from macula_trio._net.udp import UdpNetwork
from macula_trio._util import Address, Path, path_address
from macula_trio.abc import DatagramNetwork, DatagramSocket
from macula_trio.errors import ErrorCode
from macula_trio.testing import SimNetwork

MakeNetwork: TypeAlias = Callable[[], DatagramNetwork]

PATIENCE_S = 10


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this system has no IPv6 on loopback")


def make_sim_host() -> DatagramNetwork:
    return SimNetwork().host("machine", "127.0.0.1", also=["127.0.0.2", "127.0.0.3", "::1"])


every = pytest.mark.parametrize("make", [UdpNetwork, make_sim_host], ids=["udp", "sim-host"])
both_families = pytest.mark.parametrize(
    ("wildcard", "client", "target"),
    [
        ("0.0.0.0", "127.0.0.1", "127.0.0.2"),
        pytest.param("::", "127.0.0.1", "127.0.0.2", marks=needs_ipv6),
        pytest.param("::", "::1", "::1", marks=needs_ipv6),
    ],
)


async def receive(socket: DatagramSocket) -> tuple[bytes, Path]:
    with trio.fail_after(PATIENCE_S):
        while True:
            await socket.wait_readable()
            batch = socket.recv_batch()
            if batch:
                assert len(batch) == 1
                return batch[0]


class Hearing(Proving):
    """A listener that tells when something has come."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self.heard_something = trio.Event()

    def stream_data_received(self, stream_id: int, data: bytes, end_stream: bool) -> None:
        super().stream_data_received(stream_id, data, end_stream)
        self.heard_something.set()


class Watched:
    """A socket that notes where datagrams come from, and where they go."""

    def __init__(self, socket: DatagramSocket) -> None:
        self._socket = socket
        self.sources: set[Path] = set()
        self.targets: set[Path] = set()

    def __getattr__(self, name: str) -> object:
        return getattr(self._socket, name)

    def recv_batch(self) -> Sequence[tuple[bytes, Path]]:
        batch = self._socket.recv_batch()
        self.sources |= {source for _, source in batch}
        return batch

    def send_batch(self, datagrams: Iterable[tuple[bytes, Path]]) -> None:
        batch = list(datagrams)
        self.targets |= {target for _, target in batch}
        self._socket.send_batch(batch)


@asynccontextmanager
async def open_watched(
    network: DatagramNetwork, host: str, number: int, *, accepted: list[Hearing] | None = None
) -> AsyncGenerator[tuple[QuicEndpoint, Watched], None]:
    """A QUIC endpoint on any port of a host."""

    def accept(connection: Connection) -> Hearing:
        handler = Hearing(connection)
        if accepted is not None:
            accepted.append(handler)
        return handler

    watched = Watched(await network.bind((host, 0)))
    endpoint = QuicEndpoint(
        watched,  # type: ignore[arg-type]
        credentials(number),
        accept=accept,
        idle_timeout_s=30.0,
        random_bytes=seeded_bytes,
    )
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(endpoint.serve)
            yield endpoint, watched
            nursery.cancel_scope.cancel()
    finally:
        watched._socket.close()


async def connect(endpoint: QuicEndpoint, target: Address) -> Recorder:
    recorders: list[Recorder] = []

    def make(connection: Connection) -> Recorder:
        recorders.append(Recorder(connection))
        return recorders[0]

    endpoint.dial(target, make)
    with trio.fail_after(PATIENCE_S):
        await recorders[0].completed.wait()
    return recorders[0]


@every
@both_families
async def test_a_datagram_says_which_of_our_addresses_it_came_to_and_the_answer_leaves_from_there(
    make: MakeNetwork, wildcard: str, client: str, target: str
) -> None:
    network = make()
    many, one = await network.bind((wildcard, 0)), await network.bind((client, 0))
    assert many.address[0] == wildcard
    one.send_batch([(b"question", (target, many.address[1]))])
    data, path = await receive(many)
    assert (data, path) == (b"question", (*one.address, target))  # plain, never mapped
    many.send_batch([(b"answer", path)])
    assert await receive(one) == (b"answer", (target, many.address[1]))
    assert many.datagrams_lost == one.datagrams_lost == 0
    many.close()
    one.close()


@every
@both_families
async def test_what_names_no_address_of_ours_or_one_that_is_gone_leaves_as_the_system_likes(
    make: MakeNetwork, wildcard: str, client: str, target: str
) -> None:
    network = make()
    many, one = await network.bind((wildcard, 0)), await network.bind((client, 0))
    gone = "2001:db8::77" if ":" in client else "192.0.2.77"
    for path in (one.address, (*one.address, gone), (*one.address, gone)):
        many.send_batch([(b"x", path)])
        assert await receive(one) == (b"x", (client, many.address[1]))
    assert many.datagrams_lost == 0
    many.close()
    one.close()


@every
async def test_sockets_with_one_address_do_not_name_it(make: MakeNetwork) -> None:
    network = make()
    one, two = await network.bind(("127.0.0.1", 0)), await network.bind(("127.0.0.2", 0))
    one.send_batch([(b"x", two.address)])
    assert await receive(two) == (b"x", one.address)
    one.close()
    two.close()


@every
@both_families
async def test_a_node_on_every_address_answers_quic_from_the_one_that_was_dialed(
    make: MakeNetwork, wildcard: str, client: str, target: str
) -> None:
    network = make()
    async with (
        open_watched(network, wildcard, 1) as (server, heard),
        open_watched(network, client, 2) as (dialer, watched),
    ):
        port = server.address[1]
        recorder = await connect(dialer, (target, port))
        assert watched.sources == {(target, port)}
        assert heard.sources == heard.targets == {(*dialer.address, target)}
        recorder.connection.close(ErrorCode.NORMAL)


@every
async def test_one_socket_may_dial_two_of_our_addresses_at_once(make: MakeNetwork) -> None:
    network, accepted = make(), list[Hearing]()
    async with (
        open_watched(network, "0.0.0.0", 1, accepted=accepted) as (server, heard),
        open_watched(network, "127.0.0.1", 2) as (dialer, watched),
    ):
        port = server.address[1]
        one, two = await connect(dialer, ("127.0.0.2", port)), await connect(dialer, ("127.0.0.3", port))
        for number, recorder in enumerate((one, two)):
            recorder.write(b"%d" % number)
        with trio.fail_after(PATIENCE_S):
            await trio.lowlevel.checkpoint()
            for handler in accepted:
                await handler.heard_something.wait()
        assert [bytes(handler.data[0]) for handler in accepted] == [b"0", b"1"]
        assert watched.sources == {("127.0.0.2", port), ("127.0.0.3", port)}
        assert heard.targets == {(*dialer.address, "127.0.0.2"), (*dialer.address, "127.0.0.3")}
        assert [path_address(handler.connection.path) for handler in accepted] == 2 * [dialer.address]


@every
@both_families
async def test_the_demand_to_validate_leaves_from_the_dialed_address_and_its_answer_is_believed(
    make: MakeNetwork, wildcard: str, client: str, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "HALF_OPEN_FREE", 0)
    network = make()
    async with (
        open_watched(network, wildcard, 1) as (server, _),
        open_watched(network, client, 2) as (dialer, watched),
    ):
        await connect(dialer, (target, server.address[1]))
        assert server.counters.retries_demanded == server.counters.connections_accepted == 1
        assert watched.sources == {(target, server.address[1])}


@every
async def test_versions_are_told_from_the_dialed_address(make: MakeNetwork) -> None:
    network = make()
    async with open_watched(network, "0.0.0.0", 1) as (server, _):
        one = await network.bind(("127.0.0.1", 0))
        probe = b"\xc3\x1a\x2a\x3a\x4a\x08tooshort\x08sourceid".ljust(1200, b"\0")
        one.send_batch([(probe, ("127.0.0.2", server.address[1]))])
        answer, source = await receive(one)
        assert source == ("127.0.0.2", server.address[1])
        assert pull_quic_header(Buffer(data=answer)).packet_type == QuicPacketType.VERSION_NEGOTIATION
        one.close()


@every
@pytest.mark.parametrize(
    ("listen", "hosts", "says"),
    [
        ("127.0.0.1", ("::1", "fe80::1%lo"), "IPv4 only; listen on [::]:"),
        ("0.0.0.0", ("::1",), "IPv4 only; listen on [::]:"),
        pytest.param("::1", ("127.0.0.1",), "IPv6 only; listen on [::]:", marks=needs_ipv6),
        pytest.param("::", ("fe80::1",), "name the interface that leads there", marks=needs_ipv6),
        pytest.param("::", ("::1", "127.0.0.1", "192.0.2.1"), None, marks=needs_ipv6),
        ("0.0.0.0", ("127.0.0.1", "192.0.2.1"), None),
    ],
)
async def test_a_socket_knows_what_it_can_never_reach_and_names_the_mend(
    make: MakeNetwork, listen: str, hosts: tuple[str, ...], says: str | None
) -> None:
    one = await make().bind((listen, 0))
    for host in hosts:
        obstacle = one.obstacle(host)
        if says is None:
            assert obstacle is None
        else:
            assert obstacle is not None
            assert says in obstacle
            assert "\n" not in obstacle
            assert not says.endswith(":") or f"[::]:{one.address[1]}" in obstacle
    one.close()


@needs_ipv6
async def test_an_interface_that_is_not_there_is_an_obstacle_and_a_number_stands_for_a_name() -> None:
    network = UdpNetwork()
    many = await network.bind(("::", 0))
    assert many.obstacle("fe80::1%nowhere7") == "this machine has no interface 'nowhere7'"
    assert many.obstacle("fe80::1%999999") == "this machine has no interface '999999'"
    number, name = socket.if_nameindex()[0]
    assert many.obstacle(f"fe80::1%{number}") is None
    assert await network.resolve(f"FE80::1%{number}") == [f"fe80::1%{name}"]
    assert await network.resolve("fe80::1%nowhere7") == ["fe80::1%nowhere7"]
    many.close()


@pytest.mark.parametrize(
    ("address", "number", "reason"),
    [
        (("192.0.2.1", 9443), errno.EADDRNOTAVAIL, r"cannot listen on 192\.0\.2\.1:9443: it is not an address of this"),
        pytest.param(
            ("fe80::1%nowhere7", 9443),
            errno.ENODEV,
            r"cannot listen on \[fe80::1%nowhere7\]:9443: this machine has no interface 'nowhere7'",
            marks=needs_ipv6,
        ),
        pytest.param(
            ("fe80::1", 0), errno.EINVAL, r"\[fe80::1\]:0: a link-local address needs its interface", marks=needs_ipv6
        ),
    ],
)
async def test_what_cannot_be_listened_on_is_named_with_the_reason(address: Address, number: int, reason: str) -> None:
    with pytest.raises(OSError, match=reason) as caught:
        await UdpNetwork().bind(address)
    assert caught.value.errno == number


async def test_a_system_without_ipv6_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_family: int, _kind: int) -> socket.socket:
        raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")

    monkeypatch.setattr("macula_trio._net.udp.socket.socket", refuse)
    with pytest.raises(OSError, match=r"cannot listen on \[::\]:9443: this system has no IPv6") as caught:
        await UdpNetwork().bind(("::", 9443))
    assert caught.value.errno == errno.EAFNOSUPPORT


@needs_ipv6
async def test_a_specific_ipv6_address_leaves_its_port_to_ipv4() -> None:
    network = UdpNetwork()
    six = await network.bind(("::1", 0))
    four = await network.bind(("127.0.0.1", six.address[1]))
    four.send_batch([(b"x", six.address)])
    assert four.datagrams_lost == 1
    six.send_batch([(b"x", four.address)])
    assert six.datagrams_lost == 1
    six.close()
    four.close()

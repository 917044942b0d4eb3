"""Real UDP and its simulation keep the same promises; no mock clock, so that both run alike."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TypeAlias

import pytest
import trio

from macula_trio._net.udp import BATCH_MAX, UdpNetwork
from macula_trio._util import Address, format_endpoint
from macula_trio.abc import DatagramNetwork, DatagramSocket
from macula_trio.testing import SimNetwork
from macula_trio.testing.network import FIRST_FREE_PORT

LOCAL: Address = ("127.0.0.1", 0)
MakeNetwork: TypeAlias = Callable[[], DatagramNetwork]

both = pytest.mark.parametrize("make", [UdpNetwork, SimNetwork])


async def receive(socket: DatagramSocket, count: int) -> list[tuple[bytes, Address]]:
    """Datagrams, in batches of the allowed size."""
    found: list[tuple[bytes, Address]] = []
    with trio.fail_after(5):
        await trio.lowlevel.checkpoint()
        while len(found) < count:
            await socket.wait_readable()
            batch = socket.recv_batch()
            assert len(batch) <= BATCH_MAX
            found += batch
    return found


@both
async def test_port_zero_becomes_a_port_of_its_own(make: MakeNetwork) -> None:
    network = make()
    one, two = await network.bind(LOCAL), await network.bind(LOCAL)
    assert one.address[0] == two.address[0] == "127.0.0.1"
    assert 0 not in {one.address[1], two.address[1]}
    assert one.address != two.address
    one.close()
    two.close()


@both
async def test_an_address_in_use_is_refused_by_name_until_it_is_given_back(make: MakeNetwork) -> None:
    network = make()
    one = await network.bind(LOCAL)
    with pytest.raises(OSError, match=f"cannot listen on {format_endpoint(one.address)}") as caught:
        await network.bind(one.address)
    assert caught.value.errno == errno.EADDRINUSE
    one.close()
    (await network.bind(one.address)).close()


@both
async def test_datagrams_arrive_whole_in_batches_with_their_source(make: MakeNetwork) -> None:
    network = make()
    one, two = await network.bind(LOCAL), await network.bind(LOCAL)
    sent = [b"%d" % n * (n % 7) for n in range(BATCH_MAX + 6)]  # empty ones too
    one.send_batch([(data, two.address) for data in sent])
    await trio.sleep(0.01)
    assert await receive(two, len(sent)) == [(data, one.address) for data in sent]
    assert two.recv_batch() == []
    assert one.datagrams_lost == 0
    one.close()
    two.close()


@both
async def test_what_cannot_be_sent_is_a_counted_loss_and_the_rest_goes_out(make: MakeNetwork) -> None:
    network = make()
    one, two = await network.bind(LOCAL), await network.bind(LOCAL)
    impossible: list[Address] = [("127.0.0.1", 0), ("255.255.255.255", 9), ("::1", two.address[1])]
    datagrams = [(b"lost", target) for target in impossible]
    one.send_batch([*datagrams, (bytes(70_000), two.address), (b"good", two.address)])
    assert await receive(two, 1) == [(b"good", one.address)]
    assert one.datagrams_lost == len(impossible) + 1
    one.close()
    two.close()


@both
async def test_closing_wakes_who_waits_and_loses_what_is_sent_later(make: MakeNetwork) -> None:
    network = make()
    one, two = await network.bind(LOCAL), await network.bind(LOCAL)
    woken = []

    async def wait() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await one.wait_readable()
        woken.append("yes")

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            one.close()
            one.close()
    assert woken == ["yes"]
    one.send_batch([(b"late", two.address)])
    assert one.datagrams_lost == 1
    two.close()


@both
async def test_waiting_is_a_checkpoint_even_when_something_is_there(make: MakeNetwork) -> None:
    network = make()
    one = await network.bind(LOCAL)
    one.send_batch([(b"x", one.address)])
    await one.wait_readable()
    with trio.testing.assert_checkpoints():
        await one.wait_readable()
    one.close()


@both
async def test_a_number_needs_no_resolver_and_a_name_that_is_none_is_refused_by_name(make: MakeNetwork) -> None:
    network = make()
    assert await network.resolve("192.0.2.7") == "192.0.2.7"
    assert await network.resolve("::1") == "::1"
    for name in ("not..a.name", "x" * 70):
        with pytest.raises(OSError, match=f"cannot find host '{name}'"):
            await network.resolve(name)


@both
def test_the_source_towards_loopback_is_loopback(make: MakeNetwork) -> None:
    assert make().source_host(("127.0.0.1", 9)) == "127.0.0.1"


@both
async def test_the_wall_clock_goes_in_milliseconds(make: MakeNetwork) -> None:
    network = make()
    before = network.wall_clock_ms()
    await trio.sleep(0.01)
    assert before > 1_700_000_000_000
    assert 9 <= network.wall_clock_ms() - before < 5000


async def test_localhost_is_resolved_by_the_system() -> None:
    assert await UdpNetwork().resolve("localhost") in {"127.0.0.1", "::1"}


async def test_an_address_of_somebody_else_cannot_be_bound() -> None:
    with pytest.raises(OSError, match="cannot listen on 192.0.2.1:0: "):
        await UdpNetwork().bind(("192.0.2.1", 0))


async def test_simulated_hosts_have_names() -> None:
    assert await SimNetwork(hosts={"gateway": "10.0.0.1"}).resolve("gateway") == "10.0.0.1"


async def test_simulated_ports_never_run_out_by_use() -> None:
    network = SimNetwork()
    taken = await network.bind(("127.0.0.1", FIRST_FREE_PORT))
    for _ in range(2 * (65_536 - FIRST_FREE_PORT)):
        port = network._free_port("127.0.0.1")
        assert FIRST_FREE_PORT < port <= 65_535
    taken.close()


async def test_sockets_on_every_interface_are_hosts_of_their_own() -> None:
    network = SimNetwork()
    one, two = await network.bind(("0.0.0.0", 0)), await network.bind(("0.0.0.0", 0))
    one.send_batch([(b"x", two.address)])
    assert await receive(two, 1) == [(b"x", one.address)]
    one.close()
    two.close()
    assert network.bound == []

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
from macula_trio.testing.network import FIRST_FREE_PORT, SimNetwork

MakeNetwork: TypeAlias = Callable[[], DatagramNetwork]


def make_sim_host() -> DatagramNetwork:
    return SimNetwork().host("machine", "10.0.0.1")


LOOPBACK: Address = ("127.0.0.1", 0)
every = pytest.mark.parametrize(
    ("make", "local"),
    [(UdpNetwork, LOOPBACK), (SimNetwork, LOOPBACK), (make_sim_host, ("10.0.0.1", 0))],
    ids=["udp", "sim-network", "sim-host"],
)


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


@every
async def test_port_zero_becomes_a_port_of_its_own(make: MakeNetwork, local: Address) -> None:
    network = make()
    one, two = await network.bind(local), await network.bind(local)
    assert one.address[0] == two.address[0] == local[0]
    assert 0 not in {one.address[1], two.address[1]}
    assert one.address != two.address
    one.close()
    two.close()


@every
async def test_an_address_in_use_is_refused_by_name_until_it_is_given_back(make: MakeNetwork, local: Address) -> None:
    network = make()
    one = await network.bind(local)
    with pytest.raises(OSError, match=f"cannot listen on {format_endpoint(one.address)}") as caught:
        await network.bind(one.address)
    assert caught.value.errno == errno.EADDRINUSE
    one.close()
    (await network.bind(one.address)).close()


@every
async def test_datagrams_arrive_whole_in_batches_with_their_source(make: MakeNetwork, local: Address) -> None:
    network = make()
    one, two = await network.bind(local), await network.bind(local)
    sent = [b"%d" % n * (n % 7) for n in range(BATCH_MAX + 6)]  # empty ones too
    one.send_batch([(data, two.address) for data in sent])
    await trio.sleep(0.01)
    assert await receive(two, len(sent)) == [(data, one.address) for data in sent]
    assert two.recv_batch() == []
    assert one.datagrams_lost == 0
    one.close()
    two.close()


@every
async def test_what_cannot_be_sent_is_a_counted_loss_and_the_rest_goes_out(make: MakeNetwork, local: Address) -> None:
    network = make()
    one, two = await network.bind(local), await network.bind(local)
    impossible: list[Address] = [local, ("255.255.255.255", 9), ("::1", two.address[1])]
    datagrams = [(b"lost", target) for target in impossible]
    one.send_batch([*datagrams, (bytes(70_000), two.address), (b"good", two.address)])
    assert await receive(two, 1) == [(b"good", one.address)]
    assert one.datagrams_lost == len(impossible) + 1
    one.close()
    two.close()


@every
async def test_closing_wakes_who_waits_and_loses_what_is_sent_later(make: MakeNetwork, local: Address) -> None:
    network = make()
    one, two = await network.bind(local), await network.bind(local)
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


@every
async def test_waiting_is_a_checkpoint_even_when_something_is_there(make: MakeNetwork, local: Address) -> None:
    network = make()
    one = await network.bind(local)
    one.send_batch([(b"x", one.address)])
    await one.wait_readable()
    with trio.testing.assert_checkpoints():
        await one.wait_readable()
    one.close()


@every
async def test_a_number_needs_no_resolver_and_a_name_that_is_none_is_refused_by_name(
    make: MakeNetwork, local: Address
) -> None:
    network = make()
    assert await network.resolve("192.0.2.7") == ["192.0.2.7"]
    assert await network.resolve("0:0:0:0:0:0:0:1") == ["::1"]
    assert await network.resolve("::ffff:192.0.2.7") == ["192.0.2.7"]
    for name in ("not..a.name", "x" * 70):
        with pytest.raises(OSError, match=f"cannot find host '{name}'"):
            await network.resolve(name)


@every
async def test_our_address_towards_a_socket_of_our_own_is_the_one_that_it_is_bound_to(
    make: MakeNetwork, local: Address
) -> None:
    network = make()
    one = await network.bind(local)
    assert network.source_host(one.address) == one.address[0]
    one.close()


@every
async def test_the_wall_clock_goes_in_milliseconds(make: MakeNetwork, local: Address) -> None:
    network = make()
    before = network.wall_clock_ms()
    await trio.sleep(0.01)
    assert before > 1_700_000_000_000
    assert 9 <= network.wall_clock_ms() - before < 5000


@every
async def test_a_socket_without_datagrams_gives_none_and_says_whether_it_bears_large_ones(
    make: MakeNetwork, local: Address
) -> None:
    one = await make().bind(local)
    assert one.recv_batch() == []
    assert one.datagrams_lost == 0
    assert isinstance(one.large_datagrams, bool)
    one.close()


@every
async def test_a_datagram_larger_than_a_frame_of_ethernet_arrives_whole(make: MakeNetwork, local: Address) -> None:
    network = make()
    one, two = await network.bind(local), await network.bind(local)
    data = bytes(range(250)) * 36  # macOS takes no more than 9,216 by default
    one.send_batch([(data, two.address)])
    assert await receive(two, 1) == [(data, one.address)]
    one.close()
    two.close()


@every
async def test_a_socket_reaches_itself(make: MakeNetwork, local: Address) -> None:
    one = await make().bind(local)
    one.send_batch([(b"x", one.address)])
    assert await receive(one, 1) == [(b"x", one.address)]
    one.close()


@every
async def test_nobody_hears_of_a_datagram_to_a_port_where_nobody_is(make: MakeNetwork, local: Address) -> None:
    network = make()
    one, two = await network.bind(local), await network.bind(local)
    two.close()
    one.send_batch([(b"x", two.address)])
    await trio.sleep(0.01)
    assert one.recv_batch() == []
    assert one.datagrams_lost == 0  # an unconnected socket gets no ICMP error
    one.close()


@every
async def test_a_closed_socket_is_used_no_more(make: MakeNetwork, local: Address) -> None:
    one = await make().bind(local)
    one.send_batch([(b"x", one.address)])
    await one.wait_readable()
    one.close()
    with pytest.raises(trio.ClosedResourceError):
        await one.wait_readable()
    with pytest.raises(trio.ClosedResourceError):
        one.recv_batch()


@every
async def test_waiting_can_be_cancelled_and_goes_on_later(make: MakeNetwork, local: Address) -> None:
    one = await make().bind(local)
    with trio.move_on_after(0.01) as scope:
        await one.wait_readable()
    assert scope.cancelled_caught
    one.send_batch([(b"x", one.address)])
    assert await receive(one, 1) == [(b"x", one.address)]
    one.close()


@every
async def test_whatever_is_async_is_a_checkpoint(make: MakeNetwork, local: Address) -> None:
    network = make()
    with trio.testing.assert_checkpoints():
        one = await network.bind(local)
    with trio.testing.assert_checkpoints():
        await network.resolve("192.0.2.7")
    with trio.testing.assert_checkpoints():
        await network.open_storage("node")
    one.close()


@every
async def test_storage_is_empty_at_first_and_keeps_what_it_is_told_in_the_order_of_the_keys(
    make: MakeNetwork, local: Address
) -> None:
    storage = await make().open_storage("node")
    assert storage.items("values") == []
    storage.put("values", b"never there", None)
    for key in (b"b", b"a", b"c"):
        storage.put("values", key, b"first")
    storage.put("values", b"a", b"second")
    storage.put("values", b"b", None)
    storage.put("other", b"a", b"elsewhere")
    assert storage.items("values") == [(b"a", b"second"), (b"c", b"first")]
    storage.put("values", b"b", b"anew")
    assert [key for key, _ in storage.items("values")] == [b"a", b"c", b"b"]
    assert storage.items("other") == [(b"a", b"elsewhere")]
    storage.items("values").clear()
    assert len(storage.items("values")) == 3


@every
async def test_nodes_of_different_names_share_no_storage(make: MakeNetwork, local: Address) -> None:
    network = make()
    one, two = await network.open_storage("one"), await network.open_storage("two")
    one.put("values", b"key", b"value")
    assert two.items("values") == []


async def test_localhost_is_resolved_by_the_system() -> None:
    found = await UdpNetwork().resolve("localhost")
    assert "127.0.0.1" in found
    assert set(found) <= {"127.0.0.1", "::1"}
    assert len(found) == len(set(found))


async def test_an_address_of_somebody_else_cannot_be_bound() -> None:
    with pytest.raises(OSError, match="cannot listen on 192.0.2.1:0: "):
        await UdpNetwork().bind(("192.0.2.1", 0))


async def test_simulated_hosts_have_names() -> None:
    network = SimNetwork(hosts={"gateway": "10.0.0.1", "both": ["fd00::1", "10.0.0.2"]})
    assert await network.resolve("gateway") == ["10.0.0.1"]
    assert await network.resolve("both") == ["fd00::1", "10.0.0.2"]
    assert network.host("both").addresses == ("fd00::1", "10.0.0.2")


async def test_simulated_ports_never_run_out_by_use() -> None:
    network = SimNetwork()
    taken = await network.bind(("127.0.0.1", FIRST_FREE_PORT))
    for _ in range(2 * (65_536 - FIRST_FREE_PORT)):
        port = network._free_port(("127.0.0.1",))
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

"""The simulated network and its machines: what faults do to datagrams, and to nodes with real QUIC above them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from macula_trio.testing import _carrier, _sockets
from macula_trio.testing import network as network_module
from macula_trio.testing.network import EPOCH_MS, LinkModel, SimHost, SimNetwork, SimSocket, SimStatistics


async def pair(network: SimNetwork) -> tuple[SimSocket, SimSocket]:
    return await network.host("a", "10.0.0.1").bind(("0.0.0.0", 9443)), await network.bind(("10.0.0.2", 9443))


async def take(socket: SimSocket, seconds: float = 10) -> list[tuple[float, bytes]]:
    """What arrives within some virtual seconds, and when."""
    found: list[tuple[float, bytes]] = []
    with trio.move_on_after(seconds):
        while True:
            await socket.wait_readable()
            found += [(round(trio.current_time(), 6), data) for data, _ in socket.recv_batch()]
    return found


def send(source: SimSocket, target: SimSocket, *texts: str) -> None:
    source.send_batch([(text.encode(), target.address) for text in texts])


def is_balanced(network: SimNetwork) -> bool:
    found = network.statistics()
    return found.sent + found.duplicated == found.delivered + sum(found.lost.values())


# -- datagrams -----------------------------------------------------------------------------------------------------


async def test_by_default_everything_arrives_in_order_after_a_constant_time(autojump_clock: MockClock) -> None:
    network = SimNetwork(latency_s=0.25)
    one, two = await pair(network)
    send(one, two, "a", "b")
    await trio.sleep(0.1)
    send(one, two, "c")
    assert await take(two) == [(0.25, b"a"), (0.25, b"b"), (0.35, b"c")]
    assert network.statistics() == SimStatistics(sent=3, delivered=3, lost={}, duplicated=0, held=0)


async def test_a_receiver_that_waits_is_woken_by_an_earlier_one_than_it_waits_for(autojump_clock: MockClock) -> None:
    network = SimNetwork(latency_s=5)
    one, two = await pair(network)
    found: list[tuple[float, bytes]] = []

    async def receive() -> None:
        found.extend(await take(two))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        send(one, two, "slow")
        await trio.sleep(1)
        network.set_link(LinkModel(latency_s=1))
        send(one, two, "fast")
    assert found == [(2, b"fast"), (5, b"slow")]


async def test_jitter_duplication_loss_and_reordering_do_what_they_say(autojump_clock: MockClock) -> None:
    network = SimNetwork(seed=1, link=LinkModel(jitter_s=0.1, loss=0.2, duplication=0.2, reordering=0.2))
    one, two = await pair(network)
    texts = [f"{number:03}" for number in range(500)]
    send(one, two, *texts)
    found = [data.decode() for _, data in await take(two)]
    counts = network.statistics()
    assert found != sorted(found)
    assert set(found) < set(texts)
    assert len(found) - len(set(found)) == counts.duplicated > 50
    assert 500 - len(set(found)) == counts.lost["chance"] > 50
    assert counts.delivered == len(found)
    assert one.datagrams_lost == 0  # a sender knows nothing of what happens on the way


async def test_bandwidth_lets_so_much_through_in_so_long(autojump_clock: MockClock) -> None:
    network = SimNetwork(link=LinkModel(latency_s=0, bandwidth_bytes_per_s=1000, queue_bytes_max=5000))
    one, two = await pair(network)
    one.send_batch([(bytes(500), two.address)] * 20)
    assert [when for when, _ in await take(two)] == [0.5 * number for number in range(1, 11)]
    assert network.statistics().lost == {"queue": 10}


async def test_what_is_larger_than_the_path_bears_is_lost(autojump_clock: MockClock) -> None:
    network = SimNetwork(link=LinkModel(mtu_bytes=1200))
    one, two = await pair(network)
    one.send_batch([(bytes(1201), two.address), (bytes(1200), two.address)])
    assert [len(data) for _, data in await take(two)] == [1200]
    assert network.statistics().lost == {"mtu": 1}


async def test_a_partition_loses_what_is_sent_and_not_what_is_under_way(autojump_clock: MockClock) -> None:
    network = SimNetwork(latency_s=1)
    one, two = await pair(network)
    send(one, two, "before")
    network.partition(["a"], one_way=True)
    send(one, two, "during")
    send(two, one, "back")
    network.heal()
    send(one, two, "after")
    assert [data for _, data in await take(two)] == [b"before", b"after"]
    assert [data for _, data in await take(one)] == [b"back"]
    assert network.statistics().lost == {"cut": 1}


async def test_what_is_clogged_arrives_in_order_after_the_clog(autojump_clock: MockClock) -> None:
    network = SimNetwork(latency_s=1)
    one, two = await pair(network)
    send(one, two, "before")
    network.clog("a")
    send(one, two, "x", "y")
    send(two, one, "back")
    await trio.sleep(5)
    send(one, two, "z")
    network.unclog("a")
    send(one, two, "after")
    assert await take(two) == [(5, b"before"), (6, b"x"), (6, b"y"), (6, b"z"), (6, b"after")]
    assert [data for _, data in await take(one)] == [b"back"]
    assert network.statistics().held == 4
    assert is_balanced(network)


async def test_what_is_held_for_two_hosts_waits_for_both(autojump_clock: MockClock) -> None:
    network = SimNetwork()
    one, two = await pair(network)
    network.clog("a", "10.0.0.2")
    send(one, two, "x")
    network.unclog("a")
    assert await take(two) == []
    network.unclog("10.0.0.2")
    assert [data for _, data in await take(two)] == [b"x"]
    assert network.statistics().held == 1


async def test_what_is_held_is_bounded_for_each_direction_by_itself(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_carrier, "HELD_PER_PAIR_MAX", 3)
    network = SimNetwork()
    one, two = await pair(network)
    network.clog("a")
    send(one, two, "1", "2", "3", "4", "5")
    send(two, one, "back")
    network.unclog("a")
    assert [data for _, data in await take(two)] == [b"1", b"2", b"3"]
    assert [data for _, data in await take(one)] == [b"back"]
    assert network.statistics().lost == {"clog": 2}


async def test_what_was_held_once_leaves_room_for_what_is_held_later(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_carrier, "HELD_PER_PAIR_MAX", 2)
    network = SimNetwork()
    one, two = await pair(network)
    for _ in range(3):
        network.clog("a")
        send(one, two, "1", "2")
        network.unclog("a")
    assert len(await take(two)) == 6


async def test_a_full_inbox_loses_what_comes_next(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sockets, "INBOX_MAX", 3)
    network = SimNetwork()
    one, two = await pair(network)
    send(one, two, "1", "2", "3", "4")
    assert [data for _, data in await take(two)] == [b"1", b"2", b"3"]
    assert network.statistics().lost == {"inbox": 1}


async def test_what_was_under_way_to_a_socket_that_is_closed_is_lost(autojump_clock: MockClock) -> None:
    network = SimNetwork()
    one, two = await pair(network)
    send(one, two, "x")
    two.close()
    send(one, two, "y")
    two = await network.bind(two.address)
    assert await take(two) == []
    assert network.statistics().lost == {"gone": 1, "unreachable": 1}
    assert is_balanced(network)


async def test_routes_that_are_forgotten_are_found_again(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_carrier, "ROUTES_MAX", 2)
    network = SimNetwork()
    one, two = await pair(network)
    for port in range(1, 50):
        one.send_batch([(b"nobody", ("10.0.0.9", port))])
        send(one, two, "x")
    assert len(await take(two)) == 49
    assert len(network._carrier._routes) <= 2


async def test_the_tap_sees_everything_first(autojump_clock: MockClock) -> None:
    network = SimNetwork(tap=lambda _source, _target, data: {b"drop": None, b"change": b"changed"}.get(data, data))
    one, two = await pair(network)
    send(one, two, "keep", "drop", "change")
    assert [data for _, data in await take(two)] == [b"keep", b"changed"]
    assert network.statistics().lost == {"tap": 1}
    assert one.datagrams_lost == 0


NARROW = LinkModel(bandwidth_bytes_per_s=1000, queue_bytes_max=2000, mtu_bytes=1000)
FAULTS: dict[str, Callable[[SimNetwork, SimHost, int], object]] = {
    "partition": lambda network, _machine, _number: network.partition(["b"]),
    "heal": lambda network, _machine, _number: network.heal(),
    "clog": lambda network, _machine, _number: network.clog("b"),
    "unclog": lambda network, _machine, _number: network.unclog("b"),
    "narrow": lambda network, _machine, _number: network.set_link(NARROW, None, "b"),
    "crash": lambda _network, machine, _number: machine.crash(),
    "restart": lambda _network, machine, _number: machine.restart(),
    "move": lambda _network, machine, number: machine.change_address(f"10.1.0.{number}"),
}


@given(
    seed=st.integers(0, 1000),
    rounds=st.lists(st.tuples(st.sampled_from(list(FAULTS)), st.lists(st.integers(0, 1400))), max_size=20),
)
def test_every_datagram_is_accounted_for(seed: int, rounds: list[tuple[str, list[int]]]) -> None:
    async def run() -> None:
        network = SimNetwork(seed=seed, link=LinkModel(jitter_s=0.1, loss=0.1, duplication=0.1, latency_s=0.05))
        one, machine = await network.bind(("10.0.0.1", 1)), network.host("b", "10.0.0.2")
        two = await machine.bind(("0.0.0.0", 2))
        dead: list[SimSocket] = []
        for number, (fault, lengths) in enumerate(rounds):
            FAULTS[fault](network, machine, number)
            if fault == "restart":
                dead.append(two)
                two = await machine.bind(("0.0.0.0", 2))
            one.send_batch([(bytes(length), two.address) for length in lengths])
            two.send_batch([(bytes(length), one.address) for length in lengths])
            one.recv_batch()
            await trio.sleep(0.06)
        network.unclog("b")
        await trio.sleep(100)
        assert not any(old.recv_batch() for old in dead)
        while one.recv_batch() or two.recv_batch():
            pass
        assert is_balanced(network)

    trio.run(run, clock=MockClock(autojump_threshold=0))


# -- the digest ----------------------------------------------------------------------------------------------------


def digest_of(*sent: tuple[float, int, int, bytes], look: bool = False) -> str:
    async def run() -> str:
        network = SimNetwork()
        sockets = [await network.bind((f"10.0.0.{number}", 9443)) for number in range(1, 4)]
        for when, source, target, data in sent:
            await trio.sleep_until(when)
            sockets[source].send_batch([(data, sockets[target].address)])
            assert not look or network.digest == network.digest
        return network.digest

    return trio.run(run, clock=MockClock(autojump_threshold=0))


USUAL = [(0.0, 0, 1, b"abc"), (1.0, 1, 0, b"de")]


def test_the_digest_is_over_when_from_where_where_to_and_how_long() -> None:
    assert digest_of(*USUAL) == digest_of((0.0, 0, 1, b"xyz"), (1.0, 1, 0, b"--"))
    others: list[list[tuple[float, int, int, bytes]]] = [
        [],
        USUAL[:1],
        USUAL[1:],
        [(0.0, 0, 1, b"abc"), (1.00001, 1, 0, b"de")],
        [(0.0, 0, 1, b"abc"), (1.0, 1, 2, b"de")],
        [(0.0, 0, 1, b"abc"), (1.0, 2, 0, b"de")],
        [(0.0, 0, 1, b"abc"), (1.0, 1, 0, b"def")],
    ]
    digests = [digest_of(*other) for other in (USUAL, *others)]
    assert len(set(digests)) == len(digests)


def test_the_digest_is_the_same_in_every_process_and_however_often_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = "da6f1964e34910852a1eed5528007454"
    assert digest_of(*USUAL) == expected
    assert digest_of(*USUAL, look=True) == expected
    monkeypatch.setattr(_carrier, "DIGEST_AFTER_BYTES", 0)
    assert digest_of(*USUAL) == expected


# -- hosts ---------------------------------------------------------------------------------------------------------


async def test_hosts_get_free_addresses_and_are_found_by_name(autojump_clock: MockClock) -> None:
    network = SimNetwork(hosts={"c": "10.9.9.9"})
    await network.bind(("10.64.0.2", 1))
    one, two = network.host("a"), network.host("b")
    assert (one.name, two.name) == ("a", "b")
    assert (one.address, two.address) == ("10.64.0.1", "10.64.0.3")
    assert network.host("a") is network.host("a", one.address) is one
    assert network.host("c").address == "10.9.9.9"
    assert network.host("10.1.1.1").address == "10.1.1.1"
    assert await two.resolve("a") == [one.address] == await network.resolve("a")
    one.change_address("10.1.1.2")
    assert await two.resolve("a") == ["10.1.1.2"]
    with pytest.raises(OSError, match="cannot find host 'nobody'"):
        await two.resolve("nobody")


@pytest.mark.parametrize(
    ("name", "address", "message"),
    [
        ("b", "10.0.0.1", "address: 10.0.0.1 is that of a"),
        ("a", "10.0.0.2", "address: a has 10.0.0.1; move it by change_address('10.0.0.2')"),
        ("b", "nobody", "address: 'nobody' is not the numeric address of one host"),
        ("b", "0.0.0.0", "address: '0.0.0.0' is not the numeric address of one host"),
    ],
)
def test_an_address_that_a_host_cannot_have_is_refused(name: str, address: str, message: str) -> None:
    network = SimNetwork()
    network.host("a", "10.0.0.1")
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # compared in full
        network.host(name, address)
    assert str(caught.value) == message


def test_addresses_of_hosts_run_out_with_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_module, "LAST_FREE_HOST", network_module.FIRST_FREE_HOST + 2)
    network = SimNetwork()
    assert [network.host(name).address for name in "ab"] == ["10.64.0.1", "10.64.0.2"]
    with pytest.raises(ValueError, match="no address is free"):
        network.host("c")


async def test_ports_of_a_host_run_out_with_a_word(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_module, "PORT_MAX", network_module.FIRST_FREE_PORT + 1)
    network = SimNetwork()
    for _ in range(2):
        await network.bind(("10.0.0.1", 0))
    with pytest.raises(OSError, match="cannot listen on 10.0.0.1:0: no port is free"):
        await network.bind(("10.0.0.1", 0))
    await network.bind(("10.0.0.2", 0))


async def test_a_host_binds_its_own_address_only(autojump_clock: MockClock) -> None:
    network = SimNetwork()
    one = network.host("a", "10.0.0.1")
    assert (await one.bind(("0.0.0.0", 7))).address == ("10.0.0.1", 7)
    socket = await network.bind(("10.0.0.1", 8))
    assert one.sockets[1] is socket
    for address in (("10.0.0.2", 7), ("127.0.0.1", 7)):
        with pytest.raises(OSError, match=f"cannot listen on {address[0]}:7: not a's"):
            await one.bind(address)
    with pytest.raises(OSError, match="cannot listen on name:7: no host has this address"):
        await network.bind(("name", 7))


async def test_every_fault_is_told(autojump_clock: MockClock) -> None:
    network, told = SimNetwork(), list[tuple[str, Mapping[str, Any]]]()

    def listener(fault: str, facts: Mapping[str, Any]) -> None:
        told.append((fault, dict(facts)))

    network.heal()
    network.listen(listener)
    machine = network.host("a", "10.0.0.1")
    network.heal()  # nothing to heal: nothing told
    network.partition(["a"], ["b"])
    network.partition(iter("ab"), one_way=True)
    network.heal()
    network.clog("a", "b")
    network.unclog("a", "b")
    network.set_link(LinkModel(loss=0.5), "a")
    machine.crash()
    machine.crash()
    machine.restart(keep_storage=False)
    machine.change_address("10.0.0.1")
    machine.change_address("10.0.0.2")
    await machine.bind(("10.0.0.2", 9443))
    machine.change_port(9443, 9444)
    machine.clock_skew_ms = -5
    network.unlisten(listener)
    network.clog("a")
    names = ("latency_s", "jitter_s", "loss", "duplication", "reordering", "reordering_delay_s")
    model = dict(zip(names, (0.001, 0.0, 0.5, 0.0, 0.0, 0.01), strict=True))
    model |= {"bandwidth_bytes_per_s": None, "queue_bytes_max": 262_144, "mtu_bytes": 65_507}
    assert told == [
        ("fault.partition", {"side": ["a"], "others": ["b"], "one_way": False}),
        ("fault.partition", {"side": ["a", "b"], "others": None, "one_way": True}),
        ("fault.heal", {}),
        ("fault.clog", {"hosts": ["a", "b"]}),
        ("fault.unclog", {"hosts": ["a", "b"]}),
        ("fault.link", {"source": "a", "target": None, **model}),
        ("fault.crash", {"host": "a"}),
        ("fault.restart", {"host": "a", "keep_storage": False}),
        ("fault.address", {"host": "a", "before": "10.0.0.1", "address": "10.0.0.2"}),
        ("fault.port", {"host": "a", "before": 9443, "port": 9444}),
        ("fault.skew", {"host": "a", "skew_ms": -5}),
    ]


def test_a_refused_partition_is_not_told() -> None:
    network, told = SimNetwork(), list[str]()
    network.listen(lambda fault, _facts: told.append(fault))
    with pytest.raises(ValueError, match="give the names in a list"):
        network.partition("a")
    assert told == []


# -- crash and restart -----------------------------------------------------------------------------------------------


async def test_after_a_crash_nothing_goes_out_or_comes_in_and_the_address_is_free(autojump_clock: MockClock) -> None:
    network = SimNetwork()
    one, two = await pair(network)
    machine = network.host("a")
    send(two, one, "arrived")
    await trio.sleep(1)
    send(two, one, "under way")
    found: list[Any] = []

    async def wait_on() -> None:
        while True:
            await one.wait_readable()
            found.append(one.recv_batch())

    machine.crash()
    assert not machine.is_up
    assert network.bound == [two.address]
    assert machine.sockets == []
    with trio.move_on_after(5) as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait_on)
            send(one, two, "from the grave")
            send(two, one, "to the dead")
    assert scope.cancelled_caught  # it simply waited on
    assert found == []
    assert await take(two) == []
    assert one.datagrams_lost == 1
    assert network.statistics().lost == {"gone": 2, "unreachable": 1}
    for network_of_it in (machine, network):
        with pytest.raises(OSError, match="cannot listen on 10.0.0.1:9443: a is down"):
            await network_of_it.bind(("10.0.0.1", 9443))

    machine.restart()
    assert machine.is_up
    again = await machine.bind(("10.0.0.1", 9443))
    one.close()  # of the dead process: takes nothing from the living one
    send(two, again, "hello")
    assert [data for _, data in await take(again)] == [b"hello"]
    send(again, two, "back")
    assert [data for _, data in await take(two)] == [b"back"]


async def test_a_restart_of_a_machine_that_is_up_ends_what_runs_on_it(autojump_clock: MockClock) -> None:
    network = SimNetwork()
    one, two = await pair(network)
    storage = await network.host("a").open_storage("node")
    network.host("a").restart()
    storage.put("values", b"key", b"value")
    send(one, two, "from the grave")
    assert await take(two) == []
    assert storage.items("values") == []
    (await network.host("a").bind(("0.0.0.0", 9443))).close()


async def test_storage_outlives_a_crash_but_not_what_it_is_told_afterwards(autojump_clock: MockClock) -> None:
    machine = SimNetwork().host("a")
    before = await machine.open_storage("node")
    before.put("values", b"kept", b"1")
    machine.crash()
    before.put("values", b"kept", None)
    before.put("values", b"late", b"2")
    with pytest.raises(OSError, match="cannot open the storage of node: a is down"):
        await machine.open_storage("node")
    machine.restart()
    before.put("values", b"late", b"2")
    after = await machine.open_storage("node")
    assert after.items("values") == [(b"kept", b"1")]
    after.put("values", b"new", b"3")
    assert (await machine.open_storage("node")).items("values") == [(b"kept", b"1"), (b"new", b"3")]
    assert (await machine.open_storage("other")).items("values") == []
    machine.crash()
    machine.restart(keep_storage=False)
    assert (await machine.open_storage("node")).items("values") == []


async def test_the_network_itself_keeps_no_storage(autojump_clock: MockClock) -> None:
    network = SimNetwork()
    (await network.open_storage("node")).put("values", b"key", b"value")
    assert (await network.open_storage("node")).items("values") == []


# -- another address, another clock ------------------------------------------------------------------------------------


async def test_a_host_that_moves_sends_from_the_new_address_and_is_reached_there(autojump_clock: MockClock) -> None:
    network = SimNetwork(latency_s=1)
    one, two = await pair(network)
    send(two, one, "arrived")
    await trio.sleep(2)
    send(two, one, "under way to the old address")
    machine = network.host("a")
    old = one.address
    machine.change_address("10.0.0.7")
    assert one.address == ("10.0.0.7", 9443)
    assert network.bound == [one.address, two.address]
    assert machine.sockets == [one]
    two.send_batch([(b"too late", old), (b"there you are", one.address)])
    one.send_batch([(b"moved", two.address)])
    await two.wait_readable()
    assert two.recv_batch() == [(b"moved", one.address)]
    assert [data for _, data in await take(one)] == [b"arrived", b"there you are"]
    assert network.statistics().lost == {"gone": 1, "unreachable": 1}
    network.partition(["a"])  # still by its name
    send(two, one, "cut")
    assert await take(one) == []
    (await network.bind(old)).close()  # the old address is free for somebody else


async def test_an_address_is_named_by_the_host_that_has_it_now(autojump_clock: MockClock) -> None:
    network = SimNetwork()
    _, two = await pair(network)
    moved = "10.0.0.7", 9443
    network.partition(["a"])
    two.send_batch([(b"to nobody", moved)])
    assert network.statistics().lost == {"unreachable": 1}
    network.host("a").change_address(moved[0])
    two.send_batch([(b"cut", moved)])
    assert network.statistics().lost == {"unreachable": 1, "cut": 1}


async def test_a_host_that_has_moved_does_not_give_its_name_to_who_takes_its_address(
    autojump_clock: MockClock,
) -> None:
    network = SimNetwork()
    (await network.bind(("10.0.0.1", 9443))).close()
    network.host("10.0.0.1").change_address("10.0.0.2")
    with pytest.raises(OSError, match="cannot listen on 10.0.0.1:9443: no host has this address"):
        await network.bind(("10.0.0.1", 9443))
    (await network.host("other", "10.0.0.1").bind(("10.0.0.1", 9443))).close()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("10.0.0.2", "address: 10.0.0.2 is that of 10.0.0.2"),
        ("::1", "address: '::1' is of another family than 10.0.0.1, where sockets are open"),
        ("name", "address: 'name' is not the numeric address of one host"),
    ],
)
async def test_a_move_to_where_nobody_can_be_changes_nothing(
    address: str, message: str, autojump_clock: MockClock
) -> None:
    network = SimNetwork()
    one, two = await pair(network)
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # compared in full
        network.host("a").change_address(address)
    assert str(caught.value) == message
    send(two, one, "x")
    assert len(await take(one)) == 1


async def test_a_host_behind_an_address_translator_is_seen_at_another_port(autojump_clock: MockClock) -> None:
    network = SimNetwork()
    one, two = await pair(network)
    before, after = one.address, (one.address[0], 40_000)
    two.send_batch([(b"under way", before)])
    network.host("a").change_port(before[1], after[1])
    two.send_batch([(b"too late", before)])
    send(one, two, "from there")
    await two.wait_readable()
    assert two.recv_batch() == [(b"from there", after)]
    two.send_batch([(b"answer", after)])
    await one.wait_readable()
    assert one.recv_batch() == [(b"answer", two.address)]
    assert network.statistics().lost == {"gone": 1, "unreachable": 1}
    assert network.bound == [after, two.address]


async def test_a_port_can_only_change_to_one_that_is_free(autojump_clock: MockClock) -> None:
    network = SimNetwork()
    one, two = await pair(network)
    await network.host("a").bind((one.address[0], 40_000))
    with pytest.raises(ValueError, match=r"^port: 40000 of a is in use$"):
        network.host("a").change_port(one.address[1], 40_000)
    with pytest.raises(ValueError, match=r"^before: a has nothing open at port 1$"):
        network.host("a").change_port(1, 2)
    send(two, one, "x")
    assert len(await take(one)) == 1


async def test_a_clock_that_is_wrong_is_wrong_on_its_host_only(autojump_clock: MockClock) -> None:
    network = SimNetwork()
    one, two = network.host("a"), network.host("b")
    one.clock_skew_ms = -90_000
    assert (one.clock_skew_ms, two.clock_skew_ms) == (-90_000, 0)
    await trio.sleep(2)
    assert (one.wall_clock_ms(), two.wall_clock_ms()) == (EPOCH_MS + 2000 - 90_000, EPOCH_MS + 2000)
    assert network.wall_clock_ms() == EPOCH_MS + 2000


async def test_a_host_may_have_several_addresses_and_a_wildcard_is_reached_at_all_of_its_family(
    autojump_clock: MockClock,
) -> None:
    network = SimNetwork(latency_s=0)
    machine = network.host("a", "10.0.0.1", also=["10.0.0.2", "fd00::1"])
    assert machine.addresses == ("10.0.0.1", "10.0.0.2", "fd00::1")
    assert network.host("a", also=["10.0.0.2", "fd00::1"]) is machine
    with pytest.raises(ValueError, match="also: a has 10.0.0.1, 10.0.0.2, fd00::1"):
        network.host("a", also=["10.0.0.3"])
    with pytest.raises(ValueError, match="10.0.0.2 is that of a"):
        network.host("b", "10.0.0.2")
    assert machine.source_host(("fd00::9", 1)) == "fd00::1"
    assert machine.source_host(("10.0.0.9", 1)) == "10.0.0.1"
    both = await machine.bind(("::", 7))
    assert (both.address, machine.sockets) == (("::", 7), [both])
    for host in machine.addresses:  # one socket has them all
        with pytest.raises(OSError, match="Address already in use"):
            await machine.bind((host, 7))
    four = await machine.bind(("0.0.0.0", 8))
    assert four.reached_at == [("10.0.0.1", 8), ("10.0.0.2", 8)]
    machine.change_address("10.0.0.3")
    assert both.reached_at == [("10.0.0.3", 7), ("10.0.0.2", 7), ("fd00::1", 7)]
    four.send_batch([(b"x", ("10.0.0.3", 7)), (b"y", ("10.0.0.2", 7, "10.0.0.2"))])
    assert sorted(both.recv_batch()) == [
        (b"x", ("10.0.0.3", 8, "10.0.0.3")),
        (b"y", ("10.0.0.2", 8, "10.0.0.2")),
    ]
    both.close()
    four.close()
    assert network.bound == []

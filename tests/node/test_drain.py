"""A node that drains: what still runs and what begins no more, where its values go, and what is left."""

from __future__ import annotations

from collections.abc import Callable
from math import inf, nan

import attrs
import pytest
import trio
from authorisation_tools import outcomes, outsider, rpc_route
from cancel_tools import lasting_tasks
from node_tools import add, first, watch

import macula_trio as macula
from macula_trio._dht import handover
from macula_trio._ids import NodeId
from macula_trio._rpc.service import _CachedProviders
from macula_trio.abc import Address
from macula_trio.testing import SimNetwork, open_mesh
from macula_trio.testing._frame_node import open_frame_mesh
from macula_trio.testing.frames import FrameNetwork
from macula_trio.wire import MessageType

pytestmark = pytest.mark.thorough

Clock = trio.testing.MockClock
REALM = "org.example.test"
KEY = macula.dht_key("a value")


@attrs.define
class Work:
    """A handler that takes some seconds, and what became of its runs."""

    seconds: float
    runs: list[str] = attrs.field(factory=list)
    began: trio.Event = attrs.field(factory=trio.Event)

    async def __call__(self, call: macula.Call) -> object:
        self.began.set()
        try:
            await trio.sleep(self.seconds)
        except trio.Cancelled:
            self.runs.append("cancelled")
            raise
        self.runs.append("done")
        return call.args


@attrs.define
class Caller:
    """Makes one call behind the scenes, and notes what became of it and when."""

    node: macula.Node
    procedure: str
    results: list[object] = attrs.field(factory=list)
    ended_at: float = inf

    async def __call__(self) -> None:
        try:
            with trio.move_on_after(60):
                self.results.append(await self.node.call(self.procedure, "fine"))
        except macula.MeshError as exc:
            self.results.append(exc)
        self.ended_at = trio.current_time()


def codes(caller: Caller) -> list[str]:
    return [result.code if isinstance(result, macula.RemoteCallError) else repr(result) for result in caller.results]


def contact(node: macula.Node) -> macula.Contact:
    return macula.Contact(node_id=node.node_id, endpoint=node.endpoint)


def remember(client: macula.Node, procedure: str, *providers: macula.Node) -> None:
    """Have a caller know what the DHT said a moment before the drain."""
    contacts = tuple(contact(provider) for provider in providers)
    client._rpc._providers[procedure] = _CachedProviders(contacts, frozenset(), trio.current_time() + 60)


# -- calls -----------------------------------------------------------------------------------------------------------


async def test_what_runs_finishes_and_what_comes_goes_to_another_provider(autojump_clock: Clock) -> None:
    work = Work(3)
    async with (
        open_mesh(3) as (node, other, client),
        node.advertise("a.work", work),
        trio.open_nursery() as nursery,
    ):
        early, started = Caller(client, "a.work"), trio.current_time()
        nursery.start_soon(early)
        await work.began.wait()
        async with other.advertise("a.work", add):
            nursery.start_soon(node.drain)
            await trio.sleep(1)
            remember(client, "a.work", node, other)
            for number in range(20):
                assert await client.call("a.work", {"a": number, "b": 1}, select="first") == number + 1
            assert node.statistics().calls_turned_away == 1  # from then on it is forgotten
            await trio.sleep(4)
        assert early.results == ["fine"]
        assert early.ended_at - started == pytest.approx(3, abs=0.1)
        assert work.runs == ["done"]


async def test_the_only_provider_answers_draining(autojump_clock: Clock) -> None:
    work = Work(2)
    network = SimNetwork()
    async with (
        open_mesh(2, network=network) as (node, client),
        node.advertise("a.b", work, allow_routed=True),
        outsider(network, node) as stranger,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(Caller(client, "a.b"))
        await work.began.wait()
        nursery.start_soon(node.drain)
        await trio.sleep(0.5)
        remember(client, "a.b", node)
        events = watch(node, "rpc.cast_dropped")
        late = Caller(client, "a.b")
        await late()
        assert codes(late) == ["draining"]
        stranger.say(rpc_route(node))
        await client.send_message(contact(node), MessageType.CAST, {"procedure": "a.b", "args": b"{}"})
        await trio.sleep(0.5)
        assert outcomes(stranger) == ["draining"]
        assert [event.facts["procedure"] for event in events] == ["a.b"]
        assert node.statistics().calls_turned_away == 3
        assert node.statistics().calls_running == 1


async def test_a_repeat_of_a_call_that_runs_is_not_told_that_it_did_not(autojump_clock: Clock) -> None:
    work = Work(2)
    network = SimNetwork()
    async with (
        open_mesh(1, network=network) as (node,),
        node.advertise("a.b", work, allow_routed=True),
        outsider(network, node) as stranger,
        trio.open_nursery() as nursery,
    ):
        stranger.say(rpc_route(node))
        await work.began.wait()
        nursery.start_soon(node.drain)
        await trio.sleep(0.5)
        stranger.say(rpc_route(node))
        await trio.sleep(1)
        assert outcomes(stranger) == []
        assert node.statistics().calls_turned_away == 0
        await trio.sleep(0.6)
        assert len(outcomes(stranger)) == 1
        assert "draining" not in outcomes(stranger)


async def test_a_handler_may_call_others_and_its_own_node_until_it_ends(autojump_clock: Clock) -> None:
    began = trio.Event()
    sums: list[object] = []

    async def outer(call: macula.Call) -> object:
        began.set()
        await trio.sleep(2)
        async with trio.open_nursery() as nursery:
            for procedure in ("add.here", "add.there"):
                nursery.start_soon(one, procedure)
        return sums

    async def one(procedure: str) -> None:
        sums.append(await node.call(procedure, {"a": 1, "b": 2}))

    async with (
        open_mesh(3) as (node, other, client),
        node.advertise("a.outer", outer),
        node.advertise("add.here", add),
        other.advertise("add.there", add),
        trio.open_nursery() as nursery,
    ):
        caller = Caller(client, "a.outer")
        nursery.start_soon(caller)
        await began.wait()
        nursery.start_soon(node.drain)
        await trio.sleep(1)
        with pytest.raises(trio.ClosedResourceError, match="draining"):
            await node.call("add.there", {"a": 1, "b": 2})
        with pytest.raises(trio.ClosedResourceError, match="draining"):
            node.advertise("c.d", add)
        with pytest.raises(trio.ClosedResourceError, match="draining"):
            node.subscribe("c.d")
        await trio.sleep(2)
        assert caller.results == [[3, 3]]


async def test_what_has_not_finished_at_the_deadline_is_cancelled_and_its_caller_told_at_once(
    autojump_clock: Clock,
) -> None:
    work = Work(inf)
    async with open_mesh(2) as (node, client), node.advertise("a.work", work), trio.open_nursery() as nursery:
        events = watch(node, "node.draining", "node.drained")
        caller = Caller(client, "a.work")
        nursery.start_soon(caller)
        await work.began.wait()
        started = trio.current_time()
        await node.drain(3)
        assert trio.current_time() - started == pytest.approx(3, abs=0.05)
        await trio.sleep(0.05)
        assert codes(caller) == ["cancelled"]
        assert caller.ended_at - started == pytest.approx(3, abs=0.05)
        assert work.runs == ["cancelled"]
        assert [(event.name, dict(event.facts)) for event in events] == [
            ("node.draining", {"calls": 1, "deadline_s": 3}),
            ("node.drained", {"calls_cancelled": 1, "calls_turned_away": 0}),
        ]


async def test_an_idempotent_call_that_is_cancelled_there_runs_elsewhere(autojump_clock: Clock) -> None:
    work = Work(inf)
    async with open_mesh(3) as (node, other, client), node.advertise("a.work", work), trio.open_nursery() as nursery:
        results: list[object] = []

        async def call() -> None:
            with trio.move_on_after(60):
                results.append(await client.call("a.work", {"a": 1, "b": 1}, select="first", idempotent=True))

        async with other.advertise("a.work", add):
            remember(client, "a.work", node, other)
            nursery.start_soon(call)
            await work.began.wait()
            await node.drain(1)
            await trio.sleep(0.5)
        assert results == [2]


async def test_an_answer_that_is_lost_on_its_way_is_sent_again_before_the_goodbye(autojump_clock: Clock) -> None:
    deaf: list[str] = []

    def tap(source: Address, target: Address, data: bytes) -> bytes | None:
        return None if target[0] in deaf else data

    async def handler(call: macula.Call) -> object:
        began.set()
        await trio.sleep(1)
        deaf.append(client.endpoint.partition(":")[0])
        nursery.start_soon(hear_again)
        return "fine"

    async def hear_again() -> None:
        await trio.sleep(0.15)
        deaf.clear()

    began = trio.Event()
    async with (
        open_mesh(2, network=SimNetwork(tap=tap)) as (node, client),
        node.advertise("a.b", handler),
        trio.open_nursery() as nursery,
    ):
        caller = Caller(client, "a.b")
        nursery.start_soon(caller)
        await began.wait()
        await node.drain()
        await trio.sleep(0.05)
        assert caller.results == ["fine"]


async def test_health_checks_are_answered_and_readiness_is_gone(autojump_clock: Clock) -> None:
    work = Work(2)
    async with open_mesh(2) as (node, client), node.advertise("a.work", work), trio.open_nursery() as nursery:
        assert node.is_ready
        nursery.start_soon(Caller(client, "a.work"))
        await work.began.wait()
        nursery.start_soon(node.drain)
        await trio.testing.wait_all_tasks_blocked()
        assert not node.is_ready
        assert (await node.check_health()).ok
        await trio.sleep(3)
        with pytest.raises(trio.ClosedResourceError):
            await node.check_health()


# -- messages ---------------------------------------------------------------------------------------------------------


async def test_messages_arrive_until_the_end_and_then_the_subscription_ends(autojump_clock: Clock) -> None:
    work = Work(2)
    received: list[object] = []

    async def consume(messages: macula.Subscription) -> None:
        received.extend([message.payload async for message in messages])
        received.append("end")

    async with (
        open_mesh(2) as (node, publisher),
        node.advertise("a.work", work),
        node.subscribe("a.topic") as messages,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(consume, messages)
        await publisher.publish("a.topic", 1)
        nursery.start_soon(Caller(publisher, "a.work"))
        await work.began.wait()
        nursery.start_soon(node.drain)
        await trio.sleep(0.1)
        await publisher.publish("a.topic", 2)  # as it knows them from before
        await trio.sleep(0.9)
        assert await publisher.find_subscribers("a.topic") == []
        assert (await node.publish("a.topic", 3)).outcomes  # our own as well
        await trio.sleep(2)
        assert received == [1, 2, 3, "end"]
        with pytest.raises(trio.ClosedResourceError, match="drained"):
            await messages.receive()


async def test_a_block_that_is_being_entered_does_not_wait_for_ever(autojump_clock: Clock) -> None:
    async with open_mesh(2) as (node, _), trio.open_nursery() as nursery:
        failures: list[str] = []

        async def advertise() -> None:
            try:
                async with node.advertise("a.b", add):
                    raise AssertionError
            except trio.ClosedResourceError as exc:
                failures.append(str(exc))

        nursery.start_soon(advertise)
        await trio.testing.wait_all_tasks_blocked()
        await node.drain()
        await trio.testing.wait_all_tasks_blocked()
        assert [text[:23] for text in failures] == ["the node is leaving the"]


# -- the end ----------------------------------------------------------------------------------------------------------


async def test_with_nothing_running_it_takes_no_time_and_nothing_is_left(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with open_mesh(3, network=network) as (first_node, other, client):
        before = lasting_tasks()
        config = macula.NodeConfig(realm=REALM, listen="10.9.9.9:1", bootstrap=[first_node.endpoint])
        async with (
            macula.open_node(config, network=network) as node,
            node.advertise("a.b", add),
            node.subscribe("c.d"),
            node.subscribe("c.*"),
        ):
            node_id = node.node_id
            assert await client.call("a.b", {"a": 1, "b": 2}) == 3
            closed = watch(client, "link.closed")
            with node.events() as events:
                started = trio.current_time()
                await node.drain()
                assert trio.current_time() - started < 0.1
                assert (await first(events, "node.drained")).facts["calls_cancelled"] == 0
                assert [event async for event in events if event.name.startswith("node.")] == []
            assert node.peers() == []
            assert lasting_tasks() == before
            await trio.sleep(0.1)
            for peer in (first_node, other, client):
                assert node_id not in {known.node_id for known in peer.known_nodes()}
                assert node_id not in {linked.node_id for linked in peer.peers()}
                assert [value for value in peer.stored_values() if not value.withdrawn] == []
            [goodbye] = [str(event.facts["reason"]) for event in closed if event.facts["peer"] == node_id.hex()]
            assert "said goodbye: the node is closing" in goodbye
            for operation in (
                node.publish("c.d", 1),
                node.find_value(KEY),
                node.ping(contact(client)),
                node.call("a.b"),
            ):
                with pytest.raises(trio.ClosedResourceError, match="has left the mesh"):
                    await operation
            started = trio.current_time()
            await node.drain()
        assert trio.current_time() == started
        assert lasting_tasks() == before
        assert len(network.bound) == 3


async def test_who_drains_a_second_time_waits_for_the_first(autojump_clock: Clock) -> None:
    work = Work(2)
    async with open_mesh(2) as (node, client), node.advertise("a.work", work), trio.open_nursery() as nursery:
        nursery.start_soon(Caller(client, "a.work"))
        await work.began.wait()
        nursery.start_soon(node.drain)
        await trio.testing.wait_all_tasks_blocked()
        with trio.move_on_after(0.5) as impatient:  # stops to wait, and nothing else
            await node.drain(0)
        assert impatient.cancelled_caught
        await node.drain(0)
        assert work.runs == ["done"]


async def test_cancelled_it_has_no_more_patience(autojump_clock: Clock) -> None:
    work = Work(inf)
    async with open_mesh(3) as (node, client, other), node.advertise("a.work", work), trio.open_nursery() as nursery:
        caller = Caller(client, "a.work")
        nursery.start_soon(caller)
        await work.began.wait()
        started = trio.current_time()
        with trio.move_on_after(1):
            await node.drain()
        assert trio.current_time() - started == pytest.approx(1, abs=0.1)
        await trio.sleep(0.05)
        assert codes(caller) == ["cancelled"]
        assert node.peers() == []
        assert node.node_id not in {known.node_id for known in other.known_nodes()}
        assert [value for value in other.stored_values() if not value.withdrawn] == []


async def test_a_handler_cannot_wait_for_its_own_end(autojump_clock: Clock) -> None:
    async def shut_down(call: macula.Call) -> object:
        with pytest.raises(RuntimeError, match="its own node"):
            await node.drain()
        return "as it is"

    async with open_mesh(2) as (node, client), node.advertise("shut.down", shut_down):
        assert await client.call("shut.down") == "as it is"
        assert node.is_ready


@pytest.mark.parametrize("deadline_s", [-1, nan])
async def test_a_deadline_must_be_one(autojump_clock: Clock, deadline_s: float) -> None:
    async with open_mesh(1) as (node,):
        with pytest.raises(ValueError, match="deadline_s"):
            await node.drain(deadline_s)
        assert node.is_ready


# -- leaving the block ------------------------------------------------------------------------------------------------


async def leave(node_config: macula.NodeConfig, network: SimNetwork, client: macula.Node, work: Work) -> None:
    """Leave the block of a node while a call runs in it, whose procedure is advertised from elsewhere."""
    async with trio.open_nursery() as nursery:
        async with macula.open_node(node_config, network=network) as node:
            nursery.start_soon(advertise, node, work)  # noqa: ASYNC111  # it outlives the block, and is to
            await trio.sleep(0.1)
            nursery.start_soon(Caller(client, "a.work"))
            await work.began.wait()
            if work.seconds == inf:
                raise KeyError("a failure of the body")
        nursery.cancel_scope.cancel()


async def advertise(node: macula.Node, work: Work) -> None:
    async with node.advertise("a.work", work):
        await trio.sleep_forever()


def leaving_config(first_node: macula.Node) -> macula.NodeConfig:
    return macula.NodeConfig(realm=REALM, listen="10.9.9.9:1", bootstrap=[first_node.endpoint])


@pytest.mark.parametrize(("seconds", "run", "took"), [(0.5, "done", 0.5), (5, "cancelled", 1.0)])
async def test_leaving_in_peace_has_the_short_deadline(
    autojump_clock: Clock, seconds: float, run: str, took: float
) -> None:
    network, work = SimNetwork(), Work(seconds)
    async with open_mesh(2, network=network) as (first_node, client):
        started = trio.current_time()
        await leave(leaving_config(first_node), network, client, work)
        assert work.runs == [run]
        assert trio.current_time() - started == pytest.approx(took + 0.1, abs=0.1)


async def test_leaving_by_an_exception_cancels_at_once_and_says_goodbye(autojump_clock: Clock) -> None:
    network, work = SimNetwork(), Work(inf)
    async with open_mesh(2, network=network) as (first_node, client):
        started = trio.current_time()
        with pytest.RaisesGroup(KeyError):
            await leave(leaving_config(first_node), network, client, work)
        assert work.runs == ["cancelled"]
        assert trio.current_time() - started < 0.2
        await trio.sleep(0.1)
        assert len(first_node.known_nodes()) == 1
        assert [value for value in first_node.stored_values() if not value.withdrawn] == []


@pytest.mark.parametrize("is_failure", [False, True])
async def test_leaving_while_another_task_drains(autojump_clock: Clock, is_failure: bool) -> None:
    network, work = SimNetwork(), Work(inf)
    async with open_mesh(2, network=network) as (first_node, client), trio.open_nursery() as nursery:
        started = trio.current_time()
        try:
            async with macula.open_node(leaving_config(first_node), network=network) as node:
                nursery.start_soon(advertise, node, work)  # noqa: ASYNC111  # it outlives the block, and is to
                await trio.sleep(0.1)
                nursery.start_soon(Caller(client, "a.work"))
                await work.began.wait()
                nursery.start_soon(node.drain, 60)  # noqa: ASYNC111  # it outlives the block, and is to
                await trio.sleep(0.1)
                if is_failure:
                    raise KeyError
        except KeyError:
            pass
        assert trio.current_time() - started == pytest.approx(0.2 if is_failure else 1.2, abs=0.1)
        assert work.runs == ["cancelled"]
        nursery.cancel_scope.cancel()


# -- values -----------------------------------------------------------------------------------------------------------


async def test_a_value_that_only_we_hold_is_found_when_we_are_gone(autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with open_mesh(3, network=network) as (holder, other, reader):
        async with macula.open_node(leaving_config(holder), network=network) as owner:
            gone = contact(owner)
            keys = (macula.dht_key(str(number)) for number in range(1000))
            key = next(key for key in keys if holder._dht.closest(key)[0] == gone)
            await owner.store(key, {"n": 1})
            [record] = await owner.find_value(key)
        await trio.sleep(0.1)
        holder._dht._table.add(gone, trio.current_time())  # as if its goodbye had not arrived
        for node in (other, reader):
            node._dht._values.drop(lambda _record: True)
        await holder.drain()
        assert await reader.find_value(key) == [record]


@pytest.mark.long
async def test_who_takes_our_place_among_the_replicas_gets_the_value(autojump_clock: Clock) -> None:
    async with open_frame_mesh(40, network=FrameNetwork(seed=1)) as nodes:
        await trio.sleep(5)
        await nodes[0].store(KEY, {}, quorum=20)
        ranked = sorted((node for node in nodes), key=lambda node: node.node_id.distance(KEY))
        holders = {node.node_id for node in nodes if node.stored_values()}
        assert holders == {node.node_id for node in ranked[:20]}
        leaver = ranked[3]
        received: list[NodeId] = []
        for node in nodes:
            node.events.listen(note(received, node.node_id))
        await leaver._dht.hand_over_all()
        assert received == [ranked[0].node_id, ranked[20].node_id]
        assert ranked[20].stored_values() == leaver.stored_values()


def note(received: list[NodeId], node_id: NodeId) -> Callable[[macula.Event], None]:
    return lambda event: received.append(node_id) if event.name == "dht.value_received" else None


@pytest.mark.long
async def test_who_does_not_answer_keeps_nobody_from_the_values(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handover, "GIVEN_AT_ONCE", 2)
    async with open_frame_mesh(3, network=FrameNetwork(seed=1)) as (holder, dead, other):
        keys = [macula.dht_key(str(number)) for number in range(40)]
        for key in keys:
            await other.store(key, {})
        await trio.sleep(1)
        dead.crash()
        other._dht._values.drop(lambda _record: True)
        started = trio.current_time()
        await holder._dht.hand_over_all()
        assert trio.current_time() - started < 5  # two were waiting for its answer when it was given up
        nearest = {key for key in keys if other.node_id.distance(key) < dead.node_id.distance(key)}
        assert {record.key for record in other.stored_values()} >= nearest

"""Worlds: machines and nodes by name, faults that can be left out, and nothing that goes wrong in silence."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from macula_trio import Call, MeshError, NodeConfig, QuorumNotReached, dht_key, open_node
from macula_trio._dht.storage import ValueStore, Verdict
from macula_trio._pubsub.service import PubSubService
from macula_trio._rpc.callee import Callee
from macula_trio._rpc.offer import Handler
from macula_trio._wire import messages as wire
from macula_trio.abc import Link
from macula_trio.testing import (
    InvariantViolated,
    LinkModel,
    Outcome,
    Scale,
    ScenarioError,
    World,
    open_world,
    replay,
    run_scenario,
)
from macula_trio.testing._invariants import CALL_ONCE, MESSAGE_ONCE, NOTHING_LEFT, VALUE_FOUND, Invariants

pytestmark = pytest.mark.thorough

KEY = dht_key("value")


async def echo(call: Call) -> object:
    return call.args


def events(world: World | Outcome) -> list[str]:
    """The names of what was told, in its order."""
    lines = world.trace if isinstance(world, Outcome) else world.trace.lines
    return [json.loads(line)["event"] for line in lines]


async def test_nodes_join_by_the_first_and_leave_in_order(autojump_clock: MockClock) -> None:
    async with open_world(seed=3) as world:
        for name in ("a", "b", "c"):
            await world.start(name)
        assert world.running == ["a", "b", "c"]
        assert world.node("a").role == "bootstrap"
        async with world.node("b").advertise("echo", echo):
            assert await world.node("c").call("echo", 1) == 1
        await world.stop("c")
        assert world.running == ["a", "b"]
    assert world.network.bound == []
    assert [event for event in events(world) if event.startswith("node.st")] == ["node.started"] * 3 + [
        "node.stopped"
    ] * 3
    assert world.invariants.checked[NOTHING_LEFT] >= 4


async def test_identities_follow_from_seed_and_name(autojump_clock: MockClock) -> None:
    ids = []
    for seed in (1, 1, 2):
        async with open_world(seed=seed) as world:
            ids.append((await world.start("a")).node_id)
    assert ids[0] == ids[1] != ids[2]


async def test_a_crashed_node_says_nothing_more_and_comes_back_as_itself(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        a, b = await world.start("a"), await world.start("b")
        world.crash("b")
        assert world.running == ["a"]
        lines = len(world.trace.lines)
        with trio.move_on_after(0.5):
            await trio.sleep_forever()
        assert not [line for line in world.trace.lines[lines:] if json.loads(line)["node"] == "b"]
        again = await world.restart("b")
        assert again is not b
        assert again.node_id == b.node_id
        assert [peer.node_id for peer in a.peers()] == [b.node_id]
        assert await world.restart("b") is again  # it runs
    assert events(world).count("node.restarted") == 1


async def test_what_is_not_there_is_refused_by_name(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        await world.start("a")
        with pytest.raises(ValueError, match="no node b is running; there are: a"):
            world.crash("b")
        with pytest.raises(ValueError, match="a was started before"):
            await world.start("a")


async def test_storage_is_kept_over_a_crash_or_dropped(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        await world.start("a")
        b = await world.start("b")
        await world.store("a", KEY, {}, quorum=2)
        for keep in (True, False):
            world.crash("b")
            b = await world.restart("b", keep_storage=keep)
            assert [record.key for record in b.stored_values()] == [KEY] * keep


async def test_a_value_that_a_quorum_has_stored_is_looked_for(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        await world.start("a")
        await world.start("b")
        await world.store("a", KEY, {}, quorum=2)
        with pytest.raises(QuorumNotReached):
            await world.store("b", KEY, {}, quorum=3)  # not confirmed, and not expected
        await world.check_values()
        assert world.invariants.checked[VALUE_FOUND] == 2


async def test_a_value_that_all_replicas_have_lost_is_missed(autojump_clock: MockClock) -> None:
    with pytest.raises(InvariantViolated, match=VALUE_FOUND):  # noqa: PT012
        async with open_world() as world:
            for name in ("a", "b"):
                await world.start(name)
            await world.store("a", KEY, {}, quorum=2)
            for name in ("a", "b"):
                world.crash(name)
                await world.restart(name, keep_storage=False)
            await world.check_values()


async def test_faults_are_numbered_and_can_be_left_out(autojump_clock: MockClock) -> None:
    async with open_world(scale=Scale(skip_faults=(1,))) as world:
        for name in ("a", "b"):
            await world.start(name)
        world.set_links(LinkModel(latency_s=0.5))
        world.crash("b")  # does not happen
        assert world.running == ["a", "b"]
        world.partition(["a"])
        world.heal()
        assert world.faults == 3
    assert [event for event in events(world) if event.startswith("fault.")] == [
        "fault.link",
        "fault.partition",
        "fault.heal",
    ]


async def test_a_scale_turns_down_and_never_up(autojump_clock: MockClock) -> None:
    async with open_world(scale=Scale(nodes=5, seconds=2.0)) as world:
        assert [world.nodes(10), world.nodes(3), world.nodes(10, least=7)] == [5, 3, 7]
        assert [world.seconds(60), world.seconds(1.5), world.seconds(60, least=4)] == [2.0, 1.5, 4]
        assert (world.nodes_asked, world.seconds_asked) == (7, 4)


async def test_an_error_of_the_body_arrives_as_it_is(autojump_clock: MockClock) -> None:
    with pytest.raises(KeyError, match="mine"):  # noqa: PT012
        async with open_world() as world:
            await world.start("a")
            raise KeyError("mine")


async def test_a_check_that_fails_names_its_invariant(autojump_clock: MockClock) -> None:
    with pytest.raises(InvariantViolated, match="the sum is right: it was 4") as caught:  # noqa: PT012
        async with open_world() as world:
            world.check("the sum is right", holds=True)
            world.check("the sum is right", holds=False, what="it was 4")
    assert caught.value.invariant == "the sum is right"


# -- tests of the tests: what is planted must be found ---------------------------------------------------------------


async def calls_and_messages(world: World) -> None:
    """One call and one message between three nodes."""
    nodes = [await world.start(name) for name in ("a", "b", "c")]
    async with nodes[1].advertise("echo", echo), nodes[2].subscribe("news") as news:
        await nodes[0].call("echo", 1)
        await nodes[0].publish("news", 1)
        await news.receive()


def test_an_honest_mesh_breaks_nothing() -> None:
    outcome = run_scenario(calls_and_messages)
    assert outcome.ok, outcome.traceback
    assert outcome.invariants[CALL_ONCE] == 2
    assert outcome.invariants[MESSAGE_ONCE] == 1


def test_a_planted_duplicate_delivery_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = PubSubService.take_route

    def twice(self: PubSubService, link: Link, route: wire.PubsubRoute) -> None:
        honest(self, link, route)
        honest(self, link, route)

    monkeypatch.setattr(PubSubService, "take_route", twice)
    outcome = run_scenario(calls_and_messages)
    assert outcome.error_kind == f"invariant:{MESSAGE_ONCE}"
    assert outcome.error is not None
    assert "on news to subscription 1 of c" in outcome.error


def test_a_planted_second_run_of_a_call_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Callee._run_handler

    async def twice(self: Callee, *arguments: Any) -> wire.Reply:
        await honest(self, *arguments)
        return await honest(self, *arguments)

    monkeypatch.setattr(Callee, "_run_handler", twice)
    outcome = run_scenario(calls_and_messages)
    assert outcome.error_kind == f"invariant:{CALL_ONCE}"


def test_a_node_that_confirms_a_withdrawal_and_keeps_the_value_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = ValueStore.put

    def deaf(self: ValueStore, value: object, now_ms: int) -> Verdict:  # type: ignore[type-arg]
        if value.withdrawn:  # type: ignore[attr-defined]
            return Verdict(stored=True)
        return honest(self, value, now_ms)  # type: ignore[arg-type]

    monkeypatch.setattr(ValueStore, "put", deaf)
    outcome = run_scenario(calls_and_messages)
    assert outcome.error_kind == f"invariant:{NOTHING_LEFT}"


def test_a_socket_that_a_node_leaves_behind_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("macula_trio.testing._sockets.SimSocket.close", lambda _socket: None)
    outcome = run_scenario(calls_and_messages)
    assert outcome.error_kind == f"invariant:{NOTHING_LEFT}"


def test_a_check_that_fails_in_a_handler_fails_the_run_though_the_handler_answers_for_it() -> None:
    async def scenario(world: World) -> None:
        async def picky(call: Call) -> None:
            world.check("arguments are positive", call.args > 0, f"{call.args}")

        a, b = await world.start("a"), await world.start("b")
        async with a.advertise("picky", picky):
            with contextlib.suppress(MeshError):
                await b.call("picky", -1)
            await trio.sleep_forever()

    outcome = run_scenario(scenario)
    assert (outcome.error_kind, outcome.error) == ("invariant:arguments are positive", "arguments are positive: -1")


def test_a_check_that_fails_in_a_nursery_is_named() -> None:
    async def scenario(world: World) -> None:
        async def fails() -> None:
            world.check("all is well", holds=False, what="it is not")

        async with trio.open_nursery() as nursery:  # noqa: ASYNC112  # the group that it makes is the point
            nursery.start_soon(fails)

    assert run_scenario(scenario).error == "all is well: it is not"


def test_an_error_in_a_nursery_is_told_as_what_it_is() -> None:
    async def fails() -> None:
        raise KeyError("mine")

    async def scenario(world: World) -> None:
        async with trio.open_nursery() as nursery:  # noqa: ASYNC112  # the group that it makes is the point
            nursery.start_soon(fails)

    assert run_scenario(scenario).error_kind == "exception:KeyError"


def test_a_violation_counts_more_than_the_deadlock_that_it_led_to() -> None:
    async def scenario(world: World) -> None:
        try:
            world.check("all is well", holds=False)
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep_forever()

    assert run_scenario(scenario).error_kind == "invariant:all is well"


def test_a_scenario_that_leaves_the_program_has_failed() -> None:
    async def scenario(world: World) -> None:
        sys.exit(0)

    assert run_scenario(scenario).error_kind == "exception:SystemExit"


def test_a_trace_that_grows_too_long_ends_the_run_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("macula_trio.testing._trace.LINES_MAX", 5)
    outcome = run_scenario(calls_and_messages)
    assert outcome.error_kind == "exception:TraceTooLong"
    assert len(outcome.trace) == 5


@pytest.mark.parametrize("honest", [True, False])
def test_a_call_runs_twice_only_if_its_caller_allowed_it(monkeypatch: pytest.MonkeyPatch, honest: bool) -> None:
    ran: list[str] = []

    async def scenario(world: World) -> None:
        def provider(name: str) -> Handler:
            async def slow(call: Call) -> str:
                ran.append(call.call_id.hex())
                if len(ran) == 1:
                    world.crash(name)
                    await trio.sleep_forever()
                return "done"

            return slow

        caller, a, b = [await world.start(name, keepalive_s=1.0) for name in ("caller", "a", "b")]
        async with a.advertise("slow", provider("a")), b.advertise("slow", provider("b")):
            with trio.fail_after(60):
                assert await caller.call("slow", idempotent=True) == "done"

    if not honest:  # as if the call had been repeated though nobody allowed it
        honest_observe = Invariants.observe

        def deaf(self: Invariants, node: str, run: int, event: str, facts: Any) -> InvariantViolated | None:
            return None if event == "rpc.repeated" else honest_observe(self, node, run, event, facts)

        monkeypatch.setattr(Invariants, "observe", deaf)
    outcome = run_scenario(scenario)
    assert len(ran) == 2
    assert ran[0] == ran[1]
    assert outcome.error_kind == (None if honest else f"invariant:{CALL_ONCE}"), outcome.traceback


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("def scenario(:", "SyntaxError"),
        ("1 / 0", "ZeroDivisionError"),
        ("import sys\nsys.exit(0)", "SystemExit"),
        ("import no_such_module", "ModuleNotFoundError"),
        ("x = 1", "has no async def scenario"),
    ],
)
def test_a_file_that_is_no_scenario_is_one_line(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "file.py"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ScenarioError, match=complaint) as caught:
        replay(path)
    assert str(caught.value).startswith(str(path))
    with pytest.raises(ScenarioError, match="no such file"):
        replay(tmp_path / "missing.py")


def test_a_scenario_may_have_dataclasses_and_import_what_lies_beside_it(tmp_path: Path) -> None:
    (tmp_path / "beside_this_one.py").write_text("ANSWER = 42", encoding="utf-8")
    (tmp_path / "file.py").write_text(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "from beside_this_one import ANSWER\n"
        "@dataclass\nclass Told:\n    answer: int\n"
        "async def scenario(world) -> None:\n    world.check('told', Told(ANSWER).answer == 42)\n",
        encoding="utf-8",
    )
    path = list(sys.path)
    outcome = replay(tmp_path / "file.py")
    assert outcome.ok, outcome.traceback
    assert sys.path == path


def test_a_planted_deadlock_ends_in_an_error_that_tells_where() -> None:
    async def scenario(world: World) -> None:
        await world.start("a")
        await trio.Event().wait()  # nobody will ever set it; the node's own timers go on for ever

    outcome = run_scenario(scenario)
    assert outcome.error_kind == "deadlock"
    assert outcome.error is not None
    assert "test_world.py" in outcome.error
    assert "scenario" in outcome.error


def test_a_deadlock_without_any_timer_ends_at_once() -> None:
    async def scenario(world: World) -> None:
        await trio.Event().wait()

    outcome = run_scenario(scenario)
    assert outcome.error_kind == "deadlock"


def test_what_a_scenario_raises_is_told_and_not_raised() -> None:
    async def scenario(world: World) -> None:
        await world.start("a")
        raise KeyError("mine")

    outcome = run_scenario(scenario)
    assert (outcome.error_kind, outcome.error) == ("exception:KeyError", "KeyError: 'mine'")
    assert events(outcome)[:1] == ["node.started"]


def test_a_bug_in_a_node_ends_the_run_as_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(PubSubService, "take_route", broken)
    outcome = run_scenario(calls_and_messages)
    assert outcome.error_kind == "exception:ZeroDivisionError"


def test_the_same_seed_gives_the_same_outcome_and_another_another() -> None:
    one, again, other = [run_scenario(calls_and_messages, seed=seed) for seed in (1, 1, 2)]
    assert (one.trace, one.schedule_hash, one.datagram_hash) == (again.trace, again.schedule_hash, again.datagram_hash)
    assert one.trace_hash != other.trace_hash
    assert one.schedule_hash != other.schedule_hash


async def test_what_is_no_node_can_live_on_a_host_of_the_world(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        first = await world.start("a")
        config = NodeConfig(realm=first.realm, bootstrap=[first.endpoint])
        async with open_node(config, network=world.network.host("guest")) as guest:
            assert [peer.node_id for peer in guest.peers()] == [first.node_id]


def test_a_task_that_nobody_owns_any_more_is_caught() -> None:
    async def scenario(world: World) -> None:
        trio.lowlevel.spawn_system_task(trio.sleep_forever)

    assert run_scenario(scenario).error_kind == f"invariant:{NOTHING_LEFT}"

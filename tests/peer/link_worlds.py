"""Small worlds of links under faults, each a function of its seed, and what must hold in every one of them.

Two to four peers without services send each other numbered CASTs and CALLs while a schedule drawn from the seed does
to them what the world does.  A world is *gentle* or *rough*.  In a gentle one packets are lost, reordered and
duplicated, peers dial each other at once, move, let links idle, have too many of them and replace them, but nobody
dies and nobody is cut off for long: no link may end out of order there, nothing may be lost, and everything arrives
in the order of sending, whatever links it took.  In a rough one peers crash and start anew and paths are cut, too:
then links die, and what holds for all links of two runs holds only if none between them died.

``python tests/peer/link_worlds.py --seeds 0:1000`` runs many, on all cores; ``--seeds 7:8 --story`` shows one.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import logging
import multiprocessing
import random
import struct
import sys
import traceback
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack
from math import inf
from pathlib import Path
from typing import Final, TypeAlias

import attrs
import trio

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from quic_tools import Peer, host, leftovers, open_peer, seeded_bytes

from macula_trio._ids import Contact
from macula_trio._peer.handshake import PER_MESSAGE
from macula_trio._peer.link import QuicLink
from macula_trio._peer.registry import LinkRegistry
from macula_trio._util import format_endpoint
from macula_trio._wire import messages as wire
from macula_trio.abc import Link
from macula_trio.errors import MeshError
from macula_trio.testing import LinkModel, SimHost, SimNetwork, run_seeded

LINK_IDLE_S: Final = 5.0
KEEPALIVE_S: Final = 2.0
ACTIONS: Final = 25
ACTION_S_MAX: Final = 40.0  # longer than a dial, its pauses, and all that waits for it
AGREED_WITHIN_S: Final = 14.0  # a death is noticed (keepalive and 3 probes), and what it leaves has ended
AGREED_LATE_S: Final = 90.0  # the same where PINGs lay behind much else, so that round trips seem to take seconds
REACHED_WITHIN_S: Final = 200.0  # pauses behind failed dials grow to a minute
EMPTY_WITHIN_S: Final = 60.0  # idle time, the end in order, QUIC's idle time-out of 30 s
PORT: Final = host(0)[1]
DIAL_S_MAX: Final = 8.0
MOVES_APART_S: Final = 10.0  # two that move at once lose each other
DIALS_APART_S: Final = 2.0  # of one pair: a fifth link at once is one too many, and ends as such
PERFECT: Final = LinkModel(latency_s=0.005)
BIG_BYTES: Final = 20_000  # of a message that needs many datagrams

IN_ORDER: Final = ("replaced", "idle", "surplus", "goodbye")  # reasons of a link that is closed when all is heard
TOO_MANY: Final = ("too many links", "(limit_exceeded)")  # a bound on what one peer makes us hold comes before order

Serial: TypeAlias = int
Run: TypeAlias = tuple[int, int]  # a machine, and how often it was started before

_STAMP: Final = struct.Struct(">BBI?")  # machine, run, serial number, whether it was sent on a passing link


class Violation(AssertionError):
    """A property does not hold."""


@attrs.frozen(kw_only=True)
class Plan:
    """What kind of world a seed makes."""

    peers: int
    is_gentle: bool
    model: LinkModel
    links_max: int
    idle_s: float

    @classmethod
    def draw(cls, rng: random.Random) -> Plan:
        """Choose one."""
        peers = rng.choice((2, 2, 2, 3, 3, 4))
        is_gentle = rng.random() < 0.6
        loss = rng.choice((0.0, 0.0, 0.02, 0.05) if is_gentle else (0.0, 0.05, 0.1, 0.2))
        model = LinkModel(
            latency_s=rng.choice((0.001, 0.005, 0.03)),
            jitter_s=rng.choice((0.0, 0.002, 0.02)),
            loss=loss,
            duplication=rng.choice((0.0, 0.05)),
            reordering=rng.choice((0.0, 0.1)),
            reordering_delay_s=0.02,
        )
        return cls(
            peers=peers,
            is_gentle=is_gentle,
            model=model,
            links_max=rng.choice((100, 100, 100, 1)),
            idle_s=LINK_IDLE_S,
        )


@attrs.define(eq=False)
class CallRecord:
    """What became of one question."""

    asker: Run
    asked: bytes | None  # the instance that was asked
    outcome: str = "pending"
    executions: int = 0
    cancelled: int = 0


@attrs.define(eq=False)
class Machine:
    """One machine, and whatever runs on it."""

    number: int
    host: SimHost
    run: int = -1
    peer: Peer | None = None
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)

    @property
    def contact(self) -> Contact:
        """Where it is now."""
        assert self.peer is not None
        return Contact(node_id=self.peer.node_id, endpoint=format_endpoint((self.host.address, PORT)))

    @property
    def key(self) -> Run:
        """Of what runs on it now."""
        return self.number, self.run


def instance_of(run: Run) -> bytes:
    """What a run calls itself."""
    return bytes(run) * 8


def holdings(registry: LinkRegistry) -> dict[str, object]:
    """What a registry still keeps of its links and dials; empty when everything has ended."""
    dialer, redialer = registry._dialer, registry._redialer
    nursery = registry._background._nursery
    found: dict[str, object] = {
        "links": len(registry.links),
        "probes": len(registry._probes),
        "worn": len(registry._worn),
        "timers": len(registry._upkeep._alarm._timers._timers),
        "dials": len(dialer._dials),
        "dials by node": len(dialer._of_node),
        "redials": sum(want.scope is not None for want in redialer._wants.values()),
        "tasks": 0 if nursery is None else len(nursery.child_tasks),
    }
    return {name: count for name, count in found.items() if count}


def holdings_of_link(link: QuicLink) -> dict[str, int]:
    """What a link that has ended still keeps."""
    succession = link.succession
    found = {
        "asks": len(link._asks),
        "close callbacks": len(link._close_callbacks),
        "waiting messages": len(succession._queue),
        "waiting bytes": succession.queued_bytes,
        "predecessors": len(succession._predecessors),
        "followers": len(succession._followers),
        "unfinished frames": len(link._inbox._decoders),
    }
    return {name: count for name, count in found.items() if count}


def is_apart(link: QuicLink) -> bool:
    """Whether one of its ends made it for one thing."""
    return link.is_passing or PER_MESSAGE in link.capabilities


def ended_in_order(ends: Sequence[QuicLink]) -> bool:
    """Whether both sides of a link had said the last word, and one had heard that of the other and closed.

    The other one may have to do without: when both begin to end an idle link in the same moment, the last word of one
    and QUIC's close may both be lost.  Whether anything else was lost with them is looked at all the same.
    """
    if len(ends) < 2:
        return False
    closed = any(end.end.rpartition(": ")[2] in IN_ORDER and end._ending.peer_has_finished for end in ends)
    return closed and all(end._ending.has_finished for end in ends)


class World:
    """One world."""

    def __init__(self, rng: random.Random, *, plan: Plan, story: Callable[[str], None]) -> None:
        self.rng = rng
        self.plan = plan
        self._story = story
        self.network = SimNetwork(seed=rng.getrandbits(32), link=plan.model)
        self.machines = [
            Machine(number, self.network.host(host(number)[0], host(number)[0])) for number in range(1, plan.peers + 1)
        ]
        self._serials: dict[tuple[Run, bytes | None], Iterator[int]] = {}
        self.sent: dict[tuple[Run, bytes | None], list[Serial]] = {}
        self.received: dict[tuple[Run, Run], list[tuple[QuicLink, Serial]]] = {}
        self.passed: dict[tuple[Run, Run], list[Serial]] = {}
        self.links: dict[Run, list[QuicLink]] = {}
        self.calls: dict[bytes, CallRecord] = {}
        self._moves = itertools.count(1)
        self._moved_at = -inf
        self._dialed_at: dict[frozenset[int], float] = {}
        self._nursery: trio.Nursery
        self.is_closing = False

    def tell(self, text: str) -> None:
        """For `--story`."""
        self._story(f"{trio.current_time() - self.began:9.4f}  {text}")

    # -- machines -------------------------------------------------------------------------------------------------

    async def run_machine(self, machine: Machine, *, task_status: trio.TaskStatus[None]) -> None:
        """Let one run of a peer live until its scope is cancelled."""
        machine.run += 1
        machine.scope = trio.CancelScope()
        key = machine.key
        with machine.scope:
            async with open_peer(
                self.network,
                machine.number,
                address=(machine.host.address, PORT),
                instance=instance_of(key),
                dial_deadline_s=DIAL_S_MAX if self.plan.is_gentle else DIAL_S_MAX / 2,
                policy={
                    "keepalive_s": KEEPALIVE_S,
                    "links_max": self.plan.links_max,
                    "link_idle_s": self.plan.idle_s,
                },
            ) as peer:
                machine.peer = peer
                opened = self.links[key] = []
                registry = peer.registry

                def opening(link: QuicLink) -> None:
                    opened.append(link)
                    former = [each for each in registry.links if each.node_id == link.node_id]
                    if any(each.instance != link.instance for each in former):
                        raise Violation(f"{key} has links to a former run of the peer of {name_of(link)}")
                    self.tell(f"{key} opened {name_of(link)} dialed={link.is_dialed} replaces={short(link.replaces)}")

                def closing(link: QuicLink) -> None:
                    self.tell(f"{key} closed {name_of(link)}: {link.end}")

                registry.on_opened(opening)
                registry.on_closed(closing)
                registry.handle(wire.Cast, functools.partial(self._on_cast, key))
                registry.handle(wire.Call, functools.partial(self._on_call, peer, key))
                task_status.started()
                await trio.sleep_forever()

    def crash(self, machine: Machine) -> None:
        """It dies without a word."""
        self.tell(f"{machine.key} crashes")
        machine.host.crash()
        machine.scope.cancel()
        machine.peer = None

    async def restart(self, machine: Machine) -> None:
        """Start it as new."""
        machine.host.restart()
        await self._nursery.start(functools.partial(self.run_machine, machine))
        self.tell(f"{machine.key} started")

    # -- traffic ---------------------------------------------------------------------------------------------------

    def _on_cast(self, key: Run, link: Link, cast: wire.Cast) -> None:
        number, run, serial, is_passing = _STAMP.unpack_from(cast.args)
        whole = link.whole
        assert isinstance(whole, QuicLink)
        self.tell(f"{key} gets {serial} of {(number, run)} on {name_of(whole)}")
        if is_passing:
            self.passed.setdefault((key, (number, run)), []).append(serial)
        else:
            self.received.setdefault((key, (number, run)), []).append((whole, serial))

    def _on_call(self, peer: Peer, key: Run, link: Link, call: wire.Call) -> None:
        self.calls[call.call_id].executions += 1
        peer.nursery.start_soon(self._answer, key, link, call)

    async def _answer(self, key: Run, link: Link, call: wire.Call) -> None:
        scope = trio.CancelScope()
        gone = scope.cancel
        link.add_close_callback(gone)
        try:
            with scope:
                await trio.sleep(struct.unpack(">H", call.args[:2])[0] / 1000)
                await link.wait_writable()
        finally:
            link.remove_close_callback(gone)
        if scope.cancelled_caught:
            self.calls[call.call_id].cancelled += not self.is_closing
        else:
            try:
                link.send_nowait(wire.Reply(call_id=call.call_id, result=call.call_id + call.args))
            except MeshError as exc:
                self.tell(f"{key} could not answer: {exc}")

    async def send(self, source: Machine, target: Machine, *, size: int = 0, waits: bool = False) -> bool:
        """One numbered message by whatever link is right; whether it was put on its way."""
        if source.peer is None or target.peer is None:
            return False
        key = source.key
        try:
            link = await source.peer.registry.link_to(target.contact)
            if waits:
                await link.wait_writable()
            if source.key != key:
                return False
            to = (key, link.heir.instance)
            serial = next(self._serials.setdefault(to, itertools.count(1)))
            # A refusal leaves a gap that nobody minds.
            link.send_nowait(wire.Cast(procedure="n", args=_STAMP.pack(*key, serial, False) + bytes(size)))
        except MeshError as exc:
            self.tell(f"{key} could not send to {target.key}: {exc}")
            return False
        self.sent.setdefault(to, []).append(serial)
        self.tell(f"{key} sends {serial} to {target.key} on {name_of(link.heir)}")
        return True

    async def burst(self, source: Machine, target: Machine) -> None:
        """A few in a row."""
        size = BIG_BYTES if self.rng.random() < 0.1 else 0
        count, pause_s = self.rng.randint(1, 8), self.rng.choice((0.0, 0.001, 0.02))
        waits = self.rng.random() < 0.3
        for _ in range(count):
            await self.send(source, target, size=size, waits=waits)
            if pause_s:
                await trio.sleep(pause_s)

    async def ask(self, source: Machine, target: Machine) -> None:
        """A question whose answer takes a while."""
        if source.peer is None or target.peer is None:
            return
        call_id = self.rng.randbytes(16)
        args = struct.pack(">H", self.rng.choice((0, 0, 50, 1_000, 7_000)))
        call = wire.Call(call_id=call_id, procedure="q", args=args)
        record = CallRecord(source.key, None)
        try:
            link = await source.peer.registry.link_to(target.contact)
            record.asked = link.heir.instance
            self.calls[call_id] = record
            reply = await link.ask(call, wire.Reply)
        except MeshError as exc:
            record.outcome = f"{type(exc).__name__}: {exc}"
            return
        record.outcome = "answered" if reply.result == call_id + args else "answered wrongly"

    async def dial(self, source: Machine, target: Machine, after_s: float) -> None:
        """One more link, whether it is needed or not."""
        await trio.sleep(after_s)
        if source.peer is None or target.peer is None:
            return
        self.tell(f"{source.key} dials {target.key}")
        contact = target.contact
        try:
            await source.peer.registry.dial_endpoint(contact.endpoint, expected=contact.node_id, trusted=True)
        except MeshError as exc:
            self.tell(f"{source.key} dialed in vain: {exc}")

    async def pass_by(self, source: Machine, target: Machine) -> None:
        """A link for one message."""
        if source.peer is None or target.peer is None:
            return
        contact, key = target.contact, source.key
        try:
            link = await source.peer.registry.dial_anew(contact.endpoint, expected=contact.node_id, trusted=True)
            link.send_nowait(wire.Cast(procedure="n", args=_STAMP.pack(*key, 0, True)))
            await link.ask(wire.Ping(timestamp=1), wire.Pong)
        except MeshError as exc:
            self.tell(f"{key} could not pass by: {exc}")
        else:
            link.close()

    def turn_over(self, source: Machine, target: Machine) -> None:
        """Take the link between two for worn."""
        if source.peer is not None and target.peer is not None:
            link = source.peer.registry.live_link(target.peer.node_id)
            if link is not None:
                self.tell(f"{source.key} replaces {name_of(link)}")
                source.peer.registry._replace(link)

    # -- what happens ----------------------------------------------------------------------------------------------

    async def live(self) -> None:
        """The schedule."""
        actions: list[tuple[int, Callable[[trio.Nursery], Awaitable[None] | None]]] = [
            (8, self._some_traffic),
            (3, self._some_questions),
            (3, self._dials_at_once),
            (2, self._quiet),
            (2, self._turnover),
            (1, self._move),
            (1, self._passing),
        ]
        if not self.plan.is_gentle:
            actions += [(2, self._crash), (2, self._cut), (1, self._clog)]
        weights = [weight for weight, _ in actions]
        async with trio.open_nursery() as nursery:
            nursery.cancel_scope.deadline = trio.current_time() + 600
            for _ in range(self.rng.randint(ACTIONS // 2, ACTIONS)):
                (_, act), *_ = self.rng.choices(actions, weights)
                pending = act(nursery)
                if pending is not None:
                    await pending
                await trio.sleep(self.rng.choice((0.0, 0.001, 0.01, 0.1, self.rng.expovariate(1.0))))

    def _two(self) -> tuple[Machine, Machine]:
        source, target = self.rng.sample(self.machines, 2)
        return source, target

    def _some_traffic(self, nursery: trio.Nursery) -> None:
        source, target = self._two()
        nursery.start_soon(self.burst, source, target)
        if self.rng.random() < 0.6:
            nursery.start_soon(self.burst, target, source)

    def _some_questions(self, nursery: trio.Nursery) -> None:
        source, target = self._two()
        for _ in range(self.rng.randint(1, 3)):
            nursery.start_soon(self.ask, source, target)

    def _may_dial(self, one: Machine, two: Machine) -> bool:
        pair, now = frozenset((one.number, two.number)), trio.current_time()
        if now < self._dialed_at.get(pair, -inf) + DIALS_APART_S:
            return False
        self._dialed_at[pair] = now
        return True

    def _dials_at_once(self, nursery: trio.Nursery) -> None:
        source, target = self._two()
        if not self._may_dial(source, target):
            return
        nursery.start_soon(self.dial, source, target, 0.0)
        if self.rng.random() < 0.8:
            nursery.start_soon(self.dial, target, source, self.rng.choice((0.0, 0.001, 0.01, 0.04)))
        for _ in range(self.rng.randint(0, 2)):
            speaker, listener = self.rng.sample((source, target), 2)
            nursery.start_soon(self.burst, speaker, listener)

    async def _quiet(self, nursery: trio.Nursery) -> None:
        """Just so long that what is idle ends, and something new is said while it does."""
        idle_s = self.plan.idle_s * self.rng.choice((1.0, 1.1))
        await trio.sleep(idle_s + self.rng.choice((0.0, 1.0)) * self.rng.uniform(-0.05, 0.1))
        self._some_traffic(nursery)

    def _turnover(self, nursery: trio.Nursery) -> None:
        source, target = self._two()
        if not self._may_dial(source, target):
            return
        self.turn_over(source, target)
        if self.rng.random() < 0.3:
            self.turn_over(target, source)
        nursery.start_soon(self.burst, source, target)
        nursery.start_soon(self.burst, target, source)

    def _move(self, _nursery: trio.Nursery) -> None:
        if self.plan.is_gentle and trio.current_time() < self._moved_at + MOVES_APART_S:
            return
        machine = self.rng.choice(self.machines)
        if self.plan.is_gentle and not self._may_move(machine):
            return
        self._moved_at = trio.current_time()
        address = f"10.8.{machine.number}.{next(self._moves)}"
        self.tell(f"{machine.key} moves to {address}")
        machine.host.change_address(address)

    def _may_move(self, machine: Machine) -> bool:
        """Whoever has dialed is found by his peers where he is now, if he says anything; who was dialed is not.

        Nor is whoever has said his last word on a link that ends: he says nothing more there.
        """
        assert machine.peer is not None
        registry, connections = machine.peer.registry, machine.peer.endpoint._connections
        is_quiet = not registry._dialer._dials and not any(link.is_ending for link in registry.links)
        return is_quiet and all(connection.is_dialed for connection in connections)

    def _passing(self, nursery: trio.Nursery) -> None:
        nursery.start_soon(self.pass_by, *self._two())

    def _crash(self, nursery: trio.Nursery) -> None:
        machine = self.rng.choice(self.machines)
        if machine.peer is not None:
            self.crash(machine)
            nursery.start_soon(self._come_back, machine, self.rng.choice((0.01, 1.0, 8.0)))

    async def _come_back(self, machine: Machine, after_s: float) -> None:
        await trio.sleep(after_s)
        await self.restart(machine)

    def _cut(self, nursery: trio.Nursery) -> None:
        source, target = self._two()
        one_way = self.rng.random() < 0.5
        self.tell(f"{source.key} | {target.key} one_way={one_way}")
        self.network.partition([source.host.name], [target.host.name], one_way=one_way)
        nursery.start_soon(self._heal, self.rng.choice((0.1, 1.0, 4.0, 12.0)))

    async def _heal(self, after_s: float) -> None:
        await trio.sleep(after_s)
        self.tell("heal")
        self.network.heal()

    async def _clog(self, nursery: trio.Nursery) -> None:
        machine = self.rng.choice(self.machines)
        self.tell(f"{machine.key} clogged")
        self.network.clog(machine.host.name)
        await trio.sleep(self.rng.choice((0.05, 0.5, 3.0)))
        self.network.unclog(machine.host.name)

    # -- one life -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Live, heal, and look."""
        self.began = trio.current_time()
        async with trio.open_nursery() as self._nursery:
            for machine in self.machines:
                await self._nursery.start(functools.partial(self.run_machine, machine))
            with ExitStack() as wants:
                for source, target in itertools.permutations(self.machines, 2):
                    if self.rng.random() < 0.3:
                        assert source.peer is not None
                        wants.enter_context(source.peer.registry.want(target.contact))
                await self.live()
                self.tell("the world is well")
                self.network.heal()
                self.network.set_link(PERFECT)
                await self._reach_all()
                disagreement = self._disagreement()
                if disagreement:
                    raise Violation(disagreement)
                self.check_traffic()
            self.is_closing = True
            await self._close()
            self._nursery.cancel_scope.cancel()

    async def _reach_all(self) -> None:
        """Everybody reaches everybody, and says a little for a while."""
        async with trio.open_nursery() as nursery:
            for source, target in itertools.permutations(self.machines, 2):
                nursery.start_soon(self._reach, source, target)
        for second in itertools.count():
            async with trio.open_nursery() as nursery:
                for source, target in itertools.permutations(self.machines, 2):
                    nursery.start_soon(self.send, source, target)
            await trio.sleep(1)
            if second >= AGREED_WITHIN_S and (second >= AGREED_LATE_S or not self._disagreement()):
                break

    async def _reach(self, source: Machine, target: Machine) -> None:
        with trio.move_on_after(REACHED_WITHIN_S):
            while not await self.send(source, target):  # noqa: ASYNC110  # nobody tells when a pause is over
                await trio.sleep(1)
            return
        raise Violation(f"{source.key} does not reach {target.key} any more")

    # -- what must hold -----------------------------------------------------------------------------------------------

    def _disagreement(self) -> str:
        """What there is besides one live link per pair, the same at both ends; empty when there is nothing."""
        if self.plan.links_max < self.plan.peers - 1:
            return ""  # more are wanted than are kept, so they come and go
        for one, two in itertools.combinations(self.machines, 2):
            ids = [self._link_ids(one, two), self._link_ids(two, one)]
            if len(ids[0]) != 1 or ids[0] != ids[1]:
                return f"{one.key} and {two.key} have {ids[0]} and {ids[1]}, not one and the same"
        for machine in self.machines:
            assert machine.peer is not None
            links, connections = len(machine.peer.registry.links), machine.peer.endpoint.connections
            if links != connections:
                return f"{machine.key} has {links} links and {connections} connections"
        return ""

    def _link_ids(self, source: Machine, target: Machine) -> list[str]:
        assert source.peer is not None
        assert target.peer is not None
        return [name_of(link) for link in source.peer.registry.links if link.node_id == target.peer.node_id]

    def deaths(self, one: Run, two: Run) -> list[str]:
        """The links between two runs that ended out of order, by either end."""
        ends: dict[bytes, list[QuicLink]] = {}
        for at, other in ((one, two), (two, one)):
            for link in self.links[at]:
                if link.instance == instance_of(other) and not is_apart(link):
                    ends.setdefault(link.client_random, []).append(link)
        return [
            f"{name_of(end)}: {end.end}"
            for both in ends.values()
            if not ended_in_order(both)
            for end in both
            if end.is_ended
        ]

    def check_traffic(self) -> None:
        """Nothing twice or out of order on a link; where no link died, nothing lost, nor out of order at all."""
        runs = list(self.links)
        for receiver, sender in itertools.permutations(runs, 2):
            if receiver[0] == sender[0]:
                continue
            serials = self._check_links(receiver, sender)
            deaths = self.deaths(receiver, sender)
            unreasonable = [death for death in deaths if not death.endswith(TOO_MANY)]
            if self.plan.is_gentle and unreasonable:
                raise Violation(f"died without a reason: {unreasonable}")
            sent = self.sent.get((sender, instance_of(receiver)), [])
            strange = set(serials) - set(sent)
            if strange:
                raise Violation(f"{receiver} got {strange} of {sender}, who did not send it")
            if not deaths and not self._is_dead(receiver) and not self._is_dead(sender):
                self._check_whole(receiver, sender, sent, serials)
        for call in self.calls.values():
            if call.executions > 1:
                raise Violation(f"a question of {call.asker} was asked {call.executions} times")
            if call.outcome == "answered wrongly":
                raise Violation(f"a question of {call.asker} was answered wrongly")

    def _check_links(self, receiver: Run, sender: Run) -> list[Serial]:
        """What came from one run to another: nothing twice, and what came on one link in order."""
        got = self.received.get((receiver, sender), [])
        serials = [serial for _, serial in got]
        if len(set(serials)) != len(serials):
            raise Violation(f"{receiver} got something of {sender} twice: {serials}")
        for link in dict.fromkeys(link for link, _ in got):
            on_link = [serial for at, serial in got if at is link]
            if on_link != sorted(on_link):
                raise Violation(f"{receiver} got {on_link} of {sender} on {name_of(link)}")
        return serials

    def _is_dead(self, run: Run) -> bool:
        return not any(machine.key == run and machine.peer is not None for machine in self.machines)

    def _check_whole(self, receiver: Run, sender: Run, sent: list[Serial], serials: list[Serial]) -> None:
        if serials != sorted(serials):
            at = [(name_of(link), serial) for link, serial in self.received[receiver, sender]]
            raise Violation(f"{receiver} got {at} of {sender}")
        if serials != sent:
            raise Violation(f"{receiver} never got {sorted(set(sent) - set(serials))} of {sender}")
        for call in self.calls.values():
            if call.asker == sender and call.asked == instance_of(receiver):
                if call.outcome != "answered" and not call.outcome.startswith("NotSent"):
                    raise Violation(f"{receiver} left a question of {sender}: {call.outcome}")
                if call.cancelled:
                    raise Violation(f"{receiver} cancelled what {sender} asked")

    async def _close(self) -> None:
        """One leaves, the others just fall silent: in the end nobody holds anything."""
        leaving = self.rng.choice(self.machines)
        assert leaving.peer is not None
        leaving.peer.registry.leave()
        await trio.sleep(EMPTY_WITHIN_S)
        for machine in self.machines:
            assert machine.peer is not None
            self._require_nothing(f"the endpoint of {machine.key}", leftovers(machine.peer.endpoint))
            kept = holdings(machine.peer.registry)
            self._require_nothing(f"the registry of {machine.key}", kept)
            for link in self.links[machine.key]:
                self._require_nothing(f"{name_of(link)} of {machine.key}", holdings_of_link(link))

    def _require_nothing(self, where: str, kept: object) -> None:
        if kept:
            raise Violation(f"{where} still keeps {kept}")


def name_of(link: QuicLink) -> str:
    """Short, the same at both ends."""
    return f"link {link.client_random.hex()[:6]}"


def short(link_id: bytes | None) -> str:
    """For the story."""
    return "-" if link_id is None else link_id.hex()[:6]


# -- running ----------------------------------------------------------------------------------------------------------


def run_world(seed: int, *, story: Callable[[str], None] = lambda _text: None) -> World:
    """Live one world.

    Raises:
      Violation: a property does not hold; its text says which, and how to see it again.
    """

    async def scenario(rng: random.Random) -> World:
        plan = Plan.draw(rng)
        story(f"seed {seed}: {plan}")
        world = World(rng, plan=plan, story=story)
        await world.run()
        return world

    seeded_bytes.calls = 0  # type: ignore[attr-defined]
    return run_seeded(scenario, seed=seed).result


def try_seed(seed: int) -> tuple[int, str]:
    """Live one world; returns its seed, and the text of its failure with the one command that repeats it."""
    try:
        run_world(seed)
    except (Exception, BaseExceptionGroup) as exc:  # noqa: BLE001  # whatever it is, the other seeds have their turn
        causes = "; ".join(
            str(leaf) if isinstance(leaf, Violation) else "".join(traceback.format_exception(leaf))
            for leaf in _leaves(exc)
        )
        return seed, f"seed {seed}: {causes}\n  again: python tests/peer/link_worlds.py --story --seeds {seed}"
    return seed, ""


def _leaves(exc: BaseException) -> Iterator[BaseException]:
    if isinstance(exc, BaseExceptionGroup):
        for each in exc.exceptions:
            yield from _leaves(each)
    else:
        yield exc


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", default="0:1000")
    parser.add_argument("--story", action="store_true", help="tell what happens")
    parser.add_argument("--first", action="store_true", help="end with the first failure")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # aioquic's, of every handshake that lost a packet
    first, _, end = options.seeds.partition(":")
    seeds = range(int(first), int(end or int(first) + 1))
    if options.story:
        for seed in seeds:
            print(run_world(seed, story=print).network.digest)
        return 0
    failed = 0
    with multiprocessing.get_context("fork").Pool(options.jobs) as pool:
        for _, failure in pool.imap_unordered(try_seed, seeds):
            if failure:
                failed += 1
                print(failure, flush=True)
                if options.first:
                    break
    print(f"{len(seeds)} seeds, {failed} failed")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())

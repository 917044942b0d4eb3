"""A world for one scenario: machines on a simulated network, nodes on them, faults, a trace, and what must hold.

The nodes are real nodes on real QUIC; their identities follow from the seed and their names.  What a shrink may turn
down (`Scale`) is asked of the world, so that a smaller run is the same scenario with other numbers.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import attrs
import trio

from macula_trio._background import hidden_nursery
from macula_trio._config import NodeConfig
from macula_trio._dht.owner import StoreReport
from macula_trio._events import Event, Fact
from macula_trio._identity.files import Identity
from macula_trio._ids import NodeId
from macula_trio._node import Node
from macula_trio._open import open_node
from macula_trio._util import format_endpoint
from macula_trio.testing._faults import LinkModel
from macula_trio.testing._invariants import NOTHING_LEFT, VALUE_FOUND, Invariants, InvariantViolated
from macula_trio.testing._trace import ALL_NODES, Trace, TraceTooLong
from macula_trio.testing.frames import FrameNetwork
from macula_trio.testing.network import SimHost, SimNetwork

REALM: Final = "org.example.world"
PORT: Final = 9443
FIND_DEADLINE_S: Final = 30.0  # for one lookup of a value that must be there
ASKERS_MAX: Final = 3  # nodes that look each value up: the lookups of all would drown the scenario


@attrs.frozen(kw_only=True)
class Scale:
    """How far a run is turned down from what its scenario asks for.

    Attributes:
      nodes: at most so many.
      seconds: at most so long.
      skip_faults: numbers of faults that do not happen; they are counted from 0 in the order of the scenario.
    """

    nodes: int | None = None
    seconds: float | None = None
    skip_faults: tuple[int, ...] = ()


@attrs.define(eq=False)
class _Member:
    """One machine and the node on it."""

    name: str
    host: SimHost
    identity: Identity
    config: NodeConfig
    runs: int = 0
    node: Node | None = None
    leave: trio.Event = attrs.field(factory=trio.Event)
    left: trio.Event = attrs.field(factory=trio.Event)
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)


@attrs.frozen
class _Expectation:
    """A value that a quorum has confirmed."""

    key: bytes
    owner: NodeId
    stored_by: str
    expires_s: float


class World:
    """What a scenario has in its hands.  Made by `open_world`.

    Attributes:
      seed: everything follows from it.
      random: the scenario's own chance.
      network: under all nodes.
      frames: a network of frames, for thousands of nodes without QUIC and TLS (`open_frame_mesh`).
      trace: what happened so far.
      invariants: what must hold.
      failure: what has ended the run, if anything has; it is raised when the world's block is left.
    """

    def __init__(self, seed: int, scale: Scale, nursery: trio.Nursery) -> None:
        self.seed = seed
        self.random: random.Random = random.Random(f"scenario:{seed}")
        self.network: SimNetwork = SimNetwork(seed=seed)
        self.trace: Trace = Trace()
        self.invariants: Invariants = Invariants()
        self.faults: int = 0
        self.nodes_asked: int = 0
        self.seconds_asked: float = 0.0
        self._scale = scale
        self._nursery = nursery
        self._members: dict[str, _Member] = {}
        self._bootstraps: list[str] = []
        self._expectations: list[_Expectation] = []
        self.failure: Exception | None = None
        self.frames: FrameNetwork = FrameNetwork(seed=seed)
        for network in (self.network, self.frames):
            network.listen(self._fault_told)

    # -- what a shrink may turn down -----------------------------------------------------------------------------

    def nodes(self, wanted: int, *, least: int = 2) -> int:
        """How many nodes to take: ``wanted``, or fewer while a failure is being shrunk."""
        limit = self._scale.nodes
        count = wanted if limit is None else min(wanted, max(least, limit))
        self.nodes_asked = max(self.nodes_asked, count)
        return count

    def seconds(self, wanted: float, *, least: float = 1.0) -> float:
        """How long to go on, in virtual seconds: ``wanted``, or less while a failure is being shrunk."""
        limit = self._scale.seconds
        duration_s = wanted if limit is None else min(wanted, max(least, limit))
        self.seconds_asked = max(self.seconds_asked, duration_s)
        return duration_s

    # -- nodes ---------------------------------------------------------------------------------------------------

    async def start(self, name: str, **config: Any) -> Node:
        """Start a node on a machine of its own, and wait until it has joined.

        The first node is the bootstrap of all others, unless they are given others.

        Args:
          name: of the node and of its machine.
          config: fields of `NodeConfig`; realm, listen address and bootstrap have defaults.
        """
        if name in self._members:
            raise ValueError(f"{name} was started before; restart() it")
        host = self.network.host(name)
        endpoint = format_endpoint((host.address, PORT))
        fields: dict[str, Any] = {"realm": REALM, "listen": endpoint, "bootstrap": tuple(self._bootstraps), **config}
        if not self._bootstraps:
            fields.setdefault("role", "bootstrap")
            self._bootstraps.append(endpoint)
        identity = Identity.from_seed(hashlib.sha256(f"{self.seed}:{name}".encode()).digest())
        self.trace.name(identity.node_id.hex(), name)
        member = self._members[name] = _Member(name, host, identity, NodeConfig(**fields))
        return await self._run(member)

    async def stop(self, name: str) -> None:
        """Let a node leave in order, wait for it, and check that nothing of it is left."""
        member = self._running(name)
        member.leave.set()
        await member.left.wait()

    def crash(self, name: str) -> None:
        """End a node without a word: its machine is dead from now on."""
        member = self._running(name)
        if self._fault():
            member.node = None
            member.host.crash()
            member.scope.cancel()

    async def restart(self, name: str, *, keep_storage: bool = True) -> Node:
        """Start a node that was stopped or has crashed once more; one that runs is left alone."""
        member = self._members[name]
        if member.node is not None:
            return member.node
        member.host.restart(keep_storage=keep_storage)
        return await self._run(member)

    def node(self, name: str) -> Node:
        """The node of this name, which must be running."""
        node = self._running(name).node
        assert node is not None
        return node

    @property
    def running(self) -> list[str]:
        """Names of the nodes that run, in the order in which they were first started."""
        return [name for name, member in self._members.items() if member.node is not None]

    # -- faults --------------------------------------------------------------------------------------------------

    def set_links(self, model: LinkModel, source: str | None = None, target: str | None = None) -> None:
        """Change the paths from ``source`` to ``target``; None stands for any."""
        if self._fault():
            self.network.set_link(model, source, target)

    def partition(self, side: Iterable[str], others: Iterable[str] | None = None, *, one_way: bool = False) -> None:
        """Cut ``side`` off from ``others`` (everybody else by default)."""
        if self._fault():
            self.network.partition(side, others, one_way=one_way)

    def heal(self) -> None:
        """End all partitions."""
        self.network.heal()

    def clog(self, *names: str) -> None:
        """Hold back what is sent from and to these machines."""
        if self._fault():
            self.network.clog(*names)

    def unclog(self, *names: str) -> None:
        """Let go of what was held back."""
        self.network.unclog(*names)

    def skew(self, name: str, skew_ms: int) -> None:
        """Set a machine's clock wrong."""
        if self._fault():
            self._members[name].host.clock_skew_ms = skew_ms

    def change_address(self, name: str, address: str) -> None:
        """Move a machine to another address under its open sockets."""
        if self._fault():
            self._members[name].host.change_address(address)

    # -- what is told and what must hold ------------------------------------------------------------------------------

    def note(self, event: str, /, **facts: Fact) -> None:
        """Write a line of the scenario's own into the trace."""
        self._write(ALL_NODES, event, facts)

    def summarise(self, *prefixes: str) -> None:
        """Only count events whose names begin so, such as ``"link."``: a trace is for reading."""
        self.trace.summarise(*prefixes)

    def check(self, invariant: str, holds: bool, what: str = "it does not") -> None:
        """Hold the scenario's own invariant to the test.

        Args:
          invariant: a sentence.
          holds: whether it does.
          what: what was found instead.

        Raises:
          InvariantViolated: it does not hold.
        """
        self.invariants.checked[invariant] += 1
        if not holds:
            violation = InvariantViolated(invariant, what)
            self._end(violation)  # whoever catches what is raised here, such as the boundary around a handler
            raise violation

    async def store(self, name: str, key: bytes, metadata: Mapping[str, object], *, quorum: int) -> StoreReport:
        """Store a value from a node; once a quorum has confirmed it, `check_values` demands to find it.

        Raises:
          QuorumNotReached: fewer confirmed.
        """
        member = self._running(name)
        assert member.node is not None
        stored_at = trio.current_time()
        report = await member.node.store(key, metadata, quorum=quorum)
        expires_s = stored_at + member.config.value_ttl_s
        self._expectations.append(_Expectation(key, member.identity.node_id, name, expires_s))
        return report

    async def check_values(self) -> None:
        """Look every value up that a quorum has confirmed and that has not expired, from a few nodes.

        Raises:
          InvariantViolated: one is not found.
        """
        for value in self._expectations:
            askers = self.random.sample(self.running, min(ASKERS_MAX, len(self.running)))
            for name in askers:
                if trio.current_time() + FIND_DEADLINE_S >= value.expires_s:
                    break
                found: list[NodeId] = []
                with trio.move_on_after(FIND_DEADLINE_S):
                    found = [record.node_id for record in await self.node(name).find_value(value.key)]
                what = f"the value of {value.stored_by} under {value.key.hex()[:16]} is not found from {name}"
                self.check(VALUE_FOUND, value.owner in found, what)

    # -- inside --------------------------------------------------------------------------------------------------

    def _running(self, name: str) -> _Member:
        member = self._members.get(name)
        if member is None or member.node is None:
            raise ValueError(f"no node {name} is running; there are: {', '.join(self.running) or 'none'}")
        return member

    def _fault(self) -> bool:
        """Count one fault; False when this run does without it."""
        number = self.faults
        self.faults += 1
        return number not in self._scale.skip_faults

    async def _run(self, member: _Member) -> Node:
        member.leave, member.left, member.scope = trio.Event(), trio.Event(), trio.CancelScope()
        member.runs += 1
        node = await self._nursery.start(self._keep, member, name=f"node {member.name}")
        assert isinstance(node, Node)
        return node

    async def _keep(self, member: _Member, *, task_status: trio.TaskStatus[Node]) -> None:
        run, leave, left, scope = member.runs, member.leave, member.left, member.scope
        event = "node.started" if run == 1 else "node.restarted"
        self._tell(event, node=member.name, node_id=member.identity.node_id.hex(), endpoint=member.config.listen)
        try:
            with scope:
                listener = partial(self._event, member, run)
                async with open_node(
                    member.config, identity=member.identity, network=member.host, listener=listener
                ) as node:
                    member.node = node
                    task_status.started(node)
                    await leave.wait()
                    member.node = None
        finally:
            if member.runs == run:
                member.node = None
            left.set()
        if not scope.cancel_called:
            self._tell("node.stopped", node=member.name)
            self._check_nothing_left(member)

    def _check_nothing_left(self, member: _Member) -> None:
        bound = [address for address in self.network.bound if address[0] == member.host.address]
        self._hold(NOTHING_LEFT, not bound, f"{member.name} has left, and {bound} is still bound")

    def _event(self, member: _Member, run: int, event: Event) -> None:
        if run != member.runs or member.scope.cancel_called:
            return  # of a run that has crashed: what it still does in its last moments, nobody sees
        self._write(member.name, event.name, event.facts)
        violation = self.invariants.observe(member.name, run, event.name, event.facts)
        if violation is not None:
            self._end(violation)
        if event.name == "dht.withdrawn":
            self._check_withdrawn(member, event.facts)

    def _check_withdrawn(self, owner: _Member, facts: Mapping[str, Fact]) -> None:
        """Whoever confirmed a withdrawal must hold nothing but a tombstone now."""
        replicas, own = facts["replicas"], owner.identity.node_id
        assert isinstance(replicas, list)
        for member in self._members.values():
            if member.node is None or member.identity.node_id.hex() not in replicas:
                continue
            alive = [
                record
                for record in member.node.stored_values()
                if record.node_id == own
                and (record.key.hex(), record.kind) == (facts["key"], facts["kind"])
                and not record.withdrawn
            ]
            what = f"{member.name} confirmed that {owner.name} withdrew, and still holds its value"
            self._hold(NOTHING_LEFT, not alive, what)

    def _hold(self, invariant: str, holds: bool, what: str) -> None:
        self.invariants.checked[invariant] += 1
        if not holds:
            self._end(InvariantViolated(invariant, what))

    def _end(self, failure: Exception) -> None:
        """End the run: not by raising, because events are told in the midst of things."""
        if self.failure is None:
            self.failure = failure
            self._nursery.cancel_scope.cancel()

    def _fault_told(self, event: str, facts: Mapping[str, Fact]) -> None:
        self._write(ALL_NODES, event, facts)

    def _tell(self, event: str, /, **facts: Fact) -> None:
        self._write(ALL_NODES, event, facts)

    def _write(self, node: str, event: str, facts: Mapping[str, Fact]) -> None:
        try:
            self.trace.add(trio.current_time(), node, event, facts)
        except TraceTooLong as exc:
            self._end(exc)

    async def _close(self) -> None:
        """The end of every scenario: all nodes leave, the last one first."""
        self.network.heal()
        for name in reversed(self.running):
            await self.stop(name)


@asynccontextmanager
async def open_world(*, seed: int = 0, scale: Scale | None = None) -> AsyncGenerator[World, None]:
    """A world for the length of the block; at its end the nodes leave in order, and nothing may be left of them.

    Use it under Trio's mock clock.  An exception of the body arrives as it is.

    Raises:
      InvariantViolated: what must hold did not.
    """
    world: World | None = None
    try:
        with hidden_nursery() as hidden:
            async with trio.open_nursery() as nursery:
                world = World(seed, scale or Scale(), nursery)
                with hidden.body():
                    yield world
                    await world._close()
                nursery.cancel_scope.cancel()
    finally:
        assert world is not None
        world.trace.finish(trio.current_time())
        if world.failure is not None:
            raise world.failure
    world.check(NOTHING_LEFT, not world.network.bound, f"sockets are open: {world.network.bound}")

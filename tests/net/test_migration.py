"""Peers that move while a connection lives, and those who only look as if somebody had moved."""

from __future__ import annotations

import attrs
import pytest
import trio
import trio.testing
from quic_tools import PATIENCE_S, Proving, Recorder, connect_bare, host, open_endpoint

from macula_trio._net.migration import AMPLIFICATION_MAX, CHALLENGE_PAUSE_S, CHALLENGES_MAX, PeerPath
from macula_trio._net.quic import Connection
from macula_trio._util import Address
from macula_trio.testing import LinkModel, SimNetwork

Clock = trio.testing.MockClock

ONE, TWO, ELSEWHERE, SPOOFER = host(1), host(2), ("10.8.8.8", 9443), ("10.9.9.9", 666)
SIZE = 40  # bytes of a small datagram

# -- the decisions ---------------------------------------------------------------------------------------------------


def begun() -> PeerPath:
    """A candidate whose challenge has not left yet."""
    path = PeerPath(TWO)
    assert path.heard(ELSEWHERE, SIZE, 0.0, is_news=True)
    assert path.target(SIZE) == TWO, "what is to be sent anyway keeps to the path"
    path.challenge()
    return path


def challenged() -> PeerPath:
    """A candidate that was sent its challenge."""
    path = begun()
    assert path.target(SIZE) == ELSEWHERE
    return path


def test_the_answer_to_a_challenge_moves_the_path() -> None:
    path = challenged()
    assert path.answered([path.uid], ELSEWHERE)
    assert path.address == path.target(SIZE) == ELSEWHERE
    assert not path.answered([path.uid], ELSEWHERE), "only once"


def test_one_datagram_carries_the_challenge_and_all_others_keep_to_the_path() -> None:
    path = challenged()
    assert [path.target(SIZE) for _ in range(3)] == [TWO] * 3


def test_an_answer_from_elsewhere_or_to_something_else_moves_nothing() -> None:
    path = challenged()
    assert not path.answered([path.uid], SPOOFER)
    assert not path.answered([path.uid], TWO)
    assert not path.answered([path.uid - 1, path.uid + 1], ELSEWHERE)
    assert path.address == TWO
    assert path.answered([path.uid - 1, path.uid], ELSEWHERE)


def test_what_is_no_news_makes_no_candidate() -> None:
    path = PeerPath(TWO)
    assert not path.heard(ELSEWHERE, SIZE, 0.0, is_news=False)
    assert path.target(SIZE) == TWO


def test_what_is_no_news_takes_no_candidates_place() -> None:
    path = challenged()
    assert not path.heard(SPOOFER, SIZE, 2 * CHALLENGE_PAUSE_S, is_news=False)
    assert path.answered([path.uid], ELSEWHERE)


def test_who_still_talks_has_not_moved() -> None:
    path = challenged()
    assert not path.heard(TWO, SIZE, 0.1, is_news=False)
    assert not path.answered([path.uid], ELSEWHERE)
    assert not path.heard(ELSEWHERE, SIZE, 0.2, is_news=True), "too soon"
    assert path.heard(ELSEWHERE, SIZE, CHALLENGE_PAUSE_S, is_news=True)


def test_a_challenge_that_has_not_left_yet_is_called_off_too() -> None:
    path = begun()
    path.heard(TWO, SIZE, 0.1, is_news=False)
    assert path.target(SIZE) == TWO


def test_an_answer_to_an_earlier_challenge_counts_no_more() -> None:
    path = challenged()
    earlier = path.uid
    assert path.heard(ELSEWHERE, SIZE, CHALLENGE_PAUSE_S, is_news=False)
    path.challenge()
    assert not path.answered([path.uid], ELSEWHERE), "it has not left yet"
    path.target(SIZE)
    assert not path.answered([earlier], ELSEWHERE)
    assert path.answered([path.uid], ELSEWHERE)


def test_challenges_are_few_and_far_between() -> None:
    path, asked = PeerPath(TWO), 0
    for tenth in range(100):
        if path.heard(ELSEWHERE, SIZE, tenth / 10, is_news=tenth == 0):
            asked += 1
            path.challenge()
            path.target(SIZE)
    assert asked == CHALLENGES_MAX
    path, asked = PeerPath(TWO), 0
    for tenth in range(100):
        asked += path.heard((f"10.9.9.{tenth}", 9443), SIZE, tenth / 10, is_news=True)
    assert asked == 10, "one a second, however many there are"


@pytest.mark.parametrize("size", [AMPLIFICATION_MAX * SIZE, AMPLIFICATION_MAX * SIZE + 1])
def test_a_candidate_is_sent_no_more_than_thrice_what_came_from_it(size: int) -> None:
    path = begun()
    fits = size == AMPLIFICATION_MAX * SIZE
    assert path.target(size) == (ELSEWHERE if fits else TWO)
    assert path.answered([path.uid], ELSEWHERE) == fits


def test_what_a_candidate_was_sent_counts_for_its_next_challenge() -> None:
    path = begun()
    path.target(AMPLIFICATION_MAX * SIZE)
    path.heard(ELSEWHERE, 1, CHALLENGE_PAUSE_S, is_news=False)
    path.challenge()
    assert path.target(AMPLIFICATION_MAX + 1) == TWO


def test_a_challenge_that_waits_for_its_turn_takes_along_what_fits() -> None:
    path = begun()
    path.wait()
    sizes = [AMPLIFICATION_MAX * SIZE + 1, SIZE, 2 * SIZE, SIZE]
    assert [path.target(size) for size in sizes] == [TWO, ELSEWHERE, ELSEWHERE, TWO]
    assert path.answered([path.uid], ELSEWHERE)
    assert path.target(SIZE) == ELSEWHERE


def test_a_challenge_that_waits_is_called_off_by_the_path_as_well() -> None:
    path = begun()
    path.wait()
    path.heard(TWO, SIZE, 0.1, is_news=False)
    assert path.target(SIZE) == TWO


# -- connections -----------------------------------------------------------------------------------------------------


@attrs.define(eq=False)
class Wire:
    """A network that remembers what it carries, and on which somebody may stand in the middle."""

    sent: list[tuple[Address, Address, bytes]] = attrs.field(factory=list)
    steals: bool = False  # the next datagram from TWO arrives from SPOOFER instead
    races: bool = False  # every one does, just before the genuine one
    loses_next_to: Address | None = None
    losses: int = 0
    network: SimNetwork = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.network = SimNetwork(tap=self._carry)

    def _carry(self, source: Address, target: Address, data: bytes) -> bytes | None:
        self.sent.append((source, target, data))
        if source == TWO and (self.steals or self.races):
            steals, self.steals = self.steals, False
            self.network._carry(SPOOFER, target, data)
            return None if steals else data
        if target == self.loses_next_to:
            self.loses_next_to = None
            self.losses += 1
            return None
        return data

    def between(self, source: Address, target: Address) -> list[bytes]:
        return [data for *ends, data in self.sent if ends == [source, target]]


@attrs.define(eq=False)
class Pair:
    """A connection from ONE to TWO."""

    wire: Wire
    near: Recorder  # of who dialed
    far: Recorder

    async def exchange(self, text: bytes) -> None:
        """Say something in both directions, the peer that was dialed first."""
        self.far.write(text)
        await self.heard(self.near, text)
        self.near.write(text)
        await self.heard(self.far, text)

    async def heard(self, recorder: Recorder, text: bytes) -> None:
        with trio.fail_after(PATIENCE_S):
            await trio.lowlevel.checkpoint()
            while not recorder.data.get(0, b"").endswith(text):
                await recorder.said.wait()


@pytest.fixture
async def pair(nursery: trio.Nursery) -> Pair:
    accepted: list[Recorder] = []

    def accept(connection: Connection) -> Recorder:
        accepted.append(Proving(connection))
        return accepted[-1]

    async def serve(task_status: trio.TaskStatus[Pair]) -> None:
        wire = Wire()
        async with (
            open_endpoint(wire.network, 2, accept=accept),
            open_endpoint(wire.network, 1) as dialer,
        ):
            near = await connect_bare(dialer, TWO)
            near.connection.proven()
            near.write(b"hello")
            found = Pair(wire, near, near)
            await trio.sleep(1)
            found.far = accepted[0]
            wire.sent.clear()
            task_status.started(found)
            await trio.sleep_forever()

    return await nursery.start(serve)  # type: ignore[no-any-return]


async def test_a_connection_follows_the_peer_that_we_dialed(pair: Pair, autojump_clock: Clock) -> None:
    pair.wire.network.host(TWO[0]).change_address(ELSEWHERE[0])
    await pair.exchange(b"moved")
    assert pair.near.moves == [(TWO, ELSEWHERE)]
    assert pair.near.connection.path == ELSEWHERE
    await trio.sleep(5)
    pair.wire.sent.clear()
    await pair.exchange(b"settled")
    assert {target for _, target, _ in pair.wire.sent} == {ONE, ELSEWHERE}
    assert pair.far.moves == [], "whoever dialed is where he was"


async def test_it_follows_there_and_back(pair: Pair, autojump_clock: Clock) -> None:
    machine = pair.wire.network.host(TWO[0])
    for number, address in enumerate([ELSEWHERE[0], TWO[0], "10.8.8.9"]):
        machine.change_address(address)
        await pair.exchange(b"at %d" % number)
        await trio.sleep(CHALLENGE_PAUSE_S)
    assert pair.near.moves == [(TWO, ELSEWHERE), (ELSEWHERE, TWO), (TWO, ("10.8.8.9", TWO[1]))]


async def test_a_connection_follows_the_peer_that_dialed_us(pair: Pair, autojump_clock: Clock) -> None:
    pair.wire.network.host(ONE[0]).change_address(ELSEWHERE[0])
    pair.near.write(b"moved")
    await pair.heard(pair.far, b"moved")
    await pair.exchange(b"both ways")
    assert (pair.far.moves, pair.near.moves) == ([(ONE, ELSEWHERE)], [])
    assert pair.far.connection.seen_at == ELSEWHERE


async def test_an_address_translator_forgets_the_dialer(pair: Pair, autojump_clock: Clock) -> None:
    pair.wire.network.host(ONE[0]).change_port(ONE[1], 40_000)
    pair.near.write(b"from another port")
    await pair.heard(pair.far, b"from another port")
    await pair.exchange(b"both ways")
    assert (pair.far.moves, pair.near.moves) == ([(ONE, (ONE[0], 40_000))], [])


async def test_an_address_translator_forgets_who_was_dialed(pair: Pair, autojump_clock: Clock) -> None:
    pair.wire.network.host(TWO[0]).change_port(TWO[1], 40_000)
    await pair.exchange(b"from another port")
    assert pair.near.moves == [(TWO, (TWO[0], 40_000))]


async def test_one_moves_after_the_other(pair: Pair, autojump_clock: Clock) -> None:
    pair.wire.network.host(TWO[0]).change_port(TWO[1], 40_000)
    await pair.exchange(b"first one")
    pair.wire.network.host(ONE[0]).change_port(ONE[1], 40_001)
    pair.near.write(b"then the other")
    await pair.heard(pair.far, b"then the other")
    await pair.exchange(b"both ways")
    assert pair.near.moves == [(TWO, (TWO[0], 40_000))]
    assert pair.far.moves == [(ONE, (ONE[0], 40_001))]


async def test_a_challenge_that_is_lost_is_repeated(pair: Pair, autojump_clock: Clock) -> None:
    pair.wire.loses_next_to = ELSEWHERE
    pair.wire.network.host(TWO[0]).change_address(ELSEWHERE[0])
    await pair.exchange(b"moved")
    assert pair.wire.losses == 1
    assert pair.near.moves == [(TWO, ELSEWHERE)]


async def test_a_bulk_transfer_follows(pair: Pair, autojump_clock: Clock) -> None:
    """All that may be under way goes where nobody is any more, so the challenge has to wait for its turn."""
    size = 3_000_000
    pair.wire.network.set_link(LinkModel(latency_s=0.02))
    pair.near.write(bytes(size))
    await trio.sleep(0.2)
    assert 100_000 < len(pair.far.data[0]) < size / 2
    pair.wire.network.host(TWO[0]).change_address(ELSEWHERE[0])
    begun = trio.current_time()
    while not pair.near.moves:
        pair.far.write(b"credit")
        await trio.sleep(0.1)
        assert (
            trio.current_time() < begun + 5
        )  # by how QUIC backs off, and when its next probe may take the challenge along
    await trio.sleep(5)
    assert len(pair.far.data[0]) == size + len(b"hello")
    assert pair.near.moves == [(TWO, ELSEWHERE)]


async def test_a_genuine_datagram_from_a_stranger_moves_nothing(pair: Pair, autojump_clock: Clock) -> None:
    await pair.exchange(b"genuine")
    for data in pair.wire.between(TWO, ONE):
        pair.wire.network._carry(SPOOFER, ONE, data)
    await trio.sleep(1)
    await pair.exchange(b"goes on")
    assert pair.near.moves == []
    assert pair.wire.between(ONE, SPOOFER) == []


async def test_garbage_with_the_right_connection_id_moves_nothing(pair: Pair, autojump_clock: Clock) -> None:
    await pair.exchange(b"genuine")
    for data in pair.wire.between(TWO, ONE):
        pair.wire.network._carry(SPOOFER, ONE, data[:20] + bytes(len(data) - 20))
    await trio.sleep(1)
    await pair.exchange(b"goes on")
    assert pair.near.moves == []
    assert pair.wire.between(ONE, SPOOFER) == []


async def test_who_takes_a_datagram_off_the_wire_gets_one_challenge_and_holds_nothing_up(
    pair: Pair, autojump_clock: Clock
) -> None:
    pair.wire.steals = True
    pair.far.write(b"stolen")
    await pair.heard(pair.near, b"stolen")
    begun = trio.current_time()
    for number in range(20):
        await pair.exchange(b"%d" % number)
    assert trio.current_time() - begun < 1
    await trio.sleep(10)
    assert pair.near.moves == []
    assert pair.near.connection.path == TWO
    challenges = pair.wire.between(ONE, SPOOFER)
    assert 0 < sum(map(len, challenges)) <= AMPLIFICATION_MAX * len(pair.wire.between(TWO, ONE)[0])


async def test_a_challenge_travels_alone(pair: Pair, autojump_clock: Clock) -> None:
    """What is answered in the same moment is neither lost with it, nor makes it too large to be sent at all."""
    hear = pair.near.stream_data_received

    def answer(stream_id: int, data: bytes, end_stream: bool) -> None:
        hear(stream_id, data, end_stream)
        pair.near.write(bytes(500))

    pair.near.stream_data_received = answer  # type: ignore[method-assign]
    pair.wire.steals = True
    pair.far.write(b"stolen")
    await trio.sleep(0.004)
    assert [len(data) < 60 for data in pair.wire.between(ONE, SPOOFER)] == [True]
    assert len(pair.far.data[0]) == len(b"hello") + 500, "at once, without a retransmission"


async def test_who_is_always_faster_than_the_peer_gets_few_challenges_and_moves_nothing(
    pair: Pair, autojump_clock: Clock
) -> None:
    """The copies come first, so they are the news; what they answer is acknowledged by copies, too."""
    pair.wire.network.set_link(LinkModel(latency_s=0.0005), SPOOFER[0])
    pair.wire.races = True
    for number in range(40):
        await pair.exchange(b"%d" % number)
        await trio.sleep(0.25)
    await trio.sleep(5)
    assert pair.near.moves == []
    challenges = pair.wire.between(ONE, SPOOFER)
    assert 5 <= len(challenges) <= 12
    stolen = pair.wire.between(SPOOFER, ONE)
    assert sum(map(len, challenges)) <= AMPLIFICATION_MAX * sum(map(len, stolen))

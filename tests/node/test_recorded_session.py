"""A session that a v0.8.0 client had, recorded by the original: a node that wants no proof takes it byte for byte."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import trio
from old_tools import CLIENT_NUMBER, Frames, frames_in, told
from quic_tools import Recorder, connect_bare, open_endpoint

import macula_trio as macula
from macula_trio._util import parse_endpoint
from macula_trio._wire.frame import HEADER_BYTES, MessageType
from macula_trio.testing import SimNetwork, open_mesh

pytestmark = pytest.mark.thorough

Clock = trio.testing.MockClock

SESSION: Final[list[dict[str, Any]]] = json.loads(
    (Path(__file__).parents[1] / "vectors" / "transcript_client_session.json").read_text(encoding="utf-8")
)
FRAMES: Final = [bytes.fromhex(entry["hex"]) for entry in SESSION if entry["dir"] == "erl->py"]
ASKED: Final = [frames_in(frame)[0] for frame in FRAMES]
# What v0.8's own gateway answers, and what it takes without a word.  Services of a client's subscriptions may come to
# say something to SUBSCRIBE one day: v0.8 has no answer to it.
ANSWERS: Final = {
    MessageType.STORE: MessageType.STORE,
    MessageType.CONNECT: MessageType.PONG,
    MessageType.PING: MessageType.PONG,
    MessageType.FIND_VALUE: MessageType.FIND_VALUE_REPLY,
}


def whole(frames: list[bytes]) -> Iterator[bytes]:
    yield b"".join(frames)


def one_by_one(frames: list[bytes]) -> Iterator[bytes]:
    yield from frames


def byte_by_byte(frames: list[bytes]) -> Iterator[bytes]:
    yield from (bytes([byte]) for frame in frames for byte in frame)


def at_headers(frames: list[bytes]) -> Iterator[bytes]:
    """Always in the midst of a header, whose end comes with the payload and the beginning of the next one."""
    data, start = b"".join(frames), 0
    for frame in frames:
        yield data[start : start + HEADER_BYTES // 2]
        yield data[start + HEADER_BYTES // 2 : start + len(frame)]
        start += len(frame)


def behind_headers(frames: list[bytes]) -> Iterator[bytes]:
    data, start = b"".join(frames), 0
    for frame in frames:
        yield data[start : start + HEADER_BYTES]
        start += HEADER_BYTES
        yield data[start : start + len(frame) - HEADER_BYTES - 1]
        start += len(frame) - HEADER_BYTES - 1
        yield data[start : start + 1]
        start += 1


SPLITS: Final = [whole, one_by_one, byte_by_byte, at_headers, behind_headers]


async def assert_answered(node: macula.Node, answers: Frames, asked: Frames, now_ms: int) -> None:
    """Each question has its answer, in their order, and nothing of it was strange."""
    questions = [question for question in asked if question[0] in ANSWERS]
    assert [number for number, _ in answers] == [ANSWERS[number] for number, _ in questions]
    for (number, question), (_, answer) in zip(questions, answers, strict=True):
        if number is MessageType.STORE:
            assert (answer["type"], answer["result"]) == (b"store_reply", b"ok")
        elif number is MessageType.FIND_VALUE:
            assert (answer["type"], answer["result"], answer["nodes"]) == (b"find_value_reply", b"nodes", [])
        else:
            assert abs(answer["server_time"] - now_ms) < 60_000
        if number is MessageType.PING:
            assert answer["timestamp"] == question["timestamp"]


async def assert_nothing_strange(node: macula.Node, now_ms: int) -> None:
    after = node.statistics()
    assert (after.frames_unknown, after.refused, after.replies_unexpected) == (0, {}, 0)
    assert (after.requests_excessive, after.connections_broken) == (0, 0)
    assert dict(after.frames_received) == {
        "STORE": 2,
        "CONNECT": 1,
        "SUBSCRIBE": 1,
        "FIND_VALUE": 1,
        "PING": 4,
        "UNSUBSCRIBE": 1,
    }
    stored = [body for number, body in ASKED if number is MessageType.STORE]
    held = {record.key: record for record in node.stored_values()}
    # The other one is of the node itself, which stands for its client's subscription in the mesh, and no more.
    assert {key for key, record in held.items() if record.node_id != node.node_id} == {body["key"] for body in stored}
    assert all(record.withdrawn for record in held.values() if record.node_id == node.node_id)
    for body in stored:
        record = held[body["key"]]
        assert record.to_value(record.expires_ms - 300_000) == body["value"]
        assert now_ms - 60_000 < record.expires_ms - 300_000 <= now_ms
    assert len(node.peers()) == 1, "the link is still there"


def a_node() -> macula.NodeConfig:
    (connect,) = [body for number, body in ASKED if number is MessageType.CONNECT]
    return macula.NodeConfig(realm=connect["realm_id"].decode(), trust=macula.Trust.unverified())


def test_the_recording_is_what_these_tests_are_about() -> None:
    assert len(FRAMES) == 10
    assert {number for number, _ in ASKED} == {*ANSWERS, MessageType.SUBSCRIBE, MessageType.UNSUBSCRIBE}


@pytest.mark.parametrize("split", SPLITS)
async def test_on_one_stream(split: Any, autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with (
        open_mesh(1, network=network, config=a_node()) as (node,),
        open_endpoint(network, CLIENT_NUMBER) as endpoint,
    ):
        client = await connect_bare(endpoint, parse_endpoint(node.endpoint))
        for piece in split(FRAMES):
            client.write(piece)
            await trio.sleep(0.01)  # so that it travels alone
        await trio.sleep(1)
        now_ms = network.wall_clock_ms()
        await assert_answered(node, told(client), ASKED, now_ms)
        await assert_nothing_strange(node, now_ms)
        assert set(client.data) == {0}


@pytest.mark.parametrize("is_ended", [False, True])
@pytest.mark.parametrize("split", SPLITS)
async def test_on_a_stream_of_its_own_each(split: Any, is_ended: bool, autojump_clock: Clock) -> None:
    network = SimNetwork()
    async with (
        open_mesh(1, network=network, config=a_node()) as (node,),
        open_endpoint(network, CLIENT_NUMBER) as endpoint,
    ):
        client: Recorder = await connect_bare(endpoint, parse_endpoint(node.endpoint))
        for number, frame in enumerate(FRAMES):
            pieces = list(split([frame]))
            for place, piece in enumerate(pieces):
                is_last = is_ended and place == len(pieces) - 1
                client.write(piece, 4 * number, end_stream=is_last)
                await trio.sleep(0.01)
        await trio.sleep(1)
        now_ms = network.wall_clock_ms()
        for number, asked in enumerate(ASKED):  # each on the stream of its question
            await assert_answered(node, told(client, 4 * number), [asked], now_ms)
        await assert_nothing_strange(node, now_ms)

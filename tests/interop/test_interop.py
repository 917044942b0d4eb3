"""A node and clients of v0.8 that are not ours, over real UDP: on aioquic's own protocol, and on another QUIC stack.

`nox -s interop` runs them all and skips none.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
import trio
from mesh_node import REALM, TOPIC

HERE: Final = Path(__file__).parent
PATIENCE_S: Final = 45  # of real time, on a busy machine; a session takes a second
SCRIPTS: Final = sysconfig.get_path("scripts")
STORED: Final = {"endpoint": "https://localhost:9443", "metadata": {}, "node_id": "a" * 32}

pytestmark = [pytest.mark.processes, pytest.mark.long]


def aioquic_command() -> list[str]:
    return [sys.executable, str(HERE / "aioquic_client.py")]


def deno_command() -> list[str]:
    deno = shutil.which("deno", path=os.pathsep.join([SCRIPTS, os.environ.get("PATH", os.defpath)]))
    if deno is None:
        reason = "Deno, whose QUIC this is about, is not installed; `nox -s interop` has it"
        assert "TESTS_OF_INTEROP" not in os.environ, reason
        pytest.skip(reason)
    # It checks no certificate, as v0.8; and asks nobody whether there is a newer one.
    options = ["--quiet", "--no-config", "--no-remote", "--unstable-net", "--allow-net"]
    return [deno, "run", *options, "--unsafely-ignore-certificate-errors", str(HERE / "deno_client.ts")]


async def said_by(process: trio.Process) -> dict[str, Any]:
    """The next line of a node."""
    assert process.stdout is not None
    line = bytearray()
    while not line.endswith(b"\n"):
        piece = await process.stdout.receive_some(1)
        assert piece, "the node has ended"
        line += piece
    said = json.loads(line)
    assert isinstance(said, dict)
    return said


def assert_answered(answers: Mapping[str, Any], node: Mapping[str, str]) -> None:
    types = {name: answer["type"] for name, answer in answers.items()}
    bodies = {name: answer["body"] for name, answer in answers.items()}
    assert types == {
        "CONNECT": 0x04,
        "PING": 0x04,
        "FIND_NODE": 0x41,
        "STORE": 0x42,
        "FIND_VALUE": 0x44,
        "CALL": 0x21,
        "last PING": 0x04,
    }
    assert bodies["CONNECT"]["node_id"] == node["node_id"]
    assert bodies["CONNECT"]["endpoint"] == node["endpoint"]
    assert bodies["CONNECT"]["server_time"] > 0
    assert bodies["PING"]["timestamp"] == 1234567890123
    assert bodies["last PING"]["timestamp"] == 7
    assert bodies["FIND_NODE"] == {"type": "find_node_reply", "nodes": []}
    assert (bodies["STORE"]["type"], bodies["STORE"]["result"]) == ("store_reply", "ok")
    assert (bodies["FIND_VALUE"]["type"], bodies["FIND_VALUE"]["result"]) == ("find_value_reply", "value")
    (value,) = bodies["FIND_VALUE"]["value"]
    assert 0 < value.pop("ttl") <= 300
    assert value == STORED
    assert (bodies["CALL"]["call_id"], bodies["CALL"]["result"]) == ("c" * 16, '{"sum":5}')


@pytest.fixture(params=[aioquic_command, deno_command], ids=["aioquic", "deno"])
def client(request: pytest.FixtureRequest) -> list[str]:
    command: list[str] = request.param()
    return command


async def test_a_client_of_another_make_gets_every_answer(client: list[str]) -> None:
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            node = await nursery.start(
                partial(
                    trio.run_process,
                    [sys.executable, str(HERE / "mesh_node.py")],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                )
            )
            where = await said_by(node)
            host, _, port = where["endpoint"].rpartition(":")
            session = await trio.run_process([*client, host, port], capture_stdout=True)
            assert_answered(json.loads(session.stdout), where)
            assert await said_by(node) == {"topic": TOPIC, "payload": {"celsius": 23.5}}
            await node.stdin.aclose()
            counted = await said_by(node)
            await node.stdout.aclose()
    assert (counted["refused"], counted["unknown"], counted["broken"]) == ({}, 0, 0)
    assert counted["received"] == {
        **dict.fromkeys(["CONNECT", "FIND_NODE", "STORE", "FIND_VALUE", "CALL", "PUBLISH", "DISCONNECT"], 1),
        "PING": 2,
    }


def test_the_clients_know_nothing_of_ours() -> None:
    for name in ("aioquic_client.py", "deno_client.ts"):
        text = (HERE / name).read_text(encoding="utf-8")
        assert "import macula" not in text
        assert "from macula" not in text
        assert REALM in text

"""SIGHUP makes a node read the file of its trust policy again."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import trio

import macula_trio as macula
from macula_trio._cli.commands import _reload_on_hangup
from macula_trio.testing import open_mesh
from macula_trio.testing._mesh import sim_identity

if not hasattr(signal, "SIGHUP"):
    pytest.skip("there is no SIGHUP here", allow_module_level=True)


async def hang_up() -> None:
    signal.raise_signal(signal.SIGHUP)
    await trio.sleep(0.1)


async def test_a_hangup_reads_the_file_again_and_a_bad_file_changes_nothing(
    autojump_clock: trio.testing.MockClock, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "members"
    file.write_text("".join(f"{sim_identity(n).node_id.hex()}\n" for n in (1, 2, 3)))
    config = macula.NodeConfig(realm="org.example.test", trust=macula.Trust.only(file))
    async with open_mesh(3, config=config) as (one, two, three), trio.open_nursery() as nursery:
        assert {peer.node_id for peer in one.peers()} == {two.node_id, three.node_id}
        await nursery.start(_reload_on_hangup, one, lambda: sim_identity(1))

        file.write_text(f"{sim_identity(2).node_id.hex()}\n")
        await hang_up()
        assert {peer.node_id for peer in one.peers()} == {two.node_id}
        assert capsys.readouterr().err == "trust: only again, 1 link kept\n"

        file.write_text("nonsense\n")
        await hang_up()
        assert {peer.node_id for peer in one.peers()} == {two.node_id}
        told = capsys.readouterr().err
        assert told.startswith(f"warning: trust file {file}: line 1: ")
        assert told.endswith("; what it would have changed stays as it was\n")
        nursery.cancel_scope.cancel()

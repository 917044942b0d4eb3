"""What a signal may interrupt and what not, in this process; tests/integration/test_interrupted.py has real ones."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import trio

from macula_trio import Identity
from macula_trio._cli import runner, signals
from macula_trio._cli.main import main
from macula_trio._cli.signals import deferred


@pytest.fixture
def interrupted_at_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first file that is written meets SIGINT in the midst of it."""
    fsync = os.fsync
    left = [signal.SIGINT]

    def interrupt(handle: int) -> None:
        if left:
            signal.raise_signal(left.pop())
        fsync(handle)

    monkeypatch.setattr(os, "fsync", interrupt)


def test_an_interrupted_keygen_leaves_a_whole_key_and_nothing_else(
    interrupted_at_the_disk: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["keygen", str(tmp_path / "node.pem")]) == 130
    assert "Traceback" not in capsys.readouterr().err
    Identity.load(tmp_path / "node.pem")
    assert [path.name for path in tmp_path.iterdir()] == ["node.pem"]


def test_an_interrupted_foundation_leaves_a_whole_realm(
    interrupted_at_the_disk: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MACULA_CA_PASSPHRASE", "a passphrase for tests")
    ca = str(tmp_path / "ca")
    assert main(["realm", "init", ca, "--realm", "org.example.test"]) == 130
    assert sorted(path.name for path in Path(ca).iterdir()) == ["ca.key", "ca.pem"]
    assert main(["realm", "issue", ca, str(tmp_path / "node.pem")]) == 0


def test_an_interrupted_issue_leaves_a_whole_member(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setenv("MACULA_CA_PASSPHRASE", "a passphrase for tests")
    ca, member = str(tmp_path / "ca"), tmp_path / "node.pem"
    assert main(["realm", "init", ca, "--realm", "org.example.test"]) == 0
    request.getfixturevalue("interrupted_at_the_disk")
    assert main(["realm", "issue", ca, str(member)]) == 130
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ca", "node.pem"]
    assert main(["realm", "show", str(member), "--ca", str(Path(ca, "ca.pem"))]) == 0


def test_what_is_held_back_comes_behind_the_block_and_handlers_are_as_before() -> None:
    before = [signal.getsignal(number) for number in signals.SIGNALS]
    done = False
    with pytest.raises(KeyboardInterrupt), deferred():  # noqa: PT012 -- what stands behind the signal must run
        signal.raise_signal(signal.SIGINT)
        done = True
    assert done
    assert [signal.getsignal(number) for number in signals.SIGNALS] == before


def test_sigterm_does_what_sigint_would_and_gives_its_own_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "_received", [])
    before = {number: signal.getsignal(number) for number in signals.SIGNALS}
    assert signals.exit_code() == 130
    try:
        signals.interrupt()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        assert signals.exit_code() == 143
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell starts what runs in the background
        signals.interrupt()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Leaving:
    """A command that takes its time to leave, until it is hurried."""

    def __init__(self) -> None:
        self.hurried = 0

    async def work(self) -> int:
        signal.raise_signal(signal.SIGTERM)
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True) as self.scope:
                signal.raise_signal(signal.SIGINT)
                await trio.sleep_forever()
        return 0

    def hurry(self) -> None:
        """What a second signal does."""
        self.hurried += 1
        self.scope.cancel()


def test_a_second_signal_ends_a_command_that_is_still_leaving(monkeypatch: pytest.MonkeyPatch) -> None:
    command, left = Leaving(), []

    def leave(number: int) -> None:
        left.append(number)
        command.hurry()

    monkeypatch.setattr(runner, "leave", leave)
    assert runner.run(command.work, signalled=0) == 0
    assert left == [signal.SIGINT]


def test_a_second_signal_hurries_a_command_that_has_things_to_clear_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "leave", None)
    command = Leaving()
    assert runner.run(command.work, hurry=command.hurry) == 143
    assert command.hurried == 1


@pytest.mark.parametrize(("signals_sent", "ended"), [(1, "in peace"), (2, "cancelled")])
def test_the_first_signal_may_ask_and_the_second_insists(signals_sent: int, ended: str) -> None:
    asked = trio.Event()
    ends: list[str] = []

    def first() -> bool:
        asked.set()
        return True

    async def work() -> int:
        try:
            signal.raise_signal(signal.SIGTERM)
            await asked.wait()
            if signals_sent == 2:
                signal.raise_signal(signal.SIGTERM)
                await trio.sleep_forever()
        except trio.Cancelled:
            ends.append("cancelled")
            raise
        ends.append("in peace")
        return 0

    assert runner.run(work, signalled=0, first=first) == 0
    assert ends == [ended]


def test_before_there_is_anything_to_end_the_first_signal_cancels() -> None:
    async def work() -> int:
        signal.raise_signal(signal.SIGTERM)
        await trio.sleep_forever()

    assert runner.run(work, first=lambda: False) == 143

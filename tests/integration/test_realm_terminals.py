"""A realm from nothing: an authority, members, a stranger who is kept out, a list that is read again, a renewal."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
import trio
from terminals import PROGRAM, open_terminal, ready_facts, refused, shell

pytestmark = [pytest.mark.processes, pytest.mark.long]

REALM: Final = "org.example.home"
PATIENCE_S: Final = 50


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MACULA_CA_PASSPHRASE", "a passphrase for tests")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def listening(identity: str, *more: str) -> list[str]:
    return ["node", "--realm", REALM, "--listen", "127.0.0.1:0", "--identity", identity, *more]


async def test_members_find_each_other_and_a_stranger_finds_nobody(directory: Path) -> None:
    with trio.fail_after(PATIENCE_S):
        await shell("realm", "init", "ca", "--realm", REALM)
        for member in ("one.pem", "two.pem", "caller.pem"):
            await shell("realm", "issue", "ca", member)
        await shell("keygen", "stranger.pem")
        in_realm = ["--trust", "realm:ca/ca.pem"]
        async with open_terminal(*listening("one.pem", *in_realm)) as one:
            endpoint = ready_facts(await one.line())["endpoint"]
            async with open_terminal(*listening("two.pem", *in_realm, "--bootstrap", endpoint)) as two:
                await two.line()
                session = ["--realm", REALM, "--bootstrap", endpoint]
                member = [*session, *in_realm, "--identity", "caller.pem"]
                stored = await shell("dht", "put", "test.note", "text", *member)
                assert len(stored["stored"]) == 2
                assert (await shell("dht", "get", "name:test.note", *member))["values"][0]["owner"] == stored["owner"]
                for kept_out in (
                    [*session, "--identity", "stranger.pem"],
                    [*session, *in_realm, "--identity", "stranger.pem"],
                ):
                    line = await refused("dht", "get", "name:test.note", *kept_out)
                    assert "its certificate is not trusted: self-signed certificate" in line
                # The other way round: members talk to no stranger either.
                async with open_terminal(*listening("stranger.pem")) as stranger:
                    elsewhere = ready_facts(await stranger.line())["endpoint"]
                    to_stranger = ["--realm", REALM, "--bootstrap", elsewhere, *in_realm, "--identity", "caller.pem"]
                    assert "its TLS certificate is refused" in await refused("dht", "get", "name:a", *to_stranger)
                assert await two.signalled(signal.SIGTERM) == 0
            assert await one.signalled(signal.SIGTERM) == 0
            assert one.errors == ""


async def test_a_hangup_reads_the_list_of_those_who_may_speak_and_a_renewed_certificate(directory: Path) -> None:
    with trio.fail_after(PATIENCE_S):
        ids: dict[str, Any] = {}
        for name in ("one", "two"):
            ids[name] = (await shell("keygen", f"{name}.pem"))["node_id"]
        members = directory / "members"
        members.write_text(f"{ids['one']}\n{ids['two']}  # for now\n")
        async with open_terminal(*listening("one.pem", "--trust", "only:@members")) as one:
            endpoint = ready_facts(await one.line())["endpoint"]
            ping = ["ping", endpoint, "--realm", REALM, "--identity", "two.pem", "--count", "1"]
            assert (await shell(*ping))["node_id"] == ids["one"]
            members.write_text(f"{ids['one']}\n")
            one.process.send_signal(signal.SIGHUP)
            assert "only again" in await one.says("trust: ")
            assert "not on our list" in await refused(*ping)
            members.write_text("nonsense\n")
            one.process.send_signal(signal.SIGHUP)
            assert "trust file members: line 1" in await one.says("warning: ")
            assert "not on our list" in await refused(*ping), "as it was"
            assert await one.signalled(signal.SIGTERM) == 0


async def test_a_certificate_is_renewed_under_a_running_node(directory: Path) -> None:
    with trio.fail_after(PATIENCE_S):
        await shell("realm", "init", "ca", "--realm", REALM)
        await shell("realm", "issue", "ca", "one.pem", "--days", "1")
        await shell("realm", "issue", "ca", "two.pem")
        before = (await shell("realm", "show", "one.pem"))["valid_until"]
        async with open_terminal(*listening("one.pem", "--trust", "realm:ca/ca.pem")) as one:
            endpoint = ready_facts(await one.line())["endpoint"]
            await shell("realm", "issue", "ca", "one.pem", "--days", "30")
            after = (await shell("realm", "show", "one.pem"))["valid_until"]
            assert after > before
            one.process.send_signal(signal.SIGHUP)
            await one.says("trust: realm again")
            member = ["--realm", REALM, "--trust", "realm:ca/ca.pem", "--identity", "two.pem", "--count", "1"]
            assert len((await shell("ping", endpoint, *member))["seconds"]) == 1
            assert await one.signalled(signal.SIGTERM) == 0


def test_the_authoritys_key_is_never_there_in_the_clear(directory: Path) -> None:
    subprocess.run([*PROGRAM, "realm", "init", "ca", "--realm", REALM], check=True, capture_output=True)
    assert b"ENCRYPTED PRIVATE KEY" in (directory / "ca" / "ca.key").read_bytes()
    assert (directory / "ca" / "ca.key").stat().st_mode & 0o077 == 0

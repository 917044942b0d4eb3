"""What goes wrong in a stranger's first hour: each mistake is told in one line that says what to do."""

from __future__ import annotations

import datetime
import secrets
import socket
import sys
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from terminals import open_terminal, ready_facts, refused

from macula_trio import Identity
from macula_trio._identity.authority import RealmAuthority
from macula_trio._identity.keys import certificates_pem, load_spki

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

pytestmark = [pytest.mark.processes, pytest.mark.thorough]

REALM: Final = "org.example.home"
PATIENCE_S: Final = 40
DAY: Final = datetime.timedelta(days=1)
LISTEN: Final = ["node", "--listen", "127.0.0.1:0"]

# A machine whose clock is wrong, as far as the library can see.
SKEWED: Final = """
import sys
from macula_trio._net.udp import UdpNetwork
right, skew_ms = UdpNetwork.wall_clock_ms, int(sys.argv.pop(1))
UdpNetwork.wall_clock_ms = lambda network: right(network) + skew_ms
from macula_trio._cli.main import main
sys.exit(main())
"""


@pytest.fixture(autouse=True)
def _directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@asynccontextmanager
async def open_first(*options: str, realm: str = REALM) -> AsyncGenerator[str, None]:
    """A node that others may join by; gives its endpoint."""
    async with open_terminal(*LISTEN, "--realm", realm, *options) as node:
        yield ready_facts(await node.line())["endpoint"]


def call(endpoint: str, *options: str) -> list[str]:
    """A command that has to join first."""
    return ["call", "some.procedure", "1", "--realm", REALM, "--bootstrap", endpoint, *options]


async def test_a_wrong_realm() -> None:
    line = "said goodbye: we are in realm 'org.other', not 'org.example.home'; nodes of one mesh name the same realm"
    with trio.fail_after(PATIENCE_S):
        async with open_first(realm="org.other") as endpoint:
            assert await refused(*call(endpoint)) == f"error: peer at {endpoint} {line}"
            async with open_terminal(*LISTEN, "--realm", REALM, "--bootstrap", endpoint) as node:
                assert await node.says("not joined") == f"warning: not joined: peer at {endpoint} {line}"


async def test_a_wrong_port_and_a_firewall() -> None:
    """From here they are one: silence.  What drops datagrams without a word is a socket that nobody reads."""
    mend = "check the address, that a node runs there, and that no firewall stops UDP"
    with trio.fail_after(PATIENCE_S):
        for listens in (False, True):
            with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as silent:
                silent.bind(("127.0.0.1", 0))
                endpoint = f"127.0.0.1:{silent.getsockname()[1]}"
                if not listens:
                    silent.close()
                line = await refused(*call(endpoint, "--timeout", "1"))
                assert line == f"error: nobody answered at {endpoint} within 1 s; {mend}"
        async with open_terminal(*LISTEN, "--realm", REALM, "--bootstrap", endpoint) as node:
            assert await node.says("not joined") == (
                f"warning: not joined: nobody answered at {endpoint} within 5 s; {mend}"
            )


async def test_two_nodes_with_one_key_file() -> None:
    mend = "give every node a key file of its own, made by macula-trio keygen FILE"
    with trio.fail_after(PATIENCE_S):
        shared = ["--realm", REALM, "--identity", "node.pem"]
        async with open_terminal(*LISTEN, *shared) as one:
            endpoint = ready_facts(await one.line())["endpoint"]
            async with open_terminal(*LISTEN, *shared, "--bootstrap", endpoint) as two:
                line = await two.says("same key")
                assert line == f"warning: the node at {endpoint} runs with the same key as we do; {mend}"
                assert (await one.says("same key")).endswith(mend)


@pytest.mark.parametrize(("skew_s", "side"), [(3600, "ahead of"), (-3600, "behind")])
async def test_a_clock_that_is_an_hour_off(skew_s: int, side: str) -> None:
    skewed = [sys.executable, "-c", SKEWED, str(skew_s * 1000)]
    with trio.fail_after(PATIENCE_S):
        async with open_first() as endpoint:
            joining = [*LISTEN, "--realm", REALM, "--bootstrap", endpoint]
            async with open_terminal(*joining, program=skewed) as node:
                line = await node.says("our clock")
    seconds = line.removeprefix("warning: our clock is ").partition(" s ")[0]
    assert int(seconds) == pytest.approx(3600, abs=PATIENCE_S)
    told = f"our clock is {seconds} s {side} that of the node at {endpoint}"
    assert line == f"warning: {told}; set the wrong one, by NTP for example"


class Realm:
    """A certificate authority on disk, and members of any age."""

    def __init__(self) -> None:
        now = datetime.datetime.now(datetime.UTC)
        self._authority = RealmAuthority.create(
            REALM,
            key=ed25519.Ed25519PrivateKey.generate(),
            serial=x509.random_serial_number(),
            now=now - 10 * DAY,
            lifetime=100 * DAY,
        )
        self.trust = ["--trust", "realm:ca.pem"]
        Path("ca.pem").write_bytes(certificates_pem([self._authority.certificate]))

    def member(self, file: str, *, ends: datetime.timedelta) -> list[str]:
        """Options of a node whose certificate ends so far from now."""
        begins = datetime.datetime.now(datetime.UTC) - 5 * DAY
        who = Identity.from_seed(secrets.token_bytes(32))
        made = self._authority.issue(
            load_spki(who.spki), serial=x509.random_serial_number(), now=begins, lifetime=5 * DAY + ends
        )
        who.with_chain(certificates_pem([made])).save(file)
        return ["--identity", file, *self.trust]


async def test_a_certificate_that_has_expired() -> None:
    realm = Realm()
    good, expired = realm.member("good.pem", ends=DAY), realm.member("expired.pem", ends=-DAY)
    renew = "renew it: macula-trio realm issue DIRECTORY FILE"
    with trio.fail_after(PATIENCE_S):
        async with open_first(*good) as endpoint:
            assert await refused(*call(endpoint, *expired)) == (
                f"error: peer at {endpoint} said goodbye: its certificate is not trusted: certificate has expired"
            )
            async with open_terminal(*LISTEN, "--realm", REALM, *expired, "--bootstrap", endpoint) as node:
                assert (await node.says("valid until")).endswith(renew)
                told = await node.says("would not let us in")
                assert told.startswith("warning: others with our --trust")
                assert told.endswith("certificate has expired")
                assert node.errors.count("would not let us in") == 1
        async with open_first(*expired) as endpoint:
            line = await refused(*call(endpoint, *good))
            assert line.startswith(f"error: peer at {endpoint}: its TLS certificate is refused; it needs one")
            assert line.endswith("(Certificate is no longer valid)")

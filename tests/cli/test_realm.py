"""A realm from its founding to the renewal of a member, and everything that must not be done to one."""

from __future__ import annotations

import datetime
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import click.termui
import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from macula_trio import Identity
from macula_trio._cli import members, realm
from macula_trio._cli.main import main
from macula_trio._identity.authority import RealmAuthority
from macula_trio._identity.certificate import realm_server_name
from macula_trio._identity.chain import chain_problem
from macula_trio._identity.facts import read_facts
from macula_trio._identity.keys import read_certificates
from macula_trio._net.udp import UdpNetwork

REALM: Final = "org.example.home"
CA_PASSPHRASE: Final = "correct horse battery"
KEY_PASSPHRASE: Final = "staple"
NOW: Final = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)
DAY: Final = datetime.timedelta(days=1)

Run = Callable[..., str]
Json = Callable[..., dict[str, Any]]


class Clock:
    """The wall clock of the command line."""

    now = NOW

    def wall_clock_ms(self) -> int:
        return int(self.now.timestamp() * 1000)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(UdpNetwork, "wall_clock_ms", made.wall_clock_ms)
    return made


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A directory of its own, an environment without passphrases; no half-written file is left."""
    monkeypatch.chdir(tmp_path)
    for variable in ("MACULA_CA_PASSPHRASE", "MACULA_KEY_PASSPHRASE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(sys, "stdin", open(os.devnull))  # noqa: SIM115, PTH123 - closed below
    yield
    sys.stdin.close()
    assert [path.name for path in tmp_path.rglob(".*")] == []


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command that must succeed; give what it printed."""

    def work(*arguments: str) -> str:
        code = main(list(arguments))
        output = capsys.readouterr()
        assert (code, [line for line in output.err.splitlines() if line.startswith("error")]) == (0, [])
        return output.out

    return work


@pytest.fixture
def told(run: Run) -> Json:
    """Run a command that must succeed; give the JSON object that it printed."""

    def work(*arguments: str) -> dict[str, Any]:
        output = run(*arguments, "--json")
        assert output.count("\n") == 1
        read: dict[str, Any] = json.loads(output)
        return read

    return work


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that must fail; give the one line that it wrote."""

    def work(code: int, *arguments: str) -> str:
        assert main(list(arguments)) == code
        output = capsys.readouterr()
        assert output.out == ""
        assert output.err.startswith("error: ")
        assert output.err.count("\n") == 1
        return output.err

    return work


Refused = Callable[..., str]


@pytest.fixture
def ca(run: Run, monkeypatch: pytest.MonkeyPatch) -> x509.Certificate:
    """A realm in ``home``, whose passphrase is in the environment."""
    monkeypatch.setenv("MACULA_CA_PASSPHRASE", CA_PASSPHRASE)
    run("realm", "init", "home", "--realm", REALM)
    return read_certificates(Path("home/ca.pem").read_bytes())[0]


def mode(path: str) -> int:
    return stat.S_IMODE(Path(path).stat().st_mode)


def leaf_of(path: str) -> x509.Certificate:
    return read_certificates(Path(path).read_bytes())[0]


def typing(monkeypatch: pytest.MonkeyPatch, *answers: str) -> list[str]:
    """Sit at a terminal and type; gives the prompts that came."""
    prompts: list[str] = []
    waiting = list(answers)

    def ask(prompt: str, *, hide_input: bool, confirmation_prompt: bool, err: bool) -> str:
        assert (hide_input, err) == (True, True)
        prompts.extend([prompt, "once more"] if confirmation_prompt else [prompt])
        typed = {waiting.pop(0) for _ in range(2 if confirmation_prompt else 1)}
        assert len(typed) == 1
        return typed.pop()

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(click, "prompt", ask)  # how it looks on a real terminal differs between releases of click
    return prompts


# -- the good way --------------------------------------------------------------------------------------------------


def test_a_realm_is_founded_joined_shown_and_renewed(ca: x509.Certificate, told: Json, run: Run, clock: Clock) -> None:
    assert sorted(path.name for path in Path("home").iterdir()) == ["ca.key", "ca.pem"]
    issued = told("realm", "issue", "home", "node.pem", "--name", "node.example.org", "--name", "192.0.2.7")
    identity = Identity.load("node.pem")
    assert (issued["file"], issued["new_key"], issued["shortened"]) == ("node.pem", True, False)
    assert issued["node_id"] == identity.node_id.hex()
    assert chain_problem(identity.chain, [ca], now=NOW) is None

    shown = told("realm", "show", "node.pem", "--ca", "home/ca.pem")
    assert {name: shown[name] for name in issued if name in shown} == {
        name: value for name, value in issued.items() if name in shown
    }
    assert (shown["kind"], shown["realm"], shown["server_name"]) == ("node", REALM, realm_server_name(REALM))
    assert shown["names"] == ["node.example.org", "192.0.2.7"]
    assert (shown["days_left"], shown["renewal_due"]) == (90, False)
    assert (shown["believed"], shown["problem"], shown["certificates"]) == (True, None, 1)
    assert shown["valid_until"] == (NOW + 90 * DAY).isoformat()

    clock.now = datetime.datetime.fromisoformat(shown["renew_from"])
    assert told("realm", "show", "node.pem")["renewal_due"] is True
    assert "(due now)" in run("realm", "show", "node.pem")
    renewed = told("realm", "issue", "home", "node.pem", "--days", "30")
    assert (renewed["new_key"], renewed["node_id"]) == (False, identity.node_id.hex())
    assert renewed["valid_until"] == (clock.now + 30 * DAY).isoformat()
    after = Identity.load("node.pem")
    assert after.to_pem().partition(b"-----BEGIN CERT")[0] == identity.to_pem().partition(b"-----BEGIN CERT")[0]
    assert after.chain != identity.chain
    assert chain_problem(after.chain, [ca], now=clock.now) is None


def test_what_founding_tells_is_what_it_made(told: Json, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MACULA_CA_PASSPHRASE", CA_PASSPHRASE)
    made = told("realm", "init", "home", "--realm", REALM, "--years", "2")
    root = leaf_of("home/ca.pem")
    assert made == {
        "certificate": "home/ca.pem",
        "key": "home/ca.key",
        "realm": REALM,
        "server_name": realm_server_name(REALM),
        "valid_until": root.not_valid_after_utc.isoformat(),
    }
    assert NOW + 730 * DAY <= root.not_valid_after_utc <= NOW + 731 * DAY
    shown = told("realm", "show", "home/ca.pem", "--ca", "home/ca.pem")
    assert (shown["kind"], shown["realm"], shown["node_id"], shown["believed"]) == ("ca", REALM, None, True)
    key, certificate = Path("home/ca.key").read_bytes(), Path("home/ca.pem").read_bytes()
    assert key.startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
    assert RealmAuthority.from_pem(key, certificate, password=CA_PASSPHRASE.encode()).realm == REALM


@pytest.mark.usefixtures("ca")
def test_two_certificates_have_two_numbers(run: Run) -> None:
    run("realm", "issue", "home", "node.pem")
    first = leaf_of("node.pem").serial_number
    run("realm", "issue", "home", "node.pem")
    assert leaf_of("node.pem").serial_number != first


@pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions")
@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_only_what_is_public_can_be_read_by_others(run: Run, monkeypatch: pytest.MonkeyPatch, umask: int) -> None:
    monkeypatch.setenv("MACULA_CA_PASSPHRASE", CA_PASSPHRASE)
    before = os.umask(umask)
    try:
        run("realm", "init", "home", "--realm", REALM)
        run("realm", "issue", "home", "node.pem")
        run("realm", "issue", "home", "node.pem")
        Path("node.csr").write_text(run("realm", "request", "other.pem"))
        run("realm", "issue", "home", "other.crt", "--csr", "node.csr")
        run("realm", "issue", "home", "other.crt", "--csr", "node.csr")
        run("realm", "install", "other.pem", "other.crt")
    finally:
        os.umask(before)
    assert [mode(path) for path in ("home/ca.key", "node.pem", "other.pem")] == [0o600] * 3
    assert [mode(path) for path in ("home/ca.pem", "other.crt")] == [0o644] * 2


def test_a_key_never_leaves_its_machine(ca: x509.Certificate, told: Json, run: Run) -> None:
    asked = told("realm", "request", "node.pem")
    before = Identity.load("node.pem")
    assert (asked["new_key"], asked["node_id"]) == (True, before.node_id.hex())
    assert "PRIVATE" not in asked["request"]
    again = run("realm", "request", "node.pem")
    assert x509.load_pem_x509_csr(again.encode()).public_key() == before.private_key.public_key()
    Path("node.csr").write_text(asked["request"])
    issued = told("realm", "issue", "home", "node.crt", "--csr", "node.csr")
    assert (issued["new_key"], issued["node_id"]) == (False, asked["node_id"])
    assert b"PRIVATE" not in Path("node.crt").read_bytes()
    installed = told("realm", "install", "node.pem", "node.crt")
    assert installed["node_id"] == asked["node_id"]
    after = Identity.load("node.pem")
    assert (after.node_id, after.chain) == (before.node_id, (leaf_of("node.crt"),))
    assert chain_problem(after.chain, [ca], now=NOW) is None


@pytest.mark.usefixtures("ca")
def test_a_certificate_for_a_request_is_renewed_where_it_is(run: Run) -> None:
    Path("node.csr").write_text(run("realm", "request", "node.pem"))
    run("realm", "issue", "home", "node.crt", "--csr", "node.csr")
    first = leaf_of("node.crt")
    run("realm", "issue", "home", "node.crt", "--csr", "node.csr")
    assert leaf_of("node.crt") != first


# -- passphrases ---------------------------------------------------------------------------------------------------


def test_passphrases_come_from_files_before_the_environment(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("ca.txt").write_bytes(f"{CA_PASSPHRASE}\r\nsecond line\n".encode())
    Path("key.txt").write_text(KEY_PASSPHRASE)
    monkeypatch.setenv("MACULA_CA_PASSPHRASE", "another one, and wrong")
    monkeypatch.setenv("MACULA_KEY_PASSPHRASE", "another")
    run("realm", "init", "home", "--realm", REALM, "--passphrase-file", "ca.txt")
    for _ in range(2):
        options = ["--passphrase-file", "ca.txt", "--key-passphrase-file", "key.txt"]
        run("realm", "issue", "home", "node.pem", *options)
        assert read_facts(Identity.load("node.pem", password=KEY_PASSPHRASE.encode()).chain[0]).realm == REALM
    run("realm", "request", "node.pem", "--key-passphrase-file", "key.txt")
    run("realm", "show", "node.pem")  # needs none
    monkeypatch.setenv("MACULA_CA_PASSPHRASE", CA_PASSPHRASE)  # neither the line's end nor what follows belongs to it
    run("realm", "issue", "home", "other.pem", "--key-passphrase-file", "key.txt")


@pytest.mark.usefixtures("ca")
def test_a_key_that_is_renewed_stays_encrypted(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MACULA_KEY_PASSPHRASE", KEY_PASSPHRASE)
    for _ in range(2):
        run("realm", "issue", "home", "node.pem")
        assert b"BEGIN PRIVATE KEY" not in Path("node.pem").read_bytes()
    assert Identity.load("node.pem", password=KEY_PASSPHRASE.encode())


def test_on_a_terminal_passphrases_are_asked_for(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = typing(monkeypatch, CA_PASSPHRASE, CA_PASSPHRASE)
    run("realm", "init", "home", "--realm", REALM)
    assert len(prompts) == 2  # a new one is typed twice
    prompts = typing(monkeypatch, KEY_PASSPHRASE, KEY_PASSPHRASE, CA_PASSPHRASE)
    run("realm", "issue", "home", "node.pem", "--encrypt")
    assert ["key" in prompt and "node" in prompt for prompt in prompts] == [True, False, False]
    prompts = typing(monkeypatch, KEY_PASSPHRASE, CA_PASSPHRASE)
    run("realm", "issue", "home", "node.pem")
    assert len(prompts) == 2
    assert Identity.load("node.pem", password=KEY_PASSPHRASE.encode())
    prompts = typing(monkeypatch, CA_PASSPHRASE)
    run("realm", "issue", "home", "plain.pem")
    assert len(prompts) == 1
    assert Identity.load("plain.pem")


@pytest.mark.processes
def test_a_passphrase_is_typed_twice_on_a_real_terminal_and_not_shown(tmp_path: Path) -> None:
    controller, terminal = pytest.importorskip("pty").openpty()
    command = [sys.executable, "-m", "macula_trio", "keygen", "node.pem", "--encrypt"]
    with subprocess.Popen(
        command, stdin=terminal, stdout=subprocess.PIPE, stderr=terminal, start_new_session=True
    ) as process:
        os.close(terminal)
        seen = b""
        for _ in range(2):
            while not seen.endswith(b": "):
                seen += os.read(controller, 1024)
            os.write(controller, f"{KEY_PASSPHRASE}\n".encode())
            seen += b"|"
        printed, _ = process.communicate(timeout=30)
    os.close(controller)
    assert process.returncode == 0
    assert KEY_PASSPHRASE.encode() not in seen
    identity = Identity.load(tmp_path / "node.pem", password=KEY_PASSPHRASE.encode())
    assert printed.decode().strip() == identity.node_id.hex()


@pytest.mark.parametrize("arguments", [["init", "home", "--realm", REALM], ["issue", "home", "node.pem"]])
def test_without_a_passphrase_the_ways_to_give_it_are_named(
    run: Run, refused: Refused, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    if arguments[0] == "issue":
        with monkeypatch.context() as patch:
            patch.setenv("MACULA_CA_PASSPHRASE", CA_PASSPHRASE)
            run("realm", "init", "home", "--realm", REALM)
    line = refused(2, "realm", *arguments)
    for way in ("--passphrase-file FILE", "MACULA_CA_PASSPHRASE", "terminal"):
        assert way in line
    assert Path("home").exists() == (arguments[0] == "issue")
    assert not Path("node.pem").exists()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(b"", "is empty"), (b"\n\n", "is empty"), (b"short", "at least 12 bytes"), (b"x" * 1024, "must be 1 to 1023")],
)
def test_a_passphrase_that_protects_nothing_founds_nothing(refused: Refused, content: bytes, complaint: str) -> None:
    Path("ca.txt").write_bytes(content)
    assert complaint in refused(2, "realm", "init", "home", "--realm", REALM, "--passphrase-file", "ca.txt")
    assert not Path("home").exists()


@pytest.mark.usefixtures("ca")
@pytest.mark.parametrize("variable", ["MACULA_CA_PASSPHRASE", "MACULA_KEY_PASSPHRASE"])
def test_an_empty_passphrase_in_the_environment_is_not_taken_for_none(
    refused: Refused, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "")
    assert f"the passphrase in {variable} is empty" in refused(2, "realm", "issue", "home", "node.pem")
    assert not Path("node.pem").exists()


@pytest.mark.usefixtures("ca")
def test_a_wrong_passphrase_changes_nothing(run: Run, refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MACULA_KEY_PASSPHRASE", KEY_PASSPHRASE)
    run("realm", "issue", "home", "node.pem")
    before = Path("node.pem").read_bytes()
    monkeypatch.setenv("MACULA_KEY_PASSPHRASE", "another")
    assert "identity node.pem: wrong password" in refused(2, "realm", "issue", "home", "node.pem")
    monkeypatch.delenv("MACULA_KEY_PASSPHRASE")
    assert "MACULA_KEY_PASSPHRASE" in refused(2, "realm", "issue", "home", "node.pem")
    monkeypatch.setenv("MACULA_KEY_PASSPHRASE", KEY_PASSPHRASE)
    monkeypatch.setenv("MACULA_CA_PASSPHRASE", "another one, and wrong")
    assert "CA home: wrong password" in refused(2, "realm", "issue", "home", "node.pem")
    assert Path("node.pem").read_bytes() == before
    assert "CA home: wrong password" in refused(2, "realm", "issue", "home", "other.pem")
    assert not Path("other.pem").exists()


@pytest.mark.usefixtures("ca")
def test_encrypting_is_for_new_keys(run: Run, refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    run("realm", "issue", "home", "node.pem")
    before = Path("node.pem").read_bytes()
    assert "--encrypt is for new ones" in refused(2, "realm", "issue", "home", "node.pem", "--encrypt")
    monkeypatch.setenv("MACULA_KEY_PASSPHRASE", KEY_PASSPHRASE)
    assert "is not encrypted" in refused(2, "realm", "issue", "home", "node.pem")
    assert Path("node.pem").read_bytes() == before


# -- what must not be overwritten or half done ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ca.pem", "ca.key"])
def test_a_ca_is_never_overwritten(refused: Refused, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("MACULA_CA_PASSPHRASE", CA_PASSPHRASE)
    Path("home").mkdir()
    Path("home", name).write_text("precious")
    assert f"home/{name}: there is a CA already" in refused(2, "realm", "init", "home", "--realm", REALM)
    assert [(path.name, path.read_text()) for path in Path("home").iterdir()] == [(name, "precious")]


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("number", [0, 1])
def test_a_disk_that_fails_midway_leaves_no_part_of_a_ca(
    refused: Refused, monkeypatch: pytest.MonkeyPatch, number: int, there: bool
) -> None:
    monkeypatch.setenv("MACULA_CA_PASSPHRASE", CA_PASSPHRASE)
    if there:
        Path("home").mkdir()
        Path("home/notes.txt").touch()
    links: list[str] = []
    link = os.link

    def fail(source: Path, target: Path) -> None:
        links.append(target.name)
        if len(links) > number:
            raise OSError(28, "No space left on device")
        link(source, target)

    monkeypatch.setattr(os, "link", fail)
    assert "No space left" in refused(2, "realm", "init", "home", "--realm", REALM)
    assert links == ["ca.key", "ca.pem"][: number + 1]
    assert ([path.name for path in Path("home").iterdir()] == ["notes.txt"]) if there else not Path("home").exists()


def test_who_founds_second_leaves_the_ca_of_the_first(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MACULA_CA_PASSPHRASE", CA_PASSPHRASE)

    def slow(*arguments: Any, **options: Any) -> bytes:
        Path("home").mkdir()
        Path("home/ca.key").write_text("of the first")
        return CA_PASSPHRASE.encode()

    monkeypatch.setattr(realm, "ask_passphrase", slow)
    assert "there is a CA already" in refused(2, "realm", "init", "home", "--realm", REALM)
    assert [(path.name, path.read_text()) for path in Path("home").iterdir()] == [("ca.key", "of the first")]


def test_an_interrupted_founding_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MACULA_CA_PASSPHRASE", CA_PASSPHRASE)
    written: list[str] = []

    def interrupted(path: Path, data: bytes, **_options: object) -> None:
        if written:
            raise KeyboardInterrupt
        written.append(path.name)
        path.write_bytes(data)

    monkeypatch.setattr(realm, "write_new", interrupted)
    assert main(["realm", "init", "home", "--realm", REALM]) == 130
    assert written == ["ca.key"]
    assert not Path("home").exists()


@pytest.mark.usefixtures("ca")
def test_a_file_that_is_no_identity_is_never_replaced(run: Run, refused: Refused) -> None:
    for content in (b"", b"precious", Path("home/ca.pem").read_bytes()):
        Path("node.pem").write_bytes(content)
        assert "identity node.pem: no private key" in refused(2, "realm", "issue", "home", "node.pem")
        assert Path("node.pem").read_bytes() == content
    Path("other.csr").write_text(run("realm", "request", "other.pem"))
    for content, complaint in (
        (b"", "no certificate in PEM form"),
        (b"precious", "no certificate in PEM form"),
        (Path("home/ca.pem").read_bytes(), "certificate of another key"),
        (Path("other.pem").read_bytes(), "holds a private key"),
    ):
        Path("node.crt").write_bytes(content)
        assert complaint in refused(2, "realm", "issue", "home", "node.crt", "--csr", "other.csr")
        assert Path("node.crt").read_bytes() == content


@pytest.mark.usefixtures("ca")
def test_a_disk_that_fails_midway_leaves_the_old_certificate(
    run: Run, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("realm", "issue", "home", "node.pem")
    before = Path("node.pem").read_bytes()

    def fail(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    for file in ("node.pem", "other.pem"):
        assert f"{file}: cannot be written: No space left" in refused(2, "realm", "issue", "home", file)
    assert Path("node.pem").read_bytes() == before
    assert not Path("other.pem").exists()


@pytest.mark.usefixtures("ca")
@pytest.mark.parametrize("command", [["issue", "home", "node.pem"], ["request", "node.pem"]])
def test_a_file_that_somebody_makes_meanwhile_is_theirs(
    refused: Refused, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    generate = Identity.generate

    def slow() -> Identity:
        Path("node.pem").write_text("precious")
        return generate()

    monkeypatch.setattr(members.Identity, "generate", slow)
    assert "node.pem: somebody made it meanwhile" in refused(2, "realm", *command)
    assert Path("node.pem").read_text() == "precious"


# -- who must not become a member ----------------------------------------------------------------------------------


@pytest.fixture
def other_ca(run: Run, ca: x509.Certificate) -> None:
    """A second realm, in ``work``."""
    run("realm", "init", "work", "--realm", "org.example.work")


@pytest.mark.usefixtures("other_ca")
def test_a_member_of_another_realm_is_not_moved(run: Run, refused: Refused) -> None:
    run("realm", "issue", "work", "node.pem")
    before = Path("node.pem").read_bytes()
    line = refused(2, "realm", "issue", "home", "node.pem")
    assert "node.pem: is of realm org.example.work, not org.example.home" in line
    Path("node.csr").write_text(run("realm", "request", "node.pem"))
    run("realm", "issue", "home", "node.crt", "--csr", "node.csr")
    assert "is of realm org.example.work" in refused(2, "realm", "install", "node.pem", "node.crt")
    assert "is of realm org.example.home" in refused(2, "realm", "issue", "work", "node.crt", "--csr", "node.csr")
    assert Path("node.pem").read_bytes() == before
    line = refused(2, "realm", "issue", "home", "new.pem", "--realm", "org.example.work")
    assert "CA of realm org.example.home, not of org.example.work" in line
    assert not Path("new.pem").exists()
    run("realm", "issue", "home", "new.pem", "--realm", REALM)


@pytest.mark.usefixtures("ca")
def test_a_request_that_its_key_did_not_sign_is_refused(run: Run, refused: Refused) -> None:
    request = x509.load_pem_x509_csr(run("realm", "request", "node.pem").encode())
    data = bytearray(request.public_bytes(serialization.Encoding.DER))
    data[-1] ^= 1
    Path("node.csr").write_bytes(x509.load_der_x509_csr(bytes(data)).public_bytes(serialization.Encoding.PEM))
    line = refused(1, "realm", "issue", "home", "node.crt", "--csr", "node.csr")
    assert "certificate request node.csr: the certificate request is not signed by its own key" in line
    Path("node.csr").write_text("garbage")
    assert "no certificate request" in refused(2, "realm", "issue", "home", "node.crt", "--csr", "node.csr")
    assert not Path("node.crt").exists()


def test_a_certificate_ends_with_its_ca_and_that_is_told(
    ca: x509.Certificate, clock: Clock, told: Json, capsys: pytest.CaptureFixture[str]
) -> None:
    clock.now = ca.not_valid_after_utc - 10 * DAY
    assert main(["realm", "issue", "home", "node.pem"]) == 0
    output = capsys.readouterr()
    assert output.err == "warning: not 90 days, because the CA itself ends then; give the nodes a new CA in time\n"
    assert "(10 days left)" in output.out
    assert leaf_of("node.pem").not_valid_after_utc == ca.not_valid_after_utc
    assert told("realm", "issue", "home", "node.pem")["shortened"] is True
    assert told("realm", "issue", "home", "node.pem", "--days", "10")["shortened"] is False


def test_a_ca_whose_time_is_over_issues_nothing(ca: x509.Certificate, clock: Clock, refused: Refused) -> None:
    clock.now = ca.not_valid_after_utc + DAY
    line = refused(1, "realm", "issue", "home", "node.pem")
    assert "CA home: the CA is valid from 2026-03-01" in line
    assert not Path("node.pem").exists()


@pytest.mark.usefixtures("ca")
def test_the_certificate_of_another_node_is_not_installed(run: Run, refused: Refused) -> None:
    run("realm", "issue", "home", "node.pem")
    run("realm", "issue", "home", "other.pem")
    before = Path("node.pem").read_bytes()
    assert "not for this private key" in refused(2, "realm", "install", "node.pem", "other.pem")
    assert Path("node.pem").read_bytes() == before


# -- wrong usage ---------------------------------------------------------------------------------------------------


BAD: Final = [
    (["init", "home"], "--realm"),
    (["init", "home", "--realm", "two words"], "realm 'two words' is not valid"),
    (["init", "home", "--realm", REALM, "--years", "0"], "--years"),
    (["init", "missing/home", "--realm", REALM], "missing/home: no such directory can be made: No such file"),
    (["init", "file", "--realm", REALM], "file: no such directory can be made: File exists"),
    (
        ["init", "home", "--realm", REALM, "--passphrase-file", "missing.txt"],
        "passphrase file missing.txt: no such file",
    ),
    (["issue", "missing", "node.pem"], "CA missing/ca.pem: no such file; make it by macula-trio realm init"),
    (["issue", "file", "node.pem"], "CA file/ca.pem: cannot be read: Not a directory"),
    (["issue", "missing", "node.pem", "--days", "0"], "--days"),
    (["issue", "missing", "node.pem", "--name", "*.example.org"], "'*.example.org' is not a DNS name"),
    (["issue", "missing", "node.pem", "--name", f"{'0' * 32}.realm"], "belong to realms"),
    (["issue", "missing", "node.crt", "--csr", "missing.csr"], "certificate request missing.csr: no such file"),
    (["issue", "missing", "node.crt", "--csr", "file", "--encrypt"], "--csr leaves no key here"),
    (["request", "missing/node.pem"], "missing/node.pem: cannot be written"),
    (["install", "missing.pem", "file"], "certificate file: no certificate in PEM form"),
    (["install", "missing.pem", "own.pem"], "identity missing.pem: no such file"),
    (["show", "missing.pem"], "certificate missing.pem: no such file"),
    (["show", "file"], "certificate file: no certificate in PEM form"),
    (["show", "."], "certificate .: cannot be read: Is a directory"),
    (["show", "own.pem", "--ca", "missing.pem"], "CA missing.pem: no such file"),
]


@pytest.mark.parametrize(("arguments", "words"), BAD, ids=[" ".join(arguments)[:60] for arguments, _ in BAD])
def test_wrong_usage_is_one_line_and_leaves_nothing(
    arguments: list[str], words: str, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("file").write_text("precious")
    Identity.generate().save("own.pem")
    if "--passphrase-file" not in arguments:
        monkeypatch.setenv("MACULA_CA_PASSPHRASE", CA_PASSPHRASE)
    assert words in refused(2, "realm", *arguments)
    assert sorted(path.name for path in Path().iterdir()) == ["file", "own.pem"]
    assert Path("file").read_text() == "precious"


@pytest.mark.usefixtures("ca")
def test_a_directory_that_cannot_be_read_is_named(refused: Refused) -> None:
    Path("home").chmod(0)
    try:
        if os.access("home/ca.pem", os.R_OK):
            pytest.skip("root reads everything")
        assert "CA home/ca.pem: cannot be read: Permission denied" in refused(2, "realm", "issue", "home", "node.pem")
        assert "certificate home/ca.pem: cannot be read" in refused(2, "realm", "show", "home/ca.pem")
        line = refused(2, "realm", "init", "home/work", "--realm", REALM)
        assert "home/work: no such directory can be made: Permission denied" in line
        assert "CA home/ca.key: cannot be written: Permission denied" in refused(
            2, "realm", "init", "home", "--realm", REALM
        )
    finally:
        Path("home").chmod(0o700)


@pytest.mark.usefixtures("ca")
@pytest.mark.parametrize("name", ["ca.pem", "ca.key"])
def test_a_ca_with_half_of_its_files_issues_nothing(refused: Refused, name: str) -> None:
    Path("home", name).unlink()
    assert f"CA home/{name}: no such file" in refused(2, "realm", "issue", "home", "node.pem")
    assert not Path("node.pem").exists()


# -- show ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("other_ca")
def test_a_certificate_that_a_ca_did_not_issue_is_not_believed(
    run: Run, refused: Refused, capsys: pytest.CaptureFixture[str]
) -> None:
    run("realm", "issue", "home", "node.pem")
    run("keygen", "own.pem")
    for file, ca_file in (("node.pem", "work/ca.pem"), ("own.pem", "home/ca.pem")):
        assert main(["realm", "show", file, "--ca", ca_file]) == 1
        output = capsys.readouterr()
        assert "believed     no: " in output.out
        assert output.err.startswith(f"error: {file}: not believed by nodes that know {ca_file}: ")
        assert main(["realm", "show", file, "--ca", ca_file, "--json"]) == 1
        shown = json.loads(capsys.readouterr().out)
        assert shown["believed"] is False
        assert shown["problem"] in output.err


def test_a_certificate_without_the_name_of_the_realm_is_not_believed(
    ca: x509.Certificate, run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # As an authority of another make would issue it: the chain is right, the name is missing.
    with monkeypatch.context() as patch:
        patch.setattr("macula_trio._identity.authority.realm_server_name", lambda _realm: "node.example.org")
        run("realm", "issue", "home", "node.pem")
    assert main(["realm", "show", "node.pem", "--ca", "home/ca.pem"]) == 1
    assert f"does not carry the name '{realm_server_name(REALM)}" in capsys.readouterr().err


def test_a_certificate_that_is_over_says_so(
    ca: x509.Certificate, run: Run, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    run("realm", "issue", "home", "node.pem")
    clock.now = NOW + 91 * DAY
    shown = run("realm", "show", "node.pem")
    assert "(expired)" in shown
    assert "(due now)" in shown
    assert main(["realm", "show", "node.pem", "--ca", "home/ca.pem"]) == 1
    assert "expired" in capsys.readouterr().err
    clock.now = NOW - DAY
    assert "(not yet valid)" in run("realm", "show", "node.pem")


def test_the_certificate_of_a_company_is_shown_with_its_chain(told: Json, run: Run) -> None:
    authority = trustme.CA()
    leaf = authority.create_child_ca().issue_cert("node.example.org")
    Path("node.pem").write_bytes(leaf.private_key_and_cert_chain_pem.bytes())
    Path("ca.pem").write_bytes(authority.cert_pem.bytes())
    shown = told("realm", "show", "node.pem")
    assert (shown["certificates"], shown["realm"], shown["names"]) == (2, None, ["node.example.org"])
    assert (shown["believed"], shown["problem"]) == (None, None)
    text = run("realm", "show", "node.pem")
    assert "chain        2 certificates" in text
    assert "realm        none" in text


def test_everything_fits_80_columns(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MACULA_CA_PASSPHRASE", CA_PASSPHRASE)
    long_realm = ".".join(["department-of-long-names"] * 10)
    directory = "a-directory-with-a-name-that-is-hardly-shorter-than-a-line-of-a-terminal"
    file = f"{directory}/{'node' * 20}.pem"
    names = [f"{number:02}.{'x' * 60}.{'y' * 60}.example.org" for number in range(16)]
    texts = [
        run("realm", "init", directory, "--realm", long_realm),
        run("realm", "issue", directory, file, *(part for name in names for part in ("--name", name))),
        run("realm", "show", file, "--ca", f"{directory}/ca.pem"),
        run("realm", "show", f"{directory}/ca.pem"),
    ]
    for text in texts:
        assert max(map(len, text.splitlines())) <= 80
    joined = "".join(line[13:] for line in texts[2].splitlines())
    assert long_realm in joined
    assert all(name in joined.replace(", ", ",").replace(",", "") for name in names)


@pytest.mark.usefixtures("ca")
def test_what_stands_in_a_certificate_does_not_command_the_terminal(run: Run) -> None:
    from_far = Identity.load_or_create("node.pem")
    data = from_far.chain[0].public_bytes(serialization.Encoding.DER)
    name = from_far.node_id.hex()[:32].encode()
    odd = x509.load_der_x509_certificate(data.replace(name, b"\x1b[2J\x9b\n"[:4].ljust(32, b"\x07")))
    Path("odd.pem").write_bytes(odd.public_bytes(serialization.Encoding.PEM))
    text = run("realm", "show", "odd.pem")
    assert all(character == "\n" or character.isprintable() for character in text)
    assert "\\u001b" in text


@pytest.mark.parametrize("command", ["", "init", "issue", "request", "install", "show"])
def test_help_fits_80_columns(command: str, run: Run) -> None:
    text = run("realm", *command.split(), "--help")
    assert max(map(len, text.splitlines())) <= 80
    assert "..." not in text.partition("Commands:")[2]


# -- encrypted keys of the other commands --------------------------------------------------------------------------


SOMEWHERE: Final = ["--bootstrap", "127.0.0.1:9", "--realm", REALM, "--timeout", "0.2"]


def test_keygen_encrypts_when_it_is_told_a_passphrase(
    run: Run, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "MACULA_KEY_PASSPHRASE" in refused(2, "keygen", "node.pem", "--encrypt")
    assert list(Path().iterdir()) == []
    Path("key.txt").write_text(KEY_PASSPHRASE)
    run("keygen", "one.pem", "--key-passphrase-file", "key.txt")
    monkeypatch.setenv("MACULA_KEY_PASSPHRASE", KEY_PASSPHRASE)
    run("keygen", "two.pem")
    run("keygen", "three.pem", "--encrypt")
    monkeypatch.delenv("MACULA_KEY_PASSPHRASE")
    typing(monkeypatch, KEY_PASSPHRASE, KEY_PASSPHRASE)
    run("keygen", "four.pem", "--encrypt")
    for name in ("one", "two", "three", "four"):
        assert Identity.load(f"{name}.pem", password=KEY_PASSPHRASE.encode())


@pytest.mark.parametrize("command", [["call", "math.add", "{}", *SOMEWHERE], ["node", "--realm", REALM]])
def test_an_encrypted_identity_needs_its_passphrase(
    command: list[str], run: Run, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MACULA_KEY_PASSPHRASE", KEY_PASSPHRASE)
    run("keygen", "node.pem")
    monkeypatch.delenv("MACULA_KEY_PASSPHRASE")
    command = [*command, "--identity", "node.pem"]
    for way in ("--key-passphrase-file FILE", "MACULA_KEY_PASSPHRASE", "terminal"):
        assert way in refused(2, *command)
    Path("key.txt").write_text("another")
    assert "identity node.pem: wrong password" in refused(2, *command, "--key-passphrase-file", "key.txt")
    Path("plain.pem").write_bytes(Identity.generate().to_pem())
    monkeypatch.setenv("MACULA_KEY_PASSPHRASE", KEY_PASSPHRASE)
    assert "is not encrypted" in refused(2, *command[:-1], "plain.pem")
    without = [part for part in command if part not in {"--identity", "node.pem"}]
    assert "name it by --identity" in refused(2, *without, "--key-passphrase-file", "key.txt")


def test_an_encrypted_identity_is_used_with_its_passphrase(
    run: Run, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MACULA_KEY_PASSPHRASE", KEY_PASSPHRASE)
    run("keygen", "node.pem")
    command = ["call", "math.add", "{}", *SOMEWHERE, "--identity", "node.pem"]
    assert "127.0.0.1:9" in refused(1, *command)  # so far it comes only with the key
    monkeypatch.delenv("MACULA_KEY_PASSPHRASE")
    prompts = typing(monkeypatch, KEY_PASSPHRASE)
    assert "127.0.0.1:9" in refused(1, *command)
    assert len(prompts) == 1

"""Wrong usage is one line that names the thing and the mend, exit code 2, no traceback, nothing on stdout."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from macula_trio import Identity
from macula_trio._cli import runner
from macula_trio._cli.main import main

HEX: Final = "ab" * 32
SOMEWHERE: Final = ["--bootstrap", "127.0.0.1:9", "--realm", "org.example.test"]
REALM: Final = ["--realm", "org.example.test"]

# Arguments, and a piece of the complaint.
BAD: Final = [
    (["nonsense"], "nonsense"),
    (["node"], "--realm"),
    (["node", "--realm", "two words"], "'two words'"),
    (["node", *REALM, "--listen", "here"], "listen: endpoint 'here' is not HOST:PORT"),
    (["node", *REALM, "--listen", "127.0.0.1:70000"], "'70000' is not a number"),
    (["node", *REALM, "--listen", "::1:9443"], "in brackets"),
    (["node", *REALM, "--listen", "192.0.2.1:0"], "--listen takes an address of this machine"),
    (["node", *REALM, "--listen", "[fe80::1%nowhere7]:0"], "no interface 'nowhere7'; --listen takes an interface"),
    (["node", *REALM, "--listen", "[fe80::1]:0"], "a link-local address needs its interface, such as fe80::1%eth0"),
    (["node", *REALM, "--listen", "no-such-host.invalid:0"], "no-such-host.invalid"),
    (["node", *REALM, "--advertise", "[fe80::1%eth0]:9443"], "names an interface, which means nothing on other"),
    (["node", *REALM, "--bootstrap", "127.0.0.1"], "--bootstrap"),
    (["node", *REALM, "--bootstrap", "127.0.0.1:0"], "port '0'"),
    (["node", *REALM, "--bootstrap", "abc@127.0.0.1:9"], "node id"),
    (["node", *REALM, "--bootstrap", "no-such-host.invalid:9"], "no-such-host.invalid"),
    (["node", *REALM, "--advertise", "0.0.0.0:9443"], "advertise"),
    (["node", *REALM, "--role", "king"], "'king'"),
    (["node", *REALM, "--identity", "missing/directory/node.pem"], "missing/directory/node.pem"),
    (["node", *REALM, "--trust", "nobody"], "'nobody' is not one of open, realm:CA.pem, only:ID,..."),
    (["node", *REALM, "--trust", "realm:no-such-ca.pem"], "trust file no-such-ca.pem: cannot be read"),
    (["node", *REALM, "--trust", "only:@no-such-list"], "trust file no-such-list: cannot be read"),
    (["node", *REALM, "--trust", "realm:"], "behind the colon there is nothing"),
    (["node", *REALM, "--trust", "pinned:12"], "a fingerprint is SHA-256 and has 32 bytes"),
    (["node", *REALM, "--trust", "only:12"], "64 hexadecimal digits"),
    (["node", *REALM, "--health", "here"], "--health: endpoint 'here' is not HOST:PORT"),
    (["node", *REALM, "--health", "192.0.2.1:0"], "--health takes an address of this machine"),
    (["node", *REALM, "--health", "no-such-host.invalid:0"], "no-such-host.invalid"),
    (["ping", "127.0.0.1"], "not HOST:PORT"),
    (["ping", "127.0.0.1:9"], "--realm"),
    (["ping", "127.0.0.1:9", *REALM, "--count", "0"], "--count"),
    (["ping", "no-such-host.invalid:9", *REALM], "no-such-host.invalid"),
    (["keygen"], "FILE"),
    (["keygen", "missing/directory/node.pem"], "missing/directory/node.pem"),
    (["call", "math.add"], "JSON"),
    (["call", "math.add", "{}"], "--bootstrap"),
    (["call", "math.add", "{}", "--bootstrap", "127.0.0.1:9"], "--realm"),
    (["call", "math.add", "{a: 1}", *SOMEWHERE], "'{a: 1}' is not JSON"),
    (["call", "math.add", "NaN", *SOMEWHERE], "NaN"),
    (["call", "math.add", "[" * 100_000, *SOMEWHERE], "not JSON"),
    (["call", "math..add", "{}", *SOMEWHERE], "'math..add'"),
    (["call", "math.add", "{}", *SOMEWHERE, "--timeout", "soon"], "--timeout"),
    (["call", "math.add", "{}", *SOMEWHERE, "--timeout", "0"], "above 0"),
    (["call", "math.add", "{}", *SOMEWHERE, "--timeout", "nan"], "above 0"),
    (["call", "math.add", "{}", *SOMEWHERE, "--timeout", "300.1"], "at most 300"),
    (["call", "math.add", "{}", *SOMEWHERE, "--identity", "missing.pem"], "missing.pem: no such file"),
    (["publish", "a topic", "1", *SOMEWHERE], "'a topic'"),
    (["publish", "topic", "one", *SOMEWHERE], "'one' is not JSON"),
    (["publish", "a.*", "1", *SOMEWHERE], "topic 'a.*' is not valid"),
    (["subscribe", "a.b*c", *SOMEWHERE], "pattern 'a.b*c' is not valid"),
    (["subscribe", "topic", *SOMEWHERE, "--count", "-1"], "--count"),
    (["dht", "get", "", *SOMEWHERE], "empty name"),
    (["dht", "put", "key", *SOMEWHERE], "JSON-OR-TEXT"),
    (["dht", "put", "key", "1", *SOMEWHERE, "--kind", "thing"], "'thing'"),
    (["dht", "forget", "key", *SOMEWHERE], "forget"),
    (["demo", "now"], "now"),
]


def complaint(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that the command wrote."""
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error: ")
    assert output.err.count("\n") == 1
    return output.err


@pytest.mark.parametrize(("arguments", "words"), BAD, ids=[f"{' '.join(a)[:60]}" for a, _ in BAD])
def test_wrong_usage_is_one_line(
    arguments: list[str],
    words: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert words in complaint(capsys)
    assert list(tmp_path.iterdir()) == []


def test_a_port_in_use_is_named_with_the_mend(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{taken.getsockname()[1]}"
        assert main(["node", *REALM, "--listen", endpoint]) == 2
    line = complaint(capsys)
    assert f"cannot listen on {endpoint}" in line
    assert "--listen" in line


@pytest.mark.parametrize(
    ("number", "reason", "mend"),
    [
        (errno.EACCES, "not permitted; ports below 1024 need privileges", "choose another port by --listen HOST:PORT"),
        (errno.EAFNOSUPPORT, "this system has no IPv6", "--listen takes an IPv4 address, or 0.0.0.0 for all of them"),
        (
            errno.EADDRINUSE,
            os.strerror(errno.EADDRINUSE),
            "choose another by --listen HOST:PORT, port 0 takes a free one",
        ),
        (errno.ENOMEM, "Cannot allocate memory", ""),
    ],
)
def test_what_the_system_refuses_is_one_line_with_the_mend(
    number: int, reason: str, mend: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(_address: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("macula_trio._net.udp._open", refuse)
    assert main(["node", *REALM, "--listen", "[::]:443"]) == 2
    line = complaint(capsys)
    assert f"cannot listen on [::]:443: {reason}" in line
    assert mend in line


def test_a_name_that_has_no_address_is_named_with_the_mend(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def nothing(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr("trio.socket.getaddrinfo", nothing)
    for arguments in (
        ["node", *REALM, "--listen", "gate.example:9443"],
        ["node", *REALM, "--listen", "127.0.0.1:0", "--bootstrap", "gate.example:9443"],
        ["call", "math.add", "{}", *REALM, "--bootstrap", "gate.example:9443"],
        ["ping", *REALM, "gate.example:9443"],
    ):
        assert main(arguments) == 2
        line = complaint(capsys)
        assert "cannot find host 'gate.example': Name or service not known; check how it is spelled" in line


def test_a_key_that_does_not_match_its_certificate_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    key, _, _ = Identity.generate().to_pem().partition(b"-----BEGIN CERTIFICATE-----")
    certificate = Identity.generate().to_pem()[len(key) :]
    path = tmp_path / "node.pem"
    path.write_bytes(key + certificate)
    assert main(["node", *REALM, "--identity", str(path)]) == 2
    line = complaint(capsys)
    assert str(path) in line
    assert "not for this private key" in line


@pytest.mark.parametrize(
    "content", [b"", b"\x00\xff", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_a_file_that_holds_no_key_is_refused(
    content: bytes, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "node.pem"
    path.write_bytes(content)
    assert main(["call", "math.add", "{}", *SOMEWHERE, "--identity", str(path)]) == 2
    assert str(path) in complaint(capsys)


def test_an_identity_that_is_a_directory_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["node", *REALM, "--identity", str(tmp_path)]) == 2
    assert str(tmp_path) in complaint(capsys)


def test_keygen_writes_a_file_that_only_its_owner_can_read(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "node.pem"
    assert main(["keygen", str(path)]) == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert capsys.readouterr().out == f"{Identity.load(path).node_id.hex()}\n"


def test_keygen_never_overwrites(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "node.pem"
    path.write_text("precious")
    assert main(["keygen", str(path)]) == 2
    assert str(path) in complaint(capsys)
    assert path.read_text() == "precious"


def test_a_bad_option_leaves_no_new_key_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["node", *REALM, "--identity", str(tmp_path / "node.pem"), "--listen", "nowhere"]) == 2
    complaint(capsys)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["ping", "127.0.0.1:9", *REALM],
        ["call", "math.add", "{}", *SOMEWHERE],
        ["publish", "topic", "{}", *SOMEWHERE],
        ["subscribe", "topic", *SOMEWHERE],
        ["dht", "get", "key", *SOMEWHERE],
        ["dht", "put", "key", "text", *SOMEWHERE],
        ["dht", "find-node", HEX, *SOMEWHERE],
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_a_mesh_that_is_not_there_is_one_line_and_exit_code_1(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--timeout", "0.3", "--json"]) == 1
    assert "127.0.0.1:9" in complaint(capsys)


def test_a_node_whose_bootstrap_is_not_there_makes_its_key_runs_and_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    notes: list[str] = []

    def interrupt(text: str) -> None:
        notes.append(text)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setenv("MACULA_JOIN_DEADLINE_S", "0.2")
    monkeypatch.setattr(runner, "note", interrupt)
    path = tmp_path / "node.pem"
    options = [*REALM, "--listen", "127.0.0.1:0", "--bootstrap", "127.0.0.1:9", "--identity", str(path)]
    assert main(["node", *options, "--json"]) == 0
    ready = json.loads(capsys.readouterr().out)
    assert ready.keys() == {"endpoint", "node_id", "realm", "role"}
    assert ready["node_id"] == Identity.load(path).node_id.hex()
    assert notes == ["warning: no other node found yet by 127.0.0.1:9; trying on"]


def test_a_node_with_a_name_says_it_to_programs_and_in_warnings(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []

    def interrupt(text: str) -> None:
        notes.append(text)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setenv("MACULA_JOIN_DEADLINE_S", "0.2")
    monkeypatch.setenv("NODE_NAME", "cellar")
    monkeypatch.setattr(runner, "note", interrupt)
    assert main(["node", *REALM, "--listen", "127.0.0.1:0", "--bootstrap", "127.0.0.1:9", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "cellar"
    assert notes == ["warning: cellar: no other node found yet by 127.0.0.1:9; trying on"]


@pytest.mark.parametrize("arguments", [[], ["dht"]])
def test_no_command_shows_the_help(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main(arguments)
    output = capsys.readouterr()
    assert "Usage: macula-trio" in output.out + output.err


@pytest.mark.parametrize(
    "command",
    [
        "",
        "demo",
        "node",
        "call",
        "publish",
        "subscribe",
        "dht",
        "dht get",
        "dht put",
        "dht find-node",
        "ping",
        "config",
        "config show",
    ],
)
def test_help_fits_80_columns(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command.split(), "--help"]) == 0
    assert max(len(line) for line in capsys.readouterr().out.splitlines()) <= 80


@pytest.mark.processes
@pytest.mark.parametrize("missing", ["click", "rich"])
def test_without_its_extra_the_command_says_how_to_install_it(missing: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; import macula_trio._cli.main as m; sys.exit(m.main(['demo']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert 'pip install "macula-trio[cli]"' in done.stderr

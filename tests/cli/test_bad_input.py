"""Every argument and option of every command, with values that are no good: one line, exit code 2, nothing left behind.

The commands and their parameters come from the command line itself: a new one without a row here fails.
"""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
import pytest

from macula_trio import Identity
from macula_trio._cli.commands import cli
from macula_trio._cli.main import main

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.thorough

HUGE: Final = "x" * 100_000
CONTROL: Final = "\x1b[31mred\x07"
FILES: Final = ("no/such/file", ".", "/dev/zero", "sparse", "pipe/", CONTROL, HUGE)
TEXTS: Final = ("", CONTROL, HUGE)
NUMBERS: Final = ("ten", "-1", "nan", "1e400", "9" * 5_000, CONTROL, "")
MESH: Final = ["--bootstrap", "127.0.0.1:9", "--realm", "a"]

# Good arguments of each command, so that a bad one is the only bad one.
GOOD: Final[dict[str, list[str]]] = {
    "call": ["math.add", "{}", *MESH],
    "config show": ["--realm", "a"],
    "demo": [],
    "dht find-node": ["key", *MESH],
    "dht get": ["key", *MESH],
    "dht put": ["key", "1", *MESH],
    "keygen": ["made.pem"],
    "node": ["--realm", "a", "--listen", "127.0.0.1:0"],
    "ping": ["127.0.0.1:9", "--realm", "a"],
    "publish": ["topic", "1", *MESH],
    "realm init": ["made", "--realm", "a", "--passphrase-file", "secret"],
    "realm install": ["node.pem", "node.pem"],
    "realm issue": ["ca", "made.pem", "--passphrase-file", "secret"],
    "realm request": ["made.pem"],
    "realm show": ["node.pem"],
    "replay": ["scenario.py"],
    "subscribe": ["topic", *MESH],
    "sweep": ["scenario.py", "--seeds", "0:1"],
}
# Bad values by the name of the parameter; None where every text is a good one, or it is a flag.
BAD: Final[dict[str, tuple[str, ...] | None]] = {
    "advertise": (*TEXTS, "here", "0.0.0.0:1", "192.0.2.7:0"),
    "against": FILES,
    "args": (*TEXTS, "{a: 1}", "NaN", "[" * 50_000),
    "as_json": None,
    "bootstrap": (*TEXTS, "here", "127.0.0.1:0", "ab@127.0.0.1:9"),
    "ca": FILES,
    "certificate": FILES,
    "cluster": ("here", "xyz://127.0.0.1:9", CONTROL, HUGE),
    "config_file": FILES,
    "csr": FILES,
    "days": NUMBERS,
    "directory": ("no/such/place", "node.pem/below", HUGE),
    "encrypt": None,
    "file": ("no/such/place", ".", HUGE),
    "hash_seeds": ("", "3", "3:3", "0:99999999999", CONTROL, HUGE),
    "health": (*TEXTS, "here", "::1:1", "127.0.0.1:70000", "192.0.2.1:0"),
    "identity": FILES,
    "jobs": NUMBERS,
    "key": ("",),
    "key_passphrase_file": FILES,
    "kind": (*TEXTS, "thing"),
    "limit": NUMBERS,  # hidden
    "listen": (*TEXTS, "here", "::1:1", "127.0.0.1:70000", "192.0.2.1:0"),
    "name": TEXTS,
    "names": TEXTS,
    "no_shrink": None,
    "nodes": NUMBERS,
    "passphrase_file": FILES,
    "payload": (*TEXTS, "one"),
    "peer": (*TEXTS, "here", "127.0.0.1:0"),
    "procedure": (*TEXTS, "math..add"),
    "realm": (*TEXTS, "two words"),
    "role": (*TEXTS, "king"),
    "seconds": NUMBERS,
    "seed": NUMBERS,
    "seeds": ("", "3", "3:3", CONTROL, HUGE),
    "skip_faults": ("x", "3:3", CONTROL, HUGE),
    "target": ("",),
    "timeout": (*NUMBERS, "0"),
    "times": NUMBERS,
    "tls_cert_file": FILES,
    "tls_key_file": FILES,
    "topic": (*TEXTS, "a topic"),
    "pattern": (*TEXTS, "a pattern", "a.b*c"),
    "trace_file": ("no/such/file", ".", HUGE),
    "traceback": None,
    "trust": (*TEXTS, "nobody", "realm:", "realm:sparse", "only:@/dev/zero", "only:12", "pinned:@no"),
    "value": None,
    "years": NUMBERS,
}
# Here a name means something else: (command, parameter).
SPECIAL: Final[dict[tuple[str, str], tuple[str, ...]]] = {
    ("subscribe", "limit"): NUMBERS,
    # A key file that is not there is made, whatever its name.
    ("node", "identity"): ("no/such/file", ".", "/dev/zero", "sparse", HUGE),
    ("config show", "identity"): (".", "/dev/zero", "sparse", HUGE),
    ("config show", "health"): (*TEXTS, "here", "::1:1", "127.0.0.1:70000"),  # binds nothing
    ("config show", "listen"): (*TEXTS, "here", "::1:1", "127.0.0.1:70000"),
    ("realm show", "file"): FILES,
    ("realm install", "file"): FILES,
    ("realm issue", "name"): ("b",),
    ("replay", "file"): FILES,
    ("sweep", "file"): FILES,
}


def commands(group: click.Group, *path: str) -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, by its name."""
    for name, command in sorted(group.commands.items()):
        if isinstance(command, click.Group):
            yield from commands(command, *path, name)
        else:
            yield " ".join([*path, name]), command


COMMANDS: Final = dict(commands(cli))


def with_bad(name: str, parameter: click.Parameter, value: str) -> list[str]:
    """The arguments of a command with one that is bad."""
    good = list(GOOD[name])
    if isinstance(parameter, click.Option):
        flag = parameter.opts[0]
        if flag in good:
            at = good.index(flag)
            del good[at : at + 2]
        extra = (
            ["--identity", "node.pem"]
            if parameter.name == "key_passphrase_file" and "--identity" in OPTIONS[name]
            else []
        )
        pair = {"tls_cert_file": ["--tls-key-file", "node.pem"], "tls_key_file": ["--tls-cert-file", "node.pem"]}
        return [*name.split(), *good, *extra, *pair.get(str(parameter.name), []), f"{flag}={value}"]
    place = [p.name for p in COMMANDS[name].params if isinstance(p, click.Argument)].index(parameter.name)
    good[place] = value
    return [*name.split(), *good]


OPTIONS: Final = {name: {opt for p in command.params for opt in p.opts} for name, command in COMMANDS.items()}
ROWS: Final = [
    (name, parameter, value)
    for name, command in COMMANDS.items()
    for parameter in command.params
    for value in SPECIAL.get((name, str(parameter.name)), BAD.get(str(parameter.name))) or ()
]


def test_every_command_and_parameter_has_a_row() -> None:
    assert COMMANDS.keys() == GOOD.keys()
    assert {str(parameter.name) for command in COMMANDS.values() for parameter in command.params} == BAD.keys()


@pytest.fixture
def things(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    """Good files, and a large one."""
    monkeypatch.chdir(tmp_path)
    Identity.generate().save("node.pem")
    Path("secret").write_text("a passphrase for tests\n")
    Path("scenario.py").write_text("async def scenario(world):\n    pass\n")
    with Path("sparse").open("wb") as file:
        file.truncate(1 << 30)
    return tmp_path


def state(directory: Path) -> list[tuple[str, int]]:
    """Everything in a directory."""
    return sorted((str(path.relative_to(directory)), path.stat().st_size) for path in directory.rglob("*"))


@pytest.mark.parametrize(
    ("name", "parameter", "value"), ROWS, ids=[re.sub(r"[^ -~]", "?", f"{n} {p.name} {v[:20]}") for n, p, v in ROWS]
)
def test_a_bad_value_is_one_line_and_leaves_nothing(
    name: str, parameter: click.Parameter, value: str, things: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if name == "realm issue":
        assert main(["realm", "init", "ca", "--realm", "a", "--passphrase-file", "secret"]) == 0
        capsys.readouterr()
    before, threads = state(things), threading.active_count()
    code = main(with_bad(name, parameter, value))
    output = capsys.readouterr()
    assert (code, output.out) == (2, "")
    assert output.err.startswith("error: ")
    assert output.err.count("\n") == 1
    assert len(output.err) < 1500
    assert output.err.rstrip("\n").isprintable()
    assert state(things) == before
    assert threading.active_count() == threads

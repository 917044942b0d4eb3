"""Flags, environment, file, defaults, in that order; and what contradicts itself says where."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs
import pytest

from macula_trio import Identity, NodeConfig
from macula_trio._cli import options
from macula_trio._cli.levels import environment_level, flag_level, settle
from macula_trio._cli.main import main
from macula_trio._cli.settings import BY_NAME, NODE_SETTINGS, ONE_SHOT_SETTINGS, SETTINGS

if TYPE_CHECKING:
    from collections.abc import Mapping

HEX: Final = "ab" * 32


@pytest.fixture(autouse=True)
def in_a_directory_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where `node.toml` is written."""
    monkeypatch.chdir(tmp_path)


@attrs.frozen
class Shown:
    """What `config show` did."""

    code: int
    out: str
    err: str

    def settings(self) -> dict[str, tuple[Any, str]]:
        """Value and origin by name."""
        assert (self.code, self.err) == (0, "")
        return {name: (setting["value"], setting["from"]) for name, setting in json.loads(self.out).items()}


@pytest.fixture
def show(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run `config show --json` with flags, variables and a file."""

    def run(*flags: str, file: str | None = None, **variables: str) -> Shown:
        arguments = ["config", "show", "--json", *flags]
        if file is not None:
            Path("node.toml").write_text(file, encoding="utf-8")
            arguments += ["--config", "node.toml"]
        with monkeypatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            code = main(arguments)
        return Shown(code, *capsys.readouterr())

    return run


FILE: Final = """\
# all of them
realm = "org.example.file"

listen = "127.0.0.1:3"
bootstrap = [
  "127.0.0.1:31",
  "127.0.0.1:32",
]
role = "bootstrap"
keepalive_s = 3
leaf = false
"""


def test_flags_go_before_the_environment_before_the_file_before_defaults(show: Any) -> None:
    settings = show(
        "--listen", "127.0.0.1:1", file=FILE, MACULA_LISTEN="127.0.0.1:2", MACULA_KEEPALIVE_S="2", MODE="hybrid"
    ).settings()
    assert settings["listen"] == ("127.0.0.1:1", "flag --listen")
    assert settings["keepalive_s"] == (2, "environment MACULA_KEEPALIVE_S")
    assert settings["role"] == ("gateway", "environment MODE")
    assert settings["realm"] == ("org.example.file", "node.toml:2")
    assert settings["bootstrap"] == (["127.0.0.1:31", "127.0.0.1:32"], "node.toml:5")
    assert settings["leaf"] == (False, "node.toml:11")
    assert settings["trust"] == ("open", "default")


def test_every_setting_is_shown(show: Any) -> None:
    assert show("--realm", "a").settings().keys() == BY_NAME.keys()
    assert {field.name for field in attrs.fields(NodeConfig)} <= BY_NAME.keys()


def test_a_default_that_follows_from_another_value_is_the_one_that_counts(show: Any) -> None:
    settings = show("--realm", "a", MACULA_HANDLERS_MAX="7").settings()
    assert settings["handlers_per_caller_max"] == (7, "default")


@pytest.mark.parametrize("width", ["", "a" * 200])
def test_for_people_it_fits_80_columns(width: str, capsys: pytest.CaptureFixture[str]) -> None:
    trust = f"only:{HEX},{'cd' * 32}"
    assert main(["config", "show", "--realm", f"a{width}", "--trust", trust, "--bootstrap", f"{HEX}@[::1]:9"]) == 0
    output = capsys.readouterr()
    assert output.err == ""
    assert max(map(len, output.out.splitlines())) <= 80


# -- each source ---------------------------------------------------------------------------------------------------

# A value as the environment writes it, as the file does, and as it is.
SAMPLES: Final[Mapping[str, tuple[str, str, object]]] = {
    "realm": ("b", '"b"', "b"),
    "listen": ("127.0.0.1:7", '"127.0.0.1:7"', "127.0.0.1:7"),
    "bootstrap": ("a:1, b:2,", '["a:1", "b:2"]', ["a:1", "b:2"]),
    "advertise": ("192.0.2.7:9", '"192.0.2.7:9"', "192.0.2.7:9"),
    "role": ("gateway", '"gateway"', "gateway"),
    "identity": ("new.pem", '"new.pem"', "new.pem"),
    "trust": ("unverified", '"unverified"', "unverified"),
    "name": ("the cellar", '"the cellar"', "the cellar"),
    "timeout": ("7.5", "7.5", 7.5),
    "health": ("127.0.0.1:8080", '"127.0.0.1:8080"', "127.0.0.1:8080"),
    "connections": ("links", '"links"', "links"),
    "leaf": ("yes", "true", True),
    "require_bootstrap": ("1", "true", True),
    "join_deadline_s": ("1.5", "1.5", 1.5),
    "close_deadline_s": ("2", "2", 2),
    "drain_deadline_s": ("6", "6", 6),
    "dial_deadline_s": ("3", "3", 3),
    "query_deadline_s": ("4", "4", 4),
    "keepalive_s": ("5", "5", 5),
    "links_max": ("20", "20", 20),
    "link_idle_s": ("60", "60", 60),
    "value_ttl_s": ("60", "60", 60),
    "call_timeout_max_s": ("100", "100", 100),
    "call_timeout_default_s": ("2", "2", 2),
    "handlers_max": ("9", "9", 9),
    "handlers_per_caller_max": ("8", "8", 8),
    "subscription_buffer": ("10", "10", 10),
    "may_publish": (HEX, f'["{HEX}"]', [HEX]),
}


def test_every_setting_has_a_sample() -> None:
    files = {"tls_cert_file", "tls_key_file", "key_passphrase_file"}  # have tests of their own
    assert SAMPLES.keys() == BY_NAME.keys() - files


@pytest.mark.parametrize("name", SAMPLES)
def test_the_environment_and_the_file_say_the_same(show: Any, name: str) -> None:
    realm = [] if name == "realm" else ["--realm", "a"]
    text, toml, value = SAMPLES[name]
    variable = f"MACULA_{name.upper()}"
    assert show(*realm, **{variable: text}).settings()[name] == (value, f"environment {variable}")
    assert show(*realm, file=f"# x\n{name} = {toml}\n").settings()[name] == (value, "node.toml:2")


@pytest.mark.parametrize("name", [setting.name for setting in SETTINGS if setting.flag and setting.name in SAMPLES])
def test_the_flag_says_the_same(show: Any, name: str) -> None:
    realm = [] if name == "realm" else ["--realm", "a"]
    text, _, value = SAMPLES[name]
    flag = str(BY_NAME[name].flag)
    parts = [part.strip() for part in text.split(",") if part.strip()] if BY_NAME[name].many else [text]
    given = [argument for part in parts for argument in (flag, part)]
    assert show(*realm, *given).settings()[name] == (value, f"flag {flag}")


def test_the_environment_of_v08_is_understood(show: Any) -> None:
    Identity.generate().save("one.pem")
    settings = show(
        MACULA_REALM="com.example.v08",
        BOOTSTRAP_NODES="https://seed.example.org:9443,192.0.2.7:9443",
        GATEWAY_PORT="9444",
        TLS_CERT_FILE="one.pem",
        TLS_KEY_FILE="one.pem",
        NODE_NAME="gateway@cellar",
        MODE="hybrid",
        HEALTH_PORT="8080",
    ).settings()
    assert settings["realm"] == ("com.example.v08", "environment MACULA_REALM")
    assert settings["health"] == ("0.0.0.0:8080", "environment HEALTH_PORT")
    assert settings["bootstrap"] == (
        ["https://seed.example.org:9443", "192.0.2.7:9443"],
        "environment BOOTSTRAP_NODES",
    )
    assert settings["listen"] == ("0.0.0.0:9444", "environment GATEWAY_PORT")
    assert settings["tls_cert_file"] == ("one.pem", "environment TLS_CERT_FILE")
    assert settings["tls_key_file"] == ("one.pem", "environment TLS_KEY_FILE")
    assert settings["name"] == ("gateway@cellar", "environment NODE_NAME")
    assert settings["role"] == ("gateway", "environment MODE")


def test_a_variable_that_is_empty_is_not_set(show: Any) -> None:
    empty = {setting.variable: "" for setting in SETTINGS} | {s.old.name: "" for s in SETTINGS if s.old is not None}
    settings = show("--realm", "a", **empty).settings()
    assert {origin for _, origin in settings.values()} == {"flag --realm", "default"}


@pytest.mark.parametrize(
    ("variable", "value", "warning"),
    [
        ("MODE", "production", "'production' is none of bootstrap, gateway, edge, hybrid, and is passed over"),
        ("MACULA_LISEN", "here", "not a setting, and passed over; did you mean 'MACULA_LISTEN'?"),
        ("MACULA_XYZZY", "1", "not a setting, and passed over"),
    ],
)
def test_what_may_be_somebody_elses_is_a_warning(show: Any, variable: str, value: str, warning: str) -> None:
    shown = show("--realm", "a", **{variable: value})
    assert (shown.code, shown.err) == (0, f"warning: environment {variable}: {warning}\n")


def test_what_is_ours_though_no_setting_is_no_warning(show: Any) -> None:
    assert show("--realm", "a", MACULA_SEED="7", MACULA_CA_PASSPHRASE="secret").err == ""


# -- paths ---------------------------------------------------------------------------------------------------------


def test_paths_in_a_file_start_from_its_directory(
    show: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "etc"
    directory.mkdir()
    Identity.generate().save(directory / "node.pem")
    (directory / "members").write_text(f"{HEX}\n")
    (directory / "node.toml").write_text('realm = "a"\nidentity = "node.pem"\ntrust = "only:@members"\n')
    assert main(["config", "show", "--json", "--config", str(directory / "node.toml")]) == 0
    settings = json.loads(capsys.readouterr().out)
    assert settings["identity"]["value"] == str(directory / "node.pem")
    assert settings["trust"]["value"] == f"only:@{directory / 'members'}"


def test_an_absolute_path_in_a_file_stays(show: Any, tmp_path: Path) -> None:
    path = str(tmp_path / "elsewhere" / "node.pem")
    assert show("--realm", "a", file=f"identity = '{path}'\n").settings()["identity"][0] == path


# -- who -----------------------------------------------------------------------------------------------------------


def test_an_identity_replaces_all_that_lower_levels_say_of_who_we_are(show: Any) -> None:
    Identity.generate().save("mine.pem")
    settings = show(
        "--realm",
        "a",
        "--identity",
        "mine.pem",
        file='key_passphrase_file = "secret"\n',
        TLS_CERT_FILE="no-such",
        TLS_KEY_FILE="no-such",
    ).settings()
    assert settings["identity"] == ("mine.pem", "flag --identity")
    assert {settings[name] for name in ("tls_cert_file", "tls_key_file", "key_passphrase_file")} == {(None, "default")}


def test_a_certificate_and_its_key_may_come_from_two_levels(show: Any) -> None:
    Identity.generate().save("one.pem")
    file = 'tls_cert_file = "one.pem"\nidentity = "x.pem"\n'  # which contradicted itself, if the flag were not there
    settings = show("--realm", "a", "--tls-key-file", "one.pem", file=file).settings()
    assert settings["tls_cert_file"] == ("one.pem", "node.toml:1")
    assert settings["tls_key_file"] == ("one.pem", "flag --tls-key-file")
    assert settings["identity"] == (None, "default")


def test_a_passphrase_opens_the_key_of_its_own_level(show: Any) -> None:
    Identity.generate().save("mine.pem", password=b"a secret")
    Path("secret").write_text("a secret\n")
    file = 'identity = "mine.pem"\nkey_passphrase_file = "secret"\n'
    shown = show("--realm", "a", file=file)
    assert shown.settings()["key_passphrase_file"] == ("secret", "node.toml:2")
    assert "a secret" not in shown.out
    assert show("--realm", "a", "--key-passphrase-file", "secret", file='identity = "mine.pem"\n').code == 0
    Path("secret").write_text("another\n")
    assert "wrong password" in show("--realm", "a", file=file).err


def test_a_key_that_is_encrypted_is_not_asked_about(show: Any) -> None:
    Identity.generate().save("mine.pem", password=b"a secret")
    assert show("--realm", "a", "--identity", "mine.pem").code == 0


# -- complaints ----------------------------------------------------------------------------------------------------

REALM: Final = 'realm = "a"\n'
BAD_FILES: Final = [
    ('realm = "a"\n\n\nbootstap = []\n', "node.toml:4: unknown key 'bootstap'; did you mean 'bootstrap'?"),
    (f"{REALM}keepalive-s = 1\n", "node.toml:2: unknown key 'keepalive-s'; did you mean 'keepalive_s'?"),
    (f"{REALM}xyzzy = 1\n", "node.toml:2: unknown key 'xyzzy'"),
    (f"{REALM}[node]\nlisten = 1\n", "node.toml:2: unknown table 'node'; settings stand at the top level"),
    (f"{REALM}[[listen]]\n", "node.toml:2: listen: a table, where a value is expected; write listen = VALUE"),
    (f'{REALM}\nkeepalive_s = "ten"\n', "node.toml:3: keepalive_s: 'ten' is not a number above 0"),
    (f"{REALM}keepalive_s = true\n", "node.toml:2: keepalive_s: True is not a number above 0"),
    (f"{REALM}keepalive_s = nan\n", "node.toml:2: keepalive_s: nan is not a number above 0"),
    (f"{REALM}keepalive_s = 1e300\n", "node.toml:2: keepalive_s: 1e+300 is more than a year"),
    (f"{REALM}keepalive_s = 1979-05-27\n", "node.toml:2: keepalive_s: datetime.date(1979, 5, 27) is not a number"),
    (f"{REALM}listen = 9443\n", "node.toml:2: listen: 9443 is not a text"),
    ("realm = 5\n", "node.toml:1: realm: 5 is not a text"),
    ('realm = "two words"\n', "node.toml:1: realm: realm 'two words' is not valid"),
    (f'{REALM}bootstrap = "a:1"\n', "node.toml:2: bootstrap: 'a:1' is one text; write a list of endpoints: ['a:1']"),
    (f"{REALM}bootstrap = [1]\n", "node.toml:2: bootstrap: 1 is not a text"),
    (f'{REALM}role = "king"\n', "node.toml:2: role: 'king' is not one of bootstrap, gateway, edge"),
    (f'{REALM}trust = "nobody"\n', "node.toml:2: trust: 'nobody' is not one of open, realm:CA.pem"),
    (f"{REALM}trust = 1\n", "node.toml:2: trust: 1 is not one of open, realm:CA.pem"),
    (f'{REALM}trust = "realm:no.pem"\n', "node.toml:2: trust: trust file no.pem: cannot be read"),
    (f'{REALM}identity = "."\n', "identity .: cannot be read: Is a directory"),
    (f'{REALM}identity = ""\n', "node.toml:2: identity: an empty path"),
    (f"{REALM}identity = 1\n", "node.toml:2: identity: 1 is not the path of a file"),
    (f'{REALM}name = ""\n', "node.toml:2: name: '' is not a name of printable characters"),
    (f'{REALM}name = "\\u001b[31m"\n', "node.toml:2: name: '\\x1b[31m' is not a name"),
    (f"{REALM}timeout = 0\n", "node.toml:2: timeout: 0 is not a number of seconds above 0, at most 300"),
    (f"{REALM}timeout = true\n", "node.toml:2: timeout: True is not a number of seconds"),
    (f"{REALM}health = 8080\n", "node.toml:2: health: 8080 is not HOST:PORT, such as 127.0.0.1:8080"),
    (f'{REALM}health = "here"\n', "node.toml:2: health: endpoint 'here' is not HOST:PORT"),
    (f'{REALM}leaf = "no"\n', "node.toml:2: leaf: 'no' is not True or False"),
    (f"{REALM}may_publish = 1\n", "node.toml:2: may_publish: 1 is not a list of node ids"),
    (f'{REALM}may_publish = ["ab"]\n', "node.toml:2: may_publish: a node id has 64 hexadecimal digits, not 2"),
    (f"{REALM}may_publish = [1]\n", "node.toml:2: may_publish: 1 is not a node id"),
    # what contradicts itself
    (f'{REALM}leaf = true\nrole = "gateway"\n', "node.toml:2: leaf: True contradicts role 'gateway'"),
    (f"{REALM}handlers_max = 1\nhandlers_per_caller_max = 2\n", "node.toml:3: handlers_per_caller_max: 2 is above"),
    (f"{REALM}call_timeout_default_s = 400\n", "node.toml:2: call_timeout_default_s: 400 is above call_timeout_max_s"),
    (
        f'{REALM}identity = "a"\ntls_cert_file = "b"\n',
        "node.toml:3: tls_cert_file: contradicts node.toml:2: a node has one identity; leave out identity, or",
    ),
    (f'{REALM}tls_key_file = "b"\n', "node.toml:2: tls_key_file: without tls_cert_file; a certificate and its key go"),
    ("", "no realm: give --realm NAME, MACULA_REALM in the environment, or realm = "),
]


@pytest.mark.parametrize(("file", "complaint"), BAD_FILES, ids=[complaint[:50] for _, complaint in BAD_FILES])
def test_a_bad_file_is_one_line_with_its_place(show: Any, file: str, complaint: str) -> None:
    shown = show(file=file)
    assert (shown.code, shown.out) == (2, "")
    assert shown.err.count("\n") == 1
    assert complaint in shown.err
    assert [path.name for path in Path().iterdir()] == ["node.toml"]


BAD_ENVIRONMENTS: Final = [
    ({"MACULA_LISTEN": "here"}, "environment MACULA_LISTEN: endpoint 'here' is not HOST:PORT"),
    ({"MACULA_KEEPALIVE_S": "ten"}, "environment MACULA_KEEPALIVE_S: 'ten' is not a number above 0"),
    ({"MACULA_KEEPALIVE_S": "9" * 5000}, "environment MACULA_KEEPALIVE_S: inf is not a number above 0"),
    ({"MACULA_HANDLERS_MAX": "1.5"}, "environment MACULA_HANDLERS_MAX: 1.5 is not a whole number above 0"),
    ({"MACULA_LEAF": "maybe"}, "environment MACULA_LEAF: 'maybe' is not True or False"),
    ({"MACULA_HEALTH": "127.0.0.1:x"}, "environment MACULA_HEALTH: endpoint '127.0.0.1:x': port 'x'"),
    ({"HEALTH_PORT": "127.0.0.1:1"}, "environment HEALTH_PORT: '127.0.0.1:1' is not a port"),
    (
        {"HEALTH_PORT": "1", "MACULA_HEALTH": "127.0.0.1:2"},
        "environment HEALTH_PORT: '0.0.0.0:1' contradicts environment MACULA_HEALTH, which says '127.0.0.1:2'; unset",
    ),
    ({"GATEWAY_PORT": "tcp://10.0.0.1:9443"}, "environment GATEWAY_PORT: 'tcp://10.0.0.1:9443' is not a port"),
    ({"GATEWAY_PORT": "65536"}, "environment GATEWAY_PORT: '65536' is not a port"),
    ({"BOOTSTRAP_NODES": "nowhere"}, "environment BOOTSTRAP_NODES: endpoint 'nowhere' is not HOST:PORT"),
    ({"MACULA_BOOTSTRAP": "a:1", "BOOTSTRAP_NODES": "b:1"}, "environment BOOTSTRAP_NODES: ['b:1'] contradicts"),
    (
        {"GATEWAY_PORT": "1", "MACULA_LISTEN": "127.0.0.1:2"},
        "environment GATEWAY_PORT: '0.0.0.0:1' contradicts environment MACULA_LISTEN, which says '127.0.0.1:2'; unset",
    ),
    (
        {"MODE": "hybrid", "MACULA_ROLE": "edge"},
        "environment MODE: 'gateway' contradicts environment MACULA_ROLE, which says 'edge'; unset one of them",
    ),
    ({"TLS_CERT_FILE": "a"}, "environment TLS_CERT_FILE: without tls_key_file"),
    (
        {"TLS_CERT_FILE": "a", "TLS_KEY_FILE": "a", "MACULA_TLS_KEY_FILE": "b"},
        "environment TLS_KEY_FILE: 'a' contradicts",
    ),
    ({"TLS_CERT_FILE": "a", "MACULA_IDENTITY": "b"}, "environment TLS_CERT_FILE: contradicts environment MACULA_IDEN"),
    ({"TLS_CERT_FILE": "no-such", "TLS_KEY_FILE": "no-such"}, "private key no-such: no such file; name a PEM file"),
    ({"MACULA_REALM": "two words"}, "environment MACULA_REALM: realm 'two words' is not valid"),
]


@pytest.mark.parametrize(("variables", "complaint"), BAD_ENVIRONMENTS, ids=[text[:50] for _, text in BAD_ENVIRONMENTS])
def test_a_bad_environment_is_one_line_with_the_variable(show: Any, variables: dict[str, str], complaint: str) -> None:
    shown = show(**{"MACULA_REALM": "a"} | variables)
    assert (shown.code, shown.out) == (2, "")
    assert shown.err.count("\n") == 1
    assert complaint in shown.err


def test_two_variables_that_say_the_same_do_not_contradict(show: Any) -> None:
    settings = show("--realm", "a", GATEWAY_PORT="2", MACULA_LISTEN="127.0.0.1:2", MODE="edge", MACULA_ROLE="edge")
    assert settings.settings()["listen"] == ("127.0.0.1:2", "environment MACULA_LISTEN")


def test_a_higher_level_overrides_what_is_not_right_below(show: Any) -> None:
    settings = show("--realm", "a", "--listen", "127.0.0.1:1", file="listen = 5\n", GATEWAY_PORT="1", MACULA_LISTEN="2")
    assert settings.settings()["listen"] == ("127.0.0.1:1", "flag --listen")


def test_a_certificate_that_is_for_another_key_is_named_with_both_files(show: Any) -> None:
    Identity.generate().save("one.pem")
    Identity.generate().save("two.pem")
    shown = show("--realm", "a", TLS_CERT_FILE="one.pem", TLS_KEY_FILE="two.pem")
    assert shown.code == 2
    assert "certificate one.pem and key two.pem: the first certificate is not for this private key" in shown.err


def test_it_makes_no_key_file_and_binds_nothing(show: Any) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        assert show("--realm", "a", "--identity", "new.pem", "--listen", listen).code == 0
    assert list(Path().iterdir()) == []


# -- one-shot commands ---------------------------------------------------------------------------------------------


def settled_session(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> options.Session:
    """What `call` would join with."""
    seen: list[options.Session] = []

    def keep(_self: options.Session) -> Identity:
        seen.append(_self)
        raise ValueError("that is enough")

    monkeypatch.setattr(options.Session, "load_identity", keep)
    assert main(["call", "math.add", "{}", *arguments]) != 0
    return seen[0]


def test_one_shot_commands_take_what_concerns_them_from_the_file_of_a_node(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("node.toml").write_text(
        'realm = "a"\nlisten = "127.0.0.1:1"\nbootstrap = ["127.0.0.1:9"]\nidentity = "x.pem"\ntimeout = 2\n'
    )
    monkeypatch.setenv("MACULA_TIMEOUT", "3")
    monkeypatch.setenv("MODE", "bootstrap")
    session = settled_session(monkeypatch, "--config", "node.toml", "--realm", "b")
    assert (session.realm, session.bootstrap, session.timeout_s) == ("b", ("127.0.0.1:9",), 3)
    assert session.keys.identity == "x.pem"


def test_one_shot_commands_say_the_three_ways_to_name_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["call", "math.add", "{}"]) == 2
    assert (
        "no bootstrap: give --bootstrap HOST:PORT, MACULA_BOOTSTRAP or BOOTSTRAP_NODES in the environment, "
        'or bootstrap = ["127.0.0.1:9443"] in the file of --config FILE'
    ) in capsys.readouterr().err
    assert main(["ping", "127.0.0.1:9"]) == 2
    assert (
        "no realm: give --realm NAME, MACULA_REALM in the environment, "
        'or realm = "org.example.home" in the file of --config FILE'
    ) in capsys.readouterr().err


def test_what_only_nodes_use_is_not_judged_by_one_shot_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("node.toml").write_text('realm = "a"\nbootstrap = ["127.0.0.1:9"]\nkeepalive_s = "ten"\n')
    monkeypatch.setenv("GATEWAY_PORT", "none")
    assert settled_session(monkeypatch, "--config", "node.toml").realm == "a"


# -- the pure part -------------------------------------------------------------------------------------------------


def test_nothing_told_is_all_defaults() -> None:
    for settings in (NODE_SETTINGS, ONE_SHOT_SETTINGS):
        environment, warnings = environment_level(settings, {})
        settled = settle(settings, [flag_level(settings, {}), environment])
        assert (settled.told, warnings) == ({}, [])
        assert settled.values == {setting.name: setting.default for setting in settings}

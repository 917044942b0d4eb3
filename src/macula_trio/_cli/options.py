"""Options that several commands share, each read and judged in one place: a bad value is wrong usage (exit code 2)."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeAlias

import attrs
import click

from macula_trio import Identity, MeshError, NodeConfig, NodeId, Trust, dht_key
from macula_trio._cli.passphrases import key_passphrase, key_passphrase_option
from macula_trio._identity.authority import alternative_name
from macula_trio._identity.trust import TrustJudge
from macula_trio._identity.trust_file import load_trust
from macula_trio._ids import ID_BYTES
from macula_trio._util import Address, parse_bootstrap, parse_endpoint, validate_name

Command: TypeAlias = Callable[..., Any]

TRUST_FORMS: Final = "open, realm:CA.pem, only:ID,... or only:@FILE, pinned:SHA256,... or pinned:@FILE, unverified"
TIMEOUT_S: Final = 5.0  # that of a call in v0.8
SHOWN_MAX: Final = 40  # characters of a bad value in a complaint
TIMEOUT_MAX_S: Final = 300.0  # NodeConfig.call_timeout_max_s: a handler gets no more


class _Judged(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on only
    """A parameter that a function reads; its ValueError or MeshError is the complaint."""

    def __init__(self, name: str, read: Callable[[str], object]) -> None:
        self.name = name
        self._read = read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value  # a default, or converted before
        try:
            return self._read(value)
        except (ValueError, MeshError) as exc:
            self.fail(str(exc), param, ctx)


def read_json(text: str) -> object:
    """Read a JSON argument.

    Raises:
      ValueError: not JSON; one line with the place and the mend.
    """
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as exc:
        reason = "nested too deeply" if isinstance(exc, RecursionError) else exc
        raise ValueError(f"""{_cut(text)} is not JSON ({reason}); quote it for the shell, as '{{"a": 2}}'""") from None


def read_value(text: str) -> dict[str, object]:
    """Read what to keep in the DHT: a JSON object as it is, anything else under the name ``value``."""
    try:
        value = read_json(text)
    except ValueError:
        value = text
    return value if isinstance(value, dict) else {"value": value}


def read_key(text: str) -> bytes:
    """Read a DHT key: 64 hexadecimal digits, or a name, whose SHA-256 it is (``name:`` in front says so)."""
    if len(text) == 2 * ID_BYTES:
        try:
            return bytes.fromhex(text)
        except ValueError:
            pass  # a name that happens to be as long
    name = text.removeprefix("name:")
    if not name:
        raise ValueError("an empty name; give 64 hexadecimal digits or a name such as sensors.kitchen")
    return dht_key(name)


def read_trust(text: str) -> Trust:
    """Read a trust policy, and the file that it names to see that it can be used.

    Raises:
      ValueError: no such policy, or malformed.
      TrustError: its file cannot be read or used.
    """
    trust = _read_policy(text)
    TrustJudge(load_trust(trust), realm="")
    return trust


def _read_policy(text: str) -> Trust:
    """Its name, and behind a colon the file or list that it wants."""
    kind, colon, rest = text.partition(":")
    if colon and not rest:
        raise ValueError(f"{_cut(text)}: behind the colon there is nothing")
    if kind == "realm" and rest:
        return Trust.realm(Path(rest))
    if kind == "only" and rest:
        return Trust.only(Path(rest[1:]) if rest.startswith("@") else map(NodeId.from_hex, rest.split(",")))
    if kind == "pinned" and rest:
        return Trust.pinned(Path(rest[1:]) if rest.startswith("@") else rest.split(","))
    if text == "open":
        return Trust.open()
    if text == "unverified":
        return Trust.unverified()
    raise ValueError(f"{_cut(text)} is not one of {TRUST_FORMS}")


def _read_seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds <= TIMEOUT_MAX_S:
        raise ValueError(f"{_cut(text)} is not a number of seconds above 0, at most {TIMEOUT_MAX_S:g}")
    return seconds


def _read_bootstrap(text: str) -> str:
    parse_bootstrap(text)
    return text


def _read_name(what: str) -> Callable[[str], str]:
    return functools.partial(validate_name, what=what)


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not a number of JSON")


def _cut(text: str) -> str:
    return repr(text if len(text) <= SHOWN_MAX else f"{text[:SHOWN_MAX]}...")


JSON: Final = _Judged("json", read_json)
VALUE: Final = _Judged("value", read_value)
KEY: Final = _Judged("key", read_key)
PEER: Final = _Judged("host:port", parse_endpoint)
PROCEDURE: Final = _Judged("procedure", _read_name("procedure"))
TOPIC: Final = _Judged("topic", _read_name("topic"))
ALTERNATIVE_NAME: Final = _Judged("dns-or-ip", alternative_name)
_BOOTSTRAP: Final = _Judged("host:port", _read_bootstrap)
_TRUST: Final = _Judged("policy", read_trust)
_SECONDS: Final = _Judged("seconds", _read_seconds)


@contextmanager
def wrong_usage() -> Generator[None, None, None]:
    """Turn a complaint about what was asked into exit code 2."""
    try:
        yield
    except (ValueError, MeshError) as exc:
        raise click.UsageError(str(exc)) from exc


@attrs.frozen(kw_only=True)
class Session:
    """How a one-shot command takes part in the mesh.

    Attributes:
      bootstrap: nodes to join by; empty for commands that dial one node themselves.
      realm: name of the mesh.
      identity: key file, or None for a new identity.
      password: of the key file, if it is encrypted.
      trust: whom to talk to.
      timeout_s: for joining and what comes after, together.
    """

    bootstrap: tuple[str, ...]
    realm: str
    identity: str | None
    password: bytes | None = attrs.field(repr=False)
    trust: Trust
    timeout_s: float

    def load_identity(self) -> Identity:
        """Read the key file, or make a new identity."""
        with wrong_usage():
            return (
                Identity.generate() if self.identity is None else Identity.load(self.identity, password=self.password)
            )

    def config(self, *, peers: Sequence[Address]) -> NodeConfig:
        """Describe a client of one command's life, on any free port.

        Args:
          peers: numeric; those whom it will dial, which decide whether IPv4 will do.
        """
        with wrong_usage():
            return NodeConfig(
                realm=self.realm,
                listen="[::]:0" if any(":" in host for host, _ in peers) else "0.0.0.0:0",
                bootstrap=self.bootstrap,
                trust=self.trust,
                leaf=True,
                require_bootstrap=True,
                join_deadline_s=self.timeout_s,
                dial_deadline_s=self.timeout_s,
            )


def bootstrap_option(*, required: bool) -> Callable[[Command], Command]:
    """``--bootstrap``, as often as wanted."""
    return click.option(
        "--bootstrap",
        type=_BOOTSTRAP,
        multiple=True,
        required=required,
        help="A node to join by, HOST:PORT or NODEID@HOST:PORT; may be repeated.",
    )


realm_option: Final = click.option("--realm", required=True, metavar="NAME", help="Name of the mesh.")
trust_option: Final = click.option(
    "--trust",
    type=_TRUST,
    metavar="POLICY",
    default="open",
    show_default=True,
    help="Whom to talk to: open (all that prove their keys), realm:CA.pem, only:ID,ID or only:@FILE, "
    "pinned:FINGERPRINT,... or pinned:@FILE, unverified (also those that prove nothing, as in v0.8).",
)
json_option: Final = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")


def one_shot(*, bootstrap: bool = True) -> Callable[[Command], Command]:
    """Options of a command that joins, does one thing and leaves; the command gets a ``session`` and ``as_json``."""

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def packed(
            *,
            realm: str,
            identity: str | None,
            key_passphrase_file: str | None,
            trust: Trust,
            timeout: float,
            bootstrap: tuple[str, ...] = (),
            **rest: Any,
        ) -> Any:
            session = Session(
                bootstrap=bootstrap,
                realm=realm,
                identity=identity,
                # Asked for now: in Trio's loop, which takes the signals, nobody could interrupt the prompt.
                password=key_passphrase(identity, key_passphrase_file),
                trust=trust,
                timeout_s=timeout,
            )
            return command(session=session, **rest)

        options = [
            *([bootstrap_option(required=True)] if bootstrap else []),
            realm_option,
            click.option("--identity", metavar="FILE", help="Key file; a new identity by default."),
            key_passphrase_option,
            trust_option,
            click.option(
                "--timeout",
                type=_SECONDS,
                default=TIMEOUT_S,
                show_default=True,
                metavar="SECONDS",
                help="For everything, joining included.",
            ),
            json_option,
        ]
        return functools.reduce(lambda made, option: option(made), reversed(options), packed)

    return decorate

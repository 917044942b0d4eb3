"""Options that several commands share, each read and judged in one place: a bad value is wrong usage (exit code 2)."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeAlias

import attrs
import click

from macula_trio import Identity, MeshError, NodeConfig, Trust, TrustError, dht_key
from macula_trio._cli.identities import KeyFiles, key_files
from macula_trio._cli.levels import Settled, environment_level, file_level, flag_level, settle, unknown_variables
from macula_trio._cli.output import note
from macula_trio._cli.passphrases import CA as CA_PASSPHRASE
from macula_trio._cli.passphrases import KEY as KEY_PASSPHRASE
from macula_trio._cli.settings import ONE_SHOT_SETTINGS, Setting
from macula_trio._cli.toml_file import load_toml
from macula_trio._identity.authority import alternative_name
from macula_trio._identity.trust import TrustJudge
from macula_trio._identity.trust_file import load_trust
from macula_trio._ids import ID_BYTES
from macula_trio._pubsub.topics import validate_pattern
from macula_trio._util import Address, parse_endpoint, validate_name

Command: TypeAlias = Callable[..., Any]

SHOWN_MAX: Final = 40  # characters of a bad value in a complaint
# Known, though they are no settings: secrets, and the seed of the pytest plugin.
OTHER_VARIABLES: Final = (KEY_PASSPHRASE.variable, CA_PASSPHRASE.variable, "MACULA_SEED")


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
PATTERN: Final = _Judged("pattern", validate_pattern)
ALTERNATIVE_NAME: Final = _Judged("dns-or-ip", alternative_name)


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
      keys: where its identity is; a new one when there is no file.
      trust: whom to talk to.
      timeout_s: for joining and what comes after, together.
    """

    bootstrap: tuple[str, ...]
    realm: str
    keys: KeyFiles
    trust: Trust
    timeout_s: float

    def load_identity(self) -> Identity:
        """Read the key file, or make a new identity."""
        with wrong_usage():
            return self.keys.load(create=False)

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


json_option: Final = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
_config_option: Final = click.option(
    "--config", "config_file", metavar="FILE", help="Settings in TOML; flags and the environment override them."
)


def settled_by(settings: Iterable[Setting]) -> Callable[[Command], Command]:
    """Options for settings, and ``--config``; the command gets what is settled by them as ``settled``."""
    chosen = tuple(settings)

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def packed(*, config_file: str | None, **rest: Any) -> Any:
            given = {setting.name: rest.pop(setting.name) for setting in chosen if setting.flag is not None}
            with wrong_usage():
                settled = _settle(chosen, given, config_file)
            return command(settled=settled, **rest)

        options = [_flag(setting, setting.flag) for setting in chosen if setting.flag is not None]
        decorated: Any = packed
        for option in reversed([*options, _config_option]):
            decorated = option(decorated)
        wrapped: Command = decorated
        return wrapped

    return decorate


def _flag(setting: Setting, flag: str) -> Callable[[Command], Command]:
    default = "" if setting.many or setting.default is None else f"  [default: {setting.default_text}]"
    return click.option(
        flag,
        setting.name,
        metavar=setting.metavar,
        multiple=setting.many,
        help=f"{setting.help}{default}",
    )


def _settle(settings: Sequence[Setting], given: Mapping[str, Any], config_file: str | None) -> Settled:
    """Read the environment and the file, say what is odd about them, and settle.

    Raises:
      click.UsageError: the file is of no use.
      ValueError: what counts is not valid; one line that says where.
      TrustError: the file of the trust policy cannot be used.
    """
    environment, warnings = environment_level(settings, os.environ)
    for warning in (*warnings, *unknown_variables(os.environ, others=OTHER_VARIABLES)):
        note(f"warning: {warning}")
    levels = [flag_level(settings, given), environment]
    if config_file is not None:
        file = load_toml(config_file)
        levels.append(file_level(settings, file.values, place=file.place, base=file.base))
    settled = settle(settings, levels)
    try:
        TrustJudge(load_trust(settled["trust"]), realm="")
    except TrustError as exc:
        raise settled.complaint("trust", str(exc)) from exc
    return settled


def one_shot(*, bootstrap: bool = True) -> Callable[[Command], Command]:
    """Options of a command that joins, does one thing and leaves; the command gets a ``session`` and ``as_json``."""
    settings = [setting for setting in ONE_SHOT_SETTINGS if bootstrap or setting.name != "bootstrap"]

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def packed(*, settled: Settled, **rest: Any) -> Any:
            with wrong_usage():
                if bootstrap:
                    settled.need("bootstrap")
                settled.need("realm")
                # The passphrase is asked for now: in Trio's loop, which takes the signals, nobody could interrupt it.
                session = Session(
                    bootstrap=settled["bootstrap"] if bootstrap else (),
                    realm=settled["realm"],
                    keys=key_files(settled),
                    trust=settled["trust"],
                    timeout_s=settled["timeout"],
                )
            return command(session=session, **rest)

        return settled_by(settings)(json_option(packed))

    return decorate

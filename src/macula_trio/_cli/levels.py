"""What flags, environment and file say, and which of it counts: the highest level that says something.

Pure.  Values are read only once it is clear that they count: what a higher level overrides need not be right.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any, Final, TypeAlias

import attrs

from macula_trio import MeshError, NodeConfig
from macula_trio._cli.settings import BY_NAME, PREFIX, SETTINGS, Setting
from macula_trio._cli.values import BASE_HERE, brief
from macula_trio._util import shown

Level: TypeAlias = "Mapping[str, Told]"
"""What flags, the environment or the file say: names of settings and what was told."""

WORD_CHARS_MAX: Final = 64  # of a wrong name that is compared with the right ones; theirs are shorter
_IDENTITY, _CERTIFICATE, _KEY, _UNLOCK = "identity", "tls_cert_file", "tls_key_file", "key_passphrase_file"
_WHO: Final = (_IDENTITY, _CERTIFICATE, _KEY)  # two ways to say who we are, which exclude each other


@attrs.frozen(kw_only=True)
class Told:
    """What one level says about one setting, and where.

    Attributes:
      setting: which.
      origin: ``flag --listen``, ``environment GATEWAY_PORT`` or ``node.toml:3``.
      label: the same in front of a complaint.
      read: gives the value.
      rival: what another variable of the same level says, which may not contradict.
      same: by which that is judged.
    """

    setting: Setting
    origin: str
    label: str
    read: Callable[[], object]
    rival: Told | None = None
    same: Callable[[Any, Any], bool] | None = None

    def value(self) -> object:
        """Read and judge it.

        Raises:
          ValueError: it is not valid, or contradicted; one line that says where.
        """
        try:
            value = self.setting.judge(self.read())
        except (ValueError, MeshError) as exc:
            raise ValueError(f"{self.label}: {str(exc).removeprefix(f'{self.setting.name}: ')}") from exc
        if self.rival is not None and self.same is not None:
            other = self.rival.value()
            if not self.same(value, other):
                raise ValueError(
                    f"{self.rival.label}: {brief(other)} contradicts {self.origin}, which says {brief(value)}; "
                    "unset one of them"
                )
        return value


@attrs.frozen
class Settled:
    """The values that count, and where each comes from.

    Attributes:
      values: by name.
      told: who said so; defaults are not in it.
    """

    values: Mapping[str, Any]
    told: Level

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def origin(self, name: str) -> str:
        """Where a value comes from."""
        return self.told[name].origin if name in self.told else "default"

    def complaint(self, name: str, text: str) -> ValueError:
        """A complaint about a setting that says where it was told."""
        told = self.told.get(name)
        return ValueError(text if told is None else f"{told.label}: {text}")

    def fields(self) -> dict[str, Any]:
        """What was told of the fields of `NodeConfig`."""
        return {name: self.values[name] for name in self.told if name in attrs.fields_dict(NodeConfig)}

    def config(self) -> NodeConfig:
        """The configuration of a node.

        Raises:
          ValueError: there is no realm, or fields contradict each other; one line that says where.
        """
        self.need("realm")
        try:
            return NodeConfig(**self.fields())
        except ValueError as exc:
            name, _, text = str(exc).partition(": ")
            raise (self.complaint(name, text) if name in self.told else exc) from None

    def need(self, name: str) -> None:
        """Complain when nobody has told a setting that has no default.

        Raises:
          ValueError: so it is; one line with every way to tell it.
        """
        if self.values[name]:
            return
        setting = BY_NAME[name]
        old = f" or {setting.old.name}" if setting.old is not None else ""
        example = '["127.0.0.1:9443"]' if setting.many else '"org.example.home"'
        raise ValueError(
            f"no {name}: give {setting.flag} {setting.metavar}, {setting.variable}{old} in the environment, "
            f"or {name} = {example} in the file of --config FILE"
        )


def settle(settings: Iterable[Setting], levels: Sequence[Level]) -> Settled:
    """Choose for each setting the highest level that says something, and read it.

    Args:
      settings: the ones that matter here.
      levels: the highest first.

    Raises:
      ValueError: what counts is not valid, or contradicts itself within its level; one line that says where.
    """
    told: dict[str, Told] = {}
    names = [setting.name for setting in settings]
    for level in levels:
        # A passphrase is for the key that its own level names, or a lower one: never for one that replaced that.
        alone = {name for name in names if name not in _WHO and (name != _UNLOCK or not _has_key(told))}
        if any(name in level for name in _WHO):
            _choose_who(level, told)
        told |= {name: level[name] for name in names if name in alone and name in level and name not in told}
    for given, missing in ((_CERTIFICATE, _KEY), (_KEY, _CERTIFICATE)):
        if given in told and missing not in told:
            raise ValueError(f"{told[given].label}: without {missing}; a certificate and its key go together")
    values: dict[str, object] = {setting.name: setting.default for setting in BY_NAME.values() if setting.name in names}
    for name in names:  # in their order, so that the same mistake is named first each time
        if name in told:
            values[name] = told[name].value()
    return Settled(values, told)


def _has_key(told: Level) -> bool:
    return _IDENTITY in told or _KEY in told


def _choose_who(level: Level, told: dict[str, Told]) -> None:
    """Who we are, is told by a key file or by a certificate and its key: the highest level decides which."""
    if _IDENTITY in told:
        return
    pair = [name for name in (_CERTIFICATE, _KEY) if name in level]
    if _IDENTITY in level and not (_CERTIFICATE in told or _KEY in told):
        if pair:
            raise ValueError(
                f"{level[pair[0]].label}: contradicts {level[_IDENTITY].origin}: a node has one identity; "
                f"leave out {_IDENTITY}, or {_CERTIFICATE} and {_KEY}"
            )
        told[_IDENTITY] = level[_IDENTITY]
        return
    for name in pair:
        told.setdefault(name, level[name])


def flag_level(settings: Iterable[Setting], given: Mapping[str, Any]) -> Level:
    """What flags say; one that was not given is None, or empty if it may be repeated."""
    told: dict[str, Told] = {}
    for setting in settings:
        value = given.get(setting.name)
        if setting.flag is None or value is None or value == ():
            continue
        read = setting.toml if setting.many else setting.text
        told[setting.name] = Told(
            setting=setting,
            origin=f"flag {setting.flag}",
            label=setting.flag,
            read=_reader(read, list(value) if setting.many else value, BASE_HERE),
        )
    return told


def environment_level(settings: Iterable[Setting], environment: Mapping[str, str]) -> tuple[Level, list[str]]:
    """What the environment says, and warnings; a variable that is empty is not set, as Compose leaves it."""
    told: dict[str, Told] = {}
    warnings: list[str] = []
    for setting in settings:
        own = _from_variable(setting, setting.variable, environment, setting.own)
        old = None
        if setting.old is not None:
            text = environment.get(setting.old.name, "")
            passed_over = setting.old.passed_over(text) if text else None
            if passed_over is not None:
                warnings.append(f"environment {setting.old.name}: {passed_over}")
            else:
                old = _from_variable(setting, setting.old.name, environment, setting.old.read)
        if own is not None and old is not None and setting.old is not None:
            told[setting.name] = attrs.evolve(own, rival=old, same=setting.old.same)
        elif own is not None or old is not None:
            chosen = own or old
            assert chosen is not None
            told[setting.name] = chosen
    return told, warnings


def unknown_variables(environment: Iterable[str], *, others: Iterable[str]) -> list[str]:
    """Warnings about variables that look like ours and are not.

    Never errors: Macula itself, its tools and versions of this library that are still to come set MACULA_ variables as
    well, and a node must start though somebody else's is there.

    Args:
      environment: names of variables.
      others: names that other parts of this library know.
    """
    known = {setting.variable for setting in SETTINGS} | {*others}
    unknown = sorted(name for name in environment if name.startswith(PREFIX) and name not in known)
    rests = [name.removeprefix(PREFIX) for name in known]  # by the prefix alone, every name would be near
    return [
        f"environment {name}: not a setting, and passed over"
        f"{did_you_mean(name.removeprefix(PREFIX), rests, before=PREFIX)}"
        for name in unknown
    ]


def file_level(
    settings: Iterable[Setting], values: Mapping[str, object], *, place: Callable[[str], str], base: PurePath
) -> Level:
    """What the file says.

    Args:
      settings: the ones that matter here.
      values: of its keys.
      place: where a key is, such as ``node.toml:3``.
      base: what relative paths start from.

    Raises:
      ValueError: a key that is no setting; one line that says where.
    """
    for key, value in values.items():
        if key not in BY_NAME:
            if _is_table(value):
                raise ValueError(
                    f"{place(key)}: unknown table {shown(key)}; settings stand at the top level, without [tables]"
                )
            raise ValueError(f"{place(key)}: unknown key {shown(key)}{did_you_mean(key, BY_NAME)}")
        if _is_table(value):
            raise ValueError(f"{place(key)}: {key}: a table, where a value is expected; write {key} = VALUE")
    told: dict[str, Told] = {}
    for setting in settings:
        if setting.name not in values:
            continue
        where = place(setting.name)
        told[setting.name] = Told(
            setting=setting,
            origin=where,
            label=f"{where}: {setting.name}",
            read=_reader(setting.toml, values[setting.name], base),
        )
    return told


def did_you_mean(word: str, words: Iterable[str], *, before: str = "") -> str:
    """The nearest right spelling of a wrong name, as the end of a complaint; empty when none is near.

    Args:
      word: the wrong one.
      words: the right ones.
      before: what is put in front of the right one.
    """
    near = difflib.get_close_matches(word[:WORD_CHARS_MAX].replace("-", "_"), sorted(words), n=1)
    return f"; did you mean {before + near[0]!r}?" if near else ""


def _is_table(value: object) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and any(isinstance(item, dict) for item in value))


def _reader(read: Callable[[Any, PurePath], object], value: object, base: PurePath) -> Callable[[], object]:
    return lambda: read(value, base)


def _from_variable(
    setting: Setting, name: str, environment: Mapping[str, str], read: Callable[[str], object]
) -> Told | None:
    text = environment.get(name)
    if not text:
        return None
    return Told(setting=setting, origin=f"environment {name}", label=f"environment {name}", read=lambda: read(text))

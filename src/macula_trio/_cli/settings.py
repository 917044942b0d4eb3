"""Every setting of a node and of the one-shot commands, in one table.

Pure.  Flags, variables, keys of the file, ``config show`` and the table of docs/how-to/configure-a-node.md follow from
`SETTINGS`; `macula_trio._cli.levels` makes one configuration of what flags, environment and file say.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePath
from typing import Any, Final

import attrs

from macula_trio import NodeConfig, Trust
from macula_trio._cli.values import (
    BASE_HERE,
    as_it_is,
    plain_text,
    read_bool,
    read_http,
    read_list,
    read_name,
    read_number,
    read_old_port,
    read_path,
    read_publishers,
    read_seconds,
    read_trust_value,
    same_port,
)
from macula_trio._config import ROLES
from macula_trio._util import shown

PREFIX: Final = "MACULA_"
TIMEOUT_S: Final = 5.0  # that of a call in v0.8
_OLD_MODES: Final[dict[str, str]] = {**{role: role for role in ROLES}, "hybrid": "gateway"}


@attrs.frozen(kw_only=True)
class OldVariable:
    """A variable of v0.8's for a setting.

    Attributes:
      name: of the variable.
      read: gives the setting's value.
      same: whether it says the same as the setting's own variable.
      passed_over: why a value is not for us, as a warning; None when it is.
    """

    name: str
    read: Callable[[str], object]
    same: Callable[[Any, Any], bool] = lambda own, old: bool(own == old)
    passed_over: Callable[[str], str | None] = lambda _: None


@attrs.frozen(kw_only=True)
class Setting:
    """One setting.

    Attributes:
      name: the key in the file; its variable is ``MACULA_`` and the name in upper case.
      help: one line for people.
      default: the value when nobody says anything.
      default_text: the same for people.
      flag: of the command line; None for what is set rarely, and so by file or environment.
      metavar: what stands behind the flag.
      many: whether the flag may be repeated.
      one_shot: whether one-shot commands obey it.
      of_node: whether nodes do.
      text: reads what the environment or a flag says; the path is what relative ones start from.
      toml: reads what the file says, likewise.
      old: v0.8's variable.
    """

    name: str
    help: str
    default: object
    default_text: str
    flag: str | None = None
    metavar: str | None = None
    many: bool = False
    one_shot: bool = False
    of_node: bool = True
    text: Callable[[str, PurePath], object]
    toml: Callable[[object, PurePath], object]
    old: OldVariable | None = None

    @property
    def variable(self) -> str:
        """Of the environment."""
        return f"{PREFIX}{self.name.upper()}"

    def own(self, text: str) -> object:
        """Read what its own variable says.

        Raises:
          ValueError: it is malformed.
        """
        return self.text(text, BASE_HERE)

    def judge(self, value: object) -> object:
        """Let `NodeConfig` judge the value of a field of its own, and give it as it would be there.

        Raises:
          ValueError: it is refused.
        """
        field = attrs.fields_dict(NodeConfig).get(self.name)
        if field is None:
            return value
        if field.converter is not None:
            convert: Any = field.converter
            value = convert(value)
        if field.validator is not None and self.name not in _JUDGED_TOGETHER:
            field.validator(None, field, value)
        return value


_DEFAULTS: Final = NodeConfig(realm="default")
_JUDGED_TOGETHER: Final = ("leaf", "call_timeout_default_s", "handlers_per_caller_max")  # with fields told elsewhere


def _of_node(name: str, text: Callable[[str, PurePath], object], help_text: str, **more: Any) -> Setting:
    """A field of `NodeConfig` that a TOML value says as it is."""
    default = getattr(_DEFAULTS, name)
    default_text = str(default).lower() if isinstance(default, bool) else plain_text(default)
    usual: dict[str, Any] = {"default_text": default_text, "toml": as_it_is}
    return Setting(name=name, help=help_text, default=default, text=text, **(usual | more))


SETTINGS: Final[tuple[Setting, ...]] = (
    Setting(
        name="realm",
        help="Name of the mesh.",
        default=None,
        default_text="none: it must be told",
        flag="--realm",
        metavar="NAME",
        one_shot=True,
        text=as_it_is,
        toml=as_it_is,
    ),
    _of_node(
        "listen",
        as_it_is,
        "Port 0: any free one.",
        flag="--listen",
        metavar="HOST:PORT",
        old=OldVariable(name="GATEWAY_PORT", read=read_old_port, same=same_port),
    ),
    _of_node(
        "bootstrap",
        read_list,
        "A node to join by, HOST:PORT or NODEID@HOST:PORT; may be repeated.",
        default_text="none",
        flag="--bootstrap",
        metavar="HOST:PORT",
        many=True,
        one_shot=True,
        old=OldVariable(name="BOOTSTRAP_NODES", read=lambda text: read_list(text, BASE_HERE)),
    ),
    _of_node(
        "advertise",
        as_it_is,
        "Numeric address that others dial, if it is another.",
        default_text="where it listens",
        flag="--advertise",
        metavar="HOST:PORT",
    ),
    _of_node(
        "role",
        as_it_is,
        f"Told to others: {', '.join(ROLES)}.",
        flag="--role",
        metavar="ROLE",
        old=OldVariable(
            name="MODE",
            read=lambda text: _OLD_MODES[text.strip().lower()],
            # MODE=production is in many an environment, and says nothing about us.
            passed_over=lambda text: (
                None
                if text.strip().lower() in _OLD_MODES
                else f"{shown(text)} is none of {', '.join(_OLD_MODES)}, and is passed over"
            ),
        ),
    ),
    Setting(
        name="identity",
        help="Key file; a node makes it when it is missing.",
        default=None,
        default_text="a new identity",
        flag="--identity",
        metavar="FILE",
        one_shot=True,
        text=read_path,
        toml=read_path,
    ),
    Setting(
        name="tls_cert_file",
        help="Certificate chain of the identity, PEM, when its key is in another file.",
        default=None,
        default_text="none",
        flag="--tls-cert-file",
        metavar="FILE",
        one_shot=True,
        text=read_path,
        toml=read_path,
        old=OldVariable(name="TLS_CERT_FILE", read=lambda text: read_path(text, BASE_HERE)),
    ),
    Setting(
        name="tls_key_file",
        help="Private key for --tls-cert-file, PEM.",
        default=None,
        default_text="none",
        flag="--tls-key-file",
        metavar="FILE",
        one_shot=True,
        text=read_path,
        toml=read_path,
        old=OldVariable(name="TLS_KEY_FILE", read=lambda text: read_path(text, BASE_HERE)),
    ),
    Setting(
        name="key_passphrase_file",
        help="Its first line decrypts the key file; MACULA_KEY_PASSPHRASE or a prompt by default.",
        default=None,
        default_text="none",
        flag="--key-passphrase-file",
        metavar="FILE",
        one_shot=True,
        text=read_path,
        toml=read_path,
    ),
    Setting(
        name="trust",
        help="Whom to talk to: open (all that prove their keys), realm:CA.pem, only:ID,ID or only:@FILE, "
        "pinned:FINGERPRINT,... or pinned:@FILE, unverified (also those that prove nothing, as in v0.8).",
        default=Trust.open(),
        default_text="open",
        flag="--trust",
        metavar="POLICY",
        one_shot=True,
        text=read_trust_value,
        toml=read_trust_value,
    ),
    Setting(
        name="name",
        help="Name of the node, for people.",
        default=None,
        default_text="none",
        flag="--name",
        metavar="NAME",
        text=read_name,
        toml=read_name,
        old=OldVariable(name="NODE_NAME", read=read_name),
    ),
    Setting(
        name="timeout",
        help="For everything, joining included.",
        default=TIMEOUT_S,
        default_text=f"{TIMEOUT_S:g}",
        flag="--timeout",
        metavar="SECONDS",
        one_shot=True,
        of_node=False,
        text=lambda text, _base: read_seconds(read_number(text)),
        toml=lambda value, _base: read_seconds(value),
    ),
    Setting(
        name="health",
        help="Answer HTTP GET of /health and /ready there; port 0: any free one. Wants the extra http.",
        default=None,
        default_text="none",
        flag="--health",
        metavar="HOST:PORT",
        text=read_http,
        toml=read_http,
        old=OldVariable(name="HEALTH_PORT", read=read_old_port, same=same_port),
    ),
    _of_node("connections", as_it_is, "links keeps connections; per-message opens one for each message, as v0.8 does."),
    _of_node("leaf", read_bool, "A short-lived client: in no routing tables, holds no values for others."),
    _of_node("require_bootstrap", read_bool, "Fail when no bootstrap node takes us, instead of trying on."),
    _of_node("join_deadline_s", read_number, "Seconds to join in before the node goes on trying behind the scenes."),
    _of_node("close_deadline_s", read_number, "Seconds to withdraw and say goodbye in."),
    _of_node("drain_deadline_s", read_number, "Seconds for calls that run to finish in when the node is drained."),
    _of_node("dial_deadline_s", read_number, "Seconds for a connection and both proofs."),
    _of_node("query_deadline_s", read_number, "Seconds that one DHT query waits for its answer."),
    _of_node(
        "keepalive_s",
        read_number,
        "A peer that is silent for these seconds is asked for a sign of life; unanswered three times, it is gone.",
    ),
    _of_node("links_max", read_number, "Links that we dialed and keep; who was used least recently goes first."),
    _of_node("link_idle_s", read_number, "Seconds after which a link is closed that nobody uses."),
    _of_node("value_ttl_s", read_number, "Seconds that what we advertise lives in the DHT; renewed before."),
    _of_node("call_timeout_max_s", read_number, "Seconds that a caller can ask of a handler at most."),
    _of_node(
        "call_timeout_default_s",
        read_number,
        "Seconds for calls outside any deadline.",
        default_text="5, or call_timeout_max_s if less",
    ),
    _of_node("handlers_max", read_number, "Calls running here at once, in all."),
    _of_node(
        "handlers_per_caller_max",
        read_number,
        "Calls of one node running here at once.",
        default_text="512, or handlers_max if less",
    ),
    _of_node("subscription_buffer", read_number, "Messages that wait in one subscription."),
    _of_node(
        "may_publish",
        lambda text, base: read_publishers(read_list(text, base), base),
        "Ids of those who may publish to us.",
        default_text="everybody",
        toml=read_publishers,
    ),
)
BY_NAME: Final = {setting.name: setting for setting in SETTINGS}
NODE_SETTINGS: Final = tuple(setting for setting in SETTINGS if setting.of_node)
ONE_SHOT_SETTINGS: Final = tuple(setting for setting in SETTINGS if setting.one_shot)

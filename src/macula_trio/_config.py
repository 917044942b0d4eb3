"""What a node is told at its birth, validated at once: every message names field, value and mend."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import attrs

from macula_trio._authorisation import read_rule
from macula_trio._ids import NodeId
from macula_trio._trust import Trust
from macula_trio._util import (
    ENDPOINT_CHARS_MAX,
    numeric_endpoint,
    parse_bootstrap,
    parse_endpoint,
    scope_of,
    shown,
    validate_name,
)

if TYPE_CHECKING:
    Attribute = attrs.Attribute[Any]

Role: TypeAlias = Literal["bootstrap", "gateway", "edge"]
VALUE_TTL_MIN_S: Final = 20  # values are renewed every 10 s at most, and must survive until then
VALUE_TTL_MAX_S: Final = 3600  # what replicas hold a value for, whatever its owner wishes
DURATION_MAX_S: Final = 31_622_400  # a leap year: more is a slip of units, and timers of the system end somewhere
COUNT_MAX: Final = 1_000_000_000  # more than fits into any memory; it must still be a number that can be reckoned with
TEXT_CHARS_MAX: Final = ENDPOINT_CHARS_MAX + 65  # NODEID@ and an endpoint; names are shorter
BOOTSTRAP_MAX: Final = 1024  # each is resolved and dialed; a few are enough, and they know the others
CALL_TIMEOUT_DEFAULT_S: Final = 5.0  # as in v0.8
HANDLERS_PER_CALLER_MAX: Final = 512
# Longer than a call takes whose caller has set no deadline, 5 s, and enough before `docker stop` kills after 10 s for
# withdrawals and goodbyes to leave.
DRAIN_DEADLINE_S: Final = 8.0
Connections: TypeAlias = Literal["links", "per-message"]
CONNECTIONS: Final[tuple[Connections, ...]] = ("links", "per-message")
ROLES: Final[tuple[Role, ...]] = ("bootstrap", "gateway", "edge")


def _is(kind: type[object], what: str) -> Any:
    def check(_config: NodeConfig, field: Attribute, value: object) -> None:
        if not isinstance(value, kind):
            raise ValueError(f"{field.name}: {shown(value)} is not {what}")

    return check


def _text() -> Any:
    def check(_config: NodeConfig, field: Attribute, value: object) -> None:
        if not isinstance(value, str):
            raise ValueError(f"{field.name}: {shown(value)} is not a text")
        if len(value) > TEXT_CHARS_MAX:
            raise ValueError(
                f"{field.name}: a text of {len(value)} characters is too long, write at most {TEXT_CHARS_MAX}"
            )

    return check


_is_text = _text()
_is_flag = _is(bool, "True or False")
_is_trust = _is(Trust, "a policy such as Trust.open()")


def _check_realm(_config: NodeConfig, _field: Attribute, value: str) -> None:
    validate_name(value, what="realm")


def _check_listen(_config: NodeConfig, _field: Attribute, value: str) -> None:
    try:
        parse_endpoint(value, port_min=0)
    except ValueError as exc:
        raise ValueError(f"listen: {exc}") from None


def _check_advertise(_config: NodeConfig, _field: Attribute, value: str) -> None:
    try:
        parse_endpoint(value)
    except ValueError as exc:
        raise ValueError(f"advertise: {exc}") from None
    try:
        host, _ = numeric_endpoint(value)  # what others ask of it
    except ValueError:
        reason = "is not a numeric address that others can dial, such as 192.0.2.7:9443"
        raise ValueError(f"advertise: {shown(value)} {reason}") from None
    if scope_of(host) is not None:
        raise ValueError(
            f"advertise: {shown(value)} names an interface, which means nothing on other machines; leave it out"
        )


def _check_bootstrap(_config: NodeConfig, field: Attribute, value: tuple[str, ...]) -> None:
    if len(value) > BOOTSTRAP_MAX:
        raise ValueError(f"bootstrap: more than {BOOTSTRAP_MAX} nodes are named; a few are enough to join by")
    entries: set[str] = set()
    for entry in value:
        _is_text(_config, field, entry)
        try:
            parse_bootstrap(entry)
        except ValueError as exc:
            raise ValueError(f"bootstrap: {exc}") from None
        if entry in entries:
            raise ValueError(f"bootstrap: {entry!r} is there twice; name each node once")
        entries.add(entry)


def _as_tuple(value: Iterable[str]) -> tuple[str, ...]:
    if isinstance(value, str):
        raise ValueError(f"bootstrap: {shown(value)} is one text; write a list of endpoints: [{shown(value)}]")
    if isinstance(value, (bytes, Mapping)):  # of these the numbers, or the keys, would be taken for endpoints
        raise ValueError(f"bootstrap: {shown(value)} is not a list of endpoints such as ['127.0.0.1:9443']")
    try:
        return tuple(itertools.islice(value, BOOTSTRAP_MAX + 1))
    except TypeError:
        raise ValueError(f"bootstrap: {shown(value)} is not a list of endpoints such as ['127.0.0.1:9443']") from None


def _publishers(
    value: Iterable[NodeId] | Callable[[NodeId, str], bool] | None,
) -> tuple[NodeId, ...] | Callable[[NodeId, str], bool] | None:
    return read_rule(value, what="may_publish")


def _one_of(*allowed: str) -> Any:
    def check(_config: NodeConfig, field: Attribute, value: object) -> None:
        if not isinstance(value, str) or value not in allowed:
            raise ValueError(f"{field.name}: {shown(value)} is not one of {', '.join(allowed)}")

    return check


def _check_leaf(config: NodeConfig, field: Attribute, value: object) -> None:
    if not isinstance(value, bool):
        raise ValueError(f"{field.name}: {shown(value)} is not True or False")
    if value and config.role != "edge":
        raise ValueError(
            f"leaf: True contradicts role {config.role!r}, which others look for; leave one of them at its default"
        )


def _positive(_config: NodeConfig, field: Attribute, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
        raise ValueError(f"{field.name}: {shown(value)} is not a number above 0")


def _duration(config: NodeConfig, field: Attribute, value: float) -> None:
    _positive(config, field, value)
    if value > DURATION_MAX_S:
        raise ValueError(f"{field.name}: {shown(value)} is more than a year; write at most {DURATION_MAX_S} seconds")


def _positive_count(config: NodeConfig, field: Attribute, value: object) -> None:
    if not isinstance(value, int):
        raise ValueError(f"{field.name}: {shown(value)} is not a whole number above 0")
    _positive(config, field, value)
    if value > COUNT_MAX:
        raise ValueError(f"{field.name}: {shown(value)} is too many; write at most {COUNT_MAX}")


def _check_ttl(_config: NodeConfig, field: Attribute, value: float) -> None:
    _positive(_config, field, value)
    if not VALUE_TTL_MIN_S <= value <= VALUE_TTL_MAX_S:
        raise ValueError(f"{field.name}: {shown(value)} is not from {VALUE_TTL_MIN_S} to {VALUE_TTL_MAX_S} seconds")


def _not_above(other: str) -> Any:
    """Refuse a value above that of another field, which was judged before."""

    def check(config: NodeConfig, field: Attribute, value: float) -> None:
        ceiling = getattr(config, other)
        if value > ceiling:
            raise ValueError(
                f"{field.name}: {value!r} is above {other}, which is {ceiling!r}; lower this one or raise that one"
            )

    return check


def _usually(usual: float, *, ceiling: str) -> Any:
    """The default of a field that is never above another one, so that who lowers that one need not know of it."""

    def choose(config: NodeConfig) -> float:
        limit = getattr(config, ceiling)
        bad = isinstance(limit, bool) or not isinstance(limit, (int, float))  # its own validator says so, in a moment
        return usual if bad or not limit < usual else limit

    return attrs.Factory(choose, takes_self=True)


@attrs.frozen(kw_only=True)
class NodeConfig:
    """How a node behaves.  Units stand last in the names; ``_s`` is seconds on Trio's clock.

    Attributes:
      realm: name of the mesh; nodes of different realms refuse each other.
      listen: ``host:port`` of the one UDP socket; port 0 takes a free one.
      advertise: numeric ``host:port`` that others dial, when it is not what we listen on.
      bootstrap: ``host:port`` or ``NODEID@host:port`` of nodes to join by.
      role: ``bootstrap``, ``gateway`` or ``edge``; told to others, all three listen and serve alike.
      trust: whom we talk to.
      connections: ``links`` keeps connections; ``per-message``, as v0.8, opens one for each message.
      leaf: a short-lived client: never in routing tables, holds no values for others.
      require_bootstrap: raise `PeerUnavailable` or `TrustError` when no bootstrap node takes us, instead of trying on.
      join_deadline_s: how long `open_node` waits for the mesh before it goes on trying behind the scenes.
      close_deadline_s: how long leaving the block may take to withdraw and say goodbye.
      drain_deadline_s: how long handlers that run may take to finish when the node is drained.
      dial_deadline_s: how long a connection and both proofs may take.
      query_deadline_s: how long one DHT query waits for its answer.
      keepalive_s: a peer that is silent for so long is asked for a sign of life, and is gone when it has not answered
        three of them, of a second or a few round trips each; a connection silent for three of these in any case.
      links_max: links that we dialed are kept up to this number; who was used least recently goes first.
      link_idle_s: a link is closed that nobody has used for so long.
      value_ttl_s: life of what we advertise in the DHT; renewed before its end.
      call_timeout_max_s: ceiling of what a caller can ask of a handler.
      call_timeout_default_s: for calls outside any deadline of the caller; 5, or the ceiling if that is less.
      handlers_max: calls running here at once, in all.
      handlers_per_caller_max: calls of one node running here at once; 512, or all if that is less.
      subscription_buffer: messages that wait in one subscription before the oldest is dropped.
      may_publish: who may publish to the subscriptions here, or by way of us to others, ourselves apart: None for
        everybody whom ``trust`` lets in, ids, or a plain function of publisher and topic, which is called once per
        message and must not block.
        Who has proven nothing, or comes through another node, may not when this is set; a function that fails
        means no.

    Raises:
      ValueError: one line with the field, the value and the mend.
    """

    realm: str = attrs.field(validator=[_is_text, _check_realm])
    listen: str = attrs.field(default="0.0.0.0:9443", validator=[_is_text, _check_listen])
    advertise: str | None = attrs.field(default=None, validator=attrs.validators.optional([_is_text, _check_advertise]))
    bootstrap: tuple[str, ...] = attrs.field(default=(), converter=_as_tuple, validator=_check_bootstrap)
    role: Role = attrs.field(default="edge", validator=_one_of(*ROLES))
    trust: Trust = attrs.field(factory=Trust.open, validator=_is_trust)
    connections: Connections = attrs.field(default="links", validator=_one_of(*CONNECTIONS))
    leaf: bool = attrs.field(default=False, validator=_check_leaf)
    require_bootstrap: bool = attrs.field(default=False, validator=_is_flag)
    join_deadline_s: float = attrs.field(default=5.0, validator=_duration)
    close_deadline_s: float = attrs.field(default=1.0, validator=_duration)
    drain_deadline_s: float = attrs.field(default=DRAIN_DEADLINE_S, validator=_duration)
    dial_deadline_s: float = attrs.field(default=5.0, validator=_duration)
    query_deadline_s: float = attrs.field(default=2.0, validator=_duration)
    keepalive_s: float = attrs.field(default=10.0, validator=_duration)
    links_max: int = attrs.field(default=100, validator=_positive_count)
    link_idle_s: float = attrs.field(default=300.0, validator=_duration)
    value_ttl_s: float = attrs.field(default=300.0, validator=_check_ttl)
    call_timeout_max_s: float = attrs.field(default=300.0, validator=_duration)
    call_timeout_default_s: float = attrs.field(
        default=_usually(CALL_TIMEOUT_DEFAULT_S, ceiling="call_timeout_max_s"),
        validator=[_duration, _not_above("call_timeout_max_s")],
    )
    handlers_max: int = attrs.field(default=1024, validator=_positive_count)
    handlers_per_caller_max: int = attrs.field(
        default=_usually(HANDLERS_PER_CALLER_MAX, ceiling="handlers_max"),
        validator=[_positive_count, _not_above("handlers_max")],
    )
    subscription_buffer: int = attrs.field(default=256, validator=_positive_count)
    may_publish: tuple[NodeId, ...] | Callable[[NodeId, str], bool] | None = attrs.field(
        default=None, converter=_publishers
    )

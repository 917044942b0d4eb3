from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import attrs
import pytest

from macula_trio._config import BOOTSTRAP_MAX, COUNT_MAX, DURATION_MAX_S, ROLES, NodeConfig
from macula_trio._ids import NodeId
from macula_trio._trust import Trust
from macula_trio._util import shown

if TYPE_CHECKING:
    from collections.abc import Iterator

REALM: Final = "org.example"
NODE: Final = "ab" * 32

SECONDS: Final = sorted(field.name for field in attrs.fields(NodeConfig) if field.name.endswith("_s"))
COUNTS: Final = ("links_max", "handlers_max", "handlers_per_caller_max", "subscription_buffer")


def complaint(**fields: Any) -> str:
    """The one line that these fields are refused with."""
    with pytest.raises(ValueError) as error:  # noqa: PT011 -- every test looks at the whole text
        NodeConfig(**({"realm": REALM} | fields))
    text = str(error.value)
    assert "\n" not in text
    return text


def test_a_realm_is_enough() -> None:
    config = NodeConfig(realm=REALM)
    assert (config.listen, config.advertise, config.bootstrap) == ("0.0.0.0:9443", None, ())
    assert (config.role, config.trust, config.connections) == ("edge", Trust.open(), "links")
    assert not config.leaf
    assert not config.require_bootstrap
    durations = {
        "join_deadline_s": 5.0,
        "close_deadline_s": 1.0,
        "drain_deadline_s": 8.0,
        "dial_deadline_s": 5.0,
        "query_deadline_s": 2.0,
        "keepalive_s": 10.0,
        "link_idle_s": 300.0,
        "value_ttl_s": 300.0,
        "call_timeout_default_s": 5.0,
        "call_timeout_max_s": 300.0,
    }
    assert {name: getattr(config, name) for name in SECONDS} == durations
    counts = {"links_max": 100, "handlers_max": 1024, "handlers_per_caller_max": 512, "subscription_buffer": 256}
    assert {name: getattr(config, name) for name in COUNTS} == counts


def test_every_field_can_be_told() -> None:
    told: dict[str, Any] = {
        "realm": "home",
        "listen": "[::]:0",
        "advertise": "[2001:db8::7]:9443",
        "bootstrap": ("seed.example.org:9443", f"{NODE}@192.0.2.1:9443"),
        "role": "edge",
        "trust": Trust.unverified(),
        "connections": "links",
        "leaf": True,
        "require_bootstrap": True,
        **dict.fromkeys(SECONDS, 0.25),
        **dict.fromkeys(COUNTS, 1),
        "value_ttl_s": 20,
        "may_publish": (NodeId.from_hex(NODE),),
    }
    assert told.keys() == {field.name for field in attrs.fields(NodeConfig)}
    assert attrs.asdict(NodeConfig(**told), recurse=False) == told


def test_it_cannot_be_changed_afterwards() -> None:
    config = NodeConfig(realm=REALM)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        config.realm = "other"  # type: ignore[misc]
    with pytest.raises(ValueError, match="listen: endpoint 'nowhere'"):
        attrs.evolve(config, listen="nowhere")


@pytest.mark.parametrize("role", ROLES)
def test_the_three_roles_are_known(role: Any) -> None:
    assert NodeConfig(realm=REALM, role=role).role == role


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "0.0.0.0:9443", "[::1]:65535", "localhost:9443"])
def test_listening_on_any_free_port_is_possible(listen: str) -> None:
    assert NodeConfig(realm=REALM, listen=listen).listen == listen


def test_bootstrap_may_be_any_iterable_of_endpoints() -> None:
    assert NodeConfig(realm=REALM, bootstrap=["a:1", "b:2"]).bootstrap == ("a:1", "b:2")  # type: ignore[arg-type]
    assert NodeConfig(realm=REALM, bootstrap=(f"{name}:1" for name in "ab")).bootstrap == ("a:1", "b:1")  # type: ignore[arg-type]


# -- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("realm", ["", "two words", "a..b", ".a", "a.", "é", "a\n", "a" * 256])
def test_a_bad_realm_is_named_with_the_rule(realm: str) -> None:
    text = complaint(realm=realm)
    assert text.startswith(f"realm {realm!r} is not valid: dot-separated segments")
    assert text.endswith("such as sensors.kitchen")


@pytest.mark.parametrize("listen", ["", "9443", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:-1", "::1:80"])
def test_a_bad_listen_address_is_named_with_the_mend(listen: str) -> None:
    text = complaint(listen=listen)
    assert text.startswith(f"listen: endpoint {listen!r}")
    assert "such as" in text or "a number from 0 to 65535" in text


@pytest.mark.parametrize("advertise", ["", "9443", "192.0.2.7", "192.0.2.7:0", "192.0.2.7:http"])
def test_a_malformed_address_to_advertise_is_named_with_the_mend(advertise: str) -> None:
    text = complaint(advertise=advertise)
    assert text.startswith(f"advertise: endpoint {advertise!r}")
    assert "such as" in text or "a number from 1 to 65535" in text


@pytest.mark.parametrize(
    "advertise",
    ["0.0.0.0:9443", "[::]:9443", "[::ffff:0.0.0.0]:9443", "node.example.org:9443", "224.0.0.1:9443", "[ff02::1]:9443"],
)
def test_what_nobody_can_dial_is_not_advertised(advertise: str) -> None:
    assert complaint(advertise=advertise) == (
        f"advertise: {advertise!r} is not a numeric address that others can dial, such as 192.0.2.7:9443"
    )


def test_one_bootstrap_node_without_its_list_is_refused_with_the_mend() -> None:
    text = complaint(bootstrap="127.0.0.1:9443")
    assert text == "bootstrap: '127.0.0.1:9443' is one text; write a list of endpoints: ['127.0.0.1:9443']"


@pytest.mark.parametrize("entry", ["", "nowhere", "127.0.0.1:0", "abc@127.0.0.1:9443", f"{NODE}@nowhere"])
def test_a_bad_bootstrap_node_is_named_with_the_mend(entry: str) -> None:
    text = complaint(bootstrap=["127.0.0.1:9443", entry])
    assert text.startswith("bootstrap: ")
    assert repr(entry.rpartition("@")[2]) in text or repr(entry) in text
    assert "such as" in text or "write" in text or "a number from 1" in text


@pytest.mark.parametrize("role", ["", "hybrid", "EDGE", None, []])
def test_a_bad_role_is_named_with_the_roles(role: object) -> None:
    assert complaint(role=role) == f"role: {role!r} is not one of bootstrap, gateway, edge"


def test_a_bad_way_of_connecting_is_named_with_the_ways() -> None:
    assert complaint(connections="tcp") == "connections: 'tcp' is not one of links, per-message"


@pytest.mark.parametrize("field", SECONDS)
@pytest.mark.parametrize("value", [0, 0.0, -1, -0.5, float("inf"), float("nan"), True, "5", None])
def test_a_bad_duration_is_named(field: str, value: object) -> None:
    assert complaint(**{field: value}) == f"{field}: {value!r} is not a number above 0"


@pytest.mark.parametrize("value", [20, 20.0, 3600])
def test_values_live_from_20_s_to_an_hour(value: float) -> None:
    assert NodeConfig(realm=REALM, value_ttl_s=value).value_ttl_s == value


@pytest.mark.parametrize("value", [0.1, 19.9, 3600.1, 10**400])
def test_a_life_that_renewal_or_replicas_cannot_keep_is_named_with_the_range(value: float) -> None:
    assert complaint(value_ttl_s=value) == f"value_ttl_s: {shown(value)} is not from 20 to 3600 seconds"


@pytest.mark.parametrize("field", COUNTS)
@pytest.mark.parametrize("value", [0, -1, 0.5, 1.0, float("inf"), True, "5", None])
def test_a_bad_count_is_named(field: str, value: object) -> None:
    assert complaint(**{field: value}).startswith(f"{field}: {value!r} is not a ")


@pytest.mark.parametrize(
    ("field", "value", "mend"),
    [
        ("realm", None, "a text"),
        ("realm", b"org.example", "a text"),
        ("listen", 9443, "a text"),
        ("listen", None, "a text"),
        ("advertise", ("192.0.2.7", 9443), "a text"),
        ("trust", "open", "a policy such as Trust.open()"),
        ("trust", None, "a policy such as Trust.open()"),
        ("leaf", "no", "True or False"),
        ("leaf", 1, "True or False"),
        ("require_bootstrap", None, "True or False"),
        ("bootstrap", 9443, "a list of endpoints such as ['127.0.0.1:9443']"),
        ("bootstrap", None, "a list of endpoints such as ['127.0.0.1:9443']"),
    ],
)
def test_a_value_of_another_type_is_named_with_the_mend(field: str, value: object, mend: str) -> None:
    assert complaint(**{field: value}) == f"{field}: {value!r} is not {mend}"


def test_an_entry_of_another_type_is_named() -> None:
    assert complaint(bootstrap=["127.0.0.1:9443", 9443]) == "bootstrap: 9443 is not a text"


def test_an_entry_that_is_there_twice_is_named_with_the_mend() -> None:
    assert complaint(bootstrap=["a:1", "b:1", "a:1"]) == "bootstrap: 'a:1' is there twice; name each node once"


def test_our_own_address_may_be_among_those_to_join_by() -> None:
    assert NodeConfig(realm=REALM, listen="127.0.0.1:9443", bootstrap=("127.0.0.1:9443",)).bootstrap


@pytest.mark.parametrize("value", [b"127.0.0.1:9443", {"127.0.0.1:9443": 1}])
def test_what_is_no_list_though_it_has_items_is_named_with_the_mend(value: object) -> None:
    assert complaint(bootstrap=value) == (f"bootstrap: {value!r} is not a list of endpoints such as ['127.0.0.1:9443']")


# -- huge ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", [name for name in SECONDS if name != "value_ttl_s"])
@pytest.mark.parametrize(
    "value", [DURATION_MAX_S + 1, 1e300, 10**400, pytest.param(10**5000, id="longer than Python writes")]
)
def test_a_duration_of_more_than_a_year_is_named_with_the_limit(field: str, value: float) -> None:
    assert complaint(**{field: value}).startswith(f"{field}: {shown(value)} is more than a year; write at most ")
    assert len(complaint(**{field: value})) < 300


@pytest.mark.parametrize("field", COUNTS)
@pytest.mark.parametrize("value", [COUNT_MAX + 1, 10**400, pytest.param(10**5000, id="longer than Python writes")])
def test_a_count_beyond_any_memory_is_named_with_the_limit(field: str, value: int) -> None:
    assert complaint(**{field: value}) == f"{field}: {shown(value)} is too many; write at most {COUNT_MAX}"


@pytest.mark.parametrize("field", ["realm", "listen", "advertise", "bootstrap", "role", "connections", "trust"])
def test_a_huge_text_is_not_shown_in_full(field: str) -> None:
    text = "x" * 100_000
    told = complaint(**{field: [text] if field == "bootstrap" else text})
    assert told.startswith(f"{field}: ")
    assert len(told) < 300


def test_a_list_of_bootstrap_nodes_without_end_is_refused() -> None:
    def endless() -> Iterator[str]:
        while True:
            yield "127.0.0.1:9443"

    assert complaint(bootstrap=endless()) == (
        f"bootstrap: more than {BOOTSTRAP_MAX} nodes are named; a few are enough to join by"
    )


@pytest.mark.parametrize("value", [pytest.param(10**5000, id="longer than Python writes"), b"x" * 100_000])
def test_a_huge_rule_about_publishers_is_not_shown_in_full(value: object) -> None:
    assert len(complaint(may_publish=value)) < 300


# -- what contradicts itself ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lower", "ceiling"),
    [("call_timeout_default_s", "call_timeout_max_s"), ("handlers_per_caller_max", "handlers_max")],
)
def test_a_part_above_the_whole_names_both_with_the_mend(lower: str, ceiling: str) -> None:
    assert complaint(**{lower: 3, ceiling: 2}) == (
        f"{lower}: 3 is above {ceiling}, which is 2; lower this one or raise that one"
    )
    assert getattr(NodeConfig(realm=REALM, **{lower: 2, ceiling: 2}), lower) == 2  # type: ignore[arg-type]


def test_who_lowers_the_whole_alone_lowers_the_part_with_it() -> None:
    config = NodeConfig(realm=REALM, call_timeout_max_s=2, handlers_max=100)
    assert (config.call_timeout_default_s, config.handlers_per_caller_max) == (2, 100)


@pytest.mark.parametrize("role", ["bootstrap", "gateway"])
def test_a_leaf_is_no_node_that_others_look_for(role: str) -> None:
    assert complaint(leaf=True, role=role) == (
        f"leaf: True contradicts role {role!r}, which others look for; leave one of them at its default"
    )


# -- who may publish -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [[NodeId.from_hex(NODE)], {NodeId.from_hex(NODE): 1}, iter([NodeId.from_hex(NODE)])])
def test_who_may_publish_is_any_iterable_of_ids(given: Any) -> None:
    config = NodeConfig(realm=REALM, may_publish=given)
    assert config.may_publish == (NodeId.from_hex(NODE),)
    assert attrs.evolve(config, listen="[::]:1").may_publish == config.may_publish
    assert {config: "as good a key as one without it"}


def test_who_may_publish_may_be_a_function_or_nobody() -> None:
    def rule(_publisher: NodeId, _topic: str) -> bool:
        return True

    assert NodeConfig(realm=REALM).may_publish is None
    assert NodeConfig(realm=REALM, may_publish=rule).may_publish is rule
    assert NodeConfig(realm=REALM, may_publish=[]).may_publish == ()


@pytest.mark.parametrize(
    ("value", "mend"),
    [
        (NODE, "is neither a list of ids, such as [NodeId.from_hex(...)], nor a function"),
        (NodeId.from_hex(NODE), f"is one node; write a list of ids: [{NodeId.from_hex(NODE)!r}]"),
        ([NODE], "is not a NodeId; make one by NodeId.from_hex or NodeId(...)"),
        (5, "is neither a list of ids, such as [NodeId.from_hex(...)], nor a function"),
    ],
)
def test_a_bad_rule_about_publishers_is_named_with_the_mend(value: Any, mend: str) -> None:
    named = value[0] if isinstance(value, list) else value
    assert complaint(may_publish=value) == f"may_publish: {named!r} {mend}"


# -- whom to trust -------------------------------------------------------------------------------------------------


def test_policies_compare_by_what_they_mean() -> None:
    assert Trust.open() == Trust.open() != Trust.unverified()

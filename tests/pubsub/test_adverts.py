"""Where patterns lie, and what is made of what strangers put there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from macula_trio._dht.storage import VALUE_BYTES_MAX
from macula_trio._identity.files import Identity
from macula_trio._identity.record import sign_record
from macula_trio._ids import Advert, Contact, NodeId
from macula_trio._pubsub import adverts
from macula_trio._pubsub.adverts import (
    PATTERNS_BYTES_MAX,
    PATTERNS_MAX,
    Found,
    choose,
    is_of_patterns,
    is_shard,
    key_of,
    metadata_of,
    place_of,
    places_for,
    prefix_of,
    read_adverts,
    require_room,
    shard_of,
)
from macula_trio._pubsub.topics import is_pattern, matches, validate_pattern
from macula_trio._pubsub.window import WINDOWS_PER_MESSAGE_MAX, advert_of, window_id
from macula_trio._util import ENDPOINT_CHARS_MAX, NAME_BYTES_MAX

VECTORS: Final = json.loads((Path(__file__).parents[1] / "vectors" / "topics.json").read_text(encoding="utf-8"))
OWNERS: Final = st.binary(min_size=32, max_size=32).map(NodeId)
WORDS: Final = st.sampled_from(["a", "b", "cc"])
TOPICS: Final = st.lists(WORDS, min_size=1, max_size=7).map(".".join)
PATTERNS: Final = st.lists(st.one_of(WORDS, st.sampled_from(["*", "**", "#"])), min_size=1, max_size=7).map(".".join)
OWNER: Final = NodeId(b"\xab" + bytes(31))


def contact(number: int) -> Contact:
    return Contact(node_id=NodeId(number.to_bytes(32, "big")), endpoint="10.0.0.1:9443")


def advert(metadata: dict[str, Any], owner: NodeId = OWNER) -> Advert:
    return Advert(contact=Contact(node_id=owner, endpoint="10.0.0.1:9443"), metadata=metadata)


@pytest.mark.parametrize("row", VECTORS["advertised"], ids=lambda row: f"{row['pattern']} of {row['owner'][:2]}")
def test_a_subscription_lies_where_the_design_says(row: dict[str, str]) -> None:
    place = place_of(row["pattern"], NodeId.from_hex(row["owner"]))
    assert place == row["place"]
    assert key_of(place).hex() == row["key"]


@pytest.mark.parametrize("row", VECTORS["looked_up"], ids=lambda row: row["topic"])
def test_a_publisher_looks_where_the_design_says(row: dict[str, Any]) -> None:
    places = places_for(row["topic"])
    assert places == row["places"]
    assert [place for place in places if not is_of_patterns(place)] == [row["topic"]]
    assert [place for place in places if is_shard(place)] == places[-adverts.SHARDS :]


@given(PATTERNS, TOPICS, OWNERS)
def test_whoever_wants_a_topic_lies_where_its_publisher_looks(pattern: str, topic: str, owner: NodeId) -> None:
    if matches(pattern, topic):
        assert place_of(pattern, owner) in places_for(topic)


@given(PATTERNS)
def test_a_prefix_is_literal_and_short(pattern: str) -> None:
    prefix = prefix_of(pattern)
    assert pattern == prefix or not prefix or pattern.startswith(prefix + ".")
    assert not is_pattern(prefix)
    assert prefix.count(".") < adverts.PREFIX_SEGMENTS_MAX


@given(OWNERS)
def test_owners_without_a_prefix_are_shared_out_over_sixteen_keys(owner: NodeId) -> None:
    assert 0 <= shard_of(owner) < adverts.SHARDS
    assert f"{shard_of(owner):x}" == owner.hex()[0]


@given(PATTERNS, OWNERS)
def test_what_we_advertise_is_read_as_it_was_meant(pattern: str, owner: NodeId) -> None:
    metadata = {name: [text.encode() for text in texts] for name, texts in metadata_of(pattern).items()}  # type: ignore[attr-defined]
    found = read_adverts(place_of(pattern, owner), [advert(metadata, owner)])
    assert [each.patterns for each in found] == [(pattern,)]
    assert found[0].contact.node_id == owner
    assert found[0].size == len(pattern)


JUNK: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@pytest.mark.thorough
@given(JUNK, st.sampled_from(["a.b", "pattern:a", "pattern:#a"]))
def test_whatever_a_stranger_attaches_is_harmless(junk: object, place: str) -> None:
    for metadata in ({"patterns": junk}, {"patterns": [junk]}, {"other": junk}):
        for found in read_adverts(place, [advert(metadata)]):
            assert all(place_of(pattern, OWNER) == place for pattern in found.patterns)


@pytest.mark.parametrize(
    "item",
    [b"b.*", b"a", b"a.b", b"*", b"**", b"a.b*", b"a..*", b"a.\xff", "a.*", b"a.*" + bytes(1), b"a." * 127 + b"a.*", 7],
    ids=repr,
)
def test_what_is_no_pattern_of_this_place_is_passed_over(item: object) -> None:
    """Each counts in one place only, so that a list is not compared wherever its owner puts it."""
    found = read_adverts("pattern:a", [advert({"patterns": [item, b"a.*"]})])
    assert [each.patterns for each in found] == [("a.*",)]
    assert read_adverts("pattern:a", [advert({"patterns": [item]})]) == ()


def test_a_pattern_without_a_prefix_counts_in_the_shard_of_its_owner_only() -> None:
    metadata = {"patterns": [b"**"]}
    assert [place for place in places_for("a") if read_adverts(place, [advert(metadata)])] == ["a", "pattern:#a"]


def test_no_more_patterns_are_read_than_a_value_may_have() -> None:
    listed = [f"a.*.{number}".encode() for number in range(2 * PATTERNS_MAX)]
    (found,) = read_adverts("pattern:a", [advert({"patterns": listed})])
    assert len(found.patterns) == PATTERNS_MAX


# -- the limits of one value ------------------------------------------------------------------------------------------


def test_too_many_patterns_for_one_value_are_refused_in_one_line() -> None:
    there = [f"a.*.{number}" for number in range(PATTERNS_MAX)]
    require_room(there[:-1], there[-1])
    require_room(there, there[0])
    with pytest.raises(ValueError, match=r"'a.\*.z': this node has 64 patterns with the prefix 'a' already") as caught:
        require_room(there, "a.*.z")
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="begin with a wildcard"):
        require_room([f"*.{name}" for name in there], "**")


def test_too_many_bytes_for_one_value_are_refused() -> None:
    long = ["a.*." + f"{number:02}" + "x" * (NAME_BYTES_MAX - 6) for number in range(20)]
    fitting = PATTERNS_BYTES_MAX // (NAME_BYTES_MAX + 3)
    require_room(long[: fitting - 1], long[fitting])
    with pytest.raises(ValueError, match="3072 bytes"):
        require_room(long[:fitting], long[fitting])


def test_the_longest_list_fits_into_a_value_with_the_longest_of_everything_else() -> None:
    patterns: list[str] = []
    for size in [NAME_BYTES_MAX] * 11 + [200]:
        pattern = validate_pattern(f"{len(patterns):03}.*." + "x" * (size - 6))
        require_room(patterns, pattern)
        patterns.append(pattern)
    small = 0
    while True:
        try:
            require_room(patterns, f"a.*.{small}")
        except ValueError:
            break
        patterns.append(f"a.*.{small}")
        small += 1
    record = sign_record(
        Identity.from_seed(bytes(32)),
        realm="r" * NAME_BYTES_MAX,
        key=bytes(32),
        kind="subscriber",
        endpoint="e" * ENDPOINT_CHARS_MAX,
        metadata={"patterns": patterns},
        seq=2**63 - 1,
        expires_ms=2**63 - 1,
    )
    assert PATTERNS_BYTES_MAX - 20 < sum(len(pattern) + 3 for pattern in patterns) <= PATTERNS_BYTES_MAX
    assert record.size <= VALUE_BYTES_MAX


def test_patterns_and_windows_share_the_room_of_one_value() -> None:
    """A value with as many windows as there may be, and with as long a list of patterns as then fits."""
    patterns: list[str] = []
    windows: list[bytes] = []
    while len(patterns) < PATTERNS_MAX:
        pattern = f"a.*.{len(patterns)}." + "x" * 20
        require_room(patterns, pattern, windows=len(windows) + 1)
        patterns.append(pattern)
        windows.append(advert_of(pattern, 2**16))
    with pytest.raises(ValueError, match="64 blocking subscriptions"):
        require_room(patterns, patterns[0], windows=adverts.WINDOWS_MAX + 1)
    long = ["a.*." + f"{number:02}" + "x" * (NAME_BYTES_MAX - 6) for number in range(11)]
    fitting = (PATTERNS_BYTES_MAX - 11 * (NAME_BYTES_MAX + 3)) // (len(windows[0]) + 2)
    require_room(long, long[0], windows=fitting)
    with pytest.raises(ValueError, match="3072 bytes"):
        require_room(long, long[0], windows=fitting + 1)
    record = sign_record(
        Identity.from_seed(bytes(32)),
        realm="r" * NAME_BYTES_MAX,
        key=bytes(32),
        kind="subscriber",
        endpoint="e" * ENDPOINT_CHARS_MAX,
        metadata={"patterns": patterns, "windows": windows, "allow_routed": True},
        seq=2**63 - 1,
        expires_ms=2**63 - 1,
    )
    assert record.size <= VALUE_BYTES_MAX
    (found,) = read_adverts("pattern:a", [advert({"patterns": [p.encode() for p in patterns], "windows": windows})])
    assert found.windows == {window_id(pattern): 2**16 for pattern in patterns}


# -- who is chosen ----------------------------------------------------------------------------------------------------


def test_each_node_is_chosen_once_in_the_order_in_which_they_were_found() -> None:
    one, two, three = map(contact, (1, 2, 3))
    places = [
        [Found(two, ("a.b",))],
        [Found(one, ("a.c.*", "a.*")), Found(two, ("a.*", "a.**")), Found(three, ("a.*.*",))],
        [Found(one, ("**",))],
    ]
    elsewhere = Contact(node_id=two.node_id, endpoint="10.0.0.2:9443")
    places.append([Found(elsewhere, ("a.b",) * 3)])
    assert choose("a.b", places) == adverts.Choice((two, one), frozenset(), 0)
    assert choose("a.b", [places[0], places[-1]], segments_max=0) == adverts.Choice((two,), frozenset(), 0)
    assert choose("a.b", []) == adverts.Choice((), frozenset(), 0)


@given(st.lists(st.lists(st.tuples(st.integers(0, 5), st.lists(PATTERNS, max_size=3)), max_size=4), max_size=3), TOPICS)
def test_whoever_has_a_pattern_that_matches_is_chosen(rows: list[list[tuple[int, list[str]]]], topic: str) -> None:
    places = [[Found(contact(number), tuple(patterns)) for number, patterns in place] for place in rows]
    choice = choose(topic, places)
    wanting = {number for place in rows for number, patterns in place if any(matches(p, topic) for p in patterns)}
    assert [each.node_id for each in choice.contacts] == list(dict.fromkeys(each.node_id for each in choice.contacts))
    assert {int.from_bytes(each.node_id, "big") for each in choice.contacts} == wanting
    assert choice.unread == 0


def test_a_crowd_with_long_lists_takes_nothing_from_those_with_short_ones() -> None:
    crowd = [Found(contact(number), ("x.*",) * 9 + ("a.*",)) for number in range(10)]
    modest = Found(contact(99), ("a.*",))
    choice = choose("a.b", [crowd, [modest]], segments_max=100)
    assert choice.contacts == (modest.contact,)
    assert choice.unread == 10 * 6, "four of two segments each are within a share of nine"
    assert len(choose("a.b", [crowd, [modest]]).contacts) == 11


def test_hostile_lists_of_thousands_of_nodes_cost_a_bounded_number_of_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = 0

    class Counting(adverts.Matcher):
        def wanted_by(self, pattern: str) -> bool:
            nonlocal steps
            steps += pattern.count(".") + 1
            return super().wanted_by(pattern)

    monkeypatch.setattr(adverts, "Matcher", Counting)
    worst = ".".join(["**"] * 84)
    places = [[Found(contact(number + 100 * place), (worst,) * 12) for number in range(100)] for place in range(21)]
    choice = choose("x" * 7, places, segments_max=20_000)
    assert len(choice.contacts) == 2100, "it matches, after all"
    nothing = ".".join(["**"] * 83) + ".y"
    places = [[Found(contact(number + 100 * place), (nothing,) * 12) for number in range(100)] for place in range(21)]
    steps = 0
    choice = choose("x" * 7, places, segments_max=20_000)
    assert choice == adverts.Choice((), frozenset(), 2100 * 11)
    assert steps == 2100 * 84, "the first of each"


@pytest.mark.parametrize("pattern", ["a.b", "a.*"])
def test_a_node_says_that_it_takes_messages_through_others_and_a_stranger_may_say_what_it_likes(pattern: str) -> None:
    place = place_of(pattern, contact(1).node_id)

    def routed(said: object) -> frozenset[NodeId]:
        listed = {"patterns": [pattern.encode()]}
        told = Advert(contact=contact(1), metadata=listed | ({} if said is None else {"allow_routed": said}))
        return choose("a.b", [read_adverts(place, [told])]).routed

    assert metadata_of(pattern, allow_routed=True)["allow_routed"] is True
    assert "allow_routed" not in metadata_of(pattern)
    assert routed(True) == {contact(1).node_id}
    for said in (None, False, 1, b"true", "True", []):
        assert routed(said) == frozenset()


# -- windows ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", ["a.b", "a.*"])
def test_who_blocks_says_so_beside_what_older_readers_know(pattern: str) -> None:
    without, metadata = metadata_of(pattern), metadata_of(pattern, window=advert_of(pattern, 7))
    assert metadata == without | {"windows": [advert_of(pattern, 7)]}


def windows_of(*places: Sequence[Found], topic: str = "a.b") -> dict[int, dict[bytes, int]]:
    choice = choose(topic, places)
    assert choice.windows.keys() <= {each.node_id for each in choice.contacts}
    return {int.from_bytes(node_id, "big"): dict(windows) for node_id, windows in choice.windows.items()}


def test_all_subscriptions_of_a_node_that_want_a_topic_and_block_are_found_wherever_they_lie() -> None:
    exact, star, deep, other = (window_id(pattern) for pattern in ("a.b", "a.*", "a.**", "a.*.c"))
    one = [Found(contact(1), ("a.b",), windows={exact: 3})]
    two = [
        Found(contact(2), ("a.*.c", "a.*"), windows={star: 2, other: 1}),
        Found(contact(1), ("a.*", "a.*.c", "a.**"), windows={deep: 5, other: 4}),
        Found(contact(3), ("a.*",)),
    ]
    assert windows_of(one, two) == {1: {exact: 3, deep: 5}, 2: {star: 2}}
    assert windows_of(two, one) == {1: {exact: 3, deep: 5}, 2: {star: 2}}


def test_no_message_is_counted_in_more_windows_than_it_can_name() -> None:
    patterns = tuple(f"a.{'**.' * number}*" for number in range(40))
    found = Found(contact(1), patterns, windows={window_id(pattern): 1 for pattern in patterns})
    assert list(windows_of([found])[1]) == [window_id(pattern) for pattern in patterns[:WINDOWS_PER_MESSAGE_MAX]]


def test_who_has_windows_takes_no_more_than_its_share() -> None:
    patterns = ("a.*",) + ("a.**",) * 9
    crowd = [Found(contact(number), patterns, windows={window_id("a.**"): 1}) for number in range(10)]
    choice = choose("a.b", [crowd], segments_max=20)
    assert (len(choice.contacts), choice.windows, choice.unread) == (10, {}, 0)


@pytest.mark.thorough
@given(JUNK)
def test_whatever_a_stranger_writes_for_its_windows_is_harmless(junk: object) -> None:
    for listed in (junk, [junk]):
        (found,) = read_adverts("a.b", [advert({"windows": listed})])
        assert all(1 <= size <= 2**16 for size in found.windows.values())
    assert read_adverts("a.b", [advert({"windows": [advert_of(str(n), 1) for n in range(99)]})])[0].windows == {
        window_id(str(number)): 1 for number in range(adverts.WINDOWS_MAX)
    }

"""Which endpoint is chosen from what peers say, and who cannot move it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Final

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from macula_trio._ids import NodeId
from macula_trio._peer.observed import (
    CHANGE_PAUSE_S,
    OBSERVATION_LIFE_S,
    OBSERVERS_MAX,
    OBSERVERS_MIN,
    EndpointChoice,
    read_observed,
)
from macula_trio._util import Address, format_endpoint

PORT: Final = 9443
HERE: Final[Address] = ("10.1.0.1", PORT)
THERE: Final[Address] = ("10.1.0.2", PORT)
PUBLIC: Final[Address] = ("198.51.100.7", 40_001)
OTHER_PUBLIC: Final[Address] = ("203.0.113.9", PORT)


def node(number: int) -> NodeId:
    return NodeId(number.to_bytes(32, "big"))


def private(number: int) -> str:
    return f"10.9.{number >> 8}.{number & 255}"


def public(number: int) -> str:
    """Each in a /24 of its own."""
    return f"5.{number >> 8}.{number & 255}.1"


def choice(address: Address = HERE) -> EndpointChoice:
    return EndpointChoice(format_endpoint(address), port=PORT, route_host=address[0])


def say(
    chosen: EndpointChoice,
    numbers: Iterable[int],
    address: Address,
    *,
    now: float = 0.0,
    at: Callable[[int], str] = private,
) -> None:
    for number in numbers:
        chosen.observed(node(number), at(number), address, now)


# -- what peers write -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("198.51.100.7:9443", ("198.51.100.7", 9443)),
        ("[2001:db8::7]:1", ("2001:db8::7", 1)),
        ("[::ffff:198.51.100.7]:9443", ("198.51.100.7", 9443)),  # how a socket of both families sees IPv4
    ],
)
def test_where_a_peer_sees_us_is_read(text: str, address: Address) -> None:
    assert read_observed(text) == address


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "nonsense",
        "node.example.org:9443",
        "0.0.0.0:9443",
        "[::]:9443",
        "[::ffff:0.0.0.0]:1",
        "224.0.0.1:9443",
        "[ff02::1]:9443",
        "198.51.100.7:0",
        "198.51.100.7:65536",
        "198.51.100.7",
        "198.51.100.7:1" + "/" * 300,
        "https://198.51.100.7:1" + "/" * 300,
    ],
)
def test_what_is_no_address_of_one_node_is_nothing(text: str | None) -> None:
    assert read_observed(text) is None


@pytest.mark.thorough
@given(st.text(max_size=30) | st.text(st.sampled_from("12.:[]%fe80"), max_size=20))
def test_whatever_a_peer_writes_is_read_or_nothing(text: str) -> None:
    address = read_observed(text)
    assert address is None or read_observed(format_endpoint(address)) == address


# -- the rules --------------------------------------------------------------------------------------------------------


def test_three_peers_that_agree_are_believed() -> None:
    chosen = choice()
    say(chosen, range(OBSERVERS_MIN - 1), THERE)
    assert chosen.proposal(0.0) is None
    say(chosen, [OBSERVERS_MIN - 1], THERE)
    assert chosen.proposal(0.0) == "10.1.0.2:9443"
    assert chosen.endpoint == "10.1.0.1:9443"  # until it is announced
    chosen.announced("10.1.0.2:9443", 0.0)
    assert chosen.endpoint == "10.1.0.2:9443"
    assert chosen.proposal(CHANGE_PAUSE_S) is None


def test_behind_a_translator_host_and_port_are_taken_as_they_are_seen() -> None:
    chosen = choice()
    say(chosen, range(3), PUBLIC, at=public)
    assert chosen.proposal(0.0) == "198.51.100.7:40001"


def test_a_translator_that_shows_everybody_another_port_gives_nothing() -> None:
    chosen = choice()
    for number in range(10):
        say(chosen, [number], (PUBLIC[0], 40_000 + number), at=public)
    assert chosen.proposal(0.0) is None


def test_a_peer_counts_once_however_often_and_from_wherever_it_speaks() -> None:
    chosen = choice()
    for number in range(9):
        chosen.observed(node(1), private(number), THERE, 0.0)
    assert chosen.observations == 1


@pytest.mark.parametrize(
    "hosts",
    [
        ["10.9.0.1"] * 9,
        [f"5.5.5.{n}" for n in range(9)],
        [f"2001:db8::{n:x}" for n in range(9)],
        [f"fd00::{n:x}" for n in range(9)],
        [f"::ffff:5.5.5.{n}" for n in range(9)],
    ],
    ids=["one host", "one /24", "one /64", "one private /64", "one /24, mapped"],
)
def test_all_keys_of_one_owner_count_once(hosts: list[str]) -> None:
    chosen = choice()
    for number, host in enumerate(hosts):
        chosen.observed(node(number), host, PUBLIC, 0.0)
    assert chosen.observations == 1
    assert chosen.proposal(0.0) is None


def test_private_peers_count_by_host() -> None:
    chosen = choice()
    for number in range(3):
        chosen.observed(node(number), f"192.168.1.{number + 1}", THERE, 0.0)
    assert chosen.proposal(0.0) == format_endpoint(THERE)


def test_what_a_peer_says_later_counts_instead_of_what_it_said_before() -> None:
    chosen = choice()
    say(chosen, range(3), THERE)
    say(chosen, [0], OTHER_PUBLIC)
    assert chosen.observations == 3
    assert chosen.proposal(0.0) is None
    say(chosen, [0], THERE)
    assert chosen.proposal(0.0) == format_endpoint(THERE)


def test_what_was_said_long_ago_is_forgotten() -> None:
    chosen = choice()
    say(chosen, range(3), THERE)
    assert chosen.proposal(OBSERVATION_LIFE_S - 1) == format_endpoint(THERE)
    assert chosen.proposal(OBSERVATION_LIFE_S) is None
    assert chosen.observations == 0


def test_most_of_those_who_speak_must_agree() -> None:
    chosen = choice()
    say(chosen, range(3), THERE)
    say(chosen, range(3, 6), OTHER_PUBLIC)
    assert chosen.proposal(0.0) is None
    say(chosen, [6], THERE)
    assert chosen.proposal(0.0) == format_endpoint(THERE)


def test_who_is_seen_where_it_is_stays_until_twice_as_many_see_it_elsewhere() -> None:
    chosen = choice()
    say(chosen, range(3), HERE)
    say(chosen, range(3, 8), THERE)
    assert chosen.proposal(0.0) is None  # five of eight
    say(chosen, [8], THERE)
    assert chosen.proposal(0.0) == format_endpoint(THERE)


@given(st.lists(st.tuples(st.integers(0, 11), st.booleans()), min_size=1, max_size=60))
def test_two_camps_pull_it_to_and_fro_no_oftener_than_a_third_of_all_changes_sides(
    said: list[tuple[int, bool]],
) -> None:
    chosen, now, flips, said_by = choice(), 0.0, 0, dict.fromkeys(range(12), True)
    say(chosen, range(12), HERE)
    changes = 0
    for number, is_here in said:
        now += 2.0  # the whole story is shorter than what was said lives
        changes += said_by[number] is not is_here
        said_by[number] = is_here
        say(chosen, [number], HERE if is_here else THERE, now=now)
        endpoint = chosen.proposal(now)
        if endpoint is not None:
            chosen.announced(endpoint, now)
            flips += 1
    assert flips <= (changes + 4) // 4


def test_nobody_makes_it_change_more_than_once_in_a_minute() -> None:
    chosen = choice()
    say(chosen, range(9), THERE)
    chosen.announced(chosen.proposal(5.0) or "", 5.0)
    say(chosen, range(9), HERE, now=6.0)
    assert chosen.proposal(5.0 + CHANGE_PAUSE_S - 1) is None
    assert chosen.proposal(5.0 + CHANGE_PAUSE_S) == format_endpoint(HERE)


# -- private and public ---------------------------------------------------------------------------------------------


def test_a_private_address_told_from_far_away_is_nonsense() -> None:
    chosen = choice()
    say(chosen, range(9), THERE, at=public)
    assert chosen.observations == 0


def test_a_public_address_is_not_given_up_for_a_private_one_while_somebody_far_away_is_there() -> None:
    chosen = choice(PUBLIC)
    say(chosen, range(9), THERE)
    say(chosen, [9], PUBLIC, at=public)
    assert chosen.proposal(0.0) is None
    say(chosen, [9], THERE)  # now it is near, too
    assert chosen.proposal(0.0) == format_endpoint(THERE)


def test_a_public_address_takes_the_place_of_a_private_one() -> None:
    chosen = choice()
    say(chosen, range(2), HERE)
    say(chosen, range(2, 6), PUBLIC, at=public)
    assert chosen.proposal(0.0) == format_endpoint(PUBLIC)


@pytest.mark.parametrize(
    "address", [("127.0.0.1", PORT), ("::1", PORT), ("169.254.7.7", PORT), ("fe80::7", PORT), ("fd00::7%eth0", PORT)]
)
def test_what_means_nothing_elsewhere_is_not_taken(address: Address) -> None:
    chosen = choice()
    say(chosen, range(9), address)
    assert chosen.observations == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "::1", "::ffff:127.0.0.1"])
def test_who_is_on_our_machine_sees_nothing_of_use(host: str) -> None:
    chosen = choice()
    chosen.observed(node(1), host, PUBLIC, 0.0)
    assert chosen.observations == 0


# -- the route --------------------------------------------------------------------------------------------------------


def test_another_address_of_our_own_counts_at_once_and_what_was_seen_elsewhere_no_more() -> None:
    chosen = choice()
    say(chosen, range(9), PUBLIC, at=public)
    assert chosen.route_is("10.1.0.1") is None
    assert chosen.observations == 9
    assert chosen.route_is("192.168.1.5") == "192.168.1.5:9443"
    chosen.announced("192.168.1.5:9443")
    assert (chosen.endpoint, chosen.observations) == ("192.168.1.5:9443", 0)
    assert chosen.route_is("192.168.1.5") is None


def test_the_route_does_not_undo_what_peers_have_said() -> None:
    chosen = choice()
    say(chosen, range(3), PUBLIC, at=public)
    chosen.announced(chosen.proposal(0.0) or "", 0.0)
    assert chosen.route_is(HERE[0]) is None
    assert chosen.endpoint == format_endpoint(PUBLIC)


def test_after_a_move_peers_may_speak_at_once() -> None:
    chosen = choice()
    say(chosen, range(3), PUBLIC, at=public)
    chosen.announced(chosen.proposal(0.0) or "", 0.0)
    chosen.announced(chosen.route_is("192.168.1.5") or "")
    say(chosen, range(3), OTHER_PUBLIC, now=1.0, at=public)
    assert chosen.proposal(1.0) == format_endpoint(OTHER_PUBLIC)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "::ffff:0.0.0.0", "127.0.0.1", "::1"])
def test_no_route_makes_it_unspecified_or_what_only_we_can_reach(host: str) -> None:
    chosen = choice()
    assert chosen.route_is(host) is None
    assert chosen.route_is(HERE[0]) is None


def test_the_first_route_counts_when_there_was_none_to_begin_with() -> None:
    chosen = EndpointChoice("127.0.0.1:9443", port=PORT, route_host=None)
    assert chosen.route_is("10.1.0.1") == "10.1.0.1:9443"


def test_a_scope_of_ours_is_not_told() -> None:
    assert choice().route_is("fe80::7%eth0") == "[fe80::7]:9443"


def test_a_route_to_where_we_are_already_is_no_change() -> None:
    chosen = EndpointChoice("10.1.0.1:9443", port=PORT, route_host=None)
    assert chosen.route_is("10.1.0.1") is None


# -- invariants -------------------------------------------------------------------------------------------------------

addresses = st.sampled_from([HERE, THERE, PUBLIC, OTHER_PUBLIC, ("2001:db8::7", PORT), (HERE[0], 1)])
observers = st.tuples(st.integers(0, 40), st.booleans())


@given(
    start=addresses,
    true=addresses,
    honest=st.integers(0, OBSERVERS_MAX),
    lies=st.lists(st.tuples(addresses, st.booleans()), max_size=OBSERVERS_MAX),
    order=st.randoms(use_true_random=False),
)
def test_a_minority_never_moves_it(
    start: Address, true: Address, honest: int, lies: list[tuple[Address, bool]], order: random.Random
) -> None:
    assume(len(lies) <= honest)
    assume(len(lies) + honest <= OBSERVERS_MAX)
    chosen = choice(start)
    said = [(number, true, private(number)) for number in range(honest)]
    said += [
        (100 + number, address, public(number) if is_public else private(100 + number))
        for number, (address, is_public) in enumerate(lies)
    ]
    order.shuffle(said)
    for number, address, host in said:
        chosen.observed(node(number), host, address, 0.0)
    assert chosen.proposal(0.0) in (None, format_endpoint(true))


@given(st.dictionaries(st.integers(0, 9), addresses, max_size=9), st.booleans(), st.data())
def test_in_which_order_different_peers_have_spoken_does_not_matter(
    said: dict[int, Address], is_public: bool, data: st.DataObject
) -> None:
    proposals = set()
    for order in (list(said), data.draw(st.permutations(list(said)))):
        chosen = choice()
        for number in order:
            say(chosen, [number], said[number], at=public if is_public else private)
        proposals.add(chosen.proposal(0.0))
    assert len(proposals) == 1


@given(st.lists(st.tuples(observers, addresses, st.floats(0, 5000), st.booleans()), max_size=80))
def test_memory_is_bounded_and_what_is_chosen_was_said_by_enough(
    said: list[tuple[tuple[int, bool], Address, float, bool]],
) -> None:
    chosen, now, last = choice(), 0.0, {}
    for (number, is_public), address, pause_s, does_announce in said:
        now += pause_s
        host = public(number) if is_public else private(number)
        chosen.observed(node(number), host, address, now)
        last[number] = address
        assert chosen.observations <= OBSERVERS_MAX
        endpoint = chosen.proposal(now)
        if endpoint is not None:
            assert sum(format_endpoint(other) == endpoint for other in last.values()) >= OBSERVERS_MIN
            assert endpoint != chosen.endpoint
            if does_announce:
                chosen.announced(endpoint, now)


def test_the_latest_speakers_count() -> None:
    chosen = choice()
    say(chosen, range(OBSERVERS_MAX), HERE)
    say(chosen, range(100, 100 + OBSERVERS_MAX), THERE)
    assert chosen.observations == OBSERVERS_MAX
    assert chosen.proposal(0.0) == format_endpoint(THERE)

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from macula_trio._pubsub.topics import is_pattern, matches, validate_pattern, validate_topic
from macula_trio._util import NAME_BYTES_MAX

VECTORS: Final = json.loads((Path(__file__).parents[1] / "vectors" / "topics.json").read_text(encoding="utf-8"))

SEGMENTS: Final = st.sampled_from(["a", "b", "", "a*"])
TOPICS: Final = st.lists(SEGMENTS, min_size=1, max_size=7).map(".".join)
PATTERNS: Final = st.lists(st.one_of(SEGMENTS, st.sampled_from(["*", "**", "#"])), min_size=1, max_size=6).map(".".join)


@pytest.mark.parametrize("row", VECTORS["matches"], ids=lambda row: f"{row['pattern']}|{row['topic']}")
def test_patterns_match_as_in_the_original(row: dict[str, str | bool]) -> None:
    pattern, topic = str(row["pattern"]), str(row["topic"])
    # The client's matcher knows no `#`, the topic module's no `**`; we know both.
    verdict = row["pubsub_topic" if "#" in pattern.split(".") else "utils_dot_star_starstar"]
    assert matches(pattern, topic) is verdict


@pytest.mark.parametrize("row", VECTORS["validate"], ids=lambda row: repr(row["name"]))
def test_names_are_judged_as_in_the_original(row: dict[str, str]) -> None:
    name = row["name"]
    if row["names_validate"] == "ok":
        assert validate_topic(name) == validate_pattern(name) == name
    else:
        with pytest.raises(ValueError, match="topic .* is not valid"):
            validate_topic(name)
    # The original takes wildcards inside a segment, where they match nothing; that is only ever a mistake.
    if row["pubsub_topic_validate"] == "ok" and name != "a.b*c":
        assert validate_pattern(name) == name
    else:
        with pytest.raises(ValueError, match="pattern .* is not valid"):
            validate_pattern(name)


@pytest.mark.parametrize("name", ["a.***", "a.##", "*a", "a\n", "\u00e4", "a.*\n", "a b.*"])
def test_a_wildcard_is_a_whole_segment_and_the_rest_plain_ascii(name: str) -> None:
    for validate in (validate_topic, validate_pattern):
        with pytest.raises(ValueError, match="is not valid") as caught:
            validate(name)
        assert "\n" not in str(caught.value)


def test_names_have_at_most_255_bytes() -> None:
    longest = "ab." * 85
    assert len(longest) == NAME_BYTES_MAX
    name, pattern = longest[:-1] + "x", longest[:-1] + "*"
    assert validate_topic(name) == name
    assert matches(longest[:-2] + "*", name) is False
    assert matches("**", name)
    assert not matches("**", name + "x")
    for validate in (validate_topic, validate_pattern):
        with pytest.raises(ValueError, match="255"):
            validate(name + "x")
    with pytest.raises(ValueError, match="is not valid"):
        validate_pattern(pattern)
    assert validate_pattern("*." * 127 + "*")


@pytest.mark.parametrize(
    ("name", "verdict"),
    [("a.b", False), ("a.*", True), ("**", True), ("#.a", True), ("a.b*", False), ("", False), ("a.**.b", True)],
)
def test_a_name_with_a_wildcard_segment_is_a_pattern(name: str, verdict: bool) -> None:
    assert is_pattern(name) is verdict


def _by_definition(pattern: list[str], topic: list[str]) -> bool:
    """What matching means, by recursion: exponential, and therefore only for small names."""
    if not pattern:
        return not topic
    if pattern[0] in ("**", "#"):
        return any(_by_definition(pattern[1:], topic[n:]) for n in range(len(topic) + 1))
    return bool(topic) and pattern[0] in ("*", topic[0]) and _by_definition(pattern[1:], topic[1:])


@given(PATTERNS, TOPICS)
def test_matching_is_what_its_definition_says(pattern: str, topic: str) -> None:
    assert matches(pattern, topic) is _by_definition(pattern.split("."), topic.split("."))


@given(TOPICS)
def test_a_topic_matches_itself_and_every_wildcard_that_covers_it(topic: str) -> None:
    assert matches(topic, topic)
    assert matches("**", topic)
    assert matches(".".join("*" for _ in topic.split(".")), topic)


def test_many_wildcards_cost_no_more_than_their_number() -> None:
    # By backtracking this would outlast the universe.
    assert not matches("**.a." * 42 + "b", "a." * 127)
    assert matches(".".join(["**"] * 85), "a." * 127)


@given(st.text(max_size=300), st.text(max_size=300))
def test_matching_takes_any_text(pattern: str, topic: str) -> None:
    assert matches(pattern, topic) in (True, False)

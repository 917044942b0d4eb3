"""Who here wants a topic."""

from __future__ import annotations

from typing import Final

from hypothesis import given
from hypothesis import strategies as st

from macula_trio._pubsub.index import PatternIndex
from macula_trio._pubsub.topics import is_pattern, is_topic, matches

WORDS: Final = st.sampled_from(["a", "b"])
TOPICS: Final = st.lists(WORDS, min_size=1, max_size=6).map(".".join)
PATTERNS: Final = st.lists(st.one_of(WORDS, st.sampled_from(["*", "**", "#"])), min_size=1, max_size=6).map(".".join)
ENTRIES: Final = st.tuples(PATTERNS, st.integers(0, 3))


@given(st.lists(st.tuples(st.booleans(), ENTRIES)), st.lists(TOPICS, max_size=4))
def test_it_finds_what_a_comparison_with_every_pattern_finds(
    steps: list[tuple[bool, tuple[str, int]]], topics: list[str]
) -> None:
    index, model = PatternIndex[int](), dict[tuple[str, int], None]()
    for is_there, (pattern, thing) in steps:
        others = [entry for entry in model if entry[0] == pattern and entry != (pattern, thing)]
        if is_there:
            assert index.add(pattern, thing) is (not others and (pattern, thing) not in model)
            model[pattern, thing] = None
        elif (pattern, thing) in model:
            del model[pattern, thing]
            assert index.remove(pattern, thing) is (not others)
    for topic in topics:
        found = index.wanting(topic)
        assert len(found) == len(set(found))
        assert set(found) == {thing for pattern, thing in model if matches(pattern, topic)}
    for pattern, thing in list(model):
        index.remove(pattern, thing)
    assert (index._topics, index._prefixes) == ({}, {}), "nothing is left of what was removed"


def test_the_last_thing_of_a_pattern_takes_it_along() -> None:
    index = PatternIndex[int]()
    for pattern in ("a", "a.*"):
        assert [index.add(pattern, thing) for thing in (1, 2)] == [True, False]
        assert [index.remove(pattern, thing) for thing in (1, 2)] == [False, True]


def test_patterns_of_one_prefix_are_told() -> None:
    index = PatternIndex[int]()
    for pattern in ("a.*", "a.**", "b.*", "a.b", "**", "a.b.*"):
        index.add(pattern, 1)
    assert index.beside("a.*.c") == ["a.*", "a.**"]
    assert index.beside("#") == ["**"]
    assert index.beside("c.*") == []
    assert list(index._prefixes) == ["a", "b", "", "a.b"], "asking leaves nothing"


@given(st.text(max_size=300))
def test_what_is_no_topic_is_wanted_by_nobody(text: str) -> None:
    index = PatternIndex[int]()
    index.add("**", 1)
    assert index.wanting(text) == ([1] if is_topic(text) else [])
    if is_topic(text):
        assert not is_pattern(text)


def test_a_topic_of_a_stranger_has_no_wildcards_and_no_end() -> None:
    index = PatternIndex[int]()
    for pattern in ("**", "a.*", "*"):
        index.add(pattern, 1)
    for text in ("a.*", "**", "", "a.", "a\n", "a" * 256, "a b"):
        assert index.wanting(text) == []
    assert index.wanting("a" * 255) == [1]

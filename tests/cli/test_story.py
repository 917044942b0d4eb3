"""A trace told for people, and two of them side by side."""

from __future__ import annotations

import ast
import json
import unicodedata
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

import macula_trio
from macula_trio import dht_key
from macula_trio._cli.compare import first_difference, show_difference
from macula_trio._cli.story import LAST_LINES, LINES_MAX, tell

pytestmark = pytest.mark.thorough

WIDTH: Final = 80
ID: Final = "ab" * 32


def line(t_s: float, node: str, event: str, /, **facts: Any) -> str:
    fields = {"t_us": round(t_s * 1e6), "node": node, "event": event, "facts": facts}
    return json.dumps(fields, sort_keys=True, separators=(",", ":"))


def is_safe(text: str) -> bool:
    """Whether a terminal writes it and does nothing else."""
    return all(unicodedata.category(character) not in ("Cc", "Cs") for character in text)


def texts(*trace: str) -> list[str]:
    return [text for text, _ in tell(trace).texts(WIDTH)]


def called(t_s: float, node: str, *, provider: str = "edge3", seconds: float = 0.0021) -> str:
    facts = {"procedure": "test.calculator.add", "call_id": ID[:32], "provider": provider, "hops": 1}
    return line(t_s, node, "rpc.called", **facts, seconds=seconds)


def test_a_call_says_who_what_and_when() -> None:
    assert texts(called(0.0131, "edge2")) == [
        "    0.0131 s  edge2  called test.calculator.add on edge3 in 1 hop, 2.1 ms"
    ]


def test_what_happens_again_and_again_within_a_moment_is_one_line() -> None:
    calls = [called(1 + number / 100, "edge2", seconds=0.002 + number / 10_000) for number in range(40)]
    assert texts(*calls) == [
        "    1.0000 s  edge2  called test.calculator.add 40 times on edge3 in 1 hop, 2.0",
        "                     to 5.9 ms, over 0.39 s",
    ]


def test_nodes_that_do_the_same_are_counted() -> None:
    trace = [line(0, "*", "node.started", node=f"node{number}", endpoint="10.0.0.1:9443") for number in range(17)]
    trace += [line(0.02, f"node{number}", "node.joined", nodes=number + 1) for number in range(17)]
    assert texts(*trace) == [
        "    0.0000 s  17 nodes  started",
        "    0.0200 s  17 nodes  joined, knows 1 to 17 nodes",
    ]


def test_the_same_thing_much_later_is_another_line() -> None:
    trace = [line(t_s, "*", "node.stopped", node="edge1") for t_s in (1.0, 9.0)]
    assert [text[:10].strip() for text in texts(*trace)] == ["1.0000", "9.0000"]


def test_calls_of_different_procedures_are_told_apart_while_there_is_room() -> None:
    def trace(procedures: int) -> list[str]:
        return [
            line(0, "edge1", "rpc.failed", procedure=f"p{n}", reason="NoProviders: none") for n in range(procedures)
        ]

    assert len(texts(*trace(LINES_MAX))) == LINES_MAX
    assert texts(*trace(LINES_MAX + 1)) == [
        f"    0.0000 s  edge1  failed to call {LINES_MAX + 1} procedures: NoProviders: none {LINES_MAX + 1} times"
    ]


def test_a_long_run_is_told_in_longer_moments() -> None:
    trace = [called(float(second), "edge2") for second in range(3600)]
    (told,) = tell(trace).lines
    assert told.what.endswith("over 3.6e+03 s")
    assert tell(trace).told == 3600


def test_a_key_is_known_by_the_name_that_it_follows_from() -> None:
    stored = {"kind": "topic", "replicas": ["a", "b"], "refused": 0, "unreachable": 1}
    key = dht_key("test.messages").hex()
    published = line(2, "edge2", "pubsub.published", topic="test.messages", targets=["edge1", "edge3"], seconds=0.1)
    assert texts(line(1, "edge1", "dht.stored", key=key, **stored), published) == [
        "    1.0000 s  edge1  stored test.messages with 2 replicas, 1 unreachable node",
        "    2.0000 s  edge2  published on test.messages to 2 nodes",
    ]
    assert "stored abababababababab with" in texts(line(1, "edge1", "dht.stored", key=ID, **stored))[0]


def test_messages_are_told_with_what_became_of_them() -> None:
    facts = {"topic": "t", "publisher": "edge2", "message_id": ID, "subscription": 0}
    trace = [line(0, node, "pubsub.delivered", **facts, outcome="delivered") for node in ("a", "b", "b")]
    assert texts(*trace, line(0, "b", "pubsub.delivered", **facts, outcome="dropped")) == [
        "    0.0000 s  a, b  received t 3 times from edge2",
        "    0.0000 s  b     dropped: t from edge2",
    ]


def test_what_goes_on_all_the_time_is_only_counted() -> None:
    trace = [
        *[line(0, "a", "link.opened", peer="b")] * 3,
        line(0, "a", "dht.value_received", key=ID, outcome="stored"),
        line(0, "a", "rpc.served", procedure="p", outcome="ok"),
        line(0, "a", "rpc.served", procedure="p", caller="b", outcome="cancelled"),
        line(9, "*", "trace.summary", **{"link.opened": 7, "digest": "abc"}),
    ]
    story = tell(trace)
    assert story.counted == {"dht.value_received": 1, "link.opened": 10, "rpc.served": 1}
    assert [told.what for told in story.lines] == ["ran p for b, cancelled"]
    assert story.told == 1


def test_faults_are_told_and_marked() -> None:
    model = {"latency_s": 0.001, "jitter_s": 0.0, "loss": 0.05, "bandwidth_bytes_per_s": None}
    trace = [
        line(0, "*", "fault.link", source=None, target="a", **model),
        line(1, "*", "fault.partition", side=["a", "b"], others=None, one_way=False),
        line(2, "*", "fault.partition", side=["a"], others=["b"], one_way=True),
        line(3, "*", "fault.heal"),
        line(4, "*", "fault.crash", host="a"),
        line(5, "*", "fault.restart", host="a", keep_storage=True),
        line(5, "*", "fault.restart", host="a", keep_storage=False),
        line(6, "*", "fault.skew", host="a", skew_ms=-500),
        line(7, "*", "fault.earthquake", magnitude=6.5, where=["a", "b"], why=None),
    ]
    told = tell(trace).lines
    assert [(part.who, part.what) for part in told] == [
        ("network", "any to a: loss=0.05"),
        ("network", "cuts a, b off from everybody else"),
        ("network", "loses what goes from a to b"),
        ("network", "is whole again"),
        ("a", "crashed"),
        ("a", "lost all storage"),
        ("a", "clock is wrong by -500 ms"),
        ("network", "earthquake magnitude=6.5 where=a, b"),
    ]
    assert all(part.is_fault for part in told)


def test_a_note_of_the_scenario_stands_as_it_is() -> None:
    trace = [line(0, "*", "thunder.joined", nodes=100, seconds=0.1234567, ok=True, nobody=None, ids=[])]
    assert texts(*trace) == [
        "    0.0000 s  scenario  thunder.joined ids=[] nodes=100 ok=true seconds=0.123457",
    ]


def test_notes_that_differ_are_told_with_what_they_have_in_common() -> None:
    trace = [line(0, "*", "looked.up", by=f"node{number}", found=20) for number in range(5)]
    assert [told.what for told in tell(trace).lines] == ["looked.up 5 times found=20"]


def test_a_story_that_cannot_be_folded_keeps_its_beginning_and_its_end() -> None:
    trace = [line(number, "*", f"event.{number:03}") for number in range(100)]
    story = tell(trace)
    shown = texts(*trace)
    assert story.left_out == 100 - LINES_MAX
    assert len(shown) == LINES_MAX + 1
    assert shown[LINES_MAX - LAST_LINES].strip() == "...  60 lines left out"
    assert shown[0].endswith("event.000")
    assert shown[-1].endswith("event.099")


def test_a_terminal_never_meets_control_characters_of_a_trace() -> None:
    for text in texts(line(0, "a\x1b[2J", "note\x07", text="\x9b2J", more=["\x1b"])):
        assert is_safe(text)


def test_an_empty_trace_has_an_empty_story() -> None:
    assert tell([]).lines == ()


def emitted() -> list[str]:
    """Every event that the library emits, by its source."""
    found = set()
    for path in Path(macula_trio.__file__).parent.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)) if "emit(" in text or "_tell(" in text else ():  # most emit nothing
            is_emit = isinstance(node, ast.Call) and ast.unparse(node.func).endswith((".emit", "._tell"))
            if is_emit and isinstance(node, ast.Call) and node.args:
                found |= {n.value for n in ast.walk(node.args[0]) if isinstance(n, ast.Constant)}
    return sorted(name for name in found if isinstance(name, str))


def test_the_vocabulary_was_found() -> None:
    assert {"rpc.called", "dht.stored", "dht.withdrawn", "link.opened"} <= set(emitted())


@pytest.mark.parametrize("event", emitted())
def test_every_event_of_the_library_has_its_words(event: str) -> None:
    story = tell([line(0, "a", event, node="a", host="a")])
    assert all(event.removeprefix("fault.") not in told.what.split() for told in story.lines)


facts = st.dictionaries(
    st.sampled_from(["node", "nodes", "hops", "seconds", "replicas", "procedure", "topic", "note", "key", "outcome"]),
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(0, 99),
        st.floats(0, 9),
        st.text(max_size=90),
        st.lists(st.text() | st.lists(st.integers())),
    ),
)


@given(
    st.lists(
        st.tuples(st.floats(0, 4000), st.sampled_from(["a", "b" * 90, "*"]), st.sampled_from(["x.y", "note"]), facts),
        max_size=200,
    )
)
def test_any_notes_make_a_story_that_fits(happenings: list[tuple[float, str, str, dict[str, Any]]]) -> None:
    happenings.sort(key=lambda happening: happening[0])
    trace = [line(t_s, node, event, **some) for t_s, node, event, some in happenings]
    story = tell(trace)
    shown = [text for text, _ in story.texts(WIDTH)]
    assert len(story.lines) <= LINES_MAX
    assert all(len(text) <= WIDTH and is_safe(text) for text in shown)
    assert (story.told == 0) == (story.lines == ())


# -- two traces -------------------------------------------------------------------------------------------------------


def difference(one: list[str], other: list[str]) -> list[str]:
    return list(show_difference(one, other, names=("golden", "now"), width=WIDTH))


def test_equal_traces_have_no_difference() -> None:
    trace = [called(1, "a"), called(2, "b")]
    assert first_difference(trace, list(trace)) is None
    assert first_difference([], []) is None


def test_the_first_difference_is_shown_with_what_was_before_and_which_fact_it_is() -> None:
    before = [line(number, "*", "tick", number=number) for number in range(9)]
    golden = [*before, line(9, "edge2", "rpc.called", hops=1, seconds=0.0021), line(10, "*", "tick")]
    now = [*before, line(9, "edge2", "rpc.called", hops=1, seconds=0.0022), line(10, "*", "tock")]
    assert difference(golden, now) == [
        "The two part at line 10; golden has 11 lines, now has 11.",
        "",
        "            7  6.000000 s * tick number=6",
        "            8  7.000000 s * tick number=7",
        "            9  8.000000 s * tick number=8",
        "golden     10  9.000000 s edge2 rpc.called hops=1 seconds=0.0021",
        "now        10  9.000000 s edge2 rpc.called hops=1 seconds=0.0022",
        "",
        "facts.seconds differs:",
        "  golden  0.0021",
        "  now     0.0022",
    ]


@pytest.mark.parametrize("swapped", [False, True])
def test_a_trace_that_goes_on_longer_differs_where_the_other_ends(*, swapped: bool) -> None:
    short, long = [called(1, "a")], [called(1, "a"), line(2, "*", "more")]
    golden, now = (long, short) if swapped else (short, long)
    assert first_difference(golden, now) == 1
    ended, goes_on = ("now", "golden") if swapped else ("golden", "now")
    shown = difference(golden, now)
    assert f"{ended:<6}      2  (has ended)" in shown
    assert f"{goes_on:<6}      2  2.000000 s * more" in shown
    assert "differs" not in "".join(shown)


def test_of_a_long_value_the_part_that_differs_is_shown() -> None:
    one, other = (line(0, "a", "note", text="same " * 50 + end) for end in ("left", "right"))
    shown = difference([one], [other])
    assert shown[-2:] == ["  golden  ...e same same left", "  now     ...e same same right"]


def test_of_a_long_list_the_items_are_named_that_only_one_has() -> None:
    names = [f"node{number}" for number in range(30)]
    shown = difference([line(0, "a", "n", ids=names)], [line(0, "a", "n", ids=[*names[:12], *names[13:], "new"])])
    assert shown[-2:] == ["  golden  30 items, only here: node12", "  now     30 items, only here: new"]
    shown = difference([line(0, "a", "n", ids=names)], [line(0, "a", "n", ids=names[:20])])
    assert shown[-2].endswith("only here: node20, node21, node22, node23, node24 and 5 more")
    assert shown[-1] == "  now     20 items, all of them there as well"
    shown = difference([line(0, "a", "n", ids=["x", "y"])], [line(0, "a", "n", ids=["y", "x"])])
    assert shown[-2:] == ['  golden  ["x", "y"]', '  now     ["y", "x"]']


def test_another_event_and_a_fact_that_only_one_has_are_named() -> None:
    shown = difference([line(0, "a", "one", x=1)], [line(0, "b", "two", x=1, y=None)])
    assert [text for text in shown if text.endswith(":")] == [
        "node differs:",
        "event differs:",
        "facts.y differs:",
    ]
    assert shown[-2:] == ["  golden  (missing)", "  now     null"]


def test_a_golden_trace_that_is_damaged_is_shown_as_it_is() -> None:
    shown = difference(["rubbish\x1b[2J"], [line(0, "a", "one")])
    assert shown[2] == "golden      1  rubbish\\u001b[2J"
    assert all(is_safe(text) for text in shown)
    written_otherwise = line(0, "a", "one").replace(",", ", ")
    assert "only how the line is written" in difference([written_otherwise], [line(0, "a", "one")])[-1]


@given(st.lists(st.text(max_size=200), max_size=6), st.lists(st.text(max_size=200), max_size=6))
def test_any_difference_fits(one: list[str], other: list[str]) -> None:
    if one != other:
        assert all(len(text) <= WIDTH and is_safe(text) for text in difference(one, other))
    else:
        assert first_difference(one, other) is None

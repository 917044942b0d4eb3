"""Traces: one line per event, readable, comparable, bounded."""

from __future__ import annotations

import json

import pytest

from macula_trio.testing import _trace
from macula_trio.testing._trace import Trace, TraceTooLong


def test_a_line_is_json_with_sorted_keys_and_time_in_microseconds() -> None:
    trace = Trace()
    trace.add(1.0000014, "edge1", "link.opened", {"peer": None, "dialed": True})
    assert trace.lines == ['{"event":"link.opened","facts":{"dialed":true,"peer":null},"node":"edge1","t_us":1000001}']


def test_node_ids_become_names_alone_and_in_lists() -> None:
    trace = Trace()
    trace.name("aa" * 32, "edge1")
    trace.add(0, "n", "e", {"peer": "aa" * 32, "replicas": ["bb" * 32, "aa" * 32], "text": "to " + "aa" * 32})
    facts = json.loads(trace.lines[0])["facts"]
    assert facts == {"peer": "edge1", "replicas": ["bb" * 32, "edge1"], "text": "to " + "aa" * 32}


def test_what_is_summarised_has_no_line_and_still_counts_in_the_hash() -> None:
    def run(*seconds: float) -> Trace:
        trace = Trace()
        trace.summarise("link.", "dht.value_received")
        trace.add(0, "n", "dht.stored", {})
        for second in seconds:
            trace.add(second, "n", "link.opened", {})
        trace.finish(9)
        return trace

    trace = run(1, 2)
    assert [json.loads(line)["event"] for line in trace.lines] == ["dht.stored", "trace.summary"]
    assert json.loads(trace.lines[1])["facts"]["link.opened"] == 2
    assert trace.hash == run(1, 2).hash
    assert trace.hash != run(2, 1).hash  # another order


def test_without_summaries_there_is_no_last_line() -> None:
    trace = Trace()
    trace.add(0, "n", "e", {})
    trace.finish(1)
    assert len(trace.lines) == 1


def test_the_hash_tells_lines_apart() -> None:
    one, two = Trace(), Trace()
    one.add(0, "n", "e", {"a": 1})
    two.add(0, "n", "e", {"a": 2})
    assert one.hash != two.hash
    assert len(one.hash) == 64


def test_a_trace_that_grows_beyond_all_bounds_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_trace, "LINES_MAX", 2)
    trace = Trace()
    trace.add(0, "n", "e", {})
    trace.add(0, "n", "e", {})
    with pytest.raises(TraceTooLong, match="summarise"):
        trace.add(0, "n", "e", {})

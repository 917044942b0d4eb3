from __future__ import annotations

import pytest

from macula_trio._events import Event, EventBus


def bus(*times: float) -> EventBus:
    clock = iter(times)
    return EventBus(lambda: next(clock))


def test_every_listener_gets_every_event_in_order() -> None:
    events = bus(1.5, 2.5)
    heard: list[tuple[str, Event]] = []
    events.listen(lambda event: heard.append(("first", event)))
    events.listen(lambda event: heard.append(("second", event)))
    events.emit("link.opened", peer="ab", hops=2)
    events.emit("link.closed")
    opened, closed = Event(1.5, "link.opened", {"peer": "ab", "hops": 2}), Event(2.5, "link.closed", {})
    assert heard == [("first", opened), ("second", opened), ("first", closed), ("second", closed)]


def test_nobody_is_told_what_happened_before() -> None:
    events = bus(1.0)
    heard: list[Event] = []
    events.emit("early")  # would fail if it asked the clock: it is free of charge
    events.listen(heard.append)
    events.emit("late")
    assert heard == [Event(1.0, "late", {})]


def test_whoever_stops_listening_hears_nothing_more() -> None:
    events = bus(1.0, 2.0)
    first: list[Event] = []
    second: list[Event] = []
    events.listen(first.append)
    events.listen(second.append)
    events.emit("one")
    events.unlisten(first.append)
    events.emit("two")
    assert [event.name for event in first] == ["one"]
    assert [event.name for event in second] == ["one", "two"]


def test_listening_twice_is_undone_once_at_a_time() -> None:
    events = bus(1.0)
    heard: list[Event] = []
    events.listen(heard.append)
    events.listen(heard.append)
    events.unlisten(heard.append)
    events.emit("one")
    assert len(heard) == 1
    events.unlisten(heard.append)
    with pytest.raises(ValueError, match="."):
        events.unlisten(heard.append)


def test_a_listener_may_leave_or_join_while_it_listens() -> None:
    events = bus(1.0, 2.0)
    heard: list[str] = []

    def once(event: Event) -> None:
        heard.append(f"once {event.name}")
        events.unlisten(once)
        events.listen(lambda later: heard.append(f"joined {later.name}"))

    events.listen(once)
    events.listen(lambda event: heard.append(f"steady {event.name}"))
    events.emit("one")
    events.emit("two")
    assert heard == ["once one", "steady one", "steady two", "joined two"]


def test_a_fact_may_be_called_like_a_parameter() -> None:
    events = bus(1.0)
    heard: list[Event] = []
    events.listen(heard.append)
    events.emit("x", name="n", self="s", time_s=3.0)
    assert heard == [Event(1.0, "x", {"name": "n", "self": "s", "time_s": 3.0})]

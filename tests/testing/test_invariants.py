"""What must hold in every run is seen when it does not."""

from __future__ import annotations

from macula_trio.testing._invariants import CALL_ONCE, MESSAGE_ONCE, Invariants


def started(call_id: str) -> dict[str, str | int | float | bool | list[str] | None]:
    return {"call_id": call_id, "outcome": "ok"}


def delivered(message_id: str, subscription: int = 1) -> dict[str, str | int | float | bool | list[str] | None]:
    return {"message_id": message_id, "subscription": subscription, "topic": "t"}


def test_different_calls_and_messages_are_no_violation() -> None:
    invariants = Invariants()
    assert invariants.observe("a", 1, "rpc.started", started("01")) is None
    assert invariants.observe("a", 1, "rpc.started", started("02")) is None
    assert invariants.observe("b", 1, "rpc.called", started("01")) is None
    assert invariants.observe("a", 1, "pubsub.delivered", delivered("01")) is None
    assert invariants.observe("a", 1, "pubsub.delivered", delivered("02")) is None
    assert invariants.observe("a", 1, "pubsub.delivered", delivered("01", subscription=2)) is None
    assert invariants.observe("b", 1, "pubsub.delivered", delivered("01")) is None
    assert invariants.observe("a", 2, "pubsub.delivered", delivered("01")) is None  # started anew, numbered anew
    assert invariants.checked == {CALL_ONCE: 3, MESSAGE_ONCE: 5}


def test_a_call_that_runs_at_a_second_provider_or_twice_at_one_is_a_violation() -> None:
    for second in ("a", "b"):
        invariants = Invariants()
        invariants.observe("a", 1, "rpc.started", started("01"))
        violation = invariants.observe(second, 1, "rpc.started", started("01"))
        assert violation is not None
        assert violation.invariant == CALL_ONCE
        assert str(violation) == f"{CALL_ONCE}: 01 was run by a, then {second}"


def test_a_call_that_may_be_repeated_may_run_once_more_for_each_time() -> None:
    invariants = Invariants()
    invariants.observe("a", 1, "rpc.started", started("01"))
    assert invariants.observe("c", 1, "rpc.repeated", started("01")) is None
    assert invariants.observe("b", 1, "rpc.started", started("01")) is None
    assert invariants.observe("b", 1, "rpc.started", started("01")) is not None


def test_a_call_that_is_answered_twice_is_a_violation() -> None:
    invariants = Invariants()
    invariants.observe("a", 1, "rpc.called", started("01"))
    violation = invariants.observe("a", 1, "rpc.called", started("01"))
    assert violation is not None
    assert violation.invariant == CALL_ONCE


def test_a_message_that_comes_twice_to_one_subscription_is_a_violation() -> None:
    invariants = Invariants()
    invariants.observe("a", 1, "pubsub.delivered", delivered("01"))
    violation = invariants.observe("a", 1, "pubsub.delivered", delivered("01"))
    assert violation is not None
    assert str(violation) == f"{MESSAGE_ONCE}: 01 on t to subscription 1 of a"


def test_other_events_are_no_check() -> None:
    invariants = Invariants()
    assert invariants.observe("a", 1, "link.opened", {}) is None
    assert not invariants.checked

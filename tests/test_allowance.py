from __future__ import annotations

from typing import Any, Final

import pytest

from macula_trio._authorisation import Allowance, read_rule
from macula_trio._ids import NodeId
from macula_trio._util import shown

FRIEND, STRANGER = NodeId(bytes(32)), NodeId(bytes(31) + b"\1")


async def hurried(_node_id: NodeId) -> bool:
    return True


def judged(rule: Any, who: NodeId | None, *about: str) -> tuple[bool, list[str]]:
    """The verdict, and what failed on the way to it."""
    failures: list[str] = []
    verdict = Allowance(read_rule(rule, what="allow")).permits(
        who, *about, failed=lambda exc: failures.append(type(exc).__name__)
    )
    return verdict, failures


@pytest.mark.parametrize("who", [FRIEND, STRANGER, None])
def test_without_a_rule_everybody_may(who: NodeId | None) -> None:
    assert judged(None, who) == (True, [])


@pytest.mark.parametrize("rule", [[FRIEND], (FRIEND,), {FRIEND}, {FRIEND: "a friend"}, iter([FRIEND])])
def test_only_the_ids_of_a_list_may(rule: Any) -> None:
    node_ids = read_rule(rule, what="allow")
    assert node_ids == (FRIEND,)
    assert judged(node_ids, FRIEND) == (True, [])
    assert judged(node_ids, STRANGER) == judged(node_ids, None) == (False, [])


def test_an_empty_list_lets_nobody() -> None:
    assert judged([], FRIEND) == (False, [])


def test_a_function_is_asked_about_whoever_has_proven_an_id_and_about_nobody_else() -> None:
    asked: list[tuple[object, ...]] = []

    def rule(who: NodeId, topic: str) -> bool:
        asked.append((who, topic))
        return who == FRIEND

    assert judged(rule, FRIEND, "a.b") == (True, [])
    assert judged(rule, STRANGER, "a.c") == (False, [])
    assert judged(rule, None, "a.d") == (False, [])
    assert asked == [(FRIEND, "a.b"), (STRANGER, "a.c")]


@pytest.mark.parametrize(
    ("rule", "failure"),
    [
        (lambda _who: 1 // 0, "ZeroDivisionError"),
        (lambda: True, "TypeError"),
        (lambda _who: 1, "TypeError"),
        (lambda _who: "no", "TypeError"),
        (lambda _who: None, "TypeError"),
    ],
)
def test_a_function_that_fails_or_gives_no_clear_answer_refuses(rule: Any, failure: str) -> None:
    assert judged(rule, FRIEND) == (False, [failure])


BAD: Final = [
    ("friend", "allow: 'friend' is neither a list of ids, such as [NodeId.from_hex(...)], nor a function"),
    (bytes(3), "allow: b'\\x00\\x00\\x00' is neither a list of ids, such as [NodeId.from_hex(...)], nor a function"),
    (5, "allow: 5 is neither a list of ids, such as [NodeId.from_hex(...)], nor a function"),
    (True, "allow: True is neither a list of ids, such as [NodeId.from_hex(...)], nor a function"),
    (FRIEND, f"allow: {FRIEND!r} is one node; write a list of ids: [{FRIEND!r}]"),
    ([FRIEND, "ab"], "allow: 'ab' is not a NodeId; make one by NodeId.from_hex or NodeId(...)"),
    ([bytes(32)], f"allow: {shown(bytes(32))} is not a NodeId; make one by NodeId.from_hex or NodeId(...)"),
]


@pytest.mark.parametrize(("rule", "complaint"), BAD)
def test_what_is_no_rule_is_named_with_the_mend(rule: Any, complaint: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 -- the whole text is looked at
        read_rule(rule, what="allow")
    assert str(error.value) == complaint


def test_an_async_function_would_always_say_yes_and_is_refused() -> None:
    with pytest.raises(ValueError, match=r"allow: <function hurried .* is an async function"):
        read_rule(hurried, what="allow")  # type: ignore[arg-type]

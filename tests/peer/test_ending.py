"""Two sides end a link in order, over streams that carry what was said before the end (a model, all interleavings)."""

from __future__ import annotations

from hypothesis import assume, given
from hypothesis import strategies as st

from macula_trio._peer.ending import Ending, Step


class Side:
    """One side of a link: what it says, hears and has asked."""

    def __init__(self, *, is_dialed: bool) -> None:
        self.ending = Ending()
        self.is_dialed = is_dialed
        self.out: list[str] = []
        self.alone: list[str] = []  # on streams of their own
        self.heard: list[str] = []
        self.said = 0
        self.asks = self.works = 0
        self.has_closed = False

    def act(self) -> None:
        while not self.has_closed:
            step = self.ending.next_step(asks=self.asks, works=self.works > 0, has_queued=False)
            if step is Step.FINISH:
                assert "end" not in self.out
                self.out.append("end")
                self.ending.has_finished = True
            elif step is Step.CLOSE:
                self.has_closed = True
            else:
                return

    def say(self, what: str) -> None:
        self.said += 1
        (self.alone if self.ending.has_finished else self.out).append(what)


def deliver(source: Side, target: Side, *, alone: bool) -> None:
    queue = source.alone if alone else source.out
    if not queue:
        return
    what = queue.pop(0)
    if what == "end":
        target.ending.peer_has_finished = True
        if not target.ending.has_begun:
            target.ending.begin(is_replaced=False, is_dialed=target.is_dialed)
    else:
        target.heard.append(what)
        if what == "ask":
            target.works += 1
        elif what == "answer":
            target.asks -= 1
    target.act()


WHAT = ("note", "ask", "answer", "hear", "hear alone", "end")
actions = st.lists(st.tuples(st.integers(0, 1), st.sampled_from(WHAT)))


class Scene:
    """Two sides; with ``is_replaced`` both know it at once, as when another link has come, which took the asks over."""

    def __init__(self, *, is_replaced: bool) -> None:
        self.is_replaced = is_replaced
        self.sides = (Side(is_dialed=True), Side(is_dialed=False))
        self.has_begun = False

    def do(self, who: int, what: str) -> None:
        side, other = self.sides[who], self.sides[1 - who]
        if what == "end":
            self.end(side)
        elif what.startswith("hear"):
            deliver(other, side, alone=what == "hear alone")
        elif what == "answer" and side.works:
            side.works -= 1
            side.say("answer")
            side.act()
        elif what in ("note", "ask") and not side.ending.has_begun:
            side.asks += what == "ask"
            side.say(what)
        if any(one.has_closed for one in self.sides):
            assert not any(one.out or one.alone for one in self.sides), "a close would lose it"

    def end(self, side: Side) -> None:
        if self.has_begun or any(one.asks or one.works for one in self.sides):
            return
        self.has_begun = True
        for one in self.sides if self.is_replaced else (side,):
            one.ending.begin(is_replaced=self.is_replaced, is_dialed=one.is_dialed)
        for one in self.sides:
            one.act()


@given(actions, st.booleans())
def test_nothing_is_lost_whoever_ends_it_and_when(steps: list[tuple[int, str]], is_replaced: bool) -> None:
    scene = Scene(is_replaced=is_replaced)
    for who, what in [*steps, (0, "end")]:
        scene.do(who, what)
    assume(scene.has_begun)
    for _ in range(len(steps) + 2):
        for who in (0, 1):
            for what in ("hear", "hear alone", "answer"):
                scene.do(who, what)
    one, other = scene.sides
    assert one.has_closed or other.has_closed, "it ends"
    assert (len(one.heard), len(other.heard)) == (other.said, one.said), "and everything was heard before"
    assert one.asks == other.asks == 0


def test_a_replacement_that_died_is_taken_back_while_the_last_was_not_said() -> None:
    waits, leads = Ending(), Ending()
    waits.begin(is_replaced=True, is_dialed=False)
    assert waits.next_step(asks=0, works=False, has_queued=False) is None
    assert waits.retract()
    assert not waits.is_under_way
    leads.begin(is_replaced=True, is_dialed=True)
    assert leads.next_step(asks=0, works=False, has_queued=False) is Step.FINISH
    leads.has_finished = True
    assert not leads.retract()


def test_nobody_says_that_all_is_heard_while_something_waits_for_an_earlier_link() -> None:
    """Whoever closed would lose it, or act on it before its turn."""
    follows, leads = Ending(), Ending()
    follows.begin(is_replaced=True, is_dialed=False)
    leads.begin(is_replaced=True, is_dialed=True)
    leads.has_finished = True
    for ending in (follows, leads):
        ending.peer_has_finished = True
        assert ending.next_step(asks=0, works=False, has_queued=True) is None
    assert follows.next_step(asks=0, works=False, has_queued=False) is Step.FINISH
    assert leads.next_step(asks=0, works=False, has_queued=False) is Step.CLOSE

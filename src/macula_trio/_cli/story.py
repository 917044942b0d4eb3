"""A trace told for people: who did what, and when, in at most some forty lines.

Pure.  Like events within a moment become one line; how long a moment is follows from the run, as short as the lines
allow.  What goes on all the time, such as links that open, is only counted.
"""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import attrs

from macula_trio import dht_key
from macula_trio._cli.happenings import ALL_NODES, FAULT, SUMMARY, Happening, clip, escape, read_line
from macula_trio._cli.output import count
from macula_trio._cli.words import TELLINGS, Group, as_it_is, written

LINES_MAX: Final = 40  # a screen and a half
LAST_LINES: Final = 10  # of them are the end of a story that cannot be folded: there it went wrong
WHO_WIDTH: Final = 9  # of the column, "bootstrap" and "100 nodes" fit
ROOM_MIN: Final = 20  # for what happened, however narrow the terminal is

# Tried from the shortest on.  Within the first a handful of nodes starts, joins, calls and publishes.
MOMENTS_S: Final = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, math.inf)


@attrs.frozen
class StoryLine:
    """One line for people.

    Attributes:
      t_us: when it began, in virtual time.
      who: a name, or how many nodes.
      what: the rest.
      is_fault: whether the scenario did it to the network.
    """

    t_us: int
    who: str
    what: str
    is_fault: bool


@attrs.frozen(kw_only=True)
class Story:
    """What a trace tells.

    Attributes:
      lines: in the order in which they began.
      left_out: how many lines more there would have been.
      left_out_at: in front of which line.
      told: how many lines of the trace these are.
      counted: how often the events happened that are only counted, by name.
    """

    lines: tuple[StoryLine, ...]
    left_out: int
    left_out_at: int
    told: int
    counted: Mapping[str, int]

    def texts(self, width: int) -> Iterable[tuple[str, bool]]:
        """Lines of at most ``width`` columns, each with whether it is of a fault."""
        who_width = min(WHO_WIDTH, max((len(line.who) for line in self.lines), default=0))
        for index, line in enumerate(self.lines):
            if self.left_out and index == self.left_out_at:
                yield f"{'...':>12}  {count(self.left_out, 'line')} left out", False
            front = f"{line.t_us / 1e6:10.4f} s  {clip(line.who, who_width):<{who_width}}  "
            room = max(width - len(front), ROOM_MIN)
            parts = textwrap.wrap(escape(line.what), room, max_lines=2, placeholder="...") or [""]
            for part in parts:
                yield f"{front}{part}", line.is_fault
                front = " " * len(front)


def tell(trace: Iterable[str]) -> Story:
    """Make the story of a trace."""
    happenings = [read_line(line) for line in trace]
    counted: Counter[str] = Counter()
    told: list[Happening] = []
    for happening in happenings:
        if happening.event == SUMMARY:
            counted.update({name: number for name, number in happening.facts.items() if isinstance(number, int)})
        elif _is_quiet(happening):
            counted[happening.event] += 1
        else:
            told.append(happening)
    groups, names = _fold(told), _names_of_keys(happenings)
    lines = [_line(Group(group, names)) for group in groups]
    left_out = max(0, len(lines) - LINES_MAX)
    at = LINES_MAX - LAST_LINES
    return Story(
        lines=tuple(lines[:at] + lines[at + left_out :]),
        left_out=left_out,
        left_out_at=at,
        told=len(told),
        counted=dict(sorted(counted.items())),
    )


def _fold(told: Sequence[Happening]) -> list[list[Happening]]:
    """Put like events of a moment together, with the shortest moment that makes few enough lines."""
    for key in (_alike, _of_one_kind):
        for moment_s in MOMENTS_S:
            groups = _fold_by(told, key, moment_s, LINES_MAX)
            if groups is not None:
                return groups
    groups = _fold_by(told, _of_one_kind, math.inf, len(told))
    assert groups is not None
    return groups


def _fold_by(
    told: Sequence[Happening], key: Callable[[Happening], object], moment_s: float, groups_max: int
) -> list[list[Happening]] | None:
    """Put events together whose keys are equal and which are no more than a moment apart; None: too many groups."""
    groups: list[list[Happening]] = []
    latest: dict[object, list[Happening]] = {}
    for happening in told:
        group = latest.get(key(happening))
        if group is not None and happening.t_us - group[-1].t_us <= moment_s * 1e6:
            group.append(happening)
            continue
        if len(groups) == groups_max:
            return None
        latest[key(happening)] = group = [happening]
        groups.append(group)
    return groups


def _alike(happening: Happening) -> object:
    telling = TELLINGS.get(happening.event)
    facts = happening.facts
    return happening.event, *(str(facts.get(name)) for name in (telling.by if telling is not None else ()))


def _of_one_kind(happening: Happening) -> object:
    return happening.event


def _is_quiet(happening: Happening) -> bool:
    telling = TELLINGS.get(happening.event)
    return telling is not None and telling.quiet is not None and telling.quiet(happening.facts)


def _names_of_keys(happenings: Iterable[Happening]) -> dict[str, str]:
    """Names of procedures and topics by the DHT keys that follow from them, hexadecimal."""
    facts = (happening.facts.get(fact) for happening in happenings for fact in ("procedure", "topic"))
    spoken_of = dict.fromkeys(fact for fact in facts if isinstance(fact, str))
    return {dht_key(name).hex(): name for name in spoken_of}


def _line(group: Group) -> StoryLine:
    first = group.happenings[0]
    telling = TELLINGS.get(first.event)
    is_fault = first.event.startswith(FAULT)
    if telling is not None and telling.who is not None:
        who = _column([written(value) for value in group.values(telling.who)])
    elif first.node == ALL_NODES:
        who = "network" if is_fault else "scenario"
    else:
        who = _column(dict.fromkeys(happening.node for happening in group.happenings))
    what = telling.words(group) if telling is not None else as_it_is(group)
    return StoryLine(first.t_us, who, f"{what}{group.span()}", is_fault)


def _column(names: Iterable[str]) -> str:
    """Names of nodes, or how many they are when the column is too narrow."""
    distinct = list(names)
    text = ", ".join(distinct)
    return text if len(text) <= WHO_WIDTH or len(distinct) == 1 else count(len(distinct), "node")

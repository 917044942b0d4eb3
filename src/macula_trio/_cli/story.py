"""A trace told for people: who did what, and when, in at most some forty lines.

Pure.  Like events within a moment become one line; how long a moment is follows from the run, as short as the lines
allow.  What goes on all the time, such as links that open, is only counted.
"""

from __future__ import annotations

import json
import math
import re
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import attrs

from macula_trio import dht_key
from macula_trio._cli.output import ID_DIGITS, count
from macula_trio.testing._faults import LinkModel

LINES_MAX: Final = 40  # a screen and a half
LAST_LINES: Final = 10  # of them are the end of a story that cannot be folded: there it went wrong
NAMES_MAX: Final = 3  # as many are named; more are counted
QUOTED_MAX: Final = 40  # characters of a line that is none
WHO_WIDTH: Final = 9  # of the column, "bootstrap" and "100 nodes" fit
ROOM_MIN: Final = 20  # for what happened, however narrow the terminal is

# Tried from the shortest on.  Within the first a handful of nodes starts, joins, calls and publishes.
MOMENTS_S: Final = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, math.inf)
SPAN_S: Final = 0.1  # a shorter one is not told

ALL_NODES: Final = "*"  # in a trace: of the network, or of the scenario itself
FAULT: Final = "fault."
SUMMARY: Final = "trace.summary"

_CONTROLS: Final = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\ud800-\\udfff]")


@attrs.frozen
class Happening:
    """One line of a trace."""

    t_us: int
    node: str
    event: str
    facts: Mapping[str, Any]


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
            parts = textwrap.wrap(_escape(line.what), room, max_lines=2, placeholder="...") or [""]
            for part in parts:
                yield f"{front}{part}", line.is_fault
                front = " " * len(front)


def _escape(text: str) -> str:
    """Escape what a terminal would obey or cannot write."""
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def clip(text: str, width: int) -> str:
    """Escape a text for a terminal, and cut it to so many characters."""
    text = _escape(text)
    return text if len(text) <= width else f"{text[: width - 3]}..."


def read_line(line: str) -> Happening:
    """Read one line of a trace.

    Raises:
      ValueError: it is none.
    """
    try:
        fields = json.loads(line)
        happening = Happening(int(fields["t_us"]), str(fields["node"]), str(fields["event"]), dict(fields["facts"]))
    except (ValueError, TypeError, KeyError) as exc:
        raise ValueError(f"{clip(line, QUOTED_MAX)!r} is no line of a trace") from exc
    return happening


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
    lines = [_line(_Group(group, names)) for group in groups]
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
    telling = _TELLINGS.get(happening.event)
    facts = happening.facts
    return happening.event, *(str(facts.get(name)) for name in (telling.by if telling is not None else ()))


def _of_one_kind(happening: Happening) -> object:
    return happening.event


def _is_quiet(happening: Happening) -> bool:
    telling = _TELLINGS.get(happening.event)
    return telling is not None and telling.quiet is not None and telling.quiet(happening.facts)


def _names_of_keys(happenings: Iterable[Happening]) -> dict[str, str]:
    """Names of procedures and topics by the DHT keys that follow from them, hexadecimal."""
    facts = (happening.facts.get(fact) for happening in happenings for fact in ("procedure", "topic"))
    spoken_of = dict.fromkeys(fact for fact in facts if isinstance(fact, str))
    return {dht_key(name).hex(): name for name in spoken_of}


# -- words -----------------------------------------------------------------------------------------------------------


@attrs.frozen
class _Group:
    """Like events of one moment, and the words for them."""

    happenings: Sequence[Happening]
    names: Mapping[str, str]

    @property
    def facts(self) -> Mapping[str, Any]:
        """Of the first."""
        return self.happenings[0].facts

    @property
    def times(self) -> str:
        """How often, if more than once."""
        return "" if len(self.happenings) == 1 else f" {len(self.happenings)} times"

    def values(self, fact: str) -> list[Any]:
        """What a fact was, each value once, those in lists too."""
        found: dict[Any, None] = {}
        for happening in self.happenings:
            value = happening.facts.get(fact)
            items = value if isinstance(value, list) else [value]
            found.update(dict.fromkeys(json.dumps(item) if isinstance(item, (list, dict)) else item for item in items))
        return [value for value in found if value is not None]

    def some(self, fact: str, noun: str) -> str:
        """The values of a fact: named when they are few, counted when not."""
        return _some([_value(self.names.get(value, value)) for value in self.values(fact)], noun)

    def numbers(self, fact: str, noun: str, *, optional: bool = False) -> str:
        """How many there were, of a number or of a list: one number, or from the least to the most.

        Args:
          fact: its name.
          noun: for one of them.
          optional: whether none is not worth a word.
        """
        found = [happening.facts.get(fact) for happening in self.happenings]
        sizes = sorted(len(item) if isinstance(item, list) else item or 0 for item in found)
        if optional and not sizes[-1]:
            return ""
        if sizes[0] == sizes[-1]:
            return count(sizes[0], noun)
        return f"{sizes[0]} to {count(sizes[-1], noun)}"

    def took(self) -> str:
        """The fact ``seconds``, as milliseconds: one, or from the least to the most."""
        found = sorted(happening.facts.get("seconds") or 0.0 for happening in self.happenings)
        least, most = f"{found[0] * 1000:.1f}", f"{found[-1] * 1000:.1f}"
        return f"{most} ms" if least == most else f"{least} to {most} ms"

    def span(self) -> str:
        """How long it went on, unless that was but a moment."""
        span_s = (self.happenings[-1].t_us - self.happenings[0].t_us) / 1e6
        return f", over {span_s:.3g} s" if span_s >= SPAN_S else ""


Words = Callable[[_Group], str]

# For facts whose names are none, when there are many values.
_NOUNS: Final = {"address": "place", "before": "place", "hosts": "machine", "skew_ms": "number", "bootstrap": "node"}


@attrs.frozen(kw_only=True)
class _Telling:
    """How an event is told.

    Attributes:
      words: for one or many of it.
      by: facts in which those must be equal that are told in one line, where the lines suffice.
      quiet: by its facts, whether it is only counted.
      who: fact that names who did it; the node of the line by default.
    """

    words: Words
    by: tuple[str, ...] = ()
    quiet: Callable[[Mapping[str, Any]], bool] | None = None
    who: str | None = None


def _line(group: _Group) -> StoryLine:
    first = group.happenings[0]
    telling = _TELLINGS.get(first.event)
    is_fault = first.event.startswith(FAULT)
    if telling is not None and telling.who is not None:
        who = _column([_value(value) for value in group.values(telling.who)])
    elif first.node == ALL_NODES:
        who = "network" if is_fault else "scenario"
    else:
        who = _column(dict.fromkeys(happening.node for happening in group.happenings))
    what = telling.words(group) if telling is not None else _as_it_is(group)
    return StoryLine(first.t_us, who, f"{what}{group.span()}", is_fault)


def _as_it_is(group: _Group) -> str:
    """Words for an event that only its scenario knows."""
    name = group.happenings[0].event.removeprefix(FAULT)
    facts = {fact: group.values(fact) for fact in group.facts}
    # Those in which they differ would be a jumble.
    told = [_fact(fact, group.facts[fact]) for fact in facts if not group.times or _is_common(group, fact)]
    return " ".join([f"{name}{group.times}", *filter(None, told)])


def _is_common(group: _Group, fact: str) -> bool:
    return all(happening.facts.get(fact) == group.facts[fact] for happening in group.happenings)


def _fact(name: str, value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return f"{name}={_some([_value(item) for item in value], 'item') or '[]'}"
    return f"{name}={_value(value)}"


def _value(value: object) -> str:
    """Write a fact: ids and hashes are cut, numbers lose what nobody reads."""
    if isinstance(value, bool) or not isinstance(value, (float, str)):
        return json.dumps(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    is_id = len(value) >= 2 * ID_DIGITS and set(value) <= set("0123456789abcdef")
    return value[:ID_DIGITS] if is_id else value


def _some(values: Iterable[str], noun: str) -> str:
    distinct = list(dict.fromkeys(values))
    return ", ".join(distinct) if len(distinct) <= NAMES_MAX else count(len(distinct), noun)


def _column(names: Iterable[str]) -> str:
    """Names of nodes, or how many they are when the column is too narrow."""
    distinct = list(names)
    text = ", ".join(distinct)
    return text if len(text) <= WHO_WIDTH or len(distinct) == 1 else count(len(distinct), "node")


def _called(group: _Group) -> str:
    hops = f" in {group.numbers('hops', 'hop')}"
    where = group.some("provider", "node")
    return f"called {group.some('procedure', 'procedure')}{group.times} on {where}{hops}, {group.took()}"


def _published(group: _Group) -> str:
    return f"published on {group.some('topic', 'topic')}{group.times} to {group.numbers('targets', 'node')}"


def _delivered(group: _Group) -> str:
    verb = "received" if group.values("outcome") == ["delivered"] else f"{group.some('outcome', 'outcome')}:"
    publisher = group.some("publisher", "node")
    origin = f" from {publisher}" if publisher else ""
    return f"{verb} {group.some('topic', 'topic')}{group.times}{origin}"


def _stored(verb: str) -> Words:
    def words(group: _Group) -> str:
        rest = "".join(
            f", {found}"
            for fact, noun in (("refused", "refusal"), ("unreachable", "unreachable node"))
            if (found := group.numbers(fact, noun, optional=True))
        )
        return f"{verb} {group.some('key', 'key')}{group.times} with {group.numbers('replicas', 'replica')}{rest}"

    return words


def _joined(group: _Group) -> str:
    return f"joined{group.times if len(group.values('nodes')) == 1 else ''}, knows {group.numbers('nodes', 'node')}"


def _said(template: str, *facts: str) -> Words:
    """Words with the values of facts in the places of ``{}``; what has several is named or counted."""

    def words(group: _Group) -> str:
        texts = [group.some(fact, _NOUNS.get(fact, fact)) for fact in facts]
        return template.format(*texts) + group.times

    return words


def _each(verb: str, fact: str = "node") -> Words:
    """Words for what befalls each by itself: who it is stands in front."""
    return lambda group: verb if len(group.happenings) == len(group.values(fact)) else f"{verb}{group.times}"


def _cut_off(group: _Group) -> str:
    others = group.some("others", "machine") or "everybody else"
    lost = "loses what it sends to" if group.facts.get("one_way") else "is cut off from"
    return f"{group.some('side', 'machine')} {lost} {others}{group.times}"


def _of_path(group: _Group) -> str:
    ends = [group.some(end, "machine") or "any" for end in ("source", "target")]
    changed = [
        f"{field.name}={_value(group.facts[field.name])}"
        for field in attrs.fields(LinkModel)
        if field.name in group.facts and group.facts[field.name] not in (None, field.default)
    ]
    return f"{ends[0]} to {ends[1]}: {' '.join(changed) or 'nothing in the way'}{group.times}"


def _always(_facts: Mapping[str, Any]) -> bool:
    return True


# The vocabulary: every event that the library emits and the world tells.  Others are told as they are.
_TELLINGS: Final[Mapping[str, _Telling]] = {
    "node.started": _Telling(words=_each("started"), who="node"),
    "node.restarted": _Telling(words=_each("restarted"), who="node"),
    "node.stopped": _Telling(words=_each("left"), who="node"),
    "node.crashed": _Telling(words=_each("crashed"), who="node"),
    "node.joined": _Telling(words=_joined),
    "node.join_delayed": _Telling(words=_said("has not joined yet by {}", "bootstrap")),
    "node.bootstrap_failed": _Telling(words=_said("could not join by {}: {}", "endpoint", "reason")),
    "fault.crash": _Telling(words=_each("crashed", "host"), who="host"),
    "fault.restart": _Telling(
        words=_each("lost all storage", "host"),
        who="host",
        quiet=lambda facts: facts.get("keep_storage") is not False,  # the node tells that it is back
    ),
    "fault.partition": _Telling(words=_cut_off, by=("side", "others", "one_way")),
    "fault.heal": _Telling(words=lambda group: f"is whole again{group.times}"),
    "fault.link": _Telling(words=_of_path, by=tuple(field.name for field in attrs.fields(LinkModel))),
    "fault.clog": _Telling(words=_said("holds back all of {}", "hosts")),
    "fault.unclog": _Telling(words=_said("lets go of {}", "hosts")),
    "fault.skew": _Telling(words=_said("clock is wrong by {} ms", "skew_ms"), by=("skew_ms",), who="host"),
    "fault.address": _Telling(words=_said("moves from {} to {}", "before", "address"), who="host"),
    "link.opened": _Telling(words=_said("opened a link"), quiet=_always),
    "link.closed": _Telling(words=_said("closed a link"), quiet=_always),
    "link.refused": _Telling(words=_said("refused {}: {}", "address", "reason"), by=("reason",)),
    "dht.stored": _Telling(words=_stored("stored"), by=("kind",)),
    "dht.withdrawn": _Telling(words=_stored("withdrew"), by=("kind",)),
    "dht.value_received": _Telling(words=_said("received a value"), quiet=_always),
    "dht.value_refused": _Telling(words=_said("refused a value: {}", "reason")),
    "dht.endpoint_refuted": _Telling(words=_said("does not find {} at {}", "peer", "endpoint")),
    "rpc.called": _Telling(words=_called, by=("procedure",)),
    "rpc.failed": _Telling(words=_said("failed to call {}: {}", "procedure", "reason"), by=("procedure",)),
    "rpc.served": _Telling(
        words=_said("ran {} for {}, {}", "procedure", "caller", "outcome"),
        by=("procedure", "outcome"),
        quiet=lambda facts: facts.get("outcome") == "ok",  # the caller tells the same
    ),
    "rpc.handler_failed": _Telling(words=_said("handler of {} failed", "procedure"), by=("procedure",)),
    "rpc.cast_dropped": _Telling(words=_said("dropped a cast of {}", "procedure"), by=("procedure",)),
    "pubsub.published": _Telling(words=_published, by=("topic",)),
    "pubsub.delivered": _Telling(words=_delivered, by=("topic", "outcome")),
    "pubsub.refused": _Telling(words=_said("refused a message on {}", "topic"), by=("topic",)),
    "pubsub.bad_payload": _Telling(words=_said("could not read a message on {}: {}", "topic", "reason")),
}

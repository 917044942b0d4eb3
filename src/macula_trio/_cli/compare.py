"""Two traces side by side: where they part, and in which fact, in 80 columns.

Pure.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Final

from macula_trio._cli.happenings import Happening, clip, read_line

CONTEXT_LINES: Final = 3  # in front of the first that differs, where both are the same
VALUES_MAX: Final = 5  # of a list are named in which it differs from the other
BEFORE_MIN: Final = 12  # characters that are shown in front of the first that differs


def first_difference(one: Sequence[str], other: Sequence[str]) -> int | None:
    """Index of the first line that is not the same, or that only one has; None when there is none."""
    pairs = zip_longest(one, other)
    return next((index for index, (ours, theirs) in enumerate(pairs) if ours != theirs), None)


def show_difference(
    one: Sequence[str], other: Sequence[str], *, names: tuple[str, str], width: int = 80
) -> Iterator[str]:
    """Lines for people about where two different traces part.

    Args:
      one: a trace.
      other: another.
      names: of the two, short.
      width: columns.
    """
    at = first_difference(one, other)
    assert at is not None
    label = max(len(name) for name in (*names, "before"))
    yield f"The two part at line {at + 1}; {names[0]} has {len(one)} lines, {names[1]} has {len(other)}."
    yield ""
    for index in range(max(0, at - CONTEXT_LINES), at):
        yield _shown("", label, index, one, width)
    yield _shown(names[0], label, at, one, width)
    yield _shown(names[1], label, at, other, width)
    if at < min(len(one), len(other)):
        yield ""
        yield from _differing_facts(one[at], other[at], names, width)


def _shown(name: str, label: int, index: int, lines: Sequence[str], width: int) -> str:
    text = _readable(lines[index]) if index < len(lines) else "(has ended)"
    return clip(f"{name:<{label}} {index + 1:>6}  {text}", width)


def _readable(line: str) -> str:
    try:
        happening = read_line(line)
    except ValueError:
        return line
    facts = " ".join(f"{name}={_written(value)}" for name, value in happening.facts.items())
    return f"{happening.t_us / 1e6:.6f} s {happening.node} {happening.event} {facts}".rstrip()


def _differing_facts(one: str, other: str, names: tuple[str, str], width: int) -> Iterator[str]:
    """What differs in two lines: each fact by its name, with both its values."""
    try:
        left, right = _flat(read_line(one)), _flat(read_line(other))
    except ValueError:  # a golden trace that somebody has edited
        left, right = {"line": one}, {"line": other}
    label = max(map(len, names))
    different = [name for name in {**left, **right} if left.get(name, ...) != right.get(name, ...)]
    if not different:
        yield "They say the same; only how the line is written differs."
    for name in different:
        yield clip(f"{name} differs:", width)
        values = _values(left.get(name, ...), right.get(name, ...), width - label - 4)
        for who, value in zip(names, values, strict=True):
            yield clip(f"  {who:<{label}}  {value}", width)


def _flat(happening: Happening) -> dict[str, object]:
    return {
        "t_us": happening.t_us,
        "node": happening.node,
        "event": happening.event,
        **{f"facts.{name}": value for name, value in happening.facts.items()},
    }


def _values(left: object, right: object, width: int) -> tuple[str, str]:
    """Write two different values so that the difference is within so many columns; ``...`` stands for none."""
    if isinstance(left, list) and isinstance(right, list):
        only_left = [item for item in left if item not in right]
        only_right = [item for item in right if item not in left]
        if only_left or only_right:
            return _with_only(left, only_left), _with_only(right, only_right)
    texts = tuple("(missing)" if value is ... else _written(value) for value in (left, right))
    same = next((index for index, (a, b) in enumerate(zip(*texts, strict=False)) if a != b), min(map(len, texts)))
    start = same - BEFORE_MIN if max(map(len, texts)) > width and same > BEFORE_MIN else 0
    return _from(texts[0], start), _from(texts[1], start)


def _from(text: str, start: int) -> str:
    return f"...{text[start:]}" if start else text


def _with_only(items: list[object], only: list[object]) -> str:
    if not only:
        return f"{len(items)} items, all of them there as well"
    named = ", ".join(_written(item) for item in only[:VALUES_MAX])
    more = f" and {len(only) - VALUES_MAX} more" if len(only) > VALUES_MAX else ""
    return f"{len(items)} items, only here: {named}{more}"


def _written(value: object) -> str:
    return value if isinstance(value, str) and value.isprintable() and value else json.dumps(value, ensure_ascii=False)

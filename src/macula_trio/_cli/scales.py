"""Seeds, scales and faults as they are written on the command line, both ways.

Ranges are half-open, as in Python: ``0:3`` is 0, 1 and 2.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Sequence
from typing import Any, Final

import click

from macula_trio.testing._world import Scale

SEEDS_MAX: Final = 10_000_000  # of one sweep: weeks of work
NUMBERS_MAX: Final = 100_000  # faults to skip; far more than a scenario has
HASH_SEEDS_MAX: Final = 1_000  # processes of one replay; a hash that matters shows itself within a few
HASH_SEED_END: Final = 2**32  # Python does not start with a PYTHONHASHSEED from here on
RUN_MIN: Final = 3  # consecutive numbers that are shorter to write as a range


class Seconds(click.FloatRange):
    """A finite number in a range; its base lets nan pass, which compares with nothing."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read it, or complain."""
        seconds = float(super().convert(value, param, ctx))
        if not math.isfinite(seconds):
            self.fail(f"{value} is not a finite number of seconds", param, ctx)
        return seconds


def read_range(text: str, *, numbers_max: int = SEEDS_MAX) -> range:
    """Read ``A:B``, the whole numbers from A up to but not including B.

    Raises:
      ValueError: not of that form, empty or too long.
    """
    first, _, end = text.partition(":")
    if not (_is_number(first) and _is_number(end)):
        raise ValueError(f"{text!r} is not A:B with whole numbers from 0 on, such as 0:10")
    numbers = range(int(first), int(end))
    length = max(0, numbers.stop - numbers.start)  # more than `len` can say, perhaps
    if not 0 < length <= numbers_max:
        raise ValueError(f"{text!r} has {length} numbers (B is not among them); give 1 to {numbers_max}")
    return numbers


def read_hash_seeds(text: str) -> range:
    """Read ``A:B``, values of ``PYTHONHASHSEED``.

    Raises:
      ValueError: not of that form, empty, too long, or with numbers that Python refuses.
    """
    numbers = read_range(text, numbers_max=HASH_SEEDS_MAX)
    if numbers.stop > HASH_SEED_END:
        raise ValueError(f"{text!r} has numbers that PYTHONHASHSEED cannot be; B is at most {HASH_SEED_END}")
    return numbers


def read_numbers(text: str) -> tuple[int, ...]:
    """Read ``1,4,7:9``: whole numbers and ranges; gives each once, in order.

    Raises:
      ValueError: not of that form, or too many.
    """
    found: dict[int, None] = {}
    for part in text.split(","):
        numbers = read_range(part) if ":" in part else [int(part)] if _is_number(part) else None
        if numbers is None:
            raise ValueError(f"{text!r} is not a list of whole numbers and ranges, such as 1,4,7:9")
        if len(found) + len(numbers) > NUMBERS_MAX:
            raise ValueError(f"{text!r} has more than {NUMBERS_MAX} numbers")
        found.update(dict.fromkeys(numbers))
    return tuple(sorted(found))


def write_numbers(numbers: Sequence[int]) -> str:
    """Write numbers so that `read_numbers` reads them; ordered ones in few characters."""
    parts: list[str] = []
    rest = list(numbers)
    while rest:
        length = next((i for i, number in enumerate(rest) if number != rest[0] + i), len(rest))
        run, rest = rest[:length], rest[length:]
        parts += [f"{run[0]}:{run[-1] + 1}"] if length >= RUN_MIN else [str(number) for number in run]
    return ",".join(parts)


def replay_arguments(file: str, seed: int, scale: Scale) -> list[str]:
    """Arguments that replay one run."""
    arguments = ["replay", file, "--seed", str(seed)]
    if scale.nodes is not None:
        arguments += ["--nodes", str(scale.nodes)]
    if scale.seconds is not None:
        arguments += ["--seconds", repr(scale.seconds).removesuffix(".0")]
    if scale.skip_faults:
        arguments += ["--skip-faults", write_numbers(scale.skip_faults)]
    return arguments


def replay_command(file: str, seed: int, scale: Scale, *options: str) -> str:
    """Write the command that replays one run, for a shell; ``options`` come last."""
    return shlex.join(["macula-trio", *replay_arguments(file, seed, scale), *options])


def judged_by(read: Callable[[str], object]) -> Callable[[click.Context, click.Parameter, str | None], Any]:
    """A callback for an option whose text ``read`` reads; its ValueError is the complaint."""

    def convert(context: click.Context, parameter: click.Parameter, text: str | None) -> Any:
        if text is None:
            return None
        try:
            return read(text)
        except ValueError as exc:
            raise click.BadParameter(str(exc), ctx=context, param=parameter) from exc

    return convert


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < len(str(2**64))

"""In which order the providers of a procedure are tried (DESIGN section 9).

Sans-IO: chance is a parameter.  A new strategy is a method and a row of the table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import attrs

from macula_trio._ids import Contact

TURNS_MAX: Final = 4096  # procedures whose turn is remembered; the one not called for longest starts over

_Strategy = Callable[["Selector", Sequence[Contact], str], list[Contact]]


@attrs.define(eq=False)
class Selector:
    """Chooses among providers, and remembers whose turn it is.

    Args:
      random_below: a random integer from 0 up to, and without, its argument.
    """

    _random_below: Callable[[int], int]
    _turns: dict[str, int] = attrs.field(factory=dict, init=False)

    def order(self, providers: Sequence[Contact], strategy: str, procedure: str) -> list[Contact]:
        """Every provider once: the chosen one, then those to try if it certainly did not start the call.

        Args:
          providers: in an order that stays the same from call to call.
          strategy: one of `STRATEGIES`.
          procedure: whose providers they are; each has its own turn.

        Raises:
          ValueError: there is no such strategy.
        """
        if strategy not in _STRATEGIES:
            raise ValueError(f"{strategy!r} is not a way to select a provider; there are {', '.join(STRATEGIES)}")
        return _STRATEGIES[strategy](self, providers, procedure) if providers else []

    def _random(self, providers: Sequence[Contact], _procedure: str) -> list[Contact]:
        rest = list(providers)
        return [rest.pop(self._random_below(count)) for count in range(len(rest), 0, -1)]

    def _round_robin(self, providers: Sequence[Contact], procedure: str) -> list[Contact]:
        turn = self._turns.pop(procedure, 0)
        if len(self._turns) >= TURNS_MAX:
            del self._turns[next(iter(self._turns))]
        self._turns[procedure] = turn + 1
        start = turn % len(providers)
        return [*providers[start:], *providers[:start]]

    def _first(self, providers: Sequence[Contact], _procedure: str) -> list[Contact]:
        return list(providers)


_STRATEGIES: Final[dict[str, _Strategy]] = {
    "random": Selector._random,
    "round_robin": Selector._round_robin,
    "first": Selector._first,
}
STRATEGIES: Final = tuple(_STRATEGIES)

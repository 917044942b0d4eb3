"""Who may do something here: everybody, the nodes of a list, or whom a rule of the application's lets.

Pure (DESIGN section 5).  Whatever is not clearly a yes is a no: somebody who has proven nothing, a rule that fails, a
rule whose answer is not a bool.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Generic, TypeVarTuple

import attrs

from macula_trio._ids import NodeId
from macula_trio._util import shown

About = TypeVarTuple("About")


def read_rule(
    rule: Iterable[NodeId] | Callable[[NodeId, *About], bool] | None, *, what: str
) -> tuple[NodeId, ...] | Callable[[NodeId, *About], bool] | None:
    """Give back a valid rule; a list of ids as a tuple.

    Args:
      rule: None for everybody, ids, or a plain function.
      what: the name of the argument, for the message.

    Raises:
      ValueError: one line that names it, the value and the mend.
    """
    if rule is None:
        return None
    if callable(rule):
        if inspect.iscoroutinefunction(rule):  # what it returns is true without having been asked
            raise ValueError(f"{what}: {rule!r} is an async function; the answer is needed at once: write a plain one")
        return rule
    given: object = rule
    if isinstance(given, NodeId):  # being bytes, it would be a list of numbers
        raise ValueError(f"{what}: {given!r} is one node; write a list of ids: [{given!r}]")
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        raise ValueError(
            f"{what}: {shown(given)} is neither a list of ids, such as [NodeId.from_hex(...)], nor a function"
        )
    node_ids = tuple(given)
    for node_id in node_ids:
        if not isinstance(node_id, NodeId):
            raise ValueError(f"{what}: {shown(node_id)} is not a NodeId; make one by NodeId.from_hex or NodeId(...)")
    return node_ids


@attrs.frozen
class Allowance(Generic[*About]):
    """A rule that was read, ready to judge.

    Args:
      rule: from `read_rule`.
    """

    _rule: tuple[NodeId, ...] | Callable[[NodeId, *About], bool] | None
    _listed: frozenset[NodeId] = attrs.field(init=False)

    @_listed.default
    def _list(self) -> frozenset[NodeId]:
        return frozenset(self._rule if isinstance(self._rule, tuple) else ())

    def permits(self, who: NodeId | None, *about: *About, failed: Callable[[Exception], object]) -> bool:
        """Judge one request.

        Args:
          who: the proven id; None for somebody who has proven nothing, whom no rule is asked about.
          about: what a function is told besides.
          failed: told of what the function raised, or of an answer that is none.
        """
        if self._rule is None:
            return True
        if who is None:
            return False
        if isinstance(self._rule, tuple):
            return who in self._listed
        try:
            verdict: object = self._rule(who, *about)
            if not isinstance(verdict, bool):
                raise TypeError(f"the answer {verdict!r} is neither True nor False")
        except Exception as exc:  # the function is the application's; a link must not end by it
            failed(exc)
            return False
        return verdict

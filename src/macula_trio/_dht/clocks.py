"""What time it is, when replicas refuse what we have just signed as expired (DESIGN section 5).

Sans-IO.  The replicas are strangers and some may lie: one who could make us believe in a later time would make us
sign values that outlive us.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

# Who alone refuses may be the liar.  In a mesh of two there is nobody else to ask, so there it is only told.
WITNESSES_MIN: Final = 2


def majority_time_ms(told_ms: Iterable[int], *, asked: int) -> int | None:
    """The latest time that, by what they say, has come for more than half of those asked.

    When all have told theirs, it is the median.  Whoever was asked and is not among ``told_ms`` counts as one who
    says that it is earlier: so as long as fewer than half of those asked lie, it is no later than the time of somebody
    who does not, however many are silent.

    Args:
      told_ms: Unix times, one of each replica that told one.
      asked: replicas that were asked.

    Returns:
      None when no majority has told any.
    """
    latest_first = sorted(told_ms, reverse=True)
    needed = asked // 2 + 1
    return latest_first[needed - 1] if len(latest_first) >= needed else None

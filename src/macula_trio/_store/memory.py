"""Storage that lasts as long as the object: the default, and what a simulated machine keeps over restarts."""

from __future__ import annotations

from macula_trio.abc import Storage


class MemoryStorage:
    """`macula_trio.abc.Storage` in a dict."""

    def __init__(self) -> None:
        self._tables: dict[str, dict[bytes, bytes]] = {}

    def items(self, table: str) -> list[tuple[bytes, bytes]]:
        """Everything in a table, in the order in which the keys first came."""
        return list(self._tables.get(table, {}).items())

    def put(self, table: str, key: bytes, value: bytes | None) -> None:
        """Keep ``value`` under ``key`` instead of what was there; None removes it."""
        if value is None:
            self._tables.get(table, {}).pop(key, None)
        else:
            self._tables.setdefault(table, {})[key] = value


def _conforms(storage: MemoryStorage) -> Storage:
    return storage  # mypy proves it

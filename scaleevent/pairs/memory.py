"""One pair as a shard in memory: read as a stored one is, and written nowhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from scaleevent.pairs.pair import Pair
from scaleevent.pairs.shard import Shard, ShardWriter


class _Kept(ShardWriter):
    """Keeps what a shard of one pair would hold, by name."""

    def __init__(self, pair: Pair) -> None:
        super().__init__(Path(pair.recording))
        self._recordings: dict[str, int] = {}
        self.values: dict[str, np.ndarray] = {}
        self.add(pair)

    def _check(self, *_: object) -> None:
        """Nothing is written that could be lost."""

    def _pool(self, name: str, values: np.ndarray, compress: bool = True) -> None:
        self.values[f"{name}/values"] = values
        self.values[f"{name}/offset"] = np.array([0, len(values)])

    def _row(self, name: str, row: Any, dtype: Any = np.int64, rows: int = 1024) -> None:
        self.values[name] = np.asarray(row, dtype)[None]


class ShardInMemory(Shard):
    """A shard of one pair, row 0, that is no file.

    Args:
        pair: The pair.
        path: Where it comes from, for messages.
    """

    def __init__(self, pair: Pair, path: Path) -> None:
        self.path, self.pairs, self.recordings = path, 1, [pair.recording]
        self._tables: dict[str, np.ndarray] = {}
        self._values = _Kept(pair).values
        self._tasks = dict.fromkeys(pair.labels, 1)

    def labelled(self) -> dict[str, int]:
        """See `Shard`."""
        return self._tasks

    def _read(self, name: str, part: slice | int | None) -> np.ndarray:
        return self._values[name][slice(None) if part is None else part]

    def _has(self, name: str) -> bool:
        return name in self._values or any(key.startswith(f"{name}/") for key in self._values)

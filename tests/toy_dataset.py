"""A data set in one file: a blinking square, whose pixels are its labels."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from scaleevent.config.data import PrepareConfig
from scaleevent.events import Events
from scaleevent.grids.windows import Window
from scaleevent.pairs.pair import Label, Pair, encode_image


class Settings(PrepareConfig):
    side: Annotated[int, Field(ge=1, le=16, description="pixels along the square")] = 4


@dataclass(frozen=True)
class Square:
    side: int
    name: str = "square"
    inputs: tuple[Path, ...] = ()
    expected: int = 3
    found: str = "a blinking square"

    def pairs(self, counts: Counter[str]) -> Iterator[Pair]:
        ids = np.zeros((16, 16), np.uint8)
        ids[: self.side, : self.side] = 1
        y, x = np.nonzero(ids)
        for end in range(1000, 1000 * self.expected + 1, 1000):
            events = Events.from_columns(
                np.full(len(x), end - 1), x, y, np.ones_like(x), height=16, width=16
            )
            counts.update({"images": 1, "pairs": 1})
            counts.update({"events decoded": len(events), "events kept": len(events)})
            labels = {"semantics": Label(ids, end, end)}
            image = encode_image(255 * ids)
            yield Pair(self.name, end, image, events, Window(end - 1000, end), labels=labels)


def sources(config: Settings) -> list[Square]:
    return [Square(config.side)]

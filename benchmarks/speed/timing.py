"""Timing several things by turns, so that a machine that is busy or throttled slows all of them alike; and the rows of
the report that come of it."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Spread:
    """The median of some figures, and their quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, figures) -> "Spread":
        """The spread of the figures of all rounds, or of one figure."""
        low, median, high = np.percentile(np.asarray(figures, float), (25, 50, 75))
        return cls(float(median), float(low), float(high))


@dataclass(frozen=True)
class Row:
    """One line of the report: a ratio, or a figure with a unit, and its goal if it has one.

    at_least: the goal is a lower limit. parts: the two figures that a ratio is made of, each in parts_unit.
    """

    name: str
    figure: Spread
    unit: str = ""
    goal: float | None = None
    at_least: bool = False
    parts: dict[str, Spread] = field(default_factory=dict)
    parts_unit: str = "s"
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the median reaches the goal; None without one."""
        if self.goal is None:
            return None
        return self.figure.median >= self.goal if self.at_least else self.figure.median <= self.goal


def alternate(
    works: dict[str, Callable],
    repeats: int,
    wait: Callable = lambda: None,
    warmups: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, np.ndarray]:
    """Seconds [repeats] of each work, by name, where every round runs each of them once, in order.

    wait: called before the clock is read, to wait for the device. warmups: rounds that are not counted.
    """
    seconds = {name: np.empty(repeats) for name in works}
    for turn in range(-warmups, repeats):
        for name, work in works.items():
            wait()
            began = clock()
            work()
            wait()
            if turn >= 0:
                seconds[name][turn] = clock() - began
    return seconds


def ratio(name: str, figures: dict[str, np.ndarray], above: str, below: str, **rest) -> Row:
    """The row of one work's seconds or MiB over another's: the median of the ratios of all rounds."""
    parts = {part: Spread.of(figures[part]) for part in (above, below)}
    return Row(name, Spread.of(figures[above] / figures[below]), parts=parts, **rest)

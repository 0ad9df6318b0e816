"""What every runner of the race shares: the split that `race.py` wrote, and a clock that stops while a lap is saved.

Runs in the environment of each library, so it needs only NumPy and PyArrow.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

IntArray: TypeAlias = npt.NDArray[np.int64]
FloatArray: TypeAlias = npt.NDArray[np.float32]

Export: TypeAlias = Callable[[], tuple[FloatArray, FloatArray]]
"""Embeds the queries of the test events `[N, d]` and all items `[C, d]`; their dot products rank the items."""

WIDTH, LAYERS = 32, (64, 32)
"""Width of the embeddings, and layers of both towers, where a library lets one choose."""

LOWEST = -1e6
"""Score of an item that a library does not know: below every other."""


class TimeUpError(Exception):
    """The time is up; raised through the library's training loop."""


@dataclass(frozen=True)
class Course:
    """The split and the rules of the race, read from a folder.

    Attributes:
        folder: The folder.
        users: Number of users; they are numbered from 0.
        items: Number of items; they are numbered from 0.
        is_sequence: Whether the next item of each user is to be found, rather than items left out at random.
        threads: Number of threads.
        seconds: Seconds of training.
        first: Seconds of training at the first lap.
        growth: Each lap ends at so many times the seconds of the one before.
        user: User of each training event, in order of user and position.
        item: Its item.
        position: Its position among the events of the user, from 0.
        test_user: User of each test event.
    """

    folder: Path
    users: int
    items: int
    is_sequence: bool
    threads: int
    seconds: float
    first: float
    growth: float
    user: IntArray
    item: IntArray
    position: IntArray
    test_user: IntArray

    @classmethod
    def read(cls) -> Course:
        """Reads the folder that is named on the command line."""
        folder = Path(sys.argv[1])
        train, test = (pq.read_table(folder / f"{name}.parquet") for name in ("train", "test"))
        columns = {name: train[name].to_numpy().astype(np.int64) for name in ("user", "item", "position")}
        rules: dict[str, Any] = json.loads((folder / "rules.json").read_text(encoding="utf-8"))
        if hasattr(os, "sched_setaffinity"):  # some libraries have no other way to set their number of threads
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: rules["threads"]])
        return cls(folder=folder, test_user=test["user"].to_numpy().astype(np.int64), **rules, **columns)

    def histories(self, length: int) -> tuple[IntArray, IntArray]:
        """The items before each training event and before each test event, latest last, padded with -1 in front.

        Args:
            length: Keep at most so many.

        Returns:
            `[train events, length]` and `[test events, length]`.
        """
        padded = np.concatenate([np.full(length, -1), self.item])
        back = np.arange(length, 0, -1)  # the event so many rows ago
        counts = np.bincount(self.user, minlength=self.users)
        ends = np.cumsum(counts)  # the row after each user's last

        def items(rows: IntArray, available: IntArray) -> IntArray:
            taken = padded[length + rows[:, None] - back]  # [events, length]
            return np.where(back <= available[:, None], taken, -1)

        before = np.arange(len(self.user)) - (ends - counts)[self.user]
        return items(np.arange(len(self.user)), before), items(ends[self.test_user], counts[self.test_user])


class Clock:
    """Measures a training in laps, and stops while the embeddings of a lap are saved.

    Args:
        course: The rules.
        export: Embeds queries and items with the current weights.
        steps_per_epoch: Steps in an epoch.
    """

    def __init__(self, course: Course, export: Export, steps_per_epoch: float) -> None:
        self.course, self.export, self.steps_per_epoch = course, export, steps_per_epoch
        self.steps, self.laps = 0, 0
        self.seconds, self.due = 0.0, min(course.first, course.seconds)

    def start(self) -> None:
        """Starts the clock."""
        self.started = time.perf_counter()

    def step(self, steps: int = 1) -> None:
        """Counts steps that were just done, and saves a lap if one is due.

        Raises:
            TimeUpError: The time is up; the last lap has been saved.
        """
        self.steps += steps
        seconds = self.seconds + time.perf_counter() - self.started
        if seconds < self.due:
            return
        self.seconds = seconds
        self.due = min(max(self.due * self.course.growth, seconds), max(self.course.seconds, seconds))
        self._save()
        if self.seconds >= self.course.seconds:
            raise TimeUpError
        self.started = time.perf_counter()

    def finish(self) -> None:
        """Saves the last lap of a training that ends by itself."""
        self.seconds += time.perf_counter() - self.started
        self._save()

    def counted(self, batches: Iterable[Any]) -> Counted:
        """The same batches; asking for the next one counts a step."""
        return Counted(batches, self)

    def _save(self) -> None:
        queries, items = self.export()
        for name, values in (("queries", queries), ("items", items)):
            np.save(self.course.folder / f"{self.laps:04}-{name}.npy", np.asarray(values, dtype=np.float32))
        line = {"seconds": self.seconds, "epochs": self.steps / self.steps_per_epoch}
        with (self.course.folder / "laps.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self.laps += 1


class Counted:
    """A loader whose batches count as steps.

    Args:
        batches: The loader.
        clock: The clock.
    """

    def __init__(self, batches: Any, clock: Clock) -> None:
        self.batches, self.clock = batches, clock

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        for batch in self.batches:
            yield batch
            self.clock.step()


def introduce(course: Course, *packages: str, **settings: Any) -> None:
    """Writes the versions of the packages, and the settings, for the report."""
    about = {"versions": {name: version(name) for name in packages}, "settings": settings}
    (course.folder / "about.json").write_text(json.dumps(about), encoding="utf-8")


def with_unknown(
    known: FloatArray, numbers: IntArray, queries: FloatArray, count: int
) -> tuple[FloatArray, FloatArray]:
    """Adds items that the library does not know, ranked below all others.

    Args:
        known: Embeddings of the items that it knows, `[n, d]`.
        numbers: Which items these are, `[n]`.
        queries: Embeddings of the queries, `[N, d]`.
        count: Number of all items.

    Returns:
        Queries `[N, d + 1]` and items `[count, d + 1]`.
    """
    items = np.zeros((count, known.shape[1] + 1), dtype=np.float32)
    items[:, -1] = LOWEST
    items[numbers, :-1] = known
    items[numbers, -1] = 0.0
    return np.concatenate([queries, np.ones((len(queries), 1), dtype=np.float32)], axis=1), items

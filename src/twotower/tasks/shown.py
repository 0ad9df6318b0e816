"""The column `chosen` as a target: 1 for events, 0 for what was shown with them and not chosen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from twotower.data.dataset import Dataset, IntArray
from twotower.data.log import Log
from twotower.data.parquet import ROW
from twotower.errors import ConfigError, DataError
from twotower.tasks.targets import SAMPLE, FloatArray

PIECE = 1 << 20
"""Events read at once: those of a log on disk need not fit in memory."""


def tells_choices(log: Log, column: str | None) -> bool:
    """Whether this column told the rows that were chosen from those that were only shown."""
    return log.exposures is not None and log.exposures.chosen == column


class ShownOnce:
    """What was shown with the events of a log and not chosen. What several events share counts with the first of them.

    Args:
        log: A log that says what was shown.

    Example:
        >>> import pyarrow as pa
        >>> from twotower.data import from_tables
        >>> rows = {"who": [1, 1, 1], "what": [7, 8, 9], "at": [5, 5, 5], "bought": [True, True, False]}
        >>> log = from_tables(pa.table(rows), query_id="who", candidate_id="what", time="at", chosen="bought")
        >>> position, candidates = ShownOnce(log).of(np.array([1, 0]))
        >>> position.tolist(), log.candidates["what"].take(pa.array(candidates)).to_pylist()
        ([1], [9])
    """

    def __init__(self, log: Log) -> None:
        assert log.exposures is not None
        self.exposures = shown = log.exposures
        self._first = np.full(len(shown.offsets) - 1, -1, dtype=np.int64)  # event of each list
        for begin in reversed(range(0, len(shown.lists), PIECE)):
            own = shown.lists[begin : begin + PIECE]
            there = np.flatnonzero(own >= 0)[::-1]  # so that the first event is written last
            self._first[own[there]] = begin + there

    def of(self, events: IntArray) -> tuple[IntArray, IntArray]:
        """Every (position in `events`, candidate shown with that event) pair, in order of the positions.

        Args:
            events: The numbers of events, `[n]`.
        """
        own = self.exposures.lists[events]
        kept = np.flatnonzero((own >= 0) & (self._first[own] == events))
        position, entry = self.exposures.pairs(events[kept])
        return kept[position], self.exposures.candidates[entry]


class ShownInSteps:
    """What was shown with the events of each training step.

    Args:
        train: The training data.
        column: The column that told chosen rows from others, for errors.

    Raises:
        DataError: Nothing was shown with any event of train.
    """

    def __init__(self, train: Log, column: str) -> None:
        self._shown, self._column = ShownOnce(train), column
        _require_some(train, column)

    def of(self, events: Tensor | None) -> tuple[Tensor, Tensor]:
        """Every (position in the step, candidate shown with that event) pair, `[n]` each.

        Args:
            events: Number of each event in the training data, `[B]`.

        Raises:
            ConfigError: The events' numbers are not known.
        """
        if events is None:
            raise ConfigError(
                f"target {self._column!r} needs Batch.events; expected the number of each event in the log"
            )
        position, candidates = self._shown.of(events.cpu().numpy())
        return torch.from_numpy(position).to(events.device), torch.from_numpy(candidates).to(events.device)


def with_shown(events: Dataset) -> tuple[Dataset, FloatArray]:
    """The events, then what was shown with them as events of its own, and whether each was chosen, `[n]`."""
    position, candidates = ShownOnce(events).of(np.arange(len(events)))
    rows = np.concatenate([np.arange(len(events)), position])
    everything = replace(
        events.take(rows), candidate_index=np.concatenate([events.candidate_index, candidates]), exposures=None
    )
    return everything, (np.arange(len(rows)) < len(events)).astype(np.float64)


def known_choices(train: Log, column: str) -> tuple[Dataset, FloatArray]:
    """What was chosen and what was shown in train, and which is which; from a sample of the events of a log on disk.

    Raises:
        DataError: Nothing was shown with any event of train, or all weights are 0.
    """
    _require_some(train, column)
    events = train.in_memory
    if events is None:
        sample = train.events_to_learn(SAMPLE, [ROW], seed=0)
        assert train.exposures is not None
        events = replace(sample, exposures=train.exposures.take(sample.interactions[ROW].to_numpy()))
    return with_shown(events.take(events.weights > 0))


def _require_some(train: Log, column: str) -> None:
    assert train.exposures is not None
    if len(train.exposures) == 0:
        raise DataError(
            f"target {column!r}: nothing was shown with the {len(train):,} events of train and not chosen; expected "
            f"some to learn from",
            column=column,
        )

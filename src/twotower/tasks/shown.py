"""The column `chosen` as a target: 1 for events, 0 for what was shown with them and not chosen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from twotower.data.dataset import Dataset, IntArray
from twotower.data.log import Log
from twotower.data.parquet import ROW
from twotower.errors import ConfigError, DataError
from twotower.tasks.targets import SAMPLE, FloatArray

SHARE = "share of what was shown"
"""Name of the column of weights where a log has none."""

PIECE = 1 << 20
"""Events read at once: those of a log on disk need not fit in memory."""


def tells_choices(log: Log, column: str | None) -> bool:
    """Whether this column told the rows that were chosen from those that were only shown."""
    return log.exposures is not None and log.exposures.chosen == column


class Shown:
    """What was shown with the events of a log and not chosen; events that were shown together each count a part of it.

    Args:
        log: A log that says what was shown.

    Example:
        >>> import pyarrow as pa
        >>> from twotower.data import from_tables
        >>> rows = {"who": [1, 1, 1], "what": [7, 8, 9], "at": [5, 5, 5], "bought": [True, True, False]}
        >>> log = from_tables(pa.table(rows), query_id="who", candidate_id="what", time="at", chosen="bought")
        >>> position, candidates, shares = Shown(log).of(np.array([1, 0]))
        >>> position.tolist(), log.candidates["what"].take(pa.array(candidates)).to_pylist(), shares.tolist()
        ([0, 1], [9, 9], [0.5, 0.5])
    """

    def __init__(self, log: Log) -> None:
        assert log.exposures is not None
        self.exposures = shown = log.exposures
        self._events = np.zeros(len(shown.offsets) - 1, dtype=np.int64)  # of each list
        for begin in range(0, len(shown.lists), PIECE):
            own = shown.lists[begin : begin + PIECE]
            np.add.at(self._events, own[own >= 0], 1)

    def of(self, events: IntArray) -> tuple[IntArray, IntArray, FloatArray]:
        """Every (position in `events`, candidate shown with that event) pair and its share, in order of the positions.

        Args:
            events: The numbers of events, `[n]`.
        """
        position, entry = self.exposures.pairs(events)
        return position, self.exposures.candidates[entry], 1 / self._events[self.exposures.lists[events][position]]

    def in_step(self, events: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """`of` for the events of a training step.

        Args:
            events: Number of each event in the training data, `[B]`.

        Raises:
            ConfigError: The events' numbers are not known.
        """
        if events is None:
            raise ConfigError(
                f"target {self.exposures.chosen!r} needs Batch.events; expected each event's number in the log"
            )
        position, candidates, shares = self.of(events.cpu().numpy())
        parts = torch.from_numpy(position), torch.from_numpy(candidates), torch.from_numpy(shares).float()
        return parts[0].to(events.device), parts[1].to(events.device), parts[2].to(events.device)


def with_shown(events: Dataset) -> tuple[Dataset, FloatArray]:
    """The events, then what was shown with them as events of its own; and whether each was chosen, `[n]`.

    What was shown with several events is there with each of them, and its weight is divided by their number.
    """
    return _together(events, *Shown(events).of(np.arange(len(events))))


def known_choices(train: Log, column: str) -> tuple[Dataset, FloatArray]:
    """What was chosen and what was shown in train, and which is which; from a sample of the events of a log on disk.

    Raises:
        DataError: Nothing was shown with the events of train that have a weight above 0.
    """
    events = train.in_memory
    if events is not None:
        everything, targets = with_shown(events)
    else:
        sample = train.events_to_learn(SAMPLE, [ROW], seed=0)
        everything, targets = _together(sample, *Shown(train).of(sample.interactions[ROW].to_numpy()))
    counts = everything.weights > 0
    if not (targets[counts] == 0).any():
        raise DataError(
            f"target {column!r}: nothing was shown with the {len(train):,} events of train and not chosen; expected "
            f"some to learn from",
            column=column,
        )
    return everything.take(counts), targets[counts]


def _together(
    events: Dataset, position: IntArray, candidates: IntArray, shares: FloatArray
) -> tuple[Dataset, FloatArray]:
    """The events, then what was shown with those at `position`; and whether each was chosen."""
    rows = np.concatenate([np.arange(len(events)), position])
    everything = replace(
        events.take(rows), candidate_index=np.concatenate([events.candidate_index, candidates]), exposures=None
    )
    if (shares < 1).any():
        weights = events.weights[rows] * np.concatenate([np.ones(len(events)), shares])
        table, name = everything.interactions, events.weight or SHARE
        table = table.drop_columns([name] if name in table.column_names else [])
        everything = replace(everything, interactions=table.append_column(name, pa.array(weights)), weight=name)
    return everything, (np.arange(len(rows)) < len(events)).astype(np.float64)

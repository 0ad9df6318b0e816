"""Slices of test events: by popularity of the candidate, history of the query, and whether the choice is repeated."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from twotower.data.dataset import Dataset
from twotower.evaluation.metrics import DEFAULT_KS, FloatArray, IntArray, Slice, rank_metrics
from twotower.evaluation.outcomes import repeats_of

NEW_QUERIES, NEW_CANDIDATES = "new queries", "new candidates"
"""Queries and candidates without events in train."""

POPULARITY = ("head", "middle", "tail")
NEW_CHOICES, REPEATED_CHOICES = "new choices", "repeated choices"
"""Events whose query does not have the candidate in train, and events whose query does."""

HISTORY = ((1, "1–9 events"), (10, "10–49 events"), (50, "50+ events"))
"""Slices by history: the minimum number of events that the query has in train, and the name."""


def slice_masks(test: Dataset, train: Dataset) -> dict[tuple[str, str], npt.NDArray[np.bool_]]:
    """Masks of the test events in each non-empty slice, as (by, name) → `[N]`.

    - By `candidate`: sort the candidates by number of events in train, most popular first. Those with the first third
      of all events are the `head`, those with the second third the `middle`, and the rest the `tail`. Candidates with
      equally many events are in the same slice, which depends on the share of events of all more popular candidates.
      Candidates without events are `new candidates`.
    - By `history`: the number of events that the query has in train, from none (`new queries`) to 50 or more.
    - By `choice`, if some events repeat: `new choices`, and `repeated choices`, whose query has the candidate in
      train. Under `unseen`, a repeated choice is ranked among candidates that are all new except for itself, which
      makes it easy to hit. To compare with a protocol that never recommends anything twice, use the new choices.
    """
    third = popularity_thirds(train.candidate_counts())[test.candidate_index]
    length = np.bincount(train.query_index, minlength=train.queries.num_rows)[test.query_index]
    part = np.searchsorted([least for least, _ in HISTORY], length, side="right")
    masks = {("candidate", name): third == number for number, name in enumerate((*POPULARITY, NEW_CANDIDATES))}
    masks |= {
        ("history", name): part == number for number, name in enumerate((NEW_QUERIES, *(name for _, name in HISTORY)))
    }
    repeats = repeats_of(test, train)
    if repeats.any():
        masks |= {("choice", NEW_CHOICES): ~repeats, ("choice", REPEATED_CHOICES): repeats}
    return {key: mask for key, mask in masks.items() if mask.any()}


def popularity_thirds(counts: IntArray) -> IntArray:
    """0 for the head, 1 for the middle, 2 for the tail, 3 for candidates without events, `[C]`.

    Example:
        >>> popularity_thirds(np.array([1, 4, 2, 0, 2])).tolist()
        [2, 0, 1, 3, 1]
    """
    level = np.unique(counts, return_inverse=True)[1]
    events = np.bincount(level, counts)
    above = events.sum() - np.cumsum(events)  # events of the candidates with more events than this level
    return np.where(counts == 0, 3, (3 * above[level] // max(1, events.sum())).astype(np.int64))


def measure_slices(
    test: Dataset,
    train: Dataset,
    ranks: tuple[FloatArray, FloatArray],
    ks: Sequence[int] = DEFAULT_KS,
    weights: FloatArray | None = None,
) -> list[Slice]:
    """Rank metrics of each non-empty slice.

    Args:
        test: The events that were ranked.
        train: The training split.
        ranks: Their ranks under `all` and `unseen`, `[N]` each, from `rank_events`.
        ks: Lengths of lists.
        weights: Weight of each event, `[N]`; None for equal weights.
    """
    slices = []
    for (by, name), mask in slice_masks(test, train).items():
        counts = None if weights is None else weights[mask]
        events = int(mask.sum())
        metrics = (rank_metrics(own[mask], ks, counts) for own in ranks)
        slices.append(Slice(by, name, events, float(events if counts is None else counts.sum()), *metrics))
    return slices

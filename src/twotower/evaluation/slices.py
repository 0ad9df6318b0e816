"""Slices: the events of test by their candidate's popularity, their query's history, and whether they repeat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from twotower.data.dataset import Dataset
from twotower.evaluation.metrics import DEFAULT_KS, FloatArray, IntArray, Slice, rank_metrics
from twotower.evaluation.outcomes import repeats_of

NEW_QUERIES, NEW_CANDIDATES = "new queries", "new candidates"
"""What train has no event of."""

POPULARITY = ("head", "middle", "tail")
NEW_CHOICES, REPEATED_CHOICES = "new choices", "repeated choices"
"""Events whose query does not have their candidate in train, and those whose query does."""

HISTORY = ((1, "1–9 events"), (10, "10–49 events"), (50, "50+ events"))
"""From how many events of its query in train an event belongs to which part."""


def slice_masks(test: Dataset, train: Dataset) -> dict[tuple[str, str], npt.NDArray[np.bool_]]:
    """Which events of test are in which slice, as (by, name) → `[N]`, the empty slices left out.

    - By `candidate`: with the candidates in order of their events in train, those that make up the first third of
      all these events are the `head`, those of the second third the `middle`, the rest the `tail`. Candidates with
      as many events are together: a candidate is where those that have more events than it leave off. Those with
      none are `new candidates`.
    - By `history`: how many events the query has in train, from none (`new queries`) to 50 or more.
    - By `choice`, where some events repeat: `new choices`, and `repeated choices`, whose query has their candidate in
      train. Under `unseen` a repeated choice is ranked among candidates that are all new but itself, which makes it
      easy to hit; compare `unseen` with a protocol that recommends nothing twice on the new choices.
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
    """0 for the head, 1 for the middle, 2 for the tail, 3 for what has no event, `[C]`.

    Example:
        >>> popularity_thirds(np.array([1, 4, 2, 0, 2])).tolist()
        [2, 0, 1, 3, 1]
    """
    level = np.unique(counts, return_inverse=True)[1]
    events = np.bincount(level, counts)
    above = events.sum() - np.cumsum(events)  # events of the candidates that have more than this level
    return np.where(counts == 0, 3, (3 * above[level] // max(1, events.sum())).astype(np.int64))


def measure_slices(
    test: Dataset,
    train: Dataset,
    ranks: tuple[FloatArray, FloatArray],
    ks: Sequence[int] = DEFAULT_KS,
    weights: FloatArray | None = None,
) -> list[Slice]:
    """The metrics of ranks in each slice that has events.

    Args:
        test: The events that were ranked.
        train: The training split.
        ranks: Their ranks under `all` and `unseen`, `[N]` each, as `rank_events` gives them.
        ks: Lengths of lists.
        weights: How much each event counts, `[N]`; None where all count the same.
    """
    slices = []
    for (by, name), mask in slice_masks(test, train).items():
        counts = None if weights is None else weights[mask]
        events = int(mask.sum())
        metrics = (rank_metrics(own[mask], ks, counts) for own in ranks)
        slices.append(Slice(by, name, events, float(events if counts is None else counts.sum()), *metrics))
    return slices

"""Ranks among what was shown: each test event's true candidate against those shown with it and not chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
import torch

from twotower.data.dataset import Dataset, IntArray
from twotower.errors import TwoTowerError
from twotower.evaluation.exposed_events import ExposedEvents
from twotower.evaluation.grid import Grid
from twotower.evaluation.intervals import weighted_mean
from twotower.evaluation.metrics import (
    FloatArray,
    Metrics,
    Scores,
    event_values,
    metric_label,
    rank_half_widths,
    rank_metric_names,
    rank_metrics,
)
from twotower.evaluation.outcomes import event_weights
from twotower.evaluation.ranking import Scorer, blocks_of


def with_exposed(scores: Scores, scorer: Scorer, test: Dataset, ks: Sequence[int]) -> Scores:
    """The scores, with metrics of ranks among what was shown; unchanged if nothing was shown with any event.

    Args:
        scores: The other metrics of the scorer.
        scorer: The scorer.
        test: The events to evaluate on.
        ks: Lengths of lists.

    Raises:
        TwoTowerError: A score is not a number.
    """
    if test.exposures is None or not test.exposures.counts.any():
        return scores
    counts = test.exposures.counts
    events, counts = test.take(counts > 0), counts[counts > 0]
    weights, ranks = event_weights(events), exposed_ranks(scorer, events)
    widths = rank_half_widths(ranks, events.query_index, ks, weights)
    shown = weighted_mean(counts.astype(np.float64), weights)
    return msgspec.structs.replace(
        scores,
        exposed=rank_metrics(ranks, ks, weights),
        exposed_events=ExposedEvents(len(events), shown, _chance(counts, ks, weights)),
        half_widths=scores.half_widths | {f"exposed.{metric}": width for metric, width in widths.items()},
    )


def exposed_ranks(scorer: Scorer, events: Dataset) -> FloatArray:
    """Rank of each event's true candidate among itself and what was shown with it, `[N]`; ties count half.

    Args:
        scorer: The scorer.
        events: The events. If the log does not say what was shown, all ranks are 1.

    Raises:
        TwoTowerError: A score is not a number.
    """
    ranks, shown = np.ones(len(events)), events.exposures
    if shown is None:
        return ranks
    score = scorer.score_block(events)
    for block in blocks_of(events):
        position, entry = shown.pairs(block.numbers)
        scores = score(block.numbers)
        pairs = (torch.from_numpy(part).to(scores.device) for part in (position, shown.candidates[entry]))
        rivals = scores[tuple(pairs)].cpu().numpy()
        own = scores.gather(1, block.chosen.to(scores.device)).squeeze(1).cpu().numpy()
        if np.isnan(rivals).any() or np.isnan(own).any():
            raise TwoTowerError("a score is not a number (NaN), so candidates cannot be ranked by it")
        above = (rivals > own[position]).astype(np.float64) + (rivals >= own[position])
        ranks[block.numbers] = 1 + np.bincount(position, above, len(block.numbers)) / 2
    return ranks


def exposed_grid(rows: Mapping[str, Scores]) -> Grid | None:
    """Every scorer's top-1 accuracy and MRR among what was shown, with intervals; None if that was not measured.

    Args:
        rows: Scores by label; the first is the model's.
    """
    first = next(iter(rows.values()), None)
    if first is None or first.exposed_events is None:
        return None
    about = first.exposed_events
    metrics = [name for name in first.exposed if name in ("top_1", "mrr")]
    body = [["a random order", *(f"{about.chance[metric]:.4f}" for metric in metrics)]]
    body += [
        [label, *(str(scores.interval("exposed", metric)) for metric in metrics)]
        for label, scores in rows.items()
        if scores.exposed
    ]
    heading = f"among what was shown ({about.events:,} events, {about.shown:.1f} others each)"
    return Grid([heading, *map(metric_label, metrics)], body, strong=frozenset({1}), lines=frozenset({0}))


def _chance(counts: IntArray, ks: Sequence[int], weights: FloatArray | None) -> Metrics:
    """The expected metrics of a random order, given how many others were shown with each event, `[N]`."""
    lengths, place = np.unique(counts, return_inverse=True)
    chance = {}
    for metric in rank_metric_names(ks):
        means = [float(event_values(np.arange(1.0, length + 2), metric).mean()) for length in lengths]
        chance[metric] = weighted_mean(np.array(means)[place], weights)
    return chance

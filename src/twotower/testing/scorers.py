"""`check_metric` and `check_baseline`: what every metric of ranks and every baseline promises."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from twotower.data.splits import split_random
from twotower.evaluation.baselines.names import BASELINES, Baseline
from twotower.evaluation.by_rank import METRICS, Metric
from twotower.evaluation.measure import measure
from twotower.evaluation.metrics import event_values, rank_metrics
from twotower.testing.logs import small_log


def check_metric(metric: type[Metric]) -> None:
    """Checks a metric of ranks.

    - Its kind finds it, and it is measured wherever ranks are.
    - It gives a finite number an event, by the rank of that event alone, halves of ranks included.
    - A better rank never gives less, and of all ranks some differ.

    Args:
        metric: The registered class.

    Raises:
        AssertionError: Something of it does not hold.

    Example:
        >>> check_metric(METRICS["mrr"])
    """
    kind = metric.kind
    assert kind in METRICS, f"kind {kind!r} is not registered"
    assert METRICS[kind] is metric, f"kind {kind!r} is {METRICS[kind].__name__}, not {metric.__name__}"
    assert metric.label, "it has no label"
    ranks = np.arange(1, 61) / 2 + 0.5  # 1, 1.5, 2, …
    name = f"{kind}_10" if metric.by_length else kind
    assert name in rank_metrics(ranks, [10]), f"{name} is not measured"
    values = event_values(ranks, name)
    assert values.shape == ranks.shape, f"it gives {list(values.shape)} of {list(ranks.shape)} ranks"
    assert np.isfinite(values).all(), "it gives numbers that are not finite"
    alone = np.concatenate([event_values(ranks[place : place + 1], name) for place in range(len(ranks))])
    assert np.array_equal(alone, values), "an event alone has another value than among others"
    assert (np.diff(values) <= 0).all(), "a better rank gives less"
    assert values[0] > values[-1], "all ranks give the same"


def check_baseline(baseline: type[Baseline]) -> None:
    """Checks a baseline that learns from a log with times.

    - Its kind finds it; it learns the same from the same log.
    - It scores every candidate for an event, no score being NaN, alike for an event alone and among others.
    - It does not look at what test's queries chose.
    - `evaluate` can measure it.

    Args:
        baseline: The registered class.

    Raises:
        AssertionError: Something of it does not hold.

    Example:
        >>> check_baseline(BASELINES["popularity"])
    """
    kind = baseline.kind
    assert kind in BASELINES, f"kind {kind!r} is not registered"
    assert BASELINES[kind] is baseline, f"kind {kind!r} is {BASELINES[kind].__name__}, not {baseline.__name__}"
    assert baseline.label, "it has no label"
    train, test = split_random(small_log(), test=0.2)
    numbers = np.arange(len(test))
    scores = baseline(train).score_block(test)(numbers)
    assert scores.shape == (len(test), test.candidates.num_rows), f"scores are {list(scores.shape)}; expected [n, C]"
    assert not bool(scores.isnan().any()), "a score is NaN"
    again = baseline(train).score_block(test)(numbers)
    assert torch.allclose(again, scores, rtol=1e-4, atol=1e-6), "it learns otherwise from the same log"
    other = replace(test, candidate_index=np.roll(test.candidate_index, 1))
    peeking = baseline(train).score_block(other)(numbers)
    assert torch.allclose(peeking, scores, rtol=1e-4, atol=1e-6), "its scores depend on what was chosen"
    alone = baseline(train).score_block(test)(numbers[5:6])
    assert torch.allclose(alone[0], scores[5], rtol=1e-4, atol=1e-6), "an event alone has other scores"
    assert 0 <= measure(baseline(train), test, train).scores.all["mrr"] <= 1

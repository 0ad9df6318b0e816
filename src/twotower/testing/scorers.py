"""`check_metric` and `check_baseline`: test the contracts of rank metrics and baselines."""

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
    """Checks a rank metric.

    - It is registered under its kind, and measured wherever ranks are.
    - It gives a finite number per event that depends only on that event's rank, which may be a half such as 1.5.
    - A better rank never gives a lower value, and not all ranks give the same value.

    Args:
        metric: The registered class.

    Raises:
        AssertionError: A check fails.

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
    assert values.shape == ranks.shape, f"its values are {list(values.shape)}; expected {list(ranks.shape)}"
    assert np.isfinite(values).all(), "it gives numbers that are not finite"
    alone = np.concatenate([event_values(ranks[place : place + 1], name) for place in range(len(ranks))])
    assert np.array_equal(alone, values), "an event alone has another value than among others"
    assert (np.diff(values) <= 0).all(), "a better rank gives a lower value"
    assert values[0] > values[-1], "all ranks give the same value"


def check_baseline(baseline: type[Baseline]) -> None:
    """Checks a baseline that learns from a log with times.

    - It is registered under its kind, and learns the same from the same log.
    - It scores every candidate for each event without NaN, and scores an event the same alone as among others.
    - It does not use the candidates chosen in test.
    - `evaluate` can measure it.

    Args:
        baseline: The registered class.

    Raises:
        AssertionError: A check fails.

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
    assert torch.allclose(again, scores, rtol=1e-4, atol=1e-6), "training again on the same log gives other scores"
    other = replace(test, candidate_index=np.roll(test.candidate_index, 1))
    peeking = baseline(train).score_block(other)(numbers)
    assert torch.allclose(peeking, scores, rtol=1e-4, atol=1e-6), "its scores depend on what was chosen in test"
    alone = baseline(train).score_block(test)(numbers[5:6])
    assert torch.allclose(alone[0], scores[5], rtol=1e-4, atol=1e-6), (
        "an event alone has other scores than among others"
    )
    assert 0 <= measure(baseline(train), test, train).scores.all["mrr"] <= 1

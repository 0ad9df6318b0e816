"""Metrics of random runs against lists that are really made, and against what ranx says of the same runs.

Two differences from ranx are on purpose. Ties: a rank is the mean place among those that tie, which no order of a sort
favours. MAP: the average precision of a list of k is divided by the most hits that it can have, min(k, relevant), and
not by all that are relevant, so that a perfect list has 1.
"""

from __future__ import annotations

import json
import math
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toy import log_of
from twotower.data import Dataset, Seen
from twotower.evaluation import ScoreBlock, query_metrics, rank_events, rank_metrics

RANX = json.loads(Path(__file__).with_name("ranx.json").read_text(encoding="utf-8"))
KS = tuple(RANX["ks"])


def list_metrics(
    lists: list[list[int]], true: list[int], ks: tuple[int, ...], weights: list[float]
) -> dict[str, float]:
    """Metrics of one true candidate a list, by looking through the lists."""
    found = {f"top_{k}": [float(one in own[:k]) for own, one in zip(lists, true, strict=True)] for k in ks}
    found["mrr"] = [1 / (1 + own.index(one)) for own, one in zip(lists, true, strict=True)]
    for k in ks:
        discounts = [1 / math.log2(2 + place) for place in range(k)]
        pairs = list(zip(lists, true, strict=True))
        found[f"ndcg_{k}"] = [sum(d for c, d in zip(own, discounts, strict=False) if c == one) for own, one in pairs]
    return {name: float(np.average(values, weights=weights)) for name, values in found.items()}


def set_metrics(
    lists: list[list[int]], true: list[set[int]], ks: tuple[int, ...], weights: list[float]
) -> dict[str, float]:
    """Metrics of several true candidates a list, by looking through the lists."""
    found: dict[str, list[float]] = {}
    for own, relevant in zip(lists, true, strict=True):
        for k in ks:
            hits = [candidate in relevant for candidate in own[:k]]
            precision = [sum(hits[: place + 1]) / (place + 1) for place in range(len(hits)) if hits[place]]
            found.setdefault(f"recall_{k}", []).append(sum(hits) / len(relevant))
            found.setdefault(f"precision_{k}", []).append(sum(hits) / k)
            found.setdefault(f"map_{k}", []).append(sum(precision) / min(k, len(relevant)))
    return {name: float(np.average(values, weights=weights)) for name, values in found.items()}


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(1, 25), st.integers(2, 30), st.booleans())
def test_scores_become_the_metrics_of_the_lists_that_they_sort(
    seed: int, events: int, candidates: int, weighted: bool
) -> None:
    draw = np.random.default_rng(seed)
    pairs = [(int(draw.integers(4)), int(draw.integers(candidates))) for _ in range(events)]
    seen = [(int(draw.integers(4)), int(draw.integers(candidates))) for _ in range(events)]
    weights = draw.uniform(0.5, 3.0, size=events).tolist() if weighted else None
    test = log_of(pairs, 4, candidates, weights)
    scores = np.stack([draw.permutation(candidates) for _ in range(4)]).astype(np.float64)  # nothing ties
    by_protocol = rank_events(scored(test, scores), test, Seen.of(log_of(seen, 4, candidates)))
    order = np.argsort(-scores, axis=1).tolist()
    counts = np.ones(events) if weights is None else np.array(weights)
    hidden: list[set[tuple[int, int]]] = [set(), set(seen)]
    for ranks, out in zip(by_protocol, hidden, strict=True):
        lists = [[c for c in order[query] if c == one or (query, c) not in out] for query, one in pairs]
        found = rank_metrics(ranks, KS, counts if weighted else None)
        assert found == pytest.approx(list_metrics(lists, [one for _, one in pairs], KS, counts.tolist()))
    asked = sorted({query for query, _ in pairs})
    sets = [{one for q, one in pairs if q == query} for query in asked]
    mean_weights = [float(counts[test.query_index == query].mean()) for query in asked]
    found = query_metrics(
        by_protocol[0], test.query_index, test.candidate_index, KS, weights=counts if weighted else None
    )
    assert found == pytest.approx(set_metrics([order[query] for query in asked], sets, KS, mean_weights))


def scored(events: Dataset, scores: npt.NDArray[np.float64]) -> ScoreBlock:
    """The scores `[queries, candidates]` of each event's query."""
    return lambda numbers: torch.from_numpy(scores[events.query_index[numbers]])


def flat(run: dict[str, Any]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rank, query and candidate of each event of a run."""
    events = [(query, one) for query, chosen in enumerate(run["relevant"]) for one in chosen]
    ranks = np.array([1.0 + run["orders"][query].index(one) for query, one in events])
    queries, candidates = (np.array(part) for part in zip(*events, strict=True))
    return ranks, queries, candidates


@pytest.mark.parametrize("run", RANX["runs"], ids=range(len(RANX["runs"])))
def test_ranx_says_the_same_of_the_same_runs(run: dict[str, Any]) -> None:
    ranks, queries, candidates = flat(run)
    found = rank_metrics(ranks, KS)
    for name, value in run["by_event"].items():
        own = name.replace("hit_rate", "top").replace("@", "_")
        assert found.pop(own) == pytest.approx(value), name
    assert not found  # all were compared
    found = query_metrics(ranks, queries, candidates, KS)
    for name, value in run["by_query"].items():
        if not name.startswith("map"):
            assert found.pop(name.replace("@", "_")) == pytest.approx(value), name
    for k in KS:  # ranx divides by all that are relevant
        own = []
        for query, relevant in enumerate(run["relevant"]):
            of_query = queries == query
            one = query_metrics(ranks[of_query], queries[of_query], candidates[of_query], (k,))[f"map_{k}"]
            own.append(one * min(k, len(relevant)) / len(relevant))
        assert float(np.mean(own)) == pytest.approx(run["by_query"][f"map@{k}"])


def test_a_tie_counts_half_which_is_the_mean_over_all_orders_of_those_that_tie() -> None:
    scores, true = [3.0, 2.0, 2.0, 2.0, 1.0], 2
    events = log_of([(0, true)], 1, 5)
    (rank,), _ = rank_events(scored(events, np.array([scores])), events)
    places = [1 + (0, *order, 4).index(true) for order in permutations((1, 2, 3))]
    assert rank == np.mean(places) == 3.0
    assert (
        rank_metrics(np.array([rank]), [2])["top_2"] == 0.0
    )  # where a stable sort would have put it second, or ranx's

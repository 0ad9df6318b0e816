from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toy import groups_log, log_of, toy_model
from twotower.data import split_random
from twotower.evaluation import ModelScorer, Popularity, measure
from twotower.evaluation.slices import (
    HISTORY,
    NEW_CHOICES,
    REPEATED_CHOICES,
    measure_slices,
    popularity_thirds,
    slice_masks,
)
from twotower.evaluation.validation import Validation


def test_thirds_of_the_events_by_hand() -> None:
    # Nine events each: before the candidate of 2 are 6 of them, or 7, or 3; what has as many events stays together.
    assert popularity_thirds(np.array([3, 2, 1, 0, 3])).tolist() == [0, 2, 2, 3, 0]
    assert popularity_thirds(np.array([4, 3, 2])).tolist() == [0, 1, 2]
    assert popularity_thirds(np.array([3, 2, 1, 0, 1, 1, 1])).tolist() == [0, 1, 1, 3, 1, 1, 1]
    assert popularity_thirds(np.array([2, 2, 2])).tolist() == [0, 0, 0]
    assert popularity_thirds(np.array([0, 0])).tolist() == [3, 3]


@given(st.lists(st.integers(0, 20), min_size=1, max_size=30))
def test_who_is_chosen_more_often_is_never_further_down(counts: list[int]) -> None:
    thirds = popularity_thirds(np.array(counts))
    for one, third in zip(counts, thirds, strict=True):
        assert (third == 3) == (one == 0)
        before = sum(count for count in counts if count > one)
        if one:
            assert third == 3 * before // sum(counts)


def test_events_are_told_apart_by_their_candidate_and_by_their_query() -> None:
    train = log_of([(1, 0)] * 9 + [(2, 0)] * 10 + [(3, 0)] * 49 + [(4, 0)] * 50 + [(4, 1)], queries=5, candidates=3)
    test = log_of([(0, 0), (1, 1), (2, 2), (3, 0), (4, 0)], queries=5, candidates=3)
    masks = {key: np.flatnonzero(mask).tolist() for key, mask in slice_masks(test, train).items()}
    assert masks == {
        ("choice", NEW_CHOICES): [0, 1, 2],
        ("choice", REPEATED_CHOICES): [3, 4],
        ("candidate", "head"): [0, 3, 4],
        ("candidate", "tail"): [1],
        ("candidate", "new candidates"): [2],
        ("history", "new queries"): [0],
        ("history", HISTORY[0][1]): [1],
        ("history", HISTORY[1][1]): [2, 3],
        ("history", HISTORY[2][1]): [4],
    }


def test_slices_measure_their_own_events() -> None:
    train = log_of([(0, 0), (0, 0), (0, 1)], queries=2, candidates=3)
    test = log_of([(0, 0), (1, 1), (1, 2)], queries=2, candidates=3)
    slices = measure_slices(test, train, (np.array([1.0, 2.0, 4.0]), np.array([1.0, 1.0, 2.0])), ks=(1, 2))
    by_name = {part.name: part for part in slices}
    assert list(by_name) == [
        *("head", "tail", "new candidates", "new queries", "1–9 events", "new choices", "repeated choices")
    ]
    assert by_name["new queries"].events == 2
    half = 0.5 / np.log2(3)
    assert by_name["new queries"].all == {"top_1": 0.0, "top_2": 0.5, "mrr": 0.375, "ndcg_1": 0.0, "ndcg_2": half}
    assert by_name["new queries"].unseen == {
        **{"top_1": 0.5, "top_2": 1.0, "mrr": 0.75, "ndcg_1": 0.5},
        "ndcg_2": pytest.approx(0.5 + half),
    }
    assert by_name["head"].all == {"top_1": 1.0, "top_2": 1.0, "mrr": 1.0, "ndcg_1": 1.0, "ndcg_2": 1.0}


def test_choices_are_a_slice_only_where_some_repeat() -> None:
    train, test = log_of([(0, 0), (1, 1)], queries=2, candidates=3), log_of([(0, 1), (1, 2)], queries=2, candidates=3)
    assert not [by for by, _ in slice_masks(test, train) if by == "choice"]


@pytest.mark.parametrize("weights", [None, [0.0, 1.0, 2.5, 0.5] * 500], ids=["plain", "weighted"])
def test_the_slices_of_each_kind_add_up_to_the_whole(weights: list[float] | None) -> None:
    log = groups_log()
    pairs = list(zip(log.query_index.tolist(), log.candidate_index.tolist(), strict=True))
    train, test = split_random(log_of(pairs, 40, 30, weights))
    scores = measure(Popularity(train), test, train).scores
    for by in ("candidate", "history", "choice"):
        parts = [part for part in scores.slices if part.by == by]
        assert sum(part.events for part in parts) == int((test.weights > 0).sum())
        for protocol in ("all", "unseen"):
            total = sum(part.weight * getattr(part, protocol)["top_10"] for part in parts)
            mean = total / test.weights.sum(dtype=np.float64)
            np.testing.assert_allclose(mean, getattr(scores, protocol)["top_10"], rtol=1e-12)


def test_a_validation_and_a_measurement_tell_new_choices_alike() -> None:
    """Query 0 repeats candidate 0, which recalling train ranks first; its new choice is what `new` measures."""
    train = log_of([(0, 0), (0, 0), (0, 1), (1, 2)], queries=2, candidates=4)
    test = log_of([(0, 0), (0, 3), (1, 3)], queries=2, candidates=4)
    model = toy_model().learn(train)
    measured = measure(ModelScorer(model), test, train, ks=(1, 2)).scores
    validated = Validation(model, test, train, ks=(1, 2)).measure(model)
    (part,) = [part for part in measured.slices if part.name == NEW_CHOICES]
    assert part.events == 2
    assert validated.new == pytest.approx(part.unseen)
    assert validated.value("new.mrr") == pytest.approx(measured.new["mrr"])
    everything_new = Validation(model, test.take(np.array([1, 2])), train, ks=(1,)).measure(model)
    assert everything_new.new == {}
    assert everything_new.value("new.mrr") == everything_new.unseen["mrr"]

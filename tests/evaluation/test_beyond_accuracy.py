"""Novelty, diversity and serendipity: small cases by hand, and against plain definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toy import groups_log, log_of
from twotower.data import split_random
from twotower.data.seen import Seen
from twotower.evaluation import Popularity, measure
from twotower.evaluation import beyond_accuracy as module
from twotower.evaluation.beyond_accuracy import ListQuality, popularity_ranks, serendipity

# candidate 0: chosen by queries 0, 1, 2, 3; 1: by 0, 1; 2: by 2; 3: by nobody
SEEN = Seen(np.array([0, 2, 4, 6, 7]), np.array([0, 1, 0, 1, 0, 2, 0]))


def test_novelty_and_diversity_by_hand() -> None:
    quality = ListQuality(SEEN, candidates=4, events=2, ks=(1, 2, 3))
    quality.add(np.array([[0, 1, 2], [3, 0, -1]]), numbers=np.array([0, 1]))
    bits = [0.0, 1.0, 2.0, 2.0]  # log2(4 / 4), log2(4 / 2), log2(4 / 1), and of the one that nobody chose the same
    cosine = {(0, 1): 2 / math.sqrt(4 * 2), (0, 2): 1 / math.sqrt(4 * 1), (1, 2): 0.0}
    assert quality.metrics() == pytest.approx(
        {
            "novelty_1": (bits[0] + bits[3]) / 2,
            "novelty_2": (bits[0] + bits[1] + bits[3] + bits[0]) / 4,
            "novelty_3": (bits[0] + bits[1] + bits[2] + bits[3] + bits[0]) / 5,
            "diversity_2": (1 - cosine[0, 1] + 1) / 2,
            "diversity_3": (1 - sum(cosine.values()) / 3 + 1) / 2,
        }
    )


def test_lists_count_by_the_weights_of_their_events() -> None:
    lists = np.array([[0, 1], [1, 2]])
    weighted, repeated = (ListQuality(SEEN, 4, events=4, ks=(2,)) for _ in range(2))
    weighted.add(lists, np.array([0, 1]), np.array([3.0, 1.0]))
    repeated.add(lists[[0, 0, 0, 1]], np.arange(4))
    assert weighted.metrics() == pytest.approx(repeated.metrics())


def test_lists_that_nothing_fills_have_no_diversity() -> None:
    quality = ListQuality(SEEN, 4, events=1, ks=(2,))
    quality.add(np.array([[1, -1]]), np.array([0]))
    assert quality.metrics() == {"novelty_2": 1.0, "diversity_2": 0.0}
    empty = ListQuality(SEEN, 4, events=1, ks=(2,))
    empty.add(np.array([[-1, -1]]), np.array([0]))
    assert empty.metrics() == {"novelty_2": 0.0, "diversity_2": 0.0}


def test_of_many_lists_some_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAMPLED_LISTS", 2)
    quality = ListQuality(SEEN, 4, events=4, ks=(2,))
    quality.add(np.array([[0, 1], [1, 2]]), np.array([2, 1]))
    quality.add(np.array([[1, 2], [0, 3]]), np.array([3, 0]))
    assert quality.metrics()["diversity_2"] == pytest.approx((1 - 2 / math.sqrt(8) + 1) / 2)  # those of 0 and 2


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 6)), min_size=2, max_size=25),
    st.lists(st.permutations(range(7)), min_size=1, max_size=6),
)
def test_diversity_is_its_definition(pairs: list[tuple[int, int]], lists: list[list[int]]) -> None:
    log = log_of(pairs, 6, 7)
    chosen = np.zeros((7, 6))
    chosen[log.candidate_index, log.query_index] = 1
    lengths = np.linalg.norm(chosen, axis=1)
    distances = []
    for listed in lists:
        own = [
            1 - (chosen[i] @ chosen[j] / (lengths[i] * lengths[j]) if lengths[i] * lengths[j] > 0 else 0.0)
            for place, i in enumerate(listed[:4])
            for j in listed[:place]
        ]
        distances.append(sum(own) / len(own))
    quality = ListQuality(Seen.of(log), 7, len(lists), ks=(4,))
    quality.add(np.array(lists), np.arange(len(lists)))
    assert quality.metrics()["diversity_4"] == pytest.approx(np.mean(distances), abs=1e-12)


def test_popularity_ranks_are_those_that_popularity_is_measured_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK_EVENTS", 7)
    train, test = split_random(groups_log(400))
    measured = measure(Popularity(train), test, train)
    found = popularity_ranks(test, Seen.of(train), train.candidate_counts().astype(np.float64))
    assert np.array_equal(found, measured.outcomes.ranks)
    for metrics in (measured.scores.all, measured.scores.unseen):
        assert [metrics[f"serendipity_{k}"] for k in (1, 5, 10, 50, 100)] == [0.0] * 5


def test_serendipity_counts_by_weights() -> None:
    ranks, popular = np.array([1.0, 2.0, 9.0]), np.array([1.0, 8.0, 1.0])
    weighted = serendipity(ranks, popular, ks=(5, 8), weights=np.array([1.0, 2.0, 1.0]))
    assert weighted == {"serendipity_5": 0.5, "serendipity_8": 0.0}

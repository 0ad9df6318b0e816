from __future__ import annotations

import numpy as np
import pytest
import torch

from toy import groups_log, log_of
from twotower.data import split_random
from twotower.errors import TwoTowerError
from twotower.evaluation import Ease, OracleScorer, Popularity, Scorer
from twotower.evaluation.ranking import blocks_of, rank_events


def scorers() -> list[Scorer]:
    train = groups_log()
    return [Popularity(train), Ease(train, regularization=50.0)]


@pytest.mark.parametrize("scorer", scorers(), ids=lambda scorer: type(scorer).__name__)
def test_every_scorer_gives_each_event_the_same_scores_alone_as_in_company(scorer: Scorer) -> None:
    test = groups_log(200, seed=1)
    score = scorer.score_block(test)
    together = score(np.arange(200))
    assert together.shape == (200, test.candidates.num_rows)
    for number in (0, 7, 199):
        torch.testing.assert_close(score(np.array([number]))[0], together[number], rtol=1e-9, atol=1e-12)


def test_popularity_scores_are_the_counts_of_train() -> None:
    train = log_of([(0, 1), (1, 1), (1, 2)], queries=2, candidates=4)
    assert Popularity(train).score_block(train)(np.array([0]))[0].tolist() == [0, 2, 1, 0]


def test_popularity_counts_weights_where_there_are_some() -> None:
    train = log_of([(0, 1), (1, 1), (1, 2)], queries=2, candidates=4, weights=[1.0, 0.5, 4.0])
    assert Popularity(train).score_block(train)(np.array([0]))[0].tolist() == [0, 1.5, 4, 0]


def test_ease_is_its_closed_form() -> None:
    train = log_of([(0, 0), (0, 1), (0, 1), (1, 1), (1, 2), (2, 0)], queries=3, candidates=5)
    choices = np.array([[1, 1, 0, 0, 0], [0, 1, 1, 0, 0], [1, 0, 0, 0, 0]], dtype=float)
    precision = np.linalg.inv(choices.T @ choices + 2.0 * np.eye(5))
    weights = -precision / np.diag(precision)
    np.fill_diagonal(weights, 0)
    scores = Ease(train, regularization=2.0).score_block(train)(np.arange(6))
    np.testing.assert_allclose(scores.numpy(), (choices @ weights)[train.query_index], atol=1e-12)


def test_ease_is_refused_with_the_figure_where_it_does_not_fit() -> None:
    with pytest.raises(TwoTowerError, match=r"EASE over 30 candidates needs .* GiB; expected at most"):
        Ease(groups_log(), memory=1000)


def test_ease_finds_the_groups_that_popularity_cannot() -> None:
    train, test = split_random(groups_log())
    ease, popularity = (
        np.mean(rank_events(scorer.score_block(test), test)[0] <= 6) for scorer in (Ease(train, 10), Popularity(train))
    )
    assert ease > popularity + 0.3


def test_the_oracle_is_asked_for_queries_and_times() -> None:
    class Truth:
        def log_probabilities(self, query_index: np.ndarray, times: np.ndarray) -> np.ndarray:
            return np.stack([query_index, times, -times], axis=1).astype(np.float32)

    test = log_of([(1, 0), (0, 1)], queries=2, candidates=3)
    blocks = blocks_of(test)
    assert blocks[0].tolist() == [1, 0]
    assert OracleScorer(Truth()).score_block(test)(blocks[0]).tolist() == [[0, 1, -1], [1, 0, 0]]

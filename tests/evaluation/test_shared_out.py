"""Ranks that measure together have the figures of one process, to the bit."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from rank_processes import on_ranks, without_errors
from toy import groups_log, toy_model
from twotower.data import split_random
from twotower.errors import TwoTowerError
from twotower.evaluation import Evaluation, Measurement, ModelScorer, evaluate, measure, ranking
from twotower.evaluation.evaluate import help_evaluate
from twotower.evaluation.ranking import IntArray, ScoreBlock
from twotower.ranks import joined, ranks_of_process

TRAIN, TEST = split_random(groups_log(600))


class Measured(ModelScorer):
    """An untrained model."""

    def __init__(self) -> None:
        super().__init__(toy_model().learn(TRAIN, seed=1))


class BrokenOnce(Measured):
    """Scores of one event are not numbers, whichever rank has it."""

    def score_block(self, events: object) -> ScoreBlock:
        whole = super().score_block(TEST)

        def block(numbers: IntArray) -> Tensor:
            scores = whole(numbers).clone()
            scores[torch.from_numpy(numbers == 17)] = torch.nan
            return scores

        return block


def small_blocks() -> None:
    ranking.MIN_ROWS = ranking.MAX_ROWS = 16


def together() -> Measurement:
    small_blocks()
    with joined(ranks_of_process()):
        return measure(Measured(), TEST, TRAIN, ks=(3, 10))


def broken() -> None:
    small_blocks()
    with joined(ranks_of_process()):
        measure(BrokenOnce(), TEST, TRAIN)


def beside_baselines() -> Evaluation | None:
    small_blocks()
    with joined(ranks_of_process()) as ranks:
        if ranks.is_first:
            return evaluate(Measured().model, TEST, TRAIN, baselines=("popularity", "recent_popularity"))
        help_evaluate(Measured().model, TEST, TRAIN)
    return None


@cache
def on_three(folder: Path) -> list[list[object]]:
    return on_ranks(3, folder, (together,), (beside_baselines,), (broken,))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("group")


@pytest.fixture(autouse=True)
def blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As small as those of the ranks: 120 events are 8 blocks."""
    for name in ("MIN_ROWS", "MAX_ROWS"):
        monkeypatch.setattr(ranking, name, 16)


def test_every_rank_has_the_figures_of_one_process(folder: Path) -> None:
    expected = measure(Measured(), TEST, TRAIN, ks=(3, 10))
    for one in without_errors(on_three(folder)[0]):
        assert one.scores == expected.scores
        np.testing.assert_array_equal(one.outcomes.ranks, expected.outcomes.ranks)


def test_the_first_rank_has_the_baselines_beside_them(folder: Path) -> None:
    first, *others = without_errors(on_three(folder)[1])
    assert first == evaluate(Measured().model, TEST, TRAIN, baselines=("popularity", "recent_popularity"))
    assert others == [None, None]


def test_what_one_rank_cannot_rank_ends_all(folder: Path) -> None:
    for one in on_three(folder)[2]:
        assert isinstance(one, TwoTowerError)
        assert "not a number" in str(one)

from __future__ import annotations

import numpy as np
import pytest
import torch
from rich.console import Console

from toy import groups_log, log_of, toy_model
from twotower.data import Dataset, split_random
from twotower.errors import DataError
from twotower.evaluation import ModelScorer, ScoreBlock, Validation, evaluate, measure
from twotower.progress import Display


class Cheat:
    """Scores the true candidate highest, or lowest."""

    def __init__(self, sign: float) -> None:
        self.sign = sign

    def score_block(self, events: Dataset) -> ScoreBlock:
        def block(numbers: np.ndarray) -> torch.Tensor:
            scores = torch.zeros(len(numbers), events.candidates.num_rows)
            scores[torch.arange(len(numbers)), torch.from_numpy(events.candidate_index[numbers])] = self.sign
            return scores

        return block


def test_a_perfect_model_beats_everything_and_a_hopeless_one_is_told_so() -> None:
    train, test = split_random(groups_log())
    perfect = evaluate(Cheat(1.0), test, exclude=train, ks=(1, 5))
    assert perfect.model.all["top_1"] == perfect.model.unseen["mrr"] == 1.0
    assert "The model (mrr, all: 1.0000 ± 0.0000) beats popularity (" in str(perfect)
    hopeless = evaluate(Cheat(-1.0), test, exclude=train, ks=(1, 5))
    assert hopeless.model.all["top_5"] == 0.0
    for protocol in ("all", "unseen"):
        assert any(f"mrr, {protocol}" in note and "does not beat popularity" in note for note in hopeless.notes)
        assert any(f"mrr, {protocol}" in note and "or iALS (" in note for note in hopeless.notes)


def test_the_table_has_the_baselines_beside_the_model() -> None:
    train, test = split_random(groups_log())
    evaluation = evaluate(Cheat(1.0), test, exclude=train)
    assert list(evaluation.rows) == ["model", "popularity", "item_knn", "ease", "ials"]
    some = evaluate(Cheat(1.0), test, exclude=train, baselines=("ease", "popularity"))
    assert list(some.rows) == ["model", "popularity", "ease"]


def test_a_model_is_measured_without_baselines() -> None:
    train, test = split_random(groups_log())
    alone = evaluate(Cheat(1.0), test, exclude=train, baselines="none")
    assert list(alone.rows) == ["model"]
    assert alone.notes == []


def test_whoever_watches_sees_what_is_learned_and_measured() -> None:
    class Watched(Display):
        def show(self, label: str, step: str, share: float | None = None) -> None:
            shown.setdefault(label, []).append((step, share))

    shown: dict[str, list[tuple[str, float | None]]] = {}
    train, test = split_random(groups_log())
    evaluate(Cheat(1.0), test, exclude=train, progress=Watched(Console(quiet=True)))
    assert list(shown) == ["the model", "popularity", "item-kNN", "EASE", "iALS"]
    assert all(steps[-1] == ("ranking", 1.0) for steps in shown.values())
    assert [step for step, _ in shown["EASE"]] == [
        "learning",
        "counting choices",
        "inverting 30 × 30 numbers",
        "inverting 30 × 30 numbers",
        "ranking",
    ]


def test_slices_are_shown_for_the_model_and_every_baseline() -> None:
    train, test = split_random(groups_log())
    evaluation = evaluate(Cheat(1.0), test, exclude=train)
    assert list(evaluation.slices) == list(evaluation.rows)
    head = evaluation.slices["model"][0]
    shown = next(line for line in str(evaluation).splitlines() if "candidate: head" in line)
    cells = [cell.strip() for cell in shown.split("│")]
    assert cells[:3] == ["candidate: head", str(head.events), "1.0000"]
    assert len(cells) == 2 + len(evaluation.rows)


def test_parts_of_different_data_are_refused() -> None:
    with pytest.raises(DataError, match="two parts of one data set"):
        evaluate(Cheat(1.0), log_of([(0, 0)], 1, 2), exclude=log_of([(0, 0)], 1, 3))


def test_validation_measures_what_evaluation_does() -> None:
    train, test = split_random(groups_log())
    model = toy_model().learn(train).eval()
    validated = Validation(model, test, train).measure(model)
    evaluated = measure(ModelScorer(model), test, train)
    for protocol in ("all", "unseen"):
        figures = getattr(validated, protocol)
        assert figures == {name: getattr(evaluated, protocol)[name] for name in figures}

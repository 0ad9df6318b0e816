from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from toy import groups_log, log_of, toy_model
from twotower.data import Dataset, split_random
from twotower.errors import DataError, SavedFolderError
from twotower.evaluation import Evaluation, ModelScorer, Outcomes, ScoreBlock, Validation, evaluate, measure
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


class DotProduct:
    """Scores that are dot products of given embeddings, one query an event."""

    def __init__(self, queries: np.ndarray, candidates: np.ndarray) -> None:
        self.scores = torch.from_numpy(queries @ candidates.T)

    def score_block(self, events: Dataset) -> ScoreBlock:
        return lambda numbers: self.scores[torch.from_numpy(events.query_index[numbers])]


@pytest.fixture(scope="module")
def perfect() -> Evaluation:
    train, test = split_random(groups_log(candidates=300))
    return evaluate(Cheat(1.0), test, exclude=train, ks=(3, 20))


def test_a_perfect_model_beats_everything_and_a_hopeless_one_is_told_so(perfect: Evaluation) -> None:
    assert perfect.model.all["top_3"] == perfect.model.unseen["mrr"] == 1.0
    rivals = "popularity, item-kNN, EASE and iALS under both protocols"
    assert f"The model beats {rivals} (top-20; closest is " in str(perfect)
    train, test = split_random(groups_log(candidates=300))
    hopeless = evaluate(Cheat(-1.0), test, exclude=train, ks=(1, 50))
    assert hopeless.model.all["top_50"] == 0.0
    assert f"The model is worse than {rivals} (top-50; closest is " in str(hopeless)
    assert {one.verdict for one in hopeless.comparisons} == {"worse"}


def test_the_table_shows_the_lists_that_were_asked_for(perfect: Evaluation) -> None:
    heading = str(perfect).splitlines()[0]
    assert [cell.strip() for cell in heading.split("┃")][2:] == ["top-3", "top-20", "MRR", "NDCG@20"]
    assert perfect.metric == "top_20"
    assert "unseen, top-20" in str(perfect)


def test_all_figures_are_had_as_an_arrow_table(perfect: Evaluation) -> None:
    table = perfect.to_table()
    assert table.column_names == ["scorer", "protocol", "metric", "value", "half_width"]
    assert table.num_rows == sum(len(scores.all) + len(scores.unseen) for scores in perfect.rows.values())
    found = {(row["scorer"], row["protocol"], row["metric"]): row for row in table.to_pylist()}
    assert found["ease", "unseen", "top_3"]["value"] == perfect.rows["ease"].unseen["top_3"]
    assert found["ease", "all", "mrr"]["half_width"] == perfect.rows["ease"].half_widths["all.mrr"]
    assert found["ease", "all", "coverage_3"]["half_width"] is None


def test_a_notebook_shows_tables_and_sentences(perfect: Evaluation) -> None:
    page = perfect._repr_html_()
    assert page.count("<table") == page.count("</table>") == 3
    assert page.count("<tr") == page.count("</tr>")
    for text in ("top-20", "item-kNN", *perfect.notes):
        assert text in page
    assert "│" not in page


def test_weights_of_events_count_as_in_tensorflow_recommenders() -> None:
    """The case of its test of FactorizedTopK with sample weights, drawn as there."""
    draw = np.random.RandomState(42)
    candidates, queries = (draw.normal(size=(rows, 4)).astype(np.float32) for rows in (100, 10))
    weights = draw.uniform(size=10).astype(np.float32)
    chosen = draw.randint(0, 100, size=10)
    scorer = DotProduct(queries, candidates)
    top_5 = []
    for weight in (None, weights.tolist()):
        events = log_of(list(enumerate(chosen.tolist())), 10, 100, weight)
        found = evaluate(scorer, events, exclude=events.take(np.array([0])), ks=(1, 5, 10, 50), baselines="none")
        top_5.append(found.model.all["top_5"])
    assert top_5 == pytest.approx([0.1, 0.17503], abs=1e-5)


def weighted_log() -> Dataset:
    log = groups_log()
    pairs = list(zip(log.query_index.tolist(), log.candidate_index.tolist(), strict=True))
    weights = np.random.default_rng(1).choice([0.0, 0.5, 1.0, 4.0], size=len(pairs)).tolist()
    return log_of(pairs, 40, 30, weights)


def test_an_event_of_weight_0_is_as_if_it_were_not_there() -> None:
    train, test = split_random(weighted_log())
    model = ModelScorer(toy_model().learn(train).eval())
    found, without = (measure(model, part, train) for part in (test, test.take(test.weights > 0)))
    assert found.scores == without.scores
    by_candidate = [part.events for part in found.scores.slices if part.by == "candidate"]
    assert sum(by_candidate) == int((test.weights > 0).sum()) < len(test)


def test_events_that_all_have_weight_0_are_refused() -> None:
    log = log_of([(0, 0), (0, 1), (0, 2)], 1, 3, [1.0, 0.0, 0.0])
    with pytest.raises(DataError, match="column 'weight': every event to measure on has weight 0"):
        evaluate(Cheat(1.0), log.take(np.array([1, 2])), exclude=log.take(np.array([0])))


def test_outcomes_are_read_as_they_were_written(tmp_path: Path) -> None:
    for log in (groups_log(300), weighted_log()):
        train, test = split_random(log)
        kept = measure(Cheat(1.0), test, train).outcomes
        kept.write(tmp_path / "outcomes.arrow")
        read = Outcomes.read(tmp_path / "outcomes.arrow")
        for name in ("ranks", "queries", "repeats", "weights"):
            np.testing.assert_array_equal(getattr(read, name), getattr(kept, name))
    (tmp_path / "outcomes.arrow").write_bytes(b"ARROW1")
    with pytest.raises(SavedFolderError, match="does not contain ranks"):
        Outcomes.read(tmp_path / "outcomes.arrow")


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
        def show(self, label: str, step: str, share: float | None = None, source: int = 0) -> None:
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


@pytest.mark.parametrize("log", [groups_log(), weighted_log()], ids=["plain", "weighted"])
def test_validation_measures_what_evaluation_does(log: Dataset) -> None:
    train, test = split_random(log)
    model = toy_model().learn(train).eval()
    validated = Validation(model, test, train).measure(model)
    evaluated = measure(ModelScorer(model), test, train).scores
    for protocol in ("all", "unseen"):
        figures = getattr(validated, protocol)
        assert figures == {name: getattr(evaluated, protocol)[name] for name in figures}

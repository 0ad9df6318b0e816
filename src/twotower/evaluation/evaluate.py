"""`evaluate`: a model beside popularity and EASE on the same events, and in words whether it beats them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

from twotower.data.dataset import Dataset
from twotower.data.seen import Seen
from twotower.errors import DataError, TwoTowerError
from twotower.evaluation.baselines import Ease, OracleScorer, Popularity
from twotower.evaluation.metrics import (
    DEFAULT_KS,
    ListStatistics,
    Scores,
    check_ks,
    query_metrics,
    rank_metrics,
)
from twotower.evaluation.ranking import (
    ModelScorer,
    Scorer,
    blocks_of,
    excluded_pairs,
    one_list_a_query,
    rank_events,
    top_lists,
)
from twotower.model.two_tower import TwoTower

SHOWN = ("top_1", "top_10", "top_100", "mrr", "ndcg_10")
"""Metrics of the printed table; `Evaluation.rows` has them all."""


class Evaluation(msgspec.Struct, frozen=True):
    """Scores of a model and of its baselines on the same events.

    Attributes:
        rows: Scores by name: `model`, `popularity`, `ease` and, where known, `oracle`.
        notes: What the figures say, in sentences; also which baseline could not be had, and why.
    """

    rows: dict[str, Scores]
    notes: list[str]

    @property
    def model(self) -> Scores:
        """The model's scores."""
        return self.rows["model"]

    def table(self) -> Table:
        """The figures most asked for, as a table."""
        table = Table(show_edge=False, pad_edge=False)
        table.add_column("")
        metrics = [metric for metric in SHOWN if metric in self.model.all]
        for protocol in ("all", "unseen"):
            for metric in metrics:
                table.add_column(f"{protocol}\n{metric}", justify="right")
        for name, scores in self.rows.items():
            figures = [values[metric] for values in (scores.all, scores.unseen) for metric in metrics]
            style = "bold" if name == "model" else None
            table.add_row(name, *(f"{figure:.4f}" for figure in figures), style=style)
        return table

    def __str__(self) -> str:
        console = Console(width=120)
        with console.capture() as capture:
            console.print(self.table())
            for note in self.notes:
                console.print(note, highlight=False)
        return capture.get().rstrip()


def evaluate(
    model: TwoTower | Scorer,
    test: Dataset,
    exclude: Dataset,
    ks: Sequence[int] = DEFAULT_KS,
    baselines: bool = True,
) -> Evaluation:
    """Measures a model on test events over the whole catalogue, beside popularity and EASE.

    Args:
        model: A trained model, or anything that scores the catalogue for events.
        test: The events to measure on; each is one query with one true candidate.
        exclude: The training split: what `unseen` excludes, and what the baselines learn from.
        ks: Lengths of lists.
        baselines: Measure popularity, EASE and, where the truth is known, the oracle as well.

    Raises:
        DataError: `exclude` is not a part of the same data as `test`.
        TwoTowerError: The model's scores are not numbers.
    """
    check_ks(ks)
    require_same_catalogue(test, exclude)
    scorer = ModelScorer(model) if isinstance(model, TwoTower) else model
    rows = {"model": measure(scorer, test, exclude, ks)}
    notes: list[str] = []
    if baselines:
        beside, notes = measure_baselines(test, exclude, ks)
        notes = [*comparisons("the model", rows["model"], beside), *notes]
        rows |= beside
    return Evaluation(rows, notes)


def measure(scorer: Scorer, test: Dataset, train: Dataset, ks: Sequence[int] = DEFAULT_KS) -> Scores:
    """Every metric of one scorer: of ranks, per query, and of the top-k lists.

    The metrics per query are those of one list for each query, the one of its first event in test.
    """
    seen = Seen.of(train)
    score = scorer.score_block(test)
    ranks = rank_events(score, test, seen)
    list_ranks = rank_events(one_list_a_query(score, test), test, seen)
    popularity = train.candidate_counts().astype(np.float64)
    lists = ListStatistics(popularity, ks), ListStatistics(popularity, ks)
    for numbers in blocks_of(test):
        scores, chosen = score(numbers), test.candidate_index[numbers]
        lists[0].add(top_lists(scores, max(ks)), chosen)
        lists[1].add(top_lists(scores, max(ks), excluded_pairs(seen, test, numbers)), chosen)
    return Scores(
        *(
            rank_metrics(own, ks)
            | query_metrics(in_list, test.query_index, test.candidate_index, ks)
            | statistics.metrics()
            for own, in_list, statistics in zip(ranks, list_ranks, lists, strict=True)
        )
    )


def measure_baselines(
    test: Dataset, train: Dataset, ks: Sequence[int] = DEFAULT_KS
) -> tuple[dict[str, Scores], list[str]]:
    """Scores of popularity, EASE and, where the truth is known, the oracle; and why one is not there."""
    rows = {"popularity": measure(Popularity(train), test, train, ks)}
    notes = []
    try:
        rows["ease"] = measure(Ease(train), test, train, ks)
    except TwoTowerError as error:
        notes.append(f"EASE is not in the table: {error}")
    if test.oracle is not None:
        rows["oracle"] = measure(OracleScorer(test.oracle), test, train, ks)
    return rows, notes


def comparisons(name: str, model: Scores, baselines: Mapping[str, Scores], metric: str = "top_100") -> list[str]:
    """Sentences that say whether a model beats popularity and EASE, under each protocol.

    Where the catalogue is shorter than 100 or the metric was not measured, MRR stands in for it.
    """
    if metric not in model.all or model.all[metric] == 1.0:
        metric = "mrr"
    sentences = []
    for protocol in ("all", "unseen"):
        own = getattr(model, protocol)[metric]
        for baseline in ("popularity", "ease"):
            if baseline in baselines:
                other = getattr(baselines[baseline], protocol)[metric]
                verb = "beats" if own > other else "does not beat"
                rival = f"{'EASE' if baseline == 'ease' else baseline} ({metric}, {protocol})"
                sentences.append(f"{name} {verb} {rival}: {own:.4f} against {other:.4f}.")
    return [sentence[0].upper() + sentence[1:] for sentence in sentences]


def require_same_catalogue(test: Dataset, train: Dataset) -> None:
    """Refuses two data sets whose row numbers do not mean the same candidates."""
    if not (test.candidates.equals(train.candidates) and test.queries.equals(train.queries)):
        raise DataError(
            f"test has {test.candidates.num_rows} candidates and {test.queries.num_rows} queries, "
            f"not those of train ({train.candidates.num_rows} and {train.queries.num_rows}); "
            f"expected two parts of one data set, as the splits give them"
        )

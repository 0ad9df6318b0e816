"""`evaluate`: a model beside the baselines on the same events, and in words whether it beats them."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from rich.console import Console
from rich.table import Table

from twotower.data.dataset import Dataset
from twotower.data.stream import ParquetLog
from twotower.errors import DataError
from twotower.evaluation.baselines import BaselineBudget, Popularity
from twotower.evaluation.baselines.names import BaselineNames, check_baselines
from twotower.evaluation.beside import left_out, measure_baselines
from twotower.evaluation.comparisons import comparisons, telling
from twotower.evaluation.measure import measure
from twotower.evaluation.metrics import DEFAULT_KS, Scores, Slice, check_ks
from twotower.evaluation.ranking import ModelScorer, Scorer
from twotower.model.two_tower import TwoTower
from twotower.progress import Display, opened

SHOWN = ("top_1", "top_10", "top_100", "mrr", "ndcg_10")
"""Metrics of the printed table; `Evaluation.rows` has them all."""


class Evaluation(msgspec.Struct, frozen=True):
    """Scores of a model and of its baselines on the same events.

    Attributes:
        rows: Scores by name: `model`, `popularity`, `recent_popularity` (where test follows train), `item_knn`,
            `ease`, `ials` and, where the truth is known, `oracle`.
        notes: What the figures say, in sentences; also which baseline could not be had, and why.
    """

    rows: dict[str, Scores]
    notes: list[str]

    @property
    def model(self) -> Scores:
        """The model's scores."""
        return self.rows["model"]

    @property
    def slices(self) -> dict[str, list[Slice]]:
        """The parts of test that were measured on their own, by the names of `rows`."""
        return {name: scores.slices for name, scores in self.rows.items()}

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

    def slices_table(self, protocol: str = "unseen") -> Table:
        """Every scorer in every slice: top-100 accuracy, or MRR where that was not measured or says nothing."""
        table = Table(show_edge=False, pad_edge=False)
        metric = telling(self.model)
        for heading in (f"{protocol}\n{metric}", "\nevents", *(f"\n{name}" for name in self.rows)):
            table.add_column(heading, justify="right" if table.columns else "left")
        for number, part in enumerate(self.model.slices):
            figures = [getattr(parts[number], protocol)[metric] for parts in self.slices.values()]
            last = number + 1 == len(self.model.slices) or self.model.slices[number + 1].by != part.by
            table.add_row(
                f"{part.by}: {part.name}", f"{part.events:,}", *(f"{x:.4f}" for x in figures), end_section=last
            )
        return table

    def __str__(self) -> str:
        console = Console(width=120)
        with console.capture() as capture:
            console.print(self.table())
            console.print()
            console.print(self.slices_table())
            console.print()
            for note in self.notes:
                console.print(note, highlight=False)
        return capture.get().rstrip()


def evaluate(
    model: TwoTower | Scorer,
    test: Dataset,
    exclude: Dataset | ParquetLog,
    ks: Sequence[int] = DEFAULT_KS,
    baselines: BaselineNames = "all",
    budget: BaselineBudget | None = None,
    progress: Display | bool = True,
) -> Evaluation:
    """Measures a model on test events over the whole catalogue, beside the baselines.

    Args:
        model: A trained model, or anything that scores the catalogue for events.
        test: The events to measure on; each is one query with one true candidate.
        exclude: The training split: what `unseen` excludes, and what the baselines learn from. Of a streamed log
            only the events of test's queries are read into memory, and popularity is the only baseline.
        ks: Lengths of lists.
        baselines: Which baselines to measure as well: `all` (popularity, item-kNN, EASE and iALS; recent popularity
            where test follows train in time; the oracle where the truth is known), `none`, or names of `NAMES`.
        budget: What each baseline may cost; None: a minute and a quarter of the free memory. What costs more is left
            out, and `notes` say so.
        progress: Show what is measured where a person watches, at a terminal or in a notebook; False: show nothing.

    Raises:
        ConfigError: A baseline's name or a length is not known.
        DataError: `exclude` is not a part of the same data as `test`.
        TwoTowerError: The model's scores are not numbers.
    """
    check_ks(ks)
    check_baselines(baselines)
    scorer = ModelScorer(model) if isinstance(model, TwoTower) else model
    if isinstance(exclude, ParquetLog):
        with opened(progress) as display:
            return _beside_popularity(scorer, test, exclude, ks, baselines, display)
    require_same_catalogue(test, exclude)
    with opened(progress) as display:
        rows = {"model": measure(scorer, test, exclude, ks, display.reporter("the model"))}
        beside, notes = measure_baselines(test, exclude, ks, baselines, budget, display)
    notes = [*comparisons("the model", rows["model"], beside), *notes]
    return Evaluation(rows | beside, notes)


def _beside_popularity(
    scorer: Scorer, test: Dataset, log: ParquetLog, ks: Sequence[int], baselines: BaselineNames, display: Display
) -> Evaluation:
    known = log.events_of(test)
    rows, beside = {"model": measure(scorer, test, known, ks, display.reporter("the model"))}, {}
    if baselines == "all" or "popularity" in baselines:
        beside = {"popularity": measure(Popularity(log), test, known, ks, display.reporter("popularity"))}
    reason = "they learn from a log in memory, and this one is streamed"
    if baselines == "all":
        notes = [f"The other baselines are not in the table: {reason}."]
    else:
        named = [name for name in baselines if name != "popularity" and baselines != "none"]
        notes = [left_out(name, reason.replace("they learn", "it learns")) for name in named]
    return Evaluation(rows | beside, [*comparisons("the model", rows["model"], beside), *notes])


def require_same_catalogue(test: Dataset, train: Dataset) -> None:
    """Refuses two data sets whose row numbers do not mean the same candidates."""
    if not (test.candidates.equals(train.candidates) and test.queries.equals(train.queries)):
        raise DataError(
            f"test has {test.candidates.num_rows} candidates and {test.queries.num_rows} queries, "
            f"not those of train ({train.candidates.num_rows} and {train.queries.num_rows}); "
            f"expected two parts of one data set, as the splits give them"
        )

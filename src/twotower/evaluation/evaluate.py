"""`evaluate`: measures a model and the baselines on the same events, and states whether the model beats them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Protocol

import msgspec
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from twotower.arguments import checks_arguments
from twotower.data.dataset import Dataset
from twotower.data.log import Log
from twotower.errors import ConfigError, DataError
from twotower.evaluation.baselines import BaselineBudget
from twotower.evaluation.baselines.names import NAMES, BaselineNames, check_baselines
from twotower.evaluation.beside import measure_baselines
from twotower.evaluation.by_rank import METRICS
from twotower.evaluation.comparisons import Comparison, against_baselines, compare
from twotower.evaluation.exposed import exposed_grid
from twotower.evaluation.grid import Grid, notes_html
from twotower.evaluation.measure import Measurement, measure
from twotower.evaluation.metrics import DEFAULT_KS, Scores, Slice, check_ks, metric_label, verdict_metric
from twotower.evaluation.outcomes import PROTOCOLS
from twotower.evaluation.ranking import ModelScorer, Scorer
from twotower.evaluation.task_scores import TaskEvaluation
from twotower.evaluation.two_stages import RerankEvaluation, evaluate_rerank
from twotower.evaluation.verdicts import differences_grid, interval_note, verdict_sentences
from twotower.evaluation.warm_start import WarmStartEvaluation
from twotower.model.heads import Head
from twotower.model.rerank import Rerank
from twotower.model.two_tower import TwoTower
from twotower.progress import Display, ReportStep, no_report, opened
from twotower.ranks import ALONE, joined

FIGURES = pa.schema(
    {
        "scorer": pa.string(),
        "protocol": pa.string(),
        "metric": pa.string(),
        "value": pa.float64(),
        "half_width": pa.float64(),
    }
)
"""Columns of `Evaluation.to_table`."""


class Evaluation(msgspec.Struct, frozen=True):
    """Scores of a model and of the baselines on the same events.

    Attributes:
        rows: Scores by name: `model`, `popularity`, `recent_popularity` (if test follows train in time), `item_knn`,
            `ease`, `ials` and, if the truth is known, `oracle`.
        notes: The results in sentences, and which baselines are missing and why.
        metric: The metric that the sentences compare by: accuracy in the longest requested list that is shorter than
            the catalogue, or MRR if there is none.
        comparisons: Difference between the model and each baseline, with the intervals behind the sentences.
        tasks: The tasks besides retrieval, each with its own metrics, baselines and sentences. Without retrieval,
            `rows` is empty.
        rerank: What re-ranking adds to retrieval alone; None if not requested.
        warm_start: What has changed since the bundle that training started from; None without a warm start.
    """

    rows: dict[str, Scores]
    notes: list[str]
    metric: str
    comparisons: list[Comparison] = []
    tasks: list[TaskEvaluation] = []
    rerank: RerankEvaluation | None = None
    warm_start: WarmStartEvaluation | None = None

    @property
    def model(self) -> Scores:
        """The model's scores."""
        return self.rows["model"]

    def task(self, name: str) -> TaskEvaluation:
        """The evaluation of a task, by name.

        Raises:
            ConfigError: No task of that name was measured.
        """
        for one in self.tasks:
            if one.task == name:
                return one
        expected = f"one of {', '.join(one.task for one in self.tasks)}" if self.tasks else "a model with tasks"
        raise ConfigError(f"no task {name!r} was measured; expected {expected}")

    @property
    def slices(self) -> dict[str, list[Slice]]:
        """The parts of test that were measured separately, by the names of `rows`."""
        return {name: scores.slices for name, scores in self.rows.items()}

    def table(self) -> Table:
        """Accuracy for each length of list, MRR, one NDCG and your own metrics, as a table for the terminal."""
        return self._grid().rich()

    def slices_table(self, protocol: str = "unseen") -> Table:
        """Every scorer in every slice, by the metric that the sentences compare by."""
        return self._slices_grid(protocol).rich()

    def to_table(self) -> pa.Table:
        """All metrics as an Arrow table with one row per scorer, protocol and metric.

        Columns are `scorer`, `protocol` (`exposed`: among what was shown; for a task, its name), `metric`, `value` and
        `half_width`: that of the 95% interval over queries, null for metrics without one. `to_table().to_pandas()`
        converts it to a data frame.
        """
        figures = [figure for name, scores in self.rows.items() for figure in scores.figures(name)]
        figures += [figure for task in self.tasks for figure in task.figures()]
        figures += [figure for part in (self.rerank, self.warm_start) if part is not None for figure in part.figures()]
        return pa.Table.from_pylist(figures, schema=FIGURES)

    def _grid(self) -> Grid:
        ks = [int(name.removeprefix("top_")) for name in self.model.all if name.startswith("top_")]
        shown = 10 if 10 in ks else max(ks)
        own = [f"{kind}_{shown}" if METRICS[kind].by_length else kind for kind in METRICS.own]
        own = [metric for metric in own if metric in self.model.all]
        metrics = [*(f"top_{k}" for k in ks), "mrr", f"ndcg_{shown}", *own]
        rows = [
            [protocol, label_of(name), *(f"{getattr(scores, protocol)[metric]:.4f}" for metric in metrics)]
            for protocol in PROTOCOLS
            for name, scores in self.rows.items()
        ]
        return Grid(
            ["", "", *map(metric_label, metrics)],
            rows,
            words=2,
            strong=frozenset(number for number, row in enumerate(rows) if row[1] == "model"),
            lines=frozenset({len(self.rows) - 1}),
        )

    def _slices_grid(self, protocol: str) -> Grid:
        parts = self.model.slices
        rows = [
            [f"{part.by}: {part.name}", f"{part.events:,}"]
            + [f"{getattr(own[number], protocol)[self.metric]:.4f}" for own in self.slices.values()]
            for number, part in enumerate(parts)
        ]
        lines = {number for number, (one, other) in enumerate(pairwise(parts)) if one.by != other.by}
        heading = f"{protocol}, {metric_label(self.metric)}"
        return Grid([heading, "events", *map(label_of, self.rows)], rows, lines=frozenset(lines))

    def _exposed_grids(self) -> list[Grid]:
        found = exposed_grid({label_of(name): scores for name, scores in self.rows.items()})
        return [] if found is None else [found]

    def _repr_html_(self) -> str:
        """HTML for notebooks."""
        of_tasks = "".join(task._repr_html_() for task in self.tasks)
        if self.rerank is not None:
            of_tasks += self.rerank.grid().html("re-ranking") + notes_html(self.rerank.notes)
        if self.warm_start is not None:
            of_tasks += self.warm_start.grid().html("warm start") + notes_html(self.warm_start.notes)
        if not self.rows:
            return of_tasks + notes_html(self.notes)
        grids = [self._grid(), *([differences_grid(self.comparisons)] if self.comparisons else [])]
        tables = "".join(grid.html() for grid in (*grids, self._slices_grid("unseen"), *self._exposed_grids()))
        return tables + of_tasks + notes_html(self.notes)

    def __str__(self) -> str:
        console = Console(width=120)
        with console.capture() as capture:
            tables = [self.table(), self.slices_table()] if self.rows else []
            tables += [grid.rich() for grid in self._exposed_grids()]
            parts: list[TaskEvaluation | RerankEvaluation | WarmStartEvaluation] = [
                *self.tasks,
                *filter(None, [self.rerank]),
                *filter(None, [self.warm_start]),
            ]
            for table in (*tables, *(part.table() for part in parts)):
                console.print(table)
                console.print()
            for note in (*self.notes, *(note for part in parts for note in part.notes)):
                console.print(note, highlight=False, markup=False)
        return capture.get().rstrip()


class MeasuredTask(Protocol):
    """What `evaluate` needs of a task; see `twotower.tasks.Task`."""

    @property
    def title(self) -> str:
        """Its name."""
        ...

    @property
    def head(self) -> Head | None:
        """The head that scores a query and a candidate; None for retrieval, which is measured by ranks."""
        ...

    def evaluate(
        self, model: TwoTower, test: Dataset, train: Log, *, baselines: bool = True, step: ReportStep = no_report
    ) -> TaskEvaluation:
        """Measures the task's metrics, for the model and for its baselines."""
        ...


@checks_arguments
def evaluate(
    model: TwoTower | Scorer,
    test: Dataset,
    exclude: Log,
    ks: Sequence[int] = DEFAULT_KS,
    baselines: BaselineNames = "all",
    budget: BaselineBudget | None = None,
    progress: Display | bool = True,
    tasks: Sequence[MeasuredTask] = (),
    rerank: Rerank | None = None,
) -> Evaluation:
    """Measures a model and the baselines on test events, over the whole catalogue.

    If the data has weights, metrics are weighted means over the events. A sentence says "beats" or "is worse than" if
    the interval of the difference to a baseline, paired by event and taken over queries, does not contain zero. These
    intervals hold with a probability of 95% for all sentences together.

    In a group of joined ranks, the first rank calls this and all others call `help_evaluate`. They share the test
    events; the results are the same as in one process.

    Args:
        model: A trained model, or anything that scores the catalogue for events.
        test: The events to evaluate on; each is one query with one true candidate.
        exclude: The training split, which `unseen` excludes and the baselines learn from. For a streamed log, only the
            events of the queries in test are read into memory, and popularity is the only baseline.
        ks: Lengths of the lists in the printed table; the model and the baselines are compared by the longest one
            that is shorter than the catalogue.
        baselines: The baselines to measure: `all` (popularity, item-kNN, EASE and iALS; recent popularity if test
            follows train in time; the oracle if the truth is known), `none`, or names from `NAMES`.
        budget: Budget of each baseline; None: one minute and a quarter of the free memory. Baselines that exceed it
            are skipped, with an entry in `notes`.
        progress: Show the progress in a terminal or notebook; False: show nothing.
        tasks: The tasks that the model was trained for, as in its `Trainer`; default: retrieval.
        rerank: Measure what re-ranking the top n retrieved candidates by a head of the model adds to retrieval alone.

    Raises:
        ConfigError: A baseline's name is unknown, `ks` are not distinct whole numbers of at least 1, or the model
            has no such head.
        DataError: `exclude` and `test` are not parts of the same data, or every event of `test` has weight 0.
        TwoTowerError: The model's scores are not numbers.
    """
    check_ks(ks)
    check_baselines(baselines)
    if (tasks or rerank is not None) and not isinstance(model, TwoTower):
        raise ConfigError("tasks and rerank can only be measured on a TwoTower with heads; pass one, or leave both out")
    scorer = ModelScorer(model) if isinstance(model, TwoTower) else model
    known = exclude.events_of(test)
    require_same_catalogue(test, known)
    with opened(progress) as display:
        measured = {}
        if retrieves(tasks):
            measured["model"] = measure(scorer, test, known, ks, display.reporter("the model"))
        with joined(ALONE):  # the other ranks are done
            of_tasks = [
                task.evaluate(
                    model, test, exclude, baselines=baselines != "none", step=display.reporter(f"the task {task.title}")
                )
                for task in tasks
                if task.head is not None and isinstance(model, TwoTower)
            ]
            if not measured:
                return Evaluation({}, [], "", tasks=of_tasks)
            stages = None
            if rerank is not None and isinstance(model, TwoTower):
                stages = evaluate_rerank(model, test, known, rerank, display.reporter("re-ranking"))
            beside, notes = measure_baselines(test, exclude, ks, baselines, budget, display)
    ranks = compared(measured | beside, notes, verdict_metric(ks, test.candidates.num_rows))
    return msgspec.structs.replace(ranks, tasks=of_tasks, rerank=stages)


def help_evaluate(model: TwoTower, test: Dataset, exclude: Log, ks: Sequence[int] = DEFAULT_KS) -> None:
    """Ranks a share of the events; the other joined ranks call this while the first one calls `evaluate`.

    Only for models that retrieve.

    Args:
        model: A trained model.
        test: The events to evaluate on.
        exclude: The training split.
        ks: Lengths of lists.

    Raises:
        TwoTowerError: As `evaluate`; an error while ranking is raised on all ranks.
    """
    known = exclude.events_of(test)
    require_same_catalogue(test, known)
    measure(ModelScorer(model), test, known, ks)


def retrieves(tasks: Sequence[MeasuredTask]) -> bool:
    """Whether retrieval is one of the tasks; it is the default if there are none."""
    return not tasks or any(task.head is None for task in tasks)


def compared(measured: Mapping[str, Measurement], notes: Sequence[str], metric: str) -> Evaluation:
    """The evaluation of `model` and the baselines, with the comparisons between them."""
    found = compare(against_baselines("the model", [measured["model"].outcomes], measured), metric)
    said = [*verdict_sentences(found), *interval_note(found), *notes]
    return Evaluation({name: own.scores for name, own in measured.items()}, said, metric, found)


def label_of(name: str) -> str:
    """Label of a row in tables."""
    return NAMES.get(name, name)


def require_same_catalogue(test: Dataset, train: Dataset) -> None:
    """Refuses two data sets whose query or candidate tables differ, so that row numbers would not match."""
    if not (test.candidates.equals(train.candidates) and test.queries.equals(train.queries)):
        raise DataError(
            f"test has {test.candidates.num_rows} candidates and {test.queries.num_rows} queries, "
            f"not those of train ({train.candidates.num_rows} and {train.queries.num_rows}); "
            f"expected two parts of one data set, as returned by a split"
        )

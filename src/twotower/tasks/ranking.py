"""`Ranking`: orders a list, such as the items of one request, or a choice among candidates that were not chosen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import torch
from torch import Tensor

from twotower.arguments import Follows, Settings, refuse_nameless
from twotower.data.dataset import Dataset
from twotower.data.grouped import Grouping
from twotower.data.log import Log
from twotower.errors import ConfigError, DataError
from twotower.evaluation.intervals import cluster_interval, weighted_mean
from twotower.evaluation.lists import BoolArray, average_precision, ndcg, padded
from twotower.evaluation.metrics import FloatArray, IntArray, Metrics
from twotower.evaluation.rating_baselines import RATING_BASELINES
from twotower.evaluation.task_scores import Measured, TaskEvaluation, TaskScores, Units, evaluated
from twotower.model.heads import BuiltInHead, DotHead, Head, HeadModule
from twotower.model.listwise import ListLoss, lists_that_count, listwise_total
from twotower.model.two_tower import TwoTower
from twotower.progress import ReportStep, no_report
from twotower.tasks.base import TASKS, BoundTask, TaskLoss
from twotower.tasks.checks import check_task_name
from twotower.tasks.lists import (
    DrawnFromGroup,
    Groups,
    ListSource,
    MadeInMemory,
    SingleChoices,
    WholeGroups,
    lacking,
    with_hard,
    with_uniform,
)
from twotower.tasks.predictor import Predictor
from twotower.tasks.step import Events, Step
from twotower.tasks.targets import known_targets, require_target, targets_of

if TYPE_CHECKING:
    AnyHead = Head
else:
    AnyHead = Annotated[BuiltInHead, Follows(Head)]

MEASURED_NEGATIVES = 100
"""Number of candidates that a choice is ranked among in evaluation, if events have no relevance."""


@TASKS.register
class Ranking(Settings, frozen=True, kw_only=True, tag="ranking", tag_field="kind"):
    """Orders the members of lists by relevance.

    A list is one of these:

    - the events with the same value in the column `by`, such as a request id: the items shown, some of them chosen
      (`target`);
    - `sampled` events of one query that have a `target`, sampled again in each epoch; in evaluation, all its events;
    - without a `target`, one event, which is a choice, and `negatives`.

    `negatives` can be added to any of them, with relevance 0.

    Attributes:
        target: The column of the interactions with the relevance of events, at least 0; events without a value do not
            count.
        by: The column of the interactions that groups events into lists; events without a value are in no list.
        sampled: Number of events in a list if `by` is not set.
        longest: Maximum length of a list grouped by `by`, in training.
        negatives: Number of candidates drawn for each list.
        negatives_from: `uniform`, over the catalogue; or `retriever`: those of a drawn pool that the towers score
            highest, which requires retrieval to be trained too.
        loss: `softmax`, `list_mle` or `pairwise_logistic`; see `twotower.functional.listwise_loss`.
        head: The head that scores.
        relevant: Minimum relevance that counts as relevant in MAP; None counts anything above the lowest in train.
        ks: List lengths of NDCG; models are compared by the longest.
        weight: Weight of its loss among those of other tasks.
        name: Name in histories and tables, and of the model's head.

    Raises:
        ConfigError: A setting has the wrong type or is out of range, or the lists are not defined.

    Example:
        >>> Ranking(target="stars", sampled=5, loss="list_mle").metric
        'ndcg_10'
    """

    target: str | None = None
    by: str | None = None
    sampled: int = 5
    longest: int = 100
    negatives: int = 0
    negatives_from: Literal["uniform", "retriever"] = "uniform"
    loss: ListLoss = "softmax"
    head: AnyHead = DotHead()
    relevant: float | None = None
    ks: tuple[int, ...] = (5, 10)
    weight: float = 1.0
    name: str = "ranking"

    def check(self) -> None:
        """Refuses values out of range."""
        check_task_name(self.name, self.weight)
        refuse_nameless("ranking", target=self.target, by=self.by)
        if self.target is None and self.by is not None:
            raise ConfigError(f"by={self.by!r} without target; expected target, the column of relevance")
        if self.target is None and self.negatives == 0:
            raise ConfigError("neither target nor negatives; expected a column of relevance, or negatives=…")
        if self.sampled < 1 or self.longest < 2 or self.negatives < 0:
            raise ConfigError(
                f"sampled={self.sampled}, longest={self.longest}, negatives={self.negatives}; "
                f"expected at least 1, 2 and 0"
            )
        if self.target is not None and self.by is None and self.sampled + self.negatives < 2:
            raise ConfigError("sampled=1 without negatives; expected lists of at least 2")
        if not self.ks or min(self.ks) < 1 or len(set(self.ks)) < len(self.ks):
            raise ConfigError(f"ks={list(self.ks)}; expected distinct whole numbers of at least 1")

    @property
    def title(self) -> str:
        """Its name."""
        return self.name

    @property
    def column(self) -> str | None:
        """The column of relevance."""
        return self.target

    @property
    def grouping(self) -> Grouping | None:
        """How events are grouped into lists; None if each list has one event."""
        one_event = self.target is None or (self.by is None and self.sampled == 1)
        return None if one_event else Grouping(self.by)

    @property
    def metric(self) -> str:
        """NDCG at the largest of `ks`."""
        return f"ndcg_{max(self.ks)}"

    def bind(self, train: Log) -> BoundTask:
        """Binds the task to its training data.

        Raises:
            DataError: A column is missing or has nothing to learn from.
        """
        if self.target is None:
            return _Bound(self, SingleChoices(None), train)
        if self.by is not None:
            require_target(train, self.by)
        known_targets(train, self.target)
        if train.in_memory is not None:
            self._relevance(train.in_memory)
        return _Bound(self, MadeInMemory(self._source), train)

    def start(self, head: HeadModule, train: Log) -> None:
        """Does nothing, as only the order of scores counts."""

    def measured(self, events: Dataset, train: Log) -> Callable[[TwoTower], Metrics]:
        """A function that measures the model on lists of these events, to be called repeatedly."""
        lists, lowest = self._lists(events), self._lowest(train)
        predictors: list[Predictor] = []

        def measure(model: TwoTower) -> Metrics:
            if not predictors:
                predictors.append(Predictor(model, lists.events))
            values = self._values(lists, lists.scores(model, self.name, predictors[0]), lowest)
            return {name: weighted_mean(one, lists.weights) for name, one in values.items()}

        return measure

    def evaluate(
        self, model: TwoTower, test: Dataset, train: Log, *, baselines: bool = True, step: ReportStep = no_report
    ) -> TaskEvaluation:
        """NDCG and MAP over lists of test with intervals over queries, for the model and its baselines."""
        lists, lowest = self._lists(test), self._lowest(train)
        units = Units("lists", lists.queries, lists.weights)
        step(f"{self.name}: predicting")
        own = self._measured(lists, lists.scores(model, self.name, Predictor(model, lists.events)), units, lowest)
        beside = {}
        if baselines:
            counts = train.candidate_weights().astype(np.float64)
            beside["popularity"] = "popularity", self._measured(lists, counts[lists.candidates], units, lowest)
        for kind in ("means", "matrix_factorization") if baselines and self.target is not None else ():
            assert self.target is not None
            step(f"{self.name}: {RATING_BASELINES[kind].label}")
            predictions = RATING_BASELINES[kind](*known_targets(train, self.target)).predict(lists.events)
            scored = self._measured(lists, predictions[lists.members], units, lowest)
            beside[kind] = RATING_BASELINES[kind].label, scored
        return evaluated(self.name, "ranking", self.metric, units, own, beside, lists.notes)

    def _source(self, events: Events) -> ListSource:
        """What makes lists from the steps of these events."""
        assert self.target is not None
        targets = events.columns[self.target]
        if bool((targets < 0).any()):
            raise DataError(
                f"column {self.target!r}: {float(targets[targets < 0][0]):g}; expected a relevance of at least 0",
                column=self.target,
            )
        relevance = targets.nan_to_num()
        if self.grouping is None:
            return SingleChoices(relevance)
        counted = ~targets.isnan() if events.weights is None else ~targets.isnan() & (events.weights > 0)
        numbers = events.groups[self.grouping].masked_fill(~counted, -1)
        groups = Groups(numbers.cpu().numpy()).to(relevance.device)
        if self.by is not None:
            return WholeGroups(groups, relevance, self.longest)
        return DrawnFromGroup(groups, relevance, self.sampled)

    def _relevance(self, events: Dataset) -> FloatArray:
        assert self.target is not None
        targets = targets_of(events, self.target)
        if (negative := np.flatnonzero(targets < 0)).size:
            row = int(negative[0])
            raise DataError(
                f"events, column {self.target!r}, row {row}: {targets[row]:g}; expected a relevance of at least 0",
                column=self.target,
                row=row,
            )
        return targets

    def _lists(self, events: Dataset) -> _MeasuredLists:
        if self.target is None:
            return _among_negatives(events)
        targets = self._relevance(events)
        groups = Grouping(self.by).numbers(events)
        counted = ~np.isnan(targets) & (events.weights > 0) & (groups >= 0)
        return _of_events(events.take(counted), targets[counted], groups[counted], self.target)

    def _lowest(self, train: Log) -> float:
        """The lowest relevance in train; that of negatives if events have no relevance."""
        return 0.0 if self.target is None else float(known_targets(train, self.target)[1].min())

    def _values(self, lists: _MeasuredLists, scores: FloatArray, lowest: float) -> dict[str, FloatArray]:
        """The value of each metric for each list, `[L]`."""
        relevant = lists.relevance > lowest if self.relevant is None else lists.relevance >= self.relevant
        found = {f"ndcg_{k}": ndcg(scores, lists.relevance, lists.mask, k) for k in self.ks}
        return found | {"map": average_precision(scores, relevant, lists.mask)}

    def _measured(self, lists: _MeasuredLists, scores: FloatArray, units: Units, lowest: float) -> Measured:
        values = self._values(lists, scores, lowest)
        found = {name: cluster_interval(one, units.queries, units.weights) for name, one in values.items()}
        half_widths = {name: one.half_width for name, one in found.items() if one.half_width is not None}
        return Measured(TaskScores({name: one.mean for name, one in found.items()}, half_widths), values[self.metric])


@dataclass(frozen=True, eq=False)
class _MeasuredLists:
    """Lists of test, padded.

    Attributes:
        events: The events the lists are made from.
        members: Row of the event that provides each member's query, `[L, n]`.
        candidates: Row of each member's candidate, `[L, n]`.
        relevance: Relevance of each member, 0 for padding, `[L, n]`.
        mask: False for padding, `[L, n]`.
        notes: Notes for the report.
    """

    events: Dataset
    members: IntArray
    candidates: IntArray
    relevance: FloatArray
    mask: BoolArray
    notes: list[str]

    @property
    def queries(self) -> IntArray:
        """Row of each list's query, `[L]`."""
        return self.events.query_index[self.members[:, 0]]

    @property
    def weights(self) -> FloatArray | None:
        """Mean weight of each list's events, `[L]`; None if the log has no weights."""
        if self.events.weight is None:
            return None
        weights = np.where(self.mask, self.events.weights[self.members], 0.0)
        mean: FloatArray = weights.sum(axis=1) / self.mask.sum(axis=1)
        return mean

    def scores(self, model: TwoTower, head: str, predictor: Predictor) -> FloatArray:
        """A head's prediction for each member, `[L, n]`."""
        rows, candidates = (torch.from_numpy(of[self.mask]).to(model.device) for of in (self.members, self.candidates))
        found = np.zeros(self.mask.shape)
        found[self.mask] = predictor.answers(model, head, rows, candidates)
        return found


class _Bound:
    def __init__(self, task: Ranking, source: ListSource, train: Log) -> None:
        self.task, self.source, self.catalogue = task, source, train.candidates.num_rows
        self.availability = train.availability

    def __call__(self, step: Step) -> TaskLoss | None:
        task, lists = self.task, self.source(step)
        if lists is not None and task.negatives > 0:
            lacks = lacking(self.availability, step)
            if task.negatives_from == "uniform":
                lists = with_uniform(lists, task.negatives, self.catalogue, lacks)
            else:
                lists = with_hard(lists, task.negatives, self.catalogue, step, lacks)
        if lists is None:
            return None
        weights = self._weights(step, lists.events, lists.mask)
        counted = lists_that_count(lists.relevance, lists.mask, task.loss) & (weights > 0)
        if not bool(counted.any()):
            return None
        there = lists.mask
        distinct, place = torch.unique(lists.events[there], return_inverse=True)
        scores = lists.relevance.new_zeros(there.shape)
        logits = step.logits(task.name, step.queries_of(distinct).take(place), lists.candidates[there])
        scores = scores.masked_scatter(there, logits)
        total = listwise_total(scores, lists.relevance, there, task.loss, weights, "sum")
        weight = weights[counted].sum()
        return TaskLoss(total / weight, total.detach(), weight)

    def _weights(self, step: Step, events: Tensor, mask: Tensor) -> Tensor:
        """Mean weight of each list's events, `[L]`."""
        if step.events.weights is None:
            return torch.ones(len(events), device=events.device)
        return (step.events.weights[events] * mask).sum(dim=1) / mask.sum(dim=1)


def _of_events(events: Dataset, targets: FloatArray, groups: IntArray, column: str) -> _MeasuredLists:
    """The lists whose members differ in relevance.

    Raises:
        DataError: There are no such lists.
    """
    members, mask = padded(groups)
    relevance = np.where(mask, targets[members], 0.0) if len(events) else np.zeros(members.shape)
    highest = np.where(mask, relevance, -np.inf).max(axis=1, initial=-np.inf)
    lowest = np.where(mask, relevance, np.inf).min(axis=1, initial=np.inf)
    kept = highest > lowest
    if not kept.any():
        raise DataError(f"column {column!r}: no list to measure has members of different relevance", column=column)
    members, mask, relevance = members[kept], mask[kept], relevance[kept]
    left = int((~kept).sum())
    note = f"{left:,} of the {len(kept):,} test lists are left out, as their members are equally relevant."
    return _MeasuredLists(events, members, events.candidate_index[members], relevance, mask, [note] if left else [])


def _among_negatives(events: Dataset) -> _MeasuredLists:
    """Each event's choice among uniformly drawn candidates, the same in every measurement."""
    catalogue = events.candidates.num_rows
    events = events.take(events.weights > 0)
    if len(events) == 0:
        raise DataError(f"column {events.weight!r}: every event to measure on has weight 0", column=events.weight)
    count = min(MEASURED_NEGATIVES, catalogue)
    drawn = np.random.default_rng(0).integers(catalogue, size=(len(events), count))
    candidates = np.hstack([events.candidate_index[:, np.newaxis], drawn])
    mask = np.ones(candidates.shape, dtype=bool)
    mask[:, 1:] = drawn != events.candidate_index[:, np.newaxis]
    if events.availability is not None:
        mask[:, 1:] &= ~events.availability.lacks(drawn, events.times[:, np.newaxis])
    relevance = np.zeros(candidates.shape)
    relevance[:, 0] = 1.0
    members = np.repeat(np.arange(len(events))[:, np.newaxis], candidates.shape[1], axis=1)
    note = f"Ranking is measured among {count} candidates drawn for each event, not over the whole catalogue."
    return _MeasuredLists(events, members, candidates, relevance, mask, [note])

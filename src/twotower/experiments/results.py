"""What an experiment found, as the plain values that `results.json` holds and reports are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import msgspec

from twotower.errors import SavedFolderError
from twotower.evaluation.baselines.budget import BaselineBudget
from twotower.evaluation.comparisons import Comparison
from twotower.evaluation.evaluate import label_of
from twotower.evaluation.grid import Grid, notes_html
from twotower.evaluation.intervals import mean_interval
from twotower.evaluation.metrics import Metrics, Scores, Slice, metric_label
from twotower.evaluation.outcomes import PROTOCOLS
from twotower.evaluation.task_scores import TaskEvaluation
from twotower.evaluation.two_stages import RerankEvaluation
from twotower.evaluation.warm_start import WarmStartEvaluation
from twotower.files import write_file

RESULTS = "results.json"

FORMAT = 3
"""Of `results.json`. Since 3 a study varies whatever a config holds, over several splits and seeds."""


class CurvePoint(msgspec.Struct, frozen=True):
    """One validation: `loss` is the mean over the whole epoch before it."""

    epoch: int
    loss: float
    all: Metrics
    unseen: Metrics


class Seconds(msgspec.Struct, frozen=True):
    """Where a run's time went."""

    train: float
    validate: float


class ChoiceOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """One of several models that were tried on the validation part.

    Attributes:
        name: What the recipe calls it.
        model: The keys of `[model]` that it sets.
        metric: What was compared.
        value: Its best value.
        best_epoch: The epoch that had it.
        seconds: Spent on it.
    """

    name: str
    model: dict[str, Any]
    metric: str
    value: float
    best_epoch: int
    seconds: Seconds


class ModelOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """One model, trained and measured.

    Attributes:
        recipe: `tutorial` or `tuned`.
        parameters: Trained numbers in the model.
        epochs: Epochs trained while the best one was searched for, early stopping included.
        best_epoch: The epoch with the best validated score.
        curve: The validated epochs.
        losses: Mean loss of every epoch.
        seconds: Spent training and validating, the final training on all of train included.
        scores: The finished model on test.
        choices: The models among which the validation part decided; none where there was no choice.
        tasks: The tasks besides retrieval on test, each beside its own baselines. Without retrieval, `scores` has only
            their metrics.
        rerank: What re-ranking adds to retrieval alone on test; None where the config has no `rerank`.
        warm_start: What has changed on test since the bundle that training went on from; None from scratch.
    """

    recipe: str
    parameters: int
    epochs: int
    best_epoch: int
    curve: list[CurvePoint]
    losses: list[float]
    seconds: Seconds
    scores: Scores
    choices: list[ChoiceOutcome] = []
    tasks: list[TaskEvaluation] = []
    rerank: RerankEvaluation | None = None
    warm_start: WarmStartEvaluation | None = None

    @property
    def chosen(self) -> ChoiceOutcome | None:
        """The model that was best on the validation part; None where there was no choice."""
        return max(self.choices, key=lambda one: one.value, default=None)

    @property
    def choice_note(self) -> list[str]:
        """What the validation part chose, in a sentence; nothing where there was no choice."""
        if (best := self.chosen) is None:
            return []
        others = [f"{one.name} {one.value:.4f}" for one in self.choices if one is not best]
        protocol, _, metric = best.metric.partition(".")
        shown = f"{metric_label(metric)}, {protocol}"
        return [f"On the validation part, {best.name} was best ({best.value:.4f} {shown}; {', '.join(others)})."]


class BaselineOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """One baseline, measured or left out.

    Attributes:
        scores: Its scores; None where it was left out.
        left_out: Why, in a sentence.
        budget: What it might cost.
        seconds: Learning and measuring it took.
    """

    scores: Scores | None
    budget: BaselineBudget
    left_out: str | None = None
    seconds: float = 0.0


class Cut(msgspec.Struct, frozen=True, kw_only=True):
    """One way in which the data were cut.

    Attributes:
        name: Name of the data set.
        interactions: Events in all.
        queries: Rows of the query table.
        candidates: Rows of the candidate table.
        train: Events to learn from.
        validation: Of those, the events that say which epoch is best; 0 where test does.
        test: Events to measure on.
        split: The rule, in words.
        seed: Of a random split.
        fingerprint: Of train and test.
        changes: What a study varies that the cut depends on, by dotted key, such as `split.train_share`.
        dropped: Events left out as their candidate is unknown.
        terms: Under which the data may be used.
    """

    name: str
    interactions: int
    queries: int
    candidates: int
    train: int
    validation: int
    test: int
    split: str
    seed: int
    fingerprint: str
    changes: dict[str, Any] = {}
    dropped: int = 0
    terms: str = ""


class Variant(msgspec.Struct, frozen=True):
    """One of the configs that a study compares.

    Attributes:
        name: What reports call it, such as `[64, 32]`.
        values: The varied keys and its values; those of a named variant are what its table changes.
    """

    name: str
    values: dict[str, Any]


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One model of a study.

    Attributes:
        variant: Number of its variant.
        cut: Number of its cut.
        seed: Of the initial weights and of the batches.
        key: Names its folder in `runs/`.
        outcome: What training and measuring it gave.
    """

    variant: int
    cut: int
    seed: int
    key: str
    outcome: ModelOutcome


class BaselineRun(msgspec.Struct, frozen=True, kw_only=True):
    """One baseline of a study, on test or on the part that curves are measured on.

    Attributes:
        name: Its key, such as `item_knn`.
        cut: Number of its cut.
        part: `test` or `validation`.
        key: Names its folder in `runs/`.
        outcome: What measuring it gave.
    """

    name: str
    cut: int
    part: str
    key: str
    outcome: BaselineOutcome


class Study(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a study found.

    Attributes:
        cuts: Every way in which the data were cut: one for each split seed and each varied key that matters to it.
        varied: The varied keys, each with its values.
        variants: What was compared.
        runs: Every model trained.
        baselines: Every baseline on every cut.
        curves_on: The part that curves are measured on: `test`, as the tutorial does, or `validation`.
        metric: The metric that curves show and variants are compared by.
        comparisons: Each variant with each baseline, and with the variant before it: the paired difference with an
            interval that is wide enough for all of them to hold at once.
        verdicts: What the figures say, in sentences.
        command: The command that repeats the study.
        versions: Versions of twotower, Python and PyTorch, and how the runs shared the cores.
        created: When, in ISO 8601.
        seconds: Seconds the last command took.
        format: Of the file.
    """

    cuts: list[Cut]
    varied: dict[str, list[Any]]
    variants: list[Variant]
    runs: list[Run]
    baselines: list[BaselineRun]
    curves_on: str
    metric: str
    comparisons: list[Comparison]
    verdicts: list[str]
    command: str
    versions: dict[str, str]
    created: str
    seconds: float
    format: int = FORMAT

    def runs_of(self, variant: int) -> list[Run]:
        """All models of a variant, by cut and seed."""
        return sorted((run for run in self.runs if run.variant == variant), key=lambda run: (run.cut, run.seed))

    def scores_of(self, variant: int) -> Scores:
        """Means over the splits and seeds of a variant."""
        return mean_scores([run.outcome.scores for run in self.runs_of(variant)])

    def baseline_scores(self, part: str = "test", cuts: Sequence[int] | None = None) -> dict[str, Scores]:
        """Means over cuts of each baseline that was measured on all of them.

        Args:
            part: `test` or `validation`.
            cuts: Numbers of the cuts; default: all.
        """
        wanted = range(len(self.cuts)) if cuts is None else cuts
        found: dict[str, list[Scores]] = {}
        for run in self.baselines:
            if run.part == part and run.cut in wanted and run.outcome.scores is not None:
                found.setdefault(run.name, []).append(run.outcome.scores)
        most = max(map(len, found.values()), default=0)
        return {name: mean_scores(scores) for name, scores in found.items() if len(scores) == most}

    @property
    def widest_cut(self) -> Cut:
        """The cut with most events to learn from, which titles and headings describe."""
        return max(self.cuts, key=lambda cut: cut.train)

    @property
    def neighbours(self) -> list[tuple[int, int]]:
        """Pairs of variants to compare: those that differ in one varied key by one step; else each with the first."""
        values = [variant.values for variant in self.variants]
        if any(own.keys() != values[0].keys() for own in values):
            return [(0, number) for number in range(1, len(values))]
        places = [[self.varied[key].index(own[key]) for key in values[0]] for own in values]
        return [
            (one, other)
            for one, other in combinations(range(len(values)), 2)
            if sorted(abs(a - b) for a, b in zip(places[one], places[other], strict=True))[-2:] in ([0, 1], [1])
        ]

    @property
    def best(self) -> int:
        """The variant with the highest mean, nothing excluded."""
        return max(range(len(self.variants)), key=lambda number: self.scores_of(number).all[self.metric])

    def _repr_html_(self) -> str:
        """What notebooks show: baselines and variants under both protocols, and the verdicts."""
        rows = [(label_of(name), scores) for name, scores in self.baseline_scores().items()]
        rows += [(variant.name, self.scores_of(number)) for number, variant in enumerate(self.variants)]
        cells = [
            [name, *(str(scores.interval(protocol, self.metric)) for protocol in PROTOCOLS)] for name, scores in rows
        ]
        strong = frozenset({len(rows) - len(self.variants) + self.best})
        headings = ["", *(f"{protocol}, {metric_label(self.metric)}" for protocol in PROTOCOLS)]
        first = self.widest_cut
        caption = f"{first.name}, split {first.split}: {first.test:,} test events"
        return Grid(headings, cells, strong=strong).html(caption) + notes_html(self.verdicts)


def mean_scores(scores: Sequence[Scores]) -> Scores:
    """Means over repetitions with intervals over them; of one its own scores, with intervals over queries."""
    if len(scores) == 1:
        return scores[0]
    intervals = {
        f"{protocol}.{metric}": mean_interval([getattr(one, protocol)[metric] for one in scores])
        for protocol in PROTOCOLS
        for metric in getattr(scores[0], protocol)
    }
    means = {protocol: _means([getattr(one, protocol) for one in scores]) for protocol in PROTOCOLS}
    half_widths = {name: one.half_width for name, one in intervals.items() if one.half_width is not None}
    new = _means([one.new for one in scores]) if all(one.new for one in scores) else {}
    return Scores(means["all"], means["unseen"], half_widths, _mean_slices(scores), new=new)


def _means(metrics: Sequence[Metrics]) -> Metrics:
    return {name: mean_interval([one[name] for one in metrics]).mean for name in metrics[0]}


def _mean_slices(scores: Sequence[Scores]) -> list[Slice]:
    """Slices that every repetition has, their means not weighted by events, which may differ between splits."""
    by_name: dict[tuple[str, str], list[Slice]] = {}
    for one in scores:
        for part in one.slices:
            by_name.setdefault((part.by, part.name), []).append(part)
    return [
        msgspec.structs.replace(
            same[0], all=_means([one.all for one in same]), unseen=_means([one.unseen for one in same])
        )
        for same in by_name.values()
        if len(same) == len(scores)
    ]


class _Header(msgspec.Struct, frozen=True):
    format: int = 1


def write_results(study: Study, path: Path) -> None:
    """Writes `results.json`."""
    write_file(path, msgspec.json.format(msgspec.json.encode(study), indent=1))


def read_results(path: Path) -> Study:
    """Reads what `write_results` wrote.

    Raises:
        SavedFolderError: The file is missing, is not a study's results, or is one of another format.
    """
    try:
        raw = path.read_bytes()
        found = msgspec.json.decode(raw, type=_Header).format
        if found == FORMAT:
            return msgspec.json.decode(raw, type=Study)
    except (OSError, UnicodeDecodeError, msgspec.DecodeError) as error:
        raise SavedFolderError(f"{path} holds no study's results: {error}") from error
    raise SavedFolderError(f"{path} has format {found}; expected {FORMAT}, which this version writes: rerun the study")


def changed_values(variants: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Every key that variants name with its values, in the order they are named."""
    varied: dict[str, list[Any]] = {}
    for values in variants:
        for key, value in values.items():
            if value not in varied.setdefault(key, []):
                varied[key].append(value)
    return varied

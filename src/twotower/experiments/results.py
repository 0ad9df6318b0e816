"""The results of an experiment as plain values, stored in `results.json` and shown in reports."""

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
from twotower.evaluation.metrics import Metrics, Scores, Slice, merit_of, metric_label
from twotower.evaluation.outcomes import PROTOCOLS
from twotower.evaluation.task_scores import TaskEvaluation
from twotower.evaluation.two_stages import RerankEvaluation
from twotower.evaluation.warm_start import WarmStartEvaluation
from twotower.files import write_file
from twotower.recognition import not_this, what_is

RESULTS = "results.json"

FORMAT = 3
"""Format of `results.json`. Since 3, a study may vary any key of a config, over several splits and seeds."""


class CurvePoint(msgspec.Struct, frozen=True):
    """One validation; `loss` is the mean over the epoch before it."""

    epoch: int
    loss: float
    all: Metrics
    unseen: Metrics


class Seconds(msgspec.Struct, frozen=True):
    """Where a run's time went."""

    train: float
    validate: float


class ChoiceOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """One of several models, or of several schedules of one, tried on the validation part.

    Attributes:
        name: Its name in reports.
        model: The keys of `[model]` that it sets.
        training: The keys of `[training]` that it sets.
        metric: The metric compared.
        value: Its best value.
        best_epoch: The epoch with that value.
        seconds: Time spent on it.
    """

    name: str
    model: dict[str, Any]
    metric: str
    value: float
    best_epoch: int
    seconds: Seconds
    training: dict[str, Any] = {}


class ModelOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """One model, trained and measured.

    Attributes:
        recipe: `tutorial` or `tuned`.
        parameters: Number of trained parameters.
        epochs: Epochs trained in the search for the best one, early stopping included.
        best_epoch: The epoch with the best validation score.
        curve: The validated epochs.
        losses: Mean loss of every epoch.
        seconds: Time spent training and validating, including the final training on all of train.
        scores: Scores of the finished model on test.
        choices: The models compared on the validation part; empty if there was no choice.
        tasks: The tasks besides retrieval on test, each with its own baselines. Without retrieval, `scores` has only
            their metrics.
        rerank: What re-ranking adds to retrieval on test; None if the config has no `rerank`.
        warm_start: Comparison on test with the bundle that training continued from; None from scratch.
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
        """The best model on the validation part; None if there was no choice."""
        return max(self.choices, key=lambda one: merit_of(one.metric, one.value), default=None)

    @property
    def choice_note(self) -> list[str]:
        """A sentence that says which model the validation part chose; empty if there was no choice."""
        if (best := self.chosen) is None:
            return []
        others = [f"{one.name} {one.value:.4f}" for one in self.choices if one is not best]
        protocol, _, metric = best.metric.partition(".")
        shown = f"{metric_label(metric)}, {protocol}"
        return [f"On the validation part, {best.name} was best ({best.value:.4f} {shown}; {', '.join(others)})."]


class BaselineOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """One baseline, measured or left out.

    Attributes:
        scores: Its scores; None if it was left out.
        left_out: Why it was left out, in a sentence.
        budget: The budget it had.
        seconds: Time to fit and measure it.
    """

    scores: Scores | None
    budget: BaselineBudget
    left_out: str | None = None
    seconds: float = 0.0


class Cut(msgspec.Struct, frozen=True, kw_only=True):
    """One split of the data.

    Attributes:
        name: Name of the data set.
        interactions: Number of events in total.
        queries: Rows of the query table.
        candidates: Rows of the candidate table.
        train: Events in train.
        validation: Events of train used to choose the best epoch; 0 if test is used for that.
        test: Events in test.
        split: The split rule.
        seed: Seed of a random split.
        fingerprint: Fingerprint of train and test.
        changes: The values a study varies that affect the split, by dotted key, such as `split.train_share`.
        dropped: Events dropped because their candidate is unknown.
        terms: Terms of use of the data.
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
        name: Its name in reports, such as `[64, 32]`.
        values: Its values of the varied keys, or the keys changed by the table of a named variant.
    """

    name: str
    values: dict[str, Any]


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One model of a study.

    Attributes:
        variant: Number of its variant.
        cut: Number of its cut.
        seed: Seed of the initial weights and of the batches.
        key: Name of its folder in `runs/`.
        outcome: Results of training and measuring it.
    """

    variant: int
    cut: int
    seed: int
    key: str
    outcome: ModelOutcome


class BaselineRun(msgspec.Struct, frozen=True, kw_only=True):
    """One baseline of a study, measured on test or on the part used for the curves.

    Attributes:
        name: Its key, such as `item_knn`.
        cut: Number of its cut.
        part: `test` or `validation`.
        key: Name of its folder in `runs/`.
        outcome: Its scores.
    """

    name: str
    cut: int
    part: str
    key: str
    outcome: BaselineOutcome


class Study(msgspec.Struct, frozen=True, kw_only=True):
    """All results of a study.

    Attributes:
        cuts: The splits of the data: one for each split seed and each varied value that affects the split.
        varied: The varied keys, each with its values.
        variants: The configs compared.
        runs: Every trained model.
        baselines: Every baseline on every cut.
        curves_on: The part on which curves are measured: `test`, as in the tutorial, or `validation`.
        metric: The metric of the curves and of the comparisons.
        comparisons: Paired differences between each variant and each baseline, and between neighbouring variants, with
            intervals wide enough to hold for all comparisons at once.
        verdicts: The conclusions, in sentences.
        command: The command that repeats the study.
        versions: Versions of twotower, Python and PyTorch, and how the runs shared the cores.
        created: Time of creation, in ISO 8601.
        seconds: Duration of the last command.
        format: Format of the file.
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
        """All models of a variant, sorted by cut and seed."""
        return sorted((run for run in self.runs if run.variant == variant), key=lambda run: (run.cut, run.seed))

    def scores_of(self, variant: int) -> Scores:
        """Mean scores of a variant over its splits and seeds."""
        return mean_scores([run.outcome.scores for run in self.runs_of(variant)])

    def baseline_scores(self, part: str = "test", cuts: Sequence[int] | None = None) -> dict[str, Scores]:
        """Mean scores over cuts of each baseline measured on all of them.

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
        """The cut with the most training events, which titles and headings describe."""
        return max(self.cuts, key=lambda cut: cut.train)

    @property
    def neighbours(self) -> list[tuple[int, int]]:
        """Pairs of variants to compare: those one step apart in one varied key.

        If variants name different keys, each is paired with the first.
        """
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
        """Number of the variant with the highest mean score under the protocol `all`."""
        return max(range(len(self.variants)), key=lambda number: self.scores_of(number).all[self.metric])

    def _repr_html_(self) -> str:
        """HTML for notebooks: baselines and variants under both protocols, and the verdicts."""
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
    """Means over repetitions, with intervals over them; a single repetition keeps its intervals over queries."""
    if len(scores) == 1:
        return scores[0]
    groups = [*PROTOCOLS, *(["exposed"] if all(one.exposed for one in scores) else [])]
    intervals = {
        f"{group}.{metric}": mean_interval([getattr(one, group)[metric] for one in scores])
        for group in groups
        for metric in getattr(scores[0], group)
    }
    means = {group: _means([getattr(one, group) for one in scores]) for group in groups}
    half_widths = {name: one.half_width for name, one in intervals.items() if one.half_width is not None}
    new = _means([one.new for one in scores]) if all(one.new for one in scores) else {}
    return Scores(
        means["all"],
        means["unseen"],
        half_widths,
        _mean_slices(scores),
        new=new,
        exposed=means.get("exposed", {}),
        exposed_events=scores[0].exposed_events if "exposed" in means else None,
    )


def _means(metrics: Sequence[Metrics]) -> Metrics:
    return {name: mean_interval([one[name] for one in metrics]).mean for name in metrics[0]}


def _mean_slices(scores: Sequence[Scores]) -> list[Slice]:
    """Means of the slices that every repetition has, not weighted by events, which may differ between splits."""
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
        SavedFolderError: The file is missing, has another format, or holds no results of a study.
    """
    try:
        raw = path.read_bytes()
        found = msgspec.json.decode(raw, type=_Header).format
        if found == FORMAT:
            return msgspec.json.decode(raw, type=Study)
    except (FileNotFoundError, NotADirectoryError) as error:
        if (folder := what_is(path.parent)) is not None and folder.what == "a study":
            raise SavedFolderError(
                f"{path.parent} is an unfinished study; rerun twotower study to finish it"
            ) from error
        raise SavedFolderError(not_this(path.parent, "a folder that twotower study wrote")) from error
    except (OSError, UnicodeDecodeError, msgspec.DecodeError) as error:
        raise SavedFolderError(f"{path} holds no study's results: {error}") from error
    raise SavedFolderError(f"{path} has format {found}; expected {FORMAT}, which this version writes: rerun the study")


def changed_values(variants: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Every key that variants set, with its values in order of appearance."""
    varied: dict[str, list[Any]] = {}
    for values in variants:
        for key, value in values.items():
            if value not in varied.setdefault(key, []):
                varied[key].append(value)
    return varied

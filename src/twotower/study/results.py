"""What a study found, as the plain values that `results.json` holds and the report is made of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from twotower.errors import SavedFolderError
from twotower.evaluation.comparisons import Comparison
from twotower.evaluation.evaluate import label_of
from twotower.evaluation.grid import Grid, notes_html
from twotower.evaluation.intervals import Interval, mean_interval
from twotower.evaluation.metrics import Metrics, Scores, Slice, metric_label
from twotower.evaluation.outcomes import PROTOCOLS
from twotower.files import write_file

FORMAT = 2
"""Of `results.json`. Since 2 it has the paired comparisons that its verdicts rest on."""

__all__ = [
    "CurvePoint",
    "DataSummary",
    "Depth",
    "Metrics",
    "Run",
    "Scores",
    "Seconds",
    "Study",
    "best_depth",
    "by_depth",
    "read_results",
    "write_results",
]


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


class Run(msgspec.Struct, frozen=True):
    """One model trained with one seed.

    Attributes:
        layers: Widths of the dense layers of both towers.
        seed: Seed of the initial weights and of the batches.
        recipe: `tutorial` or `tuned`.
        epochs: Epochs trained, early stopping included.
        parameters: Trained numbers in the model.
        seconds: Time spent training and validating (a refit on all of train included).
        history: The validated epochs, on `Study.curves_on`.
        losses: Mean loss of every epoch, the first first.
        final: The finished model on the test part.
        best_epoch: The epoch with the best validated score.
    """

    layers: list[int]
    seed: int
    recipe: str
    epochs: int
    parameters: int
    seconds: Seconds
    history: list[CurvePoint]
    losses: list[float]
    final: Scores
    best_epoch: int

    @property
    def label(self) -> str:
        """The layers as reports write them, `[64, 32]`."""
        return str(self.layers)


class Depth(msgspec.Struct, frozen=True):
    """All runs of one depth, in the order of their seeds."""

    layers: list[int]
    runs: list[Run]

    @property
    def label(self) -> str:
        """The layers as reports write them, `[64, 32]`."""
        return str(self.layers)

    def interval(self, protocol: str, metric: str) -> Interval:
        """Mean of a final metric over the seeds."""
        return mean_interval([getattr(run.final, protocol)[metric] for run in self.runs])

    def means(self) -> Scores:
        """Means over the seeds, with intervals over them; of one seed its own scores, with intervals over queries."""
        first = self.runs[0].final
        if len(self.runs) == 1:
            return first
        half_widths = {
            f"{protocol}.{metric}": found.half_width
            for protocol in PROTOCOLS
            for metric in getattr(first, protocol)
            if (found := self.interval(protocol, metric)).half_width is not None
        }
        slices = [_mean_slice(same) for same in zip(*(run.final.slices for run in self.runs), strict=True)]
        return Scores(self._means("all"), self._means("unseen"), half_widths, slices)

    def _means(self, protocol: str) -> Metrics:
        metrics = getattr(self.runs[0].final, protocol)
        return {metric: self.interval(protocol, metric).mean for metric in metrics}


def _mean_slice(same: Sequence[Slice]) -> Slice:
    """One slice of all seeds, which have the same events in it."""

    def means(metrics: Sequence[Metrics]) -> Metrics:
        return {name: mean_interval([one[name] for one in metrics]).mean for name in metrics[0]}

    first = same[0]
    everything, unseen = means([one.all for one in same]), means([one.unseen for one in same])
    return msgspec.structs.replace(first, all=everything, unseen=unseen)


def by_depth(runs: Sequence[Run]) -> list[Depth]:
    """The runs of each depth together, depths in the order they were run."""
    depths: dict[tuple[int, ...], list[Run]] = {}
    for run in runs:
        depths.setdefault(tuple(run.layers), []).append(run)
    return [Depth(list(layers), sorted(own, key=lambda run: run.seed)) for layers, own in depths.items()]


def best_depth(runs: Sequence[Run], metric: str) -> Depth:
    """The depth with the highest mean, nothing excluded."""
    return max(by_depth(runs), key=lambda depth: depth.interval("all", metric).mean)


class DataSummary(msgspec.Struct, frozen=True):
    """Which data a study ran on, cut how."""

    name: str
    interactions: int
    queries: int
    candidates: int
    train: int
    validation: int
    test: int
    split: str
    fingerprint: str
    dropped: int = 0
    terms: str = ""


class Study(msgspec.Struct, frozen=True):
    """Everything a study found.

    Attributes:
        data: The data and its split.
        baselines: `popularity`, `item_knn`, `ease`, `ials`, where test follows train `recent_popularity`, and where
            the truth is known `oracle`, on the test part.
        runs: Every model trained: each depth with each seed.
        curves_on: The part that `Run.history` and `curve_baselines` are measured on: `test`, as the
            tutorial does, or `validation`, a part cut from train.
        curve_baselines: The baselines on the part that the curves are measured on.
        metric: The metric that curves show and models are compared by: `top_100`, or what stands in for it where the
            catalogue is shorter.
        comparisons: Each depth with each baseline, and with the depth before it: the paired difference, and its
            interval, which is wide enough for all of them to hold at once.
        verdicts: What the figures say, in sentences.
        command: The command that repeats the study.
        versions: Versions of twotower, Python and PyTorch, and the threads used.
        created: When, in ISO 8601.
        seconds: Seconds the whole study took.
        format: Of the file.
    """

    data: DataSummary
    baselines: dict[str, Scores]
    runs: list[Run]
    curves_on: str
    curve_baselines: dict[str, Scores]
    metric: str
    comparisons: list[Comparison]
    verdicts: list[str]
    command: str
    versions: dict[str, str]
    created: str
    seconds: float
    format: int = FORMAT

    def _repr_html_(self) -> str:
        """What notebooks show: baselines and depths under both protocols, and the verdicts."""
        rows = [(label_of(name), scores) for name, scores in self.baselines.items() if name != "oracle"]
        rows += [(depth.label, depth.means()) for depth in by_depth(self.runs)]
        rows += [(label_of(name), scores) for name, scores in self.baselines.items() if name == "oracle"]
        cells = [
            [name, *(str(scores.interval(protocol, self.metric)) for protocol in PROTOCOLS)] for name, scores in rows
        ]
        best = best_depth(self.runs, self.metric).label
        strong = frozenset(number for number, (name, _) in enumerate(rows) if name == best)
        headings = ["", *(f"{protocol}, {metric_label(self.metric)}" for protocol in PROTOCOLS)]
        caption = f"{self.data.name}, split {self.data.split}: {self.data.test:,} test events"
        return Grid(headings, cells, strong=strong).html(caption) + notes_html(self.verdicts)


class _Header(msgspec.Struct, frozen=True):
    """What every format has; the first one did not say which it is."""

    runs: list[msgspec.Raw]
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
    except (OSError, msgspec.DecodeError) as error:
        raise SavedFolderError(f"{path} holds no study's results: {error}") from error
    raise SavedFolderError(f"{path} has format {found}; expected {FORMAT}, which this version writes: rerun the study")

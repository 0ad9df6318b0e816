"""What a study's figures say: means over seeds, paired differences between depths, and sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import msgspec

from twotower.evaluation.baselines.names import FLOORS, NAMES
from twotower.evaluation.comparisons import comparisons, listed
from twotower.evaluation.intervals import Interval, mean_interval
from twotower.evaluation.metrics import Metrics, Scores, Slice
from twotower.study.results import Run

PROTOCOLS = ("all", "unseen")


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
    return Slice(first.by, first.name, first.events, means([s.all for s in same]), means([s.unseen for s in same]))


def by_depth(runs: Sequence[Run]) -> list[Depth]:
    """The runs of each depth together, depths in the order they were run."""
    depths: dict[tuple[int, ...], list[Run]] = {}
    for run in runs:
        depths.setdefault(tuple(run.layers), []).append(run)
    return [Depth(list(layers), sorted(own, key=lambda run: run.seed)) for layers, own in depths.items()]


def best_depth(runs: Sequence[Run], metric: str) -> Depth:
    """The depth with the highest mean, nothing excluded."""
    return max(by_depth(runs), key=lambda depth: depth.interval("all", metric).mean)


def strongest(baselines: Mapping[str, Scores], protocol: str, metric: str) -> str | None:
    """Which baseline is the hardest to beat; the oracle is none to beat. None where none was measured."""
    return max(
        (name for name in FLOORS if name in baselines),
        key=lambda name: baselines[name].value(f"{protocol}.{metric}"),
        default=None,
    )


def verdicts(baselines: Mapping[str, Scores], runs: Sequence[Run], metric: str) -> list[str]:
    """What a reader should take away, in sentences."""
    depths = by_depth(runs)
    sentences = []
    for depth in depths:
        beside = comparisons(depth.label, depth.means(), baselines, metric)
        lost = [sentence for sentence in beside if "does not beat" in sentence]
        floors = listed([NAMES[name] for name in FLOORS if name in baselines])
        if floors:
            sentences += lost or [f"{depth.label} beats {floors} under both protocols ({metric})."]
    if "oracle" in baselines and "popularity" in baselines:
        best = best_depth(runs, metric)
        floor, ceiling = baselines["popularity"].all[metric], baselines["oracle"].all[metric]
        if ceiling > floor:
            way = (best.interval("all", metric).mean - floor) / (ceiling - floor)
            sentences.append(
                f"{best.label} goes {way:.0%} of the way from popularity ({floor:.4f}) "
                f"to the best any model can reach ({ceiling:.4f}; {metric}, all)."
            )
    return [*sentences, *_depth_verdicts(depths, metric)]


def _depth_verdicts(depths: Sequence[Depth], metric: str) -> list[str]:
    """Whether each depth is better than the one before it, paired by seed."""
    if len(depths) < 2:
        return []
    if min(len(depth.runs) for depth in depths) < 2:
        return ["One seed does not tell depths apart; --seeds 5 gives intervals."]
    sentences = []
    for shallow, deep in pairwise(depths):
        difference = paired_difference(shallow, deep, "all", metric)
        if difference.low > 0:
            word = "is better than"
        elif difference.high < 0:
            word = "is worse than"
        else:
            word = "is not told apart from"
        sentences.append(
            f"{deep.label} {word} {shallow.label}: {difference.mean:+.4f} ± {difference.half_width:.4f} "
            f"({metric}, all, {len(deep.runs)} paired seeds, 95%)."
        )
    return sentences


def paired_difference(shallow: Depth, deep: Depth, protocol: str, metric: str) -> Interval:
    """How much more `deep` scores than `shallow` with the same seed and split."""
    shallow_by_seed = {run.seed: getattr(run.final, protocol)[metric] for run in shallow.runs}
    return mean_interval(
        [
            getattr(run.final, protocol)[metric] - shallow_by_seed[run.seed]
            for run in deep.runs
            if run.seed in shallow_by_seed
        ]
    )

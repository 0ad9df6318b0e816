"""The baselines there are, what reports call them, and how a user says which to measure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol

from twotower.data.dataset import Dataset
from twotower.errors import ConfigError
from twotower.evaluation.ranking import ScoreBlock
from twotower.kinds import Kinds

BASELINES: Kinds[type[Baseline]] = Kinds("baseline")
"""Baselines by kind. `@BASELINES.register` has one of your own measured beside models, like ours."""

OURS = ("popularity", "recent_popularity", "item_knn", "ease", "ials")
"""The baselines of the package, in the order of reports."""

CEILING = "oracle"
"""The baseline that no model can beat."""


class Baseline(Protocol):
    """A class of scorers that learn from the training split and look at nothing else.

    It may take the keyword argument `step`, a `ReportStep`, and have a static method `cost(train, machine)`, as `Ease`
    has: then it has a budget, and is left out where it costs more. `twotower.testing.check_baseline` tries one out.

    Attributes:
        kind: Its name in `--baselines` and in results.
        label: What tables and sentences call it.

    Example:
        >>> import numpy as np, torch
        >>> class Newest:
        ...     kind, label = "newest", "newest first"
        ...     def __init__(self, train):
        ...         latest = np.zeros(train.candidates.num_rows)
        ...         np.maximum.at(latest, train.candidate_index, train.times)
        ...         self.latest = torch.from_numpy(latest)
        ...     def score_block(self, events):
        ...         return lambda numbers: self.latest.expand(len(numbers), -1)
    """

    kind: str
    label: str

    def __init__(self, train: Any) -> None:
        """Learns from the training split, a `Dataset`."""

    def score_block(self, events: Dataset) -> ScoreBlock:
        """How to score the candidates for any of these events; see `Scorer`."""
        ...


class _Labels(Mapping[str, str]):
    """What reports call the baselines, by kind, in their order there: ours, those of users, the ceiling."""

    def __init__(self, ceiling: bool) -> None:
        self._ceiling = ceiling

    def __iter__(self) -> Iterator[str]:
        yield from OURS
        yield from (kind for kind in BASELINES if kind not in (*OURS, CEILING))
        if self._ceiling:
            yield CEILING

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __getitem__(self, kind: str) -> str:
        if kind not in BASELINES:
            raise KeyError(kind)
        return BASELINES[kind].label


NAMES: Mapping[str, str] = _Labels(ceiling=True)
"""What reports call the baselines, in their order there."""

FLOORS: Mapping[str, str] = _Labels(ceiling=False)
"""The baselines that a model should beat: all but the oracle, which no model can."""

BaselineNames = Sequence[str] | Literal["all", "none"]
"""Which baselines: their kinds, as in `NAMES`, or `all` of them, or `none`."""


def check_baselines(baselines: BaselineNames) -> None:
    """Refuses what names no baseline.

    Raises:
        ConfigError: A name is not known.

    Example:
        >>> check_baselines(["popularity", "eas"])
        Traceback (most recent call last):
        twotower.errors.ConfigError: baseline 'eas' is unknown; expected all, none, or some of popularity, \
recent_popularity, item_knn, ease, ials, oracle
    """
    if baselines in ("all", "none"):
        return
    if isinstance(baselines, str) or not isinstance(baselines, Sequence):
        raise ConfigError(f"baselines = {baselines!r}; expected 'all', 'none', or a list of some of {', '.join(NAMES)}")
    if unknown := [name for name in baselines if name not in NAMES]:
        raise ConfigError(f"baseline {unknown[0]!r} is unknown; expected all, none, or some of {', '.join(NAMES)}")


def parse_baselines(text: str) -> tuple[str, ...] | Literal["all", "none"]:
    """Reads what the command line writes: `all`, `none`, or names with commas between them.

    Raises:
        ConfigError: A name is not known.

    Example:
        >>> parse_baselines("ease,popularity"), parse_baselines("none")
        (('ease', 'popularity'), 'none')
    """
    if text == "all":
        return "all"
    if text == "none":
        return "none"
    names = tuple(name.strip() for name in text.split(","))
    check_baselines(names)
    return names

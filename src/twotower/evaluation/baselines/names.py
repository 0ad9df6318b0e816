"""The available baselines, their labels in reports, and how users select them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol

from twotower.data.dataset import Dataset
from twotower.errors import ConfigError
from twotower.evaluation.ranking import ScoreBlock
from twotower.kinds import Kinds

BASELINES: Kinds[type[Baseline]] = Kinds("baseline")
"""Baselines by kind. Decorate your own with `@BASELINES.register` to have it measured like ours."""

OURS = ("popularity", "recent_popularity", "item_knn", "ease", "ials")
"""The baselines of the package, in report order."""

CEILING = "oracle"
"""The baseline that no model can beat."""


class Baseline(Protocol):
    """A scorer that learns from the training split and from nothing else.

    It may accept the keyword argument `step`, a `ReportStep`, and have a static method `cost(train, machine)`, like
    `Ease`. It then has a budget, and is skipped if its cost is higher. Test your own with
    `twotower.testing.check_baseline`.

    Attributes:
        kind: Its name in `--baselines` and in results.
        label: Its name in tables and sentences.

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
        """Returns a function that scores all candidates for any of these events; see `Scorer`."""
        ...


class _Labels(Mapping[str, str]):
    """Labels of the baselines by kind, in report order: ours, then those of users, then the ceiling."""

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
"""Labels of the baselines by kind, in report order."""

FLOORS: Mapping[str, str] = _Labels(ceiling=False)
"""The baselines that a model should beat: all but the oracle, which no model can beat."""

BaselineNames = Sequence[str] | Literal["all", "none"]
"""Baselines to measure: kinds from `NAMES`, or `all`, or `none`."""


def check_baselines(baselines: BaselineNames) -> None:
    """Refuses unknown baselines.

    Raises:
        ConfigError: A name is unknown.

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
    """Parses the command-line notation: `all`, `none`, or comma-separated names.

    Raises:
        ConfigError: A name is unknown.

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

"""`Parts`: the train, validation and test parts of a config's data; and `SplitConfig`, how to split it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np

from twotower.arrow import content_digest
from twotower.data.dataset import Dataset, concat
from twotower.data.log import Log, require_in_memory
from twotower.data.splits import SplitRule, parse_rule
from twotower.data.stream import ParquetLog
from twotower.data.streamed_splits import share_of, split_log
from twotower.errors import ConfigError
from twotower.recipes.recipe import Recipe

GIVEN_RULE = "given"
"""The rule reported for parts that were split beforehand."""


class SplitConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to split the data.

    Attributes:
        rule: `random:SHARE`, `time:SHARE` or `last-out`; default: a rule that suits the data, see `Config.parts`.
        seed: Seed of a random split, and of the events that `train_share` keeps.
        train_share: Share of the training events to keep, drawn at random; test does not change. A smaller share is a
            subset of a larger one.
        on: What models are measured on: `test` or, for choosing between models, a `validation` part cut from train, so
            that test is not used.

    Raises:
        ConfigError: The share is out of range.
    """

    rule: str | None = None
    seed: int = 42
    train_share: float = 1.0
    on: Literal["test", "validation"] = "test"

    def __post_init__(self) -> None:
        if not 0 < self.train_share <= 1:
            raise ConfigError(f"[split] train_share = {self.train_share}; expected a share above 0, and at most 1")

    def parsed(self) -> SplitRule:
        """The parsed rule.

        Raises:
            ConfigError: It is invalid or missing.
        """
        if self.rule is None:
            raise ConfigError("[split] has no rule; expected random:SHARE, time:SHARE or last-out")
        return parse_rule(self.rule, self.seed)

    def kept(self, train: Log) -> Log:
        """The training events that `train_share` keeps."""
        if self.train_share == 1:
            return train
        if isinstance(train, ParquetLog):
            return share_of(train, self.train_share, self.seed)
        train = require_in_memory(train, "train_share", "a log in memory or a ParquetLog")
        order = np.random.default_rng([self.seed, len(train)]).permutation(len(train))
        return train.take(np.sort(order[: max(1, round(len(train) * self.train_share))]))


@dataclass(frozen=True)
class Parts:
    """The parts of a config's data.

    Attributes:
        train: The events to learn from, in memory or streamed.
        test: The events to measure on.
        validation: The events for choosing the best epoch, if the config names them; None: cut from train.
        split: How test was split off or, if test is given, the validation part; with its rule.
        rule: The rule as shown in reports.
        fingerprint: Fingerprint of train and test.
        remarks: Sentences for reports: the reason for the rule, and warnings about the parts.
        past: Events before those in train, known to a model whose training continues, if train lacks them.
    """

    train: Log
    test: Dataset
    validation: Dataset | None
    split: SplitConfig
    rule: str
    fingerprint: str
    remarks: tuple[str, ...] = ()
    past: Dataset | None = None

    @property
    def known(self) -> Log:
        """The events known when measuring on test: train and, if there is one, the past."""
        return self.train if self.past is None else concat([self.past, self.train.read()])

    def fitted_and_validation(self) -> tuple[Log, Dataset]:
        """The events to train on and to validate on when looking for the best epoch."""
        if self.validation is not None:
            return self.train, self.validation
        cut = split_log(self.train, self.split.parsed())
        return cut.train, cut.test

    def for_recipe(self, recipe: Recipe) -> tuple[Log, Dataset]:
        """The events that a recipe first trains on, and those it validates on."""
        return (self.train, self.test) if recipe.validate_on == "test" else self.fitted_and_validation()

    @property
    def identity(self) -> str:
        """A hash of everything in the data that a run depends on: the events, their weights and both tables."""
        tables = [self.train.queries, self.train.candidates]
        if (events := self.train.in_memory) is not None:
            tables += [events.interactions, self.test.interactions]
        digests = [content_digest(table) for table in tables]
        beside = (one for part in (self.train, self.test) for one in (part.exposures, part.availability))
        digests += [one.digest() for one in beside if one is not None]
        return hashlib.sha256("-".join([self.fingerprint, *digests]).encode()).hexdigest()[:16]


def limits_remark(test: Dataset) -> tuple[str, ...]:
    """A sentence for reports if candidates were not always available."""
    if test.availability is None:
        return ()
    return ("Each rank counts only candidates that were available at the event's time.",)

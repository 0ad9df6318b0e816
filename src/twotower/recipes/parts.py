"""`Parts`: train, test and the part that says which epoch is best; and `SplitConfig`, how data is cut into them."""

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

GIVEN = "given"
"""The rule of parts that were cut beforehand."""


class SplitConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How data is cut.

    Attributes:
        rule: `random:SHARE`, `time:SHARE` or `last-out`; left out: what suits the data, see `Config.parts`.
        seed: Seed of a random split, and of the events that `train_share` keeps.
        train_share: Share of the training events to keep, drawn at random; test stays as it is. A smaller share is part
            of a larger one.
        on: What models are measured on: `test`; or, to choose among them, a `validation` part cut from train, so that
            test is not even read.

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
        """The rule.

        Raises:
            ConfigError: It is none, or left out.
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
    """What a config's data is cut into.

    Attributes:
        train: The events to learn from, in memory or streamed.
        test: The events to measure on.
        validation: Those that say which epoch is best, where a config names them; else they are cut from train.
        split: How test, or where it is given the validation part, was cut, with its rule.
        rule: How reports say that it was cut.
        fingerprint: Of train and test.
        remarks: Why it was cut so, and what to know of the parts: sentences for reports.
        past: Choices before those of train that a model knows which training goes on with, where train lacks them.
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
        """What test is measured beside: train, and the past where there is one."""
        return self.train if self.past is None else concat([self.past, self.train.read()])

    def fitted_and_validation(self) -> tuple[Log, Dataset]:
        """What is trained on to find the best epoch, and what says which one is."""
        if self.validation is not None:
            return self.train, self.validation
        cut = split_log(self.train, self.split.parsed())
        return cut.train, cut.test

    def for_recipe(self, recipe: Recipe) -> tuple[Log, Dataset]:
        """What a recipe trains on first, and what it validates on."""
        return (self.train, self.test) if recipe.validate_on == "test" else self.fitted_and_validation()

    @property
    def identity(self) -> str:
        """Digits of all that a run on these parts depends on: the events, their weights, and both tables."""
        tables = [self.train.queries, self.train.candidates]
        if (events := self.train.in_memory) is not None:
            tables += [events.interactions, self.test.interactions]
        digests = [content_digest(table) for table in tables]
        return hashlib.sha256("-".join([self.fingerprint, *digests]).encode()).hexdigest()[:16]

"""`Parts`: train, test and the part that says which epoch is best; and `SplitConfig`, how data is cut into them."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from twotower.data.dataset import Dataset
from twotower.data.splits import SplitRule, parse_rule
from twotower.data.stream import ParquetLog
from twotower.errors import ConfigError

GIVEN = "given"
"""The rule of parts that were cut beforehand."""


class SplitConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How data is cut.

    Attributes:
        rule: `random:SHARE`, `time:SHARE` or `last-out`; left out: what suits the data, see `Config.parts`.
        seed: Seed of a random split.
    """

    rule: str | None = None
    seed: int = 42

    def parsed(self) -> SplitRule:
        """The rule.

        Raises:
            ConfigError: It is none, or left out.
        """
        if self.rule is None:
            raise ConfigError("[split] has no rule; expected random:SHARE, time:SHARE or last-out")
        return parse_rule(self.rule, self.seed)


@dataclass(frozen=True)
class Parts:
    """What a config's data is cut into.

    Attributes:
        train: The events to learn from.
        test: The events to measure on.
        validation: Those that say which epoch is best, where a config names them; else they are cut from train.
        split: How test, or where it is given the validation part, was cut, with its rule.
        rule: How reports say that it was cut.
        fingerprint: Of train and test.
        remarks: Why it was cut so, and what to know of the parts: sentences for reports.
    """

    train: Dataset
    test: Dataset
    validation: Dataset | None
    split: SplitConfig
    rule: str
    fingerprint: str
    remarks: tuple[str, ...] = ()

    def fitted_and_validation(self) -> tuple[Dataset, Dataset]:
        """What is trained on to find the best epoch, and what says which one is."""
        if self.validation is not None:
            return self.train, self.validation
        fitted, validation = self.split.parsed()(self.train)
        return fitted, validation


@dataclass(frozen=True)
class StreamedParts:
    """The parts of a log that stays on disk, all of them cut beforehand.

    Attributes:
        train: The log.
        test: The events to measure on.
        validation: Those that say which epoch is best, where a config names them.
        fingerprint: Of train and test.
        rule: How reports say that it was cut.
        remarks: None.
    """

    train: ParquetLog
    test: Dataset
    validation: Dataset | None
    fingerprint: str
    rule: str = GIVEN
    remarks: tuple[str, ...] = ()

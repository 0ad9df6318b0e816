"""`Notes`: how a bundle's model was trained, as typed fields."""

from __future__ import annotations

from typing import Any, cast

import msgspec

from twotower.data.sources import CsvFormat, Decimal
from twotower.errors import ConfigError
from twotower.evaluation.evaluate import Evaluation
from twotower.evaluation.history import TrainingHistory
from twotower.recipes.columns import TowerColumns


class Curve(msgspec.Struct, frozen=True):
    """A metric over the epochs of one training run.

    Attributes:
        name: The variant, or what the metric was measured on.
        points: Pairs of an epoch and a value.
    """

    name: str
    points: list[tuple[float, float]]


class StudyNote(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The displayed results of a study on the bundle's data.

    Attributes:
        metric: The metric of the curves, such as `top_100`, with nothing excluded.
        curves: One curve per compared variant.
        baselines: The same metric for each baseline that was measured.
        verdicts: Conclusions from the figures, as sentences.
        command: The command that repeats the study.
        created: When the study was run, in ISO 8601.
    """

    metric: str
    curves: list[Curve]
    baselines: dict[str, float]
    verdicts: list[str]
    command: str = ""
    created: str = ""


class Notes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """How a bundle's model was trained; `twotower train` fills it in.

    Attributes:
        config: The training config, as plain data; training code parses it as a `Config`.
        split: How the test set was split off.
        fingerprint: Fingerprint of train and test.
        remarks: Why the data were split this way, and remarks on the parts, as sentences.
        columns: Which columns each tower reads, and why it skips the others.
        evaluation: Evaluation of the model on test, next to the baselines.
        best_epoch: The epoch with the best validation result.
        history: The epochs of training, or of the search for the best epoch if there was one.
        study: A study of the same data.
        started_from: Version of the bundle that training was warm-started from; None if it started from scratch.
        extra: Anything else to store, as plain data.

    Example:
        >>> Notes(split="random:0.2", extra={"ticket": 42}).extra["ticket"]
        42
    """

    config: dict[str, Any] | None = None
    split: str | None = None
    fingerprint: str | None = None
    remarks: list[str] = []
    columns: TowerColumns | None = None
    evaluation: Evaluation | None = None
    best_epoch: int | None = None
    history: TrainingHistory | None = None
    study: StudyNote | None = None
    started_from: str | None = None
    extra: dict[str, Any] = {}

    def csv_format(self, delimiter: str | None = None, decimal: str | None = None) -> CsvFormat:
        """How CSV files for this bundle are written: as given or else, as in the training config.

        Args:
            delimiter: The delimiter; None: the config's.
            decimal: The decimal mark, `.` or `,`; None: the config's.

        Raises:
            ConfigError: They cannot be used.

        Example:
            >>> notes = Notes(config={"data": {"decimal": ","}})
            >>> notes.csv_format(), notes.csv_format(decimal=".").decimal
            (CsvFormat(delimiter=None, decimal=','), '.')
        """
        try:
            trained = msgspec.convert((self.config or {}).get("data", {}), CsvFormat)
        except msgspec.ValidationError as error:
            raise ConfigError(f"[data] of the bundle's config: {error}") from error
        mark = trained.decimal if decimal is None else cast("Decimal", decimal)
        return CsvFormat(trained.delimiter if delimiter is None else delimiter, mark)

    def as_written(self) -> Notes:
        """The notes as they read back from JSON: plain data, with a 1 in a float field turned into 1.0.

        Raises:
            ConfigError: They hold anything but plain data.
        """
        try:
            return msgspec.json.decode(msgspec.json.encode(self), type=Notes)
        except (TypeError, ValueError, RecursionError) as error:
            raise ConfigError(f"notes cannot be stored: {error}; expected plain data, as in JSON") from error

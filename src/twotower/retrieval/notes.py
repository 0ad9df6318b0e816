"""`Notes`: what a bundle keeps of how its model came to be, typed for whoever reads it."""

from __future__ import annotations

from typing import Any

import msgspec

from twotower.errors import ConfigError
from twotower.evaluation.evaluate import Evaluation
from twotower.evaluation.history import TrainingHistory
from twotower.recipes.columns import TowerColumns


class Curve(msgspec.Struct, frozen=True):
    """A metric over the epochs of one training: `points` are pairs of epoch and value."""

    name: str
    points: list[tuple[float, float]]


class StudyNote(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A study of the bundle's own data, as far as it is shown.

    Attributes:
        metric: The metric of the curves, such as `top_100`, with nothing excluded.
        curves: One for each variant that was compared.
        baselines: The same metric of each baseline that was measured.
        verdicts: What the figures say, in sentences.
        command: The command that repeats the study.
        created: When it was made, in ISO 8601.
    """

    metric: str
    curves: list[Curve]
    baselines: dict[str, float]
    verdicts: list[str]
    command: str = ""
    created: str = ""


class Notes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a bundle keeps of how its model came to be; `twotower train` fills it in.

    Attributes:
        config: The config it was trained by, as plain data: whoever trains reads it as a `Config`.
        split: How test was cut from the data.
        fingerprint: Of train and test.
        remarks: Why the data were cut so, and what to know of the parts, in sentences.
        columns: Which columns each tower reads, and why it leaves the others out.
        evaluation: The model on test, beside the baselines.
        best_epoch: The epoch that validated best.
        history: The epochs of the training; of the search for the best one, where there was one.
        study: A study of the same data.
        started_from: Version of the bundle that training began with; None where it began anew.
        extra: Whatever else its maker wants to keep, as plain data.

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

    def as_written(self) -> Notes:
        """The notes as they are read again: what is kept is plain data, and a 1 where a float is expected is 1.0.

        Raises:
            ConfigError: They hold something else than plain data.
        """
        try:
            return msgspec.json.decode(msgspec.json.encode(self), type=Notes)
        except (TypeError, ValueError, RecursionError) as error:
            raise ConfigError(f"notes cannot be kept: {error}; expected plain data, such as JSON has") from error

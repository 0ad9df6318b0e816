"""`TrainingHistory`: what every epoch of a training gave, the one record that everything else reads."""

from __future__ import annotations

import msgspec

from twotower.errors import ConfigError
from twotower.evaluation.metrics import Scores


class Epoch(msgspec.Struct, frozen=True):
    """One epoch.

    Attributes:
        epoch: Its number, from 1.
        loss: Mean loss of all its events.
        learning_rate: At its end; that of the dense layers where embeddings have another.
        seconds: Spent training.
        validation: Scores after it; None where it was not validated.
        validation_seconds: Spent validating.
        waiting_seconds: Of those spent training, the ones in which it waited for a streamed log.
    """

    epoch: int
    loss: float
    learning_rate: float
    seconds: float
    validation: Scores | None = None
    validation_seconds: float = 0.0
    waiting_seconds: float = 0.0


class TrainingHistory(msgspec.Struct):
    """All epochs so far, the first first.

    Attributes:
        epochs: What each gave.
        monitor: The metric that says which epoch is best, such as `all.top_100`.
        restored: The epoch whose weights the model has in the end, where not the last's.
    """

    monitor: str = "all.top_100"
    epochs: list[Epoch] = []
    restored: int | None = None

    @property
    def validated(self) -> list[tuple[Epoch, Scores]]:
        """The epochs that were validated, with their scores."""
        return [(epoch, epoch.validation) for epoch in self.epochs if epoch.validation is not None]

    @property
    def best(self) -> Epoch:
        """The validated epoch with the highest monitored metric; the earliest of equals.

        Raises:
            ConfigError: No epoch was validated.
        """
        if not self.validated:
            raise ConfigError("no epoch was validated; give fit a validation part")
        return max(self.validated, key=lambda pair: pair[1].value(self.monitor))[0]

    @property
    def train_seconds(self) -> float:
        """Seconds spent training."""
        return sum(epoch.seconds for epoch in self.epochs)

    @property
    def validation_seconds(self) -> float:
        """Seconds spent validating."""
        return sum(epoch.validation_seconds for epoch in self.epochs)

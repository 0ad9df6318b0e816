"""`TrainerSettings`: the settings of a `Trainer`, in a module that all parts of training can import."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
import numpy as np

from twotower.arguments import Follows, Settings
from twotower.errors import ConfigError
from twotower.evaluation.metrics import DEFAULT_KS, Scores, check_ks, rank_metrics
from twotower.model.losses import BuiltInLoss, InBatchSoftmax, Loss
from twotower.tasks import BuiltInTask, Retrieval, Task
from twotower.training.devices import check_device
from twotower.training.optimizers import AdamW, Constant, LearningRateSchedule, Optimizer, Schedule
from twotower.training.precision import Precision

if TYPE_CHECKING:
    AnyLoss = Loss
    AnySchedule = Schedule
    AnyTask = Task
else:  # what configs can name, and any object that implements the protocol
    AnyLoss = Annotated[BuiltInLoss, Follows(Loss)]
    AnySchedule = Annotated[LearningRateSchedule, Follows(Schedule)]
    AnyTask = Annotated[BuiltInTask, Follows(Task)]

Sharding = Literal["auto", "always", "never"]
"""Which embedding tables are sharded among ranks: those with at least `SHARDED_FROM` numbers, all, or none."""

SHARDED_FROM = 1 << 28
"""`auto` shards tables with at least this many numbers: 1 GiB on every rank, or 3 GiB with AdamW's moments."""

MONITOR = "all.top_100"
"""The metric monitored by default for models that retrieve."""


class EarlyStopping(Settings, frozen=True):
    """Stop training when the monitored metric stops improving, and restore the best weights.

    Attributes:
        patience: Validations without improvement before training stops.
        min_delta: Minimum gain over the best value so far that counts as an improvement.
    """

    patience: int = 3
    min_delta: float = 0.0

    def check(self) -> None:
        """Check the ranges."""
        if self.patience < 1 or self.min_delta < 0:
            raise ConfigError(
                f"early stopping with patience={self.patience}, min_delta={self.min_delta}; "
                f"expected a patience of at least 1 and a min_delta of at least 0"
            )


class TrainerSettings(Settings, frozen=True, kw_only=True):
    """Settings of training; `Trainer` describes each field."""

    epochs: int = 20
    batch_size: int = 1024
    optimizer: Optimizer = AdamW()
    loss: AnyLoss = InBatchSoftmax()
    schedule: AnySchedule = Constant()
    clip_norm: float | None = None
    validate_every: int = 1
    tasks: tuple[AnyTask, ...] = ()
    monitor: str = MONITOR
    early_stopping: EarlyStopping | None = None
    ks: tuple[int, ...] = DEFAULT_KS
    seed: int = 0
    device: str = "cpu"
    precision: Precision = "float32"
    sharding: Sharding = "auto"

    def check(self) -> None:
        """Check the ranges, the monitored metric and the device."""
        for name in ("epochs", "batch_size", "validate_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)}; expected at least 1")
        if not 0 <= self.seed < 1 << 63:
            raise ConfigError(f"seed={self.seed}; expected a whole number of at least 0 and below 2**63")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ConfigError(f"clip_norm={self.clip_norm}; expected a number above 0, or None")
        check_ks(self.ks)
        names = [task.title for task in self.tasks]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ConfigError(f"two tasks are called {twice[0]!r}; expected a different name for each", field="tasks")
        if not self.retrieves and self.monitor == MONITOR:
            msgspec.structs.force_setattr(self, "monitor", f"{names[0]}.{self.tasks[0].metric}")
        self._check_monitor()
        check_device(self.device)

    @property
    def retrieves(self) -> bool:
        """Whether retrieval is one of the tasks, or the only one."""
        return not self.tasks or any(task.head is None for task in self.tasks)

    @property
    def sharded_from(self) -> int:
        """Embedding tables with at least this many numbers are sharded."""
        return {"auto": SHARDED_FROM, "always": 1, "never": sys.maxsize}[self.sharding]

    @property
    def resolved_tasks(self) -> list[AnyTask]:
        """The tasks; retrieval without a loss gets the trainer's."""
        return [
            msgspec.structs.replace(task, loss=self.loss) if isinstance(task, Retrieval) and task.loss is None else task
            for task in self.tasks
        ]

    def _check_monitor(self) -> None:
        group, _, _ = self.monitor.rpartition(".")
        if group in [task.title for task in self.tasks if task.head is not None]:
            return  # a task's metrics are known only after it has measured them
        measured = rank_metrics(np.ones(1), self.ks) if self.retrieves else {}
        try:
            Scores(measured, measured).value(self.monitor)
        except ConfigError as error:
            raise ConfigError(f"monitor={self.monitor!r} with ks={self.ks}: {error}") from None

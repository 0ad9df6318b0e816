"""`Trainer`: how to train, and the loop over epochs, from seed to restored best weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import msgspec

from twotower.data.dataset import Dataset
from twotower.data.stream import ParquetLog
from twotower.errors import ConfigError
from twotower.evaluation.metrics import DEFAULT_KS, check_ks
from twotower.interruption import Interruption
from twotower.model.losses import InBatchSoftmax, Loss
from twotower.model.two_tower import TwoTower
from twotower.training.callbacks import Callback
from twotower.training.checkpoint import Checkpoint, identity_of
from twotower.training.continued import warn_of_new_ids
from twotower.training.history import TrainingHistory
from twotower.training.optimizers import AdamW, Constant, LearningRateSchedule, Optimizer
from twotower.training.precision import Precision
from twotower.training.run import Run


class EarlyStopping(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Stop when the monitored metric has not improved for a while, and give the best weights back.

    Attributes:
        patience: Validations without improvement before training stops.
        min_delta: How much more than the best so far counts as an improvement.
    """

    patience: int = 3
    min_delta: float = 0.0

    def __post_init__(self) -> None:
        if self.patience < 1 or self.min_delta < 0:
            raise ConfigError(
                f"early stopping with patience={self.patience}, min_delta={self.min_delta}; "
                f"expected a patience of at least 1 and a min_delta of at least 0"
            )


class Trainer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How to train: everything about it but the model and the data.

    One seed gives one result, bit for bit, on one machine and thread count. The random numbers of an epoch
    are derived from (seed, epoch), so that a training resumed from a checkpoint equals one that was not
    interrupted.

    Attributes:
        epochs: Passes over the training events.
        batch_size: Events in a step; the last batch of an epoch may be smaller.
        optimizer: `AdamW(…)` or `Adagrad(…)`.
        loss: `InBatchSoftmax(…)` or `FullSoftmax(…)`.
        schedule: `Constant(…)` or `Cosine(…)`, over the steps of all `epochs`.
        clip_norm: Scale a step's gradient down to this length where it is longer; None never does.
        average: Average the weights over the steps, of which each keeps this share of the average, such as 0.999;
            the averaged weights are those that are validated, kept and given back. None averages nothing.
        validate_every: Epochs between validations; the last epoch is always validated.
        monitor: The metric that says which epoch is best: `all.` or `unseen.`, then its name.
        early_stopping: When to stop early, and then restore the best weights; None never does.
        ks: Lengths of lists in validation.
        seed: Seed of the initial weights, of the order of the events and of dropout.
        device: Where to train: `cpu`, `cuda`, `mps`.
        precision: Of products of matrices in training: `float32`; `tf32`, in which CUDA devices that can multiply
            float32 matrices with 10 bits after the leading one (elsewhere it is float32); `bf16`, in which the towers
            multiply in bfloat16. Parameters, the softmax of `bf16` and validation are in float32 always.
        capture: On CUDA devices, record a step of `batch_size` events once and replay it, so that small steps do not
            wait for hundreds of launches; the last, smaller batch of an epoch runs as it is. The loss is the same,
            with the distinct candidates of an in-batch softmax filled up to a fixed number; random numbers, and so
            the bits, are others. On other devices these very steps run without a recording. It needs the events in
            memory, `tables="dense"` where tables are large, and a loss without `mask_known` and `memory`.

    Raises:
        ConfigError: A setting is out of range.

    Example:
        >>> import pyarrow as pa
        >>> from twotower import data
        >>> from twotower.features import Category
        >>> from twotower.model import Tower
        >>> log = pa.table({"who": ["a", "b"], "what": [1, 2]})
        >>> log = data.from_tables(log, query_id="who", candidate_id="what")
        >>> model = TwoTower(Tower([Category("who", 8)]), Tower([Category("what", 8)]))
        >>> history = Trainer(epochs=3).fit(model, log)
        >>> [epoch.epoch for epoch in history.epochs]
        [1, 2, 3]
    """

    epochs: int = 20
    batch_size: int = 1024
    optimizer: Optimizer = AdamW()
    loss: Loss = InBatchSoftmax()
    schedule: LearningRateSchedule = Constant()
    clip_norm: float | None = None
    average: float | None = None
    validate_every: int = 1
    monitor: str = "all.top_100"
    early_stopping: EarlyStopping | None = None
    ks: tuple[int, ...] = DEFAULT_KS
    seed: int = 0
    device: str = "cpu"
    precision: Precision = "float32"
    capture: bool = False

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "validate_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)}; expected at least 1")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ConfigError(f"clip_norm={self.clip_norm}; expected a number above 0, or none given")
        if self.average is not None and not 0 < self.average < 1:
            raise ConfigError(f"average={self.average}; expected a share between 0 and 1, or none given")
        if self.precision not in get_args(Precision):
            raise ConfigError(f"precision={self.precision!r}; expected one of {', '.join(get_args(Precision))}")
        check_ks(self.ks)

    def fit(
        self,
        model: TwoTower,
        train: Dataset | ParquetLog,
        validation: Dataset | None = None,
        *,
        callbacks: Sequence[Callback] = (),
        checkpoint: Path | None = None,
        stop_after: int | None = None,
    ) -> TrainingHistory:
        """Trains a model in place.

        A model that has not learned from data yet learns its vocabularies from `train` and gets its initial
        weights from the seed; one that has goes on from where it is. Its vocabularies do not grow: a `NewIdsWarning`
        says how many ids of which column are new to it, which share the embedding of unknown ids.

        Args:
            model: The model; left in evaluation mode, with the best weights where stopped early.
            train: The events to learn from, in memory or streamed.
            validation: The events to measure on; needed for early stopping. With a streamed log, what its `part`
                gives.
            callbacks: What watches.
            checkpoint: A folder for the training's state: where it exists, training goes on from there. It
                is left behind for the caller to delete once the result is safe.
            stop_after: Train only this many of the epochs; the schedule is still that of all of them.

        Raises:
            ConfigError: Early stopping without a validation part, a monitored metric that is not measured, a
                streamed log with features, a loss or a batch that it does not allow, or `capture` of a step that has
                no fixed shapes.
            DataError: A streamed log cannot be read any more, or the validation part is of other data.
            TwoTowerError: The loss is not finite any more.
            SavedFolderError: The checkpoint is of another training.
        """
        if self.early_stopping is not None and validation is None:
            raise ConfigError("early stopping needs a validation part; give fit validation=…")
        model.to(self.device)
        if not model.is_fitted:
            model.learn(train, self.seed)
            model.to(self.device)
        else:
            warn_of_new_ids(model, train)
        run = Run.prepare(self, model, train, validation)
        saved = None
        if checkpoint is not None:
            saved = Checkpoint(checkpoint, identity_of(self, model, train, validation))
            if (resumed := saved.resume(model, run.state.optimizer)) is not None:
                run.state.history, run.best, averaged = resumed
                if run.average is not None:
                    run.average.restore(averaged)
                run.state.stop = run.out_of_patience()
        for callback in callbacks:
            callback.on_start(run.state)
        with Interruption() as interruption:
            for number in range(len(run.state.history.epochs) + 1, (stop_after or self.epochs) + 1):
                if run.state.stop:
                    break
                epoch = run.epoch(number, callbacks, interruption)
                run.state.history.epochs.append(epoch)
                run.keep_best()
                if saved is not None:
                    averaged = {} if run.average is None else run.average.weights
                    saved.save(model, run.state.optimizer, run.state.history, run.best, averaged)
                with run.averaged():
                    for callback in callbacks:
                        callback.on_epoch(run.state, epoch)
            interruption.raise_if_asked()
        run.finish()
        return run.state.history

"""`Trainer`: the settings of training, and `fit`, which trains a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import msgspec

from twotower.arguments import checks_arguments
from twotower.data.checks import refuse_no_weight
from twotower.data.dataset import Dataset
from twotower.data.log import Log
from twotower.errors import ConfigError
from twotower.evaluation.history import TrainingHistory
from twotower.features.tables import sharded_tables
from twotower.model.losses import LOSSES, BuiltInLoss
from twotower.model.sharding import shard_tables
from twotower.model.two_tower import TwoTower
from twotower.ranks import ranks_of_process
from twotower.tasks.base import TASKS
from twotower.training.callbacks import Callback, watched
from twotower.training.checkpoint import Checkpoint
from twotower.training.continued import warn_of_new_ids
from twotower.training.exchange import broadcast_initial_weights, require_same_training
from twotower.training.identity import identity_of
from twotower.training.moments import Moments
from twotower.training.run import Run
from twotower.training.settings import MONITOR, TrainerSettings


class Trainer(TrainerSettings, frozen=True, kw_only=True):
    """All settings of training except the model and the data.

    With the same seed, machine and thread count, results are bit-identical. The random numbers of an epoch depend
    only on (seed, epoch), so a training that is resumed from a checkpoint equals an uninterrupted one. Training runs on
    `allowed_threads`, and on fewer while other programs keep cores busy, which may change the rounding; the environment
    variable `OMP_NUM_THREADS` fixes the number.

    Attributes:
        epochs: Passes over the training events.
        batch_size: Events per step; the last batch of an epoch may be smaller.
        optimizer: `AdamW(…)` or `Adagrad(…)`.
        loss: `InBatchSoftmax(…)`, `FullSoftmax(…)` or a custom loss; see `twotower.model.losses.Loss`.
        tasks: What to train for: `Retrieval(…)`, `Rating(…)`, `Ranking(…)` or custom tasks. Several tasks share the
            towers and their features, and the loss of a step is the weighted sum of theirs. Default: retrieval with
            `loss`.
        schedule: `Constant(…)`, `Cosine(…)` or a custom schedule, over the steps of all `epochs`.
        clip_norm: Scale a step's gradient down to at most this norm; None disables clipping.
        validate_every: Epochs between validations; the last epoch is always validated.
        monitor: The metric that decides which epoch is best: `all.`, `unseen.` or `new.` (`unseen` over new choices
            only, if some events repeat a candidate of their query in train), followed by `mrr`, or by `top_K` or
            `ndcg_K` with a K of `ks`; or a task's metric, such as `rating.rmse`. Without retrieval, the default is the
            first task's own metric.
        early_stopping: When to stop early and restore the best weights; None disables it.
        ks: Cutoffs of the validation metrics.
        seed: Seeds the initial weights, the order of the events and dropout.
        device: Where to train: `cpu`, `cuda`, or `cuda:1` and so on for one of several.
        precision: Precision of matrix products in training: `float32`; `tf32`, in which CUDA devices that support it
            round the factors to 10 bits of mantissa (elsewhere it is float32); `bf16`, in which the towers multiply in
            bfloat16. Parameters, the softmax of `bf16` and validation always use float32.
        sharding: Which embedding tables are sharded among ranks, so that each holds a part of the rows: `auto` for
            those of at least 2²⁸ numbers (1 GiB), `always` for all, `never` for none. No effect in a single process.

    Raises:
        ConfigError: A setting has the wrong type or is out of range, the monitored metric is not measured, or the
            device does not exist.

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

    @checks_arguments
    def fit(
        self,
        model: TwoTower,
        train: Log,
        validation: Dataset | None = None,
        *,
        callbacks: Sequence[Callback] = (),
        checkpoint: Path | str | None = None,
        stop_after: int | None = None,
        progress: bool | None = None,
        moments: Moments | None = None,
    ) -> TrainingHistory:
        """Trains a model in place.

        A model that is not fitted yet learns its vocabularies from `train` and gets its initial weights from the seed;
        a fitted one continues training. Call `TwoTower.grow` before to extend its vocabularies; otherwise new ids
        share the embedding of unknown ids, and a `NewIdsWarning` gives their number by column.

        In a PyTorch process group, such as one that `torchrun` creates, all ranks call `fit` with the same arguments
        and train one model together: each works on a part of every batch, all end with the same weights, and the
        result equals that of a single process up to rounding. Only the first rank calls callbacks and writes
        checkpoints. If tables are sharded (`sharding`), they stay so: all ranks must then call `save_model`, or
        `gather_tables`.

        Args:
            model: The model; left in evaluation mode, with the best weights if early stopping is on.
            train: The events to learn from, in memory or streamed.
            validation: The events to measure on; needed for early stopping. With a streamed log, what its `part`
                returns.
            callbacks: Callbacks that observe the training.
            checkpoint: A folder for the state of the training; if it exists, training resumes from it. It is not
                deleted at the end: the caller deletes it once the result is safe.
            stop_after: Train only this many of the epochs; the schedule still spans all of them.
            progress: Whether to show progress: a live line in a terminal or notebook, a plain line every few seconds
                elsewhere. None shows it in terminals and notebooks only, unless a callback does.
            moments: Optimiser state to start from; updated with the final state. None: start with a new optimiser and
                discard its state.

        Raises:
            ConfigError: An argument has the wrong type; early stopping without a validation part; a feature, loss or
                batch size that the streamed log does not allow; ranks that differ in settings, data or versions; a
                batch norm with several ranks; moments of another optimizer or model.
            DataError: Every event has weight 0, the loss cannot use its column of probabilities, a streamed log cannot
                be read any more, or the validation part belongs to other data.
            TwoTowerError: The loss is no longer finite.
            SavedFolderError: The checkpoint is from another training run.
        """
        self._check_fit(train, validation, stop_after)
        ranks = ranks_of_process()
        if ranks.size > 1:
            require_same_training(ranks, identity_of(self, model, train, validation), self.sharding)
        with sharded_tables(ranks, self.sharded_from):
            self._prepare(model, train)
            if ranks.size > 1:
                broadcast_initial_weights(ranks, model)
            shard_tables(model)
        run = Run.prepare(self, model, train, validation, last_epoch=stop_after or self.epochs, ranks=ranks)
        if moments is not None:
            moments.give(model, run.state.optimizer, self.optimizer)
        saved = None
        if checkpoint is not None:
            saved = Checkpoint(Path(checkpoint), identity_of(self, model, train, validation))
            run.resume(saved)
        with watched(callbacks, progress) if ranks.is_first else nullcontext(()) as watching:
            try:
                run.train(watching, saved)
            except BaseException as error:
                for callback in watching:
                    callback.on_failure(run.state, error)
                raise
        if moments is not None:
            moments.take(model, run.state.optimizer, self.optimizer)
        return run.state.history

    def _check_fit(self, train: Log, validation: Dataset | None, stop_after: int | None) -> None:
        if train.weight is not None:
            refuse_no_weight(float(train.candidate_weights().sum()), train.weight)
        if stop_after is not None and not 1 <= stop_after <= self.epochs:
            raise ConfigError(f"stop_after={stop_after}; expected between 1 and the {self.epochs} epochs")
        if self.early_stopping is not None and validation is None:
            raise ConfigError("early stopping needs a validation part; pass validation=… to fit")

    def _prepare(self, model: TwoTower, train: Log) -> None:
        """Moves the model to the device, adds heads for the tasks, and fits it on the data if it is not fitted yet."""
        model.to(self.device)
        new = [task for task in self.tasks if task.head is not None and task.title not in model.heads]
        model.add_heads({task.title: task.head for task in self.tasks if task.head is not None}, self.seed)
        if not model.is_fitted:
            model.learn(train, self.seed)
            model.to(self.device)
            new = [task for task in self.tasks if task.head is not None]
        else:
            warn_of_new_ids(model, train)
        for task in new:
            task.start(model.heads[task.title], train)


def trainer_from_settings(settings: Mapping[str, Any]) -> Trainer:
    """Creates a trainer from plain data, such as a config; users may have registered its loss and tasks.

    Raises:
        ConfigError: A kind of loss or task is unknown, or a setting of a task or custom loss is wrong.
        msgspec.ValidationError: Another setting is unknown or wrong.
    """
    loss = settings.get("loss")
    kind = loss.get("kind") if isinstance(loss, Mapping) else None
    own: dict[str, Any] = {}
    if isinstance(kind, str) and not issubclass(LOSSES[kind], BuiltInLoss):
        assert isinstance(loss, Mapping)
        own["loss"] = LOSSES.make(loss)
    if settings.get("tasks"):
        own["tasks"] = [TASKS.make(task) for task in settings["tasks"]]
        own["monitor"] = settings.get("monitor", MONITOR)  # may be a metric of theirs
    trainer = msgspec.convert({name: value for name, value in settings.items() if name not in own}, Trainer)
    return msgspec.structs.replace(trainer, **own) if own else trainer

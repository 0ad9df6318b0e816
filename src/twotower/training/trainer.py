"""`Trainer`: how to train, and the loop over epochs, from seed to restored best weights."""

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
from twotower.model.sharding import ranks_sharing, shard_tables
from twotower.model.two_tower import TwoTower
from twotower.ranks import ranks_of_process
from twotower.tasks.base import TASKS
from twotower.training.callbacks import Callback, watched
from twotower.training.checkpoint import Checkpoint
from twotower.training.continued import warn_of_new_ids
from twotower.training.exchange import begin_alike, require_same_training
from twotower.training.identity import identity_of
from twotower.training.moments import Moments
from twotower.training.run import Run
from twotower.training.settings import MONITOR, TrainerSettings


class Trainer(TrainerSettings, frozen=True, kw_only=True):
    """How to train: everything about it but the model and the data.

    One seed gives one result, bit for bit, on one machine and thread count. The random numbers of an epoch
    are derived from (seed, epoch), so that a training resumed from a checkpoint equals one that was not
    interrupted.

    Attributes:
        epochs: Passes over the training events.
        batch_size: Events in a step; the last batch of an epoch may be smaller.
        optimizer: `AdamW(…)` or `Adagrad(…)`.
        loss: `InBatchSoftmax(…)` or `FullSoftmax(…)`, or one of your own; see `twotower.model.losses.Loss`.
        tasks: What to train for: `Retrieval(…)`, `Rating(…)`, `Ranking(…)`, or one of your own. Several at once
            share the towers and their features, and the loss of a step is the sum of theirs by their weights. None
            given is retrieval by `loss`.
        schedule: `Constant(…)` or `Cosine(…)`, over the steps of all `epochs`; or one of your own.
        clip_norm: Scale a step's gradient down to this length where it is longer; None never does.
        validate_every: Epochs between validations; the last epoch is always validated.
        monitor: The metric that says which epoch is best: `all.`, `unseen.` or `new.` (`unseen` over the new choices
            alone, where some events repeat what their query has in train), then `mrr`, or `top_K` or `ndcg_K` with
            a K of `ks`; or a task's, such as `rating.rmse`. Without retrieval it is by default the first task's own.
        early_stopping: When to stop early, and then restore the best weights; None never does.
        ks: Lengths of lists in validation.
        seed: Seed of the initial weights, of the order of the events and of dropout.
        device: Where to train: `cpu`, `cuda`, or `cuda:1` and so on for one of several.
        precision: Of products of matrices in training: `float32`; `tf32`, in which CUDA devices that can multiply
            float32 matrices with 10 bits after the leading one (elsewhere it is float32); `bf16`, in which the towers
            multiply in bfloat16. Parameters, the softmax of `bf16` and validation are in float32 always.
        sharding: Which embedding tables several ranks share out, so that each holds a part of the rows: `auto` those
            from 2²⁸ numbers on (1 GiB), `always` all, `never` none. In one process it does nothing.

    Raises:
        ConfigError: A setting is of the wrong type or out of range, the monitored metric is not among those measured,
            or there is no such device.

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

        A model that has not learned from data yet learns its vocabularies from `train` and gets its initial
        weights from the seed; one that has goes on from where it is. Its vocabularies grow by `TwoTower.grow`, called
        before; without, a `NewIdsWarning` says how many ids of which column are new to it, which share the embedding of
        unknown ids.

        In a process group of PyTorch's, as `torchrun` makes one, all its ranks call `fit` with the same arguments and
        train one model together: each works on a part of every batch, all end with the same weights, and the result is
        that of one process but for rounding. Callbacks are called, and checkpoints written, by the first rank alone.
        Where they share out tables (`sharding`), the model stays so: all ranks call `save_model`, or `gather_tables`.

        Args:
            model: The model; left in evaluation mode, with the best weights where stopped early.
            train: The events to learn from, in memory or streamed.
            validation: The events to measure on; needed for early stopping. With a streamed log, what its `part`
                gives.
            callbacks: What watches.
            checkpoint: A folder for the training's state: where it exists, training goes on from there. It
                is left behind for the caller to delete once the result is safe.
            stop_after: Train only this many of the epochs; the schedule is still that of all of them.
            progress: Whether to show how far it is: a live line on a terminal or in a notebook, a plain line every
                few seconds elsewhere. None shows it where a person watches, unless a callback does.
            moments: What the optimiser knows of the weights: the training begins with it and leaves in it what it ends
                with. None: a new optimiser, of which nothing is kept.

        Raises:
            ConfigError: An argument of the wrong type, early stopping without a validation part, a
                streamed log with features, a loss or a batch that it does not allow; ranks that differ in settings,
                data or versions, or a batch norm among several ranks; moments of another optimizer or model.
            DataError: Every event has weight 0, the loss cannot use its column of probabilities, a streamed log cannot
                be read any more, or the validation part is of other data.
            TwoTowerError: The loss is not finite any more.
            SavedFolderError: The checkpoint is of another training.
        """
        self._check_fit(train, validation, stop_after)
        ranks = ranks_of_process()
        if ranks.size > 1:
            require_same_training(ranks, identity_of(self, model, train, validation), self.sharding)
        with sharded_tables(ranks, self.sharded_from):
            self._prepare(model, train)
            if ranks.size > 1:
                begin_alike(ranks, model)
            shard_tables(model)
        run = Run.prepare(self, model, train, validation, last_epoch=stop_after or self.epochs, ranks=ranks)
        if moments is not None:
            if ranks_sharing(model).size > 1 and moments.optimizer is not None:
                raise ConfigError(
                    "a training that continues with moments cannot share table rows among ranks; expected "
                    'sharding="never", or no moments',
                    field="moments",
                )
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
        if moments is not None and ranks_sharing(model).size == 1:  # of shared tables each rank has only a part
            moments.take(model, run.state.optimizer, self.optimizer)
        return run.state.history

    def _check_fit(self, train: Log, validation: Dataset | None, stop_after: int | None) -> None:
        if train.weight is not None:
            refuse_no_weight(float(train.candidate_weights().sum()), train.weight)
        if stop_after is not None and not 1 <= stop_after <= self.epochs:
            raise ConfigError(f"stop_after={stop_after}; expected between 1 and the {self.epochs} epochs")
        if self.early_stopping is not None and validation is None:
            raise ConfigError("early stopping needs a validation part; give fit validation=…")

    def _prepare(self, model: TwoTower, train: Log) -> None:
        """Moves the model to the device, with heads for the tasks; one that has learned nothing learns from data."""
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
    """Makes a trainer from plain data, as configs have it; its loss and its tasks may be ones that a user registered.

    Raises:
        ConfigError: A kind of loss or task is unknown, or a setting of a task or of a user's loss is wrong.
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
        own["monitor"] = settings.get("monitor", MONITOR)  # which may be one of theirs
    trainer = msgspec.convert({name: value for name, value in settings.items() if name not in own}, Trainer)
    return msgspec.structs.replace(trainer, **own) if own else trainer

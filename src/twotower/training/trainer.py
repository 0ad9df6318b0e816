"""`Trainer`: the training loop, from seed to restored best weights."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from twotower.data.dataset import Dataset
from twotower.errors import ConfigError, TwoTowerError
from twotower.evaluation.metrics import DEFAULT_KS, Scores, check_ks
from twotower.evaluation.validation import Validation
from twotower.model.encoding import EncodedSide
from twotower.model.losses import Batch, BoundLoss, InBatchSoftmax, Loss
from twotower.model.two_tower import TwoTower
from twotower.training.averaging import Average
from twotower.training.callbacks import Callback, TrainingState
from twotower.training.checkpoint import Checkpoint, Weights, identity_of
from twotower.training.history import Epoch, TrainingHistory
from twotower.training.optimizers import AdamW, Constant, LearningRateSchedule, Optimizer


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

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "validate_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)}; expected at least 1")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ConfigError(f"clip_norm={self.clip_norm}; expected a number above 0, or none given")
        if self.average is not None and not 0 < self.average < 1:
            raise ConfigError(f"average={self.average}; expected a share between 0 and 1, or none given")
        check_ks(self.ks)

    def fit(
        self,
        model: TwoTower,
        train: Dataset,
        validation: Dataset | None = None,
        *,
        callbacks: Sequence[Callback] = (),
        checkpoint: Path | None = None,
        stop_after: int | None = None,
    ) -> TrainingHistory:
        """Trains a model in place.

        A model that has not learned from data yet learns its vocabularies from `train` and gets its initial
        weights from the seed; one that has goes on from where it is.

        Args:
            model: The model; left in evaluation mode, with the best weights where stopped early.
            train: The events to learn from.
            validation: The events to measure on; needed for early stopping.
            callbacks: What watches.
            checkpoint: A folder for the training's state: where it exists, training goes on from there. It
                is left behind for the caller to delete once the result is safe.
            stop_after: Train only this many of the epochs; the schedule is still that of all of them.

        Raises:
            ConfigError: Early stopping without a validation part, or a monitored metric that is not measured.
            TwoTowerError: The loss is not finite any more.
            SavedFolderError: The checkpoint is of another training.
        """
        if self.early_stopping is not None and validation is None:
            raise ConfigError("early stopping needs a validation part; give fit validation=…")
        model.to(self.device)
        if not model.is_fitted:
            model.learn(train, self.seed)
            model.to(self.device)
        run = _Run.prepare(self, model, train, validation)
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
        for number in range(len(run.state.history.epochs) + 1, (stop_after or self.epochs) + 1):
            if run.state.stop:
                break
            epoch = run.epoch(number, callbacks)
            run.state.history.epochs.append(epoch)
            run.keep_best()
            if saved is not None:
                averaged = {} if run.average is None else run.average.weights
                saved.save(model, run.state.optimizer, run.state.history, run.best, averaged)
            with run.averaged():
                for callback in callbacks:
                    callback.on_epoch(run.state, epoch)
        run.finish()
        return run.state.history


@dataclass
class _Run:
    """One training under way: the encoded data, the bound loss and where it is."""

    settings: Trainer
    state: TrainingState
    loss: BoundLoss
    queries: EncodedSide
    candidates: EncodedSide
    query_rows: Tensor
    candidate_rows: Tensor
    weights: Tensor | None
    validation: Validation | None
    best: Weights
    average: Average | None

    @classmethod
    def prepare(cls, settings: Trainer, model: TwoTower, train: Dataset, validation: Dataset | None) -> _Run:
        device = model.device
        state = TrainingState(
            model,
            settings.optimizer.build(model),
            TrainingHistory(monitor=settings.monitor),
            settings.epochs,
            -(-len(train) // settings.batch_size),
        )
        return cls(
            settings=settings,
            state=state,
            loss=settings.loss.bind(train),
            queries=model.encode_queries(train).to(device),
            candidates=model.encode_candidates(train.candidates).to(device),
            query_rows=torch.from_numpy(train.query_index).to(device),
            candidate_rows=torch.from_numpy(train.candidate_index).to(device),
            weights=None if train.weight is None else torch.from_numpy(train.weights).to(device),
            validation=None if validation is None else Validation(model, validation, train, settings.ks),
            best={},
            average=None if settings.average is None else Average(model, settings.average),
        )

    def epoch(self, number: int, callbacks: Sequence[Callback]) -> Epoch:
        """Trains one epoch and validates it where it is due."""
        settings, state = self.settings, self.state
        with _randomness_of(settings.seed, number, state.model.device):
            started = time.perf_counter()
            state.model.train()
            self.loss.start_epoch()
            order = torch.randperm(len(self.candidate_rows)).to(state.model.device)
            total, weight = torch.zeros(2, dtype=torch.float64, device=order.device)
            for step, rows in enumerate(torch.split(order, settings.batch_size)):
                progress = (number - 1 + step / state.steps_per_epoch) / settings.epochs
                factor = settings.schedule.factor(progress)
                self._scale_rates(factor)
                loss, counted = self._step(rows)
                if self.average is not None:
                    self.average.update((number - 1) * state.steps_per_epoch + step)
                total += loss
                weight += counted
                state.step = step + 1
                for callback in callbacks:
                    callback.on_step(state)
            mean = (total / weight).item()
            state.model.eval()
        seconds = time.perf_counter() - started
        if not np.isfinite(mean):
            raise TwoTowerError(
                f"the loss of epoch {number} is {mean}: training has diverged; "
                f"a lower learning rate than {settings.optimizer.learning_rate} or clip_norm=1 may help"
            )
        with self.averaged():
            return self._validated(Epoch(number, mean, settings.optimizer.learning_rate * factor, seconds))

    def keep_best(self) -> None:
        """Keeps the weights if they are the best so far, and asks to stop when patience is at its end."""
        epoch = self.state.history.epochs[-1]
        if self.settings.early_stopping is None or epoch.validation is None:
            return
        if self.state.history.best is epoch:
            with self.averaged():
                self.best = {name: tensor.clone() for name, tensor in self.state.model.state_dict().items()}
        self.state.stop |= self.out_of_patience()

    def out_of_patience(self) -> bool:
        """Whether the latest validations brought no improvement for as long as is allowed."""
        stopping = self.settings.early_stopping
        if stopping is None:
            return False
        best, waited = -np.inf, 0
        for _, scores in self.state.history.validated:
            value = scores.value(self.settings.monitor)
            waited = 0 if value > best + stopping.min_delta else waited + 1
            best = max(best, value)
        return waited >= stopping.patience

    def finish(self) -> None:
        """Gives the best weights back where training stopped early or could have, else the averaged ones."""
        self.state.model.eval()
        if self.average is not None:
            self.average.give()
        if self.best:
            self.state.model.load_state_dict(self.best)
            self.state.history.restored = self.state.history.best.epoch

    def averaged(self) -> AbstractContextManager[None]:
        """Inside the block the model has its averaged weights, where there are such."""
        return nullcontext() if self.average is None else self.average.in_place()

    def _step(self, rows: Tensor) -> tuple[Tensor, Tensor | int]:
        """Trains on the events at `rows`; gives the sum of their losses and of their weights."""
        model, optimizer = self.state.model, self.state.optimizer
        weights = None if self.weights is None else self.weights[rows]
        batch = Batch(self.query_rows[rows], self.candidate_rows[rows], weights)
        loss = self.loss(
            model.query_vectors(self.queries.gather(rows)),
            batch,
            lambda wanted: model.candidate_vectors(self.candidates.gather(wanted)),
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.settings.clip_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), self.settings.clip_norm)
        optimizer.step()
        model.clamp_temperature()
        counted = len(rows) if weights is None else weights.sum()
        return loss.detach() * (counted if self.settings.loss.reduction == "mean" else 1), counted

    def _validated(self, epoch: Epoch) -> Epoch:
        settings = self.settings
        due = epoch.epoch % settings.validate_every == 0 or epoch.epoch == settings.epochs
        if self.validation is None or not due:
            return epoch
        started = time.perf_counter()
        scores: Scores = self.validation.measure(self.state.model)
        scores.value(settings.monitor)  # refuses a metric that is not measured at the first validation
        return msgspec.structs.replace(epoch, validation=scores, validation_seconds=time.perf_counter() - started)

    def _scale_rates(self, factor: float) -> None:
        for group in self.state.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor


@contextmanager
def _randomness_of(seed: int, epoch: int, device: torch.device) -> Iterator[None]:
    """Random numbers derived from (seed, epoch) inside the block; the caller's are left as they were."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0] >> 1))
        yield

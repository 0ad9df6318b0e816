"""`Run`: a training in progress, epoch by epoch and step by step."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import msgspec
import numpy as np
import torch
from torch import Tensor

from twotower.data.dataset import Dataset
from twotower.data.log import Log
from twotower.errors import TwoTowerError
from twotower.evaluation.history import Epoch, TrainingHistory
from twotower.evaluation.metrics import Scores
from twotower.evaluation.validation import Validation
from twotower.interruption import Interruption
from twotower.model.two_tower import TwoTower
from twotower.ranks import ALONE, Ranks, joined
from twotower.tasks.validation import TaskValidation
from twotower.threads import Pace, adapted_threads
from twotower.training.accuracy import StreamedAccuracy
from twotower.training.batches import Part, Read, Source, source_of
from twotower.training.callbacks import Callback, TrainingState
from twotower.training.checkpoint import Checkpoint, Weights
from twotower.training.clipping import clip_gradient
from twotower.training.exchange import backward, log_exchange, require_same_draws
from twotower.training.groups import look_ups
from twotower.training.lazy import catch_up, lazy_look_ups
from twotower.training.objective import Objective, StepLoss, objective_of
from twotower.training.precision import products_in
from twotower.training.settings import TrainerSettings


@dataclass
class Run:
    """A training in progress: the encoded data, the bound loss and the current state."""

    settings: TrainerSettings
    state: TrainingState
    objective: Objective
    source: Source
    validation: Validation | TaskValidation | None
    best: Weights
    ranks: Ranks = ALONE

    @classmethod
    def prepare(
        cls,
        settings: TrainerSettings,
        model: TwoTower,
        train: Log,
        validation: Dataset | None,
        last_epoch: int,
        ranks: Ranks = ALONE,
    ) -> Run:
        """Encodes the data, binds the loss and builds the optimiser for a fitted model."""
        device = model.device
        embedded = settings.loss.embedded(settings.batch_size, train.candidates.num_rows)
        candidates = model.encode_candidates(train.candidates).to(device)
        state = TrainingState(
            model,
            settings,
            settings.optimizer.build(model, look_ups(model, settings.batch_size, embedded)),
            TrainingHistory(monitor=settings.monitor),
            last_epoch,
            -(-len(train) // settings.batch_size),
            ranks=ranks,
        )
        if ranks.size > 1:
            log_exchange(ranks, model, state.optimizer, settings.batch_size)
        return cls(
            settings=settings,
            state=state,
            objective=objective_of(settings, model, train, candidates),
            source=source_of(model, train, settings.batch_size, settings.seed, Read.by(settings.tasks, train), ranks),
            validation=None if validation is None else _validation(model, validation, train, settings),
            best={},
            ranks=ranks,
        )

    def resume(self, saved: Checkpoint) -> None:
        """Resumes from a checkpoint, if there is one.

        Raises:
            SavedFolderError: It is from another training run, or cannot be read.
        """
        resumed = saved.resume(self.state.model, self.state.optimizer, self.ranks)
        if resumed is None:
            return
        self.state.history, self.best = resumed
        self.state.stop = self.out_of_patience()

    def train(self, callbacks: Sequence[Callback], saved: Checkpoint | None) -> None:
        """Trains the remaining epochs and gives the model its final weights."""
        state = self.state
        for callback in callbacks:
            callback.on_start(state)
        with Interruption() as interruption, adapted_threads() as pace:
            while len(state.history.epochs) < state.epochs and not state.stop:
                epoch = self.epoch(len(state.history.epochs) + 1, callbacks, interruption, pace)
                state.history.epochs.append(epoch)
                self.keep_best()
                if saved is not None:
                    saved.save(state.model, state.optimizer, state.history, self.best, self.ranks)
                for callback in callbacks:
                    callback.on_epoch(state, epoch)
                state.stop = self.ranks.from_first(lambda: state.stop, bool)
            interruption.raise_if_asked()
        self.finish()
        for callback in callbacks:
            callback.on_end(state)

    def epoch(self, number: int, callbacks: Sequence[Callback], interruption: Interruption, pace: Pace) -> Epoch:
        """Trains one epoch, and validates if it is due."""
        settings, state = self.settings, self.state
        with (
            _randomness_of(settings.seed, number, state.model.device),
            lazy_look_ups(state.optimizer),
            products_in(settings.precision),
        ):
            started = time.perf_counter()
            state.model.train()
            totals, weights = torch.zeros(
                2, max(1, len(self.objective.names)), dtype=torch.float64, device=state.model.device
            )
            accuracy = StreamedAccuracy(settings.ks, state.model.device)
            with self.source.epoch(number) as parts:
                batches = ((part, rows) for part, order in parts for rows in torch.split(order, settings.batch_size))
                for step, (part, rows) in enumerate(batches):
                    progress = (number - 1 + step / state.steps_per_epoch) / settings.epochs
                    factor = settings.schedule.factor(progress)
                    self._scale_rates(factor)
                    with pace.step(len(rows)):
                        loss = self._step(part, rows, accuracy)
                    for task, (total, weight) in enumerate(zip(loss.totals, loss.weights, strict=True)):
                        totals[task] += total
                        weights[task] += weight
                    state.step = step + 1
                    for callback in callbacks:
                        callback.on_step(state)
                    interruption.raise_if_asked()
            means = totals / weights
            mean = self.objective.mean(means).item()
            catch_up(state.optimizer)
            state.model.eval()
            self._sync_ranks(accuracy)
        seconds = time.perf_counter() - started
        if not np.isfinite(mean):
            raise TwoTowerError(
                f"the loss of epoch {number} is {mean}: training has diverged; "
                f"a lower learning rate than {settings.optimizer.learning_rate} or clip_norm=1 may help"
            )
        rate = settings.optimizer.learning_rate * factor
        losses = dict(zip(self.objective.names, means.tolist(), strict=False))
        waited, streamed = self.source.waited, accuracy.means()
        epoch = Epoch(number, mean, rate, seconds, waiting_seconds=waited, accuracy=streamed, losses=losses)
        validated = self._validated(epoch)
        return self.ranks.from_first(lambda: validated, Epoch)

    def keep_best(self) -> None:
        """Keeps the weights if they are the best so far, and requests a stop when patience runs out."""
        epoch = self.state.history.epochs[-1]
        if self.settings.early_stopping is None or epoch.validation is None:
            return
        if self.state.history.best is epoch:
            self.best = {name: tensor.clone() for name, tensor in self.state.model.state_dict().items()}
        self.state.stop |= self.out_of_patience()

    def out_of_patience(self) -> bool:
        """Whether the last `patience` validations brought no improvement."""
        stopping = self.settings.early_stopping
        if stopping is None:
            return False
        best, waited = -np.inf, 0
        for _, scores in self.state.history.validated:
            value = scores.merit(self.settings.monitor)
            waited = 0 if value > best + stopping.min_delta else waited + 1
            best = max(best, value)
        return waited >= stopping.patience

    def finish(self) -> None:
        """Restores the best weights if early stopping is on."""
        self.state.model.eval()
        if self.best:
            self.state.model.load_state_dict(self.best)
            self.state.history.restored = self.state.history.best.epoch

    def _step(self, part: Part, rows: Tensor, accuracy: StreamedAccuracy) -> StepLoss:
        """Trains on the events at `rows` of a part."""
        model, optimizer = self.state.model, self.state.optimizer
        ranks = accuracy.ranks_of_batch(len(rows))
        with joined(self.ranks):
            loss = self.objective(part, rows, ranks)
            if loss.value is None:
                return loss
            optimizer.zero_grad(set_to_none=True)
            backward(loss.value, model.parameters(), self.ranks)
        if self.settings.clip_norm is not None:
            clip_gradient(model.parameters(), self.settings.clip_norm, self.ranks)
        optimizer.step()
        model.clamp_temperature()
        own = self.ranks.counted(len(rows))
        accuracy.add(ranks[own], None if part.weights is None else part.weights.index_select(0, rows[own]))
        return loss

    def _validated(self, epoch: Epoch) -> Epoch:
        settings = self.settings
        due = epoch.epoch % settings.validate_every == 0 or epoch.epoch == settings.epochs
        if self.validation is None or not due:
            return epoch
        started = time.perf_counter()
        with joined(self.ranks):
            scores: Scores = self.validation.measure(self.state.model)
        return msgspec.structs.replace(epoch, validation=scores, validation_seconds=time.perf_counter() - started)

    def _sync_ranks(self, accuracy: StreamedAccuracy) -> None:
        """Checks that all ranks have drawn the same random numbers, and sums their accuracy counts."""
        if self.ranks.size > 1:
            require_same_draws(self.ranks, self.state.model.device)
            accuracy.add_up(self.ranks)

    def _scale_rates(self, factor: float) -> None:
        for group in self.state.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor


def _validation(model: TwoTower, events: Dataset, train: Log, settings: TrainerSettings) -> Validation | TaskValidation:
    if settings.tasks:
        return TaskValidation(model, settings.tasks, events, train, settings.ks)
    return Validation(model, events, train.events_of(events), settings.ks)


@contextmanager
def _randomness_of(seed: int, epoch: int, device: torch.device) -> Iterator[None]:
    """Seeds the random numbers in the block with (seed, epoch), and restores the caller's state afterwards."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0] >> 1))
        yield

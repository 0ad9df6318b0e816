"""Runs: search for the best epoch, train and measure a model, measure a baseline. Outcomes are kept in the store."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from twotower.data import Dataset, Log
from twotower.errors import TwoTowerError
from twotower.evaluation import Measurement, ModelScorer, evaluate_rerank, measure
from twotower.evaluation.beside import measure_baseline
from twotower.evaluation.history import Epoch, TrainingHistory
from twotower.evaluation.metrics import DEFAULT_KS, Scores
from twotower.experiments.orders import (
    HISTORY,
    MODEL,
    MOMENTS,
    RANKS,
    AnyRun,
    BaselineRun,
    ModelRun,
    Order,
    SearchRun,
    is_done,
    key_of,
)
from twotower.experiments.pool import Reporter, StoppedError
from twotower.experiments.results import BaselineOutcome, ChoiceOutcome, CurvePoint, ModelOutcome, Seconds
from twotower.experiments.start import Start, compare_with_start, continued_parts, new_events, recipe_of, warm_model
from twotower.experiments.store import Store
from twotower.files import write_file
from twotower.model.saving import load_model, model_version, save_model
from twotower.model.sharding import ranks_sharing
from twotower.model.two_tower import TwoTower
from twotower.progress import no_report
from twotower.ranks import ALONE, current_ranks, joined
from twotower.recipes.config import Config
from twotower.recipes.imports import import_modules
from twotower.recipes.loggers import loggers_for
from twotower.recipes.parts import Parts
from twotower.recipes.recipe import Choice, Recipe
from twotower.training.callbacks import Callback, Progress, TrainingState
from twotower.training.moments import Moments


class Runner:
    """Performs runs and caches the data between them."""

    def __init__(self) -> None:
        self._parts: tuple[bytes, Parts] | None = None

    def __call__(self, spec: msgspec.Raw, reporter: Reporter) -> None:
        """Performs the run of an `Order`, unless the store has its outcome.

        Raises:
            TwoTowerError: Training diverged, or the data cannot be used.
        """
        import_modules(msgspec.json.decode(spec)["run"]["config"]["imports"])  # first: the rest may use their kinds
        order = msgspec.json.decode(spec, type=Order)
        reporter("reading the data")
        perform(order, self._cut(order.run), reporter)

    def _cut(self, run: AnyRun) -> Parts:
        identity = msgspec.json.encode([run.config.data, run.config.split, run.start])
        if self._parts is None or self._parts[0] != identity:
            self._parts = identity, parts_of(run.config, run.start)
        return self._parts[1]


def parts_of(config: Config, start: Start | None) -> Parts:
    """The parts of a config's data, adapted to the bundle that training continues from.

    Raises:
        ConfigError: As `Config.parts`; or a test event is earlier than the last one the bundle learned from.
        DataError: The data cannot be used.
    """
    if start is None:
        return config.parts()
    parts = config.parts(new_events(config.data.log(), start) if start.only_new else None)
    return continued_parts(parts, start, config)


def perform(order: Order, parts: Parts, progress: Progress) -> None:
    """Performs a run on the given parts and stores its outcome.

    Raises:
        TwoTowerError: Training diverged, or a loss or feature does not fit the data.
    """
    store, run = Store(Path(order.store)), order.run
    key = key_of(run, order.data)
    if is_done(run, store, key):
        return
    store.begin(key, order)
    match run:
        case SearchRun():
            search_epochs(run, order, parts, progress)
        case ModelRun():
            _train_and_measure(run, order, key, parts, progress)
        case BaselineRun():
            _measure_baseline(run, key, store, parts, progress)


def search_epochs(run: SearchRun, order: Order, parts: Parts, progress: Progress) -> TrainingHistory:
    """Searches for the best epoch, or returns the history from the store if the search was already done."""
    store, key = Store(Path(order.store)), key_of(run, order.data)
    if (known := store.outcome(key, TrainingHistory)) is not None:
        return known
    store.begin(key, msgspec.structs.replace(order, run=run))
    recipe = recipe_of(run.config, run.start, parts)
    fitted, validation = parts.for_recipe(recipe)
    model, moments = _start_model(run, recipe, fitted, parts)
    callbacks: list[Callback] = [progress, *loggers_for(run.config.loggers, progress.name)]
    if run.reports:
        assert isinstance(progress, Reporter)
        callbacks.append(_Reports(progress, run.deadline))
    checkpoint = store.checkpoint_of(key)
    history = recipe.trainer.fit(model, fitted, validation, callbacks=callbacks, checkpoint=checkpoint, moments=moments)
    store.keep(key, history)
    return history


def _start_model(run: SearchRun | ModelRun, recipe: Recipe, log: Log, parts: Parts) -> tuple[TwoTower, Moments | None]:
    """The initial model, and the optimiser state if it is carried over or will be saved."""
    if run.start is not None and not run.start.fresh:
        return warm_model(run.start, log, recipe.trainer.optimizer)
    keeps = isinstance(run, ModelRun) and run.keeps_moments
    return run.config.model.build(parts.train, recipe), Moments() if keeps else None


class _Reports(Callback):
    """Reports each validated epoch, and stops at the deadline."""

    def __init__(self, reporter: Reporter, deadline: float | None) -> None:
        self.reporter, self.deadline = reporter, deadline

    def on_step(self, state: TrainingState) -> None:
        del state
        if self.deadline is not None and time.time() > self.deadline:
            raise StoppedError("out of time")

    def on_epoch(self, state: TrainingState, epoch: Epoch) -> None:
        if epoch.validation is not None:
            self.reporter.report(epoch.epoch, epoch.validation.value(state.history.monitor))


@dataclass(frozen=True)
class Trained:
    """A finished model.

    Attributes:
        model: The model.
        history: History of the training whose curve is shown.
        best_epoch: The epoch with the best validation score.
        seconds: Total time of training and validation.
        choices: The models tried, if there were several.
        moments: The final optimiser state, if it was carried over or is to be saved.
    """

    model: TwoTower
    history: TrainingHistory
    best_epoch: int
    seconds: Seconds
    choices: list[ChoiceOutcome] = field(default_factory=list)
    moments: Moments | None = None


def train_by_recipe(run: ModelRun, order: Order, key: str, parts: Parts, progress: Progress) -> Trained:
    """Trains a model by its recipe.

    `tutorial` validates on test and keeps the last epoch, as the tutorial does. `tuned` finds the best epoch on a
    validation part cut from train, then trains a fresh model on all of train for that many epochs. If the validation
    part is given, it keeps the weights of the best epoch, or those of the last one without early stopping. If the
    recipe offers several models or schedules, they are searched first, and the one that validates best is trained.
    """
    recipe = recipe_of(run.config, run.start, parts)
    is_free = recipe.trainer.retrieves and (run.start is None or run.start.fresh)  # not so in a warm start
    choices = run.config.model.choices(recipe) if is_free else []
    lengths = run.config.lengths(recipe) if is_free else ()
    is_given = recipe.validate_on == "test" or parts.validation is not None
    if is_given and not choices and not lengths:
        return _train_once(run, recipe, order, key, parts, progress)
    tried, chosen = _searched(run, choices, lengths, order, parts, progress)
    recipe = recipe_of(chosen.config, run.start, parts)
    run = msgspec.structs.replace(run, config=chosen.config)
    progress.stage = "the best one" if is_given else "on all of train"
    train = _train_once if is_given else partial(_train_on_all, searched=chosen.history)
    trained = train(run, recipe, order, key, parts, progress)
    seconds = Seconds(
        trained.seconds.train + sum(one.history.train_seconds for one in tried),
        trained.seconds.validate + sum(one.history.validation_seconds for one in tried),
    )
    return replace(trained, seconds=seconds, choices=[one.outcome for one in tried] if len(tried) > 1 else [])


@dataclass(frozen=True)
class _Searched:
    """A model whose best epoch was searched.

    Attributes:
        choice: Its name, and its keys of `[model]`.
        training: Its keys of `[training]`.
        config: Its config.
        history: Its search.
    """

    choice: Choice
    training: dict[str, Any]
    config: Config
    history: TrainingHistory

    @property
    def outcome(self) -> ChoiceOutcome:
        """The outcome, to be kept."""
        return ChoiceOutcome(
            name=_name(self.choice, self.training),
            model=self.choice.model,
            training=self.training,
            metric=self.history.monitor,
            value=self.history.best_value,
            best_epoch=self.history.best.epoch,
            seconds=Seconds(self.history.train_seconds, self.history.validation_seconds),
        )


def _searched(
    run: ModelRun, choices: Sequence[Choice], lengths: Sequence[int], order: Order, parts: Parts, progress: Progress
) -> tuple[list[_Searched], _Searched]:
    """Every model that was searched, and the one that validates best.

    All choices are searched with the shortest schedule; the best one's is lengthened while that pays.
    """

    def search(choice: Choice, training: dict[str, Any]) -> _Searched:
        progress.stage = _name(choice, training)
        config = with_choice(run.config, choice.model, training)
        return _Searched(
            choice, training, config, search_epochs(SearchRun(config, start=run.start), order, parts, progress)
        )

    first = {"epochs": lengths[0]} if lengths else {}
    tried = [search(choice, first) for choice in choices or [Choice("", {})]]
    best = max(tried, key=lambda one: one.history.best_merit)
    for length in lengths[1:]:
        tried.append(search(best.choice, {"epochs": length}))
        if tried[-1].history.best_merit <= best.history.best_merit:
            break
        best = tried[-1]
    return tried, best


def _name(choice: Choice, training: Mapping[str, Any]) -> str:
    """Name of a model in reports: that of its choice, and the length of its schedule if that is searched."""
    return f"{choice.name or 'training'} with a schedule of {training['epochs']} epochs" if training else choice.name


def with_choice(config: Config, model: Mapping[str, Any], training: Mapping[str, Any]) -> Config:
    """The config with these keys of `[model]` and `[training]` replaced."""
    return msgspec.structs.replace(
        config, model=msgspec.structs.replace(config.model, **model), training={**config.training, **training}
    )


def _train_on_all(
    run: ModelRun,
    recipe: Recipe,
    order: Order,
    key: str,
    parts: Parts,
    progress: Progress,
    *,
    searched: TrainingHistory,
) -> Trained:
    """A fresh model, trained on all of train up to the best epoch of a search."""
    model, moments = _start_model(run, recipe, parts.train, parts)
    trainer, best = msgspec.structs.replace(recipe.trainer, early_stopping=None), searched.best.epoch
    checkpoint = Store(Path(order.store)).checkpoint_of(key)
    callbacks = [progress, *loggers_for(run.config.loggers, progress.name)]
    final = trainer.fit(
        model, parts.train, callbacks=callbacks, checkpoint=checkpoint, stop_after=best, moments=moments
    )
    return Trained(model, searched, best, Seconds(final.train_seconds, 0.0), moments=moments)


def _train_once(run: ModelRun, recipe: Recipe, order: Order, key: str, parts: Parts, progress: Progress) -> Trained:
    fitted, validation = parts.for_recipe(recipe)
    model, moments = _start_model(run, recipe, fitted, parts)
    checkpoint = Store(Path(order.store)).checkpoint_of(key)
    callbacks = [progress, *loggers_for(run.config.loggers, progress.name)]
    history = recipe.trainer.fit(model, fitted, validation, callbacks=callbacks, checkpoint=checkpoint, moments=moments)
    best = history.best.epoch if recipe.validate_on == "test" else history.restored or len(history.epochs)
    return Trained(model, history, best, Seconds(history.train_seconds, history.validation_seconds), moments=moments)


def _train_and_measure(run: ModelRun, order: Order, key: str, parts: Parts, progress: Progress) -> None:
    found = train_by_recipe(run, order, key, parts, progress)
    known = parts.known.events_of(parts.test)
    retrieves = run.config.resolved_recipe(parts.train, parts.validation).trainer.retrieves
    measured = measure(ModelScorer(found.model), parts.test, known) if retrieves else None
    folder, is_shared = Store(Path(order.store)).folder_of(key) / MODEL, ranks_sharing(found.model).size > 1
    if current_ranks().is_first or is_shared:
        save_model(found.model, folder)
        if run.keeps_moments and found.moments is not None and found.moments.optimizer is not None:
            found.moments.save(folder.with_name(MOMENTS), towers=model_version(found.model))
    if not current_ranks().is_first:
        return
    if is_shared:
        found = replace(found, model=load_model(folder))  # with the table rows of all ranks
    with joined(ALONE):  # the other ranks are done
        _measure_and_keep(found, measured, run, order, key, parts, known)


def _measure_and_keep(
    found: Trained, measured: Measurement | None, run: ModelRun, order: Order, key: str, parts: Parts, known: Dataset
) -> None:
    store, config, since = Store(Path(order.store)), run.config, None
    recipe = recipe_of(config, run.start, parts)
    tasks = [
        task.evaluate(found.model, parts.test, parts.train, baselines=config.baselines != "none")
        for task in recipe.trainer.tasks
        if task.head is not None
    ]
    scores = Scores({}, {}, tasks={one.task: one.model.metrics for one in tasks})
    if measured is not None:
        measured.outcomes.write(store.folder_of(key) / RANKS)
        scores = msgspec.structs.replace(measured.scores, tasks=scores.tasks)
        since = None if run.start is None else compare_with_start(run.start, measured, parts)
    stages = None if config.rerank is None else evaluate_rerank(found.model, parts.test, known, config.rerank)
    write_file(store.folder_of(key) / HISTORY, msgspec.json.encode(found.history))
    store.keep(
        key,
        ModelOutcome(
            recipe=recipe.name,
            parameters=found.model.parameter_count,
            epochs=len(found.history.epochs),
            best_epoch=found.best_epoch,
            curve=[CurvePoint(one.epoch, one.loss, s.all, s.unseen) for one, s in found.history.validated],
            losses=[epoch.loss for epoch in found.history.epochs],
            seconds=found.seconds,
            scores=scores,
            choices=found.choices,
            tasks=tasks,
            rerank=stages,
            warm_start=since,
        ),
    )


def _measure_baseline(run: BaselineRun, key: str, store: Store, parts: Parts, progress: Progress) -> None:
    train, test = (parts.known, parts.test) if run.part == "test" else parts.fitted_and_validation()
    report = progress if isinstance(progress, Reporter) else no_report
    started = time.perf_counter()
    try:
        measured = measure_baseline(run.name, test, train, DEFAULT_KS, run.budget, report=report)
    except TwoTowerError as error:
        store.keep(key, BaselineOutcome(scores=None, budget=run.budget, left_out=str(error)))
        return
    measured.outcomes.write(store.folder_of(key) / RANKS)
    store.keep(key, BaselineOutcome(scores=measured.scores, budget=run.budget, seconds=time.perf_counter() - started))

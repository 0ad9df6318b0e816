"""`train`: one run of a config, measured beside the baselines, as a bundle that is ready to recommend."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec
from rich.console import Console

from twotower.errors import ConfigError, DataError, DataWarning
from twotower.evaluation import DEFAULT_KS, BaselineBudget
from twotower.evaluation.baselines.names import NAMES
from twotower.evaluation.beside import left_out, measurable
from twotower.evaluation.evaluate import Evaluation, compared
from twotower.evaluation.measure import Measurement
from twotower.evaluation.metrics import verdict_metric
from twotower.experiments.desks import ListDesk, Waiting, waiting_for
from twotower.experiments.folder import TRAINING, working_in
from twotower.experiments.kept import copy_moments, history_of, model_of, order_of, outcome_of, ranks_of
from twotower.experiments.pool import run_jobs
from twotower.experiments.results import RESULTS, BaselineOutcome, read_results
from twotower.experiments.run import RUNS, BaselineRun, ModelRun, Runner, parts_of, perform, with_model
from twotower.experiments.start import Before, Start, start_from
from twotower.experiments.store import Store
from twotower.files import check_file_target, check_folder_target, remove_marked
from twotower.locks import partial_of
from twotower.processes import threads_each
from twotower.progress import Display
from twotower.ranks import Ranks, joined, ranks_of_process
from twotower.recipes.config import Config
from twotower.recipes.parts import Parts
from twotower.retrieval import Retriever
from twotower.retrieval.building import check_title
from twotower.retrieval.bundle import check_bundle_target, load_bundle
from twotower.retrieval.continued import moments_of, with_past
from twotower.retrieval.notes import Notes
from twotower.training.callbacks import ProgressBar
from twotower.training.moments import is_moments


@dataclass(frozen=True)
class TrainedBundle:
    """What `train` gave.

    Attributes:
        retriever: The bundle, as it was saved.
        evaluation: The model and the baselines on test.
    """

    retriever: Retriever
    evaluation: Evaluation


def train(
    config: Config,
    out: Path,
    *,
    console: Console | None = None,
    budget: BaselineBudget | None = None,
    before: Before | None = None,
) -> TrainedBundle:
    """Trains one model as a config says, measures it beside the baselines, and saves the bundle.

    Where the config does not say otherwise the model reads only what lies before an event, as there is nothing after
    it when it recommends. The baselines are measured beside the training, in a process of their own. What is finished
    is kept in `OUT.partial`: call it again to resume after an interruption.

    In a process group of PyTorch's the first rank calls it and all others `help_train`; the baselines are measured
    afterwards then.

    Beside the bundle, `OUT.moments.safetensors` keeps what the optimiser knows of the weights, for a warm start.

    Args:
        config: Data, split, recipe and model.
        out: The bundle's folder.
        console: Where progress is shown; None shows nothing.
        budget: What each baseline may cost.
        before: A bundle that training continues from, its vocabularies grown by the data: new events alone, or all
            events up to now. It may be `out`. None: training starts from scratch.

    Raises:
        ConfigError: The folder cannot be written, the config does not go with the data, or the data or `[model]` do
            not go with the bundle.
        DataError: The data cannot be used.
        TwoTowerError: Training diverged.
    """
    console = Console(quiet=True) if console is None else console
    ranks = ranks_of_process()
    if not ranks.is_first:
        raise ConfigError(f"rank {ranks.rank} writes no bundle; expected help_train on all ranks but the first")
    check_train_target(out)
    check_file_target(moments_of(out), is_moments, "moments")
    with working_in(partial_of(out), TRAINING, shown=out) as folder:
        config, parts, start, said = _prepared(config, before)
        if config.data.title is not None:
            check_title(parts.train.candidates, config.data.title)
        columns = config.model.columns(parts.train, config.resolved_recipe(parts.train, parts.validation))
        cut = f"{parts.train.name}: {len(parts.train):,} train, {len(parts.test):,} test; split {parts.rule}"
        _say(
            console,
            [
                f"{cut}, {parts.fingerprint}",
                *parts.remarks,
                *said,
                *(columns.lines() if start is None or start.fresh else []),
            ],
        )
        store, run = Store(folder / RUNS), ModelRun(config, start, keeps_moments=True)
        if ranks.size > 1:
            _train_on(ranks, run, parts, store, console)
        model, beside, notes = _run(run, parts, store, budget or BaselineBudget(), console)
        _say(console, outcome_of(store, model.key).choice_note)
        evaluation = _evaluation(model, beside, notes, store, parts)
        retriever = bundle_of(config, parts, store, model.key, evaluation, start)
        retriever.save(out)
        copy_moments(store, model.key, moments_of(out))
        remove_marked(folder, TRAINING.marker)
    return TrainedBundle(retriever, evaluation)


def help_train(config: Config, out: Path, before: Before | None = None) -> None:
    """What the ranks of a process group do while the first one calls `train` with the same arguments: train with it.

    Args:
        config: Data, split, recipe and model.
        out: The bundle's folder, of which only the first rank reads and writes.
        before: A bundle that training continues from, which all read.

    Raises:
        TwoTowerError: As `train`; errors of the first rank are raised on all.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)  # the first rank says it
        config, parts, start, _ = _prepared(config, before)
        run = ModelRun(config, start, keeps_moments=True)
        _train_on(ranks_of_process(), run, parts, Store(partial_of(out) / RUNS), Console(quiet=True))


def _prepared(config: Config, before: Before | None) -> tuple[Config, Parts, Start | None, list[str]]:
    """The config as it is trained, its parts, what training continues from, and what is to say of that."""
    start, said = None, list[str]()
    if before is not None:
        start, said = start_from(before, for_serving(config))
    parts = parts_of(config, start)
    return for_serving(msgspec.structs.replace(config, split=parts.split)), parts, start, said


def check_train_target(out: Path) -> None:
    """Refuses a folder that a bundle cannot be written to, or beside which training cannot keep what is unfinished.

    Raises:
        ConfigError: It, or `OUT.partial`, holds something else, or cannot be written.
    """
    check_bundle_target(out)
    check_folder_target(partial_of(out), TRAINING)


def for_serving(config: Config) -> Config:
    """The config of a model that reads only what lies before an event, unless it says otherwise."""
    model = msgspec.structs.replace(config.model, reach=config.model.reach or "before")
    return msgspec.structs.replace(config, model=model)


def bundle_of(
    config: Config, parts: Parts, store: Store, key: str, evaluation: Evaluation, start: Start | None = None
) -> Retriever:
    """The bundle of a finished run, with what it says of itself.

    Args:
        config: What was trained.
        parts: What it was trained on.
        store: Where the run is kept.
        key: Its name there.
        evaluation: The model and the baselines on test.
        start: What its training went on from.
    """
    train, outcome = parts.train, outcome_of(store, key)
    if outcome.chosen is not None:
        config = with_model(config, outcome.chosen.model)
    notes = Notes(
        config=msgspec.to_builtins(config),
        split=parts.rule,
        fingerprint=parts.fingerprint,
        remarks=[*parts.remarks, *outcome.choice_note],
        columns=config.model.columns(train, config.resolved_recipe(train, parts.validation)),
        evaluation=evaluation,
        best_epoch=outcome.best_epoch,
        history=history_of(store, key),
        started_from=None if start is None or start.fresh else start.version,
    )
    model = model_of(store, key)
    retriever = Retriever.build(
        model, train.candidates, seen=train.read(), notes=notes, title=config.data.title, rerank=config.rerank
    )
    if start is None or parts.past is None:
        return retriever
    return Retriever(with_past(retriever.bundle, load_bundle(Path(start.bundle))))


def bundle_of_run(folder: Path, name: str) -> Retriever:
    """The bundle of one run of a study; its data are read again.

    Args:
        folder: What `twotower study` wrote.
        name: The run's key, as the report names it, or its variant where that was trained once.

    Raises:
        ConfigError: There is no such run, or several.
        DataError: The data are no longer those that it was trained on.
        SavedFolderError: The folder holds no study's results.
    """
    study = read_results(folder / RESULTS)
    found = [run for run in study.runs if name in (run.key, study.variants[run.variant].name)]
    if len(found) != 1:
        known = found or study.runs
        runs = ", ".join(f"{run.key} ({study.variants[run.variant].name}, seed {run.seed})" for run in known)
        raise ConfigError(f"{folder} has {len(found)} runs {name!r}; expected one of {runs}")
    (run,) = found
    store = Store(folder / RUNS)
    order = order_of(store, run.key)
    parts = order.run.config.parts()
    if parts.identity != order.data:
        raise DataError(f"the data of {folder} have changed since it was run; run the study again")
    measured = {"model": Measurement(run.outcome.scores, ranks_of(store, run.key))}
    for one in study.baselines:
        if one.cut == run.cut and one.part == "test" and one.outcome.scores is not None:
            measured[one.name] = Measurement(one.outcome.scores, ranks_of(store, one.key))
    evaluation = compared(measured, (), verdict_metric(DEFAULT_KS, parts.test.candidates.num_rows))
    evaluation = msgspec.structs.replace(evaluation, tasks=run.outcome.tasks, rerank=run.outcome.rerank)
    return bundle_of(order.run.config, parts, store, run.key, evaluation)


def _train_on(ranks: Ranks, run: ModelRun, parts: Parts, store: Store, console: Console) -> None:
    """Trains the model together with the other ranks, in this process."""
    _say(console, [f"{ranks.size} ranks train together: each works on its part of every batch"])
    wanted = waiting_for("model", run, store, parts.identity)
    with joined(ranks), ProgressBar(console) as progress:
        perform(wanted.order, parts, progress)


def _run(
    run: ModelRun, parts: Parts, store: Store, budget: BaselineBudget, console: Console
) -> tuple[Waiting, dict[str, Waiting], list[str]]:
    """Trains the model, and measures the baselines beside it."""
    data, config = parts.identity, run.config
    model = waiting_for("model", run, store, data)
    retrieves = config.resolved_recipe(parts.train, parts.validation).trainer.retrieves
    names, notes = measurable(config.baselines if retrieves else "none", parts.test, parts.known)
    beside = {
        name: waiting_for(NAMES[name], BaselineRun(config, name, "test", budget, run.start), store, data)
        for name in names
    }
    workers = 2 if beside else 1
    with Display(console) as display:
        run_jobs(Runner, ListDesk([model, *beside.values()], store), workers, display, threads_each(workers))
    return model, beside, notes


def _evaluation(model: Waiting, beside: dict[str, Waiting], notes: list[str], store: Store, parts: Parts) -> Evaluation:
    outcome = outcome_of(store, model.key)
    if not outcome.scores.all:
        return Evaluation({}, notes, "", tasks=outcome.tasks)
    measured = {"model": Measurement(outcome.scores, ranks_of(store, model.key))}
    for name, waiting in beside.items():
        found = store.outcome(waiting.key, BaselineOutcome)
        assert found is not None
        if found.scores is None:
            notes.append(left_out(name, found.left_out))
        else:
            measured[name] = Measurement(found.scores, ranks_of(store, waiting.key))
    ranks = compared(measured, notes, verdict_metric(DEFAULT_KS, parts.test.candidates.num_rows))
    return msgspec.structs.replace(ranks, tasks=outcome.tasks, rerank=outcome.rerank, warm_start=outcome.warm_start)


def _say(console: Console, lines: Iterable[str]) -> None:
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

"""`train`: trains a config, measures it and the baselines, and saves a bundle that is ready to recommend."""

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
from twotower.experiments.orders import RUNS, BaselineRun, ModelRun
from twotower.experiments.pool import run_jobs
from twotower.experiments.results import RESULTS, BaselineOutcome, read_results
from twotower.experiments.run import Runner, parts_of, perform, with_choice
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
    """The result of `train`.

    Attributes:
        retriever: The saved bundle.
        evaluation: Scores of the model and the baselines on test.
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
    """Trains one model from a config, measures it and the baselines, and saves the bundle.

    Unless the config says otherwise, the model reads only what precedes an event, as nothing follows it when the model
    serves. The baselines are measured during training, in a separate process. Finished steps are kept in
    `OUT.partial`: call this again to resume after an interruption.

    In a PyTorch process group, the first rank calls `train` and all others `help_train`; the baselines are then
    measured after training.

    The optimiser state is saved beside the bundle as `OUT.moments.safetensors`, for a warm start.

    Args:
        config: Data, split, recipe and model.
        out: The bundle's folder.
        console: Where progress is shown; None shows nothing.
        budget: What each baseline may cost.
        before: A bundle that training continues from, which may be `out`. Its vocabularies grow with the data, which
            may be new events only or all events up to now. None trains from scratch.

    Raises:
        ConfigError: The folder cannot be written, the config does not fit the data, or the data or `[model]` do not
            fit the bundle.
        DataError: The data cannot be used.
        TwoTowerError: Training diverged.
    """
    console = Console(quiet=True) if console is None else console
    ranks = ranks_of_process()
    if not ranks.is_first:
        raise ConfigError(f"rank {ranks.rank} cannot call train; expected help_train on all ranks but the first")
    check_train_target(out)
    check_file_target(moments_of(out), is_moments, "moments")
    with working_in(partial_of(out), TRAINING, shown=out) as folder:
        config, parts, start, said = _prepared(config, before)
        if config.data.title is not None:
            check_title(parts.train.candidates, config.data.title)
        inputs = config.model.input_lines(parts.train, config.resolved_recipe(parts.train, parts.validation))
        cut = f"{parts.train.name}: {len(parts.train):,} train, {len(parts.test):,} test; split {parts.rule}"
        _say(
            console,
            [
                f"{cut}, {parts.fingerprint}",
                *parts.remarks,
                *said,
                *(inputs if start is None or start.fresh else []),
            ],
        )
        store, run = Store(folder / RUNS), ModelRun(config, start, keeps_moments=True)
        if ranks.size > 1:
            _train_on(ranks, run, parts, store, console)
        model, baselines, notes = _run(run, parts, store, budget or BaselineBudget(), console)
        _say(console, outcome_of(store, model.key).choice_note)
        evaluation = _evaluation(model, baselines, notes, store, parts)
        retriever = bundle_of(config, parts, store, model.key, evaluation, start)
        retriever.save(out)
        copy_moments(store, model.key, moments_of(out))
        remove_marked(folder, TRAINING.marker)
    return TrainedBundle(retriever, evaluation)


def help_train(config: Config, out: Path, before: Before | None = None) -> None:
    """Trains along with the first rank, which calls `train` with the same arguments; for all other ranks.

    Args:
        config: Data, split, recipe and model.
        out: The bundle's folder, which only the first rank reads and writes.
        before: A bundle that training continues from; every rank reads it.

    Raises:
        TwoTowerError: As `train`; errors of the first rank are raised on all ranks.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)  # the first rank shows it
        config, parts, start, _ = _prepared(config, before)
        run = ModelRun(config, start, keeps_moments=True)
        _train_on(ranks_of_process(), run, parts, Store(partial_of(out) / RUNS), Console(quiet=True))


def _prepared(config: Config, before: Before | None) -> tuple[Config, Parts, Start | None, list[str]]:
    """The config to train, its parts, the start of the training, and lines about it for the user."""
    start, said = None, list[str]()
    if before is not None:
        start, said = start_from(before, for_serving(config))
        ranks_of_process().require_same(
            {"the version of the bundle": start.version, "whether the optimizer's state is beside it": start.moments},
            "expected the same bundle, with its moments, on all ranks",
        )
    parts = parts_of(config, start)
    return for_serving(msgspec.structs.replace(config, split=parts.split)), parts, start, said


def check_train_target(out: Path) -> None:
    """Refuses a folder that cannot hold a bundle, or whose `OUT.partial` cannot be used.

    Raises:
        ConfigError: The folder or `OUT.partial` holds something else, or cannot be written.
    """
    check_bundle_target(out)
    check_folder_target(partial_of(out), TRAINING)


def for_serving(config: Config) -> Config:
    """The config with `reach` set to `before`, unless it is set already."""
    model = msgspec.structs.replace(config.model, reach=config.model.reach or "before")
    return msgspec.structs.replace(config, model=model)


def bundle_of(
    config: Config, parts: Parts, store: Store, key: str, evaluation: Evaluation, start: Start | None = None
) -> Retriever:
    """The bundle of a finished run, with its notes.

    Args:
        config: The trained config.
        parts: The parts it was trained on.
        store: The store with the run.
        key: The run's key.
        evaluation: Scores of the model and the baselines on test.
        start: The bundle that training continued from.
    """
    train, outcome = parts.train, outcome_of(store, key)
    if outcome.chosen is not None:
        config = with_choice(config, outcome.chosen.model, outcome.chosen.training)
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
    """The bundle of one run of a study. This reads the data again.

    Args:
        folder: A folder written by `twotower study`.
        name: The run's key, as shown in the report, or its variant if that was trained once.

    Raises:
        ConfigError: There is no such run, or more than one.
        DataError: The data have changed since training.
        SavedFolderError: The folder holds no study's results.
    """
    study = read_results(folder / RESULTS)
    found = [run for run in study.runs if name in (run.key, study.variants[run.variant].name)]
    if len(found) != 1:
        known = found or study.runs
        runs = ", ".join(f"{run.key} ({study.variants[run.variant].name}, seed {run.seed})" for run in known)
        raise ConfigError(f"{folder} has {len(found)} runs {name!r}; expected {f'one of {runs}' if runs else 'some'}")
    (run,) = found
    store = Store(folder / RUNS)
    order = order_of(store, run.key)
    parts = order.run.config.parts()
    if parts.identity != order.data:
        raise DataError(f"the data of {folder} have changed since the study ran; rerun the study")
    measured = {"model": Measurement(run.outcome.scores, ranks_of(store, run.key))}
    for one in study.baselines:
        if one.cut == run.cut and one.part == "test" and one.outcome.scores is not None:
            measured[one.name] = Measurement(one.outcome.scores, ranks_of(store, one.key))
    evaluation = compared(measured, (), verdict_metric(DEFAULT_KS, parts.test.candidates.num_rows))
    evaluation = msgspec.structs.replace(evaluation, tasks=run.outcome.tasks, rerank=run.outcome.rerank)
    return bundle_of(order.run.config, parts, store, run.key, evaluation)


def _train_on(ranks: Ranks, run: ModelRun, parts: Parts, store: Store, console: Console) -> None:
    """Trains the model together with the other ranks, in this process."""
    _say(console, [f"{ranks.size} ranks train together, each on its part of every batch"])
    wanted = waiting_for("model", run, store, parts.identity)
    with joined(ranks), ProgressBar(console) as progress:
        perform(wanted.order, parts, progress)


def _run(
    run: ModelRun, parts: Parts, store: Store, budget: BaselineBudget, console: Console
) -> tuple[Waiting, dict[str, Waiting], list[str]]:
    """Trains the model and measures the baselines in parallel."""
    data, config = parts.identity, run.config
    model = waiting_for("model", run, store, data)
    retrieves = config.resolved_recipe(parts.train, parts.validation).trainer.retrieves
    names, notes = measurable(config.baselines if retrieves else "none", parts.test, parts.known)
    baselines = {
        name: waiting_for(NAMES[name], BaselineRun(config, name, "test", budget, run.start), store, data)
        for name in names
    }
    workers = 2 if baselines else 1
    with Display(console) as display:
        run_jobs(Runner, ListDesk([model, *baselines.values()], store), workers, display, threads_each(workers))
    return model, baselines, notes


def _evaluation(
    model: Waiting, baselines: dict[str, Waiting], notes: list[str], store: Store, parts: Parts
) -> Evaluation:
    outcome = outcome_of(store, model.key)
    if not outcome.scores.all:
        return Evaluation({}, notes, "", tasks=outcome.tasks)
    measured = {"model": Measurement(outcome.scores, ranks_of(store, model.key))}
    for name, waiting in baselines.items():
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

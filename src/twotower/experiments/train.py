"""`train`: one run of a config, measured beside the baselines, as a bundle that is ready to recommend."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec
from rich.console import Console

from twotower.errors import TwoTowerError
from twotower.evaluation import DEFAULT_KS, BaselineBudget
from twotower.evaluation.baselines.names import NAMES
from twotower.evaluation.beside import left_out, measurable
from twotower.evaluation.evaluate import Evaluation, compared
from twotower.evaluation.measure import Measurement
from twotower.evaluation.metrics import verdict_metric
from twotower.experiments.desks import ListDesk, Waiting, waiting_for
from twotower.experiments.folder import TRAINING, working_in
from twotower.experiments.pool import run_jobs
from twotower.experiments.results import BaselineOutcome, ModelOutcome
from twotower.experiments.run import BaselineRun, ModelRun, Runner, history_of, model_of, ranks_of
from twotower.experiments.store import Store
from twotower.processes import threads_each
from twotower.progress import Display
from twotower.recipes.config import Config
from twotower.recipes.parts import Parts
from twotower.retrieval import Retriever
from twotower.retrieval.building import check_title
from twotower.retrieval.bundle import check_bundle_target
from twotower.retrieval.notes import Notes

STREAMED = "The other baselines are not in the table: they learn from a log in memory, and this one is streamed."


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
    config: Config, out: Path, *, console: Console | None = None, budget: BaselineBudget | None = None
) -> TrainedBundle:
    """Trains one model as a config says, measures it beside the baselines, and saves the bundle.

    Where the config does not say otherwise the model reads only what lies before an event, as there is nothing after
    it when it recommends. The baselines are measured beside the training, in a process of their own. What is finished
    is kept in `OUT.partial`: call it again to resume after an interruption.

    Args:
        config: Data, split, recipe and model.
        out: The bundle's folder.
        console: Where progress is shown; None shows nothing.
        budget: What each baseline may cost.

    Raises:
        ConfigError: The folder cannot be written, or the config does not go with the data.
        DataError: The data cannot be used.
        TwoTowerError: Training diverged.
    """
    console = Console(quiet=True) if console is None else console
    check_bundle_target(out)
    with working_in(_partial_of(out), TRAINING) as folder:
        parts = config.parts()
        if config.data.title is not None:
            check_title(parts.train.candidates, config.data.title)
        config = for_serving(msgspec.structs.replace(config, split=parts.split))
        columns = config.model.columns(parts.train, config.resolved_recipe(parts.train, parts.validation))
        cut = f"{parts.train.name}: {len(parts.train):,} train, {len(parts.test):,} test; split {parts.rule}"
        _say(console, [f"{cut}, {parts.fingerprint}", *parts.remarks, *columns.lines()])
        store = Store(folder / "runs")
        model, beside, notes = _run(config, parts, store, budget or BaselineBudget(), console)
        evaluation = _evaluation(model, beside, notes, store, parts)
        kept = Notes(
            config=msgspec.to_builtins(config),
            split=parts.rule,
            fingerprint=parts.fingerprint,
            remarks=list(parts.remarks),
            columns=columns,
            evaluation=evaluation,
            best_epoch=_outcome(model, store).best_epoch,
            history=history_of(store, model.key),
        )
        retriever = bundle_of(parts, store, model.key, kept, config.data.title)
        retriever.save(out)
        shutil.rmtree(folder, ignore_errors=True)
    return TrainedBundle(retriever, evaluation)


def for_serving(config: Config) -> Config:
    """The config of a model that reads only what lies before an event, unless it says otherwise."""
    model = msgspec.structs.replace(config.model, reach=config.model.reach or "before")
    return msgspec.structs.replace(config, model=model)


def bundle_of(parts: Parts, store: Store, key: str, notes: Notes, title: str | None) -> Retriever:
    """The bundle of a finished run.

    Args:
        parts: What it was trained on.
        store: Where it is kept.
        key: Its name there.
        notes: How the model came to be, which the bundle keeps.
        title: Column that shows a candidate to people; None: chosen.
    """
    train = parts.train
    return Retriever.build(model_of(store, key), train.candidates, seen=train.read(), notes=notes, title=title)


def _partial_of(out: Path) -> Path:
    real = Path(os.path.realpath(out))
    return real.with_name(f"{real.name}.partial")


def _run(
    config: Config, parts: Parts, store: Store, budget: BaselineBudget, console: Console
) -> tuple[Waiting, dict[str, Waiting], list[str]]:
    """Trains the model, and measures the baselines beside it."""
    data = parts.identity
    model = waiting_for(str(list(config.model.layers)), ModelRun(config), store, data)
    names, notes = measurable(config.baselines, parts.test, parts.train)
    beside = {name: waiting_for(NAMES[name], BaselineRun(config, name, "test", budget), store, data) for name in names}
    workers = 2 if beside else 1
    with Display(console) as display:
        run_jobs(Runner, ListDesk([model, *beside.values()], store), workers, display, threads_each(workers))
    return model, beside, notes


def _evaluation(model: Waiting, beside: dict[str, Waiting], notes: list[str], store: Store, parts: Parts) -> Evaluation:
    measured = {"model": Measurement(_outcome(model, store).scores, ranks_of(store, model.key))}
    for name, waiting in beside.items():
        found = store.outcome(waiting.key, BaselineOutcome)
        assert found is not None
        if found.scores is None:
            notes.append(left_out(name, found.left_out))
        else:
            measured[name] = Measurement(found.scores, ranks_of(store, waiting.key))
    return compared(measured, notes, verdict_metric(DEFAULT_KS, parts.test.candidates.num_rows))


def _outcome(model: Waiting, store: Store) -> ModelOutcome:
    found = store.outcome(model.key, ModelOutcome)
    if found is None:
        raise TwoTowerError(f"{store.folder_of(model.key)} was removed while it was needed; run the command again")
    return found


def _say(console: Console, lines: Iterable[str]) -> None:
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

"""The runs of a study: one trained, measured and kept at a time, or several side by side in processes of their own."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

import msgspec
import torch

from twotower.errors import TwoTowerError
from twotower.evaluation import ModelScorer, Outcomes, measure
from twotower.files import write_file
from twotower.interruption import Interruption
from twotower.model.saving import save_model
from twotower.processes import start_worker, stop_workers
from twotower.study.config import Config
from twotower.study.imports import import_modules
from twotower.study.parts import Parts
from twotower.study.recipes import Recipe
from twotower.study.results import CurvePoint, Run
from twotower.study.trained import train_by_recipe
from twotower.training.callbacks import Line, Progress, ProgressBar

TICK = 0.2
"""Seconds between two reports of a worker, and between two looks at an interruption."""


class Planned(msgspec.Struct, frozen=True):
    """One run of a study.

    Attributes:
        layers: Widths of the dense layers of its model.
        seed: Its seed.
        label: What it is called while it runs.
    """

    layers: list[int]
    seed: int
    label: str

    @property
    def name(self) -> str:
        """What its files are called."""
        return f"{'-'.join(map(str, self.layers)) or 'none'}-seed{self.seed}"


class Job(msgspec.Struct, frozen=True):
    """What a worker has to know.

    Attributes:
        config: The study's config.
        planned: The run.
        partial: The folder of what is finished.
        threads: Of PyTorch.
    """

    config: Config
    planned: Planned
    partial: str
    threads: int


class Message(msgspec.Struct, frozen=True):
    """What a worker says.

    Attributes:
        line: Where its training is.
        error: What ended it.
    """

    line: Line | None = None
    error: str | None = None


def finished_run(
    config: Config, recipe: Recipe, parts: Parts, planned: Planned, partial: Path, progress: Progress
) -> Run:
    """One run: from the partial folder where it is there already, else trained and put there."""
    record, ranks = _record(partial, planned), _ranks(partial, planned)
    if record.exists() and ranks.exists():
        return msgspec.json.decode(record.read_bytes(), type=Run)
    progress.label = planned.label
    own = msgspec.structs.replace(config, model=msgspec.structs.replace(config.model, layers=tuple(planned.layers)))
    seeded = msgspec.structs.replace(recipe, trainer=msgspec.structs.replace(recipe.trainer, seed=planned.seed))
    checkpoint = partial / "checkpoints" / planned.name
    trained = train_by_recipe(own, seeded, parts, progress=progress, checkpoint=checkpoint)
    measured = measure(ModelScorer(trained.model), parts.test, parts.train)
    run = Run(
        layers=planned.layers,
        seed=planned.seed,
        recipe=recipe.name,
        epochs=len(trained.history.epochs),
        parameters=trained.model.parameter_count,
        seconds=trained.seconds,
        history=[
            CurvePoint(epoch.epoch, epoch.loss, scores.all, scores.unseen)
            for epoch, scores in trained.history.validated
        ],
        losses=[epoch.loss for epoch in trained.history.epochs],
        final=measured.scores,
        best_epoch=trained.best_epoch,
    )
    save_model(trained.model, partial / "models" / planned.name)
    measured.outcomes.write(ranks)
    write_file(record, msgspec.json.encode(run))
    shutil.rmtree(checkpoint, ignore_errors=True)
    return run


def run_side_by_side(jobs: list[Job], workers: int, bar: ProgressBar, finished: Callable[[Run], None]) -> None:
    """Runs jobs in processes of their own, so many at a time, those with the widest layers first.

    What is in the partial folder already is not run again. An interruption or a failure ends all of them; what they
    have kept is gone on from the next time.

    Args:
        jobs: The runs.
        workers: How many at a time.
        bar: Shows all of them.
        finished: Called with each run when it has ended.

    Raises:
        TwoTowerError: A run failed, with what it said, or its process died.
    """
    distinct = {job.planned.name: job for job in jobs}.values()
    waiting = [job for job in distinct if not _record(Path(job.partial), job.planned).exists()]
    waiting.sort(key=lambda job: sum(job.planned.layers))  # the last is taken first
    started = len(waiting)
    running: dict[Connection, tuple[int, Job, SpawnProcess]] = {}
    try:
        with Interruption() as interruption:
            while waiting or running:
                while waiting and len(running) < workers:
                    job = waiting.pop()
                    ours, theirs = Pipe(duplex=False)
                    process = start_worker(work, msgspec.json.encode(job), theirs, threads=job.threads)
                    theirs.close()
                    running[ours] = started - len(waiting), job, process
                for end in wait(list(running), timeout=TICK):
                    assert isinstance(end, Connection)
                    number, job, process = running[end]
                    if _heard(end, number, job, process, bar):
                        del running[end]
                        finished(msgspec.json.decode(_record(Path(job.partial), job.planned).read_bytes(), type=Run))
                interruption.raise_if_asked()
    finally:
        stop_workers([process for _, _, process in running.values()])


def work(raw: bytes, out: Connection) -> None:
    """Trains, measures and keeps one run: what a worker process does.

    Args:
        raw: A `Job` as JSON.
        out: Where it reports.
    """
    job = msgspec.json.decode(raw, type=Job)
    torch.set_num_threads(job.threads)
    try:
        import_modules(job.config.imports)
        parts = job.config.parts()
        recipe = job.config.resolved_recipe(parts.train, parts.validation)
        finished_run(job.config, recipe, parts, job.planned, Path(job.partial), _Reports(out))
    except TwoTowerError as error:
        out.send_bytes(msgspec.json.encode(Message(error=str(error))))


class _Reports(Progress):
    """Sends where a training is through a pipe, now and then; whoever read it being gone ends the process."""

    def __init__(self, out: Connection) -> None:
        super().__init__()
        self.out, self.latest = out, -TICK

    def show(self, line: Line) -> None:
        if line.is_over or time.monotonic() - self.latest >= TICK:
            self.latest = time.monotonic()
            try:
                self.out.send_bytes(msgspec.json.encode(Message(line)))
            except BrokenPipeError:
                raise SystemExit(1) from None


def _heard(end: Connection, number: int, job: Job, process: SpawnProcess, bar: ProgressBar) -> bool:
    """Takes in what a worker says; tells whether it has ended well.

    Raises:
        TwoTowerError: It failed.
    """
    try:
        message = msgspec.json.decode(end.recv_bytes(), type=Message)
    except EOFError:
        process.join()
        if process.exitcode == 0:
            return True
        raise TwoTowerError(
            f"the run {job.planned.label} ended with code {process.exitcode}; the same command goes on from there"
        ) from None
    if message.error is not None:
        raise TwoTowerError(message.error)
    if message.line is not None:
        bar.show(message.line, number)
    return False


def _record(partial: Path, planned: Planned) -> Path:
    """Where what a finished run gave lies."""
    return partial / "runs" / f"{planned.name}.json"


def outcomes_of(partial: Path, planned: Planned) -> Outcomes:
    """What a finished run gave for each event of test.

    Raises:
        SavedFolderError: The file is missing or damaged.
    """
    return Outcomes.read(_ranks(partial, planned))


def _ranks(partial: Path, planned: Planned) -> Path:
    """Where the ranks that a finished run gave lie."""
    return partial / "runs" / f"{planned.name}.arrow"

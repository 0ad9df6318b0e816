"""`train`: one run of a config, measured beside the baselines, as a bundle that is ready to recommend."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import msgspec
from rich.console import Console

from twotower.evaluation.baselines.budget import BaselineBudget
from twotower.evaluation.baselines.names import NAMES
from twotower.evaluation.beside import left_out, measurable
from twotower.evaluation.evaluate import Evaluation, compared
from twotower.evaluation.measure import Measurement
from twotower.evaluation.metrics import DEFAULT_KS, verdict_metric
from twotower.experiments.desks import ListDesk, Waiting, waiting_for
from twotower.experiments.pool import run_jobs
from twotower.experiments.results import BaselineOutcome, ModelOutcome
from twotower.experiments.run import BaselineRun, ModelRun, Runner, model_of, ranks_of
from twotower.experiments.store import Store
from twotower.processes import allowed_threads, threads_each
from twotower.progress import Display
from twotower.retrieval import Retriever
from twotower.study.columns import TowerColumns
from twotower.study.config import Config
from twotower.study.parts import Parts


@dataclass(frozen=True)
class TrainedBundle:
    """What `train` gave.

    Attributes:
        retriever: The bundle, saved.
        evaluation: The model and the baselines on test.
    """

    retriever: Retriever
    evaluation: Evaluation

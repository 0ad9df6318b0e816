"""Orders: the runs that worker processes can perform, and the key and files of each in the store."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec

from twotower.evaluation.baselines.budget import BaselineBudget
from twotower.evaluation.by_rank import METRICS
from twotower.experiments.results import BaselineOutcome
from twotower.experiments.start import Start
from twotower.experiments.store import Store
from twotower.recipes.config import Config, DataConfig
from twotower.version import VERSION

RUNS = "runs"
"""Folder of the store inside the folder of a study, a tuning or an unfinished training."""

MODEL, RANKS, HISTORY, MOMENTS = "model", "ranks.arrow", "history.json", "moments.safetensors"

Part: TypeAlias = Literal["test", "validation"]
"""The part to measure on."""


class SearchRun(msgspec.Struct, frozen=True, tag="search"):
    """Trains on a part of train and validates on the rest, to find the best epoch.

    Attributes:
        config: The config to train.
        reports: Whether each validated epoch is reported to the desk, which may stop the run.
        deadline: When the run must stop, in seconds since 1970.
        start: The bundle that training continues from; None starts from scratch.
    """

    config: Config
    reports: bool = False
    deadline: float | None = None
    start: Start | None = None


class ModelRun(msgspec.Struct, frozen=True, tag="model"):
    """Trains a model by its recipe and measures it on test.

    Attributes:
        config: The config to train.
        start: The bundle that training continues from; None starts from scratch.
        keeps_moments: Whether to save the final optimiser state.
    """

    config: Config
    start: Start | None = None
    keeps_moments: bool = False


class BaselineRun(msgspec.Struct, frozen=True, tag="baseline"):
    """Measures one baseline.

    Attributes:
        config: The config with the data and split.
        name: The baseline.
        part: `test`, fitted on train; or `validation`, fitted on the rest of train.
        budget: What it may cost.
        start: The bundle that the model compared with it continues from.
    """

    config: Config
    name: str
    part: Part
    budget: BaselineBudget = BaselineBudget()
    start: Start | None = None


AnyRun: TypeAlias = SearchRun | ModelRun | BaselineRun


class Order(msgspec.Struct, frozen=True):
    """A run, its store and the identity of its data.

    Attributes:
        run: The run.
        store: Folder of the store.
        data: Identity of the parts it runs on.
    """

    run: AnyRun
    store: str
    data: str


def key_of(run: AnyRun, data: str) -> str:
    """The key of a run in the store, made from its config, seeds, data and the version of twotower."""
    config = identity_of(run.config)
    start = [] if run.start is None else [msgspec.structs.astuple(run.start)[1:]]
    if isinstance(run, BaselineRun):
        return Store.key(["baseline", run.name, run.part, config["split"], data, VERSION, *METRICS.own, *start])
    kind = "search" if isinstance(run, SearchRun) else "model"
    return Store.key([kind, config, data, VERSION, *METRICS.own, *start])


def identity_of(config: Config) -> dict[str, Any]:
    """The settings of a config that affect a run.

    The location and name of the data are excluded, and so are settings for other commands.
    """
    bare = msgspec.structs.replace(
        config, data=DataConfig(), tune={}, variants={}, loggers=(), imports=(), baselines="all"
    )
    settings: dict[str, Any] = msgspec.to_builtins(bare)
    if config.rerank is None:
        del settings["rerank"]
    return settings


def is_done(run: AnyRun, store: Store, key: str) -> bool:
    """Whether the store has a run's outcome. A baseline that was left out is retried if the budget changes."""
    if isinstance(run, BaselineRun):
        known = store.outcome(key, BaselineOutcome)
        return known is not None and (known.scores is not None or known.budget == run.budget)
    return store.is_finished(key)

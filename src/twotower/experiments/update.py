"""`update`: one round of a daily loop: train, check the gates, publish or refuse; and `roll_back`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec
from rich.console import Console

from twotower.data.dataset import concat
from twotower.errors import ConfigError, ParityError
from twotower.evaluation import BaselineBudget
from twotower.evaluation.evaluate import Evaluation
from twotower.experiments.drift import InputSummary, input_summary
from twotower.experiments.gates import Gate, GateSettings, coverage_gate, input_gates, score_gate
from twotower.experiments.run import parts_of
from twotower.experiments.start import Before, start_from
from twotower.experiments.train import for_serving, train
from twotower.experiments.versions import CANDIDATE, Versions, versions_of
from twotower.recipes.config import Config
from twotower.retrieval import Retriever
from twotower.retrieval.building import rebuilt
from twotower.retrieval.bundle import Bundle, check_bundle_target, load_bundle, with_onnx
from twotower.retrieval.exact import Exact
from twotower.retrieval.publishing import with_store

EXACT = "The index is exact."


@dataclass(frozen=True)
class UpdateSettings:
    """How a bundle is updated.

    Attributes:
        fresh: Train from scratch on all events instead of continuing from the bundle.
        only_new: Train only on events later than those the bundle learned from.
        retire_after: Days without an event after which ids are dropped; None drops none.
        keep: How many versions to keep, including the served one.
        gates: How strict the gates are.
    """

    fresh: bool = False
    only_new: bool = False
    retire_after: float | None = None
    keep: int = 3
    gates: GateSettings = field(default_factory=GateSettings)


class UpdateReport(msgspec.Struct, frozen=True, kw_only=True):
    """What an update did.

    Attributes:
        outcome: `published`, `refused` or `rolled back`.
        bundle: The bundle that is served.
        version: Its version now; after a refusal, still the old one.
        before: Its version before; None if there was none.
        gates: The result of each gate.
        refused: Path of the refused bundle; None if no bundle was refused.
        kept: Versions that can be rolled back to; the served one is last.
        evaluation: The measurements; None if nothing was trained.
    """

    outcome: Literal["published", "refused", "rolled back"]
    bundle: str
    version: str | None
    before: str | None
    gates: list[Gate] = []
    refused: str | None = None
    kept: list[str] = []
    evaluation: Evaluation | None = None

    @property
    def reasons(self) -> list[str]:
        """Why it was refused."""
        return [gate.said for gate in self.gates if not gate.passed]


def update(
    config: Config,
    bundle: Path,
    settings: UpdateSettings | None = None,
    *,
    console: Console | None = None,
    budget: BaselineBudget | None = None,
) -> UpdateReport:
    """Trains a bundle's successor and publishes it if it passes the gates; a running service picks it up.

    Inputs are checked before training. Without a bundle, the first one is trained from scratch. The successor gets the
    index, the ONNX towers and the store of the bundle. If another command changes the served bundle meanwhile, the
    changed bundle is kept among the versions. Call this again to resume an interrupted training.

    Args:
        config: Data, split, recipe and model.
        bundle: The served bundle; its earlier versions are kept in `BUNDLE.versions`.
        settings: How to update it, and how strict the gates are.
        console: Where progress is shown; None shows nothing.
        budget: What each baseline may cost.

    Raises:
        ConfigError: As `train`; or the config does not train for retrieval, which the gates need.
        DataError: The data cannot be used.
        SavedFolderError: The bundle cannot be read, or another update is running.
        TwoTowerError: Training diverged.
    """
    settings = UpdateSettings() if settings is None else settings
    if settings.keep < 1:
        raise ConfigError(f"keep={settings.keep}; expected at least 1, the served bundle", field="keep")
    console = Console(quiet=True) if console is None else console
    check_bundle_target(bundle)
    with versions_of(bundle) as versions:
        old = versions.current
        before = None
        if old is not None:
            before = Before(versions.bundle, settings.fresh, settings.only_new, settings.retire_after)
        inputs = _inputs(config, before, versions)
        gates = input_gates(versions.history.inputs, inputs, settings.gates)
        _say(console, gates)
        if not all(gate.passed for gate in gates):
            return _report("refused", versions, old, gates)
        candidate = versions.folder / CANDIDATE
        evaluation = train(config, candidate, console=console, budget=budget, before=before).evaluation
        judged = _judged(candidate, versions.bundle if old else None, evaluation, settings.gates)
        _say(console, judged)
        gates += judged
        if not all(gate.passed for gate in gates):
            refused = versions.refuse(candidate)
            return _report("refused", versions, old, gates, refused=str(refused), evaluation=evaluation)
        versions.publish(candidate, settings.keep, inputs)
        return _report("published", versions, old, gates, evaluation=evaluation)


def roll_back(bundle: Path) -> UpdateReport:
    """Serves the previously published version of a bundle; a running service picks it up.

    Raises:
        ConfigError: There is no earlier version.
        SavedFolderError: A bundle cannot be read, or an update is running.
        StoreUnavailableError: The bundle has a store, which is unreachable.
    """
    with versions_of(bundle) as versions:
        _, old = versions.roll_back()
        return _report("rolled back", versions, old, [])


def _inputs(config: Config, before: Before | None, versions: Versions) -> InputSummary:
    """The input distributions of a training; for a streamed log, those of test only."""
    start = None if before is None else start_from(before, for_serving(config))[0]
    parts = parts_of(config, start)
    if not config.resolved_recipe(parts.train, parts.validation).trainer.retrieves:
        raise ConfigError("update compares bundles by retrieval; expected a retrieval task in [[tasks]]", field="tasks")
    events = parts.train.in_memory
    whole = parts.test if events is None else concat([events, parts.test])
    return input_summary(whole, versions.history.inputs)


def _judged(candidate: Path, old: Path | None, evaluation: Evaluation, settings: GateSettings) -> list[Gate]:
    """The gates of a trained bundle. If it passes them, it is saved with the kind of index the old one has."""
    if old is None:
        return [Gate("score", True, "This is the first bundle; there is no other to compare it with.")]
    found = evaluation.warm_start
    assert found is not None
    gates = [score_gate(found, settings), coverage_gate(found, settings)]
    if not all(gate.passed for gate in gates):
        return gates
    earlier = load_bundle(old)
    details = earlier.details
    if isinstance(details.index, Exact) and details.store is None and not details.onnx:
        return [*gates, Gate("parity", True, EXACT)]
    try:
        made = _like(earlier, load_bundle(candidate), settings.parity)
    except ParityError as error:
        return [*gates, Gate("parity", False, f"{error}.")]
    Retriever(made).save(candidate)
    recall = None if made.details.parity is None else made.details.parity.recall
    searched = "index" if made.details.store is None else "store"
    said = EXACT if recall is None else f"The {searched} finds {recall:.1%} of what exact search finds."
    return [*gates, Gate("parity", True, said, {"recall": recall})]


def _like(earlier: Bundle, bundle: Bundle, parity: float) -> Bundle:
    """The bundle with the same kinds of index, store and ONNX towers as an earlier one."""
    details = earlier.details
    made = rebuilt(bundle, None, details.index, parity, rerank=bundle.details.rerank)
    made = made if details.store is None else with_store(made, details.store, parity, frozenset({details.towers}))
    return with_onnx(made) if details.onnx else made


def _report(
    outcome: Literal["published", "refused", "rolled back"],
    versions: Versions,
    before: str | None,
    gates: list[Gate],
    refused: str | None = None,
    evaluation: Evaluation | None = None,
) -> UpdateReport:
    return UpdateReport(
        outcome=outcome,
        bundle=str(versions.bundle),
        version=versions.current,
        before=before,
        gates=gates,
        refused=refused,
        kept=versions.kept,
        evaluation=evaluation,
    )


def _say(console: Console, gates: Iterable[Gate]) -> None:
    for gate in gates:
        console.print(
            f"{gate.name}: {'passed' if gate.passed else 'REFUSED'}. {gate.said}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )

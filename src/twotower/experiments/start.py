"""`Start`: the bundle that a training continues from, and the checks on its data."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from twotower.data.dataset import Dataset
from twotower.data.log import Log, require_in_memory
from twotower.data.lookup import IdRows, entries_of
from twotower.errors import ConfigError, DataError, SavedFolderError
from twotower.evaluation import ModelScorer, measure
from twotower.evaluation.measure import Measurement
from twotower.evaluation.metrics import DEFAULT_KS, verdict_metric
from twotower.evaluation.warm_start import WarmStartEvaluation, compare_warm_start
from twotower.model.learning import Growth
from twotower.model.two_tower import TwoTower
from twotower.recipes.config import Config
from twotower.recipes.model_config import ModelConfig
from twotower.recipes.parts import Parts
from twotower.recipes.recipe import Recipe
from twotower.retrieval.bundle import Bundle, Details, load_bundle
from twotower.retrieval.continued import moments_of
from twotower.training.moments import Moments

DAY = 86_400.0

WARM_RATE = 0.2
"""A warm start whose config names no learning rate uses a fifth of the recipe's, as in benchmarks/warm_start.py: the
full rate is meant for towers that know nothing yet."""


@dataclass(frozen=True)
class Before:
    """The bundle that a new one succeeds.

    Attributes:
        bundle: Its folder.
        fresh: Train from scratch and only compare the new model with the bundle.
        only_new: Use only the events of the log that are later than the last one the bundle learned from.
        retire_after: Days without an event after which an id is retired; None retires none.
    """

    bundle: Path
    fresh: bool = False
    only_new: bool = False
    retire_after: float | None = None


class Start(msgspec.Struct, frozen=True):
    """The bundle that a training continues from or is compared with.

    Attributes:
        bundle: Folder of the bundle.
        version: The bundle's version; if another bundle has replaced it, training is refused.
        fresh: Whether training starts from scratch, so that the bundle is only compared with.
        only_new: Whether events of the log that are not later than the bundle's last one are skipped.
        moments: Whether the optimiser state is carried over.
        retire_after: Seconds without an event after which an id is retired; None retires none.
    """

    bundle: str
    version: str
    fresh: bool = False
    only_new: bool = False
    moments: bool = False
    retire_after: float | None = None


def start_from(before: Before, config: Config) -> tuple[Start, list[str]]:
    """The start of a training, and lines about it for the user.

    Args:
        before: The bundle to continue from, and how.
        config: The config to train. For a warm start its `[model]` must agree with the bundle's or leave keys unset.

    Raises:
        ConfigError: A key of `[model]` differs from the bundle's, the days are not above 0, or a training from scratch
            is given options of a warm start.
        SavedFolderError: The bundle cannot be read.
    """
    folder, days = before.bundle, before.retire_after
    if days is not None and not 0 < days < math.inf:
        raise ConfigError(f"retire_after={days}; expected days above 0", field="retire_after")
    if before.fresh and (before.only_new or days is not None):
        raise ConfigError(
            "training from scratch uses all events and retires no ids; expected neither only_new nor retire_after"
        )
    bundle = load_bundle(folder)
    start = Start(os.path.realpath(folder), bundle.details.version, fresh=before.fresh)
    if before.fresh:
        return start, [f"Training starts from scratch; the model is compared with {folder}, version {start.version}."]
    _require_same_model(config, bundle.details, folder)
    has_moments, said = _usable_moments(folder, bundle.details)
    seconds = None if days is None else days * DAY
    start = msgspec.structs.replace(start, only_new=before.only_new, moments=has_moments, retire_after=seconds)
    rate = [] if _names_rate(config) else [f"The learning rate is {WARM_RATE:g} times the recipe's."]
    return start, [f"Training continues from {folder}, version {start.version}.", said, *rate]


def recipe_of(config: Config, start: Start | None, parts: Parts) -> Recipe:
    """The recipe of a training; a warm start has `WARM_RATE` times its learning rate, unless the config names one.

    Args:
        config: The config to train.
        start: The bundle that training continues from; None trains from scratch.
        parts: The parts to train on.

    Raises:
        ConfigError: `[training]` has an unknown key or an invalid value.
    """
    recipe = config.resolved_recipe(parts.train, parts.validation)
    if start is None or start.fresh or _names_rate(config):
        return recipe
    full = recipe.trainer.optimizer
    optimizer = msgspec.structs.replace(full, learning_rate=WARM_RATE * full.learning_rate)
    return msgspec.structs.replace(recipe, trainer=msgspec.structs.replace(recipe.trainer, optimizer=optimizer))


def _names_rate(config: Config) -> bool:
    optimizer = config.training.get("optimizer")
    return isinstance(optimizer, Mapping) and "learning_rate" in optimizer


def warm_model(start: Start, log: Log, optimizer: object) -> tuple[TwoTower, Moments]:
    """The bundle's model, grown by the vocabulary of a log, and its optimiser state.

    Args:
        start: The bundle.
        log: The events to train on.
        optimizer: Settings of the optimiser; if its kind has changed, it starts without state.

    Raises:
        DataError: The log cannot be used.
        SavedFolderError: Another bundle has replaced it, or it cannot be read.
    """
    bundle = _bundle_of(start)
    growth = bundle.model.grow(log, retire_after=start.retire_after)
    moments = Moments.load(moments_of(Path(start.bundle))) if start.moments else Moments()
    if type(moments.optimizer) is not type(optimizer):
        return bundle.model, Moments()
    moments.grow(growth)
    return bundle.model, moments


def growth_by(start: Start, log: Log) -> Growth:
    """What a log adds to the bundle's vocabularies."""
    return _bundle_of(start).model.grow(log, retire_after=start.retire_after)


def compare_with_start(start: Start, after: Measurement, parts: Parts) -> WarmStartEvaluation:
    """Compares the new model with the bundle's on the test events.

    Args:
        start: The bundle.
        after: The measurement of the new model.
        parts: The parts on which the new model was measured.
    """
    bundle = _bundle_of(start)
    test, details = parts.test, bundle.details
    before = measure(ModelScorer(bundle.model), test, parts.known.events_of(test))
    has_seen = np.diff(bundle.seen.offsets) > 0
    known_queries, known_candidates = (
        _known(table[name], old[name], there)
        for table, old, name, there in (
            (test.queries, bundle.queries, details.query_id, has_seen),
            (test.candidates, bundle.candidates, details.candidate_id, bundle.popularity > 0),
        )
    )
    return compare_warm_start(
        after,
        before,
        test,
        known_queries,
        known_candidates,
        verdict_metric(DEFAULT_KS, test.candidates.num_rows),
        version=start.version,
        growth="" if start.fresh else str(growth_by(start, parts.train)),
    )


def new_events(log: Log, start: Start) -> Dataset:
    """The events of a log that are later than the last one the bundle learned from.

    Raises:
        ConfigError: The log is streamed, or there are no times.
        DataError: No event is later.
    """
    latest = _bundle_of(start).details.latest_time
    events = require_in_memory(log, "training on new events only", "a log in memory, or a log of new events only")
    if latest is None or events.time is None:
        raise ConfigError("training on new events only needs times; expected [data] time")
    later = events.times > latest
    if not later.any():
        raise DataError(f"{events.name!r} has no event later than the last one {start.bundle} learned from")
    return events.take(later)


def continued_parts(parts: Parts, start: Start, config: Config) -> Parts:
    """Adapts the parts for a training that continues from a bundle.

    If train begins after the last event of the bundle's training, it counts as new events only: the bundle's other
    queries stay known, and so do its candidates unless the config names a catalogue; the earlier choices of queries
    become the `past`. Otherwise the log counts as all events up to now.

    Raises:
        ConfigError: A test event is earlier than the last one the bundle learned from, so it may be among those.
        DataError: An id column has another name or type than the bundle's.
    """
    bundle = _bundle_of(start)
    latest = bundle.details.latest_time
    _require_same_ids(parts.test, bundle)
    if latest is None or parts.test.time is None:
        said = f"Without times, some test events may have been in the training data of {start.bundle}."
        return replace(parts, remarks=(*parts.remarks, said))
    if earlier := int((parts.test.times < latest).sum()):
        raise ConfigError(
            f"{earlier:,} of the {len(parts.test):,} test events are earlier than the last one that {start.bundle} "
            f"learned from, so it may have learned from them; expected later ones, such as those of a split time:SHARE"
        )
    train = parts.train.in_memory
    if train is None or not len(train) or train.times.min() <= latest:
        if start.fresh:
            return parts
        return replace(parts, remarks=(*parts.remarks, "The log counts as all events up to now."))
    if start.fresh:
        raise ConfigError(
            f"the log begins after the last event that {start.bundle} learned from; training from scratch expects all "
            f"events"
        )
    return _with_past(parts, train, bundle, has_catalogue=config.data.candidates is not None or config.data.is_builtin)


def _with_past(parts: Parts, train: Dataset, bundle: Bundle, has_catalogue: bool) -> Parts:
    details = bundle.details
    queries = _extended(train.queries, bundle.queries, details.query_id)
    candidates = train.candidates
    if not has_catalogue:
        candidates = _extended(candidates, bundle.candidates, details.candidate_id)

    def over_both(events: Dataset) -> Dataset:
        return replace(events, queries=queries, candidates=candidates, oracle=None)

    whole = over_both(train)
    said = (
        "The log counts as new events only. Earlier choices of queries come from the bundle, for baselines too, each "
        "choice once."
    )
    return replace(
        parts,
        train=whole,
        test=over_both(parts.test),
        validation=None if parts.validation is None else over_both(parts.validation),
        remarks=(*parts.remarks, said),
        past=_past_of(whole, bundle),
    )


def _past_of(train: Dataset, bundle: Bundle) -> Dataset:
    """The choices a bundle has seen, as events over the tables of train, all at the time of the bundle's last event."""
    details, count = bundle.details, len(bundle.seen.offsets) - 1
    query_of = IdRows(train.queries[details.query_id]).of(bundle.queries[details.query_id])
    row_of = IdRows(train.candidates[details.candidate_id]).of(bundle.candidates[details.candidate_id])
    position, entry = entries_of(bundle.seen.offsets, np.arange(count))
    queries, candidates = query_of[position], row_of[bundle.seen.candidates[entry]]
    there = (queries >= 0) & (candidates >= 0)
    size, columns = int(there.sum()), []
    for field in train.interactions.schema:
        constant = {train.time: details.latest_time, train.weight: 1.0}.get(field.name)
        column = pa.nulls(size, field.type)
        if constant is not None:
            column = pa.array(np.full(size, constant)).cast(field.type, safe=False)
        columns.append(column)
    return replace(
        train,
        interactions=pa.table(columns, schema=train.interactions.schema),
        query_index=queries[there],
        candidate_index=candidates[there],
        exposures=None,
    )


def _extended(table: pa.Table, earlier: pa.Table, name: str) -> pa.Table:
    """Appends the rows of an earlier table whose ids are missing; columns that the earlier table lacks are null."""
    missing = earlier.filter(pc.invert(pc.is_in(earlier[name], value_set=table[name].combine_chunks())))
    columns = []
    for field in table.schema:
        if field.name not in missing.column_names:
            columns.append(pa.chunked_array([pa.nulls(missing.num_rows, field.type)]))
            continue
        try:
            columns.append(missing[field.name].cast(field.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise DataError(
                f"column {field.name!r} is {field.type} in the data, and {missing[field.name].type} in the bundle that "
                f"training continues from: {error}"
            ) from error
    return pa.concat_tables([table, pa.table(columns, schema=table.schema)])


def _known(ids: pa.ChunkedArray, earlier: pa.ChunkedArray, there: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Which ids have a row in an earlier table for which `there` is true."""
    rows = IdRows(earlier).of(ids)
    known: npt.NDArray[np.bool_] = (rows >= 0) & there[np.maximum(rows, 0)]
    return known


def _bundle_of(start: Start) -> Bundle:
    bundle = load_bundle(Path(start.bundle))
    if bundle.details.version != start.version:
        raise SavedFolderError(
            f"{start.bundle} now has version {bundle.details.version}; training started from {start.version}: run the "
            f"command again"
        )
    return bundle


def _usable_moments(folder: Path, details: Details) -> tuple[bool, str]:
    """Whether the optimiser state beside a bundle can be used, and a line that says so."""
    file = moments_of(folder)
    if not file.is_file():
        return False, f"The optimizer starts without state: {file.name} is not beside the bundle."
    try:
        moments = Moments.load(file)
    except SavedFolderError as error:
        return False, f"The optimizer starts without state: {error}."
    if moments.towers != details.towers:
        return False, f"The optimizer starts without state: {file.name} belongs to other towers, {moments.towers}."
    return True, f"The optimizer continues with {file.name}."


def _require_same_model(config: Config, details: Details, folder: Path) -> None:
    """Refuses a `[model]` that differs from the bundle's."""
    if details.notes.config is None:
        return
    default, ours = (msgspec.json.decode(msgspec.json.encode(one)) for one in (ModelConfig(), config.model))
    theirs: dict[str, Any] = details.notes.config.get("model", {})
    differing = [key for key, value in ours.items() if value != default[key] and value != theirs.get(key, default[key])]
    if differing:
        key = differing[0]
        raise ConfigError(
            f"[model] {key} = {ours[key]!r}, and {folder} was trained with {theirs.get(key, default[key])!r}; a warm "
            f"start keeps the towers: expected the same value, or training without --from"
        )


def _require_same_ids(test: Dataset, bundle: Bundle) -> None:
    """Refuses data whose id columns differ from the bundle's."""
    details = bundle.details
    sides: Sequence[tuple[str, str, pa.Table, pa.Table]] = (
        ("query_id", details.query_id, test.queries, bundle.queries),
        ("candidate_id", details.candidate_id, test.candidates, bundle.candidates),
    )
    for role, name, table, earlier in sides:
        own = getattr(test, role)
        if own != name:
            raise DataError(f"{role} is {own!r} in the data, and {name!r} in the bundle that training continues from")
        if table[name].type != earlier[name].type:
            raise DataError(
                f"column {name!r} is {table[name].type} in the data, and {earlier[name].type} in the bundle that "
                f"training continues from; expected the same",
                column=name,
            )

"""`Start`: the bundle that a training continues from, and what its data have to be for that."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
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
from twotower.data.lookup import IdRows
from twotower.data.seen import entries_of
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
from twotower.retrieval.bundle import Bundle, Details, load_bundle
from twotower.retrieval.continued import moments_of
from twotower.training.moments import Moments

DAY = 86_400.0


@dataclass(frozen=True)
class Before:
    """The bundle that another one follows.

    Attributes:
        bundle: Its folder.
        fresh: Train from nothing; the bundle is only what the new model is judged by.
        only_new: Of the log, take the events that are later than the last one that the bundle learned from.
        retire_after: Days after which ids without an event are retired; None: none.
    """

    bundle: Path
    fresh: bool = False
    only_new: bool = False
    retire_after: float | None = None


class Start(msgspec.Struct, frozen=True):
    """What a training continues from, or is judged by.

    Attributes:
        bundle: Folder of the bundle.
        version: The bundle's version: another one in its place is refused.
        fresh: Whether training starts from scratch, and the bundle is what it is judged by.
        only_new: Whether the events of the log that are not later than the bundle's are left out.
        moments: Whether what the optimiser knew is carried over.
        retire_after: Ids without an event for so many seconds are retired; None: none.
    """

    bundle: str
    version: str
    fresh: bool = False
    only_new: bool = False
    moments: bool = False
    retire_after: float | None = None


def start_from(before: Before, config: Config) -> tuple[Start, list[str]]:
    """What a training continues from, and lines about it for the user.

    Args:
        before: The bundle before, and how it is followed.
        config: As it is trained; where training goes on, its `[model]` is the bundle's or says nothing.

    Raises:
        ConfigError: `[model]` has a key that differs from the bundle's, the days are not above 0, or what only a
            training that goes on can do is asked of one that starts from scratch.
        SavedFolderError: The bundle cannot be read.
    """
    folder, days = before.bundle, before.retire_after
    if days is not None and not 0 < days < math.inf:
        raise ConfigError(f"retire_after={days}; expected days above 0", field="retire_after")
    if before.fresh and (before.only_new or days is not None):
        raise ConfigError(
            "a training that starts from scratch needs all events, and has no ids to retire; expected neither"
        )
    bundle = load_bundle(folder)
    start = Start(os.path.realpath(folder), bundle.details.version, fresh=before.fresh)
    if before.fresh:
        return start, [f"Training starts from scratch, and is judged by {folder}, version {start.version}."]
    _require_same_model(config, bundle.details, folder)
    has_moments, said = _usable_moments(folder, bundle.details)
    seconds = None if days is None else days * DAY
    start = msgspec.structs.replace(start, only_new=before.only_new, moments=has_moments, retire_after=seconds)
    return start, [f"Training continues from {folder}, version {start.version}.", said]


def begun(start: Start, log: Log, optimizer: object) -> tuple[TwoTower, Moments]:
    """The model of the bundle, grown by what a log has, and what the optimiser knows of its weights.

    Args:
        start: Where the bundle is.
        log: The events to train on.
        optimizer: Settings of the optimiser; one of another kind starts from scratch.

    Raises:
        DataError: The log cannot be used.
        SavedFolderError: The bundle is another one by now, or cannot be read.
    """
    bundle = _bundle_of(start)
    growth = bundle.model.grow(log, retire_after=start.retire_after)
    moments = Moments.load(moments_of(Path(start.bundle))) if start.moments else Moments()
    if type(moments.optimizer) is not type(optimizer):
        return bundle.model, Moments()
    moments.grow(growth)
    return bundle.model, moments


def growth_by(start: Start, log: Log) -> Growth:
    """What a log adds to the vocabularies of the bundle."""
    return _bundle_of(start).model.grow(log, retire_after=start.retire_after)


def since_start(start: Start, after: Measurement, parts: Parts) -> WarmStartEvaluation:
    """What has changed since the bundle, on the test events.

    Args:
        start: Where the bundle is.
        after: What measuring the new model gave.
        parts: As the new model was measured on.
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
    """The events of a log that are later than the last one that a bundle learned from.

    Raises:
        ConfigError: The log is streamed, or there are no times.
        DataError: There is no such event.
    """
    latest = _bundle_of(start).details.latest_time
    events = require_in_memory(log, "a training on new events alone", "a log in memory, or one that has them alone")
    if latest is None or events.time is None:
        raise ConfigError("a training on new events alone needs times; expected [data] time")
    later = events.times > latest
    if not later.any():
        raise DataError(f"{events.name!r} has no event after the last one that {start.bundle} learned from")
    return events.take(later)


def continued_parts(parts: Parts, start: Start, config: Config) -> Parts:
    """Adapts the parts for a training that continues from a bundle.

    Where train begins after the last event of the bundle's training, it is new events alone: queries that the bundle
    knows beside them stay known, so do candidates unless the config names a catalogue, and what queries chose before
    is the `past`. Else the log is taken for all events up to now.

    Raises:
        ConfigError: A test event is earlier than the last one that the bundle learned from, and may be one of those.
        DataError: An id column is another one, or of another type, than the bundle's.
    """
    bundle = _bundle_of(start)
    latest = bundle.details.latest_time
    _require_same_ids(parts.test, bundle)
    if latest is None or parts.test.time is None:
        said = f"Nothing says whether test events were in the training of {start.bundle}: there are no times."
        return replace(parts, remarks=(*parts.remarks, said))
    if earlier := int((parts.test.times < latest).sum()):
        raise ConfigError(
            f"{earlier:,} of the {len(parts.test):,} test events are earlier than the last one that {start.bundle} "
            f"learned from, so that it may have learned from them; expected later ones, as a split time:SHARE gives"
        )
    train = parts.train.in_memory
    if train is None or not len(train) or train.times.min() <= latest:
        if start.fresh:
            return parts
        return replace(parts, remarks=(*parts.remarks, "The log is taken for all events up to now."))
    if start.fresh:
        raise ConfigError(
            f"the log begins after the last event that {start.bundle} learned from; training "
            f"from scratch expects all events"
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
        "The log has new events alone: what queries chose before is known from the bundle, to baselines as well, each "
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
    """The choices that a bundle has seen, as events over the tables of train, all at the bundle's last instant."""
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
    )


def _extended(table: pa.Table, earlier: pa.Table, name: str) -> pa.Table:
    """A table with the rows of an earlier one whose ids it lacks at its end; columns that that lacks are null there."""
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
    """Which ids an earlier table has, at a row that counts."""
    rows = IdRows(earlier).of(ids)
    known: npt.NDArray[np.bool_] = (rows >= 0) & there[np.maximum(rows, 0)]
    return known


def _bundle_of(start: Start) -> Bundle:
    bundle = load_bundle(Path(start.bundle))
    if bundle.details.version != start.version:
        raise SavedFolderError(
            f"{start.bundle} has version {bundle.details.version} by now; training went on from {start.version}. Start "
            f"the command again"
        )
    return bundle


def _usable_moments(folder: Path, details: Details) -> tuple[bool, str]:
    """Whether the file beside a bundle goes with it, and in words."""
    file = moments_of(folder)
    if not file.is_file():
        return False, f"The optimizer starts without state: {file.name} is not beside the bundle."
    try:
        moments = Moments.load(file)
    except SavedFolderError as error:
        return False, f"The optimizer starts without state: {error}."
    if moments.towers != details.towers:
        return False, f"The optimizer starts without state: {file.name} is of other towers, {moments.towers}."
    return True, f"The optimizer continues with {file.name}."


def _require_same_model(config: Config, details: Details, folder: Path) -> None:
    """Refuses a `[model]` that a warm start would not follow."""
    if details.notes.config is None:
        return
    default, ours = (msgspec.json.decode(msgspec.json.encode(one)) for one in (ModelConfig(), config.model))
    theirs: dict[str, Any] = details.notes.config.get("model", {})
    differing = [key for key, value in ours.items() if value != default[key] and value != theirs.get(key, default[key])]
    if differing:
        key = differing[0]
        raise ConfigError(
            f"[model] {key} = {ours[key]!r}, and {folder} was trained with {theirs.get(key, default[key])!r}; a warm "
            f"start keeps the towers: expected the same, or a training without --from"
        )


def _require_same_ids(test: Dataset, bundle: Bundle) -> None:
    """Refuses data whose ids are not the bundle's."""
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

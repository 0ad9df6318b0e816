"""Change a bundle's catalogue without training: add, change and withdraw candidates."""

from __future__ import annotations

from contextlib import suppress

import msgspec
import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from twotower.data.checks import check_ids, require_columns
from twotower.data.inference import NUMBERS, first_stray
from twotower.data.place import Place, cell_errors_in
from twotower.data.seen import Seen
from twotower.data.sources import CsvFormat, TableSource, read_source, with_ids_like
from twotower.data.tables import cast_ids
from twotower.errors import CellError, DataError, ParityError
from twotower.features.tables import cast_like
from twotower.retrieval.building import embedded, features_for, gated
from twotower.retrieval.bundle import Bundle, with_version
from twotower.retrieval.ids import CANNOT_CAST, Ids
from twotower.retrieval.index import Index, IntArray
from twotower.retrieval.parity import Parity
from twotower.retrieval.requests import Requests

ADDED = "the added candidates"


def with_candidates(bundle: Bundle, candidates: TableSource, csv: CsvFormat) -> tuple[Bundle, IntArray]:
    """The bundle with these candidates: new ids are appended, known ids replaced in place; see `Retriever.add`.

    Returns:
        The bundle, and the rows of these candidates in it.
    """
    name = bundle.details.candidate_id
    read = read_source(candidates, ADDED, csv)
    require_columns(read.table, [name], ADDED)
    place = Place(origin=read.origin, table=ADDED)
    with cell_errors_in(place):
        added = with_ids_like(read, bundle.candidates.schema.field(name).type, name).table
        if read.inferred_from_text:
            _refuse_text_for_numbers(bundle.candidates.schema, added, csv.decimal)
        added = _like(bundle, added, place)
        embeddings, features = embedded(bundle.model, added), features_for(bundle.model, bundle.details.rerank, added)
    ids = Ids(bundle.candidates[name], name)
    found = [ids.row(value) for value in added[name].to_pylist()]
    size = bundle.candidates.num_rows
    changed = [place for place, row in enumerate(found) if row is not None]
    new = [place for place, row in enumerate(found) if row is None]
    # For each row of the new table, its row in the old table followed by the added one.
    source = np.arange(size + len(new), dtype=np.int64)
    source[size:] = size + np.array(new, dtype=np.int64)
    source[[row for row in found if row is not None]] = size + np.array(changed, dtype=np.int64)
    both = pa.concat_tables([bundle.candidates, added])
    everything, chosen = torch.cat([bundle.index.embeddings, embeddings]), torch.from_numpy(source)
    if bundle.features is not None and features is not None:
        features = torch.cat([bundle.features, features])[chosen]
    popularity = np.concatenate([bundle.popularity, np.zeros(len(new), dtype=np.int64)])
    origin = np.where(source < size, source, -1)
    table = both.take(pa.array(source))
    moved = _moved(bundle, table, everything[chosen], features, origin, bundle.seen, popularity)
    return moved, np.flatnonzero(origin < 0)


def without_candidates(bundle: Bundle, withdrawn: IntArray) -> Bundle:
    """The bundle without the candidates at these rows; see `Retriever.withdraw`."""
    left = np.ones(bundle.candidates.num_rows, dtype=bool)
    left[withdrawn] = False
    kept = np.flatnonzero(left)
    if len(kept) == 0:
        raise DataError(f"all {len(withdrawn)} candidates would be withdrawn; expected at least one to remain")
    candidates = bundle.candidates.take(pa.array(kept))
    rows = torch.from_numpy(kept)
    embeddings, features = bundle.index.embeddings[rows], bundle.features
    features = None if features is None else features[rows]
    seen = bundle.seen.renumbered(np.where(left, np.cumsum(left) - 1, -1))
    return _moved(bundle, candidates, embeddings, features, kept, seen, bundle.popularity[kept])


def _moved(
    bundle: Bundle,
    candidates: pa.Table,
    embeddings: Tensor,
    features: Tensor | None,
    origin: IntArray,
    seen: Seen,
    popularity: IntArray,
) -> Bundle:
    index, parity = _index(bundle, embeddings, origin)
    if bundle.details.store is not None:  # parity was measured when the bundle was published
        parity = bundle.details.parity
    details = msgspec.structs.replace(bundle.details, revision=bundle.details.revision + 1, parity=parity)
    parts = bundle.model, candidates, bundle.queries, seen, popularity, index, details
    return with_version(Bundle(*parts, features=features))


def _index(bundle: Bundle, embeddings: Tensor, origin: IntArray) -> tuple[Index, Parity | None]:
    """The new catalogue's index: the old one updated or, if that misses the recall threshold, a rebuilt one."""
    details = bundle.details
    requests = Requests(bundle.model, bundle.queries, details.query_id, details.time, details.latest_time)
    threshold = None if details.parity is None else details.parity.threshold
    with suppress(ParityError):
        return gated(bundle.index.moved(embeddings, origin), bundle.model, requests, threshold)
    return gated(details.index.make(embeddings), bundle.model, requests, threshold)


def _refuse_text_for_numbers(schema: pa.Schema, added: pa.Table, decimal: str) -> None:
    """Refuses columns of a CSV file that are text, because a value is not a number, where the catalogue has floats.

    Arrow would convert them, and read `1.299` in a file with decimal commas as a number near 1.
    """
    for field in schema:
        if pa.types.is_floating(field.type) and field.name in added.column_names:
            column = added[field.name]
            if pa.types.is_string(column.type):
                row = first_stray(column, NUMBERS, decimal) or 0
                expected = f"expected a number with the decimal mark {decimal!r}"
                raise CellError(field.name, row, f"{column[row].as_py()!r}; {expected}")


def _like(bundle: Bundle, added: pa.Table, place: Place) -> pa.Table:
    """The added candidates, which come from a place, with the catalogue's columns and types."""
    schema, name = bundle.candidates.schema, bundle.details.candidate_id
    require_columns(added, schema.names, ADDED)
    if unknown := sorted(set(added.column_names) - set(schema.names)):
        raise DataError(f"{ADDED}: column {unknown[0]!r} is not in the catalogue, which has {', '.join(schema.names)}")
    check_ids(added[name], name, ADDED, unique=True, place=place)
    added = added.set_column(
        added.column_names.index(name), name, cast_ids(added[name], schema.field(name).type, name, ADDED)
    )
    try:
        return pa.table([cast_like(added[field.name], field.type, field.name) for field in schema], schema=schema)
    except (*CANNOT_CAST, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{ADDED} are {added.schema}; expected {schema}: {error}") from error

"""Build a bundle from a trained model, a catalogue and a log."""

from __future__ import annotations

import msgspec
import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from twotower.data.checks import check_ids, require_columns
from twotower.data.dataset import Dataset, IntArray
from twotower.data.lookup import IdRows
from twotower.data.notes import EXAMPLES, warn_of_dropped
from twotower.data.place import Place, cell_errors_in
from twotower.data.seen import Seen
from twotower.data.sources import CsvFormat, TableSource, read_source, with_ids_like
from twotower.data.tables import LogTables, cast_ids
from twotower.errors import ConfigError, DataError, TwoTowerError
from twotower.model.interests import apart
from twotower.model.rerank import Rerank
from twotower.model.saving import model_version
from twotower.model.two_tower import TwoTower
from twotower.retrieval.bundle import Bundle, Details, with_version
from twotower.retrieval.exact import ExactIndex
from twotower.retrieval.index import Index, IndexSettings
from twotower.retrieval.notes import Notes, StudyNote
from twotower.retrieval.parity import QUERIES, Parity, fitted
from twotower.retrieval.requests import Requests

CANDIDATES = "candidates"


def built(
    model: TwoTower,
    candidates: TableSource,
    seen: Dataset,
    settings: IndexSettings,
    threshold: float | None,
    notes: Notes,
    title: str | None = None,
    rerank: Rerank | None = None,
) -> Bundle:
    """Build the bundle of a trained model; see `Retriever.build`."""
    if threshold is not None and not 0 <= threshold <= 1:
        raise ConfigError(f"parity={threshold}; expected a share between 0 and 1, or None", field="parity")
    table, place = _read(candidates, seen.candidates, seen.candidate_id)
    catalogue = _as_catalogue(table, seen)
    if title is not None:
        check_title(catalogue.candidates, title)
    rerank = None if rerank is None else rerank.resolved(model.heads)
    model.eval()
    with cell_errors_in(place):
        embeddings, features = embedded(model, catalogue.candidates), features_for(model, rerank, catalogue.candidates)
    latest = None if seen.time is None or len(seen) == 0 else float(seen.times.max())
    requests = Requests(model, seen.queries, seen.query_id, seen.time, latest)
    index, parity = gated(settings.make(embeddings), model, requests, threshold)
    details = Details(
        data=seen.name,
        query_id=seen.query_id,
        candidate_id=seen.candidate_id,
        time=seen.time,
        latest_time=latest,
        title=title or title_of(catalogue.candidates, seen.candidate_id),
        index=settings,
        parity=parity,
        towers=model_version(model),
        revision=0,
        version="",
        notes=notes.as_written(),
        rerank=rerank,
    )
    lists = Seen.latest_first(catalogue)
    counts = catalogue.candidate_counts()
    parts = model, catalogue.candidates, seen.queries, lists, counts, index, details
    return with_version(Bundle(*parts, features=features))


def rebuilt(
    bundle: Bundle,
    candidates: TableSource | None,
    settings: IndexSettings,
    threshold: float | None,
    study: StudyNote | None = None,
    rerank: Rerank | None = None,
    csv: CsvFormat | None = None,
) -> Bundle:
    """Rebuild a bundle with another index, catalogue, re-ranking or study; the model and seen lists stay.

    Args:
        bundle: The existing bundle.
        candidates: The new catalogue; None to keep the current one.
        settings: Settings of the new index.
        threshold: The lowest recall accepted from an approximate index; None for any.
        study: A study to store in the notes; None to keep the current one.
        rerank: How many candidates to re-rank, and by which head; None for no re-ranking.
        csv: How the new catalogue is written, if it is a CSV file.

    Raises:
        ConfigError: The model has no such head.
        DataError: The catalogue has no rows or no id column, or its ids have another type, nulls or repeats.
        ParityError: The index finds too little of what exact search finds.
    """
    old, details = bundle.candidates, bundle.details
    rerank = None if rerank is None else rerank.resolved(bundle.model.heads)
    name = details.candidate_id
    catalogue, place = (old, Place(table=CANDIDATES)) if candidates is None else _read(candidates, old, name, csv)
    if catalogue.num_rows == 0:
        raise DataError("the candidates table has no rows; expected at least one candidate")
    with cell_errors_in(place):
        embeddings, features = embedded(bundle.model, catalogue), features_for(bundle.model, rerank, catalogue)
    requests = Requests(bundle.model, bundle.queries, details.query_id, details.time, details.latest_time)
    index, parity = gated(settings.make(embeddings), bundle.model, requests, threshold)
    row_of = IdRows(catalogue[name]).of(old[name])  # each old candidate's row in the new catalogue
    _warn_of_lost(old[name], row_of, bundle.popularity, name)
    popularity = np.zeros(catalogue.num_rows, dtype=np.int64)
    popularity[row_of[row_of >= 0]] = bundle.popularity[row_of >= 0]
    details = msgspec.structs.replace(
        details,
        title=details.title if details.title in catalogue.column_names else title_of(catalogue, name),
        index=settings,
        parity=parity,
        store=None,
        rerank=rerank,
        notes=details.notes if study is None else msgspec.structs.replace(details.notes, study=study).as_written(),
    )
    seen = bundle.seen.renumbered(row_of)
    parts = bundle.model, catalogue, bundle.queries, seen, popularity, index, details
    return with_version(Bundle(*parts, features=features))


def embedded(model: TwoTower, candidates: pa.Table) -> Tensor:
    """Candidate embeddings on the CPU, `[C, d]`.

    Raises:
        TwoTowerError: An embedding is not finite.
    """
    embeddings = model.embed_candidates(candidates).cpu()
    if not bool(embeddings.isfinite().all()):
        raise TwoTowerError("a candidate embedding is not finite: training has diverged")
    return embeddings


def features_for(model: TwoTower, rerank: Rerank | None, candidates: pa.Table) -> Tensor | None:
    """Candidate features that the re-ranking head reads besides the embeddings, on the CPU, `[C, width]`.

    None if there is no re-ranking head, or it reads embeddings only.

    Args:
        model: The model, in evaluation mode.
        rerank: The re-ranking settings, with the head resolved.
        candidates: The candidates.

    Raises:
        TwoTowerError: A number is not finite.
    """
    if rerank is None or not model.heads[rerank.head].reads_features:
        return None
    side = model.encode_candidates(candidates).to(model.device)
    features = model.embed_side(side, model.candidate.read).float().cpu().contiguous()
    if not bool(features.isfinite().all()):
        raise TwoTowerError("a candidate's features are not finite: training has diverged")
    return features


def gated(index: Index, model: TwoTower, requests: Requests, threshold: float | None) -> tuple[Index, Parity | None]:
    """Widen the index's search until it meets the threshold, and measure its recall against exact search.

    Returns:
        The index and its parity, which is None for an exact index.

    Raises:
        ParityError: Recall stays below the threshold.
    """
    if isinstance(index, ExactIndex):
        return index, None
    return fitted(index, measured_queries(model, requests), threshold)


def measured_queries(model: TwoTower, requests: Requests) -> Tensor:
    """Embeddings of known queries, on which the recall of an index or store is measured, `[n, d]`.

    Of a query with several interests, each is one of them.
    """
    known = requests.queries.num_rows
    rows = np.sort(np.random.default_rng(0).permutation(known)[:QUERIES]).tolist()
    with torch.no_grad():
        queries = model.query_vectors(requests.encode([{}] * len(rows), rows))
    return apart(queries, model.width).flatten(0, 1)


def check_title(candidates: pa.Table, title: str) -> None:
    """Check that a column can be shown as a candidate's title.

    Raises:
        ConfigError: The candidates lack the column, or it holds neither text nor numbers.
    """
    if title not in candidates.column_names:
        raise ConfigError(
            f"title {title!r} is not a candidate column; expected one of {', '.join(candidates.schema.names)}"
        )
    kind = candidates.schema.field(title).type
    if pa.types.is_nested(kind) or pa.types.is_null(kind):
        raise ConfigError(f"title column {title!r} is {kind}; expected text")


def title_of(candidates: pa.Table, candidate_id: str) -> str:
    """The default title column: the first text column whose name contains `title` or `name`, else the id column."""
    for field in candidates.schema:
        if pa.types.is_string(field.type) and any(word in field.name.lower() for word in ("title", "name")):
            return str(field.name)
    return candidate_id


def _read(
    source: TableSource, known: pa.Table, candidate_id: str, csv: CsvFormat | None = None
) -> tuple[pa.Table, Place]:
    """A catalogue, with ids cast to the id type of the known one, and where it comes from."""
    read = read_source(source, CANDIDATES, csv)
    place = Place(origin=read.origin, table=CANDIDATES)
    require_columns(read.table, [candidate_id], CANDIDATES)
    check_ids(read.table[candidate_id], candidate_id, CANDIDATES, unique=True, place=place)
    kind = known.schema.field(candidate_id).type
    table = with_ids_like(read, kind, candidate_id).table
    cast = cast_ids(table[candidate_id], kind, candidate_id, CANDIDATES)
    return table.set_column(table.column_names.index(candidate_id), candidate_id, cast), place


def _warn_of_lost(ids: pa.ChunkedArray, row_of: IntArray, events: IntArray, candidate_id: str) -> None:
    """Warn if training events name candidates that the new catalogue lacks, and say how many."""
    lost = row_of < 0
    if dropped := int(events[lost].sum()):
        examples = ids.filter(pa.array(lost & (events > 0))).slice(0, EXAMPLES).to_pylist()
        warn_of_dropped(dropped, int(events.sum()), candidate_id, examples)


def _as_catalogue(candidates: pa.Table, seen: Dataset) -> Dataset:
    """The training events over another catalogue; events whose candidate it lacks are dropped with a warning."""
    if candidates.equals(seen.candidates):
        return seen
    log = {
        seen.query_id: seen.queries[seen.query_id].take(pa.array(seen.query_index)),
        seen.candidate_id: seen.candidates[seen.candidate_id].take(pa.array(seen.candidate_index)),
    }
    if seen.time is not None:
        log[seen.time] = seen.interactions[seen.time]
    tables = LogTables(
        seen.name, seen.queries, candidates, seen.query_id, seen.candidate_id, seen.time, unknown_candidates="drop"
    )
    return tables.events(pa.table(log))

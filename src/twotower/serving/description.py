"""`Description`: what the service displays about a bundle: its columns, scores and curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from twotower.features.history import GIVEN
from twotower.retrieval.answers import Recommendation
from twotower.retrieval.notes import Curve, Notes
from twotower.retrieval.retriever import Retriever
from twotower.serving.answers import Column, Found, Metric, ModelAnswer, Recommended, Refused, Reranking, StudyAnswer
from twotower.version import VERSION

MAX_CHOICES = 60
"""Offer a column's values as choices if there are at most this many distinct ones."""


class Titles:
    """Titles of a retriever's candidates."""

    def __init__(self, retriever: Retriever) -> None:
        self.retriever = retriever
        self._title, self._id = retriever.details.title, retriever.details.candidate_id

    def title(self, row: dict[str, Any]) -> str:
        """The title of a candidate, from its row; its id if it has none."""
        shown = row.get(self._title)
        return str(row[self._id] if shown is None else shown)

    def recommended(self, found: Sequence[Recommendation]) -> list[Recommended]:
        """Recommendations with their titles."""
        return [
            Recommended(one.id, one.score, self.title(one.candidate), one.candidate, one.rerank_score) for one in found
        ]

    def candidates(self, ids: Sequence[int | str]) -> list[Found]:
        """Candidates by their ids, with titles and rows."""
        rows = [self.retriever.candidate_row(one) for one in ids]
        found = self.retriever.candidates.take(pa.array(rows, pa.int64())).to_pylist()
        return [Found(one, self.title(row), row) for one, row in zip(ids, found, strict=True)]


class Description(Titles):
    """What the service displays about a bundle, computed once when it is loaded.

    Args:
        retriever: The bundle's retriever.
    """

    def __init__(self, retriever: Retriever) -> None:
        super().__init__(retriever)
        details, requests = retriever.details, retriever.requests
        self.columns = columns_of(retriever.candidates, details.candidate_id)
        own = {details.query_id, details.time, GIVEN}
        known = {column.name: column for column in columns_of(retriever.queries, details.query_id)}
        read = sorted({name for feature in requests.features for name in feature.reads} - own)
        self.reads = [known.get(name, Column(name, "text")) for name in read]
        self.metrics, self.remarks = metrics_of(details.notes)
        self.study = study_of(details.notes, retriever.version)

    def model(self, loaded_at: str, last_refused: Refused | None) -> ModelAnswer:
        """A description of the served bundle."""
        retriever = self.retriever
        details = retriever.details
        return ModelAnswer(
            version=retriever.version,
            library=VERSION,
            data=details.data,
            query_id=details.query_id,
            candidate_id=details.candidate_id,
            title=details.title,
            queries=retriever.queries.num_rows,
            candidates=retriever.candidates.num_rows,
            index=details.searched_by,
            recall=getattr(details.parity, "recall", None),
            revision=details.revision,
            loaded_at=loaded_at,
            reads=self.reads,
            reads_history=retriever.requests.reads_history,
            columns=self.columns,
            metrics=self.metrics,
            remarks=self.remarks,
            last_refused=last_refused,
            rerank=None if details.rerank is None else Reranking(details.rerank.n, details.rerank.head),
        )

    def find_candidates(self, like: str, limit: int) -> list[Found]:
        """The first candidates whose id or title contains a text."""
        details = self.retriever.details
        rows = containing(self.retriever.candidates, [details.title, details.candidate_id], like, limit)
        return [Found(row[details.candidate_id], self.title(row), row) for row in rows]

    def find_queries(self, like: str, limit: int) -> list[Found]:
        """The first queries whose id contains a text; an exact match comes first."""
        name = self.retriever.details.query_id
        rows = containing(self.retriever.queries, [name], like, limit)
        exact = self.retriever.requests.row({name: like}) if like else None
        if exact is not None:
            first = self.retriever.queries.slice(exact, 1).to_pylist()[0]
            rows = [first, *(row for row in rows if row[name] != first[name])][:limit]
        return [Found(row[name], str(row[name]), row) for row in rows]


def containing(table: pa.Table, names: Sequence[str], like: str, limit: int) -> list[dict[str, Any]]:
    """The first rows in which one of the named columns contains a text, ignoring case.

    Example:
        >>> table = pa.table({"id": [1, 12], "name": ["Heat", "Alien"]})
        >>> containing(table, ["id", "name"], "HEA", 5), len(containing(table, ["id"], "1", 5))
        ([{'id': 1, 'name': 'Heat'}], 2)
    """
    if not like:
        return table.slice(0, limit).to_pylist()  # type: ignore[no-any-return]
    matches = None
    for name in dict.fromkeys(names):
        found = pc.fill_null(pc.match_substring(table[name].cast(pa.string()), like, ignore_case=True), False)
        matches = found if matches is None else pc.or_(matches, found)
    rows = pc.indices_nonzero(matches)[:limit]
    return table.take(rows).to_pylist()  # type: ignore[no-any-return]


def columns_of(table: pa.Table, id_column: str) -> list[Column]:
    """The columns but the id, with their ranges and choices.

    Example:
        >>> table = pa.table({"id": [1, 2], "year": [1995, 1979], "genres": [["War"], ["War", "Drama"]]})
        >>> [(column.name, column.kind, column.highest, column.choices) for column in columns_of(table, "id")]
        [('year', 'number', 1995.0, []), ('genres', 'list', None, ['Drama', 'War'])]
    """
    return [_column(name, table[name]) for name in table.column_names if name != id_column]


def _column(name: str, values: pa.ChunkedArray) -> Column:
    kind = values.type
    if pa.types.is_boolean(kind):
        return Column(name, "truth")
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        ends = pc.min_max(values).as_py()
        lowest, highest = ends["min"], ends["max"]
        return Column(
            name, "number", None if lowest is None else float(lowest), None if highest is None else float(highest)
        )
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        inner = pc.list_flatten(values)
        return Column(name, "list", choices=_choices(inner) if _is_text(inner.type) else [])
    if _is_text(kind):
        return Column(name, "text", choices=_choices(values))
    return Column(name, "other")


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _choices(values: pa.ChunkedArray) -> list[str]:
    different = pc.unique(values).drop_null()
    return sorted(different.to_pylist()) if len(different) <= MAX_CHOICES else []


def metrics_of(notes: Notes) -> tuple[list[Metric], list[str]]:
    """Scores of the model and its baselines, and remarks on them, if the notes have an evaluation."""
    if notes.evaluation is None:
        return [], []
    rows = [Metric(name, scores.all, scores.unseen) for name, scores in notes.evaluation.rows.items()]
    stages = notes.evaluation.rerank
    return rows, [*notes.evaluation.notes, *([] if stages is None else stages.notes)]


def study_of(notes: Notes, version: str) -> StudyAnswer:
    """Curves of a study's variants, or else of the training run."""
    if notes.study is not None:
        study = notes.study
        return StudyAnswer(version, study.metric, study.curves, study.baselines, study.verdicts)
    if notes.history is None:
        return StudyAnswer(version, "", [], {}, [])
    history = notes.history
    _, _, metric = history.monitor.rpartition(".")
    if history.validated:
        points = [(float(epoch.epoch), scores.value(history.monitor)) for epoch, scores in history.validated]
        return StudyAnswer(version, metric, [Curve("validation", points)], {}, [])
    losses = [(float(epoch.epoch), epoch.loss) for epoch in history.epochs]
    return StudyAnswer(version, "loss", [Curve("training loss", losses)], {}, [])

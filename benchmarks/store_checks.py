"""Checks of `store_load.py`: true scores, what the store must contain, and what each phase's answers were."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec
import numpy as np
from recorder import Record
from service import Latency

from twotower.retrieval.stores.store import FloatArray, Found

SCORE_TOLERANCE = 0.01
"""Accept scores with this relative error; those of two models differ by a factor of at least two."""

OUTAGE = "PostgreSQL down"
"""The phase in which the service may answer with 503."""


@dataclass
class Truth:
    """What the service must answer and the store must contain.

    Attributes:
        queries: The embedding of each query, `[Q, d]`.
        candidates: The embedding of each candidate in the first model, and last that of all new ones, `[C + 1, d]`.
        titles: The title of each candidate that the store contains, by id.
        factors: How many times the first model's scores those of a version are.
        withdrawn: When each candidate had been withdrawn, by id.
    """

    queries: FloatArray
    candidates: FloatArray
    titles: dict[int, str]
    factors: dict[str, float] = field(default_factory=dict)
    withdrawn: dict[int, float] = field(default_factory=dict)

    def scores(self, query: int, ids: Sequence[int], factor: float) -> FloatArray:
        """True scores of some candidates, which may be new."""
        rows = np.minimum(np.asarray(ids, dtype=np.int64), len(self.candidates) - 1)
        scores: FloatArray = factor * (self.candidates[rows] @ self.queries[query])
        return scores

    def is_mixed(self, record: Record) -> bool:
        """Whether a score is not that of the version that the answer names."""
        factor = self.factors.get(record.version)
        if factor is None:
            return True
        true = self.scores(record.query, record.ids, factor)
        return not np.allclose(record.scores, true, rtol=SCORE_TOLERANCE)

    def has_withdrawn(self, record: Record) -> bool:
        """Whether an answer has a candidate that had been withdrawn before the request was sent."""
        return any(self.withdrawn.get(one, np.inf) <= record.due for one in record.ids)


class Phase(msgspec.Struct, frozen=True):
    """Requests of one phase and their answers.

    Attributes:
        name: Its name.
        seconds: How long it was.
        requests: Number of requests.
        answers: Number of answers by status, and by error code if it is not 200.
        failures: Number of answers that a client may not get in this phase.
        mixed: Number of answers whose scores do not belong to the version that they name.
        withdrawn: Number of answers with candidates that had been withdrawn.
        versions: Number of answers by version.
        latency: Latency of all answers, those with status 503 included.
    """

    name: str
    seconds: float
    requests: int
    answers: dict[str, int]
    failures: int
    mixed: int
    withdrawn: int
    versions: dict[str, int]
    latency: Latency | None


class Mark(NamedTuple):
    """When a phase started."""

    name: str
    at: float


def phases_of(records: Sequence[Record], marks: Sequence[Mark], end: float, truth: Truth) -> list[Phase]:
    """What each phase's answers were; a request belongs to the phase in which it was due.

    A request that was in flight when the outage started belongs to the outage.
    """
    starts = [mark.at for mark in marks]
    own: list[list[Record]] = [[] for _ in marks]
    outage = next((mark.at for mark in marks if mark.name == OUTAGE), np.inf)
    for record in records:
        in_flight = record.due < outage <= record.answered
        place = bisect_right(starts, outage if in_flight else record.due) - 1
        if place >= 0 and record.due < end:
            own[place].append(record)
    ends = [*starts[1:], end]
    return [_phase(mark.name, until - mark.at, some, truth) for mark, until, some in zip(marks, ends, own, strict=True)]


def _phase(name: str, seconds: float, records: Sequence[Record], truth: Truth) -> Phase:
    good = [record for record in records if record.status == 200]
    allowed = {200, 503} if name == OUTAGE else {200}
    answers = Counter(f"{record.status} {record.problem}".strip() for record in records)
    taken = [record.seconds for record in records if record.status]
    return Phase(
        name=name,
        seconds=seconds,
        requests=len(records),
        answers=dict(answers),
        failures=sum(record.status not in allowed for record in records),
        mixed=sum(map(truth.is_mixed, good)),
        withdrawn=sum(map(truth.has_withdrawn, good)),
        versions=dict(Counter(record.version for record in good)),
        latency=Latency.of(taken) if taken else None,
    )


class Contents(msgspec.Struct, frozen=True):
    """What the store contains after the restart, compared with what it must contain.

    Attributes:
        candidates: Number of candidates that it must contain.
        lost: Number of those that are missing.
        unexpected: Number of candidates that it should not contain.
        changed: Number of candidates with another title or embedding than the last one that was upserted.
        interrupted: What became of the upsert that the kill interrupted: `kept`, `undone`, or `torn` if only a part
            of it was kept; `none` if the kill interrupted none.
    """

    candidates: int
    lost: int
    unexpected: int
    changed: int
    interrupted: str


def contents_of(found: Found, truth: Truth, query: int, factor: float, interrupted: Mapping[int, str]) -> Contents:
    """Compares all candidates, as a search for one query found them, with the truth.

    Args:
        found: All candidates and their scores.
        truth: What the store must contain.
        query: The query.
        factor: How many times the first model's scores the current ones are.
        interrupted: Titles of the upsert that the kill interrupted, by id.
    """
    ids = found.candidates["candidate"].to_pylist()
    titles = dict(zip(ids, found.candidates["title"].to_pylist(), strict=True))
    is_true = np.isclose(found.scores, truth.scores(query, ids, factor), rtol=1e-3, atol=1e-4 * factor)
    moved = {one for one, same in zip(ids, is_true.tolist(), strict=True) if not same}
    kept = sum(titles.get(one) == title for one, title in interrupted.items())
    outcome = "undone" if kept == 0 else "kept" if kept == len(interrupted) else "torn"
    expected = truth.titles | (dict(interrupted) if outcome == "kept" else {})
    renamed = {one for one, title in expected.items() if titles.get(one, title) != title}
    return Contents(
        candidates=len(expected),
        lost=len(expected.keys() - titles.keys()),
        unexpected=len(titles.keys() - expected.keys()),
        changed=len(renamed | moved),
        interrupted=outcome if interrupted else "none",
    )

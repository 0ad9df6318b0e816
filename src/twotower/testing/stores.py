"""`check_store`: tests the contract of a candidate store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing

import pyarrow as pa
import torch
from torch import Tensor

from twotower.errors import ConfigError
from twotower.retrieval.conditions import Condition
from twotower.retrieval.stores.store import Found, Id, Store

CANDIDATES, WIDTH, QUERIES, K = 300, 8, 4, 10
CONDITIONS = (
    None,
    "year >= 2000 and not tags contains 'red'",
    "title contains 'E 7'",
    "day < '1970-02-01' or year is null",
    "year > 3000",
)


def check_store(make: Callable[[pa.Table, Tensor], Store], recall: float = 0.95) -> None:
    """Checks a store.

    - A search returns exactly k candidates, or all eligible ones if fewer; none twice, none excluded, all matching the
      condition; with their true scores, the best first, and their columns; and with at least `recall` of what exact
      search finds.
    - Added and changed candidates are found from then on; withdrawn ones are not.
    - Queries searched together find the same as alone. A k below 1 is refused.

    The store is closed at the end, also if a check fails.

    Args:
        make: Makes a store from a catalogue with id column `id` and its embeddings.
        recall: Minimum recall against exact search.

    Raises:
        AssertionError: A check fails.

    Example:
        >>> from twotower.retrieval import ExactIndex
        >>> from twotower.retrieval.stores.local import LocalStore
        >>> check_store(lambda table, embeddings: LocalStore(ExactIndex(embeddings), table, "id", "0a1b"))
    """
    draw = torch.Generator().manual_seed(0)
    embeddings, queries = (torch.randn(count, WIDTH, generator=draw) for count in (CANDIDATES, QUERIES))
    table = catalogue(list(range(CANDIDATES)))
    with closing(make(table, embeddings)) as store:
        _check_store(store, table, embeddings, queries, recall)


def _check_store(store: Store, table: pa.Table, embeddings: Tensor, queries: Tensor, recall: float) -> None:
    assert len(store) == CANDIDATES, f"it has {len(store)} candidates; expected {CANDIDATES}"
    _check_searches(store, table, embeddings, queries, recall)
    _check_changes(store, table, embeddings, queries)
    for k in (0, -1):
        try:
            store.search(queries, k)
        except ConfigError:
            continue
        raise AssertionError(f"k={k} is not refused with a ConfigError")


def catalogue(ids: Sequence[int]) -> pa.Table:
    """Candidates with columns of several types, derived from the ids, with nulls."""
    return pa.table(
        {
            "id": pa.array(ids, pa.int64()),
            "title": [f"Title {number} \"'%_" for number in ids],
            "year": pa.array([None if number % 7 == 0 else 1990 + number % 30 for number in ids], pa.int16()),
            "day": pa.array(list(ids), pa.int32()).cast(pa.date32()),
            "tags": [None if number % 5 == 0 else ["red", "blue"][: number % 3] for number in ids],
        },
        schema=pa.schema(
            {
                "id": pa.int64(),
                "title": pa.string(),
                "year": pa.int16(),
                "day": pa.date32(),
                "tags": pa.list_(pa.string()),
            }
        ),
    )


def _check_searches(store: Store, table: pa.Table, embeddings: Tensor, queries: Tensor, recall: float) -> None:
    excluded: list[list[Id]] = [[*range(place, 3 * place + 1), -5] for place in range(QUERIES)]
    excluded[0], excluded[1] = [], list(range(CANDIDATES - 3))
    for text in CONDITIONS:
        condition = None if text is None else Condition.parse(text, store.schema)
        for outs in (None, excluded):
            for k in (1, K, CANDIDATES + 5):
                found = store.search(queries, k, outs, condition)
                share = _check(found, table, embeddings, queries, k, outs, condition)
                assert share >= recall, f"it finds {share:.3f} of what exact search finds; expected {recall}"
    alone = [store.search(queries[place : place + 1], K, [excluded[place]])[0] for place in range(QUERIES)]
    for one, other in zip(alone, store.search(queries, K, excluded), strict=True):
        assert one.candidates["id"].equals(other.candidates["id"]), "queries find other candidates together than alone"


def _check(
    found: Sequence[Found],
    table: pa.Table,
    embeddings: Tensor,
    queries: Tensor,
    k: int,
    excluded: Sequence[Sequence[Id]] | None,
    condition: Condition | None,
) -> float:
    """Checks the results and returns their recall."""
    may = list(range(len(table))) if condition is None else condition.rows(table).tolist()
    ids = table["id"].to_pylist()
    hits = wanted = 0
    assert len(found) == len(queries), f"{len(queries)} queries have {len(found)} results"
    for place, one in enumerate(found):
        banned = set() if excluded is None else set(excluded[place])
        left = [row for row in may if ids[row] not in banned]
        scores = embeddings[left] @ queries[place]
        rows = [ids.index(value) for value in one.candidates["id"].to_pylist()]
        assert len(rows) == len(one.scores) == min(k, len(left)), f"it finds {len(rows)} of {len(left)}, k={k}"
        assert len(set(rows)) == len(rows), "it finds a candidate twice"
        assert set(rows) <= set(left), "it finds a candidate that is excluded or does not match the condition"
        own = torch.from_numpy(one.scores.copy())
        assert torch.allclose(own, embeddings[rows] @ queries[place], atol=1e-4), "scores are not the dot products"
        assert bool((own.diff() <= 1e-6).all()), "the best are not first"
        assert one.candidates.to_pylist() == table.take(pa.array(rows, pa.int64())).to_pylist(), "columns differ"
        if rows:
            hits += int((own >= scores.topk(len(rows)).values[-1] - 1e-4).sum())
            wanted += len(rows)
    return hits / wanted if wanted else 1.0


def _check_changes(store: Store, table: pa.Table, embeddings: Tensor, queries: Tensor) -> None:
    changed = catalogue([5, CANDIDATES, CANDIDATES + 7])
    changed = changed.set_column(1, "title", pa.array(["changed", None, "new"]))
    vectors = torch.stack([9 * queries[0], 8 * queries[0], 7 * queries[0]])
    store.upsert(changed, vectors)
    store.upsert(changed, vectors)  # again: must not create duplicates
    assert len(store) == CANDIDATES + 2, f"with two added and one changed, it has {len(store)} candidates"
    (found,) = store.search(queries[:1], 3)
    assert found.candidates.to_pylist() == changed.to_pylist(), "added or changed candidates are not found"
    condition = Condition.parse("title = 'changed' or title is null", store.schema)
    (found,) = store.search(queries[:1], 3, condition=condition)
    assert found.candidates["id"].to_pylist() == [5, CANDIDATES], "a condition does not see the changed columns"
    store.withdraw([5, CANDIDATES, -1, 17])
    assert len(store) == CANDIDATES - 1, "withdrawn candidates are still counted"
    kept = [row for row in range(CANDIDATES) if row not in (5, 17)]
    left = pa.concat_tables([table.take(pa.array(kept)), changed.slice(2)])
    both = torch.cat([embeddings[kept], vectors[2:]])
    share = _check(store.search(queries, K), left, both, queries, K, None, None)
    assert share >= 0.9, "recall is too low after changes"

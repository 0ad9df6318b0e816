"""`check_index`: tests the contract of an index."""

from __future__ import annotations

import msgspec
import numpy as np
import torch
from torch import Tensor

from twotower.errors import ConfigError, TwoTowerError
from twotower.kinds import kind_of
from twotower.retrieval.index import INDEXES, Index, IndexSettings, IntArray, Pairs
from twotower.retrieval.parity import fitted

CANDIDATES, WIDTH, K = 400, 8, 10


def check_index(settings: IndexSettings, recall: float = 0.95) -> None:
    """Checks the settings of an index, and the index built from them.

    - The kind is registered for the settings' class, and the settings survive a round trip through plain data.
    - A search returns exactly k candidates, or all eligible ones if fewer; none twice, none excluded, all allowed; with
      their true scores, the best first; and with at least `recall` of what exact search finds.
    - Restored from what a bundle stores, it gives the same results; moved to another catalogue, it searches that.
    - It refuses a k below 1, and embeddings that are not finite.

    Args:
        settings: The settings.
        recall: Minimum recall against exact search.

    Raises:
        AssertionError: A check fails.

    Example:
        >>> from twotower import Exact
        >>> check_index(Exact(), recall=1.0)
    """
    kind = kind_of(type(settings))
    assert kind is not None, "the settings have no kind; expected tag='…', tag_field='kind'"
    assert kind in INDEXES, f"kind {kind!r} is not registered"
    assert INDEXES.make(msgspec.to_builtins(settings)) == settings, "its settings do not survive a round trip"
    draw = torch.Generator().manual_seed(0)
    embeddings, queries = (torch.randn(count, WIDTH, generator=draw) for count in (CANDIDATES, 50))
    index = settings.make(embeddings)
    assert (index.kind, len(index)) == (kind, CANDIDATES), f"it is a {index.kind} of {len(index)} candidates"
    assert torch.equal(index.embeddings, embeddings), "its embeddings differ from those given"
    index, parity = fitted(index, queries, None)
    assert parity.recall >= recall, f"it finds {parity.recall:.3f} of what exact search finds; expected {recall}"
    _check_searches(index, queries)
    restored = settings.restore(
        embeddings, {name: own.clone() for name, own in settings.make(embeddings).tensors().items()}
    )
    _check_same(restored, settings.make(embeddings), queries)
    _check_moved(index, queries)
    for k in (0, -1):
        _refused(ConfigError, f"k={k}", lambda k=k: index.search(queries, k))
    _refused(TwoTowerError, "an embedding that is NaN", lambda: settings.make(torch.full((3, WIDTH), torch.nan)))


def _check_searches(index: Index, queries: Tensor) -> None:
    out = np.repeat(np.arange(len(queries)), 3), np.tile(np.array([0, 7, len(index) - 1]), len(queries))
    few, many = np.arange(4, dtype=np.int64), np.arange(0, len(index), 2, dtype=np.int64)
    for excluded in (None, out):
        for allowed in (None, few, many):
            for k in (1, K, len(index) + 5):
                _check_search(index, queries, k, excluded, allowed)


def _check_search(index: Index, queries: Tensor, k: int, excluded: Pairs | None, allowed: IntArray | None) -> None:
    hits = index.search(queries, k, excluded, allowed)
    may = set(range(len(index)) if allowed is None else allowed.tolist())
    places = min(k, len(may))
    assert hits.candidates.shape == hits.scores.shape == (len(queries), places), (
        f"k={k} of {len(may)} candidates gives {list(hits.candidates.shape)}; expected {[len(queries), places]}"
    )
    for place, (found, scores) in enumerate(zip(hits.candidates, hits.scores, strict=True)):
        banned = set() if excluded is None else set(excluded[1][excluded[0] == place].tolist())
        left = may - banned
        rows = found[found >= 0]
        assert len(rows) == min(places, len(left)), f"it finds {len(rows)} of {len(left)} candidates, k={k}"
        assert len(set(rows.tolist())) == len(rows), "it finds a candidate twice"
        assert set(rows.tolist()) <= left, "it finds a candidate that is excluded or not allowed"
        true = index.embeddings[rows] @ queries[place]
        assert torch.allclose(scores[: len(rows)], true, atol=1e-4), "scores are not the dot products"
        assert bool((scores.diff() <= 1e-6).logical_or(scores[1:] == -torch.inf).all()), "the best are not first"
        assert bool((scores[len(rows) :] == -torch.inf).all()), "empty places do not score −inf"


def _check_moved(index: Index, queries: Tensor) -> None:
    origin = np.array([-1, *range(len(index) - 1, 9, -1)], dtype=np.int64)  # one new, ten gone, the others reversed
    embeddings = index.embeddings[torch.from_numpy(np.maximum(origin, 0))].clone()
    embeddings[0] = 10 * queries[0]
    moved = index.moved(embeddings, origin)
    assert torch.equal(moved.embeddings, embeddings), "moved, its embeddings differ from those given"
    assert moved.search(queries[:1], 1).candidates.item() == 0, "moved, it does not find a new candidate"
    _check_search(moved, queries, K, None, None)


def _check_same(index: Index, other: Index, queries: Tensor) -> None:
    one, another = index.search(queries, K), other.search(queries, K)
    assert torch.equal(one.candidates, another.candidates), "restored from a bundle, it finds other candidates"
    assert torch.equal(one.scores, another.scores), "restored from a bundle, it gives other scores"


def _refused(error: type[Exception], what: str, call: object) -> None:
    try:
        call()  # type: ignore[operator]
    except error:
        return
    raise AssertionError(f"{what} is not refused with a {error.__name__}")

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from twotower.retrieval import ExactIndex, exact


@given(st.integers(0, 2**32 - 1), st.integers(1, 20), st.integers(1, 25), st.integers(1, 6))
def test_search_is_a_sort_of_what_is_not_excluded(seed: int, candidates: int, k: int, queries: int) -> None:
    draw = np.random.default_rng(seed)
    embeddings = draw.normal(size=(candidates, 3)).astype(np.float32)
    wanted = draw.normal(size=(queries, 3)).astype(np.float32)
    banned = draw.random((queries, candidates)) < 0.5
    rows, columns = np.nonzero(banned)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact, "BLOCK", 7)
        excluded = rows.astype(np.int64), columns.astype(np.int64)
        hits = ExactIndex(torch.from_numpy(embeddings)).search(torch.from_numpy(wanted), k, excluded)
    scores = wanted @ embeddings.T
    for query in range(queries):
        left = [int(c) for c in np.argsort(-scores[query]) if not banned[query, c]][:k]
        found = [c for c in hits.candidates[query].tolist() if c >= 0]
        assert found == left

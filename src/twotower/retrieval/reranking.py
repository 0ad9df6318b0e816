"""`Reranker`: reorders retrieved candidates by a head of the model, which reads query and candidate together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from twotower.errors import TwoTowerError
from twotower.model.heads import Side
from twotower.model.rerank import PAIRS, pair_logits
from twotower.model.sides import candidate_side
from twotower.model.tower_module import features_of
from twotower.retrieval.answers import Ranked
from twotower.retrieval.bundle import Bundle
from twotower.retrieval.ids import Ids


class Reranker:
    """Sorts retrieved candidates by a head's outputs, highest first.

    The head's inputs for the catalogue were computed when the bundle was built: features are memory-mapped from the
    bundle, and embeddings come from the index. If a store returns candidates with other column values than the bundle
    has, the inputs are computed from the store's values.

    Args:
        bundle: A bundle with `rerank`.
        ids: Ids of its candidates.
    """

    def __init__(self, bundle: Bundle, ids: Ids) -> None:
        assert bundle.details.rerank is not None
        self.model, self.ids = bundle.model, ids
        self.head = bundle.model.heads[bundle.details.rerank.head]
        reads = {name for feature in features_of(bundle.model.candidate) for name in feature.reads}
        self._read = bundle.candidates.select(sorted(reads)).combine_chunks()
        embeddings = bundle.index.embeddings
        features = embeddings[:, :0] if bundle.features is None else bundle.features
        self._catalogue = Side(features, embeddings if self.head.reads_vectors else embeddings[:, :0])

    @torch.inference_mode()
    def rerank(self, found: Sequence[Ranked], encoded: Sequence[Tensor], vectors: Tensor, k: int) -> list[Ranked]:
        """The k best of the retrieved candidates of each of q requests; ties stay in the order of retrieval.

        Args:
            found: The retrieved candidates of each request.
            encoded: The query tower's inputs, `[q, …]` each.
            vectors: The requests' embeddings, `[q, d]`.
            k: How many.

        Raises:
            TwoTowerError: An output of the head is not finite.
        """
        features = self.model.query.read(encoded) if self.head.reads_features else vectors[:, :0]
        queries = Side(features, vectors)
        return [one for part in _blocks(found) for one in self._block(found[part], queries, part, k)]

    def _block(self, found: Sequence[Ranked], queries: Side, part: slice, k: int) -> list[Ranked]:
        sizes = [len(one.scores) for one in found]
        asked = torch.repeat_interleave(torch.arange(part.start, part.start + len(found)), torch.tensor(sizes))
        if any(one.found is not None for one in found):
            sides = [self._side(one) for one in found]
            candidates = Side(*(torch.cat([getattr(own, name) for own in sides]) for name in ("features", "vectors")))
            rows = torch.arange(len(asked))
        else:
            candidates, rows = self._catalogue, torch.from_numpy(np.concatenate([one.rows for one in found]))
        logits = pair_logits(self.head, queries, asked, candidates, rows)
        if not bool(logits.isfinite().all()):
            raise TwoTowerError("an output of the re-ranking head is not finite")
        answers = self.head.linked(logits).numpy()
        ends = np.cumsum(sizes)[:-1]
        each = zip(found, np.split(logits.numpy(), ends), np.split(answers, ends), strict=True)
        return [
            replace(one, rerank_scores=answer.astype(np.float32)).take(np.argsort(-own, kind="stable")[:k])
            for one, own, answer in each
        ]

    def _side(self, ranked: Ranked) -> Side:
        """The head's inputs for the candidates found for one request."""
        if ranked.found is None:
            return self._catalogue_rows(ranked.rows.tolist())
        rows = [self.ids.row(own) for own in ranked.found[self.ids.name].to_pylist()]
        known = [row for row in rows if row is not None]
        stored = ranked.found.select(self._read.column_names).combine_chunks()
        if len(known) == len(rows) and stored.equals(self._read.take(pa.array(known, pa.int64()))):
            return self._catalogue_rows(known)
        side = candidate_side(self.model, self.model.encode_candidates(stored).whole(), self.head.reads_vectors)
        return side if self.head.reads_features else Side(side.features[:, :0], side.vectors)

    def _catalogue_rows(self, rows: Sequence[int]) -> Side:
        chosen = torch.tensor(rows, dtype=torch.int64)
        return Side(self._catalogue.features[chosen], self._catalogue.vectors[chosen])


def _blocks(found: Sequence[Ranked]) -> Iterator[slice]:
    """Slices of requests whose candidates the head scores at once."""
    longest = max((len(one.scores) for one in found), default=1)
    together = max(1, PAIRS // max(1, longest))
    return (slice(start, start + together) for start in range(0, len(found), together))

"""`Validation`: measures a model repeatedly on the same events during training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from twotower.arguments import checks_arguments
from twotower.data.dataset import Dataset
from twotower.data.seen import Seen
from twotower.evaluation.evaluate import require_same_catalogue
from twotower.evaluation.metrics import DEFAULT_KS, Scores, check_ks, new_choice_metrics, rank_metrics
from twotower.evaluation.outcomes import event_weights, events_that_count, repeats_of
from twotower.evaluation.ranking import DotProducts, FloatArray, Ranker
from twotower.model.two_tower import TwoTower
from twotower.ranks import Ranks, current_ranks


class Validation:
    """Validation events, encoded once for a model that has learned its vocabularies.

    Args:
        model: The model that will be trained.
        events: The events to evaluate on; if they have weights, metrics are weighted means.
        train: The events that `unseen` excludes.
        ks: Lengths of lists.

    Raises:
        DataError: `events` and `train` are not parts of the same data, or all events have weight 0.
    """

    @checks_arguments
    def __init__(self, model: TwoTower, events: Dataset, train: Dataset, ks: Sequence[int] = DEFAULT_KS) -> None:
        check_ks(ks)
        require_same_catalogue(events, train)
        events = events_that_count(events)
        self.weights, self.repeats = event_weights(events), repeats_of(events, train)
        self.ks, self.ranker = tuple(ks), Ranker(events, Seen.of(train), model.device)
        self.queries = model.encode_queries(events).to(model.device)
        self.candidates = model.encode_candidates(events.candidates).to(model.device)

    def measure(self, model: TwoTower) -> Scores:
        """Top-k accuracy, MRR and NDCG of the model in its current state.

        Joined ranks each embed and rank a part of the events, keeping those of a query together.

        Raises:
            TwoTowerError: An embedding is not finite.
        """
        joined = current_ranks()
        if joined.size == 1:
            score = DotProducts(
                model.embed_side(self.queries, model.query_vectors),
                model.embed_side(self.candidates, model.candidate_vectors),
            )
            ranks, unseen_ranks = self.ranker.ranks(score)
        else:
            ranks, unseen_ranks = self._ranks_of_parts(model, joined)
        everything, unseen = (rank_metrics(own, self.ks, self.weights) for own in (ranks, unseen_ranks))
        return Scores(everything, unseen, new=new_choice_metrics(unseen_ranks, self.repeats, self.ks, self.weights))

    def _ranks_of_parts(self, model: TwoTower, joined: Ranks) -> tuple[FloatArray, FloatArray]:
        """The ranks of all events, with each process ranking a part."""
        part = torch.arange(len(self.candidates), device=model.device)[joined.part(len(self.candidates))]
        embedded = model.embed_side(self.candidates, model.candidate_vectors, part)
        blocks = self.ranker.blocks[joined.rank :: joined.size]
        numbers = np.concatenate([block.numbers for block in blocks]) if blocks else np.empty(0, dtype=np.int64)
        own = torch.from_numpy(numbers).to(model.device)
        queries = embedded.new_zeros(len(self.queries), model.query.width)
        queries[own] = model.embed_side(self.queries, model.query_vectors, own)
        score = DotProducts(queries, joined.gather_parts(embedded, len(self.candidates)))
        # The ranks of other processes' events are 0.
        own_ranks = torch.from_numpy(np.stack(self.ranker.ranks(score, blocks))).to(model.device)
        ranks, unseen_ranks = joined.sum(own_ranks).cpu().numpy()
        return ranks, unseen_ranks

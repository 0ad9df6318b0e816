"""`Predictor`: a head's predictions for events, which are encoded once and reused as the model changes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from twotower.data.dataset import Dataset
from twotower.errors import TwoTowerError
from twotower.model.embedding import BLOCK
from twotower.model.sides import candidate_side, query_side
from twotower.model.two_tower import TwoTower


class Predictor:
    """Events, encoded for a model that has learned its vocabularies.

    Args:
        model: The model that will predict.
        events: The events.
    """

    def __init__(self, model: TwoTower, events: Dataset) -> None:
        self.queries = model.encode_queries(events).to(model.device)
        self.candidates = model.encode_candidates(events.candidates).to(model.device)
        self.own = torch.from_numpy(events.candidate_index).to(model.device)

    @torch.no_grad()
    def answers(
        self, model: TwoTower, head: str, rows: Tensor | None = None, candidates: Tensor | None = None
    ) -> npt.NDArray[np.float64]:
        """A head's predictions for pairs of an event's query and a candidate, `[n]`.

        Args:
            model: The model in its current state.
            head: Name of the head.
            rows: Row of each pair's event, `[n]`; default: each event once.
            candidates: Row of each pair's candidate, `[n]`; default: the event's own.

        Raises:
            TwoTowerError: A prediction is not finite.
        """
        rows = torch.arange(len(self.own), device=self.own.device) if rows is None else rows
        candidates = self.own[rows] if candidates is None else candidates
        was_training = model.training
        model.eval()
        parts = [
            self._block(model, head, *block)
            for block in zip(torch.split(rows, BLOCK), torch.split(candidates, BLOCK), strict=True)
        ]
        model.train(was_training)
        found: npt.NDArray[np.float64] = torch.cat(parts).double().cpu().numpy() if parts else np.empty(0)
        if not np.isfinite(found).all():
            raise TwoTowerError(
                f"a prediction of head {head!r} is not finite: training has diverged; a lower learning rate may help"
            )
        return found

    def _block(self, model: TwoTower, head: str, rows: Tensor, candidates: Tensor) -> Tensor:
        module = model.heads[head]
        event_rows, query = torch.unique(rows, return_inverse=True)
        candidate_rows, candidate = torch.unique(candidates, return_inverse=True)
        queries = query_side(model, self.queries.gather(event_rows), module.reads_vectors)
        sides = candidate_side(model, self.candidates.gather(candidate_rows), module.reads_vectors)
        answers: Tensor = module(queries.take(query), sides.take(candidate))
        return answers


def predict(model: TwoTower, events: Dataset, head: str) -> npt.NDArray[np.float64]:
    """A head's prediction for the query and candidate of each event, `[N]`.

    Args:
        model: A trained model.
        events: The events, such as a test part; their targets are not read.
        head: Name of the head's task, such as `rating`.

    Raises:
        ConfigError: The model has no such head.
    """
    return Predictor(model, events).answers(model, head)

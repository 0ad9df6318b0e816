"""Implicit ALS: matrix factorisation of the whole matrix of choices, by the library `implicit`."""

from __future__ import annotations

import numpy as np
import torch

from twotower.data.dataset import Dataset
from twotower.data.seen import Seen
from twotower.evaluation.ranking import DotProducts, ScoreBlock
from twotower.extras import require


class Ials:
    """Implicit ALS: factors of queries and candidates whose product is near the binary matrix of choices.

    Minimises Σ (1 + (α − 1) x_qc) (x_qc − u_q·v_c)² + λ (Σ ‖u_q‖² + Σ ‖v_c‖²) over all pairs of a query and
    a candidate, x_qc being 1 where the pair is in train, else 0 (Hu, Koren and Volinsky, *Collaborative
    filtering for implicit feedback datasets*, ICDM 2008). With a well-chosen λ it is hard to beat (Rendle et
    al., *Revisiting the performance of iALS on item recommendation benchmarks*, RecSys 2022). A query without
    train events has no factors: all candidates tie.

    Args:
        train: The training split.
        factors: Length of the factors.
        regularization: λ.
        alpha: α, the weight of a pair in train; every other pair has weight 1.
        iterations: Rounds of solving for the queries, then for the candidates.
        seed: Seed of the initial factors.

    Raises:
        MissingExtraError: The extra `baselines` is not installed.
    """

    def __init__(
        self,
        train: Dataset,
        factors: int = 32,
        regularization: float = 30.0,
        alpha: float = 5.0,
        iterations: int = 20,
        seed: int = 0,
    ) -> None:
        threads, sparse = require("threadpoolctl", "baselines"), require("scipy.sparse", "baselines")
        als = require("implicit.cpu.als", "baselines")
        seen = Seen.of(train)
        choices = sparse.csr_matrix(
            (np.ones(len(seen.candidates), dtype=np.float32), seen.candidates, seen.offsets),
            shape=(train.queries.num_rows, train.candidates.num_rows),
        )
        # implicit runs its own threads, and warns where BLAS would start more in each of them.
        with threads.threadpool_limits(1, user_api="blas"):
            model = als.AlternatingLeastSquares(
                factors,
                regularization=regularization,
                alpha=alpha,
                iterations=iterations,
                num_threads=torch.get_num_threads(),
                random_state=seed,
            )
            model.fit(choices, show_progress=False)
        self.queries = torch.from_numpy(model.user_factors)
        self.candidates = torch.from_numpy(model.item_factors)

    def score_block(self, events: Dataset) -> ScoreBlock:
        """Products of the factors."""
        return DotProducts(self.queries[torch.from_numpy(events.query_index)], self.candidates)

"""Implicit ALS: factorises the whole matrix of choices with the library `implicit`."""

from __future__ import annotations

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from twotower.arguments import checks_arguments, refuse_below
from twotower.data.dataset import Dataset
from twotower.data.seen import Seen
from twotower.evaluation.baselines.budget import Cost, Machine, product_seconds
from twotower.evaluation.baselines.names import BASELINES
from twotower.evaluation.by_query import QueryScorer
from twotower.evaluation.ranking import IntArray
from twotower.extras import require
from twotower.progress import ReportStep, no_report

FACTORS, ITERATIONS = 32, 20

DENSE_SPEED = 20.0
"""Dense multiplications that take as long as one multiplication of a sparse product."""


@BASELINES.register
class Ials(QueryScorer):
    """Implicit ALS: query and candidate factors whose product approximates the binary matrix of choices.

    Minimises Σ (1 + (α − 1) x_qc) (x_qc − u_q·v_c)² + λ (Σ ‖u_q‖² + Σ ‖v_c‖²) over all pairs of a query and
    a candidate, where x_qc is 1 if the pair is in train, else 0 (Hu, Koren and Volinsky, *Collaborative
    filtering for implicit feedback datasets*, ICDM 2008). With a well-chosen λ, it is hard to beat (Rendle et
    al., *Revisiting the performance of iALS on item recommendation benchmarks*, RecSys 2022). A query without
    events in train has no factors: all candidates tie.

    Args:
        train: The training split.
        factors: Number of factors.
        regularization: λ.
        alpha: α, the weight of a pair in train; every other pair has weight 1.
        iterations: Rounds of solving for the queries, then for the candidates.
        seed: Seed of the initial factors.
        step: Receives the progress.

    Raises:
        MissingExtraError: The extra `baselines` is not installed.
    """

    kind, label = "ials", "iALS"

    @checks_arguments
    def __init__(
        self,
        train: Dataset,
        factors: int = FACTORS,
        regularization: float = 30.0,
        alpha: float = 5.0,
        iterations: int = ITERATIONS,
        seed: int = 0,
        step: ReportStep = no_report,
    ) -> None:
        refuse_below(1, "Ials", factors=factors, iterations=iterations)
        refuse_below(0, "Ials", regularization=regularization, alpha=alpha, seed=seed)
        require("implicit", "baselines")
        als, threads = require("implicit.cpu.als", "baselines"), require("threadpoolctl", "baselines")
        seen = Seen.of(train)
        choices = sparse.csr_matrix(
            (np.ones(len(seen.candidates), dtype=np.float32), seen.candidates, seen.offsets),
            shape=(train.queries.num_rows, train.candidates.num_rows),
        )

        def after(iteration: int, seconds: float, loss: float | None) -> None:
            del seconds, loss
            step("alternating", (iteration + 1) / iterations)

        # implicit runs its own threads, and warns if BLAS would start more in each of them.
        with threads.threadpool_limits(1, user_api="blas"):
            model = als.AlternatingLeastSquares(
                factors,
                regularization=regularization,
                alpha=alpha,
                iterations=iterations,
                num_threads=torch.get_num_threads(),
                random_state=seed,
            )
            model.fit(choices, show_progress=False, callback=after)
        self.queries = torch.from_numpy(model.user_factors)
        self.candidates = torch.from_numpy(model.item_factors)

    @staticmethod
    def cost(train: Dataset, machine: Machine) -> Cost:
        """Estimated cost on this log, with three conjugate gradient steps per row and round."""
        rows = train.queries.num_rows + train.candidates.num_rows
        once = 4.0 * FACTORS * (2 * len(train) + FACTORS * rows)
        return Cost(
            product_seconds(machine, ITERATIONS * once / DENSE_SPEED), 4.0 * (2 * FACTORS * rows + 6 * len(train))
        )

    def score_queries(self, queries: IntArray) -> Tensor:
        """Products of the factors."""
        return self.queries[torch.from_numpy(queries)] @ self.candidates.t()

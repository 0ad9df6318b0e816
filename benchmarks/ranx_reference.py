"""Reference metrics from `ranx` for tests/evaluation/test_metrics_numpy.py, which needs neither ranx nor numba itself.

    python -m venv .venv-ranx && .venv-ranx/bin/pip install ranx==0.3.21
    .venv-ranx/bin/python benchmarks/ranx_reference.py

Writes tests/evaluation/ranx.json: for each run, the candidates of every query in order of their scores, the relevant
ones, and ranx's metrics. There are no tied scores, since ranx breaks ties by sort order.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from ranx import Qrels, Run, evaluate

OUT = Path(__file__).parents[1] / "tests" / "evaluation" / "ranx.json"
KS = (1, 3, 10)
RUNS = ((3, 12, 25), (17, 8, 40), (29, 20, 11))  # seed, queries, candidates


def main() -> None:
    """Writes the JSON file."""
    content = {"ranx": version("ranx"), "ks": KS, "runs": [run_of(*sizes) for sizes in RUNS]}
    OUT.write_text(json.dumps(content, separators=(",", ":")) + "\n", encoding="utf-8")


def run_of(seed: int, queries: int, candidates: int) -> dict[str, Any]:
    """One random run with ranx's metrics: for all relevant candidates of a query, and for one at a time."""
    draw = np.random.default_rng(seed)
    orders = [draw.permutation(candidates).tolist() for _ in range(queries)]
    relevant = [sorted(draw.choice(candidates, size=draw.integers(1, 6), replace=False).tolist()) for _ in orders]
    run = {f"q{query}": ranked(order) for query, order in enumerate(orders)}
    sets = {f"q{query}": dict.fromkeys(map(str, chosen), 1) for query, chosen in enumerate(relevant)}
    events = [(query, one) for query, chosen in enumerate(relevant) for one in chosen]
    singles = {f"e{number}": {str(one): 1} for number, (_, one) in enumerate(events)}
    single_run = {f"e{number}": ranked(orders[query]) for number, (query, _) in enumerate(events)}
    by_query = [f"{kind}@{k}" for kind in ("recall", "precision", "map") for k in KS]
    by_event = ["mrr", *(f"{kind}@{k}" for kind in ("hit_rate", "ndcg") for k in KS)]
    return {
        "orders": orders,
        "relevant": relevant,
        "by_query": plain(evaluate(Qrels(sets), Run(run), by_query)),
        "by_event": plain(evaluate(Qrels(singles), Run(single_run), by_event)),
    }


def ranked(order: list[int]) -> dict[str, float]:
    """A score for each candidate, highest first."""
    return {str(candidate): float(len(order) - place) for place, candidate in enumerate(order)}


def plain(metrics: Any) -> dict[str, float]:
    """Converts NumPy numbers to floats."""
    return {name: float(value) for name, value in metrics.items()}


if __name__ == "__main__":
    main()

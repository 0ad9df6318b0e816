"""Runs TensorFlow Recommenders' published test cases in both libraries and compares the numbers.

    python benchmarks/tfrs/replay.py

Runs every case of `cases.py` here and in the environment of TensorFlow Recommenders (created by `make bench-tfrs`),
stores their numbers in benchmarks/results/tfrs-test-cases.json, and writes docs/benchmarks/tfrs-test-cases.md.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cases
import numpy as np
import pyarrow as pa
import torch
from client import PYTHON
from torch import Tensor

from twotower.data import Dataset, from_tables
from twotower.errors import ConfigError, TwoTowerError
from twotower.evaluation import rank_events, rank_metrics
from twotower.evaluation.ranking import DotProducts
from twotower.files import write_file
from twotower.model import Cross, DotInteraction
from twotower.model.cross import CrossLayers
from twotower.model.functional import Removed, in_batch_softmax, pointwise_loss
from twotower.retrieval import ExactIndex

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "tfrs-test-cases.json"
PAGE = ROOT / "docs" / "benchmarks" / "tfrs-test-cases.md"
LARGEST_LOGIT = 16.0
"""Used instead of the infinite logit of probability 1; its sigmoid is 1 within float32 precision."""

STDERR_LINES = 20
"""Last lines of TensorFlow Recommenders' output in an error message."""

SHOWN = 4
"""The table shows up to this many numbers of a case; of more, only their sum."""

Found = dict[str, cases.Found]


def retrieval(one: cases.Retrieval) -> list[float]:
    """The summed loss; for one embedding of a query also top-1 accuracy in the batch and top-5 in the catalogue."""
    rows = len(one.query)
    weights = torch.ones(rows) if one.weights is None else torch.from_numpy(one.weights)
    query, candidates = torch.from_numpy(one.query), torch.from_numpy(one.candidates)
    ranks = torch.zeros(rows, dtype=torch.int32)
    loss = in_batch_softmax(query, candidates, torch.arange(rows), weights=weights, reduction="sum", ranks=ranks)
    if query.dim() == 3:
        return [loss.item()]
    first = (weights * (ranks == 1)).sum() / weights.sum()
    catalogue = torch.cat([candidates[:rows], torch.zeros(one.zeros, 3)])
    found = _accuracy(one.query, catalogue.numpy(), np.arange(rows), weights.numpy(), (5,))
    return [loss.item(), first.item(), *found]


def top_k(one: cases.TopK) -> list[float]:
    """Exact search: scores, and then candidates."""
    excluded = None
    if one.excluded is not None:
        excluded = np.repeat(np.arange(len(one.query)), one.excluded.shape[1]), one.excluded.ravel()
    hits = ExactIndex(torch.from_numpy(one.candidates)).search(torch.from_numpy(one.query), one.k, excluded)
    return [*hits.scores.flatten().tolist(), *hits.candidates.flatten().double().tolist()]


def _accuracy(query: Any, candidates: Any, true: Any, weights: Any, ks: tuple[int, ...]) -> list[float]:
    """Top-k accuracy over the whole catalogue, from ranks."""
    log = pa.table({"query": np.arange(len(query)), "item": true})
    items = pa.table({"item": np.arange(len(candidates))})
    events: Dataset = from_tables(log, query_id="query", candidate_id="item", candidates=items)
    ranks, _ = rank_events(DotProducts(torch.from_numpy(query), torch.from_numpy(candidates)), events)
    metrics = rank_metrics(ranks, ks, weights)
    return [metrics[f"top_{k}"] for k in ks]


def losses() -> Found:
    """Softmax losses of given logits: with one-hot candidates, the queries are the logits."""
    found: Found = {}
    for seed in cases.SEEDS:
        mined, _ = cases.mined(seed)
        found[f"hard negatives, seed {seed}"] = _softmax(mined, hard_negatives=cases.HARD)
        one, ids, _ = cases.accidental(seed)
        hits = torch.from_numpy((ids == ids[one.target][:, None]) & (one.labels == 0))
        found[f"accidental hits, seed {seed}"] = _softmax(one, removed=Removed(*hits.nonzero(as_tuple=True)))
        other, probability, _ = cases.corrected(seed)
        logs = torch.from_numpy(probability).log()
        found[f"sampling probability, seed {seed}"] = _softmax(other, log_probability=logs)
    return found


def _softmax(one: cases.Logits, **options: Any) -> list[float]:
    one_hot = torch.eye(one.logits.shape[1])
    target = torch.from_numpy(one.target)
    return [in_batch_softmax(torch.from_numpy(one.logits), one_hot, target, reduction="sum", **options).item()]


class Zeros(torch.nn.Module):
    """An activation that returns zeros."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Zeros of the inputs' shape."""
        return torch.zeros_like(inputs)


def cross(one: cases.Cross) -> list[float]:
    """A cross layer whose weights are ones."""
    layer = Cross(3, one.rank, diagonal=one.diagonal, activation=Zeros() if one.zero else None)
    _fill(layer, one.bias)
    return _numbers(layer(torch.from_numpy(cases.FIRST), torch.from_numpy(one.inputs)))


def cross_layers(one: cases.Layers) -> list[float]:
    """Cross layers whose weights are ones."""
    layers = CrossLayers(3, one.depth, one.rank)
    _fill(layers, one.bias)
    return _numbers(layers(torch.from_numpy(cases.FIRST)))


def _numbers(tensor: Tensor) -> list[float]:
    found: list[float] = tensor.detach().double().flatten().tolist()
    return found


def _fill(module: torch.nn.Module, bias: float) -> None:
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.fill_(bias if name.endswith("bias") else 1.0)


def dot(itself: bool) -> list[float]:
    """Dot products of all pairs."""
    return _numbers(DotInteraction(itself)([torch.from_numpy(row[None]) for row in cases.DOT_INPUTS]))


def refused(call: Callable[[], object]) -> str:
    """Whether an error is raised."""
    try:
        call()
    except ConfigError:
        return cases.REFUSED
    return "accepted"


def ours() -> dict[str, Found]:
    """Results of twotower, by source and name of the case."""
    wide, probabilities = torch.ones(2, 7), torch.from_numpy(cases.PROBABILITIES)
    logits = probabilities.logit().clamp_max(LARGEST_LOGIT)
    return {
        cases.RETRIEVAL: {name: retrieval(one) for name, one in cases.RETRIEVALS.items()},
        cases.RANKING: {
            "log loss of 1 and 0.3": [pointwise_loss(logits, torch.from_numpy(cases.LABELS), "cross_entropy").item()]
        },
        cases.TOP_K: {name: top_k(one) for name, one in cases.searches()},
        cases.METRICS: {name: _accuracy(*one) for name, one in cases.accuracies().items()},
        cases.LOSS: losses(),
        cases.CROSS: {
            **{name: cross(one) for name, one in cases.CROSSES_OF_ONE.items()},
            "inputs of two widths": refused(lambda: Cross(7)(wide[:, :5], wide)),
            "a negative diagonal": refused(lambda: Cross(7, diagonal=-1.0)),
        },
        cases.CROSSES: {name: cross_layers(one) for name, one in cases.CROSS_LAYERS.items()},
        cases.DOT: {
            "with squares": dot(True),
            "without": dot(False),
            "embeddings of two widths": refused(lambda: DotInteraction()(list(map(torch.from_numpy, cases.UNEVEN)))),
        },
    }


def agree(one: cases.Found, other: cases.Found) -> bool:
    """Whether two results are equal within float32 precision."""
    if isinstance(one, str) or isinstance(other, str):
        return one == other
    return len(one) == len(other) and all(
        math.isclose(a, b, rel_tol=1e-5, abs_tol=1e-5) for a, b in zip(one, other, strict=True)
    )


def page(theirs: dict[str, Found], versions: dict[str, str]) -> str:
    """The page, with one row per case."""
    own, rows, agreed = ours(), [], 0
    for source, name, expected in cases.cases():
        answers = theirs[source][name], own[source][name]
        is_right = all(agree(answer, expected) for answer in answers)
        agreed += is_right
        told = [shown(answer, of_search=source == cases.TOP_K) for answer in answers]
        cells = [f"`{source}`", name, *told, "yes" if is_right else "**no**"]
        rows.append(f"| {' | '.join(cells)} |")
    tfrs, tensorflow = versions["tensorflow-recommenders"], versions["tensorflow"]
    return PAGE_TEXT.format(cases=len(rows), agreed=agreed, rows="\n".join(rows), tfrs=tfrs, tensorflow=tensorflow)


def shown(answer: cases.Found, *, of_search: bool) -> str:
    """Formats a result for the table: its numbers, or their count and sum.

    Args:
        answer: The result.
        of_search: Whether it is half scores, half candidate rows.
    """
    if isinstance(answer, str):
        return answer
    if of_search:
        return f"{len(answer) // 2} scores, sum {sum(answer[: len(answer) // 2]):.5g}"
    if len(answer) <= SHOWN:
        return ", ".join(f"{value:.5g}" for value in answer)
    return f"{len(answer)} numbers, sum {sum(answer):.5g}"


PAGE_TEXT = """# TFRS's test cases

TensorFlow Recommenders {tfrs} ships with its tests. This page covers those that assert numbers. A script runs the
inputs of each case through TensorFlow Recommenders (on TensorFlow {tensorflow}) and through twotower. *Agree* means
that both results equal, to five digits, the number that the case asserts, which the script computes with NumPy.
{agreed} of {cases} cases agree.

```sh
make bench-tfrs                      # makes the environment of TensorFlow Recommenders
python benchmarks/tfrs/replay.py     # runs all cases and writes this page
```

| test | case | TFRS | twotower | agree |
|---|---|---|---|---|
{rows}

The numbers are:

- `retrieval_test`: the summed loss, top-1 accuracy in the batch, top-5 accuracy in the catalogue. With two
  embeddings of each query, the loss alone: TFRS computes no accuracy in the catalogue, and that in the batch rests on a
  tie.
- `layers/factorized_top_k_test`: the scores of the results; the candidates must be the same too.
- `loss_test`: the summed cross-entropy of the logits that a layer returns. Their test compares the logits themselves,
  but twotower's softmax never stores them all.

Intended differences:

- **Excluded candidates.** TFRS lowers their scores by a constant, so they come back when few others are left. twotower
  never returns them.
- **Probability 0.** TFRS turns the correction into an infinite logit. twotower refuses it.
- **Ties.** TFRS counts a candidate as found if fewer than k score strictly higher. twotower uses the mean rank of the
  candidates that tie.
- **Accidental hits.** TFRS adds a very low number to the logit. twotower leaves the column out.

Not replayed:

| test | why |
|---|---|
| ScaNN in `layers/factorized_top_k_test` | no counterpart; our approximate index is HNSW |
| saving and restoring layers, graph mode, serialization | they test TensorFlow; our bundles have their own tests |
| `unified_embedding_test`, `experimental/models/ranking_test` | they assert shapes, or that a model trains |
| `clippy_adagrad_test`, `composite_optimizer_test` | [no counterpart](../how-to/compat-tfrs.md) |
| `tpu_embedding_layer_test`, `partial_tpu_embedding_test`, `models/base_test` | they test TPUs and Keras models |
"""


def main() -> None:
    """Runs TensorFlow Recommenders, and writes results and page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=Path, default=PYTHON, help="Python with TensorFlow Recommenders")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, default=PAGE)
    arguments = parser.parse_args()
    if not arguments.python.exists():
        raise TwoTowerError(
            f"{arguments.python} does not exist; expected the Python of an environment with TensorFlow Recommenders, "
            f"which `make bench-tfrs` creates in .venv-tfrs"
        )
    worker = [str(arguments.python), str(Path(__file__).with_name("replay_worker.py"))]
    done = subprocess.run(worker, capture_output=True, text=True, check=False)
    if done.returncode:
        said = "\n".join(done.stderr.splitlines()[-STDERR_LINES:])
        raise TwoTowerError(f"TensorFlow Recommenders failed:\n{said}")
    theirs = json.loads(done.stdout.splitlines()[-1])
    write_file(arguments.out, (json.dumps(theirs, separators=(",", ":")) + "\n").encode())
    write_file(arguments.page, page(theirs["cases"], theirs["versions"]).encode())
    print(f"written to {arguments.page} and {arguments.out}")


if __name__ == "__main__":
    main()

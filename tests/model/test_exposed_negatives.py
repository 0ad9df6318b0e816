"""Exposed negatives: the losses against NumPy in float64, and which candidates they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from twotower.data import Dataset, from_tables, stream_parquet
from twotower.errors import ConfigError, DataError
from twotower.model import FullSoftmax, InBatchSoftmax, softmax
from twotower.model.exposed import exposed_with
from twotower.model.functional import full_softmax, in_batch_softmax, sampled_softmax
from twotower.model.losses import Batch

Array = npt.NDArray[np.float64]
F64 = torch.float64


def shown_log(rows: list[tuple[int, int, float, bool]], catalogue: int, weights: bool = False) -> Dataset:
    """(query, candidate, time, whether chosen)."""
    columns: dict[str, Any] = dict(
        zip(("who", "what", "at", "clicked"), map(list, zip(*rows, strict=True)), strict=True)
    )
    if weights:
        columns["weight"] = [1.0 + row % 3 for row in range(len(rows))]
    return from_tables(
        pa.table(columns),
        query_id="who",
        candidate_id="what",
        time="at",
        chosen="clicked",
        weight="weight" if weights else None,
        candidates=pa.table({"what": list(range(catalogue))}),
    )


def drawn_log(seed: int, catalogue: int = 9, weights: bool = False) -> Dataset:
    """Two queries, some events and some exposures; every query chooses something, and something else is shown to it."""
    draw = np.random.default_rng(seed)
    rows = [
        (who, int(what), float(at), True)
        for who, what, at in zip([0, 1, 0, 1, 1], draw.integers(4, size=5), draw.integers(50, size=5), strict=True)
    ]
    rows += [(int(draw.integers(2)), int(draw.integers(catalogue)), float(draw.integers(50)), False) for _ in range(12)]
    rows += [(who, catalogue - 1, 25.0, False) for who in (0, 1)]
    return shown_log(rows, catalogue, weights)


def expected_exposed(log: Dataset, count: int) -> list[list[int]]:
    """The nearest `count` of each event's list that its query has chosen in no event."""
    assert log.exposures is not None
    assert log.exposures.times is not None
    found: list[list[int]] = [[] for _ in range(len(log))]
    chosen = set(zip(log.query_index.tolist(), log.candidate_index.tolist(), strict=True))
    for event, entry in zip(*log.exposures.pairs(np.arange(len(log))), strict=True):
        if (int(log.query_index[event]), int(log.exposures.candidates[entry])) not in chosen:
            found[event].append(int(entry))
    distance = np.abs(log.exposures.times[:, None] - log.times)  # [M, N]
    for event, entries in enumerate(found):
        entries.sort(key=lambda entry, event=event: float(distance[entry, event]))  # type: ignore[misc]
    return [[int(log.exposures.candidates[entry]) for entry in entries[:count]] for entries in found]


def in_numpy(
    loss: InBatchSoftmax | FullSoftmax, log: Dataset, rows: list[int], query: Array, candidates: Array
) -> float:
    """The loss as its docstring has it, each draw and each exposed negative a column."""
    exposed = expected_exposed(log, loss.exposed_negatives)
    share = np.bincount(log.candidate_index, minlength=len(candidates)) / len(log)
    weights = log.weights[rows].astype(np.float64)
    values = []
    for row in rows:
        products = candidates @ query[row]
        if isinstance(loss, FullSoftmax):
            columns, wanted, scale = products, products[log.candidate_index[row]], 1
        else:
            corrected = products - np.log(np.maximum(share, 1e-300)) if loss.log_q else products
            columns = corrected[log.candidate_index[rows]]
            wanted, scale = corrected[log.candidate_index[row]], len(rows) if loss.log_q else 1
        own = [products[one] + np.log(loss.exposed_weight * scale) for one in exposed[row]]
        values.append(np.log(np.exp(columns).sum() + np.exp(own).sum()) - wanted)
    total = float(weights @ np.array(values))
    return total / weights.sum() if loss.reduction == "mean" else total


def of_batch(
    loss: InBatchSoftmax | FullSoftmax, log: Dataset, rows: list[int], query: Tensor, candidates: Tensor
) -> Tensor:
    weights = None if log.weight is None else torch.from_numpy(log.weights[rows]).to(F64)
    own = torch.from_numpy(log.query_index[rows]), torch.from_numpy(log.candidate_index[rows])
    batch = Batch(*own, weights, None, torch.tensor(rows))
    return loss.bind(log)(query[rows], batch, lambda wanted: candidates[wanted])


@pytest.mark.parametrize("kind", [InBatchSoftmax, FullSoftmax])
@settings(max_examples=80)
@given(
    seed=st.integers(0, 2**31),
    size=st.integers(1, 5),
    count=st.integers(1, 4),
    weight=st.floats(0.01, 100),
    weighted=st.booleans(),
    log_q=st.booleans(),
    reduction=st.sampled_from(["mean", "sum"]),
)
def test_the_losses_are_their_formula_over_every_draw_and_exposed_negative(
    kind: Any, seed: int, size: int, count: int, weight: float, weighted: bool, log_q: bool, reduction: Any
) -> None:
    log = drawn_log(seed, weights=weighted)
    draw = np.random.default_rng(seed)
    rows = draw.permutation(len(log))[:size].tolist()
    options: dict[str, Any] = {} if kind is FullSoftmax else {"log_q": log_q}
    loss = kind(exposed_negatives=count, exposed_weight=weight, reduction=reduction, **options)
    query, candidates = draw.normal(size=(len(log), 3)), draw.normal(size=(log.candidates.num_rows, 3))
    found = of_batch(loss, log, rows, torch.from_numpy(query), torch.from_numpy(candidates))
    tolerance = 1e-6 if kind is InBatchSoftmax and log_q else 1e-10  # log p is kept in float32
    assert found.item() == pytest.approx(in_numpy(loss, log, rows, query, candidates), rel=tolerance, abs=tolerance)


@pytest.mark.parametrize("loss", [InBatchSoftmax(log_q=False, exposed_negatives=3), FullSoftmax(exposed_negatives=3)])
def test_their_gradients_are_those_of_the_formula(loss: Any) -> None:
    log, draw = drawn_log(3), np.random.default_rng(3)
    query, candidates = draw.normal(size=(len(log), 3)), draw.normal(size=(log.candidates.num_rows, 3))
    tensors = [torch.from_numpy(one.copy()).requires_grad_() for one in (query, candidates)]
    rows, step = [0, 1, 3, 4], 1e-6
    of_batch(loss, log, rows, *tensors).backward()  # type: ignore[no-untyped-call]
    for array, tensor in zip((query, candidates), tensors, strict=True):
        assert tensor.grad is not None
        slopes = np.zeros_like(array)
        for place in np.ndindex(array.shape):
            before = array[place]
            array[place] = before + step
            higher = in_numpy(loss, log, rows, query, candidates)
            array[place] = before - step
            slopes[place] = (higher - in_numpy(loss, log, rows, query, candidates)) / (2 * step)
            array[place] = before
        np.testing.assert_allclose(tensor.grad.numpy(), slopes, atol=1e-8)


@pytest.mark.parametrize("cached", [softmax.CACHED_LOGITS, 5], ids=["whole rows", "tiles"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@settings(max_examples=40)
@given(seed=st.integers(0, 2**31), rows=st.integers(1, 7), columns=st.integers(1, 7), extra=st.integers(1, 4))
def test_further_logits_enter_a_row_s_sum_alone(
    cached: int, smoothing: float, seed: int, rows: int, columns: int, extra: int
) -> None:
    draw = np.random.default_rng(seed)
    tensors = [
        torch.from_numpy(draw.normal(size=shape)).requires_grad_() for shape in ((rows, 3), (columns, 3), (rows, extra))
    ]
    query, candidates, further = tensors
    absent = torch.from_numpy(draw.random((rows, extra)) < 0.3)
    target, weights = torch.from_numpy(draw.integers(columns, size=rows)), torch.from_numpy(draw.random(rows) + 0.1)
    logits = query @ candidates.T
    complete = torch.cat([logits, further.masked_fill(absent, -torch.inf) + 20], dim=1)
    wanted = (1 - smoothing) * logits.gather(1, target[:, None])[:, 0] + smoothing * logits.mean(dim=1)
    plain = (weights * (complete.logsumexp(dim=1) - wanted)).sum() / weights.sum()
    ranks = torch.zeros(rows, dtype=torch.int32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(softmax, "CACHED_LOGITS", cached)
        own = full_softmax(
            query,
            candidates,
            target,
            weights=weights,
            label_smoothing=smoothing,
            ranks=ranks,
            extra=further.masked_fill(absent, -torch.inf) + 20,  # the highest of their rows
        )
    torch.testing.assert_close(own, plain, rtol=1e-10, atol=1e-12)
    for one, other in zip(torch.autograd.grad(own, tensors), torch.autograd.grad(plain, tensors), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    assert ranks.tolist() == (logits >= logits.gather(1, target[:, None])).sum(dim=1).tolist()


def test_hard_negatives_keep_further_logits() -> None:
    query, candidates = torch.eye(2, dtype=F64), torch.eye(2, dtype=F64)
    further = torch.tensor([[0.5], [-torch.inf]], dtype=F64)
    options: dict[str, Any] = {"multiplicity": torch.ones(2), "reduction": "sum", "hard_negatives": 1}
    loss = in_batch_softmax(query, candidates, torch.tensor([0, 1]), extra=further, **options)
    e = np.e
    assert loss.item() == pytest.approx(np.log(e + 1 + np.exp(0.5)) - 1 + np.log(e + 1) - 1)
    again = sampled_softmax(
        query,
        candidates,
        torch.tensor([0, 1]),
        extra=further,
        log_probability=torch.zeros(2, dtype=F64),
        drawn=0,
        catalogue=2,
        **options,
    )
    assert again.item() == pytest.approx(loss.item())


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (torch.zeros(3, 1), r"extra is torch.float32 \[3, 1\]; expected torch.float32 \[2, n\]"),
        (torch.zeros(2, 0), r"expected torch.float32 \[2, n\]"),
        (torch.zeros(2, 1, dtype=F64), "extra is torch.float64"),
        (torch.tensor([[0.0, 1.0], [0.0, torch.nan]]), "extra, row 1, logit 1: nan; expected a number below infinity"),
        (torch.tensor([[torch.inf], [0.0]]), "extra, row 0, logit 0: inf"),
    ],
)
def test_wrong_further_logits_are_refused(extra: Tensor, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        full_softmax(torch.eye(2), torch.eye(2), torch.tensor([0, 1]), extra=extra)


def test_exposed_negatives_are_the_nearest_and_never_what_the_query_has_chosen() -> None:
    log = shown_log(
        [
            (0, 1, 10, True),
            (0, 2, 12, False),
            (0, 3, 11, False),
            (0, 4, 10, False),
            (0, 5, 100, True),
            (0, 1, 99, False),  # chosen at 10
            (0, 6, 98, False),
            (1, 1, 10, True),
        ],
        catalogue=7,
    )
    found = exposed_with(log, 2)
    assert found is not None
    assert found.tolist() == [[4, 3], [6, -1], [-1, -1]]
    assert exposed_with(log, 0) is None
    # what a query chooses only in test says nothing in train
    assert exposed_with(log.take(np.array([1])), 2).tolist() == [[1, 6]]  # type: ignore[union-attr]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", [1, 3, 20])
def test_they_are_found_for_every_event(seed: int, count: int) -> None:
    log = drawn_log(seed)
    found = exposed_with(log, count)
    assert found is not None
    assert [[one for one in row if one >= 0] for row in found.tolist()] == expected_exposed(log, count)


def test_a_log_that_cannot_have_them_is_refused(tmp_path: Path) -> None:
    plain = {"who": [1, 2], "what": [1, 2]}
    loss = FullSoftmax(exposed_negatives=2)
    columns: dict[str, Any] = {"query_id": "who", "candidate_id": "what"}
    with pytest.raises(ConfigError, match="exposed_negatives=2, but 'data' does not say what was shown"):
        loss.bind(from_tables(pa.table(plain), **columns))
    pq.write_table(pa.table(plain), tmp_path / "log.parquet")
    with pytest.raises(ConfigError, match="exposed_negatives=2, but 'data' does not say what was shown"):
        loss.bind(stream_parquet(tmp_path, **columns))
    nothing = shown_log([(0, 0, 1, True), (0, 0, 5, False), (1, 0, 7, True)], catalogue=2)
    with pytest.raises(DataError, match="exposed_negatives=2, but nothing was shown with the 2 events of train"):
        loss.bind(nothing)
    log = drawn_log(0)
    with pytest.raises(ConfigError, match=r"need Batch\.events"):
        loss.bind(log)(
            torch.ones(1, 2), Batch(torch.tensor([0]), torch.tensor([0])), lambda rows: torch.ones(len(rows), 2)
        )


@pytest.mark.parametrize("kind", [FullSoftmax, InBatchSoftmax])
def test_settings_out_of_range_are_refused(kind: Any) -> None:
    with pytest.raises(ConfigError, match="exposed_negatives=-1; expected at least 0"):
        kind(exposed_negatives=-1)
    for weight in (0.0, -1.0):
        with pytest.raises(ConfigError, match=r"exposed_weight=.*; expected a number above 0"):
            kind(exposed_weight=weight)


def test_no_more_candidates_are_embedded_than_announced() -> None:
    log, loss = drawn_log(1, catalogue=200), InBatchSoftmax(exposed_negatives=3, uniform=5)
    embedded: list[int] = []

    def embed(rows: Tensor) -> Tensor:
        assert len(rows) == len(set(rows.tolist()))
        embedded.append(len(rows))
        return torch.ones(len(rows), 2)

    rows = torch.arange(len(log))
    batch = Batch(torch.from_numpy(log.query_index), torch.from_numpy(log.candidate_index), None, None, rows)
    loss.bind(log)(torch.ones(len(log), 2), batch, embed)
    assert len(embedded) == 1
    assert embedded[0] <= loss.embedded(len(log), 200) == min(200, 5 * 4 + 5)

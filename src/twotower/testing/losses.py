"""`check_loss`: tests the contract of a loss."""

from __future__ import annotations

import math

import msgspec
import torch
from torch import Tensor

from twotower.data.dataset import Dataset
from twotower.features import Category
from twotower.kinds import kind_of
from twotower.model.losses import LOSSES, Batch, Loss
from twotower.model.tower import Tower
from twotower.model.two_tower import TwoTower
from twotower.testing.logs import small_log
from twotower.training import Trainer
from twotower.training.identity import digest

WIDTH = 8


def check_loss(loss: Loss) -> None:
    """Checks a loss.

    - It follows the protocol; a checkpoint can identify it; a registered one can be rebuilt from its settings.
    - A batch gives a finite scalar, whose gradient reaches queries and candidates.
    - It embeds no more candidates than `embedded` reports, all of them rows of the catalogue.
    - Scaling all weights leaves a `mean` unchanged and scales a `sum`.
    - It is lower if queries are close to what they chose, and training lowers it.

    Args:
        loss: The loss.

    Raises:
        AssertionError: A check fails.

    Example:
        >>> from twotower import FullSoftmax
        >>> check_loss(FullSoftmax(label_smoothing=0.1))
    """
    assert isinstance(loss, Loss), f"{type(loss).__name__} does not follow the protocol Loss"
    assert loss.reduction in ("mean", "sum"), f"reduction is {loss.reduction!r}; expected 'mean' or 'sum'"
    digest(loss)
    if isinstance(loss, msgspec.Struct) and kind_of(type(loss)) in LOSSES:
        again = LOSSES.make(msgspec.to_builtins(loss))
        assert again == loss, f"rebuilt from its settings, it is {again}"
    log = small_log()
    _check_batch(loss, log)
    _check_weights(loss, log)
    assert _value(loss, log, closeness=1.0) < _value(loss, log, closeness=-1.0), (
        "it is not lower if queries are close to what they chose"
    )
    model = TwoTower(Tower([Category(log.query_id, WIDTH)]), Tower([Category(log.candidate_id, WIDTH)]))
    epochs = Trainer(epochs=5, batch_size=256, loss=loss).fit(model, log).epochs
    assert epochs[-1].loss < epochs[0].loss, f"training does not lower it: {[epoch.loss for epoch in epochs]}"


def _check_batch(loss: Loss, log: Dataset) -> None:
    batch, queries, catalogue = _batch(log), _queries(log, 0.5).requires_grad_(), _catalogue(log).requires_grad_()
    embedded: list[Tensor] = []

    def embed(rows: Tensor) -> Tensor:
        there = (rows >= 0) & (rows < len(catalogue))
        assert bool(there.all()), f"it embeds row {rows[~there][0]} of a catalogue of {len(catalogue)}"
        embedded.append(rows)
        return catalogue[rows]

    bound = loss.bind(log)
    value = bound(queries, batch, embed)
    assert value.shape == (), f"a batch gives {list(value.shape)}; expected a scalar"
    assert math.isfinite(value.item()), f"a batch gives {value.item()}"
    value.backward()  # type: ignore[no-untyped-call]
    for name, leaf in (("queries", queries), ("candidates", catalogue)):
        assert leaf.grad is not None, f"no gradient reaches the {name}"
        assert bool(leaf.grad.isfinite().all()), f"the gradient of the {name} is not finite"
        assert bool(leaf.grad.any()), f"the gradient of the {name} is zero"
    most, count = loss.embedded(len(batch.candidates), len(catalogue)), sum(len(rows) for rows in embedded)
    assert count <= most, f"it embeds {count} candidates; embedded reports at most {most}"
    assert most <= len(catalogue), f"embedded reports {most} of {len(catalogue)} candidates"


def _check_weights(loss: Loss, log: Dataset) -> None:
    once, twice = (_value(loss, log, 0.5, torch.full((64,), weight)) for weight in (1.0, 2.0))
    expected = once if loss.reduction == "mean" else 2 * once
    assert math.isclose(twice, expected, rel_tol=1e-4), (
        f"with all weights doubled its {loss.reduction} goes from {once} to {twice}; expected {expected}"
    )


def _value(loss: Loss, log: Dataset, closeness: float, weights: Tensor | None = None) -> float:
    catalogue, bound = _catalogue(log), loss.bind(log)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # for losses that draw candidates
        return bound(_queries(log, closeness), _batch(log, weights), lambda rows: catalogue[rows]).item()


def _batch(log: Dataset, weights: Tensor | None = None) -> Batch:
    queries, candidates = (torch.from_numpy(rows[:64]) for rows in (log.query_index, log.candidate_index))
    return Batch(queries, candidates, weights)


def _catalogue(log: Dataset) -> Tensor:
    """Embeddings of all candidates, `[C, d]`, of length 1."""
    drawn = torch.randn(log.candidates.num_rows, WIDTH, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.normalize(drawn, dim=1)


def _queries(log: Dataset, closeness: float) -> Tensor:
    """Query embeddings of the batch: those of the chosen candidates, times `closeness`."""
    return closeness * _catalogue(log)[_batch(log).candidates]

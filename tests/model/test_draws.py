"""Probabilities of one's own in the correction of in-batch softmax."""

from __future__ import annotations

import dataclasses
import re

import pyarrow as pa
import pytest
import torch

from toy import log_of, toy_model
from twotower.data import Dataset
from twotower.errors import ConfigError, DataError
from twotower.model import InBatchSoftmax
from twotower.model.losses import Batch
from twotower.training import Trainer

LOG = log_of([(0, 0), (0, 1), (1, 1), (1, 2)], queries=2, candidates=4)  # nobody chooses the fourth
BATCH = Batch(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 2]))
QUERIES, TABLE = torch.eye(3, 2), torch.arange(8.0).view(4, 2) / 4


def with_column(values: list[object]) -> Dataset:
    return dataclasses.replace(LOG, candidates=LOG.candidates.append_column("exposure", pa.array(values)))


def loss_of(loss: InBatchSoftmax, train: Dataset, probability: torch.Tensor | None = None) -> float:
    with torch.random.fork_rng():
        torch.manual_seed(0)  # of the uniform draws
        bound = loss.bind(train, probability)
        return bound(QUERIES, BATCH, lambda rows: TABLE[rows]).item()


@pytest.mark.parametrize("uniform", [0, 5])
def test_a_column_of_the_candidates_takes_the_place_of_their_share_of_events(uniform: int) -> None:
    exposures = [2.0, 4.0, 10.0, 4.0]
    named = InBatchSoftmax(draw_probability="exposure", uniform=uniform)
    usual = InBatchSoftmax(uniform=uniform)
    own = loss_of(named, with_column(list(exposures)))
    assert own == loss_of(usual, LOG, torch.tensor(exposures))
    assert own == pytest.approx(loss_of(usual, LOG, torch.tensor(exposures) / 20))  # numbers in proportion will do
    assert own != pytest.approx(loss_of(usual, LOG))
    shares = with_column([1, 2, 1, 0])  # those of the events
    assert loss_of(named, shares) == pytest.approx(loss_of(usual, LOG))


def test_the_correction_is_the_logarithm_of_the_probability() -> None:
    p = torch.tensor([0.1, 0.2, 0.3, 0.4])
    logits = QUERIES @ TABLE[:3].T - p[:3].log()
    expected = torch.nn.functional.cross_entropy(logits, torch.arange(3)).item()
    assert loss_of(InBatchSoftmax(), LOG, p) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0.1, 0.0, 0.5, 0.4], "row 1 (item 1, 2 training events): 0.0; expected a finite number, above 0 where"),
        ([0.1, 0.2, -0.5, 0.4], "row 2 (item 2, 1 training events): -0.5"),
        ([0.1, 0.2, 0.5, None], "row 3 (item 3, 0 training events): nan"),
        ([0.1, 0.2, 0.5, float("inf")], "inf; expected a finite number"),
        (["a", "b", "c", "d"], "column 'exposure', row 0: 'a' is string; expected a number"),
    ],
)
def test_a_wrong_probability_is_refused_before_training(values: list[object], message: str) -> None:
    trainer = Trainer(epochs=1, loss=InBatchSoftmax(draw_probability="exposure"))
    with pytest.raises(DataError, match=re.escape(message)):
        trainer.fit(toy_model(), with_column(values))


def test_a_loss_bound_by_hand_refuses_a_zero_too() -> None:
    with pytest.raises(
        DataError, match=re.escape("draw_probability, row 1 (item 1, 2 training events): 0.0; expected")
    ):
        InBatchSoftmax().bind(LOG, torch.tensor([0.1, 0.0, 0.5, 0.4]))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(DataError, match=r"shape \[3\]; expected \[4\], one per candidate"):
        InBatchSoftmax().bind(LOG, torch.ones(3))
    with pytest.raises(DataError, match="'exposure' is not in the candidate table"):
        Trainer(loss=InBatchSoftmax(draw_probability="exposure")).fit(toy_model(), LOG)
    with pytest.raises(ConfigError, match="has no effect with log_q=False"):
        InBatchSoftmax(log_q=False, draw_probability="exposure")

"""A loss of the user's own, which follows the protocol and is known to nobody else."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor

from toy import groups_log, toy_model
from twotower.data import Dataset, Log, split_random
from twotower.errors import ConfigError, SavedFolderError
from twotower.evaluation import ModelScorer, Popularity, measure
from twotower.model import InBatchSoftmax
from twotower.model.functional import Reduction
from twotower.model.losses import Batch, Loss
from twotower.model.negatives import Embed
from twotower.training import AdamW, Trainer
from twotower.training import checkpoint as checkpoint_module
from twotower.training.identity import digest

TRAIN, TEST = split_random(groups_log(600))
DRAWN = dataclasses.replace(TRAIN, candidates=TRAIN.candidates.append_column("drawn", pa.array(range(1, 31))))


class Hinge:
    """Every other candidate of the batch scores lower by a margin."""

    reduction: Reduction = "mean"

    def __init__(self, margin: float = 1.0, scales: Any = None) -> None:
        self.margin, self.scales = margin, scales

    def embedded(self, events: int, catalogue: int) -> int:
        return min(events, catalogue)

    def bind(self, train: Log) -> Hinge:
        return self

    def __call__(self, query_embeddings: Tensor, batch: Batch, embed_candidates: Embed) -> Tensor:
        scores = query_embeddings @ embed_candidates(batch.candidates).T  # [B, B]
        other = batch.candidates[:, None] != batch.candidates
        missing = (self.margin + scores - scores.diagonal()[:, None]).clamp_min(0)
        return (missing * other).sum(dim=1).mean()


class Softer(Hinge):
    """Another class with the same attributes."""


@dataclasses.dataclass
class Described(Hinge):
    """One that msgspec would write without its class."""

    margin: float = 1.0


class Halving:
    """A schedule of one's own."""

    def factor(self, progress: float) -> float:
        return 1 - progress / 2


def trainer_with(loss: Loss, **options: Any) -> Trainer:
    usual: dict[str, Any] = {"epochs": 3, "batch_size": 64, "optimizer": AdamW(0.02), "monitor": "all.mrr"}
    return Trainer(**(usual | options), loss=loss)


def test_it_learns() -> None:
    model = toy_model()
    trainer_with(Hinge(), epochs=12, schedule=Halving()).fit(model, TRAIN)
    own = measure(ModelScorer(model), TEST, TRAIN).scores.all["top_10"]
    assert own > measure(Popularity(TRAIN), TEST, TRAIN).scores.all["top_10"] + 0.2


def test_it_resumes_to_the_same_bits_and_another_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_module, "EVERY_SECONDS", 0.0)
    whole, resumed = toy_model(), toy_model()
    loss = Hinge(0.5, np.ones(3))
    trainer_with(loss).fit(whole, TRAIN)
    trainer_with(loss).fit(toy_model(), TRAIN, checkpoint=str(tmp_path / "run"), stop_after=2)
    for other in (Hinge(0.6, np.ones(3)), Hinge(0.5, np.zeros(3)), Softer(0.5, np.ones(3)), InBatchSoftmax()):
        with pytest.raises(SavedFolderError, match="from another training run that differs in loss; delete it"):
            trainer_with(other).fit(toy_model(), TRAIN, checkpoint=tmp_path / "run")
    trainer_with(Hinge(0.5, np.ones(3))).fit(resumed, TRAIN, checkpoint=tmp_path / "run")
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name])


@pytest.mark.parametrize(
    ("loss", "options", "train", "differing"),
    [
        (InBatchSoftmax(draw_probability="drawn"), {}, TRAIN, "loss"),
        (InBatchSoftmax(draw_probability="drawn"), {"seed": 1}, DRAWN, "settings"),
        (InBatchSoftmax(draw_probability="drawn"), {"schedule": Halving()}, DRAWN, "settings"),
        (InBatchSoftmax(draw_probability="drawn"), {}, DRAWN.take(np.arange(100)), "data"),
    ],
)
def test_what_differs_is_named(
    loss: Loss, options: dict[str, Any], train: Dataset, differing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_module, "EVERY_SECONDS", 0.0)
    trainer_with(loss).fit(toy_model(), DRAWN, checkpoint=tmp_path / "run", stop_after=1)
    if train is TRAIN:  # other probabilities in the column that the loss names
        column = pa.array(range(2, 32))
        train = dataclasses.replace(TRAIN, candidates=TRAIN.candidates.append_column("drawn", column))
    with pytest.raises(SavedFolderError, match=f"from another training run that differs in {differing}; delete it"):
        trainer_with(loss, **options).fit(toy_model(), train, checkpoint=tmp_path / "run")


def test_classes_and_contents_tell_losses_apart() -> None:
    def of(value: Any) -> str:
        return digest([type(value).__qualname__, value])

    same = {of(Hinge(1.0, {"b", "a", "c"})), of(Hinge(1.0, {"c", "b", "a"}))}
    assert len(same) == 1
    scaled = [Hinge(1.0, scales) for scales in (torch.ones(2), torch.ones(3), len)]
    several = [Hinge(), Softer(), Described(), Hinge(2.0), *scaled]
    assert len({of(loss) for loss in several}) == len(several)


def test_a_loss_that_cannot_be_told_from_others_is_refused_only_with_a_checkpoint(tmp_path: Path) -> None:
    loop = Hinge()
    loop.scales = loop
    trainer_with(loop, epochs=1).fit(toy_model(), TRAIN)
    with pytest.raises(ConfigError, match="a checkpoint cannot identify"):
        trainer_with(loop, epochs=1).fit(toy_model(), TRAIN, checkpoint=tmp_path / "run")


def test_what_lacks_a_part_of_the_protocol_is_refused() -> None:
    class Half(msgspec.Struct):
        reduction: str = "mean"

    with pytest.raises(ConfigError, match=r"loss=.*Half.*; expected .* an object that implements Loss"):
        Trainer(loss=Half())  # type: ignore[arg-type]

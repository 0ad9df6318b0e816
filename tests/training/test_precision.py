from __future__ import annotations

import pytest
import torch

from toy import groups_log, toy_model
from twotower.data import Dataset, split_random
from twotower.errors import ConfigError
from twotower.evaluation import ModelScorer, measure
from twotower.features import Category, History, Normalized
from twotower.features.encoders import ENCODERS, Encoder
from twotower.model import FullSoftmax, InBatchSoftmax, Tower, TwoTower
from twotower.model.layers import Norm
from twotower.training import AdamW, Callback, Epoch, Trainer, TrainingState
from twotower.training.precision import Precision


@pytest.fixture(scope="module")
def parts() -> tuple[Dataset, Dataset]:
    train, test = split_random(groups_log())
    return train, test


@pytest.mark.parametrize("loss", [FullSoftmax(), InBatchSoftmax()])
def test_bfloat16_ranks_nearly_as_well_and_leaves_parameters_in_float32(
    loss: FullSoftmax | InBatchSoftmax, parts: tuple[Dataset, Dataset]
) -> None:
    train, test = parts
    precisions: tuple[Precision, ...] = ("float32", "bf16")
    scores, losses = {}, {}
    for precision in precisions:
        model = toy_model()
        trainer = Trainer(epochs=12, batch_size=128, optimizer=AdamW(0.02), loss=loss, precision=precision)
        history = trainer.fit(model, train, test)
        scores[precision] = measure(ModelScorer(model), test, train).scores.all["top_10"]
        losses[precision] = history.epochs[-1].loss
        assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert losses["bf16"] != losses["float32"]  # it was of account
    assert scores["bf16"] == pytest.approx(scores["float32"], abs=0.03)


def test_what_the_loss_is_given_is_in_float32_and_validation_is_as_ever(parts: tuple[Dataset, Dataset]) -> None:
    model = toy_model().learn(parts[0])
    model.normalize = True
    encoded = model.encode_queries(parts[0])
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model.query_vectors(encoded.whole())
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded.norm(dim=1), torch.ones(len(rounded)), rtol=0, atol=1e-6)

    class Look(Callback):
        def on_epoch(self, state: TrainingState, epoch: Epoch) -> None:
            assert epoch.validation is not None
            measured = measure(ModelScorer(state.model), parts[1], parts[0]).scores.all
            assert epoch.validation.all.items() <= measured.items()

    Trainer(epochs=1, precision="bf16").fit(model, *parts, callbacks=[Look()])


@pytest.mark.parametrize("norm", ["layer", "batch"])
@pytest.mark.parametrize("encoder", list(ENCODERS))
def test_every_layer_and_encoder_can_be_trained_in_bfloat16(
    encoder: Encoder, norm: Norm, parts: tuple[Dataset, Dataset]
) -> None:
    history = History("item", "user", "at", length=3, dim=4, encoder=encoder)
    model = TwoTower(
        Tower([history, Normalized("at")], [4, 4], 0.1, 0.1, norm=norm, residual=True, cross=1, cross_rank=2),
        Tower([Category("item", 4)], [4]),
        temperature=0.5,
        learn_temperature=True,
    )
    losses = Trainer(epochs=2, batch_size=256, precision="bf16").fit(model, parts[0]).epochs
    assert losses[1].loss < losses[0].loss


def test_tf32_is_set_while_a_step_runs_and_taken_back_whatever_happens(parts: tuple[Dataset, Dataset]) -> None:
    found = []

    class Fail(Callback):
        def on_step(self, state: TrainingState) -> None:
            found.append(torch.backends.cuda.matmul.fp32_precision)
            raise RuntimeError("in the middle of an epoch")

    before = torch.backends.cuda.matmul.fp32_precision
    with pytest.raises(RuntimeError, match="middle"):
        Trainer(epochs=1, precision="tf32").fit(toy_model(), parts[0], callbacks=[Fail()])
    assert found == ["tf32"]
    assert torch.backends.cuda.matmul.fp32_precision == before
    assert torch.get_float32_matmul_precision() == "highest"  # PyTorch refuses to say where settings disagree


def test_a_precision_that_is_not_known_is_refused() -> None:
    with pytest.raises(ConfigError, match="precision='half'; expected one of 'float32', 'tf32', 'bf16'"):
        Trainer(precision="half")  # type: ignore[arg-type]

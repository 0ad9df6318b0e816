from __future__ import annotations

import pytest

from toy import groups_log
from twotower.features import Bucketized, Category, Elapsed, History, Normalized, Text
from twotower.features.encoders import ENCODERS, Encoder
from twotower.model import FullSoftmax, Tower, TwoTower
from twotower.training import Trainer
from twotower.training.accuracy import StreamedAccuracy
from twotower.training.run import Run


@pytest.mark.parametrize("encoder", list(ENCODERS))
def test_a_step_on_the_full_softmax_never_waits_for_the_device(encoder: Encoder) -> None:
    """On the device `meta` nothing is computed, so that whatever depends on a result is an error."""
    log = groups_log(events=300)
    history = History("item", "user", "at", length=3, dim=4, encoder=encoder, shared=True)
    features = [Category("user", 4), history, Bucketized("at", 4, 4), Normalized("at"), Elapsed("at", by="user")]
    model = TwoTower(
        Tower(features, [4, 4], 0.1, 0.1, norm="layer", cross=1, unknown_query_rate=0.1),
        Tower([Category("item", 4), Text("title", 4)], [4]),
        normalize=True,
        learn_temperature=True,
    ).learn(log)
    model.to("meta")
    run = Run.prepare(Trainer(batch_size=128, loss=FullSoftmax(), clip_norm=1.0), model, log, None, 1)
    run.state.optimizer.step = lambda: None  # type: ignore[assignment]  # fused, on real devices alone
    with run.source.epoch(1) as parts:
        ((part, order),) = parts
    loss = run._step(part, order[:128], StreamedAccuracy((1, 5), model.device)).value
    assert loss is not None
    assert loss.shape == ()
    assert all(parameter.grad is not None for parameter in model.parameters())

"""Training with exposed negatives: what it learns, and the guarantees that every training has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from interrupting import InterruptAfter
from rank_processes import on_ranks, without_errors
from shown_fixtures import assert_same, model, shown_log, trained, weights_of
from twotower.data import split_by_time
from twotower.errors import SavedFolderError
from twotower.evaluation import ModelScorer, measure
from twotower.model import FullSoftmax, InBatchSoftmax
from twotower.tasks import Retrieval
from twotower.training import Adagrad, AdamW, Trainer
from twotower.training import checkpoint as checkpoint_module

LOSSES: dict[str, Any] = {
    "in batch": InBatchSoftmax(exposed_negatives=3),
    "in batch, all of it": InBatchSoftmax(
        exposed_negatives=2, exposed_weight=5.0, uniform=10, mask_known=True, hard_negatives=5, reduction="sum"
    ),
    "full": FullSoftmax(exposed_negatives=3, exposed_weight=10.0, label_smoothing=0.1),
}


LOG = shown_log()


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
def test_one_seed_gives_one_result_and_a_resumed_training_equals_an_uninterrupted_one(
    loss: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_module, "EVERY_SECONDS", 0.0)
    whole = trained(LOG, loss=loss)
    assert_same(whole, trained(LOG, loss=loss))
    assert_same(whole, trained(LOG, tasks=[Retrieval(loss=loss)]))
    trainer = Trainer(epochs=3, batch_size=64, optimizer=Adagrad(0.1), loss=loss)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(model(), LOG, checkpoint=tmp_path / "run", callbacks=[InterruptAfter(2)])
    resumed = model()
    trainer.fit(resumed, LOG, checkpoint=tmp_path / "run")
    assert_same(whole, weights_of(resumed))


def test_a_checkpoint_is_not_resumed_with_other_exposures_or_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_module, "EVERY_SECONDS", 0.0)
    trainer = Trainer(epochs=2, batch_size=64, loss=LOSSES["in batch"])
    trainer.fit(model(), LOG, checkpoint=tmp_path / "run")
    assert LOG.exposures is not None
    fewer = replace(LOG, exposures=LOG.exposures.without(np.arange(len(LOG)) == 7))
    with pytest.raises(SavedFolderError, match="from another training"):
        trainer.fit(model(), fewer, checkpoint=tmp_path / "run")
    other = Trainer(epochs=2, batch_size=64, loss=InBatchSoftmax(exposed_negatives=3, exposed_weight=2.0))
    with pytest.raises(SavedFolderError, match="from another training"):
        other.fit(model(), LOG, checkpoint=tmp_path / "run")


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
def test_ranks_end_where_one_process_does(loss: Any, tmp_path: Path) -> None:
    expected = trained(LOG, loss=loss)
    (found,) = on_ranks(2, tmp_path, (trained_on_rank, loss))
    for weights in without_errors(found):
        for name, values in weights.items():
            np.testing.assert_allclose(values, expected[name], rtol=1e-3, atol=1e-4, err_msg=name)


def trained_on_rank(loss: Any) -> dict[str, npt.NDArray[np.float32]]:
    torch.set_num_threads(1)
    return trained(LOG, loss=loss)


@pytest.mark.parametrize("kind", [InBatchSoftmax, FullSoftmax])
def test_they_teach_what_a_query_does_not_choose_when_it_is_shown(kind: Any) -> None:
    train, test = split_by_time(shown_log(2000), 0.2)
    found = []
    for count in (0, 3):
        one = model()
        loss = kind(exposed_negatives=count, exposed_weight=10.0)
        Trainer(epochs=10, batch_size=64, optimizer=AdamW(0.01), loss=loss).fit(one, train)
        found.append(measure(ModelScorer(one), test, train).scores)
    without, explicit = found
    assert explicit.exposed["top_1"] > 0.85
    assert explicit.exposed["top_1"] > without.exposed["top_1"]

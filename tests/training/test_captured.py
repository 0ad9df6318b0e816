from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from toy import groups_log, toy_model
from twotower.data import Dataset, stream_parquet
from twotower.errors import ConfigError, TwoTowerError
from twotower.features import Bucketized, Category, Elapsed, History, Normalized, Text
from twotower.features.encoders import ENCODERS, Encoder
from twotower.model import FullSoftmax, InBatchSoftmax, Tower, TwoTower
from twotower.training import Adagrad, AdamW, Cosine, Trainer, captured
from twotower.training import checkpoint as checkpoint_module
from twotower.training.batches import Part
from twotower.training.run import Run

OPTIMIZERS = [Adagrad(0.1, embedding_learning_rate=0.05, tables="dense"), AdamW(0.01, tables="dense")]


@pytest.fixture(scope="module")
def log() -> Dataset:
    return groups_log(events=900)


def plain_model() -> TwoTower:
    """Without anything random in training, so that two ways of the same step can be compared."""
    query, candidate = (Tower([Category(name, 6, unknown_rate=0.0)], [6]) for name in ("user", "item"))
    return TwoTower(query, candidate)


def centred_scores(model: TwoTower, log: Dataset) -> torch.Tensor:
    """Without what is the same for all candidates: the candidate tower's bias, which a softmax cannot tell."""
    scores = model.embed_queries(log) @ model.embed_candidates(log.candidates).T
    return scores - scores.mean(dim=1, keepdim=True)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(
    "loss",
    [InBatchSoftmax(reduction="sum"), InBatchSoftmax(hard_negatives=5), FullSoftmax(label_smoothing=0.1)],
)
def test_steps_of_fixed_shapes_train_as_others_do(
    optimizer: Adagrad | AdamW, loss: InBatchSoftmax | FullSoftmax, log: Dataset
) -> None:
    models = [plain_model() for _ in range(2)]
    losses = []
    for model, capture in zip(models, (False, True), strict=True):
        trainer = Trainer(
            epochs=3,
            batch_size=128,  # of 900 events: the last batch is smaller
            optimizer=optimizer,
            loss=loss,
            schedule=Cosine(warmup=0.2),
            clip_norm=1.0,
            average=0.9,
            capture=capture,
        )
        losses.append([epoch.loss for epoch in trainer.fit(model, log).epochs])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)  # rates are float32 numbers
    torch.testing.assert_close(*(centred_scores(model, log) for model in models), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("encoder", list(ENCODERS))
@pytest.mark.parametrize(
    "loss", [InBatchSoftmax(hard_negatives=5, uniform=9), InBatchSoftmax(mask_same=True), FullSoftmax()]
)
def test_a_step_never_asks_a_device_for_a_number(
    loss: InBatchSoftmax | FullSoftmax, encoder: Encoder, log: Dataset
) -> None:
    """On the device `meta` nothing is computed, so that whatever depends on a result is an error."""
    history = History("item", "user", "at", length=3, dim=4, encoder=encoder, shared=True)
    features = [Category("user", 4), history, Bucketized("at", 4, 4), Normalized("at"), Elapsed("at", by="user")]
    model = TwoTower(
        Tower(features, [4, 4], 0.1, 0.1, norm="layer", cross=1, strangers=0.1),
        Tower([Category("item", 4), Text("title", 4)], [4]),
        normalize=True,
        learn_temperature=True,
    ).learn(log)
    model.to("meta")
    run = Run.prepare(Trainer(batch_size=128, loss=loss, clip_norm=1.0, capture=True), model, log, None, 1)
    run.state.optimizer.step = lambda: None  # type: ignore[assignment]  # fused, on real devices alone
    with run.source.epoch(1) as parts:
        ((part, order),) = parts
    given, _ = run._step(part, order[:128])
    assert given.shape == ()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_a_resumed_training_ends_with_the_same_bits(
    log: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_module, "EVERY_SECONDS", 0.0)
    trainer = Trainer(epochs=4, batch_size=128, schedule=Cosine(), capture=True)
    whole, resumed = toy_model(dropout=0.2), toy_model(dropout=0.2)
    trainer.fit(whole, log)
    trainer.fit(toy_model(dropout=0.2), log, checkpoint=tmp_path / "saved", stop_after=2)
    trainer.fit(resumed, log, checkpoint=tmp_path / "saved")
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"loss": InBatchSoftmax(mask_known=True)}, "mask_known=True"),
        ({"loss": FullSoftmax(mask_known=True)}, "mask_known=True"),
        ({"loss": InBatchSoftmax(memory=9)}, "memory=9"),
        ({"optimizer": Adagrad(tables="lazy")}, "tables='lazy'.*expected tables='dense'"),
        ({"optimizer": AdamW(tables="lazy")}, "tables='lazy'.*expected tables='dense'"),
    ],
)
def test_what_has_no_fixed_shapes_is_refused(settings: dict[str, Any], found: str, log: Dataset) -> None:
    with pytest.raises(ConfigError, match=found):
        Trainer(capture=True, **settings).fit(toy_model(), log)


def test_batch_norm_would_count_what_fills_a_batch_up(log: Dataset) -> None:
    query, candidate = (Tower([Category(name, 6)], [6, 6], norm="batch") for name in ("user", "item"))
    model = TwoTower(query, candidate)
    with pytest.raises(ConfigError, match="norm='batch' in the candidate tower"):
        Trainer(capture=True).fit(model, log)
    Trainer(epochs=1, capture=True, loss=FullSoftmax()).fit(model, log)


def test_a_softmax_in_tiles_needs_the_host(log: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captured, "MOST_CANDIDATES", 29)
    with pytest.raises(ConfigError, match="over 30 candidates; expected 29"):
        Trainer(capture=True, loss=FullSoftmax()).fit(toy_model(), log)


def test_a_streamed_log_is_refused(log: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    pq.write_table(log.interactions, path)
    streamed = stream_parquet(path, query_id="user", candidate_id="item", time="at")
    with pytest.raises(ConfigError, match="needs the whole log in memory"):
        Trainer(capture=True).fit(plain_model(), streamed)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("loss", [InBatchSoftmax(reduction="sum"), FullSoftmax()])
def test_replayed_steps_train_as_others_do(
    optimizer: Adagrad | AdamW, loss: InBatchSoftmax | FullSoftmax, log: Dataset
) -> None:
    models = [plain_model() for _ in range(2)]
    losses = []
    for model, capture in zip(models, (False, True), strict=True):
        trainer = Trainer(
            epochs=3,
            batch_size=128,
            optimizer=optimizer,
            loss=loss,
            schedule=Cosine(warmup=0.2),
            clip_norm=1.0,
            device="cuda",
            capture=capture,
        )
        losses.append([epoch.loss for epoch in trainer.fit(model, log).epochs])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    torch.testing.assert_close(*(centred_scores(model, log) for model in models), rtol=1e-3, atol=1e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_random_numbers_of_replayed_steps_are_fresh_and_of_the_seed(precision: Any, log: Dataset) -> None:
    losses = []
    for seed in (3, 3, 4):
        trainer = Trainer(epochs=3, batch_size=128, device="cuda", capture=True, seed=seed, precision=precision)
        losses.append([epoch.loss for epoch in trainer.fit(toy_model(dropout=0.3), log).epochs])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0] != pytest.approx(losses[2], rel=1e-5)


class StandIn:
    """Takes the place of PyTorch's streams and graphs: while it records nothing is done, a replay does it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done: list[int] = []
        self.recorded: list[torch.Tensor] = []
        self.recording = False
        for name in ("Stream", "CUDAGraph", "current_stream"):
            monkeypatch.setattr(torch.cuda, name, lambda *_: self)
        for name in ("stream", "device"):
            monkeypatch.setattr(torch.cuda, name, lambda *_: nullcontext())
        monkeypatch.setattr(torch.cuda, "graph", self.graph)

    def wait_stream(self, other: StandIn) -> None:
        assert other is self

    @contextmanager
    def graph(self, graph: StandIn, stream: StandIn) -> Iterator[None]:
        assert graph is stream is self
        self.recording = True
        yield
        self.recording = False

    def replay(self) -> None:
        (rows,) = self.recorded
        self.done += rows.tolist()

    def step(self, part: Part, rows: torch.Tensor) -> tuple[torch.Tensor, int]:
        if self.recording:
            self.recorded.append(rows)
        else:
            self.done += rows.tolist()
        return rows.sum(), len(rows)


def test_every_batch_is_trained_on_once_whether_it_is_recorded_or_not(
    log: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in, model = StandIn(monkeypatch), plain_model().learn(log)
    optimizer = AdamW().build(model)
    captured_step = captured.CapturedStep(optimizer, 10, torch.device("cpu"))
    captured_step.stream = stand_in  # type: ignore[assignment]
    part = Part.of(log, model.encode_queries(log))
    for _ in range(2):
        for rows in torch.split(torch.arange(75), 10):
            captured_step(stand_in.step, part, rows)
    assert stand_in.done == 2 * list(range(75))
    assert not any(group["capturable"] for group in optimizer.param_groups)


def test_what_cannot_be_recorded_is_said(log: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in, model = StandIn(monkeypatch), plain_model().learn(log)
    optimizer = AdamW().build(model)
    captured_step = captured.CapturedStep(optimizer, 10, torch.device("cpu"))
    captured_step.stream, captured_step.warm_up = stand_in, 0  # type: ignore[assignment]

    def asking(part: Part, rows: torch.Tensor) -> tuple[torch.Tensor, int]:
        raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.raises(TwoTowerError, match=r"cannot be captured: operation not permitted.*; expected capture=False"):
        captured_step(asking, Part.of(log, model.encode_queries(log)), torch.arange(10))
    assert not any(group["capturable"] for group in optimizer.param_groups)

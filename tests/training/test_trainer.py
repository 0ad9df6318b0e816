from __future__ import annotations

import math
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from interrupting import InterruptAfter
from toy import groups_log, log_of, toy_model
from twotower.data import Dataset, split_random
from twotower.errors import ConfigError, SavedFolderError, TwoTowerError
from twotower.evaluation import ModelScorer, Popularity, measure
from twotower.features import Category, Normalized, Text
from twotower.model import FullSoftmax, InBatchSoftmax, Tower, TwoTower
from twotower.model.functional import Reduction
from twotower.training import Adagrad, AdamW, Callback, Cosine, EarlyStopping, Epoch, Trainer, TrainingState
from twotower.training import checkpoint as checkpoint_module

FAST = AdamW(0.02)


def weights_of(model: TwoTower) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(first: TwoTower, second: TwoTower) -> bool:
    one, other = weights_of(first), weights_of(second)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def parts() -> tuple[Dataset, Dataset]:
    train, test = split_random(groups_log())
    return train, test


@pytest.mark.parametrize(
    "loss",
    [
        FullSoftmax(),
        FullSoftmax(label_smoothing=0.1),
        InBatchSoftmax(),
        InBatchSoftmax(reduction="sum"),
        InBatchSoftmax(uniform=30),
    ],
)
def test_training_learns_what_popularity_cannot_know(
    loss: FullSoftmax | InBatchSoftmax, parts: tuple[Dataset, Dataset]
) -> None:
    train, test = parts
    model = toy_model()
    Trainer(epochs=12, batch_size=128, optimizer=FAST, loss=loss).fit(model, train)
    own = measure(ModelScorer(model), test, train).scores.all["top_10"]
    assert own > measure(Popularity(train), test, train).scores.all["top_10"] + 0.3


@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 1.0]])
def test_accuracy_in_training_is_that_of_the_steps_logits(
    weights: list[float] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twotower.training.accuracy.SAMPLED", 1)
    pairs = [(query, (query * 7 + query // 3) % 5) for query in range(12)]
    log = log_of(pairs, 12, 5, None if weights is None else weights * 4)
    model = TwoTower(*(Tower([Category(column, 8, unknown_rate=0.0)]) for column in ("user", "item"))).learn(
        log, seed=3
    )
    trainer = Trainer(epochs=1, ks=(1, 3), monitor="all.mrr", loss=FullSoftmax())
    everything = torch.arange(12)
    with torch.no_grad():
        scores = model(
            model.encode_queries(log).gather(everything), model.encode_candidates(log.candidates).gather(everything[:5])
        )
    own = scores.gather(1, torch.from_numpy(log.candidate_index)[:, None])
    ranks, weight = (scores >= own).sum(dim=1), torch.tensor(log.weights)
    expected = [(weight[ranks <= k].sum() / weight.sum()).item() for k in (1, 3)]
    accuracy = trainer.fit(model, log).epochs[0].accuracy
    assert list(accuracy.values()) == pytest.approx(expected)
    assert 0 < expected[0] < expected[1] < 1


def test_a_loss_that_ranks_nothing_has_no_accuracy(parts: tuple[Dataset, Dataset]) -> None:
    class Pull:
        reduction: Reduction = "sum"

        def embedded(self, events: int, catalogue: int) -> int:
            return events

        def bind(self, train: Any) -> Pull:
            return self

        def __call__(self, query_embeddings: torch.Tensor, batch: Any, embed_candidates: Any) -> torch.Tensor:
            scores: torch.Tensor = (query_embeddings * embed_candidates(batch.candidates)).sum(dim=1)
            return -scores.sigmoid().sum()

    history = Trainer(epochs=1, loss=Pull()).fit(toy_model(), parts[0])
    assert history.epochs[0].accuracy == {}


def test_one_seed_gives_one_result_and_another_seed_another(parts: tuple[Dataset, Dataset]) -> None:
    models = [toy_model(dropout=0.2) for _ in range(3)]
    losses = []
    for model, seed in zip(models, (7, 7, 8), strict=True):
        torch.manual_seed(seed + 100)  # the caller's random numbers play no part
        history = Trainer(epochs=2, batch_size=128, seed=seed).fit(model, parts[0])
        losses.append([epoch.loss for epoch in history.epochs])
    assert same(models[0], models[1])
    assert losses[0] == losses[1]
    assert not same(models[0], models[2])


def test_the_seed_draws_the_negatives_too(parts: tuple[Dataset, Dataset]) -> None:
    loss = InBatchSoftmax(uniform=10)
    first, again, other = (toy_model().learn(parts[0]) for _ in range(3))
    for model, seed in ((first, 3), (again, 3), (other, 4)):
        # one batch, so that the order of the events is no difference
        Trainer(epochs=1, batch_size=5000, loss=loss, seed=seed).fit(model, parts[0])
    assert same(first, again)
    one, another = (dict(model.candidate.named_parameters())["stack.0.weight"] for model in (first, other))
    assert not torch.allclose(one, another, rtol=1e-3)


def temperature_after(epochs: int, rate: float) -> float:
    """A temperature of 1, learned at this rate: cosines divided by 1 cannot tell thirty candidates apart."""
    towers = Tower([Category("user", 8)]), Tower([Category("item", 8)])
    model = TwoTower(*towers, normalize=True, temperature=1.0, learn_temperature=True)
    Trainer(epochs=epochs, batch_size=128, optimizer=AdamW(rate)).fit(model, groups_log(500))
    return model.temperature


def test_a_temperature_is_learned() -> None:
    assert 0.1 < temperature_after(20, rate=0.02) < 0.5


def test_no_step_leads_a_learned_temperature_out_of_its_bounds() -> None:
    assert temperature_after(1, rate=50.0) in (pytest.approx(0.01), pytest.approx(100.0))


def test_the_seed_orders_the_events_too(parts: tuple[Dataset, Dataset]) -> None:
    first, second = toy_model().learn(parts[0], seed=1), toy_model().learn(parts[0], seed=1)
    histories = [Trainer(epochs=2, batch_size=64, seed=s).fit(m, parts[0]) for m, s in ((first, 3), (second, 4))]
    assert histories[0].epochs[1].loss != histories[1].epochs[1].loss
    assert not same(first, second)


def test_training_leaves_the_callers_random_numbers_as_they_were(parts: tuple[Dataset, Dataset]) -> None:
    model = toy_model()
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    Trainer(epochs=1).fit(model, parts[0])
    assert torch.equal(torch.rand(4), expected)


def everything_on() -> TwoTower:
    """A model with every option that training has to carry over an interruption."""
    return TwoTower(
        Tower([Category("user", 8), Normalized("at")], [8, 8], 0.1, norm="batch"),
        Tower([Category("item", 8), Text("title", 8)], [8, 8], 0.1, norm="batch"),
        normalize=True,
        temperature=0.2,
        learn_temperature=True,
    )


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {"optimizer": FAST, "early_stopping": EarlyStopping()},
    "negatives": {
        "optimizer": AdamW(0.02),
        "loss": InBatchSoftmax(uniform=20),
    },
    "lazy": {"optimizer": AdamW(0.02, weight_decay=0.1, tables="lazy"), "clip_norm": 1.0},
    "lazy Adagrad": {"optimizer": Adagrad(0.1, weight_decay=0.1, tables="lazy"), "loss": InBatchSoftmax()},
    "smoothed": {
        "optimizer": Adagrad(0.1),
        "loss": FullSoftmax(label_smoothing=0.1, reduction="sum"),
        "early_stopping": EarlyStopping(),
    },
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_resumed_training_equals_an_uninterrupted_one(
    options: dict[str, Any], parts: tuple[Dataset, Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_module, "EVERY_SECONDS", 0.0)
    train, test = parts
    trainer = Trainer(epochs=5, batch_size=128, schedule=Cosine(), monitor="all.mrr", **options)
    whole, resumed = everything_on(), everything_on()
    expected = trainer.fit(whole, train, test)
    for stop in (1, 3):
        with pytest.raises(KeyboardInterrupt):
            trainer.fit(everything_on(), train, test, checkpoint=tmp_path / "run", callbacks=[InterruptAfter(stop)])
    history = trainer.fit(resumed, train, test, checkpoint=tmp_path / "run")
    assert same(whole, resumed)
    assert [(e.epoch, e.loss, e.validation) for e in history.epochs] == [
        (e.epoch, e.loss, e.validation) for e in expected.epochs
    ]


def test_the_checkpoint_of_another_training_is_refused(
    parts: tuple[Dataset, Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_module, "EVERY_SECONDS", 0.0)
    Trainer(epochs=1).fit(toy_model(), parts[0], checkpoint=tmp_path / "run")
    with pytest.raises(SavedFolderError, match="from another training"):
        Trainer(epochs=2).fit(toy_model(), parts[0], checkpoint=tmp_path / "run")
    (tmp_path / "run" / "weights.safetensors").write_bytes(b"half")
    with pytest.raises(SavedFolderError, match="cannot be read"):
        Trainer(epochs=1).fit(toy_model(), parts[0], checkpoint=tmp_path / "run")


def test_early_stopping_restores_the_best_weights() -> None:
    train, test = split_random(groups_log(300, seed=2))
    model = toy_model((32,), dim=32)
    kept: dict[int, dict[str, torch.Tensor]] = {}

    class Keep(Callback):
        def on_epoch(self, state: TrainingState, epoch: Epoch) -> None:
            kept[epoch.epoch] = weights_of(state.model)

    trainer = Trainer(
        epochs=60, batch_size=64, optimizer=AdamW(0.05), early_stopping=EarlyStopping(patience=4), monitor="all.mrr"
    )
    history = trainer.fit(model, train, test, callbacks=[Keep()])
    assert len(history.epochs) == history.best.epoch + 4 < 60
    assert history.restored == history.best.epoch
    assert all(torch.equal(tensor, kept[history.best.epoch][name]) for name, tensor in weights_of(model).items())


def test_the_recorded_loss_is_the_mean_over_the_whole_epoch() -> None:
    # 5 events in batches of 2: with no learning to speak of, every batch has the loss of the untrained model.
    log = log_of([(0, 0), (1, 1), (2, 2), (0, 1), (1, 2)], queries=3, candidates=3)
    for reduction in ("mean", "sum"):
        trainer = Trainer(
            epochs=1, batch_size=2, optimizer=AdamW(1e-12, weight_decay=0.0), loss=FullSoftmax(reduction=reduction)
        )
        history = trainer.fit(toy_model(), log)
        assert history.epochs[0].loss == pytest.approx(math.log(3), abs=0.02)


def test_weights_count_in_training_and_in_the_recorded_loss() -> None:
    pairs = [(0, 0), (0, 1)]
    model = toy_model()
    heavy = log_of(pairs, queries=1, candidates=2, weights=[0.0, 1.0])
    history = Trainer(epochs=40, optimizer=AdamW(0.1), loss=FullSoftmax()).fit(model, heavy)
    scores = model.embed_queries(heavy)[:1] @ model.embed_candidates(heavy.candidates).T
    assert scores[0, 1] > scores[0, 0] + 2
    assert history.epochs[-1].loss < 0.1  # that of the event that counts


def test_clipping_bounds_the_gradient(parts: tuple[Dataset, Dataset]) -> None:
    lengths = []

    class Measure(Callback):
        def on_step(self, state: TrainingState) -> None:
            gradients = [p.grad.flatten() for p in state.model.parameters() if p.grad is not None]
            lengths.append(torch.cat(gradients).norm().item())

    Trainer(epochs=1, loss=FullSoftmax(reduction="sum"), clip_norm=0.5).fit(
        toy_model(), parts[0], callbacks=[Measure()]
    )
    assert max(lengths) == pytest.approx(0.5, rel=1e-3)


def test_validation_is_every_few_epochs_and_after_the_last(parts: tuple[Dataset, Dataset]) -> None:
    history = Trainer(epochs=5, validate_every=2).fit(toy_model(), *parts)
    assert [epoch.epoch for epoch, _ in history.validated] == [2, 4, 5]


def test_stop_after_keeps_the_schedule_of_all_epochs(parts: tuple[Dataset, Dataset]) -> None:
    trainer = Trainer(epochs=4, schedule=Cosine())
    short = trainer.fit(toy_model(), parts[0], stop_after=2)
    whole = trainer.fit(toy_model(), parts[0])
    assert [e.learning_rate for e in short.epochs] == [e.learning_rate for e in whole.epochs[:2]]
    assert [e.loss for e in short.epochs] == [e.loss for e in whole.epochs[:2]]


def test_a_schedule_scales_the_rate_and_the_history_has_it(parts: tuple[Dataset, Dataset]) -> None:
    class Rates(Callback):
        def __init__(self) -> None:
            self.seen: list[float] = []

        def on_step(self, state: TrainingState) -> None:
            self.seen += {group["lr"] for group in state.optimizer.param_groups}

    rates = Rates()
    trainer = Trainer(epochs=2, optimizer=AdamW(0.01), schedule=Cosine())
    history = trainer.fit(toy_model(), parts[0], callbacks=[rates])
    assert rates.seen[0] == 0.01
    assert rates.seen[-1] < 0.01
    assert history.epochs[-1].learning_rate == rates.seen[-1]


def test_a_diverged_training_says_so(parts: tuple[Dataset, Dataset]) -> None:
    with pytest.raises(TwoTowerError, match=r"diverged.*lower learning rate"):
        Trainer(epochs=3, batch_size=64, optimizer=AdamW(1e30)).fit(toy_model(), parts[0])


def test_a_callback_can_stop_a_training(parts: tuple[Dataset, Dataset]) -> None:
    class Stop(Callback):
        def on_epoch(self, state: TrainingState, epoch: Epoch) -> None:
            state.stop = epoch.epoch == 2

    assert len(Trainer(epochs=9).fit(toy_model(), parts[0], callbacks=[Stop()]).epochs) == 2


def test_senseless_settings_are_refused(parts: tuple[Dataset, Dataset]) -> None:
    with pytest.raises(ConfigError, match="epochs=0"):
        Trainer(epochs=0)
    with pytest.raises(ConfigError, match="clip_norm"):
        Trainer(clip_norm=0.0)
    with pytest.raises(ConfigError, match="patience"):
        EarlyStopping(patience=0)
    with pytest.raises(ConfigError, match="needs a validation part"):
        Trainer(early_stopping=EarlyStopping()).fit(toy_model(), parts[0])
    with pytest.raises(ConfigError, match="top_7"):
        Trainer(epochs=1, monitor="all.top_7", early_stopping=EarlyStopping()).fit(toy_model(), *parts)


def test_an_interruption_ends_training_after_the_step_it_comes_in() -> None:
    class Interrupting(Callback):
        steps = 0

        def on_step(self, state: TrainingState) -> None:
            self.steps += 1
            if self.steps == 3:
                signal.raise_signal(signal.SIGINT)

    interrupting = Interrupting()
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        Trainer(epochs=5, batch_size=64).fit(toy_model(), groups_log(500), callbacks=[interrupting])
    assert interrupting.steps == 3
    assert signal.getsignal(signal.SIGINT) is before

"""Lazy updates: what they share with dense ones, to the bit, and what they do to rows that a step leaves out."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor, nn

from toy import groups_log, toy_model
from twotower.data import Dataset, split_random
from twotower.errors import ConfigError
from twotower.evaluation import ModelScorer, Popularity, measure
from twotower.features import Category, Hashed, History, Text
from twotower.features.lookups import Table, embed, row_gradients
from twotower.model import FullSoftmax, InBatchSoftmax, Tower, TwoTower
from twotower.training import Adagrad, AdamW, Trainer
from twotower.training import lazy as lazy_module
from twotower.training.clipping import clip_gradient
from twotower.training.groups import look_ups
from twotower.training.lazy import LazyAdagrad, LazyAdamW, catch_up, lazily_updated

ROWS, DIM = 50, 16


class Embedded(nn.Module):
    """A table beside a dense weight."""

    def __init__(self, rows: int = ROWS) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.table = Table(torch.randn(rows, DIM, generator=generator))
        self.weight = nn.Parameter(torch.randn(DIM, generator=generator))

    def slope(self, rows: Tensor) -> None:
        """Gives both a gradient from looking these rows up."""
        (embed(rows, self.table) * self.weight).square().sum().backward()  # type: ignore[no-untyped-call]


def stepped(settings: Adagrad | AdamW, batches: list[Tensor], rates: list[float] | None = None) -> Embedded:
    """A table and a weight after a step a batch."""
    model = Embedded()
    optimizer = settings.build(model)
    for step, rows in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] if rates is None else rates[step]
        optimizer.zero_grad()
        with row_gradients(lazily_updated(optimizer)):
            model.slope(rows)
        optimizer.step()
    catch_up(optimizer)
    return model


def same(first: nn.Module, second: nn.Module) -> bool:
    one, other = first.state_dict(), second.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def draws(steps: int) -> list[Tensor]:
    """Batches of rows, many of them more than once, some never."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(ROWS - 5, (30,), generator=generator) for _ in range(steps)]


@pytest.mark.parametrize("chunk", [1 << 16, 3 * DIM])
def test_lazy_adagrad_is_dense_adagrad_to_the_bit(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lazy_module, "CHUNK", chunk)
    batches, rates = draws(6), [0.1, 0.3, 0.2, 0.1, 0.05, 0.01]
    dense = stepped(Adagrad(tables="dense"), batches, rates)
    assert same(stepped(Adagrad(tables="lazy"), batches, rates), dense)
    assert not torch.equal(dense.table, Embedded().table)


@pytest.mark.parametrize("chunk", [1 << 16, 3 * DIM])
def test_lazy_adamw_is_dense_adamw_to_the_bit_where_every_step_has_every_row(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lazy_module, "CHUNK", chunk)
    batches = [torch.cat([torch.arange(ROWS), rows]) for rows in draws(6)]
    rates = [0.1, 0.3, 0.2, 0.1, 0.05, 0.01]
    dense = stepped(AdamW(weight_decay=0.5, tables="dense"), batches, rates)
    assert same(stepped(AdamW(weight_decay=0.5, tables="lazy"), batches, rates), dense)


def test_lazy_adamw_leaves_rows_without_a_gradient_where_they_are_but_for_their_decay() -> None:
    rates, decay = [0.1, 0.4, 0.2, 0.3], 0.5
    batches = [torch.tensor([1]), torch.tensor([2, 2]), torch.tensor([1]), torch.tensor([2])]
    plain = stepped(AdamW(weight_decay=0.0, tables="lazy"), batches, rates)
    before = Embedded().table.detach()
    assert torch.equal(plain.table[3:], before[3:])
    decayed = stepped(AdamW(weight_decay=decay, tables="lazy"), batches, rates)
    left = math.prod(1 - rate * decay for rate in rates)
    torch.testing.assert_close(decayed.table[3:], before[3:] * left, rtol=1e-6, atol=0)


def test_a_row_takes_the_decay_that_it_missed_before_its_next_step() -> None:
    rates, decay, betas = [0.1, 0.4, 0.2, 0.3], 0.5, (0.9, 0.999)
    slopes = {0: 2.0, 2: -1.0}  # of the one row that counts, by step
    table = Table(torch.ones(2, 1))
    optimizer = LazyAdamW([{"params": [table], "lr": 0.1, "weight_decay": decay}], [table], betas)
    weight, mean, square = 1.0, 0.0, 0.0
    for step, rate in enumerate(rates):
        optimizer.param_groups[0]["lr"] = rate
        rows, values = ([[0, 1]], [[5.0], [slopes[step]]]) if step in slopes else ([[0]], [[5.0]])
        table.grad = torch.sparse_coo_tensor(torch.tensor(rows), torch.tensor(values), (2, 1), check_invariants=False)
        optimizer.step()
        weight *= 1 - rate * decay
        if step in slopes:
            mean = betas[0] * mean + (1 - betas[0]) * slopes[step]
            square = betas[1] * square + (1 - betas[1]) * slopes[step] ** 2
            unbiased = mean / (1 - betas[0] ** (step + 1)), square / (1 - betas[1] ** (step + 1))
            weight -= rate * unbiased[0] / (math.sqrt(unbiased[1]) + 1e-8)
            assert table[1].item() == pytest.approx(weight, rel=1e-5)
    catch_up(optimizer)
    assert table[1].item() == pytest.approx(weight, rel=1e-5)
    catch_up(optimizer)  # there is nothing more to make up for
    assert table[1].item() == pytest.approx(weight, rel=1e-5)


def test_lazy_adagrad_decays_the_rows_of_the_batch_alone() -> None:
    batches = draws(3)
    batches[0][0], batches[1][0], batches[2][0] = 47, 3, 3
    decayed = stepped(Adagrad(weight_decay=0.3, tables="lazy"), batches)
    assert torch.equal(decayed.table[48:], Embedded().table[48:])
    all_rows = [torch.cat([torch.arange(ROWS), rows]) for rows in batches]
    lazy, dense = (stepped(Adagrad(weight_decay=0.3, tables=updates), all_rows) for updates in ("lazy", "dense"))
    assert same(lazy, dense)


@pytest.mark.parametrize("kind", [Adagrad, AdamW])
def test_a_feature_that_gives_a_dense_gradient_is_updated_where_it_is_not_zero(kind: type[Adagrad | AdamW]) -> None:
    models = []
    for sparse in (False, True):
        model = Embedded()
        optimizer = kind(tables="lazy").build(model)
        for rows in draws(4):
            optimizer.zero_grad()
            with row_gradients([model.table] if sparse else []):
                model.slope(rows)
            optimizer.step()
        models.append(model)
    assert same(*models)


def test_clipping_counts_rows_looked_up_twice_once() -> None:
    models = [Embedded(), Embedded()]
    for model, sparse in zip(models, (False, True), strict=True):
        with row_gradients([model.table] if sparse else []):
            for rows in draws(2):  # whose gradients add up
                model.slope(rows)
        clip_gradient(model.parameters(), 2.0)
    gradients = [[model.table.grad, model.weight.grad] for model in models]
    assert all(gradient is not None for pair in gradients for gradient in pair)
    dense = gradients[0]
    assert torch.cat([gradient.flatten() for gradient in dense]).norm().item() == pytest.approx(2.0, rel=1e-5)  # type: ignore[union-attr]
    torch.testing.assert_close(gradients[1][0].to_dense(), dense[0], rtol=1e-5, atol=1e-7)  # type: ignore[union-attr]
    torch.testing.assert_close(gradients[1][1], dense[1], rtol=1e-5, atol=1e-7)


def shared_model() -> TwoTower:
    """A table that both towers look up in, bags, and a table of hashes."""
    return TwoTower(
        Tower([Category("user", 8), History("item", by="user", time="at", dim=8, length=4, shared=True)], [8]),
        Tower([Category("item", 8), Text("title", 8), Hashed("item", 100, 8)], [8]),
    )


@pytest.fixture(scope="module")
def parts() -> tuple[Dataset, Dataset]:
    train, test = split_random(groups_log())
    return train, test


@pytest.mark.parametrize("loss", [FullSoftmax(reduction="sum"), InBatchSoftmax(reduction="sum")])
def test_trained_lazily_by_adagrad_a_model_is_the_same(loss: Any, parts: tuple[Dataset, Dataset]) -> None:
    models = []
    for updates in ("dense", "lazy"):
        models.append(shared_model())
        optimizer = Adagrad(tables=updates)
        trainer = Trainer(epochs=3, batch_size=128, loss=loss, optimizer=optimizer, clip_norm=100.0)
        trainer.fit(models[-1], parts[0])
    dense, lazy = (model.state_dict() for model in models)
    for name in dense:  # sums over a bag and over the gradient's length are rounded in another order
        torch.testing.assert_close(lazy[name], dense[name], rtol=1e-3, atol=1e-4)
    assert all(parameter.grad is not None and not parameter.grad.is_sparse for parameter in models[0].parameters())


def test_trained_lazily_by_adamw_a_model_learns_and_one_seed_gives_one_result(parts: tuple[Dataset, Dataset]) -> None:
    train, test = parts
    models = [shared_model(), shared_model()]
    for model in models:
        Trainer(epochs=12, batch_size=128, optimizer=AdamW(0.02, tables="lazy")).fit(model, train)
    assert same(*models)
    own = measure(ModelScorer(models[0]), test, train).all["top_10"]
    assert own > measure(Popularity(train), test, train).all["top_10"] + 0.3


def test_tables_are_lazy_where_they_are_large_for_what_a_step_looks_up(parts: tuple[Dataset, Dataset]) -> None:
    model = TwoTower(
        Tower([Category("user", 4), Hashed("user", 399, 4), Hashed("user", 398, 4)]),
        Tower([Category("item", 12)]),
    ).learn(parts[0])
    looked_up = look_ups(model, events=200, candidates=30)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert {names[id(table)]: rows for table, rows in looked_up.items()} == {
        "query.features.0.table": 200,
        "query.features.1.table": 200,
        "query.features.2.table": 200,
        "candidate.features.0.table": 30,
    }

    def lazy(settings: Adagrad | AdamW) -> list[str]:
        return [names[id(table)] for table in lazily_updated(settings.build(model, looked_up))]

    assert lazy(AdamW()) == lazy(Adagrad()) == ["query.features.1.table"]  # 400 rows; 399 are too few
    assert lazy(AdamW(tables="dense")) == lazy(Adagrad(tables="dense")) == []
    assert len(lazy(AdamW(tables="lazy"))) == len(lazy(Adagrad(tables="lazy"))) == 4
    assert lazy(Adagrad(embedding_weight_decay=0.1)) == []  # it would not be the same
    assert len(lazy(Adagrad(embedding_weight_decay=0.1, tables="lazy"))) == 4
    assert lazily_updated(AdamW().build(model)) == ()


def test_losses_say_how_many_candidates_they_embed() -> None:
    assert InBatchSoftmax().embedded(100, 1000) == 100
    assert InBatchSoftmax(uniform=50).embedded(100, 1000) == 150
    assert InBatchSoftmax(uniform=50).embedded(100, 120) == 120
    assert FullSoftmax().embedded(100, 1000) == 1000


def test_optimisers_are_pytorchs_own_where_no_table_is_lazy() -> None:
    assert type(Adagrad(tables="dense").build(toy_model())) is torch.optim.Adagrad
    assert type(AdamW(tables="dense").build(toy_model())) is torch.optim.AdamW
    assert type(Adagrad(tables="lazy").build(Embedded())) is LazyAdagrad


def test_senseless_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="expected one of auto, dense, lazy"):
        AdamW(tables="sometimes")  # type: ignore[arg-type]
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"kind": "adagrad", "tables": "sometimes"}, Adagrad)
    with pytest.raises(ConfigError, match="expected a product below 1"):
        AdamW(20.0, weight_decay=0.1, tables="lazy").build(Embedded())

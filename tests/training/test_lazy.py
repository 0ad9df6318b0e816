"""Lazy updates: what they share with dense ones, to the bit, and what they do to rows that a step leaves out."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
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
from twotower.training.lazy import LazyAdagrad, LazyAdamW, catch_up, lazy_look_ups

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
        with lazy_look_ups(optimizer):
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


@given(
    st.lists(st.lists(st.integers(0, ROWS - 1), min_size=1, max_size=8), min_size=1, max_size=25),
    st.floats(0.0, 2.0),
    st.sampled_from([(0.9, 0.999), (0.0, 0.9), (0.8, 0.5)]),
    st.integers(0, 25),
)
def test_lazy_adamw_is_dense_adamw_but_for_rounding(
    batches: list[list[int]], decay: float, betas: tuple[float, float], caught_up: int
) -> None:
    models = []
    for updates in ("dense", "lazy"):
        model = Embedded().double()
        model.table = Table(model.table.detach())
        optimizer = AdamW(0.1, decay, betas, tables=updates).build(model)
        optimizer.param_groups[0]["eps"] = 1e-15  # that of the steps missed is not quite the same
        for step, rows in enumerate(batches):
            optimizer.param_groups[0]["lr"] = 0.1 / (1 + step)
            optimizer.zero_grad()
            with lazy_look_ups(optimizer):
                model.slope(torch.tensor(rows))
            optimizer.step()
            if step == caught_up:
                catch_up(optimizer)
        catch_up(optimizer)
        models.append(model)
    for dense, lazy in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(lazy, dense, rtol=1e-9, atol=1e-9)


def test_gradients_as_small_as_epsilon_are_followed_too() -> None:
    moved = []
    for updates in ("dense", "lazy"):
        table = Table(torch.zeros(2, 1, dtype=torch.float64))
        model = nn.ParameterDict({"table": table})
        optimizer = AdamW(0.1, 0.0, tables=updates).build(model)
        for step in range(400):
            slope = torch.tensor([[1.0], [2e-8 if step in (200, 300) else 0.0]], dtype=torch.float64)
            table.grad = slope.to_sparse(1) if updates == "lazy" else slope
            optimizer.step()
        catch_up(optimizer)
        moved.append(table[1].item())
    assert moved[0] < -0.01
    assert moved[1] == pytest.approx(moved[0], rel=0.05)  # a step's epsilon is that of the row's last gradient


def test_rows_are_up_to_date_when_they_are_looked_up_and_all_are_when_the_state_is_saved() -> None:
    models = [Embedded(), Embedded()]
    optimizers = [AdamW(0.1, 0.1, tables="dense").build(models[0]), AdamW(0.1, 0.1, tables="lazy").build(models[1])]
    for rows in (torch.tensor([1, 2]), torch.tensor([2, 3]), torch.tensor([3])):
        for model, optimizer in zip(models, optimizers, strict=True):
            optimizer.zero_grad()
            with lazy_look_ups(optimizer):
                model.slope(rows)
            optimizer.step()
    dense, lazy = models
    assert not torch.allclose(lazy.table[1], dense.table[1], atol=1e-3)
    with torch.no_grad(), lazy_look_ups(optimizers[1]):
        assert torch.allclose(embed(torch.tensor([1]), lazy.table), dense.table[1], atol=1e-6)
    assert not torch.allclose(lazy.table[4], dense.table[4], atol=1e-3)
    states = [optimizer.state_dict()["state"] for optimizer in optimizers]
    assert torch.allclose(lazy.table, dense.table, atol=1e-6)
    assert states[0].keys() == states[1].keys()
    for number, values in states[0].items():
        assert values.keys() == states[1][number].keys()
        for name, value in values.items():
            torch.testing.assert_close(states[1][number][name], value)


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
    own = measure(ModelScorer(models[0]), test, train).scores.all["top_10"]
    assert own > measure(Popularity(train), test, train).scores.all["top_10"] + 0.3


def test_tables_are_lazy_where_they_are_large_for_what_a_step_looks_up(parts: tuple[Dataset, Dataset]) -> None:
    model = TwoTower(
        Tower([Category("user", 4), Hashed("user", 1999, 4), Hashed("user", 1998, 4)]),
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
        optimizer = settings.build(model, looked_up)
        return [names[id(t)] for t in optimizer.tables] if isinstance(optimizer, LazyAdagrad | LazyAdamW) else []

    assert lazy(AdamW()) == lazy(Adagrad()) == ["query.features.1.table"]  # 2,000 rows; 1,999 are too few
    assert lazy(AdamW(tables="dense")) == lazy(Adagrad(tables="dense")) == []
    assert len(lazy(AdamW(tables="lazy"))) == len(lazy(Adagrad(tables="lazy"))) == 4
    assert lazy(Adagrad(weight_decay=0.1)) == []  # it would not be the same
    assert len(lazy(Adagrad(weight_decay=0.1, tables="lazy"))) == 4
    assert type(AdamW().build(model)) is torch.optim.AdamW


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
    with pytest.raises(ConfigError, match="expected one of 'auto', 'dense', 'lazy'"):
        AdamW(tables="sometimes")  # type: ignore[arg-type]
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"kind": "adagrad", "tables": "sometimes"}, Adagrad)

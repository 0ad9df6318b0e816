from __future__ import annotations

import math
from typing import Any

import pyarrow as pa
import pytest
import torch

from toy import groups_log, log_of, toy_model
from twotower.errors import ConfigError, DataError
from twotower.features import Category, Normalized
from twotower.model import Tower, TwoTower, embedding
from twotower.model.dropout import Dropout
from twotower.model.encoding import EncodedColumn, EncodedSide
from twotower.model.tower import tower_from_settings


def numbers(*rows: list[float]) -> list[torch.Tensor]:
    return [torch.tensor(column) for column in zip(*rows, strict=True)]


def test_without_layers_a_tower_gives_its_features_side_by_side() -> None:
    tower = Tower([Normalized("a"), Normalized("b")])
    assert tower.width == 2
    assert tower(numbers([1.0, -2.0], [3.0, 4.0])).tolist() == [[1.0, -2.0], [3.0, 4.0]]


def test_relu_follows_every_layer_but_the_last() -> None:
    tower = Tower([Normalized("a")], layers=[2, 1])
    first, last = [layer for layer in tower.stack.modules() if isinstance(layer, torch.nn.Linear)]
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[1.0], [-1.0]]))
        last.weight.copy_(torch.tensor([[1.0, -3.0]]))
    # 2 becomes (2, 0) after the ReLU, -2 becomes (0, 2); the last layer's -6 is not cut off.
    assert tower(numbers([2.0], [-2.0])).tolist() == [[2.0], [-6.0]]


def dense_of(tower: Tower) -> list[torch.nn.Linear]:
    return [layer for layer in tower.modules() if isinstance(layer, torch.nn.Linear)]


def test_a_residual_layer_adds_its_input_where_the_widths_agree() -> None:
    tower = Tower([Normalized("a"), Normalized("b")], layers=[2, 3, 1], residual=True)
    same, other, last = dense_of(tower)
    with torch.no_grad():
        for layer in (same, other):
            layer.weight.zero_()
        other.bias.fill_(1.0)
        last.weight.fill_(1.0)
    # The first layer gives its input alone, the second, of another width, only its bias.
    hidden = tower.stack[0](torch.tensor([[2.0, -5.0]]))
    assert hidden.tolist() == [[2.0, -5.0]]
    assert tower(numbers([2.0, -5.0])).tolist() == [[3.0]]


@pytest.mark.parametrize("rank", [None, 1])
def test_a_cross_layer_multiplies_features(rank: int | None) -> None:
    tower = Tower([Normalized("a"), Normalized("b")], cross=2, cross_rank=rank)
    with torch.no_grad():
        for layer in dense_of(tower):
            layer.weight.fill_(1.0)
    # x0 = (2, 3): x1 = x0 · 5 + x0 = (12, 18), x2 = x0 · 30 + x1 = (72, 108)
    assert tower(numbers([2.0, 3.0])).tolist() == [[72.0, 108.0]]


def test_cross_layers_beside_are_joined_to_the_last_width() -> None:
    tower = Tower([Normalized("a"), Normalized("b")], layers=[4, 3], cross=1, cross_place="beside")
    assert tower(numbers([2.0, 3.0], [1.0, 1.0])).shape == (2, 3)


@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_norms_follow_hidden_layers(norm: Any) -> None:
    tower = Tower([Normalized("a"), Normalized("b")], layers=[16, 2], norm=norm, activation="tanh").train()
    inputs = numbers(*[[float(i), float(i * i % 7)] for i in range(40)])
    layer = tower.stack[0]
    hidden = layer.norm(layer.dense(torch.stack(inputs, dim=1)))  # type: ignore[operator]
    dim = 1 if norm == "layer" else 0
    torch.testing.assert_close(hidden.mean(dim=dim), torch.zeros(hidden.shape[1 - dim]), atol=1e-5, rtol=0)
    assert [type(module) for module in tower.modules() if isinstance(module, torch.nn.Tanh)]


def test_every_setting_makes_the_tower_anew() -> None:
    tower = Tower(
        [Normalized("a")],
        [4, 4, 2],
        0.1,
        activation="gelu",
        norm="layer",
        residual=True,
        cross=2,
        cross_rank=1,
        history_start=0.5,
    )
    again = tower_from_settings(tower.settings())
    again.load_state_dict(tower.state_dict())
    inputs = numbers([0.3], [-1.0])
    assert torch.equal(again.eval()(inputs), tower.eval()(inputs))
    assert again.settings() == tower.settings()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_dropout_drops_its_share_and_keeps_the_mean(share: float) -> None:
    dropout = Dropout(share).train()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = dropout(torch.ones(100, 1001))
    zero = (found == 0).double()
    assert abs(zero.mean().item() - share) < 0.005  # a 512th by rounding, and five deviations of 100,100 draws
    assert found.unique().numel() == 2
    assert abs(found.mean().item() - 1) < 0.06
    assert (zero.mean(dim=0) - share).abs().max() < 0.3  # every place alike, whichever byte of a word it has
    assert torch.equal(dropout.eval()(found), found)


@pytest.mark.parametrize("options", [{"dropout": 0.5}, {"input_dropout": 0.5}])
def test_dropout_is_for_training_only(options: dict[str, float]) -> None:
    tower = Tower([Normalized("a")], layers=[50, 50], **options)  # type: ignore[arg-type]
    inputs = numbers([1.0])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert any(not torch.equal(tower.train()(inputs), tower(inputs)) for _ in range(20))
    assert torch.equal(tower.eval()(inputs), tower(inputs))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": []}, "no features"),
        ({"layers": [4, 0]}, r"layers=\[4, 0\]; expected widths from 1 to 1,048,576"),
        ({"layers": [10**18]}, "expected widths from 1 to 1,048,576"),
        ({"features": [Category("a", 10**9)]}, "category of 'a' is 1,000,000,000 wide; expected at most"),
        ({"cross": 1, "cross_rank": 10**18}, "a rank from 1 to 1,048,576"),
        ({"cross": 65}, "expected from 0 to 64"),
        ({"dropout": 1.0}, r"dropout=1\.0, input_dropout=0\.0, unknown_query_rate=0\.0; expected shares"),
        ({"input_dropout": -0.1}, r"input_dropout=-0\.1, unknown_query_rate=0\.0; expected shares"),
        ({"activation": "selu"}, "activation='selu'"),
        ({"norm": "group"}, "norm='group'"),
        ({"cross": -1}, "cross=-1"),
        ({"cross": 1, "cross_rank": 0}, "cross_rank=0"),
        ({"cross": 1, "cross_place": "beside"}, "cross_place='beside' without dense layers"),
        ({"history_start": -1.0}, r"history_start=-1\.0; expected at least 0, and finite"),
        ({"history_start": math.inf}, "history_start=inf"),
    ],
)
def test_senseless_towers_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Tower(**({"features": [Normalized("a")]} | options))


def test_towers_have_to_meet_and_temperatures_to_be_positive() -> None:
    with pytest.raises(ConfigError, match="query tower has width 8 and the candidate tower 4"):
        TwoTower(Tower([Category("a", 8)]), Tower([Category("b", 4)]))
    with pytest.raises(ConfigError, match="temperature=0"):
        TwoTower(Tower([Category("a", 8)]), Tower([Category("b", 8)]), temperature=0)
    with pytest.raises(ConfigError, match=r"temperature=0\.001 with learn_temperature; expected between 0\.01 and 100"):
        TwoTower(Tower([Category("a", 8)]), Tower([Category("b", 8)]), temperature=0.001, learn_temperature=True)


def test_normalized_embeddings_have_length_one_over_the_temperature() -> None:
    log = groups_log(50)
    model = TwoTower(Tower([Category("user", 8)]), Tower([Category("item", 8)]), normalize=True, temperature=0.25)
    model.learn(log)
    torch.testing.assert_close(model.embed_queries(log).norm(dim=1), torch.full((50,), 4.0))
    torch.testing.assert_close(model.embed_candidates(log.candidates).norm(dim=1), torch.ones(30))


def learning_temperature(temperature: float) -> TwoTower:
    towers = Tower([Category("user", 8)]), Tower([Category("item", 8)])
    return TwoTower(*towers, normalize=True, temperature=temperature, learn_temperature=True)


def test_a_learned_temperature_starts_where_it_is_told_and_divides_the_scores() -> None:
    log = groups_log(50)
    model = learning_temperature(0.25).learn(log)
    torch.testing.assert_close(model.embed_queries(log).norm(dim=1), torch.full((50,), 4.0))
    assert model.log_temperature is not None
    with torch.no_grad():
        model.log_temperature.add_(math.log(2))
    assert model.temperature == pytest.approx(0.5)
    torch.testing.assert_close(model.embed_queries(log).norm(dim=1), torch.full((50,), 2.0))
    assert model.settings()["temperature"] == 0.25
    assert model.learn(log).temperature == pytest.approx(0.25)


def test_the_gradient_of_a_learned_temperature_is_that_of_the_scores() -> None:
    """dloss/dlog T = −Σ z · dloss/dz for scores z = q·c / T; here with a loss of Σ z²."""
    log = groups_log(5)
    model = learning_temperature(0.5).learn(log)
    scores = model.query_vectors(model.encode_queries(log).whole()) @ model.embed_candidates(log.candidates).T
    scores.square().sum().backward()  # type: ignore[no-untyped-call]
    assert model.log_temperature is not None
    assert model.log_temperature.grad is not None
    torch.testing.assert_close(model.log_temperature.grad, -2 * scores.detach().square().sum())


@pytest.mark.parametrize(("beyond", "bound"), [(-9.0, 0.01), (9.0, 100.0)])
def test_a_learned_temperature_is_brought_back_within_bounds(beyond: float, bound: float) -> None:
    model = learning_temperature(0.5)
    model.clamp_temperature()
    assert model.temperature == pytest.approx(0.5)
    assert model.log_temperature is not None
    with torch.no_grad():
        model.log_temperature.fill_(beyond)
    model.clamp_temperature()
    assert model.temperature == pytest.approx(bound)


def test_what_train_does_not_name_is_unknown_to_the_features() -> None:
    train = log_of([(0, 0), (1, 1)], queries=3, candidates=3)
    model = TwoTower(Tower([Category("user", 4)]), Tower([Category("item", 4)])).learn(train)
    assert model.query.features[0].encode(train.queries["user"]).tolist() == [2, 3, 0]  # type: ignore[operator]
    assert model.candidate.features[0].encode(train.candidates["item"]).tolist() == [2, 3, 0]  # type: ignore[operator]


def test_one_seed_starts_the_same_weights() -> None:
    log = groups_log(50)
    one, same, other = (toy_model().learn(log, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.embed_queries(log), same.embed_queries(log))
    assert not torch.equal(one.embed_queries(log), other.embed_queries(log))


def test_embeddings_do_not_depend_on_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    log = groups_log(100)
    model = toy_model().learn(log)
    whole = model.embed_queries(log)
    monkeypatch.setattr(embedding, "BLOCK", 7)
    # Matrix products of other shapes add in another order: equal to a few units in the last place.
    torch.testing.assert_close(model.embed_queries(log), whole, rtol=1e-5, atol=1e-7)


def test_embedding_leaves_the_mode_of_the_model_as_it_was() -> None:
    log = groups_log(20)
    model = toy_model(dropout=0.5).learn(log)
    model.train()
    assert torch.equal(model.embed_queries(log), model.embed_queries(log))
    assert model.training


def test_a_missing_column_is_named() -> None:
    log = groups_log(20)
    with pytest.raises(DataError, match="'colour' is in neither the interactions"):
        TwoTower(Tower([Category("colour", 4)]), Tower([Category("item", 4)])).learn(log)
    model = toy_model().learn(log)
    with pytest.raises(DataError, match="'title' is missing; expected it among item"):
        model.encode_candidates(pa.table({"item": [1]}))


def test_encoded_columns_are_gathered_through_their_rows() -> None:
    values = torch.tensor([[1, 2], [3, 4], [5, 6]])
    side = EncodedSide([EncodedColumn(values), EncodedColumn(values, torch.tensor([2, 2, 0]))], 3)
    assert len(side) == 3
    assert [part.tolist() for part in side.gather(torch.tensor([2, 0]))] == [[[5, 6], [1, 2]], [[1, 2], [5, 6]]]
    assert [part.tolist() for part in side.whole()] == [values.tolist(), [[5, 6], [5, 6], [1, 2]]]


def test_a_usual_start_is_no_part_of_the_settings_so_that_earlier_bundles_are_the_same_towers() -> None:
    assert "history_start" not in Tower([Normalized("a")], [2]).settings()
    assert Tower([Normalized("a")], [2], history_start=0.0).settings()["history_start"] == 0.0

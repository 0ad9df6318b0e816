"""Heads and the layers that multiply features, by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import twotower as tt
from toy import groups_log
from twotower.errors import ConfigError
from twotower.model import Cross, DotInteraction, Tower, TowerModule, TwoTower, functional
from twotower.model.cross import CrossLayers
from twotower.model.heads import HEADS, HeadModule, Shape, Side, head_from_settings
from twotower.model.sides import candidate_side, query_side
from twotower.testing import check_head

OURS = [
    tt.DotHead(),
    tt.DotHead(biases=False, link="sigmoid"),
    tt.StackHead(layers=(8,), norm="layer"),
    tt.StackHead(reads="features", layers=()),
    tt.CrossHead(layers=(8,)),
    tt.CrossHead(reads="embeddings", rank=2, place="beside", layers=(8,)),
    tt.InteractionHead(dim=8, layers=(8,)),
    tt.InteractionHead(dim=3, itself=True, layers=(), activation="gelu"),
]


@pytest.mark.parametrize("head", OURS, ids=repr)
def test_our_heads_pass_the_suite(head: tt.model.Head) -> None:
    check_head(head)


def test_a_cross_layer_is_its_formula() -> None:
    first, inputs = torch.randn(5, 4), torch.randn(5, 4)
    full = Cross(4, diagonal=0.5, activation=nn.Tanh())
    assert isinstance(full.dense, nn.Linear)
    expected = first * torch.tanh(inputs @ full.dense.weight.T + full.dense.bias + 0.5 * inputs) + inputs
    assert torch.allclose(full(first, inputs), expected)
    low = Cross(4, rank=2, bias=False)
    assert sum(one.numel() for one in low.parameters()) == 2 * 4 * 2
    down, up = low.dense.parameters()
    assert torch.allclose(low(first, inputs), first * (inputs @ down.T @ up.T) + inputs)


def test_cross_layers_keep_the_first_inputs() -> None:
    layers, inputs = CrossLayers(3, 2, None), torch.randn(4, 3)
    one, other = layers.layers
    assert torch.equal(layers(inputs), other(inputs, one(inputs, inputs)))


@pytest.mark.parametrize("wrong", [{"width": 0}, {"width": 2, "rank": 0}, {"width": 2, "diagonal": -1.0}])
def test_cross_layers_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="a cross layer with"):
        Cross(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("itself", [False, True])
def test_interactions_are_all_pairs_once(itself: bool) -> None:
    embeddings = [torch.randn(6, 5) for _ in range(4)]
    layer = DotInteraction(itself)
    pairs = [(row, column) for row in range(4) for column in range(row + itself)]
    expected = torch.stack([(embeddings[a] * embeddings[b]).sum(dim=1) for a, b in pairs], dim=1)
    found = layer(embeddings)
    assert torch.allclose(found, expected, atol=1e-6)
    assert found.shape[1] == layer.products(4)


def side(width: int, dims: int) -> Side:
    return Side(torch.randn(7, width), torch.randn(7, dims))


def test_a_dot_head_is_factors_and_biases() -> None:
    head, query, candidate = tt.DotHead().build(Shape((4,), (6,), 3)), side(4, 3), side(6, 3)
    head.reset()
    weight, bias = head.get_parameter("linear.weight"), head.get_parameter("linear.bias")
    expected = (query.vectors * candidate.vectors).sum(dim=1) + torch.cat(
        [query.vectors, candidate.vectors], 1
    ) @ weight[0]
    assert torch.allclose(head(query, candidate), expected + bias, atol=1e-6)


def test_an_answer_is_scaled_and_bounded_only_where_it_is_no_probability() -> None:
    class Fixed(HeadModule):
        def score(self, query: Side, candidate: Side) -> torch.Tensor:
            return torch.tensor([-9.0, 0.0, 9.0])

    head = Fixed()
    head.set_range(3.0, 2.0, 1.0, 5.0)
    assert head(side(1, 1), side(1, 1)).tolist() == [1.0, 3.0, 5.0]
    assert head.logits(side(1, 1), side(1, 1)).tolist() == [-15.0, 3.0, 21.0]
    head = Fixed("sigmoid")
    assert torch.allclose(head(side(1, 1), side(1, 1)), torch.sigmoid(torch.tensor([-9.0, 0.0, 9.0])))


def test_sides_give_what_the_towers_embed() -> None:
    log = groups_log(50)
    model = (
        TwoTower(
            Tower([tt.Category("user", 4)], [6]),
            Tower([tt.Category("item", 4), tt.Text("title", 3)], [6]),
            temperature=0.5,
        )
        .learn(log)
        .eval()
    )
    query, candidate = model.encode_queries(log).whole(), model.encode_candidates(log.candidates).whole()
    assert torch.equal(query_side(model, query).vectors, model.query_vectors(query))
    assert torch.equal(candidate_side(model, candidate).vectors, model.candidate_vectors(candidate))
    assert candidate_side(model, candidate).features.shape == (30, 7)
    assert candidate_side(model, candidate, vectors=False).vectors.shape == (30, 0)


def test_sides_of_towers_with_a_forward_of_their_own() -> None:
    class Doubled(TowerModule):
        def __init__(self) -> None:
            super().__init__([tt.Category("user", 4)])
            self.width = 4

        def forward(self, encoded: list[torch.Tensor]) -> torch.Tensor:  # type: ignore[override]
            return 2 * self.read(encoded)

    log = groups_log(50)
    model = TwoTower(Doubled(), Tower([tt.Category("item", 4)])).learn(log).eval()
    encoded = model.encode_queries(log).whole()
    found = query_side(model, encoded)
    assert torch.equal(found.vectors, 2 * found.features)


def test_heads_start_the_same_whatever_was_drawn_before_and_names_are_taken_once() -> None:
    log = groups_log(50)
    models = [TwoTower(Tower([tt.Category("user", 4)]), Tower([tt.Category("item", 4)])).learn(log) for _ in range(2)]
    for model in models:
        torch.rand(3)
        model.add_heads({"x": tt.StackHead(layers=(4,))}, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(*(m.heads.state_dict().values() for m in models), strict=True))
    with pytest.raises(ConfigError, match="the model has a head 'x'"):
        models[0].add_heads({"x": tt.DotHead()})
    with pytest.raises(ConfigError, match="the model has no head 'y'; expected one of x"):
        models[0].heads["y"]


def test_head_settings_out_of_range_are_refused() -> None:
    for wrong in (
        {"kind": "stack", "layers": [0]},
        {"kind": "stack", "dropout": 1.0},
        {"kind": "cross", "count": 0},
        {"kind": "cross", "counts": 3},
        {"kind": "dot_interaction", "dim": 0},
        {"kind": "crossed"},
    ):
        with pytest.raises(ConfigError):
            head_from_settings(wrong)
    assert set(HEADS) >= {"dot", "stack", "cross", "dot_interaction"}  # and what other tests register


def test_pointwise_losses_by_hand() -> None:
    predictions, targets = torch.tensor([0.0, 3.0, 1.0]), torch.tensor([1.0, 0.0, 1.0])
    weights = torch.tensor([1.0, 2.0, 1.0])
    assert functional.pointwise_loss(predictions, targets, weights=weights).item() == pytest.approx((1 + 18 + 0) / 4)
    assert functional.pointwise_loss(predictions, targets, "huber", delta=2.0, reduction="sum").item() == pytest.approx(
        0.5 + 2 * (3 - 1)
    )
    found = functional.pointwise_loss(predictions, targets, "cross_entropy", reduction="sum")
    p = torch.sigmoid(predictions)
    assert found.item() == pytest.approx(-(p[0].log() + (1 - p[1]).log() + p[2].log()).item())
    with pytest.raises(ConfigError, match=r"targets is \[2\]; expected \[3\]"):
        functional.pointwise_loss(predictions, targets[:2])

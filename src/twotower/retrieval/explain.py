"""Where a score comes from: features and items of a history, as contributions that add up to it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import msgspec
import numpy as np
import torch
from torch import Tensor

from twotower.errors import ConfigError
from twotower.features.base import Feature
from twotower.model.heads import HeadModule, Side
from twotower.model.rerank import Rerank
from twotower.model.sides import candidate_side, query_side
from twotower.model.tower_module import TowerModule
from twotower.model.two_tower import TwoTower, features_of

MOST_EXACT = 16
"""Features of both towers up to which every subset of them is tried for a dot product."""

MOST_EXACT_OF_HEAD = 12
"""The same for a head, which answers for each pair of subsets by itself: 4,096 of them take some milliseconds."""

ORDERS = 64
"""Orders of the features that are tried where there are more; each also backwards."""

Ids = Callable[[object], bool]

ScoreName: TypeAlias = Literal["retrieval", "rerank"]
"""Which score is explained."""


class Contribution(msgspec.Struct, frozen=True):
    """What one feature adds to a score."""

    feature: str
    value: float


class HistoryContribution(msgspec.Struct, frozen=True):
    """What one item of the query's history adds to a score."""

    id: int | str
    value: float


class Explanation(msgspec.Struct, frozen=True):
    """What a score is made of: `bias` and all contributions add up to it, but for rounding.

    Attributes:
        score: Dot product of query and candidate, over the temperature; or the re-ranking head's answer.
        bias: The score that features give which say nothing.
        query: What features of the query add; of a history only what its items listed below do not.
        candidate: What features of the candidate add.
        history: What items of the history add, the nearest to now first.
        method: What of it is exact and what an approximation, in words.
    """

    score: float
    bias: float
    query: list[Contribution]
    candidate: list[Contribution]
    history: list[HistoryContribution]
    method: str


EXACT = "Shapley values over the features, exact: every subset was tried, those left out reading as zeros."
SAMPLED = (
    "Shapley values over the features, those left out reading as zeros: estimated from {orders} orders of the "
    "features, though their sum is exact."
)
ITEMS = (
    " The history's share is told apart by leaving out one item at a time, an approximation; what is left over is "
    "spread evenly."
)


class Scored(Protocol):
    """What is explained: a number for a query and a candidate."""

    @property
    def most_exact(self) -> int:
        """Features of both sides up to which every subset is tried."""
        ...

    def table(self, left: Side, right: Side) -> Tensor:
        """The numbers of a queries with b candidates, float64 `[a, b]`."""
        ...

    def pairs(self, left: Side, right: Side) -> Tensor:
        """The numbers of n pairs, float64 `[n]`."""
        ...


class DotScore:
    """The score of retrieval."""

    @property
    def most_exact(self) -> int:
        """As many subsets as one product of matrices scores."""
        return MOST_EXACT

    def table(self, left: Side, right: Side) -> Tensor:
        """Dot products of all with all."""
        return left.vectors.double() @ right.vectors.double().T

    def pairs(self, left: Side, right: Side) -> Tensor:
        """Dot products of pairs."""
        return (left.vectors.double() * right.vectors.double()).sum(dim=1)


class HeadScore:
    """A head's answer.

    Args:
        head: The head.
    """

    def __init__(self, head: HeadModule) -> None:
        self.head = head

    @property
    def most_exact(self) -> int:
        """As many subsets as a head answers for in some milliseconds."""
        return MOST_EXACT_OF_HEAD

    def table(self, left: Side, right: Side) -> Tensor:
        """Answers for all with all."""
        rows = torch.arange(len(left)).repeat_interleave(len(right)), torch.arange(len(right)).repeat(len(left))
        return self.pairs(left.take(rows[0]), right.take(rows[1])).view(len(left), len(right))

    def pairs(self, left: Side, right: Side) -> Tensor:
        """Answers for pairs."""
        answers: Tensor = self.head(left, right)
        return answers.double()


def scored_by(model: TwoTower, rerank: Rerank | None, score: ScoreName) -> Scored:
    """What is explained.

    Raises:
        ConfigError: It is no score, or there is no head to re-rank by.
    """
    if score not in ("retrieval", "rerank"):
        raise ConfigError(f"score={score!r}; expected retrieval or rerank", field="score")
    if score == "retrieval":
        return DotScore()
    if rerank is None:
        raise ConfigError("score='rerank': the bundle re-ranks by no head; expected retrieval", field="score")
    return HeadScore(model.heads[rerank.head])


def explain(
    model: TwoTower, query: list[Tensor], candidate: list[Tensor], shown: Ids, items: str, scored: Scored
) -> Explanation:
    """Explains the score of one query and one candidate.

    Contributions are the Shapley values (Shapley, *A value for n-person games*, 1953; Lundberg and Lee, *A unified
    approach to interpreting model predictions*, NIPS 2017) of a game whose players are the features of both towers. A
    feature that does not play is read as zeros, as dropout of inputs makes it in training; a head that reads embeddings
    reads those of the remaining features.

    Args:
        model: The model, in evaluation mode.
        query: What its query tower takes, one row a feature.
        candidate: What its candidate tower takes, one row a feature.
        shown: Whether an item of a history is a candidate to name.
        items: Name of the candidate ids, whose histories are told apart by item.
        scored: The score.
    """
    with torch.no_grad():
        sides = (
            _Explained.of(model.query, query, model.scaled_query),
            _Explained.of(model.candidate, candidate, model.scaled_candidate),
        )
        exact = sum(len(side.names) for side in sides) <= scored.most_exact
        shares, bias, score = (_exact if exact else _sampled)(scored, *sides)
        own, others = shares[: len(sides[0].names)], shares[len(sides[0].names) :]
        parts = _by_item(model, query, candidate, own, shown, items, scored)
    told = np.zeros(len(own))
    for part in parts:
        told[part.feature] += part.value
    listed = {part.feature for part in parts}
    method = EXACT if exact else SAMPLED.format(orders=2 * ORDERS)
    return Explanation(
        score=score,
        bias=bias,
        query=[
            Contribution(name, float(value - told[place]))
            for place, (name, value) in enumerate(zip(sides[0].names, own, strict=True))
            if place not in listed or abs(value - told[place]) > 1e-6 * max(1.0, abs(score))
        ],
        candidate=[Contribution(name, float(value)) for name, value in zip(sides[1].names, others, strict=True)],
        history=[HistoryContribution(part.id, part.value) for part in parts],
        method=method + (ITEMS if parts else ""),
    )


@dataclass(frozen=True)
class _Explained:
    """One tower and what its features say: their embeddings side by side, and whose each number is."""

    tower: TowerModule
    names: list[str]
    inputs: Tensor  # [widths]
    owner: Tensor  # [widths]
    scaled: Callable[[Tensor], Tensor]

    @classmethod
    def of(cls, tower: TowerModule, encoded: list[Tensor], scaled: Callable[[Tensor], Tensor]) -> _Explained:
        features = features_of(tower)
        embedded = [feature(rows).squeeze(0) for feature, rows in zip(features, encoded, strict=True)]
        widths = torch.tensor([len(numbers) for numbers in embedded])
        owner = torch.repeat_interleave(torch.arange(len(features)), widths)
        return cls(tower, _names(features), torch.cat(embedded), owner, scaled)

    def of_subsets(self, playing: Tensor) -> Side:
        """The side with subsets of its features, bool `[n, features]`."""
        inputs = self.inputs * playing.to(self.inputs.dtype)[:, self.owner]
        return Side(inputs, self.scaled(self.tower.embed_inputs(inputs)))


def _names(features: Sequence[Feature]) -> list[str]:
    """What each feature is called: its column, its kind where several read one column, and what tells those apart."""
    names = []
    for feature in features:
        same_column = [other for other in features if other.column == feature.column]
        if len(same_column) == 1 and feature.column in feature.reads:
            names.append(feature.column)
            continue
        own, others = feature.settings(), [other.settings() for other in same_column if other.kind == feature.kind]
        telling = [str(value) for name, value in own.items() if any(other[name] != value for other in others)]
        names.append(f"{feature.column} ({', '.join([feature.kind, *telling])})")
    return names


def _exact(scored: Scored, query: _Explained, candidate: _Explained) -> tuple[np.ndarray, float, float]:
    """Shapley values of all features, the score without and with all of them."""
    subsets = [_all_subsets(len(side.names)) for side in (query, candidate)]
    # [subsets of the query's, of the candidate's]
    scores = scored.table(query.of_subsets(subsets[0]), candidate.of_subsets(subsets[1])).numpy()
    sizes = [subset.sum(dim=1).numpy() for subset in subsets]
    together, players = sizes[0][:, None] + sizes[1], len(query.names) + len(candidate.names)
    weights = np.array([1 / (players * math.comb(players - 1, size)) for size in range(players)] + [0.0])
    values = [_differences(scores, weights[together], subsets[0].numpy())]
    values.append(_differences(scores.T, weights[together].T, subsets[1].numpy()))
    return np.concatenate(values), float(scores[0, 0]), float(scores[-1, -1])


def _all_subsets(count: int) -> Tensor:
    """Every subset of so many features, bool `[2^count, count]`, the empty one first and the whole last."""
    return (torch.arange(1 << count).unsqueeze(1) >> torch.arange(count)) & 1 == 1


def _differences(scores: np.ndarray, weights: np.ndarray, subsets: np.ndarray) -> np.ndarray:
    """For each feature of the rows what it adds to each subset without it, weighted and summed up."""
    values = []
    for place in range(subsets.shape[1]):
        without = np.flatnonzero(~subsets[:, place])
        gains = scores[without + (1 << place)] - scores[without]
        values.append((gains * weights[without]).sum())
    return np.array(values)


def _sampled(scored: Scored, query: _Explained, candidate: _Explained) -> tuple[np.ndarray, float, float]:
    """The same estimated: each order's differences add up to the score, and so does their mean."""
    own, others = len(query.names), len(candidate.names)
    draw = np.random.default_rng(0)
    forward = [draw.permutation(own + others) for _ in range(ORDERS)]
    orders = np.stack([*forward, *(order[::-1] for order in forward)])  # [orders, players]
    place = np.argsort(orders, axis=1)
    playing = torch.from_numpy(place[:, None, :] < np.arange(own + others + 1)[:, None])  # [orders, steps, players]
    left = query.of_subsets(playing[..., :own].flatten(0, 1))
    right = candidate.of_subsets(playing[..., own:].flatten(0, 1))
    scores = scored.pairs(left, right).view(len(orders), -1).numpy()
    values = np.zeros(own + others)
    np.add.at(values, orders, np.diff(scores, axis=1))
    return values / len(orders), float(scores[0, 0]), float(scores[0, -1])


@dataclass(frozen=True)
class _Item:
    feature: int
    id: int | str
    value: float


def _by_item(
    model: TwoTower,
    query: list[Tensor],
    candidate: list[Tensor],
    shares: np.ndarray,
    shown: Ids,
    items: str,
    scored: Scored,
) -> list[_Item]:
    """The shares of histories told apart by item."""
    right = candidate_side(model, candidate)
    found = []
    for place, feature in enumerate(features_of(model.query)):
        told = feature.items_of(query[place])
        if told is None or told.column != items or not told.ids:
            continue
        encoded = [own.expand(len(told.ids) + 1, *own.shape[1:]) for own in query]
        encoded[place] = torch.cat([told.without, query[place]])
        scores = scored.table(query_side(model, encoded), right)[:, 0]  # [items + 1], the last one with all of them
        effects = (scores[-1] - scores[:-1]).numpy()
        effects += (shares[place] - effects.sum()) / len(told.ids)
        found += [
            _Item(place, value, float(effect))
            for value, effect in zip(told.ids, effects, strict=True)
            if isinstance(value, int | str) and shown(value)
        ]
    return found

"""Explain a score as contributions of features and history items that add up to it."""

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
from twotower.model.interests import best_of_pairs, best_scores
from twotower.model.rerank import Rerank
from twotower.model.sides import candidate_side, query_side
from twotower.model.tower_module import TowerModule, features_of
from twotower.model.two_tower import TwoTower

EXACT_UP_TO = 16
"""Score every subset of the features for a dot product if both towers together have at most this many."""

EXACT_UP_TO_FOR_HEAD = 12
"""The same limit for a head, which scores each pair of subsets separately; 4,096 pairs take a few milliseconds."""

ORDERS = 64
"""With more features, sample this many orders of them, each also reversed."""

Ids = Callable[[object], bool]

ScoreName: TypeAlias = Literal["retrieval", "rerank"]
"""Which score to explain."""


class Contribution(msgspec.Struct, frozen=True):
    """What one feature adds to a score."""

    feature: str
    value: float


class HistoryContribution(msgspec.Struct, frozen=True):
    """What one item of the query's history adds to a score."""

    id: int | str
    value: float


class Explanation(msgspec.Struct, frozen=True):
    """What a score is made of: `bias` and all contributions add up to it, up to rounding.

    Attributes:
        score: Dot product of query and candidate, divided by the temperature; or the output of the re-ranking head.
        bias: The score with all features set to zero.
        query: Contributions of the query's features; a history counts here only for what the items in `history` leave.
        candidate: Contributions of the candidate's features.
        history: Contributions of the history's items, most recent first.
        method: Which parts are exact and which approximate, as a sentence.
    """

    score: float
    bias: float
    query: list[Contribution]
    candidate: list[Contribution]
    history: list[HistoryContribution]
    method: str


EXACT = "Shapley values over the features, exact: every subset was scored, with missing features set to zero."
SAMPLED = (
    "Shapley values over the features, estimated from {orders} orders of the features, with missing features set to "
    "zero; their sum is exact."
)
ITEMS = (
    " The history's share is split by leaving out one item at a time, an approximation; the remainder is spread evenly."
)


class Scored(Protocol):
    """A score to explain: a number for a query and a candidate."""

    @property
    def exact_up_to(self) -> int:
        """Score every subset if both sides together have at most this many features."""
        ...

    def table(self, left: Side, right: Side) -> Tensor:
        """Scores of a queries with b candidates, float64 `[a, b]`."""
        ...

    def pairs(self, left: Side, right: Side) -> Tensor:
        """Scores of n pairs, float64 `[n]`."""
        ...


class DotScore:
    """The retrieval score: a dot product."""

    @property
    def exact_up_to(self) -> int:
        """A single matrix product scores all subsets."""
        return EXACT_UP_TO

    def table(self, left: Side, right: Side) -> Tensor:
        """Dot products of every query with every candidate."""
        return best_scores(left.vectors.double(), right.vectors.double())

    def pairs(self, left: Side, right: Side) -> Tensor:
        """Dot products of pairs."""
        queries, candidates = left.vectors.double(), right.vectors.double()
        return (best_of_pairs(queries, candidates) * candidates).sum(dim=1)


class HeadScore:
    """The output of a head.

    Args:
        head: The head.
    """

    def __init__(self, head: HeadModule) -> None:
        self.head = head

    @property
    def exact_up_to(self) -> int:
        """A head scores all subsets in a few milliseconds."""
        return EXACT_UP_TO_FOR_HEAD

    def table(self, left: Side, right: Side) -> Tensor:
        """Outputs for every query with every candidate."""
        rows = torch.arange(len(left)).repeat_interleave(len(right)), torch.arange(len(right)).repeat(len(left))
        return self.pairs(left.take(rows[0]), right.take(rows[1])).view(len(left), len(right))

    def pairs(self, left: Side, right: Side) -> Tensor:
        """Outputs for pairs."""
        answers: Tensor = self.head(left, right)
        return answers.double()


def scored_by(model: TwoTower, rerank: Rerank | None, score: ScoreName) -> Scored:
    """The score to explain.

    Raises:
        ConfigError: The score is unknown, or there is no re-ranking head.
    """
    if score not in ("retrieval", "rerank"):
        raise ConfigError(f"score={score!r}; expected retrieval or rerank", field="score")
    if score == "retrieval":
        return DotScore()
    if rerank is None:
        raise ConfigError("score='rerank': the bundle has no re-ranking head; expected retrieval", field="score")
    return HeadScore(model.heads[rerank.head])


def explain(
    model: TwoTower, query: list[Tensor], candidate: list[Tensor], shown: Ids, items: str, scored: Scored
) -> Explanation:
    """Explains the score of one query and one candidate.

    Contributions are the Shapley values (Shapley, *A value for n-person games*, 1953; Lundberg and Lee, *A unified
    approach to interpreting model predictions*, NIPS 2017) of a game whose players are the features of both towers.
    Features that do not play are set to zero, as input dropout does in training; a head that reads embeddings reads
    those of the remaining features.

    Args:
        model: The model, in evaluation mode.
        query: Inputs of the query tower, one row per feature.
        candidate: Inputs of the candidate tower, one row per feature.
        shown: Whether a history item is a candidate to list.
        items: Name of the candidate id column; histories of these ids are split by item.
        scored: The score.
    """
    with torch.no_grad():
        sides = (
            _Explained.of(model.query, query, model.scaled_query),
            _Explained.of(model.candidate, candidate, model.scaled_candidate),
        )
        exact = sum(len(side.names) for side in sides) <= scored.exact_up_to
        shares, bias, score = (_exact if exact else _sampled)(scored, *sides)
        own, others = shares[: len(sides[0].names)], shares[len(sides[0].names) :]
        parts = _by_item(model, query, candidate, own, shown, items, scored)
    split = np.zeros(len(own))
    for part in parts:
        split[part.feature] += part.value
    listed = {part.feature for part in parts}
    method = EXACT if exact else SAMPLED.format(orders=2 * ORDERS)
    return Explanation(
        score=score,
        bias=bias,
        query=[
            Contribution(name, float(value - split[place]))
            for place, (name, value) in enumerate(zip(sides[0].names, own, strict=True))
            if place not in listed or abs(value - split[place]) > 1e-6 * max(1.0, abs(score))
        ],
        candidate=[Contribution(name, float(value)) for name, value in zip(sides[1].names, others, strict=True)],
        history=[HistoryContribution(part.id, part.value) for part in parts],
        method=method + (ITEMS if parts else ""),
    )


@dataclass(frozen=True)
class _Explained:
    """One tower and its features' embeddings, concatenated; `owner` is the feature of each number."""

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
        """The side computed from subsets of its features, bool `[n, features]`."""
        inputs = self.inputs * playing.to(self.inputs.dtype)[:, self.owner]
        return Side(inputs, self.scaled(self.tower.embed_inputs(inputs)))


def _names(features: Sequence[Feature]) -> list[str]:
    """Names of the features: the column, plus the kind and the settings that differ if several read the same column."""
    names = []
    for feature in features:
        same_column = [other for other in features if other.column == feature.column]
        if len(same_column) == 1 and feature.column in feature.reads:
            names.append(feature.column)
            continue
        own, others = feature.settings(), [other.settings() for other in same_column if other.kind == feature.kind]
        differing = [str(value) for name, value in own.items() if any(other[name] != value for other in others)]
        names.append(f"{feature.column} ({', '.join([feature.kind, *differing])})")
    return names


def _exact(scored: Scored, query: _Explained, candidate: _Explained) -> tuple[np.ndarray, float, float]:
    """Shapley values of all features, and the scores without any and with all of them."""
    subsets = [_all_subsets(len(side.names)) for side in (query, candidate)]
    # [query subsets, candidate subsets]
    scores = scored.table(query.of_subsets(subsets[0]), candidate.of_subsets(subsets[1])).numpy()
    sizes = [subset.sum(dim=1).numpy() for subset in subsets]
    together, players = sizes[0][:, None] + sizes[1], len(query.names) + len(candidate.names)
    weights = np.array([1 / (players * math.comb(players - 1, size)) for size in range(players)] + [0.0])
    values = [_differences(scores, weights[together], subsets[0].numpy())]
    values.append(_differences(scores.T, weights[together].T, subsets[1].numpy()))
    return np.concatenate(values), float(scores[0, 0]), float(scores[-1, -1])


def _all_subsets(count: int) -> Tensor:
    """Every subset of `count` features, bool `[2^count, count]`, from the empty to the full one."""
    return (torch.arange(1 << count).unsqueeze(1) >> torch.arange(count)) & 1 == 1


def _differences(scores: np.ndarray, weights: np.ndarray, subsets: np.ndarray) -> np.ndarray:
    """For each feature of the rows, the weighted sum of what it adds to each subset without it."""
    values = []
    for place in range(subsets.shape[1]):
        without = np.flatnonzero(~subsets[:, place])
        gains = scores[without + (1 << place)] - scores[without]
        values.append((gains * weights[without]).sum())
    return np.array(values)


def _sampled(scored: Scored, query: _Explained, candidate: _Explained) -> tuple[np.ndarray, float, float]:
    """The same, estimated from sampled orders; each order's differences add up to the score, and so does their mean."""
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
    """The shares of histories, split by item."""
    right = candidate_side(model, candidate)
    found = []
    for place, feature in enumerate(features_of(model.query)):
        history = feature.items_of(query[place])
        if history is None or history.column != items or not history.ids:
            continue
        encoded = [own.expand(len(history.ids) + 1, *own.shape[1:]) for own in query]
        encoded[place] = torch.cat([history.without, query[place]])
        scores = scored.table(query_side(model, encoded), right)[:, 0]  # [items + 1], the last with all items
        effects = (scores[-1] - scores[:-1]).numpy()
        effects += (shares[place] - effects.sum()) / len(history.ids)
        found += [
            _Item(place, value, float(effect))
            for value, effect in zip(history.ids, effects, strict=True)
            if isinstance(value, int | str) and shown(value)
        ]
    return found

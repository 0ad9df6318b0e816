"""The inputs of heads: each side's features, and the embedding computed from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from twotower.model.heads import Side
from twotower.model.tower_module import TowerModule
from twotower.model.two_tower import TwoTower


def query_side(model: TwoTower, encoded: Sequence[Tensor], vectors: bool = True) -> Side:
    """The head inputs of n queries, with gradient.

    Args:
        model: The model.
        encoded: The encoded inputs of its query tower.
        vectors: Whether to compute the towers' embeddings.
    """
    own = type(model).query_vectors is not TwoTower.query_vectors
    return _side(model.query, encoded, model.scaled_query, model.query_vectors if own else None, vectors)


def candidate_side(model: TwoTower, encoded: Sequence[Tensor], vectors: bool = True) -> Side:
    """The head inputs of n candidates, with gradient; see `query_side`."""
    own = type(model).candidate_vectors is not TwoTower.candidate_vectors
    return _side(model.candidate, encoded, model.scaled_candidate, model.candidate_vectors if own else None, vectors)


def _side(
    tower: TowerModule,
    encoded: Sequence[Tensor],
    scaled: Callable[[Tensor], Tensor],
    own: Callable[[Sequence[Tensor]], Tensor] | None,
    vectors: bool,
) -> Side:
    """Features and vectors, computed from one read of the features unless the model or tower embeds in its own way."""
    features = tower.read(encoded)
    if not vectors:
        return Side(features, features[:, :0])
    if own is not None:
        return Side(features, own(encoded))
    has_own_forward = type(tower).forward is not TowerModule.forward
    return Side(features, scaled(tower(encoded) if has_own_forward else tower.embed_inputs(features)))

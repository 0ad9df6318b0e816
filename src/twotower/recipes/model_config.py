"""`[model]` of a config: the features and layers of the towers."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from twotower.data.log import Log
from twotower.errors import ConfigError
from twotower.features import Feature, feature_from_settings
from twotower.model.interests import MAX_INTERESTS
from twotower.model.layers import Activation, Norm
from twotower.model.tower import Tower
from twotower.model.tower_module import TOWERS, TowerModule
from twotower.model.two_tower import MODELS, TwoTower
from twotower.recipes.columns import ColumnRead, TowerColumns, check_columns, event_columns, given_columns
from twotower.recipes.inputs import ColumnUse, InputPlan, Inputs, Reach, candidate_columns, features_of, query_columns
from twotower.recipes.recipe import Choice, Recipe


class ModelConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The model.

    Attributes:
        query: Features of the query tower; default: chosen from the data's columns by `inputs`.
        candidate: Features of the candidate tower; likewise.
        inputs: Which default features to use: `all` that the data allows; `log`, without histories and attributes; or
            `tutorial`, only id, time and words. Default: the recipe's.
        reach: Whether default query features read only events `before` this one, as when serving, or events `around`
            it, on both sides. Default: `around` if the split leaves both sides in train, as a random split does.
        layers: Widths of the dense layers of both towers; default: the recipe's.
        dim: Embedding dimension of default features; default: the recipe's, or the last of the layers if items are
            shared.
        dropout: Share of the inputs of dense layers dropped during training; this and the following as in `Tower`.
        input_dropout: Share of the features' outputs dropped during training; default: the recipe's.
        activation: `relu`, `gelu`, `silu` or `tanh`; default: the recipe's.
        norm: `none`, `layer` or `batch`.
        residual: Add a hidden layer's input to its output.
        cross: Number of cross layers; default: the recipe's if items are shared, otherwise 0.
        cross_rank: Rank of their matrices; default: the recipe's with its number of cross layers, otherwise full.
        cross_place: `before` the dense layers or `beside` them.
        normalize: Divide embeddings by their length.
        temperature: Divisor of the scores; default: the recipe's.
        learn_temperature: Train the temperature, starting from `temperature`.
        interests: Number of embeddings of a query, the best of which scores a candidate.
        share_items: Histories and the candidate tower share one embedding per item, the sum of its features; the
            candidate tower then has no dense layers. For default features; default: the recipe's.
        history_start: How much of the means of shared histories a query starts with; of no effect with several dense
            layers, several interests, or cross layers beside.
        history_length: How many items histories read, on each side of the event with `around`. For default features;
            default: the recipe's.
        read_id: Whether the query tower reads the query's id. For default features; default: the recipe's.
        unknown_query_rate: Share of training events whose query is treated as unknown. Default: the recipe's with reach
            `before`; 0 with `around`, which is not available when serving.
        two_tower: Your own model in place of `TwoTower`: its `kind` and additional settings.
        tower: Your own tower for both sides: its `kind` and settings. Leave out `layers`, `unknown_query_rate`,
            `history_start` and everything from `dropout` to `cross_place`.
    """

    query: list[dict[str, Any]] = []
    candidate: list[dict[str, Any]] = []
    inputs: Inputs | None = None
    reach: Reach | None = None
    layers: tuple[int, ...] | None = None
    dim: int | None = None
    dropout: float = 0.0
    input_dropout: float | None = None
    activation: Activation | None = None
    norm: Norm = "none"
    residual: bool = False
    cross: int | None = None
    cross_rank: int | None = None
    cross_place: Literal["before", "beside"] = "before"
    normalize: bool = False
    temperature: float | None = None
    learn_temperature: bool = False
    interests: int = 1
    share_items: bool | None = None
    history_start: float = 1.0
    history_length: int | None = None
    read_id: bool | None = None
    unknown_query_rate: float | None = None
    two_tower: dict[str, Any] = {}
    tower: dict[str, Any] = {}

    def build(self, data: Log, recipe: Recipe) -> TwoTower:
        """Builds the model for this data, not yet fitted.

        Raises:
            ConfigError: A feature, or a setting of the towers or the model, cannot be used.
        """
        if not 1 <= self.interests <= MAX_INTERESTS:
            raise ConfigError(f"[model] interests = {self.interests}; expected from 1 to {MAX_INTERESTS}")
        reach = self.reach or recipe.reach
        usual = recipe.unknown_query_rate if reach == "before" else 0.0
        rate = usual if self.unknown_query_rate is None else self.unknown_query_rate
        query, candidate = self._uses(data, recipe)
        arguments: dict[str, Any] = {
            "query": self._tower(features_of(query), recipe, rate, self.interests),
            "candidate": self._candidate_tower(features_of(candidate), recipe),
            "normalize": self.normalize,
            "temperature": recipe.temperature if self.temperature is None else self.temperature,
            "learn_temperature": self.learn_temperature,
        } | ({"interests": self.interests} if self.interests != 1 else {})
        if not self.two_tower:
            return TwoTower(**arguments)
        own: TwoTower = MODELS.make(self.two_tower | arguments)
        return own

    def completed(self, recipe: Recipe) -> ModelConfig:
        """A copy with everything that the recipe decides written out.

        With shared items, `dim` stays open: it is the last of the layers, which may be varied.
        """
        names = [name for name in self.__struct_fields__ if getattr(self, name) is None and hasattr(recipe, name)]
        shares = self.shares(recipe)
        decided = {
            "share_items": shares,
            "read_id": self._reads_id(recipe),
            "layers": self._layers(recipe),
            "cross": self._cross(recipe)[0],
            "cross_rank": self._cross(recipe)[1],
            "dim": None if shares and self.dim is None else self._dim(recipe),
        }
        return msgspec.structs.replace(self, **({name: getattr(recipe, name) for name in names} | decided))

    def columns(self, data: Log, recipe: Recipe) -> TowerColumns:
        """Which columns each tower reads, and why it leaves the others out."""
        query, candidate = self._uses(data, recipe)
        return TowerColumns(
            [ColumnRead.of(use, data.query_id) for use in query],
            [ColumnRead.of(use, data.candidate_id) for use in candidate],
        )

    def input_lines(self, data: Log, recipe: Recipe) -> list[str]:
        """What each tower reads, line by line, and between which models validation decides."""
        names = [choice.name for choice in self.choices(recipe)]
        decides = [f"validation decides between these models: {', '.join(names)}"] if names else []
        return self.columns(data, recipe).lines() + decides

    def _uses(self, data: Log, recipe: Recipe) -> tuple[list[ColumnUse], list[ColumnUse]]:
        """How the columns of both sides are used."""
        plan = InputPlan(
            self.inputs or recipe.inputs,
            self.reach or recipe.reach,
            self._dim(recipe),
            recipe.unknown_rate,
            self.shares(recipe),
            self._reads_id(recipe),
            recipe.history_length if self.history_length is None else self.history_length,
        )
        if self.query:
            names = [*data.queries.column_names, *(use.column for use in event_columns(data))]
            named = [feature_from_settings(one) for one in self.query]
            check_columns(named, [*data.columns, *data.queries.column_names], "query")
            query = given_columns(named, names, "query")
        else:
            query = query_columns(data, plan) + event_columns(data)
        if self.candidate:
            named = [feature_from_settings(one) for one in self.candidate]
            check_columns(named, data.candidates.column_names, "candidate")
            return query, given_columns(named, data.candidates.column_names, "candidate")
        return query, candidate_columns(data, plan)

    def _tower(
        self, features: list[Feature], recipe: Recipe, unknown_query_rate: float, interests: int = 1
    ) -> TowerModule:
        if self.tower:
            return self._own_tower(features)
        cross, rank = self._cross(recipe)
        if not (layers := self._layers(recipe)):
            raise ConfigError("[model] layers = []; expected at least one width, such as [64]")
        *hidden, last = layers
        return Tower(
            features,
            (*hidden, last * interests),
            self.dropout,
            recipe.input_dropout if self.input_dropout is None else self.input_dropout,
            activation=self.activation or recipe.activation,
            norm=self.norm,
            residual=self.residual,
            cross=cross,
            cross_rank=rank,
            cross_place=self.cross_place,
            unknown_query_rate=unknown_query_rate,
            history_start=self.history_start,
        )

    def _candidate_tower(self, features: list[Feature], recipe: Recipe) -> TowerModule:
        if self.shares(recipe) and not self.tower:
            return Tower(features, combine="sum")
        return self._tower(features, recipe, 0.0)

    def _layers(self, recipe: Recipe) -> tuple[int, ...]:
        shares = self.shares(recipe)
        if self.layers is None and not shares:
            return recipe.separate_layers or recipe.layers
        if not shares or self.dim is None:
            return recipe.layers if self.layers is None else self.layers
        if self.layers is None:
            return (*recipe.layers[:-1], self.dim)
        return self.layers if self.layers[-1:] == (self.dim,) else (*self.layers, self.dim)  # into the items' space

    def _cross(self, recipe: Recipe) -> tuple[int, int | None]:
        """Number of cross layers, and the rank of their matrices."""
        if self.cross is not None or not self.shares(recipe):
            return self.cross or 0, self.cross_rank
        return recipe.cross, self.cross_rank or recipe.cross_rank

    def _dim(self, recipe: Recipe) -> int:
        if self.dim is not None:
            return self.dim
        return self.layers[-1] if self.layers and self.shares(recipe) else recipe.dim

    def shares(self, recipe: Recipe) -> bool:
        """Whether histories and the candidate tower share embeddings."""
        if self.share_items is not None:
            return self.share_items
        return recipe.share_items and self._is_open(recipe)

    def _reads_id(self, recipe: Recipe) -> bool:
        if self.read_id is not None:
            return self.read_id
        return recipe.read_id or not self.shares(recipe)

    def _is_open(self, recipe: Recipe) -> bool:
        """Whether the recipe decides what the towers read, and the widths allow shared items."""
        own = self.query or self.candidate or self.tower
        two_widths = self.layers and self.dim is not None and self.layers[-1] != self.dim
        return not (own or two_widths) and (self.inputs or recipe.inputs) == "all"

    def choices(self, recipe: Recipe) -> list[Choice]:
        """The models to compare on the validation part, as settings; empty if the config leaves no choice."""
        if not self._is_open(recipe) or self.share_items is False:
            return []
        left = [one for one in recipe.choices if all(getattr(self, key) is None for key in one.model)]
        return left if len(left) > 1 else []

    def _own_tower(self, features: list[Feature]) -> TowerModule:
        default = ModelConfig()
        if stray := [name for name in _TOWER_KEYS if getattr(self, name) != getattr(default, name)]:
            raise ConfigError(
                f"[model] has {stray[0]}, which [model.tower] does not use; expected its settings in [model.tower]"
            )
        own: TowerModule = TOWERS.make(self.tower | {"features": features})
        return own


_TOWER_KEYS = (
    *("layers", "dropout", "input_dropout", "activation", "norm", "residual"),
    *("cross", "cross_rank", "cross_place", "unknown_query_rate", "history_start"),
)
"""Keys that apply only to the built-in `Tower`."""

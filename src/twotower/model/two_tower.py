"""`TwoTower`: a query tower and a candidate tower, scored by the dot product of their embeddings."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from twotower.arguments import checks_arguments, refuse_below
from twotower.data.dataset import Dataset
from twotower.data.log import Log
from twotower.data.place import Place, cell_errors_in
from twotower.errors import ConfigError, NotFittedError
from twotower.features import Feature
from twotower.features.history import share_embeddings
from twotower.features.lookups import Table
from twotower.features.record import Record
from twotower.features.recorded import record_groups
from twotower.kinds import Kinds
from twotower.model.embedding import embedded_blocks, encode_table
from twotower.model.encoding import EncodedSide
from twotower.model.head_modules import HeadModules
from twotower.model.heads import Head, Shape
from twotower.model.interests import MAX_INTERESTS, apart, best_scores
from twotower.model.learning import Growth, grow_features, learn_features
from twotower.model.queries import QueryEncoder
from twotower.model.tower_module import TowerModule, features_of

TEMPERATURE_RANGE = 0.01, 100.0
"""A learned temperature is clamped to this range."""


MODELS: Kinds[type[TwoTower]] = Kinds("model")
"""Models by kind; defining a subclass of `TwoTower` with a `kind` registers it."""


class TwoTower(nn.Module):
    """Scores candidates for queries: the dot product of two towers' embeddings, divided by a temperature.

    With several `interests`, the query tower gives several embeddings of a query, and the best one scores a candidate.

    Your own model is a subclass with a `kind`. It overrides `scaled_query` and `scaled_candidate` to transform the
    towers' embeddings, or `query_vectors` and `candidate_vectors` to embed a side differently. Scores remain dot
    products, so training, evaluation and search work unchanged. Add new constructor arguments to `settings`, and
    initialise new parameters in `reset`.

    Args:
        query: The tower that reads queries: columns of the interactions and of the query table.
        candidate: The tower that reads candidates: columns of the candidate table.
        normalize: Divide embeddings by their length, so that scores are cosines divided by `temperature`.
        temperature: Divisor of the scores, above 0; with `normalize`, try 0.1.
        learn_temperature: Train the temperature's logarithm with the towers, starting from `temperature` (as in CLIP:
            Radford et al., *Learning transferable visual models from natural language supervision*, ICML 2021); it
            stays between 0.01 and 100.
        heads: Heads of other tasks than retrieval, by task name; `Trainer` adds those of its tasks.
        interests: Number K of embeddings of a query, side by side in the query tower's output, which is K times as wide
            as the candidate tower's.

    Raises:
        ConfigError: Widths do not fit, both towers use the same feature object, or the temperature is not above 0 or
            outside the range of a learned one.

    Example:
        >>> from twotower import data
        >>> from twotower.features import Category
        >>> from twotower.model.tower import Tower
        >>> log = data.from_tables(pa.table({"who": ["a", "b"], "what": [1, 2]}), query_id="who", candidate_id="what")
        >>> model = TwoTower(Tower([Category("who", 8)], [4]), Tower([Category("what", 8)], [4])).learn(log)
        >>> (model.embed_queries(log) @ model.embed_candidates(log.candidates).T).shape
        torch.Size([2, 2])
    """

    @checks_arguments
    def __init__(
        self,
        query: TowerModule,
        candidate: TowerModule,
        *,
        normalize: bool = False,
        temperature: float = 1.0,
        learn_temperature: bool = False,
        heads: Mapping[str, Head] | None = None,
        interests: int = 1,
    ) -> None:
        super().__init__()
        if not 1 <= interests <= MAX_INTERESTS:
            raise ConfigError(f"interests={interests}; expected from 1 to {MAX_INTERESTS}", field="interests")
        if query.width != interests * candidate.width:
            expected = "the same" if interests == 1 else f"{interests} times as wide, for {interests} interests"
            raise ConfigError(
                f"the query tower has width {query.width} and the candidate tower {candidate.width}; "
                f"expected {expected}, for a dot product"
            )
        for shared in (one for one in features_of(query) if any(one is other for other in features_of(candidate))):
            raise ConfigError(
                f"both towers use the same {shared.kind} object of {shared.column!r}, so one side's values would "
                f"overwrite the other's; expected a separate one for each tower",
                column=shared.column,
            )
        _refuse_request_columns(features_of(query))
        if not temperature > 0:
            raise ConfigError(f"temperature={temperature}; expected a number above 0")
        if learn_temperature and not TEMPERATURE_RANGE[0] <= temperature <= TEMPERATURE_RANGE[1]:
            low, high = TEMPERATURE_RANGE
            raise ConfigError(f"temperature={temperature} with learn_temperature; expected between {low} and {high}")
        self.query, self.candidate, self.interests = query, candidate, interests
        combine = getattr(candidate, "combine", "concat")
        share_embeddings(features_of(query), features_of(candidate), combine, are_candidates=candidate.is_plain)
        self.normalize, self.initial_temperature, self.learn_temperature = normalize, temperature, learn_temperature
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature))) if learn_temperature else None
        self.heads = HeadModules()
        self.is_fitted = False
        self.add_heads({} if heads is None else heads)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "kind" in cls.__dict__:
            MODELS.register(cls)

    @property
    def width(self) -> int:
        """Embedding dimension d of both sides; a query has `interests` embeddings of this width."""
        return self.candidate.width

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return next(self.parameters(), torch.empty(0)).device

    @property
    def parameter_count(self) -> int:
        """Number of parameters in the model; sharded tables count in full."""
        return sum(
            parameter.whole_rows * parameter.shape[1] if isinstance(parameter, Table) else parameter.numel()
            for parameter in self.parameters()
        )

    @property
    def temperature(self) -> float:
        """The current temperature."""
        return self.initial_temperature if self.log_temperature is None else self.log_temperature.exp().item()

    @checks_arguments
    def learn(self, train: Log, seed: int = 0) -> TwoTower:
        """Fits every feature on the training split and initialises all weights.

        Queries and candidates without a training event are unknown to the model.

        In a streamed log, columns with a value per event, such as times, are learned from a uniform sample of a million
        events, and a query's past is mapped from disk; see `ParquetLog.sorted_events`.

        Args:
            train: The training split.
            seed: Seed of the initial weights and of the sample; the caller's random state is not changed.

        Raises:
            ConfigError: The log is streamed, and a feature reads a query's past by columns other than its ids and time.
            DataError: A column is missing or cannot be used.
        """
        refuse_below(0, "learn", seed=seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            learn_features(features_of(self.query), features_of(self.candidate), train, seed)
            self.reset()
        if self.log_temperature is not None:
            nn.init.constant_(self.log_temperature, math.log(self.initial_temperature))
        self.is_fitted = True
        return self

    @checks_arguments
    def grow(self, log: Log, *, retire_after: float | None = None) -> Growth:
        """Adds a log's new ids, words and other values to the vocabularies of a fitted model; train it afterwards.

        Each new value gets a row that starts as a copy of the unknown row; all other rows stay bit-identical. Ranges of
        numbers do not change. If all events are later than the record that histories and counts read, they extend it;
        otherwise they replace it.

        Args:
            log: The training events, only new ones or all of them.
            retire_after: Query and candidate ids lose their rows if their last event is more than this many seconds
                before the log's latest. Last events are tracked from the first `grow` on; until then, ids not in the
                log count as last seen at its first event. None retires nothing.

        Returns:
            The changes; pass them to `Moments.grow`.

        Raises:
            ConfigError: `retire_after` is not above 0; tables are sharded; or the log is streamed, holds only new
                events, and features read a query's past.
            DataError: A column is missing or cannot be used, or there are no times for `retire_after`.
            NotFittedError: The model has not been trained.

        Example:
            >>> from twotower import Category, Tower, data
            >>> ids = {"query_id": "who", "candidate_id": "what"}
            >>> monday = data.from_tables(pa.table({"who": ["a", "b"], "what": [1, 2]}), **ids)
            >>> model = TwoTower(Tower([Category("who", 8)]), Tower([Category("what", 8)])).learn(monday)
            >>> tuesday = data.from_tables(pa.table({"who": ["a", "c"], "what": [1, 3]}), **ids)
            >>> print(model.grow(tuesday))
            new: 1 of who (labels), 1 of what (labels)
        """
        if not self.is_fitted:
            raise NotFittedError("the model has not learned from data yet, so it cannot grow; train it first")
        if any(isinstance(one, Table) and one.shard is not None for one in self.parameters()):
            raise ConfigError(
                "the model's tables are sharded; expected gather_tables(model) on all ranks before it grows"
            )
        return grow_features(features_of(self.query), features_of(self.candidate), log, retire_after)

    def reset(self) -> None:
        """Reinitialises the weights of both towers and of the heads, except those of features."""
        self.query.reset()
        self.candidate.reset()
        self.heads.reset()

    def add_heads(self, heads: Mapping[str, Head], seed: int = 0) -> None:
        """Adds the heads that the model does not have yet.

        Args:
            heads: Heads by task name.
            seed: Seed of their initial weights; the caller's random state is not changed.

        Raises:
            ConfigError: The model has a different head of that name, or a head cannot be rebuilt from settings.
        """
        widths = [tuple(feature.width for feature in features_of(tower)) for tower in (self.query, self.candidate)]
        self.heads.add(heads, Shape(widths[0], widths[1], self.width), self.device, seed)

    def forward(self, query: Sequence[Tensor], candidate: Sequence[Tensor]) -> Tensor:
        """Scores every query with every candidate, with gradient; DDP and `torch.export` call this.

        Args:
            query: Encoded inputs of the query tower for n events, such as `encode_queries(…).gather(rows)`.
            candidate: Encoded inputs of the candidate tower for m candidates.

        Returns:
            `[n, m]`; for pairs (n = m), take the diagonal.
        """
        return best_scores(self.query_vectors(query), self.candidate_vectors(candidate))

    @checks_arguments
    def remember(self, events: Log) -> None:
        """Replaces the record of each query's events by these events, without training.

        Histories, counts and elapsed times are read from it. Items without a training event stay unknown in histories.

        Args:
            events: The log up to now, including the training events if they should still count.

        Raises:
            DataError: A column is missing, or an event has no time.
        """
        for _, sharing in record_groups(features_of(self.query)):
            assert sharing[0].record is not None
            record = Record.of_log(events, sharing[0].record.key, sharing[0].record.vocabulary)
            for feature in sharing:
                feature.replace_record(record)

    def encode_queries(self, events: Dataset, *, of_training: bool = False) -> EncodedSide:
        """Encodes the query side of each event.

        Args:
            events: The events.
            of_training: Whether they are the training events; each is then excluded from its own query's history.

        Raises:
            DataError: A column is missing or holds a value that cannot be encoded.
        """
        return self.query_encoder(of_training=of_training).encode(events)

    def query_encoder(self, *, of_training: bool = False) -> QueryEncoder:
        """An encoder of the query side for events that arrive in parts; see `encode_queries`."""
        return QueryEncoder(features_of(self.query), of_training)

    def encode_candidates(self, candidates: pa.Table) -> EncodedSide:
        """Encodes each row of a candidate table.

        Raises:
            DataError: A column is missing or holds a value that cannot be encoded.
        """
        with cell_errors_in(Place(table="candidates")):
            return encode_table(self.candidate, candidates)

    @checks_arguments
    def embed_queries(self, events: Dataset) -> Tensor:
        """Query embeddings of every event, `[N, d]`, without gradient; `[N, K·d]` with K interests."""
        return self.embed_side(self.encode_queries(events).to(self.device), self.query_vectors)

    @checks_arguments
    def embed_candidates(self, candidates: pa.Table) -> Tensor:
        """Candidate embeddings of every row of a candidate table, `[C, d]`, without gradient."""
        return self.embed_side(self.encode_candidates(candidates).to(self.device), self.candidate_vectors)

    def query_vectors(self, encoded: Sequence[Tensor]) -> Tensor:
        """Query embeddings `[n, d]`, with gradient, ready for a dot product: divided by the temperature.

        With K interests, `[n, K·d]`.
        """
        return self.scaled_query(self.query(encoded))

    def interests_of(self, queries: Tensor) -> Tensor:
        """Query embeddings as losses read them: `[n, K·d]` with K interests as `[n, K, d]`; otherwise unchanged."""
        return queries if self.interests == 1 else apart(queries, self.width)

    def scaled_query(self, embeddings: Tensor) -> Tensor:
        """Prepares the query tower's output for the dot product: optional normalisation, then the temperature."""
        if self.interests > 1:
            each = self.scaled_candidate(apart(embeddings, self.width).flatten(0, 1))
            embeddings = each.view(embeddings.shape)
        else:
            embeddings = self.scaled_candidate(embeddings)
        if self.log_temperature is not None:
            return embeddings / self.log_temperature.exp()
        return embeddings if self.initial_temperature == 1 else embeddings / self.initial_temperature

    def candidate_vectors(self, encoded: Sequence[Tensor]) -> Tensor:
        """Candidate embeddings `[n, d]`, with gradient, ready for a dot product."""
        return self.scaled_candidate(self.candidate(encoded))

    def scaled_candidate(self, embeddings: Tensor) -> Tensor:
        """Prepares the candidate tower's output for the dot product: optional normalisation."""
        embeddings = embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))  # undoes autocast
        return F.normalize(embeddings, dim=1) if self.normalize else embeddings

    @torch.no_grad()
    def clamp_temperature(self) -> None:
        """Clamps a learned temperature to its range; called after every training step."""
        if self.log_temperature is not None:
            self.log_temperature.clamp_(*map(math.log, TEMPERATURE_RANGE))

    def embed_side(
        self, side: EncodedSide, vectors: Callable[[Sequence[Tensor]], Tensor], numbers: Tensor | None = None
    ) -> Tensor:
        """Embeds an encoded side, or its entries `numbers` `[n]`, block by block in evaluation mode, `[N, d]`.

        For a sharded model, all ranks must call this together, each with any number of entries.
        """
        numbers = torch.arange(len(side), device=self.device) if numbers is None else numbers
        blocks = embedded_blocks(self, side, vectors, numbers)
        width = self.query.width if vectors == self.query_vectors else self.width
        return torch.cat(blocks) if blocks else torch.empty(0, width, device=self.device)

    def settings(self) -> dict[str, Any]:
        """The arguments from which `model_from_settings` rebuilds this model, as plain data, with any `kind`."""
        kind = getattr(self, "kind", None)
        return (
            ({} if kind is None else {"kind": kind})
            | {
                "query": self.query.settings(),
                "candidate": self.candidate.settings(),
                "normalize": self.normalize,
                "temperature": self.initial_temperature,
                "learn_temperature": self.learn_temperature,
            }
            | ({"heads": self.heads.settings} if self.heads.settings else {})
            | ({"interests": self.interests} if self.interests > 1 else {})
        )


def _refuse_request_columns(features: Sequence[Feature]) -> None:
    """Refuses a feature of a column whose name has another meaning in requests."""
    passed = {name for feature in features for name in feature.may_read}
    for feature in features:
        for column in passed.intersection(feature.reads):
            raise ConfigError(
                f"the query tower reads the column {column!r}, but requests pass a history under this name; rename the "
                f"column",
                column=column,
            )

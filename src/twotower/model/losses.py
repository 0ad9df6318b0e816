"""Losses: functions of a batch's query embeddings and of candidate embeddings that training minimises.

A loss is a plain description; `bind` gives it the facts it needs about the training data (how often each candidate is
drawn, what each query has chosen). The bound loss maps a batch to a scalar and decides which candidates it needs
embedded: in-batch softmax those of the batch, each once; the full softmax all. `Loss` is the interface for your own
loss.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from twotower.arguments import Settings, refuse_below, refuse_nameless
from twotower.data.log import Log
from twotower.errors import ConfigError
from twotower.kinds import Kinds
from twotower.model import corrected
from twotower.model.draws import checked_probability, probability_column, share_of_events
from twotower.model.excluded import Excluded
from twotower.model.exposed import ExposedNegatives, exposed_logits
from twotower.model.negatives import Columns, Embed, columns_of, drawn_uniformly
from twotower.model.reduction import Reduction
from twotower.model.tensor_checks import check_shapes


@dataclass(frozen=True)
class Batch:
    """The events of one step.

    Attributes:
        queries: Row of each event's query in the query table, int64 `[B]`.
        candidates: Row of each event's candidate in the candidate table, int64 `[B]`.
        weights: Weight of each event, finite and at least 0, float32 `[B]`; None weighs all events equally. Logs check
            weights when they are read; training steps do not check them again.
        ranks: Receives the ranks of the first n events' candidates, int32 `[n]`, from a loss that compares them with
            others; in-batch top-k accuracy is computed from them. Other losses leave it at 0.
        events: Number of each event in the training log, int64 `[B]`; None if the log is streamed.
        times: Time of each event in seconds, float64 `[B]`; None if the log does not say when candidates are available.
    """

    queries: Tensor
    candidates: Tensor
    weights: Tensor | None = None
    ranks: Tensor | None = None
    events: Tensor | None = None
    times: Tensor | None = None


class BoundLoss(Protocol):
    """A loss bound to its training data."""

    def __call__(self, query_embeddings: Tensor, batch: Batch, embed_candidates: Embed) -> Tensor:
        """The loss of a batch, a scalar.

        Args:
            query_embeddings: `[B, d]`; `[B, K, d]` for a model with K interests, of which the best one scores.
            batch: The batch.
            embed_candidates: Embeds rows of the candidate table, `[n]` to `[n, d]`.
        """
        ...


@runtime_checkable
class Loss(Protocol):
    """The interface that `Trainer` needs; it accepts any object that implements it.

    A checkpoint stores the loss's class and attributes, and training with another loss does not resume from it. Configs
    can name a loss that is registered in `LOSSES`. `twotower.testing.check_loss` tests an implementation.

    Attributes:
        reduction: `mean` if a batch's loss is the mean over its events, `sum` if it is their sum.

    Example:
        >>> class Hinge:
        ...     reduction = "mean"
        ...     def __init__(self, margin: float = 1.0) -> None:
        ...         self.margin = margin
        ...     def embedded(self, events: int, catalogue: int) -> int:
        ...         return min(events, catalogue)
        ...     def bind(self, train: Log) -> "Hinge":
        ...         return self
        ...     def __call__(self, query_embeddings: Tensor, batch: Batch, embed_candidates: Embed) -> Tensor:
        ...         scores = query_embeddings @ embed_candidates(batch.candidates).T  # [B, B]
        ...         return (self.margin + scores - scores.diagonal()[:, None]).clamp_min(0).mean()
        >>> isinstance(Hinge(), Loss)
        True
    """

    @property
    def reduction(self) -> Reduction:
        """Whether a batch's loss is the mean or the sum over its events."""
        ...

    def embedded(self, events: int, catalogue: int) -> int:
        """The maximum number of candidates that a step of this many events embeds."""
        ...

    def bind(self, train: Log) -> BoundLoss:
        """Binds the loss to its training data."""
        ...


LOSSES: Kinds[type] = Kinds("loss")
"""Losses by kind. `@LOSSES.register` makes your own loss available to configs; it must be a frozen `Settings` with a
tag, so that it can be saved; see the example in docs/how-to/extending.md."""


@LOSSES.register
class InBatchSoftmax(Settings, frozen=True, tag="in_batch_softmax", tag_field="kind"):
    """Softmax of each event's candidate against the candidates of the other events in its batch.

    The logits are `q·cᵀ / T − log p`, on every column, the chosen one included, where p is the candidate's share of
    the training events. Without the correction, popular candidates are pushed down, as they are drawn more often
    (Yi et al., *Sampling-bias-corrected neural modeling for large corpus item recommendations*, RecSys 2019). The
    batch's distinct candidates are embedded once and count as often as they occur: adding `log(multiplicity)` to
    their logits gives the value and the gradient of the softmax over all B columns.

    Candidates that were not available at an event's time, if the log says so, are left out of its row.

    `uniform` adds candidates drawn uniformly from the catalogue, so that rare candidates are negatives too (Yang et
    al., *Mixed negative sampling for learning two-tower neural networks in recommendations*, companion of WWW 2020).
    A row's other columns are then B − 1 events of the batch and U uniform draws, and the correction uses the p of
    their mixture, `((B − 1) · p + U / C) / (B − 1 + U)` for a catalogue of C. The row's own event is not a draw: with
    B − 1 instead of B, the expected gradient at the true probabilities vanishes if all other columns are of one kind,
    and nearly vanishes if they are of both.

    `exposed_negatives` adds candidates that were shown with an event and not chosen, if the log says so, as columns of
    its row alone. They are not drawn like the others, so their logits are `q·c / T + log(w · n)`, with the
    `exposed_weight` w, and n the number B + U of columns that the correction makes stand for the catalogue n times;
    without the correction, `q·c / T + log w`. For n → ∞ this is what `FullSoftmax` does.

    Attributes:
        log_q: Correct for how often candidates are drawn.
        mask_same: Exclude the other columns that hold the row's own candidate.
        mask_known: Exclude the query's other candidates in train.
        hard_negatives: Keep only this many distinct negatives per row, those with the highest corrected
            logits; None keeps all.
        reduction: The weighted `mean` of a batch, or the `sum`, as in TFRS. Gradients of the mean are B times smaller:
            Adagrad with its usual initial accumulator of 0.1 learns almost nothing from them.
        uniform: How many candidates to draw uniformly for each batch.
        draw_probability: A column of the candidate table with the probability that an event of a batch names the
            candidate, or a number proportional to it, for batches that are not drawn like the training events.
            Finite, at least 0, and above 0 for every candidate that a training event names. None: the share of
            the training events.
        exposed_negatives: How many of the candidates that were shown with an event and not chosen are negatives of its
            row, those shown nearest in time first; never what its query has chosen in train. 0 disables them.
        exposed_weight: How much an exposed negative counts, above 0: as often as in the catalogue's softmax.

    Example:
        >>> InBatchSoftmax(hard_negatives=100).reduction
        'mean'

        Pass your own probabilities in a column of the candidate table:

        >>> import pyarrow as pa
        >>> from twotower import data
        >>> log = pa.table({"who": ["a", "b"], "what": [1, 2]})
        >>> items = pa.table({"what": [1, 2], "shown": [900, 100]})
        >>> log = data.from_tables(log, query_id="who", candidate_id="what", candidates=items)
        >>> bound = InBatchSoftmax(draw_probability="shown").bind(log)
    """

    log_q: bool = True
    mask_same: bool = False
    mask_known: bool = False
    hard_negatives: int | None = None
    reduction: Reduction = "mean"
    uniform: int = 0
    draw_probability: str | None = None
    exposed_negatives: int = 0
    exposed_weight: float = 1.0

    def check(self) -> None:
        """Refuses settings out of range."""
        _check_exposed(self)
        if self.hard_negatives is not None and self.hard_negatives < 1:
            raise ConfigError(f"hard_negatives={self.hard_negatives}; expected at least 1, or None to keep all")
        if self.uniform < 0:
            raise ConfigError(f"uniform={self.uniform}; expected a number of at least 0")
        refuse_nameless("InBatchSoftmax", draw_probability=self.draw_probability)
        if self.draw_probability is not None and not self.log_q:
            raise ConfigError(
                f"draw_probability={self.draw_probability!r} has no effect with log_q=False; "
                f"expected log_q=True, or no draw_probability"
            )

    def embedded(self, events: int, catalogue: int) -> int:
        """The maximum number of candidates that a step of this many events embeds."""
        return min(events * (1 + self.exposed_negatives) + self.uniform, catalogue)

    def bind(self, train: Log, draw_probability: Tensor | None = None) -> BoundLoss:
        """Binds the loss to its training data.

        Args:
            train: The events that batches are drawn from.
            draw_probability: Probability that an event of a batch names each candidate, `[candidates]`, or numbers
                proportional to it; default: the column that the loss names, else the share of the training events.

        Raises:
            ConfigError: `mask_known` or `exposed_negatives` is set and the log is streamed, or the log does not say
                what was shown and not chosen.
            DataError: Nothing was shown with any event, there is no such column, or a probability is not finite, below
                0, or 0 for a candidate that a training event names.
        """
        if draw_probability is not None:
            probability = checked_probability(draw_probability, train, "draw_probability")
        elif self.draw_probability is not None:
            probability = probability_column(self.draw_probability, train)
        else:
            probability = share_of_events(train)
        excluded = Excluded(train, self.mask_known)
        exposed = ExposedNegatives(train, self.exposed_negatives, self.exposed_weight)
        return _BoundInBatch(self, probability.log().float(), excluded, exposed, train.candidates.num_rows)


@LOSSES.register
class FullSoftmax(Settings, frozen=True, tag="full_softmax", tag_field="kind"):
    """Softmax of each event's candidate against the whole catalogue: exact, and faster for small catalogues.

    A candidate of the training catalogue without events was available and not chosen, so it is a negative too, unless
    the log says that it was not available at the event's time (`available_from`, `available_until`).

    `exposed_negatives` lets candidates that were shown with an event and not chosen, if the log says so, count more in
    its row: they are columns already, and each has a further one with the logit `q·c / T + log w`, so that it counts
    1 + w times, with the `exposed_weight` w.

    Attributes:
        mask_known: Exclude the query's other candidates in train.
        reduction: The weighted `mean` of a batch, or the `sum`.
        label_smoothing: Share of each event's target that is spread evenly over all candidates not excluded (Szegedy
            et al., *Rethinking the Inception architecture for computer vision*, CVPR 2016). In-batch softmax has
            none, as a batch cannot estimate the catalogue's mean: candidates without training events are never drawn,
            and a rare one would have to stand for many.
        exposed_negatives: How many of the candidates that were shown with an event and not chosen count more in its
            row, those shown nearest in time first; never what its query has chosen in train. 0 disables this.
        exposed_weight: How much more each counts, above 0.
    """

    mask_known: bool = False
    reduction: Reduction = "mean"
    label_smoothing: float = 0.0
    exposed_negatives: int = 0
    exposed_weight: float = 1.0

    def check(self) -> None:
        """Refuses settings out of range."""
        _check_exposed(self)
        if not 0 <= self.label_smoothing < 1:
            raise ConfigError(f"label_smoothing={self.label_smoothing}; expected a share in [0, 1)")

    def embedded(self, events: int, catalogue: int) -> int:
        """The number of candidates that a step embeds: all of them."""
        del events
        return catalogue

    def bind(self, train: Log) -> BoundLoss:
        """Binds the loss to its training data.

        Args:
            train: The events that batches are drawn from.

        Raises:
            ConfigError: `mask_known` or `exposed_negatives` is set and the log is streamed, or the log does not say
                what was shown and not chosen.
            DataError: Nothing was shown with any event.
        """
        exposed = ExposedNegatives(train, self.exposed_negatives, self.exposed_weight)
        return _BoundFull(self, Excluded(train, self.mask_known), exposed, train.candidates.num_rows)


BuiltInLoss = InBatchSoftmax | FullSoftmax
"""The losses of the package."""


class _BoundInBatch:
    def __init__(
        self,
        loss: InBatchSoftmax,
        log_probability: Tensor,
        excluded: Excluded,
        exposed: ExposedNegatives,
        catalogue: int,
    ) -> None:
        self.loss, self.log_probability, self.excluded, self.catalogue = loss, log_probability, excluded, catalogue
        self.exposed = exposed

    def __call__(self, query_embeddings: Tensor, batch: Batch, embed_candidates: Embed) -> Tensor:
        others = batch.candidates[:0]
        if self.loss.uniform > 0:
            others = drawn_uniformly(self.loss.uniform, self.catalogue, others.device)
        exposed = self.exposed.of(batch.events, others.device)
        columns = columns_of(batch.candidates, others, embed_candidates, exposed)
        check_shapes(query_embeddings, columns.embeddings, columns.target, batch.ranks)
        return corrected.over_batch(
            query_embeddings,
            columns.embeddings,
            columns.target,
            multiplicity=columns.multiplicity,
            log_probability=self._log_drawn(columns.candidates, len(batch.candidates) - 1),
            weights=batch.weights,
            mask_same=self.loss.mask_same,
            removed=self.excluded.of(batch.queries, batch.candidates, batch.times, columns.candidates),
            hard_negatives=self.loss.hard_negatives,
            reduction=self.loss.reduction,
            ranks=batch.ranks,
            extra=self._extra(query_embeddings, columns),
        )

    def _extra(self, query_embeddings: Tensor, columns: Columns) -> Tensor | None:
        """The logits of the exposed negatives, `[B, n]`."""
        if columns.exposed is None:
            return None
        stands_for = len(query_embeddings) + self.loss.uniform if self.loss.log_q else 1
        log_weight = self.exposed.log_weight + math.log(stands_for)
        return exposed_logits(query_embeddings, columns.with_exposed, columns.exposed, log_weight)

    def _log_drawn(self, candidates: Tensor, events: int) -> Tensor | None:
        """Log probability of each candidate in a row's other columns, `events` of which come from events, `[C]`."""
        if not self.loss.log_q:
            return None
        if self.log_probability.device != candidates.device:
            self.log_probability = self.log_probability.to(candidates.device)
        return corrected.mixed(self.log_probability[candidates], events, self.loss.uniform, self.catalogue)


class _BoundFull:
    def __init__(self, loss: FullSoftmax, excluded: Excluded, exposed: ExposedNegatives, catalogue: int) -> None:
        self.loss, self.excluded, self.exposed, self.catalogue = loss, excluded, exposed, catalogue

    def __call__(self, query_embeddings: Tensor, batch: Batch, embed_candidates: Embed) -> Tensor:
        everything = torch.arange(self.catalogue, device=query_embeddings.device)
        embeddings = embed_candidates(everything)
        check_shapes(query_embeddings, embeddings, batch.candidates, batch.ranks)
        exposed, extra = self.exposed.of(batch.events, query_embeddings.device), None
        if exposed is not None:
            extra = exposed_logits(query_embeddings, embeddings, exposed, self.exposed.log_weight)
        return corrected.over_catalogue(
            query_embeddings,
            embeddings,
            batch.candidates,
            weights=batch.weights,
            removed=self.excluded.of(batch.queries, batch.candidates, batch.times, everything),
            label_smoothing=self.loss.label_smoothing,
            reduction=self.loss.reduction,
            ranks=batch.ranks,
            extra=extra,
        )


def _check_exposed(loss: InBatchSoftmax | FullSoftmax) -> None:
    refuse_below(0, type(loss).__name__, exposed_negatives=loss.exposed_negatives)
    if not loss.exposed_weight > 0:
        raise ConfigError(f"exposed_weight={loss.exposed_weight}; expected a number above 0", field="exposed_weight")

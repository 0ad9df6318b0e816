"""Checks the tensor arguments of losses: shapes, types and values.

Values are checked only on the CPU: on another device that would force a synchronisation, and `torch.compile` cannot
trace it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from twotower.arguments import checked
from twotower.errors import ConfigError
from twotower.model.softmax import Removed

MAX_LOG_PROBABILITY = 1e-3
"""Accept a log probability up to this: rounding may raise the logarithm of 1 above 0."""


def check_shapes(query: Tensor, candidates: Tensor, target: Tensor, ranks: Tensor | None = None) -> None:
    """Refuses arguments that are not tensors, and shapes and types that do not match.

    Raises:
        ConfigError: An argument is wrong.
    """
    for name, tensor in {"query": query, "candidates": candidates, "target": target}.items():
        checked("softmax", name, tensor, Tensor)
    if query.dtype != candidates.dtype or not query.is_floating_point():
        raise ConfigError(f"query is {query.dtype} and candidates {candidates.dtype}; expected the same float type")
    width = candidates.shape[-1]
    if query.dim() not in (2, 3) or candidates.dim() != 2 or query.shape[-1] != width or 0 in query.shape[1:-1]:
        raise ConfigError(
            f"query is {list(query.shape)} and candidates {list(candidates.shape)}; expected [B, d], or [B, K, d] for "
            f"several embeddings of a query, and [C, d]"
        )
    if len(query) == 0:
        raise ConfigError("query has no rows; expected at least one", field="query")
    if target.shape != (len(query),):
        raise ConfigError(f"target is {list(target.shape)}; expected [{len(query)}], one per row of query")
    if target.is_floating_point() or target.dtype == torch.bool:
        raise ConfigError(f"target is {target.dtype}; expected whole numbers, columns of candidates")
    if ranks is not None and (ranks.dim() != 1 or len(ranks) > len(query) or ranks.is_floating_point()):
        raise ConfigError(
            f"ranks is {ranks.dtype} {list(ranks.shape)}; expected whole numbers [n], n at most {len(query)}, the rows"
        )


def check_target(target: Tensor, columns: int) -> None:
    """Refuses targets that are not valid columns.

    Raises:
        ConfigError: One is below 0 or beyond the last column.
    """
    if _has_values(target):
        low, high = _bounds(target)
        if low < 0 or high >= columns:
            raise ConfigError(
                f"target is from {low:.0f} to {high:.0f}; expected columns from 0 to {columns - 1}", field="target"
            )


def check_weights(weights: Tensor | None, rows: int, *, mean: bool) -> None:
    """Refuses weights unless there is one per row, each finite and at least 0; for a mean, one must be above 0.

    Raises:
        ConfigError: One is wrong; names the first.
    """
    if weights is None:
        return
    if checked("loss", "weights", weights, Tensor).shape != (rows,):
        raise ConfigError(f"weights is {list(weights.shape)}; expected [{rows}], one per row", field="weights")
    if not _has_values(weights):
        return
    low, high = _bounds(weights)
    if not (low >= 0 and high < math.inf):
        _refuse_first(~(weights >= 0) | weights.isinf(), weights, "weights", "a finite number of at least 0")
    if mean and high == 0:
        raise ConfigError("weights are all 0; expected one above 0, for a weighted mean", field="weights")


def check_temperature(temperature: float | Tensor, rows: int) -> None:
    """Refuses a temperature that is not above 0; it may be a number, a one-element tensor or `[rows, 1]`.

    Raises:
        ConfigError: It has another shape, or is not finite or not above 0.
    """
    if not isinstance(temperature, Tensor):
        temperature = checked("softmax", "temperature", temperature, float)
        if temperature <= 0:
            raise ConfigError(f"temperature={temperature}; expected a number above 0", field="temperature")
        return
    if temperature.shape not in ((), (1,), (1, 1), (rows, 1)):
        raise ConfigError(
            f"temperature is {list(temperature.shape)}; expected one number, or [{rows}, 1]", field="temperature"
        )
    if _has_values(temperature):
        low, high = _bounds(temperature)
        if not (low > 0 and high < math.inf):
            raise ConfigError(f"temperature={low:g}; expected a finite number above 0", field="temperature")


def check_multiplicity(multiplicity: Tensor | None, columns: int) -> None:
    """Refuses counts unless there is one per column, each finite and above 0.

    Raises:
        ConfigError: One is wrong; names the first.
    """
    if multiplicity is None:
        return
    _check_columns(multiplicity, columns, "multiplicity")
    if _has_values(multiplicity):
        low, high = _bounds(multiplicity)
        if not (low > 0 and high < math.inf):
            wrong = ~(multiplicity > 0) | multiplicity.isinf()
            _refuse_first(wrong, multiplicity, "multiplicity", "how often it was drawn, a finite number above 0")


def check_log_probability(log_probability: Tensor | None, columns: int, *, mixed: bool = False) -> None:
    """Refuses logarithms unless there is one per column, each finite.

    Args:
        log_probability: The logarithms.
        columns: The expected number.
        mixed: They will be mixed with uniform draws: −inf, the logarithm of 0, is allowed, and none may be above 0.

    Raises:
        ConfigError: One is wrong; names the first.
    """
    if log_probability is None:
        return
    _check_columns(log_probability, columns, "log_probability")
    if not _has_values(log_probability):
        return
    low, high = _bounds(log_probability)
    if mixed and not high <= MAX_LOG_PROBABILITY:
        _refuse_first(
            ~(log_probability <= MAX_LOG_PROBABILITY),
            log_probability,
            "log_probability",
            "the logarithm of a probability",
        )
    if not mixed and not (low > -math.inf and high < math.inf):
        _refuse_first(~log_probability.isfinite(), log_probability, "log_probability", "a finite logarithm")


def check_removed(removed: Removed | None, target: Tensor, columns: int) -> None:
    """Refuses removed pairs that are outside the logits, out of order, or a row's target.

    Raises:
        ConfigError: A pair is wrong.
    """
    if removed is None:
        return
    checked("softmax", "removed", removed, Removed)
    for name, pairs in (("rows", removed.rows), ("columns", removed.columns)):
        checked("removed", name, pairs, Tensor)
        if pairs.dim() != 1 or pairs.is_floating_point() or len(pairs) != len(removed.rows):
            raise ConfigError(
                f"removed.{name} is {pairs.dtype} {list(pairs.shape)}; expected whole numbers [P], one per pair",
                field="removed",
            )
    if len(removed.rows) == 0:
        return
    for name, pairs, end in (("rows", removed.rows, len(target)), ("columns", removed.columns, columns)):
        if _has_values(pairs):
            low, high = _bounds(pairs)
            if low < 0 or high >= end:
                raise ConfigError(
                    f"removed.{name} is from {low:.0f} to {high:.0f}; expected 0 to {end - 1}", field="removed"
                )
    if not _has_values(removed.rows):
        return
    is_target = target[removed.rows] == removed.columns
    if bool(is_target.any()) or bool((removed.rows.diff() < 0).any()):
        raise ConfigError("removed holds a row's target, or rows out of order; expected no targets, and ascending rows")


def check_extra(extra: Tensor | None, query: Tensor) -> None:
    """Refuses further logits unless there are some for each row, none of them NaN or +∞.

    Raises:
        ConfigError: The shape is wrong, or a logit is; names the first.
    """
    if extra is None:
        return
    checked("softmax", "extra", extra, Tensor)
    if extra.dim() != 2 or len(extra) != len(query) or extra.shape[1] == 0 or extra.dtype != query.dtype:
        raise ConfigError(
            f"extra is {extra.dtype} {list(extra.shape)}; expected {query.dtype} [{len(query)}, n], logits of each row",
            field="extra",
        )
    if _has_values(extra) and not _bounds(extra)[1] < math.inf:
        row, place = (int(at) for at in (~(extra < math.inf)).nonzero()[0])
        raise ConfigError(
            f"extra, row {row}, logit {place}: {extra[row, place].item():g}; expected a number below infinity",
            field="extra",
            row=row,
        )


def check_relevance(relevance: Tensor, mask: Tensor) -> None:
    """Refuses relevance of an existing member that is not finite or below 0.

    Raises:
        ConfigError: A relevance is wrong; names the first.
    """
    if not _has_values(relevance):
        return
    there = relevance.masked_fill(~mask, 0.0)
    low, high = _bounds(there)
    if not (low >= 0 and high < math.inf):
        wrong = ~(there >= 0) | there.isinf()
        row, place = (int(at) for at in wrong.nonzero()[0])
        raise ConfigError(
            f"relevance, list {row}, member {place}: {there[row, place].item():g}; "
            f"expected a finite number of at least 0",
            field="relevance",
            row=row,
        )


def check_targets(targets: Tensor, *, probabilities: bool) -> None:
    """Refuses targets that are not finite or, if `probabilities`, not between 0 and 1.

    Raises:
        ConfigError: One is wrong; names the first.
    """
    if not _has_values(targets):
        return
    low, high = _bounds(targets)
    if probabilities and not 0 <= low <= high <= 1:
        _refuse_first(~((targets >= 0) & (targets <= 1)), targets, "targets", "a number from 0 to 1 for cross_entropy")
    if not (-math.inf < low <= high < math.inf):
        _refuse_first(~targets.isfinite(), targets, "targets", "a finite number")


def _check_columns(values: Tensor, columns: int, name: str) -> None:
    if checked("softmax", name, values, Tensor).shape != (columns,):
        raise ConfigError(f"{name} is {list(values.shape)}; expected [{columns}], one per candidate", field=name)


def _has_values(tensor: Tensor) -> bool:
    """Whether there are values that can be read without a synchronisation."""
    return tensor.device.type == "cpu" and tensor.numel() > 0 and not torch.compiler.is_compiling()


def _bounds(tensor: Tensor) -> tuple[float, float]:
    """The lowest and the highest value; both NaN if any value is."""
    low, high = tensor.detach().aminmax()
    return float(low), float(high)


def _refuse_first(wrong: Tensor, values: Tensor, name: str, expected: str) -> None:
    row = int(wrong.nonzero()[0])
    raise ConfigError(f"{name}, row {row}: {values[row].item():g}; expected {expected}", field=name, row=row)

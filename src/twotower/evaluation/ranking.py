"""Ranks true candidates over the whole catalogue, block by block."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from twotower.data.dataset import Dataset
from twotower.data.lookup import entries_of
from twotower.data.seen import Seen
from twotower.errors import TwoTowerError
from twotower.model.interests import best_scores, write_best_scores
from twotower.model.two_tower import TwoTower

BLOCK_SCORES = 1 << 20
"""Scores processed in one go: about what fits in a cache."""

MIN_ROWS, MAX_ROWS = 64, 512
"""Bounds for the number of events scored at once, which is otherwise chosen to give `BLOCK_SCORES` scores. The lower
bound keeps matrix products efficient on a large catalogue (scores then take 256 bytes per candidate); more rows than
the upper bound would not make them any faster."""

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

ScoreBlock = Callable[[IntArray], Tensor]
"""Scores of all candidates for the events with these indices: `[n]` to `[n, C]`."""


@runtime_checkable
class Scorer(Protocol):
    """Anything that scores the whole catalogue for events: a baseline, an oracle, your own model."""

    def score_block(self, events: Dataset) -> ScoreBlock:
        """Returns a function that scores all candidates for any of these events, given their query and time."""
        ...


class ModelScorer:
    """A two-tower model as a `Scorer`.

    Args:
        model: The model.
    """

    def __init__(self, model: TwoTower) -> None:
        self.model = model

    def score_block(self, events: Dataset) -> ScoreBlock:
        """Embeds the queries of the events and the catalogue, once."""
        return DotProducts(self.model.embed_queries(events), self.model.embed_candidates(events.candidates))


class DotProducts:
    """A `ScoreBlock` of dot products between query embeddings `[N, d]` and candidate embeddings `[C, d]`.

    If queries have several embeddings, `[N, K·d]`, the highest product counts.

    Attributes:
        are_numbers: Whether overflow is impossible, so that no score can be NaN.

    Raises:
        TwoTowerError: An embedding is not finite, so ranks would be meaningless.
    """

    def __init__(self, queries: Tensor, candidates: Tensor) -> None:
        highest = float(candidates.shape[1])
        for embeddings, which in ((queries, "query"), (candidates, "candidate")):
            largest = embeddings.abs().max().item() if embeddings.numel() else 0.0
            if not math.isfinite(largest):
                raise TwoTowerError(
                    f"a {which} embedding is not finite: training has diverged; a lower learning rate may help"
                )
            highest *= largest
        self.are_numbers = highest < torch.finfo(queries.dtype).max
        self.queries, self.transposed = queries.detach(), candidates.detach().t()

    def __call__(self, numbers: IntArray) -> Tensor:
        """The scores of the events with these indices, `[n, C]`."""
        return best_scores(self._queries(numbers), self.transposed.t())

    def write(self, numbers: IntArray, out: Tensor) -> None:
        """Writes these scores to existing memory: allocating it for every block would cost more than scoring."""
        write_best_scores(self._queries(numbers), self.transposed, out)

    def _queries(self, numbers: IntArray) -> Tensor:
        return self.queries.index_select(0, torch.from_numpy(numbers).to(self.queries.device))


def among_available(score: ScoreBlock, events: Dataset) -> ScoreBlock:
    """Scores in which candidates that were not available to an event are −∞; the same if all always were."""
    if events.availability is None:
        return score

    def block(numbers: IntArray) -> Tensor:
        scores, missing = score(numbers), events.unavailable(numbers)
        assert missing is not None
        return scores.masked_fill(torch.from_numpy(missing).to(scores.device), -torch.inf)

    return block


def one_list_a_query(score: ScoreBlock, events: Dataset) -> ScoreBlock:
    """Scores under which all events of a query share one list: the list at its first event."""
    when = np.arange(len(events)) if events.time is None else events.times
    order = np.lexsort((when, events.query_index))
    _, begin, group = np.unique(events.query_index[order], return_index=True, return_inverse=True)
    first = np.empty(len(events), dtype=np.int64)
    first[order] = order[begin][group]

    def block(numbers: IntArray) -> Tensor:
        distinct, place = np.unique(first[numbers], return_inverse=True)
        scores = score(distinct)
        return scores[torch.from_numpy(place).to(scores.device)]

    return block


@dataclass(frozen=True, eq=False)
class EventBlock:
    """Events that are scored at once.

    Attributes:
        numbers: Indices of the events, `[n]`.
        size: Number of candidates in the catalogue, C.
        chosen: Their true candidates, `[n, 1]`.
        queries: Row of each event's query in `seen`, `[n]`.
        seen: What each of their distinct queries has seen, `[q, longest]`, padded with C, which is not a candidate.
        excluded: How many of these are not the event's true candidate, `[n]`.
    """

    numbers: IntArray
    size: int
    chosen: Tensor
    queries: Tensor
    seen: Tensor
    excluded: Tensor

    def to(self, device: torch.device) -> EventBlock:
        """A copy on a device."""
        parts = self.chosen, self.queries, self.seen, self.excluded
        return EventBlock(self.numbers, self.size, *(part.to(device) for part in parts))


def blocks_of(events: Dataset, seen: Seen | None = None) -> list[EventBlock]:
    """Cuts the events into blocks whose scores fit in memory; the events of a query stay next to each other.

    Sorts queries by how much they have seen, which minimises padding.
    """
    size = events.candidates.num_rows
    offsets = np.zeros(events.queries.num_rows + 1, dtype=np.int64) if seen is None else seen.offsets
    candidates = np.empty(0, dtype=np.int64) if seen is None else seen.candidates
    lengths = np.diff(offsets)
    order = np.lexsort((events.query_index, lengths[events.query_index]))
    rows = min(MAX_ROWS, max(MIN_ROWS, BLOCK_SCORES // max(1, size)))
    blocks = []
    for start in range(0, len(order), rows):
        numbers = order[start : start + rows]
        queries, place = np.unique(events.query_index[numbers], return_inverse=True)
        position, entry = entries_of(offsets, queries)
        within = entry - offsets[queries][position]
        padded = np.full((len(queries), lengths[queries].max(initial=0)), size)
        padded[position, within] = candidates[entry]
        chosen = events.candidate_index[numbers][:, np.newaxis]
        excluded = lengths[queries][place] - (padded[place] == chosen).any(axis=1)
        parts = chosen, place, padded, excluded.astype(np.float64)
        blocks.append(EventBlock(numbers, size, *map(torch.from_numpy, parts)))
    return blocks


class Ranker:
    """Ranks the true candidates of the same events repeatedly, as scores change.

    The rank is 1 + the number of candidates that score higher + half the number of those that score the same. A model
    that scores everything alike thus gets the middle rank, not the top one.

    Args:
        events: The events, each with one true candidate.
        seen: What `unseen` excludes for each query; the true candidate is never excluded.
        device: Device of the scores.
    """

    def __init__(self, events: Dataset, seen: Seen | None = None, device: torch.device | None = None) -> None:
        self.events = events
        self.blocks = [block if device is None else block.to(device) for block in blocks_of(events, seen)]

    def ranks(self, score: ScoreBlock, blocks: Sequence[EventBlock] | None = None) -> tuple[FloatArray, FloatArray]:
        """Ranks with nothing excluded, and ranks with seen candidates excluded, `[N]` each.

        Args:
            score: Scores of all candidates for given events.
            blocks: Blocks of events to rank; the ranks of other events are 0. Default: all.

        Raises:
            TwoTowerError: A score is not a number.
        """
        found = np.zeros((2, len(self.events)))
        counter, score = RankCounter(), among_available(score, self.events)
        for block in self.blocks if blocks is None else blocks:
            found[:, block.numbers] = counter.ranks(counter.scored(score, block), block)
        return found[0], found[1]


class RankCounter:
    """Counts ranks block by block, reusing its memory, since allocation would cost more than counting."""

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}

    def scored(self, score: ScoreBlock, block: EventBlock) -> Tensor:
        """The scores of a block's events, `[n, more than C]`, NaN from column C on; overwritten by the next block.

        Raises:
            TwoTowerError: A score is not a number.
        """
        rows = len(block.numbers)
        if isinstance(score, DotProducts) and score.queries.dtype == torch.float32:
            size = score.transposed.shape[1]
            scores = self._buffer("scores", rows, _padded(size), torch.float32, score.queries.device)
            score.write(block.numbers, scores[:, :size])
        else:
            given = score(block.numbers)
            size = given.shape[1]
            kind = torch.float32 if given.dtype == torch.float32 else torch.float64  # float64 holds any other type
            scores = self._buffer("scores", rows, _padded(size), kind, given.device)
            scores[:, :size] = given
        bounded = isinstance(score, DotProducts) and score.are_numbers
        if not bounded and bool(scores[:, :size].amax(dim=1).isnan().any()):  # a maximum is NaN where any score is
            raise TwoTowerError("a score is not a number (NaN), so candidates cannot be ranked by it")
        scores[:, size:] = torch.nan
        return scores

    def ranks(self, scores: Tensor, block: EventBlock) -> tuple[FloatArray, FloatArray]:
        """The ranks of a block of events, as in `Ranker`, given the scores from `scored`."""
        block = block.to(scores.device)
        true_score = scores.gather(1, block.chosen)  # [n, 1]
        doubled = block.size + 1 + self._higher(scores, true_score)  # the true candidate ties with itself
        rows, longest = len(block.queries), block.seen.shape[1]
        excluded = self._buffer("excluded", rows, longest, torch.int64, scores.device)
        torch.index_select(block.seen, 0, block.queries, out=excluded)
        excluded_scores = self._buffer("excluded scores", rows, longest, scores.dtype, scores.device)
        torch.gather(scores, 1, excluded, out=excluded_scores)
        fewer = block.excluded + self._higher(excluded_scores, true_score)
        return (doubled / 2).cpu().numpy(), ((doubled - fewer) / 2).cpu().numpy()

    def _higher(self, scores: Tensor, rival: Tensor) -> Tensor:
        """Number of scores in each row that are higher minus those that are lower, `[n]`.

        Of n scores, n plus this is twice the number of higher ones plus the number of ties, so that ties count half.
        NaN is neither, and the sign of infinity minus itself is 0 as that of any tie.
        """
        higher = torch.zeros(len(scores), dtype=torch.float64, device=scores.device)
        for part in torch.split(scores, max(1, BLOCK_SCORES // len(scores)), dim=1):
            # Written as floats, signs are found at cache speed; comparisons to booleans take five times as long.
            signs = self._buffer("signs", len(part), part.shape[1], part.dtype, part.device)
            higher += torch.sub(part, rival, out=signs).sign_().sum(dim=1)
        return higher

    def _buffer(self, name: str, rows: int, columns: int, kind: torch.dtype, device: torch.device) -> Tensor:
        """Memory for a matrix, reused for the next one."""
        kept = self._kept.get(name)
        if kept is None or kept.numel() < rows * columns or (kept.dtype, kept.device) != (kind, device):
            kept = self._kept[name] = torch.empty(rows * columns, dtype=kind, device=device)
        return kept[: rows * columns].view(rows, columns)


def rank_events(score: ScoreBlock, events: Dataset, seen: Seen | None = None) -> tuple[FloatArray, FloatArray]:
    """Ranks each event's true candidate over the whole catalogue, under both protocols, as `Ranker` does.

    Args:
        score: Scores of all candidates for given events.
        events: The events, each with one true candidate.
        seen: What `unseen` excludes for each query; the true candidate is never excluded.

    Returns:
        Ranks with nothing excluded, and ranks with seen candidates excluded, `[N]` each.

    Raises:
        TwoTowerError: A score is not a number.
    """
    return Ranker(events, seen).ranks(score)


def top_lists(scores: Tensor, k: int) -> IntArray:
    """The k best candidates of each row, best first, −1 if none is left, `[n, min(k, C)]`."""
    best = scores.topk(min(k, scores.shape[1]), dim=1)
    lists: IntArray = best.indices.masked_fill(best.values == -torch.inf, -1).cpu().numpy()
    return lists


def without_excluded(scores: Tensor, block: EventBlock) -> Tensor:
    """The scores from `RankCounter.scored`, with −inf for excluded candidates."""
    block = block.to(scores.device)
    excluded = block.seen.index_select(0, block.queries)
    left = scores.scatter(1, excluded, -torch.inf)
    return left.scatter_(1, block.chosen, scores.gather(1, block.chosen))  # the true candidate is never excluded


def _padded(size: int) -> int:
    """Number of columns for `size` scores and at least one more, a multiple of 16 so that rows are aligned."""
    return size // 16 * 16 + 16

"""Exact search for the highest dot products, block by block, with a threshold (the bar) that few scores pass."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from twotower.arguments import Settings
from twotower.errors import ConfigError, TwoTowerError
from twotower.retrieval.index import INDEXES, Hits, IntArray, Pairs, check_rows

SCORES = 1 << 20
"""Hold this many scores at once on a CPU: they fit its cache."""

GPU_SCORES = 1 << 26
"""Hold this many scores at once on a GPU: enough to make kernel launch overhead negligible."""

QUERIES = 512
"""Answer at most this many queries per pass over the candidates."""

LONGEST_BLOCK = 1 << 19
"""Put at most this many candidates in a block; at this size even a single query is memory-bound."""

GROUP = 32
"""Compare only the highest of this many scores with the bar at first."""

NOTHING = torch.iinfo(torch.int64).min
"""The key of an empty place, below all others."""


GATHER_BELOW = 8
"""Gather the allowed candidates if they are at most 1/8 of all; otherwise mask the others."""


class ExactIndex:
    """All candidates' embeddings, searched in full.

    They are stored coordinate by coordinate, `[d, C]`, so that a single query runs at memory bandwidth.

    Args:
        embeddings: Candidate embeddings, float32 `[C, d]`.

    Raises:
        ConfigError: They are not a float32 matrix.
        TwoTowerError: One of them is not finite.

    Example:
        >>> index = ExactIndex(torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 0.0]]))
        >>> hits = index.search(torch.tensor([[1.0, 0.0]]), k=2)
        >>> hits.candidates.tolist(), hits.scores.tolist()
        ([[0, 2]], [[1.0, 1.0]])
    """

    kind = "exact"

    def __init__(self, embeddings: Tensor) -> None:
        _check_matrix(embeddings, "candidate embeddings", "[C, d]")
        self._largest = _largest(embeddings, "candidate")
        self._coordinates = embeddings.detach().t().contiguous()  # [d, C]; no copy if already in this layout

    @classmethod
    def over(cls, embeddings: Tensor) -> ExactIndex:
        """An index of embeddings `[C, d]` in the layout they have, without a copy."""
        index = cls(embeddings[:0])
        index._largest, index._coordinates = _largest(embeddings, "candidate"), embeddings.detach().t()
        return index

    def __len__(self) -> int:
        return self._coordinates.shape[1]

    @property
    def embeddings(self) -> Tensor:
        """The candidate embeddings, `[C, d]`: a view that is not contiguous."""
        return self._coordinates.t()

    def wider(self) -> None:
        """See `Index.wider`: exact search already covers all candidates."""

    def moved(self, embeddings: Tensor, origin: IntArray) -> ExactIndex:
        """An index of another catalogue; see `Index.moved`."""
        del origin
        return ExactIndex(embeddings)

    def tensors(self) -> dict[str, Tensor]:
        """See `Index.tensors`: nothing is needed besides the embeddings."""
        return {}

    @torch.no_grad()
    def search(self, queries: Tensor, k: int, excluded: Pairs | None = None, allowed: IntArray | None = None) -> Hits:
        """The k best eligible candidates of each query, best first, ties by row.

        The result equals the first k of a full stable sort of the computed scores. Scores are float32 dot products;
        the same call returns the same bits. A different number of queries per call may round them differently.
        Memory is O(n·k) plus some tens of megabytes, whatever n and C.

        Args:
            queries: Query embeddings, float32 `[n, d]`.
            k: How many; fewer are found if fewer are eligible.
            excluded: (query, candidate) pairs to exclude, as places in `queries` and rows of the candidate table.
                The search itself skips them, so that it still finds k others.
            allowed: Rows of the candidate table that are eligible, ascending; default: all.

        Raises:
            ConfigError: k is below 1, the queries are not a float32 matrix as wide as the candidates, or an excluded
                or allowed row does not exist.
            TwoTowerError: A query is not finite, or values are so large that a score may overflow.
        """
        self.check(queries, k, excluded, allowed)
        queries = queries.to(self._coordinates.device)
        if allowed is None:
            return self._found(queries, min(k, len(self)), _Whole(self._coordinates), excluded)
        found = min(k, len(allowed))
        if len(allowed) * GATHER_BELOW > len(self):
            return self._found(queries, found, _Masked(self._coordinates, allowed), excluded)
        gathered = _Gathered(self._coordinates, allowed)
        hits = self._found(queries, found, gathered, None if excluded is None else gathered.pairs(*excluded))
        return Hits(gathered.rows(hits.candidates), hits.scores)

    def check(self, queries: Tensor, k: int, excluded: Pairs | None = None, allowed: IntArray | None = None) -> None:
        """Check the arguments of `search`; raises the same errors."""
        check_rows(len(queries), len(self), excluded, allowed)
        _check_matrix(queries, "queries", "[n, d]")
        width = self._coordinates.shape[0]
        if not isinstance(k, Integral) or k < 1 or queries.shape[1] != width:
            raise ConfigError(f"k={k}, queries of width {queries.shape[1]}; expected k ≥ 1 and width {width}")
        if width * self._largest * _largest(queries, "query") > torch.finfo(torch.float32).max:
            raise TwoTowerError("a score may overflow float32: the values of the embeddings are too large")

    def _found(self, queries: Tensor, k: int, columns: _Columns, excluded: Pairs | None) -> Hits:
        """The k best of these columns, as places among them."""
        if k == 0 or len(queries) == 0:
            empty = queries.new_empty(len(queries), k)
            return Hits(empty.long(), empty)
        if len(queries) == 1 and len(columns) <= LONGEST_BLOCK and queries.device.type == "cpu":
            keys = _search_one(queries, k, columns, excluded)
        else:
            tile = max(1, min(QUERIES, len(queries), SCORES // (4 * k)))
            pairs = None if excluded is None else _Pairs(*excluded, tile, len(columns))
            parts = torch.split(queries, tile)
            best = [_search_tile(part, k, columns, pairs, number) for number, part in enumerate(parts)]
            keys = torch.cat(best)  # [n, k]
        scores, candidates = decoded(keys)
        nothing = keys == NOTHING
        return Hits(candidates.masked_fill(nothing, -1), scores.masked_fill(nothing, -torch.inf))


@INDEXES.register
class Exact(Settings, frozen=True, tag="exact", tag_field="kind"):
    """Settings of exact search, which has none."""

    def make(self, embeddings: Tensor) -> ExactIndex:
        """See `IndexSettings.make`."""
        return ExactIndex(embeddings)

    def restore(self, embeddings: Tensor, tensors: Mapping[str, Tensor]) -> ExactIndex:
        """See `IndexSettings.restore`."""
        del tensors
        return ExactIndex(embeddings)


def _search_one(query: Tensor, k: int, columns: _Columns, excluded: Pairs | None) -> Tensor:
    """Keys of the k best for one query `[1, d]`, best first, `[1, k]`, in a single block filtered by group.

    For a hundred thousand products, the small-tensor operations of `_Best` would take 50% longer.
    """
    size = len(columns)
    scores = query.new_empty(_groups(size))
    columns.score(query, 0, scores[:size].unsqueeze(0))
    scores[size:] = -torch.inf
    if excluded is not None:
        scores[torch.from_numpy(excluded[1])] = -torch.inf
    groups = scores.view(GROUP, -1)  # group g: columns g, g + size/GROUP, …
    highest = groups.amax(dim=0)
    bar = (highest if len(highest) >= k else scores).topk(k).values[-1]
    passing = (highest >= bar).nonzero().squeeze(1)
    found = groups[:, passing].flatten()
    places = (passing + len(highest) * torch.arange(GROUP).unsqueeze(1)).flatten()
    keys = keys_of(found, places).masked_fill_(found == -torch.inf, NOTHING)
    return keys.topk(k).values.unsqueeze(0)


def _search_tile(queries: Tensor, k: int, columns: _Columns, pairs: _Pairs | None, number: int) -> Tensor:
    """Keys of the k best for one tile of queries `[t, d]`, best first, `[t, k]`."""
    held = SCORES if queries.device.type == "cpu" else GPU_SCORES
    block = _groups(min(LONGEST_BLOCK, held // max(1, len(queries)), len(columns)))
    room = queries.new_empty(len(queries), block)
    best = _Best(len(queries), k, queries.device)
    for start in range(0, len(columns), block):
        length = min(block, len(columns) - start)
        scores = room[:, : _groups(length)]
        columns.score(queries, start, scores[:, :length])
        scores[:, length:] = -torch.inf
        if pairs is not None:
            rows, places = pairs.within(number, start, start + length)
            scores[rows.to(scores.device), places.to(scores.device)] = -torch.inf
        best.add(scores, start)
    return best.cut()


class _Whole:
    """All candidates, `[d, C]`."""

    def __init__(self, coordinates: Tensor) -> None:
        self.coordinates = coordinates

    def __len__(self) -> int:
        return self.coordinates.shape[1]

    def score(self, queries: Tensor, start: int, scores: Tensor) -> None:
        """Write the scores `[t, m]` of the m columns from `start` on."""
        torch.mm(queries, self.coordinates[:, start : start + scores.shape[1]], out=scores)


class _Masked(_Whole):
    """All candidates; those that are not allowed score −inf."""

    def __init__(self, coordinates: Tensor, allowed: IntArray) -> None:
        super().__init__(coordinates)
        self.banned = torch.ones(len(self), dtype=torch.bool)
        self.banned[torch.from_numpy(allowed)] = False
        self.banned = self.banned.to(coordinates.device)

    def score(self, queries: Tensor, start: int, scores: Tensor) -> None:
        super().score(queries, start, scores)
        scores.masked_fill_(self.banned[start : start + scores.shape[1]], -torch.inf)


class _Gathered:
    """Only the allowed candidates, gathered block by block."""

    def __init__(self, coordinates: Tensor, allowed: IntArray) -> None:
        self.embeddings, self.allowed = coordinates.t(), allowed
        self.numbers = torch.from_numpy(allowed).to(coordinates.device)

    def __len__(self) -> int:
        return len(self.allowed)

    def score(self, queries: Tensor, start: int, scores: Tensor) -> None:
        """Write the scores `[t, m]` of the m allowed candidates from `start` on."""
        part = self.embeddings.index_select(0, self.numbers[start : start + scores.shape[1]])
        torch.mm(queries, part.t(), out=scores)

    def pairs(self, queries: IntArray, candidates: IntArray) -> Pairs:
        """The excluded pairs whose candidate is allowed, as places among the allowed."""
        place = np.searchsorted(self.allowed, candidates)
        there = self.allowed[np.minimum(place, len(self.allowed) - 1)] == candidates if len(self) else place < 0
        return queries[there], place[there]

    def rows(self, places: Tensor) -> Tensor:
        """Candidate table rows of places among the allowed; −1 stays −1."""
        if len(self) == 0:
            return places
        return torch.where(places < 0, places, self.numbers[places.clamp(min=0)])


_Columns = _Whole | _Gathered


class _Best:
    """The best candidates of each of t queries so far, and the bar that a score must pass to join them.

    A block's scores are split into groups of `GROUP`. One cheap reduction finds the highest score of each group, and
    only groups whose highest score passes the bar are examined. Of C candidates in random order, about k·ln(C) scores
    pass. Those are stored as keys, integers made of score and row, in a buffer that is cut back to the k highest keys
    now and then. Keys order equal scores by row.
    """

    def __init__(self, queries: int, k: int, device: torch.device) -> None:
        self.k, self.limit = k, 3 * max(k, GROUP)
        self.buffer = torch.full((queries, 2 * self.limit), NOTHING, device=device)
        self.filled = torch.zeros(queries, dtype=torch.int64, device=device)
        self.bar = torch.full((queries,), -torch.inf, device=device)

    def add(self, scores: Tensor, start: int) -> None:
        """Add the scores `[t, m]` of the candidates from row `start` on; m is a multiple of `GROUP`."""
        groups = scores.view(len(scores), GROUP, -1)  # group g: columns g, g + m/GROUP, g + 2·m/GROUP, …
        highest = groups.amax(dim=1)  # [t, m/GROUP]
        row, group = _above(highest, self.bar)
        if 2 * len(row) > highest.numel():  # as in the first block, or if later candidates score higher
            self._raise_bar(highest if highest.shape[1] >= self.k else scores)
            row, group = _above(highest, self.bar)
        if len(row) == 0:
            return
        members = groups[row, :, group]  # [passing groups, GROUP]
        place, member = _above(members, self.bar[row])
        row, column = row[place], group[place] + member * groups.shape[2]
        counts = torch.bincount(row, minlength=len(scores))
        slot = self.filled - (counts.cumsum(0) - counts)  # rows ascend: next free slot minus preceding entries
        slots = slot[row] + torch.arange(len(row), device=row.device)
        self.filled += counts
        longest = int(self.filled.max())
        if longest > self.buffer.shape[1]:
            self.buffer = F.pad(self.buffer, (0, longest - self.buffer.shape[1]), value=NOTHING)
        self.buffer[row, slots] = keys_of(members[place, member], column + start)
        if longest > self.limit:
            lowest = decoded(self.cut()[:, -1])[0]
            # Later candidates have higher rows, so they must score above the lowest of the k.
            self.bar = torch.where(self.filled < self.k, self.bar, lowest)

    def cut(self) -> Tensor:
        """Keep only the k highest keys of each query and return them, descending: `[t, k]`."""
        used = self.buffer[:, : max(self.k, int(self.filled.max()))]
        best = used.topk(self.k, dim=1).values
        used.fill_(NOTHING)
        used[:, : self.k] = best
        self.filled.clamp_(max=self.k)
        return best

    def _raise_bar(self, scores: Tensor) -> None:
        """Raise the bar to just below the k-th highest of these scores, if there are k."""
        if scores.shape[1] >= self.k:
            lowest = scores.topk(self.k, dim=1).values[:, -1]
            self.bar = self.bar.maximum(lowest.nextafter(torch.full_like(lowest, -torch.inf)))


def _groups(columns: int) -> int:
    """The number of columns, rounded up to whole groups."""
    return -(-columns // GROUP) * GROUP


def _above(scores: Tensor, bar: Tensor) -> tuple[Tensor, Tensor]:
    """Rows, ascending, and columns of the scores that are above their row's bar."""
    row, column = (scores > bar.unsqueeze(1)).nonzero(as_tuple=True)
    return row, column


class _Pairs:
    """Excluded (query, candidate) pairs, looked up by tile of queries and block of candidates."""

    def __init__(self, rows: IntArray, columns: IntArray, tile: int, size: int) -> None:
        places = rows // tile * size + columns
        order = np.argsort(places, kind="stable")
        self.places, self.size = places[order], size
        self.rows, self.columns = rows[order] % tile, columns[order]

    def within(self, tile: int, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """The tile's pairs with candidates from `start` up to `stop`, as places in the tile and in the block."""
        first, last = np.searchsorted(self.places, [tile * self.size + start, tile * self.size + stop])
        return torch.from_numpy(self.rows[first:last]), torch.from_numpy(self.columns[first:last] - start)


def keys_of(scores: Tensor, rows: Tensor) -> Tensor:
    """Integers that sort like the scores, none of which is NaN; of equal scores, the lower row has the higher key."""
    return (_ordered((scores + 0.0).view(torch.int32)).long() << 32) - rows  # + 0.0: −0 is 0


def decoded(keys: Tensor) -> tuple[Tensor, Tensor]:
    """The scores and rows that `keys_of` encoded."""
    negative = -keys
    return _ordered(-(negative >> 32).int()).view(torch.float32), negative & 0xFFFFFFFF


def _ordered(bits: Tensor) -> Tensor:
    """The bits of float32 numbers as integers in the same order; its own inverse."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)  # larger other bits make a negative number lower


def _largest(embeddings: Tensor, which: str) -> float:
    """The largest absolute value, 0 if there are no values."""
    if embeddings.numel() == 0:
        return 0.0
    low, high = embeddings.aminmax()
    largest = max(-low.item(), high.item())
    if not np.isfinite(low.item()) or not np.isfinite(largest):
        raise TwoTowerError(f"a {which} embedding is not finite; expected finite numbers")
    return largest


def _check_matrix(embeddings: Tensor, what: str, shape: str) -> None:
    if embeddings.dim() != 2 or embeddings.dtype != torch.float32:
        raise ConfigError(f"{what} are {embeddings.dtype} of shape {list(embeddings.shape)}; expected float32 {shape}")
